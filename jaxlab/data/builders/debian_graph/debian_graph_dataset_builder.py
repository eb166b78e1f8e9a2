"""The packages that apt knows as one graph: what needs what."""

import gzip
import hashlib
import re
import shutil
import subprocess
import zlib
from typing import NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from jaxlab.core.errors import InputError
from jaxlab.data.atomic import data_dir, note
from jaxlab.data.builders import packaged
from jaxlab.data.graphs.adjacency import adjacency
from jaxlab.data.graphs.types import split_by_hash

INBOX = ('dumpavail.txt', 'dumpavail.txt.gz')
COMMAND = ('apt-cache', 'dumpavail')
NEEDING = ('Depends', 'Pre-Depends', 'Recommends')
FEWEST_PACKAGES = 1_000  # fewer come from an index that is not updated
FEWEST_TAGGED = 200  # packages of a tag that is kept
TRAIN, VALIDATION = 0.66, 0.10  # the rest is test


class Entry(NamedTuple):
  """One package of the index."""

  name: str
  section: str
  tags: list[str]
  text: str
  needs: list[str]


class Builder(packaged.GraphBuilder):
  """Builds the set `debian_graph` from the apt index of the machine."""

  SUMMARY = 'what Debian packages need: descriptions, sections, debtags'
  LICENCE = 'package metadata, none stated'
  FEATURES = packaged.GraphBuilder.FEATURES | {
    'text': packaged.TEXTS,
    'tag': tfds.features.Tensor(
      shape=(None, None), dtype=np.uint8, encoding='zlib'
    ),
    'tag_name': packaged.TEXTS,
    'name': packaged.TEXTS,
  }
  METADATA = True
  PUBLISHED = {  # noqa: RUF012
    # Counts shift with the index; these hold for any.
    'self loops': packaged.Published(0),
    'repeated edges': packaged.Published(0),
  }

  def measure(self, read):
    (row,) = read('graph')
    found = adjacency(row['edges'], len(row['label']))
    return super().measure(lambda split: iter([row])) | {
      'sections': len(row['class_name']),
      'largest degree': int(np.diff(found.indptr).max()),
      'tags': len(row['tag_name']),
      'tagged nodes': int((row['tag'].sum(1) > 0).sum()),
      'self loops': found.self_loops,
      'repeated edges': found.duplicates,
    }

  def graph(self):
    index = read_index()
    self.info.metadata['sha256'] = hashlib.sha256(index).hexdigest()
    entries = parse_index(index.decode(errors='replace'))
    place = {entry.name: i for i, entry in enumerate(entries)}
    pairs = {
      (min(i, j), max(i, j))
      for i, entry in enumerate(entries)
      for need in entry.needs
      if (j := place.get(need, i)) != i
    }
    sections = sorted({entry.section for entry in entries} - {''})
    number = {'': -1} | {name: i for i, name in enumerate(sections)}
    label = np.array([number[entry.section] for entry in entries], np.int32)
    names, tag = _tag_matrix(entries)
    split = split_by_hash(place, train=TRAIN, validation=VALIDATION)
    note(
      f'the apt index has {len(entries)} packages, {len(sections)} sections, '
      f'{len(pairs)} edges and {len(names)} tags'
    )
    return {
      'text': [entry.text for entry in entries],
      'edges': np.array(sorted(pairs), np.int32).reshape(-1, 2),
      'label': label,
      'tag': tag,
      'split': np.where(label < 0, np.int8(-1), split),
      'class_name': sections,
      'tag_name': names,
      'name': list(place),
    }


def _tag_matrix(entries: list[Entry]) -> tuple[list[str], np.ndarray]:
  """The names of frequent tags, sorted, and [n, tags] uint8 of 0 and 1."""
  holders: dict[str, list[int]] = {}
  for i, entry in enumerate(entries):
    for tag in set(entry.tags):
      holders.setdefault(tag, []).append(i)
  names = sorted(t for t, who in holders.items() if len(who) >= FEWEST_TAGGED)
  matrix = np.zeros((len(entries), len(names)), np.uint8)
  for column, name in enumerate(names):
    matrix[holders[name], column] = 1
  return names, matrix


def parse_index(index: str) -> list[Entry]:
  """The packages of an index by name; the first of several versions.

  Raises:
    InputError: there are too few for a whole index.
  """
  entries: dict[str, Entry] = {}
  for block in index.split('\n\n'):
    fields = dict(re.findall(r'^([A-Z][\w-]*): ?(.*(?:\n .*)*)', block, re.M))
    name = fields.get('Package', '')
    if not name or name in entries:
      continue
    text = fields.get('Description') or fields.get('Description-en') or ''
    entries[name] = Entry(
      name=name,
      section=fields.get('Section', '').rpartition('/')[2],  # non-free/games
      tags=re.findall(r'[\w.+-]+::[\w.+:-]+', fields.get('Tag', '')),
      text=text.partition('\n')[0].strip(),
      needs=[
        need
        for field in NEEDING
        for need in re.findall(
          r'(?:^|[,|])\s*([a-z0-9][a-z0-9+.-]+)', fields.get(field, '')
        )
      ],
    )
  if len(entries) < FEWEST_PACKAGES:
    raise InputError(
      f'the apt index has {len(entries)} packages, fewer than '
      f'{FEWEST_PACKAGES}: it is empty or in part. {_cure()}'
    )
  return [entries[name] for name in sorted(entries)]


def read_index() -> bytes:
  """The text of the inbox, or of the machine's apt.

  Raises:
    InputError: there is neither, or the file is damaged.
  """
  for name in INBOX:
    path = data_dir() / 'inbox' / name
    if path.exists():
      try:
        data = path.read_bytes()
        return gzip.decompress(data) if name.endswith('.gz') else data
      except (OSError, EOFError, zlib.error) as error:
        raise InputError(f'cannot read {path} ({error})') from error
  if shutil.which(COMMAND[0]) is None:
    raise InputError(
      f'debian_graph is made from the apt index, and {COMMAND[0]} is not '
      f'installed. {_cure()}'
    )
  done = subprocess.run(COMMAND, capture_output=True, check=False)
  if done.returncode:
    words = done.stderr.decode(errors='replace').strip()[:300]
    raise InputError(
      f'{" ".join(COMMAND)} ended with code {done.returncode}, saying '
      f'{words!r}. {_cure()}'
    )
  return done.stdout


def _cure() -> str:
  return (
    f'On a machine with apt run\n'
    f'  sudo apt-get update\n'
    f'or take the index of another one, by\n'
    f'  {" ".join(COMMAND)} > {INBOX[0]}\n'
    f'and put the file, or its .gz, into {data_dir() / "inbox"}'
  )
