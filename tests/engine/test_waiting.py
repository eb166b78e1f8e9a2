"""A batch that does not arrive, and workers that die, while a fit waits."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from jaxlab.core.errors import Preempted, WorkerLostError
from jaxlab.engine import feed, loop, preemption
from jaxlab.engine.feed import Feed
from tests.engine import toys
from tests.engine.test_loop import _fit, _one_device, _saved, _task


class Blocked(toys.Rows):
  """A dead disk: batch 5 comes when the test is over."""

  def __init__(self):
    super().__init__()
    self.over, self.asked = threading.Event(), threading.Event()

  def batch(self, step, rows):
    if step == 5:
      self.asked.set()
      self.over.wait(60)
    return super().batch(step, rows)


@pytest.fixture(autouse=True)
def soon(monkeypatch):
  monkeypatch.setattr(feed, '_LOOK', 0.05)
  monkeypatch.setattr(feed, '_PATIENCE', 0.2)


def fit(source, folder, **options):
  toy = _task()
  return loop.fit(
    'train',
    toy.task,
    loop.Inputs(Feed(source, _one_device(), **options), {}, {}),
    loop.Options(steps=10, checkpoint_every_seconds=0.0),
    folder,
    _one_device(),
    seed=0,
  )


@pytest.mark.parametrize('ahead', [1, 4])
def test_a_signal_ends_the_wait_for_a_batch_and_saves(tmp_path, ahead):
  source = Blocked()

  def signalled():
    source.asked.wait(60)
    os.kill(os.getpid(), signal.SIGTERM)

  thread = threading.Thread(target=signalled)
  began = time.monotonic()
  try:
    with preemption.handled(), pytest.raises(Preempted, match='saved step'):
      thread.start()
      fit(source, tmp_path, ahead=ahead)
  finally:
    source.over.set()
    thread.join()
  assert time.monotonic() - began < 50
  assert max(_saved(tmp_path)) <= 5
  if ahead == 1:  # the fit itself waits for batch 5
    assert max(_saved(tmp_path)) == 5


def test_a_slow_batch_is_waited_for_without_a_signal(tmp_path):
  source = Blocked()
  threading.Timer(1.0, source.over.set).start()
  assert _fit(tmp_path, source=source).steps == 10


class Dying(toys.Rows):
  """Its process is killed in batch 5, as for memory."""

  def batch(self, step, rows):
    if step == 5:
      os.kill(os.getpid(), signal.SIGKILL)
    return super().batch(step, rows)


def test_a_killed_worker_leaves_a_run_to_go_on_with(tmp_path):
  with pytest.raises(WorkerLostError, match='run the same command again'):
    fit(Dying(), tmp_path, workers=1)
  saved = max(_saved(tmp_path))
  assert saved > 0
  assert _fit(tmp_path).steps == 10


_TWICE = """
import os, signal, time
from jaxlab.engine import preemption
with preemption.handled(), preemption.deferred():
  os.kill(os.getpid(), signal.SIGINT)
  time.sleep(.01)
  print(preemption.asked(), flush=True)
  os.kill(os.getpid(), signal.SIGINT)
  time.sleep(30)
"""


def test_a_second_ctrl_c_ends_at_once():
  done = subprocess.run(
    [sys.executable, '-c', _TWICE], capture_output=True, text=True, check=False
  )
  assert (done.returncode, done.stdout) == (130, 'True\n')
  assert 'stopped at once' in done.stderr
