"""GraphSAINT's folders, as small ones are written here."""

import json

import numpy as np
import pytest
import scipy.sparse

from jaxlab.data.graph import SPLITS, open_node_graph, read_saint
from jaxlab.engine.errors import InputError

EDGES = [[0, 1], [1, 0], [1, 2], [2, 1], [3, 4], [4, 3]]
FEATURES = np.array([[1, 0], [3, 0], [5, 0], [7, 1], [9, 2]], np.float64)
ROLES = {'tr': [0, 1], 'va': [2], 'te': [4]}


def write(folder, labels=(0, 1, 2, 0, 1), roles=None, features=FEATURES):
  start, end = np.array(EDGES).T
  matrix = scipy.sparse.csr_matrix(
    (np.ones(len(EDGES), bool), (start, end)), (5, 5)
  )
  scipy.sparse.save_npz(folder / 'adj_full.npz', matrix)
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
    ({'labels': ([0, 2],) * 5}, 'lists are to hold 0 and 1'),
    ({'labels': ([0], [0, 1], [1], [1], [1])}, 'missing or damaged'),
    ({'labels': (0, 1, 2, 0, -2)}, 'label of node 4 is -2'),
    ({'roles': {'tr': [0], 'va': []}}, 'has no "te"'),
    ({'roles': {**ROLES, 'va': [1]}}, 'node 1 of "va" has two roles'),
    ({'roles': {**ROLES, 'tr': [0, 5]}}, r'node 5 of "tr" is not in \[0, 5\)'),
    ({'features': FEATURES[:4]}, '4 rows of features and 5 of labels'),
    ({'features': FEATURES * np.nan}, 'not finite|finite'),
    ({'features': FEATURES[0]}, r'must hold \[n, f\] numbers'),
  ],
)
def test_what_does_not_fit_is_an_input_error(tmp_path, change, message):
  with pytest.raises(InputError, match=message):
    read_saint(write(tmp_path, **change))


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
