"""The image sets of a run: ID, outliers for training, outliers for testing."""

import zlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import jax
import numpy as np

from jaxlab.data import image, in_memory, outliers
from jaxlab.data.feed import Feed
from jaxlab.engine import mesh
from jaxlab.engine.errors import InputError
from jaxlab.engine.metrics import say
from jaxlab.evals.ood import overlapping, refuse_overlap
from jaxlab.ops.corruptions import corruption

Config = Mapping[str, Any]

NOISE_IMAGES = 2000  # in a set of noise to train or tune on


class Sets:
  """The arrays that a config names, opened when they are asked for.

  Args:
    config: the run's.
    offline: open no socket.
  """

  def __init__(self, config: Config, offline: bool):
    self.config, self.offline = config, offline

  def inliers(self, split: str) -> dict[str, np.ndarray]:
    """image [n, h, w, c] uint8, label [n] int32 of a split of the ID set."""
    c = self.config['data']
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

  @cached_property
  def train(self) -> dict[str, np.ndarray]:
    """ID images to train on, balanced if the config says so."""
    c = self.config['data']
    found = self.inliers(c['train_split'])
    if c['balance_to']:
      found = dict(
        outliers.balance(found['image'], found['label'], c['balance_to'])
      )
    return found

  @cached_property
  def outliers(self) -> dict[str, np.ndarray]:
    """Auxiliary outliers to train on; none of them is in a test set.

    Raises:
      InputError: some are and are not to be dropped, or there are none.
    """
    c = self.config['outliers']
    parts = [self._unlabelled(*pair) for pair in c['train']]
    if c['file']:
      d = self.config['data']
      parts.append(outliers.open_array(c['file'], d['size'], d['channels']))
    if not parts:
      raise InputError(
        'config.outliers names no set and no file, and this method trains on '
        'outliers'
      )
    found = parts[0] if len(parts) == 1 else np.concatenate(parts)
    return {'image': self._apart(found)}

  @cached_property
  def validation_outliers(self) -> np.ndarray:
    """Outliers that detectors are tuned on; none of them is in a test set.

    Raises:
      InputError: as of `outliers`.
    """
    parts = [
      self._unlabelled(*p) for p in self.config['outliers']['validation']
    ]
    if not parts:
      raise InputError(
        'config.outliers.validation is empty: detectors are tuned on outliers '
        'that are neither trained on nor tested'
      )
    return self._apart(np.concatenate(parts))

  def ood(self, name: str, split: str, count: int) -> np.ndarray:
    """At most `count` images of an OOD test set, [n, h, w, c] uint8.

    Args:
      name: of a set, a noise of `data.outliers.NOISES`, or
        `corrupted:NAME:SEVERITY`, which is the ID test set corrupted.
      split: of a set; of noise any name, each with images of its own; the ID
        split for a corruption, '' = the test split.
      count: images drawn, the same ones in every run.
    """
    c = self.config['data']
    shape = (c['size'], c['size'], c['channels'])
    if name in outliers.NOISES:
      return outliers.noise(name, count, shape, zlib.crc32(split.encode()))
    if name.startswith('corrupted:'):
      pixels = drawn(self.inliers(split or c['test_split']), count)['image']
      return _corrupted(name, pixels)
    return drawn({'image': self._unlabelled(name, split)}, count)['image']

  def _unlabelled(self, name: str, split: str) -> np.ndarray:
    c = self.config['data']
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

  def _apart(self, found: np.ndarray) -> np.ndarray:
    """The outliers without those of a test set; or an error, by the config."""
    tests = {' '.join(p): self._unlabelled(*p) for p in self._real_tests()}
    if self.config['outliers']['overlap'] == 'drop':
      found = _without(found, tests)
    refuse_overlap(found, tests)
    return found

  def _real_tests(self) -> Sequence[tuple[str, str]]:
    made = ('corrupted:', *outliers.NOISES)
    return [p for p in self.config['ood']['sets'] if not p[0].startswith(made)]


def drawn(arrays: Mapping[str, np.ndarray], count: int) -> dict:
  """At most `count` rows, drawn without regard to anything but their number."""
  size = len(arrays['image'])
  order = in_memory.permutation(size, seed=0, epoch=0)[:count]
  return {name: array[order] for name, array in arrays.items()}


def feed_once(
  config: Config, arrays: Mapping[str, np.ndarray], devices
) -> Feed:
  """The rows of some arrays in their order, once."""
  ways = devices.size
  rows = -(-config['data']['eval_batch_size'] // ways) * ways
  source = in_memory.ArraySource(
    arrays, batch_size=rows, repeat=False, shuffle=False
  )
  axes = mesh.row_axes(devices)
  return Feed(source, devices, steps=source.num_batches, axes=axes)


def _without(found: np.ndarray, tests: Mapping[str, np.ndarray]) -> np.ndarray:
  """The outliers that are in no test set, counted on stderr."""
  for name, images in tests.items():
    both = overlapping(found, images)
    if both.any():
      say(f'{both.sum()} of {len(both)} outliers are in "{name}": left out')
      found = found[~both]
  return found


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
