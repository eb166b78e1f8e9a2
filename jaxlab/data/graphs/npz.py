"""A graph with labelled nodes in one npz file of plain arrays.

feature_indptr [n + 1], feature_indices [z], feature_values [z] and
  num_features (): the features of n nodes in CSR form.
edges [e, 2]: nodes counted from 0, undirected, each once.
labels [n] in [-1, classes), -1 for none, or [n, classes] of 0 and 1.
train, val, test: the nodes of each split; the rest are in none.
classes: their names, and directed: True or False; both may be absent.
"""

import os
import pathlib

import numpy as np
import scipy.sparse

from jaxlab.core.errors import InputError
from jaxlab.data.checks import first
from jaxlab.data.graphs.arrays import (
  check_integers,
  check_pointers,
  load_npz,
  number_of_classes,
  split_of,
)
from jaxlab.data.graphs.types import NodeGraph, check_node_graph

_SPLITS = {'train': 'train', 'val': 'validation', 'test': 'test'}
_KEYS = (
  *('feature_indptr', 'feature_indices', 'feature_values', 'num_features'),
  *('edges', 'labels', *_SPLITS),
)


def read_npz(path: str | os.PathLike) -> NodeGraph:
  """Reads a graph with labelled nodes; see the module's docstring.

  Features come in CSR form. Repeated edges, self loops and nodes without edges
  are kept: `adjacency.adjacency` drops and counts them.

  Raises:
    InputError: no such file, an array is missing, of another shape or type,
      out of range or not finite, or a node is in two splits.
  """
  arrays = _load(pathlib.Path(path))
  what = str(path)
  labels = arrays['labels']
  if labels.ndim not in (1, 2) or labels.dtype.kind not in 'iub':
    raise InputError(
      f'{what}: labels are {labels.dtype}{list(labels.shape)}, and must be '
      f'integers [n], or [n, classes] of 0 and 1'
    )
  names = arrays.get('classes')
  if names is None:
    names = np.arange(number_of_classes(labels, what))
  found = NodeGraph(
    features=_read_features(arrays, what),
    edges=arrays['edges'],
    labels=labels,
    split=split_of({k: arrays[k] for k in _SPLITS}, _SPLITS, len(labels), what),
    classes=tuple(map(str, names.tolist())),
    directed=bool(arrays.get('directed', False)),
  )
  check_node_graph(found, what)
  return found._replace(
    edges=found.edges.astype(np.int32),
    labels=labels.astype(np.uint8 if labels.ndim == 2 else np.int32),
  )


def _load(path: pathlib.Path) -> dict[str, np.ndarray]:
  def explain(error):
    if isinstance(error, FileNotFoundError):
      return InputError(f'{path} does not exist: give an npz file')
    return InputError(
      f'{path} is not an npz file of plain arrays, or is damaged ({error})'
    )

  return load_npz(path, _KEYS, ('classes', 'directed'), explain)


def _read_features(arrays, what: str) -> scipy.sparse.csr_array:
  indptr, indices = arrays['feature_indptr'], arrays['feature_indices']
  values, columns = arrays['feature_values'], arrays['num_features']
  check_integers(indptr, f'{what}: feature_indptr')
  check_integers(indices, f'{what}: feature_indices')
  check_integers(columns, f'{what}: num_features', 0)
  if values.ndim != 1 or values.dtype.kind not in 'biuf':
    raise InputError(f'{what}: feature_values is not a row of numbers')
  rows, count = len(arrays['labels']), len(indices)
  name = f'{what}: feature_indptr'
  check_pointers(indptr, rows, count, name, 'feature_indices')
  if len(values) != count:
    raise InputError(
      f'{what}: there are {len(values)} feature_values and {count} '
      f'feature_indices'
    )
  if at := first((indices < 0) | (indices >= columns)):
    raise InputError(
      f'{what}: feature_indices[{at[0]}] is {indices[at]}, and num_features is '
      f'{columns}'
    )
  return scipy.sparse.csr_array(
    (values.astype(np.float32), indices, indptr), shape=(rows, int(columns))
  )
