"""Source: where batches come from.

A batch is a pure function of (config, step, published snapshot). Randomness is
keyed by global example index, so that nothing depends on the number of hosts,
devices or workers, and a resumed run needs no iterator state.
"""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import numpy as np


class ArraySpec:
  """Shape and dtype of one array of a global batch."""

  def __init__(self, shape: tuple[int, ...], dtype):
    self.shape = tuple(shape)
    self.dtype = np.dtype(dtype)

  def __repr__(self):
    return f'ArraySpec({self.shape}, {self.dtype})'


Spec = Mapping[str, ArraySpec]  # array name -> leading axis: global rows


@runtime_checkable
class Source(Protocol):
  """A random-access stream of batches. Picklable where workers are used."""

  @property
  def spec(self) -> Mapping[str, Spec]:
    """Step kind -> the arrays of one global batch."""
    ...

  def kind(self, step: int) -> str:
    """The step kind of batch `step`; most sources know 'train' alone."""
    ...

  def batch(self, step: int, rows: slice) -> dict[str, np.ndarray]:
    """Rows `rows` of global batch `step`, as NumPy arrays.

    A finite source may return fewer rows at its end; the feed pads them.
    """
    ...


class Finite(Source, Protocol):
  """A source that ends, for evaluations."""

  @property
  def num_batches(self) -> int: ...


class Publishing(Source, Protocol):
  """A source that learns from training: the one back edge of the engine."""

  def publishes(self, step: int) -> bool:
    """Whether the update made from batch `step` writes a new snapshot."""
    ...

  def publish(self, snapshot: Mapping[str, np.ndarray]) -> None:
    """Takes `State.vars['sampler']['published']`, as host arrays."""
    ...
