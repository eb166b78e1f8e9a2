"""Graph classification under the encouraging loss: from a config to stages.

The network is SAGPool's (`models/sagpool.py`). A training is
`config.data.folds` trainings side by side, each on a random split of its own
and with a network of its own: parameters and batches have an axis for them, and
one step trains all. The log's examples are rows of the feed, one a device.

Departs from the paper: the number of steps is fixed and the last parameters are
judged. The official code takes those of the best validation epoch, and has the
bonus begin at an epoch that was read off the average of the best ones.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxlab.core.errors import InputError
from jaxlab.core.require import above, at_least, inside, multiple_of, require
from jaxlab.core.state import Evaluator, Objective, Task
from jaxlab.core.update import minimise
from jaxlab.data.graphs.batches import GraphSource, batch_spec, node_features
from jaxlab.data.graphs.sets import open_graphs
from jaxlab.data.graphs.types import Graphs
from jaxlab.data.in_memory import permutation
from jaxlab.data.licences import licence_of
from jaxlab.engine import mesh
from jaxlab.engine.evaluate import measured
from jaxlab.engine.feed import Feed, held_out
from jaxlab.engine.loop import Inputs
from jaxlab.evals.classify import answers_of, tallied, tally
from jaxlab.models.sagpool import SAGPoolNet, graph_of, logits_of_rows
from jaxlab.papers.encouraging import arms
from jaxlab.recipes import optimizers, pictures
from jaxlab.recipes.study import Cell, study_of
from jaxlab.runs.model import Kept, Model
from jaxlab.runs.stage import Stage, training

Config = Mapping[str, Any]
SPLITS = ('train', 'validation', 'test')


def program(config: Config) -> list[Stage]:
  """Trials, final trainings and their table.

  Raises:
    InputError: a value that cannot be; nothing has been computed yet.
  """
  check(config)
  study = study_of(config, list(config['losses']), ('accuracy', 'nats'))
  return study.stages(partial(training_stage, config))


def check(config: Config) -> None:
  """Raises InputError where a value cannot be."""
  held = 'that share is for validation, and as much for test'
  require(
    config,
    {
      'data.folds': at_least(1),
      'data.held_out': inside(0, 0.5, held),
      'data.batch_size': at_least(1),
      'data.eval_batch_size': at_least(1),
      'data.num_classes': at_least(2),
      'data.num_features': at_least(1),
      'data.graph_nodes': above(0, 'room in a batch for each graph'),
      'data.graph_edges': above(0, 'room in a batch for each graph'),
    },
  )
  arms.check(config)
  make_model(config)
  optimizers.make(config['optimizer'], config['train']['steps'], 1e-3)


def make_model(config: Config) -> SAGPoolNet:
  """The network of one fold."""
  c = config['model']
  try:
    return SAGPoolNet(
      config['data']['num_classes'],
      c['width'],
      c['ratio'],
      c['layers'],
      c['dropout'],
    )
  except ValueError as error:
    raise InputError(f'config.model: {error}') from error


def row_room(config: Config, devices) -> tuple[int, int]:
  """Nodes and edges that a row of a training batch has room for."""
  d = config['data']
  graphs = d['batch_size'] // mesh.row_ways(devices)
  room = lambda name: int(np.ceil(d[name] * graphs))
  return room('graph_nodes'), room('graph_edges')


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
    found = {
      'num_classes': len(graphs.classes),
      'num_features': self.features.shape[1],
    }
    for name, value in found.items():
      if d[name] != value:
        raise InputError(
          f'config.data.{name} = {d[name]}, and "{d["name"]}" has {value}'
        )
    self.config, self.seed = config, seed
    parts = [
      fold(len(graphs), d['held_out'], seed=seed, number=number)
      for number in range(d['folds'])
    ]
    # [graphs of the split, folds]
    self.indices = {
      name: np.stack([part[name] for part in parts], 1) for name in SPLITS
    }

  def train(self, devices) -> Feed:
    """The endless feed of training batches."""
    source = GraphSource(
      self.graphs,
      self.features,
      self.indices['train'],
      batch_size=self.data['batch_size'],
      rows=mesh.row_ways(devices),
      room=row_room(self.config, devices),
      steps=self.config['train']['steps'],
      seed=self.seed,
    )
    d = self.data
    return Feed(source, devices, workers=d['workers'], ahead=d['ahead'])

  def kept(self) -> Kept:
    """What goes beside the networks: classes, and two graphs of the set."""
    d, joined = self.data, self.graphs.batch(np.arange(2))
    nodes = np.split(self.features[: sum(joined.n_node)], joined.n_node[:1])
    edges = np.stack([joined.senders, joined.receivers], 1)
    first, second = np.split(edges, joined.n_edge[:1])
    example = [
      {'nodes': node.tolist(), 'edges': edge.tolist()}
      for node, edge in zip(nodes, (first, second - joined.n_node[0]))
    ]
    return Kept(
      {'kind': 'graph', 'features': d['num_features']},
      example,
      {'classes.json': list(self.graphs.classes)},
      data={d['name']: licence_of(d['name'])},
    )

  def once(self, devices, split: str) -> Feed:
    """The finite feed of a split."""
    source = lambda graphs: GraphSource(
      self.graphs,
      self.features,
      self.indices[split],
      batch_size=graphs,
      rows=mesh.row_ways(devices),
      repeat=False,
      shuffle=False,
    )
    return held_out(source, devices, self.data['eval_batch_size'])


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


def make_task(config: Config, arm: str, rate: float) -> Task:
  """The training step of all folds on `params['net']`, leaves [folds, …].

  The loss is the sum over folds of their mean losses, so that each network's
  gradient is that of its own mean; `vars['updates']` counts updates.
  """
  model, folds = make_model(config), config['data']['folds']
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

  steps = config['train']['steps']
  update = minimise(
    loss, 'net', optimizers.make(config['optimizer'], steps, rate)
  )

  @jax.jit
  def init(key):
    row = (
      jnp.zeros((1, config['data']['num_features'])),
      jnp.zeros((1, 2), jnp.int32),
      jnp.ones(1, jnp.int32),
      jnp.zeros(1, jnp.int32),
    )
    make = lambda k: model.init(k, graph_of(*row), train=False)['params']
    params = jax.vmap(make)(jax.random.split(key, folds))
    return {'net': params}, {'updates': jnp.zeros((), jnp.int32)}

  return Task(init, {'train': update})


def _right(logits, batch, mask) -> jax.Array:
  """[r, folds, g] float32, 1 where a graph's class is the likeliest."""
  return ((logits.argmax(-1) == batch['label']) & mask).astype(jnp.float32)


def make_evaluator(config: Config) -> Evaluator:
  """Accuracy and cross-entropy: means over folds, and each fold's accuracy."""
  model, folds = make_model(config), config['data']['folds']

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
    sums = {k: total[k] + x.sum((0, 2)) for k, x in found.items()}
    # Of all folds together, each of a network of its own.
    flat = logits.reshape(-1, logits.shape[-1]), batch['label'].ravel()
    none = jnp.zeros(mask.size, jnp.int32)
    answers = tallied(total['answers'], *flat, none, mask.ravel())
    return {**sums, 'answers': answers}

  def finish(total):
    total = {k: np.asarray(total[k], np.float64) for k in names}
    accuracy = total['right'] / total['graphs']
    return {
      'accuracy': float(accuracy.mean()),
      'nats': float((total['nats'] / total['graphs']).mean()),
      **{f'fold{i}/accuracy': float(x) for i, x in enumerate(accuracy)},
    }

  names = ('nats', 'right', 'graphs')

  def init():
    zeros = {k: jnp.zeros(folds) for k in names}
    return {**zeros, 'answers': tally(config['data']['num_classes'])}

  return Evaluator(init, update, finish)


def training_stage(config: Config, cell: Cell) -> Stage:
  """The stage that trains all folds of a cell."""
  d = config['data']

  def spec(space):
    ways = mesh.row_ways(space.mesh)
    share = 'rows of a batch, shared by as many devices'
    require(config, {'data.batch_size': multiple_of(ways, share)})
    lead, graphs = (ways, d['folds']), d['batch_size'] // ways
    room = row_room(config, space.mesh)
    return {'train': batch_spec(lead, graphs, room, d['num_features'])}

  def inputs(space):
    folds = Folds(config, cell.seed, space.offline)
    held = folds.once(space.mesh, 'validation')
    evals = {'validation': (make_evaluator(config), held)}
    return Inputs(folds.train(space.mesh), evals, data=folds)

  def finish(space, inputs, result):
    if not cell.final:
      return {}
    evaluator, _ = inputs.evals['validation']
    feed = inputs.data.once(space.mesh, 'test')
    found, total = measured('test', evaluator, feed, result.state, space.seed)
    if cell.pictured:
      names = inputs.data.graphs.classes
      pictures.classified(space.page, answers_of(total['answers']), names)
    # A fold's own figures stay out of the study's table of test/….
    return {_own(name): value for name, value in found.items()}

  return training(
    cell.name,
    cell.options(config['train']),
    spec=spec,
    task=lambda space, inputs: make_task(config, cell.arm, cell.rate(space)),
    inputs=inputs,
    finish=finish,
    seed=cell.seed,
    keep=(lambda space, opened, result: opened.data.kept())
    if cell.final
    else None,
  )


def predict(model: Model, inputs: Sequence[Mapping]) -> list[dict[str, Any]]:
  """Classes of graphs, by the mean probabilities of all folds' networks.

  Args:
    inputs: graphs, each with `nodes`, [n, f] features as of the config's
      `node_features`, and `edges`, pairs (from, to) of nodes in [0, n), in both
      directions where the graph has none.

  Returns:
    One answer a graph: `label`, its `probability`, and `probabilities` [k].

  Raises:
    InputError: a graph without nodes, with other features, or with an edge of
      a node that it does not have.
  """
  d = model.config['data']
  features = d['num_features']
  rows = [_row_of(graph, i, features) for i, graph in enumerate(inputs)]
  nodes, edges = (max(len(row[i]) for row in rows) for i in (0, 1))
  batch = {
    'node': np.stack([_padded(node, nodes) for node, _ in rows]),
    'edge': np.stack([_padded(edge, max(1, edges)) for _, edge in rows]),
    'num_nodes': np.array([[len(node)] for node, _ in rows], np.int32),
    'num_edges': np.array([[len(edge)] for _, edge in rows], np.int32),
  }
  batch = {
    name: np.repeat(array[:, None], d['folds'], 1)
    for name, array in batch.items()
  }
  run = jax.jit(partial(logits_of, make_model(model.config)))
  logits = run(model.params['net'], batch)  # [r, folds, 1, k]
  return [
    {
      'label': int(p.argmax()),
      'probability': float(p.max()),
      'probabilities': p.tolist(),
    }
    for p in np.asarray(jax.nn.softmax(logits).mean(1))[:, 0]
  ]


def _row_of(graph: Mapping, number: int, features: int):
  """Features [n, f] and edges [e, 2] of a graph."""
  try:
    node = np.asarray(graph['nodes'], np.float32)
    edge = np.asarray(graph['edges'], np.int32).reshape(-1, 2)
  except (KeyError, TypeError, ValueError) as error:
    raise InputError(
      f'graph {number} is not {{"nodes": [[…], …], "edges": [[0, 1], …]}} '
      f'({type(error).__name__}: {error})'
    ) from error
  if node.ndim != 2 or not len(node) or node.shape[1] != features:
    raise InputError(
      f'graph {number} has nodes of shape {node.shape}: give [n, {features}], '
      'the features that config.data.node_features names'
    )
  if len(edge) and not (edge.min() >= 0 and edge.max() < len(node)):
    raise InputError(
      f'graph {number} has an edge of node {edge.max()} and {len(node)} nodes: '
      'count them from 0'
    )
  return node, edge


def _padded(array: np.ndarray, length: int) -> np.ndarray:
  found = np.zeros((length, array.shape[1]), array.dtype)
  found[: len(array)] = array
  return found


def _own(name: str) -> str:
  """'test/fold1/accuracy' -> 'fold1/test/accuracy'."""
  split, *fold, figure = name.split('/')
  return '/'.join([*fold, split, figure])
