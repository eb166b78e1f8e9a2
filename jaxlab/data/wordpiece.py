"""BERT's WordPiece vocabulary, in lower case, trained reproducibly."""

import collections
from collections.abc import Iterable

import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, trainers

from jaxlab.engine.errors import InputError

SPECIAL = ('[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]')
PAD, UNK, CLS, SEP, MASK = range(5)
ALPHABET = 1000  # characters at most, the most frequent; the others are [UNK]

_NORMALIZER = normalizers.BertNormalizer(lowercase=True)


def normalise(text: str) -> str:
  """Text in lower case, without accents and control characters."""
  return _NORMALIZER.normalize_str(text)


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


def make_tokenizer(pieces: list[str]) -> tokenizers.Tokenizer:
  """A tokenizer of the given vocabulary: BERT's, in lower case."""
  numbers = {piece: number for number, piece in enumerate(pieces)}
  return _tokenizer(models.WordPiece(numbers, unk_token='[UNK]'))


def _tokenizer(model) -> tokenizers.Tokenizer:
  tokenizer = tokenizers.Tokenizer(model)
  tokenizer.normalizer = _NORMALIZER
  tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
  return tokenizer
