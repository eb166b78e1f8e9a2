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

_FILLED = {'bias': 0.0, 'scale': 1.0}


def parameters(module: nn.Module, key: jax.Array, *inputs: Any) -> Any:
  """New parameters: kernels are normal with variance 1 / fan-in, biases 0,
  scales of norms 1.

  Args:
    module: has no other leaves; what its own initialisers say is not asked.
    inputs: of its call, arrays or shapes.

  Returns:
    The tree of `module.init(key, *inputs)['params']`, float32.

  Raises:
    ValueError: a leaf of another name.
  """
  shapes = jax.eval_shape(module.init, key, *inputs)['params']
  leaves, tree = jax.tree_util.tree_flatten_with_path(shapes)
  sizes = [
    leaf.size if path[-1].key == 'kernel' else 0 for path, leaf in leaves
  ]
  drawn = jax.random.normal(key, (sum(sizes),), jnp.float32)
  found, start = [], 0
  for (path, leaf), size in zip(leaves, sizes):
    name = path[-1].key
    if size:
      scale = 1 / math.sqrt(math.prod(leaf.shape[:-1]))
      part = scale * drawn[start : start + size]
      found.append(part.reshape(leaf.shape))
      start += size
    elif name in _FILLED:
      found.append(jnp.full(leaf.shape, _FILLED[name], jnp.float32))
    else:
      raise ValueError(
        f'{type(module).__name__} has parameters "{name}" of which it is not '
        f'known how they begin; known: kernel, {", ".join(_FILLED)}'
      )
  return jax.tree_util.tree_unflatten(tree, found)
