"""Networks whose linear regions are counted: ReLU between dense layers."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from jaxlab.core.errors import InputError
from jaxlab.ops.piecewise import Kink, Linear, Piecewise, Step

Layers = Sequence[tuple[Any, Any]]  # (W [in, out], b [out]), ReLU between
Net = Layers | Piecewise

TINY = 1e-12  # relative to what is cut: closer is the same place
FLAT = 1e-10  # relative: two affine maps that differ less are one


def as_net(net: Net) -> Piecewise:
  """The network as steps.

  Raises:
    InputError: as `dense`.
  """
  return net if isinstance(net, Piecewise) else dense(net)


def dense(layers: Sequence[tuple[Any, Any]]) -> Piecewise:
  """ReLU between dense layers, none after the last.

  Args:
    layers: (W [in, out], b [out]) of each.

  Raises:
    InputError: shapes that do not fit, or numbers that are not finite.
  """
  made = checked_layers(layers)
  steps: list[Step] = []
  register = 0
  for i, (weight, bias) in enumerate(made):
    affine = lambda x, w=weight, b=bias: x @ w + b
    steps.append(Linear(register + 1, (register,), affine))
    register += 1
    if i < len(made) - 1:
      steps.append(Kink(register + 1, register))
      register += 1
  return Piecewise(tuple(steps), register, (len(made[0][0]),))


def checked_layers(layers) -> list[tuple[np.ndarray, np.ndarray]]:
  """The layers in float64.

  Raises:
    InputError: as `dense`.
  """
  if not layers:
    raise InputError('layers is empty: give (W [in, out], b [out]) of each')
  made = [
    (np.asarray(w, np.float64), np.asarray(b, np.float64)) for w, b in layers
  ]
  width = len(made[0][0])
  for i, (weight, bias) in enumerate(made):
    want = (width, len(bias)) if bias.ndim == 1 else ()
    if weight.shape != want:
      raise InputError(
        f'layer {i} has W {list(weight.shape)} and b {list(bias.shape)} after '
        f'{width} units; give W [in, out] and b [out]'
      )
    if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
      raise InputError(f'layer {i} has weights that are not finite')
    width = len(bias)
  return made


@cache
def hash_weights(number: int, units: int, columns: int) -> np.ndarray:
  """[units, columns] whole numbers whose sums float64 holds exactly."""
  rng = np.random.default_rng([number, units])
  return rng.integers(1, 2**38, (units, columns)).astype(np.float64)
