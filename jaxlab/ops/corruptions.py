"""Common corruptions of images in five severities.

In the manner of D. Hendrycks, T. Dietterich. Benchmarking Neural Network
Robustness to Common Corruptions and Perturbations. ICLR 2019.
arXiv:1903.12261. The kinds are theirs; formulas and constants are OURS, so
that figures on these images are not those of ImageNet-C or CIFAR-10-C.

  corrupt = corruption('motion_blur', severity=3)
  images = corrupt(key, images, ids)

Lengths are in pixels of a 32 x 32 image and scale with the image's height. A
row's randomness is a function of the key and of its id alone.
"""

import io
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from PIL import Image

Array = jax.Array
Corruption = Callable[..., Array]  # (key, images, ids) -> images

SEVERITIES = (1, 2, 3, 4, 5)
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def corruption(name: str, severity: int) -> Corruption:
  """One corruption of one severity.

  Args:
    name: a key of `NAMES`.
    severity: 1 (slight) to 5 (heavy).

  Returns:
    (key, images [b, h, w, c] float32 in [0, 1], ids [b] integer) -> images of
    the same kind. `jpeg` works on the host: it cannot be compiled.

  Raises:
    ValueError: an unknown name or severity; in use, images of another rank or
      dtype, out of [0, 1] (where they are not traced), or colourless ones that
      are to be saturated.
  """
  if name not in NAMES:
    raise ValueError(f'no corruption {name!r}; there are {", ".join(NAMES)}')
  if severity not in SEVERITIES:
    raise ValueError(f'severity={severity} must be one of {SEVERITIES}')
  batch: Callable
  if name == 'jpeg':
    batch = partial(_jpeg_batch, severity=severity)
  else:
    batch = partial(_batch, _PER_IMAGE[name], severity)

  def corrupt(key, images, ids):
    _check(images, ids)
    if name == 'saturate' and images.shape[-1] != 3:
      raise ValueError(
        f'saturate of images with {images.shape[-1]} channels: it is for '
        'colour images alone'
      )
    return batch(key, images, ids)

  return corrupt


@partial(jax.jit, static_argnums=(0, 1))
def _batch(one, severity, key, images, ids):
  def row(index, image):
    return one(jax.random.fold_in(key, index), image, severity)

  return jnp.clip(jax.vmap(row)(ids, images), 0.0, 1.0)


def _gaussian_noise(key, image, severity):
  return image + 0.04 * severity * jax.random.normal(key, image.shape)


def _shot_noise(key, image, severity):
  """Photons: Poisson of mean 200 / 2^severity at white."""
  photons = 200.0 / 2**severity
  return jax.random.poisson(key, image * photons).astype(jnp.float32) / photons


def _impulse_noise(key, image, severity):
  """A share of the values, 2 % a severity, becomes 0 or 1."""
  draw = jax.random.uniform(key, image.shape)
  share = 0.02 * severity
  noisy = jnp.where(draw < share / 2, 0.0, 1.0)
  return jnp.where(draw < share, noisy, image)


def _speckle_noise(key, image, severity):
  return image * (1 + 0.1 * severity * jax.random.normal(key, image.shape))


def _gaussian_blur(key, image, severity):
  del key
  sigma = _scaled(image, 0.4 + 0.2 * severity)
  radius = int(np.ceil(3 * sigma))
  line = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
  return _blurred(image, jnp.asarray(np.outer(line, line)))


def _defocus_blur(key, image, severity):
  """A disc with a soft edge one pixel wide."""
  del key
  size = _scaled(image, 0.5 + 0.5 * severity)
  radius = int(np.ceil(size)) + 1
  y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
  disc = np.clip(size + 0.5 - np.hypot(x, y), 0, 1)
  return _blurred(image, jnp.asarray(disc))


def _motion_blur(key, image, severity):
  """A line, one pixel thick, at an angle drawn for each image."""
  half = _scaled(image, 0.5 + severity)
  radius = int(np.ceil(half)) + 1
  y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
  angle = jax.random.uniform(key, (), maxval=np.pi)
  along = x * jnp.cos(angle) + y * jnp.sin(angle)
  across = y * jnp.cos(angle) - x * jnp.sin(angle)
  thick = jnp.clip(1 - abs(across), 0, 1)
  return _blurred(image, thick * jnp.clip(half + 0.5 - abs(along), 0, 1))


def _brightness(key, image, severity):
  del key
  return image + 0.08 * severity


def _contrast(key, image, severity):
  del key
  mean = image.mean((0, 1))
  return mean + (1 - 0.17 * severity) * (image - mean)


def _saturate(key, image, severity):
  """Away from the grey image, by up to three and a half times."""
  del key
  grey = (image * jnp.array(_LUMA)).sum(-1, keepdims=True)
  return grey + (1 + 0.5 * severity) * (image - grey)


def _pixelate(key, image, severity):
  """Fewer, larger pixels: a side of 32 becomes 28, 24, … 12 pixels."""
  del key
  height, width, channels = image.shape
  share = 1 - severity / 8
  small = (max(1, round(height * share)), max(1, round(width * share)))
  # Antialiased: every pixel of the original counts.
  low = jax.image.resize(image, (*small, channels), 'linear')
  return jax.image.resize(low, image.shape, 'nearest')


def _jpeg_batch(key, images, ids, *, severity):
  """Quality 60 - 10 severity, through uint8."""
  del key, ids
  pixels = np.round(np.asarray(images) * 255).astype(np.uint8)
  out = np.empty(pixels.shape, np.uint8)
  for row, image in enumerate(pixels):
    grey = image.shape[-1] == 1
    file = io.BytesIO()
    Image.fromarray(image[..., 0] if grey else image).save(
      file, 'JPEG', quality=60 - 10 * severity
    )
    out[row] = np.asarray(Image.open(file)).reshape(image.shape)
  return jnp.asarray(out.astype(np.float32) / 255)


_PER_IMAGE: dict[str, Callable] = {
  'gaussian_noise': _gaussian_noise,
  'shot_noise': _shot_noise,
  'impulse_noise': _impulse_noise,
  'speckle_noise': _speckle_noise,
  'gaussian_blur': _gaussian_blur,
  'defocus_blur': _defocus_blur,
  'motion_blur': _motion_blur,
  'brightness': _brightness,
  'contrast': _contrast,
  'saturate': _saturate,
  'pixelate': _pixelate,
}
NAMES = (*_PER_IMAGE, 'jpeg')


def _scaled(image, pixels: float) -> float:
  return pixels * image.shape[0] / 32


def _blurred(image, kernel):
  """The image of each channel convolved; the edge pixels go on outside."""
  kernel = (kernel / kernel.sum()).astype(jnp.float32)
  radius = kernel.shape[0] // 2
  sides = ((radius, radius), (radius, radius), (0, 0))
  planes = jnp.pad(image, sides, 'edge').transpose(2, 0, 1)[:, None]
  # Without bf16 products on a TPU: the blur must not add noise.
  out = lax.conv_general_dilated(
    planes, kernel[None, None], (1, 1), 'VALID', precision='highest'
  )
  return out[:, 0].transpose(1, 2, 0)


def _check(images, ids) -> None:
  if images.ndim != 4 or images.shape[-1] not in (1, 3):
    raise ValueError(f'images are {images.shape}; give [b, h, w, 1 or 3]')
  if images.dtype != np.float32:
    raise ValueError(f'images are {images.dtype}; give float32 in [0, 1]')
  if ids.shape != images.shape[:1]:
    raise ValueError(
      f'ids are {ids.shape} beside images {images.shape}; give one an image'
    )
  if isinstance(images, jax.core.Tracer) or not images.size:
    return
  # Not by the minimum: XLA's on a CPU may pass over NaN.
  if not bool(((images >= 0) & (images <= 1)).all()):
    low, high = float(images.min()), float(images.max())
    raise ValueError(
      f'images lie in [{low:g}, {high:g}] or are NaN, not in [0, 1]; divide '
      'uint8 values by 255'
    )
