"""Optimizers and schedules by the names that configs give them.

The section `optimizer` of a config has `name`, `schedule`, and the numbers that
these two take:

  name      sgd      momentum, nesterov, weight_decay (coupled)
            adam     weight_decay (coupled)
            adamw    b1, b2, eps, weight_decay (decoupled)
  schedule  constant
            cosine        final_fraction
            drops         drops (shares of the training), drop_factor
            inverse_sqrt  warmup_steps
            exponential   decay (a factor), decay_steps: in a staircase
  both      learning_rate, clip_norm (0: none)
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import optax

from jaxlab.core.require import above, at_least, each, inside, one_of, require

Section = Mapping[str, Any]

_NUMBER = at_least(0)
_KEYS = {
  name: [f'optimizer.{key}' for key in keys]
  for name, keys in {
    'sgd': ('weight_decay', 'momentum', 'nesterov'),
    'adam': ('weight_decay',),
    'adamw': ('weight_decay', 'b1', 'b2', 'eps'),
  }.items()
}


def make(
  section: Section, steps: int, learning_rate: float | None = None
) -> optax.GradientTransformation:
  """Clipping, then the optimizer under its schedule.

  Args:
    section: `optimizer` of a config.
    steps: updates of the whole training.
    learning_rate: the peak; default: the section's.

  Raises:
    InputError: a value that cannot be.
  """
  names = one_of('sgd', 'adam', 'adamw')
  rules = {'optimizer.name': names, 'optimizer.clip_norm': at_least(0)}
  require({'optimizer': section}, rules)
  own = dict.fromkeys(_KEYS[section['name']], _NUMBER)
  require({'optimizer': section}, own)
  peak = section['learning_rate'] if learning_rate is None else learning_rate
  return clipped(section, _optimizer(section, schedule(section, steps, peak)))


def clipped(
  section: Section, tx: optax.GradientTransformation
) -> optax.GradientTransformation:
  """The optimizer behind clipping of the gradient's global norm."""
  if not section['clip_norm']:
    return tx
  return optax.chain(optax.clip_by_global_norm(section['clip_norm']), tx)


def _optimizer(c: Section, rate) -> optax.GradientTransformation:
  decay = c['weight_decay']
  if c['name'] == 'adamw':
    return optax.adamw(rate, c['b1'], c['b2'], c['eps'], weight_decay=decay)
  if c['name'] == 'adam':
    tx = optax.adam(rate)
  else:
    tx = optax.sgd(rate, c['momentum'], nesterov=c['nesterov'])
  return optax.chain(optax.add_decayed_weights(decay), tx)


def schedule(
  section: Section, steps: int, peak: float
) -> optax.ScalarOrSchedule:
  """The rate of each update.

  Under `cosine` and `inverse_sqrt` updates count from 1: the first is at the
  rate of 1, the last at the rate of `steps`.
  """
  names = one_of('constant', 'cosine', 'drops', 'inverse_sqrt', 'exponential')
  require({'optimizer': section}, {'optimizer.schedule': names})
  kind = section['schedule']
  if kind == 'cosine':
    cosine = optax.cosine_decay_schedule(
      peak, steps, alpha=section['final_fraction']
    )
    return lambda count: cosine(count + 1)
  if kind == 'drops':
    share = inside(0, 1, 'shares of the training')
    require({'optimizer': section}, {'optimizer.drops': each(share)})
    factor = section['drop_factor']
    falls = {int(share * steps): factor for share in section['drops']}
    return optax.piecewise_constant_schedule(peak, falls)
  if kind == 'inverse_sqrt':
    require({'optimizer': section}, {'optimizer.warmup_steps': at_least(1)})
    return inverse_sqrt(peak, section['warmup_steps'])
  if kind == 'exponential':
    own = {'optimizer.decay': above(0), 'optimizer.decay_steps': at_least(1)}
    require({'optimizer': section}, own)
    return optax.exponential_decay(
      peak, section['decay_steps'], section['decay'], staircase=True
    )
  return peak


def inverse_sqrt(peak: float, warmup: int) -> optax.Schedule:
  """Linear to `peak` at update `warmup`, then peak √(warmup / update).

  Updates count from 1, so that the first is not lost.
  """

  def rate(count):
    update = jnp.asarray(count, jnp.float32) + 1
    return peak * jnp.minimum(update / warmup, jnp.sqrt(warmup / update))

  return rate
