"""Packed rows of graphs: contents, sizes, rows apart, bad input."""

import pickle

import jax
import numpy as np
import pytest

from jaxlab.core.errors import InputError
from jaxlab.core.source import Source
from jaxlab.data.graphs.batches import GraphSource, node_features
from jaxlab.data.graphs.types import Graph, concatenate
from jaxlab.engine import mesh
from jaxlab.engine.feed import Feed

FIELDS = ('node', 'edge', 'num_nodes', 'num_edges', 'label', 'graph', 'real')


def some_graphs(count=12, seed=0, largest=9):
  """Random graphs; the second is empty, the third a single node."""
  rng = np.random.default_rng(seed)
  found = []
  for i in range(count):
    nodes = {1: 0, 2: 1}.get(i, int(rng.integers(2, largest + 1)))
    pairs = np.argwhere(np.triu(rng.random((nodes, nodes)) < 0.5))
    found.append(
      Graph(
        nodes=nodes,
        edges=pairs.astype(np.int32),  # self loops too
        label=i % 3,
        node_label=rng.integers(0, 4, nodes).astype(np.int32),
        node_attribute=rng.normal(size=(nodes, 2)).astype(np.float32),
      )
    )
  return concatenate(
    found, classes=('a', 'b', 'c'), node_classes=('C', 'N', 'O', 'F')
  )


GRAPHS = some_graphs()
BOTH = node_features(GRAPHS, ('label', 'attribute'))


def source(indices=None, graphs=GRAPHS, features=BOTH, **options):
  indices = np.arange(len(graphs)) if indices is None else indices
  options = {'batch_size': 4, 'steps': 9, 'seed': 3} | options
  return GraphSource(graphs, features, indices, **options)


def unpacked(batch, row):
  """(place in the set, label, features, edges) of each real graph of a row."""
  found, node, edge = [], 0, 0
  batch = {k: v[row] for k, v in batch.items()}
  for i, real in enumerate(batch['real']):
    nodes, edges = batch['num_nodes'][i], batch['num_edges'][i]
    if real:
      found.append(
        (
          int(batch['graph'][i]),
          int(batch['label'][i]),
          batch['node'][node : node + nodes],
          batch['edge'][edge : edge + edges] - node,
        )
      )
    else:
      assert not nodes and not edges
    node, edge = node + nodes, edge + edges
  assert not batch['node'][node:].any()
  assert not batch['edge'][edge:].any()
  return found


def assert_are_theirs(found, features=BOTH):
  for place, label, node, edge in found:
    want = GRAPHS.batch([place])
    begin = GRAPHS.node_offset[place]
    assert label == GRAPHS.label[place]
    np.testing.assert_array_equal(node, features[begin : begin + len(node)])
    assert len(node) == want.n_node[0]
    np.testing.assert_array_equal(
      edge, np.stack([want.senders, want.receivers], 1)
    )


@pytest.mark.parametrize('rows', [1, 2, 4])
def test_rows_hold_whole_graphs_in_the_source_s_order(rows):
  here = source(rows=rows)
  assert isinstance(here, Source)
  seen = []
  for step in range(3):  # an epoch
    batch = here.batch(step, slice(0, rows))
    for name, spec in here.spec['train'].items():
      assert (batch[name].shape, batch[name].dtype) == (spec.shape, spec.dtype)
    found = [one for row in range(rows) for one in unpacked(batch, row)]
    assert_are_theirs(found)
    seen += [place for place, *_ in found]
  # Each graph once, in the order that one row has.
  assert sorted(seen) == list(range(12))
  assert seen == [
    place
    for step in range(3)
    for place, *_ in unpacked(source().batch(step, slice(0, 1)), 0)
  ]


def test_a_batch_is_a_function_of_its_step_and_rows_may_be_asked_for_apart():
  here = source(rows=4)
  whole = here.batch(7, slice(0, 4))
  for start, stop in ((0, 1), (1, 4)):
    part = source(rows=4).batch(7, slice(start, stop))
    for name, array in part.items():
      np.testing.assert_array_equal(array, whole[name][start:stop])


def test_rows_are_as_long_as_the_largest_needs_and_no_longer():
  here = source(rows=2, steps=9)
  sizes = []
  for step in range(9):
    batch = here.batch(step, slice(0, 2))
    sizes.append(
      [batch['num_nodes'].sum(-1).max(), batch['num_edges'].sum(-1).max()]
    )
  largest = np.max(sizes, 0).tolist()
  assert [here.num_nodes, here.num_edges] == largest
  assert min(s[0] for s in sizes) < largest[0]


def test_a_batch_beyond_the_stated_steps_is_refused_and_not_cut():
  here = source(batch_size=1, steps=1)
  sizes = GRAPHS.num_nodes
  first = here.batch(0, slice(0, 1))
  assert first['num_nodes'].max() < sizes.max()
  with pytest.raises(InputError, match=r'does not fit in rows of .* as many'):
    for step in range(1, 12):
      here.batch(step, slice(0, 1))


def test_trainings_side_by_side_have_graphs_of_their_own():
  indices = np.stack([np.arange(6), np.arange(6) + 6], 1)
  here = source(indices, rows=2)
  assert here.spec['train']['node'].shape[:2] == (2, 2)
  batch = here.batch(0, slice(0, 2))
  for k in (0, 1):
    own = {name: batch[name][:, k] for name in FIELDS}
    found = [one for row in (0, 1) for one in unpacked(own, row)]
    assert_are_theirs(found)
    places = here.order.indices(0, slice(None))
    assert [place for place, *_ in found] == indices[places, k].tolist()
  np.testing.assert_array_equal(batch['id'], places[::2])


def test_a_finite_source_ends_with_graphs_that_are_not_real():
  here = source(np.arange(10), rows=2, steps=0, repeat=False, shuffle=False)
  assert here.num_batches == 3
  last = here.batch(2, slice(0, 2))
  np.testing.assert_array_equal(last['real'], [[True, True], [False, False]])
  seen = [
    place
    for step in range(3)
    for row in (0, 1)
    for place, *_ in unpacked(here.batch(step, slice(0, 2)), row)
  ]
  assert seen == list(range(10))


def test_a_feed_gives_each_device_rows_of_its_own():
  devices = mesh.make(devices=jax.devices()[:4])
  here = source(rows=4)
  ((_, _, batch),) = Feed(here, devices).batches(0, 1)
  whole = here.batch(0, slice(0, 4))
  for name, array in whole.items():
    np.testing.assert_array_equal(batch[name], array)
    assert batch[name].sharding.shard_shape(array.shape)[0] == 1


def test_a_pickled_source_gives_the_same_batches():
  here = source(rows=2)
  again = pickle.loads(pickle.dumps(here))
  for name, array in again.batch(5, slice(0, 2)).items():
    np.testing.assert_array_equal(array, here.batch(5, slice(0, 2))[name])


def test_graphs_without_any_nodes_make_rows():
  graphs = concatenate(
    [Graph(0, np.zeros((0, 2), np.int32), i) for i in (0, 1)],
    classes=('a', 'b'),
  )
  features = node_features(graphs, ('degree',), 3)
  here = source(graphs=graphs, features=features, batch_size=2)
  batch = here.batch(0, slice(0, 1))
  assert batch['node'].shape == (1, 1, 4)
  assert not batch['num_nodes'].any()
  assert batch['real'].all()


def test_features_are_labels_attributes_and_degrees_in_the_order_asked_for():
  found = node_features(GRAPHS, ('degree', 'attribute', 'label'), 2)
  assert (found.shape, found.dtype) == ((GRAPHS.node_offset[-1], 9), np.float32)
  joined = GRAPHS.batch(range(12)).nodes
  np.testing.assert_array_equal(found[:, :3].sum(1), 1)
  np.testing.assert_array_equal(
    found[:, :3].argmax(1), np.minimum(joined['degree'], 2)
  )
  np.testing.assert_array_equal(found[:, 3:5], joined['attribute'])
  np.testing.assert_array_equal(found[:, 5:], np.eye(4)[joined['label']])


def test_each_column_of_node_labels_is_one_hot():
  labels = np.array([[0, 2], [1, 0]], np.int32)
  graphs = concatenate(
    [Graph(2, np.array([[0, 1]], np.int32), node_label=labels)],
    classes=('a',),
  )
  found = node_features(graphs, ('label',))
  np.testing.assert_array_equal(found, [[1, 0, 0, 0, 1], [0, 1, 1, 0, 0]])


@pytest.mark.parametrize(
  'columns, cap, message',
  [
    ((), 0, r'node features are \[\]: give at least one'),
    (('colour',), 0, r"\['colour'\]: give at least one of label, attribute"),
    (('degree',), 0, 'degree_cap = 0: node features "degree" need'),
    (('label',), 0, 'the set has no node labels, .*: take of degree'),
    (('attribute',), 0, 'the set has no node attributes'),
  ],
)
def test_features_that_a_set_does_not_have_are_named(columns, cap, message):
  bare = concatenate([Graph(2, np.array([[0, 1]], np.int32))], classes=('a',))
  with pytest.raises(InputError, match=message):
    node_features(bare, columns, cap)


@pytest.mark.parametrize(
  'options, message',
  [
    ({'rows': 3}, 'a batch of 4 graphs does not divide into 3 rows'),
    ({'rows': 0}, 'into 0 rows'),
    ({'indices': np.array([0, 12])}, 'there is no graph 12; .* 0 to 11'),
    ({'indices': np.array([-1])}, 'there is no graph -1'),
    ({'features': BOTH[1:]}, 'features of 5. nodes, and the set has'),
    ({'batch_size': 0, 'rows': 1}, 'batch_size is 0'),
    ({'indices': np.zeros(0, int)}, 'the number of examples is 0'),
  ],
)
def test_a_source_that_cannot_be_is_refused(options, message):
  with pytest.raises(InputError, match=message):
    source(**options)
