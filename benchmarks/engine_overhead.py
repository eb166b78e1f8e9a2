"""Steps a second of `fit` against the bare jitted step, in one process.

  python benchmarks/engine_overhead.py [--steps=200] [--rounds=5]

At the main job's shape (configs/bert_lamb.py). Rows: the task's update under
`jax.jit` with donated State and one batch on the device; `fit` with a Source
that gives one batch again and again; `fit` with the real Source. Rounds are
interleaved; a row's figure is the median of its rounds, the ratio the median
of the rounds' ratios. Compilation is outside of every figure.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from jaxlab.core import keys
from jaxlab.engine import loop, mesh, metrics
from jaxlab.engine.compiled import first_state
from jaxlab.engine.feed import Feed
from jaxlab.papers.lamb import pretraining
from jaxlab.runs import configs, stage


class Constant:
  """One batch of a source, for every step."""

  def __init__(self, source):
    self.spec = source.spec
    rows = next(iter(self.spec['train'].values())).shape[0]
    self._batch = source.batch(0, slice(0, rows))

  def kind(self, step):
    return 'train'

  def batch(self, step, rows):
    return {name: array[rows] for name, array in self._batch.items()}


def bare(task, feed, steps):
  """Steps a second of the jitted update alone."""
  _, _, batch = next(feed.batches(0, 1))
  update, root = task.steps['train'], keys.stream(0, 'train')

  def step(state, batch):
    state, _ = update(state, batch, keys.at(root, state.step))
    return state.replace(step=state.step + 1)

  run = jax.jit(step, donate_argnums=0)
  state = run(jax.tree.map(jax.numpy.copy, first_state(task, root)), batch)
  jax.block_until_ready(state)
  began = time.perf_counter()
  for _ in range(steps):
    state = run(state, batch)
  jax.block_until_ready(state)
  return steps / (time.perf_counter() - began)


def fitted(task, feed, devices, steps):
  """Steps a second of `fit`, from its own metrics lines."""
  with tempfile.TemporaryDirectory() as folder:
    options = loop.Options(steps=steps, log_every_steps=max(1, steps // 4))
    inputs = loop.Inputs(feed)
    loop.fit('fit', task, inputs, options, Path(folder), devices, 0)
    lines = metrics.read(Path(folder) / 'metrics.jsonl')
    # The first line's time begins when the first step has been dispatched.
    return (steps - 1) / sum(line['seconds'] for line in lines)


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--config', default='configs/bert_lamb.py')
  parser.add_argument('--steps', type=int, default=200)
  parser.add_argument('--rounds', type=int, default=5)
  given = parser.parse_args()
  mesh.start()
  devices = mesh.make()
  config = configs.load(given.config).to_dict()
  with (
    tempfile.TemporaryDirectory() as cache,
    tempfile.TemporaryDirectory() as d,
  ):
    jax.config.update('jax_compilation_cache_dir', cache)
    space = stage.Workspace(Path(d), config, devices, seed=0)
    task, inputs = pretraining.program(config)[0].open(space)
    real = inputs.feed
    constant = Feed(Constant(real.source), devices)
    rows = {
      'bare jitted step': [],
      'fit, constant batch': [],
      'fit, Source': [],
    }
    for _ in range(given.rounds):
      rates = (
        bare(task, constant, given.steps),
        fitted(task, constant, devices, given.steps),
        fitted(task, real, devices, given.steps),
      )
      for row, rate in zip(rows.values(), rates):
        row.append(rate)
  print(f'{loop.versions()}, {given.steps} steps × {given.rounds} rounds')
  print('| row | steps/s (median) | ratio to bare (median) |\n|---|---|---|')
  base = rows['bare jitted step']
  for name, row in rows.items():
    ratio = np.median(np.divide(row, base))
    print(f'| {name} | {statistics.median(row):.2f} | {ratio:.3f} |')


if __name__ == '__main__':
  main()
