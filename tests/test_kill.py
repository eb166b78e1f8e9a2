"""The main job, killed with SIGKILL at random moments.

Evaluations take about as long as steps here, so that random moments fall into
both; every third kill waits for a save to be under way. Kills at chosen steps
of every config: test_conformance.py.
"""

import random
import signal
import time

import pytest

from tests import runs

FLAGS = [
  f'--config={runs.ROOT}/configs/bert_lamb.py:smoke',
  '--config.data.vocab_size=512',
  '--config.data.eval_examples=128',
  '--config.model.hidden_size=32',
  '--config.model.intermediate_size=64',
  '--config.model.dropout_rate=0.1',
  '--config.train.steps=300',
  '--config.data.batch_size=32',
  '--config.train.log_every_steps=7',
  '--config.train.eval_every_steps=4',
  '--config.train.checkpoint_every_seconds=0.1',
]


def saving(folder):
  """Whether a checkpoint is, or was when it was killed, half written."""
  return any((folder / 'pretrain' / 'checkpoints').glob('*tmp*'))


def finish(folder, environment):
  """Runs to the end; the outcome of its training."""
  process = runs.start(folder, environment, *FLAGS)
  message = process.communicate(timeout=300)[1]
  assert process.returncode == 0, message
  return runs.outcome(folder / 'pretrain')


@pytest.mark.slow
def test_killed_ten_times_ends_as_uninterrupted(tmp_path):
  environment = runs.environment_of(tmp_path)
  folder, draw = tmp_path / 'run', random.Random(1)
  moments = {'save': 0, 'step or evaluation': 0}
  for kill in range(10):
    process = runs.start(folder, environment, *FLAGS)
    assert runs.until(process, 'examples/s'), 'ended before all the kills'
    time.sleep(draw.uniform(0, 0.4))
    while kill % 3 == 0 and process.poll() is None and not saving(folder):
      pass
    process.send_signal(signal.SIGKILL)
    if process.wait(60) == 0:
      pytest.fail('ended before it could be killed; raise train.steps')
    moments['save' if saving(folder) else 'step or evaluation'] += 1
  print('killed during', moments)
  assert finish(folder, environment) == finish(tmp_path / 'whole', environment)
