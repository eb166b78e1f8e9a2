"""Labelled texts as rows of tokens, for fine-tuning a classifier.

`open_splits(name)` knows
  pydoc        paragraphs of the language reference that CPython ships for
               `help()`; the class is the topic they are from. Nothing is
               downloaded, and each Python version has its own text;
  any other    a TFDS set with `text` and `label`, see `read_tfds`.
"""

import hashlib
import re
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import tokenizers

from jaxlab.core.errors import InputError
from jaxlab.core.source import ArraySpec
from jaxlab.data import splits, tfds
from jaxlab.data.checks import first
from jaxlab.data.text import documents, token_store
from jaxlab.data.text.wordpiece import special_ids

PYDOC_TOPICS = (
  'compound',
  'debugger',
  'specialnames',
  'string-methods',
  'types',
)
KEEP = ('start', 'end', 'both')  # of a text that is too long
_SPECIAL = 2  # [CLS], [SEP]
_LETTERS = 20  # that make a paragraph of the reference a text


class LabelledText(NamedTuple):
  """Texts with a class each."""

  texts: list[str]
  labels: np.ndarray  # [n] int32 in [0, len(classes))
  classes: tuple[str, ...]  # their names


class Splits(NamedTuple):
  """A set for classification, with a part held out to choose by."""

  train: LabelledText
  validation: LabelledText
  test: LabelledText
  sha256: str  # of all texts and labels


class Encoded(NamedTuple):
  """Texts as rows of tokens, and what was lost on the way."""

  arrays: dict[str, np.ndarray]  # see `encode`
  truncated: float  # share of the texts that are longer than a row
  unknown: float  # share of [UNK] among the tokens of the rows


def open_splits(name: str, *, offline: bool = False) -> Splits:
  """Opens a set: its test split, and nine tenths and a tenth of its train.

  The tenth is chosen by a hash of the text, so that equal texts are in one
  part. Both parts come in the order of that hash: the first n of them are a
  sample of the whole.

  Args:
    name: see the module's docstring.
    offline: never open a socket.

  Raises:
    InputError: the set cannot be had, a part is empty, or a label is not of
      the classes.
  """
  read = _pydoc if name == 'pydoc' else read_tfds
  whole, test = read(name, 'train', offline), read(name, 'test', offline)
  digest = hashlib.sha256()
  for part in (whole, test):
    for text in part.texts:
      digest.update(splits.sha256(text))
    digest.update(part.labels.tobytes())
  ranks = [splits.sha256(text) for text in whole.texts]
  order = sorted(range(len(ranks)), key=lambda index: (ranks[index], index))
  held = [int.from_bytes(rank[-4:]) % 10 == 0 for rank in ranks]
  train = _take(whole, [index for index in order if not held[index]])
  validation = _take(whole, [index for index in order if held[index]])
  found = {'train': train, 'validation': validation, 'test': test}
  for split, part in found.items():
    if not part.texts:
      raise InputError(
        f'the set {name} leaves no text for {split} ({len(whole.texts)} are in '
        f'its train, {len(test.texts)} in its test split); take a larger set'
      )
  return Splits(**found, sha256=digest.hexdigest())


def batch_spec(batch_size: int, sequence_length: int) -> dict[str, ArraySpec]:
  """The arrays of one batch; see `encode`."""
  rows = ArraySpec((batch_size,), np.int32)
  tokens = ArraySpec((batch_size, sequence_length), np.int32)
  return {'tokens': tokens, 'length': rows, 'label': rows, 'id': rows}


def encode(
  part: LabelledText,
  tokenizer: tokenizers.Tokenizer,
  sequence_length: int,
  keep: str = 'start',
) -> Encoded:
  """Rows [CLS] text [SEP], for `in_memory.ArraySource`.

  The arrays of n texts, s = sequence_length:
    tokens: [n, s] int32, then [PAD].
    length: [n] int32, positions that are not [PAD].
    label: [n] int32.

  Args:
    part: texts.
    tokenizer: of the model's vocabulary, `wordpiece.make_tokenizer`.
    sequence_length: at least 3.
    keep: of a text that is too long: its 'start', its 'end', or 'both', a
      quarter from the start and the rest from the end.

  Raises:
    InputError: an argument is out of range.
  """
  room = sequence_length - _SPECIAL
  if room < 1 or keep not in KEEP:
    raise InputError(
      f'sequence_length={sequence_length} must be at least {_SPECIAL + 1}, and '
      f'keep={keep!r} one of {KEEP}'
    )
  head = {'start': room, 'end': 0, 'both': room // 4}[keep]
  tail = room - head
  special = special_ids(tokenizer)
  found, truncated = [], 0
  for some in token_store.cut(tokenizer, part.texts):
    for _, ids in some:
      if len(ids) > room:
        truncated += 1
        ids = ids[:head] + ids[len(ids) - tail :]
      found.append([special.cls, *ids, special.sep])
  tokens = token_store.rows(found, sequence_length, special.pad)
  length = np.array([len(row) for row in found], np.int32)
  written = max(1, int(length.sum()) - _SPECIAL * len(length))
  labels = np.asarray(part.labels, np.int32)
  return Encoded(
    {'tokens': tokens, 'length': length, 'label': labels},
    truncated / max(1, len(part.texts)),
    float((tokens == special.unk).sum() / written),
  )


def _take(whole: LabelledText, index: list[int]) -> LabelledText:
  chosen = [whole.texts[i] for i in index]
  return LabelledText(chosen, whole.labels[index], whole.classes)


def read_tfds(name: str, split: str, offline: bool = False) -> LabelledText:
  """One split of a TFDS set with the features `text` and `label`, in its order.

  Args:
    name: an own set, such as `imdb`, or any TFDS name.
    split: a split or a slice of one, `train[:10%]`.
    offline: never open a socket.

  Raises:
    InputError: the set cannot be had, has no such features or split, or has
      examples without a class.
  """
  found = tfds.inspect_set(name, offline=offline)
  if 'text' not in found.features or 'label' not in found.classes:
    raise InputError(
      f'TFDS set {name} has the features {sorted(found.features)}, of which '
      f'{sorted(found.classes)} are classes; labelled text needs the feature '
      f'text and the class label'
    )
  texts, classes = [], found.classes['label']
  rows = list(tfds.examples(name, split, offline=offline))
  for row in rows:
    if not isinstance(row['text'], bytes):
      raise InputError(
        f'TFDS set {name} has {type(row["text"]).__name__} in the feature '
        f'text, not a string; take a config of plain text'
      )
    # Reviews and web pages mark the ends of their lines so.
    text = row['text'].decode(errors='replace')
    texts.append(re.sub(r'<br\s*/?>', ' ', text))
  labels = np.array([int(row['label']) for row in rows], np.int64)
  if at := first((labels < 0) | (labels >= len(classes))):
    raise InputError(
      f'TFDS set {name}, split {split}: example {at[0]} has the label '
      f'{labels[at]}, and the classes are 0 to {len(classes) - 1} {classes}; '
      f'take a split that is labelled'
    )
  return LabelledText(texts, labels.astype(np.int32), classes)


def _pydoc(name: str, split: str, offline: bool) -> LabelledText:
  """A fifth of the paragraphs, by a hash of each, is the test split."""
  del name, offline
  topics = documents.pydoc_topics('the set pydoc', 'another set')
  missing = [topic for topic in PYDOC_TOPICS if topic not in topics]
  if missing:
    raise InputError(
      f"this Python's pydoc_data has no topics {missing}, which the set pydoc "
      f'reads: use another Python, or another set'
    )
  found: dict[str, list[int]] = {}
  for label, topic in enumerate(PYDOC_TOPICS):
    for text in _paragraphs(topics[topic]):
      found.setdefault(text, []).append(label)
  chosen, labels = [], []
  for text, of in found.items():
    digest = splits.sha256(text)
    # What two topics say has no class.
    if len(of) == 1 and (digest[0] % 5 == 0) == (split == 'test'):
      chosen.append(text)
      labels.append(of[0])
  return LabelledText(chosen, np.array(labels, np.int32), PYDOC_TOPICS)


def _paragraphs(text: str) -> Iterable[str]:
  """Paragraphs of prose or code, each once, without underlined headings."""
  pieces = (' '.join(piece.split()) for piece in re.split(r'\n\s*\n', text))
  return dict.fromkeys(
    piece
    for piece in pieces
    if sum(character.isalpha() for character in piece) >= _LETTERS
  )
