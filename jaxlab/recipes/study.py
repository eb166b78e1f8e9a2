"""Arms side by side: each tuned alike, then run with every seed.

Every arm (a loss, a sampler, an optimizer, …) tries its rates with the first
seed and takes the one that was best on validation; that rate runs with every
seed, and those final runs alone read the test set. Differences to the first
arm, the baseline, are paired by seed. A study may go through several settings
(batch sizes, say), each with trials and final runs of its own.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from jaxlab.core.require import above, filled, one_of, require, some
from jaxlab.engine.loop import Options
from jaxlab.engine.metrics import read
from jaxlab.ops.intervals import student_t
from jaxlab.runs import workdir
from jaxlab.runs.stage import Figures, Stage, Workspace

Config = Mapping[str, Any]

_LEFT_OUT = ('_low', '_high', '/examples')  # intervals of one run, counts


class Cell(NamedTuple):
  """One training of a study."""

  name: str  # of its stage
  arm: str
  setting: Any  # None in a study without settings
  learning_rate: float  # of a final run: the first of those tried
  seed: int
  # Of a final run: the rate, once the trials are done.
  choose: Callable[[Workspace], float] | None = None
  first: bool = True  # whether the seed is the study's first

  @property
  def pictured(self) -> bool:
    """Whether its page has pictures: of the final runs the first seed's."""
    return self.final and self.first

  @property
  def final(self) -> bool:
    """Whether this is not a trial: final runs alone read the test set."""
    return self.choose is not None

  def rate(self, space: Workspace) -> float:
    """The learning rate; under --plan the first of those to be tried."""
    if self.choose is None or space.planning:
      return self.learning_rate
    return self.choose(space)

  def options(self, train: Mapping[str, Any]) -> Options:
    """The engine's options, of a config's section `train`.

    A trial that diverges is a bad trial and no reason to stop the others: it
    skips to its end whatever is not finite, and is chosen only if all others
    do.
    """
    found = Options(**train)
    if self.final:
      return found
    return replace(found, max_bad_steps=max(found.max_bad_steps, found.steps))


@dataclass(frozen=True)
class Study:
  """Arms x rates x seeds, and settings where there are such."""

  arms: Sequence[str]  # the baseline first
  # (arm, setting) -> rates tried there; a single one needs no trial
  rates: Callable[[str, Any], Sequence[float]]
  seeds: Sequence[int]
  metric: str  # `validation/METRIC` chooses, `test/METRIC` is the headline
  higher: bool  # is better
  settings: Sequence[Any] = (None,)
  setting_name: str = ''  # 'batch size'
  # (arm, setting) -> the setting whose trials give its rate, times a factor
  tuned_at: Callable[[str, Any], tuple[Any, float]] = lambda arm, at: (at, 1.0)
  headlines: Sequence[str] = ()  # figures compared; default: test/METRIC

  def stages(
    self, make: Callable[[Cell], Stage | Sequence[Stage]]
  ) -> list[Stage]:
    """Trials, then final runs, then the stage `study` with their table.

    Args:
      make: the stage that trains a cell, or several (a judgement behind it).
        Their figures hold `validation/METRIC`, and of a final cell `test/…`.
    """
    found: list[Stage] = []
    reports: dict[str, list[str]] = {}
    for cell in [*self._all(self.trials), *self._all(self.finals)]:
      made = make(cell)
      stages = [made] if isinstance(made, Stage) else list(made)
      reports[cell.name] = [stage.name for stage in stages]
      found += stages
    conclude = lambda space: self._conclude(space, reports)
    return [*found, Stage('study', conclude)]

  def _all(self, cells) -> list[Cell]:
    return [c for a in self.arms for at in self.settings for c in cells(a, at)]

  def trials(self, arm: str, setting: Any = None) -> list[Cell]:
    """Of a setting that is tuned itself, with the first seed."""
    rates = self.rates(arm, setting)
    if self.tuned_at(arm, setting)[0] != setting or len(rates) == 1:
      return []
    name = f'trial-{_named(arm, setting)}'
    return [
      Cell(f'{name}-r{rate:g}', arm, setting, rate, self.seeds[0])
      for rate in rates
    ]

  def finals(self, arm: str, setting: Any = None) -> list[Cell]:
    """The final runs, one a seed."""
    at, factor = self.tuned_at(arm, setting)
    choose = lambda space: factor * self._best(space, arm, at)
    first = factor * self.rates(arm, at)[0]
    return [
      Cell(
        f'{_named(arm, setting)}-s{seed}',
        *(arm, setting, first, seed, choose, seed == self.seeds[0]),
      )
      for seed in self.seeds
    ]

  def _best(self, space: Workspace, arm: str, setting: Any) -> float:
    """The rate whose trial was best; a diverged one is worst."""
    sign = -1.0 if self.higher else 1.0

    def loss(cell: Cell) -> float:
      found = space.figures(cell.name)[f'validation/{self.metric}']
      lines = read(space.folder(cell.name) / 'metrics.jsonl')
      if found is None or any('bad_steps' in line for line in lines):
        return math.inf
      return sign * found

    tried = self.trials(arm, setting)
    if not tried:
      return self.rates(arm, setting)[0]
    return min(tried, key=loss).learning_rate

  def _conclude(self, space: Workspace, reports) -> Figures:
    """The table, study.json, the headlines and a plot."""
    results = {
      (arm, at): self._values(space, self.finals(arm, at), reports)
      for arm in self.arms
      for at in self.settings
    }
    rates = {
      (arm, at): self.finals(arm, at)[0].rate(space) for arm, at in results
    }
    figures = {
      f'{_named(*where)}/learning_rate': rate for where, rate in rates.items()
    }
    rows: list[dict[str, Any]] = []
    for at in self.settings:
      rate = {arm: f'{rates[arm, at]:.4g}' for arm in self.arms}
      rows.append({'figure': _row('learning rate', at), **rate})
      names = dict.fromkeys(n for arm in self.arms for n in results[arm, at])
      for name in names:
        by_arm = {
          arm: results[arm, at][name]
          for arm in self.arms
          if name in results[arm, at]
        }
        rows.append(self._compared(_row(name, at), by_arm))
        for arm, values in by_arm.items():
          figures[f'{_named(arm, at)}/{name}'] = sum(values) / len(values)
        if name in (self.headlines or (f'test/{self.metric}',)):
          self._headline(space, _row(name, at), by_arm)
    others = [f'{arm} - {self.arms[0]}' for arm in self.arms[1:]]
    columns = ['figure', *self.arms, *others]
    title = f'Mean and 95 % t-interval over seeds {list(self.seeds)}'
    space.page.table(title, columns, rows, show=True)
    workdir.write_json(space.folder('study') / 'study.json', rows)
    self._draw(space, results)
    return figures

  def _values(self, space, cells, reports) -> dict[str, list[float]]:
    """test/… of each seed."""
    found: dict[str, list[float]] = {}
    for cell in cells:
      for stage in reports[cell.name]:
        for name, value in space.figures(stage).items():
          if name.startswith('test/') and not name.endswith(_LEFT_OUT):
            number = math.nan if value is None else value
            found.setdefault(name, []).append(number)
    return found

  def _compared(self, figure: str, by_arm) -> dict[str, Any]:
    first = by_arm.get(self.arms[0], ())
    row: dict[str, Any] = {'figure': figure}
    for arm, values in by_arm.items():
      row[arm] = interval(values)
      row[f'{arm} by seed'] = [None if math.isnan(v) else v for v in values]
      if arm != self.arms[0] and len(first) == len(values):
        row[f'{arm} - {self.arms[0]}'] = interval(_gains(values, first))
    return row

  def _headline(self, space: Workspace, figure: str, by_arm) -> None:
    first = by_arm.get(self.arms[0], ())
    for arm, values in by_arm.items():
      if arm != self.arms[0] and len(first) == len(values):
        gains = _gains(values, first)
        words = f'{figure}: {arm} - {self.arms[0]} = {interval(gains)}'
        space.page.headline(words, verdict(gains, self.higher))

  def _draw(self, space: Workspace, results) -> None:
    name = f'test/{self.metric}'
    if not any(name in values for values in results.values()):
      return
    along = len(self.settings) > 1

    def draw(axes):
      for arm in self.arms:
        points = []
        for at in self.settings:
          values = results[arm, at].get(name, [])
          if values and all(map(math.isfinite, values)):
            points.append((at if along else arm, *student_t(values)))
        if points:
          x, mean, half = zip(*points)
          half = [h if math.isfinite(h) else 0 for h in half]
          axes.errorbar(x, mean, half, marker='o', capsize=3, label=arm)
      if along:
        axes.set_xscale('log', base=2)
        axes.set_xlabel(self.setting_name)
        axes.legend(frameon=False)
      axes.set_ylabel(f'{self.metric} on the test set')
      axes.grid(alpha=0.3)

    space.page.figure(self.metric, draw, 'Mean and 95 % t-interval over seeds')


def study_of(
  config: Config,
  arms: Sequence[str],
  metrics: Sequence[str],
  headlines: Sequence[str] = (),
) -> Study:
  """The study of a config's section `study`.

  It has `baseline` (an arm), `rates`, `seeds`, `metric` and `better` (lower,
  higher).

  Args:
    arms: what is compared.
    metrics: what `study.metric` may be.

  Raises:
    InputError: a study that cannot be.
  """
  c = config['study']
  require(
    config,
    {
      'study.rates': some(above(0)),
      'study.seeds': filled(),
      'study.better': one_of('lower', 'higher'),
      'study.metric': one_of(*metrics),
      'study.baseline': one_of(*arms),
    },
  )
  return Study(
    sorted(arms, key=lambda arm: arm != c['baseline']),
    lambda arm, setting: c['rates'],
    c['seeds'],
    c['metric'],
    c['better'] == 'higher',
    headlines=headlines,
  )


def verdict(gains: Sequence[float], higher: bool) -> str:
  """'shown', 'refuted' or 'not shown': does a paired difference help?

  Args:
    gains: differences by seed.
    higher: whether a positive difference is better.
  """
  if len(gains) < 2 or any(math.isnan(x) for x in gains):
    return 'not shown'
  mean, half = student_t(gains)
  if abs(mean) <= half:
    return 'not shown'
  return 'shown' if (mean > 0) == higher else 'refuted'


def interval(values: Sequence[float]) -> str:
  """Mean and 95 % t-interval in a few characters."""
  if any(math.isnan(v) for v in values):
    return 'not finite'
  if len(values) < 2:
    return f'{values[0]:.4f}'
  mean, half = student_t(values)
  return f'{mean:.4f} ± {half:.4f}'


def _gains(values, first) -> list[float]:
  return [x - y for x, y in zip(values, first)]


def _named(arm: str, setting: Any) -> str:
  return arm if setting is None else f'{arm}-b{setting}'


def _row(figure: str, setting: Any) -> str:
  return figure if setting is None else f'{figure} at {setting}'
