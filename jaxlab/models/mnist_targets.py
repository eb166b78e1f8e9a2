"""The networks for MNIST that papers on attacks attack.

  a      conv 5 x 5 64, conv 5 x 5 64, dense 128
  b      conv 8 x 8 64 /2, conv 6 x 6 128 /2, conv 5 x 5 128
  c      2 conv 3 x 3 32, pool, 2 conv 3 x 3 64, pool, dense 200, dense 200
  madry  conv 5 x 5 32, pool, conv 5 x 5 64, pool, dense 1024

A ReLU follows every layer, a linear layer of the classes ends each. Padding is
none, but for b's first layer and madry's.

A and B: F. Tramèr et al. Ensemble Adversarial Training: Attacks and Defenses.
ICLR 2018. C: N. Carlini, D. Wagner. Towards Evaluating the Robustness of
Neural Networks. IEEE S&P 2017. madry: A. Madry et al. Towards Deep Learning
Models Resistant to Adversarial Attacks. ICLR 2018.

Departs from the papers: no dropout.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlab.models.blocks import check_image, classify, he_fan_in, max_pool

# (maps, kernel, stride, padding, pooled after), then widths of dense layers
_LAYOUTS: dict[str, tuple[tuple[tuple[Any, ...], ...], tuple[int, ...]]] = {
  'a': (((64, 5, 1, 'VALID', False), (64, 5, 1, 'VALID', False)), (128,)),
  'b': (
    (
      (64, 8, 2, 'SAME', False),
      (128, 6, 2, 'VALID', False),
      (128, 5, 1, 'VALID', False),
    ),
    (),
  ),
  'c': (
    (
      (32, 3, 1, 'VALID', False),
      (32, 3, 1, 'VALID', True),
      (64, 3, 1, 'VALID', False),
      (64, 3, 1, 'VALID', True),
    ),
    (200, 200),
  ),
  'madry': (
    ((32, 5, 1, 'SAME', True), (64, 5, 1, 'SAME', True)),
    (1024,),
  ),
}


class MnistTarget(nn.Module):
  """One of the four. Parameters are float32, whatever `dtype` computes."""

  num_classes: int = 10
  layout: str = 'a'
  dtype: Any = jnp.float32  # of activations

  @nn.compact
  def __call__(self, image: jax.Array, *, train: bool) -> jax.Array:
    """Logits; training and evaluation are the same function.

    Args:
      image: [b, h, w, c] float32; h, w >= 28.
      train: without effect.

    Returns:
      [b, num_classes] float32.

    Raises:
      ValueError: an unknown layout; wrong rank or dtype, or too small.
    """
    if self.layout not in _LAYOUTS:
      raise ValueError(
        f'config.model.layout = "{self.layout}" is not one of '
        f'{", ".join(_LAYOUTS)}'
      )
    check_image(image, 28)
    convolutions, widths = _LAYOUTS[self.layout]
    x = image
    for i, (maps, size, stride, padding, pooled) in enumerate(convolutions, 1):
      x = nn.Conv(
        maps,
        (size, size),
        stride,
        padding,
        dtype=self.dtype,
        kernel_init=he_fan_in,
        name=f'conv{i}',
      )(x)
      x = nn.relu(x)
      if pooled:
        x = max_pool(x, 2, 2)
      self.sow('intermediates', f'block{i}', x)
    x = x.reshape(len(x), -1)
    for i, width in enumerate(widths, 1):
      x = nn.Dense(
        width, dtype=self.dtype, kernel_init=he_fan_in, name=f'dense{i}'
      )(x)
      x = nn.relu(x)
    return classify(self, x, he_fan_in)
