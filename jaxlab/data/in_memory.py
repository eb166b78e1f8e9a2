"""Sets that fit in memory, or in the page cache: batches gathered by index.

`Order` says which examples a batch holds, for every source of examples that
are known by index; `ArraySource` gathers them from NumPy arrays and memmaps.
"""

import functools
import math
import mmap
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxlab.core.errors import InputError
from jaxlab.core.source import ArraySpec
from jaxlab.data import counter_random
from jaxlab.data.checks import first

_EPOCHS = 2  # orders kept: a batch may span the end of one
_BLOCK = 1 << 24  # bytes looked at together


class Caching:
  """Attributes with a leading underscore are caches of the process alone."""

  def _start(self) -> None:
    """Makes the caches, empty; called by `__init__` and after unpickling."""
    raise NotImplementedError

  def __getstate__(self):
    return {k: v for k, v in self.__dict__.items() if not k.startswith('_')}

  def __setstate__(self, state):
    self.__dict__.update(state)
    self._start()


class Order(Caching):
  """The examples of each batch: an order of the set for each epoch.

  Example k of the stream is example k mod n of epoch k // n. With `repeat`
  epoch follows epoch without a gap, so that a batch may span two, and one of
  more rows than the set has holds examples several times. Without, there is
  epoch 0 alone, whose last batch may be short.

  Args:
    count: n, examples in the set.
    batch_size: rows of a batch.
    seed: of the orders; each is a function of (seed, epoch, n) alone.
    repeat: whether the stream has no end.
    shuffle: False takes the set's own order in every epoch.

  Raises:
    InputError: an argument is out of range.
  """

  def __init__(
    self,
    count: int,
    *,
    batch_size: int,
    seed: int = 0,
    repeat: bool = True,
    shuffle: bool = True,
  ):
    for name, value, low, high in (
      ('the number of examples', count, 1, 2**31 - 1),
      ('batch_size', batch_size, 1, math.inf),
      ('seed', seed, 0, 2**63 - 1),
    ):
      if not low <= value <= high:
        raise InputError(f'{name} is {value}, and must be in [{low}, {high}]')
    self.count, self.batch_size, self.seed = count, batch_size, seed
    self.repeat, self.shuffle = repeat, shuffle
    self._start()

  def _start(self) -> None:
    self._epoch = functools.lru_cache(_EPOCHS)(self._order_of)

  def indices(self, step: int, rows: slice) -> np.ndarray:
    """[<= rows] int64 in [0, count), the examples of rows of batch `step`."""
    start, stop, _ = rows.indices(self.batch_size)
    start, stop = (step * self.batch_size + at for at in (start, stop))
    if not self.repeat:
      stop = min(stop, self.count)
      start = min(start, stop)
    parts: list[np.ndarray] = []
    while not parts or start < stop:
      epoch, at = divmod(start, self.count)
      parts.append(self._epoch(epoch * self.shuffle)[at : at + stop - start])
      start += self.count - at
    return parts[0] if len(parts) == 1 else np.concatenate(parts)

  def _order_of(self, epoch: int) -> np.ndarray:
    if self.shuffle:
      found = permutation(self.count, seed=self.seed, epoch=epoch)
    else:
      found = np.arange(self.count)
    found.flags.writeable = False
    return found


def permutation(count: int, *, seed: int, epoch: int) -> np.ndarray:
  """[count] int64, an order of 0 … count - 1; count <= 2^32.

  Examples are sorted by a hash of (seed, epoch, example), of which the lowest
  bits give way to the example itself: sorting numbers is several times faster
  than sorting their places. Two of n examples tie with a probability below
  n^3 / 2^63, and are then in the set's order.
  """
  bits = np.uint64(max(1, (count - 1).bit_length()))
  example = np.arange(count, dtype=np.uint64)
  keys = counter_random.mix(seed, epoch, -1, example)
  keys = np.sort((keys >> bits << bits) | example)
  return (keys & ((np.uint64(1) << bits) - np.uint64(1))).astype(np.int64)


class Indexed:
  """A `Source` of the engine whose examples are known by index.

  A batch of b rows has the arrays that `_gather` gives, and
    id: [b] int32, the examples' indices.
  A finite source (`repeat=False`) has `num_batches` batches, the last short:
  the feed pads it and masks the padding.

  Args:
    count: examples in the set.
    rows: name -> shape and dtype of one row of an array of a batch.
    batch_size: rows of a batch.
    kind: the step kind that all batches are of.
    order: see `Order`.

  Raises:
    InputError: an argument is out of range.
  """

  def __init__(
    self,
    count: int,
    rows: Mapping[str, tuple[tuple[int, ...], Any]],
    *,
    batch_size: int,
    kind: str = 'train',
    **order: Any,
  ):
    self.order = Order(count, batch_size=batch_size, **order)
    self.step_kind = kind
    self.spec = {
      kind: {
        name: ArraySpec((batch_size, *shape), dtype)
        for name, (shape, dtype) in {**rows, 'id': ((), np.int32)}.items()
      }
    }

  @property
  def num_examples(self) -> int:
    """Examples of one epoch."""
    return self.order.count

  @property
  def num_batches(self) -> int:
    """Batches of one epoch; the last may be short."""
    return -(-self.order.count // self.order.batch_size)

  def kind(self, step: int) -> str:
    del step
    return self.step_kind

  def batch(self, step: int, rows: slice) -> dict[str, np.ndarray]:
    """Rows `rows` of batch `step`, fewer at the end of a finite source."""
    index = self.order.indices(step, rows)
    return {**self._gather(index), 'id': index.astype(np.int32)}

  def _gather(self, index: np.ndarray) -> dict[str, np.ndarray]:
    """The arrays of the examples of [b] int64 indices, but `id`."""
    raise NotImplementedError


class ArraySource(Indexed):
  """Arrays whose first axis counts examples, which are gathered by index.

  A batch has the arrays' names, and `id`, the examples' places in them.

  Read-only memmaps are pickled as path and place, and opened anew by whoever
  unpickles; other arrays are pickled whole.

  Args:
    arrays: name -> [n, …] bool, integer or floating array of at most 32 bits,
      finite. `mask`, [n] bool, is the rows' own mask where given.
    more: batch_size, kind and order, see `Indexed`.

  Raises:
    InputError: no arrays or examples, arrays of different length, of a dtype
      that a device would not keep, or with a number that is not finite; an
      argument out of range.
  """

  def __init__(self, arrays: Mapping[str, np.ndarray], **more: Any):
    self.arrays = {name: np.asarray(value) for name, value in arrays.items()}
    rows = {k: (v.shape[1:], v.dtype) for k, v in self.arrays.items()}
    super().__init__(_check(self.arrays), rows, **more)

  def __getstate__(self):
    arrays = {name: _located(array) for name, array in self.arrays.items()}
    return self.__dict__ | {'arrays': arrays}

  def __setstate__(self, state):
    arrays = {
      name: value() if isinstance(value, functools.partial) else value
      for name, value in state['arrays'].items()
    }
    self.__dict__.update(state | {'arrays': arrays})

  def _gather(self, index: np.ndarray) -> dict[str, np.ndarray]:
    # The method `take` copies whole rows, a fifth faster than array[index].
    return {name: array.take(index, 0) for name, array in self.arrays.items()}


def _mapped(path: str, *where) -> np.ndarray:
  """The part of a file that `_located` found."""
  try:
    return np.asarray(np.memmap(path, *where))
  except (OSError, ValueError) as error:
    raise InputError(
      f'{path} cannot be mapped again ({error}): it was moved or cut while in '
      f'use'
    ) from error


def _located(array: np.ndarray) -> np.ndarray | functools.partial:
  """What maps a read-only memmap's rows again; others as they are."""
  root = array
  while not (isinstance(root, np.memmap) and isinstance(root.base, mmap.mmap)):
    if not isinstance(root.base, np.ndarray):
      return array
    root = root.base
  plain = root.mode == 'r' and array.flags.c_contiguous and array.size
  if not plain or root.filename is None:
    return array
  offset = array.ctypes.data - root.ctypes.data + root.offset
  where = (array.dtype, 'r', offset, array.shape)
  return functools.partial(_mapped, str(root.filename), *where)


def _check(arrays: Mapping[str, np.ndarray]) -> int:
  """Number of examples; raises InputError as `ArraySource`."""
  if not arrays:
    raise InputError('arrays is empty: give at least one, such as image')
  if 'id' in arrays:
    raise InputError(
      'the array "id" is made by the source: leave it out, or rename it'
    )
  for name, array in arrays.items():
    if array.ndim == 0:
      raise InputError(f'array "{name}" has no axis that counts examples')
    small = array.dtype.kind in 'biuf' and array.dtype.itemsize <= 4
    if not (small and array.dtype.isnative):
      raise InputError(
        f'array "{name}" is {array.dtype}, and a device keeps bool, integers '
        f'and floats of at most 32 bits: convert it, say by .astype(np.int32) '
        f'or .astype(np.float32)'
      )
  lengths = {name: len(array) for name, array in arrays.items()}
  if len(set(lengths.values())) > 1:
    raise InputError(
      f'arrays have different numbers of examples: {lengths}; each row of one '
      f'needs its row in all'
    )
  mask = arrays.get('mask')
  if mask is not None and (mask.dtype != bool or mask.ndim != 1):
    raise InputError(
      f'array "mask" is {mask.dtype}{list(mask.shape)}, and must be bool [n], '
      f'True where the row counts'
    )
  for name, array in arrays.items():
    if array.dtype.kind == 'f':
      _check_finite(name, array)
  return next(iter(lengths.values()))


def _check_finite(name: str, array: np.ndarray) -> None:
  row = max(1, array.nbytes // max(1, len(array)))
  stride = max(1, _BLOCK // row)
  for start in range(0, len(array), stride):
    block = array[start : start + stride]
    if at := first(~np.isfinite(block)):
      raise InputError(
        f'array "{name}" has a NaN or an infinity in example {start + at[0]}: '
        f'mend it or leave the example out'
      )
