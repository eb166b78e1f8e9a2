"""Convolutions of few channels, and depthwise ones, that XLA:CPU computes fast.

The same function as `lax.conv_general_dilated`, equal to float32 rounding. The
first layer of a net has three input channels, too few to keep a core busy: XLA
runs it at a sixth of the rate of the others. Here 2 x 2 outputs are computed at
once, as a convolution of stride 2 with four times the features. The gradients
are XLA's own.

3 x 3, 32 x 32, 3 -> 32, with bias and ReLU, 128 images in batches of 16 on one
thread of a shared AMD core: 3.1 instead of 8.5 ms. Gradients of strided layers
as convolutions of each phase, or as one matrix product, were faster alone and
no faster within a net (benchmarks/attacks.py) once freed pages are kept
(`mesh.keep_pages`).

A depthwise convolution is the sum of its shifted images, each times a weight:
XLA:CPU makes one loop of these, and of its own form a slow one, above all
backwards. 96 channels, 48 x 48, 3 x 3, stride 2, 10 images: 2 instead of 22 ms,
and 18 instead of 368 with the gradient of the images.

A Linen net takes it as `nn.Conv(…, conv_general_dilated=conv_cpu.conv)`. It has
no forward-mode derivative (`jax.jvp`).
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

_LAYOUT = ('NHWC', 'HWIO', 'NHWC')
_NARROW = 4  # channels at most, for which the forms of this module are taken

Pads = tuple[tuple[int, int], tuple[int, int]]


def conv(
  lhs: jax.Array,
  rhs: jax.Array,
  window_strides: Sequence[int],
  padding: str | Sequence[tuple[int, int]],
  lhs_dilation: Sequence[int] | None = None,
  rhs_dilation: Sequence[int] | None = None,
  dimension_numbers: Any = None,
  feature_group_count: int = 1,
  precision: Any = None,
) -> jax.Array:
  """`lax.conv_general_dilated`, in the form that is fast where it runs.

  On the CPU, float32 convolutions of [b, h, w, c], not dilated, take a form of
  this module where c <= 4, the stride is 1 and they are not grouped, or where
  each channel is convolved alone. All others are XLA's own.
  """
  numbers = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
  dilations = (*(lhs_dilation or ()), *(rhs_dilation or ()))
  ours = (
    jax.default_backend() == 'cpu'
    and lhs.ndim == 4
    and numbers == lax.conv_dimension_numbers(lhs.shape, rhs.shape, _LAYOUT)
    and all(factor == 1 for factor in dilations)
    and lhs.dtype == rhs.dtype == jnp.float32
  )
  depthwise = feature_group_count == lhs.shape[-1] == rhs.shape[-1] > 1
  narrow = (
    feature_group_count == 1
    and lhs.shape[-1] <= _NARROW
    and all(stride == 1 for stride in window_strides)
  )
  if not ours or not (depthwise or narrow):
    return lax.conv_general_dilated(
      lhs,
      rhs,
      window_strides,
      padding,
      lhs_dilation,
      rhs_dilation,
      dimension_numbers,
      feature_group_count=feature_group_count,
      precision=precision,
    )
  if isinstance(padding, str):
    padding = lax.padtype_to_pads(
      lhs.shape[1:3], rhs.shape[:2], window_strides, padding
    )
  (top, bottom), (left, right) = padding
  pads = ((int(top), int(bottom)), (int(left), int(right)))
  if depthwise:
    return _depthwise(lhs, rhs, window_strides, pads)
  return _narrow(lhs, rhs, pads)


def _depthwise(x, kernel, strides, pads):
  """[b, h, w, c] * [kh, kw, 1, c], the sum over all places of the kernel."""
  (down, across), (kh, kw) = strides, kernel.shape[:2]
  x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
  last = x.shape[1] - kh, x.shape[2] - kw  # where the last window may begin
  total = 0.0
  for i in range(kh):
    for j in range(kw):
      rows = slice(i, i + last[0] + 1, down)
      columns = slice(j, j + last[1] + 1, across)
      total += x[:, rows, columns] * kernel[i, j, 0]
  return total


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _narrow(x, kernel, pads):
  """[b, h, w, c] * [kh, kw, c, f] -> [b, h', w', f], 2 x 2 outputs at once."""
  kh, kw, channels, features = kernel.shape
  height = x.shape[1] + sum(pads[0]) - kh + 1
  width = x.shape[2] + sum(pads[1]) - kw + 1
  shifted = [
    jnp.pad(kernel, ((i, 1 - i), (j, 1 - j), (0, 0), (0, 0)))
    for i in range(2)
    for j in range(2)
  ]
  wide = jnp.stack(shifted, 3).reshape(kh + 1, kw + 1, channels, -1)
  # An odd side is made even by one more row of zeros, cut off in the end.
  around = tuple(
    (low, high + side % 2) for (low, high), side in zip(pads, (height, width))
  )
  y = _direct(x, wide, (2, 2), around)
  rows, columns = y.shape[1:3]
  y = y.reshape(-1, rows, columns, 2, 2, features).transpose(0, 1, 3, 2, 4, 5)
  y = y.reshape(-1, 2 * rows, 2 * columns, features)
  return y[:, :height, :width]


def _keep(x, kernel, pads):
  return _narrow(x, kernel, pads), (x, kernel)


def _pull(pads, kept, slope):
  x, kernel = kept
  of_kernel = jax.vjp(lambda k: _direct(x, k, (1, 1), pads), kernel)[1]
  of_x = jax.vjp(lambda x: _direct(x, kernel, (1, 1), pads), x)[1]
  return *of_x(slope), *of_kernel(slope)


_narrow.defvjp(_keep, _pull)


def _direct(x, kernel, strides, pads):
  return lax.conv_general_dilated(
    x, kernel, strides, pads, dimension_numbers=_LAYOUT
  )
