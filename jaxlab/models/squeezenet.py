"""SqueezeNet 1.1.

F. N. Iandola, S. Han, M. W. Moskewicz, K. Ashraf, W. J. Dally, K. Keutzer.
SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and <0.5MB model
size. 2016. arXiv:1602.07360. Version 1.1 is of the authors' repository.

  block0  conv1 3 x 3, stride 2, 64;  3 x 3 max pooling, stride 2
                                                       [b, 56, 56, 64]
  block1  fire2, fire3   16 -> 64 + 64                 [b, 56, 56, 128]
          3 x 3 max pooling, stride 2
  block2  fire4, fire5   32 -> 128 + 128               [b, 27, 27, 256]
          3 x 3 max pooling, stride 2
  block3  fire6, fire7   48 -> 192 + 192
          fire8, fire9   64 -> 256 + 256               [b, 13, 13, 512]
  conv10  dropout, 1 x 1, num_classes, relu, mean over positions

  fire:   s = relu(squeeze x);  concat(relu(expand1 s), relu(expand3 s))

1,235,496 parameters for 1,000 classes. Shapes are those of a 227 x 227 image.

Departs from the authors' network with the Keras port whose weights are at
hand: conv1 is padded ('SAME'; there, and with `padding='VALID'`, it is not),
and pools leave out incomplete windows.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlab.models.blocks import (
  check_channels,
  check_image,
  drop,
  end_block,
  max_pool,
  spatial_mean,
)

# (squeeze, each of the two expand) of fire2, fire3, …; None pools.
_FIRES = (
  ((16, 64), (16, 64)),
  ((32, 128), (32, 128)),
  ((48, 192), (48, 192), (64, 256), (64, 256)),
)
# The authors' 'xavier' counts inputs alone.
_xavier = nn.initializers.variance_scaling(1.0, 'fan_in', 'uniform')


class SqueezeNet(nn.Module):
  """SqueezeNet 1.1. Parameters are float32, whatever `dtype` computes.

  Initial kernels are the authors': uniform of variance 1 / fan-in, conv10
  normal of deviation 0.01; biases 0. The pretrained weights take RGB in
  [0, 255] through `resnet50.keras_image`.

  There is no linear layer behind a vector: `embedding` is the mean over
  positions of what conv10 reads.
  """

  num_classes: int = 1000
  padding: str = 'SAME'  # of conv1
  dropout_rate: float = 0.5
  dtype: Any = jnp.float32  # of activations

  @nn.compact
  def __call__(self, image: jax.Array, *, train: bool) -> jax.Array:
    """Logits.

    Args:
      image: [b, h, w, c] float32; h, w >= 32, 227 in the paper.
      train: dropout; pass `rngs={'dropout': key}`.

    Returns:
      [b, num_classes] float32, not negative.

    Raises:
      ValueError: wrong rank, dtype or number of channels, or too small.
    """
    check_image(image, 32)
    check_channels(self, image, 'conv1')
    x = _conv(self, 64, 3, 'conv1', strides=2, padding=self.padding)(image)
    x = max_pool(nn.relu(x), 3, 2)
    x = end_block(self, 0, x)
    number = 2
    for block, fires in enumerate(_FIRES, 1):
      x = max_pool(x, 3, 2) if block > 1 else x
      for squeeze, expand in fires:
        x = _Fire(squeeze, expand, self.dtype, name=f'fire{number}')(x)
        number += 1
      x = end_block(self, block, x)
    self.sow('intermediates', 'embedding', spatial_mean(x))
    x = drop(self, x, self.dropout_rate, train)
    init = nn.initializers.normal(0.01)
    x = _conv(self, self.num_classes, 1, 'conv10', kernel_init=init)(x)
    return spatial_mean(nn.relu(x))


class _Fire(nn.Module):
  """A narrow convolution, then two wide ones side by side."""

  squeeze: int
  expand: int
  dtype: Any

  @nn.compact
  def __call__(self, x):
    x = nn.relu(_conv(self, self.squeeze, 1, 'squeeze')(x))
    return nn.relu(
      jnp.concatenate(
        [
          _conv(self, self.expand, 1, 'expand1')(x),
          _conv(self, self.expand, 3, 'expand3')(x),
        ],
        axis=-1,
      )
    )


def _conv(module, features, size, name, **fields):
  fields = {'kernel_init': _xavier, 'dtype': module.dtype} | fields
  return nn.Conv(features, (size, size), name=name, **fields)
