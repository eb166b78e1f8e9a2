"""A small convolutional network for pages and their regions.

  block1  conv 3 x 3, stride 2, w        norm, ReLU      [b, h/2, w/2, w]
  block2  conv 3 x 3, stride 2, 2w       the same        [b, h/4, w/4, 2w]
  block3  conv 3 x 3, stride 2, 4w       the same        [b, h/8, w/8, 4w]
  grid    means over 4 x 4 fields, which keep the layout [b, 64w]
  head    num_classes

The same parameters serve images of every size: 76,984 for w = 24, one channel
and 16 classes.
"""

import itertools
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
)

GRID = 4


class PageCnn(nn.Module):
  """The network. Parameters are float32, whatever `dtype` computes.

  Kernels start as He normals (variance 2 / fan-in), biases at 0.
  """

  num_classes: int = 16
  width: int = 24
  momentum: float = 0.9
  epsilon: float = 1e-5
  dtype: Any = jnp.float32  # of activations

  @nn.compact
  def __call__(self, image: jax.Array, *, train: bool) -> jax.Array:
    """Logits.

    Args:
      image: [b, h, w, c] float32 in about [-1, 1]; h, w >= 32.
      train: norms take the batch's statistics and move the running ones.

    Returns:
      [b, num_classes] float32.

    Raises:
      ValueError: wrong rank or dtype, or too small.
    """
    check_image(image, 8 * GRID)
    norm, make, x = batch_norm(self, train), conv(self, he_fan_in), image
    for block in (1, 2, 3):
      features = self.width * 2 ** (block - 1)
      x = make(features, 3, 2, name=f'conv{block}')(x)
      x = nn.relu(norm(name=f'norm{block}')(x))
      self.sow('intermediates', f'block{block}', x)
    # Fields of maps that GRID does not divide differ by one position.
    x = x.astype(jnp.float32)
    rows, columns = (_fields(length) for length in x.shape[1:3])
    x = jnp.einsum('ip,jq,bpqc->bijc', rows, columns, x)
    return classify(self, x.reshape(len(x), -1), nn.initializers.lecun_normal())


def _fields(length: int) -> jax.Array:
  """[GRID, length]: the means over as many runs of positions."""
  ends = [length * i // GRID for i in range(GRID + 1)]
  place = jnp.arange(length)
  runs = [(place >= a) & (place < b) for a, b in itertools.pairwise(ends)]
  held = jnp.stack(runs).astype(jnp.float32)
  return held / held.sum(1, keepdims=True)
