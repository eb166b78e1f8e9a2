"""The trainings: networks to be attacked, and the game against one."""

from collections.abc import Mapping
from typing import Any

import jax

from jaxlab.core.require import (
  above,
  at_least,
  filled,
  inside,
  one_of,
  require,
)
from jaxlab.core.state import Task, Update
from jaxlab.engine import mesh
from jaxlab.engine.compiled import Start
from jaxlab.engine.feed import Feed
from jaxlab.engine.loop import Inputs, Options
from jaxlab.ops.adversarial import of_batch
from jaxlab.ops.attacks import fgsm, pgd
from jaxlab.papers.advgan import game
from jaxlab.recipes import images, optimizers
from jaxlab.recipes.images import ImageTask
from jaxlab.recipes.judge import args_of
from jaxlab.runs.stage import Stage, Workspace, training

Config = Mapping[str, Any]

DEFENCES = ('none', 'fgsm', 'pgd', 'ensemble', 'advgan')
_PARTS = ('params', 'vars')


def with_model(config: Config, name: str, split: str) -> dict[str, Any]:
  """The config of one of `config.models`, on a split of the training set."""
  return {
    **config,
    'model': config['models'][name],
    'data': {**config['data'], 'train_split': split},
  }


def check(config: Config) -> None:
  """Raises InputError where a value cannot be."""
  require(config, {'models': filled(), 'data.num_classes': at_least(2)})
  require(
    config,
    {
      'target.steps': at_least(1),
      'target.split': filled('the images that targets are trained on'),
      'target.defence_epsilon': inside(0, 1, 'in units of images in [0, 1]'),
      'target.defence_steps': at_least(1),
      'target.defence_start': one_of('undefended', 'new'),
      'attack.optimizer.learning_rate': above(0),
    },
  )
  for name in config['models']:
    images.check(with_model(config, name, config['target']['split']))
  game.check(config)


def target_stage(
  config: Config,
  name: str,
  seed: int,
  model: str,
  defence: str = 'none',
  other: str = '',
) -> Stage:
  """The training of a network that is to be attacked.

  Args:
    name: of the stage.
    model: of `config.models`.
    defence: 'none', or adversarial training: 'fgsm', 'pgd'; 'ensemble', FGSM
      on itself or on a trained network of the same model; 'advgan', the
      changes of a generator that was trained against such a network, aimed at
      drawn classes.
    other: the stage of that network, whose weights a defended one begins with
      where `target.defence_start` says so; of 'advgan', that of the game
      against it.

  Raises:
    InputError: an unknown defence.
  """
  require({'defence': defence}, {'defence': one_of(*DEFENCES)}, name='')
  own, t = (
    with_model(config, model, config['target']['split']),
    config['target'],
  )

  def update(task: ImageTask, space: Workspace) -> Update:
    attack = _attack(config, task, defence, mesh.platform(space.mesh))
    tx = optimizers.make(t['optimizer'], t['steps'])
    return images.supervised(task, tx, attack=attack)

  more: dict[str, Any] = {}
  if defence == 'ensemble':
    init = images.image_task(own).network.init
    more['vars'] = {'other': dict(zip(_PARTS, init(jax.random.key(0))))}
  if defence == 'advgan':
    of = game.make(own, images.image_task(own).network)
    more['vars'] = {'other': of.init(jax.random.key(0))['gen']}

  def start(space: Workspace) -> Start:
    left = space.artefact(other)
    net = args_of(left)
    params, vars = net if t['defence_start'] == 'undefended' else ({}, {})
    if defence == 'ensemble':
      vars = {**vars, 'other': dict(zip(_PARTS, net))}
    if defence == 'advgan':
      vars = {**vars, 'other': left.params['gen']}
    return Start(params=params, vars=vars)

  if defence != 'none':
    more['start'] = start
  options = Options(**{**config['train'], 'steps': t['steps']})
  return images.classifier_stage(
    name, own, update, options=options, seed=seed, **more
  )


def _attack(config: Config, task: ImageTask, defence: str, platform: str):
  """What a target is trained on; None for its own images."""
  t = config['target']
  epsilon, objective = t['defence_epsilon'], of_batch(task.logits)
  if defence == 'none':
    return None
  if defence == 'pgd':
    return pgd(
      objective,
      epsilon=epsilon,
      steps=t['defence_steps'],
      keep='last',
      unroll=platform == 'cpu',
    )
  if defence == 'advgan':
    of = game.make(config, task.network)

    def generated(key, images, ids, params, vars, batch):
      aims = of.aims(key, ids, batch['label'])
      return of.attack(vars['other'], images, aims)[0]

    return generated
  itself = fgsm(objective, epsilon=epsilon)
  if defence == 'fgsm':
    return itself

  def others(params, vars, batch):
    params, vars = (vars['other'][part] for part in _PARTS)
    return task.logits(params, vars, batch)

  return [itself, fgsm(of_batch(others), epsilon=epsilon)]


def game_stage(
  config: Config, name: str, seed: int, model: str, attacked: str
) -> Stage:
  """The game of G and D against the network that a stage left.

  Args:
    name: of the stage.
    model: of `config.models`, what the attacked network is.
    attacked: the stage that trained it.
  """
  own = with_model(config, model, config['attack']['split'])

  def played(space: Workspace):
    task = images.image_task(own, space.offline)
    return task, game.make(own, task.network)

  def task(space, inputs):
    _, of = played(space)
    return Task(
      lambda key: initial(of, key),
      {'train': game.update(of, config['train']['steps'])},
    )

  def inputs(space):
    made, of = played(space)
    d = own['data']
    source = made.sets.source(d['train_split'], d['batch_size'], seed)
    feed = Feed(source, space.mesh, ahead=d['ahead'])
    held = made.sets.held_out(d['validation_split'], space.mesh)
    found = {'validation': (game.success(of), held)}
    return Inputs(feed, found, data=made.sets)

  def start(space):
    params, vars = args_of(space.artefact(attacked))
    return Start(params=params, vars=vars)

  return training(
    name,
    Options(**config['train']),
    spec=lambda space: images.spec(own),
    task=task,
    inputs=inputs,
    seed=seed,
    start=start,
    keep=lambda space, opened, result: images.kept(own, opened.data),
  )


def initial(of: game.Game, key: jax.Array) -> tuple[dict, dict]:
  """New params and vars of a game: all three networks."""
  first, second = jax.random.split(key)
  params, vars = of.network.init(first)
  return {**params, **of.init(second)}, vars
