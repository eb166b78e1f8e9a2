"""The main job, killed with SIGKILL at random moments, and asked to stop.

Evaluations take about as long as steps here, so that random moments fall into
both; every third kill waits for a save to be under way.
"""

import functools
import json
import random
import signal
import time

import pytest

from tests import runs

FLAGS = [
  f'--config={runs.ROOT}/configs/bert_lamb.py:smoke',
  '--config.data.vocab_size=512',
  '--config.data.sequence_length=32',
  '--config.data.eval_examples=128',
  '--config.model.hidden_size=32',
  '--config.model.intermediate_size=64',
  '--config.model.dropout_rate=0.1',
  '--config.data.batch_size=32',
  '--config.train.log_every_steps=7',
  '--config.train.eval_every_steps=4',
  '--config.train.checkpoint_every_seconds=0.1',
]


@pytest.fixture(scope='module')
def environment(tmp_path_factory):
  """One data folder; one device."""
  return runs.environment_of(tmp_path_factory.mktemp('shared'))


def start(folder, environment, steps):
  flags = [*FLAGS, f'--config.train.steps={steps}']
  return runs.start(folder, environment, *flags)


def outcome(folder):
  return runs.outcome(folder / 'pretrain')


@pytest.fixture(scope='module')
def uninterrupted(tmp_path_factory, environment):
  """Steps -> the outcome of a run that nothing stopped."""

  @functools.cache
  def run(steps):
    folder = tmp_path_factory.mktemp('whole') / 'run'
    process = start(folder, environment, steps)
    message = process.communicate(timeout=300)[1]
    assert process.returncode == 0, message
    return outcome(folder)

  return run


def saving(folder):
  """Whether a checkpoint is, or was when it was killed, half written."""
  return any((folder / 'pretrain' / 'checkpoints').glob('*tmp*'))


def killed_at_random(folder, environment, steps, kills, draw):
  """Runs to the end with `kills` kills; returns what they interrupted."""
  moments = {'save': 0, 'step or evaluation': 0}
  done = 0
  while done < kills:
    process = start(folder, environment, steps)
    assert runs.until(process, 'examples/s'), 'ended before all the kills'
    time.sleep(draw.uniform(0, 0.4))
    while done % 3 == 0 and process.poll() is None and not saving(folder):
      pass
    process.send_signal(signal.SIGKILL)
    if process.wait(60) == 0:
      pytest.fail('ended before it could be killed; raise train.steps')
    moments['save' if saving(folder) else 'step or evaluation'] += 1
    done += 1
  process = start(folder, environment, steps)
  message = process.communicate(timeout=300)[1]
  assert process.returncode == 0, message
  return moments


def test_killed_three_times_ends_as_uninterrupted(
  tmp_path, environment, uninterrupted
):
  draw = random.Random(0)
  killed_at_random(tmp_path / 'run', environment, 90, 3, draw)
  assert outcome(tmp_path / 'run') == uninterrupted(90)


@pytest.mark.slow
def test_killed_ten_times_ends_as_uninterrupted(
  tmp_path, environment, uninterrupted
):
  draw = random.Random(1)
  moments = killed_at_random(tmp_path / 'run', environment, 300, 10, draw)
  print('killed during', moments)
  assert outcome(tmp_path / 'run') == uninterrupted(300)


@pytest.mark.slow
def test_sigterm_exits_75_and_loses_no_finished_step(
  tmp_path, environment, uninterrupted
):
  folder = tmp_path / 'run'
  process = start(folder, environment, 120)
  assert runs.until(process, 'examples/s')
  time.sleep(1.0)
  process.send_signal(signal.SIGTERM)
  message = process.communicate(timeout=60)[1]
  assert process.returncode == 75, message
  saved = runs.saved_steps(folder / 'pretrain')[-1]
  assert f'saved step {saved}' in message
  lines = (folder / 'pretrain' / 'metrics.jsonl').read_text().splitlines()
  assert all(json.loads(line)['step'] <= saved for line in lines)
  process = start(folder, environment, 120)
  message = process.communicate(timeout=300)[1]
  assert process.returncode == 0, message
  assert f'going on from step {saved}' in message
  assert outcome(folder) == uninterrupted(120)
