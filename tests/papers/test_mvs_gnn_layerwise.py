"""FastGCN and LADIES; `rows_of` and the like serve the other samplers too."""

import chex
import numpy as np
import pytest

from jaxlab.data.adjacency import adjacency
from jaxlab.engine.errors import InputError
from jaxlab.papers.mvs_gnn import blocks, layerwise
from jaxlab.papers.mvs_gnn.layerwise import LADIES, FastGCN

NODES = 40
VALUES = np.random.default_rng(7).normal(1.0, 1.0, (NODES, 3))
HUGE = blocks.Budget((NODES,) * 2, (10**6,) * 2, (NODES,) * 2)


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
  # Sums of float32 weights are equal to 1e-6 at best.
  return np.abs(draws.mean(0)) / (error + 1e-7)


def layer_scores(sampler, number):
  """[layers, n] scores of the errors of L H, where a node is a destination."""
  matrix = dense(sampler.operator)
  levels = sampler.num_layers
  found = [[[] for _ in range(NODES)] for _ in range(levels)]
  direction = np.array([1.0, -0.5, 0.25])
  for step in range(number):
    sample = sampler.sample(np.random.default_rng(step))
    for level, layer in enumerate(sample.layers):
      at = layer.nodes[: layer.destinations]
      error = (rows_of(layer) - matrix[at]) @ (VALUES @ direction)
      for node, value in zip(at, error):
        found[level][node].append(value)
  score = np.zeros((levels, NODES))
  for level in range(levels):
    for node in range(NODES):
      if len(found[level][node]) > 200:  # fewer have no normal mean
        score[level, node] = scores(found[level][node])
  assert (score > 0).sum() > levels * 10
  return score


def loss_scores(sampler, number):
  """[2] scores of weighted sums of the seeds against the mean: 1, and a phi."""
  phi = np.stack([np.ones(NODES), VALUES[:, 0]], 1)
  wanted = phi[sampler.train].mean(0)
  draws = []
  for step in range(number):
    sample = sampler.sample(np.random.default_rng(step))
    draws.append(sample.seed_weight @ phi[sample.seeds] - wanted)
  return scores(draws)


def check_budgets(sampler):
  """Samples are the same in a budget that was fitted to them; and padded."""
  draws = [sampler.sample(np.random.default_rng(step)) for step in range(20)]
  budget = blocks.fit_budget(draws, headroom=1, multiple=8, largest=HUGE)
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


SAMPLERS = {
  'fastgcn': lambda *at: FastGCN(*at, layer_size=12),
  'ladies': lambda *at: LADIES(*at, layer_size=6),
  'ladies-replacement': lambda *at: LADIES(
    *at, layer_size=6, draw='replacement'
  ),
}


@pytest.mark.parametrize('name', SAMPLERS)
@pytest.mark.parametrize('loops', ['add', 'drop'])
def test_layers_and_losses_are_unbiased(name, loops):
  sampler = SAMPLERS[name](operator_of(loops=loops), train_of(), 8, 2)
  assert sampler.unbiased and not sampler.history
  assert layer_scores(sampler, 2500).max() < 4
  assert loss_scores(sampler, 2500).max() < 4


def test_rows_of_directed_graphs_are_unbiased():
  operator = operator_of('row', symmetric=False)
  for make in SAMPLERS.values():
    assert layer_scores(make(operator, train_of(), 8, 2), 1000).max() < 4


def test_normalised_rows_have_the_sums_of_the_matrix_and_are_biased():
  operator = operator_of('row')
  sampler = LADIES(operator, train_of(), 8, 2, layer_size=4, normalise=True)
  assert not sampler.unbiased
  for layer in sampler.sample(np.random.default_rng(0)).layers:
    # Rows of L sum to 1, and the self loop leaves none empty.
    np.testing.assert_allclose(rows_of(layer).sum(1), 1, atol=1e-6)
  # That the score of a bias is seen, here and in the tests of the others.
  assert layer_scores(sampler, 2500).max() > 8


def test_ladies_draws_as_many_different_nodes_as_told():
  sampler = LADIES(operator_of(), train_of(), 4, 2, layer_size=5)
  for step in range(50):
    sample = sampler.sample(np.random.default_rng(step))
    for layer in sample.layers:
      neighbours = dense(sampler.operator)[layer.nodes[: layer.destinations]]
      others = np.flatnonzero(neighbours.any(0))
      others = np.setdiff1d(others, layer.nodes[: layer.destinations])
      assert len(layer.nodes) - layer.destinations == min(5, len(others))


def test_ladies_of_all_neighbours_is_the_matrix_itself():
  operator = operator_of()
  sampler = LADIES(operator, train_of(), 8, 2, layer_size=NODES)
  sample = sampler.sample(np.random.default_rng(0))
  for layer in sample.layers:
    at = layer.nodes[: layer.destinations]
    np.testing.assert_array_equal(rows_of(layer), dense(operator)[at])
  twice = dense(operator) @ dense(operator) @ VALUES
  # Two sums of at most 12 float32 products of numbers below 4.
  np.testing.assert_allclose(outputs(sample), twice[sample.seeds], atol=1e-5)


def test_destinations_of_ladies_keep_their_entries():
  operator = operator_of()
  sampler = LADIES(operator, train_of(), 8, 2, layer_size=2)
  for step in range(20):
    for layer in sampler.sample(np.random.default_rng(step)).layers:
      at = layer.nodes[: layer.destinations]
      found = rows_of(layer)[:, at]
      np.testing.assert_array_equal(found, dense(operator)[np.ix_(at, at)])


def test_chances_of_fastgcn_are_squared_column_norms():
  operator = operator_of('row')
  wanted = (dense(operator) ** 2).sum(0)
  np.testing.assert_allclose(layerwise.column_norms(operator), wanted, 1e-6)
  sums = dense(operator).sum(1)
  np.testing.assert_allclose(layerwise.row_sums(operator), sums, 1e-12)


def test_draws_with_replacement_are_in_proportion_and_never_of_chance_zero():
  chances = np.array([0.0, 1, 0, 3, 0, 0])
  rng = np.random.default_rng(0)
  drawn = layerwise.draw_with_replacement(rng, np.cumsum(chances), 40_000)
  counts = np.bincount(drawn, minlength=6)
  assert (counts[chances == 0] == 0).all()
  # 4 standard deviations of a binomial of 40,000 draws at 1/4.
  assert abs(counts[1] - 10_000) < 4 * np.sqrt(7500)

  class Last:
    def random(self, draws):
      return np.full(draws, 1 - 1e-17)  # a product that rounds up

  ends = np.cumsum(chances)
  at = layerwise.draw_with_replacement(Last(), ends, 3)
  assert at.tolist() == [3, 3, 3]


@pytest.mark.parametrize('name', SAMPLERS)
def test_draws_are_pure(name):
  check_purity(lambda: SAMPLERS[name](operator_of(), train_of(), 8, 2))


@pytest.mark.parametrize('name', SAMPLERS)
def test_a_fitted_budget_changes_no_sample(name):
  check_budgets(SAMPLERS[name](operator_of(), train_of(), 8, 2))


@pytest.mark.parametrize('name', SAMPLERS)
def test_overflow_is_counted_and_unbiased(name):
  sampler = SAMPLERS[name](operator_of(), train_of(), 8, 1)
  budget = blocks.Budget((11,), (17,), (7,))
  assert overflow_scores(sampler, budget, 4000).max() < 4


@pytest.mark.parametrize('name', SAMPLERS)
def test_a_graph_without_edges_has_empty_layers(name):
  found = adjacency(np.zeros((0, 2), int), NODES)
  operator = blocks.make_operator(found, 'symmetric')
  sample = SAMPLERS[name](operator, train_of(), 8, 2).sample(
    np.random.default_rng(0)
  )
  assert [len(layer.edges.weight) for layer in sample.layers] == [0, 0]
  np.testing.assert_array_equal(outputs(sample), 0)


@pytest.mark.parametrize('name', SAMPLERS)
def test_isolated_nodes_have_empty_rows_and_finite_weights(name):
  operator = operator_of(loops='drop')
  train = np.arange(NODES - 8, NODES)
  sampler = SAMPLERS[name](operator, train, 8, 2)
  sample = sampler.sample(np.random.default_rng(0))
  lone = np.isin(sample.seeds, [NODES - 2, NODES - 1])
  assert lone.sum() == 2
  np.testing.assert_array_equal(rows_of(sample.layers[-1])[lone], 0)
  assert all(np.isfinite(layer.edges.weight).all() for layer in sample.layers)


def test_options_that_cannot_be():
  at = operator_of(), train_of(), 8, 2
  for kind in (FastGCN, LADIES):
    with pytest.raises(InputError, match='layer_size = 0 draws no nodes'):
      kind(*at, layer_size=0)
  with pytest.raises(InputError, match='draw "poisson" is not one of'):
    LADIES(*at, layer_size=3, draw='poisson')
  with pytest.raises(InputError, match=r'batch_size = 99 is not in \[1, 24\]'):
    FastGCN(at[0], at[1], 99, 2, layer_size=3)
  with pytest.raises(InputError, match='no training nodes'):
    FastGCN(at[0], at[1][:0], 1, 2, layer_size=3)
