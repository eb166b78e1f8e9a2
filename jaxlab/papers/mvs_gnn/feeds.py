"""Batches of sampled layers as arrays, and back.

A global batch has `lanes` rows: every array of the padded sample is cut into so
many equal parts, and the devices share the lanes. The step joins them again, so
that what is computed does not depend on the number of devices.

  '<l>/id' [lanes, s/lanes] …   a layer's sources, senders, receivers, weights
  'features'                    of the first layer's sources
  'seed', 'label', 'weight'     of the output
  'overflow', '<l>/real'        one number, in every lane
"""

from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jraph
import numpy as np

from jaxlab.engine.errors import InputError
from jaxlab.engine.source import ArraySpec
from jaxlab.papers.mvs_gnn.blocks import (
  Budget,
  Edges,
  Layer,
  Padded,
  Sample,
  fit_budget,
  pad,
)
from jaxlab.papers.mvs_gnn.sampling import Sampler

_FIT = 1  # streams of random numbers
PUBLISHING = ('refresh', 'publish')  # kinds of steps


class Nodes(NamedTuple):
  """What a batch says of nodes."""

  features: np.ndarray  # [n, f] float32
  labels: np.ndarray  # [n] int32, or [n, k] uint8


class Shape(NamedTuple):
  """Of the padded samples of a step kind."""

  budget: Budget
  history: bool

  @property
  def levels(self) -> int:
    return len(self.budget.edges)


def generator(seed: int, *counts: int) -> np.random.Generator:
  """The generator of a step: a function of the run's seed and the counts."""
  return np.random.default_rng(np.random.SeedSequence((seed, *counts)))


def arrays_of(padded: Padded, nodes: Nodes, lanes: int) -> dict:
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


def spec_of(shape: Shape, nodes: Nodes, lanes: int) -> dict[str, ArraySpec]:
  """Shapes and dtypes of `arrays_of`."""
  none, weight = np.zeros(0, np.int32), np.zeros(0, np.float32)
  layers = tuple(
    Layer(none, 0, 0, none, Edges(none, none, weight, old))
    for old in [None, *[weight if shape.history else None] * (shape.levels - 1)]
  )
  padded = pad(Sample(layers, none, weight, 0), shape.budget, len(nodes.labels))
  return {
    name: ArraySpec(array.shape, array.dtype)
    for name, array in arrays_of(padded, nodes, lanes).items()
  }


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


def blank(shape: Shape):
  """Layers of the shape that hold nothing, to make parameters with."""
  budget = shape.budget
  batch = {}
  for level, (nodes, edges) in enumerate(zip(budget.nodes, budget.edges)):
    batch[f'{level}/id'] = jnp.zeros((1, nodes), jnp.int32)
    batch[f'{level}/senders'] = jnp.zeros((1, edges), jnp.int32)
    batch[f'{level}/receivers'] = jnp.zeros((1, edges), jnp.int32)
    batch[f'{level}/weight'] = jnp.zeros((1, edges))
  return tuple(map(partial(layer_of, batch), range(shape.levels)))


def fitted(sampler: Sampler, *, seed: int, draws: int, headroom: float, lanes):
  """The budget of a sampler: what `draws` samples need, and some more.

  Raises:
    InputError: headroom below 1, or no draw.
  """
  if headroom < 1 or draws < 1:
    raise InputError(
      f'config.sampler.headroom = {headroom} must be >= 1 and '
      f'config.sampler.draws = {draws} at least 1'
    )
  found = [sampler.trial(generator(seed, _FIT, i)) for i in range(draws)]
  return budget_for(found, sampler.operator.num_nodes, headroom, lanes)


def budget_for(
  samples: list[Sample], num_nodes: int, headroom: float, lanes: int
) -> Budget:
  """A budget for samples like these; no array of nodes is above all nodes."""
  levels = len(samples[0].layers)
  largest = Budget(
    (num_nodes,) * levels, (2**31 - 1,) * levels, (num_nodes,) * levels
  )
  # 128: a lane of an accelerator's registers.
  multiple = int(np.lcm(lanes, 128))
  return fit_budget(
    samples, headroom=headroom, multiple=multiple, largest=largest
  )


class SampledBatches:
  """Endless batches of a sampler, with refreshes where it learns.

  Batch t is a function of (seed, t, published snapshot). With `refresh`, every
  batch 0, K, 2K, … is drawn by that sampler and is of the step kind 'refresh';
  what the step then publishes goes to `sampler`.
  """

  def __init__(
    self,
    nodes: Nodes,
    sampler: Sampler,
    shape: Shape,
    *,
    lanes: int,
    seed: int,
    stream: int = 0,
  ):
    self.nodes, self.sampler, self.shape = nodes, sampler, shape
    self.lanes, self.seed, self.stream = lanes, seed, stream
    sampler.within(shape.budget)
    self.spec = {'train': spec_of(shape, nodes, lanes)}

  def kind(self, step: int) -> str:
    return 'train'

  def batch(self, step: int, rows: slice) -> dict[str, np.ndarray]:
    sample = self.sampler.sample(generator(self.seed, self.stream, step))
    return self._cut(sample, self.shape.budget, rows)

  def _cut(self, sample, budget, rows):
    padded = pad(sample, budget, len(self.nodes.labels))
    batch = arrays_of(padded, self.nodes, self.lanes)
    return {name: array[rows] for name, array in batch.items()}


class RefreshedBatches(SampledBatches):
  """The same with a large batch every K steps, whose norms are published.

  Between two of these the norms of its nodes are published again every M steps,
  by steps of the kind 'publish', so that later batches follow them.

  Args:
    refresh: draws the large batches.
    large: their shape.
    every: K, at least 1.
    publish_every: M; 0: never.

  Attributes:
    followers: further samplers that get the snapshot.
  """

  def __init__(
    self,
    *args,
    refresh: Sampler,
    large: Shape,
    every: int,
    publish_every: int,
    **more,
  ):
    super().__init__(*args, **more)
    self.refresh, self.large, self.every = refresh, large, every
    self.publish_every = publish_every
    self.followers: list = []
    refresh.within(large.budget)
    specs = {'refresh': spec_of(large, self.nodes, self.lanes)}
    kinds = {self.kind(step) for step in range(every)}
    self.spec = {k: specs.get(k, self.spec['train']) for k in sorted(kinds)}

  def kind(self, step: int) -> str:
    if not step % self.every:
      return 'refresh'
    m = self.publish_every
    return 'publish' if m and not step % self.every % m else 'train'

  def batch(self, step: int, rows: slice) -> dict[str, np.ndarray]:
    if step % self.every:
      return super().batch(step, rows)
    sample = self.refresh.sample(generator(self.seed, self.stream, step))
    return self._cut(sample, self.large.budget, rows)

  def publishes(self, step: int) -> bool:
    """Whether the step's State has a new snapshot."""
    return self.kind(step) in PUBLISHING

  def publish(self, snapshot: Mapping[str, np.ndarray]) -> None:
    """Takes {'id', 'norm'} of the last such step; id n is padding."""
    real = snapshot['id'] < len(self.nodes.labels)
    if real.any():
      found = snapshot['id'][real], snapshot['norm'][real]
      for sampler in [self.sampler, *self.followers]:
        sampler.publish(*found)
