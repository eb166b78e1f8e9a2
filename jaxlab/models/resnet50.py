"""ResNet-50 for 224 x 224 images: torchvision's v1.5 and Keras' v1.

K. He, X. Zhang, S. Ren, J. Sun. Deep Residual Learning for Image Recognition.
CVPR 2016. arXiv:1512.03385

  block0  conv 7 x 7, stride 2, 64;  3 x 3 max pooling, stride 2
                                                       [b, 56, 56, 64]
  block1  3 units, 64 -> 256                           [b, 56, 56, 256]
  block2  4 units, 128 -> 512, the first with stride 2 [b, 28, 28, 512]
  block3  6 units, 256 -> 1024, the first with stride 2
                                                       [b, 14, 14, 1024]
  block4  3 units, 512 -> 2048, the first with stride 2
                                                       [b, 7, 7, 2048]
  head    mean over positions, num_classes

  unit:   relu(norm3(conv3(relu(norm2(conv2(relu(norm1(conv1 x))))))) + y),
          convolutions 1 x 1, 3 x 3, 1 x 1; y is x, or norm(conv 1 x 1 of x) in
          the first unit of a stage

  layout      stride in   conv biases   momentum   epsilon
  v1_5        conv2       no            0.9        1e-5
  keras_v1    conv1       yes           0.99       1e-3

v1_5 has 25,557,032 parameters for 1,000 classes and 53,120 running statistics;
keras_v1, the paper's strides, has 25,583,592 and 53,120: 25,636,712 numbers.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlab.models.blocks import (
  batch_norm,
  check_channels,
  check_image,
  classify,
  conv,
  end_block,
  he_fan_out,
  max_pool,
  spatial_mean,
)
from jaxlab.models.residual import PostUnit, stages


class _Layout(NamedTuple):
  strides_first: bool  # in conv1, else in conv2
  use_bias: bool
  momentum: float
  epsilon: float
  kernel_init: Any
  head_init: Any


_SCALING = nn.initializers.variance_scaling
LAYOUTS = {
  'v1_5': _Layout(
    False, False, 0.9, 1e-5, he_fan_out, _SCALING(1 / 3, 'fan_in', 'uniform')
  ),
  'keras_v1': _Layout(
    True,
    True,
    0.99,
    1e-3,
    nn.initializers.he_normal(),
    nn.initializers.glorot_uniform(),
  ),
}


class ResNet50(nn.Module):
  """ResNet-50. Parameters are float32, whatever `dtype` computes.

  Initial kernels are those of the layout's own code: He normals by fan-out
  (torchvision) or by fan-in and cut at two deviations (Keras); biases are 0.
  """

  num_classes: int = 1000
  units: tuple[int, ...] = (3, 4, 6, 3)
  width: int = 64
  layout: str = 'v1_5'  # or 'keras_v1'
  momentum: float | None = None  # None: the layout's
  epsilon: float | None = None  # None: the layout's; newer Keras: 1.001e-5
  dtype: Any = jnp.float32  # of activations

  def __post_init__(self):
    super().__post_init__()
    if self.layout not in LAYOUTS:
      raise ValueError(f'layout {self.layout!r}: take one of {[*LAYOUTS]}')

  @nn.compact
  def __call__(self, image: jax.Array, *, train: bool) -> jax.Array:
    """Logits.

    Args:
      image: [b, h, w, c] float32; h, w >= 32, 224 in the paper. torchvision's
        weights take RGB in [0, 1], normalised by mean (.485, .456, .406) and
        deviation (.229, .224, .225); Keras' take `keras_image`.
      train: batch statistics instead of running ones.

    Returns:
      [b, num_classes] float32.

    Raises:
      ValueError: wrong rank, dtype or number of channels, or too small.
    """
    check_image(image, 32)
    check_channels(self, image, 'stem')
    layout = self._layout()
    x = conv(self, layout.kernel_init)(
      self.width, 7, 2, use_bias=layout.use_bias, name='stem'
    )(image)
    norm = batch_norm(self, train)(
      momentum=layout.momentum, epsilon=layout.epsilon, name='stem_norm'
    )
    # The padding is below every value, that of Keras (0) as well.
    x = max_pool(nn.relu(norm(x)), 3, 2, ((1, 1), (1, 1)))
    x = end_block(self, 0, x)

    def unit(width, strides):
      before, after = (strides, 1) if layout.strides_first else (1, strides)
      layers = (width, 1, before), (width, 3, after), (4 * width, 1, 1)
      return {
        'layers': tuple((*layer, layout.use_bias) for layer in layers),
        'momentum': layout.momentum,
        'epsilon': layout.epsilon,
        'kernel_init': layout.kernel_init,
      }

    x = stages(self, x, train, PostUnit, self.units, self.width, unit)
    return classify(self, spatial_mean(x), layout.head_init)

  def _layout(self):
    own = LAYOUTS[self.layout]
    return own._replace(
      momentum=own.momentum if self.momentum is None else self.momentum,
      epsilon=own.epsilon if self.epsilon is None else self.epsilon,
    )


def keras_image(image: jax.Array) -> jax.Array:
  """RGB in [0, 255] -> what Keras' v1 networks read: BGR less their mean.

  Args:
    image: [..., 3] of any real dtype.

  Returns:
    [..., 3] float32, not scaled.
  """
  mean = jnp.array([103.939, 116.779, 123.68], jnp.float32)
  return jnp.asarray(image, jnp.float32)[..., ::-1] - mean
