"""The generator and discriminator of AdvGAN.

C. Xiao et al. Generating Adversarial Examples with Adversarial Networks. IJCAI
2018, appendix: `c3s1-8, d16, d32, r32 x 4, u16, u8, c3s1-C` and `C8, C16, C32,
FC`.

Departs from the paper: instance norms in the residual blocks too, so that no
image's perturbation depends on others of its batch; one generator for all
target classes, which are told by the norms' scales and shifts, as in V.
Dumoulin et al., "A Learned Representation for Artistic Style", ICLR 2017. As
further planes of the image they would be lost: a norm takes off what is the
same at all pixels.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlab.models.blocks import check_image


class Generator(nn.Module):
  """Images and the classes aimed at -> what becomes their perturbation.

    c3s1-k  3 x 3 convolution
    dk      3 x 3 convolution, stride 2
    rk      two 3 x 3 convolutions and what came in
    uk      3 x 3 transposed convolution, stride 2

  each with k maps, an instance norm and a ReLU; the last layer is linear. The
  class aimed at has scales and shifts of its own in every norm.
  """

  channels: int  # of the images
  width: int = 8
  blocks: int = 4
  dtype: Any = jnp.float32  # of activations

  @nn.compact
  def __call__(self, image: jax.Array, aim: jax.Array) -> jax.Array:
    """The raw perturbation.

    Args:
      image: [b, h, w, c] float32 in [0, 1]; h and w are multiples of 4.
      aim: [b, k] float32, one-hot target classes; k = 0 if there are none.

    Returns:
      [b, h, w, c] float32, any number.

    Raises:
      ValueError: another shape.
    """
    check_image(image, 8)
    height, width = image.shape[1:3]
    if height % 4 or width % 4:
      raise ValueError(
        f'images of {height} x {width} pixels are halved twice: make both '
        'sides multiples of 4 (data.size)'
      )
    conv = partial(nn.Conv, kernel_size=(3, 3), dtype=self.dtype)
    grow = partial(
      nn.ConvTranspose, kernel_size=(3, 3), strides=(2, 2), dtype=self.dtype
    )
    norm = partial(TargetNorm, dtype=self.dtype)
    x, w = 2 * image - 1, self.width
    x = nn.relu(norm()(conv(w)(x), aim))
    for maps in (2 * w, 4 * w):
      x = nn.relu(norm()(conv(maps, strides=(2, 2))(x), aim))
    for _ in range(self.blocks):
      y = nn.relu(norm()(conv(4 * w)(x), aim))
      x = x + norm()(conv(4 * w)(y), aim)
    for maps in (2 * w, w):
      x = nn.relu(norm()(grow(maps)(x), aim))
    return conv(self.channels)(x).astype(jnp.float32)


class TargetNorm(nn.Module):
  """An instance norm with scales and shifts of the class aimed at."""

  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, aim: jax.Array) -> jax.Array:
    """Normalised x.

    Args:
      x: [b, h, w, c].
      aim: [b, k] float32, one-hot target classes; with k = 0 all images share
        their scales and shifts.
    """
    if not aim.shape[-1]:
      return nn.InstanceNorm(dtype=self.dtype)(x)
    x = nn.InstanceNorm(use_scale=False, use_bias=False, dtype=self.dtype)(x)
    told = nn.Dense(2 * x.shape[-1], dtype=self.dtype)(aim)
    scale, shift = jnp.split(told[:, None, None, :], 2, -1)
    return (1 + scale) * x + shift


class Discriminator(nn.Module):
  """Images -> scores: 4 x 4 convolutions of stride 2, then a linear layer.

  An instance norm follows all but the first, a leaky ReLU (.2) each.
  """

  width: int = 8
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, image: jax.Array) -> jax.Array:
    """[b] float32 scores, higher for what looks real.

    Args:
      image: [b, h, w, c] float32 in [0, 1]; h, w >= 12.

    Raises:
      ValueError: another shape, or too small: a norm over one pixel is 0.
    """
    check_image(image, 12)
    x = 2 * image - 1
    for i, maps in enumerate((self.width, 2 * self.width, 4 * self.width)):
      x = nn.Conv(maps, (4, 4), (2, 2), dtype=self.dtype)(x)
      if i:
        x = nn.InstanceNorm(dtype=self.dtype)(x)
      x = nn.leaky_relu(x, 0.2)
    x = x.reshape(len(x), -1).astype(jnp.float32)
    return nn.Dense(1)(x)[:, 0]
