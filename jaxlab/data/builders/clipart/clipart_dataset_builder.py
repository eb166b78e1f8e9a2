"""Clip art in thirteen classes, on white."""

import collections
import io
import re
import struct
from collections.abc import Iterable

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image, ImageOps

from jaxlab.core.errors import InputError
from jaxlab.data import atomic
from jaxlab.data.builders import packaged
from jaxlab.data.packages import deb, registry
from jaxlab.data.text import documents

OPENCLIPART = registry.Package(
  kind='debian',
  name='openclipart-png',
  version='1:0.18+dfsg-19',
  file='openclipart-png_1%3a0.18+dfsg-19_all.deb',
  sha256='f07f1545a2970c2cf3fa339bc2405da1a95cf2b1827bfa05bf73eb1c20291c02',
  mebibytes=124.8,
  licence='public domain',
)
ROOT = 'usr/share/openclipart/png/'
FILES = 6_900  # of the package, links not counted
SIDE = 64  # pixels of an image
MOST = 64 * 2**20  # pixels of an image that is decoded
LONG = 100  # images of a series that is never held out
UNLABELLED = 'unlabelled'
NAMES = (  # folders of 60 images or more whose name says what they show
  *('animals', 'buildings', 'computer', 'food', 'geography', 'office'),
  *('people', 'plants', 'recreation', 'shapes', 'signs_and_symbols', 'tools'),
  'transportation',
)


class Builder(packaged.PackagedBuilder):
  """Builds the set `clipart` from one Debian package."""

  PACKAGES = (OPENCLIPART,)
  SUMMARY = '6,885 drawings, 13 classes, 64×64 colour'
  LICENCE = 'public domain'
  FEATURES = {  # noqa: RUF012
    'image': tfds.features.Image(shape=(SIDE, SIDE, 3)),
    'label': tfds.features.ClassLabel(names=NAMES),
    'file': tfds.features.Text(),
  }
  SUPERVISED = ('image', 'label')
  METADATA = True
  PUBLISHED = {  # noqa: RUF012
    'images': packaged.Published(FILES - 15),  # 15 are too large
    'classes': packaged.Published(13),
  }

  def measure(self, read):
    splits = (*packaged.SPLITS, UNLABELLED)
    rows = {split: list(read(split)) for split in splits}
    return packaged.counts(rows, 'images') | {
      'images': sum(map(len, rows.values())),
      'classes': len({int(row['label']) for row in rows['train']}),
      'smallest train class': packaged.smallest(rows['train']),
      'smallest test class': packaged.smallest(rows['test']),
    }

  def rows(self):
    package = self.fetch(OPENCLIPART)
    found = deb.read_members(
      package,
      lambda name: name.startswith(ROOT) and name.endswith('.png'),
      skip_links=True,
    )
    images, left_out = draw_all(self.progress(found, 'images', FILES))
    self.info.metadata['left_out'] = left_out
    if left_out:
      atomic.note(
        f'clipart: {len(left_out)} images are left out, too large or damaged; '
        f'metadata.json of the set says why: {", ".join(left_out)}'
      )
    return {
      split: [
        {'image': images[file], 'label': label_of(file), 'file': file}
        for file in files
      ]
      for split, files in split_files(sorted(images)).items()
    }


def label_of(file: str) -> int:
  """The place of a file's folder in NAMES; -1 where it is not there."""
  folder = file.partition('/')[0]
  return NAMES.index(folder) if folder in NAMES else -1


def draw_all(
  files: Iterable[tuple[str, bytes]],
) -> tuple[dict[str, bytes], dict[str, str]]:
  """File -> PNG of its image; file -> why it is left out."""
  images, left_out = {}, {}
  for name, data in files:
    file = name.removeprefix(ROOT)
    try:
      images[file] = packaged.encode_png(draw(data))
    except InputError as error:
      left_out[file] = str(error)
  return images, left_out


def draw(data: bytes) -> np.ndarray:
  """[64, 64, 3] uint8: an image on white, in the middle.

  Raises:
    InputError: it is too large or cannot be decoded.
  """
  # Read from the header, so that nothing huge is ever opened.
  size = struct.unpack('>II', data[16:24]) if len(data) >= 24 else (0, 0)
  if size[0] * size[1] > MOST:
    raise InputError(
      f'it has {size[0]} by {size[1]} pixels, more than {MOST:,}'
    )
  try:
    with Image.open(io.BytesIO(data), formats=['PNG']) as image:
      drawing = ImageOps.contain(image.convert('RGBA'), (SIDE, SIDE))
  except (OSError, SyntaxError, ValueError) as error:
    raise InputError(f'it cannot be decoded: {error}') from error
  canvas = Image.new('RGBA', (SIDE, SIDE), 'white')
  place = ((SIDE - drawing.width) // 2, (SIDE - drawing.height) // 2)
  canvas.alpha_composite(drawing, place)
  return np.asarray(canvas.convert('RGB'))


def split_files(files: list[str]) -> dict[str, list[str]]:
  """Split -> its files; a split of its own for folders without a label."""
  splits: dict[str, list[str]] = {s: [] for s in (*packaged.SPLITS, UNLABELLED)}
  for name in NAMES:
    own = [file for file in files if file.startswith(f'{name}/')]
    series = [re.sub(r'\d+', '', file) for file in own]
    sizes = collections.Counter(series)
    short = [key for key in series if sizes[key] <= LONG]
    held = dict(zip(short, documents.hold_out(short, f'the folder {name}')))
    for file, key in zip(own, series):
      splits[held.get(key, 'train')].append(file)
  splits[UNLABELLED] = [file for file in files if label_of(file) < 0]
  return splits
