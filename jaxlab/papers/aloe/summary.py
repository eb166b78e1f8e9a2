"""All networks of a run in one table: means and intervals over the seeds."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxlab.engine import report, workdir
from jaxlab.engine.stage import Stage, Workspace
from jaxlab.evals import ood
from jaxlab.ops.intervals import student_t
from jaxlab.papers.aloe.judgement import COLUMNS, Row, label

Config = Mapping[str, Any]
CELL = ('attack', 'detector', 'epsilon', 'setting')


def stage(config: Config) -> Stage:
  """The stage `table`: all methods, mean and 95 % t-interval over seeds."""
  return Stage('table', lambda space: _summarise(config, space))


def _summarise(config: Config, space: Workspace) -> dict[str, float]:
  family = config['family']
  cells: dict[tuple, dict[str, list[Row]]] = {}
  for method in family['methods']:
    for seed in family['seeds']:
      path = space.folder(f'{method}-s{seed}-ood') / 'ood.json'
      for row in json.loads(path.read_text()):
        if row['ood'] != 'mean':
          continue
        cell = tuple(row[name] for name in CELL)
        cells.setdefault(cell, {}).setdefault(method, []).append(row)
  rows, figures = [], {}
  for cell, methods in cells.items():
    row = dict(zip(CELL, cell))
    for method, found in methods.items():
      for column, short in zip(COLUMNS, ('AUROC', 'FPR')):
        values = [r[column] for r in found]
        row[f'{method} {short}'] = _interval(values)
      figures[f'{label(row)}/{method}/auroc'] = float(
        np.mean([r['auroc'] for r in found])
      )
    if {'oe', 'aloe'} <= methods.keys():
      pairs = zip(methods['aloe'], methods['oe'])
      gains = [a['auroc'] - b['auroc'] for a, b in pairs]
      row['aloe - oe AUROC'] = _interval(gains)
      figures[f'{label(row)}/aloe - oe/auroc'] = float(np.mean(gains))
    rows.append(row)
  folder = space.folder('table')
  columns = list(dict.fromkeys(name for row in rows for name in row))
  full = [{name: row.get(name, '–') for name in columns} for row in rows]
  workdir.write_json(folder / 'table.json', full)
  (folder / 'table.md').write_text(ood.markdown(full, columns))
  _draw_budgets(folder / 'figures' / 'budgets.png', cells)
  return figures


def _interval(values: Sequence[float]) -> str:
  if len(values) < 2:
    return f'{values[0]:.3f}'
  mean, half = student_t(values)
  return f'{mean:.3f} ± {half:.3f}'


def _draw_budgets(path, cells) -> None:
  """AUROC against the budget, ID and OOD images attacked, one line a method."""
  curves: dict[str, dict[float, float]] = {}
  for (attack, detector, epsilon, setting), methods in cells.items():
    if attack.startswith('apgd') or detector != _first(cells):
      continue
    if setting not in ('clean', 'both'):
      continue
    for method, found in methods.items():
      mean = float(np.mean([r['auroc'] for r in found]))
      curves.setdefault(method, {})[255 * epsilon] = mean

  def draw(axes):
    for method, points in curves.items():
      axes.plot(*zip(*sorted(points.items())), 'o-', label=method)
    axes.set_xlabel('budget in 1/255, ID and OOD images attacked')
    axes.set_ylabel(f'AUROC of {_first(cells)}, mean over OOD sets')
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)

  report.figure(path, draw)


def _first(cells) -> str:
  return next(iter(cells))[1]
