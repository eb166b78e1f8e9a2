"""Minimal-variance sampling against its definition, slowly, in float64."""

import itertools
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxlab.papers.mvs_gnn.method import (
  bernoulli_draw,
  clip_weights,
  decompose,
  effective_sample_size,
  floor,
  horvitz_thompson_weights,
  last_layer_gradient_norms,
  minimal_variance_probabilities,
  mix,
  sampling_variance,
  sigmoid_logit_gradients,
  softmax_logit_gradients,
  systematic_draw,
)

N = 500
LAST = np.nextafter(1, 0)  # the largest uniform there is


def norms_of(name, n=N):
  rng = np.random.default_rng(7)
  if name == 'random':
    return rng.uniform(0.2, 1, n)
  if name == 'heavy':
    return rng.pareto(1.2, n) + 1e-3
  if name == 'tied':
    return rng.integers(1, 4, n) / 10
  if name == 'equal':
    return np.full(n, 0.1)
  if name == 'mostly zero':
    return rng.pareto(2, n) * (rng.random(n) < 0.3)
  return np.exp(rng.normal(0, 8, n))  # 'wild': over 20 orders of magnitude


NAMES = ('random', 'heavy', 'tied', 'equal', 'mostly zero', 'wild')
# 499 and 500 of 500; 'mostly zero' has fewer positive norms than these.
SIZES = (1, 50, 120, 499, 500)
CASES = list(itertools.product(NAMES, SIZES))


def bisected(norms, batch_size):
  """p by bisection for μ on Σ min(1, g / μ) = B."""
  low, high = 0.0, norms.sum() / batch_size
  for _ in range(1100):  # down to the smallest double
    mu = (low + high) / 2
    if np.minimum(1, norms / mu).sum() > batch_size:
      low = mu
    else:
      high = mu
    if np.nextafter(low, high) >= high:
      break
  return np.minimum(1, norms / high)


@pytest.mark.parametrize(('name', 'batch_size'), CASES)
def test_probabilities_are_those_of_bisection(name, batch_size):
  norms = norms_of(name)
  p = minimal_variance_probabilities(norms, batch_size)
  assert isinstance(p, np.ndarray)
  chex.assert_type(p, np.float64)
  if batch_size >= np.count_nonzero(norms):
    np.testing.assert_array_equal(p, norms > 0)
    return
  # Sums of 500 terms round by far less than 500 ulp.
  np.testing.assert_allclose(p, bisected(norms, batch_size), rtol=1e-13)


@pytest.mark.parametrize(('name', 'batch_size'), CASES)
def test_probabilities_meet_the_kkt_conditions(name, batch_size):
  norms = norms_of(name)
  p = minimal_variance_probabilities(norms, batch_size)
  assert p.sum() == pytest.approx(
    min(batch_size, np.count_nonzero(norms)), rel=1e-13
  )
  assert ((p >= 0) & (p <= 1)).all()
  np.testing.assert_array_equal(p > 0, norms > 0)
  # The slopes -g² / p² of the objective are one -μ² below the cap, and no
  # less steep at it.
  inner = (p > 0) & (p < 1)
  if inner.any():
    mu = norms[inner] / p[inner]
    np.testing.assert_allclose(mu, mu[0], rtol=1e-14)
    assert (norms[p == 1] >= mu[0] * (1 - 1e-14)).all()


@pytest.mark.parametrize(('name', 'batch_size'), CASES)
def test_jax_has_the_probabilities_of_the_host(name, batch_size):
  norms = norms_of(name).astype(np.float32)
  compute = jax.jit(minimal_variance_probabilities, static_argnums=1)
  p = compute(jnp.asarray(norms), batch_size)
  chex.assert_shape(p, (N,))
  chex.assert_type(p, jnp.float32)
  # 500 additions in a row, each of half an ulp at most: 500 * 6e-8.
  host = minimal_variance_probabilities(norms, batch_size)
  np.testing.assert_allclose(p, host, rtol=3e-5)
  np.testing.assert_array_equal(p > 0, norms > 0)


def test_probabilities_depend_on_ratios_of_norms_alone():
  norms = norms_of('heavy')
  p = minimal_variance_probabilities(norms, 50)
  for factor in (2.0**-900, 2.0**900):  # powers of two: nothing is rounded
    np.testing.assert_array_equal(
      minimal_variance_probabilities(norms * factor, 50), p
    )
  huge = jnp.full(4, 3e38)  # their sum is not a float32
  np.testing.assert_array_equal(minimal_variance_probabilities(huge, 2), 0.5)


def test_probabilities_take_lists_integers_and_bfloat16():
  np.testing.assert_allclose(
    minimal_variance_probabilities([3, 0, 1, 2], 2), [1, 0, 1 / 3, 2 / 3]
  )
  half = jnp.asarray([3, 0, 1, 2], jnp.bfloat16)
  p = minimal_variance_probabilities(half, 2)
  chex.assert_type(p, jnp.float32)
  np.testing.assert_allclose(p, [1, 0, 1 / 3, 2 / 3], rtol=1e-6)


@pytest.mark.parametrize('namespace', [np, jnp])
def test_all_positive_norms_are_certain_where_the_batch_is_no_smaller(
  namespace,
):
  norms = namespace.asarray([0.0, 1e-30, 5.0, 0.0, 2.0], namespace.float32)
  for batch_size in (3, 4, 5, 6, 1000):
    p = minimal_variance_probabilities(norms, batch_size)
    np.testing.assert_array_equal(p, [0, 1, 1, 0, 1])
  nothing = minimal_variance_probabilities(namespace.zeros(3), 2)
  np.testing.assert_array_equal(nothing, [0, 0, 0])


def test_a_million_norms_have_probabilities_that_sum_to_the_batch():
  norms = np.random.default_rng(0).pareto(1.5, 10**6)
  p = minimal_variance_probabilities(norms, 10**5)
  assert (p == 1).sum() > 100
  # A million additions of half an ulp: 1e-10 at most.
  assert p.sum() == pytest.approx(10**5, rel=1e-10)


@pytest.mark.parametrize('value', [np.nan, np.inf, -1.0])
def test_wrong_norms_are_named_on_the_host_and_nan_under_jit(value):
  norms = np.ones(6)
  norms[4] = value
  with pytest.raises(ValueError, match=f'norm 4 is {value}; it must be finite'):
    minimal_variance_probabilities(norms, 2)
  compute = jax.jit(minimal_variance_probabilities, static_argnums=1)
  assert np.isnan(compute(jnp.asarray(norms), 2)).all()


@pytest.mark.parametrize(('name', 'batch_size'), [('random', 50), ('tied', 99)])
def test_gain_over_uniform_is_the_variance_of_norms_over_the_batch(
  name, batch_size
):
  norms = norms_of(name)
  p = minimal_variance_probabilities(norms, batch_size)
  assert p.max() < 1
  uniform = sampling_variance(norms, np.full(N, batch_size / N))
  gain = uniform - sampling_variance(norms, p)
  assert gain == pytest.approx(norms.var() / batch_size, rel=1e-11)


@pytest.mark.parametrize(
  ('name', 'batch_size'),
  [('heavy', 50), ('mostly zero', 100), ('wild', 50), ('heavy', 499)],
)
def test_gain_over_uniform_is_less_where_probabilities_are_capped(
  name, batch_size
):
  norms = norms_of(name)
  p = minimal_variance_probabilities(norms, batch_size)
  sure = norms >= norms[p == 1].min()
  assert 0 < sure.sum() < N
  uniform = sampling_variance(norms, np.full(N, batch_size / N))
  gain = uniform - sampling_variance(norms, p)
  # Those below the cap have p = (B - sure) g / Σ g, the others no variance.
  rest = norms[~sure]
  least = rest.sum() ** 2 / (batch_size - sure.sum()) - np.sum(rest**2)
  every = np.sum(norms**2) * (N / batch_size - 1)
  assert gain == pytest.approx((every - least) / N**2, rel=1e-10)
  assert gain < norms.var() / batch_size * (1 - 1e-6)


def test_equal_norms_are_drawn_uniformly():
  norms = norms_of('equal')
  p = minimal_variance_probabilities(norms, 50)
  np.testing.assert_allclose(p, 0.1, rtol=1e-12)


# Small enough to sum over all 2^8 draws.
SMALL = np.array([3.0, 0.1, 0.5, 0.5, 0.2, 9.0, 0.7, 0.3])


def all_draws(p):
  """(probability, nodes) of every draw of independent nodes."""
  for drawn in itertools.product((False, True), repeat=len(p)):
    drawn = np.array(drawn)
    yield np.prod(np.where(drawn, p, 1 - p)), np.flatnonzero(drawn)


def test_bernoulli_estimates_have_exactly_the_mean_and_variance_promised():
  rng = np.random.default_rng(1)
  gradients = rng.normal(size=(8, 5))
  gradients *= (SMALL / np.linalg.norm(gradients, axis=1))[:, None]
  p = minimal_variance_probabilities(SMALL, 3)
  assert (p == 1).any()
  full, mean, variance = gradients.mean(0), np.zeros(5), 0.0
  for chance, drawn in all_draws(p):
    estimate = horvitz_thompson_weights(p[drawn], 8) @ gradients[drawn]
    mean += chance * estimate
    variance += chance * np.sum((estimate - full) ** 2)
  np.testing.assert_allclose(mean, full, rtol=1e-12, atol=1e-14)
  assert variance == pytest.approx(sampling_variance(SMALL, p), rel=1e-12)


def draw(kind, rng, p):
  if kind == 'bernoulli':
    return bernoulli_draw(rng.random(len(p)), p)
  return systematic_draw(rng.random(), rng.permutation(len(p)), p)


DRAWS = pytest.mark.parametrize('kind', ['bernoulli', 'systematic'])


@DRAWS
def test_horvitz_thompson_estimates_are_unbiased(kind):
  norms = norms_of('heavy', 60)
  p = minimal_variance_probabilities(norms, 15)
  assert (p == 1).any()
  values = np.random.default_rng(2).normal(size=(60, 4)) * norms[:, None]
  rng = np.random.default_rng(3)
  found = []
  for _ in range(4000):
    drawn = draw(kind, rng, p)
    found.append(horvitz_thompson_weights(p[drawn], 60) @ values[drawn])
  sigma = np.std(found, 0, ddof=1) / np.sqrt(len(found))
  assert (np.abs(np.mean(found, 0) - values.mean(0)) < 4 * sigma).all()
  # The test could tell: 4 σ are a small part of what is estimated.
  assert (4 * sigma < 0.2 * np.abs(values).mean(0)).all()


@DRAWS
def test_nodes_are_drawn_with_their_probabilities(kind):
  norms = norms_of('heavy', 60)
  norms[:5] = 0
  p = minimal_variance_probabilities(norms, 15)
  rng = np.random.default_rng(4)
  trials, counts, sizes = 4000, np.zeros(60), []
  for _ in range(trials):
    drawn = draw(kind, rng, p)
    chex.assert_type(drawn, np.int64)
    assert (np.diff(drawn) > 0).all()
    counts[drawn] += 1
    sizes.append(len(drawn))
  sigma = np.sqrt(p * (1 - p) / trials)
  assert (np.abs(counts / trials - p) <= 4 * sigma).all()
  if kind == 'systematic':
    assert {*sizes} == {15}
  else:
    assert np.var(sizes) == pytest.approx((p * (1 - p)).sum(), rel=0.1)


def test_systematic_draw_has_exact_probabilities_in_every_order():
  # Multiples of 1/32: of 32 points, one in each cell, exactly 32 p hit a node.
  p = np.array([1, 5, 32, 31, 0, 7, 20, 0, 32]) / 32
  assert p.sum() == 4
  rng = np.random.default_rng(5)
  for order in (np.arange(9), np.arange(9)[::-1], rng.permutation(9)):
    for offset in (0, 0.3, 1 - 1e-12):
      counts = np.zeros(9)
      for cell in range(32):
        drawn = systematic_draw((cell + offset) / 32, order, p)
        assert len(drawn) == 4
        counts[drawn] += 1
      np.testing.assert_array_equal(counts / 32, p)


def just_below_one():
  return np.array(
    [1 - 1e-16] * 3 + [1 - 1e-12] * 500 + [0.5, 0.5, 1.0] + [0.0] * 500
  )


def float32_of(n):
  norms = jnp.asarray(norms_of('heavy', n), jnp.float32)
  return np.asarray(minimal_variance_probabilities(norms, n // 4))


@pytest.mark.parametrize(
  ('p', 'size'),
  [
    (just_below_one(), 505),
    (float32_of(20000), 5000),
    (np.full(3, 1 / 3), 1),
    (np.full(7 * 10**4, 1 / 7), 10**4),
    (minimal_variance_probabilities(norms_of('wild'), 120), 120),
    (minimal_variance_probabilities(norms_of('mostly zero'), 400), None),
    (np.ones(5), 5),
    (np.zeros(5), 0),
  ],
)
def test_systematic_draw_has_its_size_whatever_is_rounded(p, size):
  if size is None:
    size = np.count_nonzero(p)
  rng = np.random.default_rng(6)
  for uniform in (0, 1e-300, 0.5, LAST, *rng.random(20)):
    drawn = systematic_draw(uniform, rng.permutation(len(p)), p)
    assert len(np.unique(drawn)) == len(drawn) == size
    assert (p[drawn] > 0).all()
    assert np.isin(np.flatnonzero(p == 1), drawn).all()


def test_systematic_draw_spreads_the_rounding_of_sums_over_all_nodes():
  # Unspread, the last node would be drawn from u = 0.75 - 0.05 on.
  p = np.full(4 * 10**5, 0.25 * (1 - 5e-7))
  order = np.arange(len(p))
  for uniform in (0.72, 0.78):
    drawn = systematic_draw(uniform, order, p)
    assert len(drawn) == 10**5
    assert (drawn[-1] == order[-1]) == (uniform > 0.75)


def test_systematic_draw_of_a_broken_sum_has_one_of_two_sizes():
  p = np.array([0.5, 0.5, 0.5, 0.25])
  sizes = [
    len(systematic_draw((cell + 0.5) / 64, np.arange(4), p))
    for cell in range(64)
  ]
  assert {*sizes} == {1, 2}
  assert np.mean(sizes) == 1.75


def test_bernoulli_draw_takes_the_certain_and_never_the_impossible():
  p = np.array([1.0, 0.0, 0.5])
  np.testing.assert_array_equal(bernoulli_draw(np.full(3, LAST), p), [0])
  np.testing.assert_array_equal(bernoulli_draw(np.zeros(3), p), [0, 2])


def test_weights_divide_by_probability_and_population():
  # Not by the batch size, as Algorithm 1 has it.
  weights = horvitz_thompson_weights(np.float32([1, 0.5, 0.25]), 10)
  chex.assert_type(weights, np.float64)
  np.testing.assert_allclose(weights, [0.1, 0.2, 0.4], rtol=1e-15)


def test_mixing_bounds_the_weights_and_keeps_the_sum():
  p = minimal_variance_probabilities(norms_of('wild'), 50)
  mixed = mix(p, 0.25, 50)
  assert mixed.sum() == pytest.approx(50, rel=1e-13)
  assert mixed.max() <= 1
  weights = horvitz_thompson_weights(mixed, N)
  # The smallest norms are 1e-20 of the largest: the bound is attained.
  assert 0.99 / (0.25 * 50) < weights.max() <= (1 + 1e-13) / (0.25 * 50)
  np.testing.assert_array_equal(mix(p, 0, 50), p)
  np.testing.assert_allclose(mix(p, 1, 50), 0.1, rtol=1e-15)
  np.testing.assert_array_equal(mix(np.ones(4), 0.3, 9), np.ones(4))


@pytest.mark.parametrize('name', ['random', 'heavy', 'wild'])
@pytest.mark.parametrize('minimum', [1e-6, 0.01, 0.09, 0.1])
def test_floor_keeps_the_sum_and_the_ratios_above_it(name, minimum):
  p = minimal_variance_probabilities(norms_of(name), 50)
  raised = floor(p, minimum, 50)
  assert raised.min() >= minimum
  assert raised.sum() == pytest.approx(50, rel=1e-13)
  above = raised > minimum
  scales = raised[above] / p[above]
  if above.any():
    assert scales.max() <= 1
    np.testing.assert_allclose(scales, scales[0], rtol=1e-14)
    # Those at the floor would be below it otherwise.
    assert (p[~above] * scales[0] <= minimum * (1 + 1e-14)).all()


def test_floor_without_nodes_below_it_changes_nothing():
  p = minimal_variance_probabilities(norms_of('random'), 50)
  np.testing.assert_array_equal(floor(p, p.min(), 50), p)
  np.testing.assert_array_equal(floor(p, 0, 50), p)


def test_floor_leaves_certain_nodes_where_the_batch_has_room():
  p = np.array([1.0, 0.0, 1.0, 0.0, 0.0])
  np.testing.assert_allclose(floor(p, 0.2, 4), [1, 0.2, 1, 0.2, 0.2])
  # They need 2.6; of B = 2 the floor takes 0.6.
  np.testing.assert_allclose(floor(p, 0.2, 2), [0.7, 0.2, 0.7, 0.2, 0.2])
  np.testing.assert_allclose(floor(np.zeros(4), 0.25, 1), 0.25)


def test_floor_at_the_uniform_probability_is_uniform():
  p = minimal_variance_probabilities(norms_of('heavy', 7), 3)
  np.testing.assert_allclose(floor(p, 3 / 7, 3), 3 / 7, rtol=1e-15)


def test_clipped_weights_underestimate():
  values = np.arange(1.0, 9.0)
  p = minimal_variance_probabilities(SMALL, 3)
  mean = 0.0
  for chance, drawn in all_draws(p):
    weights = horvitz_thompson_weights(p[drawn], 8)
    mean += chance * (clip_weights(weights, 0.5) @ values[drawn])
  # A clipped node counts p * 0.5 for its 1 / 8.
  expected = np.minimum(p * 0.5, 1 / 8) @ values
  assert mean == pytest.approx(expected, rel=1e-12)
  assert mean < 0.9 * values.mean()


def test_effective_sample_size_counts_equal_weights():
  assert effective_sample_size(np.full(10, 0.3)) == pytest.approx(10, rel=1e-14)
  assert effective_sample_size([2, 2, 0, 0]) == 2
  assert effective_sample_size([1e200, 1, 1]) == 1
  assert effective_sample_size([3, 1]) == pytest.approx(16 / 10)
  assert effective_sample_size([]) == effective_sample_size([0, 0]) == 0


def layer(weight, bias, x):
  return x @ weight + bias


def problem(n=40, features=13, classes=6):
  rng = np.random.default_rng(8)
  return (
    jnp.asarray(rng.normal(size=(features, classes)), jnp.float32),
    jnp.asarray(rng.normal(size=classes), jnp.float32),
    jnp.asarray(rng.normal(size=(n, features)), jnp.float32),
  )


CROSS_ENTROPY = optax.losses.softmax_cross_entropy_with_integer_labels


def multi_label(logits, targets):
  return optax.losses.sigmoid_binary_cross_entropy(logits, targets).sum(-1)


@pytest.mark.parametrize('bias', [True, False])
@pytest.mark.parametrize(
  ('loss', 'gradients'),
  [
    (CROSS_ENTROPY, softmax_logit_gradients),
    (multi_label, sigmoid_logit_gradients),
  ],
)
def test_norms_are_those_of_per_node_gradients(loss, gradients, bias):
  weight, offset, inputs = problem()
  rng = np.random.default_rng(9)
  targets = jnp.asarray(rng.integers(0, 6, 40))
  if loss is multi_label:
    targets = jnp.asarray(rng.integers(0, 2, (40, 6)), jnp.float32)

  def of_node(params, x, target):
    return loss(layer(*params, x), target)

  grads = jax.vmap(jax.grad(of_node), (None, 0, 0))(
    (weight, offset), inputs, targets
  )
  kept = grads if bias else grads[:1]
  expected = np.sqrt(
    sum(np.sum(np.square(x, dtype=np.float64).reshape(40, -1), 1) for x in kept)
  )

  @jax.jit
  def compute(inputs, targets):
    logits = layer(weight, offset, inputs)
    return last_layer_gradient_norms(
      inputs, gradients(logits, targets), bias=bias
    )

  found = compute(inputs, targets)
  chex.assert_type(found, jnp.float32)
  # Logits near 10 that the two programs sum in other orders, off by some ulp
  # of 1e-6: as much is the relative error of every probability.
  np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_logit_gradients_keep_their_digits_where_answers_are_sure():
  f = np.array([[40.0, 0, 1], [-90, 0, 3], [5, 5, 5]])
  labels = np.array([0, 2, 1])
  p = np.exp(f - f.max(1, keepdims=True))
  p /= p.sum(1, keepdims=True)
  expected = p - np.eye(3)[labels]
  expected[0, 0], expected[1, 2] = -p[0, 1:].sum(), -p[1, :2].sum()
  found = softmax_logit_gradients(jnp.float32(f), jnp.asarray(labels))
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-38)
  sure = sigmoid_logit_gradients(jnp.float32([30, -30]), jnp.array([True, 0]))
  np.testing.assert_allclose(sure, [-np.exp(-30), np.exp(-30)], rtol=1e-5)


def test_labels_outside_of_the_classes_have_no_gradient():
  found = softmax_logit_gradients(jnp.zeros((3, 4)), jnp.array([-1, 4, 3]))
  np.testing.assert_array_equal(np.isnan(found).all(1), [True, True, False])


def test_decomposition_adds_up_with_its_cross_term():
  rng = np.random.default_rng(10)
  tree = lambda: {
    'kernel': rng.normal(size=(7, 3)).astype(np.float32),
    'bias': rng.normal(size=3).astype(np.float32),
  }
  estimate, given, full = tree(), tree(), tree()
  flat = lambda x: np.concatenate([x['bias'], x['kernel'].ravel()]).astype(
    np.float64
  )
  near, far = flat(estimate) - flat(given), flat(given) - flat(full)
  found = jax.jit(decompose)(estimate, given, full)
  # 24 squares in float32.
  close = partial(pytest.approx, rel=1e-5)
  assert float(found.bias) == close(near @ near)
  assert float(found.variance) == close(far @ far)
  gap = float(found.error) - float(found.bias) - float(found.variance)
  assert gap == pytest.approx(2 * near @ far, abs=1e-5 * float(found.error))


def test_decomposition_of_draws_averages_to_bias_and_variance():
  rng = np.random.default_rng(11)
  gradients = rng.normal(size=(40, 6)) * norms_of('heavy', 40)[:, None]
  stale = gradients + rng.normal(scale=0.3, size=gradients.shape)
  p = minimal_variance_probabilities(np.linalg.norm(gradients, axis=1), 10)
  rows = []
  for _ in range(2000):
    drawn = bernoulli_draw(rng.random(40), p)
    weights = horvitz_thompson_weights(p[drawn], 40)
    rows.append((weights @ stale[drawn], weights @ gradients[drawn]))
  estimates, given = (jnp.asarray(rows)[:, k] for k in (0, 1))
  found = jax.vmap(decompose, (0, 0, None))(
    estimates, given, jnp.asarray(gradients.mean(0))
  )
  sigma = np.std(found.variance, ddof=1) / np.sqrt(len(rows))
  exact = sampling_variance(np.linalg.norm(gradients, axis=1), p)
  assert abs(float(found.variance.mean()) - exact) < 4 * sigma
  assert 4 * sigma < 0.5 * exact
  # Σ w e of independent draws: its variance, and its mean squared.
  off = stale - gradients
  bias = sampling_variance(np.linalg.norm(off, axis=1), p)
  bias += np.sum(off.mean(0) ** 2)
  sigma = np.std(found.bias, ddof=1) / np.sqrt(len(rows))
  assert abs(float(found.bias.mean()) - bias) < 4 * sigma


HALF = np.full(4, 0.5)
WRONG = {
  'batch_size=0 must': lambda: minimal_variance_probabilities(np.ones(3), 0),
  r'norms \(0,\)': lambda: minimal_variance_probabilities(np.ones(0), 1),
  'must be that of a vector': lambda: minimal_variance_probabilities(
    np.ones((2, 2)), 1
  ),
  r'norms \(2, 2\)': lambda: minimal_variance_probabilities(
    jnp.ones((2, 2)), 1
  ),
  r'inputs \(3, 2\) and': lambda: last_layer_gradient_norms(
    jnp.ones((3, 2)), jnp.ones((4, 2))
  ),
  r'labels \(3,\) must': lambda: softmax_logit_gradients(
    jnp.ones((4, 2)), jnp.zeros(3, int)
  ),
  r'targets \(4, 1\)': lambda: sigmoid_logit_gradients(
    jnp.ones((4, 2)), jnp.ones((4, 1))
  ),
  r'probability 1 is 1\.5; it must be in \[0, 1\]': lambda: bernoulli_draw(
    [0, 0], [0, 1.5]
  ),
  r'uniform 1 is 1\.0': lambda: bernoulli_draw([0, 1.0], [0, 1]),
  '3 uniforms for 4': lambda: bernoulli_draw([0, 0, 0], HALF),
  r'uniform=1\.0': lambda: systematic_draw(1.0, np.arange(4), HALF),
  'order is not a permutation of 4': lambda: systematic_draw(
    0.5, [0, 1, 2, 2], HALF
  ),
  'not a permutation of 4 nodes': lambda: systematic_draw(
    0.5, np.arange(5), HALF
  ),
  'probability 1 is nan': lambda: systematic_draw(0.5, [0, 1], [0.5, np.nan]),
  'probability 1 is 0;': lambda: horvitz_thompson_weights([0.5, 0], 9),
  'population=0': lambda: horvitz_thompson_weights(HALF, 0),
  r'alpha=1\.5': lambda: mix(HALF, 1.5, 2),
  'batch_size=0': lambda: mix(HALF, 0.5, 0),
  r'probabilities \(0,\)': lambda: mix([], 0.5, 1),
  r'minimum=0\.6 is not in \[0, 0\.5\]': lambda: floor(HALF, 0.6, 2),
  'minimum=nan': lambda: floor(HALF, np.nan, 2),
  'maximum=0 must': lambda: clip_weights(HALF, 0),
  'weight 1 is -1': lambda: effective_sample_size([1, -1]),
  '3 norms for 4': lambda: sampling_variance(np.ones(3), HALF),
  r'node 1 of norm 2\.0 has probability 0': lambda: sampling_variance(
    [0, 2, 1], [0, 0, 1]
  ),
  r'gradients of \(2,\) and \(1,\)': lambda: decompose(
    jnp.ones(2), jnp.ones(2), jnp.ones(1)
  ),
}


@pytest.mark.parametrize('message', WRONG)
def test_what_is_wrong_is_named(message):
  with pytest.raises(ValueError, match=message):
    WRONG[message]()


def test_labels_that_are_no_integers_are_refused():
  with pytest.raises(TypeError, match='labels are float32'):
    softmax_logit_gradients(jnp.ones((4, 2)), jnp.ones(4))
