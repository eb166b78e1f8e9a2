"""What an attack maximises: objectives of classifiers, one number an image.

  objective(images, labels, *rest) -> [b] float32

of `logits_fn(images, *rest) -> logits [b, k]`. `rest` is whatever the network
needs (its parameters, its running statistics): they are arguments and never
closed over, so that no weights are baked into a program. All is computed in
float32, whatever the network computes in.

  cross_entropy         -log p_y
  margin                max_{i≠y} z_i - z_y
  dlr                   -(z_y - max_{i≠y} z_i) / (z_(1) - z_(3))
  targeted_cross_entropy  log p_t
  targeted_dlr          -(z_y - z_t) / (z_(1) - (z_(3) + z_(4)) / 2)

z_(j) is the j-th largest logit. The two targeted ones are called as
`objective(images, labels, targets, *rest)`.

Source: F. Croce, M. Hein. Reliable evaluation of adversarial robustness with
an ensemble of diverse parameter-free attacks. ICML 2020, eqs. 6 and 7 (DLR).
N. Carlini, D. Wagner. Towards Evaluating the Robustness of Neural Networks.
IEEE S&P 2017 (margin).
"""

from collections import deque
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

Objective = Callable[..., jax.Array]  # (images [b, …], *args) -> [b] float32
LogitsFn = Callable[..., jax.Array]  # (images, *rest) -> logits [b, k]
Criterion = Callable[..., jax.Array]  # (logits [b, k], labels [b], …) -> [b]

_TINY = 1e-12  # of the DLR denominators
# What `checked_logits` was last given; `class_counts` asks.
_seen: deque[tuple[jax.Array, int]] = deque(maxlen=8)


def of_logits(criterion: Criterion, logits_fn: LogitsFn) -> Objective:
  """The objective `criterion(logits, labels)` of a classifier.

  Args:
    criterion: (logits [b, k] float32, labels [b] int) -> [b].
    logits_fn: (images, *rest) -> [b, k].

  Returns:
    objective(images, labels, *rest). It raises ValueError or TypeError while
    it is traced if logits or labels do not have these shapes and dtypes.
  """

  def objective(images, labels, *rest):
    logits = checked_logits(logits_fn(images, *rest), labels)
    return criterion(logits, labels)

  return objective


def cross_entropy(logits_fn: LogitsFn, scale: float = 1.0) -> Objective:
  """-log p_y in nats, of the logits times `scale`.

  A scale below 1 uncovers gradients that saturated logits hide.
  """
  if not scale > 0:
    raise ValueError(f'cross_entropy: scale must be positive, got {scale}')
  return of_logits(lambda z, y: nats(z * scale, y), logits_fn)


def margin(logits_fn: LogitsFn) -> Objective:
  """max_{i≠y} z_i - z_y: positive where the image is misclassified."""
  return of_logits(margins, logits_fn)


def dlr(logits_fn: LogitsFn) -> Objective:
  """Difference of logits ratio; positive where misclassified; k >= 3.

  Neither a shift nor a scaling of all logits changes it. Source: eq. 6.
  """
  return of_logits(ratios, logits_fn)


def targeted_cross_entropy(logits_fn: LogitsFn) -> Objective:
  """log p_t: objective(images, labels, targets, *rest)."""
  return _targeted(lambda z, y, t: -nats(z, t), logits_fn)


def targeted_dlr(logits_fn: LogitsFn) -> Objective:
  """DLR towards a class: objective(images, labels, targets, *rest); k >= 4.

  Source: eq. 7.
  """
  return _targeted(targeted_ratios, logits_fn)


def misclassified(logits_fn: LogitsFn) -> Callable[..., jax.Array]:
  """(images, labels, *rest) -> [b] bool: another class has the largest logit.

  Logits that are not all finite never count as misclassified.
  """

  def success(images, labels, *rest):
    logits = checked_logits(logits_fn(images, *rest), labels)
    return wrong(logits, labels)

  return success


def nats(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Cross-entropy of each row, [b] float32."""
  return optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels)


def rescaled_nats(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Cross-entropy of logits brought to a deviation of 1 in each row.

  Where a loss makes logits large, cross-entropy's gradient is 0 in float32 and
  an attack by it stands still; this one's is not.

  Args:
    logits: [b, k] float32; labels: [b] int in [0, k).

  Returns:
    [b] float32.
  """
  spread = jax.lax.stop_gradient(logits.std(-1, keepdims=True))
  return nats(logits / (spread + 1e-12), labels)


def margins(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """max_{i≠y} z_i - z_y of each row, [b]."""
  own = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
  others = jnp.where(own, -jnp.inf, logits).max(-1)
  return others - _at(logits, labels)


def ratios(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """DLR of each row, [b].

  Raises:
    ValueError: fewer than three classes.
  """
  top = _largest('dlr', logits, 3)
  return margins(logits, labels) / (top[:, 0] - top[:, 2] + _TINY)


def targeted_ratios(
  logits: jax.Array, labels: jax.Array, targets: jax.Array
) -> jax.Array:
  """Targeted DLR of each row, [b].

  Raises:
    ValueError: fewer than four classes.
  """
  top = _largest('targeted_dlr', logits, 4)
  gap = _at(logits, targets) - _at(logits, labels)
  return gap / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2 + _TINY)


def wrong(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """[b] bool: the argmax is not the label, and all logits are finite."""
  return (logits.argmax(-1) != labels) & jnp.isfinite(logits).all(-1)


def checked_logits(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """The logits in float32, if they are logits [b, k] beside labels [b].

  Raises:
    ValueError: another shape, or k < 2.
    TypeError: logits that are not floating point, labels not integer.
  """
  logits = jnp.asarray(logits)
  if labels.ndim != 1 or not jnp.issubdtype(labels.dtype, jnp.integer):
    raise TypeError(
      f'labels are {labels.dtype}{list(labels.shape)}; give class numbers [b] '
      'int32, not one-hot rows'
    )
  if logits.ndim != 2 or len(logits) != len(labels) or logits.shape[1] < 2:
    raise ValueError(
      f'logits_fn returned shape {logits.shape}; with {len(labels)} labels it '
      f'must return ({len(labels)}, k), k >= 2'
    )
  if not jnp.issubdtype(logits.dtype, jnp.floating):
    raise TypeError(f'logits_fn returned {logits.dtype}; it must be floating')
  _seen.append((labels, logits.shape[1]))
  return logits.astype(jnp.float32)


def check_values(logits: jax.Array, labels: jax.Array) -> None:
  """Refuses, on the host, logits of clean images that no attack can be run on.

  Args:
    logits: [b, k] floating.
    labels: [b] integer.

  Raises:
    ValueError: wrong shape, not finite, probabilities, labels outside [0, k).
    TypeError: wrong dtypes.
  """
  values = np.asarray(checked_logits(logits, jnp.asarray(labels)))
  bad = ~np.isfinite(values).all(-1)
  if bad.any():
    raise ValueError(
      f'logits_fn returns NaN or infinite logits on {bad.sum()} of {len(bad)} '
      f'clean images, the first at row {bad.argmax()}; mend the model first: '
      'such rows can be neither right nor attacked'
    )
  if is_probability(values):
    raise ValueError(
      'logits_fn returns probabilities (rows are >= 0 and sum to 1); return '
      'the logits before the softmax, since a second softmax hides gradients'
    )
  check_labels(labels, values.shape[1])


def class_counts(
  objective: Callable[..., Any], images: jax.Array
) -> list[tuple[jax.Array, int]]:
  """Labels that `objective(images)` compares logits with, and their k."""
  _seen.clear()
  jax.eval_shape(objective, images)
  found = list(_seen)
  _seen.clear()
  return found


def check_labels(labels: jax.Array, classes: int) -> None:
  """Refuses labels that no logit belongs to; of this process alone.

  Raises:
    ValueError: one is outside [0, classes).
  """
  if not getattr(labels, 'is_fully_addressable', True):
    return
  numbers = np.asarray(labels)
  outside = (numbers < 0) | (numbers >= classes)
  if outside.any():
    raise ValueError(
      f'label {numbers[outside][0]} at row {outside.argmax()} is outside '
      f'[0, {classes}) of the {classes} logits'
    )


def is_probability(logits) -> bool:
  """Whether every row is non-negative and sums to 1 (to 1e-3), host values."""
  values = np.asarray(logits, np.float64)
  return bool((values >= 0).all() and np.all(abs(values.sum(-1) - 1) < 1e-3))


def _targeted(criterion, logits_fn) -> Objective:
  def objective(images, labels, targets, *rest):
    logits = checked_logits(logits_fn(images, *rest), labels)
    return criterion(logits, labels, targets)

  return objective


def _at(logits, index):
  return jnp.take_along_axis(logits, index[:, None], -1)[:, 0]


def _largest(name, logits, count):
  if logits.shape[-1] < count:
    raise ValueError(
      f'{name} needs {count} classes or more, the logits have '
      f'{logits.shape[-1]}; use cross_entropy or margin'
    )
  return lax.top_k(logits, count)[0]
