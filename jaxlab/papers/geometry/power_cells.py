"""Power diagrams in the plane, exact, in NumPy float64.

W_i(h) = {x in Ω: i = argmax <x, y_i> + h_i} (section 5's u_h = max of planes).
The neighbours come of the convex hull of (y_i, -h_i); each cell is cut out
of Ω by the half-planes of its neighbours, all cells at once.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse
from scipy.spatial import ConvexHull, QhullError

from jaxlab.ops import polygons as polygon


@dataclass(frozen=True, eq=False)
class PowerCells:
  """The cells of n atoms."""

  polygons: np.ndarray  # [n, v, 2], of `ops.polygons`; an empty one: area 0
  labels: np.ndarray  # [n, v] int64: 1 + neighbour across an edge, 0: Ω's edge
  whole: float  # the area of Ω

  @cached_property
  def masses(self) -> np.ndarray:
    """[n], w_i = area / area of Ω."""
    return polygon.areas(self.polygons) / self.whole

  @cached_property
  def centroids(self) -> np.ndarray:
    """[n, 2], mass centres."""
    return polygon.centroids(self.polygons)

  @cached_property
  def facets(self) -> scipy.sparse.csr_array:
    """[n, n], lengths of common edges."""
    length = polygon.edge_lengths(self.polygons)
    one, k = np.nonzero((self.labels > 0) & (length > 0))
    other = self.labels[one, k] - 1
    n = len(self.polygons)
    found = scipy.sparse.coo_array((length[one, k], (one, other)), (n, n))
    return ((found + found.T) / 2).tocsr()


def power_cells(
  atoms: np.ndarray, h: np.ndarray, outline: np.ndarray
) -> PowerCells:
  """The power cells of atoms [n, 2] with potentials h [n] in Ω.

  Args:
    outline: [v, 2], the corners of convex Ω, counter-clockwise.
  """
  n = len(atoms)
  one, other = _neighbours(atoms, h)
  polygons = np.repeat(outline[None], n, 0).astype(float)
  labels = np.zeros(polygons.shape[:2], np.int64)
  count = np.bincount(one, minlength=n)
  first = np.concatenate([[0], np.cumsum(count)])[:-1]
  for turn in range(count.max(initial=0)):
    (rows,) = np.nonzero(count > turn)
    of = other[first[rows] + turn]
    value = (polygons[rows] * (atoms[rows] - atoms[of])[:, None]).sum(-1)
    value += (h[rows] - h[of])[:, None]
    cut, names = polygon.clip(polygons[rows], value, labels[rows], of + 1)
    wide = max(cut.shape[1], polygons.shape[1])
    polygons, labels = (polygon.padded(x, wide) for x in (polygons, labels))
    polygons[rows] = polygon.padded(cut, wide)
    labels[rows] = polygon.padded(names, wide)
  if n > 1:
    polygons[count == 0] = outline[0]  # under the others' planes everywhere
  whole = float(polygon.areas(np.asarray(outline, float)[None])[0])
  return PowerCells(polygons, labels, whole)


def _neighbours(atoms: np.ndarray, h: np.ndarray):
  """Pairs of neighbours, both ways round, sorted by the first."""
  n = len(atoms)
  try:
    hull = ConvexHull(np.c_[atoms, -h])
  except (QhullError, ValueError):  # few atoms, on a line, or of one plane
    one, other = np.nonzero(~np.eye(n, dtype=bool))
    return one, other
  lower = hull.simplices[hull.equations[:, 2] < 0]
  pairs = lower[:, [0, 1, 1, 2, 2, 0, 1, 0, 2, 1, 0, 2]].reshape(-1, 2)
  pairs = np.unique(pairs, axis=0)
  return pairs[:, 0], pairs[:, 1]
