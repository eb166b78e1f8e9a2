"""Linear regions of piecewise linear networks, counted exactly; and bounds.

N. Lei, Z. Luo, S.-T. Yau, D. X. Gu. "Geometric Understanding of Deep
Learning". arXiv 1805.10451v2, 2018; section 4. (The journal paper of this
title, Engineering 6(3), 2020, has other theorems.)

  definition 4.2, N(φ): maximal connected sets with one affine map   .linear
  definition 4.7, D(φ): sets of one activation pattern             .activation
  along a segment                     count_segment, count_segments, march
  on a plane                          slice_polygons
  in a box of the whole space         enumerate_cells
  lemma 4.4, theorem 4.5, and bounds of others                     bounds

Only cells of full dimension count. Several units that are dead behind a bend
make .activation the larger of the two counts. For max pooling the pattern is
the place of the maximum. All is float64.

Departs from the paper: the product of theorem 4.5 counts the last, linear
layer, and takes each layer's width where the running minimum of the widths is
enough; `bounds` has it as it is printed beside tighter ones.

G. Montúfar, R. Pascanu, K. Cho, Y. Bengio, NeurIPS 2014 (a lower bound); G.
Montúfar, SampTA 2017; T. Serra, C. Tjandraatmadja, S. Ramalingam, ICML 2018;
B. Hanin, D. Rolnick, ICML 2019.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cache, cached_property, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
import scipy.sparse
from jax import lax

from jaxlab.engine.errors import InputError
from jaxlab.ops import polygons as polygon
from jaxlab.ops.piecewise import (
  Kink,
  Largest,
  Linear,
  Piecewise,
  Step,
  apply,
  last_uses,
)

Layers = Sequence[tuple[Any, Any]]  # (W [in, out], b [out]), ReLU between
Net = Layers | Piecewise

_TINY = 1e-12  # relative to what is cut: closer is the same place
_FLAT = 1e-10  # relative: two affine maps that differ less are one


def _as_net(net: Net) -> Piecewise:
  return net if isinstance(net, Piecewise) else dense(net)


def dense(layers: Sequence[tuple[Any, Any]]) -> Piecewise:
  """ReLU between dense layers, none after the last.

  Args:
    layers: (W [in, out], b [out]) of each.

  Raises:
    InputError: shapes that do not fit, or numbers that are not finite.
  """
  made = checked_layers(layers)
  steps: list[Step] = []
  register = 0
  for i, (weight, bias) in enumerate(made):
    affine = lambda x, w=weight, b=bias: x @ w + b
    steps.append(Linear(register + 1, (register,), affine))
    register += 1
    if i < len(made) - 1:
      steps.append(Kink(register + 1, register))
      register += 1
  return Piecewise(tuple(steps), register, (len(made[0][0]),))


def checked_layers(layers) -> list[tuple[np.ndarray, np.ndarray]]:
  """The layers in float64.

  Raises:
    InputError: as `dense`.
  """
  if not layers:
    raise InputError('layers is empty: give (W [in, out], b [out]) of each')
  made = [
    (np.asarray(w, np.float64), np.asarray(b, np.float64)) for w, b in layers
  ]
  width = len(made[0][0])
  for i, (weight, bias) in enumerate(made):
    want = (width, len(bias)) if bias.ndim == 1 else ()
    if weight.shape != want:
      raise InputError(
        f'layer {i} has W {list(weight.shape)} and b {list(bias.shape)} after '
        f'{width} units; give W [in, out] and b [out]'
      )
    if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
      raise InputError(f'layer {i} has weights that are not finite')
    width = len(bias)
  return made


# --- along segments ---


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
  net = _as_net(net)
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
    real = (share > _TINY) & (share < 1 - _TINY)
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
  knots.pattern[:-1] += choice.astype(float) @ _weights(
    number, choice.shape[1], 1
  ).reshape(-1)


@cache
def _weights(number: int, units: int, columns: int) -> np.ndarray:
  """[units, columns] whole numbers whose sums float64 holds exactly."""
  rng = np.random.default_rng([number, units])
  return rng.integers(1, 2**38, (units, columns)).astype(np.float64)


def _counted(knots: _Knots, values, lines: int, pooled: bool) -> Pieces:
  inner = knots.line[1:] == knots.line[:-1]
  apart = np.diff(knots.time) > _TINY
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


class March(NamedTuple):
  """What `march` finds along one segment; K is its capacity."""

  times: jax.Array  # [K], where a unit changes sign, rising; inf when unused
  slopes: jax.Array  # [K + 1, out], of the piece before each, then of the last
  events: jax.Array  # () int32, sign changes, also at one place
  pieces: jax.Array  # () int32, pieces of positive length
  overflow: jax.Array  # () bool: the buffer was full, the rest means nothing


def march(layers, start: jax.Array, end: jax.Array, capacity: int) -> March:
  """Pieces of the activation pattern from one sign change to the next.

  Along the segment each pre-activation is affine, given the signs so far: two
  forward passes find its slope and offset, the earliest root is the next
  event, and flips one sign. Signs that change at one place do so one by one.
  `jax.vmap` it over segments; precision is that of the arrays given.

  Args:
    layers: (W, b) of each.
    start, end: [d]; capacity: of sign changes.
  """
  shift = end - start
  precise = partial(jnp.matmul, precision=lax.Precision.HIGHEST)

  def passed(signs, first):
    """Slopes and offsets of all layers; `first` makes signs as it goes."""
    slope, offset, found, made = shift, start, [], []
    for i, (weight, bias) in enumerate(layers):
      slope, offset = precise(slope, weight), precise(offset, weight) + bias
      found.append((slope, offset))
      if i < len(layers) - 1:
        sign = (
          (offset > 0) | ((offset == 0) & (slope > 0)) if first else signs[i]
        )
        made.append(sign)
        slope, offset = jnp.where(sign, slope, 0), jnp.where(sign, offset, 0)
    return found, made

  _, signs = passed(None, True)
  sizes = [s.shape[0] for s in signs]
  limits = np.cumsum([0, *sizes])
  outputs = layers[-1][1].shape[0]

  class Carry(NamedTuple):
    at: jax.Array
    events: jax.Array
    pieces: jax.Array
    done: jax.Array
    signs: Any
    times: jax.Array
    slopes: jax.Array

  def body(c: Carry) -> Carry:
    found, _ = passed(c.signs, False)
    slope = jnp.concatenate([s for s, _ in found[:-1]])
    offset = jnp.concatenate([o for _, o in found[:-1]])
    on = jnp.concatenate(c.signs)
    leaves = jnp.where(on, slope < 0, slope > 0)
    root = -offset / jnp.where(leaves, slope, 1)
    root = jnp.where(leaves, jnp.maximum(root, c.at), jnp.inf)
    unit = root.argmin()
    when = root[unit]
    done = when >= 1
    index = jnp.where(done, c.events, jnp.minimum(c.events, capacity))
    slopes = c.slopes.at[jnp.minimum(c.events, capacity)].set(found[-1][0])
    flipped = [
      s ^ ((jnp.arange(n) + low == unit) & ~done)
      for s, n, low in zip(c.signs, sizes, limits)
    ]
    times = c.times.at[index].set(jnp.where(done, jnp.inf, when), mode='drop')
    longer = jnp.where(done, 1.0, when) - c.at > _TINY
    return Carry(
      jnp.where(done, c.at, when),
      c.events + ~done,
      c.pieces + longer,
      done,
      flipped,
      times,
      slopes,
    )

  zero = jnp.zeros((), jnp.int32)
  dtype = shift.dtype
  carry = lax.while_loop(
    lambda c: ~c.done & (c.events <= capacity),
    body,
    Carry(
      jnp.zeros((), dtype),
      zero,
      zero,
      jnp.zeros((), bool),
      signs,
      jnp.full(capacity, jnp.inf, dtype),
      jnp.zeros((capacity + 1, outputs), dtype),
    ),
  )
  return March(
    carry.times, carry.slopes, carry.events, carry.pieces, ~carry.done
  )


@partial(jax.jit, static_argnames='capacity')
def _march_all(layers, starts, ends, capacity):
  each = lambda start, end: march(layers, start, end, capacity)
  return jax.vmap(each)(starts, ends)


def march_segments(layers: Layers, starts, ends, capacity: int) -> March:
  """`march` over segments in float64, host arrays with a leading axis.

  Raises:
    InputError: a buffer was full; bad layers.
  """
  made = checked_layers(layers)
  with jax.enable_x64(True):
    given = (jnp.asarray(x, jnp.float64) for x in (starts, ends))
    on_device = [(jnp.asarray(w), jnp.asarray(b)) for w, b in made]
    found = jax.device_get(_march_all(on_device, *given, capacity))
  if found.overflow.any():
    raise InputError(
      f'segment {int(found.overflow.argmax())} has more than capacity = '
      f'{capacity} sign changes: raise it; there is no count'
    )
  return found


# --- on a plane ---


@dataclass(frozen=True, eq=False)
class Slice:
  """The cells of a network on a convex polygon of a plane.

  A point of the plane is origin + u @ basis, u in R^2; polygons are in u, and
  the basis is orthonormal, so that lengths are those of the space.
  """

  polygons: np.ndarray  # [r, v, 2], of `ops.polygons`
  patterns: np.ndarray  # [r, 2], equal for cells of one activation pattern
  maps: np.ndarray  # [r, out, 3]: offset, and slopes along the basis
  origin: np.ndarray  # of the network's input
  basis: np.ndarray  # [2, *shape]
  labels: np.ndarray  # [r, v], of edges: two neighbours have the same
  lines: np.ndarray  # [labels, 2], the direction of each

  @cached_property
  def areas(self) -> np.ndarray:
    """[r]."""
    return polygon.areas(self.polygons)

  @property
  def activation(self) -> int:
    """Cells of one activation pattern each (definition 4.7)."""
    return len(np.unique(self.patterns, axis=0))

  @cached_property
  def linear(self) -> int:
    """Maximal connected sets with one affine map (definition 4.2)."""
    return int(self.components.max()) + 1

  @cached_property
  def components(self) -> np.ndarray:
    """[r], which linear region each cell belongs to."""
    one, other = self.neighbours().T
    scale = np.abs(self.maps).max() or 1.0
    apart = np.abs(self.maps[one] - self.maps[other]).max((1, 2))
    same = apart <= _FLAT * scale
    r = len(self.polygons)
    graph = scipy.sparse.coo_array(
      (np.ones(same.sum(), bool), (one[same], other[same])), shape=(r, r)
    )
    return scipy.sparse.csgraph.connected_components(graph, directed=False)[1]

  def neighbours(self) -> np.ndarray:
    """[pairs, 2] cells that share more than a point."""
    length = polygon.edge_lengths(self.polygons)
    size = math.sqrt(self.areas.sum())
    cell, k = np.nonzero((length > _TINY * size) & (self.labels != 0))
    label = self.labels[cell, k]
    line, side = np.abs(label), label > 0
    a = self.polygons[cell, k]
    b = np.roll(self.polygons, -1, 1)[cell, k]
    along = self.lines[line]
    low, high = (a * along).sum(1), (b * along).sum(1)
    low, high = np.minimum(low, high), np.maximum(low, high)
    # One axis for all lines, on which they do not meet.
    floor = low.min(initial=0.0)
    step = 2 * (high.max(initial=0.0) - floor) + size
    low, high = (line * step + x - floor for x in (low, high))
    order = np.argsort(low)
    first, second = order[side[order]], order[~side[order]]
    ends = np.sort(np.r_[low, high])
    middle = (ends[1:] + ends[:-1])[np.diff(ends) > _TINY * size] / 2
    pairs = []
    for edges in (first, second):
      place = np.searchsorted(low[edges], middle) - 1
      inside = (place >= 0) & (high[edges[place]] > middle)
      pairs.append(np.where(inside, cell[edges[place]], -1))
    both = np.stack(pairs, 1)
    return np.unique(both[(both >= 0).all(1)], axis=0)


class _Cells(NamedTuple):
  """Some cells on their way through the network."""

  polygons: np.ndarray
  labels: np.ndarray
  patterns: np.ndarray
  registers: dict[int, np.ndarray]  # [r, 3, …] at u = 0, (size, 0), (0, size)

  def take(self, rows) -> '_Cells':
    registers = {key: x[rows] for key, x in self.registers.items()}
    polygons, labels = self.polygons[rows], self.labels[rows]
    return _Cells(polygons, labels, self.patterns[rows], registers)


def slice_polygons(net: Net, corners) -> Slice:
  """The cells of a network on a convex polygon of a plane.

  Args:
    net: layers, or a network of `ops.piecewise`.
    corners: [m >= 3, *shape of the network's input], the polygon's, in order;
      all in one plane.

  Raises:
    InputError: other shapes, corners of no plane or not convex.
  """
  net = _as_net(net)
  origin, basis, outline = _plane(net, corners)
  size = np.abs(outline).max()
  at = np.array([[0, 0], [size, 0], [0, size]])
  points = origin + np.tensordot(at, basis, 1)
  labels = np.zeros((1, len(outline)), np.int64)
  start = _Cells(outline[None], labels, np.zeros((1, 2)), {0: points[None]})
  lines: list[np.ndarray] = [np.zeros((1, 2))]
  found = [*_subdivided(net, start, size, lines)]
  width = max(cells.polygons.shape[1] for cells in found)
  join = lambda parts: np.concatenate([polygon.padded(x, width) for x in parts])
  patterns = np.concatenate([cells.patterns for cells in found])
  out = np.concatenate([cells.registers[net.result] for cells in found])
  maps = _coefficients(out.reshape(*out.shape[:2], -1), size)
  return Slice(
    join(cells.polygons for cells in found),
    patterns,
    np.moveaxis(maps, 1, -1),
    origin,
    basis,
    join(cells.labels for cells in found),
    np.concatenate(lines),
  )


def _plane(net: Piecewise, corners):
  corners = np.asarray(corners, float)
  if corners.ndim != len(net.shape) + 1 or corners.shape[1:] != net.shape:
    raise InputError(
      f'corners is {list(corners.shape)}, and the network reads '
      f'{list(net.shape)}: give [3 or more, …]'
    )
  if len(corners) < 3 or not np.isfinite(corners).all():
    raise InputError(f'{len(corners)} finite corners; give three or more')
  flat = corners.reshape(len(corners), -1)
  shifts = flat - flat[0]
  first = shifts[1] / (np.linalg.norm(shifts[1]) or 1.0)
  second = shifts - np.outer(shifts @ first, first)
  second = second[np.linalg.norm(second, axis=1).argmax()]
  long = np.linalg.norm(shifts, axis=1).max()
  height = np.linalg.norm(second)
  if height <= _FLAT * long:
    raise InputError('the corners lie on one line; give a polygon of a plane')
  if net.shape == (2,):  # the plane itself, as it is
    basis = np.eye(2)
  else:
    basis = np.stack([first, second / height])
  outline = shifts @ basis.T
  if np.abs(outline @ basis - shifts).max() > _FLAT * long:
    raise InputError('the corners are of no common plane; leave three of them')
  if polygon.areas(outline[None])[0] < 0:
    outline = outline[::-1]
  edges = np.roll(outline, -1, 0) - outline
  after = np.roll(edges, -1, 0)
  turns = edges[:, 0] * after[:, 1] - edges[:, 1] * after[:, 0]
  if turns.min() < -_FLAT * long**2:
    raise InputError('the corners make no convex polygon; give them in order')
  return corners[0], basis.reshape(2, *net.shape), outline


def _coefficients(values: np.ndarray, size: float) -> np.ndarray:
  """[r, 3, units] at three points -> offset and two slopes."""
  offset = values[:, :1]
  return np.concatenate([offset, (values[:, 1:] - offset) / size], 1)


def _subdivided(
  net: Piecewise, start: _Cells, size: float, lines: list
) -> Iterator[_Cells]:
  """The cells, in parts: so many at a time that their arrays stay small."""
  dead = last_uses(net)
  waiting = [(0, start)]
  while waiting:
    index, cells = waiting.pop()
    if index == len(net.steps):
      yield cells
      continue
    step, live = net.steps[index], cells.registers
    units = max(x[0, 0].size for x in live.values())
    most = max(64, _NUMBERS // units)
    if len(cells.polygons) > most and not isinstance(step, Linear):
      rows = range(0, len(cells.polygons), most)
      waiting += [(index, cells.take(slice(i, i + most))) for i in rows]
      continue
    if isinstance(step, Linear):
      arrays = (live[i] for i in step.inputs)
      flat = [x.reshape(-1, *x.shape[2:]) for x in arrays]
      made = step.map(*flat)
      live[step.out] = made.reshape(-1, 3, *made.shape[1:])
    elif isinstance(step, Kink):
      cells, on = _cut(cells, live[step.of], size, lines)
      z = cells.registers[step.of]
      cells.registers[step.out] = np.where(on[:, None], z, step.slope * z)
      cells = _marked(cells, index, on)
    else:
      cells = _largest(cells, step, index, size, lines)
    for register in dead[index]:
      cells.registers.pop(register, None)
    waiting.append((index + 1, cells))


_NUMBERS = 300_000  # units x cells at once


def _largest(cells: _Cells, step: Largest, index: int, size, lines) -> _Cells:
  winner, best = -2, _BEST  # registers of their own
  live = cells.registers
  live[best] = live[step.options[0]]
  live[winner] = np.zeros_like(live[best][:, :1])
  for number, option in enumerate(step.options[1:], 1):
    gap = cells.registers[option] - cells.registers[best]
    cells, on = _cut(cells, gap, size, lines)
    on, live = on[:, None], cells.registers
    live[best] = np.where(on, live[option], live[best])
    live[winner] = np.where(on, number, live[winner])
  live[step.out] = live.pop(best)
  return _marked(cells, index, live.pop(winner)[:, 0])


def _marked(cells: _Cells, index: int, choice: np.ndarray) -> _Cells:
  flat = choice.reshape(len(choice), -1).astype(float)
  new = flat @ _weights(index, flat.shape[1], 2)
  return cells._replace(patterns=cells.patterns + new)


def _cut(cells: _Cells, values, size: float, lines: list):
  """The cells cut where a unit is 0, and [r, …] where units are above 0."""
  shape = values.shape[2:]
  coefficients = _coefficients(values.reshape(*values.shape[:2], -1), size)
  offset, slopes = coefficients[:, 0], coefficients[:, 1:]
  near = np.abs(offset) + size * np.abs(slopes).sum(1)
  near *= _TINY
  cut = _crossed(cells.polygons, offset, slopes, near)
  times = cut.sum(1)
  units = np.argsort(~cut, axis=1, kind='stable')[:, : times.max()]
  polygons, labels = cells.polygons, cells.labels
  parent, done = np.arange(len(polygons)), []
  # In each round every cell is cut by the next unit that cuts its parent.
  for turn in range(units.shape[1]):
    left = times[parent] > turn
    done.append((polygons[~left], labels[~left], parent[~left]))
    polygons, labels, parent = polygons[left], labels[left], parent[left]
    unit = units[parent, turn]
    slope = slopes[parent, :, unit]
    value = (polygons * slope[:, None]).sum(-1)
    value += offset[parent, unit][:, None]
    limit = near[parent, unit]
    two = (value.min(1) < -limit) & (value.max(1) > limit)
    if not two.any():
      continue
    turned = np.stack([-slope[two, 1], slope[two, 0]], 1)
    new = sum(map(len, lines)) + np.arange(len(turned))
    lines.append(turned / np.linalg.norm(turned, axis=1, keepdims=True))
    sides = [
      polygon.clip(polygons[two], side * value[two], labels[two], side * new)
      for side in (1, -1)
    ]
    parts = [(polygons[~two], labels[~two]), *sides]
    wide = max(of.shape[1] for of, _ in parts)
    polygons, labels = (
      np.concatenate([polygon.padded(part[i], wide) for part in parts])
      for i in (0, 1)
    )
    parent = np.concatenate([parent[~two], parent[two], parent[two]])
  done.append((polygons, labels, parent))
  wide = max(of.shape[1] for of, *_ in done)
  polygons, labels = (
    np.concatenate([polygon.padded(part[i], wide) for part in done])
    for i in (0, 1)
  )
  parent = np.concatenate([part[2] for part in done])
  centre = polygon.centroids(polygons)
  value = offset[parent]
  for axis in (0, 1):
    value += centre[:, axis : axis + 1] * slopes[parent, axis]
  registers = {key: x[parent] for key, x in cells.registers.items()}
  found = _Cells(polygons, labels, cells.patterns[parent], registers)
  return found, (value > 0).reshape(-1, *shape)


def _crossed(polygons, offset, slopes, near) -> np.ndarray:
  """[r, units], whether a unit is 0 inside a cell."""
  low = np.full(offset.shape, np.inf)
  high = -low
  for corner in np.moveaxis(polygons, 1, 0):
    value = offset + corner[:, :1] * slopes[:, 0]
    value += corner[:, 1:] * slopes[:, 1]
    np.minimum(low, value, out=low)
    np.maximum(high, value, out=high)
  return (low < -near) & (high > near)


# --- in the whole space ---


@dataclass(frozen=True)
class Cells:
  """Activation patterns that have a cell of full dimension."""

  patterns: np.ndarray  # [n, hidden units] bool
  complete: bool  # False: stopped, there may be more

  @property
  def count(self) -> int:
    """How many.

    Raises:
      InputError: the enumeration is not complete.
    """
    if not self.complete:
      raise InputError(
        f'{self}: time or room was up; raise `seconds` or `most` for a count'
      )
    return len(self.patterns)

  def __str__(self):
    return f'{"" if self.complete else "≥ "}{len(self.patterns)} cells'


def enumerate_cells(
  layers: Layers,
  low,
  high,
  seconds: float = 60.0,
  most: int = 10_000,
  margin: float = 1e-7,
) -> Cells:
  """The cells of a small network in a box, by mixed-integer programs.

  Each program finds the pattern, not found before, whose units can be the
  farthest from 0 at one point. Hundreds of cells are many.

  Args:
    low, high: [d], the box.
    seconds: for each program; most: cells. Beyond either it stops with what
      it has.
    margin: a cell must have a point at which all units that can be 0 are
      farther from it.

  Raises:
    InputError: bad layers or box.
  """
  made = checked_layers(layers)
  low, high = np.asarray(low, float), np.asarray(high, float)
  d = len(made[0][0])
  if low.shape != (d,) or high.shape != (d,) or not (low < high).all():
    raise InputError(
      f'the box [{low.tolist()}, {high.tolist()}] is none of R^{d}: give low '
      'and high [d] with low < high'
    )
  program = _Program(made[:-1], low, high)
  found: list[np.ndarray] = []
  while len(found) < most:
    answer = program.next(found, seconds)
    if answer.status == _INFEASIBLE:
      return program.cells(found, True)
    if answer.status != 0:
      break
    if answer.x[-1] <= margin:
      return program.cells(found, True)
    found.append(answer.x[program.binary] > 0.5)
  return program.cells(found, False)


_INFEASIBLE = 2  # status of scipy.optimize.milp; 0 is optimal


class _Program:
  """max f over x, h, h', z, f: W h + b = h - h', 0 <= h <= M z, …"""

  def __init__(self, hidden, low, high):
    d, units = len(low), sum(len(b) for _, b in hidden)
    total = d + 3 * units + 1
    plus, minus, binary = (np.arange(units) + d + k * units for k in range(3))
    rows, lower, upper = [], [], []

    def add(entries, least, most):
      row = np.zeros(total)
      for index, value in entries:
        row[index] += value
      rows.append(row)
      lower.append(least)
      upper.append(most)

    bounds_low, bounds_high = low, high
    source, unit = np.arange(d), 0
    limits = np.zeros((2, total))
    limits[0, :d], limits[1, :d] = low, high
    for weight, bias in hidden:
      positive, negative = np.maximum(weight, 0), np.minimum(weight, 0)
      top = bounds_high @ positive + bounds_low @ negative + bias
      bottom = bounds_low @ positive + bounds_high @ negative + bias
      for j in range(len(bias)):
        p, m, z = plus[unit], minus[unit], binary[unit]
        most, least = max(top[j], 1e-6), max(-bottom[j], 1e-6)
        entries = [(source, weight[:, j]), (p, -1.0), (m, 1.0)]
        add(entries, -bias[j], -bias[j])
        add([(p, 1.0), (z, -most)], -np.inf, 0.0)
        add([(m, 1.0), (z, least)], -np.inf, least)
        if bottom[j] < 0 < top[j]:  # f <= h where on, f <= h' where off
          reach = most + least
          add([(total - 1, 1.0), (p, -1.0), (z, reach)], -np.inf, reach)
          add([(total - 1, 1.0), (m, -1.0), (z, -reach)], -np.inf, 0.0)
        limits[1, [p, m]] = most, least
        limits[:, z] = bottom[j] >= 0 and top[j] > 0, top[j] > 0
        unit += 1
      source = plus[unit - len(bias) : unit]
      bounds_low, bounds_high = np.maximum(bottom, 0), np.maximum(top, 0)
    limits[1, -1] = limits[1, d:-1].max(initial=1.0)
    self.binary, self.units = binary, units
    self.rows, self.lower, self.upper = np.array(rows), lower, upper
    self.bounds = scipy.optimize.Bounds(*limits)
    self.cost = np.zeros(total)
    self.cost[-1] = -1.0
    self.whole = np.zeros(total)
    self.whole[binary] = 1

  def next(self, found, seconds):
    """The program without the patterns found."""
    rules = [scipy.optimize.LinearConstraint(self.rows, self.lower, self.upper)]
    if found:
      seen = np.array(found)
      cuts = np.zeros((len(seen), len(self.cost)))
      cuts[:, self.binary] = np.where(seen, -1.0, 1.0)
      least = 1.0 - seen.sum(1)
      rules.append(scipy.optimize.LinearConstraint(cuts, least, np.inf))
    return scipy.optimize.milp(
      self.cost,
      integrality=self.whole,
      bounds=self.bounds,
      constraints=rules,
      options={'time_limit': seconds},
    )

  def cells(self, found, complete):
    return Cells(np.array(found, bool).reshape(-1, self.units), complete)


# --- bounds ---


def bounds(widths: Sequence[int]) -> dict[str, int]:
  """Bounds on the largest number of linear regions, as Python ints.

  Args:
    widths: of the input, the hidden layers and the output.

  Returns:
    paper             theorem 4.5 as printed: Π C(w_{i-1}, w_i), all layers
    paper_hidden      the same over hidden layers, which alone bend
    montufar17        Π Σ_{j <= d_l} binom(n_l, j), d_l the least width before
    serra18           the tightest here; exact for one input
    montufar14_lower  that some network of these widths has
    hanin_rolnick     (units)^d / d!, rounded up: an average at and near
      initialisation, with their constant T as 1. An order of magnitude, not a
      bound, and reported, unverified.

  Raises:
    InputError: fewer than three widths, or one below 1.
  """
  widths = [int(w) for w in widths]
  if len(widths) < 3 or min(widths) < 1:
    raise InputError(
      f'widths = {widths}: give input, hidden and output, each at least 1'
    )
  first, hidden = widths[0], widths[1:-1]
  parts = [parts_of(d, n) for d, n in itertools.pairwise(widths)]
  least = [min(widths[: i + 1]) for i in range(len(hidden))]
  tight = [parts_of(d, n) for d, n in zip(least, hidden)]

  @cache
  def serra(layer: int, dimension: int) -> int:
    if layer == len(hidden):
      return 1
    n = hidden[layer]
    return sum(
      math.comb(n, j) * serra(layer + 1, min(dimension, n - j))
      for j in range(min(dimension, n) + 1)
    )

  folds = math.prod((n // first) ** first for n in hidden[:-1])
  power, factor = sum(hidden) ** first, math.factorial(first)
  return {
    'paper': math.prod(parts),
    'paper_hidden': math.prod(parts[:-1]),
    'montufar17': math.prod(tight),
    'serra18': serra(0, first),
    'montufar14_lower': folds * parts_of(first, hidden[-1]),
    'hanin_rolnick': -(-power // factor),
  }


def parts_of(d: int, n: int) -> int:
  """Lemma 4.4: most parts of R^d that n hyperplanes cut."""
  return sum(math.comb(n, j) for j in range(d + 1))
