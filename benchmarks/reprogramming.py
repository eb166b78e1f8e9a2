"""A program's step beside the victim's forward pass and input gradient.

  python benchmarks/reprogramming.py [--victim squeezenet] [--size 128]
    [--batch 50] [--rounds 9]

The program's step is the whole of training: images made, embedded, the
victim's forward pass and input gradient, Adam on W. Beside it, in turn, the
gradient of one logit's sum by the same victim's images. Weights are random:
times do not depend on them. Memory: what the compiler sets aside beside
arguments and results, and what JAX keeps between forward and backward pass.
"""

import argparse
import os
import statistics
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxlab.core import keys
from jaxlab.engine import mesh
from jaxlab.engine.compiled import Steps, first_state
from jaxlab.papers.reprogramming import task, victims
from jaxlab.recipes.study import Cell
from jaxlab.runs import configs, stage

MIB = 2**20


def config_of(args, **changes):
  config = configs.load('reprogramming')
  config.victim.name, config.victim.size = args.victim, args.size
  config.victim.weights = 'random'
  config.data.batch_size = args.batch
  config.update_from_flattened_dict(changes)
  return config.to_dict()


def planned_step(config, platform='cpu'):
  """The step, as it is made for a platform, and its State and batch."""
  devices = mesh.make(devices=jax.devices()[:1])
  space = stage.Workspace(Path(), config, devices, 0)
  cell = Cell('program', 'program', None, 0.1, 0)
  planned = task.cell_stages(config, cell)[1].plan(space)
  whole = mesh.replicated(devices)
  state = first_state(planned.task, jax.random.key(0))
  state = mesh.place(jax.tree.map(jnp.copy, state), whole)
  rows = config['data']['batch_size']
  batch = mesh.place(
    {'id': np.arange(rows, dtype=np.int32), 'mask': np.ones(rows, bool)}, whole
  )
  update = task.make_update(config, task.parts_of(config), 0.1, platform)
  made = planned.task._replace(steps={'train': update})
  return Steps(made, 0, state), state, batch


def temporary(compiled) -> float:
  return compiled.memory_analysis().temp_size_in_bytes / MIB


def kept(victim, images, params, vars) -> float:
  """MiB of residuals of the input gradient, without the weights."""
  size = lambda tree: sum(
    x.size * x.dtype.itemsize for x in jax.tree.leaves(tree)
  )
  pull = lambda x, p, v: jax.vjp(lambda x: victim.logits(x, p, v), x)[1]
  found = size(jax.eval_shape(pull, images, params, vars))
  return (found - size(params) - size(vars)) / MIB


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--victim', default='squeezenet')
  parser.add_argument('--size', type=int, default=128)
  parser.add_argument('--batch', type=int, default=50)
  parser.add_argument('--rounds', type=int, default=9)
  args = parser.parse_args()
  mesh.start()
  config = config_of(args)
  steps, state, batch = planned_step(config)
  victim = victims.victim_of(config)
  shape = (args.batch, args.size, args.size, 3)
  images = jax.random.uniform(jax.random.key(1), shape, minval=-1)
  net = jax.tree.map(jnp.copy, {'net': state.params['net']})
  vars = jax.tree.map(jnp.copy, {'net': state.vars['net']})

  def of_images(images, net, vars):
    return victim.logits(images, net, vars)[:, 3].sum()

  gradient = jax.jit(jax.grad(of_images))
  root = keys.stream(0, 'train')
  of_program = steps.lower('train', state, batch, root).compile()
  of_gradient = gradient.lower(images, net, vars).compile()
  memory = {
    'program step': temporary(of_program),
    'input gradient': temporary(of_gradient),
  }

  def step():
    nonlocal state
    state, metrics = of_program(state, batch, root)
    jax.block_until_ready(metrics)

  runs = {
    'program step': step,
    'input gradient': lambda: jax.block_until_ready(
      of_gradient(images, net, vars)
    ),
  }
  clocks = {'wall': time.perf_counter, 'CPU': time.process_time}
  times: dict[str, list[list[float]]] = {name: [] for name in runs}
  for turn in range(args.rounds + 1):
    for name, run in runs.items():
      begun = [clock() for clock in clocks.values()]
      run()
      if turn:  # the first touches its memory anew
        ended = [clock() for clock in clocks.values()]
        times[name].append([b - a for a, b in zip(begun, ended)])
  print(
    f'{jax.default_backend()}, {args.victim} {args.size} x {args.size}, batch '
    f'{args.batch}, {args.rounds} rounds in turn, load '
    f'{os.getloadavg()[0]:.1f}\n'
    '| | wall ms, median | CPU ms, median | temporary MiB |\n|---|---|---|---|'
  )
  for name, values in times.items():
    wall, cpu = (1e3 * statistics.median(x) for x in zip(*values))
    print(f'| {name} | {wall:.0f} | {cpu:.0f} | {memory[name]:.0f} |')
  pairs = zip(times['program step'], times['input gradient'])
  ratios = [[a / b for a, b in zip(*pair)] for pair in pairs]
  for name, values in zip(clocks, zip(*ratios)):
    middle = statistics.median(values)
    print(f"median of the turns' ratios, {name}: {middle:.3f}")
  cut = config_of(args, **{'program.micro_batches': 5})
  for platform, words in (('cpu', 'unrolled'), ('others', 'in a loop')):
    some, state, batch = planned_step(cut, platform)
    found = temporary(some.lower('train', state, batch, root).compile())
    print(f'5 micro-batches, {words}: {found:.0f} temporary MiB')
  for remat in (False, True):
    amount = kept(victim._replace(remat=remat), images, net, vars)
    print(f'kept for the backward pass, remat {remat}: {amount:.0f} MiB')


if __name__ == '__main__':
  main()
