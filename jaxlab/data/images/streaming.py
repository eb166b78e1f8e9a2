"""Labelled images as stored records, read by index and decoded on the way.

`open_records(name, split)` knows
  image_folder:PATH  folders of classes, see `files`;
  rvl_cdip:PATH      RVL-CDIP as published, see `files`;
  split_csv:PATH     lists of splits, see `files`;
  any other          a TFDS set with an image and a ClassLabel feature.
Nothing is decoded before it is asked for. `RecordSource` makes batches of
records, for sets that are too large for `arrays.open_images`.
"""

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

import numpy as np

from jaxlab.data import array_records, handover
from jaxlab.data.images import files
from jaxlab.data.images.pixels import Canvas
from jaxlab.data.in_memory import Indexed

_BLOCK = 128  # records read together
_Result = TypeVar('_Result')


class Records(Protocol):
  """Encoded images and their labels, by index; picklable."""

  name: str
  split: str
  classes: tuple[str, ...]
  fingerprint: str  # changes whenever a record may have changed

  def __len__(self) -> int: ...

  def read(self, indices: Sequence[int]) -> tuple[list[bytes], np.ndarray]:
    """Encoded images, and labels [n] int32 in [0, len(classes))."""
    ...

  def describe(self, index: int) -> str:
    """One record's name in messages."""
    ...


def open_records(
  name: str,
  split: str,
  *,
  image: str = 'image',
  label: str = 'label',
  offline: bool = False,
) -> Records:
  """Opens a labelled image set; see the module's docstring for the names.

  Args:
    name: `image_folder:PATH`, `rvl_cdip:PATH`, `split_csv:PATH` or a TFDS
      name.
    split: `train`, `validation` or `test`; of a TFDS set any of its splits or
      a slice, `train[:10%]`.
    image: of a TFDS set, the feature that holds an encoded image.
    label: of a TFDS set, the ClassLabel feature; '' takes its images alone,
      with the label 0.
    offline: never open a socket.

  Raises:
    InputError: the set cannot be had or is malformed, or lacks the split or a
      feature; in `read`, a record that cannot be read or whose label is
      outside of the classes.
  """
  kind, _, path = name.partition(':')
  if kind in files.KINDS:
    return files.open_files(kind, path, split)
  return array_records.open_array_records(name, split, image, label, offline)


class RecordSource(Indexed):
  """Decoded records as a `jaxlab.core.source.Source`.

  The arrays of a batch of b rows:
    image: [b, *decoder.shape] uint8.
    label: [b] int32 in [0, len(records.classes)).
    id: [b] int32, the record's index in its split.

  Args:
    records: of `open_records`.
    decoder: of one record's bytes.
    more: batch_size, kind and order, see `in_memory.Indexed`.

  Raises:
    InputError: an argument is out of range; in `batch`, a record that cannot
      be read or decoded.
  """

  def __init__(self, records: Records, decoder: Canvas, **more: Any):
    self.records, self.decoder = records, decoder
    rows = {'image': (decoder.shape, np.uint8), 'label': ((), np.int32)}
    super().__init__(len(records), rows, **more)

  def _gather(self, index: np.ndarray) -> dict[str, np.ndarray]:
    places = index.tolist()
    encoded, label = self.records.read(places)
    image = handover.empty((len(index), *self.decoder.shape))
    for row, place, data in zip(image, places, encoded):
      row[...] = self.decoder(data, self.records.describe(place))
    return {'image': image, 'label': label}


def mapped(
  records: Records, function: Callable[[bytes, str], _Result]
) -> Iterator[tuple[int, int, _Result]]:
  """Index, label and `function(bytes, name)` of all records, in order.

  By as many threads as there are cores: Pillow decodes without the
  interpreter's lock.
  """
  threads = os.cpu_count() or 1
  with ThreadPoolExecutor(threads) as pool:
    for start in range(0, len(records), _BLOCK):
      places = list(range(start, min(start + _BLOCK, len(records))))
      data, labels = records.read(places)
      named = list(zip(data, map(records.describe, places)))
      # A run a thread: small images cost less than to hand them over.
      size = -(-len(named) // threads)
      runs = [named[i : i + size] for i in range(0, len(named), size)]
      parts = pool.map(lambda run: [function(*one) for one in run], runs)
      found = itertools.chain.from_iterable(parts)
      yield from zip(places, labels.tolist(), found)
