"""What all samplers have in common; helpers for the tests of each."""

from functools import partial

import chex
import numpy as np
import pytest

from jaxlab.core.errors import InputError
from jaxlab.data.graphs.adjacency import adjacency
from jaxlab.papers.mvs_gnn import blocks, sampler
from jaxlab.papers.mvs_gnn.layerwise import LADIES, FastGCN
from jaxlab.papers.mvs_gnn.minimal_variance import MVS, Refresh
from jaxlab.papers.mvs_gnn.nodewise import VRGCN, Labor, Neighbour, Uniform
from jaxlab.papers.mvs_gnn.subgraph import ClusterGCN, GraphSAINT

NODES = 40
VALUES = np.random.default_rng(7).normal(1.0, 1.0, (NODES, 3))
_ROUNDING = 1e-7  # sums of float32 weights are equal to 1e-6 at best


def operator_of(normalisation='symmetric', loops='add', symmetric=True):
  """Random edges among all nodes but the last two, degrees 1 to about 12."""
  rng = np.random.default_rng(3)
  start = (rng.random(110) ** 2 * (NODES - 2)).astype(int)
  edges = np.stack([start, rng.integers(0, NODES - 2, 110)], 1)
  found = adjacency(edges, NODES, symmetric=symmetric, self_loops=loops)
  return blocks.make_operator(found, normalisation)


def dense(operator):
  """[n, n] float64."""
  matrix = np.zeros((operator.num_nodes, operator.num_nodes))
  rows = np.repeat(np.arange(operator.num_nodes), operator.degrees)
  matrix[rows, operator.indices] = operator.weight
  return matrix


def train_of(number=24):
  return np.random.default_rng(5).choice(NODES, number, replace=False)


def rows_of(layer):
  """[d, n] float64: the rows that a layer gathers, history included."""
  rows = np.zeros((layer.destinations, NODES))
  weight = layer.edges.weight.astype(np.float64)
  if layer.edges.history is not None:
    weight += layer.edges.history
  np.add.at(rows, (layer.edges.receivers, layer.nodes[layer.senders]), weight)
  return rows


def outputs(sample, values=VALUES):
  """[b, 3]: what a linear network without a history gives for the seeds."""
  values = values[sample.layers[0].nodes]
  for layer in sample.layers:
    found = np.zeros((layer.destinations, values.shape[1]))
    message = layer.edges.weight[:, None] * values[layer.senders]
    np.add.at(found, layer.edges.receivers, message)
    values = found
  return values


def scores(draws):
  """How many standard errors means are from 0, over the draws [t, k]."""
  draws = np.asarray(draws)
  error = draws.std(0, ddof=1) / np.sqrt(len(draws))
  return np.abs(draws.mean(0)) / (error + _ROUNDING)


def draws_of(sampler, number):
  """Samples of the generators 0, 1, 2, …"""
  return [sampler.sample(np.random.default_rng(i)) for i in range(number)]


def layer_scores(sampler, draws):
  """[layers, n] scores of the errors of L H, where a node is a destination."""
  matrix = dense(sampler.operator)
  levels = sampler.num_layers
  # The draws of each node, their sum and their sum of squares.
  count, total, squares = np.zeros((3, levels, NODES))
  direction = np.array([1.0, -0.5, 0.25])
  for sample in draws:
    for level, layer in enumerate(sample.layers):
      at = layer.nodes[: layer.destinations]
      error = (rows_of(layer) - matrix[at]) @ (VALUES @ direction)
      count[level, at] += 1
      total[level, at] += error
      squares[level, at] += error**2
  enough = np.where(count > 200, count, np.inf)  # fewer have no normal mean
  mean, some = total / enough, np.maximum(count, 2)
  variance = np.maximum(squares - total**2 / some, 0) / (some - 1)
  score = np.abs(mean) / (np.sqrt(variance / some) + _ROUNDING)
  assert (score > 0).sum() > levels * 10
  return score


def loss_scores(sampler, draws):
  """[2] scores of weighted sums of the seeds against the mean: 1, and a phi."""
  phi = np.stack([np.ones(NODES), VALUES[:, 0]], 1)
  wanted = phi[sampler.train].mean(0)
  return scores([x.seed_weight @ phi[x.seeds] - wanted for x in draws])


def check_budgets(sampler):
  """Samples are the same in a budget that was fitted to them; and padded."""
  draws = draws_of(sampler, 20)
  budget = blocks.budget_for(draws, NODES, headroom=1, multiple=8)
  sampler.within(budget)
  shapes = set()
  for step, free in enumerate(draws):
    sample = sampler.sample(np.random.default_rng(step))
    assert sample.overflow == 0
    chex.assert_trees_all_equal(sample, free)
    padded = blocks.pad(sample, budget, NODES)
    shapes.add(str([(g.n_node.sum(), g.n_edge.sum()) for g in padded.layers]))
  assert len(shapes) == 1


def overflow_scores(sampler, budget, number):
  """Scores of the loss of one linear layer where a budget is too small."""
  assert sampler.num_layers == 1
  sampler.within(budget)
  wanted = (dense(sampler.operator) @ VALUES)[sampler.train].mean(0)
  draws, lost = [], 0
  for step in range(number):
    sample = sampler.sample(np.random.default_rng(step))
    blocks.pad(sample, budget, NODES)
    lost += sample.overflow
    draws.append(sample.seed_weight @ outputs(sample) - wanted)
  assert lost > number
  return scores(draws)


def check_purity(make):
  """A draw depends on the sampler's arguments and the generator alone."""
  first, second = make(), make()
  again = [first.sample(np.random.default_rng(s)) for s in (5, 6, 5)]
  chex.assert_trees_all_equal(again[0], again[2])
  chex.assert_trees_all_equal(again[1], second.sample(np.random.default_rng(6)))
  assert any(
    not np.array_equal(a.edges.senders, b.edges.senders)
    for a, b in zip(again[0].layers, again[1].layers)
  )


IDS = np.arange(3, 33)
NORMS = np.random.default_rng(9).pareto(1.5, len(IDS)) + 0.02


def mvs(*at, **options):
  """With a snapshot of nodes 3 to 32, whose norms are heavy-tailed."""
  found = MVS(*at, **options)
  found.publish(IDS, NORMS)
  return found


def neighbour(*at, **options):
  """Fan-outs 3 and 2, of as many layers as there are."""
  return Neighbour(*at, fan_outs=(3, 2)[: at[3]], **options)


SAMPLERS = {
  'uniform': Uniform,
  'neighbour': neighbour,
  'replaced': partial(neighbour, replace=True),
  'official': partial(neighbour, official_rows=True),
  'vr_gcn': VRGCN,
  'labor': partial(Labor, fan_out=3),
  'fastgcn': partial(FastGCN, layer_size=12),
  'ladies': partial(LADIES, layer_size=6),
  'ladies-replacement': partial(LADIES, layer_size=6, draw='replacement'),
  'cluster_gcn': partial(ClusterGCN, clusters=5),
  'graphsaint-node': partial(GraphSAINT, kind='node'),
  'graphsaint-edge': partial(GraphSAINT, kind='edge'),
  'graphsaint-walk': partial(GraphSAINT, kind='walk'),
  'mvs': mvs,
  'mvs-exact': partial(mvs, history=False),
  'mvs-bernoulli': partial(mvs, draw='bernoulli', mix=0.1),
  'refresh': Refresh,
}
EACH = pytest.mark.parametrize('name', SAMPLERS)


@EACH
def test_draws_are_pure(name):
  check_purity(lambda: SAMPLERS[name](operator_of(), train_of(), 8, 2))


@EACH
def test_a_fitted_budget_changes_no_sample(name):
  check_budgets(SAMPLERS[name](operator_of(), train_of(), 8, 2))


@EACH
def test_isolated_nodes_have_empty_rows_and_finite_weights(name):
  operator = operator_of(loops='drop')
  train = np.arange(NODES - 8, NODES)
  found = SAMPLERS[name](operator, train, 6, 2)
  if name.startswith('mvs'):
    found.publish(train, np.ones(8))
  seen = np.zeros(NODES, bool)
  for step in range(50):
    sample = found.sample(np.random.default_rng(step))
    assert np.isfinite(sample.seed_weight).all()
    assert all(np.isfinite(layer.edges.weight).all() for layer in sample.layers)
    lone = sample.seeds >= NODES - 2
    np.testing.assert_array_equal(rows_of(sample.layers[-1])[lone], 0)
    seen[sample.seeds] = True
  assert seen[train].all()


@EACH
def test_a_graph_without_edges_has_empty_layers(name):
  operator = blocks.make_operator(
    adjacency(np.zeros((0, 2), int), NODES), 'symmetric'
  )
  found = SAMPLERS[name](operator, train_of(), 8, 2)
  draws = draws_of(found, 20)
  for sample in draws:
    assert [len(layer.edges.weight) for layer in sample.layers] == [0, 0]
    np.testing.assert_array_equal(outputs(sample), 0)
  assert max(len(sample.seeds) for sample in draws) >= 6


@pytest.mark.parametrize(
  'name',
  [
    *('neighbour', 'fastgcn', 'ladies', 'ladies-replacement'),
    *('graphsaint-node', 'graphsaint-edge', 'refresh', 'mvs'),
  ],
)
def test_overflow_is_counted_and_unbiased(name):
  train = IDS if name == 'mvs' else train_of()
  found = SAMPLERS[name](operator_of(), train, 8, 1)
  budget = blocks.Budget((9,), (13,), (6,))
  assert overflow_scores(found, budget, 4000).max() < 4


OPTIONS = {
  'uniform': {},
  'neighbour': {'fan_outs': (2, 3)},
  'vr_gcn': {'fan_out': 2},
  'fastgcn': {'layer_size': 8},
  'ladies': {'layer_size': 8, 'normalise': True},
  'cluster_gcn': {'clusters': 4, 'clusters_per_batch': 2},
  'graphsaint': {'kind': 'edge'},
  'labor': {'fan_out': 3},
  'mvs': {'mix': 0.1, 'draw': 'bernoulli'},
}


@pytest.mark.parametrize('name', OPTIONS)
def test_samplers_are_made_by_name(name):
  found = sampler.make(name, operator_of(), train_of(), 8, 2, OPTIONS[name])
  sample = found.sample(np.random.default_rng(0))
  assert len(sample.layers) == 2
  assert len(sample.seeds) == len(sample.seed_weight)
  assert set(sample.seeds) <= set(train_of())


def test_every_name_is_known():
  assert set(sampler.NAMES) == set(OPTIONS)


def test_names_and_options_that_are_not_known_are_errors_with_a_list():
  make = lambda name, options: sampler.make(
    name, operator_of(), train_of(), 8, 2, options
  )
  with pytest.raises(InputError, match=r'no sampler "sage".*graphsaint'):
    make('sage', {})
  with pytest.raises(InputError, match=r'mvs has no option "fanout".*floor'):
    make('mvs', {'fanout': 3})
  with pytest.raises(InputError, match='needs the option "layer_size"'):
    make('ladies', {'normalise': True})
  with pytest.raises(InputError, match='has no option "x"; it has none'):
    make('uniform', {'x': 1})


@pytest.mark.parametrize(
  ('kind', 'options', 'words'),
  [
    (Neighbour, {'fan_outs': (3, 0)}, 'fan-out of 0'),
    (Neighbour, {'fan_outs': (3,)}, 'are 1, and there are 2 layers'),
    (VRGCN, {'fan_out': 0}, 'fan-out of 0'),
    (Labor, {'fan_out': 0}, 'fan-out of 0'),
    (FastGCN, {'layer_size': 0}, 'layer_size = 0 draws no nodes'),
    (LADIES, {'layer_size': 0}, 'layer_size = 0 draws no nodes'),
    (LADIES, {'layer_size': 3, 'draw': 'poisson'}, 'draw "poisson" is not one'),
    (ClusterGCN, {'clusters': 41}, r'clusters = 41 is not in \[0, 40\]'),
    (ClusterGCN, {'clusters': -1}, 'clusters = -1'),
    (ClusterGCN, {'clusters': 3, 'clusters_per_batch': 4}, r'in \[1, 3\]'),
    (ClusterGCN, {'clusters_per_batch': 0}, 'clusters_per_batch = 0'),
    (GraphSAINT, {'kind': 'star'}, 'node, edge, walk'),
    (GraphSAINT, {'walk_length': 0}, 'walk_length = 0'),
    (GraphSAINT, {'presamples': 0}, 'presamples = 0'),
    *(
      (GraphSAINT, {'kind': kind, 'batch_size': 24}, 'batch_size = 24: 642 dra')
      for kind in ('node', 'edge', 'walk')
    ),
    (MVS, {'draw': 'poisson'}, 'systematic, bernoulli'),
    (MVS, {'mix': 1.5}, r'mix = 1.5 is not in \[0, 1\]'),
    (MVS, {'floor': -0.1}, r'floor = -0.1 is not in \[0, 1\]'),
    (MVS, {'clip': -1.0}, 'clip = -1.0'),
    (Uniform, {'batch_size': 25}, r'batch_size = 25 is not in \[1, 24\]'),
    (Uniform, {'train': np.zeros(0, int)}, 'no training nodes'),
  ],
)
def test_options_that_cannot_be(kind, options, words):
  common = {'train': train_of(), 'batch_size': 8, 'num_layers': 2}
  with pytest.raises(InputError, match=words):
    kind(operator_of(), **{**common, **options})
