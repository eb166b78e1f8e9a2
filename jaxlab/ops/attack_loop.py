"""How attacks run: bound, unrolled or looped, in chunks of rows.

XLA:CPU runs convolutions inside of loops several times slower than the same
steps one after the other; accelerators want loops.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxlab.ops.attack_objectives import check_labels, class_counts
from jaxlab.ops.attack_steps import Attack, Ball, check_count, check_inputs

_LONGEST_UNROLLED = 200  # steps inside of one program
TOGETHER = 5  # steps that make one program, called eagerly
_LOOK = 5  # programs between two looks at whether all is done


def is_unrolled(unroll: bool | None, steps: int, example: jax.Array) -> bool:
  """What `unroll=None` means: a Python loop on the CPU.

  Inside of somebody else's `jit` a Python loop becomes one long program, so
  that there more than 200 steps are looped on the CPU too.
  """
  if unroll is not None:
    return unroll
  traced = isinstance(example, jax.core.Tracer)
  short = not traced or steps <= _LONGEST_UNROLLED
  return jax.default_backend() == 'cpu' and short


class Steps:
  """A step `body(carry, i, *fixed) -> carry`, compiled once.

  Unrolled, up to five steps make one program, since small ones cost as much to
  start as to run; a run of a hundred is twenty calls of it, not a program of a
  hundred steps.

  Args:
    body: a pure function; i is () int32.
    alone: every step is a program of its own.
  """

  def __init__(self, body: Callable, alone: bool = False):
    self._one = jax.jit(body)
    self._several = jax.jit(self._burst, static_argnums=0)
    self._alone = alone

  def _burst(self, count, carry, start, *fixed):
    for i in range(count):
      carry = self._one(carry, start + i, *fixed)
    return carry

  def run(
    self,
    carry: Any,
    count: int,
    *fixed: Any,
    unrolled: bool,
    done: Callable[[Any], jax.Array] | None = None,
  ) -> Any:
    """carry = body(carry, i, *fixed) for i in 0 … count - 1.

    Args:
      done: carry -> () bool: no further step would change anything. Looked at
        now and then, where steps are run eagerly.
    """
    if not unrolled:
      body = lambda i, carry: self._one(carry, i, *fixed)
      return lax.fori_loop(0, count, body, carry)
    most = 1 if self._alone else TOGETHER
    size = max(k for k in range(1, most + 1) if count % k == 0)
    for i in range(0, count, size):
      if done and i % (_LOOK * size) == 0 and _known(done(carry)):
        break
      carry = self._several(size, carry, np.int32(i), *fixed)
    return carry


def repeat(body: Callable, count: int, carry: Any, unrolled: bool) -> Any:
  """carry = body(carry, i) for i in 0 … count - 1, for what runs Steps."""
  if not unrolled:
    return lax.fori_loop(0, count, lambda i, c: body(c, i), carry)
  for i in range(count):
    carry = body(carry, np.int32(i))
  return carry


def _known(flag: jax.Array) -> bool:
  return not isinstance(flag, jax.core.Tracer) and bool(flag)


@dataclass(frozen=True, eq=False)
class Bound:
  """The attack of a `run(unrolled, key, images, ids, args)`.

  Called as `attack(key, images, ids, *args)`, it checks what it is given,
  chooses between the two kinds of loop, lets no gradient through, and returns
  the images where the budget is 0.
  """

  name: str
  run: Callable
  ball: Ball | None
  steps: int  # of all runs together
  unroll: bool | None
  # (images, args) -> what the attack maximises: traced, to find the labels
  objective: Callable
  _labels: dict = field(default_factory=dict)

  @cached_property
  def looped(self) -> Callable:
    return jax.jit(partial(self.run, False))

  def __call__(self, key: jax.Array, images: jax.Array, ids: jax.Array, *args):
    images = self.checked(images, ids, args)
    return self.unchecked(key, images, jnp.asarray(ids), *args)

  def checked(self, images, ids, args) -> jax.Array:
    """The images; what is wrong about any of these is raised."""
    images = check_inputs(self.name, images, ids, self.ball)
    leaves = jax.tree.leaves(args)
    if not any(isinstance(x, jax.core.Tracer) for x in (images, *leaves)):
      shape = str(jax.tree.map(jnp.shape, (images, args)))
      if shape not in self._labels:
        found = class_counts(partial(self.objective, args=args), images)
        self._labels[shape] = [
          (i, classes)
          for i, leaf in enumerate(leaves)
          for labels, classes in found
          if leaf is labels
        ]
      for i, classes in self._labels[shape]:
        check_labels(leaves[i], classes)
    return images

  def unchecked(self, key, images, ids, *args):
    if self.ball is not None and self.ball.epsilon == 0:
      return images
    images, args = jax.tree.map(lax.stop_gradient, (images, args))
    if is_unrolled(self.unroll, self.steps, images):
      return self.run(True, key, images, ids, args)
    return self.looped(key, images, ids, args)


def in_chunks(attack: Attack, rows: int, row_args: int = 1) -> Attack:
  """The same attack on so many images at a time.

  Rows do not mix, so that the result is the same. On the CPU a few images fit
  its cache and are attacked faster than many; elsewhere they save memory.

  Args:
    attack: attack(key, images, ids, *args).
    rows: images of a chunk.
    row_args: how many of `args`, counted from the first, have rows: 1 for
      (labels, *rest), 0 for a score's (params, vars).

  Raises:
    ValueError: fewer than one row, or a negative number of arguments.
  """
  check_count('in_chunks', rows=rows)
  if row_args < 0:
    raise ValueError(f'in_chunks: row_args must be >= 0, got {row_args}')

  def chunked(key: jax.Array, images: jax.Array, ids: jax.Array, *args: Any):
    count = len(images)
    if count <= rows:
      return attack(key, images, ids, *args)
    run = attack
    if isinstance(attack, Bound):  # values looked at once; each look waits
      images = attack.checked(images, ids, args)
      run = attack.unchecked
    own, rest = (images, jnp.asarray(ids), *args[:row_args]), args[row_args:]
    found = []
    for start in range(0, count, rows):
      # The last chunk begins earlier, so that all have one shape.
      first = min(start, count - rows)
      part = jax.tree.map(lambda x, i=first: x[i : i + rows], own)
      found.append(run(key, *part, *rest)[start - first :])
    return jnp.concatenate(found)

  return chunked
