"""Convex polygons in the plane, many at a time, in NumPy float64.

Polygons are [r, v, 2], counter-clockwise. One with fewer corners than v
repeats its last one, so that all have edges of length 0 and no counts. Edge k
goes from corner k to the next; `labels` [r, v] int64 say what it lies on.
"""

import numpy as np


def areas(polygons: np.ndarray) -> np.ndarray:
  """[r], by the shoelace formula about the first corner."""
  x, y = np.moveaxis(polygons - polygons[:, :1], -1, 0)
  return (x * _next(y) - _next(x) * y).sum(1) / 2


def centroids(polygons: np.ndarray) -> np.ndarray:
  """[r, 2] centres of mass; the mean corner where the area is 0."""
  first = polygons[:, :1]
  x, y = np.moveaxis(polygons - first, -1, 0)
  cross = x * _next(y) - _next(x) * y
  total = 3 * cross.sum(1)
  flat = np.abs(total) <= 1e-300
  scale = 1 / np.where(flat, 1.0, total)
  found = np.stack(
    [((x + _next(x)) * cross).sum(1), ((y + _next(y)) * cross).sum(1)], -1
  )
  mean = (polygons - first).mean(1)
  return first[:, 0] + np.where(flat[:, None], mean, found * scale[:, None])


def edge_lengths(polygons: np.ndarray) -> np.ndarray:
  """[r, v]."""
  return np.linalg.norm(np.roll(polygons, -1, 1) - polygons, axis=-1)


def clip(
  polygons: np.ndarray, values: np.ndarray, labels: np.ndarray, new: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """The part of each polygon where an affine function is not negative.

  Args:
    polygons: [r, v, 2].
    values: [r, v], the function at the corners.
    labels: [r, v], of the edges.
    new: [r] int64, the labels of the edges that are cut.

  Returns:
    Polygons [r, w, 2] and labels [r, w]. One of which nothing is left is the
    first corner alone: its area is 0.
  """
  inside, after = values >= 0, _next(values)
  crossing = inside != (after >= 0)
  share = values / np.where(crossing, values - after, 1.0)
  cut = polygons + share[..., None] * (np.roll(polygons, -1, 1) - polygons)
  rows, v = values.shape
  corners = np.stack([polygons, cut], 2).reshape(rows, 2 * v, 2)
  # A corner keeps its edge; where the boundary is left, the cut begins.
  begins = np.where(inside, new[:, None], labels)
  names = np.stack([labels, begins], 2).reshape(rows, 2 * v)
  again = np.zeros_like(inside)  # the repeated last corner
  again[:, 1:] = (polygons[:, 1:] == polygons[:, :-1]).all(-1)
  again[:, 1:] &= labels[:, 1:] == labels[:, :-1]
  kept = np.stack([inside & ~again, crossing], 2).reshape(rows, 2 * v)
  count = np.maximum(kept.sum(1), 1)
  order = np.argsort(~kept, axis=1, kind='stable')[:, : count.max()]
  last = np.minimum(np.arange(order.shape[1]), count[:, None] - 1)
  order = np.take_along_axis(order, last, 1)
  return (
    np.take_along_axis(corners, order[..., None], 1),
    np.take_along_axis(names, order, 1),
  )


def padded(array: np.ndarray, width: int) -> np.ndarray:
  """[r, v, …] -> [r, width, …], the last entry repeated."""
  short = width - array.shape[1]
  if short <= 0:
    return array
  return np.concatenate([array, np.repeat(array[:, -1:], short, 1)], 1)


def _next(values: np.ndarray) -> np.ndarray:
  return np.roll(values, -1, 1)
