from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlab.models.transformer import Transformer, sinusoids

SIZES = {
  'vocab_size': 13,
  'layers': 2,
  'width': 16,
  'ffn': 24,
  'heads': 2,
  'dropout_rate': 0.3,
}
SOURCE = np.array([[5, 6, 7, 8, 2], [9, 4, 2, 0, 0], [3, 2, 0, 0, 0]], np.int32)
TARGET = np.array([[1, 6, 7, 8], [1, 9, 9, 0], [1, 0, 0, 0]], np.int32)


def make(norm='pre', **changes):
  return Transformer(**{**SIZES, 'norm': norm, **changes})


def make_params(model, seed=0):
  """Parameters that are all at work: attention far from uniform, no bias 0."""
  init = partial(model.init, deterministic=True)
  shapes = jax.eval_shape(init, jax.random.key(0), SOURCE, TARGET)['params']
  rng = np.random.default_rng(seed)

  def draw(path, leaf):
    centre = 1.0 if path[-1].key == 'scale' else 0.0
    values = centre + 0.4 * rng.standard_normal(leaf.shape)
    return jnp.asarray(values, jnp.float32)

  return jax.tree_util.tree_map_with_path(draw, shapes)


@partial(jax.jit, static_argnums=0)
def forward(model, params, source, target, key=None):
  return model.apply(
    {'params': params},
    source,
    target,
    deterministic=key is None,
    rngs={} if key is None else {'dropout': key},
  )


@partial(jax.jit, static_argnums=(0, 4, 5))
def stepped(model, params, source, targets, hypotheses, length):
  """Logits [b·k, t, v] of the steps, one token at a time."""
  variables = {'params': params}
  encoded = model.apply(variables, source, deterministic=True, method='encode')
  memory, cache = model.apply(
    variables, encoded, source, hypotheses, length, method='begin'
  )

  def step(cache, tokens):
    return model.apply(variables, memory, cache, tokens, method='step')

  return jnp.swapaxes(jax.lax.scan(step, cache, targets.T)[1], 0, 1)


# One more place in the cache than is used, and one less.
@pytest.mark.parametrize('norm, length', [('pre', 5), ('post', 3)])
def test_cached_steps_give_the_logits_of_the_known_target(norm, length):
  model = make(norm)
  params = make_params(model)
  known = forward(model, params, SOURCE, TARGET)
  chex.assert_shape(known, (3, 4, 13))
  assert known.dtype == jnp.float32
  targets, hypotheses = TARGET, 1
  if norm == 'pre':  # and hypotheses of a source side by side
    other = np.array([[1, 3, 4, 5], [1, 7, 2, 2], [1, 8, 8, 8]], np.int32)
    targets, hypotheses = np.stack([TARGET, other], 1).reshape(6, 4), 2
    known = [known, forward(model, params, SOURCE, other)]
    known = np.stack(known, 1).reshape(6, 4, 13)
  found = stepped(model, params, SOURCE, targets, hypotheses, length)
  np.testing.assert_allclose(
    found[:, :length], known[:, :length], rtol=1e-5, atol=1e-5
  )
  assert np.isnan(found[:, length:]).all()


@pytest.mark.parametrize('norm', ['pre', 'post'])
def test_a_position_sees_no_later_target_and_all_of_the_source(norm):
  model = make(norm)
  params = make_params(model)
  logits = forward(model, params, SOURCE, TARGET)
  later = TARGET.copy()
  later[0, 2] = 11
  changed = np.abs(forward(model, params, SOURCE, later) - logits).max(-1)
  assert (changed[0] > 1e-3).tolist() == [False, False, True, True]
  assert changed[0, :2].max() == 0
  assert changed[1:].max() == 0
  source = SOURCE.copy()
  source[0, 4] = 11
  changed = np.abs(forward(model, params, source, TARGET) - logits).max(-1)
  assert changed[0].min() > 1e-3
  assert changed[1:].max() == 0


def test_padding_changes_nothing():
  model = make()
  params = make_params(model)
  wide = [np.pad(x, ((0, 0), (0, 3))) for x in (SOURCE, TARGET)]
  logits = forward(model, params, *wide)
  known = forward(model, params, SOURCE, TARGET)
  real = TARGET > 0
  np.testing.assert_allclose(
    logits[:, :4][real], known[real], rtol=1e-5, atol=1e-5
  )
  alone = forward(model, params, SOURCE[1:2, :3], TARGET[1:2, :3])
  np.testing.assert_allclose(logits[1, :3], alone[0], rtol=1e-5, atol=1e-5)


def test_a_row_of_padding_alone_stays_finite():
  model = make()
  source, target = SOURCE.copy(), TARGET.copy()
  source[1] = target[1] = 0
  params = make_params(model)
  assert np.isfinite(forward(model, params, source, target)).all()


def test_one_embedding_serves_source_target_and_output():
  model = make()
  params = make_params(model)
  sizes = [x.shape for x in jax.tree.leaves(params) if 13 in x.shape]
  assert sizes == [(13, 16)]

  @jax.jit
  @jax.grad
  def slope(params, chosen):
    return (forward(model, params, SOURCE, TARGET) @ chosen).sum()

  def of(token):
    return slope(params, jnp.eye(13)[token])['embedding']

  # Token 12 is in no text: its row has the gradient of its own logit alone.
  assert np.abs(of(12)[12]).max() > 0
  assert np.abs(of(11)[12]).max() == 0
  assert np.abs(of(11)[5]).max() > 0  # in the source
  assert np.abs(of(11)[1]).max() > 0  # begins the target


def test_dropout_is_a_function_of_its_key():
  model = make()
  params = make_params(model)
  plain = forward(model, params, SOURCE, TARGET)
  key = jax.random.key(3)
  once = forward(model, params, SOURCE, TARGET, key)
  chex.assert_trees_all_equal(once, forward(model, params, SOURCE, TARGET, key))
  other = forward(model, params, SOURCE, TARGET, jax.random.key(4))
  assert np.abs(once - plain).max() > 0.1
  assert np.abs(once - other).max() > 0.1
  none = make(dropout_rate=0.0)
  chex.assert_trees_all_equal(forward(none, params, SOURCE, TARGET, key), plain)


def test_bfloat16_is_near_float32_with_float32_parameters_and_logits():
  model = make()
  params = make_params(model)
  low = make(dtype=jnp.bfloat16)
  logits = forward(low, params, SOURCE, TARGET)
  assert logits.dtype == jnp.float32
  mean = lambda params: forward(low, params, SOURCE, TARGET).mean()
  grads = jax.eval_shape(jax.grad(mean), params)
  chex.assert_trees_all_equal_dtypes(grads, params)
  exact = forward(model, params, SOURCE, TARGET)
  # bfloat16 keeps 8 bits; the logits are of size 10.
  assert 0 < np.abs(logits - exact).max() < 0.05 * np.abs(exact).max()


def test_positions_are_sines_and_cosines_of_the_formula():
  found = sinusoids(3, 2, 6)
  for row, position in enumerate((3, 4)):
    for i in range(3):
      angle = position / 10_000 ** (2 * i / 6)
      np.testing.assert_allclose(
        found[row, 2 * i : 2 * i + 2],
        [np.sin(angle), np.cos(angle)],
        rtol=1e-5,
      )


def test_a_token_beyond_the_vocabulary_is_nan():
  model = make()
  source = SOURCE.copy()
  source[1, 0] = 13
  logits = forward(model, make_params(model), source, TARGET)
  assert np.isnan(logits[1]).all()
  assert np.isfinite(logits[::2]).all()


@pytest.mark.parametrize(
  'changes, words',
  [
    ({'norm': 'middle'}, 'norm="middle" is not one of pre, post'),
    ({'heads': 3}, 'width 16 must be even and divide by heads 3'),
    ({'width': 15, 'heads': 3}, 'width 15 must be even'),
  ],
)
def test_sizes_that_cannot_be_are_named(changes, words):
  with pytest.raises(ValueError, match=words):
    make(**changes)
