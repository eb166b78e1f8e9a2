"""Eigenvectors and linear systems of a normalised graph.

The smallest eigenvalues of L = I - S are the largest of I + S: nothing needs to
be inverted. Lanczos to 1e-3 in float32 finds them (to 1e-2 it misses some,
though each residual is small); where 200 are wanted, filtering a whole block at
once takes half the time (`benchmarks/propagation.py`).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
import scipy.sparse
import scipy.sparse.csgraph
import scipy.sparse.linalg
from jax import lax

from jaxlab.core.errors import InputError
from jaxlab.papers.metric_transfer.graph import Weights, normalised

_DENSE = 1000  # nodes up to which the whole matrix is decomposed
_SPARE = 40  # vectors of the subspace beside those wanted
_COLUMNS = 32  # multiplied at once on accelerators


class Component(NamedTuple):
  """A connected part of a graph, with its smoothest vectors."""

  nodes: np.ndarray  # [m] int, ascending
  degree: np.ndarray  # [m] float64
  values: (
    np.ndarray
  )  # [q] float64, the smallest of L, ascending; the first is 0
  vectors: np.ndarray  # [m, q] float32, orthonormal; the first is √degree


def components(
  weights: Weights, eigenvectors: int = 200, solver: str = 'auto'
) -> list[Component]:
  """Each connected part of a graph and its eigenvectors.

  Parts are decomposed one by one: taken together, several zero eigenvalues
  would make 1 / λ meaningless, and Lanczos slow.

  Args:
    weights: symmetric CSR [n, n], not negative, without loops.
    eigenvectors: wanted of each part, the constant one included, at least 2;
      smaller parts have fewer.
    solver: 'dense', 'lanczos' (on the host), 'chebyshev' (on accelerators in
      JAX), or 'auto': dense up to 1,000 nodes, else chebyshev.
  """
  if eigenvectors < 2:
    raise InputError(
      f'eigenvectors = {eigenvectors} must be at least 2: the first is constant'
    )
  count, part = scipy.sparse.csgraph.connected_components(weights, False)
  smooth, degree = normalised(weights)
  order = np.argsort(part, kind='stable')
  pieces = np.split(order, np.cumsum(np.bincount(part, minlength=count))[:-1])
  found = []
  for nodes in pieces:
    own = smooth if count == 1 else smooth[nodes][:, nodes].tocsr()
    pairs = eigenpairs(own, min(eigenvectors, len(nodes)), solver)
    found.append(Component(nodes, degree[nodes], *pairs))
  return found


def eigenpairs(
  smooth: Weights, count: int, solver: str = 'auto', tolerance: float = 1e-3
) -> tuple[np.ndarray, np.ndarray]:
  """The smallest eigenpairs of L = I - S, the same ones in every run.

  What float32 iterations found is decomposed once more in float64, within its
  span: a λ of 1e-6 is then right to a few digits.

  Args:
    smooth: S, CSR [n, n] float64, symmetric.
    count: <= n.
    solver: see `components`.
    tolerance: of a residual of `lanczos`, relative to its eigenvalue of I + S.

  Returns:
    values [count] float64 ascending, vectors [n, count] float32.
  """
  n = smooth.shape[0]
  known = ('auto', 'dense', 'lanczos', 'chebyshev')
  if solver not in known:
    raise InputError(f'solver "{solver}" is not one of {", ".join(known)}')
  if (solver == 'auto' and n <= _DENSE) or n <= 3 * count:
    solver = 'dense'
  if solver == 'dense':
    dense = np.eye(n) - smooth.toarray().astype(np.float64)
    values, vectors = scipy.linalg.eigh(dense, subset_by_index=(0, count - 1))
  elif solver == 'lanczos':
    shifted = (smooth + scipy.sparse.eye_array(n)).astype(np.float32).tocsr()
    start = np.random.default_rng(0).standard_normal(n).astype(np.float32)
    _, vectors = scipy.sparse.linalg.eigsh(
      shifted, count, which='LM', tol=tolerance, v0=start
    )
    values, vectors = _refined(smooth, vectors)
  else:
    values, vectors = _refined(smooth, filtered_subspace(smooth, count))
  return np.asarray(values, np.float64), np.asarray(vectors, np.float32)


def _refined(smooth, vectors):
  """Rayleigh-Ritz of L = I - S within the span of [n, q] vectors."""
  basis = vectors.astype(np.float64)
  gram = basis.T @ basis
  small = gram - basis.T @ (smooth @ basis)
  values, turn = scipy.linalg.eigh((small + small.T) / 2, gram)
  return np.maximum(values, 0), basis @ turn


def filtered_subspace(
  smooth: Weights,
  count: int,
  degree: int = 12,
  tolerance: float = 5e-3,
  passes: int = 30,
) -> np.ndarray:
  """Chebyshev-filtered subspace iteration: [n, count] float32, orthonormal.

  Each pass damps the part of S's spectrum in [-1, b], with b the least Ritz
  value of the last pass, by a Chebyshev polynomial, and makes the block
  orthonormal. The block has 40 vectors more than asked for, so that none is
  missed. On the host S is put in the order of Cuthill and McKee, which halves
  the time of a product.

  Args:
    degree: of the polynomial: products with S in a pass.
    tolerance: of the residuals' lengths; the passes end there.

  Raises:
    InputError: not reached.

  Source: Zhou et al., Self-consistent-field calculations using
  Chebyshev-filtered subspace iteration, 2006, algorithm 4.2.
  """
  n = smooth.shape[0]
  width = min(count + _SPARE, n)
  order = np.arange(n)
  step: Callable
  if jax.default_backend() == 'cpu':
    order = scipy.sparse.csgraph.reverse_cuthill_mckee(
      scipy.sparse.csr_matrix(smooth), symmetric_mode=True
    )
    ordered = smooth[order][:, order].astype(np.float32).tocsr()
    step = partial(_host_pass, ordered, degree)
  else:
    step = jax.jit(partial(_device_pass, _edges(smooth), degree))
  block = np.random.default_rng(0).standard_normal((n, width), np.float32)
  low = np.float32(0)
  for _ in range(passes):
    ritz, block, residual = step(block, low)
    low = np.clip(np.float32(ritz[-1]), -0.9, 0.999)
    if float(residual[:count].max()) <= tolerance:
      found = np.empty((n, count), np.float32)
      found[order] = block[:, :count]
      return found
  raise InputError(
    f'{count} eigenvectors are not found in {passes} passes: their residual is '
    f'{float(residual[:count].max()):.1e}; take solver lanczos'
  )


def _host_pass(smooth, degree, block, low):
  """(Ritz values descending, vectors, lengths of residuals) of one pass."""
  centre, half = (low - 1) / 2, (low + 1) / 2
  scaled = lambda x: (smooth @ x - centre * x) / half
  before, now = block, scaled(block)
  for _ in range(degree - 1):
    new = smooth @ now
    new -= centre * now
    new *= 2 / half
    new -= before
    size = np.linalg.norm(new, axis=0)  # or float32 would overflow
    now /= size
    new /= size
    before, now = now, new
  wide = now.astype(np.float64)
  scale, turn = np.linalg.eigh(wide.T @ wide)
  turn /= np.sqrt(np.maximum(scale, 1e-12 * scale[-1]))
  basis = (wide @ turn).astype(np.float32)
  image = smooth @ basis
  ritz, turn = scipy.linalg.eigh(
    (basis.T @ image + image.T @ basis).astype(np.float64) / 2,
    basis.T.astype(np.float64) @ basis,
  )
  ritz, turn = ritz[::-1].astype(np.float32), turn[:, ::-1].astype(np.float32)
  block = basis @ turn
  return ritz, block, np.linalg.norm(image @ turn - block * ritz, axis=0)


def _device_pass(edges, degree, block, low):
  """The same in JAX."""
  centre, half = (low - 1) / 2, (low + 1) / 2
  scaled = lambda x: (_product(edges, x) - centre * x) / half

  def up(_, pair):
    before, now = pair
    new = 2 * scaled(now) - before
    size = jnp.linalg.norm(new, axis=0)
    return now / size, new / size

  _, raised = lax.fori_loop(1, degree, up, (block, scaled(block)))
  basis, _ = jnp.linalg.qr(raised)
  image = _product(edges, basis)
  small = jnp.matmul(basis.T, image, precision='highest')
  ritz, turn = jnp.linalg.eigh((small + small.T) / 2)
  ritz, turn = ritz[::-1], turn[:, ::-1]
  block = jnp.matmul(basis, turn, precision='highest')
  image = jnp.matmul(image, turn, precision='highest')
  return ritz, block, jnp.linalg.norm(image - ritz * block, axis=0)


def _edges(smooth: Weights) -> tuple[jax.Array, jax.Array, jax.Array]:
  """(row, column, weight) [e], by row."""
  found = smooth.tocsr()
  rows = np.repeat(np.arange(found.shape[0]), np.diff(found.indptr))
  return (
    jnp.asarray(rows, jnp.int32),
    jnp.asarray(found.indices, jnp.int32),
    jnp.asarray(found.data, jnp.float32),
  )


def _product(edges, block):
  """S X for X [n, q], some columns at once."""
  rows, columns, weight = edges
  n, q = block.shape
  width = min(_COLUMNS, q)
  parts = -(-q // width)
  padded = jnp.pad(block, ((0, 0), (0, parts * width - q)))

  def some(part):  # [n, width]
    return jax.ops.segment_sum(
      weight[:, None] * part[columns], rows, n, indices_are_sorted=True
    )

  cut = jnp.moveaxis(padded.reshape(n, parts, width), 1, 0)
  return jnp.moveaxis(lax.map(some, cut), 0, 1).reshape(n, -1)[:, :q]


def conjugate_gradients(
  apply: Callable[[np.ndarray], Any],
  right: np.ndarray,
  tolerance: float = 1e-6,
  most: int = 1000,
) -> np.ndarray:
  """X of A X = B for all columns at once, each with its own step lengths.

  Args:
    apply: X [n, c] -> A X, A symmetric and positive definite.
    right: B [n, c] float64.
    tolerance: |A X - B| <= tolerance |B| in each column.

  Raises:
    InputError: not reached in `most` products.
  """
  found = np.zeros_like(right)
  rest = right.copy()
  way = rest.copy()
  square = (rest * rest).sum(0)
  goal = tolerance**2 * square
  for _ in range(most):
    open = square > goal
    if not open.any():
      return found
    image = apply(way)
    curve = (way * image).sum(0)
    step = np.where(open, square / np.where(open, curve, 1), 0)
    found += step * way
    rest -= step * image
    new = (rest * rest).sum(0)
    way = rest + np.where(open, new / np.where(open, square, 1), 0) * way
    square = np.where(open, new, square)
  raise InputError(
    f'the linear system is not solved after {most} products; lower alpha'
  )


def solve_spreading(
  smooth: Weights, alpha: float, right: np.ndarray
) -> np.ndarray:
  """(I - α S)^-1 B for B [n, c]: on the host, or by JAX on accelerators."""
  if jax.default_backend() == 'cpu':
    return conjugate_gradients(lambda x: x - alpha * (smooth @ x), right)
  edges = _edges(smooth)
  solve = jax.jit(
    lambda b: jax.scipy.sparse.linalg.cg(
      lambda x: x - alpha * _product(edges, x), b, tol=1e-6, maxiter=1000
    )[0]
  )
  return np.asarray(solve(jnp.asarray(right, jnp.float32)), np.float64)
