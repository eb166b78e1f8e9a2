"""SQuAD's questions as rows of tokens: windows that slide over the context.

Source: Devlin et al., NAACL 2019, section 4.2, and its script for SQuAD. A row
is [CLS] question [SEP] part of the context [SEP]; contexts that are too long
give several rows, `stride` tokens apart.
"""

import itertools
import math
from typing import NamedTuple

import numpy as np
import tokenizers

from jaxlab.core.errors import InputError
from jaxlab.core.source import ArraySpec
from jaxlab.data.text import token_store
from jaxlab.data.text.squad import Question, Squad
from jaxlab.data.text.wordpiece import special_ids

_SPECIAL = 3  # [CLS], [SEP], [SEP]


class Shape(NamedTuple):
  """How rows are cut."""

  sequence_length: int
  stride: int  # tokens from a window of a context to the next
  max_query: int  # tokens of a question; those beyond are left out

  def check(self) -> None:
    """Raises InputError where windows would leave gaps, or be empty."""
    room = self.sequence_length - self.max_query - _SPECIAL
    if self.max_query < 1 or not 1 <= self.stride <= room:
      raise InputError(
        f'a row of sequence_length={self.sequence_length} tokens has {room} '
        f'left for the context beside max_query={self.max_query} and '
        f'{_SPECIAL} special ones, and stride={self.stride} must be from 1 to '
        f'that many, or tokens are never read; lower stride or max_query'
      )


def batch_spec(batch_size: int, shape: Shape) -> dict[str, ArraySpec]:
  """The arrays of one training batch; see `Windows`."""
  spec = {'tokens': ArraySpec((batch_size, shape.sequence_length), np.int32)}
  rows = ArraySpec((batch_size,), np.int32)
  names = ('first', 'length', 'start', 'end', 'id')
  return spec | dict.fromkeys(names, rows)


class Windows(NamedTuple):
  """Rows of tokens, and the way back to the text.

  The arrays, for `in_memory.ArraySource`, of w windows and s = sequence_length:
    tokens: [w, s] int32, then [PAD].
    first: [w] int32, position of the first token of the context.
    length: [w] int32, positions that are not [PAD].
  of training alone:
    start, end: [w] int32, positions of the answer's first and last token; both
      0, [CLS], where the answer is not wholly in the window.
  of evaluation alone:
    startable: [w, s] bool, tokens of the context to which no other window
      gives more context, so that an answer is looked for in one window alone.
  """

  squad: Squad
  arrays: dict[str, np.ndarray]
  question: np.ndarray  # [w] int64, place in squad.questions
  base: np.ndarray  # [w] int64, the context's token at position `first`
  offsets: dict[int, np.ndarray]  # context -> [t, 2] characters of each token

  def read(self, window: int, first: int, last: int) -> tuple[str, str]:
    """The question's id, and the text from one position to another.

    Args:
      window: row.
      first, last: positions of tokens of the context.
    """
    question = self.squad.questions[self.question[window]]
    shift = int(self.base[window]) - int(self.arrays['first'][window])
    spans = self.offsets[question.context]
    start, stop = spans[first + shift, 0], spans[last + shift, 1]
    return question.id, self.squad.contexts[question.context][start:stop]


class _Row(NamedTuple):
  """One window before it is an array."""

  question: int
  tokens: list[int]
  first: int  # position of the first token of the context
  base: int  # which token of the context that is
  stop: int  # the token behind the last


def make_windows(
  squad: Squad,
  tokenizer: tokenizers.Tokenizer,
  shape: Shape,
  *,
  training: bool,
) -> Windows:
  """Cuts questions and contexts in rows.

  Args:
    squad: what `read_squad` or `hold_out` gave.
    tokenizer: of the model's vocabulary, `wordpiece.make_tokenizer`.
    shape: of the rows.
    training: leave out questions whose answers are all out of place, and label
      the rest.

  Raises:
    InputError: the shape leaves gaps, or no question is left.
  """
  shape.check()
  chosen = [
    number
    for number, question in enumerate(squad.questions)
    if not training or question.stop > question.start
  ]
  if not chosen:
    raise InputError(
      f'{squad.path} leaves no question to '
      f'{"train on" if training else "evaluate"}: give more articles'
    )
  needed = sorted({squad.questions[number].context for number in chosen})
  texts = [squad.contexts[number] for number in needed]
  contexts = dict(zip(needed, _encode(tokenizer, texts)))
  queries = _encode(tokenizer, [squad.questions[i].text for i in chosen])
  special = special_ids(tokenizer)
  rows = []
  for number, query in zip(chosen, queries):
    context = contexts[squad.questions[number].context].ids
    head = [special.cls, *query.ids[: shape.max_query], special.sep]
    room = shape.sequence_length - len(head) - 1
    count = math.ceil(max(len(context) - room, 0) / shape.stride) + 1
    for base in range(0, count * shape.stride, shape.stride):
      stop = min(base + room, len(context))
      tokens = [*head, *context[base:stop], special.sep]
      rows.append(_Row(number, tokens, len(head), base, stop))
  offsets = {
    number: np.array(encoding.offsets, np.int32).reshape(-1, 2)
    for number, encoding in contexts.items()
  }
  found = [row.tokens for row in rows]
  arrays = {
    'tokens': token_store.rows(found, shape.sequence_length, special.pad),
    'first': np.array([row.first for row in rows], np.int32),
    'length': np.array([len(tokens) for tokens in found], np.int32),
  }
  if training:
    arrays |= _labels(squad, rows, offsets)
  else:
    arrays['startable'] = _startable(rows, shape)
  return Windows(
    squad,
    arrays,
    np.array([row.question for row in rows]),
    np.array([row.base for row in rows]),
    offsets,
  )


def _encode(tokenizer: tokenizers.Tokenizer, texts: list[str]):
  return tokenizer.encode_batch(texts, add_special_tokens=False)


def _labels(squad, rows, offsets) -> dict[str, np.ndarray]:
  """`start` and `end` of each window."""
  labels = np.zeros((2, len(rows)), np.int32)
  for index, row in enumerate(rows):
    question = squad.questions[row.question]
    begin, end = answer_tokens(question, offsets[question.context])
    if row.base <= begin <= end < row.stop:
      labels[:, index] = row.first - row.base + np.array([begin, end])
  return {'start': labels[0], 'end': labels[1]}


def answer_tokens(question: Question, offsets: np.ndarray) -> tuple[int, int]:
  """The first and the last token that share a character with the answer.

  Args:
    offsets: [t, 2] characters of the context's tokens, increasing.
  """
  begin = np.searchsorted(offsets[:, 1], question.start, side='right')
  end = np.searchsorted(offsets[:, 0], question.stop, side='left') - 1
  return int(begin), int(end)


def _startable(rows, shape) -> np.ndarray:
  """Whether a window gives a token more context than its question's others.

  Context is the smaller of the numbers of tokens to its left and right, and a
  hundredth of the window's length decides among equals: BERT's rule.
  """
  result = np.zeros((len(rows), shape.sequence_length), bool)
  begin = 0
  for _, of in itertools.groupby(rows, lambda row: row.question):
    group = list(of)
    token = np.arange(group[-1].stop)
    first, base, stop = (
      np.array([[getattr(row, name)] for row in group])
      for name in ('first', 'base', 'stop')
    )
    context = np.minimum(token - base, stop - 1 - token)
    score = np.where(context >= 0, context + 0.01 * (stop - base), -np.inf)
    if token.size:
      best = score.argmax(0)
      result[begin + best, (first - base)[best, 0] + token] = True
    begin += len(group)
  return result
