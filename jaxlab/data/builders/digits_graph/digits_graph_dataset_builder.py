"""The digits of scikit-learn, each joined to those that look most like it."""

import numpy as np
import tensorflow_datasets as tfds

from jaxlab.data.builders import packaged
from jaxlab.data.builders.digits import digits_dataset_builder as digits

NEIGHBOURS = 10


class Builder(packaged.GraphBuilder):
  """Builds the set `digits_graph` from scikit-learn, without a download."""

  NEEDS = ('sklearn',)
  SUMMARY = '1,797 digits joined to their 10 nearest, 10 classes'
  LICENCE = 'CC BY 4.0 (the package: BSD-3-Clause)'
  FEATURES = packaged.GraphBuilder.FEATURES | {
    'features': tfds.features.Tensor(shape=(None, 64), dtype=np.uint8)
  }
  PUBLISHED = {  # noqa: RUF012
    'nodes': packaged.Published(1_797),
    'edges': packaged.Published(12_339),
    'edge homophily': packaged.Published(0.9557, 5e-5),
    'isolated nodes': packaged.Published(0),
  }

  def measure(self, read):
    found = super().measure(read)
    return {'edges': found.pop('undirected edges'), **found}

  def graph(self):
    pixels, labels, split = digits.load_digits()
    features = pixels.reshape(-1, 64)
    return {
      'features': features,
      'edges': nearest_edges(features, NEIGHBOURS),
      'label': labels,
      'split': split,
      'class_name': [str(digit) for digit in range(10)],
    }


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
