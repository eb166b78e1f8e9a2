"""In- and out-of-distribution images that a config's `data` section names."""

import zlib
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import numpy as np

from jaxlab.core.errors import InputError
from jaxlab.core.source import Finite
from jaxlab.data import in_memory
from jaxlab.data.images import arrays, outliers, streaming
from jaxlab.data.images.pixels import Canvas
from jaxlab.engine.feed import Feed, held_out
from jaxlab.ops.corruptions import corruption

Config = Mapping[str, Any]

NOISE_IMAGES = 2000  # in a set of noise to train or tune on


class ImageSets:
  """The arrays that a config names, opened when they are asked for.

  Args:
    data: the config's section: name, image_feature, label_feature, size,
      channels, num_classes, test_split, eval_batch_size, stream, workers.
    offline: open no socket.
  """

  def __init__(self, data: Config, offline: bool):
    self.data, self.offline = data, offline
    self.classes: tuple[str, ...] = ()  # of the ID set, once it is open
    self._open: dict[str, dict[str, np.ndarray]] = {}

  def inliers(self, split: str) -> dict[str, np.ndarray]:
    """image [n, h, w, c] uint8, label [n] int32 of a split of the ID set."""
    if split not in self._open:
      found = self._opened(self.data['name'], split, **self._features())
      self._check_classes(found.classes)
      self._open[split] = {'image': found.image, 'label': found.label}
    return self._open[split]

  def _features(self) -> dict[str, str]:
    """The features of the ID set, for openers."""
    c = self.data
    return {'image': c['image_feature'], 'label': c['label_feature']}

  def _opened(self, name: str, split: str, **features) -> arrays.Images:
    c = self.data
    return arrays.open_images(
      name,
      split,
      size=c['size'],
      channels=c['channels'],
      offline=self.offline,
      **features,
    )

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
    if name in outliers.NOISES:
      return self.ood(name, split, NOISE_IMAGES)
    return self._opened(name, split, label='').image  # it may have none

  def source(self, split: str, rows: int, seed: int | None = None) -> Finite:
    """Batches `image`, `label`, `id` of a split.

    With `config.data.stream` records are decoded on the way, each time anew.

    Args:
      seed: of the endless stream's orders; None: in order, once.
    """
    c = self.data
    more: dict[str, Any] = {'repeat': False, 'shuffle': False}
    if seed is not None:
      more = {'seed': seed}
    if not c['stream']:
      return in_memory.ArraySource(self.inliers(split), batch_size=rows, **more)
    records = streaming.open_records(
      c['name'], split, offline=self.offline, **self._features()
    )
    self._check_classes(records.classes)
    canvas = Canvas(c['size'], c['channels'], 'crop')
    return streaming.RecordSource(records, canvas, batch_size=rows, **more)

  def held_out(self, split: str, devices) -> Feed:
    """The rows of a split in their order, once."""
    return held_out(
      partial(self.source, split),
      devices,
      self.data['eval_batch_size'],
      workers=self.data['workers'] if self.data['stream'] else 0,
    )

  def once(self, found: Mapping[str, np.ndarray], devices) -> Feed:
    """The rows of some arrays in their order, once."""
    source = lambda rows: in_memory.ArraySource(
      found, batch_size=rows, repeat=False, shuffle=False
    )
    return held_out(source, devices, self.data['eval_batch_size'])

  def _check_classes(self, classes: tuple[str, ...]) -> None:
    count = len(classes)
    if count != self.data['num_classes']:
      raise InputError(
        f'{self.data["name"]} has {count} classes, and config.data.num_classes '
        f'is {self.data["num_classes"]}'
      )
    self.classes = classes


def drawn(found: Mapping[str, np.ndarray], count: int) -> dict:
  """At most `count` rows, drawn without regard to anything but their number."""
  size = len(found['image'])
  order = in_memory.permutation(size, seed=0, epoch=0)[:count]
  return {name: array[order] for name, array in found.items()}


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
