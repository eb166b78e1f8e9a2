"""Bayesian CNNs: the method's formulas, and what it refuses."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

from jaxlab.core.errors import InputError
from jaxlab.papers.bayes_cnn import laplace, method

KEY = jax.random.key(0)


def posterior(seed=0, shape=(3, 2)):
  draw = np.random.default_rng(seed)
  mu = {'a': {'w': jnp.float32(draw.normal(size=shape)), 'b': jnp.ones(2)}}
  rho = jax.tree.map(lambda x: jnp.float32(draw.normal(-1, 0.3, x.shape)), mu)
  return {'mu': mu, 'rho': rho}


# --- the bound ---


def test_the_bound_is_mean_nats_and_the_divergence_by_example():
  np.testing.assert_allclose(method.elbo(0.5, 600.0, 300), 2.5)
  np.testing.assert_allclose(method.elbo(0.5, 600.0, 300, 0.1), 0.7)
  for missing in (None, 0, True):
    with pytest.raises(InputError, match=f'n_train = {missing}: the diverg'):
      method.elbo(0.5, 600.0, missing)
  method.check_n_train(300, 300)
  with pytest.raises(InputError, match=r'250 examples.*make it 250'):
    method.check_n_train(300, 250)


def test_batches_of_an_epoch_add_up_to_one_bound():
  """N times the mean over an epoch is Σ nats + KL, however it is cut."""
  nats = np.random.default_rng(0).random(12)
  kl = 7.0
  for rows in (1, 3, 12):
    parts = nats.reshape(-1, rows).mean(1)
    bounds = [float(method.elbo(x, kl, 12)) for x in parts]
    np.testing.assert_allclose(12 * np.mean(bounds), nats.sum() + kl, rtol=1e-6)


def test_blundells_weights_sum_to_one_and_stay_finite():
  np.testing.assert_allclose(method.blundell_weights(3), [4 / 7, 2 / 7, 1 / 7])
  for batches in (1, 128, 5000):
    pi = method.blundell_weights(batches)
    assert pi.shape == (batches,) and np.isfinite(pi).all()
    np.testing.assert_allclose(pi.sum(), 1.0, rtol=1e-12)
  with pytest.raises(InputError, match='M = 0'):
    method.blundell_weights(0)


def test_schedules_have_the_mean_that_they_should():
  constant = method.beta_schedule('constant', 4, beta=0.5)
  assert constant(3) == 0.5
  blundell = method.beta_schedule('blundell', 4, beta=0.5)
  values = [float(blundell(jnp.int32(i))) for i in range(8)]
  np.testing.assert_allclose(np.mean(values), 0.5, rtol=1e-6)
  np.testing.assert_allclose(values[4:], values[:4])
  np.testing.assert_allclose(values[0], 2 * values[1], rtol=1e-6)
  warm = method.beta_schedule('warmup', 4, 2.0)
  np.testing.assert_allclose(
    [warm(0), warm(4), warm(8), warm(99)], [0, 0.5, 1, 1]
  )
  with pytest.raises(InputError, match='"cold" is not one of'):
    method.beta_schedule('cold', 4)
  with pytest.raises(InputError, match='warmup_epochs = 0'):
    method.beta_schedule('warmup', 4)


# --- priors ---


def test_the_divergence_of_a_tree_is_exact_or_by_draws():
  q = posterior()
  prior = method.Gaussian(0.5, 0.2)
  flat = lambda tree: np.concatenate([x.ravel() for x in jax.tree.leaves(tree)])
  mu, rho = flat(q['mu']), flat(q['rho'])
  sigma = np.log1p(np.exp(rho))
  wanted = np.log(0.5 / sigma) + (sigma**2 + (mu - 0.2) ** 2) / 0.5 - 0.5
  np.testing.assert_allclose(method.kl(q, prior), wanted.sum(), rtol=1e-5)
  keys = jax.random.split(KEY, 4000)
  each = jax.jit(jax.vmap(lambda k: method.monte_carlo_kl(q, prior, k)))(keys)
  assert abs(each.mean() - wanted.sum()) < 5 * each.std() / 4000**0.5
  tree = method.Gaussian(0.5, jax.tree.map(lambda x: 0 * x + 0.2, q['mu']))
  np.testing.assert_allclose(method.kl(q, tree), wanted.sum(), rtol=1e-5)


def test_the_mixtures_divergence_is_that_of_the_integral():
  q = {'mu': {'w': jnp.array([0.3])}, 'rho': {'w': jnp.array([-0.5])}}
  prior = method.ScaleMixture(0.5, 1.0, 0.2)
  sigma = math.log1p(math.exp(-0.5))
  x = np.linspace(-8, 8, 100_001)
  at = scipy.stats.norm.pdf(x, 0.3, sigma)
  p = 0.5 * scipy.stats.norm.pdf(x) + 0.5 * scipy.stats.norm.pdf(x, 0, 0.2)
  wanted = np.trapezoid(at * np.log(at / p), x)
  found = jax.jit(lambda k: method.kl(q, prior, k, 500))
  values = [float(found(jax.random.key(i))) for i in range(10)]
  assert abs(np.mean(values) - wanted) < 5 * np.std(values) / 10**0.5
  with pytest.raises(InputError, match='give a key'):
    method.kl(q, prior)
  with pytest.raises(InputError, match='samples >= 1'):
    method.kl(q, prior, KEY, 0)


def test_both_parameterisations_have_the_same_divergences():
  q = posterior()
  sigma = jax.tree.map(jax.nn.softplus, q['rho'])
  ratio = jax.tree.map(lambda m, s: jnp.log(s**2 / m**2), q['mu'], sigma)
  other = {'mu': q['mu'], 'log_alpha': ratio}
  for prior in (method.Gaussian(0.3), method.Ard(), method.LogUniform()):
    np.testing.assert_allclose(
      method.kl(q, prior), method.kl(other, prior), rtol=1e-4
    )
  ard = sum(0.5 * np.log1p(np.exp(-x)).sum() for x in jax.tree.leaves(ratio))
  np.testing.assert_allclose(method.kl(other, method.Ard()), ard, rtol=1e-4)


def test_a_prior_without_width_is_refused():
  for make in (
    lambda: method.Gaussian(0.0),
    lambda: method.ScaleMixture(0.5, 1.0, 0.0),
    lambda: method.Gaussian(math.nan),
  ):
    with pytest.raises(InputError, match='zero width'):
      make()
  with pytest.raises(InputError, match='pi = 1'):
    method.ScaleMixture(1.0)
  with pytest.raises(InputError, match='no density'):
    method.monte_carlo_kl(posterior(), method.Ard(), KEY)


# --- the posterior ---


def test_bayesian_linear_regression_has_the_exact_posterior():
  """Mean field's optimum: the exact mean, variances 1 / diag(precision)."""
  draw = np.random.default_rng(0)
  x = draw.normal(size=(40, 3)) @ np.array([[1, 0.6, 0], [0, 1, 0], [0, 0, 2]])
  y = x @ np.array([0.5, -1.0, 0.2]) + 0.5 * draw.normal(size=40)
  noise, width = 0.5, 0.7
  precision = x.T @ x / noise**2 + np.eye(3) / width**2
  mean = np.linalg.solve(precision, x.T @ y) / noise**2
  x, y = jnp.float32(x), jnp.float32(y)

  def loss(q, key):
    f = method.lrt(
      jnp.dot, x, q['mu']['w'], jax.nn.softplus(q['rho']['w']), key
    )[:, 0]
    nats = jnp.square(f - y).mean() / (2 * noise**2)
    return method.elbo(nats, method.kl(q, method.Gaussian(width)), 40)

  def many(q, key):
    return jax.vmap(loss, (None, 0))(q, jax.random.split(key, 64)).mean()

  tx = optax.adam(optax.cosine_decay_schedule(0.05, 1200))
  q = method.init({'w': jnp.zeros((3, 1))}, -2.0)

  def step(carry, key):
    q, opt = carry
    updates, opt = tx.update(jax.grad(many)(q, key), opt)
    return (optax.apply_updates(q, updates), opt), None

  keys = jax.random.split(KEY, 1200)
  (q, _), _ = jax.jit(lambda c: jax.lax.scan(step, c, keys))((q, tx.init(q)))
  np.testing.assert_allclose(q['mu']['w'][:, 0], mean, atol=4e-3)
  variance = np.square(jax.nn.softplus(q['rho']['w'][:, 0]))
  np.testing.assert_allclose(variance, 1 / np.diag(precision), rtol=0.03)


def test_predictions_are_those_of_draws_and_share_them():
  q = posterior()
  x = jnp.float32(np.random.default_rng(1).normal(size=(5, 3)))
  apply = lambda w, x: x @ w['a']['w'] + w['a']['b']
  log_p = method.predict_mc(apply, q, x, KEY, 3)
  assert log_p.shape == (3, 5, 2)
  np.testing.assert_allclose(np.exp(log_p).sum(-1), 1, rtol=1e-5)
  fewer = method.predict_mc(apply, q, x[1:3], KEY, 2)
  np.testing.assert_allclose(fewer, log_p[:2, 1:3], rtol=1e-5)
  w = method.draw(jax.random.fold_in(KEY, 1), q)
  np.testing.assert_allclose(
    log_p[1], jax.nn.log_softmax(apply(w, x)), rtol=1e-5
  )
  with pytest.raises(InputError, match='T = 0 draws'):
    method.predict_mc(apply, q, x, KEY, 0)


def test_a_posterior_out_of_bounds_is_named():
  q = posterior()
  for bad in (90.0, math.nan, -math.inf):
    q['rho']['a']['b'] = jnp.array([0.0, bad])
    with pytest.raises(InputError, match=r'rho of a/b = .* overflow'):
      method.check_posterior(q)
  with pytest.raises(InputError, match='rho0 = inf'):
    method.init({'w': jnp.zeros(1)}, math.inf)


def test_weight_decay_beside_a_divergence_is_refused():
  method.refuse_decay(0.0)
  method.refuse_decay(5e-4, beta=0.0)
  with pytest.raises(InputError, match='counts the prior twice'):
    method.refuse_decay(5e-4)


def test_moped_begins_at_the_trained_weights():
  weights = {'w': jnp.array([0.5, -2.0, 0.0])}
  q, prior = method.moped(weights, 0.1)
  sigma = jax.nn.softplus(q['rho']['w'])
  np.testing.assert_allclose(sigma[:2], [0.05, 0.2], rtol=1e-3)
  assert 0 < sigma[2] < 1e-5
  chex.assert_trees_all_equal(q['mu'], weights)
  # Means that sit on the prior's: σ² / 2 - log σ - 1/2 is left.
  wanted = (sigma**2 / 2 - np.log(sigma) - 0.5).sum()
  np.testing.assert_allclose(method.kl(q, prior), wanted, rtol=1e-4)
  with pytest.raises(InputError, match='delta = 0'):
    method.moped(weights, 0.0)


def test_pruning_takes_the_least_ratios_of_all_layers():
  q = method.init({'a': jnp.array([0.1, -3.0]), 'b': jnp.array([0.2, 1.0])})
  found = method.pruned(q, 0.5)
  np.testing.assert_allclose(found['mu']['a'], [0, -3])
  np.testing.assert_allclose(found['mu']['b'], [0, 1])
  drawn = method.draw(KEY, found)
  assert abs(drawn['a'][0]) < 1e-7 < 1e-3 < abs(drawn['a'][1] + 3)
  chex.assert_trees_all_equal(method.pruned(q, 0.0)['mu'], q['mu'])
  ratio = method.signal_to_noise(q)['a']
  np.testing.assert_allclose(
    ratio, [0.1, 3] / np.log1p(np.exp(-5.0)), rtol=1e-5
  )
  with pytest.raises(InputError, match='share = 1'):
    method.pruned(q, 1.0)


def test_two_rates_are_two_transforms():
  q = posterior()
  tx = method.optimizer(optax.sgd(0.1), optax.sgd(0.2))
  updates, _ = tx.update(jax.tree.map(jnp.ones_like, q), tx.init(q))
  chex.assert_trees_all_close(
    updates,
    {
      'mu': jax.tree.map(lambda x: 0 * x - 0.1, q['mu']),
      'rho': jax.tree.map(lambda x: 0 * x - 0.2, q['rho']),
    },
  )


# --- uncertainty ---


def drawn_probabilities(draws=7):
  logits = 2 * np.random.default_rng(0).normal(size=(draws, 4, 3))
  return jax.nn.softmax(jnp.float32(logits))


def test_variance_is_split_as_by_the_formulas_and_adds_up():
  p = np.asarray(drawn_probabilities(), np.float64)
  aleatoric, epistemic = method.variance_split(p)
  mean = p.mean(0)
  for n in range(4):
    outer = lambda v: np.outer(v, v)
    inside = np.mean([np.diag(v) - outer(v) for v in p[:, n]], 0)
    between = np.mean([outer(v - mean[n]) for v in p[:, n]], 0)
    np.testing.assert_allclose(aleatoric[n], inside, atol=1e-6)
    np.testing.assert_allclose(epistemic[n], between, atol=1e-6)
    whole = np.diag(mean[n]) - outer(mean[n])
    np.testing.assert_allclose(aleatoric[n] + epistemic[n], whole, atol=1e-6)


def test_identical_draws_are_no_epistemic_uncertainty():
  p = jnp.repeat(drawn_probabilities(1), 6, 0)
  aleatoric, epistemic = method.variance_split(p)
  np.testing.assert_allclose(epistemic, 0, atol=1e-7)
  assert jnp.trace(aleatoric, axis1=1, axis2=2).min() > 0.01
  np.testing.assert_allclose(method.entropy_split(p)[1], 0, atol=1e-6)


def test_entropy_is_split_into_expectation_and_information():
  p = np.asarray(drawn_probabilities(), np.float64)
  expected, information = method.entropy_split(p)
  entropy = lambda p: scipy.stats.entropy(p, axis=-1)
  np.testing.assert_allclose(expected, entropy(p).mean(0), rtol=1e-5)
  np.testing.assert_allclose(
    expected + information, entropy(p.mean(0)), rtol=1e-5
  )
  assert (information > 0.01).all()
  certain = jnp.eye(2)[:, None]  # 0 log 0, and two draws that differ
  parts = method.entropy_split(certain)
  np.testing.assert_allclose(parts, [[0.0], [math.log(2)]], atol=1e-6)


def test_probabilities_without_draws_are_refused():
  for split in (method.variance_split, method.entropy_split):
    with pytest.raises(InputError, match=r'\(0, 4, 3\).*T >= 1'):
      split(jnp.zeros((0, 4, 3)))
    with pytest.raises(InputError, match=r'\(4, 3\)'):
      split(jnp.zeros((4, 3)))


def test_softplus_probabilities_are_the_official_ones():
  p = method.uncertainty.softplus_probabilities(jnp.array([[0.0, 1.0]]))
  wanted = np.log1p(np.exp([0.0, 1.0]))
  np.testing.assert_allclose(p[0], wanted / wanted.sum(), rtol=1e-6)


def test_rejection_leaves_the_surest():
  curve = method.uncertainty.accuracy_rejection(
    [0.1, 0.9, 0.5, 0.2], [True, False, False, True]
  )
  np.testing.assert_allclose(curve, [0.5, 2 / 3, 1.0, 1.0])


# --- IVON ---

EPS = np.array(
  [[0.3, -1.2, 0.8], [-0.5, 0.4, 1.7], [1.1, 0.2, -0.6], [-2.0, 0.9, 0.1]]
)
# What version 0.1.3 of the official package `ivon-opt` leaves, in float64, of
# Σ A (w - c)² / 2 with this noise: weights and Hessian after each update.
OFFICIAL = np.array(
  [
    [[0.6044763682, 0.892, -0.892], [0.5933444444, 0.3627506944, 3.44640625]],
    [
      [0.6961262765, 0.784, -0.8273309013],
      [0.7071555783, 0.4916251678, 12.3808429935],
    ],
    [
      [0.7735688195, 0.676, -0.7919390506],
      [0.6004849199, 0.5405909683, 22.932269261],
    ],
    [
      [0.8109995303, 0.568, -0.7520301912],
      [1.5346797396, 0.9393978937, 20.136011026],
    ],
  ]
)


def ivon_run(**given):
  a, c = jnp.array([2.0, 0.5, 10.0]), jnp.array([1.0, -2.0, 0.3])
  tx = method.ivon(
    0.1, 50.0, hess_init=0.7, beta2=0.95, weight_decay=0.02, clip_radius=1.5
  )
  mean = jnp.array([0.5, 1.0, -1.0])
  state, found = tx.init(mean), []
  for eps in EPS:
    noise = jnp.float32(eps) * method.ivon_sigma(state)
    grads = a * (mean + noise - c)
    more = {name: f(noise, grads) for name, f in given.items()}
    updates, state = tx.update(grads, state, mean, **more)
    mean = optax.apply_updates(mean, updates)
    found.append([mean, state.hessian])
  return np.array(found)


def test_ivon_is_the_official_update_on_a_quadratic():
  found = ivon_run(noise=lambda noise, grads: noise)
  np.testing.assert_allclose(found, OFFICIAL, rtol=2e-5)
  both = ivon_run(product=lambda noise, grads: noise * grads)
  np.testing.assert_array_equal(found, both)


def test_ivon_finds_the_posterior_of_a_quadratic():
  """Mean at the minimum, h at the curvature, noise of 1 / √(N (h + δ))."""
  a, c = jnp.array([2.0, 0.5]), jnp.array([1.0, -2.0])
  tx = method.ivon(0.3, 100.0, beta2=0.99, weight_decay=1e-6)

  def step(carry, key):
    mean, state = carry
    noise = method.ivon_noise(key, state)
    grads = a * (mean + noise - c)
    updates, state = tx.update(grads, state, mean, noise=noise)
    return (optax.apply_updates(mean, updates), state), state.hessian

  start = (jnp.zeros(2), tx.init(jnp.zeros(2)))
  keys = jax.random.split(KEY, 3000)
  (mean, state), path = jax.jit(lambda c: jax.lax.scan(step, c, keys))(start)
  np.testing.assert_allclose(mean, c, atol=0.15)
  np.testing.assert_allclose(path[500:].mean(0), a, rtol=0.15)
  noise = jax.vmap(lambda k: method.ivon_noise(k, state))(keys)
  wanted = 1 / np.sqrt(100 * (state.hessian + 1e-6))
  np.testing.assert_allclose(noise.std(0), wanted, rtol=0.05)


def test_ivon_names_what_it_lacks():
  for name, value in (('ess', 0.0), ('hess_init', -1.0), ('beta2', 1.0)):
    with pytest.raises(InputError, match=f'{name} = {value} cannot be'):
      method.ivon(0.1, **{'ess': 1.0, name: value})
  tx = method.ivon(0.1, 10.0)
  w = jnp.ones(2)
  for more in ({}, {'noise': w, 'product': w}):
    with pytest.raises(InputError, match='either the noise'):
      tx.update(w, tx.init(w), w, **more)


# --- Laplace ---


def test_laplace_has_the_curvature_of_the_loss():
  draw = np.random.default_rng(0)
  phi = draw.normal(size=(30, 4))
  labels = draw.integers(0, 3, 30)
  theta = draw.normal(size=(3, 5))

  def nats(theta):
    logits = jnp.float32(phi) @ theta[:, :-1].T + theta[:, -1]
    return optax.losses.softmax_cross_entropy_with_integer_labels(
      logits, labels
    ).sum()

  wanted = jax.hessian(nats)(jnp.float32(theta)).reshape(15, 15)
  logits = phi @ theta[:, :-1].T + theta[:, -1]
  p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  found = laplace.curvature(phi, p)
  np.testing.assert_allclose(found, wanted, atol=1e-4)

  fitted = laplace.fit(phi, p, theta[:, :-1].T, theta[:, -1], 2.0)
  covariance = np.linalg.inv(wanted + 2 * np.eye(15))
  rng = np.random.default_rng(1)
  draws = [fitted.draw(rng) for _ in range(4000)]
  flat = np.array([np.concatenate([k, b[None]]).T.ravel() for k, b in draws])
  error = np.sqrt(np.diag(covariance) / 4000)
  assert (abs(flat.mean(0) - theta.ravel()) < 5 * error).all()
  scale = np.sqrt(np.outer(np.diag(covariance), np.diag(covariance)))
  assert abs((np.cov(flat.T) - covariance) / scale).max() < 0.1


def test_the_precision_has_the_largest_evidence():
  """Exact for a Gaussian: the evidence of y = X θ + noise."""
  values, squares = np.array([30.0, 5.0, 0.0]), 4.0
  grid = np.exp(np.linspace(-6, 6, 4001))
  best = grid[
    np.argmax([laplace.log_evidence(values, squares, g) for g in grid])
  ]
  found = laplace.best_precision(np.diag(values), np.array([[2.0, 0, 0]]))
  np.testing.assert_allclose(found, best, rtol=5e-3)
  # d/dδ = 0: P / δ = ‖θ‖² + Σ 1 / (λ + δ)
  np.testing.assert_allclose(
    3 / found, squares + (1 / (values + found)).sum(), rtol=1e-3
  )


def test_a_last_layer_that_is_too_large_is_named():
  with pytest.raises(InputError, match='of 10010 weights'):
    laplace.curvature(np.zeros((1, 1000)), np.full((1, 10), 0.1))
