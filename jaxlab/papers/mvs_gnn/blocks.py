"""Sampled layers of one graph: what samplers draw and networks compute on.

An operator L is a sparse [n, n] matrix; a layer of a network computes rows of
L H. A sampler draws, from the output layer down, which entries of L a layer
uses and with which weights. Every layer becomes one padded `jraph.GraphsTuple`:

  nodes    {'id'} [s] int32: the layer's sources, nodes of the graph. The first
           rows are its destinations, those after them other nodes whose values
           the layer below computes, then nodes known from the history alone.
  edges    {'weight'} [e] float32: times the value that the layer below gives;
           {'history'} [e] float32, of samplers with a history: times the
           sender's historical value.
  globals  {'destinations', 'computed'} [2] int32: how many rows are such; the
           second entry, of the padding, is 0.

The second graph is the padding: nodes of id n, and edges of weight 0 from the
last row to itself.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jraph
import numpy as np

from jaxlab.core.errors import InputError
from jaxlab.data.graphs.adjacency import Adjacency

Normalisation = Literal['symmetric', 'row', 'none']


class Operator(NamedTuple):
  """A sparse [n, n] float32 matrix in CSR form; row i gathers for node i."""

  indptr: np.ndarray  # [n + 1] int64
  indices: np.ndarray  # [m] int32, senders
  weight: np.ndarray  # [m] float32

  @property
  def num_nodes(self) -> int:
    return len(self.indptr) - 1

  @property
  def degrees(self) -> np.ndarray:
    """[n] int64, entries in each row."""
    return np.diff(self.indptr)

  def rows(self, nodes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All entries of some rows.

    Args:
      nodes: [d] of the graph.

    Returns:
      [e] positions in `indices` and [e] positions in `nodes`, both ascending
      where the nodes are.
    """
    first = self.indptr[nodes]
    counts = self.indptr[nodes + 1] - first
    receivers = np.repeat(np.arange(len(nodes), dtype=np.int32), counts)
    ends = np.cumsum(counts)
    begin = np.repeat(first - (ends - counts), counts)
    return begin + np.arange(len(receivers)), receivers


def make_operator(found: Adjacency, normalisation: Normalisation) -> Operator:
  """The operator of a graph, self loops and all as the adjacency has them.

  - symmetric: D^(-1/2) A D^(-1/2); - row: D^-1 A; - none: A, of ones.

  D counts the entries of a row; a node without any has an empty row.
  """
  degree = np.diff(found.indptr)
  per_edge = np.repeat(degree, degree)
  if normalisation == 'symmetric':
    weight = 1 / np.sqrt(per_edge * np.maximum(degree[found.indices], 1))
  elif normalisation == 'row':
    weight = 1 / per_edge
  elif normalisation == 'none':
    weight = np.ones(len(found.indices))
  else:
    raise InputError(
      f'normalisation "{normalisation}" is not one of symmetric, row, none'
    )
  return Operator(found.indptr, found.indices, weight.astype(np.float32))


class Edges(NamedTuple):
  """What a sampler draws for a layer: e entries for d destinations."""

  senders: np.ndarray  # [e] int32, nodes of the graph
  receivers: np.ndarray  # [e] int32 in [0, d)
  weight: np.ndarray  # [e] float32; 0 where only the history is used
  history: np.ndarray | None = None  # [e] float32

  def take(self, rows: np.ndarray) -> 'Edges':
    history = None if self.history is None else self.history[rows]
    return Edges(
      self.senders[rows], self.receivers[rows], self.weight[rows], history
    )

  def times(self, factor: np.ndarray | float) -> 'Edges':
    scaled = lambda array: (array * factor).astype(np.float32, copy=False)
    history = None if self.history is None else scaled(self.history)
    return self._replace(weight=scaled(self.weight), history=history)


def all_edges(operator: Operator, level: int, nodes: np.ndarray) -> Edges:
  """Every entry of the rows of some nodes, at its own weight."""
  at, receivers = operator.rows(nodes)
  return Edges(operator.indices[at], receivers, operator.weight[at])


class Layer(NamedTuple):
  """Edges with the sources they lead from; destinations come first."""

  nodes: np.ndarray  # [s] int32
  destinations: int
  computed: int  # of the sources: by the layer below; the rest is history
  senders: np.ndarray  # [e] int32 in [0, s)
  edges: Edges


class Sample(NamedTuple):
  """Layers of one batch, input first, before padding."""

  layers: tuple[Layer, ...]
  seeds: np.ndarray  # [b] int32: the nodes of the output
  # [b] float32; the sum of weight x loss estimates the mean training loss.
  seed_weight: np.ndarray
  overflow: int  # entries left out, the rest weighted up for them


class Budget(NamedTuple):
  """Padded sizes, each with at least one row to spare. Input layer first."""

  nodes: tuple[int, ...]  # [layers], sources
  edges: tuple[int, ...]  # [layers]
  outputs: tuple[int, ...]  # [layers], destinations; the last: seeds


# Draws the edges of layer `l` for destinations [d].
DrawEdges = Callable[[int, np.ndarray], Edges]


class Assembler:
  """Makes samples out of drawn edges, within a budget.

  Where a draw is larger than the budget, a uniform part of it is kept and
  weighted up, so that every expected value stays; `Sample.overflow` counts.
  Not to be used by two threads at a time.
  """

  def __init__(self, num_nodes: int, budget: Budget | None = None):
    self.num_nodes = num_nodes
    self.budget = budget
    self._place = np.full(num_nodes, -1, np.int32)

  def sample(
    self,
    rng: np.random.Generator,
    seeds: np.ndarray,
    seed_weight: np.ndarray,
    num_layers: int,
    draw: DrawEdges,
  ) -> Sample:
    """Layers from the seeds down.

    Args:
      seeds: [b] int32, each once.
      seed_weight: [b] float32.
      draw: the edges of a layer; layer 0 is the input's.
    """
    overflow, layers = 0, []
    if self.budget:
      kept, factor = _thin(rng, len(seeds), self.budget.outputs[-1] - 1)
      overflow += len(seeds) - len(kept)
      seeds, seed_weight = seeds[kept], seed_weight[kept] * factor
    nodes = seeds
    for level in reversed(range(num_layers)):
      edges = draw(level, nodes)
      layer, lost = self._layer(rng, level, nodes, edges)
      overflow += lost
      layers.append(layer)
      nodes = layer.nodes[: layer.computed]
    return Sample(
      tuple(reversed(layers)),
      seeds,
      seed_weight.astype(np.float32),
      overflow,
    )

  def _layer(self, rng, level, nodes, edges):
    lost = 0
    if self.budget:
      kept, factor = _thin(rng, len(edges.weight), self.budget.edges[level] - 1)
      if factor != 1:
        lost += len(edges.weight) - len(kept)
        edges = edges.take(kept).times(factor)
    place, known = self._place, len(nodes)
    place[nodes] = np.arange(known, dtype=np.int32)
    if edges.history is None:
      computed = self._new(edges.senders)
      rest = computed[:0]
    else:
      computed = self._new(edges.senders[edges.weight != 0])
      place[computed] = known + np.arange(len(computed), dtype=np.int32)
      rest = self._new(edges.senders)
    if self.budget:
      limit = self.budget.nodes[level] - 1 - known
      below = self.budget.outputs[level - 1] - 1 - known if level else limit
      room = min(below, limit)
      computed, edges, gone = self._limit(rng, computed, room, edges, known)
      rest, edges, more = self._limit(
        rng, rest, limit - len(computed), edges, known
      )
      lost += gone + more
    found = np.concatenate([nodes, computed, rest]).astype(np.int32)
    place[found] = np.arange(len(found), dtype=np.int32)
    senders = place.take(edges.senders)
    place[found] = -1
    size = known + len(computed)
    return Layer(found, known, size, senders, edges), lost

  def _new(self, senders: np.ndarray) -> np.ndarray:
    """Senders without a place, each once."""
    place = self._place
    if 8 * len(senders) > self.num_nodes:  # then a pass over all is quicker
      new = np.zeros(self.num_nodes, bool)
      new[senders.astype(np.intp)] = True
      new &= place < 0
      return np.flatnonzero(new).astype(np.int32)
    found = senders[place.take(senders) < 0]
    turn = np.arange(len(found), dtype=np.int32)
    place[found] = -2 - turn
    found = found[place[found] == -2 - turn]
    place[found] = -1
    return found

  def _limit(self, rng, new, room, edges, known):
    """Keeps `room` of the new nodes; their edges stand for all of theirs."""
    kept, factor = _thin(rng, len(new), room)
    if factor == 1:
      return new, edges, 0
    # 1: an edge from a node that was there before.
    scale = np.ones(self.num_nodes, np.float32)
    scale[new] = 0
    scale[new[kept]] = factor
    self._place[new] = -1
    weight = scale[edges.senders]
    edges = edges.times(weight).take(np.flatnonzero(weight))
    return new[kept], edges, len(new) - len(kept)


def _thin(rng, count: int, room: int) -> tuple[np.ndarray, float]:
  """A uniform part of at most `room` of `count`, and count / kept."""
  if count <= room:
    return np.arange(count), 1.0
  if room < 1:
    raise InputError(
      f'a bucket has room for {max(room, 0)} of {count} nodes or edges; give '
      'config.sampler.headroom a larger value'
    )
  kept = np.sort(rng.choice(count, room, replace=False))
  return kept, count / room


class Padded(NamedTuple):
  """A sample at the sizes of its budget."""

  layers: tuple[jraph.GraphsTuple, ...]  # of NumPy arrays, input first
  seeds: np.ndarray  # [b] int32; n where padding
  seed_weight: np.ndarray  # [b] float32; 0 where padding
  overflow: int


def pad(sample: Sample, budget: Budget, num_nodes: int) -> Padded:
  """The sample at the budget's sizes, which it must not exceed."""
  layers = tuple(
    _pad_layer(layer, nodes, edges, num_nodes)
    for layer, nodes, edges in zip(sample.layers, budget.nodes, budget.edges)
  )
  seeds = budget.outputs[-1]
  return Padded(
    layers,
    _filled(sample.seeds, seeds, num_nodes, np.int32),
    _filled(sample.seed_weight, seeds, 0, np.float32),
    sample.overflow,
  )


def _pad_layer(layer, nodes: int, edges: int, num_nodes: int):
  have, drawn = len(layer.nodes), len(layer.senders)
  columns = {'weight': layer.edges.weight, 'history': layer.edges.history}
  counts = lambda a, b: np.array([a, b], np.int32)
  return jraph.GraphsTuple(
    nodes={'id': _filled(layer.nodes, nodes, num_nodes, np.int32)},
    edges={
      name: _filled(array, edges, 0, np.float32)
      for name, array in columns.items()
      if array is not None
    },
    senders=_filled(layer.senders, edges, nodes - 1, np.int32),
    receivers=_filled(layer.edges.receivers, edges, nodes - 1, np.int32),
    n_node=counts(have, nodes - have),
    n_edge=counts(drawn, edges - drawn),
    globals={
      'destinations': counts(layer.destinations, 0),
      'computed': counts(layer.computed, 0),
    },
  )


def _filled(array: np.ndarray, length: int, value, dtype) -> np.ndarray:
  filled = np.empty(length, dtype)
  filled[: len(array)] = array
  filled[len(array) :] = value
  return filled


def budget_for(
  draws: list[Sample], num_nodes: int, headroom: float, multiple: int
) -> Budget:
  """A budget that holds samples like these and some more.

  Args:
    draws: of a sampler, without a budget.
    num_nodes: of the graph: no array of nodes is larger, but for the row to
      spare and what makes it a multiple.
    headroom: >= 1, times the largest of the draws.
    multiple: sizes are multiples of it.
  """

  def size(values, bound=num_nodes):
    wanted = min(int(np.ceil(max(values) * headroom)), bound) + 1
    return -(-wanted // multiple) * multiple

  levels = list(zip(*(draw.layers for draw in draws)))
  return Budget(
    tuple(size([len(layer.nodes) for layer in at]) for at in levels),
    tuple(size([len(x.senders) for x in at], 2**31 - 1) for at in levels),
    tuple(size([layer.destinations for layer in at]) for at in levels),
  )
