"""LeNet-5 in the form that is in use today.

Y. LeCun, L. Bottou, Y. Bengio, P. Haffner. Gradient-Based Learning Applied to
Document Recognition. Proceedings of the IEEE 86(11), 1998.

  conv1  5 x 5, 6    activation, 2 x 2 max pooling    [b, 14, 14, 6]
  conv2  5 x 5, 16   activation, 2 x 2 max pooling    [b, 5, 5, 16]
  dense1 120         activation
  dense2 84          activation
  head   num_classes

Departs from the paper: maxima instead of scaled sums as pooling, all maps
connected to all, a linear layer instead of radial basis functions. That is
the net of the Bayesian papers (with softplus): 61,706 parameters for 1 channel
and 10 classes, 62,006 for 3 channels.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlab.models.blocks import check_image, classify, max_pool


class LeNet5(nn.Module):
  """LeNet-5. Parameters are float32, whatever `dtype` computes.

  Its dense layers fix the image size of `init`. Kernels start as normals with
  variance 1 / fan-in (LeCun et al., Efficient BackProp), biases at 0.
  """

  num_classes: int = 10
  padding: int = 0  # zeros around the image: 2 makes 32 x 32 of 28 x 28
  activation: Callable[[jax.Array], jax.Array] = nn.relu
  dtype: Any = jnp.float32  # of activations

  @nn.compact
  def __call__(self, image: jax.Array, *, train: bool) -> jax.Array:
    """Logits; training and evaluation are the same function.

    Args:
      image: [b, h, w, c] float32 in about [-1, 1]; h, w >= 16 - 2 padding.
      train: without effect.

    Returns:
      [b, num_classes] float32.

    Raises:
      ValueError: wrong rank or dtype, or too small.
    """
    check_image(image, 16 - 2 * self.padding, ', or raise padding')
    x = image
    for i, (features, padding) in enumerate([(6, self.padding), (16, 0)], 1):
      x = nn.Conv(
        features, (5, 5), padding=padding, dtype=self.dtype, name=f'conv{i}'
      )(x)
      x = max_pool(self.activation(x), 2, 2)
      self.sow('intermediates', f'block{i}', x)
    x = x.reshape(len(x), -1)
    for i, features in enumerate((120, 84), 1):
      x = nn.Dense(features, dtype=self.dtype, name=f'dense{i}')(x)
      x = self.activation(x)
    return classify(self, x, nn.initializers.lecun_normal())
