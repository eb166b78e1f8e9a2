"""Several batch sizes over the same number of examples, optimizer by optimizer.

The paper's rule is not tuned: the rate grows with the square root of the batch
and warm-up takes the same number of steps, so that its share of the training
grows with the batch (section 4). Its known criticism (Nado et al., 2021, arXiv
2102.06356) is that the rivals were not tuned: here an optimizer may also be
tuned at every batch size, with as many trials for each choice.

  sqrt   rates tried at the reference batch, the best scaled by √(b / reference)
  tuned  rates · √(batch / reference) tried at every batch size

Trials are compared on validation with the first seed; the chosen rate then
runs with every seed, and those runs alone read the test set.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from jaxlab.engine import report, workdir
from jaxlab.engine.errors import InputError
from jaxlab.engine.stage import Stage, Workspace
from jaxlab.ops.intervals import student_t

Config = Mapping[str, Any]


class Run(NamedTuple):
  """One training: a stage's name and what differs from the config."""

  name: str
  optimizer: str
  learning_rate: float  # of a final run: the first of those tried
  warmup_steps: int
  steps: int
  batch_size: int
  accumulate: int
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


def stages(config: Config, make: Callable[[Run], Stage]) -> list[Stage]:
  """Trials, then final runs, then the table and the plot.

  Args:
    make: the stage that trains one run.

  Raises:
    InputError: a study that cannot be.
  """
  _check(config)
  c = config['study']
  trials, finals = [], []
  for optimizer, rule in c['optimizers'].items():
    for batch in c['batch_sizes']:
      tried = _trials(config, optimizer, rule, batch)
      trials += tried
      for seed in c['seeds']:
        finals.append(_final(config, optimizer, rule, batch, seed))
  return [
    *map(make, [*trials, *finals]),
    Stage('study', lambda space: _conclude(config, space)),
  ]


def _check(config: Config) -> None:
  c = config['study']
  if c['reference_batch_size'] not in c['batch_sizes']:
    raise InputError(
      f'config.study.reference_batch_size = {c["reference_batch_size"]} is not '
      f'one of config.study.batch_sizes = {list(c["batch_sizes"])}'
    )
  if not c['seeds']:
    raise InputError('config.study.seeds is empty: give at least one')
  if c['better'] not in ('lower', 'higher'):
    raise InputError(
      f'config.study.better = "{c["better"]}" is not "lower" or "higher"'
    )
  for name, rule in c['optimizers'].items():
    if rule['rule'] not in ('sqrt', 'tuned') or not rule['rates']:
      raise InputError(
        f'config.study.optimizers.{name} = {dict(rule)}: rule is sqrt or '
        'tuned, and rates is not empty'
      )


def _run(config: Config, optimizer, batch, seed, rate, name) -> Run:
  c = config['study']
  steps = c['examples'] // batch
  if steps < 1:
    raise InputError(
      f'config.study.examples = {c["examples"]} is less than one batch of '
      f'{batch}'
    )
  micro = max(1, batch // c['largest_micro_batch'])
  warmup = min(c['warmup_steps'], steps // 2)
  return Run(name, optimizer, rate, warmup, steps, batch, micro, seed)


def _trials(config: Config, optimizer, rule, batch) -> list[Run]:
  c = config['study']
  if rule['rule'] == 'sqrt' and batch != c['reference_batch_size']:
    return []
  seed = c['seeds'][0]
  return [
    _run(config, optimizer, batch, seed, r, _trial_name(optimizer, batch, r))
    for r in _rates(config, rule, batch)
  ]


def _rates(config: Config, rule, batch: int) -> list[float]:
  """The rates tried at a batch size."""
  scale = math.sqrt(batch / config['study']['reference_batch_size'])
  return [scale * rate for rate in rule['rates']]


def _trial_name(optimizer: str, batch: int, rate: float) -> str:
  return f'trial-{optimizer}-b{batch}-r{rate:g}'


def _final(config: Config, optimizer, rule, batch, seed) -> Run:
  c = config['study']
  tuned = rule['rule'] == 'tuned'
  at = batch if tuned else c['reference_batch_size']
  scale = 1.0 if tuned else math.sqrt(batch / at)

  rates = _rates(config, rule, at)

  def choose(space: Workspace) -> float:
    return scale * _best(config, space, optimizer, at, rates)

  name = f'{optimizer}-b{batch}-s{seed}'
  run = _run(config, optimizer, batch, seed, scale * rates[0], name)
  return run._replace(choose=choose)


def _best(config: Config, space, optimizer, batch, rates) -> float:
  """The rate whose trial was best on validation; a failed one is worst."""
  sign = 1.0 if config['study']['better'] == 'lower' else -1.0
  metric = f'validation/{config["study"]["metric"]}'

  def loss(rate):
    found = _figures(space, _trial_name(optimizer, batch, rate))[metric]
    return math.inf if found is None else sign * found

  return min(rates, key=loss)


def _figures(space: Workspace, stage: str) -> dict[str, float | None]:
  path = space.folder(stage) / 'report.json'
  return json.loads(path.read_text())['metrics']


def _conclude(config: Config, space: Workspace) -> dict[str, float]:
  """The table, `study.json`, and a plot with 95 % t-intervals over seeds."""
  c = config['study']
  metric = f'test/{c["metric"]}'
  figures: dict[str, float] = {}
  rows: list[dict[str, Any]] = []
  for optimizer, rule in c['optimizers'].items():
    for batch in c['batch_sizes']:
      runs = [_final(config, optimizer, rule, batch, s) for s in c['seeds']]
      values = [_figures(space, run.name)[metric] for run in runs]
      good = [v for v in values if v is not None]
      mean, half = student_t(good) if len(good) == len(runs) else (None, None)
      rate = runs[0].rate(space)
      rows.append(
        {
          'optimizer': optimizer,
          'rule': rule['rule'],
          'batch_size': batch,
          'learning_rate': rate,
          'steps': runs[0].steps,
          'values': values,
          'mean': mean,
          'half_width': half,
        }
      )
      figures[f'{optimizer}-b{batch}/{c["metric"]}'] = (
        math.nan if mean is None else mean
      )
      figures[f'{optimizer}-b{batch}/half_width'] = (
        math.nan if half is None else half
      )
      figures[f'{optimizer}-b{batch}/learning_rate'] = rate
  folder = space.folder('study')
  workdir.write_json(folder / 'study.json', rows)
  (folder / 'study.md').write_text(table(rows, c['metric']))
  _draw(folder / 'figures' / f'{c["metric"]}.png', rows, c['metric'])
  return figures


def table(rows: Sequence[Mapping[str, Any]], metric: str) -> str:
  """The rows of a study as Markdown."""
  lines = [
    f'| optimizer | rule | batch | rate | steps | {metric} by seed | mean ± '
    '95 % t |',
    '|---|---|---|---|---|---|---|',
  ]
  for row in rows:
    values = ' '.join(
      'diverged' if v is None else f'{v:.4f}' for v in row['values']
    )
    mean = (
      'diverged'
      if row['mean'] is None
      else f'{row["mean"]:.4f} ± {row["half_width"]:.4f}'
    )
    lines.append(
      f'| {row["optimizer"]} | {row["rule"]} | {row["batch_size"]} | '
      f'{row["learning_rate"]:.3g} | {row["steps"]} | {values} | {mean} |'
    )
  return '\n'.join(lines) + '\n'


def _draw(path, rows, metric) -> None:
  def draw(axes):
    for name in dict.fromkeys(row['optimizer'] for row in rows):
      mine = [r for r in rows if r['optimizer'] == name and r['mean']]
      if mine:
        axes.errorbar(
          [row['batch_size'] for row in mine],
          [row['mean'] for row in mine],
          [row['half_width'] for row in mine],
          marker='o',
          capsize=3,
          label=f'{name} ({mine[0]["rule"]})',
        )
    axes.set_xscale('log', base=2)
    axes.set_xlabel('batch size, the same number of examples in all')
    axes.set_ylabel(f'{metric} on the test set')
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)

  report.figure(path, draw)
