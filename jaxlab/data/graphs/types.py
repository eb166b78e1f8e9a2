"""Graphs as plain NumPy arrays: many small ones, or one with labelled nodes.

`Graphs` and `NodeGraph` are made by `tu`, `npz`, `saint` (files) and `sets`
(names). Nodes count from 0. An undirected edge is stored once;
`adjacency.adjacency` and `Graphs.batch` give it in both directions.
"""

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import scipy.sparse

from jaxlab.core.errors import InputError
from jaxlab.data.checks import first
from jaxlab.data.graphs.adjacency import check_edges

SPLITS = {'none': -1, 'train': 0, 'validation': 1, 'test': 2}

Features: TypeAlias = np.ndarray | scipy.sparse.csr_array | tuple[str, ...]


class Graph(NamedTuple):
  """One graph of n nodes and e edges; the fields are those of `Graphs`."""

  nodes: int  # n >= 0
  edges: np.ndarray  # [e, 2] int32 in [0, n)
  label: int = 0
  node_label: np.ndarray | None = None
  node_attribute: np.ndarray | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Graphs:
  """Labelled graphs one behind the other: g graphs, n nodes and e edges in all.

  Edges are undirected. A graph may have none, or no nodes. `len`, an index and
  `take` work as they do on a list.

  Raises:
    InputError: arrays of lengths that do not fit, a node or a class out of
      range, an attribute that is not finite.
  """

  node_offset: np.ndarray  # [g + 1] int64: nodes of i are [i] … [i + 1]
  edge_offset: np.ndarray  # [g + 1] int64: edges of i are [i] … [i + 1]
  edges: np.ndarray  # [e, 2] int32, nodes counted within their graph
  label: np.ndarray  # [g] int32 in [0, classes)
  classes: tuple[str, ...]
  node_label: np.ndarray | None = None  # [n] or [n, k] int32, >= 0
  node_attribute: np.ndarray | None = None  # [n, k] float32
  node_classes: tuple[str, ...] = ()  # what node_label counts

  def __post_init__(self):
    _check_graphs(self)

  def __len__(self) -> int:
    return len(self.label)

  def __getitem__(self, i: int) -> Graph:
    if not -len(self) <= i < len(self):
      raise IndexError(f'graph {i} of {len(self)}')
    one = self.take([i % len(self)])
    return Graph(
      nodes=int(one.node_offset[-1]),
      edges=one.edges,
      label=int(one.label[0]),
      node_label=one.node_label,
      node_attribute=one.node_attribute,
    )

  def __iter__(self) -> Iterator[Graph]:
    return map(self.__getitem__, range(len(self)))

  @property
  def num_nodes(self) -> np.ndarray:
    """[g] int64, nodes of each graph."""
    return np.diff(self.node_offset)

  @property
  def num_edges(self) -> np.ndarray:
    """[g] int64, edges of each graph as stored."""
    return np.diff(self.edge_offset)

  def take(self, indices: Sequence[int] | np.ndarray) -> 'Graphs':
    """Some of the graphs, in the order of [k] indices."""
    indices = np.asarray(indices, np.int64)
    nodes = ranges(self.node_offset, indices)
    cut = lambda array: None if array is None else array[nodes]
    return dataclasses.replace(
      self,
      node_offset=offsets(self.num_nodes[indices]),
      edge_offset=offsets(self.num_edges[indices]),
      edges=self.edges[ranges(self.edge_offset, indices)],
      label=self.label[indices],
      node_label=cut(self.node_label),
      node_attribute=cut(self.node_attribute),
    )

  def batch(self, indices: Sequence[int] | np.ndarray):
    """[k] graphs as one `jraph.GraphsTuple` of NumPy arrays, not padded.

    Edges come in both directions, a self loop once.

    Returns:
      nodes: `degree` [n] int32, edges that end there, and `label` and
        `attribute` where the set has them. globals: `label` [k] int32.
    """
    import jraph  # loads JAX, which readers of files do not need

    some = self.take(indices)
    edges = (
      some.edges + np.repeat(some.node_offset[:-1], some.num_edges)[:, None]
    )
    loop = edges[:, 0] == edges[:, 1]
    keep = np.stack([np.ones_like(loop), ~loop], 1)
    graph = np.repeat(np.arange(len(some)), some.num_edges)
    edges = np.stack([edges, edges[:, ::-1]], 1)[keep]
    total = int(some.node_offset[-1])
    nodes = {
      'degree': np.bincount(edges[:, 1], minlength=total).astype(np.int32),
      'label': some.node_label,
      'attribute': some.node_attribute,
    }
    counts = np.bincount(graph, keep.sum(1), minlength=len(some))
    return jraph.GraphsTuple(
      nodes={name: x for name, x in nodes.items() if x is not None},
      edges={},
      receivers=edges[:, 1].astype(np.int32),
      senders=edges[:, 0].astype(np.int32),
      globals={'label': some.label},
      n_node=some.num_nodes.astype(np.int32),
      n_edge=counts.astype(np.int32),
    )


def concatenate(graphs: Iterable[Graph], **fields) -> Graphs:
  """`Graphs` of single ones; `fields` are classes and what else is common.

  Raises:
    InputError: there is none, some lack what others have, or as `Graphs`.
  """
  graphs = list(graphs)
  if not graphs:
    raise InputError('there are no graphs: give at least one')
  for name in ('node_label', 'node_attribute'):
    arrays = [getattr(graph, name) for graph in graphs]
    absent = [array is None for array in arrays]
    if any(absent) and not all(absent):
      raise InputError(
        f'graph {absent.index(True)} has no {name}, and graph '
        f'{absent.index(False)} has one: give it to all or to none'
      )
    fields[name] = None if absent[0] else np.concatenate(arrays)
  return Graphs(
    node_offset=offsets([graph.nodes for graph in graphs]),
    edge_offset=offsets([len(graph.edges) for graph in graphs]),
    edges=np.concatenate([graph.edges for graph in graphs]),
    label=np.array([graph.label for graph in graphs], np.int32),
    **fields,
  )


class NodeGraph(NamedTuple):
  """One graph of n labelled nodes; see `check_node_graph`."""

  features: Features  # [n, f] float32, dense or CSR, or n texts
  edges: np.ndarray  # [e, 2] int32 in [0, n), undirected each once
  labels: np.ndarray  # [n] int32 in [-1, classes), or [n, classes] uint8 0, 1
  split: np.ndarray  # [n] int8, one of SPLITS; -1 where there is no label
  classes: tuple[str, ...]
  directed: bool = False  # edges lead from [:, 0] to [:, 1]

  @property
  def num_nodes(self) -> int:
    return len(self.labels)

  def nodes_of(self, split: str) -> np.ndarray:
    """int64, the nodes of a split, ascending."""
    return np.flatnonzero(self.split == SPLITS[split])


def check_node_graph(graph: NodeGraph, what: str) -> NodeGraph:
  """The graph, when its arrays fit together; `what` is named in messages.

  Self loops, repeated edges and nodes without edges are not mistakes.

  Raises:
    InputError: lengths differ, a node or class is out of range, a feature is
      not finite, or a node of a split has no label.
  """
  features, nodes = graph.features, graph.num_nodes
  held = len(features) if isinstance(features, tuple) else features.shape[0]
  for name, length in (('features', held), ('split', len(graph.split))):
    if length != nodes:
      raise InputError(
        f'{what}: there are {length} rows of {name} and {nodes} of labels'
      )
  if not isinstance(features, tuple):
    _check_finite(features, what)
  check_edges(graph.edges, nodes, what)
  labels, classes = graph.labels, len(graph.classes)
  many = labels.ndim == 2
  if many and labels.shape[1] != classes:
    raise InputError(
      f'{what}: labels have {labels.shape[1]} columns, and there are {classes} '
      f'classes'
    )
  low, high = (0, 1) if many else (-1, classes - 1)
  if at := first((labels < low) | (labels > high)):
    raise InputError(
      f'{what}: the label of node {at[0]} is {labels[at]}, and must be in '
      f'[{low}, {high}]'
    )
  wrong = ~np.isin(graph.split, list(SPLITS.values()))
  if not many:
    wrong |= (labels < 0) & (graph.split >= 0)
  if at := first(wrong):
    raise InputError(
      f'{what}: the split of node {at[0]} is {graph.split[at]}, and must be '
      f'one of {SPLITS}, -1 where a node has no label'
    )
  return graph


def split_by_hash(
  keys: Iterable[str], *, train: float, validation: float
) -> np.ndarray:
  """[n] int8 of SPLITS; what is not train or validation is test.

  A key falls into its split by its own hash, so that it stays there when
  others come or go, and the parts are kept on average.
  """
  digests = b''.join(
    hashlib.blake2b(key.encode(), digest_size=8).digest() for key in keys
  )
  uniform = np.frombuffer(digests, '<u8') * 2.0**-64
  bounds = [train, train + validation]
  return np.searchsorted(bounds, uniform, side='right').astype(np.int8)


def offsets(counts) -> np.ndarray:
  """[n + 1] int64: where runs of [n] lengths begin, and the last one ends."""
  return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def ranges(starts: np.ndarray, indices: np.ndarray) -> np.ndarray:
  """The ranges starts[i] … starts[i + 1] for i in indices, joined."""
  counts = np.diff(starts)[indices]
  begin = np.repeat(starts[:-1][indices] - offsets(counts)[:-1], counts)
  return begin + np.arange(len(begin))


def _check_finite(features, what: str) -> None:
  sparse = isinstance(features, scipy.sparse.csr_array)
  if at := first(~np.isfinite(features.data if sparse else features)):
    node = at[0]
    if sparse:
      node = int(np.searchsorted(features.indptr, node, side='right')) - 1
    raise InputError(
      f'{what}: a feature of node {node} is NaN or infinite: mend it, or leave '
      f'the node out'
    )


def _check_graphs(graphs: Graphs) -> None:
  """Raises InputError as `Graphs`."""
  lengths = {
    'node_offset': len(graphs) + 1,
    'edge_offset': len(graphs) + 1,
    'edges': int(graphs.edge_offset[-1]),
    'node_label': int(graphs.node_offset[-1]),
    'node_attribute': int(graphs.node_offset[-1]),
  }
  for name, length in lengths.items():
    array = getattr(graphs, name)
    if array is not None and len(array) != length:
      raise InputError(f'graphs: {name} has {len(array)} rows, not {length}')
    if name.endswith('offset') and (array[0] or (np.diff(array) < 0).any()):
      raise InputError(f'graphs: {name} does not rise from 0')
  attribute = graphs.node_attribute
  if attribute is not None and (at := first(~np.isfinite(attribute))):
    raise InputError(f'graphs: node_attribute {at[0]} is NaN or infinite')
  size = np.repeat(graphs.num_nodes, graphs.num_edges)[:, None]
  if at := first((graphs.edges < 0) | (graphs.edges >= size)):
    graph = int(np.searchsorted(graphs.edge_offset, at[0], side='right')) - 1
    raise InputError(
      f'graphs: an edge joins the nodes {graphs.edges[at[0]].tolist()} of '
      f'graph {graph}, which has {graphs.num_nodes[graph]} nodes, counted from '
      '0'
    )
  if at := first((graphs.label < 0) | (graphs.label >= len(graphs.classes))):
    raise InputError(
      f'graphs: the label of graph {at[0]} is {graphs.label[at]}, and there '
      f'are {len(graphs.classes)} classes'
    )
