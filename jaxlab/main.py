"""The door: flags -> config -> program -> stages.

  python -m jaxlab.main --config=configs/bert_lamb.py
  python -m jaxlab.main --config=configs/bert_lamb.py:smoke
  python -m jaxlab.main --config=… --config.train.steps=2000 --workdir=runs/x
  python -m jaxlab.main --config=… --plan=v3:32x32,v4:8x8x16
  python -m jaxlab.main --config=… --coordinator=HOST:PORT --num_processes=2 \
    --process_id=0                              # and so on, one on each host

  python -m jaxlab.main bert_lamb:smoke         # the same by its name
  python -m jaxlab.main --config=… --workdir=runs/x --eval \
    --config.ood.epsilons='(.1,)'               # judge again, train nothing
  python -m jaxlab.main --help                  # what there is
  python -m jaxlab.main --help --config=bert_lamb   # its keys

Exit codes: 0 done; 1 a plan does not fit; 2 bad input; 3 loss or gradients
not finite; 75 stopped by a signal with everything saved, 76 another process
of the run is lost or did not arrive, 134 JAX says so: run the same command
again; 130 stopped at once by a second Ctrl-C.
"""

import difflib
import errno
import importlib
import logging
import os
import re
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags

from jaxlab import extras
from jaxlab.core.errors import (
  DoesNotFitError,
  HostLostError,
  InputError,
  NonFiniteError,
  OtherStopped,
  Preempted,
  printable,
)
from jaxlab.engine import hosts, preemption
from jaxlab.runs import configs, listing, workdir

_STOPS = (
  *(InputError, NonFiniteError, Preempted, HostLostError, OtherStopped),
  DoesNotFitError,
)
_DISK = {
  errno.ENOSPC: 'free space',
  errno.EDQUOT: 'free space in your quota',
  errno.EROFS: 'choose a folder that can be written',
  errno.EACCES: 'choose a folder that can be written',
}


def main(argv: Sequence[str]) -> int:
  """Runs one config; returns the exit code."""
  try:
    with preemption.handled():
      _run(argv)
  except _STOPS as error:
    print(f'{hosts.label()}: {printable(error)}', file=sys.stderr)
    return error.exit_code
  except OSError as error:
    if error.errno not in _DISK:
      raise
    print(
      f'{hosts.label()}: {printable(error.filename or "a file")}: '
      f'{error.strerror}; '
      f'{_DISK[error.errno]} and run the same command again',
      file=sys.stderr,
    )
    return InputError.exit_code
  except Exception as error:
    if not (line := extras.cure(error) or _exhausted(error)):
      raise
    print(f'{hosts.label()}: {line}', file=sys.stderr)
    return InputError.exit_code
  return 0


def _exhausted(error: Exception) -> str:
  """What was too small, memory or a disk, and what helps; '' where neither."""
  text = str(error)
  said = printable(' '.join(text.split())[:400])
  if isinstance(error, MemoryError) or 'Out of memory' in text:
    return (
      f'{said}; take a smaller config.data.batch_size (or, where the config '
      'has them, more micro_batches), or more devices'
    )
  if 'RESOURCE_EXHAUSTED' in text or 'No space left on device' in text:
    return f'{said}; free space and run the same command again'
  return ''


def _run(argv: Sequence[str]) -> None:
  values, name = parse(argv)
  config = _measured(values.config.to_dict(), values.offline)
  if re.match(r'\w+://', values.workdir):
    raise InputError(
      f'--workdir={values.workdir} is not a folder of this machine; take one, '
      'such as a mounted bucket (gcsfuse), and copy it when the run is done'
    )
  folder = Path(values.workdir or f'runs/{name}')
  if values.plan:
    _plan(argv, values, config, Path(values.workdir or f'runs/plan-{name}'))
    return
  command = [config, name, values.offline, values.eval]
  _quiet()
  with (
    hosts.joined(_place(values), command, values.host_timeout),
    workdir.claimed(folder, config),
  ):
    # JAX and the libraries on it are loaded only now, so that a mistyped flag
    # is answered at once.
    from jaxlab.engine import mesh
    from jaxlab.runs import stage

    mesh.start(values.cpu_devices)
    stages = program_of(config)
    devices = mesh.make(config['mesh'])
    mesh.connect(devices)
    space = stage.Workspace(
      dir=folder,
      config=config,
      mesh=devices,
      seed=config['seed'],
      offline=values.offline,
      profile=_window(values.profile),
      command=argv[1:],
    )
    stage.run_all(stages, space, trains=not values.eval)


def _place(values) -> hosts.Place:
  """Where this process stands: from flags, environment, or the cluster."""
  if not values.distributed:
    return hosts.place(
      values.coordinator, values.num_processes, values.process_id
    )
  from jaxlab.engine import mesh

  return mesh.detected(values.host_timeout)


def _measured(config: dict[str, Any], offline: bool) -> dict[str, Any]:
  """The config; where it says so, with figures of its data filled in."""
  if not config.get('data', {}).get('measure'):
    return config
  module = _module(config['paper'], config.get('job', 'task'))
  if not hasattr(module, 'measure'):
    raise InputError(
      f'config.data.measure is True, and {module.__name__} measures nothing'
    )
  return module.measure(config, offline)


def program_of(config: dict[str, Any]):
  """The stages of a config.

  Raises:
    InputError: a value that cannot be; nothing has been computed yet.
  """
  module = _module(config['paper'], config.get('job', 'task'))
  try:
    return module.program(config)
  except InputError:
    raise
  except (ValueError, TypeError) as error:
    raise InputError(f'config: {error}') from error


def predict_of(paper: str, job: str):
  """The function `predict(model, inputs)` of a job.

  Raises:
    InputError: there is no such job, or its networks answer nothing.
  """
  module = _module(paper, job)
  if not hasattr(module, 'predict'):
    raise InputError(f'the job {job} of the paper {paper} predicts nothing')
  return module.predict


def _plan(argv, values, config, folder: Path) -> None:
  """All topologies, each in a process of its own; or, in such a process, one.

  The parent loads no libtpu: one process at a time can hold it.
  """
  os.environ['JAX_PLATFORMS'] = 'cpu'
  from jaxlab.engine import mesh
  from jaxlab.planning import plan, topology
  from jaxlab.runs import stage

  _quiet()
  folder.mkdir(parents=True, exist_ok=True)
  names = [name for name in values.plan.split(',') if name]
  if not values.plan_child:
    plan.in_processes(argv, names, folder, config.get('paper_reported', {}))
    return
  place = topology.describe(names[0], values.plan_slices)
  space = stage.Workspace(
    dir=folder,
    config=config,
    mesh=mesh.make(config['mesh'], place.devices),
    seed=config['seed'],
    offline=True,
  )
  workdir.write_json(
    Path(values.plan_child), plan.as_json(program_of(config), space, place)
  )


def parse(argv: Sequence[str]) -> tuple[Any, str]:
  """Flags of one command line, and the config's name.

  Returns:
    An absl FlagValues with config, workdir, offline, profile, cpu_devices;
    'bert_lamb' for configs/bert_lamb.py, 'bert_lamb-smoke' for …:smoke.

  Raises:
    InputError: an unknown flag or config key, or a value of the wrong type.
  """
  given, rest = _take_config(argv)
  path, _, argument = given.partition(':')
  values = flags.FlagValues()
  flags.DEFINE_string(
    'workdir', '', 'Folder of the run; default runs/NAME.', flag_values=values
  )
  flags.DEFINE_bool(
    'offline', False, 'Open no socket; use what is here.', flag_values=values
  )
  flags.DEFINE_bool(
    'eval',
    False,
    'Train nothing: judge what is trained, by the keys given now.',
    flag_values=values,
  )
  flags.DEFINE_string(
    'profile', '', 'START:STOP steps to trace for xprof.', flag_values=values
  )
  flags.DEFINE_integer(
    'cpu_devices', 0, 'CPU devices to pretend to have.', flag_values=values
  )
  _define_place(values)
  flags.DEFINE_string(
    'plan',
    '',
    'Compile for these TPU topologies, such as v3:32x32,v4:8x8x16, say what '
    'fits and how long it takes, and run nothing.',
    flag_values=values,
  )
  flags.DEFINE_integer(
    'plan_slices', 1, 'How many such slices.', flag_values=values
  )
  flags.DEFINE_string(
    'plan_child', '', 'For --plan itself: where to write.', flag_values=values
  )
  if '--version' in rest:
    print(listing.version())
    raise SystemExit(0)
  if {'--help', '-h', '-help'} & set(rest):
    print(f'{__doc__}\n{values.get_help()}\n')
    if given:
      config = configs.load(path, argument)
      print(listing.keys(configs.found(path), config))
    else:
      print(listing.configs())
    raise SystemExit(0)
  if not given:
    raise InputError(
      f'--config is missing; for example --config={listing.example()}'
    )
  config = configs.load(path, argument)
  _check_keys(rest, workdir.flatten(config.to_dict()))
  try:
    config_flags.DEFINE_config_dict(
      'config', config, flag_values=values, sys_argv=rest
    )
    extra = values(rest)
  except (flags.Error, TypeError, ValueError) as error:
    raise InputError(' '.join(str(error).split())) from error
  if len(extra) > 1:
    raise InputError(
      f'unexpected argument "{extra[1]}"; options look like '
      '--config.train.steps=100'
    )
  stem = Path(path).stem
  return values, f'{stem}-{argument}' if argument else stem


def _define_place(values) -> None:
  flags.DEFINE_string(
    'coordinator',
    '',
    'HOST:PORT at which process 0 listens for the others of this run; or '
    'JAXLAB_COORDINATOR in the environment, and so for the next two.',
    flag_values=values,
  )
  flags.DEFINE_integer(
    'num_processes', None, 'How many processes run.', flag_values=values
  )
  flags.DEFINE_integer(
    'process_id', None, 'Which one this is, from 0.', flag_values=values
  )
  flags.DEFINE_bool(
    'distributed',
    False,
    'Take these three from Cloud TPU, GKE, Slurm or Open MPI.',
    flag_values=values,
  )
  flags.DEFINE_float(
    'host_timeout',
    60.0,
    'Seconds to wait for a process to arrive, and of silence from one.',
    flag_values=values,
  )


def _take_config(argv: Sequence[str]) -> tuple[str, list[str]]:
  """The value of --config, and the other arguments."""
  given, rest = '', []
  items = iter(argv)
  for item in items:
    match = re.fullmatch(r'--?config(?:=(.*))?', item)
    if not match:
      rest.append(item)
    elif match[1] is not None:
      given = match[1]
    else:
      given = next(items, '')
  if not given and len(rest) > 1 and not rest[1].startswith('-'):
    given = rest.pop(1)
  return given, rest


def _check_keys(rest: Sequence[str], known: dict[str, Any]) -> None:
  for item in rest:
    match = re.match(r'--?config\.([^=]+)', item)
    if match and match[1] not in known:
      near = difflib.get_close_matches(match[1], known, 1, 0.5)
      hint = (
        f'did you mean config.{near[0]}?'
        if near
        else (f'known: {", ".join(known)}')
      )
      raise InputError(f'unknown config key in "{item}"; {hint}')


def _module(paper: str, job: str):
  """The module of a paper's job.

  `paper` is the name of a package in jaxlab/papers, or the dotted path of
  another one. Only this module is loaded: some jobs need libraries that others
  do not.
  """
  if '.' in paper:
    try:
      return importlib.import_module(f'{paper}.{job}')
    except ModuleNotFoundError as error:
      if not f'{paper}.{job}'.startswith(str(error.name)):
        raise
      raise InputError(
        f'config.paper = "{paper}": there is no module {error.name}; run in '
        'the folder that has it, or put it on PYTHONPATH'
      ) from error
  jobs: dict[str, list[str]] = {}
  for path in (Path(__file__).parent / 'papers').glob('*/*.py'):
    if re.search(r'^def program\(', path.read_text(), re.MULTILINE):
      jobs.setdefault(path.parent.name, []).append(path.stem)
  for name, value, known in (
    ('paper', paper, sorted(jobs)),
    ('job', job, sorted(jobs.get(paper, []))),
  ):
    if value not in known:
      raise InputError(
        f'config.{name} = "{value}" is not one of {", ".join(known)}'
      )
  return importlib.import_module(f'jaxlab.papers.{paper}.{job}')


def _window(text: str) -> tuple[int, int] | None:
  if not text:
    return None
  match = re.fullmatch(r'(\d+):(\d+)', text)
  if not match or int(match[1]) >= int(match[2]):
    raise InputError(
      f'--profile={text} is not START:STOP with START < STOP, such as 10:20'
    )
  return int(match[1]), int(match[2])


def _quiet() -> None:
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
  for name in ('absl', 'jax', 'orbax'):
    logging.getLogger(name).setLevel(logging.ERROR)


if __name__ == '__main__':
  try:
    code = main(sys.argv)
  except Exception:
    traceback.print_exc()
    code = 1
  sys.stdout.flush()
  sys.stderr.flush()
  if code:
    # Not sys.exit: threads of a failed read or write may still be at work, and
    # would print over the message while the interpreter is taken down.
    os._exit(code)
