"""VGG-16 (configuration D), with and without batch norm.

K. Simonyan, A. Zisserman. Very Deep Convolutional Networks for Large-Scale
Image Recognition. ICLR 2015. arXiv:1409.1556

  block1  2 convs 3 x 3, 64,  2 x 2 max pooling        [b, 112, 112, 64]
  block2  2 convs 128                                  [b, 56, 56, 128]
  block3  3 convs 256                                  [b, 28, 28, 256]
  block4  3 convs 512                                  [b, 14, 14, 512]
  block5  3 convs 512                                  [b, 7, 7, 512]
  dense1, dense2   4096, each with dropout
  head    num_classes

138,357,544 parameters at 224 x 224 and 1,000 classes (138,365,992 with batch
norm); 134,326,096 for the 16 classes of RVL-CDIP. For CIFAR take `hidden=()`,
which leaves one linear layer on the mean over positions: 14,728,266 with batch
norm and 10 classes.
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
  he_fan_out,
  max_pool,
  spatial_mean,
)

STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # (features, convs)


class VGG16(nn.Module):
  """VGG-16. Parameters are float32, whatever `dtype` computes.

  Initial values are torchvision's: convolutions He normals (variance 2 /
  fan-out), dense kernels of deviation 0.01, biases 0.
  """

  num_classes: int = 1000
  hidden: tuple[int, ...] = (4096, 4096)  # they fix the image size of `init`
  batch_norm: bool = False  # behind each convolution
  dropout_rate: float = 0.5  # behind each hidden layer
  momentum: float = 0.9
  epsilon: float = 1e-5
  dtype: Any = jnp.float32  # of activations

  @nn.compact
  def __call__(self, image: jax.Array, *, train: bool) -> jax.Array:
    """Logits.

    Args:
      image: [b, h, w, c] float32; h, w >= 32, 224 in the paper. torchvision's
        weights take RGB in [0, 1], normalised by mean (.485, .456, .406) and
        deviation (.229, .224, .225); Keras' take BGR in [0, 255] less
        (103.939, 116.779, 123.68).
      train: dropout (pass `rngs={'dropout': key}`), and batch statistics
        instead of running ones.

    Returns:
      [b, num_classes] float32.

    Raises:
      ValueError: wrong rank or dtype, or too small.
    """
    check_image(image, 32)
    x = image
    norm, make = batch_norm(self, train), conv(self, he_fan_out)
    for stage, (features, convs) in enumerate(STAGES, 1):
      for i in range(1, convs + 1):
        x = make(features, 3, use_bias=True, name=f'conv{stage}_{i}')(x)
        if self.batch_norm:
          x = norm(name=f'norm{stage}_{i}')(x)
        x = nn.relu(x)
      x = max_pool(x, 2, 2)
      self.sow('intermediates', f'block{stage}', x)
    x = x.reshape(len(x), -1) if self.hidden else spatial_mean(x)
    init = nn.initializers.normal(0.01)
    for i, features in enumerate(self.hidden, 1):
      x = nn.Dense(
        features, dtype=self.dtype, kernel_init=init, name=f'dense{i}'
      )(x)
      x = drop(self, nn.relu(x), self.dropout_rate, train)
    return classify(self, x, init)
