"""The classifier of a config, on images in [0, 1]."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlab.models import classifiers

Config = Mapping[str, Any]


class Network(NamedTuple):
  """One network as functions of (images [b, h, w, c] in [0, 1], params, vars).

  `params['net']` and `vars['net']` are its own. The mean and deviation of the
  config are taken off inside, so that budgets of attacks are in pixels.
  """

  init: Callable[[jax.Array], tuple[dict, dict]]  # key -> params, vars
  logits: Callable[..., jax.Array]  # with running statistics
  batch_logits: Callable[..., jax.Array]  # with the batch's, which are dropped
  train: Callable[..., tuple[jax.Array, dict]]  # logits and new vars
  features: Callable[..., list[jax.Array]]  # of config.detection.layers


def build(config: Config) -> Network:
  """The network.

  Raises:
    ValueError: an unknown model, or an option that cannot be.
  """
  c, d = config['model'], config['data']
  model = classifiers.make(c['name'], d['num_classes'], c['dtype'], c)
  mean = np.asarray(d['mean'], np.float32)
  std = np.asarray(d['std'], np.float32)
  if {len(mean), len(std)} - {1, d['channels']} or not (std > 0).all():
    raise ValueError(
      f'config.data.mean and std have {len(mean)} and {len(std)} values for '
      f'{d["channels"]} channels, and std must be above 0'
    )

  def scaled(images):
    return (images.astype(jnp.float32) - mean) / std

  def run(images, params, vars, train):
    return model.apply(
      {'params': params['net'], **vars['net']},
      scaled(images),
      train=train,
      mutable=['batch_stats'] if train else False,
    )

  def init(key):
    dummy = jnp.zeros((1, d['size'], d['size'], d['channels']), jnp.float32)
    made = dict(jax.jit(lambda k: model.init(k, dummy, train=False))(key))
    made.pop('intermediates', None)
    return {'net': made.pop('params')}, {'net': made}

  def train(params, vars, images):
    logits, new = run(images, params, vars, True)
    return logits, {'net': dict(new)}

  def features(images, params, vars):
    variables = {'params': params['net'], **vars['net']}
    layers = config['detection']['layers']
    return classifiers.features(model, variables, scaled(images), layers)

  return Network(
    init,
    lambda images, params, vars: run(images, params, vars, False),
    lambda images, params, vars: run(images, params, vars, True)[0],
    train,
    features,
  )
