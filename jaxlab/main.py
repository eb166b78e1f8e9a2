"""The door: flags -> config -> program -> stages.

  python -m jaxlab.main --config=configs/bert_lamb.py
  python -m jaxlab.main --config=configs/bert_lamb.py:smoke
  python -m jaxlab.main --config=… --config.train.steps=2000 --workdir=runs/x

Exit codes: 0 done; 2 bad input; 3 loss or gradients not finite; 75 stopped by
a signal with everything saved: run the same command again.
"""

import difflib
import errno
import importlib
import logging
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags

from jaxlab.engine import preemption, workdir
from jaxlab.engine.errors import InputError, NonFiniteError, Preempted

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
  except (InputError, NonFiniteError, Preempted) as error:
    print(f'jaxlab: {error}', file=sys.stderr)
    return error.exit_code
  except OSError as error:
    if error.errno not in _DISK:
      raise
    print(
      f'jaxlab: {error.filename or "a file"}: {error.strerror}; '
      f'{_DISK[error.errno]} and run the same command again',
      file=sys.stderr,
    )
    return InputError.exit_code
  return 0


def _run(argv: Sequence[str]) -> None:
  values, name = parse(argv)
  config = values.config.to_dict()
  folder = Path(values.workdir or f'runs/{name}')
  with workdir.claimed(folder, config):
    # JAX and the libraries on it are loaded only now, so that a mistyped flag
    # is answered at once.
    from jaxlab.engine import mesh, stage

    _quiet()
    mesh.start(values.cpu_devices)
    program = _program(config['paper'])
    try:
      stages = program(config)
    except InputError:
      raise
    except (ValueError, TypeError) as error:
      raise InputError(f'config: {error}') from error
    space = stage.Workspace(
      dir=folder,
      config=config,
      mesh=mesh.make(config['mesh']),
      seed=config['seed'],
      offline=values.offline,
      profile=_window(values.profile),
    )
    stage.run_all(stages, space)


def parse(argv: Sequence[str]) -> tuple[Any, str]:
  """Flags of one command line, and the config's name.

  Returns:
    An absl FlagValues with config, workdir, offline, profile, cpu_devices;
    'bert_lamb' for configs/bert_lamb.py, 'bert_lamb-smoke' for …:smoke.

  Raises:
    InputError: an unknown flag or config key, or a value of the wrong type.
  """
  values = flags.FlagValues()
  config_flags.DEFINE_config_file(
    'config', None, 'Config file, FILE.py or FILE.py:ARG.', flag_values=values
  )
  flags.DEFINE_string(
    'workdir', '', 'Folder of the run; default runs/NAME.', flag_values=values
  )
  flags.DEFINE_bool(
    'offline', False, 'Open no socket; use what is here.', flag_values=values
  )
  flags.DEFINE_string(
    'profile', '', 'START:STOP steps to trace for xprof.', flag_values=values
  )
  flags.DEFINE_integer(
    'cpu_devices', 0, 'CPU devices to pretend to have.', flag_values=values
  )
  flags.DEFINE_bool('help', False, 'Print this help.', flag_values=values)
  path, _, argument = _config_of(argv).partition(':')
  try:
    rest = values(list(argv))
  except Exception as error:
    raise InputError(_explained(error, argv, path, argument)) from error
  if values.help:
    print(f'{__doc__}\n{values.main_module_help() or values.get_help()}')
    raise SystemExit(0)
  if len(rest) > 1:
    raise InputError(
      f'unexpected argument "{rest[1]}"; options look like --config.train.'
      'steps=100'
    )
  if values.config is None:
    raise InputError('--config is missing; for example --config=configs/X.py')
  stem = Path(path).stem
  return values, f'{stem}-{argument}' if argument else stem


def _config_of(argv: Sequence[str]) -> str:
  """The value of --config, checked to be a file."""
  found = ''
  for index, argument in enumerate(argv):
    match = re.fullmatch(r'--?config(?:=(.*))?', argument)
    if match:
      found = (
        match[1]
        if match[1] is not None
        else ''.join(argv[index + 1 : index + 2])
      )
  path = Path(found.partition(':')[0])
  if found and not path.is_file():
    near = difflib.get_close_matches(
      path.name, [p.name for p in path.parent.glob('*.py')], 1
    )
    hint = f'; did you mean {path.parent / near[0]}?' if near else ''
    raise InputError(f'config file {path} does not exist{hint}')
  return found


def _explained(error: Exception, argv, path: str, argument: str) -> str:
  """An absl or ml_collections error as one line that names the cure."""
  keys = {
    match[1]: item
    for item in argv
    if (match := re.match(r'--?config\.([\w.\[\]]+)', item))
  }
  known: dict[str, Any] = {}
  if path and keys:
    try:
      config = importlib.machinery.SourceFileLoader('config', path)
      module = importlib.util.module_from_spec(
        importlib.util.spec_from_loader('config', config)
      )
      config.exec_module(module)
      known = workdir.flatten(module.get_config(argument).to_dict())
    except Exception:
      known = {}
  for key, item in keys.items():
    if known and key not in known:
      near = difflib.get_close_matches(key, known, 1, 0.5)
      hint = f'did you mean config.{near[0]}?' if near else 'see the config'
      return f'unknown config key in {item}; {hint}'
  text = ' '.join(str(error).split())
  return text or type(error).__name__


def _program(paper: str):
  try:
    module = importlib.import_module(f'jaxlab.papers.{paper}.task')
  except ModuleNotFoundError as error:
    if not str(error.name).startswith('jaxlab.papers'):
      raise
    folder = Path(__file__).parent / 'papers'
    known = sorted(path.parent.name for path in folder.glob('*/task.py'))
    raise InputError(
      f'config.paper = "{paper}" is not one of {known}'
    ) from error
  return module.program


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
  sys.exit(main(sys.argv))
