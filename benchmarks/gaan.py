"""Steps a second of GAAN on MNIST beside PyTorch, with the same networks.

  python benchmarks/gaan.py [--width 16] [--rows 64] [--repeats 15]

A step is the autoencoder's, one of D with its gradient penalty, and G's. The
contenders take turns in one process on the same threads; the figure is the
median. 'XLA strided' has the same networks by XLA's own strided convolutions
and their transposes.
"""

import argparse
import statistics
import time


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--width', type=int, default=16)
  parser.add_argument('--rows', type=int, default=64)
  parser.add_argument('--repeats', type=int, default=15)
  flags = parser.parse_args()
  import numpy as np

  pixels = np.random.default_rng(0).integers(
    0, 256, (flags.rows, 28, 28, 1), np.uint8
  )
  contenders = {
    'jaxlab': ours(flags, pixels),
    'XLA strided': ours(flags, pixels, own_form=False),
    'PyTorch': theirs(flags, pixels),
  }
  times: dict[str, list[float]] = {name: [] for name in contenders}
  for run in contenders.values():
    run()
  for _ in range(flags.repeats):
    for name, run in contenders.items():
      began = time.perf_counter()
      run()
      times[name].append(time.perf_counter() - began)
  median = {name: statistics.median(found) for name, found in times.items()}
  print(f'GAAN, MNIST, widths {flags.width} x (1, 2, 4), {flags.rows} rows')
  print('| | steps/s | of PyTorch |\n|---|---|---|')
  for name, seconds in median.items():
    share = median['PyTorch'] / seconds
    print(f'| {name} | {1 / seconds:.2f} | {share:.2f} |')


def ours(flags, pixels, own_form: bool = True):
  """A step of the config's game."""
  import jax
  import numpy as np

  from configs.gaan import default
  from jaxlab.engine.update import create_state
  from jaxlab.models import dcgan
  from jaxlab.papers.gaan import game, images

  config, w = default().to_dict(), flags.width
  c = config['images']
  c['gen_widths'] = (4 * w, 2 * w, w)
  c['disc_widths'] = c['enc_widths'] = (w, 2 * w, 4 * w)
  of = images.make(config, 'gaan')
  update = game.make_update(of, 1000)
  params, vars = jax.jit(of.init)(jax.random.key(0))
  state = create_state(params, update, vars=vars)
  rows = len(pixels)
  batch = {
    'image': pixels,
    'id': np.arange(rows, dtype=np.int32),
    'mask': np.ones(rows, bool),
  }
  step, key = jax.jit(update), jax.random.key(1)
  kept = dcgan.halve, dcgan.double
  if not own_form:
    dcgan.halve, dcgan.double = _halve, _double
  step = step.lower(state, batch, key).compile()
  dcgan.halve, dcgan.double = kept
  return lambda: jax.block_until_ready(step(state, batch, key))


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
