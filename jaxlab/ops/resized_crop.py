"""Crops of random area and aspect ratio, resized: Inception's augmentation."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

Key = jax.Array  # () typed key

ATTEMPTS = 10  # boxes drawn, of which the first that fits is taken


def random_resized_crop(
  size: int | tuple[int, int],
  scale: tuple[float, float] = (0.08, 1.0),
  ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Callable[[Key, jax.Array], jax.Array]:
  """A crop of random area and aspect ratio, resized to `size`.

  Each of ATTEMPTS boxes has an area uniform in `scale` times the image's, and a
  ratio width : height whose logarithm is uniform; sides are rounded. The first
  that fits in the image is taken, at a uniform place. If none does, it is the
  largest centred box whose ratio is in `ratio`.

  The crop is resized by itself, bilinear, with a support that grows as it
  shrinks: Pillow's `crop` and `resize`, torchvision's antialias=True. Each axis
  is a product with a matrix of weights, which suits accelerators; on a CPU a
  gather of two pixels, which aliases, would be as fast at 32 x 32 and many
  times faster at 224 x 224.

  Source: Szegedy et al., CVPR 2015, section 6, for area and ratio.

  Args:
    size: of the result, a side or (height, width).
    scale: least and greatest share of the area, in (0, 1].
    ratio: least and greatest width : height.

  Raises:
    ValueError: bad arguments.
  """
  height, width = (size, size) if isinstance(size, int) else size
  if height < 1 or width < 1:
    raise ValueError(f'size={size} must be positive')
  _check_range('scale', scale, 1.0)
  _check_range('ratio', ratio, math.inf)

  def apply(key: Key, image: jax.Array) -> jax.Array:
    rows, columns, _ = image.shape
    top, left, tall, wide = draw_resized_crop(key, rows, columns, scale, ratio)
    return jnp.einsum(
      'xw,ywc->yxc',
      resize_weights(left, wide, columns, width),
      jnp.einsum(
        'yh,hwc->ywc',
        resize_weights(top, tall, rows, height),
        image,
        precision=lax.Precision.HIGHEST,
      ),
      precision=lax.Precision.HIGHEST,
    )

  return apply


def draw_resized_crop(
  key: Key,
  rows: int,
  columns: int,
  scale: tuple[float, float],
  ratio: tuple[float, float],
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
  """The box of `random_resized_crop`: top, left, height, width, () int32."""
  shape_key, place_key = jax.random.split(key)
  draws = jax.random.uniform(shape_key, (ATTEMPTS, 2))
  area = rows * columns * (scale[0] + draws[:, 0] * (scale[1] - scale[0]))
  least, greatest = math.log(ratio[0]), math.log(ratio[1])
  aspect = jnp.exp(least + draws[:, 1] * (greatest - least))
  wide = jnp.rint(jnp.sqrt(area * aspect)).astype(jnp.int32)
  tall = jnp.rint(jnp.sqrt(area / aspect)).astype(jnp.int32)
  fits = (wide >= 1) & (wide <= columns) & (tall >= 1) & (tall <= rows)
  first = jnp.argmax(fits)
  wide = jnp.where(fits.any(), wide[first], min(columns, _side(rows, ratio[1])))
  tall = jnp.where(
    fits.any(), tall[first], min(rows, _side(columns, 1 / ratio[0]))
  )
  room = jnp.stack([rows - tall, columns - wide])
  place = jnp.floor(jax.random.uniform(place_key, (2,)) * (room + 1))
  # A float32 product may round up to room + 1.
  place = jnp.minimum(place.astype(jnp.int32), room)
  top, left = jnp.where(fits.any(), place, room // 2)
  return top, left, tall, wide


def _side(other: int, ratio: float) -> int:
  return max(1, round(other * ratio))


def resize_weights(
  start: jax.Array, length: jax.Array, n: int, size: int
) -> jax.Array:
  """[size, n] float32: what each pixel of an axis gives to a resized crop.

  The triangle filter of radius max(1, length / size), centred on each output
  pixel and cut off at the crop; rows sum to 1.

  Args:
    start: () int32, the crop's first pixel.
    length: () int32, its pixels, with start + length <= n.
    n: pixels of the axis.
    size: pixels of the result; size * n < 2^29.
  """
  # Output pixel j lies at (j + 1/2) length / size. In integers, since a
  # float32 place near 256 is wrong in the weights' sixth digit.
  numerator = (2 * jnp.arange(size, dtype=jnp.int32) + 1) * length
  whole, part = numerator // (2 * size), numerator % (2 * size)
  pixel = jnp.arange(n, dtype=jnp.int32)
  away = (pixel - start - whole[:, None]).astype(jnp.float32) + (
    0.5 - part.astype(jnp.float32) / (2 * size)
  )[:, None]
  radius = jnp.maximum(1.0, length / size)
  weights = jnp.maximum(0.0, 1 - jnp.abs(away) / radius)
  inside = (pixel >= start) & (pixel < start + length)
  weights = jnp.where(inside, weights, 0.0)
  return weights / weights.sum(1, keepdims=True)


def _check_range(name: str, pair: tuple[float, float], most: float) -> None:
  low, high = pair
  if not (0 < low <= high <= most and high < math.inf):
    raise ValueError(
      f'{name}={pair} must be two positive numbers, the lesser first'
      + (f', at most {most:g}' if most < math.inf else '')
    )
