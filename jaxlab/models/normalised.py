"""A classifier as functions of images in [0, 1], its normalisation inside."""

import contextlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxlab.models import classifiers


class Network(NamedTuple):
  """One network as functions of (images [b, h, w, c] in [0, 1], params, vars).

  `params['net']` and `vars['net']` are its own. The mean and deviation are
  taken off inside, so that budgets of attacks are in pixels.
  """

  init: Callable[[jax.Array], tuple[dict, dict]]  # key -> params, vars
  logits: Callable[..., jax.Array]  # with running statistics
  batch_logits: Callable[..., jax.Array]  # with the batch's, which are dropped
  # (params, vars, images, key for dropout, mask [b] bool) -> logits, new vars;
  # rows that are not in the mask may hold anything and change nothing
  train: Callable[..., tuple[jax.Array, dict]]
  # (images, params, vars, names) -> [b, d] of each name
  features: Callable[..., list[jax.Array]]


def normalised(
  model: nn.Module,
  shape: tuple[int, int, int],
  mean: Sequence[float],
  std: Sequence[float],
) -> Network:
  """The network of a model that reads (image - mean) / std.

  Args:
    model: as of `classifiers.make`.
    shape: h, w, c of an image.
    mean, std: of a channel, or one for all; std > 0.

  Raises:
    ValueError: as many values as there are no channels, or a bad std.
  """
  centre, scale = (np.asarray(x, np.float32) for x in (mean, std))
  if {len(centre), len(scale)} - {1, shape[2]} or not (scale > 0).all():
    raise ValueError(
      f'config.data.mean and std have {len(mean)} and {len(std)} values for '
      f'{shape[2]} channels, and std must be above 0'
    )
  return network(
    model, shape, lambda images: (images.astype(jnp.float32) - centre) / scale
  )


def network(
  model: nn.Module,
  shape: tuple[int, int, int],
  prepare: Callable[[jax.Array], jax.Array],
) -> Network:
  """The network of a model.

  Args:
    model: `(image, *, train) -> logits`.
    shape: h, w, c of an image.
    prepare: images in [0, 1] -> those that the model reads.
  """

  def run(images, params, vars, train, key=None, mask=None):
    if mask is not None:
      images = jnp.where(mask[:, None, None, None], images, 0)
    with _statistics_of(mask):
      return model.apply(
        {'params': params['net'], **vars['net']},
        prepare(images),
        train=train,
        mutable=['batch_stats'] if train else False,
        rngs=None if key is None else {'dropout': key},
      )

  def init(key):
    dummy = jnp.zeros((1, *shape), jnp.float32)
    made = dict(jax.jit(lambda k: model.init(k, dummy, train=False))(key))
    made.pop('intermediates', None)
    return {'net': made.pop('params')}, {'net': made}

  def train(params, vars, images, key=None, mask=None):
    logits, new = run(images, params, vars, True, key, mask)
    return logits, {'net': dict(new)}

  def features(images, params, vars, names):
    variables = {'params': params['net'], **vars['net']}
    return classifiers.features(model, variables, prepare(images), names)

  return Network(
    init,
    lambda images, params, vars: run(images, params, vars, False),
    lambda images, params, vars: run(images, params, vars, True)[0],
    train,
    features,
  )


def _statistics_of(mask: jax.Array | None):
  """Within it, batch normalisation counts the rows of a mask [b] alone, or all
  where none is real."""
  if mask is None:
    return contextlib.nullcontext()
  counted = mask | ~mask.any()

  def with_mask(call, args, kwargs, context):
    if isinstance(context.module, nn.BatchNorm) and kwargs.get('mask') is None:
      rows = counted.reshape(-1, *[1] * (args[0].ndim - 1))
      kwargs = {**kwargs, 'mask': rows}
    return call(*args, **kwargs)

  return nn.intercept_methods(with_mask)
