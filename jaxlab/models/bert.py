"""BERT for pre-training: encoder, masked-word and next-sentence heads.

J. Devlin, M.-W. Chang, K. Lee, K. Toutanova. BERT: Pre-training of Deep
Bidirectional Transformers for Language Understanding. NAACL 2019.
arXiv:1810.04805

  x  = LN(word + position + type)                     then dropout
  x <- LN(x + dropout(attention(x)))                  post-LN, per layer
  x <- LN(x + dropout(W2 gelu(W1 x + b1) + b2))
  word logits = LN(gelu(W x + b)) E^T + mlm_bias      E the word embedding
  next logits = W tanh(W' x[CLS] + b') + b

GELU is the exact x Phi(x), as in transformers' default; google-research/bert
computes the tanh approximation, which differs by at most 5e-4: `gelu_new`.
Weights from and for transformers: bert_names.py and bert_config.py.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlab.models import products
from jaxlab.models.dropout import dropout


class Bert(nn.Module):
  """Post-LN BERT. Parameters are float32, whatever `dtype` computes.

  With `scan_layers` all layers are one leaf each, stacked on axis 0 under
  `layers`; without it they are `layers_0`, `layers_1`, …: see `stack_layers`.
  Initial values and dropout masks of the two differ, the function does not.
  """

  vocab_size: int
  num_layers: int
  hidden_size: int
  num_heads: int
  intermediate_size: int
  max_positions: int = 512
  type_vocab_size: int = 2
  dropout_rate: float = 0.1
  attention_dropout_rate: float = 0.1
  initializer_range: float = 0.02  # of a normal cut at two deviations
  layer_norm_epsilon: float = 1e-12
  activation: str = 'gelu'  # of ACTIVATIONS
  dtype: Any = jnp.float32  # of matmuls and activations
  # Of the gradients of the matrices where they are summed over devices: float32
  # or `dtype`. Those of embeddings and LayerNorms are float32 in any case.
  gradient_dtype: Any = jnp.float32
  heads: bool = True  # of pre-training; without them only `encode` works
  # The first token's output, and the next-sentence head if there are heads;
  # None stands for both without it.
  pool: bool = True
  scan_layers: bool = False
  remat: bool = False  # recompute each layer in the backward pass
  unroll: int = 1  # scanned layers a loop turn; a CPU wants num_layers

  def __post_init__(self):
    super().__post_init__()
    if self.hidden_size % self.num_heads:
      raise ValueError(
        f'hidden_size {self.hidden_size} is not divisible by num_heads '
        f'{self.num_heads}: change either'
      )
    if self.activation not in ACTIVATIONS:
      raise ValueError(
        f'activation "{self.activation}" is not one of {", ".join(ACTIVATIONS)}'
      )

  def setup(self):
    width = self.hidden_size
    init = nn.initializers.truncated_normal(self.initializer_range)
    dense = partial(
      products.dense(nn.Dense, self.dtype, self.gradient_dtype),
      kernel_init=init,
    )
    norm = partial(
      nn.LayerNorm, epsilon=self.layer_norm_epsilon, dtype=self.dtype
    )
    table = lambda name, rows: self.param(name, init, (rows, width))
    self.word_embedding = table('word_embedding', self.vocab_size)
    self.position_embedding = table('position_embedding', self.max_positions)
    self.type_embedding = table('type_embedding', self.type_vocab_size)
    self.embedding_layer_norm = norm()
    self.layers = self._layers()
    if self.pool:
      self.pooler = dense(width)
    if not self.heads:
      return
    self.mlm_dense = dense(width)
    self.mlm_layer_norm = norm()
    self.mlm_bias = self.param(
      'mlm_bias', nn.initializers.zeros, (self.vocab_size,)
    )
    if self.pool:
      self.nsp = dense(2)

  def _layers(self):
    cls: Any = _Layer
    if self.remat:
      # Inside a scan nothing can be merged with the forward pass anyway.
      cls = nn.remat(cls, prevent_cse=not self.scan_layers, static_argnums=3)
    if self.scan_layers:
      cls = nn.scan(
        cls,
        variable_axes={'params': 0},
        split_rngs={'params': True, 'dropout': True},
        in_axes=(nn.broadcast, nn.broadcast),
        length=self.num_layers,
        unroll=self.unroll,
      )
    layer = partial(
      cls,
      num_heads=self.num_heads,
      intermediate_size=self.intermediate_size,
      dropout_rate=self.dropout_rate,
      attention_dropout_rate=self.attention_dropout_rate,
      initializer_range=self.initializer_range,
      layer_norm_epsilon=self.layer_norm_epsilon,
      activation=self.activation,
      dtype=self.dtype,
      gradient_dtype=self.gradient_dtype,
    )
    if self.scan_layers:
      return layer()
    return [layer() for _ in range(self.num_layers)]

  def encode(
    self,
    tokens: jax.Array,
    segments: jax.Array,
    attention: jax.Array,
    *,
    deterministic: bool,
  ) -> tuple[jax.Array, jax.Array | None]:
    """The encoder without heads, for fine-tuning.

    Args:
      tokens: [b, s] int32 in [0, vocab_size); one beyond gives NaN.
      segments: [b, s] int32 in [0, type_vocab_size).
      attention: [b, s] bool, True = a real token. Other positions are seen by
        none; what is computed at them is meaningless.
      deterministic: no dropout. Otherwise pass `rngs={'dropout': key}`.

    Returns:
      sequence: [b, s, hidden_size] dtype.
      pooled: [b, hidden_size] dtype in [-1, 1]; None without `pool`.

    Raises:
      ValueError: the sequence is longer than the position table.
    """
    length = tokens.shape[1]
    if length > self.max_positions:
      raise ValueError(
        f'sequence of {length} tokens is longer than the position table of '
        f'{self.max_positions}: raise max_positions'
      )
    types = jax.nn.one_hot(segments, self.type_vocab_size)
    x = jnp.take(self.word_embedding, tokens, axis=0, mode='fill')
    x = x + self.position_embedding[:length] + types @ self.type_embedding
    x = self.embedding_layer_norm(x)
    if not deterministic and self.dropout_rate:
      x = dropout(self.make_rng('dropout'), x, self.dropout_rate)
    mask = attention[:, None, None, :]
    if self.scan_layers:
      x, _ = self.layers(x, mask, deterministic)
    else:
      for layer in self.layers:
        x, _ = layer(x, mask, deterministic)
    if not self.pool:
      return x, None
    return x, jnp.tanh(self.pooler(x[:, 0])).astype(self.dtype)

  def __call__(
    self,
    tokens: jax.Array,
    segments: jax.Array,
    attention: jax.Array,
    positions: jax.Array,
    *,
    deterministic: bool,
  ) -> tuple[jax.Array, jax.Array | None]:
    """Logits of both pre-training tasks.

    Args:
      tokens, segments, attention, deterministic: as for `encode`.
      positions: [b, p] int32 in [0, s), where words are predicted; one beyond
        gives NaN.

    Returns:
      mlm_logits: [b, p, vocab_size] float32.
      nsp_logits: [b, 2] float32; None without `pool`.

    Raises:
      ValueError: there are no heads, or the sequence is too long.
    """
    if not self.heads:
      raise ValueError(
        "this Bert has heads=False: apply it with method='encode', or set "
        'heads=True'
      )
    x, pooled = self.encode(
      tokens, segments, attention, deterministic=deterministic
    )
    x = jnp.take_along_axis(x, positions[:, :, None], axis=1, mode='fill')
    x = self.mlm_dense(x).astype(self.dtype)
    x = self.mlm_layer_norm(ACTIVATIONS[self.activation](x))
    mlm_logits = products.product(
      x,
      self.word_embedding.T.astype(self.gradient_dtype),
      (((2,), (0,)), ((), ())),
      None,
      jnp.float32,
    )
    mlm_logits = mlm_logits + self.mlm_bias
    if pooled is None:
      return mlm_logits, None
    return mlm_logits, self.nsp(pooled).astype(jnp.float32)


class _Layer(nn.Module):
  """Self-attention and a two-layer network, each added and normalised."""

  num_heads: int
  intermediate_size: int
  dropout_rate: float
  attention_dropout_rate: float
  initializer_range: float
  layer_norm_epsilon: float
  activation: str
  dtype: Any
  gradient_dtype: Any

  @nn.compact
  def __call__(self, x, mask, deterministic):
    init = nn.initializers.truncated_normal(self.initializer_range)
    norm = partial(
      nn.LayerNorm, epsilon=self.layer_norm_epsilon, dtype=self.dtype
    )

    def dense(features, name, x):
      make = products.dense(nn.Dense, self.dtype, self.gradient_dtype)
      return make(features, kernel_init=init, name=name)(x).astype(self.dtype)

    def drop(y):
      if deterministic or not self.dropout_rate:
        return y
      return dropout(self.make_rng('dropout'), y, self.dropout_rate)

    y = _Attention(
      self.num_heads,
      self.attention_dropout_rate,
      self.initializer_range,
      self.dtype,
      self.gradient_dtype,
      name='attention',
    )(x, mask, deterministic)
    x = norm(name='attention_layer_norm')(x + drop(y))
    y = dense(self.intermediate_size, 'intermediate', x)
    y = ACTIVATIONS[self.activation](y)
    y = dense(x.shape[-1], 'output', y)
    return norm(name='output_layer_norm')(x + drop(y)), None


class _Attention(nn.Module):
  """Multi-head self-attention with the parameters of Flax's, by their names.

  Flax's own has no say over its projections' gradients.
  """

  num_heads: int
  dropout_rate: float
  initializer_range: float
  dtype: Any
  gradient_dtype: Any

  @nn.compact
  def __call__(self, x, mask, deterministic):
    make = partial(
      products.dense(nn.DenseGeneral, self.dtype, self.gradient_dtype),
      kernel_init=nn.initializers.truncated_normal(self.initializer_range),
    )
    width = x.shape[-1]
    heads = (self.num_heads, width // self.num_heads)
    query, key, value = (
      make(heads, name=name)(x).astype(self.dtype)
      for name in ('query', 'key', 'value')
    )
    # A float32 softmax, whatever the scores are.
    weights = nn.dot_product_attention_weights(
      query,
      key,
      mask=mask,
      deterministic=True,
      dtype=self.dtype,
      force_fp32_for_softmax=True,
    ).astype(self.dtype)
    if not deterministic and self.dropout_rate:
      rng = self.make_rng('dropout')
      weights = dropout(rng, weights, self.dropout_rate)
    mixed = jnp.einsum('bhqk,bkhd->bqhd', weights, value)
    out = make(width, axis=(-2, -1), name='out')(mixed)
    return out.astype(self.dtype)


@jax.custom_jvp
def gelu(x: jax.Array) -> jax.Array:
  """x Phi(x), [...] in the dtype of x, through float32.

  The derivative is written out since the one JAX derives (through erfc) takes
  three more passes over the widest activations of the network.
  """
  x32 = x.astype(jnp.float32)
  return (x32 * _normal_cdf(x32)).astype(x.dtype)


@gelu.defjvp
def _gelu_jvp(primals, tangents):
  (x,), (dx,) = primals, tangents
  x32 = x.astype(jnp.float32)
  cdf = _normal_cdf(x32)
  slope = cdf + x32 * jax.scipy.stats.norm.pdf(x32)
  return (x32 * cdf).astype(x.dtype), dx * slope.astype(x.dtype)


def _normal_cdf(x):
  return 0.5 * (1 + jax.lax.erf(x * 0.5**0.5))


def gelu_tanh(x: jax.Array) -> jax.Array:
  """x (1 + tanh(sqrt(2 / pi) (x + .044715 x^3))) / 2, [...] in the dtype of x,
  through float32: what google-research/bert computes."""
  x32 = x.astype(jnp.float32)
  return jax.nn.gelu(x32, approximate=True).astype(x.dtype)


# By transformers' names.
ACTIVATIONS: Mapping[str, Callable[[jax.Array], jax.Array]] = {
  'gelu': gelu,
  'gelu_new': gelu_tanh,
  'gelu_pytorch_tanh': gelu_tanh,
  'relu': jax.nn.relu,
}


def stack_layers(params: Mapping[str, Any]) -> dict[str, Any]:
  """Parameters of the unscanned model -> those of the scanned one.

  Raises:
    ValueError: there is no `layers_0`.
  """
  count = sum(name.startswith('layers_') for name in params)
  if not count:
    raise ValueError(f'no layers_0 to stack among {sorted(params)}')
  layers = [params[f'layers_{i}'] for i in range(count)]
  rest = {k: v for k, v in params.items() if not k.startswith('layers_')}
  return rest | {'layers': jax.tree.map(lambda *x: jnp.stack(x), *layers)}


def unstack_layers(params: Mapping[str, Any]) -> dict[str, Any]:
  """Parameters of the scanned model -> those of the unscanned one.

  Raises:
    ValueError: there is no `layers`.
  """
  if 'layers' not in params:
    raise ValueError(f'no layers to unstack among {sorted(params)}')
  stacked = params['layers']
  count = len(jax.tree.leaves(stacked)[0])
  rest = {k: v for k, v in params.items() if k != 'layers'}
  return rest | {
    f'layers_{i}': jax.tree.map(lambda x, i=i: x[i], stacked)
    for i in range(count)
  }
