"""The digits of scikit-learn, each joined to those that look most like it."""

import numpy as np
import tensorflow_datasets as tfds

from jaxlab.data.builders import packaged
from jaxlab.data.builders.digits import digits_dataset_builder as digits
from jaxlab.data.graphs.adjacency import adjacency, homophily

NEIGHBOURS = 10

_DESCRIPTION = f"""\
One graph of the 1,797 digits of the set `digits`. Each is joined to the
{NEIGHBOURS} others whose 64 pixels are nearest in Euclidean distance (of equal
distances the one that comes first in the package), and edges lead both ways, so
that a node has {NEIGHBOURS} neighbours or more. Labels play no part in it.
`features` are the pixels, 0 to 16, `edges` each edge once with the lower node
first, `split` 0 train, 1 validation, 2 test as in `digits`. No published graph;
made for trying methods without a download (sha256 of pixels and labels
{digits.SHA256}).
"""


class Builder(packaged.PackagedBuilder):
  """Builds the set `digits_graph` from scikit-learn, without a download."""

  NEEDS = ('sklearn',)
  SUMMARY = '1,797 digits joined to their 10 nearest, 10 classes'
  LICENCE = 'CC BY 4.0 (the package: BSD-3-Clause)'
  PUBLISHED = {  # noqa: RUF012
    'nodes': packaged.Published(1_797),
    'edges': packaged.Published(12_339),
    'edge homophily': packaged.Published(0.9557, 5e-5),
    'isolated nodes': packaged.Published(0),
  }

  def measure(self, read):
    (row,) = read('graph')
    found = adjacency(row['edges'], len(row['label']))
    return {
      'nodes': len(row['label']),
      'edges': len(row['edges']),
      'edge homophily': homophily(row['edges'], row['label']),
      'isolated nodes': found.isolated,
    }

  def _info(self) -> tfds.core.DatasetInfo:
    tensor = tfds.features.Tensor
    return tfds.core.DatasetInfo(
      builder=self,
      description=_DESCRIPTION,
      features=tfds.features.FeaturesDict(
        {
          'features': tensor(shape=(None, 64), dtype=np.uint8),
          'edges': tensor(shape=(None, 2), dtype=np.int32),
          'label': tensor(shape=(None,), dtype=np.int32),
          'split': tensor(shape=(None,), dtype=np.int8),
          'class_name': tfds.features.Sequence(tfds.features.Text()),
        }
      ),
      license=self.LICENCE,
      citation=digits.CITATION,
    )

  def _split_generators(self, dl_manager):
    del dl_manager  # nothing is downloaded
    return {'graph': self._generate_examples()}

  def _generate_examples(self):
    pixels, labels, split = digits.load_digits()
    features = pixels.reshape(-1, 64)
    yield (
      0,
      {
        'features': features,
        'edges': nearest_edges(features, NEIGHBOURS),
        'label': labels,
        'split': split,
        'class_name': [str(digit) for digit in range(10)],
      },
    )


def nearest_edges(points: np.ndarray, neighbours: int) -> np.ndarray:
  """[e, 2] int32, each point of [n, f] integers joined to its nearest.

  Distances are exact, so that the same edges come out on every machine.
  """
  points = points.astype(np.int64)
  square = (points**2).sum(1)
  distance = square[:, None] + square - 2 * points @ points.T
  np.fill_diagonal(distance, np.iinfo(np.int64).max)
  ends = np.argsort(distance, 1, kind='stable')[:, :neighbours]
  starts = np.broadcast_to(np.arange(len(points))[:, None], ends.shape)
  edges = np.stack([starts.ravel(), ends.ravel()], 1)
  return np.unique(np.sort(edges, 1), axis=0).astype(np.int32)
