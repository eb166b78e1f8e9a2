"""Node classification in the folder format of GraphSAINT.

  adj_full.npz    the edges, a SciPy CSR matrix: format, indices, indptr, shape
  feats.npy       [n, f] numbers
  class_map.json  {"node": class} or {"node": [0, 1, …]}
  role.json       {"tr": [nodes], "va": [nodes], "te": [nodes]}

`adj_train.npz`, which the folders have too, follows from these and is not read.
"""

import json
import os
import pathlib

import numpy as np

from jaxlab.core.errors import InputError
from jaxlab.data.graphs.adjacency import check_edges
from jaxlab.data.graphs.arrays import (
  DAMAGED,
  check_integers,
  check_pointers,
  load_npz,
  number_of_classes,
  split_of,
)
from jaxlab.data.graphs.types import NodeGraph, check_node_graph

_ROLES = {'tr': 'train', 'va': 'validation', 'te': 'test'}


def read_saint(
  path: str | os.PathLike, *, standardise: bool = True
) -> NodeGraph:
  """Reads a folder.

  Args:
    path: of the folder.
    standardise: subtract the training nodes' mean of each feature and divide by
      their standard deviation, as the published loader does; a feature that is
      constant there is only shifted.

  Returns:
    The graph, its edges both ways where the file has them so, classes named by
    their numbers, and split -1 for nodes without a role.

  Raises:
    InputError: a file is missing or damaged, or the arrays do not fit.
  """
  folder = pathlib.Path(path).expanduser()
  edges, nodes = _read_edges(folder / 'adj_full.npz')
  features = _read_array(folder / 'feats.npy')
  labels, classes = _read_labels(folder / 'class_map.json', nodes)
  split = _read_roles(folder / 'role.json', nodes)
  if features.ndim != 2 or features.dtype.kind not in 'iuf':
    raise InputError(
      f'{folder / "feats.npy"} holds {features.dtype}{list(features.shape)}, '
      'and must hold [n, f] numbers'
    )
  with np.errstate(over='ignore'):  # infinity is refused below
    features = features.astype(np.float32)
  found = check_node_graph(
    NodeGraph(features, edges, labels, split, classes, directed=True),
    str(folder),
  )
  labels = labels.astype(np.uint8 if labels.ndim == 2 else np.int32)
  found = found._replace(labels=labels)
  train = found.nodes_of('train')
  if not standardise or not len(train):
    return found
  return found._replace(features=_standardised(features, train))


def _standardised(features: np.ndarray, train: np.ndarray) -> np.ndarray:
  """[n, f] float32 features with mean 0 and deviation 1 of the rows `train`.

  The rounded deviation of a constant is not 0, so its range is asked.
  """
  rows = features[train]
  varies = np.ptp(rows, 0) > 0
  mean = np.where(varies, rows.mean(0, dtype=np.float64), rows[0])
  scaled = features - mean
  scaled /= np.where(varies, rows.std(0, dtype=np.float64), 1)
  return scaled.astype(np.float32)


def _read_edges(path: pathlib.Path) -> tuple[np.ndarray, int]:
  names = ('indices', 'indptr', 'shape')
  explain = lambda error: _unreadable(path, error)
  arrays = load_npz(path, names, ('format',), explain)
  layout = arrays.get('format', np.array(b'csr')).item()
  if layout not in (b'csr', 'csr'):
    raise InputError(
      f'{path} has the format {layout!r}, and must be a CSR matrix; '
      'scipy.sparse.save_npz writes matrix.tocsr() so'
    )
  indices, indptr, shape = (arrays[name] for name in names)
  for name in names:
    check_integers(arrays[name], f'{path}: {name}')
  if len(shape) != 2 or shape[0] != shape[1] or shape[0] < 0:
    raise InputError(
      f'{path}: the shape is {shape.tolist()}, and must be [n, n] for n nodes'
    )
  nodes = int(shape[0])
  check_pointers(indptr, nodes, len(indices), f'{path}: indptr', 'indices')
  degrees: np.ndarray = np.diff(indptr.astype(np.int64))
  start = np.repeat(np.arange(nodes), degrees)
  edges = np.stack([start, np.asarray(indices, np.int64)], 1)
  check_edges(edges, nodes, str(path))
  return edges.astype(np.int32), nodes


def _read_array(path: pathlib.Path) -> np.ndarray:
  try:
    found = np.load(path, allow_pickle=False)
  except DAMAGED as error:
    raise _unreadable(path, error) from error
  if not isinstance(found, np.ndarray):
    raise _unreadable(path, 'it holds several arrays')
  return found


def _read_json(path: pathlib.Path):
  try:
    found = json.loads(path.read_text())
  except (OSError, ValueError) as error:
    raise _unreadable(path, error) from error
  if not isinstance(found, dict):
    raise _unreadable(path, 'it holds no names with values')
  return found


def _read_labels(path: pathlib.Path, nodes: int):
  found = _read_json(path)
  missing = [i for i in range(nodes) if str(i) not in found]
  if missing or len(found) != nodes:
    raise InputError(
      f'{path} has {len(found)} nodes of {nodes}'
      + (f'; node {missing[0]} has no class' if missing else '')
    )
  values = [found[str(i)] for i in range(nodes)]
  try:
    labels = np.array(values)
  except ValueError as error:
    raise _unreadable(path, 'lists of different lengths') from error
  if labels.dtype.kind not in 'iu' or labels.ndim > 2:
    raise _unreadable(path, 'classes are to be numbers, or lists of 0 and 1')
  return labels, tuple(map(str, range(number_of_classes(labels, str(path)))))


def _read_roles(path: pathlib.Path, nodes: int) -> np.ndarray:
  found = _read_json(path)
  rows = {}
  for role in _ROLES:
    if role not in found:
      raise InputError(f'{path} has no "{role}"; it has {sorted(found)}')
    try:
      rows[role] = np.array(found[role] or np.zeros(0, int))
    except ValueError as error:
      raise _unreadable(path, f'"{role}": {error}') from error
    if len(np.unique(rows[role])) < rows[role].size:
      raise InputError(f'{path}: a node is in {role} twice')
  return split_of(rows, _ROLES, nodes, str(path))


def _unreadable(path: pathlib.Path, reason) -> InputError:
  return InputError(
    f'{path} is missing or damaged ({reason}); it must be as GraphSAINT '
    'publishes it'
  )
