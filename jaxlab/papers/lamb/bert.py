"""The configs' BERT: its modules, where its parameters lie."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from jaxlab.engine import mesh, partition
from jaxlab.engine.errors import InputError
from jaxlab.models.bert import Bert

Config = Mapping[str, Any]


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
    dtype=jnp.dtype(c['dtype']),
    scan_layers=c['scan_layers'],
    remat=c['remat'],
    # XLA:CPU is slow inside loops; elsewhere a loop compiles faster.
    unroll=c['num_layers'] if platform == 'cpu' else 1,
    **options,
  )


def rules(config: Config, devices: jax.sharding.Mesh) -> list[partition.Rule]:
  """Where the parameters and moments lie.

  A mesh axis 'model' splits heads and the inner width of the two-layer
  networks; `config.sharding.layout` splits moments ('zero1'), or parameters
  and moments ('fsdp'), over the axes that share the rows.
  """
  how = config['sharding']['layout']
  if how not in ('replicated', 'zero1', 'fsdp'):
    raise InputError(
      f'config.sharding.layout = "{how}" is not one of replicated, zero1, fsdp'
    )
  found: list[partition.Rule] = []
  least = config['sharding']['min_bytes']
  spread = partition.Spread(mesh.row_axes(devices), least)
  if how != 'replicated':
    found.append(('^opt/', spread))
  if 'model' in devices.shape:
    if how == 'fsdp':
      raise InputError(
        'config.sharding.layout = "fsdp" with a mesh axis "model" is not '
        'supported; take "zero1" or drop the axis'
      )
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
