"""kNN graph and normalized cut beside what the paper's public code does.

  python benchmarks/propagation.py                    # n = 50,000, one thread
  python benchmarks/propagation.py --growth           # also 100,000 and 200,000
  python benchmarks/propagation.py --n 5000           # a quick look

Features: ten clusters on the unit sphere of R^128, 32 intrinsic dimensions and
noise; K = 20, 200 eigenpairs, five labels a class. Theirs: scikit-learn's
brute-force neighbours of unit vectors (euclidean, its faster metric) and
scipy's eigsh(which='SM', tol=1e-2) in float64. Each side runs in a process of
its own, whose peak memory is read at the end; imports are not timed. Seconds
are of the clock, and in the last columns of the processor.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

K, PAIRS, CLASSES, LABELS = 20, 200, 10, 5


def features_of(n: int):
  """Features [n, 128] float32 and classes [n]."""
  import numpy as np

  rng = np.random.default_rng(0)
  basis = np.linalg.qr(rng.standard_normal((128, 32)))[0]
  centres = rng.standard_normal((CLASSES, 32))
  centres /= np.linalg.norm(centres, axis=1, keepdims=True)
  labels = rng.integers(0, CLASSES, n)
  low = centres[labels] + 0.17 * rng.standard_normal((n, 32))
  x = low @ basis.T + 0.02 * rng.standard_normal((n, 128))
  x /= np.linalg.norm(x, axis=1, keepdims=True)
  return x.astype(np.float32), labels


def ours(n: int):
  """(seconds by part, values, vectors, S, accuracy)."""
  from jaxlab.papers.metric_transfer import graph, labels, selection, spectrum

  x, y = features_of(n)
  mask = selection.balanced_split(y, LABELS, CLASSES, 0)
  began, busy = time.monotonic(), time.process_time()
  found = graph.knn_graph(x, K)
  near = time.monotonic()
  weights = graph.affinity(found)
  parts = spectrum.components(weights, PAIRS)
  pairs = time.monotonic()
  scores = labels.normalized_cut(parts, y, mask, CLASSES)
  end = time.monotonic()
  seconds = {'kNN': near - began, 'pairs': pairs - near, 'cut': end - pairs}
  seconds['cpu'] = time.process_time() - busy
  largest = max(parts, key=lambda part: len(part.nodes))
  smooth, _ = graph.normalised(weights)
  part = smooth[largest.nodes][:, largest.nodes]
  right = (scores.argmax(1) == y)[~mask].mean()
  return seconds, largest.values, largest.vectors, part, right


def theirs(n: int):
  """The same by scikit-learn and 'SM', on the same kind of graph."""
  import numpy as np
  import scipy.sparse
  from scipy.sparse.csgraph import laplacian
  from scipy.sparse.linalg import eigsh
  from sklearn.neighbors import NearestNeighbors

  x, y = features_of(n)
  began, busy = time.monotonic(), time.process_time()
  search = NearestNeighbors(n_neighbors=K, algorithm='brute').fit(x)
  distance, index = search.kneighbors()  # of others
  near = time.monotonic()
  weight = np.exp(-(distance.astype(np.float64) ** 2) / 2 / 0.2).reshape(-1)
  one_way = scipy.sparse.csr_array(
    (weight, index.reshape(-1), np.arange(0, n * K + 1, K)), shape=(n, n)
  )
  lap = laplacian((one_way + one_way.T) / 2, normed=True).tocsr()
  values, vectors = eigsh(lap, PAIRS, which='SM', tol=1e-2, maxiter=30000)
  pairs = time.monotonic()
  order = np.argsort(values)
  values, vectors = values[order], vectors[:, order]
  d = np.asarray(((one_way + one_way.T) / 2).sum(1)).reshape(-1, 1)
  mask = split_of(y)
  hit = np.eye(CLASSES)[y] * mask[:, None]
  miss = (1 - np.eye(CLASSES)[y]) * mask[:, None]
  ratio = (d * hit).sum(0) / (d * miss).sum(0)
  bias = np.sqrt(d * hit / ratio) - np.sqrt(d * miss * ratio)
  bias /= np.linalg.norm(bias, axis=0)
  cut = (vectors[:, 1:] / values[1:]) @ (vectors[:, 1:].T @ bias)
  cut /= np.linalg.norm(cut, axis=0)
  end = time.monotonic()
  seconds = {'kNN': near - began, 'pairs': pairs - near, 'cut': end - pairs}
  seconds['cpu'] = time.process_time() - busy
  right = (cut.argmax(1) == y)[~mask].mean()
  return seconds, values, vectors, scipy.sparse.eye_array(n) - lap, right


def split_of(labels):
  from jaxlab.papers.metric_transfer.selection import balanced_split

  return balanced_split(labels, LABELS, CLASSES, 0)


def child(side: str, n: int, path: str) -> None:
  """Runs one side and leaves what it found in a file."""
  import jax
  import numpy as np
  import sklearn.neighbors  # noqa: F401

  jax.config.update('jax_platforms', 'cpu')
  seconds, values, vectors, smooth, right = {'ours': ours, 'theirs': theirs}[
    side
  ](n)
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
  rest = smooth @ vectors - vectors * (1 - values)
  np.savez(
    path,
    values=values,
    residual=np.linalg.norm(rest, axis=0).max(),
    right=right,
    peak=peak,
    nodes=len(vectors),
    **seconds,
  )


def measured(side: str, n: int, threads: int):
  """What `child` leaves, of a process with so many threads."""
  import numpy as np

  names = ('OMP', 'OPENBLAS', 'MKL')
  limits = {f'{name}_NUM_THREADS': str(threads) for name in names}
  with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / 'found.npz'
    command = [sys.executable, __file__, '--n', str(n)]
    root = str(Path(__file__).parents[1])
    subprocess.run(
      [*command, '--side', side, '--path', str(path)],
      env={**os.environ, **limits, 'PYTHONPATH': root},
      check=True,
    )
    return dict(np.load(path))


def main():
  """Prints the table."""
  import numpy as np

  parser = argparse.ArgumentParser()
  parser.add_argument('--n', type=int, default=50_000)
  parser.add_argument('--threads', type=int, default=1)
  parser.add_argument('--growth', action='store_true')
  parser.add_argument('--side', default='')
  parser.add_argument('--path', default='')
  args = parser.parse_args()
  if args.side:
    child(args.side, args.n, args.path)
    return
  print(f'threads {args.threads}, load {os.getloadavg()[0]:.1f}', flush=True)
  print(
    'side        n    kNN  pairs   cut    all  GiB residual accuracy    CPU'
  )

  def run(side, n):
    f = measured(side, n, args.threads)
    every = float(f['kNN'] + f['pairs'] + f['cut'])
    print(
      f'{side:6} {n:7,} {f["kNN"]:6.1f} {f["pairs"]:6.1f} {f["cut"]:5.2f} '
      f'{every:6.1f} {f["peak"]:4.2f} {f["residual"]:8.1e} {f["right"]:8.4f} '
      f'{f["cpu"]:6.1f}',
      flush=True,
    )
    return every, f

  mine, a = run('ours', args.n)
  other, b = run('theirs', args.n)
  gap = np.abs(a['values'][1:] / b['values'][1:] - 1).max()
  print(
    f'{other / mine:.2f} times as fast by the clock, '
    f'{b["cpu"] / a["cpu"]:.2f} by the processor; eigenvalues 2 to {PAIRS} '
    f'within {100 * gap:.2f} %, the {PAIRS}th {a["values"][-1]:.4f} and '
    f'{b["values"][-1]:.4f}; largest component {a["nodes"]:,}'
  )
  if args.growth:
    for n in (100_000, 200_000):
      run('ours', n)


if __name__ == '__main__':
  main()
