"""The losses that a study compares: from a config's numbers to functions."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlab.core.errors import InputError
from jaxlab.core.require import filled, one_of, require
from jaxlab.papers.encouraging.method import (
  deferred,
  effective_number_weights,
  encouraging_loss,
  rising,
)

Config = Mapping[str, Any]
# (logits [..., K], labels [...], mask [...], updates done ()) -> [...]
ArmLoss = Callable[[jax.Array, jax.Array, jax.Array, jax.Array], jax.Array]

NUMBERS = (
  'bonus',
  'bonus_scale',
  'log_end',
  'threshold',
  'gamma',
  'softness',
  'label_smoothing',
)
WEIGHTS = ('none', 'effective_number')
_WITH_END = ('normal', 'conservative')


def check(config: Config, counts: np.ndarray | None = None) -> None:
  """Raises InputError where a loss of `config.losses` cannot be.

  Args:
    counts: as of `loss_of`.
  """
  require(config, {'losses': filled('give at least one loss')})
  for arm in config['losses']:
    loss_of(config, arm, counts)


def loss_of(
  config: Config, arm: str, counts: Sequence[int] | np.ndarray | None = None
) -> ArmLoss:
  """The loss `config.losses.ARM` of each example.

  Its numbers are those of `encouraging_loss`, `clamp_eps` 0 being None, and

    schedule, schedule_of, schedule_steps  'constant', 'deferred' (0 for so many
      updates, then all) or a shape of `rising`, of 'bonus_scale' or 'log_end'
    bonus_weights   'effective_number': of the bonus of each class
    weights, weights_start   of the whole loss, bonus and all, from an update
      on: class-balanced from 0, deferred re-weighting later. Scaled to a mean
      of 1 over the training examples, so that the rate means the same

  Args:
    counts: [K] training examples of each class, for weights.

  Raises:
    InputError: a number that cannot be.
  """
  c, key = config['losses'][arm], f'losses.{arm}'
  known = one_of(*WEIGHTS)
  if counts is None:
    known = one_of('none', cure='this job does not count classes')
  what = one_of('bonus_scale', 'log_end')
  if c['schedule'] != 'constant' and c['bonus'] not in _WITH_END:
    what = one_of('bonus_scale', cure=f'bonus "{c["bonus"]}" has no log_end')
  require(
    config,
    {
      f'{key}.bonus_weights': known,
      f'{key}.weights': known,
      f'{key}.schedule_of': what,
    },
  )
  numbers = {name: c[name] for name in NUMBERS}
  try:
    scheduled = _schedule(c)
    of_bonus = of_all = None
    weighs = {c['bonus_weights'], c['weights']} != {'none'}
    if counts is not None and weighs:
      weights = effective_number_weights(counts)
      if c['bonus_weights'] != 'none':
        of_bonus = jnp.asarray(weights)
      if c['weights'] != 'none':
        of_all = jnp.asarray(weights / np.average(weights, weights=counts))
    call = partial(
      encouraging_loss,
      clamp_eps=c['clamp_eps'] or None,
      class_weights=of_bonus,
    )
    # Numbers are checked here, not at the first step.
    call(
      jnp.zeros((1, 2 if counts is None else len(counts))),
      jnp.zeros(1, jnp.int32),
      **numbers,
    )
  except ValueError as error:
    raise InputError(f'config.{key}: {error}') from error

  def loss(logits, labels, mask, step):
    now = dict(numbers)
    if scheduled is not None:
      now[c['schedule_of']] = numbers[c['schedule_of']] * scheduled(step)
    found = call(logits, labels, mask=mask, **now)
    if of_all is None:
      return found
    weight = of_all[jnp.where(mask, labels, 0)]
    return found * jnp.where(step >= c['weights_start'], weight, 1.0)

  return loss


def _schedule(c: Mapping[str, Any]):
  if c['schedule'] == 'constant':
    return None
  if c['schedule'] == 'deferred':
    return deferred(c['schedule_steps'])
  return rising(c['schedule'], c['schedule_steps'])
