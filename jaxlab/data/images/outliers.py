"""Outliers: a few beside each example, and sets that are noise.

`Beside` is a source of ID examples with outliers in every row; `open_array`
reads any uint8 array, such as the 300,000 random images that stand in for the
withdrawn 80 million tiny ones.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from jaxlab.core.errors import InputError
from jaxlab.core.source import ArraySpec, Source
from jaxlab.data.images.pixels import resize

NOISES = ('uniform_noise', 'gaussian_noise')


class Beside:
  """Batches of one source, with `ratio` rows of another in each row.

  A batch has all arrays of `inliers`, and of `outliers`
    outlier: [b, ratio, h, w, c], its `image`
    outlier_id: [b, ratio] int32, its `id`.

  Args:
    inliers: batches of b rows.
    outliers: batches of b · ratio rows, without end.
    ratio: outliers a row, >= 1.

  Raises:
    InputError: batches that do not fit each other.
  """

  def __init__(self, inliers: Source, outliers: Source, ratio: int):
    self.inliers, self.outliers, self.ratio = inliers, outliers, ratio
    theirs = outliers.spec['train']
    self.spec = {}
    for kind, arrays in inliers.spec.items():
      rows = arrays['image'].shape[0]
      if ratio < 1 or theirs['image'].shape[0] != rows * ratio:
        raise InputError(
          f'{theirs["image"].shape[0]} outliers do not give {ratio} to each of '
          f'{rows} images'
        )
      if theirs['image'].shape[1:] != arrays['image'].shape[1:]:
        raise InputError(
          f'outliers are {theirs["image"].shape[1:]} and images are '
          f'{arrays["image"].shape[1:]}; give size= and channels='
        )
      shape = (rows, ratio, *theirs['image'].shape[1:])
      self.spec[kind] = {
        **arrays,
        'outlier': ArraySpec(shape, theirs['image'].dtype),
        'outlier_id': ArraySpec((rows, ratio), np.int32),
      }

  def kind(self, step: int) -> str:
    return self.inliers.kind(step)

  def batch(self, step: int, rows: slice) -> dict[str, np.ndarray]:
    """Rows `rows` of batch `step`, each with its own outliers."""
    found = self.inliers.batch(step, rows)
    size = self.spec[self.kind(step)]['image'].shape[0]
    start, stop, _ = rows.indices(size)
    wide = slice(start * self.ratio, stop * self.ratio)
    extra = self.outliers.batch(step, wide)
    count = len(found['id'])
    for name, theirs in (('outlier', 'image'), ('outlier_id', 'id')):
      array = extra[theirs]
      parts = array.reshape(stop - start, self.ratio, *array.shape[1:])
      found[name] = parts[:count]
    return found


def open_array(path: str, size: int, channels: int) -> np.ndarray:
  """A NumPy file of images, memory-mapped: [n, h, w, c] uint8.

  Args:
    path: of an `.npy` file, [n, h, w, 3], [n, h, w, 1] or [n, h, w].
    size: side that the images are brought to, if they have another.
    channels: 1 turns colours into grey, 3 repeats grey.

  Raises:
    InputError: it cannot be read, or holds no uint8 images.
  """
  try:
    images = np.load(Path(path).expanduser(), mmap_mode='r', allow_pickle=False)
  except (OSError, ValueError) as error:
    raise InputError(
      f'{path} cannot be read as an .npy array ({error})'
    ) from error
  if not isinstance(images, np.ndarray):
    raise InputError(f'{path} is an archive of arrays; give one .npy array')
  if images.ndim == 3:
    images = images[..., None]
  if images.dtype != np.uint8 or images.ndim != 4 or not len(images):
    raise InputError(
      f'{path} holds {images.dtype} {images.shape}; give uint8 images '
      '[n, h, w, c]'
    )
  if images.shape[3] not in (1, 3):
    raise InputError(f'{path} has {images.shape[3]} channels, not 1 or 3')
  if images.shape[1:3] == (size, size) and images.shape[3] == channels:
    return images
  return np.stack([_fitted(image, size, channels) for image in images])


def _fitted(image: np.ndarray, size: int, channels: int) -> np.ndarray:
  image = resize(np.asarray(image), (size, size), 'crop')
  if image.shape[2] == channels:
    return image
  if channels == 3:
    return image.repeat(3, 2)
  luma = image @ np.array([0.299, 0.587, 0.114])
  return np.rint(luma).astype(np.uint8)[..., None]


def noise(name: str, count: int, shape, seed: int = 0) -> np.ndarray:
  """[count, *shape] uint8 images that are noise.

  Args:
    name: `uniform_noise`: every value alike; `gaussian_noise`: mean .5,
      deviation 1 in units of [0, 1], clipped.
    count: number of images; image i is a function of (name, seed, i).

  Raises:
    InputError: an unknown name.
  """
  if name not in NOISES:
    raise InputError(f'"{name}" is not a noise; take {" or ".join(NOISES)}')
  size = int(np.prod(shape))
  stream = NOISES.index(name)
  images = np.empty((count, size), np.uint8)
  for i in range(count):
    draw = np.random.default_rng([seed, stream, i])
    if stream == 0:
      images[i] = draw.integers(0, 256, size)
    else:
      pixels = np.clip(0.5 + draw.standard_normal(size), 0, 1)
      images[i] = np.rint(255 * pixels)
  return images.reshape(count, *shape)


def balance(
  images: np.ndarray, labels: np.ndarray, per_class: int, seed: int = 0
) -> Mapping[str, np.ndarray]:
  """As many images of every class: what is missing is made of what is there.

  Images of a class in their order, again and again; from the second time on
  they are rotated by up to 15 degrees, moved by up to 2.5 pixels and warped
  projectively (corners by up to .8 of 2.5 pixels).

  Args:
    images: [n, h, w, c] uint8.
    labels: [n] int32.
    per_class: images of each class in the result, 10,000 in ALOE's GTSRB.
    seed: of the changes.

  Returns:
    image [classes · per_class, h, w, c] uint8 and label int32, class by class.

  Raises:
    InputError: no images, or a class without any below the largest.

  Source: aloe, GTSRB's preparation (the sizes of its changes; how the corners
  are drawn is ours).
  """
  from PIL import Image

  if per_class < 1 or not len(images):
    raise InputError(
      f'{len(images)} images cannot be balanced to {per_class} a class'
    )
  height, width = images.shape[1:3]
  found, names = [], []
  for label in range(int(labels.max()) + 1):
    own = np.flatnonzero(labels == label)
    if not len(own):
      raise InputError(f'class {label} has no images to balance with')
    for i in range(per_class):
      image = np.asarray(images[own[i % len(own)]])
      if i >= len(own):
        draw = np.random.default_rng([seed, label, i])
        flat = image[..., 0] if image.shape[2] == 1 else image
        warped = Image.fromarray(flat).transform(
          (width, height),
          Image.Transform.PERSPECTIVE,
          _projection(draw, height, width),
          Image.Resampling.BILINEAR,
        )
        image = np.asarray(warped).reshape(image.shape)
      found.append(image)
      names.append(label)
  return {'image': np.stack(found), 'label': np.array(names, np.int32)}


def _projection(draw, height: int, width: int) -> tuple[float, ...]:
  """Pillow's eight coefficients of a random projective map."""
  corners = np.array(
    [[0, 0], [width, 0], [width, height], [0, height]], np.float64
  )
  middle = np.array([width, height]) / 2
  angle = np.deg2rad(draw.uniform(-15, 15))
  turn = np.array(
    [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
  )
  moved = (corners - middle) @ turn.T + middle
  moved += draw.uniform(-2.5, 2.5, 2) + draw.uniform(-2, 2, (4, 2))
  rows = []
  for (x, y), (u, v) in zip(corners, moved):
    rows.append([x, y, 1, 0, 0, 0, -u * x, -u * y])
    rows.append([0, 0, 0, x, y, 1, -v * x, -v * y])
  return tuple(np.linalg.solve(np.array(rows), moved.reshape(-1)))
