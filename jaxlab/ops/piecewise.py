"""Continuous piecewise linear networks as a list of steps on registers.

A register holds an array [rows, …]; register 0 is the input. `Linear` maps are
affine; a `Kink` is ReLU and its relatives; `Largest` is a maximum, as in max
pooling. `models/piecewise_linear.py` makes one of a Linen module.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np


class Linear(NamedTuple):
  """out = map(*inputs), affine, row by row."""

  out: int
  inputs: tuple[int, ...]
  map: Callable[..., np.ndarray]


class Kink(NamedTuple):
  """out = z where z > 0, else slope z."""

  out: int
  of: int
  slope: Any = 0.0  # a number or an array that broadcasts against a row


class Largest(NamedTuple):
  """out = the largest of registers of one shape, unit by unit."""

  out: int
  options: tuple[int, ...]


Step = Linear | Kink | Largest


class Piecewise(NamedTuple):
  """A network: its steps, the register of its output, the shape of a row."""

  steps: Sequence[Step]
  result: int
  shape: tuple[int, ...]

  def __call__(self, rows: np.ndarray) -> np.ndarray:
    """[n, …] -> [n, …], in float64."""
    registers: dict[int, np.ndarray] = {0: np.asarray(rows, np.float64)}
    for step in self.steps:
      registers[step.out] = apply(step, registers)
    return registers[self.result]


def apply(step: Step, registers: dict[int, np.ndarray]) -> np.ndarray:
  """What a step makes of the registers."""
  if isinstance(step, Linear):
    return step.map(*(registers[i] for i in step.inputs))
  if isinstance(step, Kink):
    z = registers[step.of]
    return np.where(z > 0, z, step.slope * z)
  return np.max([registers[i] for i in step.options], axis=0)


def inputs_of(step: Step) -> tuple[int, ...]:
  """The registers that a step reads."""
  if isinstance(step, Linear):
    return step.inputs
  return (step.of,) if isinstance(step, Kink) else step.options


def last_uses(net: Piecewise) -> list[set[int]]:
  """For each step the registers that no later step reads."""
  needed, found = {net.result}, []
  for step in reversed(net.steps):
    reads = {*inputs_of(step)}
    found.append(reads - needed)
    needed |= reads
  return found[::-1]
