"""Heads for fine-tuning, and the encoder of a pre-training tree."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlab.models.bert import Bert
from jaxlab.models.bert_heads import (
  PRETRAINING,
  ClassificationHead,
  SpanHead,
  encoder_params,
  new_pooler,
)

SIZES = {
  'vocab_size': 40,
  'num_layers': 2,
  'hidden_size': 16,
  'num_heads': 2,
  'intermediate_size': 32,
  'max_positions': 12,
}
jit = partial(jax.jit, compiler_options={'xla_backend_optimization_level': 0})
TOKENS = jnp.arange(24).reshape(2, 12)
ROWS = TOKENS, TOKENS * 0, TOKENS < 20


def pretraining(scan_layers):
  """A pre-training model's parameters."""
  model = Bert(**SIZES, scan_layers=scan_layers)
  init = lambda key: model.init(key, *ROWS, TOKENS, deterministic=True)
  shapes = jax.eval_shape(init, jax.random.key(0))['params']
  draw = np.random.default_rng(0)
  return jax.tree.map(
    lambda leaf: draw.normal(0.1, 0.3, leaf.shape).astype(np.float32), shapes
  )


def encode(params, scan_layers, heads):
  model = Bert(**SIZES, scan_layers=scan_layers, heads=heads)
  apply = jit(
    lambda params: model.apply(
      {'params': params}, *ROWS, deterministic=True, method='encode'
    )
  )
  return apply(params)


@pytest.mark.parametrize('saved', [True, False])
def test_a_pretraining_tree_drops_into_the_encoder(saved):
  wanted = not saved
  params = pretraining(saved)
  found = encoder_params(params, wanted)
  assert set(PRETRAINING) <= set(params)
  assert not set(PRETRAINING) & set(found)
  model = Bert(**SIZES, scan_layers=wanted, heads=False)
  init = lambda key: model.init(key, *ROWS, deterministic=True, method='encode')
  expected = jax.eval_shape(init, jax.random.key(0))['params']
  chex.assert_trees_all_equal_shapes_and_dtypes(found, expected)
  # Both layouts add up the same numbers in the same order but for fusion.
  chex.assert_trees_all_close(
    encode(found, wanted, False), encode(params, saved, True), atol=1e-5
  )


def make(head, seed=0):
  sequence = jax.random.normal(jax.random.key(1), (3, 5, 16))
  pooled = jnp.tanh(sequence[:, 0])
  key = jax.random.key(seed)
  params = head.init(key, sequence, pooled, deterministic=True)['params']
  return params, sequence, pooled


def test_class_logits_are_an_affine_map_of_the_pooled_token():
  head = ClassificationHead(4)
  params, sequence, pooled = make(head)
  apply = lambda *rows: head.apply(
    {'params': params}, *rows, deterministic=True
  )
  logits = apply(sequence, pooled)
  assert logits.shape == (3, 4)
  assert logits.dtype == jnp.float32
  kernel = params['Dense_0']['kernel']
  np.testing.assert_allclose(
    logits, pooled @ kernel + params['Dense_0']['bias'], rtol=1e-5, atol=1e-6
  )
  np.testing.assert_array_equal(apply(sequence * 0, pooled), logits)


def test_class_logits_drop_inputs_in_training_alone():
  head = ClassificationHead(4, dropout_rate=0.5)
  params, sequence, pooled = make(head)

  def apply(seed):
    return head.apply(
      {'params': params},
      sequence,
      pooled,
      deterministic=False,
      rngs={'dropout': jax.random.key(seed)},
    )

  assert not np.allclose(apply(0), apply(1))
  np.testing.assert_array_equal(apply(0), apply(0))


def test_span_logits_are_an_affine_map_of_each_position():
  head = SpanHead(dtype=jnp.bfloat16)
  params, sequence, pooled = make(head)
  start, end = head.apply({'params': params}, sequence, pooled)
  assert start.shape == end.shape == (3, 5)
  assert start.dtype == end.dtype == jnp.float32
  kernel = params['Dense_0']['kernel']
  expected = sequence @ kernel + params['Dense_0']['bias']
  # bfloat16 keeps eight bits of inputs and outputs, sums of 16 terms of .02.
  np.testing.assert_allclose(start, expected[..., 0], atol=0.02)
  np.testing.assert_allclose(end, expected[..., 1], atol=0.02)


def test_heads_change_no_path_of_the_encoder():
  template = lambda heads, **call: jax.eval_shape(
    partial(Bert(**SIZES, heads=heads).init, deterministic=True, **call),
    jax.random.key(0),
    *ROWS,
    *([TOKENS] if heads else []),
  )['params']
  with_heads, without = template(True), template(False, method='encode')
  assert set(with_heads) - set(without) == {*PRETRAINING}
  chex.assert_trees_all_equal(
    without, {name: with_heads[name] for name in without}
  )


def test_what_a_bert_without_heads_or_pooler_cannot_do_is_said():
  with pytest.raises(ValueError, match=r"heads=False.*method='encode'"):
    jax.eval_shape(
      partial(Bert(**SIZES, heads=False).init, deterministic=True),
      jax.random.key(0),
      *(*ROWS, TOKENS),
    )
  model = Bert(**SIZES, pool=False)
  found, params = jax.eval_shape(
    lambda key: model.init_with_output(key, *ROWS, TOKENS, deterministic=True),
    jax.random.key(0),
  )
  assert found[0].shape == (2, 12, 40) and found[1] is None
  assert not {'pooler', 'nsp'} & {*params['params']}
  with pytest.raises(ValueError, match='"swish" is not one of gelu, gelu_new'):
    Bert(**SIZES, activation='swish')


def test_a_new_pooler_is_drawn_like_those_of_bert():
  found = new_pooler(jax.random.key(0), 64, 0.5)
  assert found['kernel'].shape == (64, 64) and not found['bias'].any()
  # A normal cut at two deviations has deviation .8796.
  assert abs(found['kernel'].std() / (0.5 * 0.8796) - 1) < 4 / (64 * 2**0.5)
