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
import tokenize
import zipfile
import zlib

import numpy as np

from jaxlab.data import growth
from jaxlab.data.graphs import types as graph
from jaxlab.engine.errors import InputError

_ROLES = {'tr': 'train', 'va': 'validation', 'te': 'test'}
# What NumPy says of a file that is not what it should be.
_DAMAGED = (
  *(OSError, ValueError, TypeError, KeyError, EOFError, RuntimeError),
  *(tokenize.TokenError, zipfile.BadZipFile, zlib.error),
)


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
  with np.errstate(over='ignore'):  # infinity is refused below
    features = features.astype(np.float32)
  found = graph.check_node_graph(
    graph.NodeGraph(features, edges, labels, split, classes, directed=True),
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
  try:
    with np.load(path, allow_pickle=False) as held:
      whole = sum(member.file_size for member in held.zip.infolist())
      growth.check(path, path.stat().st_size, whole)
      arrays = [held[name] for name in names]
      layout = held['format'].item() if 'format' in held else b'csr'
  except InputError:
    raise
  except _DAMAGED as error:
    raise _unreadable(path, error) from error
  if layout not in (b'csr', 'csr'):
    raise InputError(
      f'{path} has the format {layout!r}, and must be a CSR matrix; '
      'scipy.sparse.save_npz writes matrix.tocsr() so'
    )
  for name, array in zip(names, arrays):
    if array.ndim != 1 or array.dtype.kind not in 'iu':
      raise InputError(
        f'{path}: {name} is {array.dtype}{list(array.shape)}, and must be a '
        'row of integers'
      )
  indices, indptr, shape = arrays
  if len(shape) != 2 or shape[0] != shape[1] or shape[0] < 0:
    raise InputError(
      f'{path}: the shape is {shape.tolist()}, and must be [n, n] for n nodes'
    )
  nodes, count = int(shape[0]), len(indices)
  # Not np.diff: a difference of unsigned numbers is never below 0.
  rising = len(indptr) == nodes + 1 and (indptr[1:] >= indptr[:-1]).all()
  if not rising or indptr[0] or indptr[-1] != count:
    raise InputError(
      f'{path}: indptr must rise from 0 to {count}, the length of indices, in '
      f'{nodes + 1} steps, one more than there are nodes'
    )
  start = np.repeat(np.arange(nodes), np.diff(indptr.astype(np.int64)))
  wrong = (indices < 0) | (indices >= nodes)
  if wrong.any():
    at = int(np.argmax(wrong))
    raise InputError(
      f'{path}: an edge joins the nodes {start[at]} and {indices[at]}, and '
      f'there are {nodes} nodes, counted from 0'
    )
  return np.stack([start, indices], 1).astype(np.int32), nodes


def _read_array(path: pathlib.Path) -> np.ndarray:
  try:
    found = np.load(path, allow_pickle=False)
  except _DAMAGED as error:
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
  if labels.ndim == 2:
    if not ((labels == 0) | (labels == 1)).all():
      raise _unreadable(path, 'lists are to hold 0 and 1')
    return labels, tuple(map(str, range(labels.shape[1])))
  count = int(labels.max()) + 1
  if count > max(1000, nodes):
    raise InputError(
      f'{path}: classes reach {count - 1}, and there are {nodes} nodes: number '
      'the classes from 0'
    )
  return labels, tuple(map(str, range(count)))


def _read_roles(path: pathlib.Path, nodes: int) -> np.ndarray:
  found = _read_json(path)
  split = np.full(nodes, graph.SPLITS['none'], np.int8)
  for role, name in _ROLES.items():
    if role not in found:
      raise InputError(f'{path} has no "{role}"; it has {sorted(found)}')
    rows = _read_rows(path, role, found[role])
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


def _read_rows(path: pathlib.Path, role: str, values) -> np.ndarray:
  try:
    rows = np.array(values)
  except ValueError as error:
    raise _unreadable(path, f'"{role}": {error}') from error
  if rows.shape == (0,):
    return rows.astype(np.int64)
  if rows.ndim != 1 or rows.dtype.kind not in 'iu':
    raise _unreadable(path, f'"{role}" is to be a list of nodes')
  return rows


def _unreadable(path: pathlib.Path, reason) -> InputError:
  return InputError(
    f'{path} is missing or damaged ({reason}); it must be as GraphSAINT '
    'publishes it'
  )
