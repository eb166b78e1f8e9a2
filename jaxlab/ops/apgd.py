"""APGD: gradient ascent that halves its own step size.

F. Croce, M. Hein. Reliable evaluation of adversarial robustness with an
ensemble of diverse parameter-free attacks. ICML 2020, algorithm 1.

  z        = P(x_k + eta sign(gradient))
  x_{k+1}  = P(x_k + a (z - x_k) + (1 - a) (x_k - x_{k-1}))

with a = .75 (1 at the first step), eta = 2 epsilon at first. At checkpoints,
the first after 22 % of the steps and then after intervals that shrink by 3 %
down to 6 %, eta is halved and x goes back to the best image if

  1. at most rho of the steps since the last checkpoint raised the objective, or
  2. eta was not halved at the last checkpoint and the best value is the same.

`apgd` takes any objective, a detector's score for instance; `apgd_ce`,
`apgd_dlr` and `apgd_targeted` attack classifiers.

Departs from the paper: condition 1 counts "at most", as the authors' code does
and not "less than". Unlike that code, the first step is compared with the
start and not with 0.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxlab.ops.attack_loop import Bound, Steps, repeat
from jaxlab.ops.attack_objectives import (
  LogitsFn,
  Objective,
  checked_logits,
  nats,
  ratios,
  targeted_ratios,
  wrong,
)
from jaxlab.ops.attack_steps import (
  Attack,
  Ball,
  Best,
  Evaluate,
  along,
  check_count,
  gradient_of,
  make_ball,
  no_success,
  values_of,
)

_INERTIA = 0.75


def apgd(
  objective: Objective,
  *,
  epsilon: float,
  steps: int = 100,
  norm: str = 'linf',
  restarts: int = 1,
  rho: float = 0.75,
  success: Callable[..., jax.Array] | None = None,
  unroll: bool | None = None,
) -> Attack:
  """Auto-PGD on any objective.

  Args:
    objective: (images, *args) -> [b], to be maximised.
    epsilon: radius of the ball, in units of [0, 1].
    steps: of one run.
    norm: 'linf' or 'l2'.
    restarts: runs, each from its own random start.
    rho: share of rising steps below which the step size is halved, in (0, 1).
    success: (images, *args) -> [b] bool; of the images seen, one that it holds
      for comes before all for which it does not.
    unroll: a Python loop over one compiled step instead of `lax.fori_loop`;
      default: on the CPU.

  Returns:
    attack(key, images, ids, *args) -> the image of the largest objective seen.

  Raises:
    ValueError: a budget or a rho outside of its range, an unknown norm, steps
      or restarts below 1.
  """
  evaluate = no_success(objective)
  if success is not None:

    def evaluate(images, *args):
      return values_of(objective, images, args), success(images, *args)

  return _bound('apgd', evaluate, epsilon, steps, norm, restarts, rho, unroll)


def apgd_ce(logits_fn: LogitsFn, *, epsilon: float, **options: Any) -> Attack:
  """Auto-PGD on the cross-entropy: attack(key, images, ids, labels, *rest).

  The image is a misclassified one wherever one was seen. Options, returns and
  raises: see `apgd`.
  """
  return _classifier('apgd_ce', nats, logits_fn, epsilon, **options)


def apgd_dlr(logits_fn: LogitsFn, *, epsilon: float, **options: Any) -> Attack:
  """Auto-PGD on the difference of logits ratio; three classes or more.

  See `apgd_ce`.
  """
  return _classifier('apgd_dlr', ratios, logits_fn, epsilon, **options)


def apgd_targeted(
  logits_fn: LogitsFn,
  *,
  epsilon: float,
  targets: int = 9,
  steps: int = 100,
  norm: str = 'linf',
  restarts: int = 1,
  rho: float = 0.75,
  unroll: bool | None = None,
) -> Attack:
  """Auto-PGD on the targeted DLR, towards one class after the other.

  The classes are those with the largest logits at the clean image, the label
  left out. See `apgd_ce`.

  Args:
    targets: how many classes; all of them where there are fewer.

  Raises:
    ValueError: see `apgd`; while tracing, fewer than four classes.
  """
  check_count('apgd_targeted', targets=targets, restarts=restarts)

  def evaluate(images, labels, aim, *rest):
    logits = checked_logits(logits_fn(images, *rest), labels)
    return targeted_ratios(logits, labels, aim), wrong(logits, labels)

  one, ball = _one('apgd_targeted', evaluate, epsilon, steps, norm, rho)

  @jax.jit
  def aims(images, labels, *rest):
    logits = checked_logits(logits_fn(images, *rest), labels)
    own = jax.nn.one_hot(labels, logits.shape[1], dtype=bool)
    count = min(targets, logits.shape[1] - 1)
    return lax.top_k(jnp.where(own, -jnp.inf, logits), count)[1].T

  def run(unrolled, key, images, ids, args):
    labels, *rest = args
    classes = aims(images, labels, *rest)

    def body(best, r):
      aim = lax.dynamic_index_in_dim(classes, r % len(classes), keepdims=False)
      args = (labels, aim, *rest)
      return one(unrolled, best, r, key, images, ids, args)

    count = restarts * len(classes)
    return repeat(body, count, Best.none(images), unrolled).image

  def look(images, args):
    return checked_logits(logits_fn(images, *args[1:]), args[0])

  count = targets * restarts * steps
  return Bound('apgd_targeted', run, ball, count, unroll, look)


class _Carry(NamedTuple):
  x: jax.Array  # [b, …]
  old: jax.Array  # the x before it
  gradient: jax.Array  # at x
  value: jax.Array  # [b], at the last image that was looked at
  size: jax.Array  # [b], step size
  rises: jax.Array  # [b] int32, steps that raised the value, this interval
  halved: jax.Array  # [b] bool, at the last checkpoint
  checked: jax.Array  # [b], the best value at the last checkpoint
  top: jax.Array  # [b, …], of the largest value in this run
  top_value: jax.Array
  top_gradient: jax.Array
  best: Best  # of all runs


def _classifier(
  name: str,
  criterion: Callable[..., jax.Array],
  logits_fn: LogitsFn,
  epsilon: float,
  *,
  steps: int = 100,
  norm: str = 'linf',
  restarts: int = 1,
  rho: float = 0.75,
  unroll: bool | None = None,
) -> Attack:
  def evaluate(images, labels, *rest):
    logits = checked_logits(logits_fn(images, *rest), labels)
    return criterion(logits, labels), wrong(logits, labels)

  return _bound(name, evaluate, epsilon, steps, norm, restarts, rho, unroll)


def _bound(name, evaluate, epsilon, steps, norm, restarts, rho, unroll):
  check_count(name, restarts=restarts)
  one, ball = _one(name, evaluate, epsilon, steps, norm, rho)

  def run(unrolled, key, images, ids, args):
    def body(best, r):
      return one(unrolled, best, r, key, images, ids, args)

    return repeat(body, restarts, Best.none(images), unrolled).image

  look = lambda images, args: evaluate(images, *args)
  return Bound(name, run, ball, steps * restarts, unroll, look)


def _one(name, evaluate: Evaluate, epsilon, steps, norm, rho):
  """(one run from a random start: Best -> Best, the ball)."""
  check_count(name, steps=steps)
  ball = make_ball(name, norm, epsilon)
  if not 0 < rho < 1:
    raise ValueError(f'{name}: rho must be in (0, 1), got {rho}')
  plan = checkpoints(steps)
  ends = np.array([end for end, _ in plan])
  lengths = np.array([length for _, length in plan], np.float32)

  @jax.jit
  def draw(r, key, images, ids):
    box = ball.box(images)
    key = jax.random.fold_in(key, r)
    x = images + ball.surface(key, ids, images.shape[1:])
    return box, ball.project(images, box, x)

  @jax.jit
  def begin(best, x, images, args):
    value, success, gradient = gradient_of(evaluate, x, args)
    good = jnp.isfinite(value)
    top_value = jnp.where(good, value, -jnp.inf)
    return _Carry(
      x=x,
      old=x,
      gradient=gradient,
      value=value,
      size=jnp.full(len(x), 2 * ball.epsilon, jnp.float32),
      rises=jnp.zeros(len(x), jnp.int32),
      halved=jnp.ones(len(x), bool),
      checked=top_value,
      top=jnp.where(along(good, x), x, images),
      top_value=top_value,
      top_gradient=gradient,
      best=best.adopt(x, value, success),
    )

  def step(carry, i, images, box, args):
    carry = _move(ball, evaluate, carry, i, images, box, args)
    end = jnp.asarray(ends)[i]
    return _checkpoint(carry, end, rho * jnp.asarray(lengths)[i])

  loop = Steps(step)

  def one(unrolled, best, r, key, images, ids, args):
    box, x = draw(r, key, images, ids)
    carry = begin(best, x, images, args)
    fixed = (images, box, args)
    return loop.run(carry, steps, *fixed, unrolled=unrolled).best

  return one, ball


def _move(ball: Ball, evaluate, carry: _Carry, i, images, box, args) -> _Carry:
  """One step and what it found."""
  x, inertia = carry.x, jnp.where(i > 0, _INERTIA, 1.0)
  size = along(carry.size, x)
  z = ball.project(images, box, x + size * ball.direction(carry.gradient))
  y = x + inertia * (z - x) + (1 - inertia) * (x - carry.old)
  y = ball.project(images, box, y)
  value, success, gradient = gradient_of(evaluate, y, args)
  better = (value > carry.top_value) & jnp.isfinite(value)
  wide = along(better, x)
  return carry._replace(
    x=y,
    old=x,
    gradient=gradient,
    value=value,
    rises=carry.rises + (value > carry.value),
    top=jnp.where(wide, y, carry.top),
    top_value=jnp.where(better, value, carry.top_value),
    top_gradient=jnp.where(wide, gradient, carry.top_gradient),
    best=carry.best.adopt(y, value, success),
  )


def _checkpoint(carry: _Carry, end, needed) -> _Carry:
  """Halves the step size of the rows that need it, where `end` is True."""
  stuck = ~carry.halved & (carry.checked >= carry.top_value)
  halve = end & ((carry.rises <= needed) | stuck)
  wide = along(halve, carry.x)
  return carry._replace(
    x=jnp.where(wide, carry.top, carry.x),
    gradient=jnp.where(wide, carry.top_gradient, carry.gradient),
    size=jnp.where(halve, carry.size / 2, carry.size),
    rises=jnp.where(end, 0, carry.rises),
    halved=jnp.where(end, halve, carry.halved),
    checked=jnp.where(end, carry.top_value, carry.checked),
  )


def checkpoints(steps: int) -> list[tuple[bool, int]]:
  """For each step: whether it ends an interval, and that interval's length.

  >>> [i + 1 for i, (end, _) in enumerate(checkpoints(100)) if end]
  [22, 41, 57, 70, 80, 87, 93, 99]
  """
  length = max(int(0.22 * steps), 1)
  least, shrink = max(int(0.06 * steps), 1), max(int(0.03 * steps), 1)
  plan, done = [], 0
  for _ in range(steps):
    done += 1
    plan.append((done == length, length))
    if done == length:
      done, length = 0, max(length - shrink, least)
  return plan
