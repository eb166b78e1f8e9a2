"""Near-duplicate images by perceptual hashes, on the host.

small   = images on 32 x 32 pixels, grey
hashes  = perceptual_hash(small)
groups  = duplicate_groups(hashes, distance=4)

perceptual_hash   the 8 x 8 lowest frequencies of a cosine transform, each
                  above or below their median (Zauner 2010, 'pHash')
duplicate_groups  all pairs within a Hamming distance, by the pigeonhole of
                  Manku, Jain and Das Sarma 2007, and what they join
"""

import numpy as np
import scipy.fft
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

SIDE = 32  # pixels of an image that is hashed
_KEPT = 8  # frequencies along a side
BITS = _KEPT * _KEPT


def perceptual_hash(small: np.ndarray) -> np.ndarray:
  """Hashes of grey images, [n] uint64.

  Args:
    small: [n, 32, 32] uint8 or floating.

  Raises:
    ValueError: another shape.
  """
  small = np.asarray(small)
  if small.ndim != 3 or small.shape[1:] != (SIDE, SIDE):
    raise ValueError(
      f'images to be hashed are {small.shape}; bring them to [n, 32, 32]'
    )
  waves = scipy.fft.dctn(small.astype(np.float64), axes=(1, 2))
  low = waves[:, :_KEPT, :_KEPT].reshape(len(small), BITS)
  bits = low > np.median(low, 1, keepdims=True)
  return np.packbits(bits, 1).view('>u8')[:, 0].astype(np.uint64)


def duplicate_groups(hashes: np.ndarray, distance: int) -> np.ndarray:
  """Numbers of groups, [n] int64 in [0, groups), in no order.

  Two images are of one group if a chain of images leads from one to the other
  whose neighbours differ in at most `distance` bits.

  Args:
    hashes: [n] uint64.
    distance: in [0, 63]; -1: every image is a group of its own.

  Raises:
    ValueError: a distance that cannot be.
  """
  if not -1 <= distance < BITS:
    raise ValueError(f'distance = {distance} must be in [-1, {BITS - 1}] bits')
  if distance < 0:
    return np.arange(len(hashes))
  # Equal hashes stand for one: white pages are many.
  known, of = np.unique(np.asarray(hashes, np.uint64), return_inverse=True)
  pairs = [np.zeros((0, 2), np.int64)]
  # Two that differ in d bits agree in one of d + 1 bands of bits at least.
  for band in np.array_split(np.arange(BITS, dtype=np.uint64), distance + 1):
    mask = (np.uint64(1) << band).sum(dtype=np.uint64)
    pairs.append(_near(known, known & mask, distance))
  joined = np.concatenate(pairs)
  return components(joined, len(known))[of]


def _near(known, keys, distance) -> np.ndarray:
  """[m, 2] pairs of equal keys whose hashes differ in few bits."""
  order = np.argsort(keys, kind='stable')
  ends = np.flatnonzero(np.diff(keys[order])) + 1
  found = []
  for run in np.split(order, ends):
    for place, first in enumerate(run[:-1]):
      others = run[place + 1 :]
      far = np.bitwise_count(known[others] ^ known[first])
      near = others[far <= distance]
      found.append(np.stack([np.full_like(near, first), near], 1))
  return np.concatenate(found) if found else np.zeros((0, 2), np.int64)


def merged(*labels: np.ndarray) -> np.ndarray:
  """The finest grouping that each of several is a part of, [n] int64.

  Args:
    labels: each [n], any values; equal ones are of one group.
  """
  n, pairs = len(labels[0]), []
  for label in labels:
    _, first, of = np.unique(label, return_index=True, return_inverse=True)
    pairs.append(np.stack([np.arange(n), first[of]], 1))
  return components(np.concatenate(pairs), n)


def components(pairs: np.ndarray, count: int) -> np.ndarray:
  """Connected components of a graph, [count] int64."""
  ones = np.ones(len(pairs), bool)
  graph = coo_array((ones, (pairs[:, 0], pairs[:, 1])), (count, count))
  return connected_components(graph, directed=False)[1].astype(np.int64)
