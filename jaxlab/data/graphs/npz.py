"""A graph with labelled nodes in one npz file of plain arrays.

feature_indptr [n + 1], feature_indices [z], feature_values [z] and
  num_features (): the features of n nodes in CSR form.
edges [e, 2]: nodes counted from 0, undirected, each once.
labels [n] in [-1, classes), -1 for none, or [n, classes] of 0 and 1.
train, val, test: the nodes of each split; the rest are in none.
classes: their names, and directed: True or False; both may be absent.
"""

import lzma
import os
import pathlib
import struct
import tokenize
import zipfile
import zlib

import numpy as np
import scipy.sparse

from jaxlab.data import growth
from jaxlab.data.graphs import types as graph
from jaxlab.engine.errors import InputError

_SPLITS = {'train': 'train', 'val': 'validation', 'test': 'test'}
_KEYS = (
  *('feature_indptr', 'feature_indices', 'feature_values', 'num_features'),
  *('edges', 'labels', *_SPLITS),
)


def read_npz(path: str | os.PathLike) -> graph.NodeGraph:
  """Reads a graph with labelled nodes; see the module's docstring.

  Features come in CSR form. Repeated edges, self loops and nodes without edges
  are kept: `adjacency.adjacency` drops and counts them.

  Raises:
    InputError: no such file, an array is missing, of another shape or type,
      out of range or not finite, or a node is in two splits.
  """
  arrays = _load_npz(pathlib.Path(path))
  what = str(path)
  labels = arrays['labels']
  if labels.ndim not in (1, 2) or labels.dtype.kind not in 'iub':
    raise InputError(
      f'{what}: labels are {labels.dtype}{list(labels.shape)}, and must be '
      f'integers [n], or [n, classes] of 0 and 1'
    )
  many = labels.ndim == 2
  count = labels.shape[1] if many else int(labels.max(initial=-1)) + 1
  if 'classes' not in arrays and count > max(1000, len(labels)):
    raise InputError(
      f'{what}: labels reach {count - 1}, and there are {len(labels)} nodes: '
      f'number the classes from 0'
    )
  names = arrays.get('classes', np.arange(count))
  found = graph.NodeGraph(
    features=_read_features(arrays, what),
    edges=arrays['edges'],
    labels=labels,
    split=_read_split(arrays, len(labels), what),
    classes=tuple(map(str, names.tolist())),
    directed=bool(arrays.get('directed', False)),
  )
  graph.check_node_graph(found, what)
  return found._replace(
    edges=found.edges.astype(np.int32),
    labels=labels.astype(np.uint8 if many else np.int32),
  )


def write_npz(path: str | os.PathLike, found: graph.NodeGraph) -> None:
  """Writes a graph with numeric features as `read_npz` reads it.

  Raises:
    InputError: the features are texts, or as `graph.check_node_graph`.
  """
  if isinstance(found.features, tuple):
    raise InputError(
      f'{path}: the features are texts, and an npz file holds numbers: count '
      f'words first, say with TF-IDF'
    )
  graph.check_node_graph(found, str(path))
  features = scipy.sparse.csr_array(found.features)
  path = pathlib.Path(path)
  partial = path.with_name(f'.{path.name}.new-{os.getpid()}')
  try:
    with open(partial, 'wb') as file:
      np.savez_compressed(
        file,
        allow_pickle=False,
        feature_indptr=features.indptr,
        feature_indices=features.indices,
        feature_values=features.data.astype(np.float32),
        num_features=np.int32(features.shape[1]),
        edges=found.edges,
        labels=found.labels,
        classes=np.array(found.classes, str),
        directed=np.bool_(found.directed),
        **{key: found.nodes_of(split) for key, split in _SPLITS.items()},
      )
    os.replace(partial, path)
  finally:
    partial.unlink(missing_ok=True)


def _load_npz(path: pathlib.Path) -> dict[str, np.ndarray]:
  try:
    with np.load(path, allow_pickle=False) as file:
      whole = sum(member.file_size for member in file.zip.infolist())
      growth.check(path, path.stat().st_size, whole)
      absent = [key for key in _KEYS if key not in file]
      if absent:
        raise InputError(
          f'{path} has no array {", ".join(absent)}; it has {sorted(file)}'
        )
      optional = [key for key in ('classes', 'directed') if key in file]
      return {key: file[key] for key in (*_KEYS, *optional)}
  except FileNotFoundError as error:
    raise InputError(f'{path} does not exist: give an npz file') from error
  except InputError:
    raise
  except (
    *(OSError, ValueError, AttributeError, TypeError, EOFError),
    # Encrypted members and unknown compressions are RuntimeErrors.
    *(zipfile.BadZipFile, zlib.error, RuntimeError, KeyError, struct.error),
    *(lzma.LZMAError, MemoryError, tokenize.TokenError, SyntaxError),
  ) as error:
    raise InputError(
      f'{path} is not an npz file of plain arrays, or is damaged ({error})'
    ) from error


def _read_features(arrays, what: str) -> scipy.sparse.csr_array:
  indptr, indices = arrays['feature_indptr'], arrays['feature_indices']
  values, columns = arrays['feature_values'], arrays['num_features']
  for name in ('feature_indptr', 'feature_indices', 'num_features'):
    kind, ndim = arrays[name].dtype.kind, 0 if name == 'num_features' else 1
    if kind not in 'iu' or arrays[name].ndim != ndim:
      raise InputError(
        f'{what}: {name} is {arrays[name].dtype}{list(arrays[name].shape)}, '
        f'and must be integers of {ndim} axes'
      )
  if values.ndim != 1 or values.dtype.kind not in 'biuf':
    raise InputError(f'{what}: feature_values is not a row of numbers')
  rows = len(arrays['labels'])
  # Not by differences: those of unsigned numbers are never below 0.
  rising = len(indptr) == rows + 1 and (indptr[1:] >= indptr[:-1]).all()
  if not rising or indptr[0] or indptr[-1] != len(indices):
    raise InputError(
      f'{what}: feature_indptr must rise from 0 to {len(indices)}, the length '
      f'of feature_indices, in {rows + 1} steps, one more than there are labels'
    )
  if len(values) != len(indices):
    raise InputError(
      f'{what}: there are {len(values)} feature_values and {len(indices)} '
      f'feature_indices'
    )
  wrong = (indices < 0) | (indices >= columns)
  if wrong.any():
    at = int(np.argmax(wrong))
    raise InputError(
      f'{what}: feature_indices[{at}] is {indices[at]}, and num_features is '
      f'{columns}'
    )
  return scipy.sparse.csr_array(
    (values.astype(np.float32), indices, indptr), shape=(rows, int(columns))
  )


def _read_split(arrays, nodes: int, what: str) -> np.ndarray:
  split = np.full(nodes, graph.SPLITS['none'], np.int8)
  for key, name in _SPLITS.items():
    members = arrays[key]
    if members.ndim != 1 or members.dtype.kind not in 'iu':
      raise InputError(f'{what}: {key} is not a row of integers')
    wrong = (members < 0) | (members >= nodes)
    if wrong.any():
      raise InputError(
        f'{what}: {key} holds the node {members[wrong][0]}, and there are '
        f'{nodes} nodes, counted from 0'
      )
    if (split[members] >= 0).any():
      node = members[split[members] >= 0][0]
      raise InputError(f'{what}: node {node} is in {key} and in another split')
    split[members] = graph.SPLITS[name]
  return split
