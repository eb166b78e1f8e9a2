"""The configs' BERT: its module, its step, where its parameters lie."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec

from jaxlab.core.require import (
  Rule,
  above,
  at_least,
  between,
  multiple_of,
  one_of,
  require,
)
from jaxlab.core.state import Loss, Update
from jaxlab.core.update import Nets, accumulate, minimise
from jaxlab.data.text.corpus import Corpus, prepare_corpus
from jaxlab.engine import mesh, partition
from jaxlab.models.bert import ACTIVATIONS, Bert

Config = Mapping[str, Any]


def check(config: Config) -> None:
  """Raises InputError where a value of the model, or a length, cannot be."""
  c = config['model']
  table = 'config.model.max_positions, the length of the position table'
  require(
    config,
    {
      'data.sequence_length': between(3, c['max_positions'], f'see {table}'),
      'model.dtype': one_of('float32', 'bfloat16'),
      'model.num_heads': at_least(1),
      'model.hidden_size': multiple_of(
        c['num_heads'], 'it is shared by config.model.num_heads'
      ),
      # Of a pair of texts, the second is segment 1.
      'model.type_vocab_size': at_least(2),
      'model.activation': one_of(*ACTIVATIONS),
      'model.layer_norm_epsilon': above(0),
      'model.dropout_rate': Rule(lambda x: 0 <= x < 1, 'in [0, 1)'),
    },
  )


def make_model(
  config: Config, vocab_size: int, platform: str, **options: Any
) -> Bert:
  """The BERT of the config, for devices of a platform; options are Bert's."""
  c = config['model']
  return Bert(
    vocab_size=vocab_size,
    num_layers=c['num_layers'],
    hidden_size=c['hidden_size'],
    num_heads=c['num_heads'],
    intermediate_size=c['intermediate_size'],
    max_positions=c['max_positions'],
    dropout_rate=c['dropout_rate'],
    attention_dropout_rate=c['dropout_rate'],
    initializer_range=c['initializer_range'],
    type_vocab_size=c['type_vocab_size'],
    activation=c['activation'],
    layer_norm_epsilon=c['layer_norm_epsilon'],
    dtype=jnp.dtype(c['dtype']),
    scan_layers=c['scan_layers'],
    remat=c['remat'],
    # XLA:CPU is slow inside loops; elsewhere a loop compiles faster.
    unroll=c['num_layers'] if platform == 'cpu' else 1,
    **options,
  )


def make_update(
  config: Config, loss: Loss, nets: Nets, tx: optax.GradientTransformation
) -> Update:
  """One gradient step, over the micro-batches that the config asks for."""
  micro = config['optimizer']['micro_batches']
  if micro > 1:
    return accumulate(micro, loss, nets, tx, unroll=False)
  return minimise(loss, nets, tx)


def open_corpus(section: Config, size: int, offline: bool) -> Corpus:
  """The corpus that a section's `name` or `text_files` is.

  Args:
    size: most pieces of its vocabulary.
    offline: open no socket.
  """
  return prepare_corpus(
    'text_files' if section['text_files'] else section['name'],
    files=section['text_files'],
    vocab_size=size,
    offline=offline,
  )


def text_of(pieces: Sequence[str], ids: Sequence[int]) -> str:
  """A text that has these pieces, without special tokens.

  >>> text_of(['[UNK]', 'no', '##w', '.'], [1, 2, 3])
  'now .'
  """
  words = ' '.join(pieces[i] for i in ids if pieces[i][:1] != '[')
  return words.replace(' ##', '').removeprefix('##')


def encoder_flops(config: Config) -> float:
  """FLOPs of the encoder on one row: matrix products, forward alone.

  A multiplication and an addition are two; look-ups are none.
  """
  c, length = config['model'], config['data']['sequence_length']
  width, inner = c['hidden_size'], c['intermediate_size']
  layer = 2 * length * width * (4 * width + 2 * inner) + 4 * length**2 * width
  types = (
    2 * length * c['type_vocab_size'] * width
  )  # a product with one-hot rows
  return float(c['num_layers'] * layer + types)


def rules(config: Config, devices: jax.sharding.Mesh) -> list[partition.Rule]:
  """Where the parameters and moments lie.

  A mesh axis 'model' splits heads and the inner width of the two-layer
  networks; `config.sharding.layout` splits moments ('zero1'), or parameters
  and moments ('fsdp'), over the axes that share the rows.
  """
  how = config['sharding']['layout']
  if 'model' in devices.shape:
    cure = 'or drop the mesh axis "model"'
    require(
      config, {'sharding.layout': one_of('replicated', 'zero1', cure=cure)}
    )
  found: list[partition.Rule] = []
  least = config['sharding']['min_bytes']
  spread = partition.Spread(mesh.row_axes(devices), least)
  if how != 'replicated':
    found.append(('^opt/', spread))
  if 'model' in devices.shape:
    found += _tensor_parallel(config['model']['scan_layers'])
  elif how == 'fsdp':
    found.append(('^params/', spread))
  return [*found, ('.*', PartitionSpec())]


def _tensor_parallel(scanned: bool) -> list[partition.Rule]:
  """Megatron's cut: columns into a pair of matrices, rows out of it."""
  stack = (None,) if scanned else ()

  def spec(*axes):
    return PartitionSpec(*stack, *axes)

  inner, heads = (
    r'^params/.*/attention/(query|key|value)',
    '^params/.*/attention',
  )
  return [
    (f'{inner}/kernel$', spec(None, 'model')),
    (f'{inner}/bias$', spec('model')),
    (f'{heads}/out/kernel$', spec('model')),
    ('^params/.*/intermediate/kernel$', spec(None, 'model')),
    ('^params/.*/intermediate/bias$', spec('model')),
    ('^params/.*/output/kernel$', spec('model')),
  ]
