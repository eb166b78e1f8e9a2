"""Translations of held-out texts: BLEU, and figures of the known target."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import sacrebleu

from jaxlab.core.errors import InputError
from jaxlab.core.state import Evaluator
from jaxlab.ops.losses import masked_cross_entropy

NAMES = ('nats', 'right', 'tokens')


class Bleu(NamedTuple):
  """A score, and how it was counted."""

  score: float  # in [0, 100]
  signature: str  # sacrebleu's


class Decoding(NamedTuple):
  """How texts are made, and what they are compared with."""

  # (params, vars, batch) -> tokens [b, max_length] int32
  search: Callable[..., jax.Array]
  max_length: int
  text: Callable[[np.ndarray], str]  # of [max_length] tokens
  references: Sequence[str]  # by id
  # Called with the texts and their BLEU after each evaluation.
  keep: Callable[[list[str], Bleu], None] | None = None


def translate(
  apply: Callable[..., jax.Array],
  decoding: Decoding | None = None,
  *,
  pad: int,
) -> Evaluator:
  """How well targets are predicted, and how well sources are translated.

  Batches have
    target: [b, t] int, then `pad`;
    id: [b] int32, the place of the reference;
    mask: [b] bool, the feed's.

  Args:
    apply: (params, vars, batch) -> logits [b, t, v] of each target token from
      the true ones before it, without dropout.
    decoding: None: no texts, no `bleu`.

  Returns:
    An Evaluator with the figures `bleu` (of sacrebleu, in [0, 100]), `nats` (of
    a token, its end's included) and `accuracy` (of tokens, from the true ones
    before them), and `tokens`.
  """

  def init():
    total: dict[str, Any] = {name: jnp.zeros(()) for name in NAMES}
    if decoding is not None:
      shape = (len(decoding.references), decoding.max_length)
      total['found'] = jnp.full(shape, pad, jnp.int32)
    return total

  def update(total, state, batch, key):
    del key
    logits = apply(state.params, state.vars, batch)
    target = batch['target']
    mask = (target != pad) & batch['mask'][:, None]
    nats, tokens = masked_cross_entropy(logits, target, mask)
    right = jnp.sum((logits.argmax(-1) == target) & mask)
    new = {
      name: total[name] + x.astype(jnp.float32)
      for name, x in zip(NAMES, (nats, right, tokens))
    }
    if decoding is not None:
      found = decoding.search(state.params, state.vars, batch)
      # Padding rows go to a row that is not there, and are dropped.
      rows = jnp.where(batch['mask'], batch['id'], len(total['found']))
      new['found'] = total['found'].at[rows].set(found, mode='drop')
    return new

  def finish(total):
    tokens = float(total['tokens'])
    if not tokens:
      raise InputError('the held-out texts have no tokens; hold out more')
    figures = {} if decoding is None else _bleu(total, decoding)
    return {
      **figures,
      'nats': float(total['nats']) / tokens,
      'accuracy': float(total['right']) / tokens,
      'tokens': tokens,
    }

  return Evaluator(init, update, finish)


def _bleu(
  total: Mapping[str, np.ndarray], decoding: Decoding
) -> dict[str, float]:
  texts = [decoding.text(row) for row in total['found']]
  found = bleu(texts, decoding.references)
  if decoding.keep is not None:
    decoding.keep(texts, found)
  return {'bleu': found.score}


def bleu(hypotheses: Sequence[str], references: Sequence[str]) -> Bleu:
  """Corpus BLEU of sacrebleu, with its default tokenisation 13a.

  Empty hypotheses count as such: of nothing else BLEU is 0.

  Args:
    hypotheses: texts as people write them, not cut into tokens.
    references: one for each.

  Raises:
    ValueError: there is none, or not one for each.
  """
  if not references or len(hypotheses) != len(references):
    raise ValueError(
      f'{len(hypotheses)} hypotheses and {len(references)} references: give '
      'one reference, and at least one, for each'
    )
  metric = sacrebleu.BLEU()
  score = metric.corpus_score(list(hypotheses), [list(references)]).score
  return Bleu(score, str(metric.get_signature()))
