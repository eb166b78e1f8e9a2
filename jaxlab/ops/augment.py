"""Random changes of images, inside the jitted step.

An `Augment` changes one image; `augment` maps a list of them over a batch. The
changes of an image depend on the key and on the image's own index alone, never
on its place in the batch or on the number of devices:

  images = augment(key, batch['image'], batch['id'],
                   pad_crop(4), flip(), normalise(MEAN, STD))

Each random one has a `draw_…` that returns what it draws, for tests and logs.
"""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxlab.ops.resized_crop import random_resized_crop
from jaxlab.ops.row_random import counted

__all__ = [
  'Augment',
  'augment',
  'colour_jitter',
  'flip',
  'grey',
  'normalise',
  'pad_crop',
  'random_resized_crop',
  'to_float',
]

Key = jax.Array  # () typed key
Augment = Callable[[Key, jax.Array], jax.Array]  # of one image [h, w, c]

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, of R, G, B


def to_float(images: jax.Array) -> jax.Array:
  """uint8 pixels as float32 in [0, 1]; float32 stays.

  Raises:
    ValueError: another dtype.
  """
  images = jnp.asarray(images)
  if images.dtype == jnp.uint8:
    return images.astype(jnp.float32) / 255
  if images.dtype != jnp.float32:
    raise ValueError(
      f'images are {images.dtype}; give uint8, or float32 in [0, 1]'
    )
  return images


def augment(
  key: Key, images: jax.Array, index: jax.Array, *steps: Augment
) -> jax.Array:
  """Applies `steps` to each image, one after the other.

  Step j of image i has the key fold_in(fold_in(key, index[i]), j).

  Args:
    key: of the training step.
    images: [b, h, w, c] uint8, or float32 in [0, 1].
    index: [b] integer, each image's place in its set: `batch['id']`.
    *steps: made by the functions of this module, or any `Augment`.

  Returns:
    [b, h', w', c'] float32.

  Raises:
    ValueError: wrong shapes or dtypes, or a step that does not suit the images.
  """
  if images.ndim != 4 or index.shape != images.shape[:1]:
    raise ValueError(
      f'images {images.shape} and index {index.shape} must be [b, h, w, c] and '
      f'[b]'
    )

  key = counted(key)

  def one(index, image):
    row = jax.random.fold_in(key, index)
    for number, step in enumerate(steps):
      image = step(jax.random.fold_in(row, number), image)
    return image

  return jax.vmap(one)(index, to_float(images))


def pad_crop(pad: int, mode: str = 'zero') -> Augment:
  """Pads each side by `pad` pixels and cuts out the original size at random.

  Args:
    pad: at least 0; the offset is uniform on {0, …, 2 pad}^2.
    mode: `zero` pads with black, `reflect` mirrors without the edge pixel.

  Raises:
    ValueError: bad arguments; in use, `reflect` of images not larger than pad.
  """
  modes = {'zero': 'constant', 'reflect': 'reflect'}
  if pad < 0 or mode not in modes:
    raise ValueError(
      f'pad={pad} must be at least 0, and mode={mode!r} zero or reflect'
    )

  def apply(key: Key, image: jax.Array) -> jax.Array:
    height, width, channels = image.shape
    if mode == 'reflect' and pad >= min(height, width):
      raise ValueError(
        f'pad={pad} mirrors beyond an image of {height} x {width}; give less'
      )
    sides = ((pad, pad), (pad, pad), (0, 0))
    padded = jnp.pad(image, sides, modes[mode])
    top, left = draw_pad_crop(key, pad)
    return lax.dynamic_slice(padded, (top, left, 0), (height, width, channels))

  return apply


def draw_pad_crop(key: Key, pad: int) -> jax.Array:
  """[2] int32 in [0, 2 pad]: the crop's top and left in the padded image."""
  return jax.random.randint(key, (2,), 0, 2 * pad + 1)


def flip(probability: float = 0.5) -> Augment:
  """Mirrors left and right with the given probability.

  Raises:
    ValueError: a probability outside of [0, 1].
  """
  _check_probability(probability)

  def apply(key: Key, image: jax.Array) -> jax.Array:
    return jnp.where(draw_event(key, probability), image[:, ::-1], image)

  return apply


def draw_event(key: Key, probability: float) -> jax.Array:
  """() bool, whether `flip` or `grey` happens."""
  return jax.random.bernoulli(key, probability)


def colour_jitter(
  brightness: float = 0.0,
  contrast: float = 0.0,
  saturation: float = 0.0,
  hue: float = 0.0,
) -> Augment:
  """Random brightness, contrast, saturation and hue, in this order.

  Brightness is times f; contrast is a blend f x + (1 - f) m with m the mean of
  the grey image; saturation the same with the pixel's grey; hue turns the angle
  of HSV. After each, values are clipped to [0, 1]. f is uniform in
  [max(0, 1 - a), 1 + a] for the argument a, hue in [-a, a] turns.

  (torchvision draws the order of the four anew for each image, which would
  compute all four at all four places here.)

  Args:
    brightness, contrast, saturation: at least 0; 0 leaves it out.
    hue: in [0, 1/2].

  Raises:
    ValueError: bad arguments; in use, saturation or hue of images without
      three channels.
  """
  given = (brightness, contrast, saturation, hue)
  if not (min(given) >= 0 and hue <= 0.5 and max(given) < math.inf):
    raise ValueError(
      f'brightness={brightness}, contrast={contrast}, saturation={saturation} '
      f'must be at least 0, and hue={hue} in [0, 0.5]'
    )

  def apply(key: Key, image: jax.Array) -> jax.Array:
    if saturation or hue:
      _check_colour(image, 'saturation and hue')
    bright, blend, colour, turn = draw_jitter(key, *given)
    if brightness:
      image = jnp.clip(image * bright, 0, 1)
    if contrast:
      mean = _luma(image).mean()
      image = jnp.clip(blend * image + (1 - blend) * mean, 0, 1)
    if saturation:
      image = jnp.clip(colour * image + (1 - colour) * _luma(image), 0, 1)
    if hue:
      image = turn_hue(image, turn)
    return image

  return apply


def draw_jitter(
  key: Key, brightness: float, contrast: float, saturation: float, hue: float
) -> jax.Array:
  """[4] float32: factors of the first three, and the hue's shift in turns."""
  low = [max(0.0, 1 - a) for a in (brightness, contrast, saturation)] + [-hue]
  high = [1 + a for a in (brightness, contrast, saturation)] + [hue]
  ends = [jnp.array(x, jnp.float32) for x in (low, high)]
  return jax.random.uniform(key, (4,), jnp.float32, *ends)


def turn_hue(image: jax.Array, turn: jax.Array) -> jax.Array:
  """Adds `turn` (1 = a whole circle) to the hue of HSV.

  Args:
    image: [..., 3] float32 in [0, 1].
    turn: () float32.
  """
  red, green, blue = image[..., 0], image[..., 1], image[..., 2]
  high, low = image.max(-1), image.min(-1)
  spread = high - low
  safe = jnp.where(spread > 0, spread, 1.0)
  # Not `high == red`: compiled, either side may be computed anew and be
  # rounded otherwise. Where channels tie, both formulas give the same hue.
  sixths = jnp.where(
    (red >= green) & (red >= blue),
    (green - blue) / safe,
    jnp.where(green >= blue, 2 + (blue - red) / safe, 4 + (red - green) / safe),
  )
  # Of a channel whose hue lies k sixths back, value - spread at k in [0, 4]
  # falls and rises again as a trapezium: Smith's formula without its cases.
  place = jnp.array([5.0, 3.0, 1.0], image.dtype)
  k = place + (sixths + 6 * turn)[..., None]
  k = k - 6 * jnp.floor(k / 6)  # jnp.mod is slow on a CPU
  drop = jnp.clip(jnp.minimum(k, 4 - k), 0, 1)
  return high[..., None] - spread[..., None] * drop


def grey(probability: float) -> Augment:
  """Makes an image grey, its three channels equal, with a probability.

  Raises:
    ValueError: a probability outside of [0, 1]; in use, images without three
      channels.
  """
  _check_probability(probability)

  def apply(key: Key, image: jax.Array) -> jax.Array:
    _check_colour(image, 'grey')
    return jnp.where(draw_event(key, probability), _luma(image), image)

  return apply


def normalise(mean: Sequence[float], std: Sequence[float]) -> Augment:
  """Subtracts each channel's mean and divides by its standard deviation.

  Draws nothing: `normalise(mean, std)(None, images)` serves in evaluation, for
  images of any leading axes.

  Args:
    mean, std: one number a channel, of values in [0, 1]; std > 0.

  Raises:
    ValueError: bad arguments; in use, images of other channels.
  """
  if len(mean) != len(std) or not len(mean) or not min(std) > 0:
    raise ValueError(
      f'mean={mean} and std={std} must have one number a channel, std positive'
    )

  def apply(key: Key | None, image: jax.Array) -> jax.Array:
    del key
    if image.shape[-1] != len(mean):
      raise ValueError(
        f'images have {image.shape[-1]} channels, and mean and std '
        f'{len(mean)}: give one number a channel'
      )
    centre = np.asarray(mean, np.float32)
    return (image - centre) / np.asarray(std, np.float32)

  return apply


def _luma(image: jax.Array) -> jax.Array:
  """[h, w, 1], the grey image."""
  if image.shape[-1] == 1:
    return image
  red, green, blue = LUMA
  return red * image[..., :1] + green * image[..., 1:2] + blue * image[..., 2:]


def _check_colour(image: jax.Array, what: str) -> None:
  if image.shape[-1] != 3:
    raise ValueError(
      f'{what} of images with {image.shape[-1]} channels: decode them with '
      f'channels=3, or leave it out'
    )


def _check_probability(probability: float) -> None:
  if not 0 <= probability <= 1:
    raise ValueError(f'probability={probability} must be in [0, 1]')
