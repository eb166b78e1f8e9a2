import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlab.ops.attack_objectives import margin
from jaxlab.ops.square import bump, share, square
from tests.ops.attacked import (
  KEY,
  accuracy,
  assert_feasible,
  assert_rows_agree,
  conv_net,
  lengths,
  quick_compiles,
  sharded,
  trained,
)

_quick = pytest.fixture(autouse=True, scope='module')(quick_compiles)


@jax.custom_jvp
def brightness(images):
  return images.sum((1, 2, 3))


@brightness.defjvp
def _(primals, tangents):
  raise AssertionError('a black-box attack took a gradient')


@pytest.mark.parametrize('norm, epsilon', [('linf', 0.1), ('l2', 1.2)])
def test_the_accuracy_of_an_easily_fooled_net_falls(norm, epsilon):
  x, ids, y, params = trained()
  attack = square(
    margin(conv_net), epsilon=epsilon, norm=norm, steps=300, stop_above=0.0
  )
  adv = attack(KEY, x, ids, y, params)
  assert_feasible(x, adv, norm, epsilon)
  assert accuracy(conv_net, x, y, params) == 1
  assert accuracy(conv_net, adv, y, params) < 0.7


@pytest.mark.parametrize(
  'norm, epsilon', [('linf', 8 / 255), ('l2', 1 / 255), ('l2', 0.5)]
)
def test_no_query_is_outside_of_the_ball(norm, epsilon):
  draw = np.random.default_rng(0)
  x = draw.uniform(-0.5, 1.5, (3, 9, 7, 2)).clip(0, 1).astype(np.float32)
  seen = []

  def objective(images):
    jax.debug.callback(lambda images: seen.append(np.array(images)), images)
    return images.sum((1, 2, 3))

  attack = square(objective, epsilon=epsilon, norm=norm, steps=12)
  attack(KEY, x, jnp.arange(3))
  jax.effects_barrier()
  assert len(seen) == 13
  for images in seen:
    assert_feasible(x, images, norm, epsilon)
  if norm == 'l2':  # the queries use the budget, but for what [0, 1] cuts off
    assert min(lengths(x, images, norm).min() for images in seen) > epsilon / 3


def test_no_gradient_is_taken_and_the_objective_only_rises():
  x = jnp.full([4, 8, 8, 3], 0.5)
  values = [
    brightness(
      square(brightness, epsilon=0.1, steps=steps)(KEY, x, jnp.arange(4))
    )
    for steps in (20, 200)
  ]
  assert (values[1] > values[0]).all()
  # The best of all is x + .1 everywhere.
  assert (values[1] <= brightness(x + 0.1) + 1e-3).all()
  assert values[1].mean() > brightness(x + 0.06).mean()


def test_rows_above_the_threshold_are_left_alone():
  x = jnp.full([8, 6, 6, 1], 0.5)
  limit = 18.9  # of 18 at first; values are .2 apart, 18.8, 19, …
  options = {'epsilon': 0.1, 'steps': 60}
  found = brightness(
    square(brightness, stop_above=limit, **options)(KEY, x, jnp.arange(8))
  )
  further = brightness(square(brightness, **options)(KEY, x, jnp.arange(8)))
  assert (found > limit).all()
  assert (further > found + 0.5).any()
  # Looped, where nothing ends early, the images are the same.
  looped = square(brightness, stop_above=limit, unroll=False, **options)
  np.testing.assert_allclose(
    brightness(looped(KEY, x, jnp.arange(8))), found, rtol=1e-5
  )


@pytest.mark.parametrize('norm', ['linf', 'l2'])
def test_rows_do_not_depend_on_place_batch_size_or_devices(norm):
  x, ids, y, params = trained()
  attack = square(margin(conv_net), epsilon=0.1, norm=norm, steps=10)
  whole = attack(KEY, x, ids, y, params)
  order = np.random.default_rng(0).permutation(32)
  turned = attack(KEY, x[order], ids[order], y[order], params)
  assert_rows_agree(turned, whole[order], 0.1)
  if norm == 'linf':
    return  # one norm tells of the batch's size and of devices
  one = slice(17, 18)
  alone = attack(KEY, x[one], ids[one], y[one], params)
  assert_rows_agree(alone, whole[one], 0.1)
  spread = attack(KEY, *sharded(x, ids, y), params)
  assert_rows_agree(spread, whole, 0.1)


def test_one_trace_serves_all_steps_and_calls():
  x, ids, y, params = trained()

  @chex.assert_max_traces(n=3)  # to find labels; the start and the step
  def objective(images, labels, params):
    return margin(conv_net)(images, labels, params)

  attack = square(objective, epsilon=0.1, steps=30, restarts=2)
  for seed in range(2):
    attack(jax.random.key(seed), x, ids, y, params)


def test_restarts_keep_the_best_of_all_runs():
  x = jnp.full([16, 6, 6, 2], 0.5)
  values = [
    brightness(
      square(brightness, epsilon=0.1, steps=5, restarts=restarts)(
        KEY, x, jnp.arange(16)
      )
    )
    for restarts in (1, 3)
  ]
  assert (values[1] >= values[0]).all() and (values[1] > values[0]).any()


def test_an_objective_that_is_not_finite_is_never_adopted():
  def objective(images, bad):
    rise = images.sum((1, 2, 3))
    return jnp.where(rise > 18.5, bad, rise)

  x = jnp.stack([jnp.full([6, 6, 1], 0.5), jnp.full([6, 6, 1], 0.95)])
  attack = square(objective, epsilon=0.1, steps=40)
  for bad in map(jnp.float32, (jnp.nan, jnp.inf)):
    adv = attack(KEY, x, jnp.arange(2), bad)
    assert jnp.isfinite(objective(adv[:1], bad)).all()
    chex.assert_trees_all_equal(adv[1], x[1])


def test_the_share_of_pixels_halves_as_in_the_paper():
  shares = [share(0.8, i, 10_000) for i in range(10_000)]
  bounds = [10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000]
  falls = [i for i in range(1, 10_000) if shares[i] < shares[i - 1]]
  assert falls == [bound + 1 for bound in bounds]
  assert shares[0] == 0.8 and shares[-1] == 0.8 / 2**9
  # A run of another length has the same schedule, stretched.
  assert share(0.8, 250, 500) == shares[5000]


@pytest.mark.parametrize('size', [1, 2, 3, 5, 9])
def test_a_bump_has_norm_one_and_two_signs(size):
  pattern = bump(size)
  assert pattern.shape == (size, size)
  assert np.linalg.norm(pattern) == pytest.approx(1, abs=1e-6)
  if size > 1:
    half = size // 2
    assert (pattern[:half] > 0).all() and (pattern[half:] < 0).all()


@pytest.mark.parametrize(
  'options, message',
  [
    ({'epsilon': 8}, '8/255'),
    ({'epsilon': 0.1, 'norm': 'l1'}, 'none of'),
    ({'epsilon': 0.1, 'steps': 0}, 'steps'),
    ({'epsilon': 0.1, 'restarts': 0}, 'restarts'),
    ({'epsilon': 0.1, 'p_init': 0.0}, 'p_init'),
    ({'epsilon': 0.1, 'p_init': 1.5}, 'p_init'),
  ],
)
def test_bad_options_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    square(brightness, **options)


def test_what_is_no_image_is_refused():
  with pytest.raises(ValueError, match='b, h, w, c'):
    square(brightness, epsilon=0.1)(KEY, jnp.full([2, 9], 0.5), jnp.arange(2))
