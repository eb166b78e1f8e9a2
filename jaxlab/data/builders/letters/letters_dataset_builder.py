"""Letters A to J in display fonts, drawn as small as MNIST's digits."""

import io

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image, ImageDraw, ImageFont

from jaxlab.core.errors import InputError
from jaxlab.data.builders import packaged
from jaxlab.data.packages import deb, registry

FONTS_AENIGMA = registry.Package(
  kind='debian',
  name='fonts-aenigma',
  version='0.0.20080511+dfsg-4',
  file='fonts-aenigma_0.0.20080511+dfsg-4_all.deb',
  sha256='c7f33a4e5932af82a92c81a5a993a1d117c4309b47532cb0d9c3ad34bc54f5a8',
  mebibytes=7.0,
  licence='free to use, change and pass on, with credit to Brian Kent',
)
LETTERS = 'ABCDEFGHIJ'
SIDE = 28  # pixels of an image
BOX = 26  # pixels that a letter may fill
SIZE = 64  # pixels of the font before it is shrunk
FAMILY = 5  # first letters of a font's name that make its family
# Drawn alike though their names begin otherwise.
FAMILIES = {'binx01s': 'bin01st', 'binxchr': 'binchrt'}


class Builder(packaged.PackagedBuilder):
  """Builds the set `letters` from one Debian package."""

  PACKAGES = (FONTS_AENIGMA,)
  SUMMARY = '4,650 letters A–J in 465 display fonts, 28×28 grey'
  LICENCE = 'free with credit to the author'
  FEATURES = {  # noqa: RUF012
    'image': tfds.features.Image(shape=(SIDE, SIDE, 1)),
    'label': tfds.features.ClassLabel(names=LETTERS),
    'font': tfds.features.Text(),
  }
  SUPERVISED = ('image', 'label')
  PUBLISHED = {  # noqa: RUF012
    'images': packaged.Published(4_650),
    'fonts': packaged.Published(465),
    'fonts in two splits': packaged.Published(0),
    # Measured when the set was made; FreeType may differ a little.
    'mean': packaged.Published(0.2607, 0.005),
  }

  def measure(self, read):
    rows = {split: list(read(split)) for split in packaged.SPLITS}
    mean, _ = packaged.moments(row['image'] for s in rows for row in rows[s])
    return packaged.counts(rows, 'images', 'font') | {
      'images': sum(map(len, rows.values())),
      'mean': float(mean[0]),
    }

  def rows(self):
    package = self.fetch(FONTS_AENIGMA)
    fonts = read_fonts(package)
    families = [FAMILIES.get(name, name)[:FAMILY] for name in fonts]
    splits = packaged.hold_out([*fonts.items()], families, package)
    return {split: self._draw(own, split) for split, own in splits.items()}

  def _draw(self, fonts, split):
    for name, data in self.progress(fonts, f'{split} fonts'):
      for label, letter in enumerate(LETTERS):
        image = draw(data, letter, name)
        yield {'image': image, 'label': label, 'font': name}


def read_fonts(package) -> dict[str, bytes]:
  """Name without `.ttf` -> TrueType file, by name."""
  found = deb.read_members(package, lambda name: name.endswith('.ttf'))
  fonts = {
    name.rpartition('/')[2].removesuffix('.ttf'): data for name, data in found
  }
  return dict(sorted(fonts.items()))


def draw(font: bytes, letter: str, name: str) -> np.ndarray:
  """[28, 28] uint8: a letter in the middle, 255 where there is ink."""
  try:
    # The basic layout: what Raqm would do depends on what is installed.
    face = ImageFont.truetype(
      io.BytesIO(font), SIZE, layout_engine=ImageFont.Layout.BASIC
    )
    left, top, right, bottom = map(int, face.getbbox(letter))
  except OSError as error:
    raise InputError(f'font {name} cannot be drawn: {error}') from error
  if right <= left or bottom <= top:
    raise InputError(f'font {name} has no letter {letter}')
  glyph = Image.new('L', (right - left, bottom - top))
  ImageDraw.Draw(glyph).text((-left, -top), letter, 255, face)
  glyph.thumbnail((BOX, BOX))
  image = Image.new('L', (SIDE, SIDE))
  place = ((SIDE - glyph.width) // 2, (SIDE - glyph.height) // 2)
  image.paste(glyph, place)
  return np.asarray(image)
