"""Image classification under LAMB and its rivals: from a config to stages.

`configs/resnet50.py` is one training on ImageNet, `configs/lamb_images.py` a
study of batch sizes.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxlab.data import image, in_memory, streaming
from jaxlab.engine import mesh
from jaxlab.engine.errors import InputError
from jaxlab.engine.evaluate import Evaluation
from jaxlab.engine.feed import Feed
from jaxlab.engine.loop import Options
from jaxlab.engine.stage import Planned, Stage, Workspace, training
from jaxlab.engine.state import Objective, Task
from jaxlab.engine.update import accumulate, create_state, minimise
from jaxlab.evals.classify import classify
from jaxlab.models import classifiers
from jaxlab.ops import augment
from jaxlab.ops.losses import masked_cross_entropy
from jaxlab.papers.lamb import optimizers, study
from jaxlab.papers.lamb.study import Run

Config = Mapping[str, Any]
IMAGENET = {'mean': (0.485, 0.456, 0.406), 'std': (0.229, 0.224, 0.225)}


def program(config: Config) -> list[Stage]:
  """One training, or the cells of the study and its figures.

  Raises:
    InputError: a value that cannot be; nothing has been computed yet.
  """
  if config['study']['batch_sizes']:
    return study.stages(config, lambda run: _stage(config, run))
  train, rate = config['train'], config['optimizer']
  run = Run(
    'train',
    rate['name'],
    rate['learning_rate'],
    rate['warmup_steps'],
    train['steps'],
    train['batch_size'],
    train['accumulate'],
    config['seed'],
    choose=lambda space: rate['learning_rate'],
  )
  return [_stage(config, run)]


def make_model(config: Config, classes: int):
  """The network of the config."""
  c = config['model']
  try:
    return classifiers.make(c['name'], classes, c['dtype'], c)
  except ValueError as error:
    raise InputError(str(error)) from error


def make_augment(config: Config, train: bool) -> Callable:
  """(key, batch) -> images [b, h, w, c] float32, as the network takes them."""
  c = config['data']
  scale = augment.normalise(c['mean'], c['std'])
  if not train or c['augment'] == 'none':
    steps = [scale]
  elif c['augment'] == 'crop_flip':
    steps = [augment.pad_crop(c['pad']), augment.flip(), scale]
  elif c['augment'] == 'imagenet':
    crop = augment.random_resized_crop((c['crop'], c['crop']))
    steps = [crop, augment.flip(), scale]
  else:
    raise InputError(
      f'config.data.augment = "{c["augment"]}" is not one of none, crop_flip, '
      'imagenet'
    )

  def prepare(key, batch):
    images = batch['image']
    if not train and c['crop']:
      images = _centre(images, c['crop'])
    return augment.augment(key, images, batch['id'], *steps)

  return prepare


def _centre(images: jax.Array, side: int) -> jax.Array:
  top, left = ((length - side) // 2 for length in images.shape[1:3])
  return images[:, top : top + side, left : left + side]


def make_task(
  config: Config, run: Run, rate: float, classes: int, shape, evals
) -> Task:
  """The training step on `params['net']`, statistics in `vars`.

  Batch statistics are those of the whole global batch, on however many devices.
  """
  model = make_model(config, classes)
  prepare = make_augment(config, train=True)
  smoothing = config['model']['label_smoothing']

  def loss(params, vars, batch, key):
    images = prepare(jax.random.fold_in(key, 0), batch)
    logits, new = model.apply(
      {'params': params['net'], **vars['net']},
      images,
      train=True,
      mutable=['batch_stats'],
    )
    mask = batch['mask']
    nats, rows = masked_cross_entropy(logits, batch['label'], mask, smoothing)
    right = jnp.sum((logits.argmax(-1) == batch['label']) & mask)
    return Objective(
      nats,
      rows,
      vars={'net': dict(new)},
      metrics={'accuracy': (right.astype(jnp.float32), rows)},
    )

  tx = _optimizer(config, run, rate)
  if run.accumulate > 1:
    update = accumulate(run.accumulate, loss, 'net', tx, unroll=False)
  else:
    update = minimise(loss, 'net', tx)

  def init(key):
    dummy = jnp.zeros((1, *shape), jnp.float32)
    make = lambda k: model.init(k, dummy, train=False)
    params = dict(jax.jit(make)(key))
    net = params.pop('params')
    return create_state({'net': net}, update, vars={'net': params})

  return Task(init, {'train': update}, evals)


def make_evaluator(config: Config, classes: int):
  """Accuracy and cross-entropy, with running statistics."""
  model = make_model(config, classes)
  prepare = make_augment(config, train=False)

  def apply(params, vars, batch):
    images = prepare(jax.random.key(0), batch)
    return model.apply(
      {'params': params['net'], **vars['net']}, images, train=False
    )

  return classify(apply)


def _optimizer(config: Config, run: Run, rate: float):
  return optimizers.make(
    {**config['optimizer'], 'name': run.optimizer},
    run.steps,
    learning_rate=rate,
    warmup_steps=run.warmup_steps,
  )


class _Split(NamedTuple):
  """One split of the config's set, as something to make sources of."""

  source: Callable
  classes: int
  shape: tuple[int, int, int]  # that the network sees


def _open(config: Config, split: str, offline: bool) -> _Split:
  c = config['data']
  names = {'image': c['image_feature'], 'label': c['label_feature']}
  if c['stream']:
    records = streaming.open_records(c['name'], split, offline=offline, **names)
    canvas = image.Canvas(c['size'] or None, c['channels'] or None, 'crop')
    make: Callable = partial(streaming.RecordSource, records, canvas)
    classes, shape = len(records.classes), canvas.shape
  else:
    found = image.open_images(
      c['name'],
      split,
      size=c['size'] or None,
      channels=c['channels'] or None,
      offline=offline,
      **names,
    )
    arrays = {'image': found.image, 'label': found.label}
    make = partial(in_memory.ArraySource, arrays)
    classes, shape = len(found.classes), found.image.shape[1:]
  crop = c['crop']
  return _Split(make, classes, (crop, crop, shape[2]) if crop else shape)


def _stage(config: Config, run: Run) -> Stage:
  train = dict(config['train'])
  for name in ('steps', 'batch_size', 'accumulate'):
    train.pop(name)
  options = Options(steps=run.steps, **train)
  if run.batch_size % run.accumulate:
    raise InputError(
      f'batch of {run.batch_size} does not divide into {run.accumulate} '
      f'micro-batches in stage "{run.name}"'
    )
  make_model(config, 2)
  make_augment(config, train=True)
  _optimizer(config, run, run.learning_rate)

  def build(space: Workspace):
    c = config['data']
    split = _open(config, c['train_split'], space.offline)
    evals = {
      'validation': (
        make_evaluator(config, split.classes),
        _held_out(config, c['validation_split'], space),
      )
    }
    rate = run.rate(space)
    task = make_task(config, run, rate, split.classes, split.shape, evals)
    source = split.source(batch_size=run.batch_size, seed=run.seed)
    feed = Feed(
      source,
      space.mesh,
      workers=c['workers'],
      ahead=c['ahead'],
      axes=mesh.row_axes(space.mesh),
    )
    return task, feed

  def finish(space, task, fitted):
    figures = dict(fitted.metrics)
    if run.test:
      c = config['data']
      evaluator, _ = task.evals['validation']  # compiled already
      feed = _held_out(config, c['test_split'], space)
      found = Evaluation('test', evaluator, feed, space.seed).run(fitted.state)
      figures |= {f'test/{k}': v for k, v in found.items()}
    return figures

  def plan(space):
    c = config['data']
    side, crop = c['size'], c['crop'] or c['size']
    shape = (crop, crop, c['channels'] or 3)
    task = make_task(
      config, run, run.learning_rate, c['num_classes'], shape, {}
    )
    batch = {
      'image': jax.ShapeDtypeStruct(
        (run.batch_size, side, side, shape[2]), jnp.uint8
      ),
      'label': jax.ShapeDtypeStruct((run.batch_size,), jnp.int32),
      'id': jax.ShapeDtypeStruct((run.batch_size,), jnp.int32),
    }
    return Planned(
      task,
      {'train': batch},
      run.steps,
      max_bad_steps=options.max_bad_steps,
    )

  return training(run.name, build, options, finish, plan, seed=run.seed)


def _held_out(config: Config, split: str, space: Workspace) -> Feed:
  ways = space.mesh.size // space.mesh.shape.get('model', 1)
  rows = -(-config['data']['eval_batch_size'] // ways) * ways
  source = _open(config, split, space.offline).source(
    batch_size=rows, repeat=False, shuffle=False
  )
  return Feed(
    source,
    space.mesh,
    workers=config['data']['workers'],
    steps=source.num_batches,
    axes=mesh.row_axes(space.mesh),
  )
