"""The stand-alone update of LAMB beside optax.lamb and optax.adamw.

  python benchmarks/lamb_step.py                # CPU seconds on BERT-Large
  python benchmarks/lamb_step.py --tpu=v3:2x2   # bytes a parameter (libtpu)

The program is `(params, state, grads) -> (params, state)` with params and state
donated, in float32, on the 398 leaves of an unscanned BERT-Large (or --layers).
Bytes are the compiled program's `bytes accessed` over the parameters; reading
x, g, m, v twice and writing x, m, v once is 40 (a norm needs its own pass).
"""

import argparse
import os
import statistics
import time
from functools import partial

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec

from jaxlab.engine import mesh
from jaxlab.models.bert import Bert
from jaxlab.papers.lamb import method
from jaxlab.planning import topology

RATE, DECAY = 1e-3, 0.01


def shapes(layers: int):
  """BERT-Large's parameters, with fewer layers if asked."""
  model = Bert(30522, layers, 1024, 16, 4096)
  shape = lambda kind: jnp.zeros((1, 8), kind)
  inputs = [shape(jnp.int32), shape(jnp.int32), shape(bool), shape(jnp.int32)]
  init = partial(model.init, deterministic=True)
  return jax.eval_shape(init, jax.random.key(0), *inputs)['params']


def contenders():
  return {
    'jaxlab lamb': method.lamb(RATE, weight_decay=DECAY),
    'optax.lamb': optax.lamb(RATE, eps=1e-6, weight_decay=DECAY),
    'optax.adamw': optax.adamw(RATE, weight_decay=DECAY),
  }


def program(tx):
  # Donated arguments are paired with results of their shape in order: another
  # order of the arguments copies every leaf.
  @partial(jax.jit, donate_argnums=(0, 1))
  def step(params, state, grads):
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state

  return step


def tpu_bytes(name: str, layers: int) -> None:
  place = topology.describe(name)
  whole = NamedSharding(mesh.make(devices=place.devices), PartitionSpec())
  params = shapes(layers)
  count = sum(x.size for x in jax.tree.leaves(params))
  put = lambda tree: jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), tree
  )
  print(
    f'{name}, {len(jax.tree.leaves(params))} leaves, {count:,} parameters\n'
    '| update | bytes a parameter | temporaries, bytes a parameter |\n'
    '|---|---|---|'
  )
  for label, tx in contenders().items():
    state = jax.eval_shape(tx.init, params)
    compiled = program(tx).lower(put(params), put(state), put(params)).compile()
    cost = compiled.cost_analysis()
    cost = cost[0] if isinstance(cost, list) else cost
    temporary = compiled.memory_analysis().temp_size_in_bytes
    print(
      f'| {label} | {cost["bytes accessed"] / count:.2f} | '
      f'{temporary / count:.3f} |',
      flush=True,
    )


class Runner:
  """One contender's arrays and compiled step."""

  def __init__(self, tx, params, grads):
    self.params = drawn(params)
    self.grads = grads
    self.state = jax.jit(tx.init)(self.params)
    self.step = program(tx)

  def run(self) -> float:
    start = time.perf_counter()
    self.params, self.state = self.step(self.params, self.state, self.grads)
    jax.block_until_ready(self.params)
    return time.perf_counter() - start


def drawn(shape):
  keys = iter(range(10**6))
  return jax.tree.map(
    lambda x: 0.02 * jax.random.normal(jax.random.key(next(keys)), x.shape),
    shape,
  )


def cpu_seconds(layers: int, rounds: int) -> None:
  params = shapes(layers)
  count = sum(x.size for x in jax.tree.leaves(params))
  grads = drawn(params)
  print(
    f'{jax.default_backend()}, {len(jax.tree.leaves(params))} leaves, '
    f'{count:,} parameters, {rounds} rounds of ours and the rival in turn, '
    f'load {os.getloadavg()[0]:.1f}\n'
    '| rival | ours, seconds, median (min) | rival, seconds, median (min) | '
    'ours is faster by |\n|---|---|---|---|'
  )
  ours_tx, *rivals = contenders().items()
  for name, tx in rivals:
    # Two at a time: BERT-Large with its moments is 4 GB.
    pair = [Runner(t, params, grads) for t in (ours_tx[1], tx)]
    for runner in pair:
      runner.run()
    times = [[runner.run() for runner in pair] for _ in range(rounds)]
    ours, theirs = zip(*times)
    ratio = statistics.median(b / a for a, b in times)
    print(
      f'| {name} | {statistics.median(ours):.3f} ({min(ours):.3f}) | '
      f'{statistics.median(theirs):.3f} ({min(theirs):.3f}) | {ratio:.2f} |',
      flush=True,
    )
    del pair, runner


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--tpu', default='', help='a topology, such as v3:2x2')
  parser.add_argument('--layers', type=int, default=24)
  parser.add_argument('--rounds', type=int, default=7)
  args = parser.parse_args()
  mesh.start()
  if args.tpu:
    tpu_bytes(args.tpu, args.layers)
  else:
    cpu_seconds(args.layers, args.rounds)


if __name__ == '__main__':
  main()
