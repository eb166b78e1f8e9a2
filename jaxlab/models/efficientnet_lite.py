"""EfficientNet-Lite0 to Lite4.

M. Tan, Q. V. Le. EfficientNet: Rethinking Model Scaling for Convolutional
Neural Networks. ICML 2019. arXiv:1905.11946. The Lite variants, without
squeeze-and-excitation and with ReLU6, are of the authors' repository (2020).

  block0  conv 3 x 3, stride 2, 32                     [b, 112, 112, 32]
  block1  1 unit   3 x 3, no expansion, 16             [b, 112, 112, 16]
  block2  2 units  3 x 3, 24, stride 2                 [b, 56, 56, 24]
  block3  2 units  5 x 5, 40, stride 2                 [b, 28, 28, 40]
  block4  3 units  3 x 3, 80, stride 2                 [b, 14, 14, 80]
  block5  3 units  5 x 5, 112                          [b, 14, 14, 112]
  block6  4 units  5 x 5, 192, stride 2                [b, 7, 7, 192]
  block7  1 unit   3 x 3, 320                          [b, 7, 7, 320]
  top     conv 1 x 1, 1280                             [b, 7, 7, 1280]
  head    mean over positions, dropout, num_classes

  unit:   norm(project(relu6(norm(depthwise(relu6(norm(expand x)))))))
          expand and project 1 x 1, the width between six times that of x;
          plus x where neither size nor width changes

  variant   width   depth   image   dropout   parameters, 1,000 classes
  0         1.0     1.0     224     0.2        4,652,008
  1         1.0     1.1     240     0.2        5,416,680
  2         1.1     1.2     260     0.3        6,092,072
  3         1.2     1.4     280     0.3        8,197,096
  4         1.4     1.8     300     0.3       13,006,568

Neither stem and top grow with the width, nor do blocks 1 and 7 with the depth.
All padding is 'SAME', more of it below and to the right.
"""

import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlab.models import conv_cpu
from jaxlab.models.blocks import (
  batch_norm,
  check_channels,
  check_image,
  classify,
  drop,
  end_block,
  he_fan_out,
  spatial_mean,
)


class _Stage(NamedTuple):
  units: int
  size: int  # of the depthwise kernel
  strides: int
  expansion: int
  features: int


STAGES = (
  _Stage(1, 3, 1, 1, 16),
  _Stage(2, 3, 2, 6, 24),
  _Stage(2, 5, 2, 6, 40),
  _Stage(3, 3, 2, 6, 80),
  _Stage(3, 5, 1, 6, 112),
  _Stage(4, 5, 2, 6, 192),
  _Stage(1, 3, 1, 6, 320),
)


class Scale(NamedTuple):
  """What tells the variants apart."""

  width: float
  depth: float
  image: int  # pixels
  dropout_rate: float


SCALES = (
  Scale(1.0, 1.0, 224, 0.2),
  Scale(1.0, 1.1, 240, 0.2),
  Scale(1.1, 1.2, 260, 0.3),
  Scale(1.2, 1.4, 280, 0.3),
  Scale(1.4, 1.8, 300, 0.3),
)


class EfficientNetLite(nn.Module):
  """EfficientNet-Lite. Parameters are float32, whatever `dtype` computes.

  Initial kernels are the authors': normal of variance 2 / fan-out, where a
  depthwise kernel counts one output; the head's uniform, of bound
  1 / sqrt(num_classes).
  """

  variant: int = 0
  num_classes: int = 1000
  momentum: float = 0.99
  epsilon: float = 1e-3
  skip_rate: float = 0.2  # of an image leaving out the last unit, in training
  dtype: Any = jnp.float32  # of activations

  def __post_init__(self):
    super().__post_init__()
    if self.variant not in range(len(SCALES)):
      raise ValueError(f'variant {self.variant}: take 0 to {len(SCALES) - 1}')

  @nn.compact
  def __call__(self, image: jax.Array, *, train: bool) -> jax.Array:
    """Logits.

    Args:
      image: [b, h, w, c] float32, `lite_image` of RGB; h, w >= 32, and the
        variant's size for its pretrained weights.
      train: batch statistics instead of running ones, dropout and left-out
        units; pass `rngs={'dropout': key}`.

    Returns:
      [b, num_classes] float32.

    Raises:
      ValueError: wrong rank, dtype or number of channels, or too small.
    """
    check_image(image, 32)
    check_channels(self, image, 'stem')
    scale, norm = SCALES[self.variant], batch_norm(self, train)
    x = _conv(self, 32, 3, strides=2, name='stem')(image)
    x = nn.relu6(norm(name='stem_norm')(x))
    x = end_block(self, 0, x)
    counts = [_repeats(self.variant, i) for i in range(len(STAGES))]
    done = 0
    for i, stage in enumerate(STAGES):
      for unit in range(counts[i]):
        x = _Unit(
          stage._replace(
            features=_width(stage.features, scale.width),
            strides=1 if unit else stage.strides,
          ),
          self.skip_rate * done / sum(counts),
          self.momentum,
          self.epsilon,
          self.dtype,
          name=f'stage{i + 1}_unit{unit + 1}',
        )(x, train)
        done += 1
      x = end_block(self, i + 1, x)
    x = nn.relu6(norm(name='top_norm')(_conv(self, 1280, 1, name='top')(x)))
    x = drop(self, spatial_mean(x), scale.dropout_rate, train)
    bound = nn.initializers.variance_scaling(1 / 3, 'fan_out', 'uniform')
    return classify(self, x, bound)


class _Unit(nn.Module):
  """An inverted bottleneck."""

  stage: _Stage
  skip_rate: float
  momentum: float
  epsilon: float
  dtype: Any

  @nn.compact
  def __call__(self, x, train):
    stage, norm = self.stage, batch_norm(self, train)
    wide, y = x.shape[-1] * stage.expansion, x
    if stage.expansion > 1:
      y = _conv(self, wide, 1, name='expand')(y)
      y = nn.relu6(norm(name='expand_norm')(y))
    y = _conv(
      self,
      wide,
      stage.size,
      strides=stage.strides,
      feature_group_count=wide,
      conv_general_dilated=conv_cpu.conv,
      kernel_init=nn.initializers.normal(math.sqrt(2) / stage.size),
      name='depthwise',
    )(y)
    y = nn.relu6(norm(name='depthwise_norm')(y))
    y = _conv(self, stage.features, 1, name='project')(y)
    y = norm(name='project_norm')(y)
    if stage.strides > 1 or x.shape[-1] != stage.features:
      return y
    if train and self.skip_rate:
      shape = (len(y), 1, 1, 1)
      kept = jax.random.bernoulli(
        self.make_rng('dropout'), 1 - self.skip_rate, shape
      )
      y = jnp.where(kept, y / (1 - self.skip_rate), 0)
    return x + y


def _conv(module, features, size, **fields):
  fields = {'kernel_init': he_fan_out, 'dtype': module.dtype} | fields
  return nn.Conv(features, (size, size), use_bias=False, **fields)


def _repeats(variant, stage):
  units = STAGES[stage].units
  if stage in (0, len(STAGES) - 1):
    return units
  return math.ceil(SCALES[variant].depth * units)


def _width(features, width):
  """The multiple of 8 nearest to the scaled width, not below 90 % of it."""
  scaled = features * width
  rounded = max(8, int(scaled + 4) // 8 * 8)
  return rounded if rounded >= 0.9 * scaled else rounded + 8


def lite_image(image: jax.Array) -> jax.Array:
  """RGB in [0, 255] -> [-0.992, 1]: (x - 127) / 128, [..., 3] float32."""
  return (jnp.asarray(image, jnp.float32) - 127) / 128
