"""New parameters from one draw of random numbers.

Every draw of its own takes XLA:CPU a second or more to compile, so that a
network of a dozen kernels would wait longer for its first parameters than for
its first step.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlab.ops.variational import normals

_FILLED = {'bias': 0.0, 'scale': 1.0}


def parameters(
  module: nn.Module, key: jax.Array, *inputs: Any, gain: float = 1.0
) -> Any:
  """New parameters: kernels are normal with variance gain / fan-in, biases 0,
  scales of norms 1.

  Args:
    module: has no other leaves; what its own initialisers say is not asked.
    inputs: of its call, arrays or shapes.
    gain: 2 for networks of ReLUs whose signal is to keep its size.

  Returns:
    The tree of `module.init(key, *inputs)['params']`, float32.

  Raises:
    ValueError: a leaf of another name.
  """
  shapes = jax.eval_shape(module.init, key, *inputs)['params']

  def begin(path, leaf, drawn):
    name = path[-1].key
    if name == 'kernel':
      return drawn * math.sqrt(gain / math.prod(leaf.shape[:-1]))
    if name not in _FILLED:
      raise ValueError(
        f'{type(module).__name__} has parameters "{name}" of which it is not '
        f'known how they begin; known: kernel, {", ".join(_FILLED)}'
      )
    return jnp.full(leaf.shape, _FILLED[name], jnp.float32)

  drawn = normals(key, shapes)
  return jax.tree_util.tree_map_with_path(begin, shapes, drawn)
