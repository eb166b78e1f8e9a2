"""Generators, encoders and discriminators: MLPs and strided convolutions.

A. Radford, L. Metz, S. Chintala. Unsupervised Representation Learning with
Deep Convolutional Generative Adversarial Networks. ICLR 2016, arXiv 1511.06434.

An image side is halved, rounded up, by each layer: 28, 14, 7, 4. A generator
goes the other way and cuts what is too much: 4, 8 -> 7, 14, 28.

Departs from the paper: no batch statistics, so that no sample depends on those
beside it and the slope of a discriminator is that of one row; `norm='group'`
normalises groups of maps of one image. Images in [0, 1] are read as 2 x - 1.
"""

from collections.abc import Sequence
from functools import partial
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


def _norm(module: Any, x: jax.Array) -> jax.Array:
  if module.norm not in NORMS:
    raise ValueError(f'norm "{module.norm}" is not one of {", ".join(NORMS)}')
  if module.norm == 'none':
    return x
  groups = next(g for g in (8, 4, 2, 1) if x.shape[-1] % g == 0)
  return nn.GroupNorm(groups, dtype=module.dtype)(x)


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
  widths are used up before a last convolution of stride 1 makes the channels.
  """

  side: int
  channels: int
  widths: Sequence[int] = (256, 128, 64)  # from the smallest side
  kernel: int = 5
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
    size = (self.kernel, self.kernel)
    x = nn.Dense(to[0] ** 2 * self.widths[0], dtype=self.dtype)(latent)
    x = x.reshape(len(x), to[0], to[0], self.widths[0])
    for count, side in zip(maps, to[1:]):
      x = nn.relu(_norm(self, x))
      x = nn.ConvTranspose(count, size, (2, 2), dtype=self.dtype)(x)
      x = x[:, :side, :side]
    if self.smooth:
      x = nn.relu(_norm(self, x))
      x = nn.Conv(self.channels, size, dtype=self.dtype)(x)
    return nn.sigmoid(x.astype(jnp.float32))


class _Strided(nn.Module):
  """What an encoder and a discriminator share: their convolutions."""

  widths: Sequence[int] = (64, 128, 256)
  kernel: int = 5
  norm: str = 'none'
  dtype: Any = jnp.float32

  def read(self, image: jax.Array, slope: float) -> jax.Array:
    """[b, d] float32: the last maps of [b, h, w, c] in [0, 1], in a row."""
    check_image(image, 2)
    layer = partial(
      nn.Conv,
      kernel_size=(self.kernel, self.kernel),
      strides=(2, 2),
      dtype=self.dtype,
    )
    x = 2 * image - 1
    for i, width in enumerate(self.widths):
      x = layer(width)(x)
      x = nn.leaky_relu(_norm(self, x) if i else x, slope)
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
