"""SAGPool against loops over single graphs in NumPy, in float64."""

import chex
import jax
import jax.numpy as jnp
import jraph
import numpy as np
import pytest

from jaxlab.models.sagpool import (
  GraphConv,
  SAGPool,
  SAGPoolNet,
  graph_of,
  logits_of_rows,
  readout,
  top_nodes,
)

SIZES = (5, 0, 1, 9, 2)  # one graph is empty, one a single node
FEATURES = 4


def random_graph(rng, nodes):
  """Features, and edges in both directions."""
  upper = np.triu(rng.random((nodes, nodes)) < 0.4, 1)
  edges = np.argwhere(upper | upper.T)
  return rng.normal(size=(nodes, FEATURES)).astype(np.float32), edges


def random_graphs(seed=0, sizes=SIZES):
  rng = np.random.default_rng(seed)
  return [random_graph(rng, nodes) for nodes in sizes]


def joined(graphs):
  """One GraphsTuple, not padded."""
  offset = np.cumsum([0, *(len(x) for x, _ in graphs)])
  edges = np.concatenate([e + o for (_, e), o in zip(graphs, offset)])
  edges = edges.astype(np.int32)
  x = np.concatenate([x for x, _ in graphs])
  return jraph.GraphsTuple(
    nodes={'feature': x, 'mask': np.ones(len(x), bool)},
    edges={'mask': np.ones(len(edges), bool)},
    senders=edges[:, 0],
    receivers=edges[:, 1],
    globals=None,
    n_node=np.array([len(x) for x, _ in graphs], np.int32),
    n_edge=np.array([len(e) for _, e in graphs], np.int32),
  )


def in_rows(graphs, rows, nodes, edges):
  """The graphs in `rows` rows, as `logits_of_rows` takes them."""
  each = len(graphs) // rows
  found = []
  for start in range(0, len(graphs), each):
    some = joined(graphs[start : start + each])
    node = np.zeros((nodes, FEATURES), np.float32)
    node[: len(some.nodes['feature'])] = some.nodes['feature']
    edge = np.zeros((edges, 2), np.int32)
    edge[: len(some.senders)] = np.stack([some.senders, some.receivers], 1)
    found.append(
      {
        'node': node,
        'edge': edge,
        'num_nodes': some.n_node,
        'num_edges': some.n_edge,
      }
    )
  return jax.tree.map(lambda *x: np.stack(x), *found)


def dense_conv(params, x, edges):
  """D^-1/2 (A + I) D^-1/2 X W + b."""
  a = np.zeros((len(x), len(x)))
  np.add.at(a, (edges[:, 1], edges[:, 0]), 1.0)
  np.fill_diagonal(a, 1.0)
  scale = np.diag(a.sum(1) ** -0.5)
  kernel, bias = params['dense']['kernel'], params['bias']
  return scale @ a @ scale @ (x @ np.float64(kernel)) + np.float64(bias)


def wanted(nodes, ratio):
  """ceil(ratio nodes) in hundredths, which are exact."""
  return -(-nodes * round(100 * ratio) // 100)


def loop_pool(params, x, edges, ratio):
  score = dense_conv(params['score'], x, edges)[:, 0]
  kept = np.argsort(-score, kind='stable')[: wanted(len(x), ratio)]
  kept = np.sort(kept)
  new = {int(old): i for i, old in enumerate(kept)}
  edges = [(new[a], new[b]) for a, b in edges if a in new and b in new]
  x = x[kept] * np.tanh(score[kept])[:, None]
  return x, np.array(edges, int).reshape(-1, 2)


def loop_network(params, graph, model):
  """Logits of one graph, by the definition."""
  x, edges = np.float64(graph[0]), graph[1]
  total = np.zeros(2 * model.width)
  for i in range(1, model.layers + 1):
    x = np.maximum(dense_conv(params[f'conv{i}'], x, edges), 0)
    x, edges = loop_pool(params[f'pool{i}'], x, edges, model.ratio)
    if len(x):
      total += np.concatenate([x.max(0), x.mean(0)])
  for name in ('dense1', 'dense2', 'head'):
    kernel, bias = params[name]['kernel'], params[name]['bias']
    total = total @ np.float64(kernel) + np.float64(bias)
    if name != 'head':
      total = np.maximum(total, 0)
  return total


MODEL = SAGPoolNet(num_classes=3, width=8)


@pytest.fixture(scope='module')
def params():
  make = lambda key: MODEL.init(key, joined(random_graphs()), train=False)
  shapes = jax.eval_shape(make, jax.random.key(1))['params']
  draw = np.random.default_rng(2)
  # Biases begin at zero, where an error would not show.
  return jax.tree.map(
    lambda leaf: draw.normal(0, 0.4, leaf.shape).astype('f4'), shapes
  )


@jax.jit
def logits(params, graph):
  return MODEL.apply({'params': params}, graph, train=False)


def expected(params, graphs):
  return np.stack([loop_network(params, graph, MODEL) for graph in graphs])


# float32 sums of at most 16 numbers of order 1, through seven layers.
CLOSE = {'rtol': 1e-4, 'atol': 1e-5}


def test_a_convolution_is_the_normalised_dense_matrix():
  graphs = random_graphs()
  # A self loop is not a second one; an edge that is there twice counts twice.
  x, edges = graphs[0]
  graphs[0] = x, np.concatenate([edges, edges[:1], [[2, 2]]])
  graph = jraph.pad_with_graphs(joined(graphs), 30, 80, 7)
  conv = GraphConv(6)
  params = jax.jit(conv.init)(jax.random.key(0), graph)['params']
  params['bias'] = jnp.arange(6.0)
  found = jax.jit(conv.apply)({'params': params}, graph).nodes['feature']
  want = [dense_conv(params, x, edges) for x, edges in graphs]
  np.testing.assert_allclose(found[:17], np.concatenate(want), **CLOSE)
  np.testing.assert_array_equal(found[17:], 0)


def test_directed_edges_are_weighed_by_what_arrives():
  graph = joined(
    [(np.ones((3, FEATURES), np.float32), np.array([[0, 1], [2, 1]]))]
  )
  conv = GraphConv(2)
  params = jax.jit(conv.init)(jax.random.key(0), graph)['params']
  found = jax.jit(conv.apply)({'params': params}, graph).nodes['feature']
  # Node 1 has 3 in its row, the others 1: 1/3 + 2/√3 of the same XW.
  of = found[1] / found[0]
  np.testing.assert_allclose(of, 1 / 3 + 2 / 3**0.5, rtol=1e-5)


@pytest.mark.parametrize('ratio', [0.1, 0.5, 0.7, 0.8, 1.0])
def test_the_highest_scores_of_each_graph_stay(ratio):
  sizes = [10, 0, 1, 2, 3, 30, 20, 7]
  graphs = random_graphs(1, sizes)
  padded = jraph.pad_with_graphs(joined(graphs), 90, 800, 10)
  score = np.random.default_rng(2).normal(size=90).astype(np.float32)
  found = jax.jit(top_nodes, static_argnums=2)(padded, score, ratio)
  start = 0
  for size in sizes:
    own = score[start : start + size]
    best = np.argsort(-own)[: wanted(size, ratio)]
    want = np.isin(np.arange(size), best)
    np.testing.assert_array_equal(found[start : start + size], want)
    start += size
  assert not found[start:].any()


def test_of_equal_scores_the_earlier_node_stays():
  graph = joined(random_graphs(0, (4, 3)))
  found = top_nodes(graph, jnp.zeros(7), 0.5)
  np.testing.assert_array_equal(found, [1, 1, 0, 0, 1, 1, 0])


def test_pooling_gates_by_tanh_and_drops_the_edges_of_dropped_nodes():
  graphs = random_graphs(3)
  graph = joined(graphs)
  pool = SAGPool(0.5)
  params = jax.jit(pool.init)(jax.random.key(0), graph)['params']
  found = jax.jit(pool.apply)({'params': params}, graph)
  start = edge = 0
  for x, edges in graphs:
    want, left = loop_pool(params, np.float64(x), edges, 0.5)
    rows = slice(start, start + len(x))
    mask = np.asarray(found.nodes['mask'][rows])
    np.testing.assert_allclose(
      found.nodes['feature'][rows][mask], want, **CLOSE
    )
    number = np.cumsum(mask) - 1
    kept = np.asarray(found.edges['mask'][edge : edge + len(edges)])
    np.testing.assert_array_equal(number[edges[kept]], left)
    start, edge = start + len(x), edge + len(edges)


def test_a_readout_is_maximum_and_mean_and_zero_without_nodes():
  graph = joined(random_graphs())
  found = jax.jit(readout)(graph)
  x = graph.nodes['feature']
  want = np.zeros((5, 2 * FEATURES))
  for i, rows in enumerate(([0, 5], [5, 5], [5, 6], [6, 15], [15, 17])):
    part = x[slice(*rows)]
    if len(part):
      want[i] = np.concatenate([part.max(0), part.mean(0)])
  np.testing.assert_allclose(found, want, **CLOSE)


def test_the_network_is_the_loop_over_graphs(params):
  graphs = random_graphs()
  found = logits(params, joined(graphs))
  assert (found.shape, found.dtype) == ((5, 3), jnp.float32)
  np.testing.assert_allclose(found, expected(params, graphs), **CLOSE)


def test_the_order_of_nodes_does_not_matter(params):
  rng = np.random.default_rng(4)
  graphs = random_graphs()
  moved = []
  for x, edges in graphs:
    place = rng.permutation(len(x))  # of each old node
    shuffled = np.empty_like(x)
    shuffled[place] = x
    moved.append((shuffled, rng.permutation(place[edges].reshape(-1, 2))))
  found = logits(params, joined(moved))
  np.testing.assert_allclose(found, logits(params, joined(graphs)), **CLOSE)


def padded_by_nan(graphs, *size):
  padded = jraph.pad_with_graphs(joined(graphs), *size)
  x = np.array(padded.nodes['feature'])
  x[sum(len(x) for x, _ in graphs) :] = np.nan
  return padded._replace(nodes={**padded.nodes, 'feature': x})


def test_padding_does_not_matter_whatever_it_holds(params):
  graphs = random_graphs()
  want = logits(params, joined(graphs))
  found = logits(params, padded_by_nan(graphs, 40, 200, 9))[:5]
  np.testing.assert_allclose(found, want, **CLOSE)


def test_padding_and_empty_graphs_do_not_matter_to_the_gradient(params):
  slope = jax.jit(
    jax.grad(lambda params, graph: (logits(params, graph)[:5] ** 2).sum())
  )
  size, graphs = (18, 60, 6), random_graphs()
  found = slope(params, padded_by_nan(graphs, *size))
  chex.assert_tree_all_finite(found)
  chex.assert_trees_all_close(
    found, slope(params, joined(graphs)), rtol=1e-3, atol=1e-4
  )
  empty = padded_by_nan(random_graphs(0, (0, 1, 0, 0, 0)), *size)
  chex.assert_tree_all_finite(slope(params, empty))


def test_other_graphs_of_the_batch_do_not_matter(params):
  graphs = random_graphs()
  others = random_graphs(5, (3, 8, 4))
  alone = logits(params, joined(graphs))
  beside = logits(params, joined([*others, *graphs, *others]))
  np.testing.assert_allclose(beside[3:8], alone, **CLOSE)


def test_the_number_of_rows_does_not_matter_nor_their_length(params):
  graphs = random_graphs(6, (4, 0, 7, 1, 2, 5))
  want = expected(params, graphs)
  call = jax.jit(
    lambda params, batch, key=None: logits_of_rows(MODEL, params, batch, key)
  )
  key, dropped = jax.random.key(7), []
  for rows in (1, 3):
    batch = in_rows(graphs, rows, nodes=21 + rows, edges=70 + rows)
    dropped.append(call(params, batch, key).reshape(6, 3))
  found = call(params, batch)
  assert found.shape == (3, 2, 3)
  np.testing.assert_allclose(found.reshape(6, 3), want, **CLOSE)
  # Dropout goes by the graph's place in the batch.
  np.testing.assert_allclose(*dropped, **CLOSE)
  assert np.abs(dropped[0] - want).max() > 0.01
  other = call(params, batch, jax.random.key(8)).reshape(6, 3)
  assert np.abs(dropped[1] - other).max() > 0.01


def test_graphs_of_one_row_keep_their_own_numbers_of_nodes():
  batch = in_rows(random_graphs(), 1, nodes=20, edges=60)
  row = jax.tree.map(lambda x: jnp.asarray(x[0]), batch)
  graph = graph_of(**row)
  assert graph.n_node.tolist() == [5, 0, 1, 9, 5]  # three are padding
  assert int(graph.n_edge.sum()) == 60
  assert graph.nodes['mask'].tolist() == [True] * 17 + [False] * 3
  assert int(graph.edges['mask'].sum()) == int(batch['num_edges'].sum())


def test_the_paper_s_network_has_its_layers():
  model = SAGPoolNet(num_classes=2)
  make = lambda key: model.init(key, joined(random_graphs()), train=False)
  shapes = jax.eval_shape(make, jax.random.key(0))['params']
  assert shapes['conv3']['dense']['kernel'].shape == (128, 128)
  assert shapes['pool3']['score']['dense']['kernel'].shape == (128, 1)
  kernels = [shapes[n]['kernel'].shape for n in ('dense1', 'dense2', 'head')]
  assert kernels == [(256, 128), (128, 64), (64, 2)]


@pytest.mark.parametrize(
  'change, message',
  [
    ({'ratio': 0.0}, r'ratio=0.0 of nodes to keep must be in \(0, 1\]'),
    ({'ratio': 1.1}, 'ratio=1.1'),
    ({'width': 1}, 'width=1 must be at least'),
    ({'layers': 0}, 'layers=0'),
    ({'dropout_rate': 1.0}, 'dropout_rate=1.0 must be in'),
  ],
)
def test_a_network_that_cannot_be_is_refused(change, message):
  with pytest.raises(ValueError, match=message):
    SAGPoolNet(num_classes=2, **change)
