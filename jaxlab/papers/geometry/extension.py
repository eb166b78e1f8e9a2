"""AE-OT's extended map: points between atoms, none across a singular set.

D. An, Y. Guo, N. Lei, Z. Luo, S.-T. Yau, X. Gu. "AE-OT: A New Generative Model
Based on Extended Semi-discrete Optimal Transport". ICLR 2020, algorithm 2 (from
memory; its loop as in the authors' code, which mixes two atoms alone).

  ĉ_i, the mass centres of the cells                    mass_centres
  the d + 1 nearest centres of x                        nearest
  cos θ_ik = <(y_i0, -1), (y_ik, -1)> / (norms)         angles
  x is dropped if only i_0 has θ <= θ̂                   extend
  T̃(x) = Σ λ_k y_ik, λ_k ∝ 1 / |x - ĉ_ik|               extend

θ has the units of the atoms: θ̂ is best given as a quantile of the angles that
occur. What is dropped changes the law of what is left: report its share.
"""

from typing import NamedTuple

import jax
import numpy as np

from jaxlab.core.errors import InputError
from jaxlab.papers.geometry import assignment
from jaxlab.papers.geometry.certificates import on_device
from jaxlab.papers.geometry.problems import Problem, cells


class Centres(NamedTuple):
  """Mass centres of the cells that have one."""

  points: np.ndarray  # [m, d]
  atoms: np.ndarray  # [m] int, whose they are
  empty: int  # cells without a sample, which have none


def mass_centres(
  problem: Problem,
  h: np.ndarray,
  key: jax.Array,
  samples: int = 1 << 20,
  batch: int = 4096,
  tile: int = 100,
  allow_empty: bool = False,
) -> Centres:
  """Means of the samples in each cell; exact in the plane.

  Args:
    allow_empty: leaves out atoms whose cells got no sample.

  Raises:
    InputError: a cell got no sample.
  """
  n, d = problem.atoms.shape
  if d == 2:
    of = cells(problem, h)
    count = (of.masses > 0).astype(float)
    total = of.centroids * count[:, None]
  else:
    total, count = np.zeros((n, d)), np.zeros(n)
    atoms, low, high = on_device(problem)
    heights = np.float32(np.asarray(h) - np.max(h))
    draw = jax.jit(assignment.draw, static_argnames='shape')
    best = jax.jit(assignment.best, static_argnames='tile')
    for step in range(-(-samples // batch)):
      x = draw(key, step, (d, batch), low, high)
      index = np.asarray(best(x, atoms, heights, tile=min(tile, n))[1])
      x = np.asarray(x, float)
      count += np.bincount(index, minlength=n)
      for axis in range(d):
        total[:, axis] += np.bincount(index, x[axis], n)
  empty = np.nonzero(count == 0)[0]
  if len(empty) and not allow_empty:
    raise InputError(
      f'{len(empty)} cells are empty, that of atom {empty[0]} first: solve '
      'further, draw more samples, or leave their atoms out (allow_empty)'
    )
  (kept,) = np.nonzero(count)
  return Centres(total[kept] / count[kept, None], kept, len(empty))


def nearest(points: np.ndarray, centres: np.ndarray, k: int, block: int = 512):
  """The k nearest of centres [m, d] to points [b, d], nearest first.

  Returns:
    Indices [b, k] and distances [b, k].
  """
  squares = (centres**2).sum(1)
  found = []
  for start in range(0, len(points), block):
    x = points[start : start + block]
    score = squares - 2 * x @ centres.T
    index = np.argpartition(score, min(k, score.shape[1] - 1), 1)[:, :k]
    near = np.linalg.norm(x[:, None] - centres[index], axis=-1)
    order = np.argsort(near, axis=1, kind='stable')
    found.append(
      (np.take_along_axis(index, order, 1), np.take_along_axis(near, order, 1))
    )
  return tuple(np.concatenate(x) for x in zip(*found))


def angles(atoms: np.ndarray) -> np.ndarray:
  """[b, k - 1], dihedral angles of planes k = 1, … with plane 0, in radians.

  Args:
    atoms: [b, k, d], the slopes of the planes.
  """
  lifted = np.concatenate([atoms, -np.ones((*atoms.shape[:2], 1))], -1)
  lifted /= np.linalg.norm(lifted, axis=-1, keepdims=True)
  # From the chord: the arc cosine would lose small angles.
  chord = np.linalg.norm(lifted[:, 1:] - lifted[:, :1], axis=-1)
  return 2 * np.arcsin(np.minimum(chord / 2, 1.0))


class Extended(NamedTuple):
  """T̃ at some samples."""

  points: np.ndarray  # [b, d]; of a dropped sample its nearest atom
  kept: np.ndarray  # [b] bool, False on the singular set
  nearest: np.ndarray  # [b] int, the atom of the nearest centre
  angles: np.ndarray  # [b, k - 1]


def extend(
  problem: Problem,
  centres: Centres,
  x: np.ndarray,
  threshold: float,
  k: int | None = None,
) -> Extended:
  """The extended map.

  Args:
    x: [b, d] samples of the source.
    threshold: θ̂ in radians; inf keeps and mixes everything.
    k: centres to be mixed; default: d + 1.
  """
  d = problem.atoms.shape[1]
  k = min(d + 1 if k is None else k, len(centres.points))
  if k < 2:
    raise InputError(f'{k} cells cannot be mixed; two or more are needed')
  index, distance = nearest(np.asarray(x, float), centres.points, k)
  atoms = problem.atoms[centres.atoms[index]]
  angle = angles(atoms)
  close = np.concatenate([np.ones((len(x), 1), bool), angle <= threshold], 1)
  weight = np.where(close, 1 / np.maximum(distance, 1e-12), 0.0)
  weight /= weight.sum(1, keepdims=True)
  points = (weight[..., None] * atoms).sum(1)
  kept = np.asarray(close[:, 1:].any(1))
  return Extended(points, kept, centres.atoms[index[:, 0]], angle)


def threshold_at(extended: Extended, quantile: float) -> float:
  """The quantile of the angles that occurred, of the nearest pair of each."""
  return float(np.quantile(extended.angles[:, 0], quantile))
