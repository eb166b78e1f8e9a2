"""The networks of SN-GAN, as GAAN's authors use them.

T. Miyato, T. Kataoka, M. Koyama, Y. Yoshida. Spectral Normalization for
Generative Adversarial Networks. ICLR 2018, arXiv 1802.05957, tables 3 and 4.

The convolutional generator is `dcgan.Generator(side, channels, (1024, 512, 256,
128), kernel=4, smooth=True)`.

Departs from the paper: no spectral norm, as GAAN's authors have none in these
networks; group norms where the generator has batch statistics.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlab.models.blocks import check_image
from jaxlab.models.dcgan import Convolution, conv3, halve, normed, sides


class SnDiscriminator(nn.Module):
  """Images -> logits: 3 x 3 and, of stride 2, 4 x 4 convolutions in turn."""

  width: int = 64
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, image: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Logits [b] float32, higher for what looks real, and features [b, d].

    Args:
      image: [b, h, w, c] float32 in [0, 1]; d = 8 width ⌈h/8⌉ ⌈w/8⌉.

    Raises:
      ValueError: another shape.
    """
    check_image(image, 2)
    x = 2 * image - 1
    for i in range(3):
      width = self.width << i
      for kernel, of in ((3, conv3), (4, halve)):
        x = Convolution(width, kernel, of, self.dtype)(x)
        x = nn.leaky_relu(x, 0.1)
    x = Convolution(8 * self.width, 3, conv3, self.dtype)(x)
    x = nn.leaky_relu(x, 0.1)
    features = x.reshape(len(x), -1).astype(jnp.float32)
    return nn.Dense(1)(features)[:, 0], features


class ResGenerator(nn.Module):
  """Codes -> images: residual blocks that double the side."""

  side: int
  channels: int
  width: int = 256
  blocks: int = 3
  norm: str = 'group'
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, latent: jax.Array) -> jax.Array:
    """[b, side, side, channels] float32 in (0, 1).

    Args:
      latent: [b, d_z] float32.
    """
    to = sides(self.side, self.blocks)[::-1]
    conv = lambda x, size=3: Convolution(self.width, size, conv3, self.dtype)(x)
    x = nn.Dense(to[0] ** 2 * self.width, dtype=self.dtype)(latent)
    x = x.reshape(len(x), to[0], to[0], self.width)
    for side in to[1:]:
      grown = lambda x, side=side: _doubled(x)[:, :side, :side]
      y = conv(grown(nn.relu(normed(self, x))))
      y = conv(nn.relu(normed(self, y)))
      x = nn.Dense(self.width, dtype=self.dtype)(grown(x)) + y
    x = nn.relu(normed(self, x))
    x = Convolution(self.channels, 3, conv3, self.dtype)(x)
    return nn.sigmoid(x.astype(jnp.float32))


class ResDiscriminator(nn.Module):
  """Images -> logits: four residual blocks, of which two halve the side."""

  width: int = 128
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, image: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Logits [b] float32, higher for what looks real, and features [b, d].

    Args:
      image: [b, h, w, c] float32 in [0, 1], h and w multiples of 4; d =
        width h w / 16.

    Raises:
      ValueError: another shape.
    """
    check_image(image, 4)
    conv = lambda x: Convolution(self.width, 3, conv3, self.dtype)(x)
    x = 2 * image - 1
    for block in range(4):
      y = conv(nn.relu(x) if block else x)
      y = conv(nn.relu(y))
      if block < 2:
        x, y = (nn.avg_pool(part, (2, 2), (2, 2)) for part in (x, y))
      if x.shape[-1] != self.width or block < 2:
        x = nn.Dense(self.width, dtype=self.dtype)(x)
      x = x + y
    x = nn.relu(x)
    features = x.reshape(len(x), -1).astype(jnp.float32)
    return nn.Dense(1)(features)[:, 0], features


def _doubled(x: jax.Array) -> jax.Array:
  """Each pixel four times."""
  return x.repeat(2, 1).repeat(2, 2)
