"""25 Gaussians in the plane: all seeds of an arm in one program."""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlab.core import keys
from jaxlab.core.require import at_least, filled, require
from jaxlab.core.source import ArraySpec
from jaxlab.core.state import Evaluator, Task
from jaxlab.data.in_memory import ArraySource
from jaxlab.engine import metrics
from jaxlab.engine.feed import Feed, held_out
from jaxlab.engine.loop import FitResult, Inputs, Options
from jaxlab.models.dcgan import Mlp, MlpDiscriminator
from jaxlab.ops import generative
from jaxlab.papers.gaan import game, method, side_by_side
from jaxlab.recipes.study import interval, verdict
from jaxlab.runs.stage import Figures, Stage, Workspace, training

Config = Mapping[str, Any]

# Points of the data lie in [-SCALE, SCALE]: 4 and eight deviations.
SCALE = 4 + 8 * generative.GRID_SIGMA
_FIGURES = ('covered', 'share', 'kl')
_DYNAMICS = ('gradient', 'score_real', 'score_fake')


def check(config: Config) -> None:
  """Raises InputError where a value of `grid` cannot be."""
  game.check(config['grid'], 'grid')
  require(
    config,
    {
      'grid.seeds': filled(),
      'grid.width': at_least(1),
      'grid.layers': at_least(1),
      'grid.points': at_least(25),
      'grid.samples': at_least(25),
    },
  )


def points(count: int, seed: int) -> np.ndarray:
  """[count, 2] float32 in [0, 1]: the 25 Gaussians, in turn."""
  rng = np.random.default_rng(seed)
  centres = generative.GRID[np.arange(count) % len(generative.GRID)]
  found = centres + generative.GRID_SIGMA * rng.normal(size=(count, 2))
  return ((found / SCALE + 1) / 2).astype(np.float32)


def plane(x: np.ndarray) -> np.ndarray:
  """Points in [0, 1] in units of the data."""
  return (2 * np.asarray(x, np.float64) - 1) * SCALE


def make(c: Config, arm: str) -> game.Game:
  """The game of an arm on the grid."""
  hidden = (c['width'],) * c['layers']
  codes = 2 * c['latent'] if arm == 'vaegan' else c['latent']
  return game.Game(
    c,
    arm,
    enc=Mlp(hidden, centred=True, features=codes),
    gen=Mlp(hidden, sigmoid=True),
    disc=MlpDiscriminator(hidden, centred=True),
    shape=(2,),
    read=lambda batch: game.Rows(batch['point'], batch['id'], batch['mask']),
  )


def stages(config: Config) -> list[Stage]:
  """A training for each arm, and the table of all."""
  arms = config['grid']['arms']
  found = [stage(config, arm) for arm in arms]
  return [*found, Stage('grid', lambda space: conclude(config, space))]


def stage(config: Config, arm: str) -> Stage:
  """The stage `grid-ARM`: all seeds of an arm."""
  c = config['grid']
  of, seeds = make(c, arm), len(c['seeds'])
  options = Options(**{**config['train'], **c['train']})
  rows = seeds * c['rows'] * c['critic_steps']

  def init(key):
    del key  # the seeds are the config's own
    made = [jax.random.key(seed) for seed in c['seeds']]
    return jax.jit(jax.vmap(of.init))(jnp.stack(made))

  def task(space, inputs):
    update = game.make_update(of, options.steps)
    return Task(init, {'train': side_by_side.SideBySide(seeds, update)})

  def inputs(space):
    arrays = {'point': points(c['points'], seed=0)}
    source = ArraySource(arrays, batch_size=rows, seed=config['seed'])
    held = {'point': points(c['samples'], seed=1)}
    once = lambda rows: ArraySource(
      held, batch_size=rows, repeat=False, shuffle=False
    )
    feed = held_out(once, space.mesh, c['samples'])
    evals = {'samples': (evaluator(of, seeds, c['samples']), feed)}
    return Inputs(Feed(source, space.mesh), evals)

  return training(
    f'grid-{arm}',
    options,
    spec=lambda space: {
      'train': {
        'point': ArraySpec((rows, 2), np.float32),
        'id': ArraySpec((rows,), np.int32),
      }
    },
    task=task,
    inputs=inputs,
    finish=partial(finish, config, of),
    keep=lambda space, opened, result: game.kept(
      config, 'grid', arm, {'25 Gaussians': 'none needed: it is drawn'}
    ),
  )


def evaluator(of: game.Game, seeds: int, samples: int) -> Evaluator:
  """Modes of G(z), and how the game stands, of each seed.

  Args:
    samples: drawn in all; the feed has as many real points.

  Returns:
    Figures over seeds, `covered`, `share`, `kl` by the paper's convention and
    `pacgan/…`, `gradient` (the norm of G's), `score_real`, `score_fake` (means
    of s(D)); and `s0/…` of the first seed, ….
  """

  def init():
    return {
      'points': jnp.zeros((seeds, samples, 2)),
      **{name: jnp.zeros(seeds) for name in (*_DYNAMICS, 'batches')},
    }

  def one(params, vars, batch, key):
    rows = of.read(batch)
    fake = of.generate(game.average(params, vars), of.latent(key, rows.id))
    (real, _), (of_fake, _) = of.judge(params['disc'], rows.x, fake)
    score = lambda logits: method.mean(jax.nn.sigmoid(logits), rows.mask)
    found = {
      'gradient': game.gradient_norm(of, params, vars, batch, key),
      'score_real': score(real),
      'score_fake': score(of_fake),
      'batches': jnp.ones(()),
    }
    return fake, found

  def update(total, state, batch, key):
    vars = {k: v for k, v in state.vars.items() if k != 'health'}
    keys = side_by_side.keys_of(key, seeds)
    fake, found = jax.vmap(one, (0, 0, None, 0))(
      state.params, vars, batch, keys
    )
    # Padding is written beyond the end, which drops it.
    at = jnp.where(batch['mask'], batch['id'], samples)
    points = total['points'].at[:, at].set(fake, mode='drop')
    return {'points': points, **{k: total[k] + v for k, v in found.items()}}

  def finish(total):
    each: dict[str, np.ndarray] = {}
    modes = [generative.grid_modes(plane(x)) for x in total['points']]
    for rule, before in (('gaan', ''), ('pacgan', 'pacgan/')):
      for name in _FIGURES:
        values = [getattr(m[rule], name) for m in modes]
        each[before + name] = np.array(values, np.float64)
    for name in _DYNAMICS:
      each[name] = np.asarray(total[name]) / np.asarray(total['batches'])
    means = {name: float(values.mean()) for name, values in each.items()}
    return means | {
      f's{i}/{name}': float(value)
      for name, values in each.items()
      for i, value in enumerate(values)
    }

  return Evaluator(init, update, finish)


def finish(
  config: Config,
  of: game.Game,
  space: Workspace,
  inputs: Inputs,
  result: FitResult,
) -> Figures:
  """Scatter plots of what each seed generates."""
  c = config['grid']
  ids = jnp.arange(c['samples'])

  @jax.jit
  def draw(params, vars, keys):
    make = lambda p, v, k: of.fake(game.average(p, v), k, ids)
    return jax.vmap(make)(params, vars, keys)

  state = result.state
  seeds = len(c['seeds'])
  vars = {k: v for k, v in state.vars.items() if k != 'health'}
  each = side_by_side.keys_of(keys.stream(space.seed, 'samples'), seeds)
  found = plane(np.asarray(draw(state.params, vars, each)))

  def scatter(axes):
    for i, points in enumerate(found):
      axes.scatter(*(points + (11 * i, 0)).T, s=1, linewidths=0)
      axes.scatter(
        *(generative.GRID + (11 * i, 0)).T, s=8, c='none', edgecolors='0.6'
      )
    axes.set_aspect('equal')
    axes.axis('off')

  caption = f'{of.arm}: {c["samples"]} points of each seed, and the 25 centres'
  space.page.figure(f'{of.arm}-points', scatter, caption, (2 * seeds, 2))
  return {}


def conclude(config: Config, space: Workspace) -> Figures:
  """The table of all arms, their curves, and the verdict."""
  c = config['grid']
  arms, seeds = c['arms'], len(c['seeds'])
  by_arm = {arm: space.figures(f'grid-{arm}') for arm in arms}

  def values(arm, name):
    found = [by_arm[arm][f'samples/s{i}/{name}'] for i in range(seeds)]
    return [math.nan if x is None else x for x in found]

  names = [*_FIGURES, *(f'pacgan/{name}' for name in _FIGURES), *_DYNAMICS]
  first, figures = arms[0], {}
  rows = []
  for name in names:
    row = {'figure': name}
    for arm in arms:
      found = values(arm, name)
      row[arm] = interval(found)
      figures[f'{arm}/{name}'] = sum(found) / seeds
      if arm != first:
        gains = [x - y for x, y in zip(found, values(first, name))]
        row[f'{arm} - {first}'] = interval(gains)
    rows.append(row)
  good = {
    arm: sum(
      covered >= 24 and share >= 0.9
      for covered, share in zip(values(arm, 'covered'), values(arm, 'share'))
    )
    for arm in arms
  }
  rows.append({'figure': 'seeds of >= 24 modes and >= .9 of points', **good})
  others = [f'{arm} - {first}' for arm in arms[1:]]
  title = (
    f'25 Gaussians, {c["samples"]} points, seeds {list(c["seeds"])}: mean and '
    '95 % t-interval; a perfect sampler has 25, .9817 and '
    f'{24 / (2 * 0.9817 * c["samples"]):.4f}'
  )
  space.page.table(title, ['figure', *arms, *others], rows, show=True)
  for arm in arms[1:]:
    for name in ('covered', 'share', 'pacgan/covered'):
      gains = [x - y for x, y in zip(values(arm, name), values(first, name))]
      space.page.headline(
        f'25 Gaussians, {name}: {arm} - {first} = {interval(gains)}',
        verdict(gains, True),
      )
  if 'gaan' in arms:
    enough = good['gaan'] >= 0.75 * seeds
    space.page.headline(
      f'GAAN has 24 of 25 modes and .9 of its points on them on '
      f'{good["gaan"]} of {seeds} seeds',
      'shown' if enough else 'not shown',
    )
  _curves(space, arms, seeds)
  return figures


def _curves(space: Workspace, arms, seeds: int) -> None:
  """What is evaluated, over steps: the mean and each seed."""
  lines = {
    arm: [
      line
      for line in metrics.read(space.folder(f'grid-{arm}') / 'metrics.jsonl')
      if line['kind'] == 'eval'
    ]
    for arm in arms
  }
  titles = {
    'covered': 'modes covered, of 25',
    'pacgan/covered': 'modes with a point, of 25',
    'share': 'share of points on a mode',
    'kl': 'KL to uniform, nats',
    'gradient': 'norm of the gradient of L_G',
    'score_fake': 'E s(D(G(z))); dashed: E s(D(x))',
  }
  for name, title in titles.items():

    def draw(axes, name=name, title=title):
      for i, (arm, found) in enumerate(lines.items()):
        steps = [line['step'] for line in found]
        of = lambda key, found=found: [line[key] for line in found]
        for s in range(seeds):
          axes.plot(steps, of(f'samples/s{s}/{name}'), f'C{i}', alpha=0.2)
        axes.plot(steps, of(f'samples/{name}'), f'C{i}', label=arm)
        if name == 'score_fake':
          axes.plot(steps, of('samples/score_real'), f'C{i}--')
      if name == 'gradient':
        axes.set_yscale('log')
      axes.set_xlabel('steps')
      axes.set_ylabel(title)
      axes.legend(frameon=False)
      axes.grid(alpha=0.3)

    file = f'grid-{name.replace("/", "-")}'
    space.page.figure(file, draw, f'25 Gaussians: {title}')
