"""Which atom's plane is the highest: argmax <x, y_i> + h_i, for many x.

Never a [samples, atoms] array for many atoms: the maximum is taken over tiles
of atoms with the samples on the last axis, then inside the tile that won.
Numbers are drawn by a key and the step alone, counts are integers, ties go to
the lowest index: results do not depend on devices.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import scipy.spatial
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

_matmul = partial(jnp.matmul, precision=lax.Precision.HIGHEST)


def tiles(atoms, h, tile: int) -> tuple[jax.Array, jax.Array]:
  """atoms [t, tile, d] and h [t, tile]; the last tile is filled with -inf."""
  n, d = atoms.shape
  missing = -n % tile
  atoms = jnp.concatenate([atoms, jnp.zeros((missing, d), atoms.dtype)])
  h = jnp.concatenate([h, jnp.full(missing, -jnp.inf, h.dtype)])
  return atoms.reshape(-1, tile, d), h.reshape(-1, tile)


def best(x: jax.Array, atoms: jax.Array, h: jax.Array, tile: int = 100):
  """The highest plane at each sample.

  Args:
    x: [d, b], samples on the last axis; atoms: [n, d]; h: [n].
    tile: of atoms at once.

  Returns:
    Values [b], and indices [b] int32; of equal ones the lowest.
  """
  planes, heights = tiles(atoms, h, tile)
  few = x.shape[0] <= _FEW
  places = jnp.arange(tile, dtype=jnp.int32)[:, None]

  def body(carry, of):
    top, winner = carry
    plane, height, number = of
    value = _matmul(plane, x) + height[:, None]
    highest = value.max(0)
    index = number
    if not few:  # beside the product a second pass costs nothing
      place = jnp.where(value == highest, places, tile).min(0)
      index = number * tile + place
    higher = highest > top
    return (
      jnp.maximum(highest, top),
      jnp.where(higher, index, winner),
    ), None

  b = x.shape[1]
  start = jnp.full(b, -jnp.inf, x.dtype), jnp.zeros(b, jnp.int32)
  numbers = jnp.arange(len(planes), dtype=jnp.int32)
  (top, winner), _ = lax.scan(body, start, (planes, heights, numbers))
  if not few:
    return top, winner
  winner = lax.optimization_barrier(winner)
  flat, low = planes.reshape(-1, x.shape[0]), heights.reshape(-1)

  def inside(place, carry):
    top, best = carry
    index = winner * tile + place
    value = low[index] + sum(flat[index, i] * x[i] for i in range(len(x)))
    return jnp.maximum(value, top), jnp.where(value > top, index, best)

  return lax.fori_loop(0, tile, inside, (start[0], winner * tile))


_FEW = 8  # dimensions in which the winning tile is looked through once more


def counts(x, atoms, h, tile: int = 100, devices: Mesh | None = None):
  """[n] int32, how many of the samples x [d, b] lie in each cell.

  Args:
    devices: shards samples over `data`, and atoms over `model` where the mesh
      has it; both must divide.
  """
  n = len(atoms)
  if devices is None:
    _, index = best(x, atoms, h, tile)
    return jnp.zeros(n, jnp.int32).at[index].add(1)
  axis = 'model' if 'model' in devices.axis_names else None

  def local(x, atoms, h):
    top, index = best(x, atoms, h, tile)
    size = len(atoms)
    first = lax.axis_index(axis) * size if axis else 0
    index += first
    if axis:
      highest = lax.pmax(top, axis)
      index = lax.pmin(jnp.where(top == highest, index, n), axis)
    index -= first
    mine = jnp.where((index >= 0) & (index < size), index, size)
    found = jnp.zeros(size, jnp.int32).at[mine].add(1, mode='drop')
    return lax.psum(found, 'data')

  shared = jax.shard_map(
    local,
    mesh=devices,
    in_specs=(P(None, 'data'), P(axis), P(axis)),
    out_specs=P(axis),
    check_vma=False,
  )
  return shared(x, atoms, h)


def draw(key, step, shape, low, high, devices: Mesh | None = None):
  """Uniform samples [d, b] of a box, by (key, step) alone.

  Args:
    shape: (d, b); low, high: [d].
  """
  u = jax.random.uniform(jax.random.fold_in(key, step), shape)
  if devices is not None:
    u = lax.with_sharding_constraint(u, NamedSharding(devices, P(None, 'data')))
  return low[:, None] + u * (high - low)[:, None]


def shares(x, atoms, h, epsilon, tile: int = 100):
  """[n] float32, Σ_x softmax((<x, y_i> + h_i) / ε); two passes over tiles."""
  planes, heights = tiles(atoms, h, tile)

  def scores(plane, height):
    return (_matmul(plane, x) + height[:, None]) / epsilon

  def first(carry, of):
    top, total = carry
    value = scores(*of)
    new = jnp.maximum(top, value.max(0))
    total = total * jnp.exp(top - new) + jnp.exp(value - new).sum(0)
    return (new, total), None

  b = x.shape[1]
  lowest = jnp.full(b, jnp.finfo(x.dtype).min, x.dtype)
  start = lowest, jnp.zeros(b, x.dtype)
  (top, total), _ = lax.scan(first, start, (planes, heights))

  def second(_, of):
    return None, (jnp.exp(scores(*of) - top) / total).sum(1)

  _, found = lax.scan(second, None, (planes, heights))
  return found.reshape(-1)[: len(atoms)]


class Tree:
  """The same question in few dimensions, by a k-d tree of lifted atoms.

  argmax <x, y> + h is the nearest of (y, √(max w - w)), w = 2h + |y|², to
  (x, 0). Made anew for each h; exact in float64.
  """

  def __init__(self, atoms: np.ndarray, h: np.ndarray):
    w = 2 * h + (atoms**2).sum(1)
    lifted = np.c_[atoms, np.sqrt(w.max() - w)]
    self.tree = scipy.spatial.cKDTree(
      lifted, balanced_tree=False, compact_nodes=False
    )

  def best(self, x: np.ndarray) -> np.ndarray:
    """[b] indices for samples [b, d]."""
    lifted = np.c_[x, np.zeros(len(x))]
    return self.tree.query(lifted)[1]
