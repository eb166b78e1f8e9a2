"""Patches of game textures: 32 by 32 pixels, as CIFAR-10's photographs."""

import io
import re
import zipfile
import zlib

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from jaxlab.data.builders import packaged
from jaxlab.data.packages import deb, registry
from jaxlab.data.text import documents
from jaxlab.engine.errors import InputError

OPENARENA = registry.Package(
  kind='debian',
  name='openarena-081-textures',
  version='0.8.5split-14',
  file='openarena-081-textures_0.8.5split-14_all.deb',
  sha256='72bf05abd5286a1523b56ca04e25bceb775813d747f92ecd20749d512361a81f',
  mebibytes=89.4,
  licence='GPL-2+',
)
MEMBER = 'usr/share/games/openarena/baseoa/pak4-textures.pk3'
SIDE = 32  # pixels of a patch
LEAST = 128  # pixels of both sides of a texture that is cut
FLAT = 0.02  # standard deviation of the values in [0, 1] of a flat patch

_DESCRIPTION = f"""\
Patches of {SIDE} by {SIDE} colour pixels cut from the textures of the game
OpenArena: walls, floors, skies and lights, of which few are photographs. They
show no object, and so serve as an out-of-distribution set for CIFAR-10. Of each
texture of {LEAST} pixels or more both ways, the top left corners of its four
quarters are taken, at full resolution; a flat patch (standard deviation below
{FLAT} of the full range) and a repeated patch are left out. `texture` is the
name of the file; folders are those of the game's levels, and no label. Split by
texture, names that differ in digits alone together, a tenth each for validation
and test, by a hash. {packaged.provenance(OPENARENA)}
"""

_LICENCE = """\
GNU General Public License, version 2 or later; the authors are in the package's
CREDITS.
"""

_CITATION = """\
@misc{openarena,
  title = {OpenArena},
  author = {{OpenArena Team}},
  howpublished = {Debian package openarena-081-textures},
  year = {2008}
}
"""


class Builder(packaged.PackagedBuilder):
  """Builds the set `textures` from one Debian package."""

  PACKAGES = (OPENARENA,)
  SUMMARY = '3,364 patches of game textures, 32×32 colour'
  LICENCE = 'GPL-2+'
  # Measured when the set was made; decoders of JPEG may differ a little.
  PUBLISHED = {  # noqa: RUF012
    'patches': packaged.Published(3_364, 20),
    'textures': packaged.Published(1_001, 5),
    'textures in two splits': packaged.Published(0),
    'mean red': packaged.Published(0.3036, 0.002),
    'mean green': packaged.Published(0.2607, 0.002),
    'mean blue': packaged.Published(0.2360, 0.002),
  }

  def measure(self, read):
    rows = {split: list(read(split)) for split in documents.SPLITS}
    names = [{row['texture'] for row in rows[split]} for split in rows]
    images = np.stack([row['image'] for s in rows for row in rows[s]])
    mean = images.mean((0, 1, 2)) / 255
    found: dict[str, float] = {
      f'{split} patches': len(rows[split]) for split in rows
    }
    return found | {
      'patches': len(images),
      'textures': len(set.union(*names)),
      'textures in two splits': sum(map(len, names)) - len(set.union(*names)),
      **{
        f'mean {colour}': float(value)
        for colour, value in zip(('red', 'green', 'blue'), mean)
      },
    }

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description=_DESCRIPTION,
      features=tfds.features.FeaturesDict(
        {
          'image': tfds.features.Image(shape=(SIDE, SIDE, 3)),
          'texture': tfds.features.Text(),
        }
      ),
      license=_LICENCE,
      citation=_CITATION,
      disable_shuffling=True,  # the patches of a texture are neighbours
    )

  def _split_generators(self, dl_manager):
    del dl_manager  # the package clients download; TFDS does not
    package = self.fetch(OPENARENA)
    pack = deb.read_files(package, [MEMBER])[MEMBER]
    patches = self._cut_all(pack, package)
    names = [name for name, _ in patches]
    families = [re.sub(r'\d+', '', name) for name in names]
    splits = documents.hold_out(families, str(package))
    return {
      split: self._generate_examples(
        [row for row, home in zip(patches, splits) if home == split]
      )
      for split in documents.SPLITS
    }

  def _generate_examples(self, patches):
    for key, (name, patch) in enumerate(patches):
      yield key, {'image': packaged.encode_png(patch), 'texture': name}

  def _cut_all(self, pack: bytes, package) -> list[tuple[str, np.ndarray]]:
    """Texture and patch of all that are kept, by name."""
    found, seen = [], set()
    try:
      with zipfile.ZipFile(io.BytesIO(pack)) as files:
        names = sorted(
          n for n in files.namelist() if n.lower().endswith(('.jpg', '.tga'))
        )
        for name in self.progress(names, len(names), 'textures'):
          for patch in cut(_decode(files.read(name), name)):
            if patch.std() >= FLAT * 255 and patch.tobytes() not in seen:
              seen.add(patch.tobytes())
              found.append((name.rpartition('.')[0], patch))
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
      raise InputError(f'{package}: {MEMBER} is damaged: {error}') from error
    return found


def cut(texture: np.ndarray) -> list[np.ndarray]:
  """The patches of a texture: [h, w, 3] uint8 -> [32, 32, 3] uint8 each."""
  height, width, _ = texture.shape
  if min(height, width) < LEAST:
    return []
  return [
    texture[top : top + SIDE, left : left + SIDE]
    for top in (0, height // 2)
    for left in (0, width // 2)
  ]


def _decode(data: bytes, name: str) -> np.ndarray:
  try:
    with Image.open(io.BytesIO(data), formats=['JPEG', 'TGA']) as image:
      return np.asarray(image.convert('RGB'))
  except (OSError, Image.DecompressionBombError) as error:
    raise InputError(f'texture {name} cannot be decoded: {error}') from error
