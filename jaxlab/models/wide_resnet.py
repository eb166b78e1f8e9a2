"""Wide ResNet for small images, WRN-d-k.

S. Zagoruyko, N. Komodakis. Wide Residual Networks. BMVC 2016.
arXiv:1605.07146

  block0  conv 3 x 3, 16                               [b, 32, 32, 16]
  block1  n = (d - 4) / 6 units, 16k                   [b, 32, 32, 16k]
  block2  n units, 32k, the first with stride 2        [b, 16, 16, 32k]
  block3  n units, 64k, the first with stride 2;
          then norm and relu                           [b, 8, 8, 64k]
  head    mean over positions, num_classes

  unit:   x + conv2(dropout(relu(norm2(conv1(relu(norm1 x))))))

Where the width changes, relu(norm1 x) feeds a 1 x 1 convolution that takes
the place of x. For 10 classes WRN-28-10 has 36,479,194 parameters, WRN-40-2
2,243,546, WRN-28-2 1,467,610.

Dropout stands behind the second norm as in the authors' code; some ports to
PyTorch have it before.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlab.models.blocks import (
  batch_norm,
  check_image,
  classify,
  conv,
  drop,
  he_fan_in,
  spatial_mean,
)


class WideResNet(nn.Module):
  """WRN-`depth`-`widen`. Parameters are float32, whatever `dtype` computes.

  All kernels start as He normals (variance 2 / fan-in), as in the authors'
  code; some ports divide by the fan-out. Biases start at 0, norm scales at 1.
  """

  depth: int = 28
  widen: int = 10
  num_classes: int = 10
  dropout_rate: float = 0.0  # the paper's is 0.3 where it uses any
  momentum: float = 0.9
  epsilon: float = 1e-5
  dtype: Any = jnp.float32  # of activations

  def __post_init__(self):
    super().__post_init__()
    if self.depth < 10 or self.depth % 6 != 4:
      raise ValueError(
        f'depth {self.depth} is not 6n + 4: take 16, 22, 28 or 40'
      )

  @nn.compact
  def __call__(self, image: jax.Array, *, train: bool) -> jax.Array:
    """Logits.

    Args:
      image: [b, h, w, c] float32, normalised by mean and deviation of each
        channel; h, w >= 4, 32 in the paper.
      train: batch statistics instead of running ones, and dropout: pass
        `rngs={'dropout': key}` where its rate is not 0.

    Returns:
      [b, num_classes] float32.

    Raises:
      ValueError: wrong rank or dtype, or too small.
    """
    check_image(image, 4)
    x = conv(self, he_fan_in)(16, 3, name='stem')(image)
    self.sow('intermediates', 'block0', x)
    for stage in (1, 2, 3):
      for unit in range(1, (self.depth - 4) // 6 + 1):
        x = _Unit(
          16 * self.widen * 2 ** (stage - 1),
          2 if stage > 1 and unit == 1 else 1,
          self.dropout_rate,
          self.momentum,
          self.epsilon,
          self.dtype,
          name=f'stage{stage}_unit{unit}',
        )(x, train)
      if stage == 3:
        x = nn.relu(batch_norm(self, train)(name='norm')(x))
      self.sow('intermediates', f'block{stage}', x)
    return classify(self, spatial_mean(x), he_fan_in)


class _Unit(nn.Module):
  """Two pre-activated convolutions and the way around them."""

  features: int
  strides: int
  dropout_rate: float
  momentum: float
  epsilon: float
  dtype: Any

  @nn.compact
  def __call__(self, x, train):
    norm, make = batch_norm(self, train), conv(self, he_fan_in)
    y = nn.relu(norm(name='norm1')(x))
    if x.shape[-1] != self.features:
      x = make(self.features, 1, self.strides, name='shortcut')(y)
    y = make(self.features, 3, self.strides, name='conv1')(y)
    y = nn.relu(norm(name='norm2')(y))
    y = drop(self, y, self.dropout_rate, train)
    return x + make(self.features, 3, name='conv2')(y)
