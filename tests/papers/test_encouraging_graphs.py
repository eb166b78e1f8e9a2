"""Graph classification: folds side by side, on several devices, end to end."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxlab.core.errors import InputError
from jaxlab.core.state import paths
from jaxlab.core.update import guarded
from jaxlab.engine import mesh
from jaxlab.engine.compiled import first_state
from jaxlab.models.sagpool import logits_of_rows
from jaxlab.papers.encouraging import graphs
from jaxlab.planning import hlo
from jaxlab.recipes.study import Cell
from jaxlab.runs import model, stage, workdir

CROSS_ENTROPY = {
  'bonus': 'normal',
  'bonus_scale': 0.0,
  'log_end': 1.0,
  'threshold': 0.5,
  'gamma': 1.0,
  'softness': 0.5,
  'label_smoothing': 0.0,
  'clamp_eps': 0.0,
  'schedule': 'constant',
  'schedule_of': 'bonus_scale',
  'schedule_steps': 1,
  'bonus_weights': 'none',
  'weights': 'none',
  'weights_start': 0,
}
ENCOURAGING = {
  **CROSS_ENTROPY,
  'bonus': 'conservative',
  'bonus_scale': 1.0,
  'log_end': 0.5,
}


def write_set(folder, count=40, classes=2, labels=True):
  """Random graphs; most nodes of a graph have its class for a label."""
  rng = np.random.default_rng(0)
  pairs, of, kinds, label = [], [], [], []
  for i in range(count):
    nodes, first = int(rng.integers(1, 9)), len(of) + 1
    label.append(i % classes)
    of += [i + 1] * nodes
    kinds += np.where(rng.random(nodes) < 0.9, i % classes, 1 - i % 2).tolist()
    pairs += [(first + j, first + j + 1) for j in range(nodes - 1)]
  folder.mkdir(exist_ok=True)
  files = {
    'A': [f'{a}, {b}' for a, b in pairs],
    'graph_indicator': of,
    'graph_labels': label,
  }
  if labels:
    files['node_labels'] = kinds
  for name, lines in files.items():
    (folder / f'TOY_{name}.txt').write_text('\n'.join(map(str, lines)) + '\n')
  return f'tu:{folder}'


@pytest.fixture(scope='module')
def toy(tmp_path_factory):
  return write_set(tmp_path_factory.mktemp('sets') / 'toy')


def config_of(name, **changes):
  config = {
    'paper': 'encouraging',
    'title': 'graphs',
    'job': 'graphs',
    'seed': 0,
    'data': {
      'name': name,
      'node_features': ('label',),
      'degree_cap': 0,
      'folds': 2,
      'held_out': 0.2,
      'eval_batch_size': 6,  # of 8
      'workers': 0,
      'ahead': 2,
      'num_classes': 2,
      'num_features': 2,
      'batch_size': 8,
      'graph_nodes': 8,
      'graph_edges': 14,
    },
    'model': {'width': 8, 'ratio': 0.5, 'layers': 1, 'dropout': 0.0},
    'losses': {'ce': CROSS_ENTROPY},
    'study': {
      'baseline': 'ce',
      'rates': (0.02,),
      'seeds': (0,),
      'metric': 'accuracy',
      'better': 'higher',
    },
    'optimizer': {
      'name': 'adam',
      'schedule': 'constant',
      'clip_norm': 0.0,
      'weight_decay': 1e-4,
    },
    'train': {
      'steps': 40,
      'log_every_steps': 20,
      'eval_every_steps': 0,
      'checkpoint_every_steps': 0,
      'checkpoint_every_seconds': 60.0,
      'checkpoint_keep': 1,
      'max_bad_steps': 0,
    },
  }
  for path, value in changes.items():
    section, key = path.split('__')
    config[section] = config[section] | {key: value}
  return config


def space_of(config, folder, devices=1):
  workdir.write_json(folder / 'config.json', config)
  devices = mesh.make(devices=jax.devices()[:devices])
  return stage.Workspace(folder, config, devices, config['seed'])


class Job:
  """The first step of the two folds, compiled once."""

  def __init__(self, name, devices):
    self.config = config_of(name)
    # Cross-entropy for two updates.
    late = {**ENCOURAGING, 'schedule': 'deferred', 'schedule_steps': 2}
    self.config['losses'] = {'late': late}
    here = mesh.make(devices=jax.devices()[:devices])
    feed = graphs.Folds(self.config, 0, True).train(here)
    ((_, _, self.batch),) = feed.batches(0, 1)
    task = graphs.make_task(self.config, 'late', 0.01)
    state = first_state(task, jax.random.key(0))
    self.state = jax.device_put(state, mesh.replicated(here))
    step = jax.jit(guarded(task.steps['train'], 0))
    key = jax.device_put(jax.random.key(1), mesh.replicated(here))
    self.step = step.lower(self.state, self.batch, key).compile()
    self.run = lambda state: self.step(state, self.batch, key)


@pytest.fixture(scope='module')
def job(toy):
  return Job(toy, 1)


@pytest.fixture(scope='module')
def spread(toy):
  return Job(toy, 8)


def moments(state):
  return {n: np.asarray(x) for n, x in paths(state.opt) if '/mu/' in n}


def loss_of(metrics):
  return float(metrics['loss'][0] / metrics['loss'][1])


def test_final_runs_learn_the_classes_on_two_devices_and_alone_see_the_test_set(
  toy, tmp_path
):
  config = config_of(toy, model__dropout=0.1)
  config['losses'] = {'el': ENCOURAGING}
  config['study']['baseline'] = 'el'
  space = space_of(config, tmp_path, devices=2)
  stage.run_all(graphs.program(config), space)
  config['train']['steps'] = 1
  trial = graphs.training_stage(config, Cell('trial', 'el', None, 0.02, 0))
  assert not [name for name in trial.run(space) if 'test' in name]
  read = lambda name: json.loads((tmp_path / name).read_text())
  final = read('el-s0/report.json')['metrics']
  # Chance is .5; the labels of some small graphs mislead.
  assert final['test/accuracy'] > 0.7
  assert final['test/nats'] > 0
  for split, name in (
    ('validation', 'validation/fold{}/accuracy'),
    ('test', 'fold{}/test/accuracy'),
  ):
    each = [final[name.format(i)] for i in (0, 1)]
    assert final[f'{split}/accuracy'] == pytest.approx(np.mean(each))
    # Of 8 held-out graphs, whatever the evaluation's batches.
    assert all((8 * value).is_integer() for value in each)
  rows = read('study/study.json')
  assert rows[0] == {'figure': 'learning rate', 'el': '0.02'}
  assert {row['figure'] for row in rows[1:]} == {'test/accuracy', 'test/nats'}


def alone(tree, k):
  """What one fold has of stacked parameters."""
  return jax.tree.map(lambda x: x[k], tree)


def rows_of(batch, k):
  """What one fold has of a batch."""
  return {n: jnp.asarray(x[:, k]) for n, x in batch.items() if x.ndim > 1}


def test_a_fold_is_trained_as_if_it_were_alone(job):
  model = graphs.make_model(job.config)
  after, metrics = job.run(job.state)
  found = moments(after)

  @jax.jit
  @jax.value_and_grad
  def mean(params, rows):
    names = ('node', 'edge', 'num_nodes', 'num_edges')
    logits = logits_of_rows(model, params, {n: rows[n] for n in names})
    nats = optax.losses.softmax_cross_entropy_with_integer_labels(
      logits, rows['label']
    )
    return nats.mean()

  total = 0.0
  for k in (0, 1):
    params = alone(job.state.params['net'], k)
    value, slope = mean(params, rows_of(job.batch, k))
    total += value
    # The first moment is .1 of the gradient and its decay.
    want = jax.tree.map(lambda g, p: 0.1 * (g + 1e-4 * p), slope, params)
    for (path, moment), (_, expected) in zip(
      found.items(), paths(want), strict=True
    ):
      np.testing.assert_allclose(
        moment[k], expected, rtol=1e-4, atol=1e-7, err_msg=path
      )
  np.testing.assert_allclose(loss_of(metrics), total, rtol=1e-5)


def test_the_networks_of_the_folds_differ_and_so_do_their_graphs(job):
  graph = np.asarray(job.batch['graph'])
  assert (graph[:, 0] != graph[:, 1]).any()
  kernel = np.asarray(job.state.params['net']['head']['kernel'])
  assert kernel.shape == (2, 4, 2)
  assert np.abs(kernel[0] - kernel[1]).min() > 1e-4


def test_losses_and_gradients_are_those_of_one_device(job, spread):
  state, metrics = job.run(job.state)
  other, reported = spread.run(spread.state)
  assert loss_of(reported) == pytest.approx(loss_of(metrics), rel=1e-5)
  want, found = moments(state), moments(other)
  largest = max(np.abs(x).max() for x in want.values())
  for name, moment in found.items():
    np.testing.assert_allclose(
      moment, want[name], rtol=1e-3, atol=1e-5 * largest, err_msg=name
    )


def test_devices_exchange_the_gradient_and_nothing_else(spread):
  found = hlo.collectives(spread.step.as_text())
  assert {c.kind for c in found} == {'all-reduce'}
  numbers = sum(x.size for x in jax.tree.leaves(spread.state.params))
  assert 4 * numbers <= sum(c.bytes * c.times for c in found)
  # Beside it a few sums of metrics.
  assert sum(c.bytes * c.times for c in found) < 4 * numbers + 200


def test_a_deferred_bonus_begins_when_so_many_updates_are_done(job):
  losses = []
  for done in range(4):
    vars = {**job.state.vars, 'updates': jnp.int32(done)}
    state, metrics = job.run(job.state.replace(vars=vars))
    losses.append(loss_of(metrics))
    assert int(state.vars['updates']) == done + 1
  assert losses[0] == losses[1]
  assert losses[2] < losses[1] - 0.1  # the bonus is below 0
  assert losses[2] == losses[3]


def test_a_plan_has_the_arrays_of_the_feed(toy, tmp_path):
  config = config_of(toy)
  first = graphs.program(config)[0]
  space = space_of(config, tmp_path, devices=2)
  planned = first.plan(space)
  _, inputs = first.open(space)  # which compares both
  shapes = {k: x.shape for k, x in inputs.feed.source.spec['train'].items()}
  assert shapes == {k: x.shape for k, x in planned.spec['train'].items()}
  assert shapes['node'] == (2, 2, 32, 2)


def test_room_that_is_too_small_is_named(toy, tmp_path):
  config = config_of(toy, data__graph_nodes=2)
  first = graphs.program(config)[0]
  with pytest.raises(
    InputError, match=r'graphs need room for .* have it for 16'
  ):
    first.open(space_of(config, tmp_path))


def test_the_three_splits_share_a_set_and_follow_from_seed_and_number():
  found = graphs.fold(103, 0.1, seed=1, number=4)
  assert {name: len(part) for name, part in found.items()} == {
    'train': 83,
    'validation': 10,
    'test': 10,
  }
  assert sorted(np.concatenate(list(found.values()))) == list(range(103))
  again = graphs.fold(103, 0.1, seed=1, number=4)
  jax.tree.map(np.testing.assert_array_equal, found, again)
  for seed, number in ((1, 5), (2, 4)):
    other = graphs.fold(103, 0.1, seed=seed, number=number)
    assert set(other['test']) != set(found['test'])
  least = graphs.fold(3, 0.01, seed=0, number=0)
  assert [len(part) for part in least.values()] == [1, 1, 1]


@pytest.mark.parametrize(
  'change, message',
  [
    ({'data__folds': 0}, 'config.data.folds = 0 must be at least 1'),
    (
      {'data__held_out': 0.5},
      r'config.data.held_out = 0.5 must be in \(0, 0.5\)',
    ),
    ({'model__ratio': 0.0}, 'config.model: ratio=0.0 of nodes to keep'),
    ({'model__ratio': 1.5}, 'config.model: ratio=1.5'),
    ({'model__width': 1}, 'width=1 must be at least'),
    (
      {'optimizer__name': 'lamb'},
      'config.optimizer.name = "lamb" must be one of sgd, adam',
    ),
    ({'train__steps': 0}, 'train.steps = 0'),
    (
      {'losses__ce': {**CROSS_ENTROPY, 'weights': 'effective_number'}},
      'losses.ce.weights = "effective_number" must be one of none; this job',
    ),
  ],
)
def test_a_value_that_cannot_be_is_refused_before_any_work(change, message):
  with pytest.raises(InputError, match=message):
    graphs.program(config_of('mutag', **change))


@pytest.mark.parametrize(
  'make, change, message',
  [
    ({'count': 4}, {'data__folds': 5}, 'has 4 graphs; 5 folds .* at least 5'),
    ({'count': 2}, {'data__folds': 1}, 'has 2 graphs; 1 folds .* at least 3'),
    ({'classes': 1}, {}, 'all 40 graphs of "tu:.*" are of class "0"'),
    ({'labels': False}, {}, 'the set has no node labels, .*: take of degree'),
    (
      {},
      {'data__node_features': ()},
      r'node features are \[\]: give at least one',
    ),
  ],
)
def test_a_set_that_cannot_be_learnt_is_refused(
  make, change, message, tmp_path
):
  config = config_of(write_set(tmp_path / 'set', **make), **change)
  first = graphs.program(config)[0]
  with pytest.raises(InputError, match=message):
    first.run(space_of(config, tmp_path))


def test_a_set_that_is_not_there_is_named(tmp_path):
  config = config_of('proteins')
  with pytest.raises(InputError, match="no set of graphs 'proteins'"):
    graphs.program(config)[0].run(space_of(config, tmp_path))


def test_a_batch_that_does_not_divide_by_the_devices_is_named(toy, tmp_path):
  config = config_of(toy)
  space = space_of(config, tmp_path, devices=3)
  first = graphs.program(config)[0]
  with pytest.raises(InputError, match=r'a batch of 8 graphs .* into 3 rows'):
    first.open(space)
  with pytest.raises(
    InputError, match='batch_size = 8 must be a multiple of 3'
  ):
    first.plan(space)


def test_graphs_that_are_not_there_are_not_counted(toy, job):
  config = config_of(toy, data__eval_batch_size=5)
  here = mesh.make(devices=jax.devices()[:2])  # batches of 6: 8 are 6 and 2
  folds = graphs.Folds(config, 0, True)
  evaluator = graphs.make_evaluator(config)
  state = jax.device_get(job.state)
  total = evaluator.init()
  feed = folds.once(here, 'test')
  assert feed.steps == 2
  for _, _, batch in feed.batches(0, 2):
    total = jax.jit(evaluator.update)(total, state, batch, jax.random.key(0))
  np.testing.assert_array_equal(total['graphs'], [8, 8])
  figures = evaluator.finish(total)
  model, want = graphs.make_model(config), []
  for k in (0, 1):
    joined = folds.indices['test'][:, k : k + 1]
    one = graphs.GraphSource(
      folds.graphs, folds.features, joined, batch_size=8, shuffle=False
    ).batch(0, slice(0, 1))
    names = ('node', 'edge', 'num_nodes', 'num_edges')
    logits = jax.jit(partial(logits_of_rows, model))(
      alone(state.params['net'], k), {n: one[n][:, 0] for n in names}
    )
    want.append(float((logits.argmax(-1) == one['label'][:, 0]).mean()))
  assert [figures[f'fold{k}/accuracy'] for k in (0, 1)] == want
  assert figures['accuracy'] == pytest.approx(np.mean(want))


def test_a_graph_is_answered_by_the_networks_of_all_folds(toy, job):
  config = config_of(toy)
  folds = graphs.Folds(config, 0, True)
  state, source = jax.device_get(job.state), folds.indices['test'][:, :1]
  # The same graphs in one packed row, by each fold's network alone.
  batch = graphs.GraphSource(
    folds.graphs, folds.features, source, batch_size=8, shuffle=False
  ).batch(0, slice(0, 1))
  names = ('node', 'edge', 'num_nodes', 'num_edges')
  row = {name: batch[name][:, 0] for name in names}
  net, params = graphs.make_model(config), state.params['net']
  p = [
    jax.nn.softmax(logits_of_rows(net, alone(params, k), row))[0]
    for k in (0, 1)
  ]
  sizes = [np.cumsum(row[f'num_{x}'][0])[:-1] for x in ('nodes', 'edges')]
  given = [
    {'nodes': node.tolist(), 'edges': (edge - first).tolist()}
    for node, edge, first in zip(
      np.split(row['node'][0][: row['num_nodes'].sum()], sizes[0]),
      np.split(row['edge'][0][: row['num_edges'].sum()], sizes[1]),
      [0, *sizes[0]],
    )
  ]
  made = model.of(config, state.params, state.vars, folds.kept())
  found = graphs.predict(made, given)
  np.testing.assert_allclose(
    [one['probabilities'] for one in found], np.mean(p, 0), rtol=1e-4
  )
  assert made.classes == ['0', '1'] and len(made.example()) == 2
  for number, one in enumerate(made.example()):
    first, last = folds.graphs.node_offset[number : number + 2]
    assert one['nodes'] == folds.features[first:last].tolist()
    assert np.max(one['edges'], initial=0) < last - first
  node = {'nodes': [[1.0, 0.0]], 'edges': [[0, 1]]}
  for wrong, words in (
    ({**node, 'edges': []} | {'nodes': []}, 'graph 1 has nodes of shape'),
    ({**node, 'nodes': [[1.0]]}, r'shape \(1, 1\): give \[n, 2\]'),
    (node, 'graph 1 has an edge of node 1 and 1 nodes'),
    ({'nodes': node['nodes']}, "KeyError: 'edges'"),
    ([1], 'graph 1 is not'),
  ):
    with pytest.raises(InputError, match=words):
      graphs.predict(made, [made.example()[0], wrong])
