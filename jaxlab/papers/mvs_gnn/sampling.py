"""What every sampler of the package is."""

import abc
from dataclasses import dataclass
from functools import partial

import numpy as np

from jaxlab.core.errors import InputError
from jaxlab.papers.mvs_gnn.blocks import (
  Assembler,
  Budget,
  Edges,
  Operator,
  Sample,
)


@dataclass(eq=False)
class Sampler(abc.ABC):
  """Draws the layers of a batch; what is drawn depends on the generator alone.

  Raises:
    InputError: there are no training nodes, or fewer than a batch takes.
  """

  operator: Operator  # L, one for all layers
  train: np.ndarray  # [t] int nodes with a training label, each once
  batch_size: int  # seeds of a batch, or as many as a sampler aims at
  num_layers: int  # layers that gather

  # Whether the expected value of every layer, for given values below it that a
  # history holds as well, is the row of L H, and the seeds' weighted loss the
  # mean training loss.
  unbiased = True
  history = False  # whether edges have a historical weight

  def __post_init__(self):
    if not len(self.train):
      raise InputError('the graph has no training nodes; see its split')
    if not 1 <= self.batch_size <= len(self.train):
      raise InputError(
        f'batch_size = {self.batch_size} is not in [1, {len(self.train)}], '
        'the number of training nodes'
      )
    self.train = self.train.astype(np.int32)
    self.assembler = Assembler(self.operator.num_nodes)

  def within(self, budget: Budget) -> None:
    """From now on samples fit the budget; see `Assembler`."""
    self.assembler = Assembler(self.operator.num_nodes, budget)

  @abc.abstractmethod
  def sample(self, rng: np.random.Generator) -> Sample:
    """One batch."""

  def trial(self, rng: np.random.Generator) -> Sample:
    """A batch to measure buckets by: as large as batches get later."""
    return self.sample(rng)

  def uniform_seeds(
    self, rng: np.random.Generator
  ) -> tuple[np.ndarray, np.ndarray]:
    """[b] training nodes, each subset as likely, and weights 1 / b."""
    seeds = rng.choice(self.train, self.batch_size, replace=False)
    return seeds, np.full(self.batch_size, 1 / self.batch_size, np.float32)


@dataclass(eq=False)
class LayerSampler(Sampler):
  """Uniform seeds; `edges` says what a layer gathers."""

  def sample(self, rng: np.random.Generator) -> Sample:
    """Seeds, and the senders of all layers."""
    edges = partial(self.edges, rng)
    seeds = self.uniform_seeds(rng)
    return self.assembler.sample(rng, *seeds, self.num_layers, edges)

  @abc.abstractmethod
  def edges(
    self, rng: np.random.Generator, level: int, nodes: np.ndarray
  ) -> Edges:
    """What layer `level` gathers for [d] destinations."""
