"""Classifiers trained on labels and pseudo-labels, from the metric's network.

supervised      labels alone
scratch         labels alone, from new parameters
pseudo_label    labels, and all other images by the network's own answers
                (D.-H. Lee 2013), their weight rising over the first half
normalized_cut  labels and the surest pseudo-labels, by their confidence;
spreading, knn  the same
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlab.core import keys
from jaxlab.core.errors import InputError
from jaxlab.core.require import at_least, one_of, require, some
from jaxlab.core.source import ArraySpec
from jaxlab.core.state import Objective, State, Task, paths
from jaxlab.core.update import minimise
from jaxlab.data.in_memory import ArraySource
from jaxlab.engine.compiled import Start
from jaxlab.engine.feed import Feed
from jaxlab.engine.loop import Inputs
from jaxlab.papers.metric_transfer import labels as labelling
from jaxlab.papers.metric_transfer import method, pseudo_labels, selection
from jaxlab.recipes import images, optimizers
from jaxlab.recipes.images import image_task
from jaxlab.recipes.study import Cell
from jaxlab.runs.stage import Stage, Workspace, training

Config = Mapping[str, Any]

ARMS = ('supervised', 'scratch', 'pseudo_label', *labelling.METHODS)


def check(config: Config) -> None:
  """Raises InputError where a value of `finetune` or `study` cannot be."""
  require(
    config,
    {
      'study.methods': some(one_of(*ARMS)),
      'finetune.targets': one_of('hard', 'soft'),
      'finetune.class_balance': one_of(True, False),
      'finetune.labelled_repeats': at_least(1, 'how often labels are seen'),
      'finetune.own_weight': at_least(0, 'of pseudo_label'),
    },
  )
  optimizers.make(config['optimizer'], config['train']['steps'], 1.0)


def training_set(
  config: Config,
  train: Mapping[str, np.ndarray],
  arm: str,
  seed: int,
  spread: Mapping[str, np.ndarray],
) -> dict[str, np.ndarray]:
  """The rows that an arm is trained on.

  Args:
    train: image, label of all training images; only labels of the split are
      looked at.
    spread: the artefact of `propagate`.

  Returns:
    image [r, h, w, c] uint8; target [r, c] float32; weight [r] float32; own
    [r] bool, where the target is the network's answer. Labelled rows are there
    `finetune.labelled_repeats` times.
  """
  f, classes = config['finetune'], config['data']['num_classes']
  truth = np.asarray(train['label'])
  mask = pseudo_labels.split_of(
    config, truth, config['labels']['per_class'], seed
  )
  known, others = np.flatnonzero(mask), np.zeros(0, np.int64)
  labels = np.where(mask, truth, 0)
  weight = np.ones(len(truth))
  target = np.eye(classes)[labels]
  if arm == 'pseudo_label':
    others = np.flatnonzero(~mask)
    weight[others] = f['own_weight']
  elif arm in labelling.METHODS:
    name = f'{arm}-s{seed}'
    found = labelling.Propagated(
      *(spread[f'{name}/{x}'] for x in ('shares', 'labels', 'confidence'))
    )
    rows = selection.selected(found, mask, config['propagation']['ratio'])
    others = rows[~mask[rows]]
    hard = np.eye(classes)[found.labels[others]]
    soft = f['targets'] == 'soft'
    target[others] = found.scores[others] if soft else hard
    weight[others] = found.confidence[others]
    if f['class_balance']:
      balance = selection.class_weights(found.labels[rows], classes)
      weight[rows] *= balance[found.labels[rows]]
  rows = np.concatenate([*[known] * f['labelled_repeats'], others])
  return {
    'image': np.asarray(train['image'])[rows],
    'target': target[rows].astype(np.float32),
    'weight': weight[rows].astype(np.float32),
    'own': (arm == 'pseudo_label') & ~mask[rows],
  }


def begun_from(
  source: State, own: tuple[Mapping, Mapping], new: tuple[str, ...]
) -> Start:
  """A network's entries of State, its leaves taken from another's.

  Args:
    source: of the stage `metric`.
    own: fresh (params, vars) of the new network.
    new: layers that stay fresh.

  Raises:
    InputError: a leaf outside of `new` that is absent or of another shape.
  """
  given = {'params': source.params['net'], 'vars': source.vars['net']}
  wanted = {'params': own[0]['net'], 'vars': own[1]['net']}
  known = dict(paths(given))

  def taken(path, leaf):
    name = jax.tree_util.keystr(path, simple=True, separator='/')
    if {*name.split('/')} & {*new}:
      return leaf
    have = known.get(name)
    if have is None or have.shape != leaf.shape:
      shape = 'absent' if have is None else have.shape
      raise InputError(
        f'{name} is {leaf.shape} in the classifier and {shape} in the metric '
        'network: name its layer in config.finetune.new_leaves to begin it anew'
      )
    return have

  merged = jax.tree_util.tree_map_with_path(taken, wanted)
  return Start({'net': merged['params']}, {'net': merged['vars']})


def cell_stage(config: Config, cell: Cell) -> Stage:
  """The stage that trains a cell; a final one reads the test set."""
  d, f = config['data'], config['finetune']
  network = image_task(config).network
  rows = d['batch_size']
  spec = images.spec(config)['train']
  spec = {'image': spec['image'], 'id': spec['id']} | {
    'target': ArraySpec((rows, d['num_classes']), np.float32),
    'weight': ArraySpec((rows,), np.float32),
    'own': ArraySpec((rows,), bool),
  }

  def init(key):
    params, own = network.init(key)
    return params, {**own, 'updates': jnp.zeros((), jnp.int32)}

  def task(space, inputs):
    built = inputs.data if inputs else image_task(config)._replace(sets=None)
    steps = config['train']['steps']
    tx = optimizers.make(config['optimizer'], steps, cell.rate(space))

    def loss(params, vars, batch, key):
      seen = built.prepare(key, batch)
      logits, new = network.train(params, vars, seen, mask=batch['mask'])
      answers = jax.nn.one_hot(logits.argmax(-1), d['num_classes'])
      rise = jnp.clip(3 * vars['updates'] / steps - 1, 0, 1)
      own = batch['own']
      total, weight = method.weighted_cross_entropy(
        logits,
        jnp.where(own[:, None], answers, batch['target']),
        batch['weight'] * jnp.where(own, rise, 1.0),
        batch['mask'],
      )
      new = {**new, 'updates': vars['updates'] + 1}
      return Objective(total, weight, vars=new)

    return Task(init, {'train': minimise(loss, 'net', tx)})

  def inputs(space):
    built = image_task(config, space.offline)
    arrays = training_set(
      config,
      built.sets.inliers(d['train_split']),
      cell.arm,
      cell.seed,
      space.artefact('propagate'),
    )
    source = ArraySource(arrays, batch_size=rows, seed=cell.seed)
    feed = Feed(source, space.mesh, workers=d['workers'], ahead=d['ahead'])
    held = images.evaluation(built, space, d['validation_split'])
    return Inputs(feed, {'validation': held}, data=built)

  def start(space: Workspace) -> Start:
    if cell.arm == 'scratch':
      return Start()
    fresh = network.init(keys.stream(cell.seed, 'new leaves'))
    new = tuple(f['new_leaves'])
    space.facts['new_leaves'] = list(new)
    return begun_from(space.artefact('metric'), fresh, new)

  return training(
    cell.name,
    cell.options(config['train']),
    spec=lambda space: {'train': spec},
    task=task,
    inputs=inputs,
    finish=partial(images.test_figures, show=cell.pictured)
    if cell.final
    else None,
    seed=cell.seed,
    start=start,
    keep=(lambda space, opened, result: images.kept(config, opened.data.sets))
    if cell.final
    else None,
  )
