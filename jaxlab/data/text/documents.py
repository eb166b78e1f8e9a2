"""Texts as documents of sentences, in three splits.

`open_text(name)` knows
  bible        the World English Bible of the set `bible_pairs`: a chapter is a
               document, a verse a sentence, splits are whole books;
  pydoc        the language reference that CPython ships for `help()`: a topic
               is a document; nothing is downloaded;
  text_files   the user's own UTF-8 files;
  any other    a TFDS set with the feature `text`: an example is a document.
"""

import glob
import hashlib
import itertools
import os
import pathlib
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from jaxlab.core.errors import InputError
from jaxlab.data import tfds
from jaxlab.data.splits import tenths
from jaxlab.data.text import aligned

SPLITS = ('train', 'validation', 'test')
LONG_LINE = 400  # characters; a longer line of a file is taken as a paragraph
FEW_DOCUMENTS = 30  # fewer than these are cut in blocks
BLOCK = 20  # sentences of a block

# A full stop, then space, then what may open a sentence: an upper-case letter
# or a letter of a script without cases, perhaps behind a quotation mark.
_SENTENCE_END = re.compile(r'(?<=[.!?])\s+(?=\W?[^\W\d_a-z])')


class Document(NamedTuple):
  """One document of one split."""

  split: str  # one of SPLITS
  sentences: list[str]  # none empty, single spaces inside


class Text(NamedTuple):
  """A text set: what it is, and how to read it."""

  name: str
  fingerprint: str  # changes whenever a document may have changed
  documents: Callable[[], Iterator[Document]]


def open_text(name: str, *, files: str = '', offline: bool = False) -> Text:
  """Opens a text set; see the module's docstring for the names.

  Args:
    name: `bible`, `pydoc`, `text_files` or a TFDS name.
    files: for `text_files`, a glob pattern; `**` stands for any folders.
    offline: never open a socket.

  Raises:
    InputError: the text cannot be had, or `files` is given to another name.
  """
  if files and name != 'text_files':
    raise InputError(
      f'files={files!r} is read by the text set text_files alone, and the text '
      f'set is {name!r}; leave files empty or name text_files'
    )
  if name == 'bible':
    found = tfds.inspect_set('bible_pairs', offline=offline)
    return Text(name, found.fingerprint, lambda: _bible(offline))
  if name == 'pydoc':
    topics = pydoc_topics('the text set pydoc', 'another text set')
    return Text(
      name, _digest(*topics, *topics.values()), lambda: _pydoc(topics)
    )
  if name == 'text_files':
    paths = _matching_files(files)
    whole = _digest(*(_file_digest(path) for path in paths))
    return Text(name, whole, lambda: _text_files(paths))
  found = tfds.inspect_set(name, offline=offline)
  if 'text' not in found.features or 'train' not in found.splits:
    raise InputError(
      f'TFDS set {name} has the features {sorted(found.features)} and the '
      f'splits {sorted(found.splits)}; pretraining needs the feature text and '
      f'the split train'
    )
  return Text(
    name, found.fingerprint, lambda: _tfds_text(name, found.splits, offline)
  )


def split_sentences(paragraph: str) -> list[str]:
  """Sentences of running text, white space collapsed.

  A rule, not a model: it cuts behind `.`, `!` or `?` before an upper-case
  letter, and so behind some abbreviations too.

  >>> split_sentences('One is here. Two,  i.e. it, too! "Three?" Yes.')
  ['One is here.', 'Two, i.e. it, too!', '"Three?" Yes.']
  """
  return [
    sentence
    for piece in _SENTENCE_END.split(paragraph)
    if (sentence := ' '.join(piece.split()))
  ]


def hold_out(keys: list[str], of: str = 'the text') -> list[str]:
  """The split of each document: a tenth is test, a tenth validation.

  Documents are ranked by a hash of their key, so that a document's place
  hardly depends on the others, and equal keys share a split.

  Raises:
    InputError: there are fewer than six different documents.
  """
  if (count := len(set(keys))) < 6:
    raise InputError(
      f'{of} has {count} different documents, too few for three splits of two '
      f'or more. Give more text, or separate documents with blank lines'
    )
  parts = tenths(keys, 2, _digest)
  split = {key: name for name, part in parts.items() for key in part}
  return [split[key] for key in keys]


def _digest(*texts: str) -> str:
  digest = hashlib.sha256()
  for text in texts:
    data = text.encode()
    digest.update(f'{len(data)}:'.encode() + data)
  return digest.hexdigest()


def _bible(offline: bool) -> Iterator[Document]:
  chapter_of = lambda row: (int(row['book']), int(row['chapter']))
  for split in SPLITS:
    rows = tfds.examples('bible_pairs', split, offline=offline)
    for _, verses in itertools.groupby(rows, chapter_of):
      texts = [' '.join(row['en'].decode().split()) for row in verses]
      yield Document(split, texts)


def pydoc_topics(reader: str, other: str) -> dict[str, str]:
  """Python's own help, by topic; messages name the reader and its cure."""
  try:
    from pydoc_data import topics
  except ImportError as error:
    raise InputError(
      f'this Python was installed without pydoc_data, which {reader} reads: '
      f'install the whole standard library, or use {other}'
    ) from error
  return dict(sorted(topics.topics.items()))


def _pydoc(topics: dict[str, str]) -> Iterator[Document]:
  for split, text in zip(hold_out(list(topics)), topics.values()):
    # Lines without a letter or digit underline headings and rule tables.
    lines = [
      line if re.search(r'\w', line) else '' for line in text.splitlines()
    ]
    paragraphs = re.split(r'\n\s*\n', '\n'.join(lines))
    sentences = [s for text in paragraphs for s in split_sentences(text)]
    yield Document(split, sentences)


def _matching_files(pattern: str) -> list[pathlib.Path]:
  if not pattern:
    raise InputError(
      'the text set text_files needs files, a glob pattern such as '
      "'~/texts/**/*.txt'"
    )
  found = glob.glob(os.path.expanduser(pattern), recursive=True)
  paths = sorted(path for path in map(pathlib.Path, found) if path.is_file())
  if not paths:
    raise InputError(
      f'files={pattern!r} matches no file (from {os.getcwd()}); check the '
      f'pattern'
    )
  return paths


def _file_digest(path: pathlib.Path) -> str:
  try:
    with open(path, 'rb') as file:
      return hashlib.file_digest(file, 'sha256').hexdigest()
  except OSError as error:
    raise InputError(f'cannot read {path}: {error.strerror}') from error


def _read_documents(path: pathlib.Path) -> Iterator[list[str]]:
  """Documents of one file: a sentence a line, a blank line between documents.

  Lines end with LF or CRLF and with nothing else. A line of more than LONG_LINE
  characters is a paragraph, and is cut into sentences by rule.
  """
  text = aligned.decode(path.read_bytes(), path)
  sentences: list[str] = []
  for line in text.split('\n'):
    words = re.split('[ \t]+', line.removesuffix('\r').strip(' \t'))
    if words != ['']:
      long = len(line) > LONG_LINE
      sentences += split_sentences(line) if long else [' '.join(words)]
    elif sentences:
      yield sentences
      sentences = []
  if sentences:
    yield sentences


def _text_files(paths: list[pathlib.Path]) -> Iterator[Document]:
  """Documents of all files in the order of their names, read twice.

  Fewer than FEW_DOCUMENTS, one long file without blank lines say, are cut in
  blocks of BLOCK sentences, and blocks are held out: neighbours of a held-out
  block are then trained on.
  """
  size: int | None = None  # sentences of a block

  def read() -> Iterator[list[str]]:
    for path in paths:
      for sentences in _read_documents(path):
        step = size or len(sentences)
        for start in range(0, len(sentences), step):
          yield sentences[start : start + step]

  keys = lambda: [_digest(*sentences) for sentences in read()]
  names = keys()
  if len(set(names)) < FEW_DOCUMENTS:
    size = BLOCK
    names = keys()
  of = ', '.join(map(str, paths[:3])) + (', …' if len(paths) > 3 else '')
  for split, sentences in zip(hold_out(names, of), read()):
    yield Document(split, sentences)


def _tfds_text(
  name: str, splits: tuple[str, ...], offline: bool
) -> Iterator[Document]:
  """Documents of a TFDS set; lines are paragraphs.

  A held-out split that the set lacks is a tenth of train, by a hash of the
  text.
  """
  cut = [split for split in ('validation', 'test') if split not in splits]
  for split in SPLITS:
    if split in cut:
      continue
    for row in tfds.examples(name, split, offline=offline):
      text = row['text'].decode(errors='replace')
      place = split
      if split == 'train' and cut:
        tenth = int(_digest(text)[:8], 16) % 10
        place = cut[tenth] if tenth < len(cut) else split
      paragraphs = re.split(r'\n+|<br\s*/?>', text)
      sentences = [s for part in paragraphs for s in split_sentences(part)]
      if sentences:
        yield Document(place, sentences)
