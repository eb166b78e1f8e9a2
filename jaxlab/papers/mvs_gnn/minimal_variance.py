"""The paper's samplers: batches of minimal variance and the refreshes.

Source: Algorithm 1, (7) and (9); see `method` for the probabilities.
"""

import copy
from dataclasses import dataclass
from typing import Literal

import numpy as np

from jaxlab.core.errors import InputError
from jaxlab.papers.mvs_gnn import method
from jaxlab.papers.mvs_gnn.blocks import Edges, Sample, all_edges
from jaxlab.papers.mvs_gnn.nodewise import Uniform
from jaxlab.papers.mvs_gnn.sampling import Sampler

Draw = Literal['systematic', 'bernoulli']


@dataclass(eq=False)
class MVS(Sampler):
  """Seeds V_B out of the last refresh's nodes V_S, by their gradient norms.

  V_B is the one node set of all layers, (7): the first layer gathers all
  features; above it the values of V_B are fresh, those of others historical.
  A seed weighs 1 / (p_i |V_S|), so that the loss estimates the mean over V_S,
  itself a uniform part of the training nodes.

  Norms that are 0 are never drawn unless `mix` or `floor` is above 0, and where
  no more than batch_size are positive all of these are drawn with p = 1: the
  batch is then smaller. If all are 0, p is uniform.

  Args:
    batch_size: B = sum of p; |V_S| where that is less.
    draw: 'systematic': always B seeds. 'bernoulli': the paper's independent
      draws, B on the average.
    mix: alpha in [0, 1]; p becomes (1 - alpha) p + alpha B / |V_S|.
    floor: in [0, 1]; p is at least this much of B / |V_S|.
    clip: weights are at most this many times 1 / B, those of a uniform batch;
      0: as they are. Clipped weights are biased.
    history: False: every layer gathers all neighbours and computes them, as a
      refresh does: no value is old and gradients pass through all of them. Of
      the paper's method the nodes and their weights are left.
  """

  history: bool = True
  draw: Draw = 'systematic'
  mix: float = 0.0
  floor: float = 0.0
  clip: float = 0.0

  def __post_init__(self):
    super().__post_init__()
    if self.draw not in ('systematic', 'bernoulli'):
      raise InputError(
        f'draw "{self.draw}" is not one of systematic, bernoulli'
      )
    for name in ('mix', 'floor'):
      if not 0 <= (value := getattr(self, name)) <= 1:
        raise InputError(f'{name} = {value} is not in [0, 1]')
    if not self.clip >= 0:
      raise InputError(
        f'clip = {self.clip} must be at least 0; 0 clips nothing'
      )
    self.unbiased = self.clip == 0
    self.publish(self.train, np.ones(len(self.train)))

  def publish(self, ids: np.ndarray, norms: np.ndarray) -> None:
    """Takes the nodes of a refresh; before the first, all of one norm.

    Args:
      ids: [s] int, nodes, each once.
      norms: [s], of their gradients, finite and >= 0.

    Raises:
      ValueError: ids out of range or repeated, or such norms.
    """
    ids, norms = np.asarray(ids), np.asarray(norms, np.float64)
    if ids.ndim != 1 or not ids.size or ids.shape != norms.shape:
      raise ValueError(
        f'ids {ids.shape} and norms {norms.shape} must be [s], s >= 1'
      )
    nodes = self.operator.num_nodes
    if ids.min() < 0 or ids.max() >= nodes or np.bincount(ids).max() > 1:
      raise ValueError(f'ids must be different nodes, in [0, {nodes})')
    if not norms.any():
      norms = np.ones(len(ids))
    size = min(self.batch_size, len(ids))
    p = method.minimal_variance_probabilities(norms, size)
    p = method.mix(p, self.mix, size)
    p = method.floor(p, self.floor * size / len(ids), size)
    self.ids, self.probabilities = ids.astype(np.int32), p

  def sample(self, rng: np.random.Generator) -> Sample:
    """One V_B and what it gathers."""
    seeds, seed_weight = self._seeds(rng)
    operator = self.operator
    fresh = np.zeros(operator.num_nodes, bool)
    fresh[seeds] = True

    def draw(level: int, nodes: np.ndarray) -> Edges:
      edges = all_edges(operator, level, nodes)
      if level == 0 or not self.history:
        return edges
      of, weight = fresh[edges.senders], edges.weight
      return edges._replace(
        weight=np.where(of, weight, np.float32(0)),
        history=np.where(of, np.float32(0), weight),
      )

    return self.assembler.sample(rng, seeds, seed_weight, self.num_layers, draw)

  def trial(self, rng: np.random.Generator) -> Sample:
    """As if norms were degrees: fresh norms may favour nodes of many edges."""
    other = copy.copy(self)
    other.publish(self.train, self.operator.degrees[self.train])
    return other.sample(rng)

  def _seeds(self, rng):
    p = self.probabilities
    if self.draw == 'systematic':
      order = rng.permutation(len(p))
      drawn = method.systematic_draw(rng.random(), order, p)
    else:
      drawn = method.bernoulli_draw(rng.random(len(p)), p)
    weight = method.horvitz_thompson_weights(p[drawn], len(p))
    if self.clip:
      size = min(self.batch_size, len(p))
      weight = method.clip_weights(weight, self.clip / size)
    return self.ids[drawn], weight


@dataclass(eq=False)
class Refresh(Uniform):
  """Large batches V_S: uniform seeds and every neighbour, exact in all layers.

  Its batches grow with the neighbourhoods of all layers, as the paper's do.
  """
