"""Graph classification sets in the text format of the TU collection.

A folder holds files `NAME_*.txt`, numbers parted by commas, one row a line:
  A: the two nodes of an edge, counted from 1 over the whole set.
  graph_indicator: the graph of each node, counted from 1.
  graph_labels: the class of each graph, any integers.
  node_labels: integers, one or more columns; may be absent.
  node_attributes: numbers; may be absent.
What some sets have of edges and whole graphs besides is not read.
"""

import contextlib
import os
import pathlib
import re

import numpy as np

from jaxlab.core.errors import InputError
from jaxlab.data.checks import first
from jaxlab.data.graphs.adjacency import distinct_of
from jaxlab.data.graphs.types import Graphs

_LARGEST = float(np.finfo(np.float32).max)


def read_tu(folder: str | os.PathLike, name: str | None = None) -> Graphs:
  """Reads a folder in the text format of the TU collection.

  Nodes keep their order within their graph. A graph that no node names has no
  nodes, and is kept, as are nodes without edges and self loops. Classes and
  labels are numbered by the order of the integers in the files, whose text is
  kept in `classes` and `node_classes`. (i, j) and (j, i) are one edge, also
  where only one of them is listed, or one of them again.

  Args:
    folder: holds the files; see the module's docstring.
    name: what the names of the files begin with; may be left out where the
      folder holds one set.

  Raises:
    InputError: a file is missing or has another number of lines, a line does
      not hold the numbers it should, a node or graph is out of range, or an
      edge joins two graphs.
  """
  folder = pathlib.Path(folder)
  name = name or _tu_name(folder)

  def table(what, columns=None, dtype=np.int64, rows=None):
    """The numbers of a file; None of one with `rows` that is absent."""
    path = folder / f'{name}_{what}.txt'
    if rows is not None and not path.exists():
      return None
    found = _read_table(path, columns, dtype)
    if rows is not None and len(found) != rows:
      raise InputError(
        f'{path} has {len(found)} lines, and there are {rows} nodes: it needs '
        f'a line for each'
      )
    return found

  pairs = table('A', 2)
  graph_of_node = table('graph_indicator', 1)[:, 0]
  labels = table('graph_labels', 1)[:, 0]
  nodes, count = len(graph_of_node), len(labels)
  if not count and not nodes:
    raise InputError(
      f'{folder} holds no graphs: {name}_graph_labels.txt is empty'
    )
  path = folder / f'{name}_graph_indicator.txt'
  _check_range(graph_of_node, count, path, 'graph')
  path = folder / f'{name}_A.txt'
  _check_range(pairs, nodes, path, 'node')
  pairs, graph_of_node = pairs - 1, graph_of_node - 1
  graph_of_pair = graph_of_node[pairs]
  if at := first(graph_of_pair[:, 0] != graph_of_pair[:, 1]):
    raise InputError(
      f'{path}, line {at[0] + 1}: the edge {(pairs[at] + 1).tolist()} joins '
      f'the graphs {(graph_of_pair[at] + 1).tolist()}; an edge lies in one '
      f'graph'
    )
  node_label = table('node_labels', rows=nodes)
  node_attribute = table('node_attributes', dtype=np.float32, rows=nodes)

  order = np.argsort(graph_of_node, kind='stable')
  node_offset = np.searchsorted(graph_of_node[order], np.arange(count + 1))
  place = np.empty(nodes, np.int64)
  place[order] = np.arange(nodes)
  # Nodes are counted graph by graph now, so that this is the order of graphs.
  low, high = np.sort(place[pairs], 1).T
  keys = distinct_of(low * nodes + high)
  ends = np.stack(np.divmod(keys, max(1, nodes)), 1)
  graph_of_edge = graph_of_node[order][ends[:, 0]]
  cut = lambda array: None if array is None else array[order]
  classes, label = _number(labels)
  node_classes, node_label = _number(cut(node_label))
  return Graphs(
    node_offset=node_offset,
    edge_offset=np.searchsorted(graph_of_edge, np.arange(count + 1)),
    edges=(ends - node_offset[graph_of_edge][:, None]).astype(np.int32),
    label=label,
    classes=classes,
    node_label=node_label,
    node_attribute=cut(node_attribute),
    node_classes=node_classes,
  )


def _tu_name(folder: pathlib.Path) -> str:
  if not folder.is_dir():
    raise InputError(f'{folder} is not a folder: give one of the TU collection')
  names = sorted(
    path.name.removesuffix('_A.txt') for path in folder.glob('*_A.txt')
  )
  if len(names) != 1:
    raise InputError(
      f'{folder} holds {len(names)} files NAME_A.txt {names or ""}: a TU '
      f'folder has one; where it has more, give the name'
    )
  return names[0]


def _read_table(path: pathlib.Path, columns: int | None, dtype) -> np.ndarray:
  """[rows, columns] numbers of a text file, int64 or float32."""
  try:
    text = path.read_text(encoding='utf-8-sig', errors='replace')
  except OSError as error:
    raise InputError(
      f'cannot read {path} ({error.strerror}): a TU folder needs NAME_A.txt, '
      f'NAME_graph_indicator.txt and NAME_graph_labels.txt'
    ) from error
  lines = text.rstrip().split('\n') if text.strip() else []
  if not lines:
    return np.zeros((0, columns or 1), dtype)
  found = np.zeros((0, 0), dtype)
  # NumPy would cut 1.5 down to the integer 1.
  if dtype != np.int64 or re.fullmatch(r'[\d\s,+-]*', text):
    with contextlib.suppress(ValueError, OverflowError):
      found = np.loadtxt(
        lines, dtype=dtype, delimiter=',', comments=None, ndmin=2
      )
  right = len(found) == len(lines) and np.isfinite(found).all()
  if not right or columns not in (None, found.shape[1]):
    _complain(path, lines, columns, dtype)
  return found


def _complain(path, lines, columns, dtype) -> None:
  """Raises InputError for the first line that is wrong."""
  kind = 'integer' if dtype == np.int64 else 'number'
  width = columns or lines[0].count(',') + 1
  for number, line in enumerate(lines, 1):
    words = line.split(',')
    try:
      if kind == 'integer':
        right = all(re.fullmatch(r'[+-]?\d{1,18}', w.strip()) for w in words)
      else:
        right = all(abs(float(word)) <= _LARGEST for word in words)
    except ValueError:
      right = False
    if not right or len(words) != width:
      raise InputError(
        f'{path}, line {number}: {line[:60]!r} is not {width} {kind}'
        f'{"s parted by commas" if width > 1 else ""}'
      )
  raise InputError(f'{path} does not hold rows of {width} {kind}s')


def _check_range(values, high: int, path: pathlib.Path, what: str) -> None:
  if at := first((values < 1) | (values > high)):
    raise InputError(
      f'{path}, line {at[0] + 1}: there is no {what} {values[at]}; they count '
      f'from 1 to {high}'
    )


def _number(values):
  """Integers as [n] or [n, k] int32 places among their kinds, and the kinds."""
  if values is None:
    return (), None
  kinds, places = np.unique(values, return_inverse=True)
  places = places.reshape(values.shape).astype(np.int32)
  if places.ndim == 2 and places.shape[1] == 1:
    places = places[:, 0]
  return tuple(map(str, kinds.tolist())), places
