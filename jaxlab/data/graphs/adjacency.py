"""The neighbours of nodes in CSR form, from lists of edges."""

from typing import Literal, NamedTuple

import numpy as np
import scipy.sparse

from jaxlab.core.errors import InputError
from jaxlab.data.checks import first


class Adjacency(NamedTuple):
  """Neighbours of n nodes in CSR form, and what was found in making it.

  The neighbours of i are indices[indptr[i]:indptr[i + 1]], ascending.
  """

  indptr: np.ndarray  # [n + 1] int64
  indices: np.ndarray  # [m] int32 in [0, n)
  self_loops: int  # nodes with an edge to themselves among the edges given
  duplicates: int  # edges given that only repeat another
  isolated: int  # nodes without an edge to or from another node

  def matrix(self) -> scipy.sparse.csr_array:
    """[n, n] float32 of zeros and ones."""
    nodes = len(self.indptr) - 1
    ones = np.ones(len(self.indices), np.float32)
    return scipy.sparse.csr_array(
      (ones, self.indices, self.indptr), shape=(nodes, nodes)
    )


def adjacency(
  edges: np.ndarray,
  nodes: int,
  *,
  symmetric: bool = True,
  self_loops: Literal['drop', 'keep', 'add'] = 'drop',
) -> Adjacency:
  """CSR adjacency of [e, 2] integer edges.

  Args:
    edges: may hold self loops, repeated edges and both directions of one.
    nodes: n.
    symmetric: every edge leads both ways; (1, 0) then repeats (0, 1). False:
      the neighbours of i are the ends of the edges that start there.
    self_loops: leave them out, keep those given, or give every node one.

  Raises:
    InputError: a node is out of range.
  """
  check_edges(edges, nodes, 'the adjacency')
  start, end = edges[:, 0].astype(np.int64), edges[:, 1].astype(np.int64)
  other = start != end
  loops = distinct_of(start[~other])
  start, end = start[other], end[other]
  pairs = [start * nodes + end]
  if symmetric:
    pairs.append(end * nodes + start)
  keys = distinct_of(np.concatenate(pairs))
  distinct = len(keys) // 2 if symmetric else len(keys)
  touched = np.zeros(nodes, bool)
  touched[start] = touched[end] = True
  if self_loops != 'drop':
    kept = np.arange(nodes) if self_loops == 'add' else loops
    keys = np.sort(np.concatenate([keys, kept * (nodes + 1)]))
  indptr = np.searchsorted(keys, np.arange(nodes + 1) * nodes)
  rows = np.repeat(np.arange(nodes), np.diff(indptr))
  return Adjacency(
    indptr=indptr.astype(np.int64),
    indices=(keys - rows * nodes).astype(np.int32),
    self_loops=len(loops),
    duplicates=len(edges) - distinct - len(loops),
    isolated=int(nodes - touched.sum()),
  )


def homophily(edges: np.ndarray, labels: np.ndarray) -> float:
  """The part of [e, 2] edges whose ends have the same of [n] labels."""
  return float((labels[edges[:, 0]] == labels[edges[:, 1]]).mean())


def check_edges(edges: np.ndarray, nodes: int, what: str) -> None:
  """Raises InputError where edges are not [e, 2] integers in [0, nodes)."""
  if edges.ndim != 2 or edges.shape[1] != 2 or edges.dtype.kind not in 'iu':
    raise InputError(
      f'{what}: edges are {edges.dtype}{list(edges.shape)}, and must be '
      f'integers of shape [e, 2]'
    )
  if at := first((edges < 0) | (edges >= nodes)):
    raise InputError(
      f'{what}: edge {at[0]} joins the nodes {edges[at[0]].tolist()}, and '
      f'there are {nodes} nodes, counted from 0'
    )


def distinct_of(values: np.ndarray) -> np.ndarray:
  """Ascending, each once: several times faster than np.unique on many."""
  values = np.sort(values)
  keep = np.ones(len(values), bool)
  keep[1:] = values[1:] != values[:-1]
  return values[keep]
