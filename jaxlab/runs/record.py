"""run.json: the stages of a run and the command that made it.

For what reads a run without its program: prediction, comparison, model cards.
Imports no JAX.
"""

import json
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxlab.core.errors import InputError
from jaxlab.runs import listing, workdir

FORMAT = 1  # of run.json
FILE = 'run.json'
# Of one place, and no part of what was asked for.
_OF_PLACE = ('workdir', 'coordinator', 'num_processes', 'process_id')


class Run(NamedTuple):
  """A run's folder, as run.json tells of it."""

  folder: Path
  stages: list[str]
  models: list[str]  # the stages that leave a model
  arguments: list[str]  # of the command, without --workdir

  @property
  def command(self) -> str:
    """The command that goes on with it."""
    return self.at(str(self.folder))

  def at(self, folder: str) -> str:
    """The command for a folder; '' for the default one."""
    more = [f'--workdir={folder}'] if folder else []
    return shlex.join(['python', '-m', 'jaxlab.main', *self.arguments, *more])

  def report(self, stage: str) -> dict[str, Any]:
    """The report of a stage; {} of one that is not finished.

    Raises:
      InputError: it cannot be read.
    """
    path = self.folder / stage / 'report.json'
    if not path.is_file():
      return {}
    return _json(path, f'remove it and run {self.command}')

  def unfinished(self) -> list[str]:
    """The stages that are not finished, in their order."""
    return [x for x in self.stages if not self.report(x)]


def note(
  folder: Path, arguments: Sequence[str], stages: Sequence[str], models: list
) -> None:
  """Writes run.json."""
  value = {
    'format': FORMAT,
    'jaxlab': listing.version(),
    'arguments': _kept(arguments),
    'stages': list(stages),
    'models': list(models),
  }
  workdir.write_json(folder / FILE, value)


def _kept(arguments: Sequence[str]) -> list[str]:
  found, items = [], iter(arguments)
  for item in items:
    match = re.fullmatch(rf'--?({"|".join(_OF_PLACE)})(=.*)?', item, re.DOTALL)
    if not match:
      found.append(item)
    elif match[2] is None:
      next(items, '')
  return found


def opened(folder: Path) -> Run:
  """The run in a folder.

  Raises:
    InputError: there is none, or it is of another version.
  """
  path = folder / FILE
  if not path.is_file():
    if (folder / 'config.json').is_file():
      raise InputError(
        f'{folder} is a run of an earlier version, without {FILE}: run the '
        f'command that made it again, with --workdir={folder}; nothing that '
        'is finished is trained again'
      )
    if not folder.exists():
      raise InputError(f'there is no folder {folder}{_near(folder)}')
    raise InputError(
      f'{folder} is not a run{_near(folder)}; give the --workdir of one'
    )
  known = _json(path, 'run its command again, or copy it again')
  if known.get('format') != FORMAT:
    raise InputError(
      f'{folder} is a run of format {known.get("format")}, written by '
      f'{known.get("jaxlab", "another version")}; this is {listing.version()}, '
      f'which reads format {FORMAT}: install that version, or run its command '
      'again with this one in another folder'
    )
  return Run(folder, known['stages'], known['models'], known['arguments'])


def of_model(path: Path) -> tuple[Path, Run | None]:
  """The folder of the model that a path means, and its run.

  Args:
    path: WORKDIR, of a run with one model; WORKDIR/<stage>; or the model's own
      folder, which may lie anywhere.

  Raises:
    InputError: there is no such model, or there are several.
  """
  if (path / 'model.json').is_file():
    return path, None
  is_stage = (path.parent / FILE).is_file() and not (path / FILE).is_file()
  run = opened(path.parent if is_stage else path)
  stage = path.name if is_stage else _only(run)
  if stage not in run.stages:
    raise InputError(
      f'{run.folder} has no stage "{stage}"; those with a model are '
      f'{", ".join(run.models) or "none"}'
    )
  if stage not in run.models:
    some = f': take one of {", ".join(run.models)}' if run.models else ''
    raise InputError(f'the stage {stage} of {run.folder} leaves no model{some}')
  if not run.report(stage):
    raise InputError(
      f'the stage {stage} of {run.folder} is not finished; go on with '
      f'{run.command}'
    )
  return run.folder / stage / 'model', run


def _only(run: Run) -> str:
  if not run.models:
    raise InputError(
      f'{run.folder} has no model: none of its stages '
      f'({", ".join(run.stages)}) leaves one that predicts'
    )
  if len(run.models) > 1:
    first = run.folder / run.models[0]
    raise InputError(
      f'{run.folder} has {len(run.models)} models, {", ".join(run.models)}: '
      f'name one, as {first}'
    )
  return run.models[0]


def _near(folder: Path) -> str:
  at = folder if folder.is_dir() else folder.parent
  found = sorted(x.parent.name for x in at.glob(f'*/{FILE}'))[:8]
  return f'; in {at} there are the runs {", ".join(found)}' if found else ''


def _json(path: Path, cure: str) -> dict[str, Any]:
  try:
    found = json.loads(path.read_text())
    if not isinstance(found, dict):
      raise ValueError('it holds no object')
    return found
  except (OSError, ValueError) as error:
    raise InputError(f'{path} cannot be read ({error}); {cure}') from error
