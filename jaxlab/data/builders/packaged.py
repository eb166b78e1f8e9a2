"""The base of jaxlab's own TFDS builders: sets made from pinned packages.

A set is a folder `builders/NAME/` with the class `Builder` in
`NAME_dataset_builder.py` and, where TFDS looks for them, its description in
README.md and its citation in CITATIONS.bib. LICENCE.txt says more than the
builder's `LICENCE`, where there is more to say. Images are given to TFDS as PNG
bytes, so that neither preparing nor reading needs TensorFlow.
"""

import copy
import importlib.util
import inspect
import io
import json
import pathlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image
from tqdm import tqdm

from jaxlab.core.errors import InputError
from jaxlab.data.graphs.adjacency import adjacency, homophily
from jaxlab.data.packages import archives, registry
from jaxlab.data.text import documents

Read = Callable[[str], Iterator[dict[str, Any]]]  # split -> its examples
Rows = Mapping[str, Sequence[Mapping[str, Any]]]  # the same, read
SPLITS = documents.SPLITS
TEXTS = tfds.features.Sequence(tfds.features.Text())


class Published(NamedTuple):
  """A figure that a prepared set must show."""

  value: float
  tolerance: float = 0.0


class PackagedBuilder(  # type: ignore[call-arg]
  tfds.core.GeneratorBasedBuilder, skip_registration=True
):
  """A set made from package files alone, without TensorFlow.

  A subclass gives FEATURES, `rows` and, where something is known of the set,
  `measure` and PUBLISHED.
  """

  VERSION = tfds.core.Version('1.0.0')
  RELEASE_NOTES = {'1.0.0': 'First release.'}  # noqa: RUF012
  FEATURES: ClassVar[dict[str, Any]] = {}  # name -> TFDS's feature
  SUPERVISED: ClassVar[tuple[str, str] | None] = None  # input, target
  SHUFFLED: ClassVar[bool] = False  # else in the order of `rows`
  METADATA: ClassVar[bool] = False  # `rows` fills self.info.metadata
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

  def rows(self) -> Mapping[str, Iterable[dict[str, Any]]]:
    """Split -> its examples; an `image` is its PNG or an array of uint8.

    Raises:
      InputError: a package cannot be had or is not as it should be.
    """
    raise NotImplementedError

  def measure(self, read: Read) -> dict[str, float]:
    """Figures of the prepared set; those in PUBLISHED are compared with it."""
    del read
    return {}

  def fetch(self, package: registry.Package) -> pathlib.Path:
    """The file of one of PACKAGES."""
    return registry.fetch(package, offline=self._offline)

  def check_needs(self) -> None:
    """Raises InputError where a module of NEEDS is not installed."""
    absent = [n for n in self.NEEDS if importlib.util.find_spec(n) is None]
    if absent:
      raise InputError(
        f'preparing {self.name} needs the Python module '
        f"{', '.join(absent)}: pip install 'jaxlab[data]'"
      )

  def progress(
    self, items: Iterable, what: str, total: int | None = None
  ) -> Iterator:
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

  def _info(self) -> tfds.core.DatasetInfo:
    about = self.get_metadata()
    made = _provenance(self.PACKAGES) if self.PACKAGES else ''
    source = pathlib.Path(inspect.getfile(type(self)))
    text = source.with_name('LICENCE.txt')
    return tfds.core.DatasetInfo(
      builder=self,
      description=f'{about.description}{made}',
      # Preparing names the classes of some.
      features=tfds.features.FeaturesDict(copy.deepcopy(self.FEATURES)),
      supervised_keys=self.SUPERVISED,
      license=text.read_text('utf-8') if text.exists() else self.LICENCE,
      citation=about.citation,
      metadata=tfds.core.MetadataDict() if self.METADATA else None,
      disable_shuffling=not self.SHUFFLED,
    )

  def _split_generators(self, dl_manager):
    del dl_manager  # the package clients download; TFDS does not
    return {
      split: self._generate_examples(rows)
      for split, rows in self.rows().items()
    }

  def _generate_examples(self, rows):
    for key, row in enumerate(rows):
      if isinstance(image := row.get('image'), np.ndarray):
        row = row | {'image': encode_png(image)}
      yield key, row


class GraphBuilder(PackagedBuilder):
  """A set of one graph, the only example of the split `graph`.

  A subclass gives `graph` and the rest of FEATURES.
  """

  FEATURES: ClassVar[dict[str, Any]] = {
    'edges': tfds.features.Tensor(shape=(None, 2), dtype=np.int32),
    'label': tfds.features.Tensor(shape=(None,), dtype=np.int32),
    'split': tfds.features.Tensor(shape=(None,), dtype=np.int8),
    'class_name': TEXTS,
  }
  SHUFFLED = True  # one example

  def graph(self) -> dict[str, Any]:
    """The example; `edges` has each edge once.

    Raises:
      InputError: as `rows`.
    """
    raise NotImplementedError

  def rows(self):
    return {'graph': [self.graph()]}

  def measure(self, read):
    (row,) = read('graph')
    return {
      'nodes': len(row['label']),
      'undirected edges': len(row['edges']),
      'edge homophily': homophily(row['edges'], row['label']),
      'isolated nodes': adjacency(row['edges'], len(row['label'])).isolated,
    }


def encode_png(image: np.ndarray) -> bytes:
  """PNG of an image: [h, w] or [h, w, 1], [h, w, 3] or [h, w, 4] uint8."""
  if image.ndim == 3 and image.shape[-1] == 1:
    image = image[..., 0]
  buffer = io.BytesIO()
  Image.fromarray(image).save(buffer, 'PNG')
  return buffer.getvalue()


def read_list(archive: pathlib.Path, member: str, count: int, of: str) -> list:
  """A list in JSON of `count` of something, a member of an archive.

  Raises:
    InputError: it is absent, or something else.
  """
  data = archives.read_member(archive, member)
  try:
    found = json.loads(data)
  except ValueError as error:
    raise InputError(f'{archive}: {member} is not JSON: {error}') from error
  if not isinstance(found, list) or len(found) != count:
    raise InputError(f'{archive}: {member} is not a list of {count} {of}')
  return found


def hold_out(
  rows: Sequence, families: list[str], of: object
) -> dict[str, list]:
  """Split -> its rows; those of one family stay together.

  Raises:
    InputError: there are too few families.
  """
  splits: dict[str, list] = {split: [] for split in SPLITS}
  for row, home in zip(rows, documents.hold_out(families, str(of))):
    splits[home].append(row)
  return splits


def moments(images: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
  """Mean and standard deviation of each channel, in [0, 1].

  Args:
    images: each [h, w, c] uint8.

  Returns:
    [c] and [c] float64.
  """
  pixels: Any = 0  # [c, 256], how many have each value
  for image in images:
    channels = image.reshape(-1, image.shape[-1]).T
    pixels += np.stack([np.bincount(x, minlength=256) for x in channels])
  levels, sizes = np.arange(256) / 255, pixels.sum(1)
  mean = pixels @ levels / sizes
  return mean, np.sqrt(pixels @ levels**2 / sizes - mean**2)


def smallest(rows: Iterable[dict[str, Any]]) -> int:
  """The size of the smallest class of the examples."""
  return int(np.bincount([row['label'] for row in rows]).min())


def counts(rows: Rows, what: str, group: str = '') -> dict[str, float]:
  """Sizes of splits; of a field the number of values and of repeated ones."""
  found: dict[str, float] = {f'{s} {what}': len(rows[s]) for s in rows}
  if group:
    values = {row[group] for own in rows.values() for row in own}
    found[f'{group}s'] = len(values)
    found[f'{group}s in two splits'] = repeated(rows, group)
  return found


def repeated(rows: Rows, group: str) -> int:
  """How many values of a field are in more than one split."""
  homes = [{row[group] for row in own} for own in rows.values()]
  return sum(map(len, homes)) - len(set().union(*homes))


def _provenance(files: Sequence[registry.Package]) -> str:
  """A sentence for a set's description: what it was made from."""
  known = {'pypi': 'PyPI', 'npm': 'npm', 'debian': 'Debian'}
  made = '; '.join(
    f'{file.file} of {known[file.kind]} (sha256 {file.sha256})'
    for file in files
  )
  return f'Made from {made}.'
