"""One process of a toy run on several: what tests/test_pod.py starts.

  python -m tests.pod_program WORKDIR [--steps=N] [--signal=STEP:PROCESS:NAME]
    [--cpu_devices=K] [--coordinator=… --num_processes=N --process_id=I]
    [--host_timeout=SECONDS] [--tour=layouts|bert]

Goes through the doors that jaxlab.main goes through. WORKDIR/reads-I.jsonl
says which rows process I asked its sources for, WORKDIR/killed when a signal
was sent. --tour looks around instead of training: see `tests.pod_tour`.
"""

import argparse
import contextlib
import json
import os
import signal
import sys
import time
from pathlib import Path

from jaxlab.core.errors import (
  HostLostError,
  InputError,
  OtherStopped,
  Preempted,
)
from jaxlab.engine import hosts, preemption
from jaxlab.runs import workdir


def _arguments():
  parser = argparse.ArgumentParser()
  parser.add_argument('folder', type=Path)
  parser.add_argument('--steps', type=int, default=24)
  parser.add_argument('--signal', default='-1:0:SIGKILL')
  parser.add_argument('--cpu_devices', type=int, default=4)
  parser.add_argument('--coordinator', default='')
  parser.add_argument('--num_processes', type=int)
  parser.add_argument('--process_id', type=int)
  parser.add_argument('--distributed', action='store_true')
  parser.add_argument('--host_timeout', type=float, default=30.0)
  parser.add_argument('--tour')
  return parser.parse_args()


def program(given, space):
  """A stage of training on rows that are recorded, with evaluations."""
  from jaxlab.engine import loop
  from jaxlab.engine.feed import Feed
  from jaxlab.runs import stage
  from tests.engine import toys

  step_of_signal, process, name = given.signal.split(':')

  class Rows(toys.Rows):
    def batch(self, step, rows):
      path = given.folder / f'reads-{hosts.index()}.jsonl'
      with open(path, 'a') as file:
        file.write(json.dumps([step, rows.start, rows.stop]) + '\n')
      return super().batch(step, rows)

  class Signalled(Feed):
    def batches(self, start, stop):
      for item in super().batches(start, stop):
        if item[0] == int(step_of_signal) and hosts.index() == int(process):
          (given.folder / 'killed').write_text(repr(time.time()))
          os.kill(os.getpid(), getattr(signal, name))
        yield item

  def inputs(space):
    held_out = Feed(toys.Rows(), space.mesh, steps=2)
    evals = {'held_out': (toys.mean_error(), held_out)}
    return loop.Inputs(Signalled(Rows(hide=2), space.mesh), evals)

  options = loop.Options(
    steps=given.steps,
    log_every_steps=1,
    eval_every_steps=8,
    checkpoint_every_steps=5,
    checkpoint_every_seconds=0.5,
    checkpoint_keep=1,
  )
  toy = toys.accumulated()
  return [
    stage.training(
      'train',
      options,
      spec=lambda space: toy.source.spec,
      task=lambda space, inputs: toy.task,
      inputs=inputs,
    )
  ]


def run(given) -> None:
  config = {'paper': 'toy', 'train': {'steps': given.steps}}
  here = hosts.place(given.coordinator, given.num_processes, given.process_id)
  if given.distributed:
    from jaxlab.engine import mesh

    here = mesh.detected(given.host_timeout)
  with (
    hosts.joined(here, config, given.host_timeout),
    workdir.claimed(given.folder, config),
  ):
    from jaxlab.engine import mesh
    from jaxlab.runs import stage

    mesh.start(given.cpu_devices)
    if given.tour:
      from tests import pod_tour

      pod_tour.look(given.folder, given.tour)
    else:
      if hosts.leads():
        workdir.write_json(given.folder / 'config.json', config)
      devices = mesh.make()
      mesh.connect(devices)
      space = stage.Workspace(given.folder, config, devices, seed=0)
      stage.run_all(program(given, space), space)


def main() -> int:
  try:
    with preemption.handled():
      run(_arguments())
  except (HostLostError, InputError, OtherStopped, Preempted) as error:
    print(f'{hosts.label()}: {error}', file=sys.stderr)
    return error.exit_code
  return 0


if __name__ == '__main__':
  with contextlib.suppress(KeyboardInterrupt):
    code = main()
    sys.stderr.flush()
    if code:
      os._exit(code)
