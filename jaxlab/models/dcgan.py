"""Generators, encoders and discriminators: MLPs and strided convolutions.

A. Radford, L. Metz, S. Chintala. Unsupervised Representation Learning with
Deep Convolutional Generative Adversarial Networks. ICLR 2016, arXiv 1511.06434.

An image side is halved, rounded up, by each layer: 28, 14, 7, 4. A generator
goes the other way and cuts what is too much: 4, 8 -> 7, 14, 28.

A kernel of at most 6 x 6 and stride 2 is one of 3 x 3 on 2 x 2 pixels as one,
with four times the channels: so it is computed, since XLA:CPU is slow at the
gradients of strided layers (benchmarks/gaan.py --xla).

Departs from the paper: no batch statistics, so that no sample depends on those
beside it and the slope of a discriminator is that of one row; `norm='group'`
normalises groups of maps of one image. Images in [0, 1] are read as 2 x - 1.
"""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlab.models.blocks import check_image

NORMS = ('none', 'group')


def sides(side: int, layers: int) -> list[int]:
  """Sides of an image before and after each of some layers that halve it.

  >>> sides(28, 3)
  [28, 14, 7, 4]
  """
  found = [side]
  for _ in range(layers):
    found.append(-(-found[-1] // 2))
  return found


def normed(module: Any, x: jax.Array) -> jax.Array:
  """The maps of a module under its `norm`.

  Raises:
    ValueError: an unknown norm.
  """
  if module.norm not in NORMS:
    raise ValueError(f'norm "{module.norm}" is not one of {", ".join(NORMS)}')
  if module.norm == 'none':
    return x
  groups = next(g for g in (8, 4, 2, 1) if x.shape[-1] % g == 0)
  return nn.GroupNorm(groups, dtype=module.dtype)(x)


def conv3(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """A 3 x 3 convolution of stride 1 that keeps the side.

  Args:
    x: [b, h, w, c].
    kernel: [3, 3, c, f].

  Returns:
    [b, h, w, f].
  """
  return jax.lax.conv_general_dilated(
    x, kernel, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )


def _six(kernel: jax.Array) -> jax.Array:
  """[k, k, c, f] amid zeros, [3, 2, 3, 2, c, f]: places in 2 x 2 cells."""
  size = kernel.shape[0]
  if not 1 <= size <= 6:
    raise ValueError(f'kernels of stride 2 have 1 to 6 pixels, not {size}')
  before = (7 - size) // 2
  around = (before, 6 - size - before)
  padded = jnp.pad(kernel, (around, around, (0, 0), (0, 0)))
  return padded.reshape(3, 2, 3, 2, *kernel.shape[2:])


def halve(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """A convolution of stride 2: [b, h, w, c] -> [b, ⌈h/2⌉, ⌈w/2⌉, f].

  Output i sees pixels from 2 i - 2 + ⌊(7 - k) / 2⌋ on, zeros beyond the image.

  Args:
    kernel: [k, k, c, f], k <= 6.

  Raises:
    ValueError: a larger kernel.
  """
  b, h, w, c = x.shape
  x = jnp.pad(x, ((0, 0), (0, h % 2), (0, w % 2), (0, 0)))
  h, w = x.shape[1] // 2, x.shape[2] // 2
  cells = x.reshape(b, h, 2, w, 2, c).transpose(0, 1, 3, 2, 4, 5)
  six = _six(kernel).transpose(0, 2, 1, 3, 4, 5)
  return conv3(cells.reshape(b, h, w, 4 * c), six.reshape(3, 3, 4 * c, -1))


def double(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """The transpose of `halve`: [b, h, w, c] -> [b, 2 h, 2 w, f].

  Args:
    kernel: [k, k, c, f], k <= 6.

  Raises:
    ValueError: a larger kernel.
  """
  b, h, w, c = x.shape
  six = _six(kernel)[::-1, :, ::-1].transpose(0, 2, 4, 1, 3, 5)
  cells = conv3(x, six.reshape(3, 3, c, -1))
  cells = cells.reshape(b, h, w, 2, 2, -1).transpose(0, 1, 3, 2, 4, 5)
  return cells.reshape(b, 2 * h, 2 * w, -1)


class Convolution(nn.Module):
  """One convolution with its bias.

  `of` is `halve`, `double` or, with kernels of 3 x 3, `conv3`.
  """

  features: int
  kernel: int
  of: Callable[[jax.Array, jax.Array], jax.Array]
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[b, h, w, c] -> maps of `of`."""
    shape = (self.kernel, self.kernel, x.shape[-1], self.features)
    kernel = self.param('kernel', nn.initializers.lecun_normal(), shape)
    bias = self.param('bias', nn.initializers.zeros, (self.features,))
    return self.of(x.astype(self.dtype), kernel.astype(self.dtype)) + bias


class _Linear(nn.Module):
  """What MLPs share: linear layers, each before a ReLU."""

  widths: Sequence[int]  # of hidden layers
  centred: bool = False  # inputs in [0, 1] are read as 2 x - 1
  dtype: Any = jnp.float32

  def read(self, x: jax.Array) -> jax.Array:
    """[b, widths[-1]] float32, the last hidden layer of x [b, d]."""
    if x.ndim != 2:
      raise ValueError(f'an MLP reads [b, d], not {x.shape}')
    x = 2 * x - 1 if self.centred else x
    for width in self.widths:
      x = nn.relu(nn.Dense(width, dtype=self.dtype)(x))
    return x.astype(jnp.float32)


class Mlp(_Linear):
  """A generator or an encoder of points."""

  features: int = 2  # of the output
  sigmoid: bool = False  # outputs in (0, 1)

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[b, features] float32.

    Args:
      x: [b, d] float32.

    Raises:
      ValueError: another rank.
    """
    out = nn.Dense(self.features)(self.read(x))
    return nn.sigmoid(out) if self.sigmoid else out


class MlpDiscriminator(_Linear):
  """Points -> logits, and the features that they are made of."""

  @nn.compact
  def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Logits [b] float32, higher for what looks real, and features [b, d].

    Args:
      x: [b, d] float32.

    Raises:
      ValueError: another rank.
    """
    features = self.read(x)
    return nn.Dense(1)(features)[:, 0], features


class Generator(nn.Module):
  """Codes -> images.

  A linear layer makes widths[0] maps of the smallest side; each transposed
  convolution of stride 2 after it makes the next width of maps, the last one
  the image's channels; ReLU between, a sigmoid at the end. With `smooth` all
  widths are used up before a 3 x 3 convolution of stride 1 makes the channels.
  """

  side: int
  channels: int
  widths: Sequence[int] = (256, 128, 64)  # from the smallest side
  kernel: int = 5  # pixels of a side, at most 6
  norm: str = 'none'
  smooth: bool = False
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, latent: jax.Array) -> jax.Array:
    """[b, side, side, channels] float32 in (0, 1).

    Args:
      latent: [b, d_z] float32.

    Raises:
      ValueError: an unknown norm.
    """
    last = () if self.smooth else (self.channels,)
    maps = (*self.widths[1:], *last)
    to = sides(self.side, len(maps))[::-1]
    x = nn.Dense(to[0] ** 2 * self.widths[0], dtype=self.dtype)(latent)
    x = x.reshape(len(x), to[0], to[0], self.widths[0])
    for count, side in zip(maps, to[1:]):
      x = nn.relu(normed(self, x))
      x = Convolution(count, self.kernel, double, self.dtype)(x)
      x = x[:, :side, :side]
    if self.smooth:
      x = nn.relu(normed(self, x))
      x = Convolution(self.channels, 3, conv3, self.dtype)(x)
    return nn.sigmoid(x.astype(jnp.float32))


class _Strided(nn.Module):
  """What an encoder and a discriminator share: their convolutions."""

  widths: Sequence[int] = (64, 128, 256)
  kernel: int = 5  # pixels of a side, at most 6
  norm: str = 'none'
  dtype: Any = jnp.float32

  def read(self, image: jax.Array, slope: float) -> jax.Array:
    """[b, d] float32: the last maps of [b, h, w, c] in [0, 1], in a row."""
    check_image(image, 2)
    x = 2 * image - 1
    for i, width in enumerate(self.widths):
      x = Convolution(width, self.kernel, halve, self.dtype)(x)
      x = nn.leaky_relu(normed(self, x) if i else x, slope)
    return x.reshape(len(x), -1).astype(jnp.float32)


class Encoder(_Strided):
  """Images -> codes."""

  latent: int = 100

  @nn.compact
  def __call__(self, image: jax.Array) -> jax.Array:
    """[b, latent] float32.

    Args:
      image: [b, h, w, c] float32 in [0, 1].

    Raises:
      ValueError: another shape, or an unknown norm.
    """
    return nn.Dense(self.latent)(self.read(image, 0.0))


class Discriminator(_Strided):
  """Images -> logits, and the features that they are made of."""

  @nn.compact
  def __call__(self, image: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Logits [b] float32, higher for what looks real, and features [b, d].

    Args:
      image: [b, h, w, c] float32 in [0, 1].

    Raises:
      ValueError: another shape, or an unknown norm.
    """
    features = self.read(image, 0.2)
    return nn.Dense(1)(features)[:, 0], features
