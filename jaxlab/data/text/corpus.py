"""A tokenised corpus on disk: a WordPiece vocabulary and flat token arrays.

`prepare_corpus` does all that takes time (download, TFDS, training of the
vocabulary, tokenising) and is cached under `data_dir()/text`. A Corpus is then
only memory-mapped arrays, so any number of workers share one copy.
"""

import collections
import functools
import hashlib
import json
import os
import pathlib
import time
from typing import NamedTuple

import numpy as np
import tokenizers

from jaxlab.data import atomic
from jaxlab.data.text import documents as texts
from jaxlab.data.text import wordpiece
from jaxlab.engine.errors import InputError

_FORMAT = 1  # of the folder; a new one makes old folders unused
_LINES = 4096  # sentences tokenised at once


class Split(NamedTuple):
  """One split's tokens, cut into sentences and these into documents."""

  tokens: np.ndarray  # [t] uint16 or int32, no special token but [UNK]
  sentences: np.ndarray  # [n + 1] int64, offsets into tokens, increasing
  documents: np.ndarray  # [d + 1] int64, offsets into sentences, increasing


class Corpus:
  """An opened corpus; pickled as its path."""

  def __init__(self, path: str | os.PathLike):
    self.path = pathlib.Path(path)
    try:
      known = json.loads((self.path / 'corpus.json').read_text())
      self.pieces: list[str] = json.loads(
        (self.path / 'vocabulary.json').read_text()
      )
    except (OSError, ValueError) as error:
      raise InputError(
        f'{self.path} is not a whole corpus ({error}): delete it and run again'
      ) from error
    self.name: str = known['name']
    self.sha256: str = known['sha256']  # of vocabulary and all tokens
    self.vocab_size = len(self.pieces)

  def __reduce__(self):
    return Corpus, (self.path,)

  def split(self, name: str) -> Split:
    """The arrays of `train`, `validation` or `test`, memory-mapped.

    Raises:
      InputError: there is no such split.
    """
    if name not in texts.SPLITS:
      raise InputError(f'no split {name!r}; a corpus has {list(texts.SPLITS)}')
    return _open_split(self.path, name)

  @functools.cached_property
  def special(self) -> wordpiece.SpecialIds:
    """The ids of [PAD], [UNK], [CLS], [SEP] and [MASK]."""
    return wordpiece.special_ids(self.pieces)

  @functools.cached_property
  def continuation(self) -> np.ndarray:
    """[vocab_size] bool, whether a piece continues a word (`##…`)."""
    return np.array([piece.startswith('##') for piece in self.pieces])

  @functools.cached_property
  def characters(self) -> np.ndarray:
    """[vocab_size] int32, characters of normalised text that a piece means.

    A piece that begins a word counts the space before it, so the pieces of a
    text add up to its words and punctuation marks set apart by one space each.
    [UNK], a word of unknown length, counts as one character and its space.
    """
    counts = [
      len(piece) - 2 if piece.startswith('##') else len(piece) + 1
      for piece in self.pieces
    ]
    found = np.array(counts, np.int32)
    found[[*self.special]] = 0
    found[self.special.unk] = 2
    return found


def prepare_corpus(
  name: str,
  *,
  vocab_size: int,
  files: str = '',
  offline: bool = False,
) -> Corpus:
  """Opens the corpus of a text set, made first where it is not yet there.

  Two processes prepare it once, and one that is killed leaves nothing that
  is read.

  Args:
    name: a text set, as in `text.open_text`.
    vocab_size: most pieces of the vocabulary, the special ones included. A
      small text may yield fewer: see `Corpus.vocab_size`.
    files: for `text_files`, a glob pattern.
    offline: never open a socket.

  Raises:
    InputError: the text cannot be had or is too small, or `vocab_size` is less
      than its characters need.
  """
  text = texts.open_text(name, files=files, offline=offline)
  options = [_FORMAT, name, text.fingerprint, vocab_size, wordpiece.ALPHABET]
  digest = hashlib.sha256(json.dumps(options).encode()).hexdigest()[:32]
  target = atomic.data_dir() / 'text' / digest
  make = lambda folder: _make(text, vocab_size, folder)
  atomic.kept_folder(target, f'the text {name}', make)
  return Corpus(target)


def _make(text: texts.Text, vocab_size: int, folder: pathlib.Path) -> None:
  """Writes a whole corpus into `folder`."""
  start = time.monotonic()
  atomic.note(f'reading the text {text.name}')
  counts = _write_plain(text, folder)
  atomic.note(f'training a vocabulary of {vocab_size:,} pieces')
  with open(_plain(folder, 'train'), encoding='utf-8', newline='\n') as lines:
    pieces = wordpiece.train_vocabulary(lines, counts, vocab_size)
  atomic.note('tokenising')
  digest = hashlib.sha256('\n'.join(pieces).encode())
  sizes = {}
  for name in texts.SPLITS:
    _tokenise(wordpiece.make_tokenizer(pieces), folder, name)
    split = _open_split(folder, name)
    sizes[name] = [len(array) for array in split]
    for array in split:
      digest.update(f'{array.dtype}:{array.shape}\n'.encode())
      digest.update(array.view(np.uint8).data)
  if sizes['train'][0] == 0:
    raise InputError(f'the text {text.name} has no tokens to train on')
  wordpiece.make_tokenizer(pieces).save(str(folder / 'tokenizer.json'))
  (folder / 'vocabulary.json').write_text(json.dumps(pieces))
  (folder / 'corpus.json').write_text(
    json.dumps(
      {
        'name': text.name,
        'sha256': digest.hexdigest(),
        'text_fingerprint': text.fingerprint,
        'tokenizers': tokenizers.__version__,
        'tokens': {name: size[0] for name, size in sizes.items()},
      }
    )
  )
  atomic.note(
    f'tokenised the text {text.name}: {sizes["train"][0]:,} training tokens of '
    f'{len(pieces):,} pieces, in {time.monotonic() - start:.1f} s'
  )


def _plain(folder: pathlib.Path, split: str) -> pathlib.Path:
  return folder / f'{split}.txt'


def _write_plain(text: texts.Text, folder: pathlib.Path) -> collections.Counter:
  """Writes splits as plain text, a sentence a line, a blank line at the end of
  a document, so that a set is read and held in memory no more than once.

  Returns:
    Count of each run of non-spaces in train, normalised.
  """
  counts: collections.Counter = collections.Counter()
  files = {
    split: open(  # noqa: SIM115
      _plain(folder, split), 'w', encoding='utf-8', newline='\n'
    )
    for split in texts.SPLITS
  }
  try:
    for document in text.documents():
      lines = '\n'.join(document.sentences)
      files[document.split].write(f'{lines}\n\n')
      if document.split == 'train':
        counts.update(wordpiece.normalise(lines).split())
  finally:
    for file in files.values():
      file.close()
  return counts


def _tokenise(
  tokenizer: tokenizers.Tokenizer, folder: pathlib.Path, name: str
) -> None:
  """Turns a split's plain text into its arrays, and removes the text."""
  small = tokenizer.get_vocab_size() <= 2**16
  tokens = _GrowingArray(folder / f'{name}.tokens.npy', 'u2' if small else 'i4')
  sentences = _GrowingArray(folder / f'{name}.sentences.npy', 'i8')
  documents = _GrowingArray(folder / f'{name}.documents.npy', 'i8')
  sentences.extend([0])
  documents.extend([0])
  path = _plain(folder, name)
  with open(path, encoding='utf-8', newline='\n') as file:
    while lines := [line.rstrip('\n') for _, line in zip(range(_LINES), file)]:
      for line, encoding in zip(
        lines, tokenizer.encode_batch(lines, add_special_tokens=False)
      ):
        if encoding.ids:
          tokens.extend(encoding.ids)
          sentences.extend([tokens.count])
        elif not line and sentences.count - 1 > documents.last:
          documents.extend([sentences.count - 1])
  for array in (tokens, sentences, documents):
    array.close()
  path.unlink()


def _open_split(folder: pathlib.Path, name: str) -> Split:
  def load(part: str) -> np.ndarray:
    path = folder / f'{name}.{part}.npy'
    try:
      # NumPy cannot map an array without elements.
      return np.load(path, mmap_mode='r' if path.stat().st_size > 128 else None)
    except (OSError, ValueError) as error:
      raise InputError(
        f'{path} cannot be read ({error}): delete {folder} and run again'
      ) from error

  return Split(load('tokens'), load('sentences'), load('documents'))


class _GrowingArray:
  """A one-dimensional .npy file, written bit by bit."""

  def __init__(self, path: pathlib.Path, dtype: str):
    self.count = 0
    self.last = -1
    self._dtype = np.dtype(f'<{dtype}')
    self._pending: list[int] = []
    self._file = open(path, 'wb')  # noqa: SIM115
    self._write_header()

  def extend(self, values: list[int]) -> None:
    self._pending += values
    self.count += len(values)
    self.last = values[-1]
    if len(self._pending) > 1 << 18:
      self._flush()

  def close(self) -> None:
    self._flush()
    # NumPy leaves room for the length to grow, so the header keeps its size.
    self._file.seek(0)
    self._write_header()
    self._file.close()

  def _flush(self) -> None:
    self._file.write(np.array(self._pending, self._dtype).tobytes())
    self._pending = []

  def _write_header(self) -> None:
    np.lib.format.write_array_header_1_0(
      self._file,
      {
        'descr': np.lib.format.dtype_to_descr(self._dtype),
        'fortran_order': False,
        'shape': (self.count,),
      },
    )
