"""The main job, killed with SIGKILL at random moments, and asked to stop.

Evaluations take about as long as steps here, so that random moments fall into
both; every third kill waits for a save to be under way.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jaxlab.engine.metrics import TIME_FIELDS

ROOT = Path(__file__).parents[1]
COMMAND = [
  sys.executable,
  '-m',
  'jaxlab.main',
  f'--config={ROOT}/configs/bert_lamb.py:smoke',
  '--config.data.vocab_size=512',
  '--config.data.sequence_length=32',
  '--config.data.eval_examples=128',
  '--config.model.hidden_size=32',
  '--config.model.intermediate_size=64',
  '--config.model.dropout_rate=0.1',
  '--config.train.batch_size=32',
  '--config.train.steps=400',
  '--config.train.log_every_steps=7',
  '--config.train.eval_every_steps=4',
  '--config.train.checkpoint_every_seconds=0.1',
]


@pytest.fixture(scope='module')
def environment(tmp_path_factory):
  """One data folder; one device."""
  folder = tmp_path_factory.mktemp('shared')
  return {
    **{k: v for k, v in os.environ.items() if k != 'XLA_FLAGS'},
    'JAXLAB_DATA_DIR': str(folder / 'data'),
  }


def start(folder, environment):
  return subprocess.Popen(
    [*COMMAND, f'--workdir={folder}'],
    env=environment,
    cwd=ROOT,
    stderr=subprocess.PIPE,
    text=True,
  )


def outcome(folder):
  """state_sha256 and the metrics lines without their times."""
  report = json.loads((folder / 'pretrain' / 'report.json').read_text())
  lines = (folder / 'pretrain' / 'metrics.jsonl').read_text().splitlines()
  kept = [
    {k: v for k, v in json.loads(line).items() if k not in TIME_FIELDS}
    for line in lines
  ]
  metrics = report['metrics']
  return report['state_sha256'], metrics, kept


@pytest.fixture(scope='module')
def uninterrupted(tmp_path_factory, environment):
  folder = tmp_path_factory.mktemp('whole') / 'run'
  process = start(folder, environment)
  assert process.wait(300) == 0, process.stderr.read()
  return outcome(folder)


def until_training(process):
  """Returns when the process has begun to train; False if it has ended."""
  return any('compiling the train' in line for line in process.stderr)


def saving(folder):
  """Whether a checkpoint is, or was when it was killed, half written."""
  return any((folder / 'pretrain' / 'checkpoints').glob('*tmp*'))


def killed_at_random(folder, environment, kills, draw):
  """Runs to the end with `kills` kills; returns what they interrupted."""
  moments = {'save': 0, 'step or evaluation': 0}
  done = 0
  while done < kills:
    process = start(folder, environment)
    assert until_training(process), 'ended before all the kills'
    time.sleep(draw.uniform(0.1, 0.8))
    while done % 3 == 0 and process.poll() is None and not saving(folder):
      pass
    process.send_signal(signal.SIGKILL)
    if process.wait(60) == 0:
      pytest.fail('ended before it could be killed; raise train.steps')
    moments['save' if saving(folder) else 'step or evaluation'] += 1
    done += 1
  process = start(folder, environment)
  message = process.communicate(timeout=300)[1]
  assert process.returncode == 0, message
  return moments


def test_killed_three_times_ends_as_uninterrupted(
  tmp_path, environment, uninterrupted
):
  killed_at_random(tmp_path / 'run', environment, 3, random.Random(0))
  assert outcome(tmp_path / 'run') == uninterrupted


@pytest.mark.slow
def test_killed_ten_times_ends_as_uninterrupted(
  tmp_path, environment, uninterrupted
):
  moments = killed_at_random(
    tmp_path / 'run', environment, 10, random.Random(1)
  )
  print('killed during', moments)
  assert outcome(tmp_path / 'run') == uninterrupted


def test_sigterm_exits_75_and_loses_no_finished_step(
  tmp_path, environment, uninterrupted
):
  folder = tmp_path / 'run'
  process = start(folder, environment)
  assert until_training(process)
  time.sleep(1.0)
  process.send_signal(signal.SIGTERM)
  message = process.communicate(timeout=60)[1]
  assert process.returncode == 75, message
  saved = [
    int(path.name)
    for path in (folder / 'pretrain' / 'checkpoints').iterdir()
    if path.name.isdigit()
  ]
  assert f'saved step {max(saved)}' in message
  lines = (folder / 'pretrain' / 'metrics.jsonl').read_text().splitlines()
  assert all(json.loads(line)['step'] <= max(saved) for line in lines)
  process = start(folder, environment)
  message = process.communicate(timeout=300)[1]
  assert process.returncode == 0, message
  assert f'going on from step {max(saved)}' in message
  assert outcome(folder) == uninterrupted
