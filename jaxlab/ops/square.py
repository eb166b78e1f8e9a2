"""Square: a black-box attack by random search, without gradients.

M. Andriushchenko, F. Croce, N. Flammarion, M. Hein. Square Attack: a
query-efficient black-box adversarial attack via random search. ECCV 2020,
algorithms 1, 2 (L-inf) and 3 (L2).

Each step changes one square of the image, in L-inf to a corner of the ball in
each colour, in L2 by moving the perturbation's mass from another square, and
stays if the objective grew. The squares shrink by a fixed schedule.
"""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlab.ops.attack_loop import Bound, Steps, repeat
from jaxlab.ops.attack_objectives import Objective
from jaxlab.ops.attack_steps import (
  Attack,
  Ball,
  Best,
  check_count,
  example_keys,
  make_ball,
  unit,
  values_of,
)

# Of 10,000 queries: from which on the share p is halved again.
_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
_TINY = 1e-12


def square(
  objective: Objective,
  *,
  epsilon: float,
  steps: int = 5000,
  norm: str = 'linf',
  p_init: float = 0.8,
  restarts: int = 1,
  stop_above: float | None = None,
  unroll: bool | None = None,
) -> Attack:
  """Random search over squares.

  Args:
    objective: (images [b, h, w, c], *args) -> [b], to be maximised; nothing of
      it is differentiated.
    epsilon: radius of the ball, in units of [0, 1].
    steps: queries after the first; the schedule is stretched to them.
    norm: 'linf' or 'l2'.
    p_init: share of the pixels that the first squares cover, in (0, 1].
    restarts: runs, each from its own start.
    stop_above: rows with a larger objective are left as they are: 0 with
      `margin`, where that means misclassified. None: never.
    unroll: see `attacks.pgd`.

  Returns:
    attack(key, images, ids, *args) -> the image of the largest objective seen.

  Raises:
    ValueError: a budget or share outside of its range, an unknown norm, steps
      or restarts below 1; when called, images that are not [b, h, w, c].
  """
  check_count('square', steps=steps, restarts=restarts)
  ball = make_ball('square', norm, epsilon)
  if not 0 < p_init <= 1:
    raise ValueError(f'square: p_init must be in (0, 1], got {p_init}')
  limit = math.inf if stop_above is None else stop_above
  shares = np.array([share(p_init, i, steps) for i in range(steps)])

  @jax.jit
  def begin(old, r, key, images, ids, args):
    keys = example_keys(jax.random.fold_in(key, r), ids)
    x = _project(ball, images, _start(ball, keys, images))
    found = values_of(objective, x, args)
    new = Best.none(images).adopt(x, found, old.success)
    return _Carry(new, old)

  def step(carry, i, key, images, ids, args):
    keys = example_keys(jax.random.fold_in(key, i), ids)
    best, plan = carry.best, _plan(ball, shares, images.shape)
    x = _project(ball, images, _change(ball, plan, keys, i, images, best.image))
    values = values_of(objective, x, args)
    halted = jnp.maximum(best.value, carry.before.value) > limit
    values = jnp.where(halted, -jnp.inf, values)
    return carry._replace(best=best.adopt(x, values, best.success))

  def checked(images):
    if images.ndim != 4:
      raise ValueError(f'square: images {images.shape} must be [b, h, w, c]')
    return images

  # Drawing its numbers takes long to compile, and more so several times.
  loop = Steps(step, alone=True)

  def run(unrolled, key, images, ids, args):
    checked(images)

    def one(old, r):
      carry = begin(old, r, key, images, ids, args)
      again = jax.random.fold_in(jax.random.fold_in(key, r), 1)
      fixed = (again, images, ids, args)
      new = loop.run(
        carry, steps, *fixed, unrolled=unrolled, done=_all_above(limit)
      ).best
      return old.adopt(new.image, new.value, new.success)

    return repeat(one, restarts, Best.none(images), unrolled).image

  look = lambda images, args: objective(checked(images), *args)
  return Bound('square', run, ball, steps * restarts, unroll, look)


class _Carry(NamedTuple):
  best: Best  # of this run
  before: Best  # of the runs before it


class _Plan(NamedTuple):
  size: jax.Array  # [steps] int32, side of the square
  pattern: jax.Array  # [steps] int32, row of `patterns`
  patterns: jax.Array  # [kinds, side, side] float32, zero-padded, for L2


def share(p_init: float, i: int, steps: int) -> float:
  """Share of the pixels in step i of `steps`. Source: section 4.1.

  >>> [share(0.8, i, 10000) for i in (0, 10, 11, 51, 9999)]
  [0.8, 0.8, 0.4, 0.2, 0.0015625]
  """
  reached = int(i / steps * 10000)
  return p_init / 2 ** sum(reached > bound for bound in _HALVINGS)


def _all_above(limit):
  if limit == math.inf:
    return None
  return lambda carry: (
    jnp.maximum(carry.best.value, carry.before.value) > limit
  ).all()


def _project(ball: Ball, images, x):
  return ball.project(images, ball.box(images), x)


def _plan(ball: Ball, shares, shape) -> _Plan:
  """Sizes of the squares for images of a shape, worked out on the host."""
  _, h, w, _ = shape
  side = min(h, w)
  sizes = np.maximum(np.rint(np.sqrt(shares * h * w)), 1).astype(np.int32)
  if ball.norm == 'l2':
    sizes = np.maximum(sizes, 3)
    sizes += 1 - sizes % 2
    side = max(side - 1 + side % 2, 1)  # odd, so that a square has a centre
  sizes = np.minimum(sizes, side)
  kinds, index = np.unique(sizes, return_inverse=True)
  patterns = np.zeros((len(kinds), side, side), np.float32)
  for pattern, size in zip(patterns, kinds):
    pattern[:size, :size] = bump(size)
  return _Plan(
    jnp.asarray(sizes), jnp.asarray(index, jnp.int32), jnp.asarray(patterns)
  )


def _start(ball: Ball, keys, images) -> jax.Array:
  """Vertical stripes for L-inf, a grid of bumps for L2."""
  _, h, w, c = images.shape
  if ball.norm == 'linf':
    signs = jax.vmap(lambda k: jax.random.rademacher(k, (1, w, c)))(keys)
    return images + ball.epsilon * signs
  size = max(min(h, w) // 5, 1)
  rows, columns = h // size, w // size
  tiled = np.zeros((h, w, 1), np.float32)
  tiled[: rows * size, : columns * size, 0] = np.tile(
    bump(size), (rows, columns)
  )
  draw = lambda k: jax.random.rademacher(k, (rows, columns, c))
  signs = jax.vmap(draw)(keys).repeat(size, 1).repeat(size, 2)
  rest = ((0, 0), (0, h - rows * size), (0, w - columns * size), (0, 0))
  return images + ball.epsilon * unit(jnp.pad(signs, rest) * tiled)


def _change(ball: Ball, plan: _Plan, keys, i, images, x) -> jax.Array:
  """What is tried next, not projected yet."""
  size, delta = plan.size[i], x - images
  if ball.norm == 'linf':
    change = partial(_recolour, size=size, epsilon=ball.epsilon)
    return images + jax.vmap(change)(keys, delta)
  pattern = plan.patterns[plan.pattern[i]]
  change = partial(_move_mass, size=size, pattern=pattern, epsilon=ball.epsilon)
  return images + ball.epsilon * unit(jax.vmap(change)(keys, delta))


def _recolour(key, delta, size, epsilon):
  """One image: a square gets +-epsilon in each channel. Source: algorithm 2."""
  place, colour = jax.random.split(key)
  inside, _ = _window(place, delta.shape, size)
  signs = jax.random.rademacher(colour, delta.shape[2:])
  return jnp.where(inside, epsilon * signs, delta)


def _move_mass(key, delta, size, pattern, epsilon):
  """One image: a square is emptied, and what it held goes to another one, in
  the shape of a bump. Source: algorithm 3."""
  here, there, colour, turn = jax.random.split(key, 4)
  to, (row, column) = _window(here, delta.shape, size)
  off, _ = _window(there, delta.shape, size)
  pattern = jnp.where(jax.random.bernoulli(turn), pattern.T, pattern)
  last = len(pattern) - 1
  bumps = pattern[jnp.clip(row, 0, last), jnp.clip(column, 0, last)]
  signs = jax.random.rademacher(colour, delta.shape[2:])
  new = bumps[..., None] * signs + _per_channel_unit(delta * to)
  unused = jnp.maximum(epsilon**2 - jnp.sum(delta**2), 0) / delta.shape[2]
  both = jnp.sum((delta * (to | off)) ** 2, (0, 1))
  new = _per_channel_unit(new * to) * jnp.sqrt(both + unused)
  return jnp.where(to, new, jnp.where(off, 0.0, delta))


def _window(key, shape, size):
  """A random square: ([h, w, 1] bool, pixels counted from its corner)."""
  corners = jax.random.split(key)
  ends = jnp.array(shape[:2]) - size + 1
  row, column = (
    jax.random.randint(k, (), 0, end) for k, end in zip(corners, ends)
  )
  row = jnp.arange(shape[0])[:, None] - row
  column = jnp.arange(shape[1])[None] - column
  inside = (row >= 0) & (row < size) & (column >= 0) & (column < size)
  return inside[..., None], (row, column)


def _per_channel_unit(x):
  norm = jnp.sqrt(jnp.sum(x**2, (0, 1)))
  return x / jnp.maximum(norm, _TINY)


def bump(size: int) -> np.ndarray:
  """L2's pattern: two pyramids side by side, of opposite signs.

  Returns:
    [size, size] float32 of norm 1. Source: eq. 2.
  """
  half = size // 2
  both = np.concatenate(
    [_pyramid(half, size), -_pyramid(size - half, size)]
  ).astype(np.float32)
  return both / max(float(np.linalg.norm(both)), _TINY)


def _pyramid(rows: int, columns: int) -> np.ndarray:
  """Sum over j >= d of 1 / (j + 1)², d the largest offset from the centre."""
  steps = max(rows // 2, columns // 2)
  height = np.cumsum(1 / np.arange(steps + 1, 0, -1) ** 2)[::-1]
  y = abs(np.arange(rows) - rows // 2)[:, None]
  x = abs(np.arange(columns) - columns // 2)[None]
  return height[np.maximum(y, x)] if rows else np.zeros((0, columns))
