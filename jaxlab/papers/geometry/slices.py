"""Linear regions on a plane, as polygons: exact, float64."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import scipy.sparse.csgraph

from jaxlab.core.errors import InputError
from jaxlab.ops import polygons as polygon
from jaxlab.ops.piecewise import Kink, Largest, Linear, Piecewise, last_uses
from jaxlab.papers.geometry.networks import (
  FLAT,
  TINY,
  Net,
  as_net,
  hash_weights,
)

_BEST = -1  # the register of the largest option so far


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
    same = apart <= FLAT * scale
    r = len(self.polygons)
    graph = scipy.sparse.coo_array(
      (np.ones(same.sum(), bool), (one[same], other[same])), shape=(r, r)
    )
    return scipy.sparse.csgraph.connected_components(graph, directed=False)[1]

  def neighbours(self) -> np.ndarray:
    """[pairs, 2] cells that share more than a point."""
    length = polygon.edge_lengths(self.polygons)
    size = math.sqrt(self.areas.sum())
    cell, k = np.nonzero((length > TINY * size) & (self.labels != 0))
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
    middle = (ends[1:] + ends[:-1])[np.diff(ends) > TINY * size] / 2
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
  net = as_net(net)
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
  if height <= FLAT * long:
    raise InputError('the corners lie on one line; give a polygon of a plane')
  if net.shape == (2,):  # the plane itself, as it is
    basis = np.eye(2)
  else:
    basis = np.stack([first, second / height])
  outline = shifts @ basis.T
  if np.abs(outline @ basis - shifts).max() > FLAT * long:
    raise InputError('the corners are of no common plane; leave three of them')
  if polygon.areas(outline[None])[0] < 0:
    outline = outline[::-1]
  edges = np.roll(outline, -1, 0) - outline
  after = np.roll(edges, -1, 0)
  turns = edges[:, 0] * after[:, 1] - edges[:, 1] * after[:, 0]
  if turns.min() < -FLAT * long**2:
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
  new = flat @ hash_weights(index, flat.shape[1], 2)
  return cells._replace(patterns=cells.patterns + new)


def _cut(cells: _Cells, values, size: float, lines: list):
  """The cells cut where a unit is 0, and [r, …] where units are above 0."""
  shape = values.shape[2:]
  coefficients = _coefficients(values.reshape(*values.shape[:2], -1), size)
  offset, slopes = coefficients[:, 0], coefficients[:, 1:]
  near = np.abs(offset) + size * np.abs(slopes).sum(1)
  near *= TINY
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
