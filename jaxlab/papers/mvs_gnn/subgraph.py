"""Subgraph samplers: Cluster-GCN and GraphSAINT, one node set for all layers.

Both draw a set of nodes; the seeds are the training nodes in it and a layer
gathers along the entries of L within it. Nodes of the set that no seed depends
on are left out of the layers, which changes no result.

Source: Chiang et al., Cluster-GCN, KDD 2019, section 3.2; Zeng et al.,
GraphSAINT, ICLR 2020, section 3.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from jaxlab.core.errors import InputError
from jaxlab.papers.mvs_gnn import layerwise
from jaxlab.papers.mvs_gnn.blocks import Edges, Sample
from jaxlab.papers.mvs_gnn.partition import partition
from jaxlab.papers.mvs_gnn.sampling import Sampler

Kind = Literal['node', 'edge', 'walk']


@dataclass(eq=False)
class ClusterGCN(Sampler):
  """The graph is cut once; a batch is the subgraph of some of its parts.

  Entries that leave the subgraph are dropped and the rows scaled to the sum
  they have in L, which is the paper's renormalisation where L is `row`. Biased;
  seeds weigh one over their number. Draws of parts without a training node
  are made again.

  Departs from the paper: its partition is METIS's, ours is `partition`.
  """

  unbiased = False
  clusters: int = 0  # parts of the graph; 0: for about batch_size seeds
  clusters_per_batch: int = 1  # without replacement, each set as likely
  seed: int = 0  # of the partition

  def __post_init__(self):
    super().__post_init__()
    nodes, together = self.operator.num_nodes, self.clusters_per_batch
    if self.clusters == 0:
      wanted = round(len(self.train) * together / self.batch_size)
      self.clusters = min(max(wanted, together, 1), nodes)
    if not 1 <= self.clusters <= nodes:
      raise InputError(
        f'clusters = {self.clusters} is not in [0, {nodes}], the number of '
        'nodes'
      )
    if not 1 <= together <= self.clusters:
      raise InputError(
        f'clusters_per_batch = {together} is not in [1, {self.clusters}], the '
        'number of clusters'
      )
    rng = np.random.default_rng(self.seed)
    self.cluster = partition(rng, self.operator, self.clusters)  # [n] int32
    self._trained = np.zeros(self.clusters, bool)
    self._trained[self.cluster[self.train]] = True
    self._row_sums = layerwise.row_sums(self.operator)

  def sample(self, rng: np.random.Generator) -> Sample:
    """One draw of clusters."""
    drawn = np.zeros(self.clusters, bool)
    while not (drawn & self._trained).any():
      drawn[:] = False
      number = self.clusters_per_batch
      drawn[rng.choice(self.clusters, number, replace=False)] = True
    inside = drawn[self.cluster]
    seeds = self.train[inside[self.train]]

    def draw(level: int, nodes: np.ndarray) -> Edges:
      found = layerwise.entries(self.operator, nodes, inside)
      return layerwise.keep_row_sums(found, self._row_sums[nodes])

    weight = np.full(len(seeds), 1 / len(seeds))
    return self.assembler.sample(rng, seeds, weight, self.num_layers, draw)


@dataclass(eq=False)
class GraphSAINT(Sampler):
  """The subgraph of a random node set, with the paper's two normalisations.

  A set is made of independent draws with replacement, each of which touches
  - node: one node j, with a chance ~ ||L[:, j]||^2;
  - edge: the ends of one edge (i, j), ~ 1 / degree(i) + 1 / degree(j);
  - walk: a uniform root and the nodes of a random walk from it.
  With p_i the chance of node i to be in the set and p_ij that of both, an entry
  weighs L_ij p_i / p_ij (alpha in the paper), a seed 1 / (p_i t) (lambda),
  t training nodes. A draw that touches i with chance Q_i, and both i and j
  with q_ij, gives after m draws

    p_i = 1 - (1 - Q_i)^m,  p_ij = p_i + p_j - 1 + (1 - Q_i - Q_j + q_ij)^m.

  Claimed: for node and edge Q and q are known, so that the loss is unbiased, as
  is each layer by itself over the sets that a node is in. For walk they are
  counted in walks from every node before the first batch, and the same holds
  in the limit of `presamples` (so `unbiased` is False). One set serves all
  layers, so the output of several layers is biased, as the paper says. An
  empty set of seeds is a batch of loss 0.

  Args:
    batch_size: the expected number of seeds, which sets the number of draws.

  Departs from the paper: p_ij is exact for node and edge, and for walk counts
  walks and not sets of them, so that no entry has the chance 0. Nodes that are
  neither trained nor joined to another node are not drawn; a training node that
  no draw would touch is drawn like the mean of the others.
  """

  kind: Kind = 'walk'  # what a draw touches
  walk_length: int = 2  # steps, along the entries of rows of L but the loops
  presamples: int = 50  # walks from every node that are counted
  seed: int = 0  # of these walks

  def __post_init__(self):
    super().__post_init__()
    if self.kind not in ('node', 'edge', 'walk'):
      raise InputError(f'kind "{self.kind}" is not one of node, edge, walk')
    if self.walk_length < 1 or self.presamples < 1:
      raise InputError(
        f'walk_length = {self.walk_length} and presamples = {self.presamples} '
        'must be at least 1'
      )
    self.unbiased = self.kind != 'walk'
    operator, size = self.operator, self.operator.num_nodes
    rows = np.repeat(np.arange(size), operator.degrees)
    loop = rows == operator.indices
    useful = np.bincount(rows[~loop], minlength=size) > 0
    useful[operator.indices[~loop]] = True
    useful[self.train] = True
    draws: _Nodes | _Pairs | _Walks
    if self.kind == 'node':
      draws = _Nodes(operator, self.train, useful)
    elif self.kind == 'edge':
      draws = _Pairs(operator, self.train, rows, loop)
    else:
      draws = _Walks(operator, useful, rows, loop, self.walk_length)
      draws.count(np.random.default_rng(self.seed), self.presamples)
    self._touch = draws
    touched = np.minimum(draws.node, 1 - 1e-9)  # a chance of 1 has no logarithm
    self.draws = _enough_draws(touched[self.train], self.batch_size, size)
    pair = np.where(loop, touched[rows], draws.pair)
    # [n] and [m]: the chances p_i and p_ij.
    self.node_chance, self.pair_chance = _inclusion(
      touched, pair, rows, operator.indices, self.draws
    )
    scale = np.zeros(len(rows))
    known = self.pair_chance > 0
    np.divide(self.node_chance[rows], self.pair_chance, out=scale, where=known)
    weight = (operator.weight * scale).astype(np.float32)
    self._scaled = operator._replace(weight=weight)

  def sample(self, rng: np.random.Generator) -> Sample:
    """One node set."""
    inside = np.zeros(self.operator.num_nodes, bool)
    inside[self._touch.draw(rng, self.draws)] = True
    seeds = self.train[inside[self.train]]
    return self.assembler.sample(
      rng,
      seeds,
      1 / (self.node_chance[seeds] * len(self.train)),
      self.num_layers,
      lambda level, nodes: layerwise.entries(self._scaled, nodes, inside),
    )


def _enough_draws(touched: np.ndarray, wanted: int, size: int) -> int:
  """The least draws that touch as many training nodes, at least two."""
  missed = np.log1p(-touched)
  expected = lambda draws: -np.expm1(draws * missed).sum()
  low, high = 1, 16 * size + 2
  if expected(high) < wanted:
    raise InputError(
      f'batch_size = {wanted}: {high} draws of graphsaint touch '
      f'{expected(high):.1f} of {len(touched)} training nodes on the average; '
      'give a smaller one'
    )
  while high - low > 1:
    middle = (low + high) // 2
    low, high = (low, middle) if expected(middle) >= wanted else (middle, high)
  return high


def _inclusion(node, pair, rows, columns, draws):
  """[n] p_i and [m] p_ij; written so that small chances lose no digits."""
  missed = draws * np.log1p(-node)
  found = -np.expm1(missed)
  a, b = node[rows], node[columns]
  # (1 - a - b + q) = (1 - a) (1 - b) (1 - excess)
  excess = np.minimum((a * b - pair) / ((1 - a) * (1 - b)), 1)
  with np.errstate(divide='ignore'):
    more = np.expm1(draws * np.log1p(-excess))
  both = found[rows] * found[columns]
  both += np.exp(missed[rows] + missed[columns]) * more
  return found, both


class _Nodes:
  """Draws that touch a node."""

  def __init__(self, operator, train, useful):
    chance = layerwise.column_norms(operator) * useful
    _give_mean(chance, train)
    self.node = chance / chance.sum()
    self.pair = np.zeros(len(operator.indices))
    self._ends = np.cumsum(self.node)

  def draw(self, rng, draws):
    return layerwise.draw_with_replacement(rng, self._ends, draws)


def _give_mean(chance: np.ndarray, train: np.ndarray) -> None:
  """Training nodes of chance 0 get the mean of the chances that are not."""
  positive = chance[chance > 0]
  chance[train[chance[train] == 0]] = positive.mean() if len(positive) else 1


class _Pairs:
  """Draws that touch the ends of an edge; of lone training nodes themselves."""

  def __init__(self, operator, train, rows, loop):
    size, columns = operator.num_nodes, operator.indices
    low, high = np.minimum(rows, columns), np.maximum(rows, columns)
    key = np.where(loop, -1, low * size + high)
    keys = np.unique(key[~loop])
    low, high = keys // size, keys % size
    ends = lambda values: (
      np.bincount(low, values, size) + np.bincount(high, values, size)
    )
    degree = ends(np.ones(len(keys)))
    chance = 1 / degree[low] + 1 / degree[high]
    node = ends(chance)
    lone = train[node[train] == 0]
    _give_mean(node, train)
    total = chance.sum() + node[lone].sum()
    self.node = node / total
    self.pair = np.zeros(len(rows))
    self.pair[~loop] = chance[np.searchsorted(keys, key[~loop])] / total
    self._pairs = np.stack(
      [np.concatenate([low, lone]), np.concatenate([high, lone])], 1
    )
    self._ends = np.cumsum(np.concatenate([chance, node[lone]]))

  def draw(self, rng, draws):
    at = layerwise.draw_with_replacement(rng, self._ends, draws)
    return self._pairs[at]


class _Walks:
  """Draws that touch the nodes of a walk from a uniform root."""

  def __init__(self, operator, useful, rows, loop, length):
    self._roots = np.flatnonzero(useful)
    self._length = length
    self._keys = rows * operator.num_nodes + operator.indices
    self._size = operator.num_nodes
    self._next = operator.indices[~loop]
    self._degree = np.bincount(rows[~loop], minlength=self._size)
    self._first = np.cumsum(self._degree) - self._degree

  def draw(self, rng, draws):
    return self.walks(rng, rng.choice(self._roots, draws))

  def walks(self, rng, roots):
    """[w, length + 1] nodes of walks; one that cannot go on stays."""
    found = np.empty((len(roots), self._length + 1), np.int64)
    found[:, 0] = at = roots
    for step in range(self._length):
      degree = self._degree[at]
      moves = np.flatnonzero(degree)
      turn = (rng.random(len(at)) * degree).astype(np.int64)
      at = at.copy()
      at[moves] = self._next[self._first[at[moves]] + turn[moves]]
      found[:, step + 1] = at
    return found

  def count(self, rng, presamples):
    """Estimates the chances from walks, as many from every root."""
    order = np.argsort(self._keys, kind='stable')
    keys = self._keys[order]
    node = np.zeros(self._size)
    pair = np.zeros(len(keys))
    for _ in range(presamples):
      found = np.sort(self.walks(rng, self._roots), 1)
      first = np.ones(found.shape, bool)
      first[:, 1:] = found[:, 1:] != found[:, :-1]
      node += np.bincount(found[first], minlength=self._size)
      for i in range(found.shape[1]):
        for j in range(found.shape[1]):
          both = first[:, i] & first[:, j]
          if i != j:
            key = found[both, i] * self._size + found[both, j]
            _count_keys(keys, key, pair)
    number = presamples * len(self._roots)
    self.node = node / number
    self.pair = np.empty(len(keys))
    self.pair[order] = pair / number


def _count_keys(keys, found, count) -> None:
  """Adds to count [k] how often ascending keys [k] are found."""
  if not len(keys):
    return
  at = np.minimum(np.searchsorted(keys, found), len(keys) - 1)
  count += np.bincount(at[keys[at] == found], minlength=len(keys))
