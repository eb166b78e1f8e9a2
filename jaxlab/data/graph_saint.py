"""Node classification in the folder format of GraphSAINT.

  adj_full.npz    the edges, a SciPy CSR matrix: data, indices, indptr, shape
  feats.npy       [n, f] numbers
  class_map.json  {"node": class} or {"node": [0, 1, …]}
  role.json       {"tr": [nodes], "va": [nodes], "te": [nodes]}

`adj_train.npz`, which the folders have too, follows from these and is not read.
"""

import json
import os
import pathlib
import zipfile

import numpy as np

from jaxlab.data import graph_types as graph
from jaxlab.engine.errors import InputError

_ROLES = {'tr': 'train', 'va': 'validation', 'te': 'test'}


def read_saint(
  path: str | os.PathLike, *, standardise: bool = True
) -> graph.NodeGraph:
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
  features = features.astype(np.float32)
  found = graph.check_node_graph(
    graph.NodeGraph(features, edges, labels, split, classes, directed=True),
    str(folder),
  )
  train = features[found.nodes_of('train')]
  if not standardise or not len(train):
    return found
  spread = train.std(0)
  scaled = (features - train.mean(0)) / np.where(spread > 0, spread, 1)
  return found._replace(features=scaled.astype(np.float32))


def _read_edges(path: pathlib.Path) -> tuple[np.ndarray, int]:
  try:
    with np.load(path, allow_pickle=False) as held:
      indices, indptr, shape = (held[k] for k in ('indices', 'indptr', 'shape'))
  except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
    raise _unreadable(path, error) from error
  nodes = int(shape[0])
  if len(indptr) != nodes + 1 or indptr[-1] != len(indices):
    raise InputError(
      f'{path} is no CSR matrix of {nodes} rows: indptr has {len(indptr)} '
      f'entries and ends at {indptr[-1]}, of {len(indices)} indices'
    )
  start = np.repeat(np.arange(nodes), np.diff(indptr))
  return np.stack([start, indices], 1).astype(np.int32), nodes


def _read_array(path: pathlib.Path) -> np.ndarray:
  try:
    return np.load(path, allow_pickle=False)
  except (OSError, ValueError) as error:
    raise _unreadable(path, error) from error


def _read_json(path: pathlib.Path):
  try:
    return json.loads(path.read_text())
  except (OSError, ValueError) as error:
    raise _unreadable(path, error) from error


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
  if labels.ndim == 2:
    if not ((labels == 0) | (labels == 1)).all():
      raise _unreadable(path, 'lists are to hold 0 and 1')
    return labels.astype(np.uint8), tuple(map(str, range(labels.shape[1])))
  return labels.astype(np.int32), tuple(map(str, range(labels.max() + 1)))


def _read_roles(path: pathlib.Path, nodes: int) -> np.ndarray:
  found = _read_json(path)
  split = np.full(nodes, graph.SPLITS['none'], np.int8)
  for role, name in _ROLES.items():
    if role not in found:
      raise InputError(f'{path} has no "{role}"; it has {sorted(found)}')
    rows = np.asarray(found[role], np.int64)
    wrong = (rows < 0) | (rows >= nodes)
    if wrong.any():
      raise InputError(
        f'{path}: node {rows[wrong][0]} of "{role}" is not in [0, {nodes})'
      )
    again = split[rows] != graph.SPLITS['none']
    if again.any() or len(np.unique(rows)) < len(rows):
      which = rows[again][0] if again.any() else 'one'
      raise InputError(f'{path}: node {which} of "{role}" has two roles')
    split[rows] = graph.SPLITS[name]
  return split


def _unreadable(path: pathlib.Path, reason) -> InputError:
  return InputError(
    f'{path} is missing or damaged ({reason}); it must be as GraphSAINT '
    'publishes it'
  )
