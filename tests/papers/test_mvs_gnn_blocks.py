"""Operators, and samples within a budget."""

import math
from functools import partial

import numpy as np
import pytest

from jaxlab.core.errors import InputError
from jaxlab.data.graphs.adjacency import adjacency
from jaxlab.papers.mvs_gnn.blocks import (
  Assembler,
  Budget,
  all_edges,
  budget_for,
  make_operator,
)

NODES = 30


def found(loops='add'):
  edges = np.random.default_rng(0).integers(0, NODES - 1, (90, 2))
  return adjacency(edges, NODES, self_loops=loops)


def dense(operator):
  matrix = np.zeros((NODES, NODES))
  rows = np.repeat(np.arange(NODES), operator.degrees)
  matrix[rows, operator.indices] = operator.weight
  return matrix


@pytest.mark.parametrize('loops', ['add', 'drop'])
def test_operators_are_those_of_dense_matrices(loops):
  a = found(loops).matrix().toarray()
  degree = a.sum(1)
  some = np.where(degree > 0, degree, 1)
  root = 1 / np.sqrt(some)
  for name, want in [
    ('none', a),
    ('row', a / some[:, None]),
    ('symmetric', root[:, None] * a * root),
  ]:
    operator = make_operator(found(loops), name)
    np.testing.assert_allclose(dense(operator), want, rtol=1e-6)
  with pytest.raises(InputError, match='normalisation "max" is not one of'):
    make_operator(found(), 'max')


def sampled(assembler, operator, rng, layers=2):
  seeds = np.array([3, 1, 8, 20], np.int32)
  weight = np.full(4, 0.25, np.float32)
  draw = partial(all_edges, operator)
  return assembler.sample(rng, seeds, weight, layers, draw)


def computed(sample, x):
  for layer in sample.layers:
    terms = layer.edges.weight * x[layer.senders]
    x = np.bincount(layer.edges.receivers, terms, layer.destinations)
  return x


def test_all_edges_give_the_rows_of_the_operator():
  operator = make_operator(found(), 'symmetric')
  sample = sampled(Assembler(NODES), operator, None)
  values = np.random.default_rng(1).standard_normal(NODES)
  matrix = dense(operator)
  want = (matrix @ matrix @ values)[sample.seeds]
  got = computed(sample, values[sample.layers[0].nodes])
  np.testing.assert_allclose(got, want, rtol=1e-6)
  assert sample.overflow == 0
  below, above = sample.layers
  assert below.destinations == above.computed == len(above.nodes)


@pytest.mark.parametrize('nodes', [40, 4000])
def test_sources_are_found_once_among_few_nodes_and_among_many(nodes):
  """A layer's sources are searched for differently in a large graph."""
  edges = np.random.default_rng(0).integers(0, 40, (200, 2))
  operator = make_operator(adjacency(edges, nodes), 'row')
  assembler = Assembler(nodes)
  sample = sampled(assembler, operator, None)
  for layer in sample.layers:
    assert len(np.unique(layer.nodes)) == len(layer.nodes)
    np.testing.assert_array_equal(
      layer.nodes[layer.senders], layer.edges.senders
    )
    known = layer.nodes[: layer.destinations]
    others = np.setdiff1d(layer.edges.senders, known)
    np.testing.assert_array_equal(
      np.sort(layer.nodes[layer.destinations :]), others
    )
  assert (assembler._place == -1).all()
  most = max(len(layer.senders) for layer in sample.layers)
  assert (8 * most > nodes) == (nodes == 40)


def test_what_a_budget_has_no_room_for_is_counted_and_weighted_up():
  operator = make_operator(found(), 'symmetric')
  whole = sampled(Assembler(NODES), operator, None)
  sizes = [len(layer.nodes) for layer in whole.layers]
  edges = [len(layer.senders) for layer in whole.layers]
  budget = Budget(
    (sizes[0] - 4, sizes[1] - 3),
    (edges[0] - 9, edges[1] - 5),
    (sizes[1] - 4, 5),
  )
  values = np.random.default_rng(1).standard_normal(NODES)
  matrix = dense(operator)
  want = (matrix @ matrix @ values)[whole.seeds]
  assembler, rng = Assembler(NODES, budget), np.random.default_rng(2)
  draws = []
  for _ in range(6000):
    sample = sampled(assembler, operator, rng)
    assert sample.overflow > 0
    for layer, nodes, most in zip(sample.layers, budget.nodes, budget.edges):
      assert len(layer.nodes) < nodes
      assert len(layer.senders) < most
    draws.append(computed(sample, values[sample.layers[0].nodes]))
  sigma = np.std(draws, 0) / math.sqrt(len(draws))
  assert (sigma > 0).all()
  assert (np.abs(np.mean(draws, 0) - want) <= 4 * sigma).all()


def test_too_many_seeds_are_thinned_without_bias():
  operator = make_operator(found(), 'symmetric')
  budget = Budget((NODES + 1,), (500,), (3,))  # two seeds
  assembler, rng = Assembler(NODES, budget), np.random.default_rng(0)
  losses, draws = np.random.default_rng(1).standard_normal(NODES), []
  for _ in range(4000):
    sample = sampled(assembler, operator, rng, 1)
    assert len(sample.seeds) == sample.overflow == 2
    draws.append(sample.seed_weight @ losses[sample.seeds])
  sigma = np.std(draws) / math.sqrt(len(draws))
  assert abs(np.mean(draws) - losses[[3, 1, 8, 20]].mean()) <= 4 * sigma


def test_a_bucket_without_room_for_one_is_an_input_error():
  operator = make_operator(found(), 'symmetric')
  assembler = Assembler(NODES, Budget((NODES + 1,), (1,), (5,)))
  with pytest.raises(InputError, match=r'room for 0 of \d+ .*headroom'):
    sampled(assembler, operator, np.random.default_rng(0), 1)


def test_a_budget_holds_its_draws_and_is_a_multiple():
  operator = make_operator(found(), 'symmetric')
  sample = sampled(Assembler(NODES), operator, None)
  budget = budget_for([sample], NODES, headroom=3, multiple=8)
  for sizes in budget:
    assert all(size % 8 == 0 for size in sizes)
  # No more nodes than there are, and one row to spare.
  assert max(budget.nodes) == 32
  tight = budget_for([sample], NODES, headroom=1, multiple=1)
  assert tight.nodes == tuple(len(x.nodes) + 1 for x in sample.layers)
  assert tight.edges == tuple(len(x.senders) + 1 for x in sample.layers)
