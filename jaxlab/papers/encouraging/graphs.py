"""Graph classification under the encouraging loss: from a config to stages.

The network is SAGPool's (`models/sagpool.py`). A training is
`config.data.folds` trainings side by side, each on a random split of its own
and with a network of its own: parameters and batches have an axis for them, and
one step trains all. The log's examples are rows of the feed, one a device.

Departs from the paper: the number of steps is fixed and the last parameters are
judged. The official code takes those of the best validation epoch, and has the
bonus begin at an epoch that was read off the average of the best ones.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxlab.data.graph import Graphs, open_graphs
from jaxlab.data.graph_batches import GraphSource, node_features
from jaxlab.data.in_memory import permutation
from jaxlab.engine import mesh
from jaxlab.engine.errors import InputError
from jaxlab.engine.evaluate import Evaluation
from jaxlab.engine.feed import Feed
from jaxlab.engine.stage import Planned, Stage, Workspace, training
from jaxlab.engine.state import Evaluator, Objective, Task
from jaxlab.engine.update import create_state, minimise
from jaxlab.evals import study
from jaxlab.evals.study import Cell
from jaxlab.models.sagpool import SAGPoolNet, graph_of, logits_of_rows
from jaxlab.papers.encouraging import arms

Config = Mapping[str, Any]
SPLITS = ('train', 'validation', 'test')


def program(config: Config) -> list[Stage]:
  """Trials, final trainings and their table.

  Raises:
    InputError: a value that cannot be; nothing has been computed yet.
  """
  check(config)
  return study.stages(
    config,
    list(config['losses']),
    partial(training_stage, config),
    ('accuracy', 'nats'),
  )


def check(config: Config) -> None:
  """Raises InputError where a value cannot be."""
  d = config['data']
  if d['folds'] < 1:
    raise InputError(f'config.data.folds = {d["folds"]} must be at least 1')
  if not 0 < d['held_out'] < 0.5:
    raise InputError(
      f'config.data.held_out = {d["held_out"]} is not in (0, .5): that share '
      'of the graphs is for validation, and as many are for test'
    )
  arms.check(config)
  for arm in config['losses']:
    arms.loss_of(config, arm)  # classes are not counted here
  make_model(config, 2)
  make_optimizer(config, 1e-3)


def make_model(config: Config, classes: int) -> SAGPoolNet:
  """The network of one fold."""
  c = config['model']
  try:
    return SAGPoolNet(
      classes, c['width'], c['ratio'], c['layers'], c['dropout']
    )
  except ValueError as error:
    raise InputError(f'config.model: {error}') from error


def make_optimizer(config: Config, rate: float) -> optax.GradientTransformation:
  """Adam, with decay added to the gradients of all parameters.

  It treats each number alone, so that it treats each fold alone.
  """
  c = config['optimizer']
  if c['name'] != 'adam':
    raise InputError(
      f'config.optimizer.name = "{c["name"]}" is not "adam", the only one of '
      'this job'
    )
  return optax.chain(
    optax.add_decayed_weights(c['weight_decay']), optax.adam(rate)
  )


def fold(
  count: int, held_out: float, *, seed: int, number: int
) -> dict[str, np.ndarray]:
  """The graphs of each of SPLITS: int64, a random split of `count` graphs.

  Folds are drawn one by one: the test sets of two may overlap.

  Args:
    held_out: share of the graphs in validation, and again in test; at least
      one graph each.
    seed, number: of which, with `count`, the order is a function.
  """
  # Epochs of the training's own order count from 0.
  order = permutation(count, seed=seed, epoch=-1 - number)
  size = max(1, round(held_out * count))
  parts = np.split(order, [count - 2 * size, count - size])
  return dict(zip(SPLITS, parts))


class Folds:
  """The set of a config, as sources of its splits.

  Raises:
    InputError: too few graphs, one class, no features, or as `open_graphs`.
  """

  def __init__(self, config: Config, seed: int, offline: bool):
    d = self.data = config['data']
    graphs = self.graphs = open_graphs(d['name'], offline=offline)
    check_graphs(graphs, d['name'], d['folds'])
    self.features = node_features(
      graphs, tuple(d['node_features']), d['degree_cap']
    )
    self.classes, self.seed = len(graphs.classes), seed
    found = [
      fold(len(graphs), d['held_out'], seed=seed, number=number)
      for number in range(d['folds'])
    ]
    # [graphs of the split, folds]
    self.indices = {
      name: np.stack([part[name] for part in found], 1) for name in SPLITS
    }

  def train(self, devices, batch_size: int, steps: int) -> Feed:
    """The endless feed of training batches, as large as `steps` need."""
    axes = mesh.row_axes(devices)
    source = GraphSource(
      self.graphs,
      self.features,
      self.indices['train'],
      batch_size=batch_size,
      rows=_ways(devices),
      steps=steps,
      seed=self.seed,
    )
    return Feed(source, devices, axes=axes, ahead=self.data['ahead'])

  def once(self, devices, split: str) -> Feed:
    """The finite feed of a split."""
    axes, ways = mesh.row_axes(devices), _ways(devices)
    source = GraphSource(
      self.graphs,
      self.features,
      self.indices[split],
      batch_size=-(-self.data['eval_batch_size'] // ways) * ways,
      rows=ways,
      repeat=False,
      shuffle=False,
    )
    return Feed(source, devices, axes=axes, steps=source.num_batches)


def check_graphs(graphs: Graphs, name: str, folds: int) -> None:
  """Raises InputError where a set cannot be learnt from, or not be split."""
  if len(graphs) < max(3, folds):
    raise InputError(
      f'"{name}" has {len(graphs)} graphs; {folds} folds of three splits need '
      f'at least {max(3, folds)}: lower config.data.folds, or take a larger set'
    )
  present = np.unique(graphs.label)
  if len(present) < 2:
    raise InputError(
      f'all {len(graphs)} graphs of "{name}" are of class '
      f'"{graphs.classes[present[0]]}": classification needs two'
    )


def _ways(devices) -> int:
  """Among how many devices a batch's rows are shared."""
  return int(np.prod([devices.shape[a] for a in mesh.row_axes(devices)]))


def logits_of(model: SAGPoolNet, params, batch, keys=None) -> jax.Array:
  """Logits of all folds: [r, folds, g, classes] of r rows with g graphs.

  Args:
    params: leaves [folds, …]; batch: arrays [r, folds, …].
    keys: [folds] of dropout; None: without.
  """
  names = ('node', 'edge', 'num_nodes', 'num_edges')
  rows = {name: batch[name] for name in names}
  one = partial(logits_of_rows, model)
  if keys is None:
    return jax.vmap(one, (0, 1), 1)(params, rows)
  return jax.vmap(one, (0, 1, 0), 1)(params, rows, keys)


def _mask(batch) -> jax.Array:
  """[r, folds, g] bool, graphs that count."""
  return batch['real'] & batch['mask'][:, None, None]


def make_task(
  config: Config, arm: str, rate: float, classes: int, width: int, evals
) -> Task:
  """The training step of all folds on `params['net']`, leaves [folds, …].

  The loss is the sum over folds of their mean losses, so that each network's
  gradient is that of its own mean; `vars['updates']` counts updates.

  Args:
    width: columns of the nodes' features.
  """
  model, folds = make_model(config, classes), config['data']['folds']
  losses = arms.loss_of(config, arm)

  def loss(params, vars, batch, key):
    keys = jax.random.split(key, folds)
    logits, mask = logits_of(model, params['net'], batch, keys), _mask(batch)
    each = losses(logits, batch['label'], mask, vars['updates'])
    count = mask.sum().astype(jnp.float32)
    right = _right(logits, batch, mask).sum()
    return Objective(
      jnp.where(mask, each, 0.0).sum(),
      count / folds,
      vars={'updates': vars['updates'] + 1},
      metrics={'accuracy': (right, count)},
    )

  update = minimise(loss, 'net', make_optimizer(config, rate))

  @jax.jit
  def init(key):
    row = (
      jnp.zeros((1, width)),
      jnp.zeros((1, 2), jnp.int32),
      jnp.ones(1, jnp.int32),
      jnp.zeros(1, jnp.int32),
    )
    make = lambda k: model.init(k, graph_of(*row), train=False)['params']
    params = jax.vmap(make)(jax.random.split(key, folds))
    return create_state(
      {'net': params}, update, vars={'updates': jnp.zeros((), jnp.int32)}
    )

  return Task(init, {'train': update}, evals)


def _right(logits, batch, mask) -> jax.Array:
  """[r, folds, g] float32, 1 where a graph's class is the likeliest."""
  return ((logits.argmax(-1) == batch['label']) & mask).astype(jnp.float32)


def make_evaluator(config: Config, classes: int) -> Evaluator:
  """Accuracy and cross-entropy: means over folds, and each fold's accuracy."""
  model, folds = make_model(config, classes), config['data']['folds']

  def update(total, state, batch, key):
    del key
    logits, mask = logits_of(model, state.params['net'], batch), _mask(batch)
    nats = optax.losses.softmax_cross_entropy_with_integer_labels(
      logits, batch['label']
    )
    found = {
      'nats': jnp.where(mask, nats, 0.0),
      'right': _right(logits, batch, mask),
      'graphs': mask.astype(jnp.float32),
    }
    return {k: total[k] + x.sum((0, 2)) for k, x in found.items()}

  def finish(total):
    total = {k: np.asarray(x, np.float64) for k, x in total.items()}
    accuracy = total['right'] / total['graphs']
    return {
      'accuracy': float(accuracy.mean()),
      'nats': float((total['nats'] / total['graphs']).mean()),
      **{f'fold{i}/accuracy': float(x) for i, x in enumerate(accuracy)},
    }

  names = ('nats', 'right', 'graphs')
  return Evaluator(lambda: {k: jnp.zeros(folds) for k in names}, update, finish)


def training_stage(config: Config, cell: Cell) -> Stage:
  """The stage that trains all folds of a cell."""
  batch_size = config['train']['batch_size']
  options = study.options_of(config, cell, ['batch_size'])

  def open_folds(space: Workspace) -> Folds:
    return Folds(config, cell.seed, space.offline)

  def build(space):
    folds = open_folds(space)
    evaluator = make_evaluator(config, folds.classes)
    evals = {'validation': (evaluator, folds.once(space.mesh, 'validation'))}
    task = make_task(
      config,
      cell.arm,
      cell.rate(space),
      folds.classes,
      folds.features.shape[1],
      evals,
    )
    return task, folds.train(space.mesh, batch_size, options.steps)

  def finish(space, task, fitted):
    figures = dict(fitted.metrics)
    if cell.test:
      evaluator, _ = task.evals['validation']
      feed = open_folds(space).once(space.mesh, 'test')
      found = Evaluation('test', evaluator, feed, space.seed).run(fitted.state)
      # A fold's own figures stay out of the study's table of test/….
      figures |= {
        k.replace('/', '/test/') if '/' in k else f'test/{k}': v
        for k, v in found.items()
      }
    return figures

  def plan(space):
    d, ways = config['data'], _ways(space.mesh)
    if batch_size % ways:
      raise InputError(
        f'config.train.batch_size = {batch_size} does not divide by the {ways} '
        'devices that share the graphs of a batch'
      )
    task = make_task(
      config,
      cell.arm,
      cell.learning_rate,
      d['num_classes'],
      d['num_features'],
      {},
    )
    nodes, edges = -(-d['batch_nodes'] // ways), -(-d['batch_edges'] // ways)
    of = jax.ShapeDtypeStruct
    lead = (ways, d['folds'])
    graph = of((*lead, batch_size // ways), jnp.int32)
    spec = {
      'node': of((*lead, nodes, d['num_features']), jnp.float32),
      'edge': of((*lead, edges, 2), jnp.int32),
      **dict.fromkeys(('num_nodes', 'num_edges', 'label', 'graph'), graph),
      'real': of(graph.shape, jnp.bool_),
      'id': of((ways,), jnp.int32),
    }
    return Planned(
      task,
      {'train': spec},
      options.steps,
      max_bad_steps=options.max_bad_steps,
    )

  return training(cell.name, build, options, finish, plan, seed=cell.seed)
