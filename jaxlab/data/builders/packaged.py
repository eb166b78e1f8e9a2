"""The base of jaxlab's own TFDS builders: sets made from pinned packages.

A set is a folder `builders/NAME/` with the class `Builder` in
`NAME_dataset_builder.py`. Images are given to TFDS as PNG bytes, so that
neither preparing nor reading needs TensorFlow.
"""

import importlib.util
import io
import pathlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image
from tqdm import tqdm

from jaxlab.data.packages import registry
from jaxlab.engine.errors import InputError

Read = Callable[[str], Iterator[dict[str, Any]]]  # split -> its examples


class Published(NamedTuple):
  """A figure that a prepared set must show."""

  value: float
  tolerance: float = 0.0


class PackagedBuilder(  # type: ignore[call-arg]
  tfds.core.GeneratorBasedBuilder, skip_registration=True
):
  """A set made from package files alone, without TensorFlow.

  A subclass gives `_info`, `_split_generators`, `_generate_examples` and, where
  something is known of the set, `measure` and `PUBLISHED`.
  """

  VERSION = tfds.core.Version('1.0.0')
  RELEASE_NOTES = {'1.0.0': 'First release.'}  # noqa: RUF012
  PACKAGES: ClassVar[tuple[registry.Package, ...]] = ()
  NEEDS: ClassVar[tuple[str, ...]] = ()  # modules of the extra `data`
  SUMMARY: ClassVar[str] = ''  # what it is, in a few words
  LICENCE: ClassVar[str] = ''  # of the data, in a few words
  TFDS_NAME: ClassVar[str] = ''  # where TFDS's own set has another name
  PUBLISHED: ClassVar[Mapping[str, Published]] = {}

  def __init_subclass__(cls, **kwargs):
    # TFDS has sets of the same names; ours are opened by module.
    super().__init_subclass__(**{'skip_registration': True, **kwargs})

  def __init__(self, *, offline: bool = False, **kwargs):
    super().__init__(**kwargs)
    self._offline = offline

  def fetch(self, package: registry.Package) -> pathlib.Path:
    """The file of one of PACKAGES."""
    return registry.fetch(package, offline=self._offline)

  def measure(self, read: Read) -> dict[str, float]:
    """Figures of the prepared set; those in PUBLISHED are compared with it."""
    del read
    return {}

  def check_needs(self) -> None:
    """Raises InputError where a module of NEEDS is not installed."""
    absent = [n for n in self.NEEDS if importlib.util.find_spec(n) is None]
    if absent:
      raise InputError(
        f'preparing {self.name} needs the Python module '
        f"{', '.join(absent)}: pip install 'jaxlab[data]'"
      )

  def progress(self, items: Iterable, total: int, what: str) -> Iterator:
    """The items, with a bar on stderr that tells the time left."""
    seldom = 0.2 if sys.stderr.isatty() else 10.0  # seconds; a log file is read
    return iter(
      tqdm(
        items,
        total=total,
        desc=f'{self.name} {what}',
        unit='',
        mininterval=seldom,
        delay=seldom,
        leave=False,
      )
    )


def encode_png(image: np.ndarray) -> bytes:
  """PNG of an image: [h, w] or [h, w, 1], [h, w, 3] or [h, w, 4] uint8."""
  if image.ndim == 3 and image.shape[-1] == 1:
    image = image[..., 0]
  buffer = io.BytesIO()
  Image.fromarray(image).save(buffer, 'PNG')
  return buffer.getvalue()


def provenance(*files: registry.Package) -> str:
  """A sentence for a set's description: what it was made from."""
  known = {'pypi': 'PyPI', 'npm': 'npm', 'debian': 'Debian'}
  made = '; '.join(
    f'{file.file} of {known[file.kind]} (sha256 {file.sha256})'
    for file in files
  )
  return f'Made from {made}.'
