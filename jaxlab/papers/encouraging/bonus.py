"""Bonuses on the probability of the label, as functions of its log-odds.

With p = sigmoid(z), rest = 1 - p = sigmoid(-z):

  bonus         b(p)                                c(p)
  normal        log(1 - p)                          1 / (1 - p)
  conservative  the same up to e = log_end (.75),   the same,
                then its tangent there              then 1 + p / (1 - e)
  aggressive    log(1 - p) - log(1 - s) from s on   1, from s on 1 / (1 - p)
  power         -p^gamma                            1 + gamma p^gamma
  cosine        cos(pi p) - 1                       1 + pi p sin(pi p)
  soft          log(1 - r p)                        1 + r p / (1 - r p)
  abrupt        log(1 - p) up to s, then 0          1 / (1 - p), then 1

c is the size of the gradient to that of cross-entropy. It enters only as
g = c(p)(1 - p), which is finite where c is not. The scale rho takes b to rho b
and c to 1 + rho (c - 1).
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

BONUSES = (
  'normal',
  'conservative',
  'aggressive',
  'power',
  'cosine',
  'soft',
  'abrupt',
)
LOG_END = 0.75  # of 'conservative', as in the official code
Scalar = float | jax.Array
Schedule = Callable[[Any], jax.Array]  # completed updates -> ()


class Bonus(NamedTuple):
  """A bonus and its numbers; scale and log_end may be arrays (schedules)."""

  kind: str = 'normal'
  scale: Scalar = 1.0
  log_end: Scalar = 1.0
  threshold: float = 0.5  # s
  gamma: float = 1.0
  softness: float = 0.5  # r
  clamp_eps: float = 0.0


def make_bonus(
  *,
  bonus: str = 'conservative',
  bonus_scale: Scalar = 1.0,
  log_end: Scalar | None = None,
  threshold: float = 0.5,
  gamma: float = 1.0,
  softness: float = 0.5,
  clamp_eps: float | None = None,
) -> Bonus:
  """The bonus of these numbers, when they are in their ranges.

  Args:
    log_end: None: .75 for 'conservative', 1 for others.

  Raises:
    ValueError: with the name of what is not, its value and its range.
  """
  if bonus not in BONUSES:
    raise ValueError(f'bonus="{bonus}" is not one of {", ".join(BONUSES)}')
  if log_end is None:
    log_end = LOG_END if bonus == 'conservative' else 1.0
  for name, value, fits, what in (
    ('bonus_scale', bonus_scale, lambda x: x >= 0, '>= 0'),
    ('log_end', log_end, lambda x: 0 <= x <= 1, 'in [0, 1]'),
    ('threshold', threshold, lambda x: 0 < x < 1, 'in (0, 1)'),
    ('gamma', gamma, lambda x: x > 0, '> 0'),
    ('softness', softness, lambda x: 0 <= x < 1, 'in [0, 1)'),
    ('clamp_eps', clamp_eps or 0.0, lambda x: 0 <= x < 1, 'in [0, 1)'),
  ):
    # float, as a constant compared within `jit` would be traced.
    if not isinstance(value, jax.core.Tracer) and not fits(float(value)):
      raise ValueError(f'{name}={value} must be {what}')
  ends = isinstance(log_end, jax.core.Tracer) or float(log_end) != 1
  if ends and bonus not in ('normal', 'conservative'):
    raise ValueError(
      f'log_end={log_end} has no meaning for bonus="{bonus}"; leave it at 1'
    )
  eps = clamp_eps or 0.0
  return Bonus(bonus, bonus_scale, log_end, threshold, gamma, softness, eps)


def gradient_weight(p: jax.Array, **bonus: Any) -> jax.Array:
  """c(p): the gradient's size to that of cross-entropy.

  Args:
    p: probabilities of the label in [0, 1].
    **bonus: as in `make_bonus`.

  Returns:
    The same shape, >= 1; infinite where it has no bound and p = 1.
  """
  spec, p = make_bonus(**bonus), jnp.asarray(p)
  whole, bounded = _weight(spec, p, 1 - p)
  found = jnp.where(whole, 1 / (1 - p), bounded)
  return jnp.where(spec.scale == 0, 1.0, 1 + spec.scale * (found - 1))


def bonus_of(p: jax.Array, **bonus: Any) -> jax.Array:
  """rho b(p), as `encouraging_loss` adds it; -inf where it has no bound."""
  p = jnp.asarray(p)
  return _bonus(make_bonus(**bonus), p, 1 - p, jnp.log1p(-p))


def deferred(start: int) -> Schedule:
  """A scale of 0 for `start` updates, then 1: cross-entropy first."""
  if start < 0:
    raise ValueError(f'start={start} must be >= 0')
  return lambda step: jnp.where(step >= start, 1.0, 0.0)


def rising(shape: str, steps: int, rate: float = 5.0) -> Schedule:
  """A scale (or a log_end) that rises to 1 at `steps` updates and stays.

  With x = updates / steps: 'linear' x; 'exponential' exp(rate (x - 1));
  'saturating' 1 - exp(-rate x), which ends below 1; 'cosine'
  (1 - cos(pi x)) / 2.

  Raises:
    ValueError: another shape, no steps, or a rate that is not positive.
  """
  shapes = {
    'linear': lambda x: x,
    'exponential': lambda x: jnp.exp(rate * (x - 1)),
    'saturating': lambda x: 1 - jnp.exp(-rate * x),
    'cosine': lambda x: (1 - jnp.cos(jnp.pi * x)) / 2,
  }
  if shape not in shapes:
    raise ValueError(f'shape="{shape}" is not one of {", ".join(shapes)}')
  if steps < 1 or rate <= 0:
    raise ValueError(f'steps={steps} must be >= 1, and rate={rate} > 0')
  return lambda step: shapes[shape](jnp.minimum(step / steps, 1.0))


def effective_number_weights(
  counts: Sequence[int] | np.ndarray, beta: float = 0.9999
) -> np.ndarray:
  """Weights of classes by their effective numbers of examples.

  (1 - beta) / (1 - beta^n), scaled so that they sum to K.
  Source: Cui et al., arXiv 1901.05555, equation 6.

  Args:
    counts: [K] examples of each class, >= 1.
    beta: in [0, 1).

  Returns:
    [K] float32.

  Raises:
    ValueError: a class without examples, or a beta outside of its range.
  """
  counts = np.asarray(counts, np.float64)
  if counts.ndim != 1 or not counts.size or not (counts >= 1).all():
    raise ValueError(
      f'counts={counts.tolist()} must be one count >= 1 for each class'
    )
  if not 0 <= beta < 1:
    raise ValueError(f'beta={beta} must be in [0, 1)')
  weights = (1 - beta) / (1 - beta**counts)
  return (weights * len(weights) / weights.sum()).astype(np.float32)


def nats(spec: Bonus, odds: jax.Array) -> jax.Array:
  """-log p + rho b of log-odds [...], with the slope -g.

  Its derivatives by rho and log_end are those of rho b.
  """
  # One exponential, of what cannot overflow, gives all four. (abs would have
  # no slope at 0, where second derivatives want one.)
  small = jnp.exp(jnp.where(odds > 0, -odds, odds))
  p = jnp.where(odds > 0, 1, small) / (1 + small)
  rest = jnp.where(odds > 0, small, 1) / (1 + small)
  log_p = jnp.minimum(odds, 0) - jnp.log1p(small)
  log_rest = jnp.minimum(-odds, 0) - jnp.log1p(small)
  whole, bounded = _weight(spec, p, rest)
  pull = jnp.where(whole, 1, rest * bounded)
  pull = rest + spec.scale * (pull - rest)
  fixed = jax.lax.stop_gradient((p, rest, log_rest, log_p))
  value = _bonus(spec, *fixed[:3]) - fixed[3]
  return _with_slope(value, odds, -pull)


def _bonus(spec: Bonus, p, rest, log_rest) -> jax.Array:
  """rho b; rest = 1 - p is given with all of its digits."""
  if spec.clamp_eps:
    log_rest = jnp.maximum(log_rest, np.log(spec.clamp_eps))
  if spec.kind in ('normal', 'conservative'):
    room = _room(spec)
    # (p - log_end) / room is 1 - rest / room.
    found = jnp.where(
      rest < 1 - spec.log_end, jnp.log(room) - 1 + rest / room, log_rest
    )
  elif spec.kind == 'aggressive':
    s = spec.threshold
    found = jnp.where(p >= s, log_rest - np.log1p(-s), 0.0)
  elif spec.kind == 'power':
    found = -(p**spec.gamma)
  elif spec.kind == 'cosine':
    found = jnp.cos(jnp.pi * p) - 1
  elif spec.kind == 'soft':
    found = jnp.log1p(-spec.softness * p)
  else:  # abrupt
    found = jnp.where(p <= spec.threshold, log_rest, 0.0)
  # Without a bonus an infinite one must not become 0 · inf.
  return jnp.where(spec.scale == 0, 0.0, spec.scale * found)


def _weight(spec: Bonus, p, rest) -> tuple[Any, Any]:
  """(where c is 1 / (1 - p), c everywhere else), at a scale of 1."""
  kept = rest >= spec.clamp_eps  # no gradient goes through what is clamped
  if spec.kind in ('normal', 'conservative'):
    beyond = rest < 1 - spec.log_end
    return kept & ~beyond, jnp.where(beyond, 1 + p / _room(spec), 1.0)
  if spec.kind == 'aggressive':
    return kept & (p >= spec.threshold), 1.0
  if spec.kind == 'power':
    return False, 1 + spec.gamma * p**spec.gamma
  if spec.kind == 'cosine':
    return False, 1 + jnp.pi * p * jnp.sin(jnp.pi * p)
  if spec.kind == 'soft':
    return False, 1 + spec.softness * p / (1 - spec.softness * p)
  return kept & (p <= spec.threshold), 1.0  # abrupt


def _room(spec: Bonus) -> Scalar:
  """1 - log_end; 1 where that is 0 and the tangent is never taken."""
  room = 1 - spec.log_end
  return jnp.where(room > 0, room, 1.0)


@jax.custom_jvp
def _with_slope(value, odds, slope):
  """The value, whose derivative by `odds` is `slope`; `value` is made of the
  numbers of the bonus alone, as far as derivatives go."""
  del odds, slope
  return value


@_with_slope.defjvp
def _with_slope_jvp(primals, tangents):
  value, odds, slope = primals
  moved = tangents[0] + slope * tangents[1]
  return _with_slope(value, odds, slope), moved
