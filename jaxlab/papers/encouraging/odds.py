"""Log-odds of classes, exact where a probability is 1.

p_y = sigmoid(z) with z = f_y - LSE_{k != y}(f_k), so that 1 - p_y = sigmoid(-z)
loses no digits. The gradient is dz = onehot_y - softmax over the others.

Sums are of exp(f_k - shift) and logarithms are taken of them alone: a shift of
1e4 has no digits to spare for log K.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

# The largest of the others may lie so far below the shift, in nats: all that
# counts beside it is then far above the smallest float32, exp(-87).
_REACH = 50.0


@jax.custom_vjp
def of_label(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """z = f_y - LSE_{k != y}(f_k): log p_y / (1 - p_y), where p_y = 1 too.

  Args:
    logits: [..., K] floating, K >= 2.
    labels: [...] integer in [0, K).

  Returns:
    [...] float32 (float64 from float64); NaN for another label. Reverse mode
    alone: `jax.jvp` and `jax.jacfwd` raise a TypeError.
  """
  return _label_forward(logits, labels)[0]


def _label_forward(logits, labels):
  f = promote_to_float32(logits)
  shift = _by_platform(
    lax.stop_gradient(f), labels, cpu=_shift_on_cpu, default=_highest_other
  )
  total = _others(f, labels, shift).sum(-1)
  odds = _at(f, labels) - shift - jnp.log(total)
  valid = (labels >= 0) & (labels < f.shape[-1])
  kept = logits, labels, shift, total
  return jnp.where(valid, odds, jnp.nan), kept


def _label_backward(kept, cotangent):
  logits, labels, shift, total = kept
  f = promote_to_float32(logits)
  # Where all the others are -inf each has no share, not 0 / 0.
  scale = -cotangent / jnp.where(total > 0, total, 1)
  shares = _others(f, labels, shift) * scale[..., None]
  slope = _with_label(shares, labels, cotangent)
  return slope.astype(logits.dtype), _nothing(labels)


of_label.defvjp(_label_forward, _label_backward)


@jax.custom_jvp
def _others(f, labels, shift):
  """exp(f_k - shift), 0 for the label; XLA finds it in both passes."""
  found = jnp.exp(f - shift[..., None])
  return _with_label(found, labels, jnp.zeros(labels.shape, f.dtype))


@_others.defjvp
def _others_jvp(primals, tangents):
  # Only second derivatives come here. The label's exponential may be infinite.
  found = _others(*primals)
  return found, found * (tangents[0] - tangents[2][..., None])


def _with_label(values, labels, value):
  """[..., K] values with `value` [...] for the label.

  A compare keeps a sharded class axis sharded. On CPUs a loop with one in it
  has no vectors: there the label is written into what has been computed.
  """

  def write(values, labels, value):
    write_row = lambda row, label, x: row.at[label].set(x)
    for _ in labels.shape:  # by vmap, so that sharded rows stay so
      write_row = jax.vmap(write_row)
    return write_row(values, labels, value)

  return _by_platform(
    values,
    labels,
    value,
    cpu=write,
    default=lambda values, labels, value: jnp.where(
      is_label(labels, values), value[..., None], values
    ),
  )


def _by_platform(values, *more, cpu, default):
  """What is quicker on the platform; arrays with explicit shardings take what
  is made of compares and sums, whose shardings follow from theirs."""
  if _explicit(values):
    return default(values, *more)
  return lax.platform_dependent(values, *more, cpu=cpu, default=default)


def _explicit(x) -> bool:
  return any(jax.typeof(x).sharding.spec)


def _highest_other(f, labels):
  """The maximum over k != y, or 0 where that is -inf."""
  none = jnp.full(labels.shape, -jnp.inf, f.dtype)
  return _finite(_with_label(f, labels, none).max(-1))


def _shift_on_cpu(f, labels):
  """The same, or what is found faster and does as well: the maximum over all.

  It does where any one of the others is within reach of it, in every row.
  """
  highest = f.max(-1)
  near = _at(f, (labels + 1) % f.shape[-1])
  return lax.cond(
    (highest - near < _REACH).all(),
    lambda f, labels: highest,
    _highest_other,
    f,
    labels,
  )


@jax.custom_vjp
def of_all(logits: jax.Array) -> jax.Array:
  """The log-odds of every class, as `of_label` of each label.

  Only the likeliest class can have p > 1/2; its 1 - p is a sum over the others.
  To a sum over all from which another is taken, the likeliest adds 1.

  Returns:
    [..., K] float32 (float64 from float64).
  """
  return _all_forward(logits)[0]


def _all_forward(logits):
  f = promote_to_float32(logits)
  highest = f.max(-1, keepdims=True)
  # The first of them, by a minimum: argmax would gather a sharded axis.
  classes = lax.broadcasted_iota(jnp.int32, f.shape, f.ndim - 1)
  first = jnp.where(f == highest, classes, f.shape[-1]).min(-1)
  top = is_label(first, f)
  second = _finite(_without(top, f).max(-1, keepdims=True))
  rest = jnp.exp(_without(top, f) - second).sum(-1, keepdims=True)
  total = 1 + jnp.exp(second - highest) * rest
  odds = f - highest - jnp.log(total - jnp.exp(_without(top, f) - highest))
  of_top = highest - second - jnp.log(rest)
  odds = jnp.where(top, of_top, odds)
  return odds, (logits, first, highest, second, rest, total)


def _all_backward(kept, cotangent):
  logits, first, highest, second, rest, total = kept
  f = promote_to_float32(logits)
  top = is_label(first, f)
  # dz_k / df_j = -e_j / (total - e_k) for j != k; where k is the likeliest, the
  # quotient is its share of the others.
  others = _without(top, f)
  parts = jnp.where(top, 0, cotangent / (total - jnp.exp(others - highest)))
  of_top = jnp.where(top, cotangent, 0).sum(-1, keepdims=True)
  by_top = jnp.exp(others - second) * (of_top / jnp.where(rest > 0, rest, 1))
  by_others = jnp.exp(f - highest) * (parts.sum(-1, keepdims=True) - parts)
  slope = cotangent - by_others - by_top
  return (slope.astype(logits.dtype),)


of_all.defvjp(_all_forward, _all_backward)


def _without(mask, f):
  """The logits, -inf where the mask [..., K] is True."""
  return jnp.where(mask, -jnp.inf, f)


def arrays(logits, labels, mask):
  """The three as arrays that fit, with zeros where the mask is 0."""
  given = labels, mask
  logits, labels = jnp.asarray(logits), jnp.asarray(labels)
  mask = None if mask is None else jnp.asarray(mask)
  if not jnp.issubdtype(logits.dtype, jnp.floating):
    raise TypeError(f'logits are {logits.dtype}; give floats')
  if not jnp.issubdtype(labels.dtype, jnp.integer):
    raise TypeError(f'labels are {labels.dtype}; give integers in [0, K)')
  if logits.shape[:-1] != labels.shape or not logits.ndim:
    raise ValueError(
      f'labels {labels.shape} must have the shape of logits {logits.shape} '
      'without its last axis'
    )
  classes = logits.shape[-1]
  if classes < 2:
    raise ValueError(f'logits {logits.shape} have K={classes}; K must be >= 2')
  if mask is not None and mask.shape != labels.shape:
    raise ValueError(
      f'mask {mask.shape} must have the shape of labels {labels.shape}'
    )
  if found := first_wrong(lambda x: (x < 0) | (x >= classes), *given):
    raise ValueError(
      f'the label at {found[0]} is {found[1]}; labels must be in [0, {classes})'
    )
  labels = labels.astype(jnp.int32)  # a count to K may not fit the one given
  if mask is not None:
    # A row that does not count may hold NaN, which must not reach the gradient.
    kept = mask != 0
    logits = jnp.where(kept[..., None], logits, jnp.zeros((), logits.dtype))
    labels = jnp.where(kept, labels, 0)
  return logits, labels, mask


def masked(found, mask):
  """Losses where a mask of bools is True, or times weights; None: all."""
  if mask is None:
    return found
  mask = jnp.asarray(mask)
  kept = jnp.where(mask != 0, found, 0.0)
  return kept if mask.dtype == bool else kept * mask.astype(found.dtype)


def soft_targets(logits, targets, mask):
  """Logits, shares of classes and the mask as arrays that fit."""
  logits, targets = jnp.asarray(logits), jnp.asarray(targets)
  if logits.shape != targets.shape:
    raise ValueError(
      f'labels {targets.shape} of floats are shares of classes; they must have '
      f'the shape of logits {logits.shape}'
    )
  if targets.ndim and not isinstance(targets, jax.core.Tracer):
    sums = np.asarray(targets).sum(-1)
    low = np.asarray(targets).min(-1)
    wrong = lambda x: ~((np.abs(x - 1) < 1e-3) & (low >= 0))
    if found := first_wrong(wrong, sums, mask):
      raise ValueError(
        f'the shares of classes at {found[0]} sum to {found[1]:.6g} or are '
        'negative; they must be >= 0 and sum to 1'
      )
  rows = jnp.zeros(logits.shape[:-1], jnp.int32)
  logits, _, mask = arrays(logits, rows, mask)
  return logits, targets, mask


def first_wrong(wrong, values, mask):
  """(place, value) of the first that is wrong and counts, or None.

  In NumPy, as constants compared within `jit` would be traced; what is traced
  is not looked at.
  """
  if isinstance(values, jax.core.Tracer) or isinstance(mask, jax.core.Tracer):
    return None
  values = np.asarray(values)
  found = wrong(values)
  if mask is not None:
    found = found & np.asarray(mask, bool)
  if not found.any():
    return None
  at = tuple(np.argwhere(found)[0].tolist())
  return at, values[at].item()


def is_class(labels, classes: int) -> jax.Array:
  return (labels >= 0) & (labels < classes)


def of_class(values: jax.Array, labels: jax.Array) -> jax.Array:
  """values [K] of each label [...]; of any where there is no such class."""
  if not _explicit(labels):
    return values[labels]
  rows = jnp.broadcast_to(values, (*labels.shape, len(values)))
  return jnp.where(is_label(labels, rows), rows, 0).sum(-1)


def promote_to_float32(x: jax.Array) -> jax.Array:
  """At least float32."""
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def is_label(labels: jax.Array, f: jax.Array) -> jax.Array:
  """[..., K] bool: a compare, so that a sharded class axis stays sharded."""
  return labels[..., None] == lax.broadcasted_iota(
    labels.dtype, f.shape, f.ndim - 1
  )


def _at(f, labels):
  """f of the label, [...]; of the nearest where there is no such label."""
  if _explicit(f):
    return jnp.where(is_label(labels, f), f, 0).sum(-1)
  found = jnp.take_along_axis(f, labels[..., None], -1, mode='clip')
  return found[..., 0]


def _finite(shift):
  return jnp.where(jnp.isneginf(shift), 0, shift)


def _nothing(x: jax.Array) -> np.ndarray:
  """The cotangent of integers."""
  return np.zeros(x.shape, jax.dtypes.float0)
