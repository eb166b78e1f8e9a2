"""Batches of graphs, packed in rows that have one shape.

A feed cuts axis 0 over the devices, which many graphs joined into one would
not bear: the edges count nodes of all. So a batch of b graphs is r rows of
b / r graphs each, one behind the other, with nodes counted within the row; as
many rows as devices share them waste least. A batch has the arrays
  node: [r, …, n, f] float32, features of the nodes, then zeros
  edge: [r, …, e, 2] int32 in [0, n), from and to, in both directions, then
    zeros
  num_nodes, num_edges: [r, …, b / r] int32, how many of them each graph has
  label: [r, …, b / r] int32; graph: [r, …, b / r] int32, its place in the set
  real: [r, …, b / r] bool, False where a finite source has no more graphs
  id: [r] int32, the place of the row's first graph in `indices`
Which graphs a batch has, and in which order, does not depend on r.

n and e are what the largest of all rows needs that the source will ever be
asked for, which is known beforehand: nothing is cut off, and there is one
trace. One row of 128 random graphs of PROTEINS (620 nodes at most, 39 on
average) takes 1.4 times the nodes that it has on average, where a row for each
graph would take 16 times.
"""

from typing import Any

import numpy as np

from jaxlab.core.errors import InputError
from jaxlab.core.source import ArraySpec
from jaxlab.data.checks import first
from jaxlab.data.graphs.types import Graphs, offsets, ranges
from jaxlab.data.in_memory import Indexed

FEATURES = ('label', 'attribute', 'degree')


def node_features(
  graphs: Graphs, columns: tuple[str, ...], degree_cap: int = 0
) -> np.ndarray:
  """Features of all nodes of a set.

  Args:
    columns: which, in this order: `label`, one-hot of each column of
      node_label; `attribute`, as they are; `degree`, one-hot of the number of
      edges at the node, all above `degree_cap` as one.
    degree_cap: >= 1 where `degree` is asked for.

  Returns:
    [n, f] float32.

  Raises:
    InputError: no column, an unknown one, or one that the set does not have.
  """
  given = {'label': graphs.node_label, 'attribute': graphs.node_attribute}
  has = [name for name, array in given.items() if array is not None]
  if not columns or set(columns) - set(FEATURES):
    raise InputError(
      f'node features are {list(columns)}: give at least one of '
      f'{", ".join(FEATURES)}'
    )
  found = []
  for name in columns:
    if name == 'degree':
      if degree_cap < 1:
        raise InputError(
          f'degree_cap = {degree_cap}: node features "degree" need one of at '
          'least 1'
        )
      degree = graphs.batch(np.arange(len(graphs))).nodes['degree']
      found.append(_one_hot(degree, degree_cap + 1))
    elif name not in has:
      raise InputError(
        f'the set has no node {name}s, and node features are {list(columns)}: '
        f'take of {", ".join([*has, "degree"])}'
      )
    elif name == 'label':
      labels = np.asarray(graphs.node_label)
      labels = labels.reshape(len(labels), -1)
      kinds = len(graphs.node_classes)
      found += [
        _one_hot(column, max(kinds, column.max(initial=0) + 1))
        for column in labels.T
      ]
    else:
      values = np.asarray(graphs.node_attribute, np.float32)
      found.append(values.reshape(len(values), -1))
  return np.concatenate(found, 1)


def _one_hot(values: np.ndarray, kinds: int) -> np.ndarray:
  kind = np.minimum(values, kinds - 1)
  return (kind[:, None] == np.arange(kinds)).astype(np.float32)


def batch_spec(
  lead: tuple[int, ...], graphs: int, room: tuple[int, int], features: int
) -> dict[str, ArraySpec]:
  """Arrays of a batch of a `GraphSource`.

  Args:
    lead: (rows, …) of the batch.
    graphs: of a row.
    room: nodes and edges of a row.
    features: columns of a node.
  """
  nodes, edges = room
  graph = ArraySpec((*lead, graphs), np.int32)
  return {
    'node': ArraySpec((*lead, nodes, features), np.float32),
    'edge': ArraySpec((*lead, edges, 2), np.int32),
    **dict.fromkeys(('num_nodes', 'num_edges', 'label', 'graph'), graph),
    'real': ArraySpec(graph.shape, bool),
    'id': ArraySpec(lead[:1], np.int32),
  }


class GraphSource(Indexed):
  """Rows of graphs as a `Source` of the engine.

  Args:
    graphs: the set.
    features: [n, f] float32 of all nodes of the set.
    indices: [m, …] int, the graphs that batches are drawn from. A training is
      [m]; k trainings side by side, each with graphs of its own, are [m, k].
    batch_size: graphs of a batch, in each of the k.
    rows: r, of a batch; divides batch_size.
    room: (nodes, edges) of a row, of a source without end; a finite one takes
      those of its largest row.
    steps: batches that will be asked for, of a source without end.
    more: kind, seed, repeat and shuffle, see `jaxlab.data.in_memory.Indexed`.

  Raises:
    InputError: features of another number of nodes, a graph that is not there,
      rows that do not divide the batch, an argument out of range, room that is
      too small for one of the first `steps` batches; on a batch: a later one.
  """

  def __init__(
    self,
    graphs: Graphs,
    features: np.ndarray,
    indices: np.ndarray,
    *,
    batch_size: int,
    rows: int = 1,
    room: tuple[int, int] | None = None,
    steps: int = 0,
    **more: Any,
  ):
    self.indices = np.asarray(indices, np.int64)
    _check(graphs, features, self.indices, batch_size, rows)
    self.each = batch_size // rows
    super().__init__(len(self.indices), {}, batch_size=batch_size, **more)
    joined = graphs.batch(np.arange(len(graphs)))
    of = np.repeat(np.arange(len(graphs)), joined.n_edge)
    edge = np.stack([joined.senders, joined.receivers], 1)
    edge -= graphs.node_offset[of][:, None].astype(np.int32)
    self.label = np.asarray(graphs.label, np.int32)
    self._node = _Runs(np.asarray(features, np.float32), joined.n_node)
    self._edge = _Runs(edge, joined.n_edge)
    needed = self._largest(steps or self.num_batches)
    self.num_nodes, self.num_edges = room or needed
    if (needed[0] > self.num_nodes) or (needed[1] > self.num_edges):
      raise InputError(
        f'rows of {self.each} graphs need room for {needed[0]} nodes and '
        f'{needed[1]} edges, and have it for {self.num_nodes} and '
        f'{self.num_edges}: make it larger'
      )
    lead, room = (rows, *indices.shape[1:]), (self.num_nodes, self.num_edges)
    spec = batch_spec(lead, self.each, room, features.shape[1])
    self.spec = {self.step_kind: spec}

  def batch(self, step: int, rows: slice) -> dict[str, np.ndarray]:
    """Rows `rows` of batch `step`, with graphs that are not real at its end."""
    places, graph, real = self._graphs(step, rows)
    try:
      node, start = self._node.pack(graph, real, self.num_nodes)
      edge, _ = self._edge.pack(graph, real, self.num_edges, start)
    except ValueError as error:
      raise InputError(
        f'batch {step} does not fit in rows of {self.num_nodes} nodes and '
        f'{self.num_edges} edges ({error}): give the source as many steps as '
        'it will be asked for'
      ) from error
    return {
      'node': node,
      'edge': edge,
      'num_nodes': np.where(real, self._node.count[graph], 0),
      'num_edges': np.where(real, self._edge.count[graph], 0),
      'label': np.where(real, self.label[graph], 0),
      'graph': graph.astype(np.int32),
      'real': real,
      'id': places[:, 0].astype(np.int32),
    }

  def _graphs(self, step: int, rows: slice):
    """Places in `indices` [r, each], graphs and whether real [r, …, each]."""
    start, stop, _ = rows.indices(self.order.batch_size // self.each)
    wanted = slice(start * self.each, stop * self.each)
    found = self.order.indices(step, wanted)
    flat = np.zeros(wanted.stop - wanted.start, np.int64)
    flat[: len(found)] = found
    real = np.arange(len(flat)) < len(found)
    places = flat.reshape(-1, self.each)
    graph = np.moveaxis(self.indices[places], 1, -1)
    real = real.reshape(-1, *(1,) * (graph.ndim - 2), self.each)
    return places, graph, np.broadcast_to(real, graph.shape)

  def _largest(self, steps: int) -> tuple[int, int]:
    """Nodes and edges of the largest row of the first `steps` batches."""
    nodes = edges = 1
    for step in range(steps):
      _, graph, real = self._graphs(step, slice(None))
      nodes = max(nodes, self._node.longest(graph, real))
      edges = max(edges, self._edge.longest(graph, real))
    return nodes, edges


def _check(graphs, features, indices, batch_size, rows) -> None:
  """Raises InputError as `GraphSource`."""
  nodes = int(graphs.node_offset[-1])
  if len(features) != nodes:
    raise InputError(
      f'there are features of {len(features)} nodes, and the set has {nodes}'
    )
  if at := first((indices < 0) | (indices >= len(graphs))):
    raise InputError(
      f'there is no graph {indices[at]}; they count from 0 to {len(graphs) - 1}'
    )
  if rows < 1 or batch_size % rows:
    raise InputError(
      f'a batch of {batch_size} graphs does not divide into {rows} rows, one '
      f'for each device: take a multiple of {rows}'
    )


class _Runs:
  """Runs of values one behind the other: the nodes or edges of each graph."""

  def __init__(self, values: np.ndarray, counts: np.ndarray):
    self.values = values
    self.count, self.offset = np.asarray(counts, np.int32), offsets(counts)

  def longest(self, runs, real) -> int:
    """The length of the longest row."""
    return int(np.where(real, self.count[runs], 0).sum(-1).max(initial=0))

  def pack(self, runs, real, length: int, add=None):
    """The runs of each row one behind the other, then zeros.

    Args:
      runs: [..., k] int, which; real: [..., k] bool, those that are there.
      length: of a row.
      add: [..., k] integers that are added to the values of each run.

    Returns:
      [..., length, …] values, and [..., k] int32, where each run begins.

    Raises:
      ValueError: a row is longer.
    """
    count = np.where(real, self.count[runs], 0)
    start = np.cumsum(count, -1, dtype=np.int32) - count
    longest = self.longest(runs, real)
    if longest > length:
      raise ValueError(f'a row needs {longest} of {length}')
    values = self.values[ranges(self.offset, runs[real])]
    if add is not None:
      values = values + np.repeat(add.ravel(), count.ravel())[:, None]
    filled = np.arange(length) < count.sum(-1, keepdims=True)
    packed = np.zeros((*filled.shape, *values.shape[1:]), values.dtype)
    packed[filled] = values
    return packed, start
