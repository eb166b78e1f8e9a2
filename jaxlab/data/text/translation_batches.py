"""Batches of translation's pairs, by length."""

import functools
from collections.abc import Sequence

import numpy as np

from jaxlab.core.errors import InputError
from jaxlab.core.source import ArraySpec
from jaxlab.data.in_memory import Caching, permutation
from jaxlab.data.text.translation import EOS, PAD, SIDES, Pairs, Side


def batch_spec(rows: int, length: int) -> dict[str, ArraySpec]:
  """The arrays of one batch; see `TranslationSource`."""
  tokens = ArraySpec((rows, length), np.int32)
  return {
    'source': tokens,
    'target': tokens,
    'id': ArraySpec((rows,), np.int32),
  }


def rows_of_tokens(
  lengths: Sequence[int], tokens: int, multiple: int
) -> tuple[int, ...]:
  """Rows of a batch of each length that hold at most so many tokens.

  Args:
    tokens: of one side of a batch, padding included.
    multiple: that the rows divide by: devices x micro-batches.

  Raises:
    InputError: fewer tokens than one such multiple of rows has.
  """
  rows = tuple(tokens // length // multiple * multiple for length in lengths)
  if not all(rows):
    raise InputError(
      f'a batch of {tokens} tokens does not hold {multiple} rows (devices x '
      f'micro-batches) of {max(lengths)} tokens; take at least '
      f'{multiple * max(lengths)}'
    )
  return rows


class TranslationSource(Caching):
  """Batches of pairs of similar length, as a `jaxlab.core.source.Source`.

  A pair is in the first of `lengths` that holds both of its texts with their
  EOS; each length has a step kind and a shape of its own:
    source, target: [rows, length] int32, a text, EOS, then PAD.
    id: [rows] int32, the pair's place in `chosen`.
  In an epoch each pair comes once; the last batch of each length may be short
  (the feed pads it). Orders of pairs and of batches are functions of (seed,
  epoch) alone.

  Args:
    pairs, split: what is read.
    lengths: increasing, each >= 2.
    rows: of a batch of each length.
    seed: of the orders.
    held_out: one epoch in order of length, in which a text that is too long is
      cut; otherwise without end, shuffled, and such pairs are left out.
    examples: held-out pairs, a sample that no seed changes; 0: all.

  Attributes:
    chosen: [n] int64, numbers of the pairs in their split.
    num_batches: of an epoch.
    too_long: pairs cut, or left out.

  Raises:
    InputError: a length or a number of rows out of range, or no pair is left.
  """

  def __init__(
    self,
    pairs: Pairs,
    split: str,
    *,
    lengths: Sequence[int],
    rows: Sequence[int],
    seed: int = 0,
    held_out: bool = False,
    examples: int = 0,
  ):
    check_lengths(lengths)
    if len(rows) != len(lengths) or min(rows) < 1:
      raise InputError(
        f'rows {list(rows)} are not one number >= 1 for each of the lengths '
        f'{list(lengths)}'
      )
    self.lengths, self.rows = tuple(lengths), tuple(rows)
    self.pairs, self.split = pairs, split
    self.seed, self.held_out = seed, held_out
    self._start()
    count = len(self._sides['source'].offsets) - 1
    self.chosen = np.arange(count)
    if 0 < examples < count:
      self.chosen = np.sort(permutation(count, seed=0, epoch=0)[:examples])
    longest = np.max([np.diff(s.offsets) for s in self._sides.values()], 0) + 1
    number = np.searchsorted(lengths, longest[self.chosen])
    self.too_long = int((number == len(lengths)).sum())
    if held_out:
      number = np.minimum(number, len(lengths) - 1)
    if (number == len(lengths)).all():
      raise InputError(
        f'all {count} pairs of {pairs.name}, split {split}, are longer than '
        f'{lengths[-1]} tokens with their EOS; allow longer ones'
      )
    self.members = [np.flatnonzero(number == i) for i in range(len(lengths))]
    # (length, batch of it) of every batch of an epoch.
    self.slots = [
      (i, batch)
      for i, members in enumerate(self.members)
      for batch in range(-(-len(members) // rows[i]))
    ]
    self.num_batches = len(self.slots)
    self.spec = {
      kind_of(length): batch_spec(r, length) for length, r in zip(lengths, rows)
    }

  def _start(self) -> None:
    # Memory maps would be pickled as all that they show.
    self._sides = {side: self.pairs.side(self.split, side) for side in SIDES}
    orders = 2 * (len(self.lengths) + 1)  # a batch ahead may be of a new epoch
    self._order = functools.lru_cache(orders)(self._order_of)

  def _order_of(self, count: int, epoch: int) -> np.ndarray:
    """[count] int64, an order of the members of a length, or of the batches."""
    if self.held_out:
      return np.arange(count)
    return permutation(count, seed=self.seed, epoch=epoch)

  def _at(self, step: int) -> tuple[int, int, int]:
    """Epoch, number of the length, and which of its batches."""
    epoch, at = divmod(step, self.num_batches)
    return epoch, *self.slots[self._order(self.num_batches, epoch)[at]]

  def kind(self, step: int) -> str:
    return kind_of(self.lengths[self._at(step)[1]])

  def batch(self, step: int, rows: slice) -> dict[str, np.ndarray]:
    """Rows `rows` of batch `step`, fewer in the last of a length."""
    epoch, i, batch = self._at(step)
    members = self.members[i]
    order = self._order(len(members), epoch)
    ids = members[order[batch * self.rows[i] :][: self.rows[i]][rows]]
    found = {
      name: padded(side, self.chosen[ids], self.lengths[i])
      for name, side in self._sides.items()
    }
    return {**found, 'id': ids.astype(np.int32)}


def kind_of(length: int) -> str:
  """The step kind of batches of a length: 'train_32'."""
  return f'train_{length}'


def check_lengths(lengths: Sequence[int]) -> None:
  """Raises InputError where lengths are not increasing numbers >= 2."""
  increasing = list(lengths) == sorted(set(lengths))
  if not lengths or min(lengths) < 2 or not increasing:
    raise InputError(
      f'lengths {list(lengths)} must be increasing numbers of tokens, each at '
      'least 2: a token and EOS'
    )


def padded(side: Side, index: np.ndarray, length: int) -> np.ndarray:
  """Texts as [n, length] int32: tokens, cut to leave room for EOS, then PAD."""
  starts = side.offsets[index]
  sizes = np.minimum(side.offsets[index + 1] - starts, length - 1)[:, None]
  column = np.arange(length)
  tokens = side.tokens[starts[:, None] + np.minimum(column, sizes - 1)]
  behind = np.where(column == sizes, EOS, PAD)
  return np.where(column < sizes, tokens, behind).astype(np.int32)
