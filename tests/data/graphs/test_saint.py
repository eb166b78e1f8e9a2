"""GraphSAINT's folders, as small ones are written here."""

import contextlib
import json

import numpy as np
import pytest
import scipy.sparse

from jaxlab.core.errors import InputError
from jaxlab.data.graphs.saint import read_saint
from jaxlab.data.graphs.sets import open_node_graph
from jaxlab.data.graphs.types import SPLITS

EDGES = [[0, 1], [1, 0], [1, 2], [2, 1], [3, 4], [4, 3]]
FEATURES = np.array([[1, 0], [3, 0], [5, 0], [7, 1], [9, 2]], np.float64)
ROLES = {'tr': [0, 1], 'va': [2], 'te': [4]}


def write(
  folder,
  labels=(0, 1, 2, 0, 1),
  roles=None,
  features=FEATURES,
  nodes=5,
  **matrix,
):
  """Writes a folder; `matrix` holds other arrays for adj_full.npz."""
  start, end = np.array(EDGES).T
  edges = scipy.sparse.csr_matrix(
    (np.ones(len(EDGES), bool), (start, end)), (nodes, nodes)
  )
  scipy.sparse.save_npz(folder / 'adj_full.npz', edges)
  if matrix:
    with np.load(folder / 'adj_full.npz') as held:
      arrays = dict(held)
    arrays |= {name: np.array(array) for name, array in matrix.items()}
    np.savez(folder / 'adj_full.npz', **arrays)
  np.save(folder / 'feats.npy', features)
  named = {str(i): label for i, label in enumerate(labels)}
  (folder / 'class_map.json').write_text(json.dumps(named))
  (folder / 'role.json').write_text(json.dumps(roles or ROLES))
  return folder


def test_a_folder_is_read_as_it_was_written(tmp_path):
  graph = open_node_graph(f'saint:{write(tmp_path)}')
  np.testing.assert_array_equal(graph.edges, EDGES)
  np.testing.assert_array_equal(graph.labels, [0, 1, 2, 0, 1])
  assert graph.classes == ('0', '1', '2')
  want = [SPLITS[n] for n in ('train', 'train', 'validation', 'none', 'test')]
  np.testing.assert_array_equal(graph.split, want)
  # The training nodes' mean is (2, 0), their deviation (1, 0).
  np.testing.assert_array_equal(graph.features[:, 0], [-1, 1, 3, 5, 7])
  np.testing.assert_array_equal(graph.features[:, 1], [0, 0, 0, 1, 2])


def test_features_may_stay_as_they_are_and_nodes_have_several_labels(tmp_path):
  labels = [[1, 0], [1, 1], [0, 0], [0, 1], [1, 0]]
  graph = read_saint(write(tmp_path, labels=labels), standardise=False)
  np.testing.assert_array_equal(graph.features, FEATURES)
  np.testing.assert_array_equal(graph.labels, labels)
  assert graph.labels.dtype == np.uint8


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'labels': (0, 1, 2, 0)}, 'has 4 nodes of 5; node 4 has no class'),
    ({'labels': (0, 1, 2, 0, 'x')}, 'classes are to be numbers'),
    (
      {'labels': ([0, 2],) * 5},
      r'label of node \d is 2, and must be in \[0, 1\]',
    ),
    ({'labels': ([0], [0, 1], [1], [1], [1])}, 'missing or damaged'),
    ({'roles': {'tr': [0], 'va': []}}, 'has no "te"'),
    (
      {'roles': {**ROLES, 'va': [1]}},
      'role.json: node 1 is in va and in another split',
    ),
    (
      {'roles': {**ROLES, 'tr': [0, 5]}},
      'role.json: tr holds the node 5, and there are 5 nodes',
    ),
    ({'labels': (0, 1, 2, 0, -(2**32))}, 'label of node 4 is -4294967296'),
    (
      {'labels': (0, 1, 2, 0, 2**40)},
      'labels reach 1099511627776, and',
    ),
    (
      {'roles': {**ROLES, 'tr': [0, 1.7]}},
      r'tr is float64\[2\], not integers',
    ),
    ({'roles': {**ROLES, 'tr': [[0], [1, 2]]}}, 'role.json is .*"tr"'),
    ({'roles': [1]}, 'role.json is .* holds no names'),
    ({'features': FEATURES[:4]}, '4 rows of features and 5 of labels'),
    ({'features': FEATURES * np.nan}, 'not finite|finite'),
    ({'features': FEATURES[0]}, r'must hold \[n, f\] numbers'),
  ],
)
def test_what_does_not_fit_is_an_input_error(tmp_path, change, message):
  with pytest.raises(InputError, match=message):
    read_saint(write(tmp_path, **change))


def test_features_that_are_constant_in_training_are_only_shifted(tmp_path):
  """The float32 deviation of so many .1 is not 0."""
  nodes = 10_000
  features = np.full((nodes, 2), 0.1, np.float32)
  features[-1] = 0.3
  features[: nodes // 2, 1] = 0.5
  roles = {'tr': list(range(nodes - 1)), 'va': [nodes - 1], 'te': []}
  labels = [0] * nodes
  path = write(tmp_path, labels, roles, features, nodes)
  found = read_saint(path).features
  assert not found[:-1, 0].any()
  np.testing.assert_allclose(found[-1, 0], 0.2, rtol=1e-6)
  assert found.dtype == np.float32
  np.testing.assert_allclose(found[:-1, 1].mean(), 0, atol=1e-6)
  np.testing.assert_allclose(found[:-1, 1].std(), 1, rtol=1e-5)


def test_without_training_nodes_features_stay_as_they_are(tmp_path):
  graph = read_saint(write(tmp_path, roles={**ROLES, 'tr': []}))
  np.testing.assert_array_equal(graph.features, FEATURES)
  assert not len(graph.nodes_of('train'))


@pytest.mark.parametrize(
  ('array', 'message'),
  [
    ({'indices': [1, 0, 2, 1, 4, 5]}, r'joins the nodes \[4, 5\], .* 5 nodes'),
    ({'indices': [1, 0, -1, 1, 4, 3]}, r'joins the nodes \[1, -1\]'),
    ({'indices': [1, 0, 2, 1, 4, 2**32]}, r'nodes \[4, 4294967296\]'),
    (
      {'indices': [1, 0, 2, 1, 4, 1.7]},
      r'indices is float64\[6\], .* integers',
    ),
    (
      {'indptr': [0, 1, 4, 3, 5, 6]},
      'indptr must rise from 0 to 6, .* 6 steps',
    ),
    ({'indptr': np.array([0, 1, 4, 3, 5, 6], np.uint64)}, 'indptr must rise'),
    ({'indptr': [0, 1, 3, 4, 6]}, 'indptr must rise'),
    ({'indptr': [1, 1, 3, 4, 5, 6]}, 'indptr must rise'),
    ({'indptr': [0, 1, 3, 4, 5, 7]}, 'indptr must rise'),
    ({'format': b'csc'}, 'format b.csc., and must be a CSR matrix'),
    ({'shape': [5, 4]}, r'shape is \[5, 4\], and must be \[n, n\]'),
    ({'shape': [-1, -1], 'indptr': np.zeros(0, int)}, r'must be \[n, n\]'),
  ],
)
def test_a_matrix_that_is_none_is_an_input_error(tmp_path, array, message):
  with pytest.raises(InputError, match=f'adj_full.npz.* {message}'):
    read_saint(write(tmp_path, **array))


@pytest.mark.parametrize('name', ['adj_full.npz', 'feats.npy'])
def test_damaged_arrays_are_named(tmp_path, name):
  path = write(tmp_path) / name
  whole = path.read_bytes()
  other = tmp_path / ('feats.npy' if name == 'adj_full.npz' else 'adj_full.npz')
  unclosed = whole.replace(b')', b'(')  # of the header of an array
  # The method of compression, before the time of an entry.
  zipped = whole.replace(b'\x08\0\0\0!\0', b'\x07\0\0\0!\0')
  damaged = [other.read_bytes(), zipped if zipped != whole else unclosed]
  damaged += [whole[:n] for n in range(0, len(whole), 41)]
  for content in damaged:
    path.write_bytes(content)
    with pytest.raises(InputError, match=f'{name} is missing or damaged'):
      read_saint(tmp_path)
  for i in range(0, len(whole), 11):  # one byte may be of no account
    with contextlib.suppress(InputError):
      path.write_bytes(whole[:i] + bytes([whole[i] ^ 255]) + whole[i + 1 :])
      read_saint(tmp_path)


@pytest.mark.parametrize(
  'name', ['adj_full.npz', 'feats.npy', 'class_map.json', 'role.json']
)
def test_a_missing_or_truncated_file_is_named(tmp_path, name):
  path = write(tmp_path) / name
  path.write_bytes(path.read_bytes()[:20])
  with pytest.raises(InputError, match=f'{name} is missing or damaged'):
    read_saint(tmp_path)
  path.unlink()
  with pytest.raises(InputError, match=f'{name} is missing or damaged'):
    read_saint(tmp_path)
