from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlab.ops.minimal_norm import cw_l2, deepfool
from tests.ops.attacked import (
  KEY,
  accuracy,
  conv_net,
  lengths,
  linear_net,
  quick_compiles,
  trained,
)

_quick = pytest.fixture(autouse=True, scope='module')(quick_compiles)

LONG_CW = partial(cw_l2, steps=150, searches=8)
MAKES = [partial(cw_l2, steps=60, searches=4), deepfool]
NAMES = ['cw_l2', 'deepfool']


def planes(classes, rows=6):
  """Grey images under a linear net, labelled by it, and the distance of each
  to the nearest face of its class in closed form."""
  draw = np.random.default_rng(0)
  x = draw.uniform(0.45, 0.55, (rows, 20)).astype(np.float32)
  weights = draw.normal(size=(21, classes)).astype(np.float32)
  # The images' own plane is moved into their midst, so that all faces are near.
  weights[-1] = draw.normal(0, 0.02, classes) - x.mean(0) @ weights[:-1]
  logits = x.astype(np.float64) @ weights[:-1] + weights[-1]
  labels = logits.argmax(1)
  distance = np.empty(rows)
  for row, y in enumerate(labels):
    others = [k for k in range(classes) if k != y]
    distance[row] = min(
      (logits[row, y] - logits[row, k])
      / np.linalg.norm(weights[:-1, y] - weights[:-1, k])
      for k in others
    )
  return jnp.asarray(x), jnp.asarray(labels), jnp.asarray(weights), distance


@pytest.mark.parametrize('classes', [2, 5])
def test_deepfool_goes_straight_to_the_nearest_face_of_a_linear_net(classes):
  x, y, weights, distance = planes(classes)
  adv = deepfool(linear_net, overshoot=0.02)(KEY, x, jnp.arange(6), y, weights)
  assert (linear_net(adv, weights).argmax(1) != y).all()
  # One step of the overshoot's length; logits are rounded to about 1e-6.
  np.testing.assert_allclose(
    lengths(x, adv, 'l2'), 1.02 * distance, rtol=1e-3, atol=2e-6
  )


def test_cw_finds_an_image_about_as_near_as_the_nearest_face():
  x, y, weights, distance = planes(5)
  attack = cw_l2(linear_net, steps=300, searches=9, learning_rate=0.002)
  adv = attack(KEY, x, jnp.arange(6), y, weights)
  assert (linear_net(adv, weights).argmax(1) != y).all()
  found = lengths(x, adv, 'l2')
  # Never nearer than the face (but for rounding). Adam swings around the face
  # by steps of about its rate times sqrt(20) / 2 in pixels.
  assert (found >= distance - 2e-6).all()
  assert (found <= 1.1 * distance + 0.005).all()


@pytest.mark.parametrize(
  'make',
  [
    pytest.param(LONG_CW, marks=pytest.mark.slow),
    deepfool,
  ],
  ids=NAMES,
)
def test_images_of_a_net_are_fooled_nearby_and_inside_the_image_range(make):
  x, ids, y, params = trained()
  adv = make(conv_net)(KEY, x, ids, y, params)
  assert adv.dtype == jnp.float32 and adv.shape == x.shape
  assert adv.min() >= 0 and adv.max() <= 1
  assert accuracy(conv_net, adv, y, params) < 0.1
  assert np.median(lengths(x, adv, 'l2')) < 1.5


@pytest.mark.parametrize('make', MAKES, ids=NAMES)
def test_an_image_that_is_misclassified_already_comes_back_as_it_was(make):
  x, y, weights, _ = planes(3)
  wrong = (y + 1) % 3
  adv = make(linear_net)(KEY, x, jnp.arange(6), wrong, weights)
  chex.assert_trees_all_equal(adv, x)


@pytest.mark.parametrize('make', MAKES, ids=NAMES)
def test_an_image_that_cannot_be_fooled_comes_back_as_it_was(make):
  x, y = planes(3)[:2]
  constant = lambda images: jax.nn.one_hot(y, 3) + 0 * images[:, :1]
  chex.assert_trees_all_equal(make(constant)(KEY, x, jnp.arange(6), y), x)


@pytest.mark.parametrize('make', [LONG_CW, deepfool], ids=NAMES)
def test_logits_that_are_not_finite_are_no_success(make):
  x, y, weights, _ = planes(2)

  def net(images):  # defined on the right side of the face alone
    logits = linear_net(images, weights)
    own = jnp.take_along_axis(logits, y[:, None], 1)
    return jnp.where((logits > own).any(1, keepdims=True), jnp.nan, logits)

  adv = make(net)(KEY, x, jnp.arange(6), y)
  chex.assert_trees_all_equal(adv, x)


def test_a_confidence_is_the_least_margin_of_what_is_found():
  x, y, weights, _ = planes(2)
  attack = cw_l2(linear_net, steps=150, searches=8, confidence=0.3)
  logits = linear_net(attack(KEY, x, jnp.arange(6), y, weights), weights)
  own = jnp.take_along_axis(logits, y[:, None], 1)[:, 0]
  gap = logits.max(1) - own
  assert (gap > 0.3 - 1e-6).all() and (gap < 0.6).all()


@pytest.mark.parametrize('make', MAKES, ids=NAMES)
def test_rows_and_loops_do_not_matter(make):
  x, y, weights, _ = planes(5)
  whole = make(linear_net)(KEY, x, jnp.arange(6), y, weights)
  alone = make(linear_net)(KEY, x[2:3], jnp.arange(1), y[2:3], weights)
  looped = make(linear_net, unroll=False)(KEY, x, jnp.arange(6), y, weights)
  # Adam divides by gradients' sizes, so that rounding grows over its steps.
  np.testing.assert_allclose(alone, whole[2:3], atol=1e-3)
  np.testing.assert_allclose(looped, whole, atol=1e-3)


@pytest.mark.parametrize('make', MAKES, ids=NAMES)
def test_nothing_is_traced_again(make):
  x, y, weights, _ = planes(5)
  traces = []

  def net(images, weights):
    traces.append(images)
    return linear_net(images, weights)

  attack = make(net)
  attack(KEY, x, jnp.arange(6), y, weights)
  first = len(traces)
  attack(KEY, x + 0.01, jnp.arange(6), y, weights)
  assert 0 < first == len(traces) <= 4


@pytest.mark.parametrize(
  'make, options, message',
  [
    (cw_l2, {'steps': 0}, 'steps'),
    (cw_l2, {'searches': 0}, 'searches'),
    (cw_l2, {'learning_rate': 0.0}, 'learning_rate'),
    (cw_l2, {'initial_c': float('inf')}, 'initial_c'),
    (cw_l2, {'confidence': -1.0}, 'confidence'),
    (deepfool, {'steps': 0}, 'steps'),
    (deepfool, {'classes': 1}, 'classes'),
    (deepfool, {'overshoot': -0.1}, 'overshoot'),
  ],
)
def test_bad_options_are_refused(make, options, message):
  with pytest.raises(ValueError, match=message):
    make(linear_net, **options)


@pytest.mark.parametrize('make', MAKES, ids=NAMES)
def test_bad_images_and_logits_are_refused(make):
  x, y, weights, _ = planes(2)
  with pytest.raises(ValueError, match='not in'):
    make(linear_net)(KEY, 255 * x, jnp.arange(6), y, weights)
  with pytest.raises(ValueError, match='must return'):
    make(lambda x: x.sum(1))(KEY, x, jnp.arange(6), y)
