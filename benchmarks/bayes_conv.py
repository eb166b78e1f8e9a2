"""A Bayesian step beside a deterministic one, and beside two PyTorch libraries.

  python benchmarks/bayes_conv.py [--rounds 15] [--batch 128]

Two tables. A training step of LeNet-5 on 28 x 28 images by Adam: deterministic
and by each mode, the divergence with it. And one layer forward and back, 3 x 3,
32 -> 64 channels on 16 x 16, with its divergence: deterministic and by each
mode, in JAX and in PyTorch, bayesian-torch's Conv2dReparameterization and
Conv2dFlipout and blitz' BayesianConv2d (both draw the weights; neither has the
local reparameterisation), where they are installed:

  pip install torch bayesian-torch blitz-bayesian-pytorch

All take turns; figures are medians. Target: LRT within 2.3 deterministic steps.
"""

import argparse
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxlab.engine import mesh
from jaxlab.models.bayesian import BayesConv, BayesNet
from jaxlab.papers.bayes_cnn import method

MODES = ('mean', 'lrt', 'flipout', 'sample')
NAMES = {'mean': 'deterministic'}
N = 55_000


def posterior_of(variables):
  return {'mu': variables['params'], 'rho': variables['rho']}


def applied(net, q, x, key):
  variables = {'params': q['mu'], 'rho': q['rho']}
  ids = jnp.arange(len(x))
  return net.apply(variables, x, rngs={'posterior': key}, ids=ids)


def divergence(mode, q):
  if mode == 'mean':
    return 0.0
  return method.kl(q, method.Gaussian(0.1)) / N


def lenet(mode, rows):
  """A training step; returns seconds each time it is called."""
  draw = np.random.default_rng(0)
  x = jnp.float32(draw.random((rows, 28, 28, 1)))
  labels = jnp.int32(draw.integers(0, 10, rows))
  first = BayesNet('lenet5', 10, mode='lrt', padding=2)
  q = posterior_of(first.init(jax.random.key(0), x[:1]))
  net = BayesNet('lenet5', 10, mode=mode, padding=2)
  tx = optax.adam(1e-3)

  def loss(q, key):
    logits = applied(net, q, x, key)
    nats = optax.losses.softmax_cross_entropy_with_integer_labels(
      logits, labels
    )
    return nats.mean() + divergence(mode, q)

  def step(q, opt, key):
    updates, opt = tx.update(jax.grad(loss)(q, key), opt)
    return optax.apply_updates(q, updates), opt

  # The deterministic step has no deviations to differentiate or to move.
  trained = {'mu': q['mu'], 'rho': q['rho']} if mode != 'mean' else q
  if mode == 'mean':
    inner = loss
    loss = lambda mu, key: inner({'mu': mu, 'rho': q['rho']}, key)
    trained = q['mu']
  run = jax.jit(step, donate_argnums=(0, 1))
  held = [jax.tree.map(jnp.copy, trained)]
  held.append(tx.init(held[0]))
  keys = iter(jax.random.split(jax.random.key(1), 1000))

  def timed():
    start = time.perf_counter()
    held[:] = run(*held, next(keys))
    jax.block_until_ready(held)
    return time.perf_counter() - start

  return timed


def layer(mode, x, slope):
  """One layer forward and back, to its input and its weights."""
  net = BayesConv(64, size=3, padding=1, mode=mode)
  first = BayesConv(64, size=3, padding=1, mode='lrt')
  q = posterior_of(first.init(jax.random.key(0), x[:1]))

  def loss(q, x, key):
    return (applied(net, q, x, key) * slope).sum() + divergence(mode, q)

  if mode == 'mean':
    rho, inner = q['rho'], loss
    loss = lambda mu, x, key: inner({'mu': mu, 'rho': rho}, x, key)
    q = q['mu']
  run = jax.jit(jax.grad(loss, (0, 1)))
  keys = iter(jax.random.split(jax.random.key(1), 1000))

  def timed():
    start = time.perf_counter()
    jax.block_until_ready(run(q, x, next(keys)))
    return time.perf_counter() - start

  return timed


def peers(x, slope):
  """name -> timed, of the PyTorch libraries that are installed."""
  try:
    import torch
  except ImportError:
    return {}
  given = [
    torch.tensor(np.asarray(v).transpose(0, 3, 1, 2)) for v in (x, slope)
  ]
  image, slopes = (v.contiguous() for v in given)
  image.requires_grad_()

  def timed_of(module, forward):
    def timed():
      module.zero_grad()
      image.grad = None
      start = time.perf_counter()
      out, kl = forward(module)
      ((out * slopes).sum() + kl / N).backward()
      return time.perf_counter() - start

    return timed

  plain = torch.nn.Conv2d(32, 64, 3, padding=1)
  found = {'PyTorch, deterministic': timed_of(plain, lambda m: (m(image), 0.0))}
  try:
    from bayesian_torch.layers import Conv2dFlipout, Conv2dReparameterization

    for kind in (Conv2dReparameterization, Conv2dFlipout):
      name = f'bayesian-torch, {kind.__name__}'
      found[name] = timed_of(kind(32, 64, 3, padding=1), lambda m: m(image))
  except ImportError:
    pass
  try:
    from blitz.modules import BayesianConv2d

    def blitz(m):
      out = m(image)
      return out, m.log_variational_posterior - m.log_prior

    name = 'blitz, BayesianConv2d'
    made = BayesianConv2d(32, 64, (3, 3), padding=1)
    found[name] = timed_of(made, blitz)
  except ImportError:
    pass
  return found


def table(title, runs, rounds):
  for run in runs.values():  # compile, and warm up
    run()
    run()
  times = {name: [] for name in runs}
  for _ in range(rounds):
    for name, run in runs.items():
      times[name].append(run())
  print(f'\n{title}\n')
  print('| what | ms, median | ms, least | of its deterministic |')
  print('|---|---|---|---|')
  for name, values in times.items():
    torch = not name.startswith('jaxlab')
    base = 'PyTorch, deterministic' if torch else 'jaxlab, deterministic'
    middle, least = 1e3 * statistics.median(values), 1e3 * min(values)
    ratio = middle / (1e3 * statistics.median(times[base]))
    print(f'| {name} | {middle:.1f} | {least:.1f} | {ratio:.2f} |')


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--rounds', type=int, default=15)
  parser.add_argument('--batch', type=int, default=128)
  args = parser.parse_args()
  mesh.start()
  named = lambda mode: f'jaxlab, {NAMES.get(mode, mode)}'
  runs = {named(mode): lenet(mode, args.batch) for mode in MODES}
  table(f'LeNet-5, a step of {args.batch} images', runs, args.rounds)
  draw = np.random.default_rng(0)
  x = jnp.float32(draw.normal(size=(64, 16, 16, 32)))
  slope = jnp.float32(draw.normal(size=(64, 16, 16, 64)))
  runs = {named(mode): layer(mode, x, slope) for mode in MODES}
  runs |= peers(x, slope)
  table('3 x 3 convolution, 32 -> 64, 64 images of 16 x 16', runs, args.rounds)


if __name__ == '__main__':
  main()
