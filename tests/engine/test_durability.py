"""What is left after a power loss and after bits have flipped."""

import hashlib
import os
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxlab.core.errors import InputError
from jaxlab.engine import checkpoint, mesh
from jaxlab.engine.fingerprint import state_sha256
from tests.engine.test_loop import Crash, _crash, _fit, _lines, _saved, _task


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """A fit that nothing happened to."""
  folder = tmp_path_factory.mktemp('whole')
  return folder, _fit(folder, task=_task({}))


@pytest.fixture
def disk(monkeypatch):
  """inode -> SHA-256 of what `fsync` put there, of files alone."""
  kept = {}
  fsync = os.fsync

  def recorded(number):
    fsync(number)
    path = Path(f'/proc/self/fd/{number}').resolve()
    if path.is_file():
      kept[path.stat().st_ino] = _sha256(path)

  monkeypatch.setattr(os, 'fsync', recorded)
  return kept


def _sha256(path):
  return hashlib.sha256(path.read_bytes()).hexdigest()


def _files(folder):
  return sorted(path for path in folder.rglob('*') if path.is_file())


def _crashed(folder, at=8):
  with pytest.raises(Crash):
    _fit(folder, hooks={at: _crash}, task=_task({}))


def test_a_power_loss_takes_nothing_that_a_resume_needs(tmp_path, disk, whole):
  _crashed(tmp_path)
  lost = [
    path
    for path in _files(tmp_path)
    if disk.get(path.stat().st_ino) != _sha256(path)
  ]
  for path in lost:
    path.write_bytes(b'')
  assert {path.name for path in lost} <= {
    'metrics.jsonl',  # what came after the last checkpoint
    # Orbax's own notes, which nothing here reads.
    'commit_success.txt',
    '_CHECKPOINT_METADATA',
  }
  fitted = _fit(tmp_path, task=_task({}))
  assert state_sha256(fitted.state) == state_sha256(whole[1].state)
  assert fitted.metrics == whole[1].metrics


def test_lines_until_a_checkpoint_are_on_disk_before_it(tmp_path, disk, whole):
  _crashed(tmp_path)
  path = tmp_path / 'metrics.jsonl'
  synced = [
    size
    for size in range(len(path.read_bytes()) + 1)
    if hashlib.sha256(path.read_bytes()[:size]).hexdigest()
    == disk[path.stat().st_ino]
  ]
  path.write_bytes(path.read_bytes()[: synced[0]])
  assert _fit(tmp_path, task=_task({})).metrics == whole[1].metrics
  assert _lines(tmp_path) == _lines(whole[0])


def test_a_damaged_newest_checkpoint_is_set_aside_and_named(
  tmp_path, whole, capsys
):
  _crashed(tmp_path)
  newest = max(_saved(tmp_path))
  for path in _files(tmp_path / 'checkpoints' / str(newest)):
    path.write_bytes(path.read_bytes()[:-1])
  fitted = _fit(tmp_path, task=_task({}))
  assert state_sha256(fitted.state) == state_sha256(whole[1].state)
  said = capsys.readouterr().err
  assert f'checkpoints/{newest} is damaged' in said
  older = max(step for step in (0, 3, 6) if step < newest)
  assert f'lies in {tmp_path}/damaged/{newest} now; step {older} is' in said
  assert (tmp_path / 'damaged' / str(newest)).is_dir()


def test_without_a_whole_checkpoint_nothing_begins_anew(tmp_path):
  _crashed(tmp_path)
  for step in _saved(tmp_path):
    for path in _files(tmp_path / 'checkpoints' / str(step)):
      path.write_bytes(b'')
  with pytest.raises(InputError, match='no whole checkpoint left'):
    _fit(tmp_path, task=_task({}))


def test_a_reader_leaves_what_a_writer_is_writing(tmp_path):
  folder = tmp_path / 'checkpoints'
  folder.mkdir()
  kept = checkpoint.Checkpoints(folder, checkpoint.Policy())
  state = {'params': {'w': np.ones(8, np.float32)}}
  kept.save(state, 1, {})
  kept.close()
  half = folder / '2.orbax-checkpoint-tmp'
  half.mkdir()
  (half / 'state').write_bytes(b'half')
  checkpoint.read(folder, mesh.make(devices=jax.devices()[:1]))
  assert (half / 'state').read_bytes() == b'half'


def test_a_flipped_bit_of_a_run_is_noticed_or_changes_nothing(
  tmp_path, whole, capsys
):
  """FLIPS=200 in the environment: so many, over all files of the run."""
  begun, flips = tmp_path / 'begun', int(os.environ.get('FLIPS', '0'))
  _crashed(begun)
  newest = begun / 'checkpoints' / str(max(_saved(begun)))
  files = _files(begun if flips else newest)
  files = [path for path in files if path.stat().st_size]
  if not flips:
    files, flips = [begun / 'metrics.jsonl', *files[::3]], 8
  draw = np.random.default_rng(0)
  found = {'noticed': 0, 'harmless': 0}
  for i in range(flips):
    folder = tmp_path / str(i)
    shutil.copytree(begun, folder)
    path = folder / files[i % len(files)].relative_to(begun)
    data = bytearray(path.read_bytes())
    data[draw.integers(len(data))] ^= 1 << draw.integers(8)
    path.write_bytes(data)
    capsys.readouterr()
    fitted = _fit(folder, task=_task({}))
    said = capsys.readouterr().err
    if 'damaged' in said or 'cannot be read' in said or 'not what' in said:
      found['noticed'] += 1
    else:
      assert _lines(folder) == _lines(whole[0]), path
      found['harmless'] += 1
    assert state_sha256(fitted.state) == state_sha256(whole[1].state), path
    shutil.rmtree(folder)
  print(found)
  assert found['noticed'] > 0
