"""Layer-wise samplers: FastGCN and LADIES draw the nodes of a whole layer.

Both draw senders j for all destinations at once, with chances that follow
the columns of L, and keep every entry of L between the two.

Destinations are sources of their layer in any case (see `blocks`), so that
self loops have a value to carry; the samplers treat them differently:

- FastGCN gives them no entries of their own accord: one counts only as often
  as it is drawn, as in the paper.
- LADIES keeps their entries as they are in L, for their values are there at no
  cost, and draws from the other nodes. The published code adds them to the
  drawn nodes with a weight as if they had been drawn, which is biased.

Source: Chen, Ma and Xiao, FastGCN, ICLR 2018, algorithm 2; Zou et al., LADIES,
NeurIPS 2019, algorithm 1.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from jaxlab.core.errors import InputError
from jaxlab.papers.mvs_gnn import method
from jaxlab.papers.mvs_gnn.blocks import Edges, Operator
from jaxlab.papers.mvs_gnn.sampling import LayerSampler

Draw = Literal['systematic', 'replacement']


def column_norms(operator: Operator) -> np.ndarray:
  """[n] float64, ||L[:, j]||^2 of every node j."""
  squares = np.square(operator.weight, dtype=np.float64)
  return np.bincount(operator.indices, squares, operator.num_nodes)


def keep_row_sums(edges: Edges, wanted: np.ndarray) -> Edges:
  """Edges with the rows scaled to given sums, of [d]; empty rows stay so."""
  found = np.bincount(edges.receivers, edges.weight, len(wanted))
  scale = np.divide(wanted, found, out=np.zeros(len(wanted)), where=found != 0)
  weight = edges.weight * scale[edges.receivers]
  return edges._replace(weight=weight.astype(np.float32))


def row_sums(operator: Operator) -> np.ndarray:
  """[n] float64, the sums of the rows of L."""
  nodes = np.arange(operator.num_nodes)
  receivers = np.repeat(nodes, operator.degrees)
  return np.bincount(receivers, operator.weight, operator.num_nodes)


@dataclass(eq=False)
class _Layerwise(LayerSampler):
  layer_size: int  # m

  def __post_init__(self):
    super().__post_init__()
    if self.layer_size < 1:
      raise InputError(
        f'layer_size = {self.layer_size} draws no nodes; give at least 1'
      )


@dataclass(eq=False)
class FastGCN(_Layerwise):
  """Every layer draws from all nodes, with chances that no layer changes.

  `layer_size` = m draws with replacement, q_j ~ ||L[:, j]||^2; an entry weighs
  L_ij c_j / (m q_j), where node j was drawn c_j times. Unbiased, layer by
  layer; a destination none of whose neighbours is drawn has an empty row.
  """

  def __post_init__(self):
    super().__post_init__()
    self._norms = column_norms(self.operator)
    self._ends = np.cumsum(self._norms)

  def edges(self, rng, level, nodes):
    scale = np.zeros(self.operator.num_nodes)
    if self._ends[-1] > 0:
      at = draw_with_replacement(rng, self._ends, self.layer_size)
      np.add.at(scale, at, self._ends[-1] / (self.layer_size * self._norms[at]))
    return entries(self.operator, nodes, scale)


@dataclass(eq=False)
class LADIES(_Layerwise):
  """Every layer draws from the neighbours of its destinations.

  q_j ~ sum over the destinations i of L_ij^2, for the neighbours j that are no
  destinations themselves; those carry their own entries, unchanged.

  Args:
    layer_size: m, the nodes drawn; where there are no more than m neighbours,
      'systematic' takes all of them.
    draw: 'systematic': m different nodes, node j with the chance
      p_j = min(1, q_j / mu), sum p = m; an entry weighs L_ij / p_j.
      'replacement': m draws, an entry weighs L_ij c_j / (m q_j).
    normalise: rows are scaled to the sum that they have in L: the paper's row
      normalisation where L is `row`. Less variance, but biased.

  Departs from the paper: without normalise it is unbiased, layer by layer.
  """

  draw: Draw = 'systematic'
  normalise: bool = False

  def __post_init__(self):
    super().__post_init__()
    if self.draw not in ('systematic', 'replacement'):
      raise InputError(
        f'draw "{self.draw}" is not one of systematic, replacement'
      )
    self.unbiased = not self.normalise
    self._row_sums = row_sums(self.operator) if self.normalise else None

  def edges(self, rng, level, nodes):
    operator = self.operator
    found, _ = operator.rows(nodes)
    squares = np.square(operator.weight[found], dtype=np.float64)
    norms = np.bincount(operator.indices[found], squares, operator.num_nodes)
    norms[nodes] = 0
    others = np.flatnonzero(norms)
    scale = np.zeros(operator.num_nodes)
    scale[nodes] = 1
    if len(others):
      self._draw_others(rng, others, norms[others], scale)
    edges = entries(operator, nodes, scale)
    if self._row_sums is None:
      return edges
    return keep_row_sums(edges, self._row_sums[nodes])

  def _draw_others(self, rng, others, norms, scale) -> None:
    """Writes count / (m q) or 1 / p of the drawn nodes into the scale."""
    if self.draw == 'replacement':
      ends = np.cumsum(norms)
      at = draw_with_replacement(rng, ends, self.layer_size)
      np.add.at(scale, others[at], ends[-1] / (self.layer_size * norms[at]))
    else:
      p = method.minimal_variance_probabilities(norms, self.layer_size)
      order = rng.permutation(len(p))
      drawn = method.systematic_draw(rng.random(), order, p)
      scale[others[drawn]] = 1 / p[drawn]


def draw_with_replacement(
  rng: np.random.Generator, ends: np.ndarray, draws: int
) -> np.ndarray:
  """[draws] positions, drawn in proportion to what [k] sums `ends` sum up."""
  at = np.searchsorted(ends, rng.random(draws) * ends[-1], side='right')
  # A product that rounds up to the whole sum is behind the last position.
  return np.minimum(at, np.searchsorted(ends, ends[-1]))


def entries(operator: Operator, nodes: np.ndarray, scale: np.ndarray) -> Edges:
  """Entries of some rows, times [n] a scale of their sender; none of 0."""
  found, receivers = operator.rows(nodes)
  senders = operator.indices[found]
  factor = scale[senders]
  kept = np.flatnonzero(factor)
  weight = operator.weight[found[kept]] * factor[kept]
  return Edges(senders[kept], receivers[kept], weight.astype(np.float32))
