"""LibreOffice's help in English, German and French, aligned by paragraph."""

import html
import re

import tensorflow_datasets as tfds

from jaxlab.data.builders import packaged
from jaxlab.data.packages import deb, registry
from jaxlab.data.text import documents
from jaxlab.engine.errors import InputError

_VERSION = '4:7.4.7-1+deb12u14'


def _help(language: str, sha256: str, mebibytes: float) -> registry.Package:
  name = f'libreoffice-help-{language}'
  return registry.Package(
    kind='debian',
    name=name,
    version=_VERSION,
    file=f'{name}_{_VERSION.replace(":", "%3a")}_all.deb',
    sha256=sha256,
    mebibytes=mebibytes,
    licence='MPL-2.0',
  )


HELP = {  # feature -> the package of its language
  'en': _help(
    'en-us',
    '8faa840285734d6cfe1ed25537b48f07e74bd6412e3917bf8e5f8a653f7b3712',
    1.7,
  ),
  'de': _help(
    'de',
    '00490b63c509ac96f7f212d6a6e40452d3e0d1f97ccf4b824dd5ec4c01e8277f',
    3.1,
  ),
  'fr': _help(
    'fr',
    'c796530d3e95af1ea4d054076682efc8aad2b569ae9513f3d4a776b2df3fd206',
    3.1,
  ),
}
FOLDERS = {'en': 'en-US', 'de': 'de', 'fr': 'fr'}
WORDS = range(3, 101)  # of an English paragraph that is kept

_PARAGRAPH = re.compile(
  r'<(p|h\d)\b[^>]*\bid="((?:par|hd)_id[^"]+)"[^>]*>(.*?)</\1>', re.DOTALL
)

_DESCRIPTION = f"""\
Paragraphs and headings of LibreOffice's help in English, each with the German
and the French that people translated it to, in modern technical prose. Aligned
by the file and the id of the paragraph. An example is an English text of 3 to
100 words, markup left out, that at least one language translates; a language
that lacks it, or repeats the English, has the empty string. The same (en, de,
fr) is kept once, in the first `file` that has it, by name. Split by file, a
tenth each for validation and test by a hash of the name; an English text
belongs to the split of the first file that has it and is left out of files of
other splits, so that none is in two splits.
{packaged.provenance(*HELP.values())}
"""

_LICENCE = """\
Mozilla Public License 2.0, as LibreOffice.
"""

_CITATION = """\
@misc{libreofficehelp,
  title = {LibreOffice Help},
  author = {{LibreOffice contributors}},
  howpublished = {Debian packages libreoffice-help-en-us, -de and -fr},
  note = {Version 7.4.7}
}
"""


class Builder(packaged.PackagedBuilder):
  """Builds the set `libreoffice_help_pairs` from three Debian packages."""

  PACKAGES = tuple(HELP.values())
  SUMMARY = '29,167 help paragraphs in English, German and French'
  LICENCE = 'MPL-2.0'
  PUBLISHED = {  # noqa: RUF012
    # 29,073 and 27,782 over the whole, fewer where splits share no English.
    'different en-de pairs': packaged.Published(29_073, 100),
    'different en-fr pairs': packaged.Published(27_782, 100),
    'English texts in two splits': packaged.Published(0),
  }

  def measure(self, read):
    rows = {split: list(read(split)) for split in documents.SPLITS}
    found: dict[str, float] = {
      f'{split} examples': len(rows[split]) for split in rows
    }
    for other in ('de', 'fr'):
      found[f'different en-{other} pairs'] = len(
        {(r['en'], r[other]) for s in rows for r in rows[s] if r[other]}
      )
    splits: dict[bytes, set[str]] = {}
    for split, examples in rows.items():
      for row in examples:
        splits.setdefault(row['en'], set()).add(split)
    twice = sum(len(found_in) > 1 for found_in in splits.values())
    return found | {'English texts in two splits': twice}

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description=_DESCRIPTION,
      features=tfds.features.FeaturesDict(
        {name: tfds.features.Text() for name in ('file', *HELP)}
      ),
      supervised_keys=('en', 'de'),
      license=_LICENCE,
      citation=_CITATION,
      disable_shuffling=True,  # neighbours in a split are neighbours in a file
    )

  def _split_generators(self, dl_manager):
    del dl_manager  # the package clients download; TFDS does not
    texts = {
      language: _read_paragraphs(self.fetch(package), FOLDERS[language])
      for language, package in HELP.items()
    }
    rows = align(texts)
    return {
      split: self._generate_examples(rows[split], split)
      for split in documents.SPLITS
    }

  def _generate_examples(self, rows, split):
    yield from enumerate(self.progress(rows, len(rows), split))


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
