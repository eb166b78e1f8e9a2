"""Inception-V3.

C. Szegedy, V. Vanhoucke, S. Ioffe, J. Shlens, Z. Wojna. Rethinking the
Inception Architecture for Computer Vision. CVPR 2016. arXiv:1512.00567

  block0  stem: 5 convs, 2 max poolings                [b, 35, 35, 192]
  block1  mixed_5b .. 5d                               [b, 35, 35, 288]
  block2  mixed_6a (stride 2) .. 6e                    [b, 17, 17, 768]
          aux: 5 x 5 means, 2 convs, num_classes       (training only)
  block3  mixed_7a (stride 2) .. 7c                    [b, 8, 8, 2048]
  head    mean over positions, dropout, num_classes

Each convolution is followed by a norm and a ReLU and has no bias. Layers are
named as in TF-slim and torchvision. 27,161,264 parameters with the auxiliary
classifier, 23,834,568 without, for 1,000 classes.

                        torchvision   Keras    TF-slim
  aux                   True          False    True
  norm_scale            True          False    False
  pool_counts_padding   True          False    False    (in 3 x 3 means)
  momentum              0.9           0.99     0.9997
  num_classes           1000          1000     1001, the first is background

Keras' has 23,851,784 numbers, 34,432 of them running statistics.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlab.models.blocks import (
  batch_norm,
  check_image,
  classify,
  drop,
  max_pool,
  spatial_mean,
)

# A layer is (features, rows, columns) and keeps the size of its map; a fourth
# element is a stride and means no padding. A branch is a name, perhaps the
# pooling it begins with, and its layers; a tuple of layers at its end is a fork
# whose ways are concatenated, as the branches are.


def _a(pooled):
  return (
    ('branch1x1', (64, 1, 1)),
    ('branch5x5', (48, 1, 1), (64, 5, 5)),
    ('branch3x3dbl', (64, 1, 1), (96, 3, 3), (96, 3, 3)),
    ('branch_pool', 'mean', (pooled, 1, 1)),
  )


def _c(w):
  return (
    ('branch1x1', (192, 1, 1)),
    ('branch7x7', (w, 1, 1), (w, 1, 7), (192, 7, 1)),
    ('branch7x7dbl', (w, 1, 1), (w, 7, 1), (w, 1, 7), (w, 7, 1), (192, 1, 7)),
    ('branch_pool', 'mean', (192, 1, 1)),
  )


_B = (
  ('branch3x3', (384, 3, 3, 2)),
  ('branch3x3dbl', (64, 1, 1), (96, 3, 3), (96, 3, 3, 2)),
  ('branch_pool', 'max'),
)
_D = (
  ('branch3x3', (192, 1, 1), (320, 3, 3, 2)),
  ('branch7x7x3', (192, 1, 1), (192, 1, 7), (192, 7, 1), (192, 3, 3, 2)),
  ('branch_pool', 'max'),
)
_FORK = ((384, 1, 3), (384, 3, 1))
_E = (
  ('branch1x1', (320, 1, 1)),
  ('branch3x3', (384, 1, 1), _FORK),
  ('branch3x3dbl', (448, 1, 1), (384, 3, 3), _FORK),
  ('branch_pool', 'mean', (192, 1, 1)),
)
STEM = (
  ('conv2d_1a_3x3', (32, 3, 3, 2)),
  ('conv2d_2a_3x3', (32, 3, 3, 1)),
  ('conv2d_2b_3x3', (64, 3, 3)),
  ('conv2d_3b_1x1', (80, 1, 1)),  # this and the next behind a max pooling
  ('conv2d_4a_3x3', (192, 3, 3, 1)),
)
MIXED = (
  ('mixed_5b', _a(32)),
  ('mixed_5c', _a(64)),
  ('mixed_5d', _a(64)),
  ('mixed_6a', _B),
  ('mixed_6b', _c(128)),
  ('mixed_6c', _c(160)),
  ('mixed_6d', _c(160)),
  ('mixed_6e', _c(192)),
  ('mixed_7a', _D),
  ('mixed_7b', _E),
  ('mixed_7c', _E),
)


class InceptionV3(nn.Module):
  """Inception-V3. Parameters are float32, whatever `dtype` computes.

  In training, `aux` sows `aux_logits` [b, num_classes] float32 into the
  collection `intermediates`; the paper's loss adds 0.3-0.4 times their cross
  entropy. Initial values are torchvision's: kernels of deviation 0.1, in the
  auxiliary classifier's last two layers 0.01 and 0.001, biases 0.
  """

  num_classes: int = 1000
  aux: bool = True
  norm_scale: bool = True
  pool_counts_padding: bool = True
  dropout_rate: float = 0.5
  momentum: float = 0.9
  epsilon: float = 1e-3
  dtype: Any = jnp.float32  # of activations

  @nn.compact
  def __call__(self, image: jax.Array, *, train: bool) -> jax.Array:
    """Logits.

    Args:
      image: [b, h, w, c] float32 in [-1, 1]; h, w >= 75, 299 in the paper and
        at least 299 to initialise or train `aux`.
      train: batch statistics instead of running ones, dropout (pass
        `rngs={'dropout': key}`), auxiliary logits.

    Returns:
      [b, num_classes] float32.

    Raises:
      ValueError: wrong rank or dtype, or too small.
    """
    aux = self.aux and (train or self.is_initializing())
    check_image(image, 75)
    if aux:
      check_image(image, 299, ', or build the model with aux=False')
    norm = partial(batch_norm(self, train), use_scale=self.norm_scale)
    make = partial(_Conv, norm=norm, dtype=self.dtype)
    x = image
    for name, layer in STEM:
      x = make(layer, name=name)(x)
      if name in ('conv2d_2b_3x3', 'conv2d_4a_3x3'):
        x = max_pool(x, 3, 2)
    self.sow('intermediates', 'block0', x)
    ends = {'mixed_5d': 'block1', 'mixed_6e': 'block2', 'mixed_7c': 'block3'}
    for name, branches in MIXED:
      x = _Mixed(branches, self.pool_counts_padding, make, name=name)(x)
      if name in ends:
        self.sow('intermediates', ends[name], x)
      if aux and name == 'mixed_6e':
        logits = _Aux(self.num_classes, make, name='aux')(x)
        self.sow('intermediates', 'aux_logits', logits)
    x = drop(self, spatial_mean(x), self.dropout_rate, train)
    return classify(self, x, nn.initializers.normal(0.1))


def conv_paths() -> list[str]:
  """Paths of the convolutions in the order of their calls, without `aux`."""
  return [name for name, _ in STEM] + [
    f'{name}/{inner}'
    for name, branches in MIXED
    for branch in branches
    for ways in _steps(branch)
    for inner, _ in ways
  ]


def _steps(branch):
  """The layers of a branch, named: a list of one, or of a fork's two."""
  name, *layers = branch
  layers = [layer for layer in layers if not isinstance(layer, str)]
  for i, layer in enumerate(layers, 1):
    full = f'{name}_{i}' if len(layers) > 1 else name
    if isinstance(layer[0], tuple):
      yield [(full + letter, way) for letter, way in zip('ab', layer)]
    else:
      yield [(full, layer)]


class _Conv(nn.Module):
  """Convolution, norm, ReLU."""

  layer: tuple[int, ...]
  norm: Any
  dtype: Any
  deviation: float = 0.1

  @nn.compact
  def __call__(self, x):
    features, rows, columns, *strides = self.layer
    x = nn.Conv(
      features,
      (rows, columns),
      strides[0] if strides else 1,
      padding='VALID' if strides else 'SAME',
      use_bias=False,
      dtype=self.dtype,
      kernel_init=nn.initializers.normal(self.deviation),
      name='conv',
    )(x)
    return nn.relu(self.norm(name='norm')(x))


class _Mixed(nn.Module):
  """Branches side by side."""

  branches: tuple
  counts_padding: bool
  make: Any

  @nn.compact
  def __call__(self, x):
    ends = []
    for branch in self.branches:
      y = [x]
      if 'max' in branch:
        y = [max_pool(x, 3, 2)]
      elif 'mean' in branch:
        y = [nn.avg_pool(x, (3, 3), (1, 1), 'SAME', self.counts_padding)]
      for ways in _steps(branch):
        y = [self.make(layer, name=name)(y[0]) for name, layer in ways]
      ends += y
    return jnp.concatenate(ends, axis=-1)


class _Aux(nn.Module):
  """The auxiliary classifier."""

  num_classes: int
  make: Any

  @nn.compact
  def __call__(self, x):
    x = nn.avg_pool(x, (5, 5), (3, 3))
    x = self.make((128, 1, 1), name='conv1')(x)
    x = self.make((768, 5, 5, 1), deviation=0.01, name='conv2')(x)
    init = nn.initializers.normal(0.001)
    head = nn.Dense(self.num_classes, kernel_init=init, name='head')
    return head(spatial_mean(x))
