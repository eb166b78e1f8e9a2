"""Steps a second of GAAN on MNIST beside PyTorch, with the same networks.

  python -m benchmarks.gaan [--width 16] [--rows 64] [--repeats 15] [--xla]
                           [--parts]

A step is the autoencoder's, one of D with its gradient penalty, and G's. The
contenders take turns in one process, each on one thread, so that other work on
the machine does not stop one thread for the sake of another; the figures are
medians, of the clock and of the processor. With --xla a third one has the same
networks by XLA's own strided convolutions and their transposes. --parts takes
the time of the gradients of each loss instead.
"""

import argparse
import os
import statistics
import time


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--width', type=int, default=16)
  parser.add_argument('--rows', type=int, default=64)
  parser.add_argument('--repeats', type=int, default=15)
  parser.add_argument('--xla', action='store_true')
  parser.add_argument('--parts', action='store_true')
  flags = parser.parse_args()
  one = '--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1'
  os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} {one}'
  import numpy as np

  pixels = np.random.default_rng(0).integers(
    0, 256, (flags.rows, 28, 28, 1), np.uint8
  )
  if flags.parts:
    return parts(flags, pixels)
  contenders = {
    'jaxlab': ours(flags, pixels),
    'PyTorch': theirs(flags, pixels),
  }
  if flags.xla:
    contenders['XLA strided'] = ours(flags, pixels, own_form=False)
  found: dict[str, list[tuple[float, float]]] = {n: [] for n in contenders}
  for run in contenders.values():
    run()
  for _ in range(flags.repeats):
    for name, run in contenders.items():
      began = time.perf_counter(), time.process_time()
      run()
      ended = time.perf_counter(), time.process_time()
      found[name].append((ended[0] - began[0], ended[1] - began[1]))
  median = {
    name: [statistics.median(part) for part in zip(*each)]
    for name, each in found.items()
  }
  print(f'GAAN, MNIST, widths {flags.width} x (1, 2, 4), {flags.rows} rows')
  print('| | steps/s | of PyTorch | ms of the processor | of PyTorch |')
  print('|---|---|---|---|---|')
  for name, (clock, cpu) in median.items():
    shares = [x / y for x, y in zip(median['PyTorch'], (clock, cpu))]
    print(
      f'| {name} | {1 / clock:.2f} | {shares[0]:.2f} | {1e3 * cpu:.0f} | '
      f'{shares[1]:.2f} |'
    )


def ours(flags, pixels, own_form: bool = True):
  """A step of the config's game."""
  import jax

  from jaxlab.core.update import create_state
  from jaxlab.models import dcgan
  from jaxlab.papers.gaan import game

  of, batch = _game(flags, pixels)
  update = game.make_update(of, 1000)
  params, vars = jax.jit(of.init)(jax.random.key(0))
  state = create_state(params, update, vars=vars)
  step, key = jax.jit(update), jax.random.key(1)
  kept = dcgan.halve, dcgan.double
  if not own_form:
    dcgan.halve, dcgan.double = _halve, _double
  step = step.lower(state, batch, key).compile()
  dcgan.halve, dcgan.double = kept
  return lambda: jax.block_until_ready(step(state, batch, key))


def parts(flags, pixels) -> None:
  """Prints the time of each loss with its gradients."""
  import jax

  cases = {
    'autoencoder': ('autoencoder', ('enc', 'gen'), 1.0),
    'D': ('disc', ('disc',), 1.0),
    'D without its penalty': ('disc', ('disc',), 0.0),
    'G': ('gen', ('gen',), 1.0),
  }
  print('| gradients of | ms of the processor |\n|---|---|')
  for name, (loss, nets, penalty) in cases.items():
    of, batch = _game(flags, pixels, penalty)
    params, vars = jax.jit(of.init)(jax.random.key(0))

    def value(own, params, batch, of=of, loss=loss, vars=vars):
      from jaxlab.papers.gaan import game

      run = game.gaan(of, 1000)[loss]
      found = run({**params, **own}, vars, batch, jax.random.key(1))
      return found.sum / found.weight + found.penalty

    slope = jax.jit(jax.grad(value))
    own = {net: params[net] for net in nets}
    jax.block_until_ready(slope(own, params, batch))
    times = []
    for _ in range(flags.repeats):
      began = time.process_time()
      jax.block_until_ready(slope(own, params, batch))
      times.append(time.process_time() - began)
    print(f'| {name} | {1e3 * statistics.median(times):.0f} |', flush=True)


def _game(flags, pixels, penalty=1.0):
  """The game of the config at some width, and a batch."""
  import numpy as np

  from jaxlab.papers.gaan import images
  from jaxlab.runs import configs

  config, w = configs.load('gaan').to_dict(), flags.width
  c = config['images']
  c['penalty_weight'] = penalty
  c['gen_widths'] = (4 * w, 2 * w, w)
  c['disc_widths'] = c['enc_widths'] = (w, 2 * w, 4 * w)
  rows = len(pixels)
  batch = {
    'image': pixels,
    'id': np.arange(rows, dtype=np.int32),
    'mask': np.ones(rows, bool),
  }
  return images.make(config, 'gaan'), batch


def _halve(x, kernel):
  import jax

  return jax.lax.conv_general_dilated(
    x, kernel, (2, 2), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )


def _double(x, kernel):
  import jax

  return jax.lax.conv_transpose(
    x, kernel, (2, 2), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )


def theirs(flags, pixels):
  """The same step in PyTorch."""
  import torch
  from torch import nn
  from torch.nn import functional

  torch.set_num_threads(1)
  w = flags.width

  def strided(slope):
    layers, before = [], 1
    for width in (w, 2 * w, 4 * w):
      layers += [
        nn.Conv2d(before, width, 5, 2, 2),
        nn.LeakyReLU(slope),
      ]
      before = width
    return nn.Sequential(*layers, nn.Flatten())

  class Gen(nn.Module):
    def __init__(self):
      super().__init__()
      grow = lambda i, o: nn.ConvTranspose2d(i, o, 5, 2, 2, 1)
      self.first = nn.Linear(2, 16 * 4 * w)
      self.a, self.b = grow(4 * w, 2 * w), grow(2 * w, w)
      self.c = grow(w, 1)

    def forward(self, z):
      x = self.first(z).reshape(-1, 4 * w, 4, 4).relu()
      x = self.a(x)[:, :, :7, :7].relu()
      return self.c(self.b(x).relu()).sigmoid()

  enc = nn.Sequential(strided(0.0), nn.Linear(64 * w, 2))
  phi, head, gen = strided(0.2), nn.Linear(64 * w, 1), Gen()
  adam = lambda parameters: torch.optim.Adam(parameters, 2e-4, (0.5, 0.9))
  both = adam([*enc.parameters(), *gen.parameters()])
  of_disc = adam([*phi.parameters(), *head.parameters()])
  of_gen = adam(gen.parameters())
  real = torch.tensor(pixels).permute(0, 3, 1, 2).contiguous()
  rows = len(real)
  latent = lambda: 2 * torch.rand(rows, 2) - 1
  score = lambda features: head(features)[:, 0]
  bce = functional.softplus

  def step():
    x = real.float() / 255
    read = lambda image: phi(2 * image - 1)
    z = latent()
    code = enc(2 * x - 1)
    found = read(torch.cat([x, gen(code), gen(z)]))
    f_real, f_recon, f_fake = found.split(rows)
    far = (f_recon.mean(0) - f_fake.mean(0)).mean()
    far = far - (2 / f_real.shape[1]) ** 0.5 * (code.mean(0) - z.mean(0)).mean()
    both.zero_grad()
    ((f_real - f_recon).square().mean() + far.square()).backward()
    both.step()
    with torch.no_grad():
      fake, recon = gen(latent()), gen(enc(2 * x - 1))
    s_real, s_recon, s_fake = score(read(torch.cat([x, recon, fake]))).split(
      rows
    )
    share = torch.rand(rows, 1, 1, 1)
    points = (share * x + (1 - share) * fake).requires_grad_()
    (slope,) = torch.autograd.grad(
      score(read(points)).sum(), points, create_graph=True
    )
    norm = (slope.flatten(1).square().sum(1) + 1e-12).sqrt()
    loss = bce(-s_real) + bce(-s_recon) + bce(s_fake) + (norm - 1) ** 2
    of_disc.zero_grad()
    loss.mean().backward()
    of_disc.step()
    scores = score(read(torch.cat([x, gen(latent())]))).sigmoid()
    s_real, s_fake = scores.split(rows)
    of_gen.zero_grad()
    (s_real.mean() - s_fake.mean()).abs().backward()
    of_gen.step()

  return step


if __name__ == '__main__':
  main()
