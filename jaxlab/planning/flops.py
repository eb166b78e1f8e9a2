"""Floating-point operations of a function, counted on its jaxpr.

A multiplication and an addition are two. Only matrix products and convolutions
count, as in every published model-FLOPs figure; loops count as often as they
turn, which `compiled.cost_analysis()` does not do.
"""

import math
from typing import Any

import jax
from jax.extend import core


def count(function, *args: Any) -> float:
  """FLOPs of one call, with what `jax.checkpoint` recomputes.

  Args:
    function: anything JAX can trace.
    *args: arrays or `jax.ShapeDtypeStruct`s.

  Returns:
    The global count, however the arrays are sharded. A `while` of unknown
    length counts once; of the branches of a `cond` the dearest counts.
  """
  return _of(jax.make_jaxpr(function)(*args).jaxpr)


def _of(jaxpr: core.Jaxpr) -> float:
  return sum(_equation(equation) for equation in jaxpr.eqns)


def _equation(equation) -> float:
  name, params = equation.primitive.name, equation.params
  if name == 'dot_general':
    return _dot(equation)
  if name == 'conv_general_dilated':
    return _convolution(equation)
  if name == 'cond':
    return max(_of(branch.jaxpr) for branch in params['branches'])
  inner = sum(_of(jaxpr) for jaxpr in _inner(params))
  return inner * params['length'] if name == 'scan' else inner


def _inner(params):
  for value in params.values():
    for item in value if isinstance(value, (tuple, list)) else (value,):
      if isinstance(item, core.ClosedJaxpr):
        yield item.jaxpr
      elif isinstance(item, core.Jaxpr):
        yield item


def _dot(equation) -> float:
  left, _ = (v.aval.shape for v in equation.invars)
  (contracted, _), _ = equation.params['dimension_numbers']
  depth = math.prod(left[axis] for axis in contracted)
  return 2.0 * math.prod(equation.outvars[0].aval.shape) * depth


def _convolution(equation) -> float:
  kernel = equation.invars[1].aval.shape
  out = equation.outvars[0].aval.shape
  numbers = equation.params['dimension_numbers']
  window = [kernel[axis] for axis in numbers.rhs_spec[2:]]
  # Zeros put between the entries of the input (a strided convolution's
  # gradient) are multiplied by no sensible hardware.
  dilation = math.prod(equation.params['lhs_dilation'])
  inputs = kernel[numbers.rhs_spec[1]]
  return 2.0 * math.prod(out) * math.prod(window) * inputs / dilation
