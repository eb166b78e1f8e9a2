"""Files that translate each other line by line."""

import gzip
import re

import pytest

from jaxlab.core.errors import InputError
from jaxlab.data.text.aligned import read_aligned

ENGLISH = 'The house is old.\nIt rains.\nWe go home.\n'
GERMAN = 'Das Haus ist alt.\nEs regnet.\nWir gehen heim.\n'
PAIRS = [
  ('The house is old.', 'Das Haus ist alt.'),
  ('It rains.', 'Es regnet.'),
  ('We go home.', 'Wir gehen heim.'),
]


@pytest.fixture
def files(tmp_path):
  """Writes two files; their paths."""

  def write(source, target, names=('a.en', 'a.de')):
    paths = [tmp_path / name for name in names]
    for path, content in zip(paths, (source, target)):
      data = content.encode() if isinstance(content, str) else content
      path.write_bytes(data)
    return paths

  return write


def test_lines_are_paired_in_order(files):
  assert read_aligned(*files(ENGLISH, GERMAN)) == PAIRS
  assert read_aligned(*map(str, files(ENGLISH, GERMAN))) == PAIRS


@pytest.mark.parametrize(
  'change',
  [
    lambda s: s.replace('\n', '\r\n'),
    lambda s: '\ufeff' + s,
    lambda s: '\ufeff' + s.replace('\n', '\r\n'),
    lambda s: s.removesuffix('\n'),
    lambda s: s.replace('\n', '  \n'),
  ],
  ids=['crlf', 'bom', 'bom and crlf', 'no last newline', 'trailing space'],
)
def test_forms_of_a_text_file_do_not_matter(files, change):
  assert read_aligned(*files(change(ENGLISH), GERMAN)) == PAIRS
  assert read_aligned(*files(ENGLISH, change(GERMAN))) == PAIRS


def test_packed_and_plain_files_mix(files):
  packed = gzip.compress(GERMAN.encode())
  paths = files(ENGLISH, packed, ('a.en', 'a.de.gz'))
  assert read_aligned(*paths) == PAIRS


def test_other_separators_of_unicode_do_not_end_a_line(files):
  odd = 'one\u2028still one\x0bone\x85one\ftoo\ntwo\n'
  found = read_aligned(*files(odd, 'eins\nzwei\n'))
  assert found == [
    ('one\u2028still one\x0bone\x85one\ftoo', 'eins'),
    ('two', 'zwei'),
  ]


def test_partner_one_line_shorter_is_an_error_with_both_counts(files):
  for pair in ((ENGLISH, 'a\nb\n'), ('a\nb\n', GERMAN), (ENGLISH, 'a\nb')):
    with pytest.raises(InputError) as error:
      read_aligned(*files(*pair))
    assert error.value.exit_code == 2
    counts = re.search(
      r'a\.en has (\d) lines and .*a\.de has (\d);', str(error.value)
    )
    assert counts and sorted(counts.groups()) == ['2', '3']


def test_empty_lines_count_but_make_no_pair(files):
  found = read_aligned(*files('one\n\nthree\n \n', 'eins\nzwei\n\n\n'))
  assert found == [('one', 'eins')]
  with pytest.raises(InputError, match=r'a\.en has 4 lines and .*a\.de has 3;'):
    read_aligned(*files('one\n\nthree\n\n', 'eins\nzwei\ndrei\n'))
  with pytest.raises(InputError, match='2 lines and no pair'):
    read_aligned(*files('\nb\n', 'a\n\n'))
  with pytest.raises(InputError, match='0 lines and no pair'):
    read_aligned(*files('', ''))


def test_other_encoding_names_file_and_offset(files):
  paths = files(ENGLISH, GERMAN.replace('alt', 'schön').encode('latin1'))
  with pytest.raises(InputError, match=r'a\.de is not UTF-8: byte 0xf6 at off'):
    read_aligned(*paths)
  with pytest.raises(InputError, match='at offset 16'):
    read_aligned(*paths)


@pytest.mark.parametrize('kept', [0, 12, -9])
def test_cut_off_gz_is_an_error(files, kept):
  packed = gzip.compress(GERMAN.encode())[:kept]
  paths = files(ENGLISH, packed, ('a.en', 'a.de.gz'))
  with pytest.raises(InputError, match=r'a\.de\.gz'):
    read_aligned(*paths)


def test_what_is_no_gz_is_an_error(files):
  paths = files(ENGLISH, GERMAN, ('a.en', 'a.de.gz'))
  with pytest.raises(InputError, match=r'a\.de\.gz is damaged.*drop the \.gz'):
    read_aligned(*paths)


def test_absent_file_is_named(files, tmp_path):
  source, _ = files(ENGLISH, GERMAN)
  with pytest.raises(InputError, match=r'cannot read .*absent\.de: No such'):
    read_aligned(source, tmp_path / 'absent.de')
  with pytest.raises(InputError, match=r'cannot read .*: Is a directory'):
    read_aligned(source, tmp_path)
