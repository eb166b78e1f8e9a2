"""BERT's masks: which tokens a batch hides, and what stands there instead.

Source: Devlin et al., NAACL 2019, section 3.1, and the rules of its data
script.
"""

import numpy as np

from jaxlab.data import counter_random

_CHOOSE, _REPLACE, _TOKEN = range(3)  # what a draw is for
_LAST = ~np.uint64(0)  # the score of what is not to be chosen


def mask_tokens(
  tokens: np.ndarray,
  length: np.ndarray,
  first: np.ndarray,
  count: np.ndarray,
  state: np.ndarray,
  max_predictions: int,
  vocab_size: int,
  mask_id: int,
  continuation: np.ndarray | None,
) -> dict[str, np.ndarray]:
  """Hides tokens: 80 % as [MASK], 10 % as they are, 10 % as any piece.

  Args:
    tokens: [b, s] int32, [CLS] A [SEP] B [SEP] [PAD] … or without B and its
      [SEP].
    length: [b] int64, tokens of a row that are not [PAD].
    first: [b] int64, tokens of A.
    count: [b] int64 in [1, max_predictions], how many to hide.
    state: [b] uint64, one hash a row.
    max_predictions: columns of the result.
    vocab_size: random pieces are drawn from all of these.
    mask_id: of [MASK].
    continuation: None hides tokens; [vocab_size] bool, whether a piece
      continues a word, hides whole words, in random order, and skips one that
      exceeds what is left of `count`.

  Returns:
    `tokens` with the hidden ones replaced, and [b, max_predictions] arrays:
    `positions` int32, increasing, `targets` int32 and `target_mask` bool.
  """
  column = np.arange(tokens.shape[1])
  free = (column > 0) & (column < length[:, None] - 1)
  free &= column != first[:, None] + 1
  state = state[:, None]
  score = counter_random.mix(state, _CHOOSE, column)
  if continuation is None:
    chosen = _choose_tokens(free, score, count)
  else:
    opens = free & ~continuation[tokens]
    # A word that truncation left without its beginning is a word too.
    opens |= free & ((column == 1) | (column == first[:, None] + 2))
    chosen = _choose_words(free, opens, score, count)
  draw = counter_random.uniform(counter_random.mix(state, _REPLACE, column))
  piece = counter_random.below(
    counter_random.mix(state, _TOKEN, column), vocab_size
  )
  hidden = np.where(chosen & (draw < 0.8), mask_id, tokens)
  hidden = np.where(chosen & (draw >= 0.9), piece, hidden)
  # A stable sort brings the chosen to the front, in order.
  places = np.argsort(~chosen, axis=1, kind='stable')[:, :max_predictions]
  real = np.take_along_axis(chosen, places, 1)
  targets = np.where(real, np.take_along_axis(tokens, places, 1), 0)
  return {
    'tokens': hidden.astype(np.int32),
    'positions': np.where(real, places, 0).astype(np.int32),
    'targets': targets.astype(np.int32),
    'target_mask': real,
  }


def _choose_tokens(free, score, count) -> np.ndarray:
  """[b, s] bool: the `count` free tokens of the lowest scores, or all."""
  order = np.argsort(np.where(free, score, _LAST), axis=1)
  rank = np.empty_like(order)
  np.put_along_axis(rank, order, np.arange(order.shape[1])[None], axis=1)
  return free & (rank < count[:, None])


def _choose_words(free, opens, score, count) -> np.ndarray:
  """[b, s] bool: whole words in the order of their scores, while they fit."""
  rows = np.arange(len(free))
  word = np.where(free, np.cumsum(opens, axis=1), 0)  # 0: of no word
  sizes = np.zeros((len(free), free.shape[1] + 1), np.int64)
  np.add.at(sizes, (rows[:, None], word), free)
  order = np.argsort(np.where(opens, score, _LAST), axis=1)
  taken = np.zeros(sizes.shape, bool)
  left = count.copy()
  for rank in range(opens.sum(axis=1).max(initial=0)):
    place = order[:, rank]
    group = np.where(opens[rows, place], word[rows, place], 0)
    size = sizes[rows, group]
    fits = (group > 0) & (size <= left)
    taken[rows, group] |= fits
    left -= np.where(fits, size, 0)
    if not left.any():
      break
  return taken[rows[:, None], word] & free
