"""Linear regions counted a second: slices, lines, a LeNet.

  python benchmarks/regions.py

One thread, NumPy float64, He normals, biases N(0, .1²), fixed seeds. Seconds
are of the processor: on a shared machine the clock says less.
"""

import itertools
import os
import sys
import time


def net(widths, seed):
  import numpy as np

  rng = np.random.default_rng(seed)
  return [
    (rng.normal(size=(a, b)) * (2 / a) ** 0.5, 0.1 * rng.normal(size=b))
    for a, b in itertools.pairwise(widths)
  ]


def timed(run):
  began = time.process_time()
  found = run()
  return found, time.process_time() - began


def alone() -> None:
  """Starts this script again with one thread, unless it has one."""
  flags = '--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1'
  names = ('OMP', 'OPENBLAS', 'MKL')
  env = {f'{name}_NUM_THREADS': '1' for name in names}
  env |= {'XLA_FLAGS': flags, 'JAX_PLATFORMS': 'cpu'}
  if not env.items() <= os.environ.items():
    os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | env)


def main():
  """Prints the table."""
  import jax
  import jax.numpy as jnp
  import numpy as np

  from jaxlab.models.lenet import LeNet5
  from jaxlab.models.piecewise_linear import piecewise_linear
  from jaxlab.papers.geometry import regions

  print('| case | cells | linear | seconds | a second |')
  print('|---|---|---|---|---|')
  square = np.array([[-1.0, -1], [1, -1], [1, 1], [-1, 1]])
  layers = net([2, 64, 64, 64, 1], 0)
  regions.slice_polygons(layers, square / 9)  # warm
  found, seconds = timed(lambda: regions.slice_polygons(layers, square))
  linear, more = timed(lambda: found.linear)
  rate = found.activation / seconds
  print(
    f'| slice of [2, 64, 64, 64, 1], ± 1 | {found.activation} | {linear} (in '
    f'{more:.2f} s) | {seconds:.2f} | {rate:,.0f} |'
  )
  layers = net([784, 512, 512, 10], 1)
  ends = np.random.default_rng(2).uniform(size=(2, 1000, 784))
  regions.count_segments(layers, *ends[:, :16])
  found, seconds = timed(lambda: regions.count_segments(layers, *ends))
  pieces = found.activation.sum()
  print(
    f'| 1,000 lines through [784, 512, 512, 10] | {pieces} | '
    f'{found.linear.sum()} | {seconds:.2f} | {pieces / seconds:,.0f} |'
  )
  lenet, shape = LeNet5(padding=2), (28, 28, 1)
  variables = lenet.init(jax.random.key(0), jnp.zeros((1, *shape)), train=False)
  steps = piecewise_linear(lenet, variables, shape, train=False)
  corners = np.random.default_rng(3).uniform(size=(3, *shape))
  corners = corners[0] + 0.05 * (corners - corners[0])
  for when in ('first', 'again'):
    found, seconds = timed(lambda: regions.slice_polygons(steps, corners))
    rate = found.activation / seconds
    print(
      f'| LeNet-5, a triangle, {when} | {found.activation} | {found.linear} | '
      f'{seconds:.2f} | {rate:,.0f} |'
    )


if __name__ == '__main__':
  alone()
  main()
