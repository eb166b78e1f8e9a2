"""ALOE: from a config to stages.

Every method of `config.family.methods` is trained with every seed and then
judged; the last stage puts the seeds together.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxlab.data import outliers
from jaxlab.data.feed import Feed
from jaxlab.data.in_memory import ArraySource
from jaxlab.engine import mesh
from jaxlab.engine.errors import InputError
from jaxlab.engine.loop import Options
from jaxlab.engine.stage import Planned, Stage, training
from jaxlab.engine.state import Task
from jaxlab.engine.update import create_state, minimise
from jaxlab.evals.classify import classify
from jaxlab.models.normalised import Network
from jaxlab.ops import augment
from jaxlab.ops.attack_objectives import cross_entropy
from jaxlab.ops.attacks import pgd
from jaxlab.ops.detection import from_logits, uniform_cross_entropy
from jaxlab.papers.aloe import judgement, method, network, summary
from jaxlab.papers.aloe.sets import Sets

Config = Mapping[str, Any]


def program(config: Config) -> list[Stage]:
  """Trainings, judgements, and the table of all.

  Raises:
    InputError: a value that cannot be; nothing has been computed yet.
  """
  check(config)
  family = config['family']
  runs = [(m, s) for m in family['methods'] for s in family['seeds']]
  found = []
  for name, seed in runs:
    trained = training_stage(config, name, seed)
    found += [trained, judgement.stage(config, name, trained.name)]
  return [*found, summary.stage(config)]


def check(config: Config) -> None:
  """Raises InputError where a value cannot be."""
  family, attack, c = config['family'], config['attack'], config['outliers']
  unknown = [m for m in family['methods'] if m not in method.FAMILY]
  if unknown or not family['methods'] or not family['seeds']:
    raise InputError(
      f'config.family has methods {list(family["methods"])} and seeds '
      f'{list(family["seeds"])}; give at least one of each, methods of '
      f'{", ".join(method.FAMILY)}'
    )
  if not 0 <= attack['epsilon'] <= 1:
    raise InputError(
      f'config.attack.epsilon = {attack["epsilon"]} is not in [0, 1]; budgets '
      'are in units of images in [0, 1]: 1 / 255, say'
    )
  if attack['batch_norm'] not in ('running', 'batch'):
    raise InputError(
      f'config.attack.batch_norm = "{attack["batch_norm"]}" is not "running" '
      'or "batch"'
    )
  if c['ratio'] < 1 or 0 < c['candidates'] < c['ratio'] or c['weight'] < 0:
    raise InputError(
      f'config.outliers has ratio {c["ratio"]}, candidates {c["candidates"]}, '
      f'weight {c["weight"]}; give a ratio >= 1, 0 or more candidates than '
      'that, a weight >= 0'
    )
  if c['overlap'] not in ('refuse', 'drop'):
    raise InputError(
      f'config.outliers.overlap = "{c["overlap"]}" is not "refuse" or "drop"'
    )
  if config['data']['augment'] not in ('none', 'crop_flip'):
    raise InputError(
      f'config.data.augment = "{config["data"]["augment"]}" is not one of '
      'none, crop_flip'
    )
  network.build(config)
  judgement.check(config)
  make_optimizer(config)


def make_optimizer(config: Config) -> optax.GradientTransformation:
  """SGD with momentum, coupled decay of all parameters and a cosine.

  The rate of update t, from 0, is that of t + 1: the official code moves the
  schedule before the step.
  """
  c, steps = config['optimizer'], config['train']['steps']
  cosine = optax.cosine_decay_schedule(
    c['learning_rate'], steps, alpha=c['final_fraction']
  )
  return optax.chain(
    optax.add_decayed_weights(c['weight_decay']),
    optax.sgd(lambda t: cosine(t + 1), c['momentum'], nesterov=c['nesterov']),
  )


def make_loss(config: Config, net: Network, terms: method.Terms, platform: str):
  """The member's loss on batches of uint8 images.

  Args:
    platform: that the step is for: attacks are unrolled on 'cpu', where
      convolutions inside loops are slow.
  """
  c, d, a = config['outliers'], config['data'], config['attack']
  looked_at = net.logits if a['batch_norm'] == 'running' else net.batch_logits
  steps = a['steps'] or method.attack_steps(a['epsilon'])
  make = partial(
    pgd,
    epsilon=a['epsilon'],
    steps=steps,
    step_size=a['step_size'] or None,
    keep='last',
    unroll=platform == 'cpu',
  )
  far = from_logits(looked_at, uniform_cross_entropy)
  mine = None
  if c['candidates']:

    def sure(images, params, vars):
      return -uniform_cross_entropy(net.logits(images, params, vars))

    mine = method.informative(sure, c['ratio'], c['quantile'])
  inner = method.robust_loss(
    net.train,
    terms,
    attack_inliers=make(cross_entropy(looked_at)),
    attack_outliers=make(far),
    weight=c['weight'],
    mine=mine,
  )
  changes = []
  if d['augment'] == 'crop_flip':
    changes = [augment.pad_crop(d['pad']), augment.flip()]

  def loss(params, vars, batch, key):
    craft, first, second = jax.random.split(key, 3)
    batch = {
      **batch,
      'image': _varied(first, batch['image'], batch['id'], changes),
    }
    if terms.outliers:
      pixels, ids = batch['outlier'], batch['outlier_id']
      flat = pixels.reshape(-1, *pixels.shape[2:])
      varied = _varied(second, flat, ids.reshape(-1), changes)
      batch['outlier'] = varied.reshape(pixels.shape)
    return inner(params, vars, batch, craft)

  return loss


def _varied(key, pixels, ids, changes):
  if not changes:
    return augment.to_float(pixels)
  return augment.augment(key, pixels, ids, *changes)


def make_task(config: Config, name: str, platform: str, evals=None) -> Task:
  """The training step of a member of the family."""
  net = network.build(config)
  loss = make_loss(config, net, method.FAMILY[name], platform)
  update = minimise(loss, 'net', make_optimizer(config))

  def init(key):
    params, vars = net.init(key)
    return create_state(params, update, vars=vars)

  return Task(init, {'train': update}, evals or {})


def training_stage(config: Config, name: str, seed: int) -> Stage:
  """The stage `NAME-sSEED`."""
  train = dict(config['train'])
  rows = train.pop('batch_size')
  options = Options(**train)
  terms, ratio = method.FAMILY[name], _candidates(config)

  def build(space):
    net = network.build(config)
    sets = Sets(config, space.offline)
    held_out = sets.inliers(config['data']['validation_split'])

    def logits(params, vars, batch):
      return net.logits(augment.to_float(batch['image']), params, vars)

    evals = {'validation': (classify(logits), sets.once(held_out, space.mesh))}
    source: Any = ArraySource(sets.train, batch_size=rows, seed=seed)
    if terms.outliers:
      extra = ArraySource(
        sets.outliers, batch_size=rows * ratio, seed=seed + 2**31
      )
      source = outliers.Beside(source, extra, ratio)
    feed = Feed(
      source,
      space.mesh,
      workers=config['data']['workers'],
      ahead=config['data']['ahead'],
      axes=mesh.row_axes(space.mesh),
    )
    return make_task(config, name, mesh.platform(space.mesh), evals), feed

  def plan(space):
    d = config['data']
    shape = (d['size'], d['size'], d['channels'])
    of = jax.ShapeDtypeStruct
    batch = {
      'image': of((rows, *shape), jnp.uint8),
      'label': of((rows,), jnp.int32),
      'id': of((rows,), jnp.int32),
    }
    if terms.outliers:
      batch['outlier'] = of((rows, ratio, *shape), jnp.uint8)
      batch['outlier_id'] = of((rows, ratio), jnp.int32)
    task = make_task(config, name, mesh.platform(space.mesh))
    return Planned(
      task, {'train': batch}, options.steps, max_bad_steps=options.max_bad_steps
    )

  return training(f'{name}-s{seed}', build, options, None, plan, seed=seed)


def _candidates(config: Config) -> int:
  c = config['outliers']
  return c['candidates'] or c['ratio']
