"""The Transformer for translation: an encoder, a decoder, a decoding cache.

A. Vaswani, N. Shazeer, N. Parmar, J. Uszkoreit, L. Jones, A. N. Gomez,
L. Kaiser, I. Polosukhin. Attention Is All You Need. NeurIPS 2017.
arXiv:1706.03762

  x  = √d E[token] + PE(position)                 then dropout
  x <- LN(x + dropout(f(x)))                      norm='post', the paper's
  x <- x + dropout(f(LN(x)))                      norm='pre', and LN at the end
  f    attention over x; over the encoder's x; W2 max(0, W1 x + b1) + b2
  logits = x E^T                                  E serves both languages

Departs from the paper: attention has biases, as in fairseq.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxlab.models import products
from jaxlab.models.dropout import dropout

NORMS = ('pre', 'post')
Memory = Mapping[str, Any]  # {'mask', 'layers'}: what the decoder looks back at
Cache = dict[str, Any]  # {'position', 'layers'}: what it has seen of its own


class Transformer(nn.Module):
  """An encoder-decoder over one vocabulary.

  Rows of tokens are padded at their ends with `pad`, which nothing looks at.
  Parameters are float32, whatever `dtype` computes.
  """

  vocab_size: int
  layers: int  # of the encoder, and of the decoder
  width: int
  ffn: int  # inner width
  heads: int
  dropout_rate: float = 0.1
  norm: str = 'pre'  # of NORMS
  pad: int = 0
  dtype: Any = jnp.float32  # of matmuls and activations

  def __post_init__(self):
    super().__post_init__()
    if self.norm not in NORMS:
      raise ValueError(f'norm="{self.norm}" is not one of {", ".join(NORMS)}')
    if self.width % self.heads or self.width % 2:
      raise ValueError(
        f'width {self.width} must be even and divide by heads {self.heads}: '
        'change either'
      )

  def setup(self):
    self.embedding = self.param(
      'embedding',
      nn.initializers.normal(self.width**-0.5),
      (self.vocab_size, self.width),
    )
    layer = partial(
      _Layer,
      self.width,
      self.ffn,
      self.heads,
      self.dropout_rate,
      self.norm,
      self.dtype,
    )
    self.encoder = [layer(crosses=False) for _ in range(self.layers)]
    self.decoder = [layer(crosses=True) for _ in range(self.layers)]
    if self.norm == 'pre':
      self.encoder_norm = nn.LayerNorm(dtype=self.dtype)
      self.decoder_norm = nn.LayerNorm(dtype=self.dtype)

  def __call__(
    self, source: jax.Array, target: jax.Array, *, deterministic: bool
  ) -> jax.Array:
    """Logits of the token behind each token of the target.

    Args:
      source: [b, s] int32 in [0, vocab_size); one beyond gives NaN.
      target: [b, t] int32, alike; begins with the token that begins a text.
      deterministic: no dropout. Otherwise pass `rngs={'dropout': key}`.

    Returns:
      [b, t, vocab_size] float32; meaningless where the target is padding.
    """
    encoded = self.encode(source, deterministic=deterministic)
    return self.decode(encoded, source, target, deterministic=deterministic)

  def encode(self, source: jax.Array, *, deterministic: bool) -> jax.Array:
    """The encoder: [b, s] int32 -> [b, s, width] dtype."""
    x = self._embed(source, 0, deterministic)
    mask = (source != self.pad)[:, None, None, :]
    for layer in self.encoder:
      x, _ = layer(x, mask, deterministic=deterministic)
    return self.encoder_norm(x) if self.norm == 'pre' else x

  def decode(
    self,
    encoded: jax.Array,
    source: jax.Array,
    target: jax.Array,
    *,
    deterministic: bool,
  ) -> jax.Array:
    """The decoder on all of a known target; see `__call__`.

    Position i sees the targets up to i, so that padding behind a text is seen
    from padding alone.
    """
    memory = self._memory(encoded, source)
    x = self._embed(target, 0, deterministic)
    mask = nn.make_causal_mask(target, dtype=bool)
    x, _ = self._decode(x, mask, memory, None, 0, deterministic)
    return self._logits(x)

  def begin(
    self, encoded: jax.Array, source: jax.Array, hypotheses: int, length: int
  ) -> tuple[Memory, Cache]:
    """What `step` looks back at, and its empty cache.

    Args:
      encoded: [b, s, width], of `encode`.
      source: [b, s] int32, that was encoded.
      hypotheses: k, targets of each row of the source.
      length: tokens that the cache has room for.

    Returns:
      The memory, with the encoder's keys and values once a source; and the
      cache: 'position' () int32, tokens seen, and arrays [b k, …].
    """
    rows = encoded.shape[0] * hypotheses
    shape = (rows, length, self.heads, self.width // self.heads)
    empty = lambda: jnp.zeros(shape, self.dtype)
    layers = [{'key': empty(), 'value': empty()} for _ in self.decoder]
    cache = {'position': jnp.zeros((), jnp.int32), 'layers': layers}
    return self._memory(encoded, source), cache

  def step(
    self, memory: Memory, cache: Cache, tokens: jax.Array
  ) -> tuple[Cache, jax.Array]:
    """One token of every hypothesis, without dropout.

    Args:
      memory, cache: of `begin`; the cache of the step before.
      tokens: [b k] int32, hypotheses of one source side by side.

    Returns:
      The cache with the token, and the logits of the next, [b k, vocab_size]
      float32: NaN when the cache had no room.
    """
    position = cache['position']
    room = cache['layers'][0]['key'].shape[1]
    x = self._embed(tokens[:, None], position, True)
    mask = (jnp.arange(room) <= position)[None, None, None, :]
    x, layers = self._decode(x, mask, memory, cache['layers'], position, True)
    # An update beyond the end would be moved to the end, in silence.
    logits = jnp.where(position < room, self._logits(x)[:, 0], jnp.nan)
    return {'position': position + 1, 'layers': layers}, logits

  def _memory(self, encoded, source) -> Memory:
    return {
      'mask': (source != self.pad)[:, None, None, :],
      'layers': [layer.pairs_of(encoded) for layer in self.decoder],
    }

  def _decode(self, x, mask, memory, caches, position, deterministic):
    pairs = []
    for i, layer in enumerate(self.decoder):
      x, own = layer(
        x,
        mask,
        memory['layers'][i],
        memory['mask'],
        cache=caches and caches[i],
        position=position,
        deterministic=deterministic,
      )
      pairs.append(own)
    return (self.decoder_norm(x) if self.norm == 'pre' else x), pairs

  def _embed(self, tokens, first, deterministic):
    x = jnp.take(self.embedding, tokens, axis=0, mode='fill')
    x = x * self.width**0.5 + sinusoids(first, tokens.shape[1], self.width)
    x = x.astype(self.dtype)
    if deterministic or not self.dropout_rate:
      return x
    return dropout(self.make_rng('dropout'), x, self.dropout_rate)

  def _logits(self, x):
    return products.product(
      x, self.embedding.T, (((2,), (0,)), ((), ())), None, jnp.float32
    )


class _Layer(nn.Module):
  """Attention to its own text, to the memory, and a two-layer network."""

  width: int
  ffn: int
  heads: int
  dropout_rate: float
  norm: str
  dtype: Any
  crosses: bool  # looks at a memory: a layer of the decoder

  def setup(self):
    norm = partial(nn.LayerNorm, dtype=self.dtype)
    attention = partial(_Attention, self.width, self.heads, self.dtype)
    dense = partial(
      products.dense(nn.Dense, self.dtype, jnp.float32),
      kernel_init=nn.initializers.xavier_uniform(),
    )
    self.own, self.own_norm = attention(), norm()
    if self.crosses:
      self.cross, self.cross_norm = attention(), norm()
    self.inner, self.outer = dense(self.ffn), dense(self.width)
    self.ffn_norm = norm()

  def pairs_of(self, encoded):
    """Keys and values of the memory."""
    return self.cross.pairs(encoded)

  def __call__(
    self,
    x,
    mask,
    memory=None,
    memory_mask=None,
    *,
    cache=None,
    position=0,
    deterministic,
  ):
    """[n, q, width] -> the same, and the keys and values that it looked at."""

    def add(x, f, norm):
      y = f(norm(x)) if self.norm == 'pre' else f(x)
      if not deterministic and self.dropout_rate:
        y = dropout(self.make_rng('dropout'), y, self.dropout_rate)
      return x + y if self.norm == 'pre' else norm(x + y)

    pairs = None

    def own(y):
      nonlocal pairs
      pairs = self.own.pairs(y)
      if cache is not None:
        write = partial(
          lax.dynamic_update_slice_in_dim, start_index=position, axis=1
        )
        pairs = {name: write(cache[name], pairs[name]) for name in pairs}
      return self.own(y, pairs, mask)

    def cross(y):
      # Hypotheses of one source share its memory: they are queries side by
      # side.
      side = y.reshape(memory['key'].shape[0], -1, y.shape[-1])
      return self.cross(side, memory, memory_mask).reshape(y.shape)

    def feed_forward(y):
      y = nn.relu(self.inner(y)).astype(self.dtype)
      return self.outer(y).astype(self.dtype)

    x = add(x, own, self.own_norm)
    if self.crosses:
      x = add(x, cross, self.cross_norm)
    return add(x, feed_forward, self.ffn_norm), pairs


class _Attention(nn.Module):
  """Multi-head attention, whose keys and values may be kept."""

  width: int
  heads: int
  dtype: Any

  def setup(self):
    make = partial(
      products.dense(nn.DenseGeneral, self.dtype, jnp.float32),
      kernel_init=nn.initializers.xavier_uniform(),
    )
    size = (self.heads, self.width // self.heads)
    self.query, self.key, self.value = make(size), make(size), make(size)
    self.out = make(self.width, axis=(-2, -1))

  def pairs(self, x):
    """[n, s, width] -> key and value, [n, s, heads, width / heads]."""
    return {
      'key': self.key(x).astype(self.dtype),
      'value': self.value(x).astype(self.dtype),
    }

  def __call__(self, x, pairs, mask):
    # A float32 softmax, whatever the scores are.
    weights = nn.dot_product_attention_weights(
      self.query(x).astype(self.dtype),
      pairs['key'],
      mask=mask,
      deterministic=True,
      dtype=self.dtype,
      force_fp32_for_softmax=True,
    ).astype(self.dtype)
    mixed = jnp.einsum('nhqk,nkhd->nqhd', weights, pairs['value'])
    return self.out(mixed).astype(self.dtype)


def sinusoids(first: jax.Array | int, count: int, width: int) -> jax.Array:
  """Positions first, first + 1, … as [count, width] float32.

  PE(p, 2i) = sin(p / 10000^(2i / width)), PE(p, 2i + 1) = cos of the same.
  Source: section 3.5.
  """
  scale = 10_000 ** (-np.arange(0, width, 2) / width)
  place = jnp.asarray(first, jnp.float32) + jnp.arange(count)
  angle = place[:, None] * scale.astype(np.float32)
  return jnp.stack([jnp.sin(angle), jnp.cos(angle)], -1).reshape(count, width)
