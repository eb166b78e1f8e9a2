"""Priors of the weights, and the divergence of a posterior from them.

Gaussian      N(μ, σ²), the paper's                       exact
ScaleMixture  π N(0, σ1²) + (1 - π) N(0, σ2²), Blundell   by draws
Ard           N(0, s²) with the best s of each weight     exact
LogUniform    improper, Molchanov et al.                  a fit, to .01 nats
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxlab.core.errors import InputError
from jaxlab.ops import variational

Tree = Any


@dataclass(frozen=True)
class Gaussian:
  """N(mu, sigma²); mu a number, or a tree of the weights' form."""

  sigma: float
  mu: Any = 0.0

  def __post_init__(self):
    _wide(self.sigma, 'sigma')


@dataclass(frozen=True)
class ScaleMixture:
  """pi N(0, sigma1²) + (1 - pi) N(0, sigma2²): Blundell et al., eq. 7."""

  pi: float = 0.5
  sigma1: float = 1.0
  sigma2: float = math.exp(-6)

  def __post_init__(self):
    _wide(self.sigma1, 'sigma1')
    _wide(self.sigma2, 'sigma2')
    if not 0 < self.pi < 1:
      raise InputError(
        f'prior: pi = {self.pi} must be in (0, 1); for one Gaussian take '
        'Gaussian(sigma)'
      )


@dataclass(frozen=True)
class Ard:
  """N(0, s²), s² = μ² + σ² of each weight: what the official code's older
  versions penalise, ½ log(1 + 1/α)."""


@dataclass(frozen=True)
class LogUniform:
  """p(log |w|) constant; the divergence is known up to a constant."""


Prior = Gaussian | ScaleMixture | Ard | LogUniform


def make(section: Mapping[str, Any]) -> Prior:
  """The prior of a section: `name` and its numbers.

  Raises:
    InputError: an unknown name, or numbers that cannot be.
  """
  kinds: dict[str, tuple[Any, tuple[str, ...]]] = {
    'gaussian': (Gaussian, ('sigma',)),
    'scale_mixture': (ScaleMixture, ('pi', 'sigma1', 'sigma2')),
    'ard': (Ard, ()),
    'log_uniform': (LogUniform, ()),
  }
  if section['name'] not in kinds:
    raise InputError(
      f'prior "{section["name"]}" is not one of {", ".join(kinds)}'
    )
  kind, own = kinds[section['name']]
  return kind(**{name: section[name] for name in own})


def is_exact(prior: Prior) -> bool:
  """Whether `kl` is a formula; else it draws weights and needs a key."""
  return not isinstance(prior, ScaleMixture)


def kl(
  q: Mapping[str, Tree],
  prior: Prior,
  key: jax.Array | None = None,
  samples: int = 1,
) -> jax.Array:
  """KL(q ‖ prior), summed over all weights, in nats: () float32.

  A function of the parameters alone: take it once a step, however many draws
  or devices there are.

  Args:
    q: {'mu', 'rho' or 'log_alpha'}.
    key, samples: of the draws of log q - log p where `is_exact` is False.

  Raises:
    InputError: draws are needed and there is no key, or samples < 1.
  """
  if not is_exact(prior):
    return monte_carlo_kl(q, prior, key, samples)
  if isinstance(prior, Gaussian):
    sigma = variational.sigmas(q)
    mu = variational.means(q, sigma)
    if isinstance(prior.mu, Mapping):
      centre = variational.means({'mu': prior.mu}, sigma)
    else:
      centre = jax.tree.map(lambda _: prior.mu, sigma)
    of = lambda m, s, c: variational.gaussian_kl(m, s, c, prior.sigma)
    return _total(of, mu, sigma, centre)
  if isinstance(prior, Ard):
    return _total(variational.ard_kl, log_alphas(q))
  return _total(variational.log_uniform_kl, log_alphas(q))


def monte_carlo_kl(
  q: Mapping[str, Tree], prior: Prior, key: jax.Array | None, samples: int = 1
) -> jax.Array:
  """mean_s log q(w_s) - log p(w_s), unbiased for KL(q ‖ prior): () float32.

  Raises:
    InputError: no key, samples < 1, or a prior without a density.
  """
  if key is None or samples < 1:
    raise InputError(
      f'the divergence from {prior} is estimated by draws: give a key and '
      f'samples >= 1 (now {samples})'
    )
  if not isinstance(prior, Gaussian | ScaleMixture):
    raise InputError(f'{prior} has no density to draw against; take kl()')
  sigma = variational.sigmas(q)
  mu = variational.means(q, sigma)

  def log_prior(w):
    if isinstance(prior, ScaleMixture):
      return variational.log_scale_mixture(
        w, prior.pi, prior.sigma1, prior.sigma2
      )
    return variational.log_normal(w, prior.mu, prior.sigma)

  def one(key):
    w = variational.means({'mu': variational.draw(key, q)}, sigma)
    of = lambda w, m, s: variational.log_normal(w, m, s) - log_prior(w)
    return _total(of, w, mu, sigma)

  return jax.lax.map(one, jax.random.split(key, samples)).mean()


def log_alphas(q: Mapping[str, Tree]) -> Tree:
  """log α = log σ² - log μ² of every Gaussian weight."""
  if 'log_alpha' in q:
    return q['log_alpha']
  sigma = variational.sigmas(q)
  mu = variational.means(q, sigma)
  square = lambda m: jnp.log(jnp.square(m) + 1e-20)
  return jax.tree.map(lambda m, s: 2 * jnp.log(s) - square(m), mu, sigma)


def _total(of, *trees) -> jax.Array:
  parts = jax.tree.leaves(jax.tree.map(lambda *x: of(*x).sum(), *trees))
  return sum(parts, jnp.zeros(()))


def _wide(sigma: float, name: str) -> None:
  if not (sigma > 0 and math.isfinite(sigma)):
    raise InputError(
      f'prior: {name} = {sigma} must be above 0: under a prior of zero width '
      'every divergence is infinite; to fix weights leave them out of the '
      'posterior'
    )
