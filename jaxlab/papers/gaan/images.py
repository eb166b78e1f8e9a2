"""GANs on images: the classifier that judges them, the trainings, the table."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlab.core.require import (
  at_least,
  between,
  each,
  filled,
  one_of,
  require,
)
from jaxlab.core.source import ArraySpec
from jaxlab.core.state import Evaluator, State, Task, Update
from jaxlab.core.update import chain, every
from jaxlab.data.licences import licence_of
from jaxlab.engine.feed import Feed, held_out
from jaxlab.engine.loop import Inputs, Options
from jaxlab.evals import generative as evals
from jaxlab.models.dcgan import NORMS, Discriminator, Encoder, Generator
from jaxlab.models.sngan import (
  ResDiscriminator,
  ResGenerator,
  SnDiscriminator,
)
from jaxlab.ops.augment import to_float
from jaxlab.papers.gaan import game, judgement, method
from jaxlab.recipes import images, optimizers
from jaxlab.runs.stage import Stage, training

Config = Mapping[str, Any]


def check(config: Config) -> None:
  """Raises InputError where a value of `images` or `judge` cannot be."""
  c = config['images']
  game.check(c, 'images')
  width = each(at_least(1))
  require(
    config,
    {
      'images.seeds': filled(),
      'images.stack': at_least(1, 'images of the set as channels of one'),
      'images.layout': one_of('dcgan', 'sngan', 'resnet'),
      'images.norm': one_of(*NORMS),
      'images.kernel': at_least(2),
      'images.gen_widths': filled(),
      'images.disc_widths': filled(),
      'images.enc_widths': filled(),
      'images.smooth_end': one_of(True, False),
      'images.frames': at_least(1, 'pictures of the training'),
      'images.classifier': one_of(True, False),
      'judge.samples': at_least(2),
      'judge.accuracy': between(0, 1),
      'judge.nearest': at_least(1),
      'judge.side': at_least(2, 'of the map of the latent plane'),
    },
  )
  widths = ('gen_widths', 'disc_widths', 'enc_widths')
  require(config, {f'images.{name}': width for name in widths})
  if c['classifier']:
    images.check(config)


def make(config: Config, arm: str) -> game.Game:
  """The game of an arm on images."""
  c, d = config['images'], config['data']
  codes = 2 * c['latent'] if arm == 'vaegan' else c['latent']
  channels = d['channels'] * c['stack']
  common = {'kernel': c['kernel'], 'norm': c['norm']}
  gen: Any = Generator(
    d['size'], channels, c['gen_widths'], smooth=c['smooth_end'], **common
  )
  disc: Any = Discriminator(c['disc_widths'], **common)
  if c['layout'] == 'sngan':
    disc = SnDiscriminator(c['disc_widths'][0])
  if c['layout'] == 'resnet':
    gen = ResGenerator(d['size'], channels, c['gen_widths'][0])
    disc = ResDiscriminator(c['disc_widths'][0])
  return game.Game(
    c,
    arm,
    enc=Encoder(c['enc_widths'], latent=codes, **common),
    gen=gen,
    disc=disc,
    shape=(d['size'], d['size'], channels),
    read=partial(read, c['stack']),
  )


def read(stack: int, batch: Mapping) -> game.Rows:
  """Examples of a batch; `stack` images of one channel make one of several."""
  x, ids, mask = to_float(batch['image']), batch['id'], batch['mask']
  if stack == 1:
    return game.Rows(x, ids, mask)
  return game.Rows(
    stacked(x, stack),
    ids.reshape(-1, stack)[:, 0],
    mask.reshape(-1, stack).all(-1),
  )


def stacked(x: Any, stack: int) -> Any:
  """[stack b, h, w, c] -> [b, h, w, stack c]: neighbours side by side."""
  xp = jnp if isinstance(x, jax.Array) else np
  parts = xp.moveaxis(x.reshape(-1, stack, *x.shape[1:]), 1, 3)
  return parts.reshape(*parts.shape[:3], -1)


def stages(config: Config) -> list[Stage]:
  """The classifier, a training and a judgement for each cell, the table."""
  c = config['images']
  found = [classifier_stage(config)] if c['classifier'] else []
  cells = [(arm, seed) for arm in c['arms'] for seed in c['seeds']]
  for arm, seed in cells:
    found += [stage(config, arm, seed)]
    judge = partial(judgement.judge, config, make(config, arm), seed)
    found += [Stage(f'{arm}-s{seed}-judge', judge)]
  conclude = lambda space: judgement.conclude(config, space)
  return [*found, Stage('images', conclude)]


def classifier_stage(config: Config) -> Stage:
  """The stage `classifier`, on images of the set itself.

  It ends in an InputError where the classifier is worse than
  `judge.accuracy`, before anything is trained that it would judge.
  """
  own = config['classifier']

  def update(task, space):
    tx = optimizers.make(own['optimizer'], own['steps'])
    return images.supervised(task, tx)

  def finish(space, inputs, result):
    figures = images.test_figures(space, inputs, result)
    evals.check_accuracy(
      judgement.name_of(config),
      figures['test/accuracy'],
      config['judge']['accuracy'],
    )
    return figures

  options = Options(
    **{**config['train'], **own['train'], 'steps': own['steps']}
  )
  trained = images.classifier_stage(
    'classifier', config, update, options=options, finish=finish
  )
  return trained._replace(judges=True)


def stage(config: Config, arm: str, seed: int) -> Stage:
  """The stage `ARM-sSEED`."""
  c, d = config['images'], config['data']
  of = make(config, arm)
  options = Options(**{**config['train'], **c['train']})
  rows = c['rows'] * c['critic_steps'] * c['stack']
  own = {**config, 'data': {**d, 'batch_size': rows}}
  frames = -(-options.steps // c['frames'])  # steps from one to the next

  def init(key):
    params, vars = of.init(key)
    film = jnp.zeros((c['frames'], len(shown(c)), *of.shape), jnp.uint8)
    return params, {**vars, 'film': film}

  def task(space, inputs):
    update = game.make_update(of, options.steps)
    filmed = every(frames, film(of, shown(c), frames))
    return Task(init, {'train': chain(update, filmed)})

  def inputs(space):
    sets = images.image_task(own, space.offline).sets
    feed = Feed(
      sets.source(d['train_split'], rows, seed), space.mesh, ahead=d['ahead']
    )
    held = held_out(
      partial(sets.source, d['validation_split']),
      space.mesh,
      d['eval_batch_size'] * c['stack'],
    )
    return Inputs(feed, {'dynamics': (dynamics(of), held)})

  return training(
    f'{arm}-s{seed}',
    options,
    spec=lambda space: {
      'train': {
        'image': ArraySpec(
          (rows, d['size'], d['size'], d['channels']), np.uint8
        ),
        'label': ArraySpec((rows,), np.int32),
        'id': ArraySpec((rows,), np.int32),
      }
    },
    task=task,
    inputs=inputs,
    seed=seed,
    keep=lambda space, opened, result: game.kept(
      config, 'images', arm, {d['name']: licence_of(d['name'])}
    ),
  )


def shown(c: Config) -> np.ndarray:
  """Codes of the pictures of a training, [16, d_z] float32.

  A lattice of [-1, 1]^2 where codes are of the plane, else drawn.
  """
  if c['latent'] == 2:
    line = np.linspace(-0.9, 0.9, 4, dtype=np.float32)
    return np.stack(np.meshgrid(line, line), -1).reshape(-1, 2)
  draw = np.random.default_rng(0).uniform(-1, 1, (16, c['latent']))
  return draw.astype(np.float32)


def film(of: game.Game, codes: np.ndarray, apart: int) -> Update:
  """Pictures of some codes, at `vars['film']`, one frame each time."""

  def run(state: State, batch, key):
    params = game.average(state.params, state.vars)
    made = of.generate(params, jnp.asarray(codes))
    frame = jnp.round(255 * made).astype(jnp.uint8)
    frames = state.vars['film'].at[state.step // apart].set(frame)
    return state.replace(vars={**state.vars, 'film': frames}), {}

  return run


def dynamics(of: game.Game) -> Evaluator:
  """How the game stands: `gradient` (the norm of G's, a mean over batches),
  `score_real` and `score_fake`, means of s(D)."""
  names = ('gradient', 'score_real', 'score_fake')

  def update(total, state, batch, key):
    rows = of.read(batch)
    fake = of.fake(state.params, key, rows.id)
    (real, _), (of_fake, _) = of.judge(state.params['disc'], rows.x, fake)
    score = lambda logits: method.mean(jax.nn.sigmoid(logits), rows.mask)
    norm = game.gradient_norm(of, state.params, state.vars, batch, key)
    found = (norm, score(real), score(of_fake))
    new = {name: total[name] + x for name, x in zip(names, found)}
    return {**new, 'batches': total['batches'] + 1}

  def finish(total):
    batches = max(1.0, float(total['batches']))
    return {name: float(total[name]) / batches for name in names}

  return Evaluator(
    lambda: {name: jnp.zeros(()) for name in (*names, 'batches')},
    update,
    finish,
  )
