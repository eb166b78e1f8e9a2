"""ALOE's training step beside plain training: measured, and by its cost model.

  python benchmarks/aloe_step.py [--model lenet|resnet] [--rounds 15]

A step of 64 ID images and 128 outliers. Counted in images that go forward and
back once: plain training 64, OE 192, ALOE 192 and as many again for every step
of the attack. Methods take turns; figures are medians.
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
from jaxlab.papers.aloe import method, task
from jaxlab.recipes.study import Cell
from jaxlab.runs import configs, stage


def config_of(name: str):
  config = configs.load('aloe', 'cifar10')
  config.model.name = name
  config.attack.steps = 2
  return config.to_dict()


class Runner:
  """One method's State and compiled step."""

  def __init__(self, config, name: str):
    devices = mesh.make(devices=jax.devices()[:1])
    space = stage.Workspace(Path(), config, devices, 0)
    cell = Cell(name, name, None, config['study']['rates'][0], 0)
    planned = task.cell_stages(config, cell)[0].plan(space)
    whole = mesh.replicated(devices)
    state = first_state(planned.task, jax.random.key(0))
    self.state = mesh.place(jax.tree.map(jnp.copy, state), whole)
    self.step = Steps(planned.task, 0, self.state)
    draw = np.random.default_rng(0)
    rows = config['data']['batch_size']
    terms, ratio = method.FAMILY[name], config['outliers']['ratio']
    batch = {
      name: draw.integers(0, 10 if name == 'label' else 256, x.shape, x.dtype)
      for name, x in planned.spec['train'].items()
    }
    batch['mask'] = np.ones(rows, bool)
    passes = rows * (1 + ratio * terms.outliers)
    steps = config['attack']['steps']
    passes += steps * rows * terms.attack_inliers
    passes += round(steps * rows * ratio * terms.attack_outliers)
    self.passes = passes
    self.batch = mesh.place(batch, whole)
    self.root = keys.stream(0, 'train')

  def run(self) -> float:
    start = time.perf_counter()
    self.state, metrics = self.step('train', self.state, self.batch, self.root)
    jax.block_until_ready(metrics)
    return time.perf_counter() - start


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--model', default='resnet', choices=('lenet', 'resnet'))
  parser.add_argument('--rounds', type=int, default=15)
  args = parser.parse_args()
  mesh.start()
  config = config_of(args.model)
  runners = {name: Runner(config, name) for name in method.FAMILY}
  for runner in runners.values():
    runner.run()
  times: dict[str, list[float]] = {name: [] for name in runners}
  for _ in range(args.rounds):
    for name, runner in runners.items():
      times[name].append(runner.run())
  print(
    f'{jax.default_backend()}, {args.model}, batch 64 + 128, two attack steps, '
    f'{args.rounds} rounds in turn, load {os.getloadavg()[0]:.1f}\n'
    '| method | ms, median | measured x plain | cost model x plain |\n'
    '|---|---|---|---|'
  )
  plain = times['original']
  for name, values in times.items():
    ratio = statistics.median(b / a for a, b in zip(plain, values))
    model = runners[name].passes / runners['original'].passes
    middle = 1e3 * statistics.median(values)
    print(f'| {name} | {middle:.1f} | {ratio:.2f} | {model:.2f} |')


if __name__ == '__main__':
  main()
