"""LibreOffice's help in English, German and French, aligned by paragraph."""

import html
import re

import tensorflow_datasets as tfds

from jaxlab.core.errors import InputError
from jaxlab.data.builders import packaged
from jaxlab.data.packages import deb, registry
from jaxlab.data.text import documents

_VERSION = '7.4.7-1+deb12u14'
_FR = 'c796530d3e95af1ea4d054076682efc8aad2b569ae9513f3d4a776b2df3fd206'
_DE = '00490b63c509ac96f7f212d6a6e40452d3e0d1f97ccf4b824dd5ec4c01e8277f'
_EN = '8faa840285734d6cfe1ed25537b48f07e74bd6412e3917bf8e5f8a653f7b3712'
HELP = {  # feature -> the package of its language
  feature: registry.Package(
    kind='debian',
    name=f'libreoffice-help-{language}',
    version=f'4:{_VERSION}',
    file=f'libreoffice-help-{language}_4%3a{_VERSION}_all.deb',
    sha256=sha256,
    mebibytes=mebibytes,
    licence='MPL-2.0',
  )
  for feature, language, sha256, mebibytes in (
    ('en', 'en-us', _EN, 1.7),
    ('de', 'de', _DE, 3.1),
    ('fr', 'fr', _FR, 3.1),
  )
}
FOLDERS = {'en': 'en-US', 'de': 'de', 'fr': 'fr'}
WORDS = range(3, 101)  # of an English paragraph that is kept

_PARAGRAPH = re.compile(
  r'<(p|h\d)\b[^>]*\bid="((?:par|hd)_id[^"]+)"[^>]*>(.*?)</\1>', re.DOTALL
)


class Builder(packaged.PackagedBuilder):
  """Builds the set `libreoffice_help_pairs` from three Debian packages."""

  PACKAGES = tuple(HELP.values())
  SUMMARY = '29,167 help paragraphs in English, German and French'
  LICENCE = 'MPL-2.0'
  FEATURES = {  # noqa: RUF012
    name: tfds.features.Text() for name in ('file', *HELP)
  }
  SUPERVISED = ('en', 'de')
  PUBLISHED = {  # noqa: RUF012
    # 29,073 and 27,782 over the whole, fewer where splits share no English.
    'different en-de pairs': packaged.Published(29_073, 100),
    'different en-fr pairs': packaged.Published(27_782, 100),
    'English texts in two splits': packaged.Published(0),
  }

  def measure(self, read):
    rows = {split: list(read(split)) for split in packaged.SPLITS}
    found = packaged.counts(rows, 'examples')
    found['English texts in two splits'] = packaged.repeated(rows, 'en')
    every = [row for own in rows.values() for row in own]
    for other in ('de', 'fr'):
      pairs = {(row['en'], row[other]) for row in every if row[other]}
      found[f'different en-{other} pairs'] = len(pairs)
    return found

  def rows(self):
    texts = {
      language: _read_paragraphs(self.fetch(package), FOLDERS[language])
      for language, package in HELP.items()
    }
    splits = align(texts)
    return {split: self.progress(splits[split], split) for split in splits}


def _read_paragraphs(package, folder: str) -> dict[tuple[str, str], str]:
  """(file, id) -> text of one language, in the order of the files' names."""
  root = f'usr/share/libreoffice/help/{folder}/text/'
  pages = dict(
    deb.read_members(
      package, lambda name: name.startswith(root) and name.endswith('.html')
    )
  )
  if not pages:
    raise InputError(f'{package} has no file {root}*.html')
  found = {}
  for name, page in sorted(pages.items()):
    for _, place, marked in _PARAGRAPH.findall(_decode(page, package, name)):
      words = html.unescape(re.sub('<[^>]+>', '', marked)).split()
      found[name.removeprefix(root), place] = ' '.join(words)
  return found


def _decode(page: bytes, package, name: str) -> str:
  try:
    return page.decode()
  except UnicodeDecodeError as error:
    raise InputError(
      f'{package}: {name} is not UTF-8 at offset {error.start}'
    ) from error


def align(
  texts: dict[str, dict[tuple[str, str], str]],
) -> dict[str, list[dict[str, str]]]:
  """The examples of each split, as the set's description says.

  Args:
    texts: language -> (file, id) -> text; English gives the order.
  """
  files = list(dict.fromkeys(file for file, _ in texts['en']))
  split_of = dict(zip(files, documents.hold_out(files, "LibreOffice's help")))
  home: dict[str, str] = {}  # English text -> its only split
  seen = set()
  rows: dict[str, list[dict[str, str]]] = {
    split: [] for split in documents.SPLITS
  }
  for place, english in texts['en'].items():
    others = {
      language: '' if (found := known.get(place, '')) == english else found
      for language, known in texts.items()
      if language != 'en'
    }
    example = (english, *others.values())
    if len(english.split()) not in WORDS or not any(others.values()):
      continue
    split = split_of[place[0]]
    if home.setdefault(english, split) == split and example not in seen:
      seen.add(example)
      rows[split].append({'file': place[0], 'en': english, **others})
  return rows
