"""Drawings for `space.page.figure`: cells, power diagrams, maps, meshes."""

from collections.abc import Callable
from typing import Any

import numpy as np

from jaxlab.papers.geometry.extension import Extended
from jaxlab.papers.geometry.power_cells import PowerCells
from jaxlab.papers.geometry.regions import Slice

Draw = Callable[[Any], None]  # of matplotlib axes


def _colours(count: int) -> np.ndarray:
  """[count, 3], pale, the same in every run."""
  return 0.45 + 0.5 * np.random.default_rng(0).uniform(size=(count, 3))


def cells(
  of: Slice, curve: np.ndarray | None = None, other: np.ndarray | None = None
) -> Draw:
  """Linear regions by colour, cells by their edges; curves above them."""
  from matplotlib.collections import PolyCollection

  plane = of.polygons + of.origin.reshape(-1) @ of.basis.reshape(2, -1).T

  def draw(axes):
    colour = _colours(int(of.components.max()) + 1)[of.components]
    found = PolyCollection(
      [*plane], facecolors=colour, edgecolors='k', linewidths=0.15
    )
    axes.add_collection(found)
    if curve is not None:
      axes.plot(*curve.T, 'k', lw=1.5)
    if other is not None:
      axes.plot(*other.T, 'w--', lw=1)
    low, high = plane.min((0, 1)), plane.max((0, 1))
    axes.set_xlim(low[0], high[0])
    axes.set_ylim(low[1], high[1])
    axes.set_aspect('equal')

  return draw


def power(of: PowerCells, atoms: np.ndarray) -> Draw:
  """Power cells and their atoms."""
  from matplotlib.collections import PolyCollection

  def draw(axes):
    found = PolyCollection(
      [*of.polygons],
      facecolors=_colours(len(atoms)),
      edgecolors='k',
      linewidths=0.3,
    )
    axes.add_collection(found)
    axes.plot(*atoms.T, 'k.', markersize=2)
    axes.autoscale_view()
    axes.set_aspect('equal')

  return draw


def mapped(z: np.ndarray, of: Extended, atoms: np.ndarray) -> Draw:
  """Samples, where they go, and those that are dropped."""

  def draw(axes):
    some = np.flatnonzero(of.kept)[:400]
    lines = np.stack([z[some], of.points[some]], 1)
    for start, end in lines:
      axes.plot(*zip(start, end), '0.8', lw=0.4, zorder=0)
    axes.plot(*of.points[of.kept].T, '.', color='C0', markersize=2)
    axes.plot(*atoms.T, 'k.', markersize=2)
    axes.plot(*z[~of.kept].T, '.', color='C3', markersize=2)
    axes.set_aspect('equal')

  return draw


def mesh(points: np.ndarray, faces: np.ndarray, values: np.ndarray) -> Draw:
  """A mesh in the plane, its faces coloured by a value of their corners."""

  def draw(axes):
    shade = values[faces].mean(1)
    axes.tripcolor(*points.T, faces, facecolors=shade, edgecolors='k', lw=0.2)
    axes.set_aspect('equal')

  return draw
