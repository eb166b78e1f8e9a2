"""Patches of game textures: 32 by 32 pixels, as CIFAR-10's photographs."""

import io
import re
import zipfile
import zlib
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from jaxlab.core.errors import InputError
from jaxlab.data.builders import packaged
from jaxlab.data.packages import deb, registry

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


class Builder(packaged.PackagedBuilder):
  """Builds the set `textures` from one Debian package."""

  PACKAGES = (OPENARENA,)
  SUMMARY = '3,364 patches of game textures, 32×32 colour'
  LICENCE = 'GPL-2+'
  FEATURES = {  # noqa: RUF012
    'image': tfds.features.Image(shape=(SIDE, SIDE, 3)),
    'texture': tfds.features.Text(),
  }
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
    rows = {split: list(read(split)) for split in packaged.SPLITS}
    mean, _ = packaged.moments(row['image'] for s in rows for row in rows[s])
    return packaged.counts(rows, 'patches', 'texture') | {
      'patches': sum(map(len, rows.values())),
      **{f'mean {c}': float(x) for c, x in zip(('red', 'green', 'blue'), mean)},
    }

  def rows(self):
    package = self.fetch(OPENARENA)
    pack = deb.read_files(package, [MEMBER])[MEMBER]
    rows = self._cut_all(pack, package)
    families = [re.sub(r'\d+', '', row['texture']) for row in rows]
    return packaged.hold_out(rows, families, package)

  def _cut_all(self, pack: bytes, package) -> list[dict[str, Any]]:
    """The examples of all patches that are kept, by texture."""
    found, seen = [], set()
    try:
      with zipfile.ZipFile(io.BytesIO(pack)) as files:
        names = sorted(
          n for n in files.namelist() if n.lower().endswith(('.jpg', '.tga'))
        )
        for name in self.progress(names, 'textures'):
          for patch in cut(_decode(files.read(name), name)):
            if patch.std() >= FLAT * 255 and patch.tobytes() not in seen:
              seen.add(patch.tobytes())
              texture = name.rpartition('.')[0]
              found.append({'image': patch, 'texture': texture})
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
