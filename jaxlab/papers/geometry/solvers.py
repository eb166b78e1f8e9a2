"""Solvers of semi-discrete optimal transport, and what they leave."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse.linalg
from jax import lax
from jax.sharding import Mesh

from jaxlab.core.errors import InputError
from jaxlab.papers.geometry import assignment
from jaxlab.papers.geometry.certificates import certify, on_device, sampler
from jaxlab.papers.geometry.problems import (
  Problem,
  cells,
  hessian_of,
  to_squared_cost,
)


@dataclass(frozen=True, eq=False)
class Output:
  """What a solver leaves."""

  potentials: np.ndarray  # [n] float64, of mean 0
  masses: np.ndarray | None  # [n], exact; None where they are not known
  converged: bool | None  # None: ask `certify`
  steps: int
  samples: int
  errors: list[float] = field(default_factory=list)  # max |w - ν| by step

  @property
  def squared_cost(self) -> Callable[[np.ndarray], np.ndarray]:
    """atoms -> g, the potential for the cost |x - y|²."""
    return lambda atoms: to_squared_cost(self.potentials, atoms)


@dataclass(frozen=True)
class Newton:
  """Damped Newton with exact cells; d = 2.

  Steps are halved until no cell is smaller than half of the least one at
  first, and the error falls.
  """

  tolerance: float = 1e-12  # of max |w - ν|
  steps: int = 50

  def __call__(self, problem: Problem, h: np.ndarray | None = None) -> Output:
    """Solves the problem.

    Raises:
      InputError: a cell is empty at the start, or d is not 2.
    """
    h = problem.voronoi if h is None else np.asarray(h, float)
    of = cells(problem, h)
    if not (of.masses > 0).all():
      empty = np.nonzero(~(of.masses > 0))[0]
      raise InputError(
        f'{len(empty)} cells are empty at the start, that of atom {empty[0]} '
        'first; start from problem.voronoi, atoms inside of the box'
      )
    least = min(of.masses.min(), problem.weights.min()) / 2
    rest = of.masses - problem.weights
    errors = [float(np.abs(rest).max())]
    while errors[-1] > self.tolerance and len(errors) <= self.steps:
      found = self._step(problem, h, of, rest, least)
      if found is None:
        break
      h, of = found
      rest = of.masses - problem.weights
      errors.append(float(np.abs(rest).max()))
    done = errors[-1] <= self.tolerance
    steps = len(errors) - 1
    return Output(h - h.mean(), of.masses, done, steps, 0, errors)

  def _step(self, problem, h, of, rest, least):
    matrix = hessian_of(problem, of).tocsc()[1:, 1:]
    change = np.zeros_like(h)
    if len(h) > 1:
      change[1:] = scipy.sparse.linalg.spsolve(matrix, -rest[1:])
    size, share = np.linalg.norm(rest), 1.0
    while share > 1e-8:
      tried = cells(problem, h + share * change)
      left = np.linalg.norm(tried.masses - problem.weights)
      if tried.masses.min() >= least and left <= (1 - share / 2) * size:
        return h + share * change, tried
      share /= 2
    return None


@dataclass(frozen=True)
class Annealed:
  """Averaged SGD on the softmax of ε_t = epsilon / √t, rates rate / t^(2/3).

  Both are in units of the box's squared side; the defaults are for few atoms
  in the unit square.
  """

  steps: int = 8000
  batch: int = 16
  rate: float = 1.0
  epsilon: float = 0.01
  tile: int = 100
  seed: int = 0

  def __call__(self, problem: Problem, h: np.ndarray | None = None) -> Output:
    """Solves the problem as far as the steps go; ask `certify`."""
    start = problem.voronoi if h is None else np.asarray(h, float)
    given = jnp.asarray(start - start.mean(), jnp.float32)
    weights = jnp.asarray(problem.weights, jnp.float32)
    key = jax.random.key(self.seed)
    _, mean = _annealed(
      replace(self, seed=0), key, *on_device(problem), weights, given
    )
    found = np.asarray(mean, float)
    samples = self.steps * self.batch
    return Output(found - found.mean(), None, None, self.steps, samples)


@partial(jax.jit, static_argnums=0)
def _annealed(of: Annealed, key, atoms, low, high, weights, start):
  tile = min(of.tile, len(atoms))

  def body(carry, step):
    h, mean = carry
    t = step.astype(jnp.float32) + 1
    x = assignment.draw(key, step, (atoms.shape[1], of.batch), low, high)
    epsilon = of.epsilon / jnp.sqrt(t)
    mass = assignment.shares(x, atoms, h, epsilon, tile) / of.batch
    h = h - of.rate / t ** (2 / 3) * (mass - weights)
    return (h, mean + (h - mean) / t), None

  steps = jnp.arange(of.steps)
  return lax.scan(body, (start, start), steps)[0]


@dataclass(frozen=True)
class AdamDoubling:
  """Adam on hard cells; the batch doubles when it does not get better.

  Stops at a relative error (`Certificate.relative`), measured on samples of
  its own whenever the batch doubles.
  """

  rate: float = 0.01
  batch: int = 4096  # samples at once; a step takes 1, 2, 4, … of them
  patience: int = 30  # steps without a smaller error
  tolerance: float = 0.1
  samples: int = 20_000_000  # at most
  check: int = 1 << 18  # samples of a certificate
  decay: float = 0.5  # of the rate at each doubling
  b1: float = 0.9
  b2: float = 0.999
  tile: int = 100
  seed: int = 0
  devices: Mesh | None = None

  def __call__(
    self,
    problem: Problem,
    start: np.ndarray | None = None,
    say: Callable[[str], None] = lambda text: None,
  ) -> Output:
    """Solves the problem.

    Args:
      say: takes a line at each doubling.
    """
    first = problem.voronoi if start is None else np.asarray(start, float)
    h = jnp.asarray(first - first.mean(), jnp.float32)
    atoms, low, high = on_device(problem)
    weights = jnp.asarray(problem.weights, jnp.float32)
    draws, checks = jax.random.split(jax.random.key(self.seed))
    run = sampler(self.batch, min(self.tile, len(atoms)), self.devices)
    moments = jnp.zeros_like(h), jnp.zeros_like(h)
    parts, rate, steps, used = 1, self.rate, 0, 0
    drawn, lowest, since, errors = 0, math.inf, 0, []
    while used < self.samples:
      count = jnp.zeros(len(atoms), jnp.int32)
      for _ in range(parts):
        count += run(draws, drawn, atoms, h, low, high)
        drawn += 1
      size = parts * self.batch
      used, steps = used + size, steps + 1
      h, moments, error = adam_step(
        h, moments, count, weights, size, rate, steps, self.b1, self.b2
      )
      error = float(error)
      since = 0 if error < lowest else since + 1
      lowest = min(lowest, error)
      if since <= self.patience:
        continue
      parts, rate = 2 * parts, rate * self.decay
      lowest, since = math.inf, 0
      known = certify(
        problem,
        h,
        jax.random.fold_in(checks, steps),
        self.check,
        self.batch,
        min(self.tile, len(atoms)),
        self.devices,
      )
      errors.append(known.relative)
      say(
        f'{used:,} samples, relative error {known.relative:.3g} ± '
        f'{known.noise:.2g}, {known.empty} cells empty; batch {size * 2:,}'
      )
      if known.holds(self.tolerance):
        break
    done = bool(errors) and known.holds(self.tolerance)
    found = np.asarray(h, float)
    return Output(found - found.mean(), None, done, steps, used, errors)


@partial(jax.jit, static_argnames=('b1', 'b2'))
def adam_step(h, moments, count, weights, size, rate, step, b1, b2):
  """(h, moments, ‖w - ν‖) after a step of Adam on counted samples."""
  slope = count / size - weights
  first = b1 * moments[0] + (1 - b1) * slope
  second = b2 * moments[1] + (1 - b2) * slope**2
  unbiased = jnp.sqrt(second / (1 - b2**step)) + 1e-12
  h = h - rate * first / (1 - b1**step) / unbiased
  return h - h.mean(), (first, second), jnp.linalg.norm(slope)


Solver = Callable[[Problem], Output]


def solve(problem: Problem, solver: Solver | None = None) -> Output:
  """Solves a problem; default: Newton in the plane, else AdamDoubling.

  >>> found = solve(Problem(np.array([[.25, .5], [.75, .5]])))
  >>> found.masses.tolist()
  [0.5, 0.5]
  """
  if solver is None:
    solver = Newton() if problem.atoms.shape[1] == 2 else AdamDoubling()
  return solver(problem)
