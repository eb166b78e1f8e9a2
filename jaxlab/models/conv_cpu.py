"""A convolution that XLA:CPU computes fast on images of few channels.

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

  On the CPU, float32 convolutions of [b, h, w, c], c <= 4, of stride 1, neither
  dilated nor grouped, take the form of this module. All others are XLA's own.
  """
  numbers = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
  factors = (*window_strides, *(lhs_dilation or ()), *(rhs_dilation or ()))
  if (
    jax.default_backend() != 'cpu'
    or lhs.ndim != 4
    or numbers != lax.conv_dimension_numbers(lhs.shape, rhs.shape, _LAYOUT)
    or lhs.shape[3] > _NARROW
    or any(factor != 1 for factor in factors)
    or feature_group_count != 1
    or not lhs.dtype == rhs.dtype == jnp.float32
  ):
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
    window = rhs.shape[:2]
    padding = lax.padtype_to_pads(lhs.shape[1:3], window, (1, 1), padding)
  (top, bottom), (left, right) = padding
  pads = ((int(top), int(bottom)), (int(left), int(right)))
  return _narrow(lhs, rhs, pads)


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
