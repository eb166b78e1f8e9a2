"""Neighbour graphs of an embedding: nearest images, affinities, components.

Features are directions: rows are brought to length 1 and compared by cosine.
On the host blocks of NumPy products, elsewhere (or on a mesh) the same in JAX
with each device's own rows.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from jaxlab.core.errors import InputError

_MEMBERS = 50  # columns whose largest value is looked at first

Weights = Any  # scipy.sparse CSR [n, n] float32


class Graph(NamedTuple):
  """The nearest others of each row of an embedding."""

  features: np.ndarray  # [n, d] float32, rows of length 1
  neighbours: np.ndarray  # [n, k] int32, nearest first, never the row itself
  similarity: np.ndarray  # [n, k] float32, cosines in [-1, 1]


def unit_rows(features: Any) -> np.ndarray:
  """[n, d] float32 with rows of length 1.

  Raises:
    InputError: not [n, d] floating, a row that is not finite, or is zero.
  """
  x = np.asarray(features)
  if x.ndim != 2 or not np.issubdtype(x.dtype, np.floating) or not x.size:
    raise InputError(
      f'features are {x.dtype} {x.shape}; give floating numbers [n, d]'
    )
  x = x.astype(np.float32)
  _refuse(~np.isfinite(x).all(1), 'hold NaN or infinity')
  norm = np.sqrt(np.einsum('nd,nd->n', x, x, dtype=np.float64))
  _refuse(~np.isfinite(norm) | (norm < 1e-20), 'have length 0')
  return (x / norm[:, None]).astype(np.float32)


def _refuse(bad: np.ndarray, what: str) -> None:
  if bad.any():
    raise InputError(
      f'{bad.sum()} of {len(bad)} rows of features {what}, the first is row '
      f'{int(bad.argmax())}; leave these out or mend the network'
    )


def knn_graph(
  features: Any,
  k: int,
  block: int = 512,
  approximate: bool = False,
  mesh: Mesh | None = None,
  progress: Callable[[int], None] = lambda rows: None,
) -> Graph:
  """The k nearest others of each row by cosine, exact unless `approximate`.

  Departs from the paper: k counts others; the public code counts the image
  itself as one of its K = 20. A copy of an image is another image at cosine 1;
  more than k copies of one find each other alone.

  Args:
    features: [n, d] floating, finite, no row zero.
    k: 1 <= k < n.
    block: rows compared at once: block x n numbers are held.
    approximate: `lax.approx_max_k` (recall .95 on TPUs, exact elsewhere).
    mesh: its devices share the rows; default: this host's NumPy on the CPU,
      one device elsewhere.
    progress: told how many rows are done, of each block on the host.

  Raises:
    InputError: k out of range, or features that are not directions.
  """
  x = unit_rows(features)
  if not 1 <= k < len(x):
    raise InputError(
      f'k = {k} nearest others of {len(x)} images: it must be in '
      f'[1, {len(x) - 1}]; lower k or give more images'
    )
  if mesh is None and not approximate and jax.default_backend() == 'cpu':
    index, similarity = _on_host(x, k, block, progress)
  else:
    index, similarity = _on_devices(x, k, block, approximate, mesh)
  return Graph(x, index, similarity)


def _on_host(x, k, block, progress) -> tuple[np.ndarray, np.ndarray]:
  n = len(x)
  groups = -(-n // _MEMBERS)
  members = _MEMBERS
  if groups < 4 * k:
    groups, members = n, 1
  columns = np.zeros((groups * members, x.shape[1]), np.float32)
  columns[:n] = x
  buffer = np.empty((min(block, n), groups * members), np.float32)
  index = np.empty((n, k), np.int32)
  similarity = np.empty((n, k), np.float32)
  for start in range(0, n, block):
    rows = slice(start, min(start + block, n))
    count = rows.stop - start
    scores = np.matmul(x[rows], columns.T, out=buffer[:count])
    scores[:, n:] = -np.inf
    scores[np.arange(count), np.arange(start, rows.stop)] = -np.inf
    # The k largest lie in the k groups whose largest are largest.
    best = scores.reshape(count, members, groups).max(1)
    near = np.argpartition(best, groups - k, 1)[:, groups - k :]
    if members > 1:
      found = near[:, :, None] + groups * np.arange(members)
      found = found.reshape(count, -1)
      values = np.take_along_axis(scores, found, 1)
      chosen = np.argpartition(values, values.shape[1] - k, 1)[:, -k:]
      near = np.take_along_axis(found, chosen, 1)
    values = np.take_along_axis(scores, near, 1)
    order = np.lexsort((near, -values))
    index[rows] = np.take_along_axis(near, order, 1)
    similarity[rows] = np.take_along_axis(values, order, 1)
    progress(count)
  return index, np.clip(similarity, -1, 1)


def _on_devices(x, k, block, approximate, mesh):
  n, axes = len(x), ()
  ways = 1
  if mesh is not None:
    axes, ways = mesh.axis_names, mesh.size
  each = -(-n // (ways * block)) * block if n > ways * block else -(-n // ways)
  rows = np.zeros((ways * each, x.shape[1]), np.float32)
  rows[:n] = x
  run = partial(_nearest, k=k, block=min(block, each), approximate=approximate)
  if mesh is None:
    found = jax.jit(run)(rows, x, np.int32(0))
  else:
    spec = PartitionSpec(axes)

    def own(rows, every):
      return run(rows, every, lax.axis_index(axes) * each)

    shared = jax.shard_map(
      own, mesh=mesh, in_specs=(spec, PartitionSpec()), out_specs=spec
    )
    found = jax.jit(shared)(rows, x)
  index, similarity = (np.asarray(part)[:n] for part in found)
  return index.astype(np.int32), np.clip(similarity, -1, 1)


def _nearest(rows, every, first, *, k, block, approximate):
  """(index, similarity) [m, k] of rows first, first + 1, … of `every`."""
  parts = -(-len(rows) // block)
  padded = jnp.pad(rows, ((0, parts * block - len(rows)), (0, 0)))
  places = jnp.arange(len(every))

  def of_block(args):
    part, start = args
    scores = jnp.matmul(part, every.T, precision='highest')
    own = (start + jnp.arange(block))[:, None] == places
    scores = jnp.where(own, -jnp.inf, scores)
    look = lax.approx_max_k if approximate else lax.top_k
    values, index = look(scores, k)
    return index, values

  starts = first + block * jnp.arange(parts)
  blocks = padded.reshape(parts, block, -1)
  index, values = lax.map(of_block, (blocks, starts))
  return (
    index.reshape(-1, k)[: len(rows)],
    values.reshape(-1, k)[: len(rows)],
  )


def affinity(
  graph: Graph,
  kind: str = 'const',
  temperature: float = 0.2,
  power: float = 3.0,
) -> Weights:
  """Symmetric weights of a neighbour graph, without loops.

  With the distance d = (1 - cosine) / 2:

    const     exp(-2 d / T), mean of both directions
    selftune  exp(-2 d / d_K), d_K that of the row's k-th neighbour; the larger
              of both directions
    power     max(cosine, 0)^power, sum of both directions (Iscen et al. 2019)

  Args:
    temperature: T > 0 of `const`.

  Returns:
    scipy.sparse CSR [n, n] float32.

  Raises:
    InputError: an unknown kind, or numbers that cannot be.

  Source: the public code's notebooks nc (const) and nc-colorization (selftune).
  """
  if not (temperature > 0 and power > 0):
    raise InputError(
      f'temperature = {temperature} and power = {power} must be above 0'
    )
  s = graph.similarity.astype(np.float64)
  if kind == 'const':
    weight = np.exp((s - 1) / temperature)
  elif kind == 'selftune':
    # A row whose k neighbours are all copies has d_K = 0 and weights 1.
    weight = np.exp((s - 1) / np.maximum((1 - s[:, -1:]) / 2, 1e-7))
  elif kind == 'power':
    weight = np.maximum(s, 0) ** power
  else:
    raise InputError(f'affinity "{kind}" is not one of const, selftune, power')
  n, k = graph.neighbours.shape
  rows = np.arange(0, n * k + 1, k)
  one_way = scipy.sparse.csr_array(
    (weight.reshape(-1).astype(np.float32), graph.neighbours.reshape(-1), rows),
    shape=(n, n),
  )
  other = one_way.T.tocsr()
  if kind == 'selftune':
    both = one_way.maximum(other)
  else:
    both = one_way + other if kind == 'power' else (one_way + other) * 0.5
  both = both.tocsr().astype(np.float32)
  both.eliminate_zeros()
  both.sort_indices()
  return both


def normalised(weights: Weights) -> tuple[Weights, np.ndarray]:
  """S = D^-1/2 W D^-1/2, and the degrees D [n]; both float64.

  A node without edges has degree 0 and a row of zeros.
  """
  degree = np.asarray(weights.sum(1), np.float64).reshape(-1)
  inverse = np.where(degree > 0, 1 / np.sqrt(np.maximum(degree, 1e-300)), 0)
  scale = scipy.sparse.diags_array(inverse)
  return (scale @ weights.astype(np.float64) @ scale).tocsr(), degree
