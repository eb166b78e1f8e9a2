"""Encoded images to uint8 arrays, as they are or on a canvas of one size.

Pillow decodes; neither TensorFlow nor OpenCV is needed.
"""

import io
import struct
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from jaxlab.core.errors import InputError

BACKGROUND = 255  # white: behind what is transparent, and around `pad`
# Others are refused: Pillow hands some of them to outside programs.
FORMATS = ('PNG', 'JPEG', 'TIFF', 'GIF', 'BMP', 'PPM', 'WEBP')
Channels = Literal[1, 3]
Fit = Literal['crop', 'pad', 'stretch']

_ORIENTATION = 274  # EXIF tag
_CLEAR = 'transparency'  # a colour of its own, in Pillow's notes
# What Pillow refuses where it is long, and no pixel needs.
_TEXTS = (b'iCCP', b'tEXt', b'zTXt', b'iTXt')


def decode(
  data: bytes, *, channels: Channels | None = None, what: str = 'an image'
) -> np.ndarray:
  """One encoded image as an array.

  Transparent pixels, of RGBA, grey with alpha or a palette, are laid on white.
  CMYK and YCbCr become RGB by Pillow's formulas, without colour profiles. Of
  9- to 16-bit values the higher byte of the scaled value is kept; 1-bit values
  become 0 and 255. Colour becomes grey as 0.299 R + 0.587 G + 0.114 B. The EXIF
  orientation is applied, as by a viewer (TFDS's and torchvision's decoders
  leave it). Of several frames or pages the first is read.

  Args:
    data: one of `FORMATS`.
    channels: 3 or 1; None keeps grey images (1-bit, 8-bit, 16-bit, with or
      without alpha) at 1 and makes all others 3.
    what: the image's name in messages.

  Returns:
    [h, w, c] uint8, read-only.

  Raises:
    InputError: the bytes are truncated or no image of a known format, the image
      has more pixels than Pillow's MAX_IMAGE_PIXELS, or values of 32 bits.
  """
  return _array(_open(data, channels, what))


def resize(
  image: np.ndarray, size: tuple[int, int], fit: Fit = 'crop'
) -> np.ndarray:
  """An image on a canvas of a fixed size.

  Bilinear, with a support that grows as the image shrinks, so that nothing is
  aliased. An image of that size already stays as it is.

  Args:
    image: [h, w, c] uint8, c 1 or 3.
    size: (height, width) of the canvas.
    fit: `crop` scales until the image just covers the canvas and keeps its
      centre; `pad` scales until it just fits in and centres it on white;
      `stretch` scales each side for itself.

  Returns:
    [*size, c] uint8, read-only.
  """
  mode = {1: 'L', 3: 'RGB'}[image.shape[-1]]
  shape = image.shape[1], image.shape[0]
  return _array(_fit(Image.frombytes(mode, shape, image.tobytes()), size, fit))


class Canvas:
  """Decodes every image to one shape.

  Args:
    size: of the canvas, a side or (height, width); None leaves each image its
      own size, and the canvas without a shape.
    channels: see `decode`.
    fit: see `resize`.

  Raises:
    InputError: an argument is out of range.
  """

  def __init__(
    self,
    size: int | tuple[int, int] | None,
    channels: Channels | None = 3,
    fit: Fit = 'crop',
  ):
    self.size, self.channels, self.fit = _pair(size), channels, fit
    if channels not in (1, 3, None):
      raise InputError(f'channels={channels} must be 1, 3 or None')
    if fit not in ('crop', 'pad', 'stretch'):
      raise InputError(f'fit={fit!r} must be crop, pad or stretch')

  @property
  def shape(self) -> tuple[int, int, int]:
    """Of every image: height, width, channels.

    Raises:
      InputError: size or channels are left to each image.
    """
    if self.size is None or self.channels is None:
      raise InputError(
        f'size={self.size}, channels={self.channels}: batches need images of '
        f'one shape, so give both'
      )
    return *self.size, self.channels

  def __call__(self, data: bytes, what: str) -> np.ndarray:
    """[*shape] uint8, read-only. Raises InputError as `decode`."""
    picture = _open(data, self.channels, what)
    if self.size is not None:
      picture = _fit(picture, self.size, self.fit)
    return _array(picture)


def _pair(size: Any) -> tuple[int, int] | None:
  if size is None:
    return None
  sides = tuple(size) if isinstance(size, (tuple, list)) else (size, size)
  if len(sides) != 2 or not all(isinstance(s, int) and s > 0 for s in sides):
    raise InputError(f'size={size} must be one or two positive integers')
  return sides


def _open(data: bytes, channels: int | None, what: str) -> Image.Image:
  """A decoded image of mode L or RGB."""
  try:
    picture: Image.Image = _read(data)
    _check_size(picture)
    raw = _raw_mode(picture)
    picture.load()
    if raw == 'LA;16B':  # grey, which Pillow makes RGBA
      picture = picture.convert('LA')
    elif raw == 'RGB;16B' and isinstance(picture.info.get(_CLEAR), tuple):
      clear = tuple(value >> 8 for value in picture.info[_CLEAR])
      picture.info[_CLEAR] = clear
    if not picture.info and picture.mode == ('L' if channels == 1 else 'RGB'):
      return picture
    return _convert(_upright(picture), channels)
  except MemoryError:
    raise
  except Exception as error:
    # No list says what a decoder may raise on bytes that are not an image.
    why = str(error) or type(error).__name__
    if isinstance(error, UnidentifiedImageError):  # names an address
      why = f'its {len(data)} bytes are none of these, or its head is damaged'
    raise InputError(
      f'{what} does not decode as {", ".join(FORMATS)} ({why}): replace or '
      f'remove it'
    ) from error


def _read(data: bytes) -> Image.Image:
  try:
    return Image.open(io.BytesIO(data), formats=FORMATS)
  except ValueError as error:
    if 'MAX_TEXT' not in str(error):
      raise
    return Image.open(io.BytesIO(_without_texts(data)), formats=FORMATS)


def _without_texts(png: bytes) -> bytes:
  """A PNG without its texts and its colour profile."""
  kept, at = [png[:8]], 8
  while at + 8 <= len(png):
    (length,) = struct.unpack('>I', png[at : at + 4])
    end = at + 12 + length
    if png[at + 4 : at + 8] not in _TEXTS:
      kept.append(png[at:end])
    at = end
  return b''.join(kept)


def _raw_mode(picture: Image.Image) -> str:
  """How a PNG stores its pixels; '' for other files."""
  tile = getattr(picture, 'tile', ())
  return str(tile[0][3]) if picture.format == 'PNG' and tile else ''


def _check_size(picture: Image.Image) -> None:
  """Pillow itself only warns up to twice its limit."""
  limit = Image.MAX_IMAGE_PIXELS
  if limit is not None and picture.width * picture.height > limit:
    raise ValueError(
      f'its {picture.width} x {picture.height} pixels are more than '
      f'PIL.Image.MAX_IMAGE_PIXELS, {limit}, allows'
    )


def _upright(picture: Image.Image) -> Image.Image:
  if not {'exif', 'Raw profile type exif'} & {*picture.info}:
    return picture
  try:
    turned = picture.getexif().get(_ORIENTATION, 1) != 1
  except Exception:
    return picture  # a sound image, beside which a camera wrote nonsense
  return ImageOps.exif_transpose(picture) if turned else picture


def _convert(picture: Image.Image, channels: int | None) -> Image.Image:
  wide = picture.mode.startswith('I;16')
  if picture.mode == 'I' and picture.format == 'PPM':
    wide = True  # Pillow has scaled its 9 to 16 bits to 16
  elif picture.mode in ('I', 'F') or picture.mode.startswith('I;32'):
    raise ValueError('its values of 32 bits have no known range')
  if wide:
    values = np.asarray(picture).astype(np.uint16)
    clear = picture.info.get(_CLEAR)
    bright = np.where(values == clear, BACKGROUND, values >> 8)
    picture = Image.fromarray(bright.astype(np.uint8))
  grey = picture.mode in ('1', 'L', 'LA', 'La')
  if picture.has_transparency_data:
    picture = picture.convert('RGBA')
    white = Image.new('RGBA', picture.size, (BACKGROUND,) * 4)
    picture = Image.alpha_composite(white, picture).convert('RGB')
  elif picture.mode not in ('1', 'L', 'RGB'):
    picture = picture.convert('RGB')
  wanted = 'L' if channels == 1 or (channels is None and grey) else 'RGB'
  return picture if picture.mode == wanted else picture.convert(wanted)


def _fit(picture: Image.Image, size: tuple[int, int], fit: Fit) -> Image.Image:
  height, width = size
  if picture.size == (width, height):
    return picture
  bilinear = Image.Resampling.BILINEAR
  if fit == 'stretch':
    return picture.resize((width, height), bilinear)
  if fit == 'crop':  # only what is kept is scaled
    return ImageOps.fit(picture, (width, height), bilinear)
  scale = min(width / picture.width, height / picture.height)
  inside = (
    max(1, min(width, round(picture.width * scale))),
    max(1, min(height, round(picture.height * scale))),
  )
  white = (BACKGROUND,) * len(picture.getbands())
  page = Image.new(picture.mode, (width, height), white)
  corner = (width - inside[0]) // 2, (height - inside[1]) // 2
  page.paste(picture.resize(inside, bilinear), corner)
  return page


def _array(picture: Image.Image) -> np.ndarray:
  # np.asarray asks Pillow for the same bytes, by a slower way.
  pixels = np.frombuffer(picture.tobytes(), np.uint8)
  return pixels.reshape(picture.height, picture.width, -1)
