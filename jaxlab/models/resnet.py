"""ResNet with 6n + 2 layers for small images (CIFAR).

K. He, X. Zhang, S. Ren, J. Sun. Deep Residual Learning for Image Recognition.
CVPR 2016, section 4.2. arXiv:1512.03385

  block0  conv 3 x 3, w                                [b, 32, 32, w]
  block1  n units of two 3 x 3 convs, w                [b, 32, 32, w]
  block2  n units, 2w, the first with stride 2         [b, 16, 16, 2w]
  block3  n units, 4w, the first with stride 2         [b, 8, 8, 4w]
  head    mean over positions, num_classes

  unit:   relu(norm2(conv2(relu(norm1(conv1 x)))) + shortcut x)

ResNet-20 with w = 16 and shortcuts A has 269,722 parameters for 10 classes
(56: 853,018; 110: 1,727,962).
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
  end_block,
  he_fan_in,
  spatial_mean,
)
from jaxlab.models.residual import PostUnit, basic, stages


class ResNet(nn.Module):
  """CIFAR ResNet. Parameters are float32, whatever `dtype` computes.

  Where the width changes, shortcut 'A' takes every other pixel and appends
  zero channels, without parameters; 'B' is a 1 x 1 convolution and a norm.
  All kernels start as He normals (variance 2 / fan-in), biases at 0.
  """

  depth: int = 20
  num_classes: int = 10
  width: int = 16
  shortcut: str = 'A'
  momentum: float = 0.9
  epsilon: float = 1e-5
  dtype: Any = jnp.float32  # of activations

  def __post_init__(self):
    super().__post_init__()
    if self.depth < 8 or self.depth % 6 != 2:
      raise ValueError(
        f'depth {self.depth} is not 6n + 2: take 20, 32, 44, 56 or 110'
      )
    if self.shortcut not in ('A', 'B'):
      raise ValueError(f"shortcut {self.shortcut!r}: take 'A' or 'B'")

  @nn.compact
  def __call__(self, image: jax.Array, *, train: bool) -> jax.Array:
    """Logits.

    Args:
      image: [b, h, w, c] float32, mean subtracted; h, w >= 4, 32 in the paper.
      train: batch statistics instead of running ones.

    Returns:
      [b, num_classes] float32.

    Raises:
      ValueError: wrong rank or dtype, or too small.
    """
    check_image(image, 4)
    x = conv(self, he_fan_in)(self.width, 3, name='stem')(image)
    x = nn.relu(batch_norm(self, train)(name='stem_norm')(x))
    x = end_block(self, 0, x)
    counts = ((self.depth - 2) // 6,) * 3
    unit = lambda w, s: {'layers': basic(w, s), 'shortcut': self.shortcut}
    x = stages(self, x, train, PostUnit, counts, self.width, unit)
    return classify(self, spatial_mean(x), he_fan_in)
