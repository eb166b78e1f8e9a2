"""The handwritten digits that scikit-learn ships."""

import functools
import hashlib

import numpy as np
import tensorflow_datasets as tfds

from jaxlab.core.errors import InputError
from jaxlab.data import counter_random
from jaxlab.data.builders import packaged
from jaxlab.data.graphs.types import SPLITS

SHA256 = 'fe61bc84cd6a594d5ed1b937b7d8f8f791d4091d2a9df91fe5d6066156a4db6e'
PARTS = {'validation': 0.2, 'test': 0.2}  # of each class; the rest is train


@functools.cache
def load_digits() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """The digits in the order of the package.

  Returns:
    pixels [1797, 8, 8] uint8 in [0, 16], labels [1797] int32 in [0, 10) and
    split [1797] int8 of `graph.SPLITS`.

  Raises:
    InputError: scikit-learn ships other digits.
  """
  import sklearn
  import sklearn.datasets

  found = sklearn.datasets.load_digits()
  pixels = found.images.astype(np.uint8)
  labels = found.target.astype(np.int32)
  digest = hashlib.sha256(pixels.tobytes() + labels.astype('<i4').tobytes())
  if digest.hexdigest() != SHA256:
    raise InputError(
      f'scikit-learn {sklearn.__version__} ships other digits than this set is '
      f'made of: the sha256 of pixels and labels is {digest.hexdigest()}, '
      f'expected {SHA256}; install scikit-learn 1.9'
    )
  order = counter_random.mix(0, np.arange(len(labels)))
  split = np.full(len(labels), SPLITS['train'], np.int8)
  for digit in range(10):
    members = np.flatnonzero(labels == digit)
    members = members[np.argsort(order[members])]
    for name, part in PARTS.items():
      chosen, members = np.split(
        members, [round(part * (labels == digit).sum())]
      )
      split[chosen] = SPLITS[name]
  return pixels, labels, split


class Builder(packaged.PackagedBuilder):
  """Builds the set `digits` from scikit-learn, without a download."""

  NEEDS = ('sklearn',)
  SUMMARY = '1,797 handwritten digits, 8 by 8, 10 classes'
  LICENCE = 'CC BY 4.0 (the package: BSD-3-Clause)'
  FEATURES = {  # noqa: RUF012
    'image': tfds.features.Image(shape=(8, 8, 1)),
    'label': tfds.features.ClassLabel(num_classes=10),
  }
  SUPERVISED = ('image', 'label')
  PUBLISHED = {  # noqa: RUF012
    'images': packaged.Published(1_797),
    'classes': packaged.Published(10),
    'pixel mean, of 16': packaged.Published(4.8842, 5e-5),
  }

  def measure(self, read):
    rows = [row for name in ('train', *PARTS) for row in read(name)]
    return {
      'images': len(rows),
      'classes': len({int(row['label']) for row in rows}),
      'pixel mean, of 16': np.mean([row['image'] for row in rows]) / 15,
    }

  def rows(self):
    pixels, labels, split = load_digits()
    return {
      name: (
        {'image': pixels[i] * np.uint8(15), 'label': int(labels[i])}
        for i in np.flatnonzero(split == SPLITS[name])
      )
      for name in ('train', *PARTS)
    }
