"""Node-wise samplers: every destination draws from its own neighbours.

An entry (i, i) of L is always kept as it is; draws and degrees are of the
others. All are vectorised over the destinations of a layer.

Source: W. Hamilton, R. Ying, J. Leskovec, arXiv 1706.02216, algorithm 2; J.
Chen, J. Zhu, L. Song, arXiv 1710.10568, eq. (5); M. Balin, U. Catalyurek, arXiv
2210.13339, section 3.2 (LABOR-0).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jaxlab.core.errors import InputError
from jaxlab.papers.mvs_gnn.blocks import Edges, Operator, all_edges
from jaxlab.papers.mvs_gnn.sampling import LayerSampler

_ENTRY = np.dtype([('sender', np.int32), ('weight', np.float32)])


@dataclass(eq=False)
class NodeWise(LayerSampler):
  """Loops apart from the entries of others."""

  def __post_init__(self):
    super().__post_init__()
    operator = self.operator
    rows = np.repeat(np.arange(operator.num_nodes), operator.degrees)
    own = rows == operator.indices
    self._loop = np.zeros(operator.num_nodes, np.float32)
    self._loop[rows[own]] = operator.weight[own]
    ends = np.cumsum(
      operator.degrees - np.bincount(rows[own], minlength=len(self._loop))
    )
    # Sender beside weight: an entry drawn at random is one miss of the cache
    # instead of two. `_others` looks at the same memory.
    self._entries = np.empty(ends[-1], _ENTRY)
    self._entries['sender'] = operator.indices[~own]
    self._entries['weight'] = operator.weight[~own]
    self._others = Operator(
      np.concatenate([[0], ends]).astype(np.int64),
      self._entries['sender'],
      self._entries['weight'],
    )

  def _loops(self, nodes: np.ndarray) -> Edges:
    kept = np.flatnonzero(self._loop[nodes])
    own = nodes[kept]
    return Edges(own, kept.astype(np.int32), self._loop[own])

  def _all(self, nodes: np.ndarray) -> Edges:
    return self._taken(*self._others.rows(nodes))

  def _taken(self, at: np.ndarray, receivers: np.ndarray) -> Edges:
    found = self._entries.take(at)
    column = lambda name: np.ascontiguousarray(found[name])
    return Edges(column('sender'), receivers, column('weight'))

  def _drawn(
    self, rng, nodes: np.ndarray, fan_out: int, replace: bool
  ) -> Edges:
    """`fan_out` entries of each row, weighted up; all of a shorter row."""
    first = self._others.indptr[nodes]
    degree = self._others.indptr[nodes + 1] - first
    short = degree == 0 if replace else degree <= fan_out
    few, many = np.flatnonzero(short), np.flatnonzero(~short)
    draw = _with_replacement if replace else _subsets
    at = draw(rng, degree[many], fan_out) + first[many, None]
    receivers = np.repeat(many.astype(np.int32), fan_out)
    scale = (degree[many] / fan_out).astype(np.float32)
    drawn = self._taken(at.reshape(-1), receivers)
    drawn = drawn.times(np.repeat(scale, fan_out))
    whole = self._all(nodes[few])
    whole = whole._replace(receivers=few[whole.receivers].astype(np.int32))
    return joined(whole, drawn)


@dataclass(eq=False)
class Uniform(NodeWise):
  """Uniform seeds and all neighbours in every layer: exact embeddings."""

  def edges(self, rng, level, nodes):
    return all_edges(self.operator, level, nodes)


@dataclass(eq=False)
class Neighbour(NodeWise):
  """GraphSAGE: as many neighbours of each node as the fan-out says.

  An entry weighs L_ij degree / fan-out. A node with no more neighbours than
  the fan-out keeps them all as they are.

  With `official_rows` as the baseline of MVS' official code: each row draws as
  many of its entries, with replacement and its loop among them; then every row
  keeps its entries at all nodes that any row drew or that are destinations, and
  is divided by max(1, its sum). Where the rows of L sum to less than 1 a
  sampled row is thus never scaled up: biased towards 0.

  Raises:
    InputError: as many fan-outs as layers are needed, all at least 1.
  """

  fan_outs: Sequence[int] = (10, 10)  # from the output layer down
  replace: bool = False  # draw with replacement, from rows that have an entry
  official_rows: bool = False

  def __post_init__(self):
    super().__post_init__()
    self.unbiased = not self.official_rows
    if len(self.fan_outs) != self.num_layers:
      raise InputError(
        f'fan_outs = {tuple(self.fan_outs)} are {len(self.fan_outs)}, and '
        f'there are {self.num_layers} layers'
      )
    for fan_out in self.fan_outs:
      _check(fan_out)

  def edges(self, rng, level, nodes):
    fan_out = self.fan_outs[self.num_layers - 1 - level]
    if self.official_rows:
      return self._official(rng, level, nodes, fan_out)
    drawn = self._drawn(rng, nodes, fan_out, self.replace)
    return joined(drawn, self._loops(nodes))

  def _official(self, rng, level, nodes: np.ndarray, fan_out: int) -> Edges:
    operator = self.operator
    some = nodes[operator.degrees[nodes] > 0]
    at = _with_replacement(rng, operator.degrees[some], fan_out)
    kept = np.zeros(operator.num_nodes, bool)
    kept[operator.indices[at + operator.indptr[some, None]]] = True
    kept[nodes] = True
    found = all_edges(operator, level, nodes)
    found = found.take(np.flatnonzero(kept[found.senders]))
    total = np.bincount(found.receivers, found.weight, len(nodes))
    return found.times((1 / np.maximum(1, total))[found.receivers])


@dataclass(eq=False)
class VRGCN(NodeWise):
  """Control variates: all neighbours' histories, and the change of a few.

  sum_j L_ij H_j + degree / fan-out sum_drawn L_ij (h_j - H_j); the first layer
  takes all features. Unbiased for every history.

  Raises:
    InputError: a fan-out below 1.
  """

  history = True
  fan_out: int = 2  # neighbours of each node whose new values are computed

  def __post_init__(self):
    super().__post_init__()
    _check(self.fan_out)

  def edges(self, rng, level, nodes):
    if not level:
      return all_edges(self.operator, level, nodes)
    known, new = self._all(nodes), self._drawn(rng, nodes, self.fan_out, False)
    loops = self._loops(nodes)
    return joined(
      known._replace(weight=np.zeros_like(known.weight), history=known.weight),
      new._replace(history=-new.weight),
      loops._replace(history=np.zeros_like(loops.weight)),
    )


@dataclass(eq=False)
class Labor(NodeWise):
  """LABOR-0: one random number a sender, which all of its receivers share.

  The entry (i, j) is kept where u_j <= p_i = min(1, fan-out / degree_i), and
  weighs L_ij / p_i. Fewer distinct senders than draws of every row by itself,
  and a random number of them.

  Raises:
    InputError: a fan-out below 1.
  """

  fan_out: int = 10  # the expected number of neighbours of each node

  def __post_init__(self):
    super().__post_init__()
    _check(self.fan_out)

  def edges(self, rng, level, nodes):
    found = self._all(nodes)
    degree = self._others.degrees[nodes]
    chance = np.minimum(1.0, self.fan_out / np.maximum(degree, 1))
    shared = rng.random(self.operator.num_nodes)
    kept = np.flatnonzero(shared[found.senders] < chance[found.receivers])
    drawn = found.take(kept)
    drawn = drawn.times(1 / chance[drawn.receivers])
    return joined(drawn, self._loops(nodes))


def joined(*parts: Edges) -> Edges:
  """Edges one behind the other; all have a history or none."""
  stack = lambda name: np.concatenate([getattr(part, name) for part in parts])
  history = None if parts[0].history is None else stack('history')
  return Edges(stack('senders'), stack('receivers'), stack('weight'), history)


def _check(fan_out: int) -> None:
  if fan_out < 1:
    raise InputError(f'a fan-out of {fan_out} draws nothing; give at least 1')


def _below(rng, bounds: np.ndarray) -> np.ndarray:
  """Uniform integers in [0, bound) for each of [r] bounds below 2**31.

  32 random bits times the bound, its upper half: no number is more likely than
  another by more than bound / 2**32.
  """
  bits = rng.integers(0, 2**32, len(bounds), np.uint32).astype(np.uint64)
  return ((bits * bounds.astype(np.uint64)) >> np.uint64(32)).astype(np.int32)


def _with_replacement(rng, degree: np.ndarray, count: int) -> np.ndarray:
  """[r, count] int32 places in rows of [r] degrees, each on its own."""
  drawn = np.empty((count, len(degree)), np.int32)
  for i in range(count):
    drawn[i] = _below(rng, degree)
  return drawn.T


def _subsets(rng, degree: np.ndarray, count: int) -> np.ndarray:
  """[r, count] int32 distinct places in rows of [r] degrees > count.

  R. Floyd's algorithm (J. Bentley, CACM 30(9), 1987), for all rows at once:
  every subset is as likely. Draw i is from the first degree - count + i + 1
  places; if that is taken already, the last of these is, which cannot be.
  """
  drawn = np.empty((count, len(degree)), np.int32)
  for i in range(count):
    last = degree - count + i
    new = _below(rng, last + 1)
    taken = (drawn[:i] == new).any(0)
    drawn[i] = np.where(taken, last, new)
  return drawn.T
