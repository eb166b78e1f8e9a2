"""The convolutional network of the large-margin softmax papers, for MNIST.

W. Liu, Y. Wen, Z. Yu, M. Yang. Large-Margin Softmax Loss for Convolutional
Neural Networks. ICML 2016, arXiv:1612.02295, table 1, MNIST.

  block0  one 3 x 3 conv, w                              [b, 28, 28, w]
  block1  three 3 x 3 convs, w, 2 x 2 max pooling        [b, 14, 14, w]
  block2  the same                                       [b, 7, 7, w]
  block3  the same                                       [b, 3, 3, w]
  dense   4w, norm                                       the embedding
  head    num_classes

A norm and a PReLU follow every convolution. w = 64.
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
  he_fan_in,
  max_pool,
)


class MnistCnn(nn.Module):
  """The network. Parameters are float32, whatever `dtype` computes.

  Kernels start as He normals (variance 2 / fan-in), biases at 0, the slopes
  below 0 at .25. The dense layer fixes the image size of `init`.
  """

  num_classes: int = 10
  width: int = 64
  momentum: float = 0.9
  epsilon: float = 1e-5
  dtype: Any = jnp.float32  # of activations

  @nn.compact
  def __call__(self, image: jax.Array, *, train: bool) -> jax.Array:
    """Logits.

    Args:
      image: [b, h, w, c] float32 in about [-1, 1]; h, w >= 8.
      train: norms take the batch's statistics and move the running ones.

    Returns:
      [b, num_classes] float32.

    Raises:
      ValueError: wrong rank or dtype, or too small.
    """
    check_image(image, 8)
    convolve = conv(self, he_fan_in)
    norm = batch_norm(self, train)
    x = image
    for block, layers in enumerate((1, 3, 3, 3)):
      for layer in range(layers):
        name = f'{block}_{layer}'
        x = convolve(self.width, 3, name=f'conv{name}')(x)
        x = norm(name=f'norm{name}')(x)
        x = nn.PReLU(negative_slope_init=0.25, name=f'prelu{name}')(x)
      if block:
        x = max_pool(x, 2, 2)
      self.sow('intermediates', f'block{block}', x)
    x = x.reshape(len(x), -1)
    x = nn.Dense(
      4 * self.width, kernel_init=he_fan_in, dtype=self.dtype, name='dense'
    )(x)
    x = norm(name='norm_dense')(x)
    return classify(self, x, he_fan_in)
