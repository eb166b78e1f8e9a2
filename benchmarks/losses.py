"""The encouraging loss beside optax's cross-entropy: time of a batch.

  python benchmarks/losses.py [--shapes 4096x1000 512x32000] [--rounds 21]

Each is the mean over the rows of float32 logits, jitted: once the value and
its gradient by the logits, once the value alone. The losses take turns, in an
order that moves on by one each round; figures are medians, and the ratio is the
median of the rounds' own ratios to optax. On CPUs the loss has a quick way for
rows whose logits lie within 50 nats; `far` has logits 40 times as large.

Gate: value and gradient of `normal` and of `conservative`, at most 1.15.
"""

import argparse
import os
import statistics
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxlab.engine import mesh
from jaxlab.papers.encouraging.method import encouraging_loss

normal = partial(encouraging_loss, bonus='normal')
OPTAX, FAR = 'optax cross-entropy', 'normal, far'
LOSSES = {
  OPTAX: optax.losses.softmax_cross_entropy_with_integer_labels,
  'normal': normal,
  'conservative .75': encouraging_loss,
  FAR: normal,
  'normal, smoothed .1': partial(normal, label_smoothing=0.1),
}


def make_batch(rows: int, classes: int):
  """Logits whose label is the largest in about half of the rows."""
  draw = np.random.default_rng(0)
  logits = draw.normal(0, 2, (rows, classes)).astype(np.float32)
  labels = draw.integers(0, classes, rows).astype(np.int32)
  logits[np.arange(rows)[::2], labels[::2]] += 12
  return jnp.asarray(logits), jnp.asarray(labels)


def programs(loss):
  """Name -> compiled program of (logits, labels)."""
  mean = lambda logits, labels: loss(logits, labels).mean()
  return {
    'value and gradient': jax.jit(jax.value_and_grad(mean)),
    'value': jax.jit(mean),
  }


def measure(batch, rounds: int) -> dict[tuple[str, str], list[float]]:
  """Milliseconds by (program, loss), one a round."""
  running = {
    (what, name): program
    for name, loss in LOSSES.items()
    for what, program in programs(loss).items()
  }
  batches = dict.fromkeys(running, batch)
  for what, name in running:
    if name == FAR:
      batches[what, name] = 40 * batch[0], batch[1]
  for key, program in running.items():
    for _ in range(2):
      jax.block_until_ready(program(*batches[key]))
  turns = list(running)
  times: dict[tuple[str, str], list[float]] = {key: [] for key in turns}
  for i in range(rounds):
    for key in turns[i % len(turns) :] + turns[: i % len(turns)]:
      began = time.perf_counter()
      jax.block_until_ready(running[key](*batches[key]))
      times[key].append(1e3 * (time.perf_counter() - began))
  return times


def shape(text: str) -> tuple[int, int]:
  rows, classes = text.split('x')
  return int(rows), int(classes)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument(
    '--shapes', type=shape, nargs='+', default=[(4096, 1000), (512, 32000)]
  )
  parser.add_argument('--rounds', type=int, default=21)
  args = parser.parse_args()
  mesh.start()
  print(
    f'{jax.default_backend()}, {os.cpu_count()} cores, float32, {args.rounds} '
    f'rounds in turn, load {os.getloadavg()[0]:.1f}\n'
    '| logits | program | loss | ms, median | x optax |\n|---|---|---|---|---|',
    flush=True,
  )
  for rows, classes in args.shapes:
    times = measure(make_batch(rows, classes), args.rounds)
    for what in ('value and gradient', 'value'):
      for name in LOSSES:
        values = times[what, name]
        ratio = statistics.median(
          b / a for a, b in zip(times[what, OPTAX], values)
        )
        print(
          f'| {rows} x {classes} | {what} | {name} | '
          f'{statistics.median(values):.1f} | {ratio:.2f} |',
          flush=True,
        )


if __name__ == '__main__':
  main()
