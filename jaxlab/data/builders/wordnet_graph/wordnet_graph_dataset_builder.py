"""WordNet 3.0 as one graph: sets of synonyms, pointers, glosses."""

from typing import NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from jaxlab.data.builders import packaged
from jaxlab.data.graphs.types import split_by_hash
from jaxlab.data.packages import deb, registry

WORDNET = registry.Package(
  kind='debian',
  name='wordnet-base',
  version='1:3.0-37',
  file='wordnet-base_1%3a3.0-37_all.deb',
  sha256='61060d960f9ada8fa120872312eccd3ecebfbab8c4579e4f5a74e1cf67620752',
  mebibytes=6.2,
  licence='WordNet 3.0 licence',
)
# The part of speech as pointers name it -> the file.
FILES = {
  pos: f'usr/share/wordnet/data.{name}'
  for pos, name in (('n', 'noun'), ('v', 'verb'), ('a', 'adj'), ('r', 'adv'))
}
# The lexicographer files, in the order of their numbers: lexnames(5WN).
CLASSES = (
  *('adj.all', 'adj.pert', 'adv.all', 'noun.Tops', 'noun.act', 'noun.animal'),
  *('noun.artifact', 'noun.attribute', 'noun.body', 'noun.cognition'),
  *('noun.communication', 'noun.event', 'noun.feeling', 'noun.food'),
  *('noun.group', 'noun.location', 'noun.motive', 'noun.object'),
  *('noun.person', 'noun.phenomenon', 'noun.plant', 'noun.possession'),
  *('noun.process', 'noun.quantity', 'noun.relation', 'noun.shape'),
  *('noun.state', 'noun.substance', 'noun.time', 'verb.body', 'verb.change'),
  *('verb.cognition', 'verb.communication', 'verb.competition'),
  *('verb.consumption', 'verb.contact', 'verb.creation', 'verb.emotion'),
  *('verb.motion', 'verb.perception', 'verb.possession', 'verb.social'),
  *('verb.stative', 'verb.weather', 'adj.ppl'),
)
TRAIN, VALIDATION = 0.66, 0.10  # the rest is test


class Builder(packaged.GraphBuilder):
  """Builds the set `wordnet_graph` from one pinned Debian package."""

  PACKAGES = (WORDNET,)
  SUMMARY = 'WordNet 3.0: 117,659 glosses, 183,789 edges, 45 classes'
  LICENCE = 'WordNet 3.0 (permissive, keep the notice)'
  FEATURES = packaged.GraphBuilder.FEATURES | {
    'text': packaged.TEXTS,
    'pointers': tfds.features.Tensor(shape=(None, 2), dtype=np.int32),
    'name': packaged.TEXTS,
  }
  PUBLISHED = {  # noqa: RUF012
    'nodes': packaged.Published(117_659),
    'directed pointers': packaged.Published(377_592),
    'undirected edges': packaged.Published(183_789),
    'isolated nodes': packaged.Published(1_009),
    'edge homophily': packaged.Published(0.709, 5e-4),
    'classes': packaged.Published(45),
    'empty glosses': packaged.Published(0),
  }

  def measure(self, read):
    (row,) = read('graph')
    return super().measure(lambda split: iter([row])) | {
      'directed pointers': len(row['pointers']),
      'classes': len(np.unique(row['label'])),
      'empty glosses': sum(not text for text in row['text']),
    }

  def graph(self):
    package = self.fetch(WORDNET)
    files = deb.read_files(package, FILES.values())
    synsets = [
      synset
      for pos, name in FILES.items()
      for synset in parse_data(pos, files[name].decode('latin1'))
    ]
    place = {synset.name: i for i, synset in enumerate(synsets)}
    pointers = np.array(
      [(i, place[to]) for i, s in enumerate(synsets) for to in s.pointers],
      np.int32,
    )
    ends = np.sort(pointers, 1)
    ends = ends[ends[:, 0] != ends[:, 1]]
    names = list(place)
    return {
      'text': [synset.gloss for synset in synsets],
      'pointers': pointers,
      'edges': np.unique(ends, axis=0),
      'label': np.array([synset.file for synset in synsets], np.int32),
      'split': split_by_hash(names, train=TRAIN, validation=VALIDATION),
      'class_name': CLASSES,
      'name': names,
    }


class Synset(NamedTuple):
  """One line of a data file."""

  name: str  # part of speech and byte offset, 'n00001740'
  file: int  # place in CLASSES
  pointers: list[str]  # names
  gloss: str


def parse_data(pos: str, text: str) -> list[Synset]:
  """The sets of synonyms of one data file, described in wndb(5WN)."""
  synsets = []
  for line in text.splitlines():
    if line.startswith(' '):  # the licence
      continue
    head, gloss = line.split('|', 1)
    fields = head.split()
    words = int(fields[3], 16)
    first = 4 + 2 * words  # where the pointers begin, after words and ids
    count = int(fields[first])
    pointers = [
      # 's' is an adjective that lies in another's cluster, in the same file.
      fields[at + 2].replace('s', 'a') + fields[at + 1]
      for at in range(first + 1, first + 1 + 4 * count, 4)
    ]
    synsets.append(
      Synset(pos + fields[0], int(fields[1]), pointers, gloss.strip())
    )
  return synsets
