import json
import math
import os
import pathlib
import re
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl.testing import parameterized

from jaxlab.papers.lamb import method
from jaxlab.papers.lamb.method import lamb, lars, warmup_polynomial
from tests.papers import lamb_float64 as table
from tests.papers import lamb_reference as reference

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope='module')
def float64():
  """The whole table in float64: one process, which enables x64 for itself."""
  options = {
    'JAX_ENABLE_X64': '1',
    'JAX_PLATFORMS': 'cpu',
    # Compiling is nearly all of its time; the float32 runs below optimise.
    'JAX_DISABLE_MOST_OPTIMIZATIONS': '1',
  }
  done = subprocess.run(
    [sys.executable, '-m', 'tests.papers.lamb_float64'],
    cwd=ROOT,
    env={**os.environ, **options},
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  return json.loads(done.stdout)


@pytest.mark.parametrize('name', table.CASES)
def test_100_steps_equal_the_reference_in_float64(float64, name):
  params, ratios = float64[name]
  assert params < 1e-9
  # Trust ratios are kept in float32: half a unit in the last place is 6e-8.
  assert ratios < 1e-7


@pytest.mark.parametrize('name', table.CASES)
def test_100_steps_equal_the_reference_in_float32(name):
  params, ratios = table.errors(table.CASES[name], np.float32)
  assert params < 1e-5
  assert ratios < 1e-5


def test_100_steps_equal_optax_in_float64(float64):
  assert len(float64['optax']) == 4
  assert max(float64['optax'].values()) < 1e-9


def test_one_step_equals_optax_in_float32():
  # optax takes 1 - 0.999^1 in float32, wrong by 1.3e-5; the root halves that.
  assert max(table.optax_errors(np.float32, steps=1).values()) < 1e-5


def small():
  rng = np.random.default_rng(1)
  normal = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
  params = {
    'layers': {'kernel': normal(3, 4, 5), 'bias': normal(3, 5)},
    'head': {'kernel': normal(4, 2)},
  }
  grads = jax.tree.map(lambda x: normal(*x.shape), params)
  return params, grads


MAKERS = {
  'lamb': lambda **options: lamb(0.1, **options),
  'lars paper': lambda **options: lars(0.1, weight_decay=0.1, **options),
  'lars you2017': lambda **options: lars(
    0.1, weight_decay=0.1, order='you2017', nesterov=True, **options
  ),
}
every_method = parameterized.named_parameters(
  *((name.replace(' ', '_'), make) for name, make in MAKERS.items())
)


class TransformTest(chex.TestCase):
  """Facts that hold with and without jit."""

  def updates(self, tx, params, grads, steps=2):
    update = self.variant(tx.update)
    state = self.variant(tx.init)(params)
    for _ in range(steps):
      updates, state = update(grads, state, params)
      params = optax.apply_updates(params, updates)
    return params, state

  @chex.variants(with_jit=True, without_jit=True)
  @every_method
  def test_a_stacked_leaf_moves_as_its_layers_apart(self, make):
    params, grads = small()
    layer = lambda tree, i: jax.tree.map(lambda x: x[i], tree)
    apart = lambda tree: {
      **tree,
      'layers': [layer(tree['layers'], i) for i in range(3)],
    }
    stacked, state = self.updates(
      make(layer_axes=method.layer_axes_from), params, grads
    )
    separate, other = self.updates(make(), apart(params), apart(grads))
    # The same sums over the same numbers: only their order may differ.
    chex.assert_trees_all_close(apart(stacked), separate, rtol=1e-6, atol=1e-7)
    ratios = method.trust_ratios(state, method.layer_axes_from)
    assert ratios['layers']['kernel'].shape == (3,)
    chex.assert_trees_all_close(
      apart(ratios), method.trust_ratios(other), rtol=1e-6
    )
    # One norm over the stack would be another update: this test can fail.
    coupled, _ = self.updates(make(), params, grads)
    gap = coupled['layers']['kernel'] - stacked['layers']['kernel']
    assert float(jnp.max(jnp.abs(gap))) > 1e-5

  @chex.variants(with_jit=True, without_jit=True)
  @every_method
  def test_ratio_is_one_where_a_norm_is_zero(self, make):
    axes = {'w': 1, 'still': 0}
    tx = make(decay_mask=False, layer_axes=axes)
    params = {'w': jnp.stack([jnp.zeros(3), jnp.ones(3)]), 'still': jnp.ones(2)}
    grads = {'w': jnp.ones((2, 3)), 'still': jnp.zeros(2)}
    state = self.variant(tx.init)(params)
    updates, state = self.variant(tx.update)(grads, state, params)
    ratios = method.trust_ratios(state, axes)
    assert float(ratios['w'][0]) == 1.0
    assert float(ratios['w'][1]) != 1.0
    assert float(ratios['still']) == 1.0
    assert float(jnp.max(jnp.abs(updates['still']))) == 0.0
    assert float(jnp.min(jnp.abs(updates['w'][0]))) > 0.0

  @chex.variants(with_jit=True, without_jit=True)
  @every_method
  def test_zero_gradients_on_zero_weights_stay_zero(self, make):
    params = jax.tree.map(jnp.zeros_like, small()[0])
    moved, _ = self.updates(make(), params, params)
    chex.assert_trees_all_equal(moved, params)

  @chex.variants(with_jit=True, without_jit=True)
  @every_method
  def test_nan_gradients_are_not_hidden_and_stay_in_their_layer(self, make):
    for norm_ord in (2, math.inf):
      params, grads = small()
      tx = make(layer_axes=method.layer_axes_from, norm_ord=norm_ord)
      grads['layers']['kernel'] = (
        grads['layers']['kernel'].at[1, 0, 0].set(jnp.nan)
      )
      state = self.variant(tx.init)(params)
      updates, state = self.variant(tx.update)(grads, state, params)
      kernel = np.asarray(updates['layers']['kernel'])
      assert np.isnan(kernel[1]).all()
      assert np.isfinite(kernel[[0, 2]]).all()
      ratios = method.trust_ratios(state, method.layer_axes_from)
      assert np.isnan(ratios['layers']['kernel'][1])
      chex.assert_tree_all_finite((updates['head'], updates['layers']['bias']))

  @chex.variants(with_jit=True, without_jit=True)
  @every_method
  def test_bfloat16_parameters_are_updated_with_float32_arithmetic(self, make):
    low = lambda tree: jax.tree.map(lambda x: x.astype(jnp.bfloat16), tree)
    wide = lambda tree: jax.tree.map(lambda x: x.astype(jnp.float32), tree)
    dtypes = lambda tree: {str(x.dtype) for x in jax.tree.leaves(tree)}
    params, grads = map(low, small())
    tx = make()
    state = self.variant(tx.init)(params)
    updates, state = self.variant(tx.update)(grads, state, params)
    exact, other = tx.update(wide(grads), tx.init(wide(params)), wide(params))
    assert dtypes(updates) == {'bfloat16'}
    # The same float32 numbers, then one rounding: half a unit is 2^-9.
    chex.assert_trees_all_close(wide(updates), exact, rtol=2**-8)
    chex.assert_trees_all_close(state, other, rtol=1e-5)
    assert dtypes(state) == {'float32', 'int32'}
    moved = optax.apply_updates(params, updates)
    assert dtypes(moved) == {'bfloat16'}

  @chex.variants(with_jit=True, without_jit=True)
  def test_trust_ratios_are_found_in_a_chain_under_a_mask(self):
    params, grads = small()
    only = {'layers': {'kernel': True, 'bias': False}, 'head': True}
    tx = optax.chain(
      optax.clip_by_global_norm(1.0),
      optax.masked(
        lamb(0.1, eps=1e-12, layer_axes=method.layer_axes_from), only
      ),
    )
    _, state = self.updates(tx, params, grads, steps=1)
    ratios = method.trust_ratios(
      {'net': state, 'other': optax.EmptyState()}, method.layer_axes_from
    )
    assert ratios['layers']['kernel'].shape == (3,)
    assert ratios['layers']['kernel'].dtype == jnp.float32
    assert jax.tree.leaves(ratios['layers']['bias']) == []
    # By hand: the first LAMB step is the sign of g, plus decay.
    u = jnp.sign(grads['head']['kernel']) + 0.01 * params['head']['kernel']
    norm = jnp.linalg.norm(params['head']['kernel']) / jnp.linalg.norm(u)
    assert float(ratios['head']['kernel']) == pytest.approx(
      float(norm), rel=1e-4
    )

  @chex.variants(with_jit=True, without_jit=True)
  @every_method
  def test_leaves_out_of_the_adapt_mask_have_ratio_one(self, make):
    params, grads = small()
    tx = make(adapt_mask=method.default_decay_mask)
    _, state = self.updates(tx, params, grads)
    ratios = method.trust_ratios(state)
    assert float(ratios['layers']['bias']) == 1.0
    assert float(ratios['head']['kernel']) != 1.0

  @chex.variants(with_jit=True, without_jit=True)
  def test_the_schedule_equals_the_reference_at_every_step(self):
    for options in (
      {'peak': 5e-3, 'warmup': 20, 'total': 100},
      {'peak': 5e-3, 'warmup': 20, 'total': 100, 'jump': False},
      {'peak': 1.0, 'warmup': 30, 'total': 60, 'power': 0.5, 'start': -7},
      {'peak': 1.0, 'warmup': 30, 'total': 60, 'jump': False, 'start': -7},
      {'peak': 1.0, 'warmup': 10, 'total': 60, 'jump': False, 'start': -50},
      {'peak': 1.0, 'warmup': 10, 'total': 60, 'start': 5, 'power': 2.0},
      {'peak': 1.0, 'warmup': 0, 'total': 60, 'power': 0.0},
      {'peak': 1.0, 'warmup': 60, 'total': 60, 'jump': False},
    ):
      steps = jnp.arange(options['total'] + 5)
      rates = self.variant(warmup_polynomial(**options))(steps)
      expected = [
        reference.warmup_polynomial(t, **options) for t in range(len(steps))
      ]
      # Near the end 1 - t / total loses digits in float32.
      np.testing.assert_allclose(
        rates, expected, rtol=1e-5, atol=1e-6 * options['peak']
      )


def test_the_jumping_schedule_falls_from_5e_3_to_4e_3_at_batch_32k():
  schedule = warmup_polynomial(5e-3, 3125, 15_625)
  assert float(schedule(0)) == 0.0
  assert float(schedule(3124)) == pytest.approx(5e-3 * 3124 / 3125, rel=1e-6)
  assert float(schedule(3125)) == pytest.approx(4e-3, rel=1e-6)
  assert float(schedule(15_625)) == 0.0
  assert float(schedule(20_000)) == 0.0


def test_the_schedule_without_jump_peaks_where_warm_up_ends():
  for start in (-100, 0, 50):
    schedule = warmup_polynomial(5e-3, 3125, 15_625, jump=False, start=start)
    end = start + 3125
    rates = np.asarray(schedule(jnp.arange(15_625)))
    assert int(np.argmax(rates)) == end
    assert float(schedule(end)) == pytest.approx(5e-3, rel=1e-6)
    middle = (end + 15_625) / 2
    assert float(schedule(middle)) == pytest.approx(2.5e-3, rel=1e-5)


def test_a_negative_start_enters_the_warm_up_on_its_way():
  schedule = warmup_polynomial(1e-3, 100, 1141, start=-76)
  assert float(schedule(0)) == pytest.approx(1e-3 * 76 / 100, rel=1e-6)
  assert float(schedule(23)) == pytest.approx(1e-3 * 99 / 100, rel=1e-6)
  assert float(schedule(24)) == pytest.approx(1e-3 * (1 - 24 / 1141), rel=1e-6)


def test_a_late_start_has_rate_zero_before_it_never_less():
  schedule = warmup_polynomial(1e-3, 10, 100, start=5)
  assert [float(schedule(t)) for t in range(6)] == [0.0] * 6
  assert float(schedule(6)) > 0


def test_bias_correction_at_step_one_is_exact_in_float32():
  tx = lamb(1.0, eps=0, weight_decay=0, adapt_mask=False)
  grads = {'w': jnp.asarray([3.0, -1e-3, 0.7])}
  updates, _ = tx.update(grads, tx.init(grads), grads)
  # m-hat = g and v-hat = g^2; 1 - 0.999 in float32 would be off by 1.3e-5.
  np.testing.assert_allclose(updates['w'], [-1, 1, -1], rtol=1e-6)


@pytest.mark.parametrize('make', [lamb, lars])
def test_the_first_update_takes_the_rate_of_step_zero(make):
  params, grads = small()
  tx = make(lambda step: jnp.asarray([0.0, 0.5])[step])
  updates, state = tx.update(grads, tx.init(params), params)
  assert all(float(jnp.max(jnp.abs(u))) == 0 for u in jax.tree.leaves(updates))
  updates, _ = tx.update(grads, state, params)
  assert all(float(jnp.max(jnp.abs(u))) > 0 for u in jax.tree.leaves(updates))


def test_a_step_is_traced_once():
  params, grads = small()
  tx = lamb(warmup_polynomial(0.1, 2, 5), layer_axes=method.layer_axes_from)

  @jax.jit
  @chex.assert_max_traces(n=1)
  def step(params, state):
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state

  state = tx.init(params)
  for _ in range(3):
    params, state = step(params, state)
  assert int(state.step) == 3


@pytest.mark.parametrize('make', [lamb, lars, method.scale_by_lamb])
def test_every_number_may_be_injected(make):
  params, grads = small()
  injected = optax.inject_hyperparams(make)
  if make is method.scale_by_lamb:
    plain, tx = make(), injected()
  else:
    plain, tx = make(0.1), injected(0.1)
  step = lambda tx: jax.jit(tx.update)(grads, tx.init(params), params)[0]
  chex.assert_trees_all_close(step(plain), step(tx), rtol=1e-6)


def test_ones_move_by_the_rate():
  params = {'w': jnp.ones(3)}
  tx = optax.inject_hyperparams(lamb)(0.1)
  updates, _ = jax.jit(tx.update)(params, tx.init(params), params)
  np.testing.assert_allclose(updates['w'], -0.1, rtol=1e-6)


@pytest.mark.parametrize('make', [lamb, lars])
def test_the_decay_may_follow_a_schedule_or_be_mapped_over(make):
  params, grads = small()
  decays = jnp.asarray([0.3, 0.02])
  after = lambda decay, steps: follow(
    make(0.1, weight_decay=decay), params, grads, steps
  )
  fixed = [after(float(decay), 1) for decay in decays]
  mapped = jax.jit(jax.vmap(lambda decay: after(decay, 1)))(decays)
  both = jax.tree.map(lambda *rows: jnp.stack(rows), *fixed)
  chex.assert_trees_all_close(mapped, both, rtol=1e-5)
  scheduled = after(lambda step: decays[step], 2)
  apart = after(0.3, 2)
  chex.assert_trees_all_close(after(lambda step: decays[step], 1), fixed[0])
  gap = scheduled['head']['kernel'] - apart['head']['kernel']
  assert float(jnp.max(jnp.abs(gap))) > 1e-5


def follow(tx, params, grads, steps):
  """The parameters after some updates with the same gradients."""
  state = tx.init(params)
  for _ in range(steps):
    updates, state = tx.update(grads, state, params, value=1.0)
    params = optax.apply_updates(params, updates)
  return params


@pytest.mark.parametrize('make', [lamb, lars])
def test_zero_weights_have_a_derivative_through_an_update(make):
  tx, x = make(0.1, weight_decay=0.0), jnp.zeros(3)

  def moved(x):
    g = jnp.asarray([1.0, -2.0, 0.5])
    return jnp.sum(x + tx.update(g, tx.init(x), x)[0])

  np.testing.assert_array_equal(jax.grad(moved)(x), 1.0)


W, G = np.asarray([3.0, -4.0]), np.asarray([0.6, 0.3])  # ‖W‖ = 5
U = np.asarray([1.0, 1.0]) + 0.1 * W  # LAMB's first direction, decay .1
RATIO = 5 / np.linalg.norm(U)
RAW = G / (np.abs(G))  # without decay
FIRST = {  # (transformation, the updates of one or two steps with G) by hand
  'ratio bounded above': (
    lamb(1.0, weight_decay=0.1, eps=0, trust_clip=(0.0, 1.5)),
    [-1.5 * U],
  ),
  'ratio bounded below': (
    lamb(1.0, weight_decay=0.1, eps=0, trust_clip=(4.0, 10.0)),
    [-4 * U],
  ),
  'ratio within its bounds': (
    lamb(1.0, weight_decay=0.1, eps=0, trust_clip=(0.1, 10.0)),
    [-RATIO * U],
  ),
  # m = g is ten times (1 - b1) g.
  'no averaging of gradients': (
    lamb(
      1.0, weight_decay=0, eps=0, grad_averaging=False, adapt_mask=False
    ),
    [-10 * RAW],
  ),
  'decoupled decay': (
    lamb(0.5, weight_decay=0.1, eps=0, decoupled_decay=True),
    [-0.5 * (5 / np.linalg.norm(RAW) * RAW + 0.1 * W)],
  ),
  'direction alone': (
    method.scale_by_lamb(weight_decay=0.1, eps=0),
    [RATIO * U],
  ),
  'norms apart': (
    lars(
      0.5, 0.0, 0.2, trust_coefficient=1.0, order='you2017',
      separate_norms=True,
    ),
    [-0.5 * 5 / (np.linalg.norm(G) + 0.2 * 5) * (G + 0.2 * W)],
  ),
  'rate inside the momentum': (
    lars(lambda t: 1.0 - 0.5 * t, 0.9, order='you2017', adapt_mask=False),
    [-G, -(0.9 + 0.5) * G],
  ),
  'rate outside the momentum': (
    lars(
      lambda t: 1.0 - 0.5 * t, 0.9, order='you2017', adapt_mask=False,
      outer_rate=True,
    ),
    [-G, -0.5 * 1.9 * G],
  ),
}  # fmt: skip


@pytest.mark.parametrize('name', FIRST)
def test_options_of_other_libraries_by_hand(name):
  tx, wanted = FIRST[name]
  x, g = jnp.asarray(W, jnp.float32), jnp.asarray(G, jnp.float32)
  state = tx.init(x)
  for one in wanted:
    found, state = tx.update(g, state, x)
    np.testing.assert_allclose(found, one, rtol=1e-5)


def test_the_first_moment_is_kept_in_its_own_dtype():
  params, grads = small()
  tx = lamb(0.1, mu_dtype=jnp.bfloat16)
  updates, state = tx.update(grads, tx.init(params), params)
  assert state.mu['head']['kernel'].dtype == jnp.bfloat16
  assert state.nu['head']['kernel'].dtype == jnp.float32
  plain = lamb(0.1)
  same, _ = plain.update(grads, plain.init(params), params)
  chex.assert_trees_all_close(updates, same)


def test_an_empty_tree_of_parameters_has_an_empty_update():
  for tx in (lamb(0.1, decay_mask={}), lars(0.1)):
    assert tx.update({}, tx.init({}), {})[0] == {}


def test_default_decay_mask_spares_kernels_and_excludes_norms_and_biases():
  names = {
    'embeddings/word/embedding': True,
    'embeddings/LayerNorm/scale': False,
    'layers/attention/query/kernel': True,
    'layers/attention/query/bias': False,
    'layers/attention_norm/scale': False,
    'layer_norm_1/scale': False,
    'layernorm_embedding/weight': False,
    'BatchNorm_0/scale': False,
    'norm/scale': False,
    'mlm/output_bias': False,
    'normaliser/kernel': True,
    'biaser/kernel': True,
  }
  names |= {
    'encoder/ln_1/scale': False,
    'ln/weight': False,
    'bn1/scale': False,
    'block/gn/w': False,
    'ln_f/g': False,
    'linear/b': False,
    'linear/w': True,
    'lnet/kernel': True,
    'main/kernel': True,
    'web/kernel': True,
    # of Flax's NNX and of boxed Linen parameters
    'dense/bias/value': False,
    'dense/kernel/value': True,
    'final_norm/scale/value': False,
  }
  # Stacked or not: shapes say nothing.
  params = table.nested({name: jnp.ones((3, 4, 5)) for name in names})
  assert method.default_decay_mask(params) == table.nested(names)
  spared = method.default_decay_mask(params, exclude=('Norm',))
  assert spared['mlm']['output_bias']
  assert not spared['BatchNorm_0']['scale']


def test_layer_axes_match_the_name_of_a_scan_exactly():
  ones = jnp.ones
  params = {
    'encoder': {
      'layers': {'dense': {'kernel': ones((3, 4, 5)), 'bias': ones((3, 5))}},
      'layers_0': {'kernel': ones((4, 5))},
      'embedding': ones((7, 4)),
    },
    'unrolled': {
      'layers': [{'kernel': ones((4, 5))}, {'kernel': ones((5, 2))}]
    },
    'layers': ones(3),
  }
  axes = method.layer_axes_from(params)
  assert axes == {
    'encoder': {
      'layers': {'dense': {'kernel': 1, 'bias': 1}},
      'layers_0': {'kernel': 0},
      'embedding': 0,
    },
    'unrolled': {'layers': [{'kernel': 0}, {'kernel': 0}]},
    'layers': 0,
  }
  assert set(jax.tree.leaves(method.layer_axes_from(params, ('blocks',)))) == {
    0
  }


@jax.tree_util.register_pytree_node_class
class Callable:
  """A module as equinox makes them: a tree that can be called."""

  def __init__(self, a, b):
    self.a, self.b = a, b

  def __call__(self, x):
    raise AssertionError('a tree was called')

  def tree_flatten(self):
    return (self.a, self.b), None

  @classmethod
  def tree_unflatten(cls, _, leaves):
    return cls(*leaves)


def test_a_mask_that_can_be_called_is_a_tree():
  params, grads = Callable(W32, W32), Callable(G32, G32)
  tx = lamb(0.1, adapt_mask=Callable(True, False))
  _, state = tx.update(grads, tx.init(params), params)
  assert float(method.trust_ratios(state).a) != 1
  assert float(method.trust_ratios(state).b) == 1


W32, G32 = jnp.asarray(W, jnp.float32), jnp.asarray(G, jnp.float32)
PARAMS = {'a': jnp.ones((2, 3)), 'b': jnp.ones(4)}
NAN = math.nan
WRONG = {
  r'learning_rate is -0\.1; give a number': lambda: lamb(-0.1),
  r'learning_rate is nan': lambda: lars(NAN),
  r'learning_rate is Array': lambda: lamb(jnp.asarray(-1.0)),
  r'b1 is 1\.0; give a number in \[0, 1\.0\)': lambda: lamb(0.1, b1=1.0),
  r'b2 is -0\.5': lambda: lamb(0.1, b2=-0.5),
  r'eps is -1e-06': lambda: lamb(0.1, eps=-1e-6),
  r'eps is inf': lambda: lars(0.1, eps=math.inf),
  r'weight_decay is -1': lambda: lamb(0.1, weight_decay=-1),
  r'weight_decay is inf': lambda: lars(0.1, weight_decay=math.inf),
  r"weight_decay is 'much'": lambda: lars(0.1, weight_decay='much'),
  r'momentum is 1': lambda: lars(0.1, momentum=1),
  r'trust_coefficient is -2': lambda: lars(0.1, trust_coefficient=-2),
  r"order is 'adam'; give one of \('paper', 'you2017'\)": lambda: lars(
    0.1, order='adam'
  ),
  r"variant is 'nlamb'; give one of": lambda: lamb(0.1, variant='nlamb'),
  r'norm_ord is 3; give one of': lambda: lamb(0.1, norm_ord=3),
  r"norm_ord is 'fro'": lambda: lars(0.1, norm_ord='fro'),
  r"nesterov is True with order='paper'": lambda: lars(0.1, nesterov=True),
  r'phi is \(2, 1\); give None, a callable, or a pair': lambda: lamb(
    0.1, phi=(2, 1)
  ),
  r'phi is \(-1, 1\)': lambda: lars(0.1, phi=(-1, 1)),
  r'phi is 10\.0': lambda: lamb(0.1, phi=10.0),
  r'trust_clip is \(2, 1\); give None or a pair of bounds': lambda: lamb(
    0.1, trust_clip=(2, 1)
  ),
  r"separate_norms is True with order='paper'": lambda: lars(
    0.1, separate_norms=True
  ),
  r"outer_rate is True with order='paper'": lambda: lars(0.1, outer_rate=True),
  r"exclude is 'bias'; give a sequence": lambda: method.default_decay_mask(
    PARAMS, exclude='bias'
  ),
  'holds 2 trust ratios, layer_axes say 3; give the': lambda: (
    method.trust_ratios(lamb(0.1).init(PARAMS), {'a': 1, 'b': 0})
  ),
  r"layer_axes is 3 for 'a' of shape \(2, 3\)": lambda: lamb(
    0.1, layer_axes={'a': 3, 'b': 0}
  ).init(PARAMS),
  r"layer_axes is 2 for 'b'": lambda: lars(0.1, layer_axes=2).init(PARAMS),
  r"layer_axes is -1 for 'a'": lambda: lars(0.1, layer_axes=-1).init(PARAMS),
  r'layer_axes holds True; give a tree of int': lambda: lamb(
    0.1, layer_axes=True
  ).init(PARAMS),
  r'decay_mask has the structure .* give a tree or prefix tree': lambda: lamb(
    0.1, decay_mask={'a': True}
  ).init(PARAMS),
  r'adapt_mask has the structure': lambda: lars(
    0.1, adapt_mask=lambda _: [True, False]
  ).init(PARAMS),
  r'adapt_mask holds 1; give a tree of bool': lambda: lamb(
    0.1, adapt_mask={'a': True, 'b': 1}
  ).init(PARAMS),
  r'params is None': lambda: lamb(0.1).update(PARAMS, lamb(0.1).init(PARAMS)),
  r"parameter 'n' has dtype int32": lambda: lamb(0.1).init(
    {'n': jnp.ones(2, jnp.int32)}
  ),
  r'opt_state holds 0 LAMB or LARS states \(at: none\)': lambda: (
    method.trust_ratios(optax.adam(0.1).init(PARAMS))
  ),
  r"holds 2 LAMB or LARS states \(at: 'x/0', 'y'\)": lambda: (
    method.trust_ratios(
      {
        'x': optax.chain(lamb(0.1)).init(PARAMS),
        'y': lars(0.1).init(PARAMS),
      }
    )
  ),
  r"'layers/b' has shape \(4,\) but 'layers/a' has leading axis 2": lambda: (
    method.layer_axes_from({'layers': PARAMS})
  ),
  r"stacked is 'layers'; give a sequence": lambda: method.layer_axes_from(
    PARAMS, stacked='layers'
  ),
  r'peak is -1': lambda: warmup_polynomial(-1, 10, 100),
  r'warmup is -1; give steps in 0': lambda: warmup_polynomial(1, -1, 100),
  r'warmup is 101; .* total \(100\)': lambda: warmup_polynomial(1, 101, 100),
  r'total is 0; give a finite number of steps > 0': lambda: warmup_polynomial(
    1, 0, 0
  ),
  r'power is nan': lambda: warmup_polynomial(1, 1, 10, power=NAN),
  r'start is 95; .* \(90\)': lambda: warmup_polynomial(1, 10, 100, start=95),
}


@pytest.mark.parametrize('message', WRONG)
def test_mistakes_are_named_with_value_and_cure(message):
  with pytest.raises(ValueError) as error:
    WRONG[message]()
  assert re.search(message, str(error.value)), str(error.value)
