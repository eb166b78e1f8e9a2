"""AdvGAN's functions beside values worked out by hand and by NumPy."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlab.papers.advgan import method

LOGITS = np.array(
  [[2.0, 5.0, 1.0], [0.5, -1.0, 0.25], [3.0, 3.0, -2.0]], np.float32
)


def _log_softmax(z):
  z = z.astype(np.float64)
  return z - np.log(np.exp(z).sum(-1, keepdims=True))


@pytest.mark.parametrize(
  ('targeted', 'kappa', 'wanted'),
  [
    # max_{i≠l} z_i - z_l of labels 0, 0, 2 is 3, -.25, 5
    (True, 0.0, [3.0, 0.0, 5.0]),
    (True, 0.2, [3.0, -0.2, 5.0]),
    (True, 1.0, [3.0, -0.25, 5.0]),
    (False, 0.0, [0.0, 0.25, 0.0]),
    (False, 4.0, [-3.0, 0.25, -4.0]),
  ],
)
def test_margin_loss_by_hand(targeted, kappa, wanted):
  found = method.adversarial_loss(
    LOGITS, jnp.array([0, 0, 2]), targeted=targeted, kappa=kappa
  )
  np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_cross_entropy_loss_pulls_to_targets_and_pushes_from_labels():
  labels = np.array([0, 1, 2])
  log_p = _log_softmax(LOGITS)[np.arange(3), labels]
  for targeted, sign in ((True, -1), (False, 1)):
    found = method.adversarial_loss(
      LOGITS, jnp.array(labels), kind='ce', targeted=targeted
    )
    np.testing.assert_allclose(found, sign * log_p, rtol=1e-5)


def test_margins_are_of_logits_and_not_of_probabilities():
  # Shifting logits changes no margin, scaling scales it: a softmax would not.
  of = lambda z: method.adversarial_loss(z, jnp.array([0, 2, 2]))
  chex.assert_trees_all_close(of(LOGITS + 7), of(LOGITS), atol=1e-5)
  chex.assert_trees_all_close(of(10 * LOGITS), 10 * of(LOGITS), rtol=1e-6)


@pytest.mark.parametrize(
  ('kwargs', 'words'), [({'kind': 'l2'}, 'none of cw'), ({'kappa': -1}, '>= 0')]
)
def test_adversarial_loss_names_what_is_wrong(kwargs, words):
  with pytest.raises(ValueError, match=words):
    method.adversarial_loss(LOGITS, jnp.array([0, 1, 2]), **kwargs)


def test_games_by_hand():
  d = np.array([-1.5, 0.0, 2.0], np.float32)
  squares = method.gan_terms('lsgan')
  np.testing.assert_allclose(squares.real(d), (d - 1) ** 2 / 2)
  np.testing.assert_allclose(squares.fake(d), d**2 / 2)
  np.testing.assert_allclose(squares.generator(d), (d - 1) ** 2 / 2)
  p = 1 / (1 + np.exp(-d.astype(np.float64)))
  logs = method.gan_terms('vanilla')
  np.testing.assert_allclose(logs.real(d), -np.log(p), rtol=1e-6)
  np.testing.assert_allclose(logs.fake(d), -np.log(1 - p), rtol=1e-6)
  np.testing.assert_allclose(logs.generator(d), np.log(1 - p), rtol=1e-6)
  with pytest.raises(ValueError, match='none of vanilla'):
    method.gan_terms('wgan')


def test_hinge_is_of_the_whole_image_by_hand():
  # |(3, 4, 0, 0)| = 5, |0| = 0, |(.6, .8, 0, 0)| = 1
  p = np.zeros((3, 1, 2, 2), np.float32)
  p[0, 0, 0], p[2, 0, 1] = (3, 4), (0.6, 0.8)
  np.testing.assert_allclose(method.hinge(p, 1.5), [3.5, 0, 0], atol=1e-6)
  slope = jax.grad(lambda x: method.hinge(x, 0.0).sum())(jnp.asarray(p))
  np.testing.assert_allclose(slope[0, 0, 0], [0.6, 0.8], rtol=1e-6)
  assert not np.any(slope[1])  # and no NaN at a perturbation of 0
  with pytest.raises(ValueError, match='c must be >= 0'):
    method.hinge(p, -1.0)


@pytest.mark.parametrize('epsilon', [0.3, 8 / 255, 0.1])
@pytest.mark.parametrize('kind', ['tanh', 'clip'])
def test_images_stay_in_ball_and_range_after_rounding(epsilon, kind):
  rng = np.random.default_rng(0)
  x = rng.random((64, 5, 5, 3)).astype(np.float32)
  x[:8], x[8:16] = 0.0, 1.0
  raw = rng.normal(0, 5, x.shape).astype(np.float32)
  p = method.bounded(raw, epsilon, kind)
  assert np.abs(np.asarray(p, np.float64)).max() <= epsilon
  y = np.asarray(method.project(x, p, epsilon), np.float64)
  assert np.abs(y - x).max() <= epsilon  # exactly, in float64
  assert y.min() >= 0 and y.max() <= 1
  inside = np.clip(x + np.asarray(p), 0, 1)
  np.testing.assert_allclose(y, inside, atol=1e-6)


def test_tanh_has_a_gradient_everywhere_and_clip_has_not():
  slope = lambda kind: jax.grad(lambda x: method.bounded(x, 0.3, kind))(0.5)
  assert slope('tanh') > 0.1
  assert slope('clip') == 0


def test_budgets_in_grey_levels_are_refused():
  x = np.zeros((1, 2, 2, 1), np.float32)
  for call in (method.bounded, lambda x, e: method.project(x, x, e)):
    with pytest.raises(ValueError, match='8/255'):
      call(x, 8.0)
  with pytest.raises(ValueError, match='none of tanh'):
    method.bounded(x, 0.3, 'sigmoid')


def test_generator_loss_weighs_its_parts():
  found = method.generator_loss(
    np.ones(2), np.full(2, 10.0), np.full(2, 100.0), alpha=0.5, beta=0.25
  )
  np.testing.assert_allclose(found, 1 + 5 + 25)


def test_distillation_is_cross_entropy_against_the_answers():
  b = np.array([[0.2, 0.5, 0.3], [1, 0, 0], [0, 0.5, 0.5]])
  np.testing.assert_allclose(
    method.distillation(LOGITS, b), -(b * _log_softmax(LOGITS)).sum(-1), 1e-6
  )
  # Least where the student says what the black box does.
  own = np.exp(_log_softmax(LOGITS))
  slope = jax.grad(lambda z: method.distillation(z, own).sum())(LOGITS)
  np.testing.assert_allclose(slope, 0, atol=1e-6)


def test_targets_are_even_among_other_classes_and_of_the_id_alone():
  labels = jnp.repeat(jnp.arange(5), 400)
  ids = jnp.arange(2000)
  found = np.asarray(method.targets(jax.random.key(3), ids, labels, 5))
  assert not (found == np.asarray(labels)).any()
  counts = np.bincount(5 * np.asarray(labels) + found, minlength=25)
  others = counts.reshape(5, 5)[~np.eye(5, dtype=bool)]
  # Each count is binomial(400, 1/4): mean 100, deviation 8.7.
  assert others.min() > 60 and others.max() < 140
  back = slice(None, None, -1)
  again = method.targets(jax.random.key(3), ids[back], labels[back], 5)
  np.testing.assert_array_equal(again[back], found)


def test_success_counts_images_that_were_right_alone():
  eye = np.eye(3, dtype=np.float32)
  clean, attacked = eye[[0, 0, 1, 2, 2]], eye[[1, 1, 1, 0, 1]]
  labels = jnp.array([0, 1, 1, 2, 2])
  hits, counted = method.succeeded(clean, attacked, labels)
  assert counted.tolist() == [True, False, True, True, True]
  assert hits.tolist() == [True, False, False, True, True]
  aims = jnp.array([1, 1, 1, 1, 1])
  hits, counted = method.succeeded(clean, attacked, labels, aims)
  assert counted.tolist() == [True, False, False, True, True]
  assert hits.tolist() == [True, False, False, False, True]
