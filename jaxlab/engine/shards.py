"""A fingerprint of arrays that several processes hold in parts.

Nothing is gathered to take it: each part is hashed by one of the processes
that hold it, as (path, dtype, shape, cut, bytes), and the SHA-256 numbers of
all parts are added up modulo 2^256. With the number of cuts along each
dimension it can be taken again under any other layout; there a leaf that is
cut otherwise comes whole to every host, one at a time.

It is for damage, not for forgery: a sum of hashes can be forged.
"""

import hashlib
import itertools
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxlab.engine import hosts, mesh

Index = tuple[tuple[int, int], ...]  # (start, stop) along each dimension


def cuts(leaves: Mapping[str, Any]) -> dict[str, list[int]]:
  """Path -> number of equal parts along each dimension of the leaf."""
  found = {}
  for path, leaf in leaves.items():
    shape = leaf.sharding.shard_shape(leaf.shape)
    found[path] = [n // part for n, part in zip(leaf.shape, shape)]
  return found


def fingerprint(
  leaves: Mapping[str, Any], cut: Mapping[str, Sequence[int]]
) -> str:
  """The sum, hexadecimal; the same in every process, which all call this.

  Args:
    leaves: path -> `jax.Array`, none of size 0.
    cut: of `cuts`, here or where the leaves were saved.
  """
  total = 0
  for path in sorted(leaves):
    for index, array in _mine(path, leaves[path], cut[path]):
      leaf = leaves[path]
      digest = hashlib.sha256(
        f'{path}:{leaf.dtype}:{tuple(leaf.shape)}:{index}\n'.encode()
      )
      digest.update(np.ascontiguousarray(array).tobytes())
      total += int.from_bytes(digest.digest())
  sums = hosts.gather('fingerprint', f'{total:x}')
  return f'{sum(int(text, 16) for text in sums) % 2**256:064x}'


def _mine(
  path: str, leaf: jax.Array, cut: Sequence[int]
) -> Iterator[tuple[Index, np.ndarray]]:
  """The parts of a leaf that this process is to hash."""
  wanted = list(_parts(leaf.shape, cut))
  holders: dict[Index, set[int]] = {}
  layout: Mapping[Any, Any] = leaf.sharding.devices_indices_map(leaf.shape)
  for device, slices in layout.items():
    bounds = _bounds(slices, leaf.shape)
    holders.setdefault(bounds, set()).add(device.process_index)
  # Spread, so that no process hashes all that is held by every one.
  turn = zlib.crc32(path.encode())
  if set(wanted) != set(holders):
    array = mesh.whole(leaf)
    for number, bounds in enumerate(wanted, turn):
      if number % jax.process_count() == jax.process_index():
        yield bounds, array[tuple(slice(*pair) for pair in bounds)]
    return
  here = {
    _bounds(part.index, leaf.shape): part.data
    for part in leaf.addressable_shards
  }
  for number, bounds in enumerate(wanted, turn):
    able = sorted(holders[bounds])
    if able[number % len(able)] == jax.process_index():
      yield bounds, np.asarray(here[bounds])


def _parts(shape: Sequence[int], cut: Sequence[int]) -> Iterator[Index]:
  sides = [
    [(i * n // ways, (i + 1) * n // ways) for i in range(ways)]
    for n, ways in zip(shape, cut)
  ]
  yield from itertools.product(*sides)


def _bounds(slices: Sequence[slice], shape: Sequence[int]) -> Index:
  return tuple(
    (s.start or 0, n if s.stop is None else s.stop)
    for s, n in zip(slices, shape)
  )
