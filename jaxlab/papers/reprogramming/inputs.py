"""The small images of a task: squares to be counted, or a labelled set."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxlab.core import keys
from jaxlab.core.require import at_least, filled, one_of, require
from jaxlab.core.source import ArraySpec, Finite, Spec
from jaxlab.data.images.sets import ImageSets
from jaxlab.engine.feed import Feed, held_out
from jaxlab.ops.attack_steps import example_keys
from jaxlab.ops.augment import to_float
from jaxlab.papers.reprogramming import counting, method

Config = Mapping[str, Any]
COUNTING = 'counting'


_FIRST = {'train': 0, 'validation': 2**30, 'test': 3 * 2**29}  # numbers


class Numbers:
  """Batches of global example numbers alone: `id`.

  Args:
    rows: of a batch.
    count: examples in all; None: an endless stream.
    first: the number of the first.
  """

  def __init__(self, rows: int, count: int | None = None, first: int = 0):
    self.rows, self.count, self.first = rows, count, first

  @property
  def spec(self) -> Mapping[str, Spec]:
    """One array, of which images are made on the device."""
    return {'train': {'id': ArraySpec((self.rows,), np.int32)}}

  @property
  def num_batches(self) -> int:
    """Batches of a stream that ends."""
    assert self.count is not None
    return -(-self.count // self.rows)

  def kind(self, step: int) -> str:
    """There is one."""
    del step
    return 'train'

  def batch(self, step: int, rows: slice) -> dict[str, np.ndarray]:
    """The numbers of the rows of batch `step`."""
    start, stop, _ = rows.indices(self.rows)
    found = np.arange(start, stop, dtype=np.int32) + step * self.rows
    if self.count is not None:
      found = found[found < self.count]
    return {'id': found + np.int32(self.first)}


class TaskImages:
  """The images of a config's `data` as a victim of `channels` takes them."""

  def __init__(self, config: Config, channels: int, offline: bool):
    self.config, self.data = config, config['data']
    self.counting = self.data['name'] == COUNTING
    self.channels = channels
    self.side = _side(self.data)
    self.sets = ImageSets(self.data, offline)

  def read(self, batch: Mapping) -> tuple[jax.Array, jax.Array]:
    """x [b, k, k, c] in [-1, 1] and labels [b] of a batch of any split."""
    if not self.counting:
      return self.as_read(batch['image']), batch['label']
    key = keys.stream(self.config['seed'], COUNTING)
    of_each = example_keys(key, batch['id'])
    x, labels = counting.squares_of(of_each, self.data['cell'])
    return self.as_read(x), labels

  def as_read(self, images: jax.Array) -> jax.Array:
    """x in [-1, 1] of images uint8 or in [0, 1], shuffled where data is."""
    x = self.coloured(to_float(images))
    if self.data['shuffled']:
      pixels = keys.stream(self.config['seed'], 'shuffled')
      x = method.shuffle(x, method.pixel_order(pixels, self.side))
    return 2 * x - 1

  def coloured(self, x: jax.Array) -> jax.Array:
    """Images with as many channels as the victim's."""
    if x.shape[-1] == self.channels:
      return x
    grey = x.mean(-1, keepdims=True)
    return jnp.broadcast_to(grey, (*x.shape[:-1], self.channels))

  def source(self, rows: int, seed: int) -> Any:
    """Training batches without end."""
    if self.counting:
      return Numbers(rows)
    return self.sets.source(self.data['train_split'], rows, seed)

  def held_out(self, split: str, devices: Mesh) -> Feed:
    """`validation_split` or `test_split`, once."""
    d = self.data
    if not self.counting:
      return self.sets.held_out(d[f'{split}_split'], devices)
    count = d[f'{split}_examples']

    def source(rows: int) -> Finite:
      return Numbers(rows, count, _FIRST[split])

    return held_out(source, devices, d['eval_batch_size'])


def _side(d: Config) -> int:
  return counting.GRID * d['cell'] if d['name'] == COUNTING else d['size']


def check(config: Config) -> None:
  """Raises InputError where a value of `data` cannot be."""
  rules = {
    'data.name': filled('counting, or a set of images'),
    'data.num_classes': at_least(2),
    'data.shuffled': one_of(True, False),
    'data.batch_size': at_least(1),
    'data.eval_batch_size': at_least(1),
  }
  if config['data']['name'] == COUNTING:
    rules |= {
      'data.num_classes': one_of(counting.COUNTS, cure='one to ten squares'),
      'data.cell': at_least(3, 'a framed square needs as much'),
      'data.validation_examples': at_least(1),
      'data.test_examples': at_least(1),
    }
  else:
    rules |= {'data.size': at_least(1), 'data.channels': one_of(1, 3)}
  require(config, rules)


def spec(config: Config) -> dict[str, Spec]:
  """The arrays of a training batch."""
  d = config['data']
  rows = d['batch_size']
  if d['name'] == COUNTING:
    return {'train': {**Numbers(rows).spec['train']}}
  side = d['size']
  return {
    'train': {
      'image': ArraySpec((rows, side, side, d['channels']), np.uint8),
      'label': ArraySpec((rows,), np.int32),
      'id': ArraySpec((rows,), np.int32),
    }
  }
