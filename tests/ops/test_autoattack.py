from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlab.ops.apgd import apgd_ce
from jaxlab.ops.attack_loop import Bound
from jaxlab.ops.attack_objectives import cross_entropy
from jaxlab.ops.attacks import fgsm
from jaxlab.ops.autoattack import (
  autoattack_standard,
  batches,
  cascade,
  withstood,
)
from tests.ops.attacked import (
  KEY,
  assert_feasible,
  conv_net,
  linear_net,
  quick_compiles,
  trained,
)

_quick = pytest.fixture(autouse=True, scope='module')(quick_compiles)


def moved(by):
  """An attack that is none: all pixels go by so much."""
  return lambda key, images, ids, labels, *rest: images + by


def steps_net(images, *edges):
  """Class 0 up to .5, class 1 above; undefined where `edges` says so."""
  level = images.mean(1, keepdims=True)
  logits = jnp.concatenate([0.5 - level, level - 0.5], 1)
  for low, high in edges:
    logits = jnp.where((level > low) & (level < high), jnp.nan, logits)
  return logits


def test_the_standard_cascade_finds_what_its_first_attack_finds_and_more():
  x, ids, y, params = trained()
  y = y.at[:3].add(1) % 5  # three images are wrong from the beginning
  found = autoattack_standard(
    conv_net, epsilon=0.1, steps=20, queries=40, batch_size=16
  )(KEY, x, ids, y, params)
  figures = list(found.accuracy.values())
  assert list(found.accuracy) == ['clean', 'apgd_ce', 'apgd_targeted', 'square']
  assert figures[0] == 29 / 32 and figures == sorted(figures, reverse=True)
  assert figures[-1] < 0.8
  right = conv_net(found.images, params).argmax(1) == y
  np.testing.assert_array_equal(found.robust, right)
  assert found.robust.mean() == figures[-1]
  low, high = found.interval()
  assert low < figures[-1] < high
  assert_feasible(x, found.images, 'linf', 0.1)
  # What withstood, and what was wrong before, comes back as it was.
  np.testing.assert_array_equal(found.images[found.robust], x[found.robust])
  np.testing.assert_array_equal(found.images[:3], x[:3])
  alone = apgd_ce(conv_net, epsilon=0.1, steps=20)(
    jax.random.fold_in(KEY, 0), x, ids, y, params
  )
  alone = withstood(conv_net, x, alone, y, params)
  assert abs(float(alone.mean()) - figures[1]) <= 1 / 32


def test_batches_of_any_size_give_the_same_figures():
  x, ids, y, params = trained()
  attack = fgsm(cross_entropy(conv_net), epsilon=0.05)
  found = [
    cascade({'fgsm': attack}, conv_net, batch_size=size)(KEY, x, ids, y, params)
    for size in (5, 32, 100)
  ]
  for other in found[1:]:
    np.testing.assert_array_equal(other.robust, found[0].robust)
    np.testing.assert_allclose(other.images, found[0].images, atol=1e-6)


def test_only_survivors_go_on_in_batches_of_one_shape():
  x, ids, y, params = trained()
  seen = []

  def spy(key, images, labels_ids, labels, params):
    seen.append(np.asarray(labels_ids))
    return images

  halves = {
    'first': lambda key, images, ids, labels, params: jnp.where(
      (ids < 20)[:, None, None, None], 1 - images, images
    ),
    'spy': spy,
  }
  found = cascade(halves, conv_net, batch_size=8)(KEY, x, ids, y, params)
  survivors = np.flatnonzero(found.robust)
  assert 12 <= len(survivors) < 32
  assert {len(batch) for batch in seen} == {8}
  assert set(np.concatenate(seen)) == set(survivors)


def test_each_attack_draws_its_own_numbers():
  x, ids, y, params = trained()
  keys = []

  def attack(key, images, ids, labels, params):
    keys.append(key)
    return images

  cascade({'a': attack, 'b': attack}, conv_net, batch_size=32)(
    KEY, x, ids, y, params
  )
  assert len(keys) == 2 and keys[0] != keys[1]


def test_an_attacked_image_whose_logits_are_not_finite_has_fooled_nobody():
  x, y = jnp.full([4, 3], 0.45), jnp.zeros(4, jnp.int32)
  net = lambda images: steps_net(images, (0.5, 0.6))
  found = cascade({'undefined': moved(0.1)}, net)(KEY, x, jnp.arange(4), y)
  assert found.robust.all() and found.accuracy['undefined'] == 1
  np.testing.assert_array_equal(found.images, x)
  beyond = cascade({'beyond': moved(0.2)}, net)(KEY, x, jnp.arange(4), y)
  assert not beyond.robust.any()
  found = withstood(net, x, x + 0.1, y)
  assert found.all()


@pytest.mark.parametrize(
  'net, message',
  [
    (lambda x: jax.nn.softmax(steps_net(x)), 'probabilities'),
    (lambda x: steps_net(x, (0, 1)), 'NaN or infinite logits on 4 of 4'),
    (lambda x: steps_net(x)[:, 0], 'must return'),
  ],
)
def test_a_network_no_attack_can_judge_is_refused(net, message):
  x, y = jnp.full([4, 3], 0.45), jnp.zeros(4, jnp.int32)
  with pytest.raises(ValueError, match=message):
    cascade({'none': moved(0.0)}, net, batch_size=4)(KEY, x, jnp.arange(4), y)


def test_bad_images_labels_and_options_are_refused():
  x, y = jnp.full([4, 3], 0.45), jnp.zeros(4, jnp.int32)
  run = cascade({'none': moved(0.0)}, steps_net)
  with pytest.raises(ValueError, match='not in'):
    run(KEY, 255 * x, jnp.arange(4), y)
  with pytest.raises(ValueError, match='label 2 at row 0'):
    run(KEY, x, jnp.arange(4), y + 2)
  with pytest.raises(ValueError, match=r'3,. labels for 4 images'):
    run(KEY, x, jnp.arange(4), y[:3])
  with pytest.raises(ValueError, match='at least one attack'):
    cascade({}, steps_net)
  with pytest.raises(ValueError, match='batch_size'):
    cascade({'none': moved(0.0)}, steps_net, batch_size=0)
  with pytest.raises(ValueError, match='8/255'):
    autoattack_standard(steps_net, epsilon=8)
  with pytest.raises(ValueError, match="stage 'fab'"):
    autoattack_standard(steps_net, epsilon=0.1, stages=('apgd_ce', 'fab'))


def test_fewer_than_four_classes_leave_the_targeted_stage_out():
  weights = np.random.default_rng(0).normal(size=(13, 3)).astype(np.float32)
  x = jnp.full([2, 2, 2, 3], 0.5)
  y = linear_net(x, weights).argmax(1)
  args = (KEY, x, jnp.arange(2), y, weights)
  options = {'epsilon': 0.1, 'steps': 3, 'queries': 3, 'batch_size': 2}
  with pytest.raises(ValueError, match=r'have 3; give stages=\(\)'):
    autoattack_standard(linear_net, stages=('apgd_targeted',), **options)(*args)
  # At once: no attack has run.
  with (
    mock.patch.object(Bound, '__call__', side_effect=AssertionError),
    pytest.raises(ValueError, match=r"give stages=\('apgd_ce', 'square'\)"),
  ):
    autoattack_standard(linear_net, **options)(*args)
  found = autoattack_standard(
    linear_net, stages=('apgd_ce', 'square'), **options
  )(*args)
  assert list(found.accuracy) == ['clean', 'apgd_ce', 'square']


def test_batches_are_filled_up_with_their_own_rows():
  cut = list(batches(np.array([3, 5, 8, 9, 11]), 2))
  assert [rows.tolist() for rows, _ in cut] == [[3, 5], [8, 9], [11, 11]]
  assert [real.tolist() for _, real in cut] == [[3, 5], [8, 9], [11]]
  assert list(batches(np.array([], int), 2)) == []
