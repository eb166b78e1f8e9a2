"""Image classification with cross-entropy and the encouraging loss."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxlab.data.image_sets import ImageSets
from jaxlab.data.in_memory import ArraySource
from jaxlab.engine import mesh
from jaxlab.engine.errors import InputError
from jaxlab.engine.feed import Feed
from jaxlab.engine.stage import Planned, Stage, training
from jaxlab.engine.state import Objective, Task
from jaxlab.engine.update import create_state, minimise
from jaxlab.evals import study
from jaxlab.evals.classify import classify
from jaxlab.models import classifiers
from jaxlab.models.normalised import Network, normalised
from jaxlab.ops import augment
from jaxlab.papers.encouraging import (
  analysis,
  arms,
  image_judgement,
)

Config = Mapping[str, Any]


def program(config: Config) -> list[Stage]:
  """Trials, final runs with their judgement, the study and the figures.

  Raises:
    InputError: a value that cannot be; nothing has been computed yet.
  """
  check(config)
  return [
    *study.stages(
      config,
      list(config['losses']),
      lambda cell: _stage(config, cell),
      ('accuracy', 'nats'),
    ),
    image_judgement.figures_stage(config),
  ]


def check(config: Config) -> None:
  """Raises InputError where a value cannot be."""
  d = config['data']
  if d['augment'] not in ('none', 'crop_flip'):
    raise InputError(
      f'config.data.augment = "{d["augment"]}" is not one of none, crop_flip'
    )
  if d['long_tail'] < 1:
    raise InputError(
      f'config.data.long_tail = {d["long_tail"]} must be >= 1: examples of the '
      'most frequent class to one of the least; 1 leaves the set as it is'
    )
  counts = np.ones(d['num_classes'], int)
  for arm in config['losses']:
    arms.loss_of(config, arm, counts)
  build_network(config)
  make_optimizer(config, 1.0)
  image_judgement.check(config)


def build_network(config: Config) -> Network:
  """The classifier on images in [0, 1].

  Raises:
    InputError: an unknown model, or an option that cannot be.
  """
  c, d = config['model'], config['data']
  try:
    model = classifiers.make(c['name'], d['num_classes'], c['dtype'], c)
    shape = (d['size'], d['size'], d['channels'])
    return normalised(model, shape, d['mean'], d['std'])
  except ValueError as error:
    raise InputError(str(error)) from error


def make_optimizer(
  config: Config, learning_rate: float
) -> optax.GradientTransformation:
  """SGD with momentum and coupled decay; the rate falls at given shares."""
  c, steps = config['optimizer'], config['train']['steps']
  if not all(0 < share < 1 for share in c['drops']):
    raise InputError(
      f'config.optimizer.drops = {list(c["drops"])} must be shares of the '
      'training, in (0, 1)'
    )
  falls = {int(share * steps): c['drop_factor'] for share in c['drops']}
  rate = optax.piecewise_constant_schedule(learning_rate, falls)
  return optax.chain(
    optax.add_decayed_weights(c['weight_decay']),
    optax.sgd(rate, c['momentum'], nesterov=c['nesterov']),
  )


def long_tailed(labels: np.ndarray, classes: int, ratio: float) -> np.ndarray:
  """Rows of a long-tailed part of a set, ascending.

  Class k keeps n ratio^(-k / (K - 1)) of its first examples, where n is the
  number of the rarest class. Source: Cui et al., arXiv 1901.05555, section 5.1.

  Args:
    labels: [n] int in [0, classes).
    ratio: >= 1, of the most frequent class to the least.
  """
  most = np.bincount(labels, minlength=classes).min()
  kept = []
  for k in range(classes):
    count = max(1, int(most * ratio ** (-k / max(classes - 1, 1))))
    kept.append(np.flatnonzero(labels == k)[:count])
  return np.sort(np.concatenate(kept))


def make_task(
  config: Config, cell: study.Cell, rate: float, counts, evals=None
) -> Task:
  """The training step on `params['net']`; `vars['updates']` counts."""
  net, d = build_network(config), config['data']
  of_rows = arms.loss_of(config, cell.arm, counts)
  changes = []
  if d['augment'] == 'crop_flip':
    changes = [augment.pad_crop(d['pad']), augment.flip()]

  def loss(params, vars, batch, key):
    if changes:
      images = augment.augment(key, batch['image'], batch['id'], *changes)
    else:
      images = augment.to_float(batch['image'])
    logits, new = net.train(params, vars, images)
    mask = batch['mask']
    found = of_rows(logits, batch['label'], mask, vars['updates'])
    rows = mask.sum().astype(jnp.float32)
    right = ((logits.argmax(-1) == batch['label']) & mask).sum()
    return Objective(
      found.sum(),
      rows,
      vars={**new, 'updates': vars['updates'] + 1},
      metrics={'accuracy': (right.astype(jnp.float32), rows)},
    )

  update = minimise(loss, 'net', make_optimizer(config, rate))

  def init(key):
    params, vars = net.init(key)
    vars = {**vars, 'updates': jnp.zeros((), jnp.int32)}
    return create_state(params, update, vars=vars)

  return Task(init, {'train': update}, evals or {})


def _stage(config: Config, cell: study.Cell) -> Stage:
  d, rows = config['data'], config['train']['batch_size']
  options = study.options_of(config, cell, ['batch_size'])

  def training_set(sets):
    """Its arrays, and the examples of each class."""
    arrays = sets.inliers(d['train_split'])
    if d['long_tail'] > 1:
      kept = long_tailed(arrays['label'], d['num_classes'], d['long_tail'])
      arrays = {name: array[kept] for name, array in arrays.items()}
    return arrays, np.bincount(arrays['label'], minlength=d['num_classes'])

  def build(space):
    sets = ImageSets(d, space.offline)
    arrays, counts = training_set(sets)
    held = sets.once(sets.inliers(d['validation_split']), space.mesh)
    apply = partial(_logits, build_network(config))
    capacity = held.steps * (-(-d['eval_batch_size'] // space.mesh.size))
    capacity *= space.mesh.size
    evals = {
      'validation': (classify(apply), held),
      'margins': (analysis.margin_quantiles(apply, capacity), held),
    }
    feed = Feed(
      ArraySource(arrays, batch_size=rows, seed=cell.seed),
      space.mesh,
      workers=d['workers'],
      ahead=d['ahead'],
      axes=mesh.row_axes(space.mesh),
    )
    return make_task(config, cell, cell.rate(space), counts, evals), feed

  def finish(space, task, fitted):
    if not cell.test:
      return {}
    _, counts = training_set(ImageSets(d, space.offline))
    net = build_network(config)
    return image_judgement.judge(
      config, cell, net, counts, space, task, fitted.state
    )

  def plan(space):
    of = jax.ShapeDtypeStruct
    batch = {
      'image': of((rows, d['size'], d['size'], d['channels']), jnp.uint8),
      'label': of((rows,), jnp.int32),
      'id': of((rows,), jnp.int32),
    }
    counts = np.ones(d['num_classes'], int)
    task = make_task(config, cell, cell.learning_rate, counts)
    return Planned(
      task, {'train': batch}, options.steps, max_bad_steps=options.max_bad_steps
    )

  return training(cell.name, build, options, finish, plan, seed=cell.seed)


def _logits(net: Network, params, vars, batch):
  return net.logits(augment.to_float(batch['image']), params, vars)
