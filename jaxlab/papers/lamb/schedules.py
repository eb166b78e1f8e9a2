"""The learning rate of You et al. 2020: linear warm-up, polynomial decay.

The citation is in method.py. The paper's rates are linear (power 1); its
reference code counts the decay from step 0, which drops the rate where the
warm-up ends (at the batch of 32,768, with 1/5 of the steps warm-up, from 5e-3
to 4e-3). The authors' later ResNet-50 code counts it from there: no drop.
"""

import math

import jax.numpy as jnp
import optax


def warmup_polynomial(
  peak: float,
  warmup: float,
  total: float,
  power: float = 1.0,
  jump: bool = True,
  start: float = 0,
) -> optax.Schedule:
  """Linear warm-up to `peak`, then polynomial decay to 0 at step `total`.

  At step t, the number of completed updates (the first update sees 0),

    t < start + warmup:  η(t) = peak max(t - start, 0) / warmup
    later, jump:         η(t) = peak (1 - t / total)^power
    later, no jump:      η(t) = peak ((total - t) / (total - end))^power
    t >= total:          η(t) = 0

  with end = max(start + warmup, 0), the first step of the decay. With start 0,
  as in the reference code, the first update has rate 0; start=-1 gives it
  peak / warmup. A start further below 0 enters the warm-up when it is partly
  or wholly done; `total` still counts from step 0. The paper's mixed-batch
  run warms up twice: give its second stage a schedule of its own.

  Departs from the paper: no source combines start with the jump-free decay;
  here it begins at `peak` whatever the start.

  Args:
    peak: rate at the end of the warm-up, >= 0.
    warmup: steps, 0 <= warmup <= total.
    total: steps, > 0: the updates of the run.
    power: of the decay, >= 0; the paper's is 1.
    jump: count the decay from step 0 (reference code) or from the warm-up's
      end.
    start: step at which the warm-up begins; usually 0 or negative.

  Returns:
    A schedule: () int32 step -> () float rate.

  Raises:
    ValueError: an argument is out of range.
  """
  _check('peak', peak, 0 <= peak < math.inf, 'a finite number >= 0')
  _check('total', total, 0 < total < math.inf, 'a finite number of steps > 0')
  _check(
    'warmup', warmup, 0 <= warmup <= total, f'steps in 0 … total ({total})'
  )
  _check('power', power, 0 <= power < math.inf, 'a finite number >= 0')
  _check(
    'start',
    start,
    -math.inf < start <= total - warmup,
    f'a finite step <= total - warmup ({total - warmup}), so that the warm-up '
    'ends',
  )
  end = max(start + warmup, 0)
  # A run that is all warm-up has no decay, and nothing to divide by.
  length = total if jump else (total - end) or 1

  def schedule(count):
    step = jnp.asarray(count, float)
    rising = jnp.maximum(step - start, 0) / (warmup or 1)
    falling = jnp.maximum(total - step, 0) / length
    rate = jnp.where(step < start + warmup, rising, falling**power)
    return jnp.where(step < total, peak * rate, 0.0)

  return schedule


def _check(name, value, holds, cure):
  if not holds:
    raise ValueError(f'{name} is {value!r}; give {cure}')
