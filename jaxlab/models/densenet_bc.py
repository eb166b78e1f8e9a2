"""DenseNet-BC for small images, L layers and growth rate k.

G. Huang, Z. Liu, L. van der Maaten, K. Weinberger. Densely Connected
Convolutional Networks. CVPR 2017. arXiv:1608.06993

  block0  conv 3 x 3, 2k                               [b, 32, 32, 24]
  block1  n = (L - 4) / 6 layers, then a transition    [b, 16, 16, 108]
  block2  n layers, then a transition                  [b, 8, 8, 150]
  block3  n layers, then norm and relu                 [b, 8, 8, 342]
  head    mean over positions, num_classes

  layer:       [x, dropout(conv2(relu(norm2(
                 dropout(conv1(relu(norm1 x)))))))]    1 x 1 to 4k, 3 x 3 to k
  transition:  2 x 2 means of dropout(conv(relu(norm x))),   1 x 1 to half

Channels are those of L = 100, k = 12, which has 769,162 parameters for 10
classes. The four blocks are the features that ALOE and its peers tap.

Departs from ALOE's code (J. Chen et al., arXiv:2003.09711): there, a name used
twice makes every convolution start with deviation sqrt(2 / n), n = 16 the
layers of a block. Here n is k k out, as the authors of DenseNet have it.
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
  spatial_mean,
)


class DenseNetBC(nn.Module):
  """DenseNet-BC-`depth`-`growth`; parameters are float32, whatever `dtype`.

  Convolutions start as He normals (variance 2 / fan-out), the last layer as
  normals of variance 1 / fan-in, biases at 0.
  """

  depth: int = 100
  growth: int = 12
  num_classes: int = 10
  dropout_rate: float = 0.0  # the paper's is 0.2 without augmentation
  momentum: float = 0.9
  epsilon: float = 1e-5
  dtype: Any = jnp.float32  # of activations

  def __post_init__(self):
    super().__post_init__()
    if self.depth < 10 or self.depth % 6 != 4:
      raise ValueError(
        f'depth {self.depth} is not 6n + 4: take 40, 100, 190 or 250'
      )

  @nn.compact
  def __call__(self, image: jax.Array, *, train: bool) -> jax.Array:
    """Logits.

    Args:
      image: [b, h, w, c] float32, normalised by mean and deviation of each
        channel (ALOE's are in [0, 1]); h, w >= 4, 32 in the paper.
      train: batch statistics instead of running ones, and dropout: pass
        `rngs={'dropout': key}` where its rate is not 0.

    Returns:
      [b, num_classes] float32.

    Raises:
      ValueError: wrong rank or dtype, or too small.
    """
    check_image(image, 4)
    fields = {
      'dropout_rate': self.dropout_rate,
      'momentum': self.momentum,
      'epsilon': self.epsilon,
      'dtype': self.dtype,
    }
    x = conv(self, he_fan_out)(2 * self.growth, 3, name='stem')(image)
    self.sow('intermediates', 'block0', x)
    for stage in (1, 2, 3):
      for layer in range(1, (self.depth - 4) // 6 + 1):
        name = f'stage{stage}_layer{layer}'
        x = _Layer(self.growth, **fields, name=name)(x, train)
      if stage < 3:
        x = _Transition(**fields, name=f'transition{stage}')(x, train)
      else:
        x = nn.relu(batch_norm(self, train)(name='norm')(x))
      self.sow('intermediates', f'block{stage}', x)
    return classify(self, spatial_mean(x), nn.initializers.lecun_normal())


class _Layer(nn.Module):
  """Appends `growth` channels."""

  growth: int
  dropout_rate: float
  momentum: float
  epsilon: float
  dtype: Any

  @nn.compact
  def __call__(self, x, train):
    norm, make = batch_norm(self, train), conv(self, he_fan_out)
    y = nn.relu(norm(name='norm1')(x))
    y = make(4 * self.growth, 1, name='conv1')(y)
    y = drop(self, y, self.dropout_rate, train)
    y = nn.relu(norm(name='norm2')(y))
    y = make(self.growth, 3, name='conv2')(y)
    y = drop(self, y, self.dropout_rate, train)
    return jnp.concatenate([x, y], axis=-1)


class _Transition(nn.Module):
  """Halves height, width and channels."""

  dropout_rate: float
  momentum: float
  epsilon: float
  dtype: Any

  @nn.compact
  def __call__(self, x, train):
    x = nn.relu(batch_norm(self, train)(name='norm')(x))
    x = conv(self, he_fan_out)(x.shape[-1] // 2, 1, name='conv')(x)
    x = drop(self, x, self.dropout_rate, train)
    return nn.avg_pool(x, (2, 2), (2, 2))
