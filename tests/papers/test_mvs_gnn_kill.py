"""A study of MVS, killed with SIGKILL between refreshes."""

import signal
import time

from tests import runs

EVERY = 7  # steps from one refresh to the next
CONFIG = f"""
from configs import mvs_gnn


def get_config(arg=''):
  config = mvs_gnn.get_config('smoke')
  config.study.baseline = 'mvs'
  config.study.rates = (0.01,)
  config.model.width = 8
  config.refresh.every = {EVERY}
  config.refresh.share = 0.1
  config.refresh.publish_every = 2
  config.variance.draws = 0
  config.train.steps = 200
  config.train.log_every_steps = 10
  config.train.eval_every_steps = 100
  config.train.checkpoint_every_seconds = 0.1
  config.early_stopping.patience = 0
  return config
"""


def between_refreshes(step: int) -> bool:
  return step % EVERY not in (0, 1)


def kill_after_a_save(process, stage) -> int:
  """Kills it when a step between refreshes is saved; returns the last saved."""
  while process.poll() is None:
    saved = runs.saved_steps(stage)
    if saved and saved[-1] > EVERY and between_refreshes(saved[-1]):
      process.send_signal(signal.SIGKILL)
      process.wait(60)
      return runs.saved_steps(stage)[-1]
    time.sleep(0.001)
  raise AssertionError('ended before it could be killed; raise train.steps')


def test_killed_between_refreshes_ends_as_uninterrupted(tmp_path):
  config = tmp_path / 'study.py'
  config.write_text(CONFIG)
  flags = [f'--config={config}', '--offline']
  environment = runs.environment_of(tmp_path)
  whole = runs.start(tmp_path / 'whole', environment, *flags)
  message = whole.communicate(timeout=300)[1]
  assert whole.returncode == 0, message
  stage = tmp_path / 'killed' / 'mvs-s0'
  process = runs.start(tmp_path / 'killed', environment, *flags)
  assert runs.until(process, 'compiling the train')
  saved = kill_after_a_save(process, stage)
  assert between_refreshes(saved)
  last = runs.start(tmp_path / 'killed', environment, *flags)
  message = last.communicate(timeout=300)[1]
  assert last.returncode == 0, message
  assert f'going on from step {saved}' in message
  assert runs.outcome(stage) == runs.outcome(tmp_path / 'whole' / 'mvs-s0')
