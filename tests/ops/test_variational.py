"""Divergences against draws, layers against draws of their weights."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.stats
from jax import lax

from jaxlab.ops import variational as vi

DRAWS = 20_000
CONV = partial(
  lax.conv_general_dilated,
  window_strides=(1, 1),
  padding=((1, 1), (1, 1)),
  dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
)


def log_density(x, mu, sigma):
  return scipy.stats.norm.logpdf(x, mu, sigma)


@pytest.mark.parametrize(
  'q, p', [((0.3, 0.2), (-0.1, 0.5)), ((0.0, 1.0), (0.5, 0.7))]
)
def test_the_divergence_is_that_of_draws(q, p):
  w = np.random.default_rng(0).normal(*q, 100_000)
  each = log_density(w, *q) - log_density(w, *p)
  error = each.std() / np.sqrt(len(w))
  assert abs(float(vi.gaussian_kl(*q, *p)) - each.mean()) < 4 * error


@pytest.mark.parametrize(
  'rho, right, reversed_', [(-5.0, 2.20, 107.7), (-3.0, 0.34, 0.90)]
)
def test_the_divergence_has_its_direction(rho, right, reversed_):
  """Not the official code's, at μ = 0 and a prior of .1."""
  sigma = vi.sigma_of_rho(jnp.float32(rho))
  np.testing.assert_allclose(vi.gaussian_kl(0, sigma, 0, 0.1), right, atol=5e-3)
  other = vi.gaussian_kl(0.0, 0.1, 0.0, sigma)
  np.testing.assert_allclose(other, reversed_, rtol=5e-3)


def test_ard_is_the_divergence_from_the_best_gaussian():
  mu, sigma = 0.7, 0.4
  log_alpha = jnp.log(sigma**2 / mu**2)
  wanted = vi.gaussian_kl(mu, sigma, 0.0, np.hypot(mu, sigma))
  np.testing.assert_allclose(vi.ard_kl(log_alpha), wanted, rtol=1e-5)
  for width in (0.7, 0.9):
    assert vi.gaussian_kl(mu, sigma, 0.0, width) > wanted


def test_the_log_uniform_fit_is_near_the_integral():
  """-H(q) + E log|w| + a constant, w ~ N(1, α); 0 as α grows."""

  def exact(alpha):
    at = lambda z: np.log(abs(1 + np.sqrt(alpha) * z)) * scipy.stats.norm.pdf(z)
    zero = -1 / np.sqrt(alpha)
    parts = [(-9, zero), (zero, 9)] if zero > -9 else [(-9, 9)]
    mean = sum(scipy.integrate.quad(at, *part)[0] for part in parts)
    return mean - np.log(alpha) / 2

  log_alpha = np.array([-8.0, -3.0, -1.0, 0.0, 1.0, 3.0, 12.0])
  integrals = np.array([exact(np.exp(x)) for x in log_alpha])
  found = np.asarray(vi.log_uniform_kl(log_alpha))
  np.testing.assert_allclose(found, integrals - integrals[-1], atol=0.02)


def test_the_mixture_is_a_density():
  mixture = (0.25, 1.0, 0.05)
  x = np.linspace(-2, 2, 9)
  p = 0.25 * scipy.stats.norm.pdf(x) + 0.75 * scipy.stats.norm.pdf(x, 0, 0.05)
  found = vi.log_scale_mixture(x, *mixture)
  np.testing.assert_allclose(found, np.log(p), rtol=1e-4)


def test_rho_and_sigma_are_inverse_and_finite():
  sigma = np.float32([1e-4, 0.01, 1.0, 30.0])
  rho = vi.rho_of_sigma(sigma)
  np.testing.assert_allclose(vi.sigma_of_rho(rho), sigma, rtol=1e-3)
  for huge in (100.0, 1000.0):  # where log(1 + exp) overflows
    value, slope = jax.value_and_grad(vi.sigma_of_rho)(huge)
    assert (value, slope) == (huge, 1.0)
  np.testing.assert_allclose(vi.sigma_of_alpha(-0.5, np.log(0.04)), 0.1)


def test_the_root_has_no_infinite_slope():
  value, slope = jax.vmap(jax.value_and_grad(vi.safe_sqrt))(
    jnp.array([0.0, 1e-9, 4.0])
  )
  np.testing.assert_allclose(value, [0, 0, 2])
  np.testing.assert_allclose(slope, [0, 0, 0.25])


def layer(kind):
  """linear, inputs [2, …] of two unlike rows, weights, biases."""
  draw = np.random.default_rng(1)
  if kind == 'conv':
    linear, shape, x = CONV, (3, 3, 2, 3), draw.normal(size=(2, 4, 4, 2))
  else:
    linear, shape, x = jnp.dot, (5, 3), draw.normal(size=(2, 5))
  f = lambda *s: jnp.float32(draw.normal(size=s))
  mu, sigma = f(*shape), 0.3 * jnp.abs(f(*shape))
  return linear, jnp.float32(x), mu, sigma, f(3), jnp.abs(f(3))


@pytest.mark.parametrize('kind', ['dense', 'conv'])
@pytest.mark.parametrize('mode', ['lrt', 'flipout'])
def test_outputs_are_distributed_as_by_draws_of_the_weights(kind, mode):
  linear, x, mu, sigma, bias, width = layer(kind)

  def whole(key):
    a, b = jax.random.split(key)
    return linear(x, vi.sample(a, mu, sigma)) + vi.sample(b, bias, width)

  def one(key):
    return getattr(vi, mode)(linear, x, mu, sigma, key, None, bias, width)

  keys = jax.random.split(jax.random.key(0), DRAWS)
  wanted, found = (
    np.asarray(jax.jit(jax.vmap(f))(keys)).reshape(DRAWS, -1)
    for f in (whole, one)
  )
  spread = wanted.std(0)
  # Means within 5 errors, deviations within 4 %.
  assert abs((found.mean(0) - wanted.mean(0)) / spread).max() < 7 / DRAWS**0.5
  np.testing.assert_allclose(found.std(0), spread, rtol=0.04)


def test_lrt_has_the_moments_of_the_formula():
  linear, x, mu, sigma, bias, width = layer('dense')
  keys = jax.random.split(jax.random.key(2), DRAWS)
  one = lambda key: vi.lrt(linear, x, mu, sigma, key, None, bias, width)
  found = np.asarray(jax.vmap(one)(keys))
  variance = np.square(x) @ np.square(sigma) + np.square(width)
  error = np.sqrt(variance / DRAWS)
  assert (abs(found.mean(0) - (x @ mu + bias)) < 5 * error).all()
  np.testing.assert_allclose(found.var(0), variance, rtol=0.05)


def test_modes_differ_in_what_examples_share():
  """The same image twice: one draw of weights moves both alike."""
  linear, x, mu, sigma, bias, width = layer('dense')
  twice = jnp.stack([x[0], x[0]])
  keys = jax.random.split(jax.random.key(0), 5000)

  def correlation(function):
    y = np.asarray(jax.vmap(function)(keys))[:, :, 0]
    return np.corrcoef(y.T)[0, 1]

  whole = lambda key: linear(twice, vi.sample(key, mu, sigma))
  assert correlation(whole) > 0.999
  for mode in (vi.lrt, vi.flipout):
    one = lambda key, mode=mode: mode(
      linear, twice, mu, sigma, key, None, bias, 3 * width
    )
    assert abs(correlation(one)) < 0.06


def test_flipout_is_unbiased_in_its_gradient_too():
  linear, x, mu, sigma, bias, width = layer('dense')

  def slope(key, s):
    f = lambda s: jnp.square(
      vi.flipout(linear, x, mu, s, key, None, bias, width)
    ).sum()
    return jax.grad(f)(s)

  keys = jax.random.split(jax.random.key(5), DRAWS)
  found = np.asarray(jax.jit(jax.vmap(slope, (0, None)))(keys, sigma))
  # E y² has the slope 2 x² σ.
  wanted = 2 * np.square(x).sum(0)[:, None] * np.asarray(sigma)
  error = found.std(0) / DRAWS**0.5
  assert (abs(found.mean(0) - wanted) < 5 * error + 1e-6).all()


@pytest.mark.parametrize('mode', [vi.lrt, vi.flipout])
def test_noise_goes_with_the_id(mode):
  linear, x, mu, sigma, bias, width = layer('conv')
  key, ids = jax.random.key(8), np.array([40, 2])
  found = mode(linear, x, mu, sigma, key, ids, bias, width)
  turned = mode(linear, x[::-1], mu, sigma, key, ids[::-1], bias, width)
  np.testing.assert_allclose(found, turned[::-1], rtol=1e-5, atol=1e-6)


def test_low_precision_keeps_variances_in_float32():
  linear, x, mu, sigma, _, _ = layer('dense')
  small = jnp.full_like(sigma, 1e-3)
  y = vi.lrt(linear, x.astype(jnp.bfloat16), 0 * mu, small, jax.random.key(0))
  assert y.dtype == jnp.bfloat16
  wanted = vi.lrt(linear, x, 0 * mu, small, jax.random.key(0))
  np.testing.assert_allclose(np.float32(y), wanted, rtol=0.02)


def test_trees_are_drawn_leaf_by_leaf_and_others_stay():
  mu = {'a': {'w': jnp.zeros((200, 50)), 'b': jnp.ones(3)}, 'n': jnp.ones(2)}
  rho = vi.constant(mu, vi.rho_of_sigma(0.5), lambda path: path.endswith('w'))
  assert {*rho} == {'a'} and {*rho['a']} == {'w'}
  drawn = vi.draw(jax.random.key(0), {'mu': mu, 'rho': rho})
  chex.assert_trees_all_equal_shapes(drawn, mu)
  np.testing.assert_array_equal(drawn['a']['b'], 1)
  np.testing.assert_array_equal(drawn['n'], 1)
  assert scipy.stats.kstest(drawn['a']['w'].ravel() / 0.5, 'norm').pvalue > 0.01
  both = vi.draw(jax.random.key(0), {'mu': mu, 'rho': vi.constant(mu, -5.0)})
  ratio = (both['a']['b'] - 1) / vi.sigma_of_rho(jnp.float32(-5.0))
  assert np.unique(ratio).size == 3
