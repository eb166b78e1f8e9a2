"""Image classification, once for all papers: network, data, step, stage.

  task = image_task(config, offline)          # the network and its data
  update = supervised(task, tx)               # one gradient step of it
  stage = classifier_stage('train', config, lambda task, space: update)

The sections `data` and `model` of a config are read here; `check` lists their
keys. Networks see images in [0, 1]: their normalisation is inside.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxlab.core.errors import InputError
from jaxlab.core.require import at_least, one_of, require
from jaxlab.core.source import ArraySpec, Source, Spec
from jaxlab.core.state import (
  Evaluator,
  Objective,
  State,
  Task,
  Tree,
  Update,
  Vars,
)
from jaxlab.core.update import accumulate, minimise
from jaxlab.data.images.sets import ImageSets
from jaxlab.data.licences import licence_of
from jaxlab.engine.compiled import Start
from jaxlab.engine.evaluate import measured
from jaxlab.engine.feed import Feed
from jaxlab.engine.loop import FitResult, Inputs, Options
from jaxlab.evals.classify import answers_of, classify
from jaxlab.models import classifiers
from jaxlab.models.normalised import Network, normalised
from jaxlab.ops import augment
from jaxlab.ops.adversarial import adversarial_loss
from jaxlab.ops.attack_steps import Attack
from jaxlab.ops.losses import masked_cross_entropy
from jaxlab.recipes import pictures
from jaxlab.runs.model import Kept, Model
from jaxlab.runs.stage import Figures, Specs, Stage, Workspace, training

Config = Mapping[str, Any]
# (logits [b, k], labels [b], mask [b], State.vars) -> Objective
LogitLoss = Callable[[jax.Array, jax.Array, jax.Array, Vars], Objective]
Finish = Callable[[Workspace, Inputs, FitResult], Figures]

_EXAMPLES = 2  # images beside a model, to try it with


class ImageTask(NamedTuple):
  """A classifier with its data, made of a config's `data` and `model`."""

  network: Network
  sets: Any  # ImageSets, opened when asked; None under --plan
  # (key, batch) -> [b, h, w, c] float32 in [0, 1], augmented for training; 0
  # where the batch has a mask and it is False
  prepare: Callable[[jax.Array, Mapping], jax.Array]
  # (params, vars, batch) -> logits [b, k], with running statistics
  logits: Callable[..., jax.Array]


def check(config: Config) -> None:
  """Raises InputError where a value of `data` or `model` cannot be."""
  rules = {
    'data.num_classes': at_least(2),
    'data.size': at_least(1, 'the side of all images'),
    'data.channels': one_of(1, 3),
    'data.crop': at_least(0, '0 leaves images as they are'),
    'data.augment': one_of('none', 'crop_flip', 'imagenet'),
    'data.pad': at_least(0),
    'data.batch_size': at_least(1),
    'data.eval_batch_size': at_least(1),
    'data.stream': one_of(True, False),
  }
  if config['data']['augment'] == 'imagenet':
    rules['data.crop'] = at_least(1, 'the side that the network sees')
  require(config, rules)


def image_task(config: Config, offline: bool = True) -> ImageTask:
  """The classifier of a config; no data is opened yet.

  Args:
    offline: open no socket when the data is opened.

  Raises:
    InputError: an unknown model, or an option that cannot be.
  """
  c, d = config['model'], config['data']
  side = d['crop'] or d['size']
  try:
    network = normalised(
      classifiers.make(c['name'], d['num_classes'], c['dtype'], c),
      (side, side, d['channels']),
      d['mean'],
      d['std'],
    )
  except ValueError as error:
    raise InputError(str(error)) from error

  def logits(params, vars, batch):
    images = _centre(augment.to_float(batch['image']), d['crop'])
    return network.logits(images, params, vars)

  return ImageTask(network, ImageSets(d, offline), preparation(d), logits)


def preparation(d: Config) -> Callable[[jax.Array, Mapping], jax.Array]:
  """`ImageTask.prepare` of a section `data`: its `augment`, `pad`, `crop`."""
  changes = _augmentation(d)

  def prepare(key, batch):
    found = augment.to_float(batch['image'])
    if 'mask' in batch:  # such a row may hold anything, NaN too
      found = jnp.where(batch['mask'][:, None, None, None], found, 0.0)
    if not changes:
      return _centre(found, d['crop'])
    return augment.augment(key, found, batch['id'], *changes)

  return prepare


def _augmentation(d: Config) -> list[augment.Augment]:
  if d['augment'] == 'crop_flip':
    return [augment.pad_crop(d['pad']), augment.flip()]
  if d['augment'] == 'imagenet':
    crop = augment.random_resized_crop((d['crop'], d['crop']))
    return [crop, augment.flip()]
  return []


def _centre(images: jax.Array, side: int) -> jax.Array:
  """The middle of the images; all of them where `side` is 0."""
  if not side:
    return images
  top, left = ((length - side) // 2 for length in images.shape[1:3])
  return images[:, top : top + side, left : left + side]


def spec(config: Config) -> Specs:
  """The arrays of a training batch."""
  d = config['data']
  rows, side = d['batch_size'], d['size']
  return {
    'train': {
      'image': ArraySpec((rows, side, side, d['channels']), np.uint8),
      'label': ArraySpec((rows,), np.int32),
      'id': ArraySpec((rows,), np.int32),
    }
  }


def cross_entropy(smoothing: float = 0.0) -> LogitLoss:
  """Softmax cross-entropy in nats."""

  def loss(logits, labels, mask, vars):
    del vars
    return Objective(*masked_cross_entropy(logits, labels, mask, smoothing))

  return loss


def supervised(
  task: ImageTask,
  tx: optax.GradientTransformation,
  loss: LogitLoss | None = None,
  micro_batches: int = 1,
  attack: Attack | Sequence[Attack] | None = None,
) -> Update:
  """One gradient step on `params['net']`, with the metric `accuracy`.

  Batch statistics are those of the whole global batch, on however many
  devices; with several micro-batches those of each in turn. Rows that are
  masked count as black images there: a step without masked rows, as those of a
  training are, is to cost no reduction for them.

  Args:
    loss: of the logits; default: cross-entropy.
    attack: adversarial training, see `ops.adversarial.adversarial_loss`.
  """
  of_logits = loss or cross_entropy()

  def classified(params, vars, batch, key):
    del key
    labels, mask = batch['label'], batch['mask']
    logits, new = task.network.train(params, vars, batch['image'])
    found = of_logits(logits, labels, mask, vars)
    right = jnp.sum((logits.argmax(-1) == labels) & mask).astype(jnp.float32)
    accuracy = (right, mask.sum().astype(jnp.float32))
    return found.replace(
      vars={**new, **found.vars},
      metrics={'accuracy': accuracy, **found.metrics},
    )

  def full(params, vars, batch, key):
    if not attack:
      batch = {**batch, 'image': task.prepare(key, batch)}
      return classified(params, vars, batch, key)
    first, second = jax.random.split(key)
    batch = {**batch, 'image': task.prepare(first, batch)}
    return adversarial_loss(classified, attack)(params, vars, batch, second)

  if micro_batches > 1:
    return accumulate(micro_batches, full, 'net', tx, unroll=False)
  return minimise(full, 'net', tx)


def evaluation(
  task: ImageTask, space: Workspace, split: str
) -> tuple[Evaluator, Feed]:
  """Accuracy and cross-entropy on a split, for `Inputs.evals`.

  The total has the answers too, see `evals.classify`.
  """
  found = classify(task.logits, task.sets.data['num_classes'])
  return found, task.sets.held_out(split, space.mesh)


def test_figures(
  space: Workspace, inputs: Inputs, result: FitResult, show: bool = True
) -> Figures:
  """Accuracy and cross-entropy on the test set, as `test/…`.

  Args:
    show: confusion, calibration and the worst mistakes on the stage's page.
  """
  sets = inputs.data.sets
  evaluator, _ = inputs.evals['validation']  # compiled already
  feed = sets.held_out(sets.data['test_split'], space.mesh)
  return tested(space, sets, evaluator, feed, result.state, show)


def tested(
  space: Workspace,
  sets: ImageSets,
  evaluator: Evaluator,
  feed: Feed,
  state: State,
  show: bool = True,
) -> Figures:
  """The same by an evaluator and a feed of the test split that are there."""
  figures, total = measured('test', evaluator, feed, state, space.seed)
  if show:
    answers = answers_of(total['answers'])
    pictures.classified(space.page, answers, sets.classes)
    images = pictured(sets, sets.data['test_split'], answers.ids)
    pictures.mistakes(space.page, answers, images, sets.classes)
  return figures


def pictured(sets: ImageSets, split: str, ids: np.ndarray) -> np.ndarray:
  """[m, h, w, c] uint8: images of a split by their places in it."""
  source = sets.source(split, 1)
  found = [source.batch(int(i), slice(None))['image'] for i in ids]
  return np.concatenate(found) if found else np.zeros(0)


def classifier_stage(
  name: str,
  config: Config,
  make_update: Callable[[ImageTask, Workspace], Update],
  *,
  options: Options | None = None,
  seed: int | None = None,
  start: Callable[[Workspace], Start] | None = None,
  finish: Finish | None = test_figures,
  vars: Mapping[str, Tree] | None = None,
  source: Callable[[Any, int], Source] | None = None,
  more_arrays: Spec | None = None,
  evals: Callable[[ImageTask, Workspace], Mapping] | None = None,
  about: Callable[[Any], Mapping[str, Any]] | None = None,
  build: Callable[[Config, bool], ImageTask] = image_task,
  keep: bool = False,
  own: Config | None = None,
  also: Sequence[str] = (),
) -> Stage:
  """The stage that trains the classifier of a config.

  `validation` is evaluated, at the end the test set, unless `finish` says
  otherwise; `inputs.data` of `finish` is the ImageTask.

  Args:
    make_update: the training step. Under `--plan` its task has `sets` None.
    options: default: those of `config.train`.
    vars: further entries of `State.vars`.
    source: (sets, rows) -> training batches; default: `train_split`.
    more_arrays: arrays that its batches have beside those of `spec`.
    evals: further evaluations, name -> (Evaluator, feed).
    about: digests of data that a checkpoint belongs to.
    build: (config, offline) -> the classifier with its data.
    keep: leave a model, for the job's `predict`.
    own: the config that `predict` reads; default: this one.
    also: names of further sets that it is trained on, for the model's card.

  Raises:
    InputError: a value that cannot be.
  """
  check(config)
  network = build(config, True).network  # complains now
  d = config['data']
  of_run = config['seed'] if seed is None else seed

  def init(key):
    params, own = network.init(key)
    return params, {**own, **(vars or {})}

  def task(space, inputs):
    built = inputs.data if inputs else build(config, True)._replace(sets=None)
    return Task(init, {'train': make_update(built, space)})

  def inputs(space):
    built = build(config, space.offline)
    found = {'validation': evaluation(built, space, d['validation_split'])}
    if evals:
      found |= evals(built, space)
    if source:
      batches = source(built.sets, d['batch_size'])
    else:
      batches = built.sets.source(d['train_split'], d['batch_size'], of_run)
    feed = Feed(batches, space.mesh, workers=d['workers'], ahead=d['ahead'])
    return Inputs(feed, found, about(built.sets) if about else {}, built)

  arrays = {'train': {**spec(config)['train'], **(more_arrays or {})}}
  return training(
    name,
    options or Options(**config['train']),
    spec=lambda space: arrays,
    task=task,
    inputs=inputs,
    finish=finish,
    seed=seed,
    start=start,
    keep=(
      lambda space, opened, result: kept(own or config, opened.data.sets, also)
    )
    if keep
    else None,
  )


def kept(config: Config, sets: ImageSets, also: Sequence[str] = ()) -> Kept:
  """What goes beside a network of images: classes, preprocessing, examples.

  Args:
    config: that `predict` reads.
    sets: opened.
    also: names of further sets that it was trained on.
  """
  d = config['data']
  source = sets.source(d['validation_split'], _EXAMPLES)
  return Kept(
    takes(d),
    list(source.batch(0, slice(None))['image'][:_EXAMPLES]),
    {'classes.json': list(sets.classes)},
    config,
    data={name: licence_of(name) for name in (d['name'], *also)},
  )


def takes(d: Config) -> dict[str, Any]:
  """The images of a section `data`, as `Kept.inputs`."""
  return {
    'kind': 'image',
    'height': d['size'],
    'width': d['size'],
    'channels': d['channels'],
    'fit': 'crop',
    'mean': list(d['mean']),
    'std': list(d['std']),
    'crop': d['crop'],
  }


def check_images(inputs: np.ndarray, height: int, width: int, channels: int):
  """Raises InputError for what is not an array of such images."""
  shape, dtype = np.shape(inputs), np.asarray(inputs).dtype
  if len(shape) != 4 or shape[1:] != (height, width, channels):
    raise InputError(
      f'images of shape {shape} are not [n, {height}, {width}, {channels}], '
      'what the model was trained on: jaxlab.predict brings files to it, and '
      'so does jaxlab.data.pixels.Canvas'
    )
  if dtype != np.uint8 and not np.issubdtype(dtype, np.floating):
    raise InputError(
      f'images of {dtype} are neither uint8 nor floating in [0, 1]; convert '
      'them'
    )
  if dtype != np.uint8 and len(inputs):
    low, high = np.min(inputs), np.max(inputs)
    if not (low >= 0 and high <= 1):
      raise InputError(
        f'images of {dtype} hold values from {low:.4g} to {high:.4g}, and must '
        'be in [0, 1]; divide by 255, or give uint8'
      )


def predict(model: Model, inputs: np.ndarray) -> list[dict[str, Any]]:
  """Classes of images by a trained classifier.

  Args:
    inputs: [n, h, w, c] uint8, or float32 in [0, 1], of the config's size.

  Returns:
    One answer an image: `label`, its `probability`, and `probabilities` [k].

  Raises:
    InputError: images of another shape, type or range.
  """
  d = model.config['data']
  check_images(inputs, d['size'], d['size'], d['channels'])
  logits = jax.jit(image_task(model.config).logits)
  found = []
  for start in range(0, len(inputs), d['eval_batch_size']):
    part = inputs[start : start + d['eval_batch_size']]
    p = np.asarray(
      jax.nn.softmax(logits(model.params, model.vars, {'image': part}))
    )
    found += [
      {
        'label': int(row.argmax()),
        'probability': float(row.max()),
        'probabilities': row.tolist(),
      }
      for row in p
    ]
  return found
