"""Attacks on images: the smallest harm that does the most.

Every attack is made from an objective (`attack_objectives.py`) or a classifier
and then called as `attack(key, images, ids, *args)`, jitted or not:

  attack = pgd(cross_entropy(logits_fn), epsilon=8 / 255, steps=20)
  adversarial = attack(key, images, ids, labels, params)

  fgsm, pgd, mim                              here
  apgd, apgd_ce, apgd_dlr, apgd_targeted      apgd.py
  cw_l2, deepfool                             minimal_norm.py
  square                                      square.py
  autoattack_standard                         autoattack.py
  in_chunks                                   attack_loop.py

Budgets are in units of [0, 1]. The image that comes back is the one of the
largest objective seen over all steps and restarts; one whose objective is not
finite is never adopted. It is in [0, 1] and in the ball exactly, after float32
rounding.

Source: I. Goodfellow, J. Shlens, C. Szegedy. Explaining and Harnessing
Adversarial Examples. ICLR 2015 (FGSM). A. Madry et al. Towards Deep Learning
Models Resistant to Adversarial Attacks. ICLR 2018 (PGD). Y. Dong et al.
Boosting Adversarial Attacks with Momentum. CVPR 2018 (MIM).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxlab.ops.apgd import apgd, apgd_ce, apgd_dlr, apgd_targeted
from jaxlab.ops.attack_loop import Bound, Steps, in_chunks, repeat
from jaxlab.ops.attack_objectives import Objective
from jaxlab.ops.attack_steps import (
  Attack,
  Ball,
  Best,
  check_count,
  check_positive,
  gradient_of,
  make_ball,
  no_success,
  values_of,
)
from jaxlab.ops.autoattack import autoattack_standard
from jaxlab.ops.minimal_norm import cw_l2, deepfool
from jaxlab.ops.square import square

__all__ = [
  'Attack',
  'apgd',
  'apgd_ce',
  'apgd_dlr',
  'apgd_targeted',
  'autoattack_standard',
  'cw_l2',
  'deepfool',
  'fgsm',
  'in_chunks',
  'mim',
  'pgd',
  'square',
]

_KEEP = ('best', 'last')


def fgsm(objective: Objective, *, epsilon: float, norm: str = 'linf') -> Attack:
  """One step of length epsilon along the gradient's sign (its unit vector).

  The image is returned without another look at the objective, as in training;
  a gradient that is not finite counts as 0.

  Raises:
    ValueError: a budget outside of its range, an unknown norm.

  Source: Goodfellow et al. 2015, section 4.
  """
  return _ascent(
    'fgsm',
    objective,
    make_ball('fgsm', norm, epsilon),
    _Plan(1, epsilon, False, 1, 'last', None),
    unroll=True,
  )


def pgd(
  objective: Objective,
  *,
  epsilon: float,
  steps: int = 10,
  norm: str = 'linf',
  step_size: float | None = None,
  random_start: bool = True,
  restarts: int = 1,
  keep: str = 'best',
  unroll: bool | None = None,
) -> Attack:
  """Projected gradient ascent.

  x <- P(x + step_size * sign(gradient)), for L2 with the unit vector instead.

  Args:
    objective: (images, *args) -> [b], to be maximised.
    epsilon: radius of the ball, in units of [0, 1].
    steps: gradients of one run; the objective of the last image takes one more
      forward pass.
    norm: 'linf' or 'l2'.
    step_size: default 2.5 epsilon / steps.
    random_start: begin anywhere in the ball, evenly; else at the images.
    restarts: runs, each with its own start.
    keep: 'best' image of all seen, or the 'last', which saves that forward
      pass in training. Nobody looks at the last one's objective.
    unroll: a Python loop over one compiled step instead of `lax.fori_loop`;
      default: on the CPU.

  Returns:
    attack(key, images [b, …] float32 in [0, 1], ids [b] int, *args) -> images.

  Raises:
    ValueError: a budget outside of its range, an unknown norm or `keep`, steps
      or restarts below 1, restarts of which only the last would be kept.

  Source: Madry et al. 2018, section 2.1.
  """
  check_count('pgd', steps=steps, restarts=restarts)
  ball = make_ball('pgd', norm, epsilon)
  if step_size is None:
    step_size = 2.5 * ball.epsilon / steps or 1.0
  plan = _Plan(steps, step_size, random_start, restarts, keep, None)
  return _ascent('pgd', objective, ball, plan, unroll)


def mim(
  objective: Objective,
  *,
  epsilon: float,
  steps: int = 10,
  norm: str = 'linf',
  step_size: float | None = None,
  decay: float = 1.0,
  random_start: bool = False,
  restarts: int = 1,
  keep: str = 'best',
  unroll: bool | None = None,
) -> Attack:
  """Gradient ascent with momentum, the attack that transfers.

  m <- decay m + gradient / |gradient|_1, then a step along m as in `pgd`.

  Args:
    step_size: default epsilon / steps.
    decay: of the momentum, >= 0; 0 is `pgd` with another step size.

  Further arguments, returns and raises: see `pgd`.

  Source: Dong et al. 2018, algorithm 1 (linf) and eq. 8 (l2).
  """
  check_count('mim', steps=steps, restarts=restarts)
  ball = make_ball('mim', norm, epsilon)
  if not 0 <= decay < float('inf'):
    raise ValueError(f'mim: decay must be a number >= 0, got {decay}')
  if step_size is None:
    step_size = ball.epsilon / steps or 1.0
  plan = _Plan(steps, step_size, random_start, restarts, keep, decay)
  return _ascent('mim', objective, ball, plan, unroll)


class _Plan(NamedTuple):
  steps: int
  step_size: float
  random_start: bool
  restarts: int
  keep: str
  decay: float | None  # of the momentum, if any


class _Carry(NamedTuple):
  x: jax.Array
  momentum: Any  # like x, or None
  best: Any  # Best, or None where the last image is kept


def _ascent(name: str, objective, ball: Ball, plan: _Plan, unroll) -> Attack:
  evaluate = no_success(objective)
  last = plan.keep == 'last'
  if plan.keep not in _KEEP:
    raise ValueError(f'{name}: keep {plan.keep!r} is none of {_KEEP}')
  if last and plan.restarts > 1:
    raise ValueError(
      f"{name}: of {plan.restarts} restarts keep='last' would return the last "
      "one alone; use keep='best'"
    )
  if ball.epsilon:
    check_positive(name, step_size=plan.step_size)

  @jax.jit
  def begin(run, key, images, ids):
    box = ball.box(images)
    if not plan.random_start:
      return box, images
    key = jax.random.fold_in(key, run)
    x = images + ball.inside(key, ids, images.shape[1:])
    return box, ball.project(images, box, x)

  def step(carry, i, images, box, args):
    value, success, gradient = gradient_of(evaluate, carry.x, args)
    best = carry.best
    if best is not None:
      best = best.adopt(carry.x, value, success)
    momentum = None
    if plan.decay is not None:
      gradient = plan.decay * carry.momentum + _unit_l1(gradient)
      momentum = gradient
    x = carry.x + plan.step_size * ball.direction(gradient)
    return _Carry(ball.project(images, box, x), momentum, best)

  @jax.jit
  def finish(carry, args):
    value = values_of(objective, carry.x, args)
    return carry.best.adopt(carry.x, value, carry.best.success)

  steps = Steps(step)

  def run(unrolled, key, images, ids, args):
    def one(best, r):
      box, x = begin(r, key, images, ids)
      momentum = None if plan.decay is None else jnp.zeros_like(images)
      carry = _Carry(x, momentum, best)
      fixed = (images, box, args)
      carry = steps.run(carry, plan.steps, *fixed, unrolled=unrolled)
      return carry.x if last else finish(carry, args)

    if last:
      return one(None, 0)
    best = repeat(one, plan.restarts, Best.none(images), unrolled)
    return best.image

  look = lambda images, args: objective(images, *args)
  count = plan.steps * plan.restarts
  return Bound(name, run, ball, count, unroll, look)


def _unit_l1(gradient):
  axes = tuple(range(1, gradient.ndim))
  total = abs(gradient).sum(axes, keepdims=True)
  return gradient / jnp.maximum(total, 1e-30)
