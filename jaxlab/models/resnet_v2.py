"""ResNet-50, -101 and -152 with pre-activations, as Keras lays them out.

K. He, X. Zhang, S. Ren, J. Sun. Identity Mappings in Deep Residual Networks.
ECCV 2016. arXiv:1603.05027

  block0  conv 7 x 7, stride 2, 64;  3 x 3 max pooling, stride 2
                                                       [b, 56, 56, 64]
  block1  n1 units, 256, the last with stride 2        [b, 28, 28, 256]
  block2  n2 units, 512, the last with stride 2        [b, 14, 14, 512]
  block3  n3 units, 1024, the last with stride 2       [b, 7, 7, 1024]
  block4  n4 units, 2048; then norm and relu           [b, 7, 7, 2048]
  head    mean over positions, num_classes

  unit:   x + conv3(relu(norm3(conv2(relu(norm2(conv1(relu(norm1 x))))))))

The first unit of a stage puts a 1 x 1 convolution of relu(norm1 x) in the
place of x; the last takes every other pixel of it. Stem, conv3 and shortcut
have biases. 50: 25,613,800 numbers, 45,440 of them running statistics; 101:
44,675,560; 152: 60,380,648.

Departs from the paper (and its code, which strides in the first unit) with
Keras and TF-slim. slim pads before the max pooling by minus infinity, Keras by
zeros, which cut what the stem has negative: `pad_value` chooses.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlab.models.blocks import (
  check_image,
  classify,
  conv,
  end_block,
  he_fan_in,
  max_pool,
  spatial_mean,
)
from jaxlab.models.residual import PreUnit, stages

UNITS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


class ResNetV2(nn.Module):
  """ResNet-V2. Parameters are float32, whatever `dtype` computes.

  All kernels start as He normals (variance 2 / fan-in), biases at 0.
  """

  depth: int = 50
  num_classes: int = 1000
  width: int = 64
  pad_value: float = 0.0  # around the stem's maps; -inf for TF-slim's weights
  momentum: float = 0.99
  epsilon: float = 1.001e-5
  dtype: Any = jnp.float32  # of activations

  def __post_init__(self):
    super().__post_init__()
    if self.depth not in UNITS:
      raise ValueError(f'depth {self.depth}: take one of {sorted(UNITS)}')

  @nn.compact
  def __call__(self, image: jax.Array, *, train: bool) -> jax.Array:
    """Logits.

    Args:
      image: [b, h, w, c] float32, in [-1, 1] for Keras' weights; h, w >= 32,
        224 in the paper.
      train: batch statistics instead of running ones.

    Returns:
      [b, num_classes] float32.

    Raises:
      ValueError: wrong rank or dtype, or too small.
    """
    check_image(image, 32)
    stem = conv(self, he_fan_in)
    x = stem(self.width, 7, 2, use_bias=True, name='stem')(image)
    around = ((0, 0), (1, 1), (1, 1), (0, 0))
    x = jnp.pad(x, around, constant_values=self.pad_value)
    x = max_pool(x, 3, 2)
    x = end_block(self, 0, x)
    unit = lambda w, s: {
      'layers': ((w, 1, 1, False), (w, 3, s, False), (4 * w, 1, 1, True))
    }
    where = (PreUnit, UNITS[self.depth], self.width)
    x = stages(self, x, train, *where, unit, last=True)
    return classify(self, spatial_mean(x), he_fan_in)
