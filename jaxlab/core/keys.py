"""Named streams of random keys, each a pure function of (seed, name, step).

No key is ever saved: a resumed run folds the same numbers and gets the same
keys.
"""

import zlib

import jax

from jaxlab.core.state import Key


def stream(seed: int, name: str) -> Key:
  """The root key of one named stream of a run, () typed key.

  >>> import jax
  >>> a, b = stream(0, 'train'), stream(0, 'eval')
  >>> bool((jax.random.key_data(a) == jax.random.key_data(b)).all())
  False
  """
  return jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))


def at(root: Key, step) -> Key:
  """The key of one step of a stream."""
  return jax.random.fold_in(root, step)
