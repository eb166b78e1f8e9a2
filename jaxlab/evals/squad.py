"""Answers read off a text: SQuAD v1.1's F1 and exact match."""

import math
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxlab.core.errors import InputError
from jaxlab.core.state import Evaluator
from jaxlab.ops.intervals import wilson
from jaxlab.ops.squad_metrics import mean_score

# Question id -> its best answers and their probabilities, the best first.
Ranked = dict[str, list[tuple[str, float]]]


def squad(
  apply: Callable[..., tuple[jax.Array, jax.Array]],
  windows: int,
  read: Callable[[int, int, int], tuple[str, str]],
  answers: Mapping[str, Sequence[str]],
  *,
  n_best: int = 20,
  max_answer: int = 30,
  keep: Callable[[Ranked], None] | None = None,
) -> Evaluator:
  """F1 and exact match of the most probable span over all of a text's windows.

  Batches have
    id: [b] int32 in [0, windows), the window;
    first, length: [b] int32, see `context_mask`: an answer lies there;
    startable: [b, s] bool, where in it an answer may start;
    mask: [b] bool, the feed's.

  Args:
    apply: (params, vars, batch) -> (start, end) logits [b, s], no dropout.
    windows: of the whole feed.
    read: (window, first token, last token) -> (question id, text of the span).
    answers: question id -> right answers. A question without a window counts
      as answered wrongly.
    n_best: spans kept of a window, and answers of a question.
    max_answer: most tokens of an answer.
    keep: called with the ranked answers of each evaluation.

  Returns:
    An Evaluator with the figures `f1`, `exact_match`, `exact_match_low`,
    `exact_match_high` (95 %, Wilson), all in percent, and `questions`.
  """

  def init():
    shape = (windows, n_best)
    return {
      'score': jnp.full(shape, -jnp.inf),
      'first': jnp.zeros(shape, jnp.int32),
      'last': jnp.zeros(shape, jnp.int32),
    }

  def update(total, state, batch, key):
    del key
    start, end = apply(state.params, state.vars, batch)
    context = context_mask(batch['first'], batch['length'], start.shape[1])
    found = best_spans(
      jnp.where(batch['startable'] & context, start, -jnp.inf),
      jnp.where(context, end, -jnp.inf),
      max_answer,
      n_best,
    )
    # Padding rows go to a row that is not there, and are dropped.
    rows = jnp.where(batch['mask'], batch['id'], windows)
    return {
      name: total[name].at[rows].set(value, mode='drop')
      for name, value in zip(('score', 'first', 'last'), found)
    }

  def finish(total):
    ranked = rank(total, read, n_best)
    if keep is not None:
      keep(ranked)
    if not answers:
      raise InputError('there is no question to score; hold out more articles')
    best = {key: found[0][0] for key, found in ranked.items()}
    mean = mean_score(best, answers)
    count = len(answers)
    low, high = wilson(round(mean.exact_match * count), count)
    return {
      'f1': 100 * mean.f1,
      'exact_match': 100 * mean.exact_match,
      'exact_match_low': 100 * low,
      'exact_match_high': 100 * high,
      'questions': float(count),
    }

  return Evaluator(init, update, finish)


def context_mask(
  first: jax.Array, length: jax.Array, positions: int
) -> jax.Array:
  """Where the tokens of the text stand in [CLS] question [SEP] text [SEP].

  Args:
    first: [b] int32, the position of its first token.
    length: [b] int32, all positions that are not padding.
    positions: s, of a row.

  Returns:
    [b, s] bool.
  """
  place = jnp.arange(positions)
  return (place >= first[:, None]) & (place < length[:, None] - 1)


def best_spans(
  start: jax.Array, end: jax.Array, max_answer: int, n_best: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """The spans of a window with the highest start + end logit.

  Departs from BERT's script: all spans are compared, where it pairs the best
  starts with the best ends; its best span is never better than this one.

  Args:
    start, end: [b, s] float32; -inf where no answer may start or end.
    max_answer: most tokens of a span, >= 1.
    n_best: spans wanted.

  Returns:
    (score [b, n_best] float32, first [b, n_best] int32, last [b, n_best]
    int32), the best first; -inf where there are fewer spans.
  """
  rows, length = start.shape
  longest = min(max_answer, length)
  ends = jnp.pad(end, ((0, 0), (0, longest - 1)), constant_values=-jnp.inf)
  scores = jnp.stack(
    [start + ends[:, more : more + length] for more in range(longest)], -1
  ).reshape(rows, -1)
  wanted = min(n_best, scores.shape[1])
  score, place = jax.lax.top_k(scores, wanted)
  first = place // longest
  fill = ((0, 0), (0, n_best - wanted))
  return (
    jnp.pad(score, fill, constant_values=-jnp.inf),
    jnp.pad(first, fill),
    jnp.pad(first + place % longest, fill),
  )


def rank(
  total: Mapping[str, np.ndarray],
  read: Callable[[int, int, int], tuple[str, str]],
  n_best: int,
) -> Ranked:
  """Spans of all windows -> each question's answers by their probability.

  A text counts once, with its best span; the probabilities are a softmax over
  the answers that are left.

  Args:
    total: `score`, `first`, `last`, [windows, n] as `best_spans` gives them.
    read: see `squad`.
    n_best: most answers of a question.
  """
  found: dict[str, dict[str, float]] = {}
  for window, rank in zip(*np.nonzero(np.isfinite(total['score']))):
    first, last = total['first'][window, rank], total['last'][window, rank]
    key, text = read(int(window), int(first), int(last))
    scores = found.setdefault(key, {})
    value = float(total['score'][window, rank])
    scores[text] = max(value, scores.get(text, -math.inf))
  ranked: Ranked = {}
  for key, scores in found.items():
    # Equal scores: the first window's, since the sort is stable.
    best = sorted(scores.items(), key=lambda item: -item[1])[:n_best]
    weights = [math.exp(value - best[0][1]) for _, value in best]
    ranked[key] = [
      (text, weight / sum(weights)) for (text, _), weight in zip(best, weights)
    ]
  return ranked
