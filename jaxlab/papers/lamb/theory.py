"""The job that measures LAMB's theorems: from a config to tables and plots.

The problem and the mathematics are in layered.py.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlab.core import keys
from jaxlab.core.errors import InputError
from jaxlab.core.require import (
  Rule,
  at_least,
  inside,
  one_of,
  require,
  some,
)
from jaxlab.ops.intervals import student_t
from jaxlab.papers.lamb import layered
from jaxlab.runs import workdir
from jaxlab.runs.stage import Figures, Stage, Workspace

Config = Mapping[str, Any]
Row = dict[str, Any]


def program(config: Config) -> list[Stage]:
  """One stage, `theory`: measurements, tables and plots.

  Raises:
    InputError: a value that cannot be; nothing has been computed yet.
  """
  check(config)
  return [Stage('theory', lambda space: _study(config, space))]


def check(config: Config) -> None:
  """Raises InputError where a value cannot be."""
  s, positive = config['study'], inside(0, math.inf)
  steps = lambda x: len({*x}) > 1 and min(x) > 0
  seeds = lambda x: len({*x}) == len(x) > 1
  tuning = lambda x: x and not {*x} & {*s['seeds']}
  factors = lambda x: 1 in x and all(map(positive.holds, x))
  require(
    config,
    {
      'problem.layers': at_least(3),
      'problem.width': at_least(1),
      'problem.spread': inside(1, math.inf, 'it is max / min'),
      'problem.max_smoothness': positive,
      'problem.noise': at_least(0),
      'problem.start': positive,
      'problem.alike': some(one_of(*layered.ALIKE)),
      'study.steps': Rule(steps, 'two or more above 0', 'for the slopes'),
      'study.spectra_steps': at_least(1),
      'study.seeds': Rule(seeds, 'two or more, none twice', 'for intervals'),
      'study.tuning_seeds': Rule(tuning, 'filled, and none of study.seeds'),
      'study.factors': Rule(factors, 'above 0, among them 1, the theorem'),
      'study.b2': Rule(lambda x: 0 <= x < 1, 'in [0, 1)'),
    },
  )


def _study(config: Config, space: Workspace) -> Figures:
  p, s = config['problem'], config['study']
  kinds = layered.spectra(p['layers'], p['spread'], p['max_smoothness'])
  rates, shapes, rivals, cells = [], [], [], []
  for alike in p['alike']:
    lines, mixed = {}, {}
    for name, own in layered.OWN.items():
      at = partial(_cell, config, alike, name)
      steps = sorted({*s['steps']})
      lines[name] = [at('even', kinds['even'], t) for t in steps]
      mixed[name] = {k: at(k, x, s['spectra_steps']) for k, x in kinds.items()}
      cells += [*lines[name], *mixed[name].values()]
      for of, how in itertools.product((own, 'norm'), ('theorem', 'tuned')):
        about = {'alike': alike, 'optimizer': name, 'rate': how, 'measure': of}
        rates.append(about | _slopes(lines[name], how, of, p['spread']))
        shapes.append(about | _exponents(mixed[name], kinds, how, of))
    for name in ('lars', 'lamb', 'lamb_b2'):
      rivals += [_rival(mixed['sgd'][k], mixed[name][k]) for k in kinds]
    _draw(space, alike, lines)
  tables = {'rates': rates, 'spectra': shapes, 'rivals': rivals}
  path = space.folder('theory') / 'theory.json'
  workdir.write_json(path, {**tables, 'cells': cells})
  titles = {
    'rates': 'Slopes over the steps, mean ± 95 % t-interval over seeds',
    'spectra': 'Exponents of the largest and of the mean smoothness',
    'rivals': 'The gradient of SGD over that of another, with 95 % t-interval',
  }
  for name, rows in tables.items():
    texts = [list(map(_text, row.values())) for row in rows]
    space.page.table(titles[name], [*rows[0]], texts)
  figures: dict[str, float] = {}
  for row in rates + shapes:
    name = f'{row["alike"]}/{row["optimizer"]}/{row["rate"]}_{row["measure"]}'
    for key in ('slope', 'of max L', 'of mean L'):
      if key in row:
        full, (mean, half) = f'{name}/{key.replace(" ", "_")}', row[key]
        figures |= {full: mean, f'{full}_half_width': half}
  return figures


def _cell(config: Config, alike, name, spectrum, smoothness, steps) -> Row:
  """One optimizer on one problem, by seed: at the theorem's rate, and tuned."""
  p, s = config['problem'], config['study']
  shape, sigma = (p['layers'], p['width']), p['noise'] / p['layers'] ** 0.5
  root = keys.stream(config['seed'], 'rotation')
  problem = layered.make_problem(smoothness, p['width'], alike, root)
  seeds, tuning = [*s['tuning_seeds'], *s['seeds']], len(s['tuning_seeds'])
  streams = lambda what: jnp.stack([keys.stream(n, what) for n in seeds])
  draw = lambda key: jax.random.uniform(key, shape, minval=-1.0)
  z = p['start'] * jax.vmap(draw)(streams('start'))
  starts = jax.vmap(partial(layered.place, problem))(z)
  gap = np.asarray(jax.vmap(partial(layered.value, problem))(starts))
  factors = [*s['factors']]
  rates = np.outer(layered.step_size(name, smoothness, gap, steps), factors)
  given = jnp.asarray(rates, jnp.float32), streams('noise'), starts
  found = jax.device_get(
    layered.descend(name, steps, s['b2'], sigma, problem, *given)
  )
  if not all(np.all((v > 0) & (v < math.inf)) for v in found.values()):
    raise InputError(
      f'{name}, {spectrum}, {steps} steps: a gradient norm is 0 or not finite; '
      'bring config.problem and config.study.factors nearer to 1'
    )
  best = {m: int(np.argmin(v[:tuning].mean(axis=0))) for m, v in found.items()}
  one = factors.index(1)
  limit = layered.bound(name, smoothness, gap[tuning:], sigma, steps)
  own = found[layered.OWN[name]][tuning:, one]
  return {
    'alike': alike,
    'optimizer': name,
    'spectrum': spectrum,
    'steps': steps,
    'bound': None if limit is None else float(limit.mean()),
    'of bound': None if limit is None else float(np.mean(own / limit)),
    'factor': {m: factors[best[m]] for m in found},
    'theorem': {m: v[tuning:, one].tolist() for m, v in found.items()},
    'tuned': {m: v[tuning:, best[m]].tolist() for m, v in found.items()},
  }


def _columns(cells: Sequence[Row], how: str, of: str) -> np.ndarray:
  """[seeds, cells] float64."""
  return np.transpose([cell[how][of] for cell in cells])


def _slopes(cells: Sequence[Row], how: str, of: str, spread: float) -> Row:
  steps, values = [c['steps'] for c in cells], _columns(cells, how, of)
  # SGD's flattest layer needs about `spread` steps to move at all.
  late = [t >= spread for t in steps]
  name, shares = cells[0]['optimizer'], [c['of bound'] for c in cells]
  own = (how, of) == ('theorem', layered.OWN[name])
  row: Row = {
    f'T = {t}': float(values[:, i].mean())
    for t, i in ((steps[0], 0), (steps[-1], -1))
  }
  row['slope'] = student_t(layered.slopes(steps, values))
  row['slope, T >= spread'] = None
  if sum(late) > 1:
    steps = [t for t in steps if t >= spread]
    row['slope, T >= spread'] = student_t(
      layered.slopes(steps, values[:, late])
    )
  row['theorem'] = layered.THEOREM[name][0] if own else None
  row['of bound'] = max(shares) if own and None not in shares else None
  return row


def _exponents(cells: Mapping[str, Row], kinds, how: str, of: str) -> Row:
  values = _columns([*cells.values()], how, of)
  by_max, by_mean = layered.exponents([*kinds.values()], values)
  at, name = dict(zip(cells, values.T)), cells['few']['optimizer']
  means = kinds['many'].mean() / kinds['few'].mean()
  tops = kinds['few'].max() / kinds['many_low'].max()
  own = (how, of) == ('theorem', layered.OWN[name])
  return {
    'of max L': student_t(by_max),
    'of mean L': student_t(by_mean),
    'theorem': layered.THEOREM[name][1] if own else None,
    f'many / few: mean L × {means:.3g}': layered.ratio(at['many'], at['few']),
    f'few / many_low: max L × {tops:.3g}': layered.ratio(
      at['few'], at['many_low']
    ),
  }


def _rival(sgd: Row, other: Row) -> Row:
  """SGD over another optimizer; above 1 SGD's gradient is the larger."""
  at = lambda how, of: layered.ratio(sgd[how][of], other[how][of])
  return {
    'alike': sgd['alike'],
    'spectrum': sgd['spectrum'],
    'sgd over': other['optimizer'],
    'norm, theorem': at('theorem', 'norm'),
    'norm, tuned': at('tuned', 'norm'),
    "the other's measure, tuned": at('tuned', layered.OWN[other['optimizer']]),
  }


def _text(cell):
  """A pair is mean ± half-width, a triple an estimate and its interval."""
  if isinstance(cell, tuple | list):
    parts = [f'{x:.3g}' for x in cell]
    return (
      ' ± '.join(parts) if len(cell) == 2 else '{} ({} … {})'.format(*parts)
    )
  return '–' if cell is None else cell


def _draw(space: Workspace, alike: str, lines: Mapping[str, Sequence[Row]]):
  """E‖∇f‖ against steps; and each theorem's own measure with its bound."""

  def line(axes, cells, how, of, power=1.0, **style):
    values = _columns(cells, how, of) ** power
    points = zip(*(student_t(v.tolist()) for v in values.T))
    steps = [c['steps'] for c in cells]
    axes.errorbar(steps, *points, capsize=3, marker='o', markersize=3, **style)

  def norms(axes):
    for i, (name, cells) in enumerate(lines.items()):
      line(axes, cells, 'theorem', 'norm', 0.5, label=name, color=f'C{i}')
      line(axes, cells, 'tuned', 'norm', 0.5, ls=':', color=f'C{i}')
    axes.set_ylabel('E‖∇f‖; dotted: tuned')
    finish(axes)

  def measures(axes):
    for i, (name, cells) in enumerate(lines.items()):
      own = layered.OWN[name]
      label = f'{name}: {own}'
      line(axes, cells, 'theorem', own, label=label, color=f'C{i}')
      limits = [(c['steps'], c['bound']) for c in cells if c['bound']]
      if limits:
        axes.plot(*zip(*limits), ':', color=f'C{i}')
    axes.set_ylabel('own measure; dotted: bound')
    finish(axes)

  def finish(axes):
    axes.set_xscale('log', base=2)
    axes.set_yscale('log')
    axes.set_xlabel(f'steps T, also the batch; layers alike in {alike}')
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)

  space.page.figure(f'norm_{alike}', norms, 'Mean norm of the gradient')
  space.page.figure(f'measures_{alike}', measures, "Each theorem's measure")
