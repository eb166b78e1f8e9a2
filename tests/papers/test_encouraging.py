"""The encouraging loss against its formulas, in float64 where they cancel."""

import functools
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxlab.engine import mesh
from jaxlab.papers.encouraging.method import (
  binary_encouraging,
  bonus_of,
  deferred,
  effective_number_weights,
  encouraging_loss,
  gradient_weight,
  halted_focal,
  mirror_mse,
  rising,
)
from jaxlab.planning import hlo

# name -> (numbers, b, c), b and c of (p, 1 - p) as the table has them.
zero, one = lambda p, q: 0 * p, lambda p, q: 1 + 0 * p
tangent = lambda e: lambda p, q: np.log(1 - e) - (p - e) / (1 - e)
either = lambda test, yes, no: (
  lambda p, q: np.where(test(p), yes(p, q), no(p, q))
)
log_rest, inverse = lambda p, q: np.log(q), lambda p, q: 1 / q
VARIANTS = {
  'none': ({'bonus_scale': 0.0}, zero, one),
  'normal': ({'bonus': 'normal'}, log_rest, inverse),
  'conservative': (
    {'bonus': 'conservative', 'log_end': 0.7},
    either(lambda p: p > 0.7, tangent(0.7), log_rest),
    either(lambda p: p > 0.7, lambda p, q: 1 + p / 0.3, inverse),
  ),
  'aggressive': (
    {'bonus': 'aggressive', 'threshold': 0.4},
    either(lambda p: p >= 0.4, lambda p, q: np.log(q) - np.log(0.6), zero),
    either(lambda p: p >= 0.4, inverse, one),
  ),
  'power': (
    {'bonus': 'power', 'gamma': 2.5},
    lambda p, q: -(p**2.5),
    lambda p, q: 1 + 2.5 * p**2.5,
  ),
  'root': (
    {'bonus': 'power', 'gamma': 0.5},
    lambda p, q: -(p**0.5),
    lambda p, q: 1 + 0.5 * p**0.5,
  ),
  'cosine': (
    {'bonus': 'cosine'},
    lambda p, q: np.cos(np.pi * p) - 1,
    lambda p, q: 1 + np.pi * p * np.sin(np.pi * p),
  ),
  'soft': (
    {'bonus': 'soft', 'softness': 0.9},
    lambda p, q: np.log(1 - 0.9 * p),
    lambda p, q: 1 + 0.9 * p / (1 - 0.9 * p),
  ),
  'abrupt': (
    {'bonus': 'abrupt', 'threshold': 0.6},
    either(lambda p: p <= 0.6, log_rest, zero),
    either(lambda p: p <= 0.6, inverse, one),
  ),
  'clamped': (
    {'bonus': 'normal', 'clamp_eps': 0.05},
    lambda p, q: np.log(np.maximum(q, 0.05)),
    either(lambda p: p <= 0.95, inverse, one),
  ),
}
WEIGHTS = np.array([0.3, 1.7, 0.0, 2.0, 0.9])
OPTIONS = {
  'plain': {},
  'smoothed': {'label_smoothing': 0.2},
  'weighted': {'bonus_scale': 0.4, 'class_weights': WEIGHTS},
  'all': {'bonus_scale': 0.4, 'class_weights': WEIGHTS, 'label_smoothing': 0.2},
}
normal = partial(encouraging_loss, bonus='normal')
every_variant = pytest.mark.parametrize('name', VARIANTS)
every_option = pytest.mark.parametrize('option', OPTIONS)


@pytest.fixture
def float64():
  with jax.enable_x64(True):
    yield


@pytest.fixture(params=[0.0, 0.1], ids=['plain', 'smoothed'])
def smoothing(request):
  return request.param


def example(*shape, classes=5, scale=2.0, seed=0):
  """Logits [*shape, K] and labels [*shape], in NumPy."""
  draw = np.random.default_rng(seed)
  return (
    draw.normal(0, scale, (*shape, classes)),
    draw.integers(0, classes, shape),
  )


def probabilities(logits):
  """p and 1 - p [..., K], with all digits of both."""
  e = np.exp(logits - logits.max(-1, keepdims=True))
  others = np.stack([np.delete(e, k, -1).sum(-1) for k in range(e.shape[-1])])
  total = e.sum(-1, keepdims=True)
  return e / total, np.moveaxis(others, 0, -1) / total


def onehot(labels, classes=5):
  return np.eye(classes)[labels]


def expected(name, logits, labels, option):
  """(loss [...], its gradient [..., K]) by the formulas of the paper."""
  numbers, b, c = VARIANTS[name]
  p, q = probabilities(logits)
  rho = numbers.get('bonus_scale', option.get('bonus_scale', 1.0))
  # The weight of a class weighs the bonus on its probability.
  rho = rho * option.get('class_weights', np.ones(logits.shape[-1]))
  smoothing = option.get('label_smoothing', 0.0)
  s = (1 - smoothing) * onehot(labels, logits.shape[-1])
  s = s + smoothing / logits.shape[-1]
  loss = (s * (rho * b(p, q) - np.log(p))).sum(-1)
  weight = 1 + rho * (c(p, q) - 1)
  return loss, p * (s * weight).sum(-1, keepdims=True) - s * weight


def slopes(f, logits):
  """(values, gradient of their sum), compiled."""
  values = lambda x: (lambda y: (y.sum(), y))(f(x))
  (_, found), gradient = jax.jit(jax.value_and_grad(values, has_aux=True))(
    logits
  )
  return found, gradient


def all_slopes(logits, labels, **option):
  """Variant -> (values, gradient): one program, compiled once, is quicker."""
  calls = {
    name: partial(encouraging_loss, labels=labels, **{**option, **numbers})
    for name, (numbers, *_) in VARIANTS.items()
  }
  run = lambda f: {name: slopes(call, f) for name, call in calls.items()}
  return jax.jit(run)(logits)


STEP = 1e-5
BASE, BASE_LABELS = example(4, seed=1)
ALONG = np.random.default_rng(2).normal(size=BASE.shape)


@functools.cache
def computed(option):
  """(logits, labels, {variant: (values, gradient)}) in float64.

  Rows of random logits, of each entry of BASE moved by STEP up and down, and of
  BASE moved along ALONG.
  """
  logits, labels = example(40, scale=3.0)
  moves = STEP * np.repeat(np.eye(5), 4, 0).reshape(5, 4, 5)
  moves = [moves, -moves, STEP * ALONG[None], -STEP * ALONG[None]]
  moved = np.concatenate([BASE + move for move in moves]).reshape(-1, 5)
  rows = np.concatenate([logits, moved])
  labels = np.concatenate([labels, np.tile(BASE_LABELS, 12)])
  found = all_slopes(rows, labels, **OPTIONS[option])
  return logits, labels[:40], jax.device_get(found)


@functools.cache
def computed_second(option):
  """Variant -> the derivative along ALONG of the gradient at BASE."""

  def second(numbers):
    loss = lambda f: encouraging_loss(f, BASE_LABELS, **numbers).sum()
    return jax.grad(lambda f: (jax.grad(loss)(f) * ALONG).sum())(BASE)

  names = VARIANTS if option == 'plain' else ('normal', 'conservative')
  every = {name: {**OPTIONS[option], **VARIANTS[name][0]} for name in names}
  run = jax.jit(lambda: {name: second(every[name]) for name in every})
  return jax.device_get(run())


# --- the formulas ---


def test_the_closed_form_is_cross_entropy_plus_the_log_of_the_rest(float64):
  logits, labels = example(50)
  p, q = probabilities(logits)
  rows = np.arange(50)
  others = np.where(onehot(labels) == 1, -np.inf, logits)
  closed = jax.nn.logsumexp(jnp.asarray(others), -1) - logits[rows, labels]
  found = jax.jit(normal)(logits, labels)
  assert found.dtype == jnp.float64
  np.testing.assert_allclose(found, closed, rtol=0, atol=1e-14)
  sheet = -np.log(p) + np.log(q)
  np.testing.assert_allclose(found, sheet[rows, labels], rtol=0, atol=1e-13)


@every_option
@every_variant
def test_value_and_gradient_are_those_of_the_formulas(float64, name, option):
  logits, labels, found = computed(option)
  value, gradient = (x[:40] for x in found[name])
  wanted = expected(name, logits, labels, OPTIONS[option])
  # b and c of the formulas lose the digits that 1 - p has not: 1e-16 / q.
  np.testing.assert_allclose(value, wanted[0], rtol=1e-11, atol=1e-12)
  np.testing.assert_allclose(gradient, wanted[1], rtol=1e-10, atol=1e-12)


@every_option
@every_variant
def test_gradients_are_finite_differences(float64, name, option):
  values, gradients = computed(option)[2][name]
  up, down = values[40:80].reshape(2, 5, 4)
  middle = gradients[80:].reshape(2, 4, 5).mean(0)  # beside BASE, by STEP
  # Errors: step^2 times the third derivative, and 1e-15 / step.
  np.testing.assert_allclose(
    middle, (up - down).T / (2 * STEP), rtol=1e-7, atol=1e-8
  )


@pytest.mark.parametrize('option', ['plain', 'all'])
def test_second_derivatives_are_finite_differences(float64, option):
  for name, second in computed_second(option).items():
    up, down = computed(option)[2][name][1][80:].reshape(2, 4, 5)
    np.testing.assert_allclose(
      second, (up - down) / (2 * STEP), 1e-7, 1e-8, err_msg=name
    )


@pytest.mark.parametrize('shape', [(), (2, 3)])
def test_any_number_of_leading_axes_is_rows(float64, shape):
  logits, labels = example(*shape)
  rows, flat_labels = logits.reshape(-1, 5), labels.reshape(-1)
  for option in ('weighted', 'all'):
    call = partial(encouraging_loss, log_end=0.7, **OPTIONS[option])
    whole, flat = jax.jit(
      lambda f, g, call=call: (
        slopes(partial(call, labels=labels), f),
        slopes(partial(call, labels=flat_labels), g),
      )
    )(logits, rows)
    chex.assert_shape(whole[0], shape)
    np.testing.assert_allclose(whole[0].reshape(-1), flat[0], rtol=1e-13)
    np.testing.assert_allclose(whole[1].reshape(-1, 5), flat[1], atol=1e-14)


@every_variant
def test_the_gradient_is_cross_entropys_times_the_gradient_weight(
  float64, name
):
  logits, labels, slopes = computed('plain')
  numbers, _, c = VARIANTS[name]
  p, q = probabilities(logits)
  p_y = np.take_along_axis(p, labels[:, None], -1)
  q_y = np.take_along_axis(q, labels[:, None], -1)
  weight = gradient_weight(p_y, **numbers)
  np.testing.assert_allclose(weight, c(p_y, q_y), rtol=1e-10)
  wanted = weight * (p - onehot(labels))
  np.testing.assert_allclose(slopes[name][1][:40], wanted, 1e-9, 1e-12)


@every_variant
def test_the_bonus_alone_is_that_of_the_table(float64, name):
  numbers, b, _ = VARIANTS[name]
  p = np.linspace(0, 0.999, 38)  # off every threshold
  np.testing.assert_allclose(
    bonus_of(p, **numbers), b(p, 1 - p), rtol=1e-12, atol=1e-15
  )


def test_at_probability_1_weights_are_their_limits():
  weight = lambda **numbers: float(gradient_weight(jnp.float32(1), **numbers))
  assert weight(bonus='normal') == np.inf
  assert weight(bonus='normal', bonus_scale=0.0) == 1
  assert weight(bonus='normal', clamp_eps=1e-5) == 1
  assert weight() == 5
  assert weight(log_end=0.75) == 5
  assert weight(log_end=0.0) == 2
  assert weight(bonus='aggressive') == np.inf
  assert weight(bonus='soft', softness=0.75) == 4
  assert weight(bonus='abrupt') == 1
  at_one = partial(bonus_of, jnp.float32(1), bonus='normal')
  assert float(at_one()) == -np.inf
  assert float(at_one(bonus_scale=0.0)) == 0


# --- limits and equals ---


def test_log_end_near_1_tends_to_the_normal_loss(float64):
  # One margin; 1 - p = e^-4 / (1 + e^-4) = 0.018.
  logits, labels = np.array([[4.0, 0.0], [-2.0, 0.0]]), np.zeros(2, int)
  wanted = slopes(partial(normal, labels=labels), logits)
  ending = jax.jit(
    lambda e: slopes(
      lambda f: encouraging_loss(f, labels, log_end=e), jnp.asarray(logits)
    )
  )
  gaps = []
  for room in (0.9, 0.3, 0.1, 0.03):
    pairs = zip(ending(1 - room), wanted)
    gaps.append([float(abs(a - b).max()) for a, b in pairs])
  assert (np.diff(gaps, axis=0) < 0).all()
  for room in (0.01, 1e-9):
    chex.assert_trees_all_close(ending(1 - room), wanted, atol=1e-14)


def test_log_end_0_is_poly_1(float64):
  logits, labels = example(30)
  found = slopes(lambda f: encouraging_loss(f, labels, log_end=0.0), logits)
  poly = lambda f: (
    optax.losses.poly_loss_cross_entropy(f, onehot(labels), epsilon=1.0) - 1
  )
  chex.assert_trees_all_close(found, slopes(poly, logits), atol=1e-13)


@pytest.mark.parametrize('activation', ['softmax', 'sigmoid'])
def test_the_mirrored_squared_error_is_twice_the_absolute_error_less_1(
  float64, activation
):
  logits, labels = example(30)
  target = onehot(labels)
  p = {'softmax': jax.nn.softmax, 'sigmoid': jax.nn.sigmoid}[activation]
  found = slopes(lambda f: mirror_mse(f, labels, activation=activation), logits)
  wanted = slopes(lambda f: 2 * abs(p(f) - target).mean(-1) - 1, logits)
  chex.assert_trees_all_close(found, wanted, atol=1e-14)
  plain = mirror_mse(logits, labels, activation=activation, bonus_scale=0.0)
  np.testing.assert_allclose(
    plain, ((p(logits) - target) ** 2).mean(-1), atol=1e-15
  )


def test_without_a_bonus_it_is_optax_cross_entropy(smoothing):
  logits, labels = example(30)
  logits = np.float32(logits)
  found = slopes(
    lambda f: encouraging_loss(
      f, labels, bonus_scale=0.0, label_smoothing=smoothing
    ),
    logits,
  )
  target = optax.losses.smooth_labels(jnp.float32(onehot(labels)), smoothing)
  wanted = slopes(
    lambda f: optax.losses.softmax_cross_entropy(f, target), logits
  )
  chex.assert_trees_all_close(found, wanted, rtol=1e-5, atol=1e-6)


def test_the_normal_binary_loss_is_linear_in_the_logit():
  logits = jnp.array([-1e4, -30.0, -0.5, 0.0, 0.5, 30.0, 1e4])
  for y in (0, 1):
    targets = jnp.full(7, y)
    found, gradient = slopes(
      lambda f, targets=targets: binary_encouraging(f, targets, bonus='normal'),
      logits,
    )
    sign = -(2 * y - 1)
    np.testing.assert_allclose(found, sign * logits, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(gradient, np.full(7, sign), rtol=1e-6)


def test_the_binary_loss_is_that_of_two_classes():
  logits, targets = jnp.linspace(-6, 6, 12), jnp.arange(12) % 2
  pairs = jnp.stack([jnp.zeros(12), logits], -1)
  found = jax.jit(
    lambda f: {
      name: binary_encouraging(f, targets, alpha=0.25, **numbers)
      for name, (numbers, *_) in VARIANTS.items()
    }
  )(logits)
  weight = jnp.where(targets == 1, 0.25, 0.75)
  for name, (wanted, _) in all_slopes(pairs, targets).items():
    chex.assert_trees_all_close(
      found[name], weight * wanted, rtol=1e-5, atol=1e-6
    )


def test_the_halted_focal_loss_is_the_focal_loss_up_to_a_half(float64):
  logits = np.linspace(-5, 5, 41)
  targets = np.arange(41) % 2
  found = slopes(
    lambda f: halted_focal(f, targets, gamma=2.0, alpha=0.3, beta=None),
    logits,
  )
  focal = slopes(
    lambda f: optax.losses.sigmoid_focal_loss(f, targets, alpha=0.3, gamma=2.0),
    logits,
  )
  wrong = (2 * targets - 1) * logits < 0
  for ours, theirs in zip(found, focal):
    np.testing.assert_allclose(ours[wrong], theirs[wrong], rtol=1e-12)
  alpha = np.where(targets == 1, 0.3, 0.7)
  right = ~wrong & (logits != 0)
  p = 1 / (1 + np.exp(-np.abs(logits)))
  shifted = -alpha * np.log(p) - alpha * np.log(2) * (1 - 0.25)
  np.testing.assert_allclose(found[0][right], shifted[right], rtol=1e-12)
  slope = -alpha * (2 * targets - 1) * (1 - p)
  np.testing.assert_allclose(found[1][right], slope[right], rtol=1e-12)


def test_the_halted_focal_loss_is_continuous_at_a_half(float64):
  for gamma in (0.0, 1.0, 2.0):
    logits = np.array([-1e-9, 0.0, 1e-9])
    found, gradient = slopes(
      lambda f, gamma=gamma: halted_focal(f, np.ones(3), gamma=gamma), logits
    )
    np.testing.assert_allclose(found, np.log(2) * 0.5**gamma, rtol=0, atol=2e-9)
    # At the joint it has the slope of the focal side, the whole of it.
    np.testing.assert_allclose(gradient[0], gradient[1], rtol=1e-8)


# --- far logits ---


@functools.cache
def computed_far(dtype, smoothing):
  """(logits, {variant: (values, gradient)}) at margins of 1e4."""
  logits = np.zeros((4, 3), np.float32)
  logits[:, 1] = 1e4, -1e4, 1e4, -1e4
  logits[2:] += 2.0**13  # far from 0, too
  logits = jnp.asarray(logits, dtype)
  found = all_slopes(logits, np.ones(4, int), label_smoothing=smoothing)
  return np.asarray(logits, np.float64), found


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@every_variant
def test_margins_of_1e4_give_the_margin_and_finite_gradients(
  name, dtype, smoothing
):
  given, found = computed_far(dtype, smoothing)
  value, gradient = found[name]
  chex.assert_tree_all_finite((value, gradient))
  chex.assert_type([value, gradient], [jnp.float32, dtype])
  s = (1 - smoothing) * np.array([0, 1, 0]) + smoothing / 3
  odds = np.stack(
    [
      given[:, k] - np.logaddexp.reduce(np.delete(given, k, 1), 1)
      for k in range(3)
    ],
    1,
  )
  wanted = (s * far_nats(name, odds)).sum(1)
  # Half a unit of float32 at 1e4, and what gives 0 for p is at most 1e-4340.
  np.testing.assert_allclose(value, wanted, rtol=1e-6, atol=1e-5)
  # dL = sum_k s_k g_k dz_k, and the entries of each dz sum to 0.
  sums = np.asarray(gradient, np.float64).sum(1)
  np.testing.assert_allclose(
    sums, 0, atol=0.02 if dtype == 'bfloat16' else 1e-5
  )
  if name == 'normal' and not smoothing:
    half = np.array([[0.5, -1, 0.5]] * 4)
    np.testing.assert_allclose(np.float64(gradient), half, rtol=1e-6)


@np.errstate(over='ignore', divide='ignore')
def far_nats(name, odds):
  """-log p + b(p) where p is nearly 0, 1/2 or 1."""
  _, b, _ = VARIANTS[name]
  p, log_rest = 1 / (1 + np.exp(-odds)), -np.logaddexp(0, odds)
  if name in ('normal', 'aggressive'):
    start = np.log(0.6) if name == 'aggressive' else 0.0
    counts = (p >= 0.4) | (name == 'normal')
    found = np.where(counts, log_rest - start, 0.0)
  else:
    found = b(p, np.exp(log_rest))
  return np.logaddexp(0, -odds) + found


def test_far_and_near_rows_of_a_batch_do_not_disturb_each_other(
  float64, smoothing
):
  """One far row sends the whole batch another way."""
  near, labels = example(6)
  far = np.concatenate([near, [[300.0, -9, 2, 0, 4], [-300, 0, 0, 1, 9]]])
  labels = np.concatenate([labels, [0, 0]])
  call = lambda f, y: normal(f, y, label_smoothing=smoothing)
  alone = slopes(lambda f: call(f, labels[:6]), near)
  found = slopes(lambda f: call(f, labels), far)
  chex.assert_trees_all_close(
    [x[:6] for x in found], list(alone), rtol=1e-12, atol=1e-14
  )
  if not smoothing:
    rest = np.log(np.exp(-9) + np.exp(2) + 1 + np.exp(4))
    np.testing.assert_allclose(found[0][6], rest - 300, rtol=1e-14)


def test_second_derivatives_are_finite_where_a_label_is_far_above():
  logits = jnp.array([200.0, 0.0, 1.0])
  loss = lambda f: normal(f, 0)
  found = jax.jit(jax.hessian(loss))(logits)
  share = np.exp([0, 1]) / np.exp([0, 1]).sum()
  wanted = np.zeros((3, 3))
  wanted[1:, 1:] = np.diag(share) - np.outer(share, share)
  np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_classes_that_are_ruled_out_have_no_gradient():
  """-inf is what a model gives to a class that cannot be."""
  logits = jnp.array([[1.0, -jnp.inf, 0.5], [3.0, -jnp.inf, -jnp.inf]])
  labels = jnp.zeros(2, jnp.int32)
  numbers = {'log_end': 0.75}
  value, gradient = slopes(
    lambda f: encouraging_loss(f, labels, **numbers), logits
  )
  possible = logits[:1, ::2]
  wanted, _ = slopes(
    lambda f: encouraging_loss(f, labels[:1], **numbers), possible
  )
  np.testing.assert_allclose(value[0], wanted[0], rtol=1e-6)
  np.testing.assert_allclose(value[1], np.log(0.25) - 1, rtol=1e-6)
  np.testing.assert_array_equal(gradient[:, 1], 0)
  np.testing.assert_array_equal(gradient[1], 0)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_far_binary_losses_are_finite(dtype):
  logits, targets = jnp.array([1e4, -1e4, 1e4, -1e4]), jnp.array([0, 0, 1, 1])
  calls = [
    partial(binary_encouraging, targets=targets, **numbers)
    for numbers, *_ in VARIANTS.values()
  ] + [partial(halted_focal, targets=targets)]
  found = jax.jit(lambda f: [slopes(call, f) for call in calls])(
    logits.astype(dtype)
  )
  chex.assert_tree_all_finite(found)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_far_mirrored_errors_are_finite(dtype):
  logits = jnp.array([[1e4, -1e4, 0], [-1e4, 1e4, 0]], dtype)
  call = partial(mirror_mse, labels=np.zeros(2, int), gamma=1.5)
  calls = [partial(call, activation=x) for x in ('softmax', 'sigmoid')]
  found = jax.jit(lambda f: [slopes(call, f) for call in calls])(logits)
  chex.assert_tree_all_finite(found)


# Logits (m, 0, 0) with label 0: p = 1 / (1 + 2 e^-m), and by the official code
# L = -log p + log(max(1 - p, 1e-5)), whose slope by the logit of the label is
# -1, or p - 1 where 1 - p < 1e-5 (from m = 12.206 on). NumPy in float64.
CLAMPED = [
  (-3.0, 3.6931471805599454, -1.0),
  (0.0, 0.6931471805599454, -1.0),
  (2.0, -1.3068528194400546, -1.0),
  (8.0, -7.306852819440055, -1.0),
  (12.0, -11.306852819440055, -1.0),
  (12.5, -11.51291801169166, -7.4532507927959235e-06),
  (13.0, -11.512920944321634, -4.520638377698381e-06),
  (15.0, -11.512924853165774, -6.118042666989619e-07),
  (20.0, -11.51292546084792, -4.122307227883699e-09),
  (30.0, -11.512925464970042, -1.8715245937676846e-13),
]


@pytest.mark.parametrize('margin, value, slope', CLAMPED)
def test_clamped_it_is_the_official_code(float64, margin, value, slope):
  logits = np.array([margin, 0.0, 0.0])
  found = slopes(lambda f: normal(f, 0, clamp_eps=1e-5), logits)
  np.testing.assert_allclose(found[0], value, rtol=1e-12)
  np.testing.assert_allclose(found[1][0], slope, rtol=1e-10)


# The same logits, by the official code with log_end .75: from there on (m =
# 1.792) its bonus is log(r) - (p - .75) / r, r = max(1 - .75, 1e-5), and its
# slope (p - 1)(1 + p / r). NumPy in float64.
CLAMPED_TANGENT = [
  (-3.0, 3.6931471805599454, -1.0),
  (0.0, 0.6931471805599455, -1.0),
  (1.5, -0.8068528194400547, -1.0),
  (2.0, -1.2946937635444, -0.8835700042560863),
  (4.0, -2.2089706852593123, -0.17168944995701646),
  (8.0, -2.3829417591661577, -0.003350578935433351),
  (15.0, -2.38629130209837, -3.059019836276966e-06),
  (30.0, -2.3862943611189547, -9.357622968837022e-13),
]


def test_clamped_the_conservative_bonus_is_the_official_code(float64):
  margins, values, by_label = np.array(CLAMPED_TANGENT).T
  logits = margins[:, None] * np.eye(3)[0]
  loss = partial(
    encouraging_loss,
    labels=np.zeros(len(margins), int),
    bonus='conservative',
    log_end=0.75,
    clamp_eps=1e-5,
  )
  value, gradient = slopes(loss, logits)
  np.testing.assert_allclose(value, values, rtol=1e-12)
  np.testing.assert_allclose(gradient[:, 0], by_label, rtol=1e-10)


# --- defaults, soft labels, other derivatives ---


def test_the_default_is_the_official_one():
  logits = np.linspace(-4, 8, 13)[:, None] * np.eye(3, dtype=np.float32)[0]
  labels = np.zeros(13, int)
  ended = normal(logits, labels, log_end=0.75)
  np.testing.assert_array_equal(encouraging_loss(logits, labels), ended)
  assert float(normal(logits, labels).min()) < float(ended.min()) - 3


def test_soft_labels_are_sums_over_classes(float64, smoothing):
  logits, labels = example(6)
  shares = np.random.default_rng(3).dirichlet(np.ones(5), 6)
  shares[0] = 0, 0.25, 0, 0.75, 0
  call = partial(
    normal, class_weights=WEIGHTS, bonus_scale=0.4, label_smoothing=smoothing
  )
  p, q = probabilities(logits)
  every = 0.4 * WEIGHTS * np.log(q) - np.log(p)
  s = (1 - smoothing) * shares + smoothing / 5
  found, gradient = slopes(lambda f: call(f, shares), logits)
  np.testing.assert_allclose(found, (s * every).sum(-1), rtol=1e-10)
  weight = s * (1 + 0.4 * WEIGHTS * (1 / q - 1))
  wanted = p * weight.sum(-1, keepdims=True) - weight
  np.testing.assert_allclose(gradient, wanted, rtol=1e-9, atol=1e-12)
  hard = jax.jit(call)(logits, onehot(labels))
  np.testing.assert_allclose(hard, jax.jit(call)(logits, labels), rtol=1e-12)


@pytest.mark.parametrize(
  'shares, message',
  [
    ([[0.5, 0.6, 0.0], [1, 0, 0]], r'at \(0,\) sum to 1.1 or are negative'),
    ([[1.0, 0, 0], [1.5, -0.5, 0]], r'at \(1,\) sum to 1 or are negative'),
    ([0.0, 1.0], r'labels \(2,\) of floats are shares of classes; they must'),
  ],
)
def test_shares_that_cannot_be_are_named(shares, message):
  with pytest.raises(ValueError, match=message):
    encouraging_loss(np.zeros((2, 3), np.float32), np.float32(shares))


def test_gradients_to_the_numbers_of_the_bonus_are_finite_differences(float64):
  logits, labels = example(20, scale=3.0)

  def loss(numbers):
    scale, end, weights = numbers
    return encouraging_loss(
      logits, labels, bonus_scale=scale, log_end=end, class_weights=weights
    ).sum()

  at = (0.7, 0.6, jnp.asarray(WEIGHTS + 0.5))
  gradient = jax.jit(jax.grad(loss))(at)
  values = jax.jit(loss)
  for i in range(3):
    move = [np.zeros(()), np.zeros(()), np.zeros(5)]
    move[i] = np.full_like(move[i], STEP)
    up = values(tuple(a + m for a, m in zip(at, move)))
    down = values(tuple(a - m for a, m in zip(at, move)))
    np.testing.assert_allclose(
      np.sum(gradient[i]), (up - down) / (2 * STEP), rtol=1e-6
    )


def test_forward_mode_is_refused_not_wrong():
  logits, labels = np.zeros((2, 3), np.float32), np.zeros(2, int)
  with pytest.raises(TypeError, match='forward-mode'):
    jax.jvp(lambda f: encouraging_loss(f, labels), (logits,), (logits,))


def test_halted_focal_follows_the_official_betas(float64):
  """Gradients of the official code at logits -4, 4, gamma 1, alpha .5; focal:
  .5 (sigmoid' softplus + sigmoid²), halted: .5 sigmoid, both of the wrong
  answer's logit."""
  sigmoid = lambda x: 1 / (1 + np.exp(-x))
  far, near = sigmoid(4.0), sigmoid(-4.0)
  focal = lambda p: 0.5 * (p * (1 - p) * -np.log(1 - p) + p * p)
  published = slopes(
    lambda f: halted_focal(f, np.zeros(2), gamma=1.0, alpha=0.5),
    np.array([-4.0, 4.0]),
  )[1]
  np.testing.assert_allclose(published, [0.0003, 0.4910], atol=5e-5)
  logits, targets = np.array([-4.0, 4.0, -4.0, 4.0]), np.array([0, 0, 1, 1])
  no = {'focal': [focal(near), focal(far)], 'ce': [near / 2, far / 2]}
  yes = {'focal': [-focal(far), -focal(near)], 'ce': [-far / 2, -near / 2]}
  wanted = {
    0: [no['focal'][0], no['ce'][1], yes['focal'][0], yes['ce'][1]],
    1: [*no['focal'], yes['focal'][0], yes['ce'][1]],
    2: [no['focal'][0], no['ce'][1], *yes['focal']],
    3: [*no['ce'], yes['focal'][0], yes['ce'][1]],
    4: [no['focal'][0], no['ce'][1], *yes['ce']],
    None: [no['ce'][0], no['focal'][1], yes['focal'][0], yes['ce'][1]],
  }
  for beta, gradient in wanted.items():
    _, found = slopes(
      lambda f, beta=beta: halted_focal(
        f, targets, gamma=1.0, alpha=0.5, beta=beta
      ),
      logits,
    )
    np.testing.assert_allclose(found, gradient, rtol=1e-9, err_msg=beta)


def test_rows_sharded_over_explicit_axes_change_nothing():
  devices = jax.make_mesh(
    (8,), ('data',), axis_types=(jax.sharding.AxisType.Explicit,)
  )
  logits, labels = example(16, classes=7)
  logits = np.float32(logits)
  losses = [
    encouraging_loss,
    partial(encouraging_loss, label_smoothing=0.1),
    partial(encouraging_loss, class_weights=np.linspace(0.5, 2, 7)),
    mirror_mse,
  ]
  run = lambda f, y: [slopes(partial(loss, labels=y), f) for loss in losses]
  alone = jax.jit(run)(logits, labels)
  with jax.set_mesh(devices):
    sharding = NamedSharding(devices, PartitionSpec('data'))
    placed = jax.device_put((logits, labels), sharding)
    found = jax.jit(run)(*placed)
  assert jax.typeof(found[0][1]).sharding.spec == PartitionSpec('data', None)
  found, alone = jax.device_get((found, alone))
  chex.assert_trees_all_close(found, alone, rtol=1e-6, atol=1e-6)


# --- masks ---


def losses():
  """Name -> loss of (logits [b, t, K], labels [b, t], mask [b, t])."""
  first = lambda f: (
    lambda logits, labels, mask: f(logits[..., 0], labels, mask=mask)
  )
  return {
    'encouraging': lambda f, y, m: encouraging_loss(f, y, mask=m),
    'smoothed': lambda f, y, m: normal(
      f, y, mask=m, label_smoothing=0.1, class_weights=WEIGHTS
    ),
    'weighted': lambda f, y, m: encouraging_loss(
      f, y, mask=m, log_end=0.75, class_weights=WEIGHTS
    ),
    'mirror': lambda f, y, m: mirror_mse(f, y, mask=m),
    'binary': first(binary_encouraging),
    'halted': first(partial(halted_focal, alpha=0.3)),
  }


@pytest.mark.parametrize('name', losses())
def test_masked_tokens_count_for_nothing_whatever_they_hold(name):
  loss = losses()[name]
  compute = jax.jit(
    lambda f, labels, mask: slopes(lambda x: loss(x, labels, mask), f)
  )
  logits, labels = example(2, 3)
  labels = labels % 2  # binary ones too
  logits = np.float32(logits)
  mask = np.array([[True, False, True], [False, True, False]])
  clean = compute(logits, labels, mask)
  spoilt = np.where(mask[..., None], logits, np.nan)
  spoilt[0, 1] = np.inf
  wild = np.where(mask, labels, -100)
  wild[1, 2] = 10**6
  chex.assert_trees_all_equal(compute(spoilt, wild, mask), clean)
  seen = slopes(lambda f: loss(f, wild, mask), spoilt)  # labels looked at
  chex.assert_trees_all_close(seen, clean, rtol=1e-6, atol=1e-7)
  whole = compute(logits, labels, np.ones_like(mask))
  for array, full in zip(clean, whole):
    np.testing.assert_array_equal(array[~mask], 0)
    np.testing.assert_array_equal(array[mask], full[mask])


@pytest.mark.parametrize('name', losses())
def test_a_mask_of_floats_weighs(name):
  loss = losses()[name]
  logits, labels = example(2, 3)
  labels, logits = labels % 2, np.float32(logits)
  weights = np.float32([[1, 0, 0.5], [2, 0.25, 0]])
  spoilt = np.where(weights[..., None] > 0, logits, np.nan)
  found = slopes(lambda f: loss(f, labels, weights), spoilt)
  whole = slopes(lambda f: loss(f, labels, np.ones((2, 3), bool)), logits)
  np.testing.assert_allclose(found[0], weights * whole[0], rtol=1e-6)
  np.testing.assert_allclose(
    found[1], weights[..., None] * whole[1], rtol=1e-5, atol=1e-7
  )


@pytest.mark.parametrize('name', losses())
def test_a_batch_that_is_all_masked_gives_zeros(name):
  logits = np.full((2, 3, 5), np.nan, np.float32)
  found = slopes(
    lambda f: losses()[name](f, np.full((2, 3), -1), np.zeros((2, 3), bool)),
    logits,
  )
  chex.assert_trees_all_equal(found, (np.zeros((2, 3)), np.zeros((2, 3, 5))))


# --- devices and transformations ---


@pytest.mark.parametrize('far', [False, True])
def test_a_sharded_class_axis_changes_nothing_and_is_not_gathered(
  smoothing, far
):
  devices = mesh.make({'data': 1, 'model': 8})
  classes = NamedSharding(devices, PartitionSpec(None, 'model'))
  logits, labels = example(12, classes=64)
  logits[:6][np.arange(6), labels[:6]] += 9  # half of the labels are likeliest
  logits = np.float32(logits * (40 if far else 1))
  compute = jax.jit(
    jax.value_and_grad(
      lambda f, y: encouraging_loss(
        f, y, log_end=0.9, label_smoothing=smoothing
      ).mean()
    )
  )
  alone = compute(logits, labels)
  split = jax.device_put(logits, classes)
  placed = jax.device_put(labels, mesh.replicated(devices))
  found = compute(split, placed)
  assert found[1].sharding.is_equivalent_to(classes, 2)
  chex.assert_trees_all_close(found, alone, rtol=1e-6, atol=1e-6)
  text = compute.lower(split, placed).compile().as_text()
  kinds = {c.kind for c in hlo.collectives(text)}
  assert kinds == {'all-reduce'}


@pytest.mark.parametrize('name', ['bonus_scale', 'log_end'])
def test_traced_numbers_equal_constant_ones(name, smoothing):
  logits, labels = example(20, scale=3.0)
  logits = np.float32(logits)
  loss = lambda f, x: encouraging_loss(
    f, labels, label_smoothing=smoothing, **{name: x}
  ).mean()
  compute = lambda f, x: jax.value_and_grad(loss)(f, x)
  chex.clear_trace_counter()
  traced = jax.jit(chex.assert_max_traces(compute, 1))
  values = 0.0, 0.3, 1.0
  wanted = jax.jit(lambda f: [compute(f, x) for x in values])(logits)
  found = [traced(logits, jnp.float32(x)) for x in values]
  chex.assert_trees_all_close(found, wanted, rtol=1e-6, atol=1e-7)


def test_constants_within_a_program_are_checked_as_outside():
  logits, labels = example(4)
  fixed = jnp.asarray(labels), jnp.asarray(WEIGHTS), jnp.float32(0.5)
  found = jax.jit(
    lambda f: encouraging_loss(
      f, fixed[0], class_weights=fixed[1], log_end=fixed[2]
    )
  )(logits)
  call = partial(encouraging_loss, class_weights=WEIGHTS.tolist(), log_end=0.5)
  chex.assert_trees_all_close(found, jax.jit(call)(logits, labels), rtol=1e-5)
  negative, beyond = -fixed[1], jnp.full(4, 5)
  with pytest.raises(ValueError, match=r'class_weights of class 0 is -'):
    jax.jit(lambda f: encouraging_loss(f, labels, class_weights=negative))(
      logits
    )
  with pytest.raises(ValueError, match='label at'):
    jax.jit(lambda f: encouraging_loss(f, beyond))(logits)


@pytest.mark.parametrize('dtype', ['float16', 'bfloat16', 'float32'])
def test_losses_are_float32_and_gradients_of_the_logits_dtype(dtype):
  logits, labels = example(4)
  logits = jnp.asarray(logits, dtype)
  for call in (
    encouraging_loss,
    partial(encouraging_loss, label_smoothing=0.1),
    mirror_mse,
    lambda f, y: binary_encouraging(f[:, 0], y % 2),
    lambda f, y: halted_focal(f[:, 0], y % 2),
  ):
    loss = lambda f, call=call: call(f, labels)
    found = jax.eval_shape(partial(slopes, loss), logits)
    assert [x.dtype for x in found] == [jnp.float32, logits.dtype]


def test_vmap_and_jit_give_what_rows_give(smoothing):
  logits, labels = example(6, 3)
  logits = np.float32(logits)
  logits[0] *= 100  # far, and near in the others
  loss = lambda f, y: encouraging_loss(f, y, label_smoothing=smoothing).sum()
  found = jax.jit(jax.vmap(jax.value_and_grad(loss)))(logits, labels)
  alone = jax.jit(jax.value_and_grad(loss))
  wanted = [alone(f, y) for f, y in zip(logits, labels)]
  chex.assert_trees_all_close(
    found, jax.tree.map(lambda *x: jnp.stack(x), *wanted), rtol=1e-5, atol=1e-6
  )


def test_labels_of_a_byte_count_beyond_a_byte():
  logits, _ = example(3, classes=300)
  labels = np.array([3, 47, 255], np.uint8)
  for numbers in ({}, {'label_smoothing': 0.1}):
    call = jax.jit(partial(encouraging_loss, **numbers))
    np.testing.assert_array_equal(
      call(logits, labels), call(logits, labels.astype(np.int32))
    )


class Variants(chex.TestCase):
  """With and without `jit`."""

  @chex.variants(with_jit=True, without_jit=True)
  def test_losses_are_the_formulas(self):
    logits, labels = example(2, 3)
    mask = np.ones((2, 3), bool)
    loss = self.variant(losses()['smoothed'])
    found = loss(np.float32(logits), labels, mask)
    option = {'label_smoothing': 0.1, 'class_weights': WEIGHTS}
    wanted, _ = expected('normal', logits, labels, option)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


# --- schedules and weights ---


def test_a_deferred_scale_begins_at_its_step():
  found = [float(deferred(3)(step)) for step in (0, 2, 3, 100)]
  assert found == [0, 0, 1, 1]
  assert float(deferred(0)(0)) == 1
  assert float(jax.jit(deferred(3))(jnp.int32(3))) == 1


@pytest.mark.parametrize(
  'shape, values',
  [
    ('linear', (0, 0.25, 0.5, 1, 1)),
    # exp(-5), exp(-3.75), exp(-2.5)
    ('exponential', (0.006737947, 0.02351775, 0.0820850, 1, 1)),
    # 1 - exp(-1.25), 1 - exp(-2.5), 1 - exp(-5)
    ('saturating', (0, 0.7134952, 0.9179150, 0.9932621, 0.9932621)),
    ('cosine', (0, 0.1464466, 0.5, 1, 1)),
  ],
)
def test_rising_scales_take_their_shape_and_stay(shape, values):
  schedule = jax.jit(rising(shape, 20))
  found = [float(schedule(step)) for step in (0, 5, 10, 20, 500)]
  np.testing.assert_allclose(found, values, rtol=1e-5, atol=1e-7)


def test_a_schedule_drives_the_loss_within_a_program():
  logits, labels = example(8)
  logits = np.float32(logits)
  schedule = deferred(2)
  call = jax.jit(lambda x: encouraging_loss(logits, labels, bonus_scale=x))
  at = jax.jit(
    lambda step: encouraging_loss(logits, labels, bonus_scale=schedule(step))
  )
  for step, scale in ((1, 0.0), (2, 1.0)):
    np.testing.assert_allclose(at(step), call(scale), rtol=1e-5, atol=1e-6)


def test_effective_numbers_weigh_classes():
  # beta 1/2: (1 - b) / (1 - b^n) of 1, 2, 3 is 1, 2/3, 4/7; their sum 47/21.
  found = effective_number_weights([1, 2, 3], beta=0.5)
  np.testing.assert_allclose(found, [63 / 47, 42 / 47, 36 / 47], rtol=1e-6)
  assert found.dtype == np.float32
  np.testing.assert_array_equal(effective_number_weights([5, 9], beta=0.0), 1)
  long_tail = effective_number_weights([5000, 500, 50, 5])
  np.testing.assert_allclose(long_tail.sum(), 4, rtol=1e-6)
  assert (np.diff(long_tail) > 0).all()


# --- mistakes ---


LOGITS, LABELS = np.zeros((2, 3), np.float32), np.array([0, 2])
MISTAKES = [
  ({'labels': [0, 3]}, r'label at \(1,\) is 3; labels must be in \[0, 3\)'),
  ({'labels': [-1, 0]}, r'label at \(0,\) is -1; labels must be in \[0, 3\)'),
  (
    {'logits': LOGITS[:, :1], 'labels': [0, 0]},
    r'logits \(2, 1\) have K=1; K must be >= 2',
  ),
  ({'labels': [0, 1, 2]}, r'labels \(3,\) must have the shape of logits \(2,'),
  ({'logits': np.float32(1), 'labels': 0}, r'labels \(\) must have the shape'),
  ({'log_end': 1.5}, r'log_end=1.5 must be in \[0, 1\]'),
  ({'log_end': -0.1}, r'log_end=-0.1 must be in \[0, 1\]'),
  ({'log_end': np.nan}, r'log_end=nan must be in \[0, 1\]'),
  ({'bonus_scale': -1.0}, 'bonus_scale=-1.0 must be >= 0'),
  (
    {'class_weights': [1, 1]},
    r'class_weights \(2,\) must be one for each of K=3',
  ),
  (
    {'class_weights': [1, -2, 1]},
    'class_weights of class 1 is -2; it must be >=',
  ),
  (
    {'class_weights': [1, 1, np.nan]},
    'class_weights of class 2 is nan; it must',
  ),
  (
    {'bonus': 'generous'},
    'bonus="generous" is not one of normal, conservative',
  ),
  (
    {'bonus': 'power', 'log_end': 0.5},
    'log_end=0.5 has no meaning for bonus="power"; leave it at 1',
  ),
  (
    {'bonus': 'cosine', 'log_end': np.float32(0.5)},
    'log_end=0.5 has no meaning for bonus="cosine"; leave it at 1',
  ),
  (
    {'mask': np.ones((2, 3), bool)},
    r'mask \(2, 3\) must have the shape of labels \(2,\)',
  ),
  ({'label_smoothing': 1.0}, r'label_smoothing=1.0 is not in \[0, 1\)'),
  ({'label_smoothing': -0.1}, r'label_smoothing=-0.1 is not in \[0, 1\)'),
  ({'clamp_eps': 1.0}, r'clamp_eps=1.0 must be in \[0, 1\)'),
  ({'bonus': 'abrupt', 'threshold': 1.0}, r'threshold=1.0 must be in \(0, 1\)'),
  ({'bonus': 'power', 'gamma': 0.0}, 'gamma=0.0 must be > 0'),
  ({'bonus': 'soft', 'softness': 1.0}, r'softness=1.0 must be in \[0, 1\)'),
]


@pytest.mark.parametrize('change, message', MISTAKES)
def test_a_mistake_is_named_with_its_value(change, message):
  with pytest.raises(ValueError, match=message):
    encouraging_loss(**{'logits': LOGITS, 'labels': LABELS, **change})


@pytest.mark.parametrize(
  'change, message',
  [
    ({'labels': np.array([True, False])}, 'labels are bool; give integers'),
    ({'logits': np.zeros((2, 3), int)}, 'logits are int32; give floats'),
  ],
)
def test_another_type_is_a_mistake(change, message):
  with pytest.raises(TypeError, match=message):
    encouraging_loss(**{'logits': LOGITS, 'labels': LABELS, **change})


def test_a_traced_log_end_of_a_bonus_without_one_is_a_mistake():
  with pytest.raises(ValueError, match='has no meaning for bonus="soft"'):
    jax.jit(
      lambda x: encouraging_loss(LOGITS, LABELS, bonus='soft', log_end=x)
    )(0.5)


def test_a_traced_label_outside_of_the_classes_spoils_its_row_alone(smoothing):
  logits = jnp.asarray(example(4)[0], jnp.float32)
  labels = jnp.array([1, 5, -1, 2])
  for loss in (
    partial(encouraging_loss, label_smoothing=smoothing, class_weights=WEIGHTS),
    mirror_mse,
  ):
    found = jax.jit(loss)(logits, labels)
    assert np.isnan(found).tolist() == [False, True, True, False]
    good = jax.jit(loss)(logits, jnp.array([1, 0, 0, 2]))
    np.testing.assert_array_equal(found[::3], good[::3])


@pytest.mark.parametrize('loss', [binary_encouraging, halted_focal])
def test_a_target_that_is_neither_0_nor_1_is_a_mistake(loss):
  targets = np.array([0, 1, 0.5])
  with pytest.raises(ValueError, match=r'target at \(2,\) is 0.5'):
    loss(np.zeros(3, np.float32), targets)
  found = jax.jit(loss)(np.zeros(3, np.float32), targets)
  assert np.isnan(found).tolist() == [False, False, True]
  masked = loss(np.zeros(3, np.float32), targets, mask=np.arange(3) < 2)
  np.testing.assert_allclose(masked, found.at[2].set(0), rtol=1e-6)
  with pytest.raises(ValueError, match=r'alpha=1 must be in \(0, 1\)'):
    loss(np.zeros(3), np.zeros(3), alpha=1)
  with pytest.raises(ValueError, match=r'targets \(2,\) must have the shape'):
    loss(np.zeros(3), np.zeros(2))
  with pytest.raises(ValueError, match=r'mask \(2,\) must have the shape'):
    loss(np.zeros(3), np.zeros(3), mask=np.ones(2, bool))


def test_other_mistakes_are_named_with_their_values():
  for call, message in (
    (lambda: mirror_mse(LOGITS, LABELS, gamma=0.5), 'gamma=0.5 must be >= 1'),
    (lambda: mirror_mse(LOGITS, LABELS, activation='relu'), '"relu" is not'),
    (lambda: mirror_mse(LOGITS, LABELS + 9), r'label at \(0,\) is 9'),
    (lambda: halted_focal(0.0, 1, gamma=-1), 'gamma=-1 must be >= 0'),
    (lambda: halted_focal(0.0, 1, beta=5), 'beta=5 must be None or one of 0'),
    (lambda: binary_encouraging(0.0, 1, bonus='x'), 'bonus="x" is not'),
    (lambda: gradient_weight(0.5, log_end=2), 'log_end=2 must be in'),
    (lambda: bonus_of(0.5, bonus_scale=-2), 'bonus_scale=-2 must be'),
    (lambda: effective_number_weights([3, 0]), r'counts=\[3.0, 0.0\] must be'),
    (lambda: effective_number_weights([]), 'one count >= 1 for each class'),
    (lambda: effective_number_weights([1], beta=1), r'beta=1 must be in'),
    (lambda: deferred(-1), 'start=-1 must be >= 0'),
    (lambda: rising('steep', 3), 'shape="steep" is not one of linear'),
    (lambda: rising('linear', 0), 'steps=0 must be >= 1'),
    (lambda: rising('linear', 3, rate=0), 'rate=0 > 0'),
  ):
    with pytest.raises(ValueError, match=message):
      call()
