"""BERT's sentence pairs: which tokens of a corpus make one example.

Source: Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers
for Language Understanding", NAACL 2019, appendix A.2, and the rules of its
data script. An example is two runs of consecutive tokens, A and B, of one
document each, so it is five numbers; all of an epoch are drawn at once.
"""

from typing import NamedTuple

import numpy as np

from jaxlab.data import counter_random
from jaxlab.data.text.corpus import Split

# What a draw is for: the last word of its counter.
_SHORT, _LENGTH, _CHUNK, _CUT, _RANDOM, _DOCUMENT, _START = range(7)
_FRONT_A, _FRONT_B = 7, 8


class Plan(NamedTuple):
  """The examples of one epoch, as ranges of a split's tokens."""

  first: np.ndarray  # [n, 2] int64, start and stop of A
  second: np.ndarray  # [n, 2] int64, start and stop of B, equal without one
  random_next: np.ndarray  # [n] bool, whether B is of another document


def plan_epoch(
  split: Split,
  *,
  max_tokens: int,
  short_fraction: float,
  next_sentence: bool,
  seed: int,
  epoch: int,
) -> Plan:
  """All examples of one epoch, in the order of the documents.

  Each document has a target length, `max_tokens`, or with probability
  `short_fraction` a uniform one in [2, max_tokens]. Its sentences are taken in
  chunks that just reach the target (the last may not). A is the first
  U{1, …, n-1} sentences of a chunk's n. B is the rest; or, if there is no rest
  and else with probability 1/2, it is a run of sentences from a random place
  of a random other document that fills the target, and the rest goes back to
  be chunked again. While both exceed `max_tokens`, the longer (B if equal)
  loses a token, at its front or back with equal chance.

  Departs from the script: the other document is drawn from all others, where
  the script draws from all, up to ten times, until it is another.

  Args:
    split: at least two documents, where `next_sentence`.
    max_tokens: of A and B together, without special tokens.
    short_fraction: in [0, 1].
    next_sentence: False makes A the whole chunk, and no B.
    seed: of the stream of examples.
    epoch: a draw is a function of (seed, epoch, document, chunk) alone.
  """
  offsets = np.asarray(split.sentences)
  starts, ends = (
    np.asarray(split.documents[:-1]),
    np.asarray(split.documents[1:]),
  )
  count = len(starts)
  base = counter_random.mix(seed, epoch, np.arange(count))
  short = _uniform(base, _SHORT) < short_fraction
  lengths = 2 + _below(base, _LENGTH, max_tokens - 1)
  target = np.where(short, lengths, max_tokens)

  # All documents advance together, a chunk at a time.
  document, at, chunk = np.arange(count), starts.copy(), 0
  chunks = []
  while document.size:
    state = counter_random.mix(base[document], _CHUNK, chunk)
    stop = _fill(offsets, at, target[document], ends[document])
    if next_sentence:
      cut = at + 1 + _below(state, _CUT, np.maximum(stop - at - 1, 1))
      random = (stop - at == 1) | (_uniform(state, _RANDOM) < 0.5)
      other = _below(state, _DOCUMENT, count - 1)
      other += other >= document
      begin = starts[other] + _below(state, _START, ends[other] - starts[other])
      room = target[document] - (offsets[cut] - offsets[at])
      end = _fill(offsets, begin, room, ends[other])
      b_start, b_stop = np.where(random, (begin, end), (cut, stop))
    else:
      cut, random = stop, np.zeros(len(at), bool)
      b_start = b_stop = stop
    chunks.append((document, at, cut, b_start, b_stop, random, state))
    at = np.where(random, cut, stop)
    more = at < ends[document]
    document, at, chunk = document[more], at[more], chunk + 1

  columns = [np.concatenate(column) for column in zip(*chunks)]
  order = np.argsort(columns[0], kind='stable')
  _, a_start, a_stop, b_start, b_stop, random, state = (
    column[order] for column in columns
  )
  first = np.stack([offsets[a_start], offsets[a_stop]], 1)
  second = np.stack([offsets[b_start], offsets[b_stop]], 1)
  _truncate(first, second, max_tokens, state)
  return Plan(first, second, random)


def _uniform(state: np.ndarray, purpose: int) -> np.ndarray:
  return counter_random.uniform(counter_random.mix(state, purpose))


def _below(state: np.ndarray, purpose: int, bound) -> np.ndarray:
  return counter_random.below(counter_random.mix(state, purpose), bound)


def _fill(offsets, begin, length, end) -> np.ndarray:
  """The sentence behind a run from `begin` that just reaches `length` tokens.

  At least one sentence, and none from `end` on.
  """
  stop = np.searchsorted(offsets, offsets[begin] + length, side='left')
  return np.minimum(np.maximum(stop, begin + 1), end)


def _truncate(first, second, max_tokens, state) -> None:
  """Shortens ranges in place until both together fit `max_tokens`."""
  a, b = first[:, 1] - first[:, 0], second[:, 1] - second[:, 0]
  excess = np.maximum(a + b - max_tokens, 0)
  # First the longer comes down to the other; then they take turns, B first.
  a_cut = np.minimum(excess, np.maximum(a - b, 0))
  b_cut = np.minimum(excess, np.maximum(b - a, 0))
  left = excess - a_cut - b_cut
  a_cut, b_cut = a_cut + left // 2, b_cut + (left + 1) // 2
  for ranges, cut, purpose in (
    (first, a_cut, _FRONT_A),
    (second, b_cut, _FRONT_B),
  ):
    front = counter_random.heads(counter_random.mix(state, purpose), cut)
    ranges[:, 0] += front
    ranges[:, 1] -= cut - front
