"""How far the masses of power cells are from the weights, by samples."""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxlab.papers.geometry import assignment
from jaxlab.papers.geometry.problems import Problem


class Certificate(NamedTuple):
  """How far the cells' masses are from the weights, on samples of their own."""

  samples: int
  relative: float  # rms of w_i / ν_i - 1 under ν, without bias; 0 at worst
  noise: float  # its standard deviation at the solution
  l1: float  # Σ |w_i - ν_i|, with the noise of the samples in it
  worst: float  # max |w_i / ν_i - 1|, likewise
  empty: int  # cells without a sample

  def holds(self, tolerance: float) -> bool:
    """Whether `relative` is at most the tolerance and no cell is empty."""
    return self.relative <= tolerance and not self.empty


def certify(
  problem: Problem,
  h: np.ndarray,
  key: jax.Array,
  samples: int = 1 << 20,
  batch: int = 1 << 14,
  tile: int = 100,
  devices: Mesh | None = None,
) -> Certificate:
  """Relative errors of the masses, by samples that no solver has seen.

  Σ_i (c_i² - c_i) / ν_i over N (N - 1) is 1 + Σ (w_i - ν_i)² / ν_i in the mean.
  """
  count = sampled(problem, h, key, samples, batch, tile, devices)
  return certificate(problem, count)


def certificate(problem: Problem, count: np.ndarray) -> Certificate:
  """The certificate of how many samples fell into each cell."""
  n, total = len(count), int(count.sum())
  c = count.astype(float)
  chi = ((c**2 - c) / problem.weights).sum() / (total * (total - 1.0)) - 1
  share = c / total
  return Certificate(
    samples=total,
    relative=math.sqrt(max(chi, 0.0)),
    noise=math.sqrt(math.sqrt(2 * n) / total),
    l1=float(np.abs(share - problem.weights).sum()),
    worst=float(np.abs(share / problem.weights - 1).max()),
    empty=int((count == 0).sum()),
  )


def sampled(
  problem: Problem,
  h,
  key: jax.Array,
  samples: int,
  batch: int = 1 << 14,
  tile: int = 100,
  devices: Mesh | None = None,
) -> np.ndarray:
  """[n] int64, samples in each cell; whole batches are drawn."""
  atoms, low, high = on_device(problem)
  run = sampler(batch, tile, devices)
  total = np.zeros(len(problem.atoms), np.int64)
  heights = jnp.asarray(np.asarray(h) - np.max(h), jnp.float32)
  for step in range(-(-samples // batch)):
    total += np.asarray(run(key, step, atoms, heights, low, high))
  return total


@partial(jax.jit, static_argnames=('batch', 'tile', 'devices'))
def _counted(key, step, atoms, h, low, high, batch, tile, devices):
  x = assignment.draw(key, step, (atoms.shape[1], batch), low, high, devices)
  return assignment.counts(x, atoms, h, tile, devices)


def sampler(batch, tile, devices):
  """(key, step, atoms, h, low, high) -> [n], a batch counted by cells."""
  return partial(_counted, batch=batch, tile=tile, devices=devices)


def on_device(problem: Problem):
  """Atoms, low and high in float32."""
  of = (problem.atoms, problem.low, problem.high)
  return tuple(jnp.asarray(x, jnp.float32) for x in of)


def transport_map(problem: Problem, h, x: np.ndarray, tile: int = 100):
  """[b] int, T(x) = y_i: the atom to which each sample [b, d] goes."""
  atoms, _, _ = on_device(problem)
  heights = jnp.asarray(np.asarray(h) - np.max(h), jnp.float32)
  run = jax.jit(assignment.best, static_argnames='tile')
  sample = jnp.asarray(x, jnp.float32).T
  return np.asarray(run(sample, atoms, heights, tile=min(tile, len(atoms)))[1])
