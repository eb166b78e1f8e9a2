"""Images a second of PGD-10: jaxlab against torchattacks and foolbox.

The net: 3 x 3 convolutions 3 -> 32, 32 -> 32 (stride 2), 32 -> 64, 64 -> 64
(stride 2) with ReLU, the mean over positions, a linear layer to 10 classes.
Images are 32 x 32 x 3, the batch is 128, epsilon 8/255, steps of 2/255 from a
random start, cross-entropy, all in float32 with the same weights. Our first
layer takes `conv_cpu.conv`, but for the lines that say otherwise.

  pip install -e '.[bench]' && pip install --no-deps torchattacks
  python benchmarks/attacks.py [--threads 1 2] [--repeats 11] [--batch 128]

torchattacks and foolbox run on PyTorch, in NCHW and in channels_last. Both
return the last image; ours the best of all, one more forward pass, or the last
one too (`keep=last`). Ours is cut into chunks of 16 images, which fit
the cache (`attacks.in_chunks`); theirs are timed whole, as they come, and
torchattacks cut up likewise. Before anything is timed, the attacked images of
all must agree in what the net says of them, without a random start. The
contenders take turns; the figure is the median. Every number of threads is a
process of its own, bound to as many cores; glibc keeps freed pages for all, as
in jaxlab's own programs (`mesh.keep_pages`), unless --default-malloc.

Gate: `keep=last`, which does the same work as theirs, at least 1.2 x the faster
of torchattacks' two layouts.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time

EPSILON, STEP, STEPS = 8 / 255, 2 / 255, 10
LAYERS = ((3, 32, 1), (32, 32, 2), (32, 64, 1), (64, 64, 2))
CLASSES = 10
OURS, LOOP = 'jaxlab', 'jaxlab, looped in one chunk'


def bind(threads: int) -> None:
  """As many cores and threads as that, before any library is loaded."""
  # The last cores: the first one serves the machine's interrupts.
  os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-threads:])
  for name in ('OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'OPENBLAS_NUM_THREADS'):
    os.environ[name] = str(threads)
  # PyTorch's threads would spin at barriers, for minutes on a busy machine.
  os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
  os.environ['JAX_PLATFORMS'] = 'cpu'
  if threads == 1:
    flags = '--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1'
    os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} {flags}'


def make_problem(batch: int):
  """(images [b, 32, 32, 3], labels [b], weights) in NumPy float32."""
  import numpy as np

  draw = np.random.default_rng(0)
  normal = lambda scale, *shape: np.float32(draw.normal(0, scale, shape))
  weights = {
    f'conv{i}': (normal((2 / (9 * c)) ** 0.5, 3, 3, c, f), normal(0.1, f))
    for i, (c, f, _) in enumerate(LAYERS)
  }
  weights['head'] = normal(1.0, 64, CLASSES), normal(0.1, CLASSES)
  images = draw.random((batch, 32, 32, 3)).astype('float32')
  return images, draw.integers(0, CLASSES, batch), weights


class Ours:
  """jaxlab's PGD on the net in JAX."""

  def __init__(self, problem, convolution, keep='best', rows=16, unroll=True):
    import jax
    import jax.numpy as jnp

    from jaxlab.ops.attack_objectives import cross_entropy
    from jaxlab.ops.attacks import in_chunks, pgd

    def net(images, weights):
      x = images
      for i, (_, _, stride) in enumerate(LAYERS):
        kernel, bias = weights[f'conv{i}']
        x = convolution(
          x,
          kernel,
          (stride, stride),
          ((1, 1), (1, 1)),
          dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
        )
        x = jax.nn.relu(x + bias)
      kernel, bias = weights['head']
      return x.mean((1, 2)) @ kernel + bias

    def attack(random_start):
      attack = pgd(
        cross_entropy(net),
        epsilon=EPSILON,
        steps=STEPS,
        step_size=STEP,
        random_start=random_start,
        keep=keep,
        unroll=unroll,
      )
      return in_chunks(attack, rows)

    images, labels, weights = jax.device_put(problem)
    self.args = (images, jnp.arange(len(images)), labels, weights)
    self.attack, self.plain = attack(True), attack(False)
    self.net = jax.jit(lambda x: net(x, weights))
    self.key, self.calls = jax.random.key(0), 0
    self.fold = jax.random.fold_in

  def says(self):
    """Classes of the images attacked without a random start, [b]."""
    return self.net(self.plain(self.key, *self.args)).argmax(-1)

  def run(self):
    self.calls += 1
    key = self.fold(self.key, self.calls)
    self.attack(key, *self.args).block_until_ready()


class Torch:
  """The same net in PyTorch, under another library's PGD."""

  def __init__(self, problem, library, layout, rows):
    import torch

    images, labels, weights = problem
    modules = []
    for i, (c, f, stride) in enumerate(LAYERS):
      kernel, bias = (torch.tensor(w) for w in weights[f'conv{i}'])
      conv = torch.nn.Conv2d(c, f, 3, stride, 1)
      conv.weight.data = kernel.permute(3, 2, 0, 1).contiguous()
      conv.bias = torch.nn.Parameter(bias)
      modules += [conv, torch.nn.ReLU()]
    head = torch.nn.Linear(64, CLASSES)
    head.weight.data = torch.tensor(weights['head'][0]).T.contiguous()
    head.bias.data = torch.tensor(weights['head'][1])
    modules += [torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), head]
    memory = {
      'NCHW': torch.contiguous_format,
      'channels_last': torch.channels_last,
    }[layout]
    self.net = torch.nn.Sequential(*modules).eval().to(memory_format=memory)
    self.images = torch.tensor(images).permute(0, 3, 1, 2)
    self.images = self.images.contiguous(memory_format=memory)
    self.labels = torch.tensor(labels)
    self.rows, self.join = rows, torch.cat
    make = getattr(self, library)
    self.attack, self.plain = make(True), make(False)

  def torchattacks(self, random_start):
    import torchattacks

    return torchattacks.PGD(
      self.net,
      eps=EPSILON,
      alpha=STEP,
      steps=STEPS,
      random_start=random_start,
    )

  def foolbox(self, random_start):
    import foolbox

    model = foolbox.PyTorchModel(self.net, bounds=(0, 1), device='cpu')
    attack = foolbox.attacks.LinfPGD(
      abs_stepsize=STEP, steps=STEPS, random_start=random_start
    )
    return lambda x, y: attack.run(model, x, y, epsilon=EPSILON)

  def attacked(self, attack):
    parts = zip(self.images.split(self.rows), self.labels.split(self.rows))
    return self.join([attack(x, y) for x, y in parts])

  def says(self):
    return self.net(self.attacked(self.plain)).argmax(-1).numpy()

  def run(self):
    self.attacked(self.attack)


def contenders(problem):
  """Name -> contender; those whose library is missing are left out."""
  from jax import lax

  from jaxlab.models import conv_cpu

  direct = lax.conv_general_dilated
  rows = len(problem[0])
  yield OURS, Ours(problem, conv_cpu.conv)
  yield 'jaxlab, keep=last', Ours(problem, conv_cpu.conv, 'last')
  yield 'jaxlab, one chunk', Ours(problem, conv_cpu.conv, rows=rows)
  yield "jaxlab, XLA's convolutions", Ours(problem, direct)
  yield LOOP, Ours(problem, direct, rows=rows, unroll=False)
  for library in ('torchattacks', 'foolbox'):
    for layout in ('NCHW', 'channels_last'):
      for size in (rows, 16) if library == 'torchattacks' else (rows,):
        name = f'{library}, {layout}' + (', chunks of 16' * (size < rows))
        try:
          yield name, Torch(problem, library, layout, size)
        except ImportError as error:
          print(f'{name} is left out: {error}', file=sys.stderr)


def measure(batch: int, repeats: int, pages: bool) -> dict[str, list[float]]:
  """Images a second of each contender, one figure a repeat."""
  from jaxlab.engine import mesh

  if pages:
    mesh.keep_pages()
  import torch

  torch.set_num_threads(len(os.sched_getaffinity(0)))
  problem = make_problem(batch)
  running = dict(contenders(problem))
  ours = running['jaxlab, keep=last'].says()
  for name, contender in running.items():
    differ = int((ours != contender.says()).sum())
    # keep=best may keep an earlier image than the last.
    if differ > max(1, batch // 100):
      raise SystemExit(f'{name}: {differ} of {batch} images end differently')
    contender.run()
  figures: dict[str, list[float]] = {name: [] for name in running}
  for repeat in range(repeats):
    for name, contender in running.items():
      if name == LOOP and repeat % 4:
        continue  # many times slower, and not part of the gate
      began = time.perf_counter()
      contender.run()
      figures[name].append(batch / (time.perf_counter() - began))
  return figures


def table(threads: int, figures: dict[str, list[float]]) -> list[str]:
  medians = {name: statistics.median(x) for name, x in figures.items()}
  whole = ('torchattacks, NCHW', 'torchattacks, channels_last')
  rivals = [medians[name] for name in whole if name in medians]
  rows = []
  for name, rates in figures.items():
    ratio = f'{medians[name] / max(rivals):.2f}' if rivals else '–'
    rows.append(
      f'| {threads} | {name} | {medians[name]:.0f} | {min(rates):.0f} – '
      f'{max(rates):.0f} | {len(rates)} | {ratio} |'
    )
  return rows


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--threads', type=int, nargs='+', default=[1, 2])
  parser.add_argument('--repeats', type=int, default=11)
  parser.add_argument('--batch', type=int, default=128)
  parser.add_argument('--default-malloc', action='store_true')
  parser.add_argument('--only', action='store_true', help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.only:
    (threads,) = args.threads
    bind(threads)
    print(
      '\n'.join(
        table(
          threads, measure(args.batch, args.repeats, not args.default_malloc)
        )
      )
    )
    return
  print('| threads | PGD-10 | images/s | range | repeats | ratio |')
  print('|---|---|---|---|---|---|', flush=True)
  for threads in args.threads:
    same = ['--repeats', str(args.repeats), '--batch', str(args.batch)]
    same += ['--default-malloc'] if args.default_malloc else []
    command = [sys.executable, __file__, '--only', '--threads', str(threads)]
    subprocess.run(command + same, check=True)
  print('ratio: to the faster layout of torchattacks, by medians')


if __name__ == '__main__':
  main()
