"""Mean-field Gaussian weights: divergences, and layers that sample them.

A weight is N(μ, σ²), independent of all others. σ is softplus(ρ), or
σ² = α μ² with log α learned. Divergences are elementwise, in nats, KL(q‖p).

  Blundell et al. 2015, arXiv:1505.05424, section 3.2   softplus, sample
  Kingma, Salimans, Welling 2015, arXiv:1506.02557      lrt
  Shridhar et al. 2019, arXiv:1901.02731, section 4     lrt in a convolution
  Wen et al. 2018, arXiv:1803.04386, eq. 4              flipout
  Molchanov et al. 2017, arXiv:1701.05369, eq. 14       log_uniform_kl

A layer is given as `linear(x, w)`, a function linear in both: a product, a
convolution. In a convolution LRT draws independent noise at every output
position, while a draw of the weights is shared by all: each output has the
right distribution, their correlations are lost. For functions that hang
together draw weights (`draw`).

The weights of a network are a tree {'mu': means, 'rho': of each}, or with
'log_alpha' in its place, which may lack leaves: those weights are not random.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlab.ops import row_random

Tree = Any  # nested mappings of arrays
Linear = Callable[[jax.Array, jax.Array], jax.Array]  # (x, weights) -> y

TINY = 1e-8  # a variance at or below it counts as 0
_MOLCHANOV = (0.63576, 1.87320, 1.48695)


def sigma_of_rho(rho: jax.Array) -> jax.Array:
  """log(1 + e^ρ), finite for every finite ρ. [...] -> [...]."""
  return jax.nn.softplus(rho)


def rho_of_sigma(sigma: jax.Array) -> jax.Array:
  """The inverse: log(e^σ - 1), for σ > 0. [...] -> [...]."""
  sigma = jnp.asarray(sigma)
  return sigma + jnp.log(-jnp.expm1(-sigma))


def sigma_of_alpha(mu: jax.Array, log_alpha: jax.Array) -> jax.Array:
  """√α |μ|. [...] each."""
  return jnp.exp(log_alpha / 2) * jnp.abs(mu)


def gaussian_kl(mu_q, sigma_q, mu_p, sigma_p) -> jax.Array:
  """KL(N(μ_q, σ_q²) ‖ N(μ_p, σ_p²)) elementwise, in nats: [...] float32.

  log(σ_p / σ_q) + (σ_q² + (μ_q - μ_p)²) / (2 σ_p²) - 1/2

  The official code computes the other direction. The prior may be numbers.
  """
  ratio, gap = sigma_q / sigma_p, (mu_q - mu_p) / sigma_p
  return (ratio**2 + gap**2 - 1) / 2 - jnp.log(ratio)


def ard_kl(log_alpha: jax.Array) -> jax.Array:
  """½ log(1 + 1/α): KL to the best prior N(0, s²) of each weight, s² = μ² + σ².

  [...] float32, in nats.
  """
  return jax.nn.softplus(-log_alpha) / 2


def log_uniform_kl(log_alpha: jax.Array) -> jax.Array:
  """KL to the improper log-uniform prior, up to its constant: [...] nats.

  k1 + ½ log(1 + 1/α) - k1 sigmoid(k2 + k3 log α), which is 0 as α -> ∞.

  Source: Molchanov et al., eq. 14, an approximation by a fit.
  """
  k1, k2, k3 = _MOLCHANOV
  sure = jax.nn.sigmoid(k2 + k3 * log_alpha)
  return k1 * (1 - sure) + ard_kl(log_alpha)


def log_normal(x, mu, sigma) -> jax.Array:
  """log N(x; μ, σ²) elementwise, in nats."""
  z = (x - mu) / sigma
  return -(z**2) / 2 - jnp.log(sigma) - math.log(2 * math.pi) / 2


def log_scale_mixture(x, pi: float, sigma1: float, sigma2: float) -> jax.Array:
  """log(π N(x; 0, σ1²) + (1 - π) N(x; 0, σ2²)) elementwise, in nats.

  Source: Blundell et al., eq. 7.
  """
  return jnp.logaddexp(
    math.log(pi) + log_normal(x, 0.0, sigma1),
    math.log1p(-pi) + log_normal(x, 0.0, sigma2),
  )


def safe_sqrt(variance: jax.Array, tiny: float = TINY) -> jax.Array:
  """√v where v > tiny, else 0; its gradient there is 0 and no infinity."""
  large = variance > tiny
  return jnp.where(large, jnp.sqrt(jnp.where(large, variance, 1.0)), 0.0)


def sample(key: jax.Array, mu: jax.Array, sigma: jax.Array) -> jax.Array:
  """A draw of the weights, μ + σ ⊙ ε: [...] float32."""
  return mu + sigma * jax.random.normal(key, mu.shape, jnp.float32)


def lrt(
  linear: Linear,
  x: jax.Array,
  mu: jax.Array,
  sigma: jax.Array,
  key: jax.Array,
  ids: jax.Array | None = None,
  bias_mu: jax.Array | float = 0.0,
  bias_sigma: jax.Array | float = 0.0,
) -> jax.Array:
  """Local reparameterisation: the layer's output, drawn instead of its weights.

  b = x∗μ + ε ⊙ √(x²∗σ²), ε ~ N(0, 1) for every output: two linear maps.

  Args:
    x: [b, ...] of a float dtype.
    mu, sigma: the weights' means and deviations; sigma and the variance are
      float32 also where x is not.
    ids: [b], by which the noise is keyed; None: by rows.
    bias_mu, bias_sigma: [features], or 0 for a layer without.

  Returns:
    [b, ..., features] of the dtype of x.

  Source: Shridhar et al., section 4 ("two convolutional operations").
  """
  mean = linear(x, mu.astype(x.dtype)) + jnp.asarray(bias_mu, x.dtype)
  squared = jnp.square(x.astype(jnp.float32))
  variance = linear(squared, jnp.square(sigma)) + jnp.square(bias_sigma)
  noise = row_random.normal(key, mean.shape, ids)
  return mean + (noise * safe_sqrt(variance)).astype(x.dtype)


def flipout(
  linear: Linear,
  x: jax.Array,
  mu: jax.Array,
  sigma: jax.Array,
  key: jax.Array,
  ids: jax.Array | None = None,
  bias_mu: jax.Array | float = 0.0,
  bias_sigma: jax.Array | float = 0.0,
) -> jax.Array:
  """One draw of the weights, made almost independent between examples.

  y_n = x_n∗μ + ((x_n ⊙ r_n)∗ΔW) ⊙ s_n with ΔW = σ ⊙ ε shared, and r_n, s_n of
  ±1 for each input and output channel of example n. Each y_n is distributed as
  under a draw of the weights; for different examples they are uncorrelated.

  Args, Returns: as of `lrt`.

  Source: Wen et al., eq. 4.
  """
  weights, signs, biases = jax.random.split(key, 3)
  delta = sample(weights, jnp.zeros_like(sigma), sigma).astype(x.dtype)
  mean = linear(x, mu.astype(x.dtype)) + jnp.asarray(bias_mu, x.dtype)
  outside = jnp.zeros(mean.shape[-1:]) + bias_sigma
  offset = sample(biases, jnp.zeros_like(outside), outside).astype(x.dtype)
  wide, n = x.shape[-1], len(x)
  flips = row_random.signs(signs, (n, wide + mean.shape[-1]), ids)
  flips = flips.astype(x.dtype)
  middle = (1,) * (x.ndim - 2)
  r = flips[:, :wide].reshape(n, *middle, wide)
  s = flips[:, wide:].reshape(n, *middle, -1)
  return mean + (linear(x * r, delta) + offset) * s


def sigmas(q: Mapping[str, Tree]) -> Tree:
  """σ of every Gaussian weight of {'mu', 'rho' or 'log_alpha'}."""
  if 'rho' in q:
    return jax.tree.map(sigma_of_rho, q['rho'])
  return over(sigma_of_alpha, q['mu'], q['log_alpha'])


def draw(key: jax.Array, q: Mapping[str, Tree]) -> Tree:
  """All weights drawn from {'mu', 'rho' or 'log_alpha'}: a tree as of 'mu'."""
  sigma = sigmas(q)
  noise = jax.tree.map(jnp.multiply, sigma, normals(key, sigma))
  return over(jnp.add, q['mu'], noise, whole=True)


def normals(key: jax.Array, like: Tree) -> Tree:
  """Independent standard normals, float32, of the shapes of a tree's leaves.

  All of one call: the generator of each leaf would be compiled anew.
  """
  leaves, form = jax.tree.flatten(like)
  ends = np.cumsum([leaf.size for leaf in leaves])
  flat = jax.random.normal(key, (int(ends[-1]),), jnp.float32)
  parts = jnp.split(flat, ends[:-1])
  shaped = [part.reshape(leaf.shape) for part, leaf in zip(parts, leaves)]
  return jax.tree.unflatten(form, shaped)


def means(q: Mapping[str, Tree], spread: Tree) -> Tree:
  """The leaves of 'mu' that `spread` has, too."""
  return over(lambda mu, _: mu, q['mu'], spread)


def constant(
  mu: Tree,
  value: float,
  chosen: Callable[[str], bool] = lambda path: True,
  at: str = '',
) -> Tree:
  """A tree of one value for the leaves of `mu` whose path is chosen."""
  found: dict[str, Tree] = {}
  for name, leaf in mu.items():
    path = f'{at}{name}'
    if isinstance(leaf, Mapping):
      inner = constant(leaf, value, chosen, f'{path}/')
      found |= {name: inner} if inner else {}
    elif chosen(path):
      found[name] = jnp.full_like(leaf, value)
  return found


def over(
  function: Callable, mu: Tree, spread: Tree, whole: bool = False
) -> Tree:
  """function(leaf of mu, leaf of spread) for the leaves of `spread`.

  Args:
    whole: keep the leaves of `mu` that `spread` lacks as they are; else the
      result lacks them, too.
  """
  if not isinstance(spread, Mapping):
    return function(mu, spread)
  found = {k: over(function, mu[k], x, whole) for k, x in spread.items()}
  return {**mu, **found} if whole else found
