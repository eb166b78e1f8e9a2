"""Semi-discrete problems of optimal transport, and what is exact about them.

E(h), its gradient and its Hessian in the plane, the solution on a line.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse

from jaxlab.core.errors import InputError
from jaxlab.papers.geometry.power_cells import PowerCells, power_cells


@dataclass(frozen=True, eq=False)
class Problem:
  """Uniform on a box to weighted atoms.

  Args:
    atoms: [n, d], inside the box, no two alike. See `rescaled`.
    weights: [n], above 0, of sum 1; default: all alike.
    low, high: the box, numbers or [d].

  Raises:
    InputError: any of this broken.
  """

  atoms: np.ndarray
  weights: Any = None
  low: Any = 0.0
  high: Any = 1.0

  def __post_init__(self):
    atoms = np.asarray(self.atoms, float)
    if atoms.ndim != 2 or not atoms.size:
      raise InputError(f'atoms is {list(atoms.shape)}; give [n, d]')
    if not np.isfinite(atoms).all():
      raise InputError('atoms has a number that is not finite')
    n, d = atoms.shape
    weights = np.full(n, 1 / n) if self.weights is None else self.weights
    weights = np.asarray(weights, float)
    low, high = (
      np.broadcast_to(np.asarray(x, float), d) for x in (self.low, self.high)
    )
    if not (low < high).all():
      raise InputError(f'the box from {low} to {high} is empty')
    if weights.shape != (n,):
      raise InputError(
        f'weights is {list(weights.shape)} for {n} atoms; give [{n}]'
      )
    if not (weights > 0).all():
      i = int((~(weights > 0)).argmax())
      raise InputError(
        f'atom {i} has weight {weights[i]}; leave it out: its cell is empty'
      )
    if abs(weights.sum() - 1) > 1e-9:
      raise InputError(
        f'weights add up to {weights.sum():.9g}; divide them by their sum'
      )
    outside = ((atoms < low) | (atoms > high)).any(1)
    if outside.any():
      raise InputError(
        f'atom {int(outside.argmax())} is outside of the box, as are '
        f'{int(outside.sum())} of {n}; bring them inside with `rescaled`'
      )
    order = np.lexsort(atoms.T)
    same = (np.diff(atoms[order], axis=0) == 0).all(1)
    if same.any():
      at = int(same.argmax())
      i, j = sorted(order[at : at + 2].tolist())
      raise InputError(
        f'atoms {i} and {j} are the same; merge them and add their weights'
      )
    for name, value in (
      ('atoms', atoms),
      ('weights', weights),
      ('low', low),
      ('high', high),
    ):
      object.__setattr__(self, name, value)

  @property
  def voronoi(self) -> np.ndarray:
    """[n], the h whose cells are the Voronoi cells: all hold their atoms."""
    return -(self.atoms**2).sum(1) / 2

  @property
  def outline(self) -> np.ndarray:
    """[4, 2], the corners of a box in the plane."""
    (a, b), (c, d) = self.low, self.high
    return np.array([[a, b], [c, b], [c, d], [a, d]])


class Affine(NamedTuple):
  """z = (y - shift) / scale, one scale for all axes or one for each."""

  shift: np.ndarray
  scale: np.ndarray

  def __call__(self, y):
    return (y - self.shift) / self.scale

  def back(self, z):
    """The inverse."""
    return z * self.scale + self.shift


def rescaled(
  atoms: np.ndarray, margin: float = 0.05, each_axis: bool = False
) -> tuple[np.ndarray, Affine]:
  """Atoms brought into the unit cube, and the map that did it.

  Args:
    margin: left free at each face.
    each_axis: stretches every axis by itself: the map is then optimal for
      another cost.
  """
  low, high = atoms.min(0), atoms.max(0)
  span = high - low
  scale = span if each_axis else np.full_like(span, span.max())
  scale = np.where(scale > 0, scale, 1.0) / (1 - 2 * margin)
  affine = Affine((low + high) / 2 - scale / 2, scale)
  return affine(atoms), affine


def cells(problem: Problem, h: np.ndarray) -> PowerCells:
  """The power cells.

  Raises:
    InputError: d is not 2.
  """
  if problem.atoms.shape[1] != 2:
    raise InputError(
      f'd = {problem.atoms.shape[1]}: exact cells are for the plane; take '
      'Annealed and `certify`'
    )
  return power_cells(problem.atoms, np.asarray(h, float), problem.outline)


def energy(problem: Problem, h: np.ndarray) -> float:
  """E(h), exact in the plane."""
  of = cells(problem, h)
  planes = (of.centroids * problem.atoms).sum(1) + h
  return float(of.masses @ planes - problem.weights @ h)


def gradient(problem: Problem, h: np.ndarray) -> np.ndarray:
  """[n], w - ν, exact in the plane."""
  return cells(problem, h).masses - problem.weights


def hessian(problem: Problem, h: np.ndarray):
  """[n, n] sparse, of E, exact in the plane; its rows add up to 0."""
  return hessian_of(problem, cells(problem, h))


def hessian_of(problem: Problem, of: PowerCells):
  """`hessian` of cells that are known."""
  facets = of.facets.tocoo()
  one, other = facets.coords
  apart = np.linalg.norm(problem.atoms[one] - problem.atoms[other], axis=1)
  n = len(problem.atoms)
  off = scipy.sparse.coo_array(
    (facets.data / apart / of.whole, (one, other)), (n, n)
  ).tocsr()
  return scipy.sparse.diags_array(off.sum(1)) - off


def closed_form_1d(problem: Problem) -> np.ndarray:
  """[n], the solution on an interval, for atoms that rise, in closed form.

  h_{i+1} = h_i - F_i (y_{i+1} - y_i), F_i where the mass of the first i ends.
  """
  y = problem.atoms[:, 0]
  if problem.atoms.shape[1] != 1 or not (np.diff(y) > 0).all():
    raise InputError('the closed form is for rising atoms [n, 1]; sort them')
  low, high = problem.low[0], problem.high[0]
  ends = low + (high - low) * np.cumsum(problem.weights)[:-1]
  return np.concatenate([[0.0], -np.cumsum(ends * np.diff(y))])


# --- potentials of others ---


def to_squared_cost(h: np.ndarray, atoms: np.ndarray) -> np.ndarray:
  """g of OTT and POT, cost |x - y|²."""
  return 2 * np.asarray(h) + (np.asarray(atoms) ** 2).sum(1)


def from_squared_cost(g: np.ndarray, atoms: np.ndarray) -> np.ndarray:
  """h of g, cost |x - y|²."""
  return (np.asarray(g) - (np.asarray(atoms) ** 2).sum(1)) / 2
