"""The convergence theorems, measured on a layered non-convex problem.

The citation is in method.py. The theorems (reported, unverified: recalled, and
without their constants) are for T steps with batches of b = T examples, no
momentum, no decay and φ between two bounds. The gradient of layer i of h is
L_i-Lipschitz with variance σ_i²; Δ is f(x_1) - min f; x_a is an iterate drawn
at random; d is the number of weights:

  SGD           E‖∇f(x_a)‖²              = O((Δ max L + ‖σ‖²) / T)
  LARS          (E Σ_i ‖∇_i f(x_a)‖)² / h = O((Δ mean L + ‖σ‖_1² / h) / T)
  LAMB, b2 = 0  (E ‖∇f(x_a)‖_1)² / d      = as LARS
  LAMB, b2 > 0  E‖∇f(x_a)‖²              = O(1 / √T)

The left-hand sides differ: on the same iterates SGD's is the largest of the
first three. So (E‖∇f(x_a)‖)² is measured too, of all, at the theorems' rates
and at rates tuned on other seeds with as many trials for each optimizer.

Our constants, in `bound`: a step s changes f by at most Σ_i (<∇_i f, s_i> +
L_i ‖s_i‖² / 2). With rate 1 / max L this is -‖∇f‖² / (2 max L) for SGD, plus
the noise's share. A layer of LARS moves by η along -u = -g / ‖g‖, and
<∇_i f, u> >= ‖∇_i f‖ - 2 ‖g - ∇_i f‖; an entry of LAMB moves by η / √width
along a sign, with the like for absolute values. Sum over the steps, take means,
choose η: `step_size`.

Not here: coupled layers. The theorems' assumption, read literally (∇_i f moves
with x_i alone), rules them out. Nor the weights' norms: φ is 1. A batch is one
draw, since the mean of Gaussian errors is Gaussian.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxlab.core import keys
from jaxlab.ops.intervals import student_t
from jaxlab.papers.lamb import method

# optimizer -> the measure that its theorem bounds
OWN = {
  'sgd': 'square',
  'lars': 'layers',
  'lamb': 'entries',
  'lamb_b2': 'square',
}
# optimizer -> that measure's exponents in the theorem: of T; of max L, mean L
THEOREM = {
  'sgd': ('-1', '1, 0'),
  'lars': ('-1', '0, 1'),
  'lamb': ('-1', '0, 1'),
  'lamb_b2': ('-1/2', '–'),
}
ALIKE = ('energy', 'radius')
_PHI = (1.0, 1.0)


class Problem(NamedTuple):
  """f(x) = Σ_i w_i mean_j g((Q_i x_i)_j / r_i); one row of x is one layer."""

  smoothness: jax.Array  # [h] float32, L_i
  weight: jax.Array  # [h] float32, w_i > 0 with sum 1
  radius: jax.Array  # [h] float32, r_i = √(w_i / (width L_i))
  rotation: jax.Array  # [h, width, width] float32, orthogonal Q_i


def curve(z: jax.Array) -> jax.Array:
  """g(z) = z² / (2 + 2 z²), elementwise; in [0, 1/2).

  g'' = (1 - 3 z²) / (1 + z²)³ is 1 at 0, lies in [-1/4, 1] and is negative
  where |z| > 1 / √3. So the Hessian of layer i, w_i / (width r_i²) Q_iᵀ
  diag(g'') Q_i, has norm L_i at 0, at most L_i elsewhere, and f is not convex.
  """
  return z * z / (2 + 2 * z * z)


def spectra(layers: int, spread: float, top: float) -> dict[str, np.ndarray]:
  """Smoothness of the layers, [h] float64; in each max / min is `spread`.

  few: one layer at `top`, the others at top / spread. many: one layer at
  top / spread, the others at `top`. even: equal ratios between neighbours.
  These have one maximum; even_low and many_low have the mean of few.
  """
  few, many = np.full(layers, top / spread), np.full(layers, float(top))
  few[0], many[-1] = top, top / spread
  even = top * spread ** -np.linspace(0, 1, layers)
  low = {'even_low': even, 'many_low': many}
  low = {name: x * few.mean() / x.mean() for name, x in low.items()}
  return {'few': few, 'even': even, 'many': many, **low}


def make_problem(smoothness, width: int, alike: str, key) -> Problem:
  """Layers of equal energy (all w_i alike) or equal radius (all r_i alike)."""
  smooth = jnp.asarray(smoothness, jnp.float32)
  same = jnp.full(smooth.shape, 1 / smooth.size)
  weight = same if alike == 'energy' else smooth / jnp.sum(smooth)
  rotation = jax.random.orthogonal(key, width, smooth.shape)
  return Problem(smooth, weight, jnp.sqrt(weight / (width * smooth)), rotation)


def value(problem: Problem, x: jax.Array) -> jax.Array:
  """f, () float32 in [0, 1/2), least at f(0) = 0; x: [h, width] float32."""
  turned = jnp.einsum('hij,hj->hi', problem.rotation, x, precision='highest')
  z = turned / problem.radius[:, None]
  return jnp.sum(problem.weight * jnp.mean(curve(z), axis=1))


def place(problem: Problem, z: jax.Array) -> jax.Array:
  """The x at which g is taken of z; both [h, width] float32."""
  z = z * problem.radius[:, None]
  return jnp.einsum('hji,hj->hi', problem.rotation, z, precision='highest')


def noise(key, step, shape, sigma: float, batch: int) -> jax.Array:
  """The error of a batch's gradient: E‖row‖² = sigma² / batch; [h, width]."""
  drawn = jax.random.normal(keys.at(key, step), shape)
  return sigma / math.sqrt(shape[1] * batch) * drawn


def optimizer(name: str, rate, b2: float) -> optax.GradientTransformation:
  """The algorithm of the theorem: no momentum, no decay, φ = 1."""
  constant = lambda step: rate
  if name == 'sgd':
    return optax.sgd(constant)
  if name == 'lars':
    return method.lars(constant, 0.0, phi=_PHI, layer_axes=1)
  b2 = b2 if name == 'lamb_b2' else 0.0
  return method.lamb(constant, 0.0, b2, 1e-12, 0.0, phi=_PHI, layer_axes=1)


def step_size(name: str, smoothness, gap, steps: int) -> np.ndarray:
  """1 / max L for SGD, √(2 Δ / (T Σ L)) for the rest; shape of gap, Δ."""
  if name == 'sgd':
    return np.ones_like(gap) / np.max(smoothness)
  return np.sqrt(2 * np.asarray(gap) / (steps * np.sum(smoothness)))


def bound(name: str, smoothness, gap, sigma: float, steps: int):
  """What an optimizer's own measure cannot exceed; None for lamb_b2.

    SGD         2 Δ max L / T + h σ² / T
    LARS, LAMB  (√(2 Δ mean L / T) + 2 σ √(h / T))²

  Args:
    smoothness: [h], L_i.
    gap: Δ, an array or a number.
    sigma: σ_i, the same for each layer.
    steps: T, also the examples of a batch.
  """
  if name == 'lamb_b2':
    return None
  layers = len(smoothness)
  if name == 'sgd':
    return (2 * gap * np.max(smoothness) + layers * sigma**2) / steps
  first = np.sqrt(2 * gap * np.mean(smoothness) / steps)
  return (first + 2 * sigma * math.sqrt(layers / steps)) ** 2


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def descend(
  name: str, steps: int, b2: float, sigma: float, problem, rates, roots, starts
) -> dict[str, jax.Array]:
  """Gradient norms over the iterates x_1 … x_T of runs with batches of T.

  Args:
    rates: [seeds, n] float32: as many runs from one start, with one noise.
    roots: [seeds] keys, of the noise.
    starts: [seeds, h, width] float32, x_1.

  Returns:
    [seeds, n] float32 each, with E the mean over iterates: square, E‖∇f‖²;
    norm, (E‖∇f‖)²; layers, (E Σ_i ‖∇_i f‖)² / h; entries, (E ‖∇f‖_1)² / d.
  """

  def run(rate, root, x):
    tx = optimizer(name, rate, b2)

    def step(carry, t):
      x, state = carry
      grad = jax.grad(value, 1)(problem, x)
      layers = jnp.sqrt(jnp.sum(grad * grad, axis=1))
      square = jnp.sum(layers**2)
      sums = jnp.sum(layers), jnp.sum(jnp.abs(grad))
      given = grad + noise(root, t, x.shape, sigma, steps)
      change, state = tx.update(given, state, x)
      return (x + change, state), jnp.stack([square, jnp.sqrt(square), *sums])

    seen = jax.lax.scan(step, (x, tx.init(x)), jnp.arange(steps))[1]
    return jnp.mean(seen, axis=0)

  each = jax.vmap(jax.vmap(run, (0, None, None)))(rates, roots, starts)
  square, norm, layers, entries = jnp.moveaxis(each, -1, 0)
  return {
    'square': square,
    'norm': norm**2,
    'layers': layers**2 / starts.shape[1],
    'entries': entries**2 / starts[0].size,
  }


def slopes(steps: Sequence[int], values) -> list[float]:
  """Of log value over log step, least squares; values: [seeds, steps]."""
  return np.polyfit(np.log(steps), np.log(values).T, 1)[0].tolist()


def exponents(smoothness: Sequence, values) -> tuple[list, list]:
  """p, q of value ∝ (max L)^p (mean L)^q, least squares of the logarithms.

  Args:
    smoothness: spectra, at least three that no line in the logarithms joins.
    values: [seeds, spectra], positive.

  Returns:
    (p of each seed, q of each seed).
  """
  design = [[1.0, np.log(np.max(x)), np.log(np.mean(x))] for x in smoothness]
  found = np.linalg.lstsq(np.array(design), np.log(values).T, rcond=None)[0]
  return found[1].tolist(), found[2].tolist()


def ratio(above, below) -> tuple[float, float, float]:
  """Geometric mean of the seeds' ratios, and its 95 % t-interval's ends."""
  mean, half = student_t(np.log(np.asarray(above) / below).tolist())
  return math.exp(mean), math.exp(mean - half), math.exp(mean + half)
