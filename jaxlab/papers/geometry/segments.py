"""Linear pieces along segments, layer by layer: exact, float64."""

from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np

from jaxlab.core.errors import InputError
from jaxlab.ops.piecewise import (
  Kink,
  Largest,
  Linear,
  Piecewise,
  apply,
  last_uses,
)
from jaxlab.papers.geometry.networks import TINY, Net, as_net, hash_weights


@dataclass(frozen=True)
class Pieces:
  """The pieces along n segments."""

  linear: np.ndarray  # [n] int64
  activation: np.ndarray  # [n] int64
  segment: np.ndarray  # [k] int64, of each knot, rising
  times: np.ndarray  # [k] in [0, 1], rising in a segment; its ends included
  values: np.ndarray  # [k, …], the map at the knots


class Count(NamedTuple):
  """Pieces of a map along one segment."""

  linear: int  # maximal intervals with one affine map
  activation: int  # maximal intervals with one activation pattern


def count_segment(net: Net, start, end) -> Count:
  """Pieces from `start` [d] to `end` [d]; exact.

  >>> tent = [(np.ones((1, 2)), np.array([0, -.5])),
  ...         (np.array([[2.], [-4]]), np.zeros(1))]
  >>> count_segment(tent, [0.], [1.])
  Count(linear=2, activation=2)
  """
  found = count_segments(net, np.asarray(start)[None], np.asarray(end)[None])
  return Count(int(found.linear[0]), int(found.activation[0]))


def count_segments(net: Net, starts, ends) -> Pieces:
  """Pieces along segments, layer by layer.

  Keeps the values of all units at the knots found so far, between which they
  are linear. A layer adds a knot wherever one of its units changes sign.

  Args:
    net: layers, or a network of `ops.piecewise`.
    starts, ends: [n, *shape of the network's input].

  Raises:
    InputError: other shapes, numbers that are not finite, a segment of length
      0.
  """
  net = as_net(net)
  starts, ends = np.asarray(starts, float), np.asarray(ends, float)
  for name, given in (('starts', starts), ('ends', ends)):
    if given.shape != (len(starts), *net.shape):
      raise InputError(
        f'{name} is {list(given.shape)}, and the network reads '
        f'{list(net.shape)}: give [n, {", ".join(map(str, net.shape))}]'
      )
    if not np.isfinite(given).all():
      raise InputError(f'{name} has a number that is not finite')
  flat = (starts == ends).reshape(len(starts), -1).all(1)
  if flat.any():
    raise InputError(
      f'segment {int(flat.argmax())} starts where it ends; give two points'
    )
  parts = [
    _pieces(net, starts[i : i + _LINES], ends[i : i + _LINES])
    for i in range(0, len(starts), _LINES)
  ]
  for number, part in enumerate(parts):
    part.segment[:] += number * _LINES
  names = [field.name for field in fields(Pieces)]
  join = lambda name: np.concatenate([getattr(part, name) for part in parts])
  return Pieces(**{name: join(name) for name in names})


_LINES = 16  # at once: their arrays stay in the cache


class _Knots:
  """Knots of some segments with the values of live registers."""

  def __init__(self, starts, ends):
    n = len(starts)
    self.line = np.repeat(np.arange(n), 2)
    self.time = np.tile([0.0, 1.0], n)
    ends = np.stack([starts, ends], 1)
    self.values = {0: ends.reshape(2 * n, *starts.shape[1:])}
    self.pattern = np.zeros(2 * n)  # of the interval after each knot

  def cut(self, difference: np.ndarray) -> np.ndarray:
    """Inserts the zeros of linear functions; returns these at all knots."""
    flat = difference.reshape(len(difference), -1)
    rising = flat > 0
    crossing = rising[1:] != rising[:-1]
    crossing &= (self.line[1:] == self.line[:-1])[:, None]
    at, unit = np.nonzero(crossing)
    low = flat[at, unit]
    share = low / (low - flat[at + 1, unit])
    real = (share > TINY) & (share < 1 - TINY)
    at, unit, share = at[real], unit[real], share[real]
    order = np.lexsort([share, at])
    at, unit, share = at[order], unit[order], share[order]
    new = at + 1 + np.arange(len(at))
    old = np.ones(len(flat) + len(at), bool)
    old[new] = False

    def insert(array, blend=True):
      grown = np.empty((len(old), *array.shape[1:]), array.dtype)
      grown[old] = array
      left = array[at]
      if blend:
        w = share.reshape(-1, *[1] * (array.ndim - 1))
        left = left + w * (array[at + 1] - left)
      grown[new] = left
      return grown

    self.line = insert(self.line, False)
    self.pattern = insert(self.pattern, False)
    self.time = insert(self.time)
    self.values = {key: insert(x) for key, x in self.values.items()}
    flat = insert(flat)
    flat[new, unit] = 0.0
    return flat.reshape(-1, *difference.shape[1:])


_BEST = -1  # the register of the largest option so far


def _pieces(net: Piecewise, starts, ends) -> Pieces:
  knots = _Knots(starts, ends)
  pooled = any(isinstance(step, Largest) for step in net.steps)
  for number, (step, dead) in enumerate(zip(net.steps, last_uses(net))):
    live = knots.values
    if isinstance(step, Linear):
      live[step.out] = apply(step, live)
    elif isinstance(step, Kink):
      z = live.pop(step.of) if step.of in dead else live[step.of]
      z = knots.cut(z)
      knots.values[step.out] = np.where(z > 0, z, step.slope * z)
      if pooled:
        _hash(knots, number, z[:-1] + z[1:] > 0)
    else:
      live[_BEST] = live[step.options[0]]
      for option in step.options[1:]:
        difference = knots.cut(live[option] - live[_BEST])
        live = knots.values
        live[_BEST] = live[_BEST] + np.maximum(difference, 0)
      options = np.stack([live[i][:-1] + live[i][1:] for i in step.options])
      _hash(knots, number, options.argmax(0))
      live[step.out] = live.pop(_BEST)
    for register in dead:
      knots.values.pop(register, None)
  return _counted(knots, knots.values[net.result], len(starts), pooled)


def _hash(knots: _Knots, number: int, choice: np.ndarray) -> None:
  choice = choice.reshape(len(choice), -1)
  knots.pattern[:-1] += choice.astype(float) @ hash_weights(
    number, choice.shape[1], 1
  ).reshape(-1)


def _counted(knots: _Knots, values, lines: int, pooled: bool) -> Pieces:
  inner = knots.line[1:] == knots.line[:-1]
  apart = np.diff(knots.time) > TINY
  kept = np.r_[True, ~inner | apart]  # of knots at one place the first
  # … but the end of a segment, which the last of them is.
  ends = np.r_[~inner, True]
  kept |= ends
  kept[:-1] &= ~(inner & ~apart & ends[1:] & ~np.r_[True, ~inner][:-1])
  pattern = knots.pattern
  if pooled:  # the interval after the last of them
    group = np.cumsum(kept) - 1
    last = np.zeros(kept.sum(), int)
    last[group] = np.arange(len(kept))
    pattern = pattern[last]
  else:
    pattern = pattern[kept]
  line, time, y = knots.line[kept], knots.time[kept], values[kept]
  flat = y.reshape(len(y), -1)
  middle = line[2:] == line[:-2]  # knots between two of their segment
  a, b, c = flat[:-2], flat[1:-1], flat[2:]
  span = np.where(middle, time[2:] - time[:-2], 1.0)
  share = (time[1:-1] - time[:-2]) / span
  off = np.abs(a + share[:, None] * (c - a) - b).max(1)
  scale = np.zeros(lines)
  np.maximum.at(scale, line, np.abs(flat).max(1))
  bends = middle & (off > 1e-13 * scale[line[1:-1]])
  linear = 1 + np.bincount(line[1:-1][bends], minlength=lines)
  changes = middle
  if pooled:
    changes = middle & (pattern[1:-1] != pattern[:-2])
  activation = 1 + np.bincount(line[1:-1][changes], minlength=lines)
  return Pieces(linear, activation, line, time, y)
