import math
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlab.models import bert
from jaxlab.models.bert import Bert, stack_layers, unstack_layers

SIZES = {
  'vocab_size': 50,
  'num_layers': 2,
  'hidden_size': 16,
  'num_heads': 2,
  'intermediate_size': 32,
  'max_positions': 12,
}
LARGE = {
  'vocab_size': 30522,
  'num_layers': 24,
  'hidden_size': 1024,
  'num_heads': 16,
  'intermediate_size': 4096,
}


def make_inputs(rows=2, length=10):
  rng = np.random.default_rng(0)
  column = np.arange(length)
  return (
    rng.integers(50, size=(rows, length), dtype=np.int32),
    np.broadcast_to(column >= 4, (rows, length)).astype(np.int32),
    column < np.array([[length], [length - 3]])[:rows],
    rng.integers(length - 3, size=(rows, 4), dtype=np.int32),
  )


INPUTS = make_inputs()
# Most of this file's time is LLVM's, for programs that run once.
jit = partial(jax.jit, compiler_options={'xla_backend_optimization_level': 0})


def make_params(seed=0, scale=0.3):
  """Parameters of the unscanned model, none of them zero or one: attention far
  from uniform, and every bias and scale at work."""
  init = partial(Bert(**SIZES).init, deterministic=True)
  shapes = jax.eval_shape(init, jax.random.key(0), *INPUTS)['params']
  rng = np.random.default_rng(seed)

  def draw(path, leaf):
    center = 1.0 if path[-1].key == 'scale' else 0.0
    value = center + scale * rng.standard_normal(leaf.shape)
    return jnp.asarray(value, jnp.float32)

  return jax.tree_util.tree_map_with_path(draw, shapes)


PARAMS = make_params()


def apply(model, params, inputs=INPUTS, key=None, method=None):
  return model.apply(
    {'params': params},
    *inputs,
    deterministic=key is None,
    rngs=None if key is None else {'dropout': key},
    method=method,
  )


forward = jit(apply, static_argnums=0)


@partial(jit, static_argnums=0)
def encode(model, params, key=None):
  return apply(model, params, INPUTS[:3], key, method='encode')


def total(model, params, key=None):
  """A loss that every parameter and output influences."""
  words, following = apply(model, params, key=key)
  return jnp.sum(jnp.sin(words)) + jnp.sum(jnp.sin(following))


slopes = jit(
  lambda model, params, key: jax.value_and_grad(partial(total, model))(
    params, key=key
  ),
  static_argnums=0,
)


def assert_same_function(a, params_a, b, params_b, to_b, key=None):
  """Equal outputs and gradients; summation order alone may differ.

  Outputs to 1e-6 relative to 400 summands, gradients likewise: 1e-4.
  """
  (value_a, grads_a), (value_b, grads_b) = (
    slopes(a, params_a, key),
    slopes(b, params_b, key),
  )
  chex.assert_trees_all_close(value_a, value_b, atol=1e-4)
  chex.assert_trees_all_close(to_b(grads_a), grads_b, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize('scan, leaves', [(False, 398), (True, 30)])
def test_bert_large_has_336226108_parameters(scan, leaves):
  model = Bert(**LARGE, scan_layers=scan)
  init = partial(model.init, deterministic=True)
  shapes = jax.eval_shape(init, jax.random.key(0), *INPUTS)['params']
  found = jax.tree.leaves(shapes)
  assert sum(math.prod(leaf.shape) for leaf in found) == 336_226_108
  assert len(found) == leaves
  assert {leaf.dtype for leaf in found} == {np.dtype('float32')}
  stack = shapes['layers'] if scan else shapes['layers_23']
  assert len(jax.tree.leaves(stack)) == 16
  if scan:
    assert {leaf.shape[0] for leaf in jax.tree.leaves(stack)} == {24}


def test_initial_values_are_those_of_bert():
  model = Bert(**SIZES | {'hidden_size': 64, 'num_layers': 1})
  init = jit(partial(model.init, deterministic=True))
  params = init(jax.random.key(0), *INPUTS)['params']
  for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
    name = jax.tree_util.keystr(path, simple=True, separator='/')
    if name.endswith('bias'):
      assert not leaf.any(), name
    elif name.endswith('scale'):
      assert (leaf == 1).all(), name
    else:
      # A normal cut at two deviations has deviation .8796; that of a sample
      # of n is uncertain by less than 1 / sqrt(2 n).
      assert jnp.abs(leaf).max() <= 0.04, name
      deviation = float(leaf.std()) / (0.02 * 0.8796)
      assert abs(deviation - 1) < 4 / math.sqrt(2 * leaf.size), name


# An independent float64 BERT: explicit loops over rows and heads, no masking
# by large numbers (padding is cut off), erf from the math library.


def reference(p, tokens, segments, attention, positions, epsilon=1e-12):
  p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), p)
  erf = np.vectorize(math.erf)

  def norm(x, leaf):
    centered = x - x.mean(-1, keepdims=True)
    spread = np.sqrt((centered**2).mean(-1, keepdims=True) + epsilon)
    return centered / spread * leaf['scale'] + leaf['bias']

  def dense(x, leaf):
    return x @ leaf['kernel'] + leaf['bias']

  def gelu(x):
    return x * (1 + erf(x / math.sqrt(2))) / 2

  def attend(x, leaf, keep):
    out = leaf['out']['bias'].copy() * np.ones_like(x)
    for head in range(leaf['query']['kernel'].shape[1]):
      q, k, v = (
        x @ leaf[name]['kernel'][:, head] + leaf[name]['bias'][head]
        for name in ('query', 'key', 'value')
      )
      weight = np.exp(q @ k[keep].T / math.sqrt(q.shape[1]))
      weight /= weight.sum(-1, keepdims=True)
      out += weight @ v[keep] @ leaf['out']['kernel'][head]
    return out

  words, following = [], []
  for row, token in enumerate(tokens):
    x = p['word_embedding'][token] + p['position_embedding'][: len(token)]
    x = norm(x + p['type_embedding'][segments[row]], p['embedding_layer_norm'])
    for i in range(SIZES['num_layers']):
      leaf = p[f'layers_{i}']
      y = attend(x, leaf['attention'], attention[row])
      x = norm(x + y, leaf['attention_layer_norm'])
      y = dense(gelu(dense(x, leaf['intermediate'])), leaf['output'])
      x = norm(x + y, leaf['output_layer_norm'])
    y = norm(
      gelu(dense(x[positions[row]], p['mlm_dense'])), p['mlm_layer_norm']
    )
    words.append(y @ p['word_embedding'].T + p['mlm_bias'])
    following.append(dense(np.tanh(dense(x[0], p['pooler'])), p['nsp']))
  return np.stack(words), np.stack(following)


def test_forward_equals_a_float64_reference():
  # Two post-LN layers of float32 sums of <= 32 terms: about 1e-6 of the
  # outputs' order (1-3), through norms that may amplify it a few times.
  words, following = forward(Bert(**SIZES), PARAMS)
  want_words, want_following = reference(PARAMS, *INPUTS)
  assert np.abs(want_words).max() > 1
  np.testing.assert_allclose(words, want_words, atol=2e-5)
  np.testing.assert_allclose(following, want_following, atol=2e-5)


def test_gelu_and_its_derivative_are_exact():
  x = np.linspace(-6, 6, 49, dtype=np.float32)
  cdf = np.array([(1 + math.erf(v / math.sqrt(2))) / 2 for v in x.tolist()])
  pdf = np.exp(-(x.astype(np.float64) ** 2) / 2) / math.sqrt(2 * math.pi)
  # A few float32 roundings of values up to 6.
  np.testing.assert_allclose(bert.gelu(x), x * cdf, atol=2e-6)
  slope = jax.vmap(jax.grad(bert.gelu))(x)
  np.testing.assert_allclose(slope, cdf + x * pdf, atol=2e-6)


def test_scanned_and_unscanned_are_the_same_function():
  # Not unrolled, they are compared as encoders, in test_bert_heads.py.
  scanned = Bert(**SIZES, scan_layers=True, unroll=2)
  assert_same_function(
    Bert(**SIZES), PARAMS, scanned, stack_layers(PARAMS), stack_layers
  )


@pytest.mark.parametrize(
  'scan', [pytest.param(False, marks=pytest.mark.slow), True]
)
def test_remat_changes_nothing_even_with_dropout(scan):
  # Scanned layers are one in the program; of the others, one tells as much.
  model = Bert(**SIZES | {'num_layers': 1 + scan}, scan_layers=scan)
  params = {k: v for k, v in PARAMS.items() if scan or k != 'layers_1'}
  params = stack_layers(params) if scan else params
  assert_same_function(
    model,
    params,
    model.clone(remat=True),
    params,
    to_b=lambda grads: grads,
    key=jax.random.key(3),
  )


def test_remat_stores_less():
  sizes = SIZES | {'num_layers': 6, 'intermediate_size': 256}
  init = partial(Bert(**sizes).init, deterministic=True)
  params = jax.eval_shape(init, jax.random.key(0), *INPUTS)['params']

  def residuals(remat):
    model = Bert(**sizes, remat=remat)
    compute = lambda p: apply(model, p)[0]
    saved = jax.eval_shape(lambda p: jax.vjp(compute, p)[1], params)
    return sum(leaf.size for leaf in jax.tree.leaves(saved))

  assert residuals(True) < residuals(False) / 2


def test_bfloat16_computes_close_to_float32_with_float32_parameters():
  model = Bert(**SIZES, dtype=jnp.bfloat16)
  init = partial(model.init, deterministic=True)
  shapes = jax.eval_shape(init, jax.random.key(0), *INPUTS)
  assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype('f4')}
  params = make_params(scale=0.1)
  words, following = forward(model, params)
  chex.assert_type([words, following], jnp.float32)
  encoded = jax.eval_shape(partial(encode.__wrapped__, model), params)
  assert {leaf.dtype for leaf in encoded} == {jnp.dtype('bfloat16')}
  want_words, want_following = forward(Bert(**SIZES), params)
  # An activation of order 1 is rounded by up to 2^-9 about 20 times in a row;
  # roundings add up as their root, and to no more than 3 deviations.
  spread = 3 * 2**-9 * math.sqrt(20)
  assert np.abs(words - want_words).max() < spread
  assert np.abs(following - want_following).max() < spread
  assert np.abs(words - want_words).max() > 1e-5  # it did compute in bfloat16
  grads = jax.eval_shape(jax.grad(partial(total, model)), params)
  assert {leaf.dtype for leaf in jax.tree.leaves(grads)} == {jnp.dtype('f4')}


def test_padding_does_not_influence_real_positions():
  tokens, segments, attention, positions = INPUTS
  changed = np.where(attention, tokens, (tokens + 7) % 50)
  assert (changed != tokens).any()
  model = Bert(**SIZES)
  chex.assert_trees_all_equal(
    forward(model, PARAMS, INPUTS),  # the same program
    forward(model, PARAMS, (changed, segments, attention, positions)),
  )
  unmasked = np.ones_like(attention)
  words, _ = forward(model, PARAMS, (tokens, segments, unmasked, positions))
  assert np.abs(words - forward(model, PARAMS)[0])[1].max() > 1e-3


def test_shorter_batch_gives_the_same_logits_as_a_padded_one():
  tokens, segments, attention, positions = (x[1:] for x in INPUTS)
  cut = (tokens[:, :7], segments[:, :7], attention[:, :7], positions)
  assert attention[:, :7].all()
  whole = forward(Bert(**SIZES), PARAMS)
  chex.assert_trees_all_close(
    forward(Bert(**SIZES), PARAMS, cut),
    jax.tree.map(lambda x: x[1:], whole),
    atol=2e-5,
  )


@pytest.mark.parametrize(
  'rates', [{'dropout_rate': 0.0}, {'attention_dropout_rate': 0.0}]
)
def test_dropout_follows_its_key_and_only_when_not_deterministic(rates):
  model = Bert(**SIZES, **rates)
  one, again, other = (
    forward(model, PARAMS, key=jax.random.key(i))[0] for i in (1, 1, 2)
  )
  still = forward(Bert(**SIZES), PARAMS)[0]
  assert jax.eval_shape(partial(apply, model), PARAMS)  # needs no key
  chex.assert_trees_all_equal(one, again)
  assert np.abs(one - other).max() > 1e-3
  assert np.abs(one - still).max() > 1e-3


def test_each_layer_drops_other_elements():
  # All is zero but the output biases b, so that two layers give
  # LN(LN(d1) + d2), d1 and d2 being b with half of its 16 elements dropped.
  # With d1 = d2 the ~8 dropped elements of a row would end with one value,
  # leaving ~9 distinct values; independent masks share only ~4: ~13.
  model = Bert(**SIZES, scan_layers=True, dropout_rate=0.5)
  params = jax.tree.map(jnp.zeros_like, PARAMS)
  for i in range(2):
    layer = params[f'layers_{i}']
    layer['attention_layer_norm']['scale'] += 1
    layer['output_layer_norm']['scale'] += 1
    layer['output']['bias'] += jnp.arange(1.0, 17.0)
  sequence, _ = encode(model, stack_layers(params), key=jax.random.key(0))
  rows = np.round(np.asarray(sequence).reshape(20, 16), 4)
  assert 12 < np.mean([len(np.unique(row)) for row in rows]) < 14


def test_rates_of_zero_need_no_key():
  model = Bert(**SIZES, dropout_rate=0.0, attention_dropout_rate=0.0)
  out = jit(partial(model.apply, deterministic=False))(
    {'params': PARAMS}, *INPUTS
  )
  chex.assert_trees_all_equal(out, forward(model, PARAMS, INPUTS))


def test_stack_and_unstack_are_inverse():
  stacked = stack_layers(PARAMS)
  assert 'layers_0' not in stacked
  kernel = stacked['layers']['intermediate']['kernel']
  chex.assert_shape(kernel, (2, 16, 32))
  chex.assert_trees_all_equal(unstack_layers(stacked), PARAMS)
  init = partial(Bert(**SIZES, scan_layers=True).init, deterministic=True)
  shapes = jax.eval_shape(init, jax.random.key(0), *INPUTS)['params']
  chex.assert_trees_all_equal_shapes_and_dtypes(shapes, stacked)


def test_layers_are_stacked_by_number_and_not_by_name():
  params = {f'layers_{i}': {'bias': jnp.full(2, i)} for i in range(12)}
  stacked = stack_layers(params)['layers']['bias']
  np.testing.assert_array_equal(stacked[:, 0], np.arange(12))
  chex.assert_trees_all_equal(unstack_layers(stack_layers(params)), params)


def test_encode_returns_what_the_heads_are_computed_from():
  model = Bert(**SIZES)
  sequence, pooled = encode(model, PARAMS)
  chex.assert_shape(sequence, (2, 10, 16))
  leaf = PARAMS['nsp']
  want = pooled @ leaf['kernel'] + leaf['bias']
  _, following = forward(model, PARAMS)
  chex.assert_trees_all_close(following, want, atol=1e-6)


def test_output_bias_is_one_leaf_added_to_the_word_logits():
  bias = jnp.arange(50.0)
  model = Bert(**SIZES)
  before, after = (
    forward(model, PARAMS | {'mlm_bias': b})[0] for b in (0 * bias, bias)
  )
  # Logits of up to 50: spacing 4e-6.
  np.testing.assert_allclose(after, before + bias, atol=2e-5)


def test_norms_and_biases_are_found_by_their_names():
  flat = jax.tree_util.tree_flatten_with_path(PARAMS)[0]
  excluded = [
    leaf
    for path, leaf in flat
    if 'layer_norm' in (name := jax.tree_util.keystr(path)) or 'bias' in name
  ]
  matrices = len(flat) - len(excluded)
  # 6 a layer, 3 embeddings, pooler, mlm_dense, nsp.
  assert matrices == 2 * 6 + 6
  assert sum(leaf.size for leaf in excluded) == 2 * 176 + 32 + 16 + 48 + 50 + 2


def test_indices_beyond_the_tables_give_nan():
  tokens, segments, attention, positions = INPUTS
  model = Bert(**SIZES)
  inputs = (tokens * 0 + 50, segments, attention, positions)
  assert np.isnan(forward(model, PARAMS, inputs)[0]).all()
  inputs = (tokens, segments, attention, positions * 0 + 10)
  assert np.isnan(forward(model, PARAMS, inputs)[0]).all()


def test_too_long_a_sequence_is_refused_with_both_numbers():
  with pytest.raises(ValueError, match=r'sequence of 13 .* table of 12'):
    forward(Bert(**SIZES), PARAMS, make_inputs(length=13))


def test_indivisible_width_is_refused_with_both_numbers():
  with pytest.raises(ValueError, match=r'hidden_size 16 .* num_heads 3'):
    Bert(**SIZES | {'num_heads': 3})


def test_trees_without_layers_are_refused():
  with pytest.raises(ValueError, match=r"no layers_0 .*\['layers', 'nsp'\]"):
    stack_layers({'layers': {}, 'nsp': {}})
  with pytest.raises(ValueError, match=r"no layers .*\['layers_0'\]"):
    unstack_layers({'layers_0': {}})


def test_one_trace_for_batches_of_one_shape():
  model, params = Bert(**SIZES, scan_layers=True), stack_layers(PARAMS)
  chex.clear_trace_counter()

  @jit
  @chex.assert_max_traces(n=1)
  def run(params, inputs, key):
    return apply(model, params, inputs, key)

  for i in range(3):
    run(params, jax.tree.map(jnp.asarray, INPUTS), jax.random.key(i))
