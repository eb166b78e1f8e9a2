"""The units of residual networks, and their stages.

K. He, X. Zhang, S. Ren, J. Sun. Deep Residual Learning for Image Recognition.
CVPR 2016, arXiv:1512.03385; the same, Identity Mappings in Deep Residual
Networks. ECCV 2016, arXiv:1603.05027.
"""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlab.models.blocks import batch_norm, conv, drop, end_block, he_fan_in

Layer = tuple[int, int, int, bool]  # features, size, strides, bias


class PostUnit(nn.Module):
  """relu(norm_n(conv_n(… relu(norm_1(conv_1 x)))) + y).

  y is x. Where the size or the width changes, shortcut 'A' takes every other
  pixel and appends zero channels, without parameters; 'B' is a 1 x 1
  convolution, with the bias of the last one, and a norm.
  """

  layers: tuple[Layer, ...]
  momentum: float
  epsilon: float
  dtype: Any
  kernel_init: Any = he_fan_in
  shortcut: str = 'B'

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """[b, h, w, c] of `dtype` -> [b, h / strides, w / strides, features]."""
    norm, make = batch_norm(self, train), conv(self, self.kernel_init)
    features, _, _, bias = self.layers[-1]
    strides = max(stride for _, _, stride, _ in self.layers)
    y = x
    for i, (*layer, own) in enumerate(self.layers, 1):
      y = nn.relu(y) if i > 1 else y
      y = make(*layer, use_bias=own, name=f'conv{i}')(y)
      y = norm(name=f'norm{i}')(y)
    more = features - x.shape[-1]
    if (more or strides > 1) and self.shortcut == 'B':
      x = make(features, 1, strides, use_bias=bias, name='shortcut')(x)
      x = norm(name='shortcut_norm')(x)
    elif more or strides > 1:
      x = x[:, ::strides, ::strides]
      x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, more)))
    return nn.relu(x + y)


class PreUnit(nn.Module):
  """y + conv_n(dropout(relu(norm_n(… conv_1(relu(norm_1 x)))))).

  y is x, every other pixel of it where the size alone changes. Where the width
  changes, it is a 1 x 1 convolution of relu(norm_1 x), with the bias of the
  last one.
  """

  layers: tuple[Layer, ...]
  momentum: float
  epsilon: float
  dtype: Any
  dropout_rate: float = 0.0

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """[b, h, w, c] of `dtype` -> [b, h / strides, w / strides, features]."""
    norm, make = batch_norm(self, train), conv(self, he_fan_in)
    features, _, _, bias = self.layers[-1]
    strides = max(stride for _, _, stride, _ in self.layers)
    y = x
    for i, (*layer, own) in enumerate(self.layers, 1):
      y = nn.relu(norm(name=f'norm{i}')(y))
      if i == 1 and x.shape[-1] != features:
        x = make(features, 1, strides, use_bias=bias, name='shortcut')(y)
      elif i == 1 and strides > 1:
        x = x[:, ::strides, ::strides]
      if i == len(self.layers):
        y = drop(self, y, self.dropout_rate, train)
      y = make(*layer, use_bias=own, name=f'conv{i}')(y)
    return x + y


def basic(features: int, strides: int) -> tuple[Layer, ...]:
  """Two 3 x 3 convolutions; the first has the strides."""
  return (features, 3, strides, False), (features, 3, 1, False)


def stages(
  module: Any,
  x: jax.Array,
  train: bool,
  kind: type[PostUnit] | type[PreUnit],
  counts: Sequence[int],
  width: int,
  fields: Callable[[int, int], dict[str, Any]],
  *,
  last: bool = False,
) -> jax.Array:
  """The stages of a classifier, within its compact call; sows block1, ….

  Args:
    module: the classifier, with momentum, epsilon and dtype.
    x: [b, h, w, c], the end of the stem.
    train: batch statistics instead of running ones.
    kind: of the units; after the last PreUnit come a norm and a ReLU.
    counts: units of each stage.
    width: of the first stage; each of the others is twice as wide.
    fields: (width, strides) -> the fields of a unit.
    last: the last unit of each stage but the last has stride 2; otherwise the
      first of each but the first.
  """
  own = {key: getattr(module, key) for key in ('momentum', 'epsilon', 'dtype')}
  for stage, count in enumerate(counts, 1):
    for number in range(1, count + 1):
      cut = number == count if last else number == 1
      cut &= stage != (len(counts) if last else 1)
      unit = {**own, **fields(width * 2 ** (stage - 1), 2 if cut else 1)}
      x = kind(**unit, name=f'stage{stage}_unit{number}')(x, train)
    if kind is PreUnit and stage == len(counts):
      x = nn.relu(batch_norm(module, train)(name='norm')(x))
    x = end_block(module, stage, x)
  return x
