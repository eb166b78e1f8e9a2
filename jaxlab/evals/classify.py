"""Held-out figures of a classifier, and what there is to see of its answers."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlab.core.errors import InputError
from jaxlab.core.state import Evaluator
from jaxlab.ops import calibration
from jaxlab.ops.calibration import Reliability
from jaxlab.ops.intervals import wilson
from jaxlab.ops.losses import masked_cross_entropy

BINS = 15  # of confidence
WORST = 16  # mistakes that are kept


class Answers(NamedTuple):
  """What a classifier answers to a whole set, in constant memory.

  Mistakes are sorted by confidence, the surest first; of equals the first of
  the set.
  """

  confusion: np.ndarray  # [k, k] int64: label, answer -> how many
  reliability: Reliability
  ids: np.ndarray  # [m] int64, of mistakes: `id` of the batches
  labels: np.ndarray  # [m] int64
  answers: np.ndarray  # [m] int64
  confidence: np.ndarray  # [m] float64, the answer's probability


def classify(
  apply: Callable[..., jax.Array], classes: int | None = None
) -> Evaluator:
  """Accuracy and cross-entropy over a finite feed.

  Batches have `label` [b] int in [0, k) and the feed's `mask` [b] bool.

  Args:
    apply: (params, vars, batch) -> logits [b, k], without dropout.
    classes: k: the total also has what `answers_of` reads; batches then have
      `id` [b] int32.

  Returns:
    An Evaluator with the figures `accuracy`, `nats` (of a label),
    `accuracy_low`, `accuracy_high` (95 %, Wilson) and `examples`.
  """
  names = ('nats', 'right', 'rows')

  def init():
    total: dict[str, Any] = {name: jnp.zeros(()) for name in names}
    return total if classes is None else {**total, 'answers': tally(classes)}

  def update(total, state, batch, key):
    del key
    logits = apply(state.params, state.vars, batch)
    mask = batch['mask']
    nats, rows = masked_cross_entropy(logits, batch['label'], mask)
    right = jnp.sum((logits.argmax(-1) == batch['label']) & mask)
    found = dict(zip(names, (nats, right, rows)))
    new = {
      name: total[name] + x.astype(jnp.float32) for name, x in found.items()
    }
    if classes is not None:
      new['answers'] = tallied(
        total['answers'], logits, batch['label'], batch['id'], mask
      )
    return new

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

  return Evaluator(init, update, finish)


def tally(classes: int) -> dict[str, Any]:
  """Of no example yet: what `tallied` adds to and `answers_of` reads."""
  # NumPy's: of JAX every shape would be a program to compile.
  return {
    'confusion': np.zeros((classes, classes), np.int32),
    'bins': np.zeros((BINS, 3), np.float32),  # examples, confidence, right ones
    'confidence': np.full(WORST, -np.inf, np.float32),  # of mistakes
    'mistakes': np.zeros((WORST, 3), np.int32),  # id, label, answer
  }


def tallied(
  total: Mapping[str, Any],
  logits: jax.Array,
  labels: jax.Array,
  ids: jax.Array,
  mask: jax.Array,
) -> dict[str, jax.Array]:
  """The tally with a batch more.

  Args:
    total: of `tally`, or of this.
    logits: [b, k].
    labels, ids: [b] int.
    mask: [b] bool, rows that count.
  """
  safe = jnp.where(mask[:, None], logits.astype(jnp.float32), 0.0)
  answer = safe.argmax(-1).astype(jnp.int32)
  gap = safe.max(-1) - jax.nn.logsumexp(safe, -1)
  confidence = jnp.exp(jnp.minimum(gap, 0.0))
  right = answer == labels
  # Bins hold their upper ends.
  place = jnp.where(mask, jnp.ceil(BINS * confidence).astype(jnp.int32), 0) - 1
  ones = jnp.ones_like(confidence)
  new = jnp.stack([ones, confidence, right.astype(jnp.float32)], 1)
  held = (place == jnp.arange(BINS)[:, None]).astype(jnp.float32)
  wrong = jnp.where(mask & ~right, confidence, -jnp.inf)
  rows = jnp.stack([ids, labels, answer], 1).astype(jnp.int32)
  counts = jnp.asarray(total['confusion'])
  sure, worst = jax.lax.top_k(
    jnp.concatenate([total['confidence'], wrong]), WORST
  )
  return {
    'confusion': counts.at[labels, answer].add(mask.astype(jnp.int32)),
    'bins': total['bins'] + jnp.dot(held, new, precision='highest'),
    'confidence': sure,
    'mistakes': jnp.concatenate([total['mistakes'], rows])[worst],
  }


def answers_of(total: Mapping[str, Any]) -> Answers:
  """The Answers of a tally that is on the host."""
  kept = np.isfinite(total['confidence'])
  examples, sums, right = np.asarray(total['bins'], np.float64).T
  edges = np.linspace(0, 1, BINS + 1)
  ids, labels, answers = np.asarray(total['mistakes'], np.int64)[kept].T
  return Answers(
    np.asarray(total['confusion'], np.int64),
    calibration.tabulate(edges, examples, sums, right),
    ids,
    labels,
    answers,
    np.asarray(total['confidence'], np.float64)[kept],
  )


def answers_in(probabilities, labels) -> Answers:
  """The Answers of a set whose probabilities are all there; ids are places.

  Args:
    probabilities: [n, k].
    labels: [n] int in [0, k).
  """
  p = np.asarray(probabilities, np.float64)
  labels = np.asarray(labels, np.int64)
  answer, confidence = p.argmax(-1), p.max(-1)
  k = p.shape[-1]
  confusion = np.bincount(labels * k + answer, minlength=k * k).reshape(k, k)
  wrong = np.flatnonzero(answer != labels)
  worst = wrong[np.argsort(-confidence[wrong], kind='stable')][:WORST]
  place = np.clip(np.ceil(BINS * confidence).astype(int) - 1, 0, BINS - 1)
  sums = (
    np.bincount(place, weights, BINS)
    for weights in (None, confidence, answer == labels)
  )
  return Answers(
    confusion,
    calibration.tabulate(np.linspace(0, 1, BINS + 1), *sums),
    worst,
    labels[worst],
    answer[worst],
    confidence[worst],
  )
