"""Sampled layers through the network, the steps, inference and the stages."""

import importlib
import json
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxlab.core.errors import InputError
from jaxlab.data.graphs.adjacency import adjacency
from jaxlab.engine import mesh
from jaxlab.engine.compiled import Steps, first_state
from jaxlab.engine.evaluate import Evaluation
from jaxlab.engine.feed import Feed
from jaxlab.models.sampled_gnn import KINDS, SampledGNN
from jaxlab.papers.mvs_gnn import (
  curves,
  feeds,
  inference,
  judgement,
  task,
  training,
  variance,
)
from jaxlab.papers.mvs_gnn.blocks import make_operator
from jaxlab.papers.mvs_gnn.feeds import NodeData
from jaxlab.papers.mvs_gnn.minimal_variance import MVS, Refresh
from jaxlab.papers.mvs_gnn.nodewise import Neighbour, Uniform
from jaxlab.recipes.study import Cell, study_of
from jaxlab.runs import model, stage
from jaxlab.runs.sections import Sections
from tests import runs

configs = importlib.import_module('configs.mvs_gnn')
# Programs that run once or twice.
quick = partial(jax.jit, compiler_options={'xla_backend_optimization_level': 0})

NODES, FEATURES, CLASSES = 60, 5, 4
NORMALISATIONS = {
  'gcn': ('symmetric', 'add'),
  'concat': ('symmetric', 'add'),
  'sage': ('row', 'drop'),
  'gat': ('none', 'add'),
}


def graph(kind='gcn', multi=False):
  """Operator, nodes and training nodes of a random graph."""
  rng = np.random.default_rng(0)
  edges = rng.integers(0, NODES - 2, (150, 2))  # the last two are isolated
  normalisation, loops = NORMALISATIONS[kind]
  found = adjacency(edges, NODES, self_loops=loops)
  labels = rng.integers(0, CLASSES, NODES).astype(np.int32)
  if multi:
    labels = rng.integers(0, 2, (NODES, CLASSES)).astype(np.uint8)
  features = rng.standard_normal((NODES, FEATURES)).astype(np.float32)
  train = np.arange(0, NODES, 2)
  return make_operator(found, normalisation), NodeData(features, labels), train


def dense(operator):
  matrix = np.zeros((operator.num_nodes, operator.num_nodes), np.float32)
  rows = np.repeat(np.arange(operator.num_nodes), operator.degrees)
  matrix[rows, operator.indices] = operator.weight
  return jnp.asarray(matrix)


def reference(kind, params, x, matrix):
  """The network on the whole graph, written with dense matrices."""
  for level in range(2):
    own = lambda name, level=level: params[f'{name}{level}']['kernel']
    bias = params[f'bias{level}']
    if kind == 'gcn':
      x = jax.nn.relu(matrix @ x @ own('gather') + bias)
    elif kind == 'sage':
      x = jax.nn.relu(x @ own('self') + matrix @ x @ own('gather') + bias)
    elif kind == 'concat':
      parts = [x @ own('self'), matrix @ x @ own('gather')]
      x = jax.nn.relu(jnp.concatenate(parts, -1) + bias)
    else:
      h = (x @ own('gather')).reshape(NODES, 2, -1)
      sent = (h * params[f'from{level}']).sum(-1)
      kept = (h * params[f'to{level}']).sum(-1)
      score = jax.nn.leaky_relu(kept[:, None] + sent[None], 0.2)
      score = jnp.where(matrix[..., None] > 0, score, -jnp.inf)
      share = jax.nn.softmax(score, axis=1)
      z = jnp.einsum('ijh,jhd->ihd', share, h).reshape(NODES, -1)
      x = jax.nn.elu(z + bias)
  return x @ params['head']['kernel'] + params['head']['bias']


def net_of(kind, classes=CLASSES, dropout=0.0):
  return SampledGNN(kind, classes, width=8, dropout_rate=dropout, heads=2)


def batch_of(sampler, nodes, seed=0, lanes=4):
  """A batch of a sampler's own size, and its shape."""
  sample = sampler.sample(np.random.default_rng(seed))
  shape = feeds.shape_for([sample], NODES, 1.0, lanes, sampler.history)
  padded = feeds.pad(sample, shape.budget, NODES)
  return feeds.arrays_of(padded, nodes, lanes), shape


def state_of(net, shapes, rate=0.1):
  made = training.make_task(net, shapes, NODES, FEATURES, optax.sgd(rate))
  return made, quick(partial(first_state, made))(jax.random.key(1))


def one_device():
  return mesh.make(devices=jax.devices()[:1])


def full_loss(kind, nodes, operator, train):
  def loss(params):
    logits = reference(kind, params, nodes.features, dense(operator))
    each = training.node_losses(logits, jnp.asarray(nodes.labels))
    return each[train].mean()

  return loss


@pytest.mark.parametrize(
  ('kind', 'multi'), [('gcn', True), *((kind, False) for kind in KINDS)]
)
def test_all_training_nodes_give_the_full_batch_loss_and_gradient(kind, multi):
  operator, nodes, train = graph(kind, multi)
  batch, shape = batch_of(Uniform(operator, train, len(train), 2), nodes)
  net = net_of(kind)
  _, state = state_of(net, {'train': shape})
  loss = training.loss_of(net, shape, NODES)
  value = lambda params: (
    loss({'net': params}, state.vars, batch, jax.random.key(0)).sum
  )
  params = state.params['net']
  got, grads = quick(jax.value_and_grad(value))(params)
  full = full_loss(kind, nodes, operator, train)
  want, expected = quick(jax.value_and_grad(full))(params)
  np.testing.assert_allclose(got, want, rtol=1e-5)
  # Sums of some 60 float32 terms in another order.
  chex.assert_trees_all_close(grads, expected, rtol=1e-4, atol=1e-6)


def test_mvs_over_all_nodes_and_a_refresh_are_full_batch_gradient_descent():
  """gamma = 1, K = 1; and V_B = V in an inner step, with histories."""
  operator, nodes, _ = graph()
  train = np.arange(NODES)  # V_B = V
  net = net_of('gcn')
  large, large_shape = batch_of(Refresh(operator, train, NODES, 2), nodes)
  inner, inner_shape = batch_of(MVS(operator, train, NODES, 2), nodes)
  shapes = {'train': inner_shape, 'refresh': large_shape}
  made, state = state_of(net, shapes)
  params = state.params['net']
  descent = quick(jax.grad(full_loss('gcn', nodes, operator, train)))
  steps = {kind: quick(update) for kind, update in made.steps.items()}
  for kind, batch in [('refresh', large), ('train', inner), ('refresh', large)]:
    params = jax.tree.map(lambda p, g: p - 0.1 * g, params, descent(params))
    batch = {**batch, 'mask': np.ones(4, bool)}
    state, _ = steps[kind](state, batch, jax.random.key(0))
    chex.assert_trees_all_close(
      state.params['net'], params, rtol=1e-4, atol=1e-6
    )


def test_steps_between_refreshes_publish_fresh_norms_of_the_same_nodes():
  operator, nodes, train = graph()
  batch, shape = batch_of(MVS(operator, train, 7, 2), nodes)
  large, large_shape = batch_of(Refresh(operator, train, 30, 2), nodes)
  shapes = {'train': shape, 'publish': shape, 'refresh': large_shape}
  made, state = state_of(net_of('gcn'), shapes)
  batch['mask'] = large['mask'] = np.ones(4, bool)
  run = lambda kind, state, batch: jax.device_get(
    quick(made.steps[kind])(state, batch, jax.random.key(0))[0]
  )
  first = run('refresh', state, large)
  kept = run('train', first, batch).vars['sampler']['published']
  chex.assert_trees_all_equal(kept, first.vars['sampler']['published'])
  found = run('publish', first, batch).vars['sampler']
  ids = found['published']['id']
  np.testing.assert_array_equal(ids, first.vars['sampler']['published']['id'])
  real = ids < NODES
  norms = found['published']['norm'][real]
  np.testing.assert_array_equal(norms, found['live']['norm'][ids[real]])
  changed = norms != first.vars['sampler']['published']['norm'][real]
  seeds = np.unique(batch['seed'])[:-1]
  np.testing.assert_array_equal(np.sort(ids[real][changed]), seeds)


def test_what_a_refresh_writes_has_no_dropout():
  operator, nodes, train = graph()
  large, shape = batch_of(Refresh(operator, train, 30, 2), nodes)
  large['mask'] = np.ones(4, bool)
  # The refresh itself has no history; its shape says nothing of the others'.
  shapes = {'train': shape._replace(history=True), 'refresh': shape}
  made, state = state_of(net_of('gcn', dropout=0.5), shapes)
  step = quick(made.steps['refresh'])
  one, other = (step(state, large, jax.random.key(i))[0] for i in (0, 1))
  for name in ('history', 'sampler'):
    chex.assert_trees_all_equal(one.vars[name], other.vars[name])
  kernels = [x.params['net']['head']['kernel'] for x in (one, other)]
  assert (kernels[0] != kernels[1]).any()  # dropout was there in training


def test_norms_are_those_of_the_heads_gradients():
  rng = np.random.default_rng(0)
  inputs = jnp.asarray(rng.standard_normal((6, 8)), jnp.float32)
  head = {
    'kernel': jnp.asarray(rng.standard_normal((8, 4)), jnp.float32),
    'bias': jnp.asarray(rng.standard_normal(4), jnp.float32),
  }
  for labels in (rng.integers(0, 4, 6), rng.integers(0, 2, (6, 4))):
    labels = jnp.asarray(labels, jnp.int32)

    def one(head, x, y):
      logits = x @ head['kernel'] + head['bias']
      return training.node_losses(logits[None], y[None])[0]

    grads = quick(jax.vmap(jax.grad(one), (None, 0, 0)))(head, inputs, labels)
    squares = jax.tree.map(lambda g: (g**2).reshape(6, -1).sum(1), grads)
    logits = inputs @ head['kernel'] + head['bias']
    np.testing.assert_allclose(
      training.node_norms(inputs, logits, labels),
      np.sqrt(squares['kernel'] + squares['bias']),
      rtol=1e-5,
    )


@pytest.mark.parametrize(
  ('kind', 'chunk'),
  [('gcn', 1), ('gcn', 10_000), *((kind, 40) for kind in KINDS)],
)
def test_inference_in_chunks_is_exact(kind, chunk):
  operator, nodes, _ = graph(kind)
  net = net_of(kind)
  wanted = np.arange(1, NODES, 3)
  source = inference.LayerChunks(
    nodes, operator, wanted, num_layers=2, chunk_edges=chunk, lanes=2
  )
  _, shape = batch_of(Uniform(operator, wanted, 3, 2), nodes)
  _, state = state_of(net, {'train': shape})
  kept = inference.evaluator(net, source, judgement.judge, lambda sums: sums)
  feed = Feed(source, one_device(), steps=source.num_batches)
  sums = Evaluation('test', kept, feed, 0).run(state)
  logits = reference(
    kind, state.params['net'], nodes.features, dense(operator)
  )[wanted]
  labels = nodes.labels[wanted]
  assert sums['hit'] == (logits.argmax(-1) == labels).sum()
  assert sums['nodes'] == len(wanted)
  each = training.node_losses(logits, jnp.asarray(labels))
  np.testing.assert_allclose(sums['nats'], each.sum(), rtol=1e-4)


def test_micro_f1_of_several_labels_counts_all_of_them():
  logits = jnp.array([[1.0, -1.0, 1.0], [1.0, 1.0, -1.0], [9.0, 9.0, 9.0]])
  labels = jnp.array([[1, 1, 0], [1, 1, 0], [0, 0, 0]])
  mask = jnp.array([True, True, False])
  sums = judgement.judge(logits, labels, mask)
  # Three hits of four predicted and four true.
  assert judgement.figures(sums)['f1'] == 0.75
  nothing = judgement.judge(logits, labels, jnp.zeros(3, bool))
  assert judgement.figures(nothing) == {'f1': 0.0, 'nats': 0.0}


def config_of(**changes):
  config = runs.config_of('mvs_gnn', 'smoke')
  both = configs.methods(16)
  config.methods = {'mvs': both.mvs, 'sage': both.sage}
  config.study.baseline = 'sage'
  config.model.width = 8
  config.train.steps = 8
  config.study.rates = (0.05,)
  config.train.log_every_steps = 4
  config.train.eval_every_steps = 4
  config.refresh.every = 4
  config.refresh.publish_every = 2
  config.refresh.share = 0.1
  config.sampler.draws = 4
  with config.unlocked():
    for name, value in changes.items():
      config.update_from_flattened_dict({name: value})
  return config.to_dict()


def test_batches_follow_from_the_seed_the_step_and_the_snapshot():
  config = config_of()
  cell = Cell('cell', 'mvs', None, 0.01, 3)
  job = task.Job(config, cell, True)
  one, other = job.batches(), job.batches()
  rows = slice(0, 8)
  one.batch(9, rows)  # in any order
  chex.assert_trees_all_equal(one.batch(5, rows), other.batch(5, rows))
  ids = one.sampler.train[:40]
  norms = np.linspace(0.1, 4, 40).astype(np.float32)
  before = other.batch(5, rows)
  padded = {'id': [*ids, len(one.nodes.labels)], 'norm': [*norms, 0]}
  one.publish({name: np.array(array) for name, array in padded.items()})
  after = one.batch(5, rows)
  chex.assert_trees_all_equal(before, other.batch(5, rows))
  other.publish({'id': ids, 'norm': norms})
  chex.assert_trees_all_equal(after, other.batch(5, rows))
  assert set(after['seed'].ravel()) <= {*ids, len(one.nodes.labels)}


def test_training_without_the_edges_of_others_is_inductive():
  config = config_of(**{'data.protocol': 'inductive'})
  data = task.Job(config, Cell('c', 'sage', None, 0.01, 0), True).data
  train = np.zeros(data.graph.num_nodes, bool)
  train[data.graph.nodes_of('train')] = True
  rows = np.repeat(np.arange(len(train)), data.training.degrees)
  own = rows == data.training.indices
  assert (train[rows] & train[data.training.indices] | own).all()
  assert len(data.everything.indices) > len(data.training.indices)


def test_an_empty_batch_of_seeds_changes_nothing():
  operator, nodes, train = graph()
  sampler = Neighbour(operator, train, 4, 2)
  drawn = sampler.sample(np.random.default_rng(0))
  shape = feeds.shape_for([drawn], NODES, 1.0, 4)
  source = feeds.SampledBatches(nodes, sampler, {'train': shape}, 4, seed=0)
  empty = {
    name: np.zeros(array.shape, array.dtype)
    for name, array in source.spec['train'].items()
  }
  loss = training.loss_of(net_of('gcn'), shape, NODES)
  _, state = state_of(net_of('gcn'), {'train': shape})
  found = quick(loss)(state.params, state.vars, empty, jax.random.key(0))
  assert float(found.sum) == 0.0


def test_gradients_of_all_nodes_are_exact_and_of_some_vary_without_bias():
  operator, nodes, train = graph()
  net = net_of('gcn')
  full = quick(jax.grad(full_loss('gcn', nodes, operator, train)))

  def found(sampler):
    _, shape = batch_of(sampler, nodes)
    source = variance.VarianceBatches(
      nodes, sampler, shape, draws=3, headroom=2, lanes=4, seed=0
    )
    _, state = state_of(net, {'train': shape})
    feed = Feed(source, one_device(), steps=source.num_batches)
    made = variance.evaluator(net, source)
    got = Evaluation('gradient', made, feed, 0).run(state)
    want = optax.tree.norm(full(state.params['net']), squared=True)
    np.testing.assert_allclose(got['full'], want, rtol=1e-4)
    return got

  every = found(Uniform(operator, train, len(train), 2))
  some = found(Uniform(operator, train, 6, 2))
  few = found(Neighbour(operator, train, 6, 2, (1, 1)))  # the same seeds
  none = 1e-9 * every['full']  # float32, squared
  assert max(every[name] for name in variance.MEANS) < none
  assert some['bias'] < none
  np.testing.assert_allclose(some['error'], some['variance'], rtol=1e-4)
  assert some['variance'] > 1e-2 * some['full'] < some['uniform']
  np.testing.assert_allclose(few['variance'], some['variance'], rtol=1e-4)
  assert few['bias'] > 1e-2 * few['full']
  assert abs(few['error'] / few['variance'] - 1) > 1e-2


def test_predictions_are_the_classes_of_the_whole_graph():
  config = config_of(**{'data.eval_edges': 5000})
  cell = Cell('cell', 'sage', None, 0.01, 0)
  job = task.Job(config, cell, True)
  params, vars = job.task(0.01).init(jax.random.key(0))
  wanted = np.array([7, 1796, 7, 40])
  made = model.of(config, params, vars, task.kept(config, job.data))
  found = task.predict(made, wanted)
  operator, features = job.data.everything, job.data.nodes.features
  logits = reference('gcn', params['net'], features, dense(operator))[wanted]
  chances = np.asarray(jax.nn.softmax(logits))
  names = [job.data.graph.classes[i] for i in chances.argmax(1)]
  assert [answer['label'] for answer in found] == names
  got = [answer['probability'] for answer in found]
  np.testing.assert_allclose(got, chances.max(1), rtol=1e-5)
  with pytest.raises(InputError, match=r'\[1797\] must be in \[0, 1797\)'):
    task.predict(made, [1797])


@pytest.mark.parametrize('every', [1, 4])
def test_a_stage_tells_the_kinds_and_shapes_that_its_source_gives(every):
  config = config_of(**{'refresh.every': every, 'refresh.publish_every': 1})
  cell = Cell('cell', 'mvs', None, 0.01, 0)
  made = task.training_stage(config, cell)
  space = stage.Workspace(None, config, one_device(), 0, offline=True)
  planned, (_, inputs) = made.plan(space), made.open(space)
  kinds = {'refresh', *(['publish'] if every > 1 else [])}
  assert {*planned.task.steps} == {*planned.spec} == kinds
  source = inputs.feed.source
  for step, kind in enumerate(sorted(kinds, reverse=True)):
    batch = source.batch(step, slice(0, 8))
    said = {k: (a.shape, a.dtype) for k, a in planned.spec[kind].items()}
    assert said == {k: (a.shape, a.dtype) for k, a in batch.items()}


def test_steps_and_seconds_are_counted_to_the_first_evaluation_that_reaches(
  tmp_path,
):
  config = config_of(**{'study.seeds': (0, 1, 2), 'study.reach': (0.5, 0.9)})
  study = study_of(config, ['mvs', 'sage'], ('f1', 'nats'))
  f1 = {
    'mvs': [(0.2, 0.6), (0.55, 0.4), (0.5, 0.95)],
    'sage': [(0.1, 0.95)] * 3,
  }
  for arm, seeds in f1.items():
    for cell, values in zip(study.finals(arm), seeds):
      lines = []
      for turn, value in enumerate(values):
        step = 20 * (turn + 1)
        for kind in ('train', 'refresh'):  # of the same seconds
          lines.append({'kind': kind, 'step': step, 'seconds': 3.0 + cell.seed})
        at = {'kind': 'eval', 'step': step}
        at |= {f'gradient/{name}': 0.1 for name in variance.MEANS}
        lines.append({**at, 'validation/f1': value, 'validation/nats': 1.0})
      path = tmp_path / cell.name / 'metrics.jsonl'
      path.parent.mkdir()
      path.write_text('\n'.join(map(json.dumps, lines)))
  space = stage.Workspace(tmp_path, config, None, 0)
  space.page = Sections(tmp_path / 'curves')
  found = curves.stage(config, study).run(space)
  assert found == {
    'mvs/steps_to_0.5': 20,
    'mvs/seconds_to_0.5': 5.0,
    'sage/steps_to_0.5': 40,
    'sage/seconds_to_0.5': 8.0,
    'sage/steps_to_0.9': 40,
    'sage/seconds_to_0.9': 8.0,
  }
  (rows,) = [x['rows'] for x in space.page.found if x['kind'] == 'table']
  assert rows[0][3:] == ['not by all seeds'] * 2
  files = {path.name for path in (tmp_path / 'curves' / 'figures').iterdir()}
  assert {'validation_f1_by_seconds.png', 'gradient_error_by_steps.png'} < files


@pytest.mark.slow
def test_a_step_kind_is_traced_once_in_a_thousand_steps(tmp_path):
  config = config_of()
  cell = Cell('cell', 'mvs', None, 0.01, 0)
  space = stage.Workspace(tmp_path, config, one_device(), 0, offline=True)
  made, inputs = task.training_stage(config, cell).open(space)
  state = jax.tree.map(jnp.copy, first_state(made, jax.random.key(0)))
  state = mesh.place(state, mesh.replicated(space.mesh))
  steps = Steps(made, 0, state)
  for step, kind, batch in inputs.feed.batches(0, 1000):
    state, _ = steps(kind, state, batch, jax.random.key(0))
    if inputs.feed.publishes(step):
      published = jax.device_get(state.vars['sampler']['published'])
      inputs.feed.publish(jax.tree.map(np.copy, published))
  assert int(state.step) == 1000
  assert steps.traces == {'refresh': 1, 'publish': 1, 'train': 1}
