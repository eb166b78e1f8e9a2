"""Validation against steps and seconds, and the gradients' distances."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from jaxlab.engine import metrics
from jaxlab.recipes.study import Study
from jaxlab.runs.stage import Stage

Config = Mapping[str, Any]


def stage(config: Config, study: Study) -> Stage:
  """The stage `curves`: of all final runs; needs their metrics alone.

  Its figures are, for each method, the median over the seeds of the steps and
  of the seconds of training (evaluations not counted) to the first evaluation
  with a validation F1 of each of `config.study.reach`; absent where a seed has
  none.
  """
  reach = config['study']['reach']

  def run(space):
    runs = {
      arm: [
        read(space.folder(cell.name) / 'metrics.jsonl')
        for cell in study.finals(arm)
      ]
      for arm in config['methods']
    }
    plots = [
      (f'validation/{of}', against)
      for of in ('f1', 'nats')
      for against in ('steps', 'seconds')
    ]
    firsts = [line for found in runs.values() for line in found[0]]
    if any('gradient/error' in line for line in firsts):
      distances = ('error', 'bias', 'variance', 'uniform')
      plots += [(f'gradient/{of}', 'steps') for of in distances]
    for of, against in plots:
      name = f'{of.replace("/", "_")}_by_{against}'
      space.page.figure(name, partial(_draw, runs, of, against))
    figures, rows = {}, []
    for arm, found in runs.items():
      row: list[str] = [arm]
      for f1 in reach:
        for name, value in zip(('steps', 'seconds'), reached(found, f1)):
          row.append('not by all seeds' if value is None else f'{value:.0f}')
          if value is not None:
            figures[f'{arm}/{name}_to_{f1:g}'] = value
      rows.append(row)
    columns = ['method']
    for f1 in reach:
      columns += [f'steps to {f1:g}', f'seconds to {f1:g}']
    title = 'Training to a validation F1, medians over the seeds'
    space.page.table(title, columns, rows)
    return figures

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


def _draw(runs, of: str, against: str, axes) -> None:
  for color, (arm, found) in enumerate(runs.items()):
    label = arm
    for run in found:
      points = [(x[against], x[of]) for x in run if x.get(of) is not None]
      if points:
        axes.plot(*zip(*points), color=f'C{color % 10}', lw=1, label=label)
        label = None
  if of.startswith('gradient/'):
    axes.set_yscale('log')
  axes.set_xlabel(f'{against} of training')
  axes.set_ylabel(of)
  axes.grid(alpha=0.3)
  axes.legend(frameon=False)
