"""The encouraging loss: cross-entropy that keeps rewarding easy examples.

Source: Zhao et al., "Well-classified Examples are Underestimated in
Classification with Deep Neural Networks", AAAI 2022, arXiv 2110.06537.

To cross-entropy -log p_y every variant adds a bonus b(p_y) <= 0 (bonus.py). Its
gradient is cross-entropy's times a weight: dL/df = c(p_y) (p - onehot_y). With
the log-odds z = f_y - LSE_{k != y}(f_k) (odds.py) all are functions of z alone;
the normal one is -z, exactly.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlab.papers.encouraging import odds as log_odds
from jaxlab.papers.encouraging.bonus import (
  Scalar,
  bonus_of,
  deferred,
  effective_number_weights,
  gradient_weight,
  make_bonus,
  nats,
  rising,
)
from jaxlab.papers.encouraging.odds import (
  arrays,
  first_wrong,
  is_class,
  is_label,
  masked,
  promote_to_float32,
  soft_targets,
)

__all__ = [
  'binary_encouraging',
  'bonus_of',
  'deferred',
  'effective_number_weights',
  'encouraging_loss',
  'gradient_weight',
  'halted_focal',
  'mirror_mse',
  'rising',
]


def encouraging_loss(
  logits: jax.Array,
  labels: jax.Array,
  *,
  log_end: Scalar | None = None,
  bonus: str = 'conservative',
  bonus_scale: Scalar = 1.0,
  class_weights: Sequence[float] | jax.Array | None = None,
  label_smoothing: float = 0.0,
  mask: jax.Array | None = None,
  clamp_eps: float | None = None,
  threshold: float = 0.5,
  gamma: float = 1.0,
  softness: float = 0.5,
) -> jax.Array:
  """Cross-entropy plus the bonus of each example.

  With label smoothing e the sum over classes of s_k (b(p_k) - log p_k), where
  s = (1 - e) onehot_y + e / K: the bonus is smoothed too.

  Args:
    logits: [..., K] floating, K >= 2; computed in float32 at least. The class
      axis may be sharded.
    labels: [...] integer in [0, K), anything where the mask is 0; or [..., K]
      floating, shares of classes that sum to 1 (mixup, distillation).
    log_end: in [0, 1], for 'normal' and 'conservative', which are one: the
      probability where log(1 - p) goes on as its tangent; 1 is never, and the
      loss is then unbounded below. None: .75 for 'conservative', as in the
      official code, 1 for 'normal'. It and `bonus_scale` may be traced, so as
      to follow a schedule; gradients to both are those of the formula.
    bonus: one of BONUSES.
    bonus_scale: rho >= 0; 0 is cross-entropy.
    class_weights: [K], >= 0, of the bonus (not of the cross-entropy).
    label_smoothing: in [0, 1).
    mask: [...] bool, True = counts; or weights that the losses are multiplied
      by. Where it is 0 the loss and its gradient are 0, whatever the logits
      are.
    clamp_eps: keeps 1 - p in log(1 - p) at least there, as the official code
      does with 1e-5; its gradient is then cross-entropy's. None: exact, and
      unbounded below.
    threshold: s of 'aggressive' and 'abrupt', in (0, 1).
    gamma: > 0, of 'power'.
    softness: r in [0, 1), of 'soft'.

  Returns:
    [...] float32 (float64 from float64), in nats. NaN where a traced label is
    outside of [0, K). Derivatives in reverse mode alone: `jax.jvp` and
    `jax.jacfwd` raise a TypeError.

  Raises:
    TypeError: labels that are bools, or logits that are not floats.
    ValueError: a number outside of its range, K < 2, shapes that do not fit;
      outside of `jit` also labels outside of [0, K).
  """
  spec = make_bonus(
    bonus=bonus,
    bonus_scale=bonus_scale,
    log_end=log_end,
    threshold=threshold,
    gamma=gamma,
    softness=softness,
    clamp_eps=clamp_eps,
  )
  soft = jnp.issubdtype(jnp.asarray(labels).dtype, jnp.floating)
  fit = soft_targets if soft else arrays
  logits, labels, mask = fit(logits, labels, mask)
  classes = logits.shape[-1]
  if not 0 <= label_smoothing < 1:
    raise ValueError(f'label_smoothing={label_smoothing} is not in [0, 1)')
  weights = _class_weights(class_weights, classes)
  if soft or label_smoothing:
    if weights is not None:
      spec = spec._replace(scale=spec.scale * weights)
    every = nats(spec, log_odds.of_all(logits))
    if soft:
      # A class without a share may have a loss without a bound.
      parts = jnp.where(labels > 0, labels.astype(every.dtype) * every, 0.0)
    else:
      parts = jnp.where(is_label(labels, every), every, 0.0)
    found = (1 - label_smoothing) * parts.sum(-1)
    found = found + label_smoothing * every.mean(-1)
    if not soft:
      found = jnp.where(is_class(labels, classes), found, jnp.nan)
  else:
    if weights is not None:
      spec = spec._replace(
        scale=spec.scale * log_odds.of_class(weights, labels)
      )
    found = nats(spec, log_odds.of_label(logits, labels))
  return masked(found, mask)


def mirror_mse(
  logits: jax.Array,
  labels: jax.Array,
  *,
  gamma: float = 2.0,
  bonus_scale: Scalar = 1.0,
  activation: str = 'softmax',
  mask: jax.Array | None = None,
) -> jax.Array:
  """Squared error with its mirror image as the bonus.

  mean_k [y (1 - p)^2 + (1 - y) p^2] - rho mean_k [y p^g + (1 - y)(1 - p)^g].
  With g = 2 and rho = 1 this is 2 mean_k |p - y| - 1.

  Args:
    logits, labels, mask: as in `encouraging_loss`.
    gamma: g >= 1: below, the slope has no bound.
    bonus_scale: rho >= 0; 0 is the squared error.
    activation: p of the logits: 'softmax' or 'sigmoid'.

  Returns:
    [...] float32.

  Raises:
    TypeError, ValueError: as `encouraging_loss`.
  """
  make_bonus(bonus_scale=bonus_scale)
  if not gamma >= 1:
    raise ValueError(f'gamma={gamma} must be >= 1')
  if activation not in ('softmax', 'sigmoid'):
    raise ValueError(f'activation="{activation}" is not "softmax" or "sigmoid"')
  logits, labels, mask = arrays(logits, labels, mask)
  f = promote_to_float32(logits)
  p = jax.nn.softmax(f) if activation == 'softmax' else jax.nn.sigmoid(f)
  near = jnp.where(is_label(labels, f), p, 1 - p)  # to the target: 1 is right
  found = ((1 - near) ** 2 - bonus_scale * near**gamma).mean(-1)
  found = jnp.where(is_class(labels, f.shape[-1]), found, jnp.nan)
  return masked(found, mask)


def binary_encouraging(
  logits: jax.Array,
  targets: jax.Array,
  *,
  alpha: float | None = None,
  mask: jax.Array | None = None,
  **bonus: Any,
) -> jax.Array:
  """The encouraging loss of independent yes-or-no answers.

  With p_t the probability of the right answer: -log p_t + b(p_t). With
  bonus='normal' it is -(2 y - 1) f: linear in the logit.

  Args:
    logits: [...] floating.
    targets: [...] bool, or 0 and 1.
    alpha: in (0, 1): weight of the positives, 1 - alpha of the negatives;
      None: 1 for all.
    mask: [...] bool, True = counts; or weights.
    **bonus: as in `make_bonus`.

  Returns:
    [...] float32.

  Raises:
    ValueError: a number outside of its range, or shapes that differ.
  """
  spec = make_bonus(**bonus)
  odds, weight = _right_answer(logits, targets, alpha, mask)
  return masked(weight * nats(spec, odds), mask)


def halted_focal(
  logits: jax.Array,
  targets: jax.Array,
  *,
  gamma: float = 1.0,
  alpha: float | None = None,
  beta: int | None = 0,
  mask: jax.Array | None = None,
) -> jax.Array:
  """The focal loss, halted: cross-entropy, shifted, where it has been enough.

  The focal loss is -a (1 - p_t)^gamma log p_t; where it is halted, -a log p_t
  shifted so that the two meet at a logit of 0.

  Args:
    logits, targets, alpha, mask: as in `binary_encouraging`.
    gamma: >= 0, of the focal loss.
    beta: where it is halted, by the numbers of the official code:

        0  where the logit is > 0, whatever the answer: the published command
        1  where the logit is > 0 and the answer is yes
        2  where the logit is > 0 and the answer is no
        3  as 0 for yes; plain cross-entropy for no
        4  as 0 for no; plain cross-entropy for yes

      None: where the answer is right, p_t > 1/2, as the paper's text.

  Returns:
    [...] float32.

  Raises:
    ValueError: a number outside of its range, or shapes that differ.
  """
  if gamma < 0:
    raise ValueError(f'gamma={gamma} must be >= 0')
  if beta not in (None, 0, 1, 2, 3, 4):
    raise ValueError(f'beta={beta} must be None or one of 0, 1, 2, 3, 4')
  odds, weight = _right_answer(logits, targets, alpha, mask)
  yes = jnp.asarray(targets) == 1
  high = jnp.where(yes, odds, -odds) > 0  # the logit
  halted = {None: odds > 0, 1: high & yes, 2: high & ~yes}.get(beta, high)
  nats = jax.nn.softplus(-odds)
  # What is halted does not reach the focal branch, nor its gradient. A minimum
  # would halve the gradient where the two meet.
  low = jnp.where(halted, 0.0, odds)
  focal = jax.nn.sigmoid(-low) ** gamma * jax.nn.softplus(-low)
  shift = (1 - 0.5**gamma) * np.log(2)
  found = jnp.where(halted, nats - shift, focal)
  if beta in (3, 4):
    found = jnp.where(yes == (beta == 4), nats, found)
  return masked(weight * found, mask)


def _class_weights(weights, classes: int) -> jax.Array | None:
  if weights is None:
    return None
  if np.shape(weights) != (classes,):
    raise ValueError(
      f'class_weights {np.shape(weights)} must be one for each of K={classes} '
      'classes'
    )
  if found := first_wrong(lambda x: ~(x >= 0), weights, None):
    raise ValueError(
      f'the class_weights of class {found[0][0]} is {found[1]}; it must be >= 0'
    )
  return promote_to_float32(jnp.asarray(weights))


def _right_answer(logits, targets, alpha, mask):
  """The log-odds of the right answer and the weight of each example."""
  if alpha is not None and not 0 < alpha < 1:
    raise ValueError(f'alpha={alpha} must be in (0, 1)')
  for name, array in (('targets', targets), ('mask', mask)):
    if array is not None and np.shape(array) != np.shape(logits):
      raise ValueError(
        f'{name} {np.shape(array)} must have the shape of logits '
        f'{np.shape(logits)}'
      )
  if found := first_wrong(lambda x: (x != 0) & (x != 1), targets, mask):
    raise ValueError(
      f'the target at {found[0]} is {found[1]}; targets must be 0 or 1'
    )
  f, targets = promote_to_float32(jnp.asarray(logits)), jnp.asarray(targets)
  positive = targets == 1
  odds = jnp.where(positive, f, -f)
  odds = jnp.where(positive | (targets == 0), odds, jnp.nan)
  if mask is not None:
    odds = jnp.where(jnp.asarray(mask) != 0, odds, 0.0)
  if alpha is None:
    return odds, 1.0
  return odds, jnp.where(positive, alpha, 1 - alpha)
