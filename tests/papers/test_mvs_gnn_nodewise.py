"""Node-wise samplers: what they draw, and that its mean is L H."""

import math
from functools import partial

import numpy as np
import pytest

from jaxlab.data.graphs.adjacency import adjacency
from jaxlab.papers.mvs_gnn import nodewise
from jaxlab.papers.mvs_gnn.blocks import (
  all_edges,
  budget_for,
  make_operator,
  pad,
)
from jaxlab.papers.mvs_gnn.nodewise import VRGCN, Labor, Neighbour, Uniform
from tests.papers.test_mvs_gnn_samplers import (
  NODES,
  dense,
  draws_of,
  loss_scores,
)

TRAIN = np.arange(0, NODES, 2)


def operator(loops='add'):
  """A star of degree 30, isolated nodes 38 and 39, and random edges."""
  rng = np.random.default_rng(0)
  star = np.stack([np.zeros(30, int), np.arange(1, 31)], 1)
  edges = np.concatenate([star, rng.integers(0, NODES - 2, (60, 2))])
  return make_operator(adjacency(edges, NODES, self_loops=loops), 'symmetric')


SAMPLERS = {
  'uniform': lambda op, **more: Uniform(op, TRAIN, 8, 2),
  'neighbour': lambda op: Neighbour(op, TRAIN, 8, 2, (3, 2)),
  'replaced': lambda op: Neighbour(op, TRAIN, 8, 2, (3, 2), replace=True),
  'vr_gcn': lambda op: VRGCN(op, TRAIN, 8, 2, 2),
  'labor': lambda op: Labor(op, TRAIN, 8, 2, 3),
}
VALUES = np.random.default_rng(1).standard_normal(NODES)
HISTORY = np.random.default_rng(2).standard_normal(NODES)


def gathered(edges, size):
  """What drawn edges make of VALUES, and of HISTORY where they use it."""
  terms = edges.weight * VALUES[edges.senders]
  if edges.history is not None:
    terms = terms + edges.history * HISTORY[edges.senders]
  return np.bincount(edges.receivers, terms, size)


@pytest.mark.parametrize('loops', ['add', 'drop'])
@pytest.mark.parametrize('level', [0, 1])
@pytest.mark.parametrize('name', SAMPLERS)
def test_the_mean_of_every_row_is_that_of_the_operator(name, level, loops):
  found = operator(loops)
  sampler = SAMPLERS[name](found)
  nodes = np.array([0, 5, 7, 38, 12], np.int32)
  want = (dense(found) @ VALUES)[nodes]
  rng = np.random.default_rng(3)
  draws = np.stack(
    [
      gathered(sampler.edges(rng, level, nodes), len(nodes))
      for _ in range(3000)
    ]
  )
  sigma = draws.std(0) / math.sqrt(len(draws))
  # Float32 weights: 1e-6 where nothing is drawn.
  assert (np.abs(draws.mean(0) - want) <= 4 * sigma + 1e-6).all()


def test_loss_weights_have_the_mean_over_the_training_nodes():
  sampler = Uniform(operator(), TRAIN, 5, 1)
  assert loss_scores(sampler, draws_of(sampler, 4000)).max() < 4


@pytest.mark.parametrize('name', ['neighbour', 'labor'])
def test_two_linear_layers_have_the_mean_of_both(name):
  found = operator()
  sampler = SAMPLERS[name](found)
  seeds = np.array([0, 6, 8], np.int32)
  matrix = dense(found)
  want = (matrix @ matrix @ VALUES)[seeds]
  rng, draws = np.random.default_rng(5), []
  for _ in range(3000):
    sample = sampler.assembler.sample(
      rng,
      seeds,
      np.ones(3, np.float32),
      2,
      lambda level, nodes: sampler.edges(rng, level, nodes),
    )
    x = VALUES[sample.layers[0].nodes]
    for layer in sample.layers:
      terms = layer.edges.weight * x[layer.senders]
      x = np.bincount(layer.edges.receivers, terms, layer.destinations)
    draws.append(x)
  sigma = np.std(draws, 0) / math.sqrt(len(draws))
  assert (np.abs(np.mean(draws, 0) - want) <= 4 * sigma + 1e-6).all()


def test_short_rows_are_whole_and_long_ones_have_the_fan_out():
  found = operator('drop')
  sampler = Neighbour(found, TRAIN, 8, 2, (4, 4))
  nodes = np.arange(NODES, dtype=np.int32)
  edges = sampler.edges(np.random.default_rng(0), 1, nodes)
  counts = np.bincount(edges.receivers, minlength=NODES)
  np.testing.assert_array_equal(counts, np.minimum(found.degrees, 4))
  pairs = edges.receivers.astype(int) * NODES + edges.senders
  assert len(np.unique(pairs)) == len(pairs)
  assert (dense(found)[edges.receivers, edges.senders] > 0).all()
  short = found.degrees[edges.receivers] <= 4
  exact = dense(found)[edges.receivers, edges.senders]
  np.testing.assert_allclose(edges.weight[short], exact[short], rtol=1e-6)


@pytest.mark.parametrize('name', SAMPLERS)
def test_what_is_drawn_is_of_the_graph_and_a_loop_stays_as_it_is(name):
  matrix = dense(operator())
  sampler = SAMPLERS[name](operator())
  nodes = np.array([0, 5, 38, 12], np.int32)
  for level in (0, 1):
    edges = sampler.edges(np.random.default_rng(level), level, nodes)
    own = nodes[edges.receivers]
    assert (matrix[own, edges.senders] > 0).all()
    loops = np.flatnonzero(own == edges.senders)
    if edges.history is not None:
      assert not edges.history[loops].any()
    assert sorted(own[loops]) == sorted(nodes)
    np.testing.assert_allclose(
      edges.weight[loops], matrix[own[loops], own[loops]], rtol=1e-6
    )


def test_an_edge_given_twice_is_drawn_as_one():
  edges = np.array([[0, 1], [0, 1], [1, 0], [0, 2]])
  found = make_operator(adjacency(edges, 3, self_loops='drop'), 'row')
  sampler = Neighbour(found, np.arange(3), 1, 1, (2,))
  drawn = sampler.edges(np.random.default_rng(0), 0, np.array([0], np.int32))
  np.testing.assert_array_equal(np.sort(drawn.senders), [1, 2])
  np.testing.assert_array_equal(drawn.weight, [0.5, 0.5])


def test_histories_within_a_tight_bucket_keep_the_mean():
  """Nodes that find no room, new or of the history, are weighted for."""
  found = operator()
  sampler = VRGCN(found, TRAIN, 4, 2, 2)
  seeds, weight = np.array([0, 6, 8, 12], np.int32), np.ones(4, np.float32)
  whole = sampler.assembler.sample(
    np.random.default_rng(0), seeds, weight, 2, partial(all_edges, found)
  )
  below = budget_for([whole], NODES, 1, 128)
  top = len(whole.layers[1].nodes)
  sampler.within(
    below._replace(
      nodes=(below.nodes[0], top - 3), outputs=(8, below.outputs[1])
    )
  )
  rng, draws, lost = np.random.default_rng(1), [], 0
  for _ in range(4000):
    draw = partial(sampler.edges, rng)
    sample = sampler.assembler.sample(rng, seeds, weight, 2, draw)
    assert len(sample.layers[1].nodes) < top - 3
    assert sample.layers[0].destinations < 8
    lost += sample.overflow
    draws.append(gathered(sample.layers[1].edges, len(seeds)))
  assert lost > len(draws)
  assert (sampler.assembler._place == -1).all()
  sigma = np.std(draws, 0) / math.sqrt(len(draws))
  want = (dense(found) @ VALUES)[seeds]
  assert (np.abs(np.mean(draws, 0) - want) <= 4 * sigma).all()


def test_every_subset_is_as_likely():
  degree = np.full(20_000, 5)
  drawn = np.sort(nodewise._subsets(np.random.default_rng(0), degree, 3), 1)
  keys, counts = np.unique(drawn @ [25, 5, 1], return_counts=True)
  assert len(keys) == math.comb(5, 3)
  expected = len(degree) / len(keys)
  chi = ((counts - expected) ** 2 / expected).sum()
  assert chi < 27.9  # the .999 quantile for 9 degrees of freedom


@pytest.mark.parametrize('replace', [False, True])
def test_every_place_is_drawn_as_often(replace):
  draw = nodewise._with_replacement if replace else nodewise._subsets
  degree = np.full(30_000, 7)
  drawn = draw(np.random.default_rng(0), degree, 2)
  assert drawn.min() == 0
  assert drawn.max() == 6
  # Columns by themselves are not uniform without replacement; together, yes.
  counts = np.bincount(drawn.ravel(), minlength=7)
  sigma = math.sqrt(drawn.size / 7)
  assert (np.abs(counts - drawn.size / 7) < 4 * sigma).all()


def test_labor_shares_its_numbers_between_receivers():
  """Rows alike keep the same senders."""
  edges = np.array([[i, j] for i in (0, 1) for j in range(2, 22)])
  found = make_operator(adjacency(edges, 22, self_loops='drop'), 'row')
  sampler = Labor(found, np.arange(22), 2, 1, 5)
  drawn = sampler.edges(np.random.default_rng(0), 0, np.array([0, 1], np.int32))
  first = drawn.senders[drawn.receivers == 0]
  np.testing.assert_array_equal(first, drawn.senders[drawn.receivers == 1])
  assert 0 < len(first) < 20


def test_vr_gcn_uses_all_features_and_the_history_of_all_neighbours():
  found = operator()
  sampler = VRGCN(found, TRAIN, 8, 2, 2)
  nodes = np.array([0, 3], np.int32)
  rng = np.random.default_rng(0)
  first = sampler.edges(rng, 0, nodes)
  assert first.history is None
  assert len(first.weight) == found.degrees[nodes].sum()
  edges = sampler.edges(rng, 1, nodes)
  # Values that have not changed give the exact row.
  total = edges.weight + edges.history
  got = np.bincount(edges.receivers, total * VALUES[edges.senders], 2)
  np.testing.assert_allclose(got, (dense(found) @ VALUES)[nodes], rtol=1e-5)


def test_padding_adds_nothing():
  sampler = Neighbour(operator(), TRAIN, 8, 2, (3, 2))
  sample = sampler.sample(np.random.default_rng(0))
  budget = budget_for([sample], NODES, 1.5, 128)
  padded = pad(sample, budget, NODES)
  layer, graph = sample.layers[0], padded.layers[0]
  x = np.append(VALUES, 7.0)[graph.nodes['id']]  # 7: of padding
  terms = graph.edges['weight'] * x[graph.senders]
  got = np.bincount(graph.receivers, terms, len(x))
  want = gathered(layer.edges, layer.destinations)
  np.testing.assert_allclose(got[: layer.destinations], want, rtol=1e-6)
  assert not got[layer.destinations :].any()
  assert graph.n_node.sum() == len(x)
  assert graph.n_edge.sum() == len(terms)
  # Padding's edges lead from a node of padding to itself.
  more = slice(graph.n_edge[0], None)
  assert (graph.nodes['id'][graph.senders[more]] == NODES).all()
