import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlab.ops.apgd import (
  apgd,
  apgd_ce,
  apgd_dlr,
  apgd_targeted,
  checkpoints,
)
from jaxlab.ops.attack_objectives import cross_entropy, misclassified
from jaxlab.ops.attack_steps import make_ball
from jaxlab.ops.attacks import pgd
from tests.ops.attacked import (
  KEY,
  accuracy,
  assert_feasible,
  assert_rows_agree,
  conv_net,
  linear_net,
  optimised,
  quick_compiles,
  sharded,
  trained,
)

_quick = pytest.fixture(autouse=True, scope='module')(quick_compiles)


def hill(images, top, slopes):
  """A quadratic with its top outside of the ball, and known slopes."""
  return -0.5 * jnp.sum(slopes * (images - top) ** 2, 1)


def reference(x, start, gradient_of, value_of, epsilon, steps, rho, norm):
  """Algorithm 1 for one image in float64, written down plainly."""

  def project(z):
    if norm == 'linf':
      z = np.clip(z, x - epsilon, x + epsilon)
    else:
      length = np.linalg.norm(z - x)
      z = x + (z - x) * min(1.0, epsilon / length)
    return np.clip(z, 0, 1)

  def direction(g):
    return np.sign(g) if norm == 'linf' else g / np.linalg.norm(g)

  ends = np.cumsum([22, 19, 16, 13, 10, 7, 6, 6]) if steps == 100 else ()
  points, values = [start], [value_of(start)]
  best, top = start, values[0]
  size, halved, checked, last_end = 2 * epsilon, True, top, 0
  current, before = start, start
  for k in range(steps):
    a = 0.75 if k else 1.0
    z = project(current + size * direction(gradient_of(current)))
    new = project(current + a * (z - current) + (1 - a) * (current - before))
    before, current = current, new
    points.append(new)
    values.append(value_of(new))
    if values[-1] > top:
      best, top = new, values[-1]
    if k + 1 in ends:
      pairs = zip(values[last_end : k + 1], values[last_end + 1 : k + 2])
      rises = sum(after > was for was, after in pairs)
      few = rises <= rho * (k + 1 - last_end)
      stuck = not halved and checked == top
      halved, checked, last_end = few or stuck, top, k + 1
      if halved:
        size, current = size / 2, best
  return best, top, size


@pytest.mark.parametrize('norm', ['linf', 'l2'])
def test_it_is_algorithm_1(norm):
  draw = np.random.default_rng(0)
  x = draw.uniform(0.2, 0.8, (6, 5))
  top, slopes = x + draw.normal(0, 0.15, (6, 5)), draw.uniform(0.1, 9, (6, 5))
  f32 = lambda a: jnp.asarray(a, jnp.float32)
  ids = jnp.arange(6)
  attack = apgd(hill, epsilon=0.1, norm=norm)
  found = attack(KEY, f32(x), ids, f32(top), f32(slopes))
  ball = make_ball('test', norm, 0.1)
  start = x + ball.surface(jax.random.fold_in(KEY, 0), ids, (5,))
  halvings = []
  for row in range(6):
    best, value, size = reference(
      x[row],
      np.asarray(start[row], np.float64),
      lambda z, r=row: slopes[r] * (top[r] - z),
      lambda z, r=row: -0.5 * np.sum(slopes[r] * (z - top[r]) ** 2),
      0.1,
      100,
      0.75,
      norm,
    )
    halvings.append(np.log2(0.2 / size))
    # Steps end at 2 epsilon / 2^8 or below; both follow one path until
    # rounding tells two equal values apart.
    np.testing.assert_allclose(found[row], best, atol=2e-3)
    mine = hill(found, f32(top), f32(slopes))[row]
    assert mine == pytest.approx(value, rel=1e-3)
  assert max(halvings) >= 3


def test_the_checkpoints_are_those_of_the_paper():
  ends = [i + 1 for i, (end, _) in enumerate(checkpoints(100)) if end]
  assert ends == [22, 41, 57, 70, 80, 87, 93, 99]
  lengths = [length for end, length in checkpoints(100) if end]
  assert lengths == [22, 19, 16, 13, 10, 7, 6, 6]
  assert checkpoints(1) == [(True, 1)]


@pytest.mark.parametrize(
  'norm, epsilon',
  [
    ('linf', 8 / 255),
    ('l2', 1 / 255),
    pytest.param('l2', 0.5, marks=pytest.mark.slow),
  ],
)
def test_images_stay_in_the_ball_after_rounding(norm, epsilon):
  draw = np.random.default_rng(2)
  x = draw.uniform(-0.5, 1.5, (6, 60)).clip(0, 1).astype(np.float32)
  attack = jax.jit(
    apgd(lambda x, w: x @ w, epsilon=epsilon, norm=norm, steps=10, unroll=False)
  )
  weights = jnp.asarray(draw.normal(size=60), jnp.float32)
  with optimised():
    adv = attack(KEY, x, jnp.arange(6), weights)
  assert_feasible(x, adv, norm, epsilon)


def test_a_misclassified_image_comes_before_one_of_larger_loss():
  def net(images):  # 0 at the left, 1 at the right end of the ball
    place = (images[:, 0] - 0.4) / 0.2
    rivals = jnp.stack([0.1 - 0.15 * place, -2 + 1.95 * place], 1)
    return jnp.concatenate([0 * rivals[:, :1], rivals], 1)

  # Class 1 wins at the left; both rivals together weigh more at the right.
  x, y = jnp.full([32, 1], 0.5), jnp.zeros(32, jnp.int32)
  args = (KEY, x, jnp.arange(32), y)
  plain = apgd(cross_entropy(net), epsilon=0.1, steps=10)(*args)
  np.testing.assert_allclose(plain, 0.6, atol=1e-6)
  assert not misclassified(net)(plain, y).any()
  adv = apgd_ce(net, epsilon=0.1, steps=10)(*args)
  start = make_ball('test', 'linf', 0.1).surface(
    jax.random.fold_in(KEY, 0), jnp.arange(32), (1,)
  )
  fooled = misclassified(net)(adv, y)
  assert (fooled[start[:, 0] < 0]).all() and 8 < fooled.sum() < 24


def test_targeted_apgd_reaches_the_classes_one_after_the_other():
  # Three rivals of class 0; only the last of them, class 3, can be reached,
  # and only by the first of 64 pixels.
  weights = np.zeros([65, 4], np.float32)
  weights[0, 3] = 1.0
  weights[-1] = [0.099, 0.04, 0.03, 0.0]  # bias
  x = jnp.full([2, 8, 8, 1], 0.0)
  args = (KEY, x, jnp.arange(2), jnp.zeros(2, jnp.int32), jnp.asarray(weights))
  for targets, reached in [(2, 0), (3, 3)]:
    attack = apgd_targeted(linear_net, epsilon=0.1, steps=5, targets=targets)
    assert (linear_net(attack(*args), weights).argmax(1) == reached).all()


def test_targeted_apgd_is_as_strong_as_the_untargeted_one():
  x, ids, y, params = trained()
  found = [
    accuracy(
      conv_net,
      make(conv_net, epsilon=0.1, steps=20)(KEY, x, ids, y, params),
      y,
      params,
    )
    for make in (apgd_ce, apgd_targeted)
  ]
  assert found[1] <= found[0] < 1


def test_rows_do_not_depend_on_batch_size_or_place():
  x, ids, y, params = trained()
  attack = apgd_ce(conv_net, epsilon=0.1, steps=6)
  whole = attack(KEY, x, ids, y, params)
  one = slice(17, 18)
  alone = attack(KEY, x[one], ids[one], y[one], params)
  assert_rows_agree(alone, whole[one], 0.1)
  order = np.random.default_rng(0).permutation(32)
  turned = attack(KEY, x[order], ids[order], y[order], params)
  assert_rows_agree(turned, whole[order], 0.1)


@pytest.mark.slow
def test_rows_do_not_depend_on_devices():
  x, ids, y, params = trained()
  attack = apgd_ce(conv_net, epsilon=0.1, steps=6)
  spread = attack(KEY, *sharded(x, ids, y), params)
  assert len(spread.sharding.device_set) == 8
  assert_rows_agree(spread, attack(KEY, x, ids, y, params), 0.1)


def test_looped_and_unrolled_runs_agree():
  x, ids, y, params = trained()
  same = {'epsilon': 0.1, 'steps': 3, 'targets': 2}
  one, other = (
    apgd_targeted(conv_net, unroll=unroll, **same)(KEY, x, ids, y, params)
    for unroll in (True, False)
  )
  assert_rows_agree(one, other, 0.1)


def test_one_trace_serves_all_eager_calls():
  x, ids, y, params = trained()

  # To find labels; the start and the step, each with its gradient.
  @chex.assert_max_traces(n=3)
  def net(images, params):
    return conv_net(images, params)

  attack = apgd_ce(net, epsilon=0.1, steps=30, restarts=2)
  for seed in range(2):
    attack(jax.random.key(seed), x, ids, y, params)


def test_an_objective_that_is_not_finite_is_never_adopted():
  def objective(images, bad):
    rise = images.sum(1)
    return jnp.where(rise > 2.1, bad, rise)

  x = jnp.array([[0.5] * 4, [0.5] * 4, [0.9] * 4])
  attack = apgd(objective, epsilon=0.1, steps=20)
  for bad in map(jnp.float32, (jnp.nan, jnp.inf)):
    adv = attack(KEY, x, jnp.arange(3), bad)
    assert jnp.isfinite(objective(adv[:2], bad)).all()
    chex.assert_trees_all_equal(adv[2], x[2])


def test_logits_that_are_not_finite_are_no_success():
  def net(images):
    rise = images.sum(1, keepdims=True)
    logits = jnp.concatenate([1 + rise, rise * 0, rise * 0, rise * 0], 1)
    return jnp.where(rise > 2.1, jnp.nan, logits)

  x = jnp.full([4, 4], 0.5)
  args = (KEY, x, jnp.arange(4), jnp.zeros(4, jnp.int32))
  adv = apgd_ce(net, epsilon=0.1, steps=10)(*args)
  assert jnp.isfinite(net(adv)).all()


@pytest.mark.parametrize(
  'options, message',
  [
    ({'epsilon': 8}, '8/255'),
    ({'epsilon': 0.1, 'norm': 'l1'}, 'none of'),
    ({'epsilon': 0.1, 'steps': 0}, 'steps'),
    ({'epsilon': 0.1, 'restarts': 0}, 'restarts'),
    ({'epsilon': 0.1, 'rho': 1.0}, 'rho'),
    ({'epsilon': 0.1, 'rho': 0.0}, 'rho'),
  ],
)
def test_bad_options_are_refused(options, message):
  for make in (apgd, apgd_ce, apgd_dlr, apgd_targeted):
    with pytest.raises(ValueError, match=message):
      make(conv_net, **options)


def test_too_few_classes_or_targets_are_refused():
  x, ids = jnp.full([2, 1, 1, 4], 0.5), jnp.arange(2)
  labels = jnp.zeros(2, jnp.int32)
  with pytest.raises(ValueError, match='3 classes'):
    apgd_dlr(linear_net, epsilon=0.1)(KEY, x, ids, labels, jnp.ones([5, 2]))
  with pytest.raises(ValueError, match='4 classes'):
    apgd_targeted(linear_net, epsilon=0.1)(
      KEY, x, ids, labels, jnp.ones([5, 3])
    )
  with pytest.raises(ValueError, match='targets'):
    apgd_targeted(linear_net, epsilon=0.1, targets=0)


def test_a_budget_of_zero_returns_the_images():
  x, ids, y, params = trained()
  adv = apgd_ce(conv_net, epsilon=0)(KEY, x, ids, y, params)
  chex.assert_trees_all_equal(adv, x)


def test_a_linear_objective_is_maximised_in_closed_form():
  weights = jnp.asarray(np.random.default_rng(0).normal(size=20), jnp.float32)
  x = jnp.full([3, 20], 0.5)
  for norm, best in [
    ('linf', 0.05 * abs(weights).sum()),
    ('l2', 0.05 * jnp.linalg.norm(weights)),
  ]:
    attack = apgd(lambda x, w: x @ w, epsilon=0.05, norm=norm, steps=30)
    gain = (attack(KEY, x, jnp.arange(3), weights) - x) @ weights
    np.testing.assert_allclose(gain, best, rtol=1e-4)


@pytest.mark.slow
def test_the_final_loss_is_no_lower_than_that_of_pgd():
  x, ids, y, params = trained()
  objective = cross_entropy(conv_net)
  same = {'epsilon': 0.1, 'steps': 40}
  values = [
    objective(make(objective, **same)(KEY, x, ids, y, params), y, params)
    for make in (pgd, apgd)
  ]
  # Both end in corners of the ball; single rows may end in another one.
  assert values[1].mean() >= values[0].mean()
  assert (values[1] >= 0.98 * values[0] - 1e-3).mean() > 0.9
