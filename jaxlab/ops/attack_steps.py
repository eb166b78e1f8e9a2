"""What the attacks share: budgets and balls, random starts, the best image.

An attack is bound first and called later:

  attack = pgd(objective, epsilon=8 / 255)
  adversarial = attack(key, images, ids, *args)

Images are float32 in [0, 1] and so are perturbations and projections, whatever
the network computes in. The randomness of an example is a function of the key
and of the example's id alone, and no step mixes rows: neither the batch size,
nor the place in the batch, nor the number of devices matters.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlab.ops.row_random import counted

Attack = Callable[..., jax.Array]  # (key, images, ids, *args) -> images
Evaluate = Callable[..., tuple[jax.Array, jax.Array]]  # -> values, success

NORMS = ('linf', 'l2')


class Ball(NamedTuple):
  """The allowed perturbations: a norm and its radius, cut with [0, 1].

  What `project` returns is inside after rounding too: the exact difference of
  the two float32 images has a norm <= epsilon.
  """

  norm: str
  epsilon: float  # representable in float32, not above what was asked for

  def box(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Lowest and highest value of every pixel, to be given to `project`."""
    if self.norm == 'l2':
      return jnp.zeros_like(images), jnp.ones_like(images)
    e = jnp.float32(self.epsilon)
    low, high = images - e, images + e
    # A rounded sum that lies outside of the ball moves in by one unit.
    low = jnp.where(_error(images, -e, low) > 0, jnp.nextafter(low, 1.0), low)
    high = jnp.where(
      _error(images, e, high) < 0, jnp.nextafter(high, -1.0), high
    )
    return jnp.maximum(low, 0.0), jnp.minimum(high, 1.0)

  def project(self, images, box, x) -> jax.Array:
    """The image of the ball around `images` that is nearest to `x`."""
    if self.norm == 'linf':
      return jnp.clip(x, *box)
    # The norm's own sum rounds; sqrt(d) / 2^23 is well above its error.
    slack = 1 - 2.0**-23 * math.sqrt(math.prod(images.shape[1:]))
    radius = jnp.float32(self.epsilon * slack)
    delta = x - images
    norm = row_norms(delta)
    delta = delta * jnp.where(norm > radius, radius / norm, 1.0)
    y = jnp.clip(images + delta, *box)
    longer = abs(y - images) > abs(delta)
    return jnp.where(longer, jnp.nextafter(y, images), y)

  def direction(self, gradient: jax.Array) -> jax.Array:
    """The step of length 1 that gains most: signs, or a unit vector."""
    return jnp.sign(gradient) if self.norm == 'linf' else unit(gradient)

  def inside(self, key, ids, shape) -> jax.Array:
    """[b, …] perturbations drawn evenly from the ball, not cut yet."""

    def draw(key):
      if self.norm == 'linf':
        return jax.random.uniform(key, shape, jnp.float32, minval=-1.0)
      # The first d coordinates of a random unit vector in d + 2 dimensions
      # are even in the unit ball.
      size = math.prod(shape)
      x = unit(jax.random.normal(key, (1, size + 2), jnp.float32))
      return x[0, :size].reshape(shape)

    return self.epsilon * jax.vmap(draw)(example_keys(key, ids))

  def surface(self, key, ids, shape) -> jax.Array:
    """[b, …] perturbations of norm epsilon, not cut yet: APGD's starts."""

    def draw(key):
      if self.norm == 'linf':
        x = jax.random.uniform(key, shape, jnp.float32, minval=-1.0)
        return x / jnp.maximum(abs(x).max(), 1e-12)
      return unit(jax.random.normal(key, (1, *shape), jnp.float32))[0]

    return self.epsilon * jax.vmap(draw)(example_keys(key, ids))


def make_ball(name: str, norm: str, epsilon: float) -> Ball:
  """A ball whose radius is the largest float32 that is <= epsilon.

  Raises:
    ValueError: an unknown norm, or a budget outside of its range.
  """
  if norm not in NORMS:
    raise ValueError(f'{name}: norm {norm!r} is none of {NORMS}')
  if not (np.ndim(epsilon) == 0 and math.isfinite(epsilon) and epsilon >= 0):
    raise ValueError(f'{name}: epsilon {epsilon} must be a number >= 0')
  if epsilon > 1 and norm == 'linf':
    raise ValueError(
      f'{name}: epsilon {epsilon:g} > 1, but images are in [0, 1]; for '
      f'{epsilon:g} of 255 grey levels give {epsilon:g}/255 (8/255 is usual)'
    )
  rounded = np.float32(epsilon)
  if float(rounded) > epsilon:
    rounded = np.nextafter(rounded, np.float32(0))
  return Ball(norm, float(rounded))


def check_count(name: str, **counts: int) -> None:
  """Refuses numbers of steps and the like that are not integers >= 1."""
  for field, count in counts.items():
    if not isinstance(count, int | np.integer) or count < 1:
      raise ValueError(f'{name}: {field} must be an integer >= 1, got {count}')


def check_positive(name: str, **values: float) -> None:
  """Refuses step sizes and the like that are not finite numbers > 0."""
  for field, value in values.items():
    if not (math.isfinite(value) and value > 0):
      raise ValueError(f'{name}: {field} must be a number > 0, got {value}')


def check_inputs(
  name: str, images: jax.Array, ids: jax.Array, ball: Ball | None = None
) -> jax.Array:
  """Images that can be attacked; ids that can name them.

  The range is checked where the values are known, that is outside of `jit`.

  Raises:
    TypeError: images that are not float32, ids that are not integers.
    ValueError: wrong shapes, pixels outside [0, 1] or NaN, an L2 budget that
      no two images are apart.
  """
  images, ids = jnp.asarray(images), jnp.asarray(ids)
  if images.dtype != jnp.float32:
    raise TypeError(
      f'{name}: images are {images.dtype}; give float32 in [0, 1] (uint8 '
      'divided by 255) and let the model choose its own dtype'
    )
  if images.ndim < 2 or not images.size:
    raise ValueError(f'{name}: images {images.shape} must be [b, …], b >= 1')
  if not jnp.issubdtype(ids.dtype, jnp.integer):
    raise TypeError(f'{name}: ids are {ids.dtype}; give example numbers, int32')
  if ids.shape != images.shape[:1]:
    raise ValueError(
      f'{name}: {ids.shape} ids for {len(images)} images; give one an image'
    )
  largest = math.sqrt(math.prod(images.shape[1:]))
  if ball and ball.norm == 'l2' and ball.epsilon > largest:
    raise ValueError(
      f'{name}: epsilon {ball.epsilon:g} in L2 is above {largest:g}, the '
      'largest distance of two images in [0, 1]; divide by 255'
    )
  if not isinstance(images, jax.core.Tracer):
    # Not by min and max, which drop NaN on the CPU. At once, even where these
    # images are constants of a program that is being traced.
    with jax.ensure_compile_time_eval():
      inside = bool(((images >= 0) & (images <= 1)).all())
      low, high = float(jnp.nanmin(images)), float(jnp.nanmax(images))
    if not inside:
      raise ValueError(
        f'{name}: images are in [{low:g}, {high:g}] or NaN, not in [0, 1]; '
        'divide by 255, and normalise inside of the model'
      )
  return images


def example_keys(key: jax.Array, ids: jax.Array) -> jax.Array:
  """[b] keys: fold_in(key, id) of every example."""
  key = counted(key)
  return jax.vmap(lambda i: jax.random.fold_in(key, i))(ids)


def row_norms(x: jax.Array) -> jax.Array:
  """[b, 1, …] Euclidean norms of the rows of [b, …]."""
  axes = tuple(range(1, x.ndim))
  return jnp.sqrt(jnp.sum(x * x, axes, keepdims=True))


def unit(x: jax.Array) -> jax.Array:
  """Rows of [b, …] divided by their Euclidean norms; zero rows stay."""
  # Gradients of saturated networks are so small that their squares vanish.
  # No tiny floors: XLA merges the two divisions into one by their product.
  largest = abs(x).max(tuple(range(1, x.ndim)), keepdims=True)
  x = x / jnp.where(largest > 0, largest, 1.0)
  norm = row_norms(x)
  return x / jnp.where(norm > 0, norm, 1.0)


def along(flags: jax.Array, like: jax.Array) -> jax.Array:
  """[b] as [b, 1, …], to be broadcast against [b, …]."""
  return flags.reshape(-1, *[1] * (like.ndim - 1))


def values_of(objective, images, args) -> jax.Array:
  """objective(images, *args) as [b] float32.

  Raises:
    ValueError: another shape, for instance a mean over the batch.
  """
  values = jnp.asarray(objective(images, *args))
  if values.shape != images.shape[:1]:
    raise ValueError(
      f'an objective returned shape {values.shape} for {len(images)} images; '
      f'it must return one number an image, ({len(images)},)'
    )
  return values.astype(jnp.float32)


def gradient_of(evaluate: Evaluate, images, args):
  """(values [b], success [b], gradient like images); entries of the gradient
  that are not finite are 0."""

  def total(x):
    values, success = evaluate(x, *args)
    return values.sum(), (values, success)

  gradient, (values, success) = jax.grad(total, has_aux=True)(images)
  return values, success, jnp.where(jnp.isfinite(gradient), gradient, 0.0)


def no_success(objective) -> Evaluate:
  """An objective as `Evaluate`: nothing but the value counts."""

  def evaluate(images, *args):
    values = values_of(objective, images, args)
    return values, jnp.zeros(values.shape, bool)

  return evaluate


class Best(NamedTuple):
  """The best image of each row so far."""

  image: jax.Array  # [b, …] float32
  value: jax.Array  # [b] float32, -inf where nothing was adopted yet
  success: jax.Array  # [b] bool

  @classmethod
  def none(cls, images: jax.Array) -> 'Best':
    rows = len(images)
    value = jnp.full(rows, -jnp.inf, jnp.float32)  # weak would be traced again
    return cls(images, value, jnp.zeros(rows, bool))

  def adopt(self, image, value, success) -> 'Best':
    """The better of the two in each row: success first, then the value.

    A value that is not finite is never adopted.
    """
    better = jnp.where(
      success == self.success, value > self.value, success > self.success
    ) & jnp.isfinite(value)
    return Best(
      jnp.where(along(better, image), image, self.image),
      jnp.where(better, value, self.value),
      jnp.where(better, success, self.success),
    )


def _error(a, b, rounded):
  """a + b - rounded, exactly (Knuth's two-sum)."""
  back = rounded - a
  return (a - (rounded - back)) + (b - back)
