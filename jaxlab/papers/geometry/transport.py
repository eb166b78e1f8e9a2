"""Semi-discrete optimal transport: problem, solver, output.

N. Lei, Z. Luo, S.-T. Yau, D. X. Gu. "Geometric Understanding of Deep
Learning". arXiv 1805.10451v2, 2018; section 5. D. An, Y. Guo, N. Lei, Z. Luo,
S.-T. Yau, X. Gu. "AE-OT: A New Generative Model Based on Extended Semi-discrete
Optimal Transport". ICLR 2020.

μ is uniform on a box Ω, atoms y_i have weights ν_i.

  Brenier's potential u_h(x) = max_i <x, y_i> + h_i        assignment.best
  power cells W_i, exact in the plane                      power_cells
  E(h) = ∫ u_h dμ - Σ ν_i h_i, convex                      energy
  ∂E/∂h_i = μ(W_i) - ν_i                                   gradient
  ∂w_i/∂h_j = -|W_i ∩ W_j| / (|y_i - y_j| |Ω|)             hessian
  damped Newton in the plane                               Newton
  averaged SGD under an ε that falls                       Annealed
  AE-OT, algorithm 1: Adam, batch doubling                 AdamDoubling
  AE-OT, algorithm 2: the extended map                     extension

Departs from the paper: algorithm 1 stops by ‖w - ν‖, which at many atoms is
small everywhere (‖ν‖ = 1/√n): here by relative errors, on samples of their own
(`certify`). It starts from h = 0, which leaves cells empty; here from
-|y|² / 2, the Voronoi cells. Samples are drawn anew in every step.

Potentials of others: cost |x - y|² / 2 has ψ = h + |y|² / 2, cost |x - y|²
(OTT, POT) g = 2 h + |y|².
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse.linalg
from jax import lax
from jax.sharding import Mesh

from jaxlab.engine.errors import InputError
from jaxlab.papers.geometry import assignment
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


# --- exact, in the plane ---


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
  return _hessian(problem, cells(problem, h))


def _hessian(problem: Problem, of: PowerCells):
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


# --- output and certificate ---


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
  atoms, low, high = _device(problem)
  run = _sampler(batch, tile, devices)
  total = np.zeros(len(problem.atoms), np.int64)
  heights = jnp.asarray(np.asarray(h) - np.max(h), jnp.float32)
  for step in range(-(-samples // batch)):
    total += np.asarray(run(key, step, atoms, heights, low, high))
  return total


@partial(jax.jit, static_argnames=('batch', 'tile', 'devices'))
def _counted(key, step, atoms, h, low, high, batch, tile, devices):
  x = assignment.draw(key, step, (atoms.shape[1], batch), low, high, devices)
  return assignment.counts(x, atoms, h, tile, devices)


def _sampler(batch, tile, devices):
  return partial(_counted, batch=batch, tile=tile, devices=devices)


def _device(problem: Problem):
  of = (problem.atoms, problem.low, problem.high)
  return tuple(jnp.asarray(x, jnp.float32) for x in of)


# --- solvers ---


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
    matrix = _hessian(problem, of).tocsc()[1:, 1:]
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
      replace(self, seed=0), key, *_device(problem), weights, given
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
    atoms, low, high = _device(problem)
    weights = jnp.asarray(problem.weights, jnp.float32)
    draws, checks = jax.random.split(jax.random.key(self.seed))
    run = _sampler(self.batch, min(self.tile, len(atoms)), self.devices)
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
      h, moments, error = _adam(
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
def _adam(h, moments, count, weights, size, rate, step, b1, b2):
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


def transport_map(problem: Problem, h, x: np.ndarray, tile: int = 100):
  """[b] int, T(x) = y_i: the atom to which each sample [b, d] goes."""
  atoms, _, _ = _device(problem)
  heights = jnp.asarray(np.asarray(h) - np.max(h), jnp.float32)
  run = jax.jit(assignment.best, static_argnames='tile')
  sample = jnp.asarray(x, jnp.float32).T
  return np.asarray(run(sample, atoms, heights, tile=min(tile, len(atoms)))[1])


# --- potentials of others ---


def to_squared_cost(h: np.ndarray, atoms: np.ndarray) -> np.ndarray:
  """g of OTT and POT, cost |x - y|²."""
  return 2 * np.asarray(h) + (np.asarray(atoms) ** 2).sum(1)


def from_squared_cost(g: np.ndarray, atoms: np.ndarray) -> np.ndarray:
  """h of g, cost |x - y|²."""
  return (np.asarray(g) - (np.asarray(atoms) ** 2).sum(1)) / 2
