"""Labelled images as stored records, read by index and decoded on the way.

`open_records(name, split)` knows
  image_folder:PATH  folders of classes, see `image_files.open_image_folder`;
  rvl_cdip:PATH      RVL-CDIP as published, see `image_files.open_rvl_cdip`;
  split_csv:PATH     lists of splits, see `image_files.open_split_csv`;
  any other          a TFDS set with an image and a ClassLabel feature.
Nothing is decoded before it is asked for. `RecordSource` makes batches of
records, for sets that are too large for `jaxlab.data.image.open_images`.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from jaxlab.data import array_records, handover
from jaxlab.data.images import files
from jaxlab.data.in_memory import Order
from jaxlab.engine.source import ArraySpec


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


class Decoder(Protocol):
  """Makes one array of a record's bytes; `jaxlab.data.image.Canvas` is one."""

  @property
  def shape(self) -> tuple[int, ...]:
    """Of every array, which is uint8."""
    ...

  def __call__(self, data: bytes, what: str) -> np.ndarray:
    """Raises InputError naming `what` where the bytes are not an image."""
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
  if kind == 'image_folder':
    return files.open_image_folder(path, split)
  if kind == 'rvl_cdip':
    return files.open_rvl_cdip(path, split)
  if kind == 'split_csv':
    return files.open_split_csv(path, split)
  return array_records.open_array_records(name, split, image, label, offline)


class RecordSource:
  """Decoded records as a `jaxlab.engine.source.Source`.

  The arrays of a batch of b rows:
    image: [b, *decoder.shape] uint8.
    label: [b] int32 in [0, len(records.classes)).
    id: [b] int32, the record's index in its split.
  A finite source (`repeat=False`) has `num_batches` batches, the last short.

  Args:
    records: of `open_records`.
    decoder: of one record's bytes.
    batch_size, seed, repeat, shuffle, drop_last: see `in_memory.Order`.
    kind: the step kind that all batches are of.

  Raises:
    InputError: an argument is out of range; in `batch`, a record that cannot
      be read or decoded.
  """

  def __init__(
    self,
    records: Records,
    decoder: Decoder,
    *,
    batch_size: int,
    seed: int = 0,
    repeat: bool = True,
    shuffle: bool = True,
    drop_last: bool = False,
    kind: str = 'train',
  ):
    self.records, self.decoder, self.step_kind = records, decoder, kind
    self.order = Order(
      len(records),
      batch_size=batch_size,
      seed=seed,
      repeat=repeat,
      shuffle=shuffle,
      drop_last=drop_last,
    )
    self.spec = {
      kind: {
        'image': ArraySpec((batch_size, *decoder.shape), np.uint8),
        'label': ArraySpec((batch_size,), np.int32),
        'id': ArraySpec((batch_size,), np.int32),
      }
    }

  @property
  def num_examples(self) -> int:
    """Examples of one epoch that are in a batch."""
    return self.order.num_examples

  @property
  def num_batches(self) -> int:
    """Batches of one epoch; the last may be short."""
    return self.order.num_batches

  def kind(self, step: int) -> str:
    del step
    return self.step_kind

  def batch(self, step: int, rows: slice) -> dict[str, np.ndarray]:
    """Rows `rows` of batch `step`, fewer at the end of a finite source."""
    index = self.order.indices(step, rows)
    places = index.tolist()
    encoded, label = self.records.read(places)
    image = handover.empty((len(index), *self.decoder.shape))
    describe, decoder = self.records.describe, self.decoder
    for row, place, data in zip(image, places, encoded):
      row[...] = decoder(data, describe(place))
    return {'image': image, 'label': label, 'id': index.astype(np.int32)}
