import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlab.ops import attack_loop, attack_objectives
from jaxlab.ops.apgd import apgd_ce, apgd_targeted
from jaxlab.ops.attack_objectives import (
  cross_entropy,
  dlr,
  margin,
  misclassified,
  targeted_cross_entropy,
  targeted_dlr,
)
from jaxlab.ops.attack_steps import make_ball
from jaxlab.ops.attacks import fgsm, in_chunks, mim, pgd
from jaxlab.ops.minimal_norm import cw_l2, deepfool
from jaxlab.ops.square import square
from tests.ops.attacked import (
  KEY,
  assert_feasible,
  assert_rows_agree,
  bfloat16_net,
  conv_net,
  lengths,
  optimised,
  quick_compiles,
  sharded,
  trained,
)

_quick = pytest.fixture(autouse=True, scope='module')(quick_compiles)

EPSILONS = [1 / 255, 2 / 255, 8 / 255, 0.1, 0.3, 0.5]


def projection(images, weights):
  """-w · x of each row: the best perturbation is known."""
  return -(images.reshape(len(images), -1) @ weights)


def flat(images, *args):
  """An objective without slope: what comes back is where a run started."""
  return 0.0 * images.sum(range(1, images.ndim))


def grey(rows=4, shape=(6, 6, 3)):
  """Images far enough from 0 and 1 that [0, 1] cuts nothing."""
  draw = np.random.default_rng(1)
  return jnp.asarray(draw.uniform(0.4, 0.6, (rows, *shape)), jnp.float32)


def edges(rows=6, shape=(8, 8, 2)):
  """Images with many pixels at and close to 0 and 1."""
  draw = np.random.default_rng(2)
  x = draw.uniform(-0.5, 1.5, (rows, *shape)).clip(0, 1).astype(np.float32)
  x[0], x[1] = 0, 1
  x[2] = np.nextafter(np.float32(1), np.float32(0))
  return jnp.asarray(x)


@pytest.mark.parametrize(
  'make', [fgsm, pgd, mim], ids=lambda make: make.__name__
)
def test_a_linear_objective_falls_by_epsilon_times_the_l1_norm(make):
  weights = jax.random.normal(KEY, [6 * 6 * 3])
  x, ids = grey(), jnp.arange(4)
  adv = make(projection, epsilon=0.05)(KEY, x, ids, weights)
  gain = projection(adv, weights) - projection(x, weights)
  # A float32 sum of 108 terms.
  np.testing.assert_allclose(gain, 0.05 * abs(weights).sum(), rtol=1e-5)


@pytest.mark.parametrize(
  'make, options',
  # A step as long as the radius halves what is left of the random start.
  [(fgsm, {}), (pgd, {'steps': 30, 'step_size': 0.2}), (mim, {})],
  ids=['fgsm', 'pgd', 'mim'],
)
def test_an_l2_perturbation_has_norm_epsilon_along_the_gradient(make, options):
  weights = jax.random.normal(KEY, [6 * 6 * 3])
  x = grey()
  attack = make(projection, epsilon=0.2, norm='l2', **options)
  adv = attack(KEY, x, jnp.arange(4), weights)
  np.testing.assert_allclose(lengths(x, adv, 'l2'), 0.2, rtol=1e-5)
  best = -0.2 * weights / jnp.linalg.norm(weights)
  # The objective is flat around its top: rounded to 2^-23 it cannot tell
  # directions apart that differ by the root of that.
  np.testing.assert_allclose(
    (adv - x).reshape(4, -1), np.tile(best, (4, 1)), atol=0.2 * 2**-11.5
  )


def test_fgsm_is_one_signed_step_cut_to_the_image_range():
  x, ids, y, params = trained()
  objective = cross_entropy(conv_net)
  adv = fgsm(objective, epsilon=0.1)(KEY, x, ids, y, params)
  slope = jax.grad(lambda x: objective(x, y, params).sum())(x)
  expected = jnp.clip(x + 0.1 * jnp.sign(slope), 0, 1)
  np.testing.assert_allclose(adv, expected, atol=1e-7)


@pytest.mark.parametrize(
  'make, norm, epsilon',
  [
    (pgd, 'linf', 8 / 255),
    (pgd, 'l2', 1 / 255),
    pytest.param(pgd, 'l2', 0.5, marks=pytest.mark.slow),
    (fgsm, 'linf', 8 / 255),
    (fgsm, 'l2', 8 / 255),
    (mim, 'linf', 8 / 255),
    pytest.param(mim, 'l2', 8 / 255, marks=pytest.mark.slow),
  ],
)
def test_perturbations_stay_in_the_ball_after_rounding(make, norm, epsilon):
  weights = jax.random.normal(KEY, [128])
  x, ids = edges(), jnp.arange(6)
  steps = {} if make is fgsm else {'steps': 3}
  attack = jax.jit(make(projection, epsilon=epsilon, norm=norm, **steps))
  with optimised():
    adv = attack(KEY, x, ids, weights)
  assert_feasible(x, adv, norm, epsilon)


def test_the_model_may_compute_in_bfloat16():
  x, ids, y, params = trained()
  attack = pgd(cross_entropy(bfloat16_net), epsilon=1 / 255)
  with optimised():
    adv = attack(KEY, x, ids, y, params)
  assert_feasible(x, adv, 'linf', 1 / 255)
  # bfloat16 pixels above .5 are 1/256 apart; the images move by less.
  assert (adv != x).mean() > 0.9


def test_a_ball_holds_for_every_float32_near_its_border():
  draw = np.random.default_rng(0)
  x = draw.random((1, 200_000)).astype(np.float32)
  for epsilon in EPSILONS:
    ball = make_ball('test', 'linf', epsilon)
    with optimised():
      low, high = jax.jit(ball.box)(jnp.asarray(x))
    clean = x.astype(np.float64)
    assert (np.asarray(high, np.float64) - clean).max() <= epsilon
    assert (clean - np.asarray(low, np.float64)).max() <= epsilon
    # Not more than a unit in the last place was given away.
    wide = np.minimum(clean + epsilon, 1) - np.asarray(high, np.float64)
    assert wide.max() <= 2.0**-23


def test_a_random_start_of_one_grey_level_moves_every_pixel():
  x = grey(32)
  attack = pgd(flat, epsilon=1 / 255, steps=1, keep='last')
  start = np.asarray(attack(KEY, x, jnp.arange(32)) - x)
  assert (start != 0).mean() > 0.99
  # Even over [-e, e]: mean 0, mean size e/2; 3456 draws, four deviations.
  assert abs(start.mean()) < 4 / 255 / np.sqrt(3 * start.size)
  assert abs(start).mean() * 255 == pytest.approx(
    0.5, abs=4 / np.sqrt(12 * start.size)
  )


def test_an_l2_start_is_even_in_the_ball():
  x = grey(400, (2, 2, 1))
  attack = pgd(flat, epsilon=0.1, norm='l2', steps=1, keep='last')
  start = np.asarray(attack(KEY, x, jnp.arange(400)) - x)
  volume = (lengths(x, x + start, 'l2') / 0.1) ** 4
  # The share of the ball's volume inside a point is uniform on [0, 1].
  assert abs(volume.mean() - 0.5) < 4 / np.sqrt(12 * 400)
  assert abs((volume < 0.25).mean() - 0.25) < 4 * np.sqrt(0.1875 / 400)
  assert abs(start.mean((0, 3))).max() < 0.01


def test_rows_do_not_depend_on_batch_size_place_or_devices():
  x, ids, y, params = trained()
  attack = pgd(cross_entropy(conv_net), epsilon=0.1, steps=5)
  whole = attack(KEY, x, ids, y, params)
  for row in (0, 17):
    one = slice(row, row + 1)
    alone = attack(KEY, x[one], ids[one], y[one], params)
    assert_rows_agree(alone, whole[one], 0.05)
  order = np.random.default_rng(0).permutation(32)
  turned = attack(KEY, x[order], ids[order], y[order], params)
  assert_rows_agree(turned, whole[order], 0.05)
  spread = attack(KEY, *sharded(x, ids, y), params)
  assert len(spread.sharding.device_set) == 8
  assert_rows_agree(spread, whole, 0.05)


def test_other_ids_draw_other_starts():
  x = grey()
  attack = pgd(flat, epsilon=0.1, steps=1, keep='last')
  first = attack(KEY, x, jnp.arange(4))
  assert (first != attack(KEY, x, jnp.arange(4) + 4)).mean() > 0.99


@pytest.mark.parametrize('make', [pgd, mim], ids=lambda make: make.__name__)
def test_an_objective_that_is_not_finite_is_never_adopted(make):
  def objective(images, bad):
    rise = images.sum(range(1, images.ndim))
    return jnp.where(rise > 54.5, bad, rise)

  x = jnp.full([3, 6, 6, 3], 0.5).at[2].set(0.9)  # 54, 54, 97.2
  attack = make(objective, epsilon=0.1, steps=8, step_size=0.002)
  for bad in map(jnp.float32, (jnp.nan, jnp.inf, -jnp.inf)):
    adv = attack(KEY, x, jnp.arange(3), bad)
    assert jnp.isfinite(objective(adv[:2], bad)).all()
    assert (objective(adv[:2], bad) > 54).all()
    chex.assert_trees_all_equal(adv[2], x[2])  # bad wherever one looks


@pytest.mark.parametrize('norm', ['linf', 'l2'])
def test_a_gradient_that_is_not_finite_counts_as_zero(norm):
  def objective(images):  # the slope of the root at 0 is infinite
    return jnp.sqrt(images[:, 0]) + images[:, 1]

  x = jnp.array([[0.0, 0.5]])
  adv = fgsm(objective, epsilon=0.1, norm=norm)(KEY, x, jnp.arange(1))
  np.testing.assert_allclose(adv, [[0.0, 0.6]], atol=1e-6)


def test_jitted_looped_and_unrolled_attacks_agree():
  x, ids, y, params = trained()
  args = (KEY, x[:8], ids[:8], y[:8], params)
  options = {'epsilon': 0.1, 'norm': 'l2', 'steps': 2, 'restarts': 2}
  one, other = (
    mim(cross_entropy(conv_net), unroll=unroll, random_start=True, **options)
    for unroll in (True, False)
  )
  expected = one(*args)
  for found in (jax.jit(one)(*args), other(*args)):
    assert_rows_agree(found, expected, 0.1)


def test_one_trace_serves_all_eager_calls():
  x, ids, y, params = trained()

  # One to find the labels, one of the value and its gradient, one of the last
  # value.
  @chex.assert_max_traces(n=3)
  def objective(images, labels, params):
    return cross_entropy(conv_net)(images, labels, params)

  attack = pgd(objective, epsilon=0.1, steps=7, restarts=2)
  for seed in range(3):
    attack(jax.random.key(seed), x, ids, y, params)


def test_the_best_image_is_returned_and_not_the_last():
  def objective(images):  # a step of .1 from .5 overshoots the top at .55
    return -abs(images - 0.55).sum(1)

  x = jnp.full([1, 4], 0.5)
  steps = {'epsilon': 0.3, 'step_size': 0.1, 'random_start': False}
  best = pgd(objective, steps=3, **steps)(KEY, x, jnp.arange(1))
  last = pgd(objective, steps=3, keep='last', **steps)(KEY, x, jnp.arange(1))
  assert objective(best) >= objective(last) and objective(best) >= objective(x)
  np.testing.assert_allclose(last, 0.6, atol=1e-6)


def test_restarts_and_the_start_itself_never_make_it_worse():
  x, ids, y, params = trained()
  objective = cross_entropy(conv_net)
  values = [
    objective(
      pgd(objective, epsilon=0.1, steps=3, restarts=restarts)(
        KEY, x, ids, y, params
      ),
      y,
      params,
    )
    for restarts in (1, 3)
  ]
  assert (values[1] >= values[0] - 1e-4).all()
  assert (values[1] > values[0]).any()


def test_no_gradient_flows_through_an_attack():
  x, ids, y, params = trained()
  attack = pgd(cross_entropy(conv_net), epsilon=0.1, steps=2)

  def total(params, images):
    return attack(KEY, images, ids, y, params).sum()

  slopes = jax.grad(total, (0, 1))(params, x)
  assert all(not leaf.any() for leaf in jax.tree.leaves(slopes))


@pytest.mark.parametrize('norm', ['linf', 'l2'])
def test_the_faintest_slope_is_followed_and_none_at_all_moves_nothing(norm):
  def objective(images):
    return 1e-30 * images[:, 0]

  x = jnp.full([1, 4], 0.5)
  with optimised():
    adv = fgsm(objective, epsilon=0.1, norm=norm)(KEY, x, jnp.arange(1))
    still = fgsm(flat, epsilon=0.1, norm=norm)(KEY, x, jnp.arange(1))
  np.testing.assert_allclose(adv, [[0.6, 0.5, 0.5, 0.5]], atol=1e-6)
  chex.assert_trees_all_equal(still, x)


def test_momentum_of_none_is_plain_gradient_ascent():
  x, ids, y, params = trained()
  objective = cross_entropy(conv_net)
  same = {'epsilon': 0.1, 'steps': 4, 'step_size': 0.03}
  plain = pgd(objective, random_start=False, **same)(KEY, x, ids, y, params)
  without = mim(objective, decay=0.0, **same)(KEY, x, ids, y, params)
  assert_rows_agree(without, plain, 0.03)
  with_it = mim(objective, decay=1.0, **same)(KEY, x, ids, y, params)
  assert (abs(with_it - plain) > 1e-3).mean() > 0.01


def test_momentum_sums_gradients_of_unit_l1_norm():
  def objective(images):  # slopes 1 and -3: of unit size 1/4 and -3/4 …
    return jnp.where(images[:, 0] < 0.52, images @ down, images @ up)

  down, up = jnp.array([1.0, -3.0]), jnp.array([-20.0, 0.0])  # … then -1 and 0
  x = jnp.full([1, 2], 0.5)
  same = {'epsilon': 0.3, 'step_size': 0.03, 'keep': 'last'}
  adv = mim(objective, steps=2, **same)(KEY, x, jnp.arange(1))
  # Step 1 goes (+, -); the sum after step 2 is (1/4 - 1, -3/4): (-, -).
  np.testing.assert_allclose(adv, [[0.5, 0.44]], atol=1e-6)


def test_a_budget_of_zero_returns_the_images():
  x, ids, y, params = trained()
  for make in (fgsm, pgd, mim):
    adv = make(cross_entropy(conv_net), epsilon=0)(KEY, x, ids, y, params)
    chex.assert_trees_all_equal(adv, x)


@pytest.mark.parametrize('count, programs', [(1, 1), (7, 7), (12, 3), (10, 2)])
def test_steps_run_in_order_a_few_in_a_program(monkeypatch, count, programs):
  monkeypatch.setattr(attack_loop, 'TOGETHER', 5)
  digits = lambda total, i, base: total * base + i
  steps = attack_loop.Steps(digits)
  base, start = jnp.float32(1.5), jnp.float32(0)
  expected = functools.reduce(lambda total, i: total * 1.5 + i, range(count), 0)
  calls = []
  several = steps._several
  steps._several = lambda *args: calls.append(args) or several(*args)
  for unrolled in (True, False):
    found = steps.run(start, count, base, unrolled=unrolled)
    assert found == pytest.approx(expected, rel=1e-6)
  assert len(calls) == programs


def test_steps_end_early_where_nothing_changes_any_more():
  steps = attack_loop.Steps(lambda total, i: jnp.minimum(total + 1, 3), True)
  looks = []
  done = lambda total: looks.append(total) or total == 3
  total = steps.run(jnp.int32(0), 100, unrolled=True, done=done)
  assert total == 3 and len(looks) == 2


def test_chunks_of_rows_give_the_same_images_with_one_program():
  x, ids, y, params = trained()
  shapes = []

  def objective(images, labels, params):
    shapes.append(images.shape)
    return cross_entropy(conv_net)(images, labels, params)

  attack = pgd(objective, epsilon=0.1, steps=5)
  whole = attack(KEY, x, ids, y, params)
  for rows in (5, 32, 50):
    shapes.clear()
    found = in_chunks(attack, rows)(KEY, x, ids, y, params)
    assert_rows_agree(found, whole, 0.05)
    assert {shape[0] for shape in shapes} == ({5} if rows == 5 else set())
    assert len(shapes) <= 2


def test_chunks_know_which_arguments_have_rows():
  tilt = jnp.arange(4.0)[:, None] - 1.5  # of four rows; and a weight of four

  def objective(images, tilt, weight):
    return (images * tilt * weight).sum(1)

  x = jnp.full([4, 4], 0.5)
  args = (KEY, x, jnp.arange(4), tilt, jnp.array([1.0, -1.0, 1.0, -1.0]))
  attack = fgsm(objective, epsilon=0.1)
  chex.assert_trees_all_equal(in_chunks(attack, 2)(*args), attack(*args))
  with pytest.raises(ValueError, match='row_args'):
    in_chunks(attack, 2, row_args=-1)
  with pytest.raises(ValueError, match='rows'):
    in_chunks(attack, 0)
  with pytest.raises(ValueError, match='not in'):
    in_chunks(attack, 2)(KEY, x + 1, *args[2:])


@pytest.mark.parametrize(
  'options, message',
  [
    ({'epsilon': 8}, '8/255'),
    ({'epsilon': -0.1}, 'number >= 0'),
    ({'epsilon': float('nan')}, 'number >= 0'),
    ({'epsilon': 0.1, 'norm': 'l1'}, 'none of'),
    ({'epsilon': 0.1, 'steps': 0}, 'steps must be an integer >= 1'),
    ({'epsilon': 0.1, 'restarts': 0}, 'restarts'),
    ({'epsilon': 0.1, 'step_size': 0.0}, 'step_size'),
    ({'epsilon': 0.1, 'step_size': float('inf')}, 'step_size'),
    ({'epsilon': 0.1, 'keep': 'first'}, 'keep'),
    ({'epsilon': 0.1, 'keep': 'last', 'restarts': 2}, 'restarts'),
  ],
)
@pytest.mark.parametrize('make', [pgd, mim], ids=lambda make: make.__name__)
def test_bad_options_are_refused(make, options, message):
  with pytest.raises(ValueError, match=message):
    make(flat, **options)


def test_a_negative_decay_is_refused():
  with pytest.raises(ValueError, match='decay'):
    mim(flat, epsilon=0.1, decay=-1.0)


@pytest.mark.parametrize(
  'images, ids, error, message',
  [
    (np.full([2, 4], 255, np.uint8), np.arange(2), TypeError, 'divided by 255'),
    (np.full([2, 4], 0.5), np.arange(2.0), TypeError, 'ids are float'),
    (np.full([2, 4], 0.5), np.arange(3), ValueError, '3,. ids for 2 images'),
    (np.full([2, 4], 1.5), np.arange(2), ValueError, r'not in \[0, 1\]'),
    (np.full([2, 4], -0.1), np.arange(2), ValueError, r'not in \[0, 1\]'),
    (np.full([2, 4], np.nan), np.arange(2), ValueError, r'not in \[0, 1\]'),
    (np.zeros([0, 4]), np.arange(0), ValueError, 'b >= 1'),
  ],
)
def test_bad_images_and_ids_are_refused(images, ids, error, message):
  if images.dtype == np.float64:
    images = images.astype(np.float32)
  with pytest.raises(error, match=message):
    pgd(flat, epsilon=0.1)(KEY, images, ids)


def test_an_l2_budget_wider_than_the_image_cube_is_refused():
  attack = pgd(flat, epsilon=8.0, norm='l2')
  with pytest.raises(ValueError, match='divide by 255'):
    attack(KEY, grey(2, (4, 4, 1)), jnp.arange(2))


def test_a_mean_over_the_batch_is_no_objective():
  with pytest.raises(ValueError, match='one number an image'):
    pgd(lambda x: x.mean(), epsilon=0.1)(KEY, grey(), jnp.arange(4))


LABELLED = {
  'fgsm': lambda net: fgsm(cross_entropy(net), epsilon=0.1),
  'pgd': lambda net: pgd(cross_entropy(net), epsilon=0.1, unroll=False),
  'mim': lambda net: mim(cross_entropy(net), epsilon=0.1),
  'margin': lambda net: pgd(margin(net), epsilon=0.1),
  'apgd': lambda net: apgd_ce(net, epsilon=0.1, unroll=False),
  'apgd_targeted': lambda net: apgd_targeted(net, epsilon=0.1, unroll=False),
  'deepfool': deepfool,
  'cw_l2': cw_l2,
  'square': lambda net: square(margin(net), epsilon=0.1),
}


class TestObjectives:
  def setup_method(self):
    draw = np.random.default_rng(0)
    self.logits = draw.normal(0, 3, (20, 6)).astype(np.float32)
    self.labels = draw.integers(0, 6, 20)
    self.targets = (self.labels + draw.integers(1, 6, 20)) % 6

  def found(self, make, *extra, logits=None):
    logits = self.logits if logits is None else logits
    net = lambda images: jnp.asarray(logits)
    args = (jnp.asarray(self.labels), *map(jnp.asarray, extra))
    return np.asarray(make(net)(jnp.zeros([20, 2]), *args))

  def test_values_equal_their_formulas(self):
    z = self.logits.astype(np.float64)
    rows = np.arange(20)
    own, aim = z[rows, self.labels], z[rows, self.targets]
    others = np.where(np.eye(6)[self.labels] > 0, -np.inf, z).max(1)
    top = np.sort(z)[:, ::-1]
    nats = np.log(np.exp(z).sum(1)) - own
    half = (top[:, 2] + top[:, 3]) / 2
    towards = (self.targets,)
    for found, expected in [
      (self.found(cross_entropy), nats),
      (self.found(margin), others - own),
      (self.found(dlr), (others - own) / (top[:, 0] - top[:, 2])),
      (
        self.found(targeted_cross_entropy, *towards),
        aim - np.log(np.exp(z).sum(1)),
      ),
      (
        self.found(targeted_dlr, *towards),
        (aim - own) / (top[:, 0] - half),
      ),
    ]:
      np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)

  def test_the_ratio_of_differences_ignores_shift_and_scale(self):
    moved = self.found(dlr, logits=50 * self.logits + 7)
    np.testing.assert_allclose(moved, self.found(dlr), rtol=1e-4, atol=1e-5)

  def test_the_margin_is_positive_where_misclassified(self):
    flags = self.found(misclassified)
    np.testing.assert_array_equal(self.found(margin) > 0, flags)
    np.testing.assert_array_equal(self.found(dlr) > 0, flags)
    np.testing.assert_array_equal(flags, self.logits.argmax(1) != self.labels)

  def test_logits_that_are_not_finite_never_count_as_misclassified(self):
    logits = np.full_like(self.logits, np.nan)
    logits[1] = np.where(np.arange(6) == self.labels[1], 0, np.inf)
    assert not self.found(misclassified, logits=logits).any()

  def test_a_scale_uncovers_a_saturated_gradient(self):
    logits = np.zeros([20, 6], np.float32)
    logits[np.arange(20), self.labels] = 200.0

    def slope(scale):
      net = lambda images: images
      value = lambda z: cross_entropy(net, scale)(z, self.labels).sum()
      return abs(jax.grad(value)(jnp.asarray(logits))).max()

    assert slope(1.0) == 0 and slope(0.05) > 1e-7

  def test_bfloat16_logits_are_computed_in_float32(self):
    low = jnp.asarray(self.logits, jnp.bfloat16)
    found = self.found(cross_entropy, logits=low)
    assert found.dtype == np.float32
    exact = self.found(cross_entropy, logits=low.astype(jnp.float32))
    np.testing.assert_array_equal(found, exact)

  @pytest.mark.parametrize(
    'make, shape, message',
    [
      (cross_entropy, (20,), 'must return'),
      (cross_entropy, (20, 1), 'must return'),
      (dlr, (20, 2), '3 classes'),
    ],
  )
  def test_logits_of_a_wrong_shape_are_refused(self, make, shape, message):
    with pytest.raises(ValueError, match=message):
      self.found(make, logits=np.zeros(shape, np.float32))

  def test_a_targeted_ratio_needs_four_classes(self):
    with pytest.raises(ValueError, match='4 classes'):
      logits = np.zeros([20, 3], np.float32)
      self.found(targeted_dlr, self.targets, logits=logits)

  def test_integer_logits_and_one_hot_labels_are_refused(self):
    with pytest.raises(TypeError, match='int32'):
      self.found(margin, logits=np.zeros([20, 6], np.int32))
    self.labels = np.eye(6)[self.labels]
    with pytest.raises(TypeError, match='one-hot'):
      self.found(margin)

  def test_values_no_attack_can_be_run_on_are_refused(self):
    check = attack_objectives.check_values
    check(self.logits, self.labels)
    soft = np.asarray(jax.nn.softmax(self.logits))
    with pytest.raises(ValueError, match='probabilities'):
      check(soft, self.labels)
    bad = self.logits.copy()
    bad[3, 1] = np.nan
    with pytest.raises(ValueError, match='first at row 3'):
      check(bad, self.labels)
    with pytest.raises(ValueError, match='label 6 at row 0'):
      check(self.logits, np.full(20, 6))
    with pytest.raises(ValueError, match='must return'):
      check(self.logits[:5], self.labels)

  def test_a_scale_must_be_positive(self):
    with pytest.raises(ValueError, match='scale'):
      cross_entropy(conv_net, 0.0)


@pytest.mark.parametrize('name', [*LABELLED])
@pytest.mark.parametrize('wrong', [4, -1])
def test_labels_outside_of_the_logits_are_refused(name, wrong):
  net = lambda x: x.reshape(len(x), -1) @ jnp.eye(12, 4, dtype='float32')
  x = jnp.full((2, 2, 2, 3), 0.5, 'float32')
  labels = jnp.array([0, wrong])
  with pytest.raises(ValueError, match=f'label {wrong} at row 1 is outside'):
    LABELLED[name](net)(KEY, x, jnp.arange(2), labels)


def test_attacks_are_float32_also_under_x64():
  with jax.enable_x64(True):
    net = lambda x: x.reshape(len(x), -1) @ jnp.eye(12, 4, dtype='float32')
    x = jnp.full((2, 2, 2, 3), 0.5, 'float32')
    args = KEY, x, jnp.arange(2), jnp.zeros(2, 'int32')
    for norm in ('linf', 'l2'):
      for attack in (
        pgd(cross_entropy(net), epsilon=0.03, norm=norm, steps=2),
        pgd(cross_entropy(net), epsilon=0.03, norm=norm, steps=2, unroll=False),
        apgd_ce(net, epsilon=0.03, norm=norm, steps=3, unroll=False),
      ):
        assert jax.eval_shape(attack, *args).dtype == jnp.float32
    found = jax.eval_shape(deepfool(net, steps=2), *args)
    assert found.dtype == jnp.float32
