"""Batches of sampled layers as arrays, and back.

A global batch has `lanes` rows: every array of the padded sample is cut into so
many equal parts, and the devices share the lanes. The step joins them again, so
that what is computed does not depend on the number of devices.

  '<l>/id' [lanes, s/lanes] …   a layer's sources, senders, receivers, weights
  'features'                    of the first layer's sources
  'seed', 'label', 'weight'     of the output
  'overflow', '<l>/real'        one number, in every lane
"""

import abc
import copy
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jraph
import numpy as np

from jaxlab.core.source import ArraySpec
from jaxlab.papers.mvs_gnn.blocks import (
  Budget,
  Edges,
  Layer,
  Padded,
  Sample,
  budget_for,
  pad,
)
from jaxlab.papers.mvs_gnn.sampling import Sampler

_DRAW, _FIT = 0, 1  # streams of random numbers
PUBLISHING = ('refresh', 'publish')  # kinds of steps


class NodeData(NamedTuple):
  """The nodes of a graph, as batches tell of them."""

  features: np.ndarray  # [n, f] float32
  labels: np.ndarray  # [n] int32, or [n, k] uint8


class Shape(NamedTuple):
  """Of the padded samples of a step kind."""

  budget: Budget
  history: bool = False

  @property
  def levels(self) -> int:
    return len(self.budget.edges)


def generator(seed: int, *counts: int) -> np.random.Generator:
  """The generator of a step: a function of the run's seed and the counts."""
  return np.random.default_rng(np.random.SeedSequence((seed, *counts)))


def arrays_of(padded: Padded, nodes: NodeData, lanes: int) -> dict:
  """The global batch, [lanes, …] each."""
  found = {}
  for level, graph in enumerate(padded.layers):
    found[f'{level}/id'] = graph.nodes['id']
    found[f'{level}/senders'] = graph.senders
    found[f'{level}/receivers'] = graph.receivers
    for name, values in graph.edges.items():
      found[f'{level}/{name}'] = values
  last = len(nodes.labels) - 1
  first = np.minimum(padded.layers[0].nodes['id'], last)
  found['features'] = np.take(nodes.features, first, axis=0)
  found['seed'] = padded.seeds
  found['label'] = np.take(nodes.labels, np.minimum(padded.seeds, last), axis=0)
  found['weight'] = padded.seed_weight
  batch = {
    name: array.reshape(lanes, -1, *array.shape[1:])
    for name, array in found.items()
  }
  batch['overflow'] = np.full(lanes, padded.overflow, np.int32)
  for level, graph in enumerate(padded.layers):
    real = graph.globals['destinations'][0]
    batch[f'{level}/real'] = np.full(lanes, real, np.int32)
  return batch


def empty(shape: Shape) -> Padded:
  """A sample of that shape which holds nothing but padding, nodes of id 0."""
  none, weight = np.zeros(0, np.int32), np.zeros(0, np.float32)
  layers = tuple(
    Layer(none, 0, 0, none, Edges(none, none, weight, old))
    for old in [None, *[weight if shape.history else None] * (shape.levels - 1)]
  )
  return pad(Sample(layers, none, weight, 0), shape.budget, 0)


def whole(batch: Mapping[str, jax.Array], name: str) -> jax.Array:
  """An array of a batch with its lanes joined."""
  return batch[name].reshape(-1, *batch[name].shape[2:])


def layer_of(batch: Mapping[str, jax.Array], level: int) -> jraph.GraphsTuple:
  """A layer of a batch; its counts are not there."""
  at = lambda name: whole(batch, f'{level}/{name}')
  names = [n for n in ('weight', 'history') if f'{level}/{n}' in batch]
  return jraph.GraphsTuple(
    nodes={'id': at('id')},
    edges={name: at(name) for name in names},
    senders=at('senders'),
    receivers=at('receivers'),
    n_node=None,
    n_edge=None,
    globals=None,
  )


def real_ids(
  batch: Mapping[str, jax.Array], level: int, outputs: int, nodes: int
) -> jax.Array:
  """[outputs] int32 nodes of a layer's destinations; `nodes` + 1: padding."""
  real = jnp.arange(outputs) < batch[f'{level}/real'].max()
  ids = whole(batch, f'{level}/id')[:outputs]
  return jnp.where(real, ids, nodes + 1)


def shape_for(
  samples: list[Sample],
  num_nodes: int,
  headroom: float,
  lanes: int,
  history: bool = False,
) -> Shape:
  """A shape for samples like these; 128: a lane of an accelerator."""
  multiple = int(np.lcm(lanes, 128))
  return Shape(budget_for(samples, num_nodes, headroom, multiple), history)


def fitted(
  sampler: Sampler, seed: int, draws: int, headroom: float, lanes: int
) -> Shape:
  """The shape of a sampler: what `draws` samples need, times a headroom."""
  found = [sampler.trial(generator(seed, _FIT, i)) for i in range(draws)]
  nodes = sampler.operator.num_nodes
  return shape_for(found, nodes, headroom, lanes, sampler.history)


class PaddedSource(abc.ABC):
  """Batches of samples, padded to the shape of their step kind."""

  def __init__(
    self, nodes: NodeData, shapes: Mapping[str, Shape], lanes: int
  ) -> None:
    self.nodes, self.shapes, self.lanes = nodes, shapes, lanes
    # Made once: the feed's thread is in `batch` while others ask for it.
    self.spec = {
      kind: {
        name: ArraySpec(array.shape, array.dtype)
        for name, array in self.arrays(kind, empty(shape)).items()
      }
      for kind, shape in shapes.items()
    }

  @abc.abstractmethod
  def kind(self, step: int) -> str:
    """The step kind of a batch."""

  @abc.abstractmethod
  def sample(self, step: int) -> Sample:
    """The sample of a batch; a function of the step."""

  def batch(self, step: int, rows: slice) -> dict[str, np.ndarray]:
    kind = self.kind(step)
    budget, nodes = self.shapes[kind].budget, len(self.nodes.labels)
    batch = self.arrays(kind, pad(self.sample(step), budget, nodes))
    return {name: array[rows] for name, array in batch.items()}

  def arrays(self, kind: str, padded: Padded) -> dict[str, np.ndarray]:
    """The global batch of a padded sample."""
    return arrays_of(padded, self.nodes, self.lanes)


class SampledBatches(PaddedSource):
  """Endless batches of a sampler: functions of (seed, step)."""

  def __init__(
    self,
    nodes: NodeData,
    sampler: Sampler,
    shapes: Mapping[str, Shape],
    lanes: int,
    seed: int,
  ):
    super().__init__(nodes, shapes, lanes)
    self.seed = seed
    self.sampler = copy.copy(sampler)  # what is published stays here
    self.sampler.within(shapes['train'].budget)

  def kind(self, step: int) -> str:
    return 'train'

  def sample(self, step: int) -> Sample:
    return self.sampler.sample(generator(self.seed, _DRAW, step))


class RefreshedBatches(SampledBatches):
  """The same with a large batch every K steps, whose norms are published.

  Batches 0, K, 2K, … are drawn by `refresh` and are of the step kind 'refresh';
  what the step then publishes goes to `sampler`: batches are functions of
  (seed, step, snapshot). Between two refreshes the norms of its nodes are
  published again every M steps, by steps of the kind 'publish', so that later
  batches follow them.

  Args:
    refresh: draws the large batches.
    every: K, at least 1.
    publish_every: M; 0: never.

  Attributes:
    followers: all samplers that get the snapshot.
  """

  def __init__(
    self, *args, refresh: Sampler, every: int, publish_every: int, **more
  ):
    super().__init__(*args, **more)
    self.refresh, self.every = copy.copy(refresh), every
    self.publish_every = publish_every
    self.followers: list = [self.sampler]
    self.refresh.within(self.shapes['refresh'].budget)
    kinds = {self.kind(step) for step in range(every)}  # those that occur
    self.spec = {k: of for k, of in self.spec.items() if k in kinds}

  def kind(self, step: int) -> str:
    if not step % self.every:
      return 'refresh'
    m = self.publish_every
    return 'publish' if m and not step % self.every % m else 'train'

  def sample(self, step: int) -> Sample:
    if step % self.every:
      return super().sample(step)
    return self.refresh.sample(generator(self.seed, _DRAW, step))

  def publishes(self, step: int) -> bool:
    """Whether the step's State has a new snapshot."""
    return self.kind(step) in PUBLISHING

  def publish(self, snapshot: Mapping[str, np.ndarray]) -> None:
    """Takes {'id', 'norm'} of the last such step; id n is padding."""
    real = snapshot['id'] < len(self.nodes.labels)
    if real.any():
      for sampler in self.followers:
        sampler.publish(snapshot['id'][real], snapshot['norm'][real])
