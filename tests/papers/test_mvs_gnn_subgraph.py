"""Cluster-GCN, GraphSAINT and minimal-variance batches."""

import numpy as np
import pytest

from jaxlab.data.graphs.adjacency import adjacency
from jaxlab.papers.mvs_gnn import blocks, method, subgraph
from jaxlab.papers.mvs_gnn.minimal_variance import MVS, Refresh
from jaxlab.papers.mvs_gnn.partition import partition
from jaxlab.papers.mvs_gnn.subgraph import ClusterGCN, GraphSAINT
from tests.papers.test_mvs_gnn_samplers import (
  IDS,
  NODES,
  NORMS,
  SAMPLERS,
  VALUES,
  dense,
  draws_of,
  layer_scores,
  loss_scores,
  mvs,
  operator_of,
  outputs,
  rows_of,
  scores,
  train_of,
)

SAINTS = [name for name in SAMPLERS if name.startswith('graphsaint')]


def two_blocks(size=60):
  """Two dense random blocks, joined by two edges."""
  rng = np.random.default_rng(0)
  half = rng.integers(0, size // 2, (size * 3, 2))
  edges = np.concatenate([half, half[::-1] + size // 2, [[0, size - 1]]])
  edges = np.concatenate([edges, [[1, size - 2]]])
  return blocks.make_operator(adjacency(edges, size), 'row')


# Cluster-GCN.


def test_clusters_lose_the_entries_between_them_and_keep_row_sums():
  operator = operator_of()
  found = ClusterGCN(operator, train_of(), 8, 2, 6, 2)
  assert not found.unbiased
  matrix = dense(operator)
  for step in range(20):
    sample = found.sample(np.random.default_rng(step))
    number = len(sample.seeds)
    np.testing.assert_allclose(sample.seed_weight, 1 / number, 1e-6)
    drawn = np.unique(found.cluster[sample.seeds])
    assert 1 <= len(drawn) <= 2
    for layer in sample.layers:
      at = layer.nodes[: layer.destinations]
      clusters = np.unique(found.cluster[layer.nodes])
      assert len(clusters) <= 2
      chosen = np.union1d(drawn, clusters)
      inside = matrix[at] * np.isin(found.cluster, chosen)
      wanted = inside * (matrix[at].sum(1) / inside.sum(1))[:, None]
      np.testing.assert_allclose(rows_of(layer), wanted, 1e-5)
    in_clusters = train_of()[np.isin(found.cluster[train_of()], drawn)]
    assert set(sample.seeds) == set(in_clusters)


def test_all_clusters_are_the_whole_graph():
  operator = operator_of()
  found = ClusterGCN(operator, train_of(), 8, 2, 4, 4)
  sample = found.sample(np.random.default_rng(0))
  assert set(sample.seeds) == set(train_of())
  twice = dense(operator) @ dense(operator) @ VALUES
  np.testing.assert_allclose(outputs(sample), twice[sample.seeds], atol=1e-5)


def test_cluster_batches_without_a_training_node_do_not_occur():
  found = ClusterGCN(operator_of(), np.array([0]), 1, 1, 20, 1)
  for step in range(20):
    sample = found.sample(np.random.default_rng(step))
    assert sample.seeds.tolist() == [0]


def test_clusters_left_open_make_batches_of_about_the_size_asked_for():
  operator = two_blocks(400)
  found = ClusterGCN(operator, np.arange(400), 50, 1, clusters_per_batch=2)
  assert found.clusters == 16
  sizes = [
    len(found.sample(np.random.default_rng(s)).seeds) for s in range(200)
  ]
  assert 45 < np.mean(sizes) < 55


def test_partition_finds_two_blocks():
  operator = two_blocks()
  part = partition(np.random.default_rng(0), operator, 2)
  assert len(set(part[:30])) == len(set(part[30:])) == 1
  assert part[0] != part[30]


@pytest.mark.parametrize('parts', [1, 3, 7, 40])
@pytest.mark.parametrize('loops', ['add', 'drop'])
def test_partition_has_every_part_and_none_too_large(parts, loops):
  for operator in (operator_of(loops=loops), operator_of(symmetric=False)):
    part = partition(np.random.default_rng(1), operator, parts)
    assert part.dtype == np.int32
    assert part.min() >= 0 and part.max() < parts
    sizes = np.bincount(part, minlength=parts)
    assert sizes.max() <= np.ceil(1.1 * NODES / parts)
    again = partition(np.random.default_rng(1), operator, parts)
    np.testing.assert_array_equal(part, again)


def test_partition_comes_near_a_planted_one():
  rng = np.random.default_rng(0)
  block = np.repeat(np.arange(16), 50)
  start = rng.integers(0, 800, 6000)
  inside = start // 50 * 50 + rng.integers(0, 50, 6000)
  end = np.where(rng.random(6000) < 0.8, inside, rng.integers(0, 800, 6000))
  order = rng.permutation(800)
  edges = order[np.stack([start, end], 1)]
  operator = blocks.make_operator(adjacency(edges, 800), 'row')
  part = partition(rng, operator, 16)
  cut = lambda of: (of[edges[:, 0]] != of[edges[:, 1]]).mean()
  planted = np.empty(800, int)
  planted[order] = block
  # 0.8 + 0.2 / 16 of the edges are within blocks; random parts cut 15 / 16.
  # Equal blocks are the worst case of bisection: one is now and then halved.
  assert 0.15 < cut(planted) < 0.22
  assert cut(part) < 1.5 * cut(planted)


def test_parts_of_a_grid_are_nearly_squares():
  at = np.arange(400).reshape(20, 20)
  down = np.stack([at[:-1].ravel(), at[1:].ravel()], 1)
  right = np.stack([at[:, :-1].ravel(), at[:, 1:].ravel()], 1)
  edges = np.concatenate([down, right])
  operator = blocks.make_operator(adjacency(edges, 400), 'row')
  cuts = []
  for seed in range(5):
    part = partition(np.random.default_rng(seed), operator, 16)
    cuts.append((part[edges[:, 0]] != part[edges[:, 1]]).sum())
  # 16 squares cut 2 x 3 lines of 20 edges. Without the cut of one level kept in
  # the next the mean is 1.42 times as many; here it is 1.27 times.
  assert np.mean(cuts) < 1.35 * 120


# GraphSAINT.


@pytest.mark.parametrize('kind', ['node', 'edge'])
@pytest.mark.parametrize('symmetric', [True, False])
def test_layers_and_losses_of_node_and_edge_sets_are_unbiased(kind, symmetric):
  operator = operator_of(symmetric=symmetric)
  found = GraphSAINT(operator, np.arange(NODES), 8, 2, kind)
  assert found.unbiased
  assert layer_scores(found, draws_of(found, 2500)).max() < 4
  part = GraphSAINT(operator, train_of(), 8, 1, kind)
  draws = draws_of(part, 2500)
  assert layer_scores(part, draws).max() < 4
  assert loss_scores(part, draws).max() < 4


def test_layers_and_losses_of_walks_are_unbiased_in_the_limit():
  # 20,000 walks from every node: chances are off by some 1 / 200 of the error
  # of a mean over 2,500 draws that touch a node in one of five.
  found = GraphSAINT(
    operator_of(), np.arange(NODES), 8, 2, 'walk', presamples=20_000
  )
  assert not found.unbiased
  draws = draws_of(found, 2500)
  assert layer_scores(found, draws).max() < 4
  assert loss_scores(found, draws).max() < 4


@pytest.mark.parametrize('kind', ['node', 'edge'])
def test_chances_are_those_of_the_sets(kind):
  operator = operator_of()
  found = GraphSAINT(operator, train_of(), 8, 1, kind)
  rows = np.repeat(np.arange(NODES), operator.degrees)
  node, pair = [], []
  for step in range(4000):
    inside = np.zeros(NODES, bool)
    rng = np.random.default_rng(step)
    inside[found._touch.draw(rng, found.draws)] = True
    node.append(inside - found.node_chance)
    both = inside[rows] & inside[operator.indices]
    pair.append(both - found.pair_chance)
  # Sets too rare to have a normal mean are left out.
  assert scores(node)[found.node_chance > 0.005].max() < 4
  often = found.pair_chance > 0.005
  assert often.sum() > 50
  assert scores(pair)[often].max() < 4


def walk_chances(operator, length):
  """[n] and [n, n]: that a walk touches a node, and two; every walk counted."""
  matrix = dense(operator) > 0
  np.fill_diagonal(matrix, False)
  node, pair = np.zeros(NODES), np.zeros((NODES, NODES))
  roots = np.flatnonzero(matrix.any(0) | matrix.any(1))

  def go(walk, chance):
    if len(walk) == length + 1:
      touched = sorted(set(walk))
      node[touched] += chance
      pair[np.ix_(touched, touched)] += chance
      return
    following = np.flatnonzero(matrix[walk[-1]])
    if not len(following):
      following = walk[-1:]
    for other in following:
      go([*walk, other], chance / len(following))

  for root in roots:
    go([root], 1 / len(roots))
  return node, pair


@pytest.mark.parametrize('symmetric', [True, False])
def test_walks_are_counted_towards_their_chances(symmetric):
  operator = operator_of(symmetric=symmetric)
  node, pair = walk_chances(operator, 2)
  train = np.flatnonzero(node)[:20]
  rows = np.repeat(np.arange(NODES), operator.degrees)
  off = {}
  for presamples in (20, 2000):
    found = GraphSAINT(
      operator, train, 8, 1, 'walk', walk_length=2, presamples=presamples
    )
    counted = found._touch
    # A count of k events is off by about sqrt(k); 5 of these over 240 counts.
    number = presamples * (node > 0).sum()
    limit = 5 * np.sqrt(node / number) + 5 / number
    assert (np.abs(counted.node - node) < limit).all()
    wanted = pair[rows, operator.indices]
    limit = 5 * np.sqrt(wanted / number) + 5 / number
    loop = rows == operator.indices
    error = np.abs(counted.pair - wanted)[~loop]
    assert (error < limit[~loop]).all()
    off[presamples] = np.abs(counted.node - node).mean()
  assert off[2000] < off[20] / 5  # 10 is expected


@pytest.mark.parametrize('name', SAINTS)
def test_the_mean_number_of_seeds_is_the_batch_size(name):
  found = SAMPLERS[name](operator_of(), train_of(), 8, 1)
  chance = found.node_chance[train_of()]
  assert chance.sum() >= 8
  fewer = 1 - (1 - chance) ** ((found.draws - 1) / found.draws)
  assert fewer.sum() < 8
  sizes = [
    len(found.sample(np.random.default_rng(s)).seeds) for s in range(1000)
  ]
  # Counted walks of a small graph put the mean off by 1 % at most.
  error = np.std(sizes) / np.sqrt(1000)
  slack = 0.08 if name == 'graphsaint-walk' else 0
  assert abs(np.mean(sizes) - chance.sum()) < 4 * error + slack


@pytest.mark.parametrize('name', SAINTS)
def test_sets_without_a_training_node_are_empty_batches(name):
  found = SAMPLERS[name](operator_of(), train_of(3), 1, 2)
  sizes = set()
  for step in range(100):
    sample = found.sample(np.random.default_rng(step))
    blocks.pad(sample, blocks.Budget((41, 41), (500, 500), (41, 41)), NODES)
    sizes.add(len(sample.seeds))
  assert 0 in sizes and max(sizes) >= 2


def test_small_chances_keep_their_digits():
  # Two draws of a million nodes: p_ij = 2 q_i q_j exactly.
  q = np.full(2, 1e-6)
  rows, columns = np.array([0, 1]), np.array([1, 0])
  node, pair = subgraph._inclusion(q, np.zeros(2), rows, columns, 2)
  np.testing.assert_allclose(node, 2e-6 - 1e-12, 1e-12)
  np.testing.assert_allclose(pair, 2e-12, 1e-9)


# Minimal-variance sampling.


@pytest.mark.parametrize('draw', ['systematic', 'bernoulli'])
@pytest.mark.parametrize('mix', [0.0, 0.3])
def test_losses_of_minimal_variance_batches_are_unbiased(draw, mix):
  found = MVS(operator_of(), train_of(), 8, 2, draw=draw, mix=mix)
  assert found.unbiased and found.history
  # Before the first refresh: uniform over all training nodes.
  assert loss_scores(found, draws_of(found, 2000)).max() < 4
  np.testing.assert_allclose(found.probabilities, 8 / 24)
  found.publish(IDS, NORMS)
  found.train = IDS  # what the loss is then the mean over
  assert loss_scores(found, draws_of(found, 4000)).max() < 4
  np.testing.assert_allclose(found.probabilities.sum(), 8)


def test_probabilities_follow_the_norms():
  found = mvs(operator_of(), train_of(), 8, 2)
  wanted = method.minimal_variance_probabilities(NORMS, 8)
  np.testing.assert_allclose(found.probabilities, wanted, 1e-12)
  assert wanted.max() == 1 and wanted.min() < 0.1
  counts = np.zeros(NODES)
  for step in range(2000):
    counts[found.sample(np.random.default_rng(step)).seeds] += 1
  p = np.zeros(NODES)
  p[IDS] = wanted
  assert (np.abs(counts / 2000 - p) <= 4 * np.sqrt(p * (1 - p) / 2000)).all()


def test_systematic_batches_have_a_fixed_size_and_bernoulli_ones_a_mean():
  size = lambda of: [
    len(of.sample(np.random.default_rng(s)).seeds) for s in range(1000)
  ]
  assert set(size(mvs(operator_of(), train_of(), 8, 2))) == {8}
  sizes = size(mvs(operator_of(), train_of(), 8, 2, draw='bernoulli'))
  assert len(set(sizes)) > 4
  assert abs(np.mean(sizes) - 8) < 4 * np.std(sizes) / np.sqrt(1000)


def test_weights_and_histories_make_up_the_rows_of_the_matrix():
  operator = operator_of()
  found = mvs(operator, train_of(), 8, 3)
  for step in range(20):
    sample = found.sample(np.random.default_rng(step))
    assert sample.layers[0].edges.history is None
    for level, layer in enumerate(sample.layers):
      at = layer.nodes[: layer.destinations]
      np.testing.assert_array_equal(at, sample.seeds)  # one set for all layers
      np.testing.assert_array_equal(rows_of(layer), dense(operator)[at])
      if level:
        edges = layer.edges
        fresh = np.isin(layer.nodes[layer.senders], sample.seeds)
        assert ((edges.weight != 0) == fresh).all()
        assert ((edges.history != 0) == ~fresh).all()
        assert layer.computed == layer.destinations


@pytest.mark.parametrize('draw', ['systematic', 'bernoulli'])
def test_a_batch_of_all_nodes_is_the_full_graph_exactly(draw):
  operator = operator_of()
  found = MVS(operator, np.arange(NODES), NODES, 2, draw=draw)
  sample = found.sample(np.random.default_rng(0))
  np.testing.assert_array_equal(np.sort(sample.seeds), np.arange(NODES))
  np.testing.assert_array_equal(sample.seed_weight, np.float32(1 / NODES))
  for layer in sample.layers:
    at = layer.nodes[: layer.destinations]
    np.testing.assert_array_equal(rows_of(layer), dense(operator)[at])
    assert layer.edges.history is None or not layer.edges.history.any()
  twice = dense(operator) @ dense(operator) @ VALUES
  np.testing.assert_allclose(outputs(sample), twice[sample.seeds], atol=1e-5)


def test_a_batch_size_of_more_than_the_positive_norms_takes_these():
  norms = np.where(np.arange(len(IDS)) < 5, NORMS, 0.0)
  found = MVS(operator_of(), train_of(), 8, 2)
  found.publish(IDS, norms)
  for step in range(10):
    sample = found.sample(np.random.default_rng(step))
    np.testing.assert_array_equal(sample.seeds, IDS[:5])
    np.testing.assert_allclose(sample.seed_weight, 1 / 30, 1e-6)
  found.publish(IDS[:4], NORMS[:4])  # a smaller V_S than a batch
  np.testing.assert_array_equal(found.probabilities, 1)
  found.publish(IDS, np.zeros(30))
  np.testing.assert_allclose(found.probabilities, 8 / 30)


def test_mix_and_floor_draw_nodes_of_norm_zero_and_bound_the_weights():
  norms = np.where(np.arange(len(IDS)) < 15, NORMS, 0.0)
  for options in ({'mix': 0.2}, {'floor': 0.2}):
    found = MVS(operator_of(), train_of(), 8, 2, **options)
    found.publish(IDS, norms)
    np.testing.assert_allclose(found.probabilities.sum(), 8)
    np.testing.assert_allclose(found.probabilities[20], 0.2 * 8 / 30)
    found.train = IDS
    assert loss_scores(found, draws_of(found, 4000)).max() < 4


def test_clipped_weights_are_bounded_and_no_longer_unbiased():
  found = mvs(operator_of(), train_of(), 8, 2, clip=1.5)
  assert not found.unbiased
  weights = np.concatenate(
    [found.sample(np.random.default_rng(s)).seed_weight for s in range(2000)]
  )
  np.testing.assert_allclose(weights.max(), 1.5 / 8, 1e-6)
  found.train = IDS
  assert loss_scores(found, draws_of(found, 2000)).max() > 8


def test_a_refresh_is_uniform_and_exact():
  operator = operator_of()
  found = Refresh(operator, train_of(), 10, 2)
  assert found.unbiased
  assert loss_scores(found, draws_of(found, 2000)).max() < 4
  sample = found.sample(np.random.default_rng(0))
  assert len(set(sample.seeds)) == 10
  twice = dense(operator) @ dense(operator) @ VALUES
  np.testing.assert_allclose(outputs(sample), twice[sample.seeds], atol=1e-5)


def test_snapshots_that_cannot_be():
  found = MVS(operator_of(), train_of(), 8, 2)
  with pytest.raises(ValueError, match='different nodes'):
    found.publish(np.array([1, 1]), np.ones(2))
  with pytest.raises(ValueError, match=r'in \[0, 40\)'):
    found.publish(np.array([1, 40]), np.ones(2))
  with pytest.raises(ValueError, match=r'must be \[s\], s >= 1'):
    found.publish(np.array([1, 2]), np.ones(3))
  for norm in (np.nan, -1.0, np.inf):
    with pytest.raises(ValueError, match='norm 1 is'):
      found.publish(np.array([1, 2]), np.array([1.0, norm]))
