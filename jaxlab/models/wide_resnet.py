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
  check_image,
  classify,
  conv,
  end_block,
  he_fan_in,
  spatial_mean,
)
from jaxlab.models.residual import PreUnit, basic, stages


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
    x = end_block(self, 0, x)
    counts, rate = ((self.depth - 4) // 6,) * 3, self.dropout_rate
    unit = lambda w, s: {'layers': basic(w, s), 'dropout_rate': rate}
    x = stages(self, x, train, PreUnit, counts, 16 * self.widen, unit)
    return classify(self, spatial_mean(x), he_fan_in)
