"""The program in forked processes, which stop themselves at a given step.

Loading JAX and the libraries on it costs several seconds of CPU; one process
does it, and every program begins as a fork of that one, which has not started
JAX's backend yet. So a program still chooses its own devices.
"""

import multiprocessing
import os
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import NamedTuple

from tests import runs

_SERVER = multiprocessing.get_context('forkserver')
_SERVER.set_forkserver_preload(['tests.preloaded'])
_LIMIT = 600  # seconds


class Stop(NamedTuple):
  """A signal that a program sends itself when it has logged a step."""

  number: signal.Signals
  stage: str
  step: int  # of a line of training in metrics.jsonl


class Snapshot(NamedTuple):
  """A copy of the workdir at a step, as a SIGKILL then would leave it."""

  to: Path
  stage: str
  step: int  # of a line of training in metrics.jsonl


class Ended(NamedTuple):
  """What is left of a program."""

  code: int  # the exit code; -9 after SIGKILL
  said: str  # on stdout and stderr


def run(
  flags,
  folder: Path,
  data: Path,
  stop: Stop | Snapshot | None = None,
  draws: bool = True,
) -> Ended:
  """`python -m jaxlab.main` with some flags, on one CPU device.

  Args:
    folder: the workdir.
    data: JAXLAB_DATA_DIR.
    draws: False: figures are empty, which saves time.
  """
  said = folder.with_suffix('.said')
  said.touch()
  environment = {**runs.one_device(), 'JAXLAB_DATA_DIR': str(data)}
  argv = ['jaxlab', *flags, f'--workdir={folder}']
  process = _SERVER.Process(
    target=_program, args=(argv, environment, said, stop, draws)
  )
  process.start()
  process.join(_LIMIT)
  if process.exitcode is None:
    process.kill()
    raise TimeoutError(f'no end after {_LIMIT} s; it said: {said.read_text()}')
  return Ended(process.exitcode, said.read_text())


def _program(argv, environment, said, stop, draws):
  os.environ.update(environment)
  with open(said, 'w') as file:
    os.dup2(file.fileno(), 1)
    os.dup2(file.fileno(), 2)
  from jaxlab import main

  try:
    if stop:
      _arm(stop)
    if not draws:
      _blank()
    code = main.main(argv)
  except Exception:
    traceback.print_exc()
    code = 1
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(code)


def _blank() -> None:
  """Has figures written without anything in them."""
  from jaxlab.runs import sections

  write = sections.write_drawing
  small = lambda path, draw, size, layout='': write(
    path, lambda figure: None, (0.1, 0.1), ''
  )
  sections.write_drawing = small


def _copy(folder: Path, to: Path) -> None:
  """A folder that others write to: what vanishes meanwhile is left out."""
  for path in sorted(folder.rglob('*')):
    target = to / path.relative_to(folder)
    try:
      if path.is_dir():
        target.mkdir(parents=True, exist_ok=True)
      else:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)
    except FileNotFoundError:
      continue


def _arm(stop: Stop | Snapshot) -> None:
  """Has the log send the signal, or copy the workdir, right after the line of
  that step."""
  from jaxlab.engine import metrics

  write = metrics.Log.write

  def write_and_stop(self, step, kind, values):
    write(self, step, kind, values)
    stage = self.path.parent
    if (stage.name, step) != (stop.stage, stop.step) or kind == 'eval':
      return
    deadline = time.monotonic() + 60
    # Until a checkpoint after step 0 is whole.
    while not any(runs.saved_steps(stage)) and time.monotonic() < deadline:
      time.sleep(0.005)
    if isinstance(stop, Snapshot):
      _copy(stage.parent, stop.to)
    else:
      os.kill(os.getpid(), stop.number)

  metrics.Log.write = write_and_stop
