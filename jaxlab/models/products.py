"""Matrix products in bfloat16 whose weights' gradients are float32.

Under `jax.jit` the partial gradients of the devices are summed right where the
product that makes them ends, in that product's dtype. A weight cast to
bfloat16 before its product has a bfloat16 gradient, so that the sum over
thousands of devices is rounded at every hop. Here the weight stays float32, is
cast inside, and its gradient leaves the product as the float32 that the
hardware accumulates in anyway: twice the bytes on the wire, no rounding.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax


def dense(kind: type[nn.Module], dtype: Any, gradient_dtype: Any) -> partial:
  """Makes `nn.Dense` or `nn.DenseGeneral` modules that compute in `dtype`.

  Args:
    gradient_dtype: of the weights' gradients; where it is wider than `dtype`,
      the result is float32 (bias included) and the caller casts it.
  """
  if jnp.dtype(gradient_dtype) == jnp.dtype(dtype):
    return partial(kind, dtype=dtype)
  return partial(
    kind, promote_dtype=partial(_keep_weights, dtype), dot_general=product
  )


def _keep_weights(inputs_dtype, inputs, *weights, dtype=None):
  del dtype
  return (inputs.astype(inputs_dtype), *weights)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def product(x, w, numbers, precision=None, preferred_element_type=None):
  """`lax.dot_general(x, w)` in the dtype of x, with a float32 gradient of w.

  Args:
    x: […, inputs…] float, the contracted axes last.
    w: [inputs…, features…] float32, the contracted axes first.
    numbers, precision, preferred_element_type: as for `lax.dot_general`,
      without batch axes.

  Returns:
    […, features…] in the dtype of x, or the preferred one.
  """
  return lax.dot_general(
    x, w.astype(x.dtype), numbers, precision, preferred_element_type
  )


def _forward(x, w, numbers, precision, preferred):
  return product(x, w, numbers, precision, preferred), (x, w)


def _backward(numbers, precision, preferred, saved, g):
  del preferred
  x, w = saved
  (contracted, rows), _ = numbers
  free = tuple(i for i in range(x.ndim) if i not in contracted)
  features = tuple(range(len(free), g.ndim))
  dx = lax.dot_general(
    g,
    w.astype(x.dtype),
    ((features, tuple(range(len(rows), w.ndim))), ((), ())),
    precision,
  )
  dw = lax.dot_general(
    x,
    g,
    ((free, tuple(range(len(free)))), ((), ())),
    precision,
    preferred_element_type=jnp.float32,
  )
  return dx.astype(x.dtype), dw.astype(w.dtype)


product.defvjp(_forward, _backward)
