"""B3DB: molecules that pass the blood-brain barrier, and others."""

import csv
import io
import pathlib
import tempfile
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from jaxlab.data import archives, packages
from jaxlab.data.atomic import note
from jaxlab.data.builders import packaged

QC_B3DB = packages.Package(
  kind='pypi',
  name='qc-b3db',
  version='1.1.1',
  file='qc_b3db-1.1.1-py3-none-any.whl',
  sha256='c929f601951e4b0ed56326c94d2cdc2f6b0c24711fbc1e0d7f67e88e330fc959',
  mebibytes=74.6,
  licence='CC0-1.0',
)
TABLES = {
  'train': 'B3DB/B3DB_classification.tsv',
  'external': 'B3DB/B3DB_classification_external.tsv',
}
CLASSES = ('BBB-', 'BBB+')
# The columns of `node`.
ATOM = ('number', 'neighbours', 'charge', 'hydrogens', 'aromatic', 'in a ring')
BONDS = ('SINGLE', 'DOUBLE', 'TRIPLE', 'AROMATIC')  # what `edge_label` counts

_DESCRIPTION = f"""\
Molecules and whether they pass the blood-brain barrier (BBB+) or not (BBB-),
curated from 50 sources. The graph of a molecule is RDKit's reading of its
`smiles`: nodes are atoms but for hydrogen, `edges` holds each bond once and
`edge_label` its kind (0 single, 1 double, 2 triple, 3 aromatic). The columns of
`node` are the atom's number in the periodic table, how many other atoms it is
bound to, its formal charge, its hydrogens, and whether (0, 1) it is aromatic
and in a ring. A graph may have no edges, or several parts. `name` and `row` are
the table's name and number of a molecule.
train: 7,805 of the 7,807 rows of the classification table; RDKit refuses two
for their valence, rows 5044 and 7738, which are named when the set is prepared.
No split is published. external: 175 molecules added later, 171 of them BBB+, 11
of which are in train too: little use as a test set.
{packaged.provenance(QC_B3DB)}
"""

_CITATION = """\
@article{meng2021curated,
  title = {A curated diverse molecular database of blood-brain barrier
           permeability with chemical descriptors},
  author = {Meng, Fanwang and Xi, Yang and Huang, Jinfeng and Ayers, Paul W.},
  journal = {Scientific Data},
  volume = {8},
  number = {289},
  year = {2021},
  doi = {10.1038/s41597-021-01069-5}
}
"""


class Builder(packaged.PackagedBuilder):
  """Builds the set `b3db` from one pinned wheel, with RDKit."""

  PACKAGES = (QC_B3DB,)
  NEEDS = ('rdkit',)
  SUMMARY = '7,805 molecules that pass the blood-brain barrier or not'
  LICENCE = 'CC0-1.0'
  PUBLISHED = {  # noqa: RUF012
    'molecules': packaged.Published(7_805),
    'mean atoms': packaged.Published(26.9, 0.05),
    'mean bonds': packaged.Published(29.1, 0.05),
    'external': packaged.Published(175),
  }

  def measure(self, read):
    rows = list(read('train'))
    return {
      'molecules': len(rows),
      'BBB+': sum(int(row['label']) for row in rows),
      'mean atoms': np.mean([len(row['node']) for row in rows]),
      'mean bonds': np.mean([len(row['edges']) for row in rows]),
      'external': sum(1 for _ in read('external')),
    }

  def _info(self) -> tfds.core.DatasetInfo:
    tensor = tfds.features.Tensor
    return tfds.core.DatasetInfo(
      builder=self,
      description=_DESCRIPTION,
      features=tfds.features.FeaturesDict(
        {
          'node': tensor(shape=(None, len(ATOM)), dtype=np.int32),
          'edges': tensor(shape=(None, 2), dtype=np.int32),
          'edge_label': tensor(shape=(None,), dtype=np.int32),
          'label': tfds.features.ClassLabel(names=CLASSES),
          'smiles': tfds.features.Text(),
          'name': tfds.features.Text(),
          'row': tfds.features.Scalar(dtype=np.int32),
        }
      ),
      license=self.LICENCE,
      citation=_CITATION,
      disable_shuffling=True,  # the order of the table
    )

  def _split_generators(self, dl_manager):
    del dl_manager  # the package clients download; TFDS does not
    wheel = self.fetch(QC_B3DB)
    return {
      split: self._generate_examples(
        _read_rows(wheel, table, self.data_dir_root)
      )
      for split, table in TABLES.items()
    }

  def _generate_examples(self, rows):
    refused = []
    for key, row in enumerate(self.progress(rows, len(rows), 'molecules')):
      graph = parse_smiles(row['SMILES'])
      if graph is None:
        refused.append(f'{row["NO."]} ({row["SMILES"]})')
        continue
      yield (
        key,
        graph
        | {
          'label': row['BBB+/BBB-'],
          'smiles': row['SMILES'],
          'name': row['compound_name'],
          'row': int(row['NO.']),
        },
      )
    if refused:
      note(
        f'b3db leaves out {len(refused)} of {len(rows)} molecules, which RDKit '
        f'refuses: rows {", ".join(refused)}'
      )


def _read_rows(wheel, table: str, scratch) -> list[dict[str, str]]:
  with tempfile.TemporaryDirectory(dir=scratch) as folder:
    path = pathlib.Path(folder) / 'table.tsv'
    archives.extract_member(wheel, table, path)
    text = path.read_text(encoding='utf-8-sig')
  return list(csv.DictReader(io.StringIO(text), delimiter='\t'))


def parse_smiles(smiles: str) -> dict[str, Any] | None:
  """`node`, `edges` and `edge_label` of a molecule, None if RDKit refuses it.

  Raises:
    ValueError: a bond is of a kind that is not in BONDS.
  """
  from rdkit import Chem, rdBase

  with rdBase.BlockLogs():
    molecule = Chem.MolFromSmiles(smiles)
  if molecule is None:
    return None
  node = [
    (
      atom.GetAtomicNum(),
      atom.GetDegree(),
      atom.GetFormalCharge(),
      atom.GetTotalNumHs(),
      int(atom.GetIsAromatic()),
      int(atom.IsInRing()),
    )
    for atom in molecule.GetAtoms()
  ]
  bonds = list(molecule.GetBonds())
  ends = [sorted((b.GetBeginAtomIdx(), b.GetEndAtomIdx())) for b in bonds]
  return {
    'node': np.array(node, np.int32).reshape(-1, len(ATOM)),
    'edges': np.array(ends, np.int32).reshape(-1, 2),
    'edge_label': np.array(
      [BONDS.index(str(bond.GetBondType())) for bond in bonds], np.int32
    ),
  }
