"""The run's folder: one process, one config, whole files."""

import copy
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from jaxlab.core.errors import InputError
from jaxlab.runs import workdir

_ROOT = Path(__file__).parents[2]
_CONFIG = {
  'paper': 'toy',
  'seed': 0,
  'data': {'batch_size': 64, 'workers': 0, 'ahead': 4},
  'mesh': {'data': -1},
  'model': {'sizes': (1, 2)},
  'train': {
    'steps': 100,
    'learning_rate': 0.1,
    'log_every_steps': 10,
    'eval_every_steps': 0,
    'checkpoint_every_steps': 0,
    'checkpoint_every_seconds': 300.0,
    'checkpoint_keep': 2,
    'max_bad_steps': 0,
  },
  'paper_reported': {'accuracy': 0.9},
}


def _changed(key, value):
  config = copy.deepcopy(_CONFIG)
  *sections, last = key.split('.')
  place = config
  for section in sections:
    place = place[section]
  place[last] = value
  return config


_FREE = [
  ('train.steps', 200),
  ('train.log_every_steps', 1),
  ('train.eval_every_steps', 5),
  ('train.checkpoint_every_steps', 7),
  ('train.checkpoint_every_seconds', 1.0),
  ('train.checkpoint_keep', 9),
  ('train.max_bad_steps', 3),
  ('data.workers', 2),
  ('data.ahead', 1),
  ('mesh.data', 8),
  ('mesh.model', 2),
  ('paper_reported.accuracy', 0.91),
  ('title', 'Another'),
]
_BOUND = [
  ('seed', 1),
  ('paper', 'other'),
  ('train.learning_rate', 0.2),
  ('data.batch_size', 32),
  ('model.sizes', (1, 3)),
  ('model.new', 1),
]


def _begun(folder, config=_CONFIG):
  """A folder as a run of `config` leaves it."""
  (folder / 'train' / 'checkpoints' / '0').mkdir(parents=True)
  workdir.write_json(folder / 'config.json', config)
  return folder


@pytest.mark.parametrize('key, value', _FREE)
def test_what_may_change_between_runs_is_not_in_the_digest(
  key, value, tmp_path
):
  config = _changed(key, value)
  assert config != _CONFIG
  assert workdir.digest(config) == workdir.digest(_CONFIG)
  with workdir.claimed(_begun(tmp_path), config) as folder:
    assert folder == tmp_path


@pytest.mark.parametrize('key, value', _BOUND)
def test_another_config_is_an_input_error_that_lists_the_keys(
  key, value, tmp_path
):
  config = _changed(key, value)
  assert workdir.digest(config) != workdir.digest(_CONFIG)
  with (
    pytest.raises(InputError, match='a run of another config') as caught,
    workdir.claimed(_begun(tmp_path), config),
  ):
    pass
  assert f'({key}: ' in str(caught.value)
  assert '--workdir' in str(caught.value)


def _judged(folder, stages):
  """A folder of stages: name -> (keys that it does not count, is trained)."""
  config = {**_CONFIG, 'ood': {'steps': 2, 'sets': ['a']}, 'seen': 1}
  for name, (unread, trained) in stages.items():
    said = {'config_sha256': workdir.digest(config, unread), 'unread': unread}
    path = folder / name / 'report.json'
    if trained:
      path = folder / name / 'checkpoints' / '5' / 'about' / 'metadata'
    path.parent.mkdir(parents=True)
    workdir.write_json(path, said)
  workdir.write_json(folder / 'config.json', config)
  return copy.deepcopy(config)


def test_keys_that_no_stage_counts_may_change_and_no_others(tmp_path):
  both = {'train': (['ood.'], True), 'judge': (['ood.'], False)}
  config = _judged(tmp_path, both)
  config['ood']['steps'] = 9
  config['ood']['new'] = 1
  with workdir.claimed(tmp_path, config):
    pass
  config['seen'] = 2
  with (
    pytest.raises(
      InputError, match=r'another config \(seen: 1 there, 2 here\)'
    ),
    workdir.claimed(tmp_path, config),
  ):
    pass


@pytest.mark.parametrize('trained', [True, False])
def test_one_stage_that_counts_a_key_keeps_it(tmp_path, trained):
  stages = {'train': (['ood.'], True), 'other': (['ood.sets'], trained)}
  config = _judged(tmp_path, stages)
  config['ood']['sets'] = ['b']
  with workdir.claimed(tmp_path, config):
    pass
  config['ood']['steps'] = 9
  with (
    pytest.raises(InputError, match=r'\(ood\.steps: 2 there, 9 here\)'),
    workdir.claimed(tmp_path, config),
  ):
    pass


def test_a_checkpoint_that_says_nothing_keeps_every_key(tmp_path):
  config = _judged(tmp_path, {'train': (['ood.'], True)})
  (about,) = tmp_path.glob('train/checkpoints/5/about/metadata')
  about.write_text('{}')
  config['ood']['steps'] = 9
  with (
    pytest.raises(InputError, match=r'\(ood\.steps: 2 there, 9 here\)'),
    workdir.claimed(tmp_path, config),
  ):
    pass


def test_a_torn_config_is_known_again_whatever_the_judgement_reads(tmp_path):
  config = _judged(tmp_path, {'train': (['ood.'], True)})
  (tmp_path / 'config.json').write_text('{')
  config['ood']['steps'] = 9
  with workdir.claimed(tmp_path, config):
    pass
  config['seen'] = 2
  with (
    pytest.raises(InputError, match='is not the JSON of a config'),
    workdir.claimed(tmp_path, config),
  ):
    pass


def test_several_keys_are_listed_with_both_values(tmp_path):
  config = _changed('seed', 5)
  config['train']['learning_rate'] = 0.3
  config['train']['steps'] = 9
  config['train']['warmup_steps'] = 4
  with (
    pytest.raises(InputError) as caught,
    workdir.claimed(_begun(tmp_path), config),
  ):
    pass
  assert (
    '(seed: 0 there, 5 here; train.learning_rate: 0.1 there, 0.3 here; '
    "train.warmup_steps: '(absent)' there, 4 here)"
  ) in str(caught.value)
  assert json.loads((tmp_path / 'config.json').read_text())['seed'] == 0


def test_a_folder_in_which_nothing_was_begun_takes_another_config(tmp_path):
  workdir.write_json(tmp_path / 'config.json', _changed('seed', 5))
  with workdir.claimed(tmp_path, _CONFIG):
    pass


def test_the_order_of_keys_and_tuple_or_list_do_not_matter():
  turned = dict(reversed(_changed('model.sizes', [1, 2]).items()))
  assert workdir.digest(turned) == workdir.digest(_CONFIG)
  assert workdir.flatten({'b': {'c': 1}, 'a': (2,)}) == {'a': [2], 'b.c': 1}


def test_a_config_file_that_is_none_is_an_input_error(tmp_path):
  (_begun(tmp_path) / 'config.json').write_text('{"paper":')
  with (
    pytest.raises(InputError, match=r'config\.json is not the JSON of a conf'),
    workdir.claimed(tmp_path, _CONFIG),
  ):
    pass


def test_a_folder_in_use_by_another_process_is_an_input_error(tmp_path):
  code = (
    'import sys, pathlib; from jaxlab.runs import workdir\n'
    'with workdir.claimed(pathlib.Path(sys.argv[1]), {}):\n'
    '  print("claimed", flush=True); sys.stdin.read()'
  )
  other = subprocess.Popen(
    [sys.executable, '-c', code, str(tmp_path)],
    cwd=_ROOT,
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
  )
  with other:
    assert other.stdout.readline() == 'claimed\n'
    with (
      pytest.raises(InputError, match=f'in use by process {other.pid} on '),
      workdir.claimed(tmp_path, _CONFIG),
    ):
      pass
    other.stdin.close()
  assert other.returncode == 0
  with workdir.claimed(tmp_path, _CONFIG):  # and free again
    assert f'process {os.getpid()} ' in (tmp_path / '.lock').read_text()


def test_a_folder_that_cannot_be_made_is_an_input_error(tmp_path):
  (tmp_path / 'file').write_text('x')
  for folder in (tmp_path / 'file', tmp_path / 'file' / 'run'):
    with (
      pytest.raises(InputError, match='choose a folder that can be written'),
      workdir.claimed(folder, _CONFIG),
    ):
      pass
  assert (tmp_path / 'file').read_text() == 'x'


def test_a_torn_config_beside_its_checkpoints_is_written_again(
  tmp_path, capsys
):
  folder = _begun(tmp_path)
  about = folder / 'train' / 'checkpoints' / '0' / 'about'
  about.mkdir()
  for torn in ('', '{"paper": "to'):
    (folder / 'config.json').write_text(torn)
    (about / 'metadata').write_text('{"step": 0}')
    with (
      pytest.raises(InputError, match='no checkpoint or report says'),
      workdir.claimed(folder, _CONFIG),
    ):
      pass
    digest = {'config_sha256': workdir.digest(_CONFIG)}
    (about / 'metadata').write_text(json.dumps(digest))
    with workdir.claimed(folder, _CONFIG):
      pass
    assert 'was damaged' in capsys.readouterr().err
    with (
      pytest.raises(InputError, match='damaged: choose another'),
      workdir.claimed(folder, _changed('seed', 1)),
    ):
      pass


def test_a_lock_that_is_a_link_overwrites_nothing(tmp_path):
  mine = tmp_path / 'mine'
  mine.write_text('precious')
  folder = tmp_path / 'run'
  folder.mkdir()
  (folder / '.lock').symlink_to(mine)
  with (
    pytest.raises(InputError, match='choose a folder that can be written'),
    workdir.claimed(folder, _CONFIG),
  ):
    pass
  assert mine.read_text() == 'precious'


def test_json_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
  path = tmp_path / 'x.json'
  workdir.write_json(path, {'a': 1})

  def fail(*args):
    raise OSError(28, 'No space left on device')

  for name in ('replace', 'fsync'):
    with monkeypatch.context() as patch:
      patch.setattr(os, name, fail)
      with pytest.raises(InputError, match=r'x\.json: No space left.*nothing'):
        workdir.write_json(path, {'a': 2})
    assert json.loads(path.read_text()) == {'a': 1}
    assert list(tmp_path.iterdir()) == [path]
  with pytest.raises(ValueError, match='not JSON compliant'):
    workdir.write_json(path, {'a': float('nan')})
  assert json.loads(path.read_text()) == {'a': 1}
  assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize('gone', ['.', 'train', 'train/checkpoints/x'])
def test_a_folder_that_is_removed_during_a_run_is_named(tmp_path, gone):
  folder = tmp_path / 'run'
  named = pytest.raises(InputError, match=f'{(folder / gone).name} is gone')
  with named, workdir.claimed(folder, {}):
    shutil.rmtree(folder)
    (folder / gone).stat()
  other = pytest.raises(FileNotFoundError, match='other')
  with other, workdir.claimed(folder, {}):
    (tmp_path / 'other').stat()
