"""Single steps of MVS against dense float64, with histories and weights."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxlab.papers.mvs_gnn import training
from jaxlab.papers.mvs_gnn.minimal_variance import MVS, Refresh
from jaxlab.papers.mvs_gnn.nodewise import Neighbour
from jaxlab.recipes.study import Cell
from tests.papers import test_mvs_gnn_samplers as samplers
from tests.papers import test_mvs_gnn_task as tasks
from tests.papers.test_mvs_gnn_task import NODES, quick

TRAIN = np.arange(0, NODES, 2)
NORMS = np.random.default_rng(4).pareto(1.5, len(TRAIN)) + 0.02


def dense(operator):
  return np.asarray(tasks.dense(operator), np.float64)


def drawn(history=True):
  """Operator, nodes, a padded batch of 7 seeds, its weights by node, shape."""
  operator, nodes, _ = tasks.graph()
  sampler = MVS(operator, TRAIN, 7, 2, history=history)
  sampler.publish(TRAIN, NORMS)
  sample = sampler.sample(np.random.default_rng(1))
  weight = np.zeros(NODES)
  p = sampler.probabilities[np.searchsorted(TRAIN, sample.seeds)]
  weight[sample.seeds] = 1 / (p * len(TRAIN))
  assert len(np.unique(weight[sample.seeds].round(9))) > 4  # unequal
  batch, shape = tasks.batch_of(sampler, nodes, seed=1)
  batch['mask'] = np.ones(4, bool)
  return operator, nodes, batch, weight, shape


def state_of(shape, history):
  """The task, and a State whose old embeddings and norms are random."""
  net = tasks.net_of('gcn')
  operator, nodes, _ = tasks.graph()
  large = tasks.batch_of(Refresh(operator, TRAIN, 30, 2), nodes)[1]
  made = training.make_task(
    net,
    {'train': shape, 'refresh': large},
    NODES,
    tasks.FEATURES,
    optax.sgd(1.0),
  )
  state = quick(lambda key: tasks.first_state(made, key))(jax.random.key(1))
  draw = np.random.default_rng(6)
  live = state.vars['sampler']['live']['norm']
  vars = dict(state.vars)
  vars['sampler'] = {
    **vars['sampler'],
    'live': {'norm': jnp.float32(draw.random(live.shape))},
  }
  if history:
    old = jnp.float32(draw.random(state.vars['history']['0'].shape))
    vars['history'] = {'0': old}
  # Biases that are not 0, so that all gradients differ.
  params = jax.tree.map(
    lambda x: x + 0.1 * jnp.float32(draw.standard_normal(x.shape)),
    state.params,
  )
  return made, state.replace(params=params, vars=vars)


def reference(operator, nodes, weight, params, old):
  """Loss, gradients, the seeds' first layer and norms of a GCN's batch.

  `old` [n, h]: used for all that is not a seed, as a constant.
  """
  p = jax.tree.map(lambda x: np.asarray(x, np.float64), params['net'])
  matrix, x = dense(operator), nodes.features.astype(np.float64)
  seeds = np.flatnonzero(weight)
  w = weight[seeds]
  gathered = (matrix @ x)[seeds]
  a = gathered @ p['gather0']['kernel'] + p['bias0']
  h = np.maximum(a, 0)
  values = old.copy()
  values[seeds] = h
  z = (matrix @ values)[seeds]
  b = z @ p['gather1']['kernel'] + p['bias1']
  g = np.maximum(b, 0)
  logits = g @ p['head']['kernel'] + p['head']['bias']
  e = np.exp(logits - logits.max(1, keepdims=True))
  chance = e / e.sum(1, keepdims=True)
  at = np.arange(len(seeds)), nodes.labels[seeds]
  loss = -(w * np.log(chance[at])).sum()
  d = chance.copy()
  d[at] -= 1
  norms = np.sqrt((d**2).sum(1) * ((g**2).sum(1) + 1))
  d *= w[:, None]
  db = (d @ p['head']['kernel'].T) * (b > 0)
  dh = matrix[np.ix_(seeds, seeds)].T @ (db @ p['gather1']['kernel'].T)
  da = dh * (a > 0)
  grads = {
    'head': {'kernel': g.T @ d, 'bias': d.sum(0)},
    'gather1': {'kernel': z.T @ db},
    'bias1': db.sum(0),
    'gather0': {'kernel': gathered.T @ da},
    'bias0': da.sum(0),
  }
  return loss, grads, h, norms


def test_a_partial_batch_with_old_embeddings_is_that_of_dense_float64():
  operator, nodes, batch, weight, shape = drawn()
  made, state = state_of(shape, history=True)
  old = np.asarray(state.vars['history']['0'], np.float64)[:NODES]
  want, grads, h, norms = reference(operator, nodes, weight, state.params, old)
  new, metrics = quick(made.steps['train'])(state, batch, jax.random.key(0))
  np.testing.assert_allclose(metrics['loss'][0], want, rtol=1e-5)
  found = jax.tree.map(
    lambda p, q: p - q, state.params['net'], new.params['net']
  )
  for path, value in jax.tree.leaves_with_path(grads):
    got = found
    for key in path:
      got = got[key.key]
    np.testing.assert_allclose(got, value, rtol=1e-4, atol=1e-6, err_msg=path)
  # What was computed is kept, of these nodes and no others.
  seeds = np.flatnonzero(weight)
  kept = np.asarray(new.vars['history']['0'])
  np.testing.assert_allclose(kept[seeds], h, rtol=1e-5, atol=1e-6)
  others = np.delete(np.arange(len(kept)), seeds)
  before = np.asarray(state.vars['history']['0'])
  np.testing.assert_array_equal(kept[others], before[others])
  live = np.asarray(new.vars['sampler']['live']['norm'])
  np.testing.assert_allclose(live[seeds], norms, rtol=1e-5)
  before = np.asarray(state.vars['sampler']['live']['norm'])
  np.testing.assert_array_equal(live[others], before[others])


def test_refreshed_histories_and_norms_are_those_of_exact_embeddings():
  operator, nodes, _ = tasks.graph()
  _, _, _, _, shape = drawn()
  made, state = state_of(shape, history=True)
  large, _ = tasks.batch_of(Refresh(operator, TRAIN, 30, 2), nodes)
  large['mask'] = np.ones(4, bool)
  new, _ = quick(made.steps['refresh'])(state, large, jax.random.key(0))
  p = jax.tree.map(lambda x: np.asarray(x, np.float64), state.params['net'])
  matrix, x = dense(operator), nodes.features.astype(np.float64)
  exact = np.maximum(matrix @ x @ p['gather0']['kernel'] + p['bias0'], 0)
  reached = np.flatnonzero((matrix[TRAIN] != 0).any(0))  # the seeds too
  assert 30 < len(reached) < NODES
  table = np.asarray(new.vars['history']['0'])
  np.testing.assert_allclose(table[reached], exact[reached], 1e-5, 1e-6)
  others = np.delete(np.arange(NODES), reached)
  before = np.asarray(state.vars['history']['0'])
  np.testing.assert_array_equal(table[others], before[others])
  everyone = np.zeros(NODES)
  everyone[TRAIN] = 1 / 30
  _, _, _, norms = reference(operator, nodes, everyone, state.params, exact)
  published = jax.device_get(new.vars['sampler']['published'])
  order = np.argsort(published['id'])
  real = order[published['id'][order] < NODES]
  np.testing.assert_array_equal(published['id'][real], TRAIN)
  np.testing.assert_allclose(published['norm'][real], norms, rtol=1e-5)


def test_without_a_history_every_neighbour_is_fresh_and_has_a_gradient():
  operator, nodes, batch, weight, shape = drawn(history=False)
  assert not shape.history and not any('history' in name for name in batch)
  made, state = state_of(shape, history=False)
  assert 'history' not in state.vars

  def full(params):
    logits = tasks.reference(
      'gcn', params, nodes.features, tasks.dense(operator)
    )
    each = training.node_losses(logits, jnp.asarray(nodes.labels))
    return each @ jnp.float32(weight)

  want, grads = quick(jax.value_and_grad(full))(state.params['net'])
  new, metrics = quick(made.steps['train'])(state, batch, jax.random.key(0))
  np.testing.assert_allclose(metrics['loss'][0], want, rtol=1e-5)
  tasks.chex.assert_trees_all_close(
    jax.tree.map(lambda p, q: p - q, state.params['net'], new.params['net']),
    grads,
    rtol=1e-4,
    atol=1e-6,
  )


def test_a_job_without_a_history_has_none_in_its_state():
  config = tasks.config_of()
  config['methods']['mvs']['options'] = {'history': False}
  cell = Cell('cell', 'mvs', None, 0.01, 0)
  space = tasks.stage.Workspace(None, config, tasks.one_device(), 0, True)
  planned = tasks.task.training_stage(config, cell).plan(space)
  assert [name for name, _ in planned.rules[:-1]] == ['^vars/sampler/live/']
  _, vars = jax.eval_shape(planned.task.init, jax.random.key(0))
  assert vars.keys() == {'sampler'}


@pytest.mark.parametrize('loops', ['add', 'drop'])
def test_official_rows_are_never_scaled_up(loops):
  """L's entries at all nodes that are there, by max(1, their sum)."""
  operator = samplers.operator_of(loops=loops)
  matrix = samplers.dense(operator)
  assert (matrix.sum(1) > 1.2).any() and (matrix.sum(1) < 0.9).any()
  sampler = Neighbour(
    operator, samplers.train_of(), 8, 2, (3, 2), official_rows=True
  )
  assert (
    not sampler.unbiased
    and Neighbour(operator, samplers.train_of(), 8, 2, (3, 2)).unbiased
  )
  nodes = np.array([0, 5, 39, 7, 11, 1], np.int32)
  floored = 0
  for step in range(30):
    edges = sampler.edges(np.random.default_rng(step), 1, nodes)
    rows = np.zeros((len(nodes), samplers.NODES))
    np.add.at(rows, (edges.receivers, edges.senders), edges.weight)
    kept = np.zeros(samplers.NODES, bool)
    kept[edges.senders] = True
    kept[nodes] = True
    part = matrix[nodes] * kept
    total = part.sum(1, keepdims=True)
    np.testing.assert_allclose(rows, part / np.maximum(1, total), rtol=1e-6)
    assert kept.sum() <= len(nodes) * (1 + 3)
    has = operator.degrees[nodes] > 0
    assert (part[has] > 0).any(1).all()
    floored += (total > 1).sum()
  assert floored


def test_official_rows_draw_alike_from_all_entries_of_a_row():
  """A row of 20 others and a loop: three draws hit one with 1 - (20/21)^3."""
  edges = np.stack([np.zeros(20, int), np.arange(1, 21)], 1)
  found = samplers.adjacency(edges, 21, self_loops='add')
  operator = samplers.blocks.make_operator(found, 'symmetric')
  sampler = Neighbour(operator, np.arange(21), 8, 1, (3,), official_rows=True)
  hits = np.zeros(21)
  for step in range(3000):
    rng = np.random.default_rng(step)
    hits[sampler.edges(rng, 0, np.zeros(1, np.int32)).senders] += 1
  chance = 1 - (20 / 21) ** 3
  sigma = np.sqrt(3000 * chance * (1 - chance))
  assert hits[0] == 3000  # a destination is always there
  assert (np.abs(hits[1:] - 3000 * chance) < 4.5 * sigma).all()
