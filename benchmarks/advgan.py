"""Adversarial images a second: a generator beside PGD-40 and C&W of `ops`.

  python -m benchmarks.advgan [--batch 100] [--repeats 5]

The network is MNIST's A at random weights (speed does not depend on them), the
budget .3. The contenders take turns in one process; the figure is the median.
A generator's training is not in it: its steps' time is the last row.
"""

import argparse
import statistics
import time


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--batch', type=int, default=100)
  parser.add_argument('--repeats', type=int, default=5)
  flags = parser.parse_args()

  import jax
  import jax.numpy as jnp

  from jaxlab.core.update import create_state
  from jaxlab.ops.attack_objectives import cross_entropy
  from jaxlab.ops.attacks import cw_l2, pgd
  from jaxlab.papers.advgan import game, stages
  from jaxlab.recipes import images
  from jaxlab.runs import configs

  config = configs.load('advgan').to_dict()
  own = stages.with_model(config, 'a', 'train')
  of = game.make(own, images.image_task(own).network)
  params, vars = stages.initial(of, jax.random.key(0))
  rows = flags.batch
  x = jax.random.uniform(jax.random.key(1), (rows, 28, 28, 1))
  ids, labels = jnp.arange(rows), jnp.zeros(rows, jnp.int32)
  aims, args = labels + 1, (params, vars)
  generate = jax.jit(lambda gen, x: of.attack(gen, x, aims)[0])
  epsilon = config['attack']['epsilon']
  steps = pgd(cross_entropy(of.network.logits), epsilon=epsilon, steps=40)
  far = cw_l2(of.network.logits, steps=100, searches=3, initial_c=1.0)
  key = jax.random.key(2)
  update = game.update(of, 100)
  state = create_state(params, update, vars=vars)
  batch = {
    'image': (255 * x).astype(jnp.uint8),
    'label': labels,
    'id': ids,
    'mask': jnp.ones(rows, bool),
  }
  step = jax.jit(update)
  contenders = {
    'AdvGAN': lambda: generate(params['gen'], x),
    'PGD-40': lambda: steps(key, x, ids, labels, *args),
    'C&W, 3 x 100 steps': lambda: far(key, x, ids, labels, *args),
    "a step of the generator's training": lambda: step(state, batch, key)[1],
  }
  times: dict[str, list[float]] = {name: [] for name in contenders}
  for run in contenders.values():
    jax.block_until_ready(run())
  for _ in range(flags.repeats):
    for name, run in contenders.items():
      began = time.perf_counter()
      jax.block_until_ready(run())
      times[name].append(time.perf_counter() - began)
  print(f'{"":36}images/s   s per 1,000   times AdvGAN')
  first = statistics.median(times['AdvGAN'])
  for name, found in times.items():
    median = statistics.median(found)
    print(
      f'{name:36}{rows / median:8.4g}   {1000 * median / rows:11.4g}   '
      f'{median / first:12.4g}'
    )


if __name__ == '__main__':
  main()
