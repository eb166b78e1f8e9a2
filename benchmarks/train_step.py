"""A config's real training step on the devices at hand: examples/s and MFU.

  python benchmarks/train_step.py --config=configs/bert_lamb.py:paper \\
      --rows=64,128 --config.mesh.replica=1 --config.sharding.layout=replicated

The step is the one that `--plan` compiles and the engine runs: optimizer,
augmentation, dropout, non-finite check. One batch of random numbers stays on
the device, so that no input is in the figure. MFU counts the model's FLOPs,
without recomputation, over the devices' dense bfloat16 peak.
"""

import sys
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxlab import main as door
from jaxlab.core import keys
from jaxlab.core.update import guarded
from jaxlab.engine import mesh
from jaxlab.engine.compiled import Steps, first_state
from jaxlab.planning import flops, plan
from jaxlab.runs import stage

PEAK_TERAFLOPS = {'H100': 989, 'H200': 989, 'A100': 312, 'v3': 61.5, 'v4': 275}
SECONDS = 5.0  # measured in each of the rounds
ROUNDS = 3


def random_batch(spec, key):
  """Integers 0 and 1 (uint8: all values), masks all True."""
  batch = {}
  for index, (name, array) in enumerate(spec.items()):
    if array.dtype == np.bool_:
      batch[name] = jnp.ones(array.shape, bool)
    else:
      top = 256 if array.dtype == np.uint8 else 2
      draw = jax.random.fold_in(key, index)
      batch[name] = jax.random.randint(
        draw, array.shape, 0, top, jnp.int32
      ).astype(array.dtype)
  return batch


def measure(planned, devices) -> dict[str, float]:
  """Compiles and runs one planned stage; seconds a step and more."""
  state, shapes = plan.shapes(planned, 'train', devices)
  layout = jax.tree.map(lambda x: x.sharding, state)
  root = keys.stream(0, 'train')
  begin = partial(first_state, planned.task)
  made = jax.jit(begin, out_shardings=layout)(jax.random.key(0))
  places = {name: array.sharding for name, array in shapes.items()}
  batch = jax.jit(lambda key: random_batch(shapes, key), out_shardings=places)(
    jax.random.key(1)
  )
  steps = Steps(planned.task, planned.max_bad_steps, state)
  start = time.perf_counter()
  step = steps.lower('train', made, batch, root).compile()
  compiled = time.perf_counter() - start
  made, values = step(made, batch, root)
  jax.block_until_ready(values)
  times = []
  for _ in range(ROUNDS):
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < SECONDS:
      for _ in range(5):
        made, values = step(made, batch, root)
      jax.block_until_ready(values)
      count += 5
    times.append((time.perf_counter() - start) / count)
  loss = dict(zip(steps.names['train'], np.asarray(values)))['loss']
  update = guarded(planned.task.steps['train'], planned.max_bad_steps)
  model = planned.flops.get('train') or flops.count(
    update, state, shapes, jax.random.key(0)
  )
  stats = step.memory_analysis()
  return {
    'seconds': float(np.median(times)),
    'spread': (max(times) - min(times)) / min(times),
    'compile': compiled,
    'flops': model,
    'gib': (stats.argument_size_in_bytes + stats.temp_size_in_bytes) / 2**30,
    'loss': float(loss[0] / loss[1]),
  }


def main(argv) -> None:
  rows = [64]
  rest = []
  for item in argv:
    if item.startswith('--rows='):
      rows = [int(n) for n in item.removeprefix('--rows=').split(',')]
    else:
      rest.append(item)
  values, name = door.parse(rest)
  config = values.config.to_dict()
  mesh.start(values.cpu_devices)
  devices = mesh.make(config['mesh'])
  kind = jax.devices()[0].device_kind
  peak = next((v for k, v in PEAK_TERAFLOPS.items() if k in kind), 0)
  peak *= 1e12 * devices.size
  print(f'{name} on {devices.size} x {kind}, jax {jax.__version__}')
  print(
    '| stage | rows | ms a step | spread | examples/s | TFLOP/s | MFU | GiB | '
    'compiled in | loss |\n|---|---|---|---|---|---|---|---|---|---|'
  )
  for count in rows:
    config['data']['batch_size'] = count
    if 'second' in config:
      config['second']['steps'] = 0
    space = stage.Workspace(None, config, devices, 0)
    for part in door._stages(config):
      if part.plan is None:
        continue
      found = measure(part.plan(space), devices)
      second = found['seconds']
      rate = found['flops'] / second
      share = f'{rate / peak:.1%}' if peak else '-'
      print(
        f'| {part.name} | {count} | {1e3 * second:.1f} | '
        f'{found["spread"]:.1%} | {count / second:,.0f} | {rate / 1e12:.1f} | '
        f'{share} | {found["gib"]:.1f} | {found["compile"]:.0f} s | '
        f'{found["loss"]:.3f} |',
        flush=True,
      )


if __name__ == '__main__':
  main(sys.argv)
