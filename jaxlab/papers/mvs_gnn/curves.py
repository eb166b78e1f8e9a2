"""Validation against steps and seconds, and the gradients' distances."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxlab.engine import metrics, report, workdir
from jaxlab.engine.stage import Stage
from jaxlab.evals import study

Config = Mapping[str, Any]


def stage(config: Config) -> Stage:
  """The stage `curves`: of all final runs; needs their metrics alone.

  Its figures are, for each method, the median over the seeds of the steps and
  of the seconds of training (evaluations not counted) to the first evaluation
  with a validation F1 of each of `config.study.reach`; absent where a seed has
  none.
  """

  def run(space):
    folder = space.folder('curves')
    found = {
      arm: [
        read(space.folder(cell.name) / 'metrics.jsonl')
        for cell in study.finals_of(config, arm)
      ]
      for arm in config['methods']
    }
    figures = folder / 'figures'
    for what in ('f1', 'nats'):
      for against in ('steps', 'seconds'):
        _draw(figures, found, f'validation/{what}', against)
    if any(
      'gradient/error' in line for runs in found.values() for line in runs[0]
    ):
      for what in ('error', 'bias', 'variance', 'uniform'):
        _draw(figures, found, f'gradient/{what}', 'steps', log=True)
    reach = config['study']['reach']
    rows = {
      arm: [reached(runs, f1) for f1 in reach] for arm, runs in found.items()
    }
    workdir.write_json(
      folder / 'reached.json', {'f1': list(reach), 'rows': rows}
    )
    titles = [f'steps to {f1:g} | seconds' for f1 in reach]
    table = [
      f'| method | {" | ".join(titles)} |',
      '|---' * (1 + 2 * len(reach)) + '|',
      *(
        f'| {arm} | {" | ".join(_text(x) for pair in at for x in pair)} |'
        for arm, at in rows.items()
      ),
    ]
    (folder / 'reached.md').write_text('\n'.join(table) + '\n')
    return {
      f'{arm}/{what}_to_{f1:g}': value
      for arm, at in rows.items()
      for f1, pair in zip(reach, at)
      for what, value in zip(('steps', 'seconds'), pair)
      if value is not None
    }

  return Stage('curves', run)


def read(path: Path) -> list[dict[str, float]]:
  """The evaluations of a run, with the `seconds` trained before each."""
  seconds, seen, found = 0.0, -1, []
  for line in metrics.read(path):
    if line['kind'] == 'eval':
      found.append({**line, 'steps': line['step'], 'seconds': seconds})
    elif line['step'] != seen:  # a line for each step kind has the same time
      seen = line['step']
      seconds += line['seconds']
  return found


def reached(
  runs: list[list[dict[str, float]]], f1: float
) -> tuple[float | None, float | None]:
  """Medians of the steps and seconds to a validation F1; None: not by all."""
  firsts = []
  for run in runs:
    over = [line for line in run if (line['validation/f1'] or 0) >= f1]
    if not over:
      return None, None
    firsts.append(over[0])
  middle = lambda name: sorted(line[name] for line in firsts)[len(firsts) // 2]
  return middle('steps'), middle('seconds')


def _text(value: float | None) -> str:
  return 'not by all seeds' if value is None else f'{value:.0f}'


def _draw(folder, found, what: str, against: str, log: bool = False) -> None:
  def draw(axes):
    for i, (arm, runs) in enumerate(found.items()):
      for j, run in enumerate(runs):
        points = [
          (line[against], line[what])
          for line in run
          if line.get(what) is not None
        ]
        if points:
          axes.plot(
            *zip(*points),
            color=f'C{i % 10}',
            linewidth=1,
            label=None if j else arm,
          )
    if log:
      axes.set_yscale('log')
    axes.set_xlabel(f'{against} of training')
    axes.set_ylabel(what)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)

  name = what.replace('/', '_')
  report.figure(folder / f'{name}_by_{against}.png', draw)
