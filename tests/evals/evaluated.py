"""An evaluator run over batches of arrays."""

import functools
import types

import jax
import jax.numpy as jnp


@functools.cache
def _program(evaluator):
  def update(total, params, vars, batch):
    state = types.SimpleNamespace(params=params, vars=vars)
    return evaluator.update(total, state, batch, None)

  return jax.jit(update)


def evaluated(evaluator, batches, params=None):
  """Its figures of batches of arrays, by one program an evaluator."""
  total = evaluator.init()
  for batch in batches:
    batch = {name: jnp.asarray(array) for name, array in batch.items()}
    total = _program(evaluator)(total, params, {}, batch)
  return evaluator.finish(jax.device_get(total))
