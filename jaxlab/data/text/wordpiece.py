"""BERT's WordPiece vocabulary: others' as they are, our own in lower case,
trained reproducibly."""

import collections
import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, trainers

from jaxlab.core.errors import InputError

SPECIAL = ('[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]')
ALPHABET = 1000  # characters at most, the most frequent; the others are [UNK]


class SpecialIds(NamedTuple):
  """The ids of SPECIAL in a vocabulary."""

  pad: int
  unk: int
  cls: int
  sep: int
  mask: int


def special_ids(
  known: tokenizers.Tokenizer | Sequence[str],
) -> SpecialIds:
  """The ids of the special pieces, which differ between vocabularies.

  Args:
    known: a tokenizer, or pieces by id.

  Raises:
    InputError: a special piece is not in the vocabulary.
  """
  if isinstance(known, tokenizers.Tokenizer):
    numbers = known.get_vocab()
  else:
    numbers = {piece: number for number, piece in enumerate(known)}
  if missing := [piece for piece in SPECIAL if piece not in numbers]:
    raise InputError(
      f'the vocabulary has no {", ".join(missing)}: a BERT reads with all of '
      f'{", ".join(SPECIAL)}; add them to its file'
    )
  return SpecialIds(*(numbers[piece] for piece in SPECIAL))


class Vocabulary(NamedTuple):
  """Pieces by id, and what becomes of a text before it is cut in pieces."""

  pieces: tuple[str, ...]
  lowercase: bool = True
  strip_accents: bool | None = None  # None: where it is lower case
  chinese_apart: bool = True  # each Chinese character is a word

  @property
  def special(self) -> SpecialIds:
    return special_ids(self.pieces)

  @property
  def sha256(self) -> str:
    """Of the pieces and of all that changes how a text is read."""
    return hashlib.sha256(json.dumps(self).encode()).hexdigest()

  def tokenizer(self) -> tokenizers.Tokenizer:
    """BERT's tokenizer of this vocabulary; it adds no special pieces."""
    return make_tokenizer(self.pieces, _normalizer(*self[1:]))


def _normalizer(lowercase=True, strip_accents=None, chinese_apart=True):
  return normalizers.BertNormalizer(
    lowercase=lowercase,
    strip_accents=strip_accents,
    handle_chinese_chars=chinese_apart,
  )


_LOWER = _normalizer()


def normalise(text: str) -> str:
  """Text in lower case, without accents and control characters."""
  return _LOWER.normalize_str(text)


def train_vocabulary(
  lines: Iterable[str],
  counts: collections.Counter,
  vocab_size: int,
) -> list[str]:
  """Trains a WordPiece vocabulary, the same one in every process.

  The library's trainer numbers the pieces `##x` of single characters in the
  order in which it meets words, which is that of a hash table with a random
  seed, and breaks ties between equally frequent merges by these numbers: two
  runs learn different pieces. So all single characters are given to it in
  sorted order, as if they were special tokens.

  Args:
    lines: text, one sentence a line.
    counts: how often each word of its normalised form occurs.
    vocab_size: most pieces, the special ones included.

  Returns:
    The pieces by id, SPECIAL first.

  Raises:
    InputError: `vocab_size` is less than the characters need.
  """
  often: collections.Counter = collections.Counter()
  inside: set[str] = set()
  splitter = pre_tokenizers.BertPreTokenizer()
  for run, count in counts.items():
    for word, _ in splitter.pre_tokenize_str(run):
      for character in word:
        often[character] += count
      inside.update(word[1:])
  ranked = sorted(often, key=lambda character: (-often[character], character))
  alphabet = sorted(ranked[:ALPHABET])
  singles = alphabet + [f'##{c}' for c in alphabet if c in inside]
  needed = len(SPECIAL) + len(singles)
  if vocab_size < needed:
    raise InputError(
      f'vocab_size={vocab_size} is too small: the {len(alphabet)} characters '
      f'of the text and the special tokens need {needed} pieces alone'
    )
  tokenizer = _tokenizer(models.WordPiece(unk_token='[UNK]'))
  tokenizer.train_from_iterator(
    lines,
    trainers.WordPieceTrainer(
      vocab_size=vocab_size,
      min_frequency=2,
      special_tokens=[*SPECIAL, *singles],
      initial_alphabet=alphabet,
      limit_alphabet=len(alphabet),
      show_progress=False,
    ),
  )
  numbers = tokenizer.get_vocab()
  return sorted(numbers, key=lambda piece: numbers[piece])


def make_tokenizer(
  pieces: Sequence[str], normalizer: normalizers.Normalizer = _LOWER
) -> tokenizers.Tokenizer:
  """A tokenizer of the given pieces: BERT's, in lower case if not said."""
  numbers = {piece: number for number, piece in enumerate(pieces)}
  return _tokenizer(models.WordPiece(numbers, unk_token='[UNK]'), normalizer)


def _tokenizer(model, normalizer=_LOWER) -> tokenizers.Tokenizer:
  tokenizer = tokenizers.Tokenizer(model)
  tokenizer.normalizer = normalizer
  tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
  return tokenizer
