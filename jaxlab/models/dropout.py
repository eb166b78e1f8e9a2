"""Dropout with cheap random bits, the same on any number of devices.

`flax.linen.Dropout` draws one threefry block an element: 14-18 % of the
processor time of a small BERT's training step on a CPU, against 0-5 % for this
one (benchmarks/bert_step.py, two cores, 2 x 128 and 4 x 256). Here JAX's
generator draws two words a row (a row is the last axis) and the hash of
ops/row_random.py expands them. Rows, layers and steps are thus as independent
as JAX makes them; only the elements within one row rely on the hash.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxlab.ops.row_random import expand


def keep_mask(key: jax.Array, shape: tuple[int, ...], rate: float) -> jax.Array:
  """Independent Bernoulli(1 - rate) draws: [*shape] bool, True = kept.

  They follow from `key` and `shape` alone, however devices divide the array.
  """
  word = jax.random.bits(key, (2, *shape[:-1], 1), jnp.uint32)
  return expand(word[0], word[1], shape) >= np.uint32(round(rate * 2**32))


def dropout(key: jax.Array, x: jax.Array, rate: float) -> jax.Array:
  """Zeroes each element with probability `rate`, scales the others up.

  Args:
    key: (), a PRNG key.
    x: [..., n] of a float dtype.
    rate: in [0, 1).

  Returns:
    [..., n] of the dtype of x, with expectation x.
  """
  kept = keep_mask(key, x.shape, rate)
  return jnp.where(kept, x / (1 - rate), jnp.zeros((), x.dtype))
