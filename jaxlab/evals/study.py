"""Methods side by side: each tuned alike, then run with every seed.

Every method (an arm) tries the same rates with the first seed and takes the
one that was best on validation; that rate runs with every seed, and those runs
alone read the test set. Differences are paired by seed.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from jaxlab.engine import workdir
from jaxlab.engine.errors import InputError
from jaxlab.engine.loop import Options
from jaxlab.engine.metrics import read
from jaxlab.engine.stage import Stage, Workspace
from jaxlab.ops.intervals import student_t

Config = Mapping[str, Any]


class Cell(NamedTuple):
  """One training: a stage's name, its loss, rate and seed."""

  name: str
  arm: str
  learning_rate: float  # of a final run: the first of those tried
  seed: int
  # What the rate is once the trials are done; None: learning_rate.
  choose: Callable[[Workspace], float] | None = None

  @property
  def test(self) -> bool:
    """Whether the test set is read: by final runs alone."""
    return self.choose is not None

  def rate(self, space: Workspace) -> float:
    """The learning rate."""
    return self.choose(space) if self.choose else self.learning_rate


def options_of(
  config: Config, cell: Cell, not_options: Sequence[str]
) -> Options:
  """The engine's options of a cell's training.

  A trial that diverges is a bad trial and no reason to stop the others: it
  skips what is not finite to its end and is chosen only if all others do.

  Args:
    not_options: keys of `config.train` that are the task's own.
  """
  train = {k: v for k, v in config['train'].items() if k not in not_options}
  if not cell.test:
    train['max_bad_steps'] = max(train['max_bad_steps'], train['steps'])
  return Options(**train)


def stages(
  config: Config,
  arms: Sequence[str],
  make: Callable[[Cell], Stage],
  metrics: Sequence[str],
) -> list[Stage]:
  """Trials, then final runs, then their table.

  One rate alone needs no trials.

  Args:
    arms: what is compared; differences are to `config.study.baseline`.
    make: the stage that trains a cell. Its figures hold
      `validation/<config.study.metric>`, and for a final cell `test/…`.
    metrics: what `config.study.metric` may be.

  Raises:
    InputError: a study that cannot be.
  """
  c = config['study']
  if not c['rates'] or not c['seeds'] or min(c['rates'], default=0) <= 0:
    raise InputError(
      f'config.study has rates {list(c["rates"])} and seeds '
      f'{list(c["seeds"])}; give at least one of each, rates above 0'
    )
  if c['better'] not in ('lower', 'higher'):
    raise InputError(
      f'config.study.better = "{c["better"]}" is not "lower" or "higher"'
    )
  if c['metric'] not in metrics:
    raise InputError(
      f'config.study.metric = "{c["metric"]}" is not one of '
      f'{", ".join(metrics)}'
    )
  if c['baseline'] not in arms:
    raise InputError(
      f'config.study.baseline = "{c["baseline"]}" is not one of '
      f'{", ".join(arms)}'
    )
  arms = sorted(arms, key=lambda arm: arm != c['baseline'])
  trials = [cell for arm in arms for cell in _trials(config, arm)]
  finals = [cell for arm in arms for cell in finals_of(config, arm)]
  return [
    *map(make, [*trials, *finals]),
    Stage('study', lambda space: _conclude(config, arms, space)),
  ]


def finals_of(config: Config, arm: str) -> list[Cell]:
  """The final runs of an arm, one a seed."""
  rates = list(config['study']['rates'])
  choose = lambda space: _best(config, space, arm)
  return [
    Cell(f'{arm}-s{seed}', arm, rates[0], seed, choose)
    for seed in config['study']['seeds']
  ]


def _trials(config: Config, arm: str) -> list[Cell]:
  c = config['study']
  if len(c['rates']) == 1:
    return []
  seed = c['seeds'][0]
  return [Cell(f'trial-{arm}-r{r:g}', arm, r, seed) for r in c['rates']]


def _best(config: Config, space: Workspace, arm: str) -> float:
  """The rate whose trial was best on validation; a diverged one is worst."""
  sign = 1.0 if config['study']['better'] == 'lower' else -1.0
  metric = f'validation/{config["study"]["metric"]}'

  def loss(cell: Cell) -> float:
    found = figures_of(space, cell.name)[metric]
    lines = read(space.folder(cell.name) / 'metrics.jsonl')
    if found is None or any('bad_steps' in line for line in lines):
      return math.inf
    return sign * found

  tried = _trials(config, arm)
  if not tried:
    return config['study']['rates'][0]
  return min(tried, key=loss).learning_rate


def figures_of(space: Workspace, stage: str) -> dict[str, float | None]:
  """What a finished stage reported."""
  path = space.folder(stage) / 'report.json'
  return json.loads(path.read_text())['metrics']


def _conclude(
  config: Config, arms: Sequence[str], space: Workspace
) -> dict[str, float]:
  """`study.json`, `study.md` and the means of all test figures."""
  values: dict[str, dict[str, list[float]]] = {}  # figure -> arm -> by seed
  for arm in arms:
    for cell in finals_of(config, arm):
      for name, value in figures_of(space, cell.name).items():
        if name.startswith('test/') and not name.endswith(('_low', '_high')):
          number = math.nan if value is None else value
          values.setdefault(name, {}).setdefault(arm, []).append(number)
  rates = {arm: finals_of(config, arm)[0].rate(space) for arm in arms}
  rows, figures = [], {f'{a}/learning_rate': r for a, r in rates.items()}
  first = arms[0]
  for name, by_arm in values.items():
    row: dict[str, Any] = {'figure': name}
    for arm, found in by_arm.items():
      row[arm] = interval(found)
      figures[f'{arm}/{name}'] = sum(found) / len(found)
      row[f'{arm} by seed'] = found
      if arm != first and len(by_arm.get(first, ())) == len(found):
        gains = [x - y for x, y in zip(found, by_arm[first])]
        row[f'{arm} - {first}'] = interval(gains)
    rows.append(row)
  folder = space.folder('study')
  workdir.write_json(folder / 'study.json', {'rates': rates, 'rows': rows})
  (folder / 'study.md').write_text(table(rows, arms, rates))
  return figures


def interval(values: Sequence[float]) -> str:
  """Mean and 95 % t-interval in a few characters."""
  if any(math.isnan(v) for v in values):
    return 'NaN'
  if len(values) < 2:
    return f'{values[0]:.4f}'
  mean, half = student_t(values)
  return f'{mean:.4f} ± {half:.4f}'


def table(rows, arms: Sequence[str], rates: Mapping[str, float]) -> str:
  """The rows of a study as Markdown."""
  others = [f'{arm} - {arms[0]}' for arm in arms[1:]]
  titles = [f'{arm} (rate {rates[arm]:g})' for arm in arms]
  lines = [
    f'| figure | {" | ".join([*titles, *others])} |',
    '|' + '---|' * (1 + len(arms) + len(others)),
  ]
  for row in rows:
    cells = [row.get(name, '–') for name in [*arms, *others]]
    lines.append(f'| {row["figure"]} | {" | ".join(cells)} |')
  return '\n'.join(lines) + '\n'
