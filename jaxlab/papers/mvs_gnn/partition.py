"""Graphs cut in parts, for Cluster-GCN."""

import numpy as np
import scipy.sparse

from jaxlab.papers.mvs_gnn.blocks import Operator


def partition(
  rng: np.random.Generator,
  operator: Operator,
  parts: int,
  *,
  iterations: int = 100,
  rounds: int = 10,
  slack: float = 0.1,
) -> np.ndarray:
  """Cuts a graph in parts of about the same size along few entries of L.

  Recursive spectral bisection, all parts of a level at once: power iterations
  of the lazy random walk within the parts, whose slowest mode but the constant
  cuts a part at a quantile. Then nodes move, best first, to the part most of
  their neighbours are in, while that has room.

  Args:
    iterations: of the walk, a level.
    rounds: in which nodes move.
    slack: parts have at most (1 + slack) n / parts nodes, rounded up.

  Returns:
    [n] int32 in [0, parts).
  """
  size = operator.num_nodes
  ones = np.ones(len(operator.indices), np.float32)
  graph = scipy.sparse.csr_array(
    (ones, operator.indices, operator.indptr), shape=(size, size)
  )
  graph = (graph + graph.T).tocsr()
  part, goal = np.zeros(size, np.int64), np.array([parts])
  while goal.max() > 1:
    value = _slow_mode(rng, graph, part, len(goal), iterations)
    part, goal = _halve(part, goal, value)
  room = int(np.ceil((1 + slack) * size / parts))
  for _ in range(rounds):
    _move(rng, graph, part, parts, room)
  return part.astype(np.int32)


def _slow_mode(rng, graph, part, parts, iterations):
  """[n] values that vary slowly along the edges within parts."""
  rows = np.repeat(np.arange(len(part)), np.diff(graph.indptr))
  kept = part[rows] == part[graph.indices]
  rows, columns = rows[kept], graph.indices[kept]
  degree = np.bincount(rows, graph.data[kept], len(part)) + 1e-6
  walk = scipy.sparse.csr_array(
    (
      (graph.data[kept] / (2 * degree[rows])).astype(np.float32),
      (rows, columns),
    ),
    shape=graph.shape,
  )
  total = np.bincount(part, degree, parts)
  mean = lambda array: (np.bincount(part, degree * array, parts) / total)[part]
  value = rng.standard_normal(len(part), np.float32)
  for turn in range(iterations):
    value = walk @ value + value / 2
    if turn % 5 == 4:  # often enough for float32
      value = value - mean(value)
      value = (value / np.sqrt(mean(value**2) + 1e-30)).astype(np.float32)
  return value


def _halve(part, goal, value):
  """Cuts the parts that hold more than one of the final ones."""
  size = np.bincount(part, minlength=len(goal))
  left = goal // 2
  order = np.lexsort((value, part))
  rank = np.empty(len(part), np.int64)
  rank[order] = np.arange(len(part))
  rank -= (np.cumsum(size) - size)[part]
  # At least as many nodes on both sides as parts they shall be cut in.
  cut = np.clip(np.round(size * left / goal), left, size - (goal - left))
  side = rank >= cut[part]
  goals = np.stack([left, goal - left], 1).ravel()
  number = np.cumsum(goals > 0) - 1
  return number[2 * part + side], goals[goals > 0]


def _move(rng, graph, part, parts, room) -> None:
  """One round; a random 7 in 10 may move, lest neighbours change places."""
  size = len(part)
  counts = scipy.sparse.csr_array(
    (graph.data.copy(), part[graph.indices], graph.indptr.copy()),
    shape=(size, parts),
  )
  counts.sum_duplicates()
  nodes = np.repeat(np.arange(size), np.diff(counts.indptr))
  target, number = counts.indices, counts.data
  own = np.zeros(size)
  stay = target == part[nodes]
  own[nodes[stay]] = number[stay]
  gain = number - own[nodes]
  may = (gain > 0) & (rng.random(size) < 0.7)[nodes]
  nodes, target, gain = nodes[may], target[may], gain[may]
  order = np.lexsort((-gain, nodes))
  best = order[np.diff(nodes[order], prepend=-1) > 0]
  best = best[np.lexsort((-gain[best], target[best]))]
  nodes, target = nodes[best], target[best]
  have = np.bincount(part, minlength=parts)
  arriving = np.bincount(target, minlength=parts)
  turn = np.arange(len(target)) - (np.cumsum(arriving) - arriving)[target]
  moves = turn < (room - have)[target]
  part[nodes[moves]] = target[moves]
