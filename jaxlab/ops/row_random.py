"""Cheap random numbers, row by row, the same on any number of devices.

JAX's generator draws two words a row and an integer hash of (words, column)
expands them: rows are as independent as JAX makes them, and only the elements
within one row rely on the hash. It alternates xor-shifts and odd
multiplications, as the finaliser of MurmurHash3 (Appleby, public domain) does
and with its constants; the second word is added midway, so that two rows share
their numbers only if both words agree.

602,112 normals on one thread of a shared core: 2.2 instead of 28 ms by
`jax.random.normal` on a key for each row.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np


def expand(
  first: jax.Array, second: jax.Array, shape: tuple[int, ...]
) -> jax.Array:
  """Bits of rows along the last axis: [*shape] uint32.

  Args:
    first, second: uint32 that broadcast to `shape`, two words a row.
  """
  column = jax.lax.broadcasted_iota(jnp.uint32, shape, len(shape) - 1)
  x = column * np.uint32(0x9E3779B9) + first
  x = (x ^ (x >> 16)) * np.uint32(0x85EBCA6B) + second
  x = (x ^ (x >> 13)) * np.uint32(0xC2B2AE35)
  return x ^ (x >> 16)


def counted(key: jax.Array) -> jax.Array:
  """A key whose draws under `vmap` are those of its rows alone.

  JAX draws a whole batch of 'rbg' keys with one call of the device's own
  generator, so that a row's numbers depend on the batch. What it is made from
  is all of the key.

  Args:
    key: (), of any kind; also the older kind, an array of integers.
  """
  if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
    key = jax.random.wrap_key_data(key)
  if str(jax.random.key_impl(key)).endswith('fry2x32'):
    return key
  words = jax.random.key_data(key)
  found = jax.random.wrap_key_data(words[:2], impl='threefry2x32')
  for word in words[2:]:
    found = jax.random.fold_in(found, word)
  return found


def bits(key: jax.Array, shape: tuple[int, ...], ids=None) -> jax.Array:
  """Bits of a batch, a row for each example: [b, ...] uint32.

  Args:
    key: (), a PRNG key.
    shape: (b, ...).
    ids: [b] integer, the examples' numbers in their set: a row is then a
      function of (key, id), wherever in a batch it stands. None: of its place.
  """
  rows = jnp.arange(shape[0]) if ids is None else ids
  # A key is two words, made of its parent and the number folded in.
  draw = lambda i: jax.random.key_data(jax.random.fold_in(key, i))[-2:]
  words = jax.vmap(draw)(rows)
  flat = (shape[0], math.prod(shape[1:]))
  return expand(words[:, :1], words[:, 1:], flat).reshape(shape)


def uniform(key: jax.Array, shape: tuple[int, ...], ids=None) -> jax.Array:
  """Uniform draws of a batch, [b, ...] float32 in (0, 1).

  Args: as of `bits`.
  """
  whole = bits(key, shape, ids) >> 9
  # 2^23 places, none of them an end.
  return whole.astype(jnp.float32) * np.float32(2**-23) + np.float32(2**-24)


def normal(key: jax.Array, shape: tuple[int, ...], ids=None) -> jax.Array:
  """Standard normals of a batch, [b, ...] float32 in (-5.3, 5.3).

  Args: as of `bits`.
  """
  whole = bits(key, shape, ids) >> 9
  # 2^23 places in (-1, 1), none of them an end.
  uniform = whole.astype(jnp.float32) * np.float32(2**-22)
  uniform += np.float32(2**-23 - 1)
  return np.float32(math.sqrt(2)) * jax.lax.erf_inv(uniform)


def kept(
  key: jax.Array, shape: tuple[int, ...], rate: float, ids=None
) -> jax.Array:
  """Independent Bernoulli(1 - rate) draws of a batch, [b, ...] bool.

  Args: as of `bits`; rate in [0, 1).
  """
  return bits(key, shape, ids) >= np.uint32(round(rate * 2**32))


def signs(key: jax.Array, shape: tuple[int, ...], ids=None) -> jax.Array:
  """Independent draws of -1 and 1, [b, ...] float32. Args: as of `bits`."""
  return jnp.where(bits(key, shape, ids) >> 31 > 0, 1.0, -1.0)
