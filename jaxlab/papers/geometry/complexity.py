"""Rectified-linear complexity of curves and surfaces.

N. Lei, Z. Luo, S.-T. Yau, D. X. Gu. "Geometric Understanding of Deep
Learning". arXiv 1805.10451v2, 2018; sections 3 and 4.

  definition 4.8, linear rectifiable     charts of one arc, surface_direction
  definition 4.10, N(R^n, Σ)             charts: of connected arcs
  theorem 4.12, N(R^n, Σ) <= N(φ)        encodable_necessary
  lemma 4.13, the Gauss map              hemisphere
  theorem 4.14, Peano's curve            hilbert_cells, paper_hilbert_cells
  section 5, the Archimedean spiral      spiral, spiral_charts

An arc is linear rectifiable into R^1 if some u has <u, tangent> > 0 all along
it. That is inherited by its parts, so that the longest arc at a time gives the
least number of connected charts.

Departs from the paper: "a curve of 4^(n+1) units that are not rectifiable has
complexity at least 4^(n+1)" does not follow, since charts need not be
connected and one thin convex cell may cut many units. What is proved instead:
an encoder that is injective on Hilbert's curve of order k, whose U-shaped
units have side s = 2^(1-k), has no convex cell that holds a unit; a convex
body of width w holds a disc of radius w / 3, and a disc of radius √2 s a unit,
so every cell is narrower than 3√2 s; planks that cover the unit square have
widths of sum 1 or more (Bang), so there are more than 1 / (3√2 s) cells. It
grows without end, and so the theorem stands. A number of connected charts
bounds no number of cells: one cell may meet a curve in many arcs.

Lemma 4.13 is sufficient alone. Projection along v immerses a surface if
<v, normal> keeps its sign: a linear program; that no two parts of the image
overlap is a test of its own.
"""

import math
from typing import NamedTuple

import numpy as np
import scipy.optimize

from jaxlab.core.errors import InputError
from jaxlab.papers.geometry import regions

# --- curves ---


def spiral(
  turns: float, points: int, a: float = 1.0, b: float = 0.5, w: float = 1.0
) -> np.ndarray:
  """(a + b θ) e^{i w θ}, θ in [0, turns] in radians: [points, 2]."""
  theta = np.linspace(0, turns, points)
  radius = a + b * theta
  return np.stack(
    [radius * np.cos(w * theta), radius * np.sin(w * theta)], axis=1
  )


def spiral_charts(
  turns: float, a: float = 1.0, b: float = 0.5, w: float = 1.0
) -> int:
  """Least number of connected charts: its tangent turns one way alone."""
  angle = lambda t: w * t + math.atan2(w * (a + b * t), b)
  return math.floor((angle(turns) - angle(0)) / math.pi) + 1


def helix(
  turns: float, points: int, radius: float = 1.0, pitch: float = 0.2
) -> np.ndarray:
  """(r cos θ, r sin θ, pitch θ), θ in [0, turns]: [points, 3]."""
  theta = np.linspace(0, turns, points)
  circle = radius * np.stack([np.cos(theta), np.sin(theta)], 1)
  return np.concatenate([circle, pitch * theta[:, None]], 1)


def hilbert(order: int) -> np.ndarray:
  """Hilbert's curve through the cells of the unit square: [4^order, 2]."""
  _order(order)
  x = y = np.full(1, 0.5)
  for _ in range(order):  # four quarters, the first and the last turned
    x, y = (
      np.concatenate([y, x, x + 1, 2 - y]) / 2,
      np.concatenate([x, y + 1, y + 1, 1 - x]) / 2,
    )
  return np.stack([x, y], 1)


def peano(order: int) -> np.ndarray:
  """Peano's curve through the cells of the unit square: [9^order, 2]."""
  _order(order)
  points = np.zeros((1, 2)) + 0.5
  for _ in range(order):
    parts = []
    for column in range(3):
      rows = range(3) if column % 2 == 0 else range(2, -1, -1)
      for row in rows:
        part = points.copy()
        if column % 2:
          part[:, 1] = 1 - part[:, 1]
        if row % 2:
          part[:, 0] = 1 - part[:, 0]
        parts.append((part + [column, row]) / 3)
    points = np.concatenate(parts)
  return points


def _order(order: int) -> None:
  if not 1 <= order <= 8:
    raise InputError(f'order = {order} must be in [1, 8]')


def charts(points: np.ndarray) -> list[tuple[int, int]]:
  """The fewest connected charts of a polyline.

  Args:
    points: [n >= 2, d], no two neighbours alike.

  Returns:
    (first, last + 1) segment of each chart.

  Raises:
    InputError: other shapes, or neighbours at one place.
  """
  tangents = _tangents(points)
  longest = _longest_plane if tangents.shape[1] == 2 else _longest
  found, start = [], 0
  while start < len(tangents):
    stop = start + longest(tangents[start:])
    found.append((start, stop))
    start = stop
  return found


def _tangents(points) -> np.ndarray:
  points = np.asarray(points, float)
  if points.ndim != 2 or len(points) < 2 or points.shape[1] < 1:
    raise InputError(
      f'points is {list(points.shape)}; give [n, d], two points or more'
    )
  steps = np.diff(points, axis=0)
  length = np.linalg.norm(steps, axis=1)
  if not (length > 0).all():
    raise InputError(
      f'points {int(length.argmin())} and the next are at one place; leave one '
      'of them out'
    )
  return steps / length[:, None]


_ANGLE = 1e-9  # two directions that differ by π less this are opposite


def _longest_plane(tangents: np.ndarray) -> int:
  """Segments from the first on in an open half-plane."""
  angle = np.arctan2(tangents[:, 1], tangents[:, 0])
  turn = np.diff(angle)
  turn -= 2 * np.pi * np.round(turn / (2 * np.pi))
  total = np.concatenate([[0.0], np.cumsum(turn)])
  spread = np.maximum.accumulate(total) - np.minimum.accumulate(total)
  wide = spread >= np.pi - _ANGLE
  return int(wide.argmax()) if wide.any() else len(tangents)


def _longest(tangents: np.ndarray) -> int:
  """The same in any dimension, by linear programs."""
  good, size = 1, 2
  while size <= len(tangents) and _direction(tangents[:size]) is not None:
    good, size = size, 2 * size
  bad = min(size, len(tangents) + 1)
  while bad - good > 1:
    middle = (good + bad) // 2
    if _direction(tangents[:middle]) is not None:
      good = middle
    else:
      bad = middle
  return good


def _direction(vectors: np.ndarray) -> np.ndarray | None:
  """A unit u with <u, v> > 0 for all rows v, the widest; None if there is none.

  Maximises the least <u, v> over a box.
  """
  n, d = vectors.shape
  rows = np.concatenate([-vectors, np.ones((n, 1))], 1)
  cost = np.zeros(d + 1)
  cost[-1] = -1.0
  limits = [(-1.0, 1.0)] * d + [(None, 1.0)]
  found = scipy.optimize.linprog(
    cost, A_ub=rows, b_ub=np.zeros(n), bounds=limits
  )
  if found.status != 0 or found.x[-1] <= _ANGLE:
    return None
  u = found.x[:-1]
  return u / np.linalg.norm(u)


# --- surfaces ---


class Projection(NamedTuple):
  """Whether a projection along a direction is a chart of a whole surface."""

  answer: str  # 'rectifiable', 'not rectifiable', 'open'
  direction: np.ndarray | None  # [3]


def hemisphere(normals: np.ndarray) -> np.ndarray | None:
  """A direction with which all normals [n, 3] make acute angles, or None."""
  return _direction(np.asarray(normals, float))


def surface_direction(vertices: np.ndarray, faces: np.ndarray) -> Projection:
  """Looks for a projection that is a chart of a mesh in R^3.

  No direction: not rectifiable (in one chart). A direction whose image does
  not overlap itself: rectifiable. Else another direction might do: open.

  Args:
    vertices: [n, 3]; faces: [m, 3] int, all oriented alike.

  Raises:
    InputError: a face of area 0, or faces that are not oriented alike.
  """
  vertices, faces = np.asarray(vertices, float), np.asarray(faces)
  normals = face_normals(vertices, faces)
  direction = hemisphere(normals)
  if direction is None:
    return Projection('not rectifiable', None)
  basis = np.linalg.svd(direction[None])[2][1:]
  twice = overlap(vertices[faces] @ basis.T)
  return Projection('open' if twice else 'rectifiable', direction)


def face_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
  """[m, 3] unit normals.

  Raises:
    InputError: as `surface_direction`.
  """
  a, b, c = np.moveaxis(vertices[faces], 1, 0)
  normals = np.cross(b - a, c - a)
  size = np.linalg.norm(normals, axis=1)
  longest = max(np.abs(b - a).max(), np.abs(c - a).max())
  flat = size <= 1e-12 * longest**2
  if flat.any():
    raise InputError(
      f'face {int(flat.argmax())} of the mesh has no area; remove it, or merge '
      'its vertices'
    )
  edges = faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
  kinds, count = np.unique(edges, axis=0, return_counts=True)
  if count.max() > 1:
    one, other = kinds[count.argmax()]
    raise InputError(
      f'the edge from vertex {one} to {other} is in two faces that way round; '
      'orient all faces alike'
    )
  return normals / size[:, None]


def overlap(triangles: np.ndarray) -> bool:
  """Whether the insides of two of the triangles [m, 3, 2] meet.

  True also where two corners of one are at the same place.
  """
  low, high = triangles.min(1), triangles.max(1)
  near = 1e-9 * (high.max() - low.min())
  edges = np.roll(triangles, -1, 1) - triangles
  axes = np.stack([-edges[..., 1], edges[..., 0]], -1)
  length = np.linalg.norm(axes, axis=-1, keepdims=True)
  if not (length > 0).all():
    return True
  axes /= length
  for i in range(len(triangles) - 1):
    box = (low[i + 1 :] < high[i] - near) & (high[i + 1 :] > low[i] + near)
    (j,) = np.nonzero(box.all(1))
    if not len(j):
      continue
    j += i + 1
    both = np.concatenate([np.repeat(axes[i][None], len(j), 0), axes[j]], 1)
    mine = both @ triangles[i].T
    others = np.matmul(both, np.swapaxes(triangles[j], 1, 2))
    apart = np.minimum(mine.max(-1), others.max(-1)) - np.maximum(
      mine.min(-1), others.min(-1)
    )
    if (apart > near).all(1).any():
      return True
  return False


# --- encoders ---


class Manifold(NamedTuple):
  """A curve or surface as `encodable_necessary` takes it."""

  name: str
  dimension: int
  cells: int  # certified: an encoder has at least so many activation cells


def hilbert_cells(order: int) -> int:
  """Least number of cells of an encoder of Hilbert's curve: > 2^{k-1} / 3√2."""
  _order(order)
  return math.isqrt(4 ** (order - 1) // 18) + 1


def paper_hilbert_cells(order: int) -> int:
  """4^{k-1}, what theorem 4.14 says; not proved."""
  return 4 ** (order - 1)


def hilbert_manifold(order: int) -> Manifold:
  """Hilbert's curve with what is certified about it."""
  return Manifold(f'Hilbert {order}', 1, hilbert_cells(order))


def spiral_manifold(turns: float) -> Manifold:
  """The spiral of `spiral`; one cell is not enough for two charts."""
  return Manifold(f'spiral {turns:g}', 1, min(2, spiral_charts(turns)))


def encodable_necessary(net, manifold: Manifold) -> str:
  """Whether a network is too small to encode a manifold (theorem 4.12).

  Args:
    net: widths from input to output, or layers (W, b), whose weights do not
      matter.

  Returns:
    'impossible', or 'not excluded': it may still be impossible.

  Raises:
    InputError: the network's output has another dimension.
  """
  widths = [*net]
  if not isinstance(widths[0], int):
    made = regions.checked_layers(net)
    widths = [len(made[0][0]), *(len(b) for _, b in made)]
  if widths[-1] != manifold.dimension:
    raise InputError(
      f'the encoder has {widths[-1]} outputs, and {manifold.name} has '
      f'dimension {manifold.dimension}; they must be equal'
    )
  most = regions.bounds(widths)['serra18']
  return 'impossible' if manifold.cells > most else 'not excluded'


class Injectivity(NamedTuple):
  """An encoder into R^1 along a polyline."""

  injective: bool
  margin: float  # the least change of the code per length, signed; > 0 if so
  arc: tuple[int, float, float] | None  # segment and times of the first failure


def injective_along(net: regions.Net, points: np.ndarray) -> Injectivity:
  """Whether a trained encoder is strictly monotone along a polyline; exact.

  Args:
    net: layers or a network of `ops.piecewise`, with one output.
    points: [n, d].

  Raises:
    InputError: more outputs than one; bad points.
  """
  points = np.asarray(points, float)
  _tangents(points)
  found = regions.count_segments(net, points[:-1], points[1:])
  code = found.values.reshape(len(found.values), -1)
  if code.shape[1] != 1:
    raise InputError(
      f'the encoder has {code.shape[1]} outputs; injectivity along a curve is '
      'decided for one'
    )
  inner = found.segment[1:] == found.segment[:-1]
  (at,) = np.nonzero(inner)
  length = np.linalg.norm(np.diff(points, axis=0), axis=1)
  change = np.diff(code[:, 0])[at]
  way = 1.0 if code[-1, 0] >= code[0, 0] else -1.0
  span = np.diff(found.times)[at] * length[found.segment[at]]
  slope = way * change / span
  bad = slope <= 0
  if not bad.any():
    return Injectivity(True, float(slope.min()), None)
  k = at[bad.argmax()]
  arc = (
    int(found.segment[k]),
    float(found.times[k]),
    float(found.times[k + 1]),
  )
  return Injectivity(False, float(slope.min()), arc)
