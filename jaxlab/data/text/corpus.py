"""A tokenised corpus on disk: a WordPiece vocabulary and flat token arrays.

`prepare_corpus` does all that takes time (download, TFDS, training of the
vocabulary, tokenising) and is kept under `data_dir()/text`, see `token_store`.
"""

import collections
import contextlib
import functools
import hashlib
import json
import os
import pathlib
import time
from typing import NamedTuple

import numpy as np
import tokenizers

from jaxlab.core.errors import InputError
from jaxlab.data import atomic, kept
from jaxlab.data.text import token_store, wordpiece
from jaxlab.data.text.documents import SPLITS, Text, open_text


class Split(NamedTuple):
  """One split's tokens, cut into sentences and these into documents."""

  tokens: np.ndarray  # [t] uint16 or int32, no special token but [UNK]
  sentences: np.ndarray  # [n + 1] int64, offsets into tokens, increasing
  documents: np.ndarray  # [d + 1] int64, offsets into sentences, increasing


class Corpus(token_store.TokenStore):
  """An opened corpus."""

  FOLDER = 'text'
  ABOUT = 'corpus.json'

  def __init__(self, path: str | os.PathLike):
    super().__init__(path)
    self.pieces: list[str] = kept.load(self.path, 'vocabulary.json')
    self.vocab_size = len(self.pieces)

  def split(self, name: str) -> Split:
    """The arrays of `train`, `validation` or `test`, memory-mapped.

    Raises:
      InputError: there is no such split.
    """
    if name not in SPLITS:
      raise InputError(f'no split {name!r}; a corpus has {list(SPLITS)}')
    return token_store.load(Split, self.path, name)

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

  Args:
    name: a text set, as in `documents.open_text`.
    vocab_size: most pieces of the vocabulary, the special ones included. A
      small text may yield fewer: see `Corpus.vocab_size`.
    files: for `text_files`, a glob pattern.
    offline: never open a socket.

  Raises:
    InputError: the text cannot be had or is too small, or `vocab_size` is less
      than its characters need.
  """
  text = open_text(name, files=files, offline=offline)
  return Corpus.prepared(
    [name, text.fingerprint, vocab_size, wordpiece.ALPHABET],
    f'the text {name}',
    lambda folder: _make(text, vocab_size, folder),
  )


def _make(text: Text, vocab_size: int, folder: pathlib.Path) -> None:
  """Writes a whole corpus into `folder`."""
  start = time.monotonic()
  atomic.note(f'reading the text {text.name}')
  counts = _write_plain(text, folder)
  atomic.note(f'training a vocabulary of {vocab_size:,} pieces')
  with open(folder / 'train.txt', encoding='utf-8', newline='\n') as lines:
    pieces = wordpiece.train_vocabulary(lines, counts, vocab_size)
  atomic.note('tokenising')
  digest = hashlib.sha256('\n'.join(pieces).encode())
  sizes = {}
  tokenizer = wordpiece.make_tokenizer(pieces)
  for name in SPLITS:
    _tokenise(tokenizer, folder, name)
    split = token_store.load(Split, folder, name)
    sizes[name] = [len(array) for array in split]
    token_store.update(digest, split)
  if sizes['train'][0] == 0:
    raise InputError(f'the text {text.name} has no tokens to train on')
  tokenizer.save(str(folder / 'tokenizer.json'))
  (folder / 'vocabulary.json').write_text(json.dumps(pieces))
  about = {
    'name': text.name,
    'sha256': digest.hexdigest(),
    'text_fingerprint': text.fingerprint,
    'tokenizers': tokenizers.__version__,
    'tokens': {name: size[0] for name, size in sizes.items()},
  }
  (folder / Corpus.ABOUT).write_text(json.dumps(about))
  atomic.note(
    f'tokenised the text {text.name}: {sizes["train"][0]:,} training tokens of '
    f'{len(pieces):,} pieces, in {time.monotonic() - start:.1f} s'
  )


def _write_plain(text: Text, folder: pathlib.Path) -> collections.Counter:
  """Writes splits as plain text, a sentence a line, a blank line at the end of
  a document, so that a set is read and held in memory no more than once.

  Returns:
    Count of each run of non-spaces in train, normalised.
  """
  counts: collections.Counter = collections.Counter()
  with contextlib.ExitStack() as stack:
    files = {
      split: stack.enter_context(
        open(folder / f'{split}.txt', 'w', encoding='utf-8', newline='\n')
      )
      for split in SPLITS
    }
    for document in text.documents():
      lines = '\n'.join(document.sentences)
      files[document.split].write(f'{lines}\n\n')
      if document.split == 'train':
        counts.update(wordpiece.normalise(lines).split())
  return counts


def _tokenise(
  tokenizer: tokenizers.Tokenizer, folder: pathlib.Path, name: str
) -> None:
  """Turns a split's plain text into its arrays, and removes the text."""
  grow = lambda part, dtype: kept.GrowingArray(
    folder / f'{name}.{part}.npy', dtype
  )
  small = tokenizer.get_vocab_size() <= 2**16
  path, last = folder / f'{name}.txt', 0  # sentences of the documents so far
  with (
    open(path, encoding='utf-8', newline='\n') as file,
    grow('tokens', np.uint16 if small else np.int32) as pieces,
    grow('sentences', np.int64) as sentences,
    grow('documents', np.int64) as documents,
  ):
    sentences.extend([0])
    documents.extend([0])
    lines = (line.rstrip('\n') for line in file)
    for some in token_store.cut(tokenizer, lines):
      ids: list[int] = []
      ends: list[int] = []
      stops: list[int] = []
      for line, found in some:
        ids += found
        count = sentences.count + len(ends) - 1
        if found:
          ends.append(pieces.count + len(ids))
        elif not line and count > last:
          stops.append(last := count)
      pieces.extend(ids)
      sentences.extend(ends)
      documents.extend(stops)
  path.unlink()
