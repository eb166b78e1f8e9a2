"""Pairs of texts for translation, as byte pairs on disk.

`prepare_pairs(name, source, target)` knows
  aligned:SOURCE,TARGET  the user's files: line i of one translates line i of
                         the other. Of SOURCE = FOLDER/x.de the files are
                         FOLDER/{train,validation,test}/x.de; plain or .gz
  pydoc                  sentences of CPython's language reference, and the
                         same with their words in reverse
  any other              a TFDS set with train, validation and test, and a text
                         feature for each language: `bible_pairs`,
                         `libreoffice_help_pairs`

A pair with an empty side is left out. White space is collapsed. Both languages
share one byte-level vocabulary, trained on the training pairs alone: every text
has tokens, and tokens give back their text.
"""

import functools
import hashlib
import json
import pathlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from jaxlab.core.errors import InputError
from jaxlab.data import atomic, kept, tfds
from jaxlab.data.text import documents, token_store
from jaxlab.data.text.aligned import read_aligned
from jaxlab.data.text.documents import SPLITS

PAD, BOS, EOS = range(3)
FIRST = 3  # the first token of a text: none of it is taken for one of these
SIDES = ('source', 'target')
ALIGNED = 'aligned:'
_BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())

Read = Callable[[str], Iterable[tuple[str, str]]]  # split -> pairs


class Side(NamedTuple):
  """The texts of one language, without PAD, BOS and EOS."""

  tokens: np.ndarray  # [t] uint16 or int32, >= FIRST
  offsets: np.ndarray  # [n + 1] int64 into tokens, increasing


class Pairs(token_store.TokenStore):
  """Opened pairs."""

  FOLDER = 'translation'
  ABOUT = 'pairs.json'

  @property
  def vocab_size(self) -> int:
    """PAD, BOS and EOS included."""
    return self.known['vocab_size']

  def side(self, split: str, side: str) -> Side:
    """The 'source' or 'target' of a split, memory-mapped."""
    return token_store.load(Side, self.path, f'{split}.{side}')

  @functools.cached_property
  def tokenizer(self) -> tokenizers.Tokenizer:
    """Of the texts' own tokens, numbered from 0."""
    return tokenizers.Tokenizer.from_file(str(self.path / 'tokenizer.json'))

  def text(self, tokens: np.ndarray) -> str:
    """The text of [t] tokens, see `decode`."""
    return decode(self.tokenizer, tokens)

  def texts(self, split: str, side: str, index: np.ndarray) -> list[str]:
    """Whole texts of one language."""
    tokens, offsets = self.side(split, side)
    return [self.text(tokens[offsets[i] : offsets[i + 1]]) for i in index]


def read_tokenizer(text: str) -> tokenizers.Tokenizer:
  """The tokenizer that `Tokenizer.to_str` wrote."""
  return tokenizers.Tokenizer.from_str(text)


def encode(
  tokenizer: tokenizers.Tokenizer, texts: Sequence[str], length: int
) -> np.ndarray:
  """[n, length] int32 tokens of texts, cut, with EOS, then PAD."""
  ids = [
    encoded.ids[: length - 1] for encoded in tokenizer.encode_batch([*texts])
  ]
  found = [[*(number + FIRST for number in row), EOS] for row in ids]
  return token_store.rows(found, length, PAD)


def decode(tokenizer: tokenizers.Tokenizer, tokens: np.ndarray) -> str:
  """The text of [t] tokens up to EOS; '\ufffd' where bytes are not UTF-8."""
  tokens = np.asarray(tokens)
  ends = np.flatnonzero(tokens == EOS)
  tokens = tokens[: ends[0]] if ends.size else tokens
  ids = (tokens[tokens >= FIRST].astype(int) - FIRST).tolist()
  return tokenizer.decode(ids).removeprefix(' ')


def prepare_pairs(
  name: str,
  source: str,
  target: str,
  *,
  vocab_size: int,
  offline: bool = False,
) -> Pairs:
  """Opens the pairs of a set, made first where they are not yet there.

  Args:
    name: see the module's docstring.
    source, target: text features of the set, such as 'de'; of files, whatever
      their languages are called.
    vocab_size: most tokens, PAD, BOS and EOS included. A small text may yield
      fewer: see `Pairs.vocab_size`.
    offline: never open a socket.

  Raises:
    InputError: the pairs cannot be had, a split has none, or a value is out of
      range.
  """
  if vocab_size < FIRST + len(_BYTES):
    raise InputError(
      f'vocab_size={vocab_size} is too small: {len(_BYTES)} bytes and {FIRST} '
      f'special tokens need {FIRST + len(_BYTES)}'
    )
  if source == target:
    raise InputError(
      f'source and target are both "{source}": name two languages'
    )
  opened = _open_pydoc if name == 'pydoc' else _open_tfds
  if name.startswith(ALIGNED):
    opened = _open_files
  fingerprint, read = opened(name, source, target, offline)
  return Pairs.prepared(
    [name, source, target, fingerprint, vocab_size],
    f'the set of pairs {name}',
    lambda folder: _make(name, read, vocab_size, folder),
  )


def _open_files(name, source, target, offline) -> tuple[str, Read]:
  del source, target, offline
  names = name.removeprefix(ALIGNED).split(',')
  if len(names) != 2 or not all(names):
    raise InputError(
      f'"{name}" does not name two files; write '
      f'{ALIGNED}FOLDER/x.de,FOLDER/x.en, and put the files into '
      'FOLDER/train, FOLDER/validation and FOLDER/test'
    )
  digest, files = hashlib.sha256(), {}
  paths = [pathlib.Path(n.strip()).expanduser() for n in names]
  for split in SPLITS:
    files[split] = [path.parent / split / path.name for path in paths]
    for path in files[split]:
      if not path.is_file():
        raise InputError(
          f'there is no file {path}: "{name}" reads its files from the folders '
          f'{", ".join(SPLITS)} beside them'
        )
      data = path.read_bytes()
      digest.update(f'{len(data)}:'.encode() + data)
  return digest.hexdigest(), lambda split: read_aligned(*files[split])


def _open_pydoc(name, source, target, offline) -> tuple[str, Read]:
  del source, target
  text = documents.open_text(name, offline=offline)

  def read(split):
    for document in text.documents():
      if document.split == split:
        for sentence in document.sentences:
          yield sentence, ' '.join(reversed(sentence.split()))

  return text.fingerprint, read


def _open_tfds(name, source, target, offline) -> tuple[str, Read]:
  found = tfds.inspect_set(name, offline=offline)
  for language in (source, target):
    if language not in found.features:
      raise InputError(
        f'the set {name} has no language "{language}"; its features are '
        f'{", ".join(sorted(found.features))}'
      )
  missing = [split for split in SPLITS if split not in found.splits]
  if missing:
    raise InputError(
      f'the set {name} has the splits {", ".join(found.splits)} and lacks '
      f'{", ".join(missing)}'
    )

  def read(split):
    for row in tfds.examples(name, split, offline=offline):
      pair = row[source], row[target]
      if not all(isinstance(text, bytes) for text in pair):
        raise InputError(
          f'the set {name} has no text in "{source}" and "{target}": '
          f'{pair!r:.80}'
        )
      yield pair[0].decode(), pair[1].decode()

  return found.fingerprint, read


def _clean(read: Read, split: str) -> Iterator[tuple[str, str]]:
  for pair in read(split):
    source, target = (' '.join(text.split()) for text in pair)
    if source and target:
      yield source, target


def train_vocabulary(
  texts: Iterable[str], vocab_size: int
) -> tokenizers.Tokenizer:
  """Byte pairs of texts, the same ones in every process.

  Args:
    vocab_size: most tokens, PAD, BOS and EOS not included.
  """
  tokenizer = tokenizers.Tokenizer(models.BPE())
  tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
  tokenizer.decoder = decoders.ByteLevel()
  trainer = trainers.BpeTrainer(
    vocab_size=vocab_size,
    min_frequency=2,
    initial_alphabet=_BYTES,
    show_progress=False,
  )
  tokenizer.train_from_iterator(texts, trainer)
  return tokenizer


def _make(name: str, read: Read, vocab_size: int, folder: pathlib.Path) -> None:
  """Writes whole pairs into `folder`."""
  start = time.monotonic()
  atomic.note(f'training a vocabulary of {vocab_size:,} tokens on {name}')
  tokenizer = train_vocabulary(
    (text for pair in _clean(read, 'train') for text in pair),
    vocab_size - FIRST,
  )
  vocabulary = tokenizer.to_str(pretty=True)
  vocab_size = FIRST + tokenizer.get_vocab_size()
  digest = hashlib.sha256(vocabulary.encode())
  counts = {}
  for split in SPLITS:
    for number, language in enumerate(SIDES):
      texts = (pair[number] for pair in _clean(read, split))
      _tokenise(tokenizer, texts, folder, f'{split}.{language}')
      side = token_store.load(Side, folder, f'{split}.{language}')
      counts[split] = len(side.offsets) - 1
      if not counts[split]:
        raise InputError(
          f'{name} has no pair in {split} with a text in both languages; take '
          'other languages, or give more text'
        )
      token_store.update(digest, side)
  (folder / 'tokenizer.json').write_text(vocabulary, encoding='utf-8')
  about = {
    'name': name,
    'sha256': digest.hexdigest(),
    'vocab_size': vocab_size,
    'pairs': counts,
    'tokenizers': tokenizers.__version__,
  }
  (folder / Pairs.ABOUT).write_text(json.dumps(about))
  atomic.note(
    f'tokenised {counts["train"]:,} training pairs of {name} in '
    f'{time.monotonic() - start:.1f} s'
  )


def _tokenise(tokenizer, texts, folder: pathlib.Path, name: str) -> None:
  """Writes the tokens of one side of a split."""
  small = FIRST + tokenizer.get_vocab_size() <= 2**16
  dtype = np.uint16 if small else np.int32
  with (
    kept.GrowingArray(folder / f'{name}.tokens.npy', dtype) as flat,
    kept.GrowingArray(folder / f'{name}.offsets.npy', np.int64) as offsets,
  ):
    offsets.extend([0])
    for some in token_store.cut(tokenizer, texts):
      offsets.extend(flat.count + np.cumsum([len(ids) for _, ids in some]))
      flat.extend([number + FIRST for _, ids in some for number in ids])
