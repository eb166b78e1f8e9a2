import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from jaxlab.ops import detection

SCORES = {
  'msp': detection.msp,
  'log_odds': detection.log_odds,
  'max_logit': detection.max_logit,
  'energy': detection.energy,
  'entropy': detection.entropy,
  'certainty': detection.certainty,
  'oe_score': detection.oe_score,
  'uniform_cross_entropy': detection.uniform_cross_entropy,
}


def reference(name, logits):
  """In float64."""
  logits = np.asarray(logits, np.float64)
  p = scipy.special.softmax(logits, -1)
  others = np.sort(logits, -1)[:, :-1]
  negative = (p * scipy.special.log_softmax(logits, -1)).sum(-1)
  spread = scipy.special.logsumexp(logits, -1)
  return {
    'msp': scipy.special.log_softmax(logits, -1).max(-1),
    'log_odds': logits.max(-1) - scipy.special.logsumexp(others, -1),
    'max_logit': logits.max(-1),
    'energy': spread,
    'entropy': negative,
    'certainty': -np.log(-negative),
    'oe_score': spread - logits.mean(-1),
    'uniform_cross_entropy': spread - logits.mean(-1),
  }[name]


def leads(values):
  """Logits whose first one leads the second by these, [n, 3]."""
  zeros = np.zeros(len(values))
  return jnp.asarray(np.stack([values, zeros, zeros - 1], -1), jnp.float32)


def net(images, weights):
  """Logits [b, k] of images [b, …]."""
  return images.reshape(len(images), -1) @ weights


@pytest.fixture(scope='module')
def toy():
  """Four images whose last pixel the network does not use."""
  draw = np.random.default_rng(0)
  images = draw.random((4, 2, 3, 1)).astype(np.float32)
  weights = draw.normal(0, 3, (6, 3)).astype(np.float32)
  weights[-1] = 0
  return jnp.asarray(images), jnp.asarray(weights)


@jax.jit
def scores(logits):
  """All of them at once: one program."""
  return {name: score(logits) for name, score in SCORES.items()}


@jax.jit
def slopes(logits):
  return {
    name: jax.grad(lambda z, f=score: f(z).sum())(logits)
    for name, score in SCORES.items()
  }


@pytest.mark.parametrize('jitted', [True, False])
def test_scores_equal_a_float64_reference(jitted):
  draw = np.random.default_rng(0)
  logits = jnp.asarray(draw.normal(0, 4, (50, 7)), jnp.float32)
  with jax.disable_jit(not jitted):
    found = scores(logits)
  for name, values in found.items():
    chex.assert_shape(values, (50,))
    chex.assert_type(values, jnp.float32)
    # float32 sums of a few numbers below 20.
    np.testing.assert_allclose(
      values, reference(name, logits), rtol=1e-5, atol=1e-6, err_msg=name
    )


def test_energy_at_a_temperature_equals_scipys():
  draw = np.random.default_rng(1)
  logits = draw.normal(0, 4, (50, 7)).astype(np.float32)
  found = jax.jit(lambda z: detection.energy(z, 2.5))(logits)
  expected = 2.5 * scipy.special.logsumexp(logits.astype(float) / 2.5, -1)
  np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize('k', [2, 43])
def test_the_outlier_loss_is_log_k_at_uniform_with_gradient_p_less_1_over_k(k):
  def loss(z):
    return detection.uniform_cross_entropy(z).sum()

  both = jax.jit(jax.value_and_grad(loss))
  value, slope = both(jnp.full((6, k), 5.0))
  assert float(value) == pytest.approx(6 * np.log(k), rel=1e-6)
  np.testing.assert_allclose(slope, 0, atol=1e-7)
  logits = np.random.default_rng(k).normal(0, 3, (6, k)).astype(np.float32)
  p = scipy.special.softmax(logits.astype(np.float64), -1)
  np.testing.assert_allclose(both(logits)[1], p - 1 / k, atol=1e-6)


def test_half_precision_logits_are_scored_in_float32():
  logits = jax.ShapeDtypeStruct((2, 3), jnp.bfloat16)
  for found in jax.eval_shape(scores, logits).values():
    assert found.dtype == jnp.float32


def test_the_log_keeps_the_order_that_probabilities_lose():
  logits = leads(np.arange(16.0, 80, 4))
  p = jax.nn.softmax(logits).max(-1)
  assert len(np.unique(p)) == 2  # all but the first are 1 in float32
  found = scores(logits)
  for name in ('msp', 'entropy'):
    assert (np.diff(found[name]) > 0).all()


def test_surrogates_rise_with_their_scores_and_are_never_flat():
  # Past 103 the scores themselves are 0 in float32.
  logits = leads(np.linspace(0.5, 300, 2000))
  values, gradients = scores(logits), slopes(logits)
  for score, surrogate in (('msp', 'log_odds'), ('entropy', 'certainty')):
    assert (np.diff(values[surrogate]) > 0).all()
    assert (np.diff(values[score]) >= 0).all() and values[score][-1] == 0
    lead = np.asarray(gradients[surrogate])[:, 0]
    assert np.isfinite(lead).all() and (lead > 0.1).all()
    assert np.isfinite(gradients[score]).all()
    assert not gradients[score][-1].any()


def test_certainty_is_minus_the_log_of_the_entropy_on_both_sides_of_its_seam():
  # The seam is where the entropy is exp(-15).
  logits = leads(np.linspace(0.5, 40, 400))
  # float64's own softmax loses p - 1 below 1e-16: the sum of positive terms.
  z = np.asarray(logits, np.float64)
  behind = (z[:, :1] - z)[:, 1:]
  weight = np.exp(-behind)
  total = weight.sum(-1)
  h = np.log1p(total) + (weight * behind).sum(-1) / (1 + total)
  found = scores(logits)
  np.testing.assert_allclose(found['certainty'], -np.log(h), rtol=3e-6)
  np.testing.assert_allclose(found['entropy'], -h, rtol=3e-6)


@pytest.mark.parametrize('k', [7, 1000])  # of 1000, XLA's max passes over NaN
def test_logits_that_are_not_numbers_never_become_scores(k):
  logits = np.zeros((50, k), np.float32)
  logits[:30, 2] = np.nan
  logits[:30, 3] = np.arange(30)
  for name, values in scores(logits).items():
    assert np.isnan(values[:30]).all(), name
    assert np.isfinite(values[30:]).all(), name
  alone = jax.jit(detection.max_logit)(logits)  # not fused with the others
  assert np.isnan(alone[:30]).all() and np.isfinite(alone[30:]).all()


def test_gradients_are_finite_where_logits_tie():
  for slope in slopes(jnp.zeros((50, 7))).values():
    assert np.isfinite(slope).all()


def test_odin_without_step_and_temperature_is_msp(toy):
  images, weights = toy

  @jax.jit
  def found(*args):
    return (
      detection.msp(net(*args)),
      detection.odin(net, temperature=1.0, eta=0.0)(*args),
      detection.odin(net, temperature=1.0, eta=0.01)(*args),
    )

  plain, same, moved = found(images, weights)
  np.testing.assert_array_equal(same, plain)
  assert (moved > plain).all()


def test_odin_equals_a_float64_reference(toy):
  images, weights = toy
  x = np.asarray(images, np.float64).reshape(4, -1)
  w = np.asarray(weights, np.float64)
  temperature, eta = 1000, 0.0014
  logits = x @ w / temperature
  target = np.eye(3)[logits.argmax(-1)]
  # Of the cross-entropy: (p - target) W' / T; its sign's zero counts as +1.
  slope = (scipy.special.softmax(logits, -1) - target) @ w.T
  moved = x - eta * np.where(slope >= 0, 1, -1)
  expected = scipy.special.log_softmax(moved @ w / temperature, -1).max(-1)
  found = jax.jit(detection.odin(net, temperature, eta))(images, weights)
  np.testing.assert_allclose(found, expected, atol=3e-7)  # one unit of 1.1


def test_the_input_step_takes_zero_for_plus_one_and_does_not_clip(toy):
  images, weights = toy
  images = images.at[0].set(0.0).at[1].set(1.0)

  @jax.jit
  def move(*args):
    score = detection.from_logits(net, detection.msp)
    return detection.perturbed(score, 0.25, *args)

  moved = np.asarray(move(images, weights))
  images = np.asarray(images)
  np.testing.assert_allclose(abs(moved - images), 0.25, rtol=1e-6)
  # The last pixel has no gradient: -eta, and below 0 where it was black.
  np.testing.assert_allclose(
    moved.reshape(4, -1)[:, -1], images.reshape(4, -1)[:, -1] - 0.25
  )
  assert moved.min() < 0 and moved.max() > 1


def test_odins_gradient_passes_its_step_with_the_sign_as_a_constant(toy):
  images, weights = toy
  eta, temperature = 0.05, 10.0
  score = detection.odin(net, temperature, eta)
  found = jax.jit(jax.grad(lambda x: score(x, weights).sum()))(images)

  def tempered(x):
    return detection.msp(net(x, weights) / temperature)

  @jax.jit
  def of_the_moved(images):
    moved = detection.perturbed(tempered, eta, images)
    return jax.grad(lambda x: tempered(x).sum())(moved)

  expected = of_the_moved(images)
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-8)


def test_detectors_score_images_and_their_surrogates_order_alike(toy):
  images, weights = toy
  found = detection.detectors(net, weights, temperature=100.0, eta=0.01)
  assert set(found) == {
    'msp',
    'odin',
    'energy',
    'max_logit',
    'entropy',
    'oe_score',
  }

  @jax.jit
  def both(images, args):
    return {
      name: (x.score(images, *args), x.surrogate(images, *args))
      for name, x in found.items()
    }

  for name, pair in both(images, found['msp'].args).items():
    order, pushed = np.argsort(pair, -1)
    np.testing.assert_array_equal(order, pushed, err_msg=name)


@pytest.mark.parametrize('score', SCORES.values(), ids=SCORES.keys())
def test_what_is_no_logits_is_refused(score):
  with pytest.raises(ValueError, match=r'logits are \(3,\)'):
    score(jnp.zeros(3))
  with pytest.raises(ValueError, match='two classes'):
    score(jnp.zeros((3, 1)))
  with pytest.raises(ValueError, match='int32'):
    score(jnp.zeros((3, 2), jnp.int32))


def test_bad_temperatures_and_steps_are_refused(toy):
  for temperature in (0, -1, float('nan'), float('inf')):
    with pytest.raises(ValueError, match='temperature='):
      detection.energy(jnp.zeros((1, 2)), temperature)
    with pytest.raises(ValueError, match='temperature='):
      detection.odin(net, temperature)
  for eta in (-0.1, 1.4, float('nan')):
    with pytest.raises(ValueError, match='eta='):
      detection.odin(net, 1.0, eta)(*toy)
