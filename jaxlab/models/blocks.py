"""What the image classifiers share: input check, norm, dropout, last layer.

Every classifier is called as `(image, *, train) -> logits`, changes the
collection `batch_stats` with `train=True` alone, and sows two kinds of
features into the collection `intermediates`:

  block<i>   [b, h, w, c] dtype, the end of stage i; block0 is the stem
  embedding  [b, d] float32, the input of the last linear layer

A network with pre-activations ends in a norm and a ReLU of its own, which
count to the last stage. Where a mean over positions precedes the last layer,
`embedding` is therefore that mean of the last block.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jaxlab.models.dropout import dropout

# Normal and not cut, unlike `nn.initializers.he_normal`. Deviation
# sqrt(2 / (k k in)) of He et al. 2015, and sqrt(2 / (k k out)) of their code.
he_fan_in = nn.initializers.variance_scaling(2.0, 'fan_in', 'normal')
he_fan_out = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')


def check_image(image: jax.Array, smallest: int, cure: str = '') -> None:
  """Refuses what is not a batch of preprocessed images of a sufficient size.

  Args:
    image: what was given.
    smallest: the least height and width, in pixels.
    cure: what else may be done about a small image.

  Raises:
    ValueError: not [b, h, w, c], not floating point, or too small.
  """
  if image.ndim != 4:
    raise ValueError(
      f'image has shape {image.shape}, not [b, h, w, c]: a single image needs '
      f'a batch axis, a grey one a channel axis'
    )
  if not jnp.issubdtype(image.dtype, jnp.floating):
    raise ValueError(
      f'image is {image.dtype}: scale and normalise it to float32 first'
    )
  if min(image.shape[1:3]) < smallest:
    raise ValueError(
      f'image of {image.shape[1]} x {image.shape[2]} pixels is smaller than '
      f'{smallest} x {smallest}: resize or pad it{cure}'
    )


def conv(module: Any, kernel_init: Any) -> Callable[..., nn.Conv]:
  """`(features, size, strides=1, **fields)` -> a square convolution without
  bias, as many zeros around its input as keep a stride-1 map's size."""

  def make(features, size, strides=1, *, use_bias=False, **fields):
    return nn.Conv(
      features,
      (size, size),
      strides,
      padding=size // 2,
      use_bias=use_bias,
      dtype=module.dtype,
      kernel_init=kernel_init,
      **fields,
    )

  return make


def batch_norm(module: Any, train: bool) -> Callable[..., nn.BatchNorm]:
  """`nn.BatchNorm` with momentum, epsilon and dtype of a module's fields.

  The running variance is that of the batch (divided by n); torch keeps the
  unbiased one (by n - 1) and so differs once it has trained.
  """
  return partial(
    nn.BatchNorm,
    use_running_average=not train,
    momentum=module.momentum,
    epsilon=module.epsilon,
    dtype=module.dtype,
  )


def drop(module: nn.Module, x: jax.Array, rate: float, train: bool):
  """Dropout with the module's stream `dropout`; no key needed at rate 0."""
  if not (train and rate):
    return x
  return dropout(module.make_rng('dropout'), x, rate)


def max_pool(x: jax.Array, window: int, strides: int, padding: Any = 'VALID'):
  """Largest value of each square window of a [b, h, w, c]."""
  return nn.max_pool(x, (window, window), (strides, strides), padding)


def spatial_mean(x: jax.Array) -> jax.Array:
  """[b, h, w, c] of any float dtype -> [b, c] float32."""
  return x.astype(jnp.float32).mean(axis=(1, 2))


def classify(module: Any, x: jax.Array, kernel_init: Any) -> jax.Array:
  """Sows `embedding` and returns the logits of the linear layer `head`.

  In float32 whatever `dtype` computes: it is cheap, and bfloat16 would leave
  the logits three digits.

  Args:
    module: the classifier whose compact call this is part of.
    x: [b, d] of a float dtype.
    kernel_init: initialiser of the [d, num_classes] kernel.

  Returns:
    [b, num_classes] float32.
  """
  x = x.astype(jnp.float32)
  module.sow('intermediates', 'embedding', x)
  head = nn.Dense(module.num_classes, kernel_init=kernel_init, name='head')
  return head(x)


def end_block(module: nn.Module, index: int, x: jax.Array) -> jax.Array:
  """Sows `block<index>`; recomputation may keep it, under the name 'block'."""
  x = checkpoint_name(x, 'block')
  module.sow('intermediates', f'block{index}', x)
  return x


def check_channels(module: nn.Module, image: jax.Array, first: str) -> None:
  """Refuses an image whose channels the weights were not made for.

  Args:
    module: the classifier, within its compact call.
    image: [b, h, w, c].
    first: name of the convolution that reads the image.

  Raises:
    ValueError: naming both numbers.
  """
  params: Any = module.get_variable('params', first)
  if params is None:
    return
  channels = params['kernel'].shape[-2]
  if image.shape[-1] != channels:
    raise ValueError(
      f'image has {image.shape[-1]} channels, the weights want {channels}: '
      f'convert the image, or init the model anew'
    )
