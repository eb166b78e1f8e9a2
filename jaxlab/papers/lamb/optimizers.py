"""The optimizers that the configs name, with their schedule."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import optax

from jaxlab.engine.errors import InputError
from jaxlab.papers.lamb import layers, method

NAMES = ('lamb', 'n_lamb', 'nn_lamb', 'lars', 'momentum', 'adamw')


def make(
  config: Mapping[str, Any],
  steps: int,
  *,
  learning_rate: float,
  warmup_steps: int,
  kept_steps: int = 0,
) -> optax.GradientTransformation:
  """Global-norm clipping, then the optimizer that `config.name` names.

  Args:
    config: the section `optimizer` of a config.
    steps: updates in all, where the rate is 0 again.
    kept_steps: updates that the optimizer's state has seen before; the schedule
      begins anew behind them.

  Raises:
    InputError: a value out of range.
  """
  if warmup_steps > steps:
    raise InputError(
      f'warm-up of {warmup_steps} steps is longer than the {steps} steps of '
      'the schedule; lower config.optimizer.warmup_steps'
    )
  if learning_rate < 0:
    raise InputError(
      f'learning rate {learning_rate} is negative; '
      'config.optimizer.learning_rate takes a number >= 0'
    )
  rate = method.warmup_polynomial(
    learning_rate, warmup_steps, steps, config['power'], config['jump']
  )
  if kept_steps:
    # The optimizer goes on counting; the schedule begins anew.
    again = rate
    rate = lambda step: again(jnp.maximum(step - kept_steps, 0))
  tx = _named(config, rate)
  if not config['clip_norm']:
    return tx
  return optax.chain(optax.clip_by_global_norm(config['clip_norm']), tx)


def _named(c, rate) -> optax.GradientTransformation:
  name, decay = c['name'], c['weight_decay']
  mask = _mask(c['exclude'])
  both = {
    'decay_mask': mask,
    'adapt_mask': mask,
    'layer_axes': method.layer_axes_from,
  }
  if name in ('lamb', 'n_lamb', 'nn_lamb'):
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
  if name == 'adamw':
    return optax.adamw(
      rate, c['b1'], c['b2'], c['eps'], weight_decay=decay, mask=mask
    )
  raise InputError(
    f'config.optimizer.name = "{name}" is not one of {", ".join(NAMES)}'
  )


def _mask(exclude: str):
  """Leaves that decay and adapt: a callable of the parameters, or None."""
  rules = {
    'none': None,
    'norm': layers.EXCLUDED[:-1],
    'bias_and_norm': layers.EXCLUDED,
  }
  if exclude not in rules:
    raise InputError(
      f'config.optimizer.exclude = "{exclude}" is not one of {", ".join(rules)}'
    )
  chosen = rules[exclude]
  if chosen is None:
    return None
  return lambda params: layers.default_decay_mask(params, chosen)
