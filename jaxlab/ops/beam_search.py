"""Beam search over any step function, with shapes that never change.

Two sets of hypotheses for each row: k live ones, which grow by a token at every
step, and up to k finished ones, which ended with `eos` and are kept apart. Of
all continuations of the live ones (k x vocabulary) the 2 k likeliest are taken.
Those among the first k that end are finished; the first k others live on. A row
is done when k are finished; at the last token allowed every live one must end.
With k = 1 this is greedy search. These rules are fairseq's, but for its length
penalty.

  score(y) = log p(y) / ((5 + n) / 6)^alpha       n tokens, eos included

Source: Wu et al., "Google's Neural Machine Translation System", 2016,
arXiv:1609.08144, equation 14, without its coverage term.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

Cache = Any  # a pytree of arrays
Step = Callable[[Cache, jax.Array], tuple[Cache, jax.Array]]


class Hypotheses(NamedTuple):
  """What a search found, the best first."""

  # [b, k, max_length] int32: tokens, then eos, then pad. One that begins with
  # eos is the empty text.
  tokens: jax.Array
  score: jax.Array  # [b, k] float32, <= 0; -inf where there is none


def length_penalty(length: jax.Array | int, alpha: float) -> jax.Array:
  """((5 + n) / 6)^alpha of n tokens."""
  return ((5.0 + jnp.asarray(length, jnp.float32)) / 6.0) ** alpha


def beam_search(
  step: Step,
  cache: Cache,
  mask: jax.Array,
  *,
  width: int,
  max_length: int,
  alpha: float,
  bos: int,
  eos: int,
  pad: int,
) -> Hypotheses:
  """The likeliest texts of each row.

  Equal scores are ordered by the hypothesis they continue, the better first,
  then by token, the lower first. A row's result does not depend on the others.

  Args:
    step: (cache, tokens [b k] int32) -> (cache, logits [b k, v] of the next
      token); the k hypotheses of a row are neighbours.
    cache: before the first token. Arrays have the axis [b k] first and follow
      their hypotheses; scalars are common to all.
    mask: [b] bool: the search ends without waiting for rows that are False,
      which have no hypotheses.
    width: k >= 1.
    max_length: most tokens of a hypothesis, its eos included; >= 1.
    alpha: of the length penalty; 0 compares log-probabilities, more prefers
      longer texts.
    bos: the token before the first.
    eos: the token that ends a text.
    pad: fills what is behind it.

  Raises:
    ValueError: an argument is out of range; at trace time, a vocabulary of less
      than two tokens or one without eos.
  """
  for name, value in (('width', width), ('max_length', max_length)):
    if value < 1:
      raise ValueError(f'{name}={value} must be at least 1')
  rows, k = mask.shape[0], width
  nothing = jnp.full((rows, k, max_length), pad, jnp.int32)
  # k equal hypotheses would stay equal: all but one are impossible.
  alone = jnp.where(jnp.arange(k) == 0, 0.0, -jnp.inf)
  carry = _Search(
    length=jnp.zeros((), jnp.int32),
    cache=cache,
    last=jnp.full((rows * k,), bos, jnp.int32),
    live=nothing,
    log_p=jnp.broadcast_to(alone, (rows, k)),
    finished=Hypotheses(nothing, jnp.full((rows, k), -jnp.inf)),
  )

  def undone(carry):
    full = jnp.all(carry.finished.score > -jnp.inf, -1)
    return mask & ~full

  def body(carry):
    new_cache, logits = step(carry.cache, carry.last)
    vocabulary = logits.shape[-1]
    if vocabulary < 2 or not 0 <= eos < vocabulary:
      raise ValueError(
        f'{vocabulary} logits and eos={eos}: a vocabulary has two tokens at '
        'least and holds eos'
      )
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
    ends = jnp.arange(vocabulary) == eos
    must_end = carry.length + 1 == max_length
    log_p = jnp.where(must_end & ~ends, -jnp.inf, log_p)
    total = carry.log_p[..., None] + log_p.reshape(rows, k, vocabulary)
    best, place = lax.top_k(total.reshape(rows, -1), 2 * k)
    parent, token = place // vocabulary, place % vocabulary
    texts = _of(carry.live, parent).at[:, :, carry.length].set(token)
    ending = token == eos

    # A row that is done takes no more, however long the others go on.
    taken = ending & (jnp.arange(2 * k) < k) & undone(carry)[:, None]
    score = best / length_penalty(carry.length + 1, alpha)
    score = jnp.where(taken, score, -jnp.inf)
    both = jnp.concatenate([carry.finished.score, score], 1)
    kept, chosen = lax.top_k(both, k)
    all_texts = jnp.concatenate([carry.finished.tokens, texts], 1)
    texts_kept = jnp.where(
      (kept > -jnp.inf)[..., None], _of(all_texts, chosen), pad
    )

    on, chosen = lax.top_k(jnp.where(ending, -jnp.inf, best), k)
    parent = _of(parent, chosen)
    return _Search(
      length=carry.length + 1,
      cache=jax.tree.map(lambda x: _follow(x, parent), new_cache),
      last=_of(token, chosen).reshape(-1).astype(jnp.int32),
      live=_of(texts, chosen),
      log_p=on,
      finished=Hypotheses(texts_kept, kept),
    )

  found = lax.while_loop(
    lambda carry: (carry.length < max_length) & jnp.any(undone(carry)),
    body,
    carry,
  )
  return found.finished


class _Search(NamedTuple):
  """What the loop carries."""

  length: jax.Array  # () int32, tokens of every live hypothesis
  cache: Cache
  last: jax.Array  # [b k] int32, their last tokens
  live: jax.Array  # [b, k, max_length] int32
  log_p: jax.Array  # [b, k] float32; -inf: not possible
  finished: Hypotheses


def _of(array: jax.Array, index: jax.Array) -> jax.Array:
  """[b, n, …], [b, m] -> [b, m, …]."""
  shape = index.shape + (1,) * (array.ndim - 2)
  return jnp.take_along_axis(array, index.reshape(shape), 1)


def _follow(leaf: jax.Array, parent: jax.Array) -> jax.Array:
  """The cache of the hypotheses that are continued."""
  if not leaf.ndim:
    return leaf
  rows, k = parent.shape
  apart = leaf.reshape(rows, k, *leaf.shape[1:])
  return _of(apart, parent).reshape(leaf.shape)
