"""Graphs as arrays, the TU and npz formats, adjacency, and bad input."""

import pathlib
from unittest import mock

import chex
import numpy as np
import pytest
import scipy.sparse

from jaxlab.core.errors import InputError
from jaxlab.data import growth
from jaxlab.data.graphs import adjacency, npz, tu, types

SHARED = pathlib.Path(__file__).parents[4] / 'shared' / 'data'

# Three graphs: a triangle with a tail and a self loop, none at all, one node.
# Nodes 1 … 4 are in graph 1, node 5 in graph 3.
TU = {
  'A': '1, 2\n2, 1\n2, 3\n3, 2\n1, 3\n3, 4\n4, 4\n1, 2\n',
  'graph_indicator': '1\n1\n1\n1\n3\n',
  'graph_labels': '1\n-1\n1\n',
}
MORE = {
  'node_labels': '6\n6\n8\n7\n6\n',
  'node_attributes': '0.5, 1\n1e-3, 2\n-1, 3\n4., 4\n5, -5\n',
}


def write_tu(folder, **files):
  for name, text in files.items():
    if text is not None:
      (folder / f'TOY_{name}.txt').write_bytes(text.encode())
  return folder


@pytest.fixture
def toy(tmp_path):
  return tu.read_tu(write_tu(tmp_path, **TU, **MORE))


def shared(name):
  path = SHARED / name
  if not path.exists():
    pytest.skip(f'{path} is not on this machine')
  return path


def test_tu_folder_is_read_as_documented(toy):
  assert len(toy) == 3
  assert toy.classes == ('-1', '1')
  assert toy.node_classes == ('6', '7', '8')
  np.testing.assert_array_equal(toy.label, [1, 0, 1])
  np.testing.assert_array_equal(toy.num_nodes, [4, 0, 1])
  np.testing.assert_array_equal(toy.num_edges, [5, 0, 0])
  first, empty, single = toy
  # Each undirected edge once, the self loop too, in the order of the nodes.
  np.testing.assert_array_equal(
    first.edges, [[0, 1], [0, 2], [1, 2], [2, 3], [3, 3]]
  )
  np.testing.assert_array_equal(first.node_label, [0, 0, 2, 1])
  assert (empty.nodes, len(empty.edges), empty.label) == (0, 0, 0)
  assert empty.node_attribute.shape == (0, 2)
  assert (single.nodes, len(single.edges)) == (1, 0)
  np.testing.assert_array_equal(single.node_attribute, [[5, -5]])
  chex.assert_type([toy.edges, toy.label, toy.node_label], np.int32)
  chex.assert_type(toy.node_attribute, np.float32)


def test_tu_folder_needs_three_files_only(tmp_path):
  found = tu.read_tu(write_tu(tmp_path, **TU), 'TOY')
  assert found.node_label is None and found.node_attribute is None
  assert found.node_classes == ()


def test_crlf_and_a_missing_last_newline_change_nothing(tmp_path, toy):
  files = {k: v.rstrip().replace('\n', '\r\n') for k, v in (TU | MORE).items()}
  chex.assert_trees_all_equal(
    list(tu.read_tu(write_tu(tmp_path, **files))), list(toy)
  )


def test_nodes_may_be_listed_in_any_order_of_graphs(tmp_path):
  found = tu.read_tu(
    write_tu(
      tmp_path,
      A='1, 3\n4, 2\n',
      graph_indicator='2\n1\n2\n1\n',
      graph_labels='0\n1\n',
      node_labels='10\n20\n30\n40\n',
    )
  )
  kinds = [[found.node_classes[i] for i in g.node_label] for g in found]
  assert kinds == [['20', '40'], ['10', '30']]
  np.testing.assert_array_equal(found.edges, [[0, 1], [0, 1]])


def test_a_set_without_edges_is_kept(tmp_path):
  found = tu.read_tu(write_tu(tmp_path, **(TU | {'A': ''})))
  assert found.edges.shape == (0, 2)
  assert found.batch([0, 1, 2]).n_edge.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'A': None}, 'holds 0 files NAME_A.txt'),
    ({'graph_labels': None}, 'cannot read .*TOY_graph_labels.txt'),
    (
      {'graph_labels': ''},
      r'graph_indicator.txt, line 1: .* count from 1 to 0',
    ),
    ({'A': '1, 2\n2, 6\n'}, r'TOY_A.txt, line 2: there is no node 6.* 1 to 5'),
    ({'A': '1, 2\n0, 1\n'}, r'TOY_A.txt, line 2: there is no node 0'),
    ({'A': '1, 2\n4, 5\n'}, r'TOY_A.txt, line 2: .*\[4, 5\] joins .*\[1, 3\]'),
    ({'A': '1, 2\n1, x\n'}, r"TOY_A.txt, line 2: '1, x' is not 2 integers"),
    ({'A': '1, 2\n\n2, 3\n'}, r"TOY_A.txt, line 2: '' is not 2 integers"),
    ({'A': '1, 2\n1, 99999999999999999999\n'}, 'TOY_A.txt, line 2: '),
    ({'graph_indicator': '1\n1\n1\n1\n4\n'}, 'line 5: there is no graph 4'),
    ({'graph_labels': '1\n-1\n2.5\n'}, "line 3: '2.5' is not 1 integer"),
    ({'node_labels': '1\n2\n'}, 'node_labels.txt has 2 lines.* 5 nodes'),
    ({'node_attributes': '1\n2\nnan\n4\n5\n'}, "attributes.txt, line 3: 'nan'"),
    ({'node_attributes': '1\n2\n3\n1e39\n5\n'}, 'attributes.txt, line 4: '),
    ({'node_attributes': '1\n2\n3\n4, 4\n5\n'}, 'attributes.txt, line 4: '),
    ({'node_labels': '1\n\xff\n3\n4\n5\n'}, 'node_labels.txt, line 2: '),
  ],
)
def test_bad_tu_files_are_named_with_their_line(tmp_path, changes, message):
  folder = write_tu(tmp_path, **(TU | changes))
  with pytest.raises(InputError, match=message):
    tu.read_tu(folder)


def test_a_folder_that_is_none_or_holds_two_sets_is_refused(tmp_path):
  with pytest.raises(InputError, match='is not a folder'):
    tu.read_tu(tmp_path / 'absent')
  write_tu(tmp_path, **TU)
  (tmp_path / 'OTHER_A.txt').write_text('')
  with pytest.raises(InputError, match=r"holds 2 files .*'OTHER', 'TOY'"):
    tu.read_tu(tmp_path)
  assert len(tu.read_tu(tmp_path, 'TOY')) == 3


def test_proteins_has_its_published_counts():
  found = tu.read_tu(shared('PROTEINS'))
  assert len(found) == 1_113
  assert np.bincount(found.label).tolist() == [663, 450]
  assert len(found.node_classes) == 3
  # Published means: 39.06 nodes, 72.82 edges; half of 162,088 listed pairs.
  assert found.num_nodes.sum() == 43_471
  assert found.num_edges.sum() == 81_044
  assert found.num_nodes.mean() == pytest.approx(39.06, abs=5e-3)
  assert found.num_edges.mean() == pytest.approx(72.82, abs=5e-3)


def test_take_equals_indexing(toy):
  assert len(toy.take([])) == 0
  some = toy.take([2, 0, 0, 1])
  chex.assert_trees_all_equal(list(some), [toy[2], toy[0], toy[0], toy[1]])
  assert toy[-1].nodes == 1
  with pytest.raises(IndexError):
    toy[3]


def test_concatenate_undoes_indexing(toy):
  again = types.concatenate(toy, classes=toy.classes)
  chex.assert_trees_all_equal(list(again), list(toy))
  with pytest.raises(InputError, match='there are no graphs'):
    types.concatenate([], classes=())
  lacking = toy[1]._replace(node_label=None)
  with pytest.raises(
    InputError, match='graph 1 has no node_label, and graph 0'
  ):
    types.concatenate([toy[0], lacking], classes=toy.classes)


def test_batch_has_both_directions_and_a_self_loop_once(toy):
  batch = toy.batch([2, 0])
  assert batch.n_node.tolist() == [1, 4]
  assert batch.n_edge.tolist() == [0, 9]
  pairs = list(zip(batch.senders.tolist(), batch.receivers.tolist()))
  assert sorted(pairs) == sorted(
    [(1, 2), (2, 1), (1, 3), (3, 1), (2, 3), (3, 2), (3, 4), (4, 3), (4, 4)]
  )
  assert batch.nodes['degree'].tolist() == [0, 2, 2, 3, 2]
  assert batch.nodes['label'].tolist() == [0, 0, 0, 2, 1]
  assert batch.globals['label'].tolist() == [1, 1]


def test_batch_is_what_jraph_pads_and_takes_apart(toy):
  import jraph

  batch = toy.batch([0, 1, 2])
  padded = jraph.pad_with_graphs(batch, 10, 20, 5)
  chex.assert_trees_all_equal(jraph.unpad_with_graphs(padded), batch)
  parts = jraph.unbatch(batch)
  assert [int(part.n_node[0]) for part in parts] == [4, 0, 1]
  np.testing.assert_array_equal(
    parts[2].nodes['attribute'], toy[2].node_attribute
  )


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'edges': np.array([[0, 4]], np.int32)}, r'\[0, 4\] of graph 0.* 4 nodes'),
    ({'edges': np.array([[-1, 0]], np.int32)}, r'\[-1, 0\] of graph 0'),
    ({'label': 1}, 'label of graph 0 is 1, and there are 1 classes'),
    ({'node_label': np.zeros(3, np.int32)}, 'node_label has 3 rows, not 4'),
    (
      {'node_attribute': np.array([[0], [np.nan], [0], [0]], np.float32)},
      'node_attribute 1 is NaN',
    ),
  ],
)
def test_graphs_that_do_not_fit_are_refused(change, message):
  one = types.Graph(4, np.array([[0, 1]], np.int32))
  with pytest.raises(InputError, match=message):
    types.concatenate([one._replace(**change)], classes=('a',))


# One self loop (twice), one edge three times over, one edge, node 4 alone.
EDGES = np.array([[0, 1], [1, 0], [0, 1], [2, 1], [3, 3], [3, 3]], np.int32)


def neighbours(found):
  return [
    found.indices[a:b].tolist()
    for a, b in zip(found.indptr[:-1], found.indptr[1:])
  ]


@pytest.mark.parametrize(
  ('options', 'expected', 'duplicates'),
  [
    ({}, [[1], [0, 2], [1], [], []], 3),
    ({'self_loops': 'keep'}, [[1], [0, 2], [1], [3], []], 3),
    ({'self_loops': 'add'}, [[0, 1], [0, 1, 2], [1, 2], [3], [4]], 3),
    ({'symmetric': False}, [[1], [0], [1], [], []], 2),
  ],
)
def test_adjacency_follows_its_policy_and_reports(
  options, expected, duplicates
):
  found = adjacency.adjacency(EDGES, 5, **options)
  assert neighbours(found) == expected
  assert found.self_loops == 1
  assert found.duplicates == duplicates
  assert found.isolated == 2
  chex.assert_type(found.indptr, np.int64)
  chex.assert_type(found.indices, np.int32)


def test_adjacency_equals_a_dense_matrix():
  rng = np.random.default_rng(0)
  edges = rng.integers(0, 40, (300, 2)).astype(np.int32)
  dense = np.zeros((40, 40), np.float32)
  dense[edges[:, 0], edges[:, 1]] = 1
  loopless = dense * (1 - np.eye(40))
  one_way = adjacency.adjacency(edges, 40, symmetric=False)
  np.testing.assert_array_equal(one_way.matrix().toarray(), loopless)
  both = adjacency.adjacency(edges, 40, self_loops='keep')
  expected = np.maximum(dense, dense.T)
  np.testing.assert_array_equal(both.matrix().toarray(), expected)
  pairs = {tuple(sorted(pair)) for pair in edges.tolist()}
  assert both.duplicates == len(edges) - len(pairs)


def test_adjacency_of_no_edges_or_nodes():
  none = np.zeros((0, 2), np.int32)
  assert neighbours(adjacency.adjacency(none, 2)) == [[], []]
  assert adjacency.adjacency(none, 2).isolated == 2
  assert len(adjacency.adjacency(none, 0).indptr) == 1


@pytest.mark.parametrize(
  ('edges', 'message'),
  [
    ([[0, 1], [2, 5]], r'edge 1 joins the nodes \[2, 5\], and there are 5'),
    ([[0, -1]], r'edge 0 joins the nodes \[0, -1\]'),
    ([0, 1], r'integers of shape \[e, 2\]'),
  ],
)
def test_adjacency_refuses_edges_out_of_range(edges, message):
  with pytest.raises(InputError, match=message):
    adjacency.adjacency(np.array(edges), 5)


def test_homophily_counts_equal_ends():
  labels = np.array([0, 0, 1, 1])
  edges = np.array([[0, 1], [1, 2], [2, 3], [0, 3]])
  assert adjacency.homophily(edges, labels) == 0.5


def test_split_by_hash_stays_when_others_come_and_keeps_its_parts():
  keys = [f'node {i}' for i in range(20_000)]
  split = types.split_by_hash(keys, train=0.66, validation=0.1)
  # The standard error of a part of 20,000 is at most .0034.
  parts = np.bincount(split, minlength=3) / len(keys)
  np.testing.assert_allclose(parts, [0.66, 0.10, 0.24], atol=0.015)
  some = types.split_by_hash(keys[5:50:3], train=0.66, validation=0.1)
  np.testing.assert_array_equal(some, split[5:50:3])


def make_npz(**changes):
  """The arrays of a file of 4 nodes, 3 features, 2 classes."""
  arrays = {
    'feature_indptr': np.array([0, 2, 2, 3, 4], np.int32),
    'feature_indices': np.array([0, 2, 1, 0], np.int32),
    'feature_values': np.array([1, 2, 3, 4], np.float32),
    'num_features': np.int32(3),
    'edges': np.array([[0, 1], [1, 2], [1, 2], [3, 3]], np.int32),
    'labels': np.array([0, 1, 0, -1], np.int32),
    'train': np.array([0], np.int32),
    'val': np.array([1], np.int32),
    'test': np.array([2], np.int32),
  }
  return {k: v for k, v in (arrays | changes).items() if v is not None}


@pytest.fixture
def read(tmp_path):
  def write_and_read(**changes):
    np.savez(tmp_path / 'toy.npz', **make_npz(**changes))
    return npz.read_npz(tmp_path / 'toy.npz')

  return write_and_read


def test_npz_is_read_as_documented(read):
  found = read()
  np.testing.assert_array_equal(
    found.features.toarray(), [[1, 0, 2], [0, 0, 0], [0, 3, 0], [4, 0, 0]]
  )
  np.testing.assert_array_equal(found.edges, [[0, 1], [1, 2], [1, 2], [3, 3]])
  np.testing.assert_array_equal(found.labels, [0, 1, 0, -1])
  np.testing.assert_array_equal(found.split, [0, 1, 2, -1])
  np.testing.assert_array_equal(found.nodes_of('validation'), [1])
  assert found.classes == ('0', '1')
  assert not found.directed
  chex.assert_type([found.edges, found.labels], np.int32)
  chex.assert_type(found.features.data, np.float32)


@pytest.mark.parametrize('key', make_npz())
def test_a_missing_array_is_named(read, key):
  with pytest.raises(InputError, match=f'toy.npz has no array {key}; it has'):
    read(**{key: None})


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'feature_indptr': [0, 2, 1, 3, 4]}, 'feature_indptr must rise'),
    ({'feature_indptr': [0, 2, 3, 4]}, 'feature_indptr must rise .* 5 steps'),
    ({'feature_indptr': [1, 2, 2, 3, 4]}, 'feature_indptr must rise from 0'),
    ({'feature_indptr': [0, 2, 2, 3, 9]}, 'feature_indptr must rise'),
    ({'feature_indptr': [0.0, 2, 2, 3, 4]}, 'feature_indptr is float64'),
    ({'feature_indices': [0, 3, 1, 0]}, r'feature_indices\[1\] is 3, and'),
    ({'feature_indices': [0, -1, 1, 0]}, r'feature_indices\[1\] is -1, and'),
    ({'feature_values': [1.0, 2, 3]}, '3 feature_values and 4'),
    ({'feature_values': [1, 2, np.nan, 4]}, 'a feature of node 2 is NaN'),
    ({'feature_values': [np.inf, 2, 3, 4]}, 'a feature of node 0 is NaN or'),
    ({'feature_values': ['a'] * 4}, 'feature_values is not a row of numbers'),
    ({'num_features': [3]}, 'num_features is int64'),
    ({'edges': [[0, 4]]}, r'edge 0 joins the nodes \[0, 4\], and there are 4'),
    ({'edges': [0, 1]}, r'edges are int64\[2\]'),
    ({'labels': [0, 1, 0, -2]}, r'label of node 3 is -2, .* \[-1, 1\]'),
    ({'labels': [0, 1, -1, 0]}, 'split of node 2 is 2, .* no label'),
    ({'labels': [0, 1, 10**12, 0]}, 'labels reach 1000000000000'),
    ({'labels': [[0, 2]] * 4}, r'label of node 0 is 2, .* \[0, 1\]'),
    ({'classes': ['one']}, r'label of node 1 is 1, .* \[-1, 0\]'),
    ({'train': [4]}, 'train holds the node 4, and there are 4'),
    ({'val': [-1]}, 'val holds the node -1'),
    ({'test': [0]}, 'node 0 is in test and in another split'),
    ({'test': [[2]]}, r'test is int64\[1, 1\], not integers of 1 axes'),
  ],
)
def test_bad_npz_arrays_are_named(read, changes, message):
  with pytest.raises(InputError, match=message):
    read(**{name: np.array(value) for name, value in changes.items()})


@pytest.mark.parametrize('kind', [np.uint8, np.uint64])
@pytest.mark.parametrize('indptr', [[0, 2, 1, 3, 4], [0, 200, 2, 3, 4]])
def test_wrapped_unsigned_pointers_are_refused(read, kind, indptr):
  with pytest.raises(InputError, match='feature_indptr must rise'):
    read(feature_indptr=np.array(indptr, kind))


def test_a_small_file_that_would_fill_the_memory_is_refused(tmp_path):
  path = tmp_path / 'bomb.npz'
  rows = np.zeros(2**22, np.int8)
  with mock.patch.object(growth, '_ANY', 2**20):
    np.savez_compressed(path, **make_npz(labels=rows))
    with pytest.raises(InputError, match='4 MiB, more than 64 times'):
      npz.read_npz(path)
    np.savez(path, **make_npz(labels=rows))  # as large as what it holds
    with pytest.raises(InputError, match='feature_indptr must rise'):
      npz.read_npz(path)


@pytest.mark.parametrize('damage', ['encrypted', 'compression'])
def test_npz_that_zip_cannot_read_are_refused(tmp_path, read, damage):
  read()
  path = tmp_path / 'toy.npz'
  content = bytearray(path.read_bytes())
  for head, flags, method in ((b'PK\3\4', 6, 8), (b'PK\1\2', 8, 10)):
    at = content.find(head)
    while at >= 0:
      if damage == 'encrypted':
        content[at + flags] |= 1
      else:
        content[at + method] = 99
      at = content.find(head, at + 4)
  path.write_bytes(content)
  with pytest.raises(InputError, match='not an npz file of plain arrays'):
    npz.read_npz(path)


def test_files_that_are_no_npz_are_refused(tmp_path, read):
  with pytest.raises(InputError, match='does not exist'):
    npz.read_npz(tmp_path / 'absent.npz')
  path = tmp_path / 'bad.npz'
  with pytest.raises(InputError, match='not an npz file of plain arrays'):
    read(classes=np.array([{}], object))
  np.save(tmp_path / 'one.npy', np.ones(3))
  whole = (tmp_path / 'toy.npz').read_bytes()
  one = (tmp_path / 'one.npy').read_bytes()
  for content in (b'', b'text', one, whole[: len(whole) // 2]):
    path.write_bytes(content)
    with pytest.raises(InputError, match='not an npz file of plain arrays'):
      npz.read_npz(path)


def test_features_and_labels_of_different_length_are_refused():
  fields = {
    'features': np.ones((3, 2), np.float32),
    'edges': np.zeros((0, 2), np.int32),
    'labels': np.zeros(4, np.int32),
    'split': np.zeros(4, np.int8),
    'classes': ('a',),
  }
  with pytest.raises(
    InputError, match='toy: there are 3 rows of features and 4'
  ):
    types.check_node_graph(types.NodeGraph(**fields), 'toy')
  fields['features'] = scipy.sparse.csr_array(np.ones((4, 2), np.float32))
  fields['split'] = np.array([0, 0, 3, 0], np.int8)
  with pytest.raises(InputError, match='split of node 2 is 3, and must be'):
    types.check_node_graph(types.NodeGraph(**fields), 'toy')


def test_cora_has_its_published_counts():
  found = npz.read_npz(shared('cora.npz'))
  assert found.features.shape == (2_708, 1_433)
  assert found.edges.shape == (5_278, 2)
  assert len(found.classes) == 7
  sizes = [len(found.nodes_of(s)) for s in ('train', 'validation', 'test')]
  assert sizes == [140, 500, 1_000]
  near = adjacency.adjacency(found.edges, found.num_nodes)
  assert (near.self_loops, near.duplicates, near.isolated) == (0, 0, 0)
  assert len(near.indices) == 10_556
  # Published edge homophily: .81.
  assert adjacency.homophily(found.edges, found.labels) == pytest.approx(
    0.81, abs=5e-3
  )
