"""Tokens a second of a BERT training step: jaxlab against transformers.

One step is forward, backward and AdamW, in float32 with dropout. transformers'
BertForPreTraining runs on PyTorch; it computes word logits at every position,
so ours is timed both at the predicted positions and at all of them. Before
anything is timed, both must give the same loss and gradient norm.

  python benchmarks/bert_step.py [--keep-pages] [--layers 2 --hidden 128 …]

XLA:CPU allocates its buffers anew each step and glibc hands them back to the
kernel in between, which then zeroes tens of thousands of pages a step.
--keep-pages tells glibc to keep them, for both libraries.
"""

import argparse
import os
import sys
import time
from functools import partial
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxlab.engine import mesh
from jaxlab.models import bert
from jaxlab.models.bert_names import to_hugging_face

LEARNING_RATE = 1e-4
WEIGHT_DECAY = 0.01
STEPS = 3  # timed together; one more runs before them, untimed
IGNORED = -100  # PyTorch's label of a position that is not predicted


class Shape(NamedTuple):
  """One row of the benchmark."""

  layers: int
  hidden: int
  heads: int
  ffn: int
  sequence: int
  batch: int
  vocab: int
  predictions: int


def make_batch(shape: Shape) -> dict[str, np.ndarray]:
  """Random tokens; the last eighth of each sequence is padding."""
  rng = np.random.default_rng(0)
  rows, length = shape.batch, shape.sequence
  real = length - length // 8
  positions = np.stack(
    [rng.permutation(real)[: shape.predictions] for _ in range(rows)]
  )
  column = np.broadcast_to(np.arange(length), (rows, length))
  return {
    'tokens': rng.integers(shape.vocab, size=(rows, length), dtype=np.int32),
    'segments': (column >= real // 2).astype(np.int32),
    'attention': column < real,
    'positions': np.sort(positions, axis=1).astype(np.int32),
    'labels': rng.integers(
      shape.vocab, size=(rows, shape.predictions), dtype=np.int32
    ),
    'next': rng.integers(2, size=rows, dtype=np.int32),
  }


def everywhere(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """The same predictions, stated at all positions."""
  labels = np.full_like(batch['tokens'], IGNORED)
  np.put_along_axis(labels, batch['positions'], batch['labels'], axis=1)
  column = np.arange(labels.shape[1], dtype=np.int32)
  positions = np.broadcast_to(column, labels.shape)
  return batch | {'labels': labels, 'positions': positions}


def make_model(shape: Shape) -> bert.Bert:
  return bert.Bert(
    vocab_size=shape.vocab,
    num_layers=shape.layers,
    hidden_size=shape.hidden,
    num_heads=shape.heads,
    intermediate_size=shape.ffn,
    max_positions=max(512, shape.sequence),
  )


def inputs(batch):
  names = ('tokens', 'segments', 'attention', 'positions')
  return [batch[name] for name in names]


def loss(params, batch, key, model, deterministic=False):
  """Mean masked-word plus mean next-sentence cross-entropy, ()."""
  words, following = model.apply(
    {'params': params},
    *inputs(batch),
    deterministic=deterministic,
    rngs={'dropout': key},
  )
  cross_entropy = optax.softmax_cross_entropy_with_integer_labels
  weight = batch['labels'] >= 0
  labels = jnp.where(weight, batch['labels'], 0)
  word_loss = jnp.sum(cross_entropy(words, labels), where=weight)
  return (
    word_loss / jnp.sum(weight) + cross_entropy(following, batch['next']).mean()
  )


class Ours:
  """jaxlab's step, compiled once, its state donated."""

  def __init__(self, model, params, batch):
    tx = optax.adamw(LEARNING_RATE, weight_decay=WEIGHT_DECAY)

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(params, opt, batch, key):
      grads = jax.grad(loss)(params, batch, key, model)
      updates, opt = tx.update(grads, opt, params)
      return optax.apply_updates(params, updates), opt

    # Copied, since several contenders start from the same donated arrays.
    self.params = jax.tree.map(jnp.copy, params)
    self.opt = tx.init(self.params)
    self.batch, self.done = jax.device_put(batch), 0
    key = jax.random.key(0)
    self.compiled = step.lower(self.params, self.opt, self.batch, key).compile()

  def run(self, steps: int) -> None:
    for _ in range(steps):
      key = jax.random.fold_in(jax.random.key(1), self.done)
      self.params, self.opt = self.compiled(
        self.params, self.opt, self.batch, key
      )
      self.done += 1
    jax.block_until_ready(self.params)


class Theirs:
  """transformers' BertForPreTraining and torch.optim.AdamW."""

  def __init__(self, shape, params, batch):
    import torch

    self.model = to_torch(shape, params)
    self.tx = torch.optim.AdamW(
      self.model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY
    )
    tensor = lambda name: torch.tensor(batch[name]).long()
    self.batch = {
      'input_ids': tensor('tokens'),
      'token_type_ids': tensor('segments'),
      'attention_mask': tensor('attention'),
      'labels': tensor('labels'),
      'next_sentence_label': tensor('next'),
    }

  def loss_and_norm(self) -> tuple[float, float]:
    """Loss and global gradient norm without dropout."""
    self.model.eval()
    value = self.model(**self.batch).loss
    value.backward()
    norm = sum(p.grad.square().sum() for p in self.model.parameters()) ** 0.5
    self.tx.zero_grad()
    self.model.train()
    return value.item(), norm.item()

  def run(self, steps: int) -> None:
    for _ in range(steps):
      self.model(**self.batch).loss.backward()
      self.tx.step()
      self.tx.zero_grad()


def to_torch(shape: Shape, params: dict[str, Any]):
  """transformers' model with our (unscanned) parameters.

  Raises:
    KeyError: a weight of theirs has no counterpart in ours.
  """
  import torch
  import transformers

  config = transformers.BertConfig(
    vocab_size=shape.vocab,
    hidden_size=shape.hidden,
    num_hidden_layers=shape.layers,
    num_attention_heads=shape.heads,
    intermediate_size=shape.ffn,
    max_position_embeddings=len(params['position_embedding']),
  )
  model = transformers.BertForPreTraining(config)
  weights = to_hugging_face(jax.tree.map(np.array, params))
  for name, tensor in model.named_parameters():
    tensor.data.copy_(torch.from_numpy(weights[name]))
  return model


def check_equal(model, params, batches, theirs: Theirs) -> float:
  """Stops unless all contenders agree; returns the common loss."""
  want, want_norm = theirs.loss_and_norm()
  value_and_grad = jax.jit(
    jax.value_and_grad(partial(loss, model=model, deterministic=True))
  )
  for name, batch in batches.items():
    value, grads = value_and_grad(params, batch, jax.random.key(0))
    norm = float(optax.global_norm(grads))
    if abs(value - want) > 1e-4 or abs(norm / want_norm - 1) > 1e-3:
      sys.exit(
        f'{name}: loss {value:.6f}, gradient norm {norm:.6f}, but '
        f'transformers has {want:.6f} and {want_norm:.6f}'
      )
  return want


def threefry_dropout(key, x, rate):
  """Dropout as flax.linen.Dropout draws it, for comparison."""
  kept = jax.random.bernoulli(key, 1 - rate, x.shape)
  return jnp.where(kept, x / (1 - rate), 0)


def contenders(shape: Shape) -> tuple[dict[str, Any], float]:
  """Everything that is timed, by name, and the loss that all agree on."""
  model, batch = make_model(shape), make_batch(shape)
  params = model.init(jax.random.key(0), *inputs(batch), deterministic=True)[
    'params'
  ]
  everywhere_batch = everywhere(batch)
  theirs = Theirs(shape, params, everywhere_batch)
  batches = {
    f'jaxlab, {shape.predictions} predictions': batch,
    'jaxlab, all positions': everywhere_batch,
  }
  value = check_equal(model, params, batches, theirs)
  found = {'transformers, all positions': theirs}
  for name, data in batches.items():
    found[name] = Ours(model, params, data)
  first = next(iter(batches))
  with mock.patch.object(bert, 'dropout', threefry_dropout):
    found[f'{first}, threefry dropout'] = Ours(model, params, batch)
  still = model.clone(dropout_rate=0.0, attention_dropout_rate=0.0)
  found[f'{first}, no dropout'] = Ours(still, params, batch)
  return found, value


def measure(found: dict[str, Any], repeats: int) -> dict[str, np.ndarray]:
  """Milliseconds a step: [repeats, 2], wall clock and processor.

  The contenders take turns, in another order each time.
  """
  rng = np.random.default_rng(0)
  now = lambda: 1e3 * np.array([time.perf_counter(), time.process_time()])
  times: dict[str, list[np.ndarray]] = {name: [] for name in found}
  for _ in range(repeats):
    for name in rng.permutation(list(found)):
      found[name].run(1)
      start = now()
      found[name].run(STEPS)
      times[name].append((now() - start) / STEPS)
  return {name: np.stack(rows) for name, rows in times.items()}


def print_table(shapes: list[Shape], repeats: int) -> None:
  """One row a contender; speed-ups are medians of ratios within a turn."""
  print(
    '| shape | step | ms, median (min-max) | processor ms | tokens/s | '
    'speed-up |\n|---|---|---|---|---|---|'
  )
  for shape in shapes:
    found, value = contenders(shape)
    times = measure(found, repeats)
    base = next(iter(times.values()))[:, 0]
    label = ', '.join(f'{k} {v}' for k, v in shape._asdict().items())
    for name, both in times.items():
      wall, (median, processor) = both[:, 0], np.median(both, axis=0)
      print(
        f'| {label} | {name} | {median:.1f} ({wall.min():.1f}-'
        f'{wall.max():.1f}) | {processor:.1f} | '
        f'{1e3 * shape.batch * shape.sequence / median:,.0f} | '
        f'{np.median(base / wall):.2f} |',
        flush=True,
      )
      label = ''
    print(f'| | loss without dropout: all have | {value:.4f} | | | |')


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    description=__doc__.splitlines()[0],
    epilog='Without a shape: 2 x 128 and 4 x 256.',
  )
  for name in ('layers', 'hidden', 'heads', 'ffn'):
    parser.add_argument(f'--{name}', type=int)
  parser.add_argument('--sequence', type=int, default=64)
  parser.add_argument('--batch', type=int, default=64)
  parser.add_argument('--vocab', type=int, default=2048)
  parser.add_argument('--predictions', type=int, default=10)
  parser.add_argument('--repeats', type=int, default=15)
  parser.add_argument('--threads', type=int, default=2, help='of both')
  parser.add_argument('--keep-pages', action='store_true')
  return parser.parse_args(arguments)


def main() -> None:
  args = parse()
  os.environ.setdefault('HF_HUB_OFFLINE', '1')
  try:
    import torch
    import transformers
  except ImportError as error:
    print(f'{error}: pip install -e .[bench]', file=sys.stderr)
    sys.exit(2)
  if args.keep_pages:
    mesh.keep_pages()
  torch.manual_seed(0)
  torch.set_num_threads(args.threads)
  # XLA takes as many threads as it has cores, once it starts.
  os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])
  rest = (args.sequence, args.batch, args.vocab, args.predictions)
  given = (args.layers, args.hidden, args.heads, args.ffn)
  shapes = [Shape(2, 128, 2, 512, *rest), Shape(4, 256, 4, 1024, *rest)]
  if any(given):
    layers, hidden = args.layers or 2, args.hidden or 128
    heads, ffn = args.heads or max(1, hidden // 64), args.ffn or 4 * hidden
    shapes = [Shape(layers, hidden, heads, ffn, *rest)]
  print(
    f'float32, dropout 0.1, AdamW, {args.repeats} x {STEPS} steps in turn; '
    f'transformers {transformers.__version__}, PyTorch {torch.__version__}, '
    f'jax {jax.__version__} on {jax.default_backend()}; '
    f'threads of each: {args.threads}; '
    f'{"pages kept" if args.keep_pages else "default malloc"}'
  )
  before = os.getloadavg()[0]
  print_table(shapes, args.repeats)
  # PyTorch's threads wait for each other by spinning: on a busy machine its
  # times grow out of proportion.
  print(f'load before {before:.1f}, after {os.getloadavg()[0]:.1f}')


if __name__ == '__main__':
  main()
