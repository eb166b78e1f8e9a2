"""FastGCN and LADIES."""

import numpy as np
import pytest

from jaxlab.papers.mvs_gnn import layerwise
from jaxlab.papers.mvs_gnn.layerwise import LADIES
from tests.papers.test_mvs_gnn_samplers import (
  NODES,
  SAMPLERS,
  VALUES,
  dense,
  draws_of,
  layer_scores,
  loss_scores,
  operator_of,
  outputs,
  rows_of,
  train_of,
)

NAMES = ('fastgcn', 'ladies', 'ladies-replacement')


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('loops', ['add', 'drop'])
def test_layers_and_losses_are_unbiased(name, loops):
  sampler = SAMPLERS[name](operator_of(loops=loops), train_of(), 8, 2)
  assert sampler.unbiased and not sampler.history
  draws = draws_of(sampler, 2500)
  assert layer_scores(sampler, draws).max() < 4
  assert loss_scores(sampler, draws).max() < 4


def test_rows_of_directed_graphs_are_unbiased():
  operator = operator_of('row', symmetric=False)
  for name in NAMES:
    found = SAMPLERS[name](operator, train_of(), 8, 2)
    assert layer_scores(found, draws_of(found, 1000)).max() < 4


def test_normalised_rows_have_the_sums_of_the_matrix_and_are_biased():
  operator = operator_of('row')
  sampler = LADIES(operator, train_of(), 8, 2, layer_size=4, normalise=True)
  assert not sampler.unbiased
  for layer in sampler.sample(np.random.default_rng(0)).layers:
    # Rows of L sum to 1, and the self loop leaves none empty.
    np.testing.assert_allclose(rows_of(layer).sum(1), 1, atol=1e-6)
  # That the score of a bias is seen, here and in the tests of the others.
  assert layer_scores(sampler, draws_of(sampler, 2500)).max() > 8


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
