"""The optimizers that the configs name, with their schedule."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax.numpy as jnp
import optax

from jaxlab.core.require import (
  at_least,
  between,
  multiple_of,
  one_of,
  require,
)
from jaxlab.papers.lamb import layers, method
from jaxlab.recipes.optimizers import clipped

LAMBS = ('lamb', 'n_lamb', 'nn_lamb')
NAMES = (*LAMBS, 'lars', 'momentum', 'adamw')
# Parts of parameters' names that neither decay nor adapt.
_EXCLUDED = {
  'none': None,
  'norm': layers.EXCLUDED[:-1],
  'bias_and_norm': layers.EXCLUDED,
}


def make(
  config: Mapping[str, Any],
  learning_rate: float | None = None,
  kept_steps: int = 0,
) -> optax.GradientTransformation:
  """Clipping, then the optimizer that `config.optimizer` names.

  The rate warms up and falls to 0 at `config.train.steps`.

  Args:
    learning_rate: the peak; default: the config's.
    kept_steps: updates that the optimizer's state has seen before; the schedule
      begins anew behind them.

  Raises:
    InputError: a value out of range.
  """
  c, steps = config['optimizer'], config['train']['steps']
  require(
    config,
    {
      'optimizer.name': one_of(*NAMES),
      'optimizer.learning_rate': at_least(0),
      'optimizer.warmup_steps': between(0, steps, 'see config.train.steps'),
      'optimizer.weight_decay': at_least(0),
      'optimizer.clip_norm': at_least(0, '0 switches it off'),
      'optimizer.exclude': one_of(*_EXCLUDED),
      'optimizer.micro_batches': at_least(1),
      'data.batch_size': at_least(1),
    },
  )
  cure = 'a batch is cut in config.optimizer.micro_batches'
  require(config, {'data.batch_size': multiple_of(c['micro_batches'], cure)})
  peak = c['learning_rate'] if learning_rate is None else learning_rate
  rate = method.warmup_polynomial(
    peak, c['warmup_steps'], steps, c['power'], c['jump']
  )
  if kept_steps:
    # The optimizer goes on counting; the schedule begins anew.
    again = rate
    rate = lambda step: again(jnp.maximum(step - kept_steps, 0))
  return clipped(c, _named(c, rate))


def _named(c, rate) -> optax.GradientTransformation:
  name, decay, out = c['name'], c['weight_decay'], _EXCLUDED[c['exclude']]
  mask = out and partial(layers.default_decay_mask, exclude=out)
  both: dict[str, Any] = {
    'decay_mask': mask,
    'adapt_mask': mask,
    'layer_axes': method.layer_axes_from,
  }
  if name in LAMBS:
    return method.lamb(
      rate,
      c['b1'],
      c['b2'],
      c['eps'],
      decay,
      bias_correction=c['bias_correction'],
      variant=name,
      **both,
    )
  if name == 'lars':
    return method.lars(rate, c['b1'], decay, **both)
  if name == 'momentum':
    return optax.chain(
      optax.add_decayed_weights(decay, mask),
      optax.sgd(rate, c['b1'], nesterov=True),
    )
  return optax.adamw(
    rate, c['b1'], c['b2'], c['eps'], weight_decay=decay, mask=mask
  )
