"""Held-out figures of a masked language model with next-sentence prediction."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlab.core.errors import InputError
from jaxlab.core.state import Evaluator
from jaxlab.ops.intervals import wilson
from jaxlab.ops.losses import masked_cross_entropy

# (params, vars, batch) -> (mlm logits [b, p, v], nsp logits [b, 2])
Apply = Callable[..., tuple[jax.Array, jax.Array]]


def masked_lm(
  apply: Apply, characters, shown: tuple[int, int] = (0, 0)
) -> Evaluator:
  """Masked-LM loss and next-sentence accuracy over a finite feed.

  Args:
    apply: the model without dropout.
    characters: [vocab] int, characters that each piece stands for.
    shown: of how many rows of the first batch, and p: the total also has their
      `answer` [rows, p] int32 and its `confidence` [rows, p] float32.

  Returns:
    An Evaluator with the figures `mlm_nats` (a masked token),
    `mlm_bits_per_character`, `mlm_accuracy`, `masked_tokens`, `nsp_accuracy`,
    `nsp_accuracy_low`, `nsp_accuracy_high` (95 %, Wilson), `nsp_nats` and
    `examples`.
  """
  lengths = jnp.asarray(characters, jnp.float32)
  names = ('nats', 'tokens', 'right', 'chars', 'nsp_nats', 'nsp_right', 'rows')

  def update(total, state, batch, key):
    mlm, nsp = apply(state.params, state.vars, batch)
    rows = batch['mask']
    mask = batch['target_mask'] & rows[:, None]
    nats, tokens = masked_cross_entropy(mlm, batch['targets'], mask)
    nsp_nats, count = masked_cross_entropy(nsp, batch['next_sentence'], rows)
    right = (mlm.argmax(-1) == batch['targets']) & mask
    nsp_right = (nsp.argmax(-1) == batch['next_sentence']) & rows
    found = (
      nats,
      tokens,
      right.sum(),
      jnp.sum(lengths[batch['targets']] * mask),
      nsp_nats,
      nsp_right.sum(),
      count,
    )
    sums = {n: total[n] + x.astype(jnp.float32) for n, x in zip(names, found)}
    if not shown[0]:
      return sums
    few = mlm[: shown[0]].astype(jnp.float32)
    gap = few.max(-1) - jax.nn.logsumexp(few, -1)
    first = {
      'answer': few.argmax(-1).astype(jnp.int32),
      'confidence': jnp.exp(gap),
    }
    begun = total['rows'] > 0
    return sums | {n: jnp.where(begun, total[n], x) for n, x in first.items()}

  def finish(total):
    t = {name: float(total[name]) for name in names}
    if not t['tokens']:
      raise InputError(
        'the held-out examples mask no token; raise data.eval_examples'
      )
    low, high = wilson(t['nsp_right'], t['rows'])
    return {
      'mlm_nats': t['nats'] / t['tokens'],
      'mlm_bits_per_character': t['nats'] / t['chars'] / math.log(2),
      'mlm_accuracy': t['right'] / t['tokens'],
      'nsp_accuracy': t['nsp_right'] / t['rows'],
      'nsp_accuracy_low': low,
      'nsp_accuracy_high': high,
      'nsp_nats': t['nsp_nats'] / t['rows'],
      'masked_tokens': t['tokens'],
      'examples': t['rows'],
    }

  def init():
    total: dict[str, Any] = {n: jnp.zeros(()) for n in names}
    if shown[0]:
      total['answer'] = np.zeros(shown, np.int32)
      total['confidence'] = np.zeros(shown, np.float32)
    return total

  return Evaluator(init, update, finish)
