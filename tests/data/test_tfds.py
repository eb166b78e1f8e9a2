"""TFDS sets that were prepared elsewhere, read without TensorFlow."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest
from tensorflow_datasets import features

from jaxlab.core.errors import InputError
from jaxlab.data import tfds
from jaxlab.data.text import corpus, documents
from tests.data import tfds_sets

REPO = pathlib.Path(__file__).parents[2]
TALKS = 120


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
  """A folder of TFDS sets, written by TFDS: `talk` in array_record."""
  talks = [
    {'text': f'Talk {i} opens. It goes on!<br />Then it\nended.'}
    for i in range(TALKS + 10)
  ]
  root = tmp_path_factory.mktemp('tfds')
  splits = {'train': talks[:TALKS], 'test': talks[TALKS:]}
  tfds_sets.write(root, 'talk', {'text': features.Text()}, splits)
  return root


@pytest.fixture(autouse=True)
def folders(prepared, tmp_path, monkeypatch):
  monkeypatch.setenv('TFDS_DATA_DIR', str(prepared))
  monkeypatch.setenv('JAXLAB_DATA_DIR', str(tmp_path))


@pytest.mark.parametrize('name', ['talk', 'talk:1.0.0'])
def test_array_record_set_opens_by_name(name):
  rows = tfds.open_split(name, 'train')
  assert len(rows) == TALKS
  assert rows[3]['text'].startswith(b'Talk 3 opens.')
  assert len(tfds.open_split(name, 'train[:25%]')) == TALKS // 4
  found = tfds.inspect_set(name)
  assert set(found.splits) == {'train', 'test'}
  assert found.features == ('text',)


@pytest.mark.parametrize(
  ('split', 'rows'),
  [
    ('train + test', TALKS + 10),
    ('train+test', TALKS + 10),
    ('all', TALKS + 10),
    ('train[:5] + test[:2]', 7),
  ],
)
def test_splits_are_added_as_tfds_adds_them(split, rows):
  assert len(tfds.open_split('talk', split)) == rows


def test_every_split_of_a_sum_is_looked_at():
  with pytest.raises(InputError, match=r"no split 'other'"):
    tfds.open_split('talk', 'train + other')


def test_unknown_split_names_those_there_are():
  with pytest.raises(InputError, match=r"no split 'validation'.*test.*train"):
    tfds.open_split('talk', 'validation')
  with pytest.raises(InputError, match='cannot read the split'):
    tfds.open_split('talk', 'train[:x')


def test_missing_shard_is_named(prepared, tmp_path, monkeypatch):
  for path in (prepared / 'talk' / '1.0.0').iterdir():
    if 'test.array_record' not in path.name:
      copy = tmp_path / 'talk' / '1.0.0' / path.name
      copy.parent.mkdir(parents=True, exist_ok=True)
      copy.write_bytes(path.read_bytes())
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path))
  assert len(tfds.open_split('talk', 'train')) == TALKS
  with pytest.raises(InputError, match=r'incomplete: .*talk-test\.array'):
    tfds.open_split('talk', 'test')


@pytest.mark.parametrize('file', ['dataset_info.json', 'features.json'])
@pytest.mark.parametrize('damage', ['half', 'text', 'empty', 'list', 'binary'])
def test_a_description_that_is_damaged_names_its_folder(
  prepared, tmp_path, monkeypatch, file, damage
):
  folder = tmp_path / 'talk' / '1.0.0'
  shutil.copytree(prepared / 'talk' / '1.0.0', folder)
  whole = (folder / file).read_bytes()
  (folder / file).write_bytes(
    {
      'half': whole[: len(whole) // 2],
      'text': b'hello',
      'empty': b'',
      'list': b'[1, 2]',
      'binary': b'\xff\xfe' + whole,
    }[damage]
  )
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path))
  with pytest.raises(InputError, match=r'TFDS set .?talk'):
    tfds.open_split('talk', 'train')


def test_a_damaged_description_of_an_own_set_is_named(tmp_path, monkeypatch):
  monkeypatch.setenv('JAXLAB_DATA_DIR', str(tmp_path))
  tfds.inspect_set('digits', offline=True)
  path = tmp_path / 'tfds' / 'digits' / '1.0.0' / 'dataset_info.json'
  for said in (path.read_text()[:40], 'hello', '', '[1]', '{"splits": 3}'):
    path.write_text(said)
    with pytest.raises(InputError, match=r'digits.*damaged.*delete .*/1\.0\.0'):
      tfds.inspect_set('digits', offline=True)


def test_unprepared_set_names_its_cure(prepared):
  with pytest.raises(InputError) as error:
    tfds.open_split('wikipedia/20230601.en', 'train')
  command = 'tfds build wikipedia/20230601.en --file_format=array_record'
  assert command in str(error.value)
  assert str(prepared) in str(error.value)
  with pytest.raises(InputError, match='names look like'):
    tfds.open_split('not a name', 'train')


def test_tfrecord_set_names_its_cure(prepared, tmp_path, monkeypatch):
  folder = tmp_path / 'old' / '1.0.0'
  folder.mkdir(parents=True)
  known = prepared / 'talk' / '1.0.0'
  info = json.loads((known / 'dataset_info.json').read_text())
  info |= {'name': 'old', 'fileFormat': 'tfrecord'}
  (folder / 'dataset_info.json').write_text(json.dumps(info))
  (folder / 'features.json').write_text((known / 'features.json').read_text())
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path))
  with pytest.raises(InputError) as error:
    tfds.open_split('old', 'train')
  for part in (
    'tfrecord',
    f'tfds convert_format --dataset_version_dir={folder}',
    'tfds build old --file_format=array_record',
  ):
    assert part in str(error.value)


def test_examples_are_documents_and_missing_splits_are_cut_from_train():
  found = list(documents.open_text('talk').documents())
  assert found[0].sentences == [
    'Talk 0 opens.',
    'It goes on!',
    'Then it',
    'ended.',
  ]
  held = [d for d in found if d.split == 'validation']
  # A tenth of 120 by a hash: binomial, 12 ± 4 * 3.3.
  assert 1 <= len(held) <= 25
  assert sum(d.split == 'test' for d in found) == 10
  assert {d.sentences[0] for d in found} == {
    f'Talk {i} opens.' for i in range(TALKS + 10)
  }


def test_corpus_of_a_tfds_set_is_made():
  made = corpus.prepare_corpus('talk', vocab_size=60, offline=True)
  assert len(made.split('test').documents) == 10 + 1


def test_set_without_text_is_refused(prepared, tmp_path, monkeypatch):
  known = prepared / 'talk' / '1.0.0'
  folder = tmp_path / 'talk' / '1.0.0'
  folder.mkdir(parents=True)
  for path in known.iterdir():
    data = path.read_bytes()
    if path.name == 'features.json':
      content = json.loads(data)['featuresDict']['features']['text']
      data = json.dumps(
        {
          'pythonClassName': json.loads(data)['pythonClassName'],
          'featuresDict': {'features': {'words': content}},
        }
      ).encode()
    (folder / path.name).write_bytes(data)
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path))
  with pytest.raises(InputError, match=r"\['words'\].*needs the feature text"):
    documents.open_text('talk')


def test_tensorflow_is_never_imported_and_tfds_is_quiet(tmp_path):
  """Even where TensorFlow is installed, as this stand-in is."""
  fake = tmp_path / 'fake' / 'tensorflow'
  fake.mkdir(parents=True)
  (fake / '__init__.py').write_text('raise SystemExit("TensorFlow imported")\n')
  program = """
from absl import logging
logging.set_verbosity(logging.INFO)  # as absl.app.run does
from jaxlab.data import tfds
assert len(tfds.open_split('talk', 'train')) == 120
assert tfds.open_split('talk', 'train')[0]['text'].startswith(b'Talk 0')
"""
  done = subprocess.run(
    [sys.executable, '-c', program],
    env=os.environ | {'PYTHONPATH': f'{REPO}:{fake.parent}'},
    capture_output=True,
    text=True,
  )
  assert (done.returncode, done.stdout, done.stderr) == (0, '', '')
