"""SHA-256 of trees of arrays, independent of device count and layout."""

import hashlib
from collections.abc import Iterable

import numpy as np

from jaxlab.core.state import Tree, paths
from jaxlab.engine.mesh import whole


def state_sha256(tree: Tree) -> str:
  """SHA-256 over every leaf (path, dtype, shape, bytes) in path order.

  The fingerprint of a fit. Leaves come to the host one at a time; with several
  processes, to each of them.
  """
  return leaves_sha256((path, whole(leaf)) for path, leaf in paths(tree))


def leaves_sha256(leaves: Iterable[tuple[str, np.ndarray]]) -> str:
  """SHA-256 over (path, array) pairs, in the order given."""
  digest = hashlib.sha256()
  for path, array in leaves:
    digest.update(f'{path}:{array.dtype}:{array.shape}\n'.encode())
    digest.update(np.ascontiguousarray(array).tobytes())
  return digest.hexdigest()
