"""Texts as documents of sentences, in three splits.

`open_text(name)` knows
  bible        the World English Bible of the set `bible_pairs`: a chapter is a
               document, a verse a sentence, splits are whole books;
  pydoc        the language reference that CPython ships for `help()`: a topic
               is a document; nothing is downloaded;
  text_files   the user's own UTF-8 files;
  any other    a TFDS set with the feature `text`: an example is a document.

`open_labelled_text` reads a set for classification, and `read_aligned` two
files that translate each other line by line.
"""

import glob
import hashlib
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from jaxlab.data import tfds
from jaxlab.data.text import aligned
from jaxlab.engine.errors import InputError

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


class LabelledText(NamedTuple):
  """Texts with a class each."""

  texts: list[str]
  labels: np.ndarray  # [n] int32 in [0, len(classes))
  classes: tuple[str, ...]  # their names


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
    topics = _pydoc_topics()
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


def open_labelled_text(
  name: str, split: str, *, offline: bool = False
) -> LabelledText:
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
  texts, labels = [], []
  for row in tfds.examples(name, split, offline=offline):
    if not isinstance(row['text'], bytes):
      raise InputError(
        f'TFDS set {name} has {type(row["text"]).__name__} in the feature '
        f'text, not a string; take a config of plain text'
      )
    texts.append(row['text'].decode(errors='replace'))
    labels.append(int(row['label']))
  classes = found.classes['label']
  for index, label in enumerate(labels):
    if not 0 <= label < len(classes):
      raise InputError(
        f'TFDS set {name}, split {split}: example {index} has the label '
        f'{label}, and the classes are 0 to {len(classes) - 1} {classes}; take '
        f'a split that is labelled'
      )
  return LabelledText(texts, np.array(labels, np.int32), classes)


def read_aligned(
  source_file: str | os.PathLike, target_file: str | os.PathLike
) -> list[tuple[str, str]]:
  """Pairs of lines, of two UTF-8 files that translate each other; plain or .gz.

  Space around a line is dropped. A pair with an empty side has no translation
  and is left out, so that the pairs can be fewer than the lines.

  Raises:
    InputError: a file cannot be read or is not UTF-8, the files have different
      numbers of lines, or no pair is left.
  """
  sources, targets = map(aligned.read_lines, (source_file, target_file))
  if len(sources) != len(targets):
    raise InputError(
      f'{source_file} has {len(sources)} lines and {target_file} has '
      f'{len(targets)}; line i of one must translate line i of the other'
    )
  lines = ((a.strip(), b.strip()) for a, b in zip(sources, targets))
  if not (pairs := [(a, b) for a, b in lines if a and b]):
    raise InputError(
      f'{source_file} and {target_file} have {len(sources)} lines and no pair '
      f'of lines that are not empty'
    )
  return pairs


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
  ranked = sorted(set(keys), key=_digest)
  if len(ranked) < 6:
    raise InputError(
      f'{of} has {len(ranked)} different documents, too few for three splits '
      f'of two or more. Give more text, or separate documents with blank lines'
    )
  held = max(2, round(len(ranked) / 10))
  split = dict.fromkeys(ranked, 'train')
  split |= dict.fromkeys(ranked[:held], 'test')
  split |= dict.fromkeys(ranked[held : 2 * held], 'validation')
  return [split[key] for key in keys]


def _digest(*texts: str) -> str:
  digest = hashlib.sha256()
  for text in texts:
    data = text.encode()
    digest.update(f'{len(data)}:'.encode() + data)
  return digest.hexdigest()


def _bible(offline: bool) -> Iterator[Document]:
  for split in SPLITS:
    chapter: tuple[int, int] | None = None
    verses: list[str] = []
    for row in tfds.examples('bible_pairs', split, offline=offline):
      if chapter != (chapter := (int(row['book']), int(row['chapter']))):
        if verses:
          yield Document(split, verses)
        verses = []
      verses.append(' '.join(row['en'].decode().split()))
    if verses:
      yield Document(split, verses)


def _pydoc_topics() -> dict[str, str]:
  try:
    from pydoc_data import topics
  except ImportError as error:
    raise InputError(
      'this Python was installed without pydoc_data, which the text set pydoc '
      'reads: install the whole standard library, or use another text set'
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

  def documents() -> Iterator[list[str]]:
    for path in paths:
      yield from _read_documents(path)

  def blocks() -> Iterator[list[str]]:
    for sentences in documents():
      for start in range(0, len(sentences), BLOCK):
        yield sentences[start : start + BLOCK]

  def keys(read: Callable[[], Iterable[list[str]]]) -> list[str]:
    return [_digest(*sentences) for sentences in read()]

  read = documents
  names = keys(read)
  if len(set(names)) < FEW_DOCUMENTS:
    read = blocks
    names = keys(read)
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
