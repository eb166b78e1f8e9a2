"""Semi-discrete transport beside OTT-JAX: samples a second, samples needed.

  python benchmarks/transport.py --ott PYTHON

PYTHON has ott-jax 0.6.0 and the same jax. One thread each, in a process of its
own; seconds are of the processor. Theirs: `SemidiscreteSolver.step` under
`lax.scan` at ε = 0, without error evaluations, the best of three batch sizes.
Ours: the whole step of AdamDoubling (draws, cells, Adam), batch 4,096; in the
plane also by a k-d tree that is built anew in each step, batch 65,536.

Then n = 60 in the unit square: samples until the exact L1 error of the masses
is at most .02, from the same start, on seeds that nothing was tuned on; beside
Annealed, Adam with doubling as in the authors' code: a fixed set of samples
until it doubles.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

CASES = ((10_000, 2), (10_000, 64), (10_000, 100), (1000, 784))
SEEDS = (11, 12, 13, 14, 15)
SECONDS = 2.0  # of each timing, about


def rate(step, samples: int) -> float:
  """Samples a second of the processor; `step` runs some, the first twice."""
  step()
  began = time.process_time()
  step()
  once = max(time.process_time() - began, 1e-6)
  times = max(1, round(SECONDS / once))
  began = time.process_time()
  for _ in range(times):
    step()
  return times * samples / (time.process_time() - began)


def atoms_of(n: int, d: int):
  import numpy as np

  return np.random.default_rng(0).uniform(size=(n, d))


def theirs(n: int, d: int) -> dict[str, float]:
  """Rates by batch size."""
  import jax
  import jax.numpy as jnp
  import optax
  from ott.geometry import semidiscrete_pointcloud
  from ott.problems.linear import semidiscrete_linear_problem
  from ott.solvers.linear import semidiscrete

  found = {}
  y = jnp.asarray(atoms_of(n, d), jnp.float32)
  draw = lambda key, shape, dtype=None: jax.random.uniform(key, shape)
  cloud = semidiscrete_pointcloud.SemidiscretePointCloud(draw, y, epsilon=0.0)
  problem = semidiscrete_linear_problem.SemidiscreteLinearProblem(cloud)
  for batch in (128, 1024, 4096):
    steps = max(1, 8192 // batch)
    solver = semidiscrete.SemidiscreteSolver(
      num_iterations=steps, batch_size=batch, optimizer=optax.adam(0.01)
    )
    g = jnp.zeros(n)
    empty = jnp.full(steps, jnp.inf)
    state = semidiscrete.SemidiscreteState(
      it=jnp.array(0),
      epsilon=jnp.zeros(()),
      g=g,
      g_ema=g,
      opt_state=solver.optimizer.init(g),
      losses=empty,
      grad_norms=empty,
      errors=jnp.full(1, jnp.inf),
    )

    @jax.jit
    def run(state, solver=solver, steps=steps):
      def body(state, i):
        key = jax.random.fold_in(jax.random.key(0), i)
        return solver.step(key, state, problem, compute_error=False), None

      state, _ = jax.lax.scan(body, state, jnp.arange(steps))
      return state.g

    found[str(batch)] = rate(
      lambda run=run, state=state: run(state).block_until_ready(),
      steps * batch,
    )
  return found


def ours(n: int, d: int) -> dict[str, float]:
  """Rates of tiles, and of the tree in the plane."""
  import jax
  import jax.numpy as jnp
  import numpy as np

  from jaxlab.papers.geometry import (
    assignment,
    certificates,
    solvers,
    transport,
  )

  problem = transport.Problem(atoms_of(n, d))
  atoms, low, high = certificates.on_device(problem)
  batch, h = 4096, jnp.asarray(problem.voronoi, jnp.float32)
  weights = jnp.full(n, 1 / n)
  draw = certificates.sampler(batch, 100, None)
  key, moments = jax.random.key(0), (0 * h, 0 * h)

  def step():
    count = draw(key, 0, atoms, h, low, high)
    new, *_ = solvers.adam_step(
      h, moments, count, weights, batch, 0.01, 1, 0.9, 0.999
    )
    new.block_until_ready()

  found = {'tiles': rate(step, batch)}
  if d == 2:
    rng, size = np.random.default_rng(1), 65_536

    def by_tree():
      index = assignment.Tree(problem.atoms, problem.voronoi).best(
        rng.uniform(size=(size, 2))
      )
      np.bincount(index, minlength=n) / size - problem.weights

    found['tree'] = rate(by_tree, size)
  return found


def child(side: str, n: int, d: int) -> None:
  print(json.dumps({'ours': ours, 'theirs': theirs}[side](n, d)))


def measured(python: str, side: str, n: int, d: int) -> dict[str, float]:
  """What `child` prints in a process with one thread."""
  names = ('OMP', 'OPENBLAS', 'MKL')
  flags = '--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1'
  env = {f'{name}_NUM_THREADS': '1' for name in names}
  env |= {'XLA_FLAGS': flags, 'JAX_PLATFORMS': 'cpu'}
  if side == 'ours':
    env['PYTHONPATH'] = str(Path(__file__).parents[1])
  command = [python, __file__, '--side', side, '--case', f'{n},{d}']
  done = subprocess.run(
    command, env={**os.environ, **env}, check=True, stdout=subprocess.PIPE
  )
  return json.loads(done.stdout.decode().strip().split('\n')[-1])


def adam_with_doubling(problem, seed: int, least: float, most: float) -> float:
  """Samples until the L1 error is `least`; inf beyond `most`."""
  import numpy as np

  from jaxlab.papers.geometry import transport

  rng = np.random.default_rng(seed)
  h, size, used, since, lowest = problem.voronoi, 10_000, 0, 0, np.inf
  x = rng.uniform(size=(size, 2))
  first, second = np.zeros_like(h), np.zeros_like(h)
  for step in range(1_000_000):
    index = (x @ problem.atoms.T + h).argmax(1)
    slope = np.bincount(index, minlength=len(h)) / size - problem.weights
    used += size
    first = 0.9 * first + 0.1 * slope
    second = 0.999 * second + 0.001 * slope**2
    h = h - 1e-3 * first / (np.sqrt(second) + 1e-8)
    h = h - h.mean()
    error = np.linalg.norm(slope)
    since = 0 if error < lowest else since + 1
    lowest = min(lowest, error)
    if since > 30:
      size, since, lowest = 2 * size, 0, np.inf
      x = rng.uniform(size=(size, 2))
    if step % 20 == 0:
      if np.abs(transport.gradient(problem, h)).sum() <= least:
        return used
      if used > most:
        return np.inf
  return np.inf


def race() -> None:
  """Prints the samples that both need."""
  import numpy as np

  from jaxlab.papers.geometry import transport

  rows = []
  for seed in SEEDS:
    atoms = np.random.default_rng(seed).uniform(size=(60, 2))
    problem = transport.Problem(atoms)
    own = np.inf
    for steps in (2000, 4000, 6000, 8000, 12_000, 16_000, 24_000, 32_000):
      found = transport.Annealed(steps=steps, seed=seed)(problem)
      error = np.abs(transport.gradient(problem, found.potentials)).sum()
      if error <= 0.02:
        own = found.samples
        break
    other = adam_with_doubling(problem, seed, 0.02, 4e7)
    newton = transport.Newton()(problem)
    rows.append((own, other))
    print(
      f'| {seed} | {own:,.0f} | {other:,.0f} | {other / own:.0f} | '
      f'{newton.steps} steps to {newton.errors[-1]:.0e} |',
      flush=True,
    )
  median = [statistics.median(x) for x in zip(*rows)]
  ratio = statistics.median(b / a for a, b in rows)
  print(f'| median | {median[0]:,.0f} | {median[1]:,.0f} | {ratio:.0f} | |')


def main():
  """Prints the tables."""
  parser = argparse.ArgumentParser()
  parser.add_argument('--ott', default=sys.executable)
  parser.add_argument('--side')
  parser.add_argument('--case')
  args = parser.parse_args()
  if args.side:
    n, d = map(int, args.case.split(','))
    return child(args.side, n, d)
  print('| n, d | OTT, best batch | samples/s | ours | samples/s | ratio |')
  print('|---|---|---|---|---|---|')
  for n, d in CASES:
    other = measured(args.ott, 'theirs', n, d)
    batch = max(other, key=lambda b: other[b])
    for name, own in measured(sys.executable, 'ours', n, d).items():
      print(
        f'| {n:,}, {d} | {batch} | {other[batch]:,.0f} | {name} | {own:,.0f} | '
        f'{own / other[batch]:.2f} |',
        flush=True,
      )
      if name == 'tiles':
        flops = 2e-9 * n * d * own
        print(f'| | | | {flops:.0f} GFLOP/s of scores | | |')
  print()
  print('| seed | Annealed, samples | Adam, doubling | ratio | Newton |')
  print('|---|---|---|---|---|')
  race()


if __name__ == '__main__':
  main()
