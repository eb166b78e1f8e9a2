"""Linear pieces along a segment, from one sign change to the next, by JAX."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxlab.core.errors import InputError
from jaxlab.papers.geometry.networks import TINY, Layers, checked_layers


class March(NamedTuple):
  """What `march` finds along one segment; K is its capacity."""

  times: jax.Array  # [K], where a unit changes sign, rising; inf when unused
  slopes: jax.Array  # [K + 1, out], of the piece before each, then of the last
  events: jax.Array  # () int32, sign changes, also at one place
  pieces: jax.Array  # () int32, pieces of positive length
  overflow: jax.Array  # () bool: the buffer was full, the rest means nothing


def march(layers, start: jax.Array, end: jax.Array, capacity: int) -> March:
  """Pieces of the activation pattern from one sign change to the next.

  Along the segment each pre-activation is affine, given the signs so far: two
  forward passes find its slope and offset, the earliest root is the next
  event, and flips one sign. Signs that change at one place do so one by one.
  `jax.vmap` it over segments; precision is that of the arrays given.

  Args:
    layers: (W, b) of each.
    start, end: [d]; capacity: of sign changes.
  """
  shift = end - start
  precise = partial(jnp.matmul, precision=lax.Precision.HIGHEST)

  def passed(signs, first):
    """Slopes and offsets of all layers; `first` makes signs as it goes."""
    slope, offset, found, made = shift, start, [], []
    for i, (weight, bias) in enumerate(layers):
      slope, offset = precise(slope, weight), precise(offset, weight) + bias
      found.append((slope, offset))
      if i < len(layers) - 1:
        sign = (
          (offset > 0) | ((offset == 0) & (slope > 0)) if first else signs[i]
        )
        made.append(sign)
        slope, offset = jnp.where(sign, slope, 0), jnp.where(sign, offset, 0)
    return found, made

  _, signs = passed(None, True)
  sizes = [s.shape[0] for s in signs]
  limits = np.cumsum([0, *sizes])
  outputs = layers[-1][1].shape[0]

  class Carry(NamedTuple):
    at: jax.Array
    events: jax.Array
    pieces: jax.Array
    done: jax.Array
    signs: Any
    times: jax.Array
    slopes: jax.Array

  def body(c: Carry) -> Carry:
    found, _ = passed(c.signs, False)
    slope = jnp.concatenate([s for s, _ in found[:-1]])
    offset = jnp.concatenate([o for _, o in found[:-1]])
    on = jnp.concatenate(c.signs)
    leaves = jnp.where(on, slope < 0, slope > 0)
    root = -offset / jnp.where(leaves, slope, 1)
    root = jnp.where(leaves, jnp.maximum(root, c.at), jnp.inf)
    unit = root.argmin()
    when = root[unit]
    done = when >= 1
    index = jnp.where(done, c.events, jnp.minimum(c.events, capacity))
    slopes = c.slopes.at[jnp.minimum(c.events, capacity)].set(found[-1][0])
    flipped = [
      s ^ ((jnp.arange(n) + low == unit) & ~done)
      for s, n, low in zip(c.signs, sizes, limits)
    ]
    times = c.times.at[index].set(jnp.where(done, jnp.inf, when), mode='drop')
    longer = jnp.where(done, 1.0, when) - c.at > TINY
    return Carry(
      jnp.where(done, c.at, when),
      c.events + ~done,
      c.pieces + longer,
      done,
      flipped,
      times,
      slopes,
    )

  zero = jnp.zeros((), jnp.int32)
  dtype = shift.dtype
  carry = lax.while_loop(
    lambda c: ~c.done & (c.events <= capacity),
    body,
    Carry(
      jnp.zeros((), dtype),
      zero,
      zero,
      jnp.zeros((), bool),
      signs,
      jnp.full(capacity, jnp.inf, dtype),
      jnp.zeros((capacity + 1, outputs), dtype),
    ),
  )
  return March(
    carry.times, carry.slopes, carry.events, carry.pieces, ~carry.done
  )


@partial(jax.jit, static_argnames='capacity')
def _march_all(layers, starts, ends, capacity):
  each = lambda start, end: march(layers, start, end, capacity)
  return jax.vmap(each)(starts, ends)


def march_segments(layers: Layers, starts, ends, capacity: int) -> March:
  """`march` over segments in float64, host arrays with a leading axis.

  Raises:
    InputError: a buffer was full; bad layers.
  """
  made = checked_layers(layers)
  with jax.enable_x64(True):
    given = (jnp.asarray(x, jnp.float64) for x in (starts, ends))
    on_device = [(jnp.asarray(w), jnp.asarray(b)) for w, b in made]
    found = jax.device_get(_march_all(on_device, *given, capacity))
  if found.overflow.any():
    raise InputError(
      f'segment {int(found.overflow.argmax())} has more than capacity = '
      f'{capacity} sign changes: raise it; there is no count'
    )
  return found
