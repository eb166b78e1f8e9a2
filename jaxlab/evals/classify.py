"""Held-out figures of a classifier."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxlab.engine.errors import InputError
from jaxlab.engine.state import Evaluator
from jaxlab.ops.intervals import wilson
from jaxlab.ops.losses import masked_cross_entropy


def classify(apply: Callable[..., jax.Array]) -> Evaluator:
  """Accuracy and cross-entropy over a finite feed.

  Batches have `label` [b] int in [0, k) and the feed's `mask` [b] bool.

  Args:
    apply: (params, vars, batch) -> logits [b, k], without dropout.

  Returns:
    An Evaluator with the figures `accuracy`, `nats` (of a label),
    `accuracy_low`, `accuracy_high` (95 %, Wilson) and `examples`.
  """
  names = ('nats', 'right', 'rows')

  def update(total, state, batch, key):
    del key
    logits = apply(state.params, state.vars, batch)
    mask = batch['mask']
    nats, rows = masked_cross_entropy(logits, batch['label'], mask)
    right = jnp.sum((logits.argmax(-1) == batch['label']) & mask)
    found = zip(names, (nats, right, rows))
    return {name: total[name] + x.astype(jnp.float32) for name, x in found}

  def finish(total):
    nats, right, rows = (float(total[name]) for name in names)
    if not rows:
      raise InputError('the held-out set has no examples; hold out more')
    low, high = wilson(right, rows)
    return {
      'accuracy': right / rows,
      'nats': nats / rows,
      'accuracy_low': low,
      'accuracy_high': high,
      'examples': rows,
    }

  return Evaluator(lambda: {n: jnp.zeros(()) for n in names}, update, finish)
