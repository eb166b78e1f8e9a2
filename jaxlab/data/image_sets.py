"""In- and out-of-distribution images that a config's `data` section names."""

import zlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxlab.data import image, in_memory, outliers
from jaxlab.data.feed import Feed
from jaxlab.engine import mesh
from jaxlab.engine.errors import InputError
from jaxlab.ops.corruptions import corruption

Config = Mapping[str, Any]

NOISE_IMAGES = 2000  # in a set of noise to train or tune on


class ImageSets:
  """The arrays that a config names, opened when they are asked for.

  Args:
    data: the config's section: name, image_feature, label_feature, size,
      channels, num_classes, test_split, eval_batch_size.
    offline: open no socket.
  """

  def __init__(self, data: Config, offline: bool):
    self.data, self.offline = data, offline

  def inliers(self, split: str) -> dict[str, np.ndarray]:
    """image [n, h, w, c] uint8, label [n] int32 of a split of the ID set."""
    c = self.data
    found = image.open_images(
      c['name'],
      split,
      size=c['size'],
      channels=c['channels'],
      image=c['image_feature'],
      label=c['label_feature'],
      offline=self.offline,
    )
    if len(found.classes) != c['num_classes']:
      raise InputError(
        f'{c["name"]} has {len(found.classes)} classes, and '
        f'config.data.num_classes is {c["num_classes"]}'
      )
    return {'image': found.image, 'label': found.label}

  def ood(self, name: str, split: str, count: int) -> np.ndarray:
    """At most `count` images of an OOD test set, [n, h, w, c] uint8.

    Args:
      name: of a set, a noise of `data.outliers.NOISES`, or
        `corrupted:NAME:SEVERITY`, which is the ID test set corrupted.
      split: of a set; of noise any name, each with images of its own; the ID
        split for a corruption, '' = the test split.
      count: images drawn, the same ones in every run.
    """
    c = self.data
    shape = (c['size'], c['size'], c['channels'])
    if name in outliers.NOISES:
      return outliers.noise(name, count, shape, zlib.crc32(split.encode()))
    if name.startswith('corrupted:'):
      pixels = drawn(self.inliers(split or c['test_split']), count)['image']
      return _corrupted(name, pixels)
    return drawn({'image': self.unlabelled(name, split)}, count)['image']

  def unlabelled(self, name: str, split: str) -> np.ndarray:
    """[n, h, w, c] uint8: all of a split, or a set of noise."""
    c = self.data
    if name in outliers.NOISES:
      return self.ood(name, split, NOISE_IMAGES)
    return image.open_images(
      name,
      split,
      size=c['size'],
      channels=c['channels'],
      label='',  # these may have none
      offline=self.offline,
    ).image

  def once(self, arrays: Mapping[str, np.ndarray], devices) -> Feed:
    """The rows of some arrays in their order, once."""
    ways = devices.size
    rows = -(-self.data['eval_batch_size'] // ways) * ways
    source = in_memory.ArraySource(
      arrays, batch_size=rows, repeat=False, shuffle=False
    )
    axes = mesh.row_axes(devices)
    return Feed(source, devices, steps=source.num_batches, axes=axes)


def drawn(arrays: Mapping[str, np.ndarray], count: int) -> dict:
  """At most `count` rows, drawn without regard to anything but their number."""
  size = len(arrays['image'])
  order = in_memory.permutation(size, seed=0, epoch=0)[:count]
  return {name: array[order] for name, array in arrays.items()}


def _corrupted(name: str, pixels: np.ndarray) -> np.ndarray:
  parts = name.split(':')
  if len(parts) != 3 or not parts[2].isdigit():
    raise InputError(
      f'OOD set "{name}" is not corrupted:NAME:SEVERITY, say '
      'corrupted:gaussian_blur:3'
    )
  try:
    change = corruption(parts[1], int(parts[2]))
  except ValueError as error:
    raise InputError(f'OOD set "{name}": {error}') from error
  ids = np.arange(len(pixels))
  floats = pixels.astype(np.float32) / 255
  found = np.asarray(change(jax.random.key(0), floats, ids))
  return np.rint(255 * found).astype(np.uint8)
