"""Neighbour sampling beside DGL, PyG and a loop; the probabilities of MVS.

  pip install --no-deps dgl==1.1.3                # optional, DGL
  pip install torch-geometric setuptools wheel    # optional, PyG, and one of
  FORCE_ONLY_CPU=1 pip install --no-build-isolation torch-scatter torch-sparse
                                                  # (compiles for 30 minutes)
  pip install pyg-lib                             # (where there is a wheel)
  python benchmarks/graph_sampling.py [--rounds 9]

One graph of 200,000 nodes and about 10 M directed edges, in-degrees by a power
law; batches of 1,024 seeds, fan-outs [15, 10] and [15, 10, 5]; 100 float32
features of all sampled nodes are gathered. One thread, no workers.

  ours   up to padded `jraph.GraphsTuple`s within a bucket, and features into
         a buffer that is used again, the padding's rows too
  DGL    `NeighborSampler.sample_blocks` in C++ and an index into the features:
         without its loader, without padding, which flatters it
  PyG    `NeighborLoader`, whole; its C++ is that of torch-sparse or pyg-lib
  loop   `Generator.choice` a node and `np.unique` a layer, in NumPy

All get the same seed nodes and take turns; figures are medians over the rounds,
the ratio that of the rounds' own ratios. An edge is one that was drawn. PyG
does not draw again for nodes it has met before, so that its batches have fewer.
glibc keeps freed pages for all, as in jaxlab's programs (`mesh.keep_pages`).

Gate: at least 5 times the edges a second of PyG's loader; where that is not
installed, nothing is said of it. The probabilities of 10^6 nodes in under .3 s.
"""

import argparse
import os
import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial

NODES, EDGES, BATCH, FEATURES = 200_000, 10_000_000, 1024, 100
FAN_OUTS = ((15, 10), (15, 10, 5))
OURS = 'ours'

# Edges drawn for the seeds of a round.
Run = Callable[[int], int]


def bind() -> None:
  """One core and one thread, before any library is loaded."""
  os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-1:])
  for name in ('OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'OPENBLAS_NUM_THREADS'):
    os.environ[name] = '1'
  os.environ['JAX_PLATFORMS'] = 'cpu'
  os.environ['DGLBACKEND'] = 'pytorch'
  warnings.filterwarnings('ignore', category=FutureWarning)


def make_graph():
  """The mean over in-neighbours; these are uniform, each once in a row."""
  import numpy as np

  from jaxlab.data.graphs.adjacency import adjacency
  from jaxlab.papers.mvs_gnn.blocks import make_operator

  draw = np.random.default_rng(0)
  size = 1 + draw.pareto(1.8, NODES)
  degrees = np.minimum(np.round(size * EDGES / size.sum()), 8000)
  receivers = np.repeat(np.arange(NODES), degrees.astype(np.int64))
  edges = np.stack([receivers, draw.integers(0, NODES, len(receivers))], 1)
  return make_operator(adjacency(edges, NODES, symmetric=False), 'row')


def seeds_of(number: int):
  import numpy as np

  draw = np.random.default_rng((1, number))
  return draw.choice(NODES, BATCH, replace=False).astype(np.int32)


def ours(graph, features, fan_outs, replace: bool) -> Run:
  import numpy as np

  from jaxlab.papers.mvs_gnn.blocks import pad
  from jaxlab.papers.mvs_gnn.feeds import fitted
  from jaxlab.papers.mvs_gnn.nodewise import Neighbour

  layers = len(fan_outs)
  sampler = Neighbour(graph, np.arange(NODES), BATCH, layers, fan_outs, replace)
  budget = fitted(sampler, seed=0, draws=4, headroom=1.2, lanes=1).budget
  sampler.within(budget)
  buffer = np.empty((budget.nodes[0], FEATURES), np.float32)
  weight = np.full(BATCH, 1 / BATCH, np.float32)

  def run(number: int) -> int:
    draw = np.random.default_rng((2, number))
    edges = partial(sampler.edges, draw)
    sample = sampler.assembler.sample(
      draw, seeds_of(number), weight, layers, edges
    )
    padded = pad(sample, budget, NODES)
    ids = padded.layers[0].nodes['id']
    np.take(features, ids, axis=0, out=buffer, mode='clip')
    assert not sample.overflow
    return sum(len(layer.senders) for layer in sample.layers)

  return run


def dgl_blocks(graph, features, fan_outs, replace: bool) -> Run:
  import dgl
  import torch

  torch.set_num_threads(1)
  dgl.seed(0)
  csc = (
    torch.from_numpy(graph.indptr),
    torch.from_numpy(graph.indices).long(),
    torch.tensor([], dtype=torch.int64),
  )
  found = dgl.graph(('csc', csc), num_nodes=NODES)
  # Its fan-outs are from the input layer up.
  sampler = dgl.dataloading.NeighborSampler(fan_outs[::-1], replace=replace)
  features = torch.from_numpy(features)

  def run(number: int) -> int:
    seeds = torch.from_numpy(seeds_of(number)).long()
    nodes, _, blocks = sampler.sample_blocks(found, seeds)
    _ = features[nodes]
    return sum(block.num_edges() for block in blocks)

  return run


def pyg_loader(graph, features, fan_outs, replace: bool) -> Run:
  import numpy as np
  import torch
  from torch_geometric.data import Data
  from torch_geometric.loader import NeighborLoader

  torch.set_num_threads(1)
  rows = np.repeat(np.arange(NODES), graph.degrees)
  edges = torch.from_numpy(np.stack([graph.indices.astype(np.int64), rows]))
  data = Data(x=torch.from_numpy(features), edge_index=edges, num_nodes=NODES)
  loader = NeighborLoader(
    data, list(fan_outs), batch_size=BATCH, replace=replace
  )

  def run(number: int) -> int:
    batch = loader(torch.from_numpy(seeds_of(number)).long())
    return batch.edge_index.shape[1]

  return run


def loop(graph, features, fan_outs, replace: bool) -> Run:
  import numpy as np

  def run(number: int) -> int:
    draw, count = np.random.default_rng((2, number)), 0
    nodes = seeds_of(number)
    for fan_out in fan_outs:
      senders = []
      for node in nodes:
        row = graph.indices[graph.indptr[node] : graph.indptr[node + 1]]
        if replace and len(row):
          row = draw.choice(row, fan_out)
        elif len(row) > fan_out:
          row = draw.choice(row, fan_out, replace=False)
        senders.append(row)
      drawn = np.concatenate(senders)
      count += len(drawn)
      nodes, _ = np.unique(np.concatenate([nodes, drawn]), return_inverse=True)
    _ = features[nodes]
    return count

  return run


CONTENDERS = {OURS: ours, 'DGL': dgl_blocks, 'PyG': pyg_loader, 'loop': loop}


def compare(runs: dict[str, Run], rounds: int) -> dict[str, list[tuple]]:
  """Name -> (milliseconds, edges, edges a second) of every round."""
  found: dict[str, list[tuple]] = {name: [] for name in runs}
  names = list(runs)
  for i in range(rounds):
    for name in names[i % len(names) :] + names[: i % len(names)]:
      began = time.perf_counter()
      edges = runs[name](i)
      seconds = time.perf_counter() - began
      found[name].append((1e3 * seconds, edges, edges / seconds))
  return found


def rows_of(times, fan_outs, replace: bool):
  """A line of the table for each contender."""
  kind = 'with' if replace else 'without'
  for name, values in times.items():
    middle = [statistics.median(column) for column in zip(*values)]
    ratio = statistics.median(
      mine[2] / other[2] for mine, other in zip(times[OURS], values)
    )
    yield (
      f'| {list(fan_outs)} | {kind} | {name} | {middle[0]:.1f} | '
      f'{middle[1]:,.0f} | {middle[2] / 1e6:.2f} | {ratio:.1f} |'
    )


def probabilities(rounds: int) -> float:
  """Median seconds for 10^6 norms."""
  import numpy as np

  from jaxlab.papers.mvs_gnn.method import minimal_variance_probabilities

  norms = np.random.default_rng(0).pareto(2.0, 10**6)
  seconds = []
  for _ in range(rounds):
    began = time.perf_counter()
    p = minimal_variance_probabilities(norms, BATCH)
    seconds.append(time.perf_counter() - began)
  assert abs(p.sum() - BATCH) < 1e-6 * BATCH
  return statistics.median(seconds)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--rounds', type=int, default=9)
  args = parser.parse_args()
  bind()
  import numpy as np

  from jaxlab.engine import mesh

  mesh.keep_pages()
  graph = make_graph()
  degrees = graph.degrees
  draw = np.random.default_rng(3)
  features = draw.standard_normal((NODES, FEATURES), np.float32)
  print(
    f'{NODES:,} nodes, {len(graph.indices):,} edges, in-degrees: mean '
    f'{degrees.mean():.0f}, median {np.median(degrees):.0f}, largest '
    f'{degrees.max():,}; batch {BATCH}, {args.rounds} rounds in turn, one '
    f'thread, load {os.getloadavg()[0]:.1f}\n'
    '| fan-outs | replacement | who | ms | edges | M edges/s | ours, times |\n'
    '|---|---|---|---|---|---|---|',
    flush=True,
  )
  missing = {}
  for fan_outs in FAN_OUTS:
    for replace in (False, True):
      runs = {}
      for name, make in CONTENDERS.items():
        try:
          run = make(graph, features, fan_outs, replace)
          run(args.rounds)  # PyG looks for its C++ only here
          runs[name] = run
        except ImportError as error:
          missing[name] = error
      for line in rows_of(compare(runs, args.rounds), fan_outs, replace):
        print(line, flush=True)
  print(f'MVS probabilities of 10^6 nodes: {probabilities(args.rounds):.3f} s')
  for name, reason in missing.items():
    print(f'{name} is not installed ({reason}); see the head of this file')


if __name__ == '__main__':
  main()
