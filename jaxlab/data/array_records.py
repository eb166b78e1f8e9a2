"""Images and labels of a TFDS set, read by index from its ArrayRecord files.

As `jaxlab.data.tfds` reads them, without what takes most of its time: two
features alone are parsed, nothing is decoded, and a worker process that reads
does not load TensorFlow Datasets.
"""

import bisect
import os
import resource
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from array_record.python import array_record_module

from jaxlab.data import tfds
from jaxlab.engine.errors import InputError

_BYTES, _INTEGERS = 1, 3  # fields of tf.train.Feature


class Shard(NamedTuple):
  """A run of records of one file."""

  path: str
  skip: int
  take: int


def open_array_records(
  name: str, split: str, image: str, label: str, offline: bool = False
) -> 'ArrayRecords':
  """A split of a prepared TFDS set, or a slice of one.

  Where `label` is '' nobody asks for labels: all are 0, of one class.

  Raises:
    InputError: as `tfds.open_split`; or the set lacks the feature `image`, or
      a ClassLabel feature `label`.
  """
  known = tfds.inspect_set(name, offline=offline)
  if image not in known.features:
    raise InputError(
      f'TFDS set {name} has no feature {image!r}; it has '
      f'{sorted(known.features)}: name the one that is an image'
    )
  if label and label not in known.classes:
    raise InputError(
      f'TFDS set {name} has no ClassLabel feature {label!r}; it has '
      f'{sorted(known.classes)}, of the features {sorted(known.features)}: '
      f'name the one that is the label'
    )
  source = tfds.open_split(name, split, offline=offline, raw=True)
  splits = source.dataset_info.splits  # type: ignore[attr-defined]
  shards = [
    Shard(os.fspath(part.filename), part.skip, part.take)
    for part in splits[split].file_instructions
    if part.take
  ]
  classes = known.classes[label] if label else ('',)
  return ArrayRecords(
    name, split, classes, known.fingerprint, shards, image, label
  )


class ArrayRecords:
  """tf.train.Examples in ArrayRecord files.

  Files are opened when they are first read, by each process for itself, and at
  most half as many as the process may open; the least recently used are closed.
  """

  def __init__(
    self,
    name: str,
    split: str,
    classes: tuple[str, ...],
    fingerprint: str,
    shards: Sequence[Shard],
    image: str,
    label: str,
  ):
    self.name, self.split, self.classes = name, split, classes
    self.fingerprint, self._shards = fingerprint, list(shards)
    self._image, self._label = image, label
    self._ends = np.cumsum([shard.take for shard in shards]).tolist()
    self._start()

  def _start(self) -> None:
    self._lock = threading.Lock()
    self._readers: OrderedDict[str, Any] = OrderedDict()

  def __getstate__(self):
    hidden = ('_lock', '_readers')
    return {k: v for k, v in self.__dict__.items() if k not in hidden}

  def __setstate__(self, state):
    self.__dict__.update(state)
    self._start()

  def __len__(self) -> int:
    return self._ends[-1]

  def describe(self, index: int) -> str:
    return f'example {index} of the split {self.split!r} of {self.name}'

  def read(self, indices: Sequence[int]) -> tuple[list[bytes], np.ndarray]:
    """Encoded images and labels [n] int32, in the order of `indices`.

    Raises:
      InputError: a file is missing, short or corrupted, or a record has no
        image or a label that is no class.
    """
    rows_of: dict[int, list[int]] = {}
    for row, index in enumerate(indices):
      number = bisect.bisect_right(self._ends, index)
      rows_of.setdefault(number, []).append(row)
    image, label = self._image.encode(), self._label.encode()
    images = [b''] * len(indices)
    labels = np.empty(len(indices), np.int32)
    for number, rows in rows_of.items():
      shard = self._shards[number]
      first = self._ends[number] - shard.take - shard.skip
      places = [indices[row] - first for row in rows]
      for row, record in zip(rows, self._read_shard(shard, places)):
        try:
          images[row], labels[row] = parse_example(record, image, label)
        except (LookupError, OverflowError) as error:
          raise InputError(
            f'{self.describe(indices[row])} has no single encoded image '
            f'{self._image!r} and integer {self._label!r}: name the features '
            f'that are one image and its label, or prepare the set again'
          ) from error
    self._check_labels(labels, indices)
    return images, labels

  def _check_labels(self, labels: np.ndarray, indices: Sequence[int]) -> None:
    outside = (labels < 0) | (labels >= len(self.classes))
    if outside.any():
      row = int(np.argmax(outside))
      raise InputError(
        f'{self.describe(indices[row])} has the label {labels[row]}, and the '
        f'labels of the {len(self.classes)} classes begin with 0: take a split '
        f'that has labels (a public "test" often has none)'
      )

  def _read_shard(self, shard: Shard, places: list[int]) -> list[bytes]:
    try:
      return self._reader(shard).read(places)
    except RuntimeError as error:  # array_record raises no other
      raise InputError(
        f'{shard.path} cannot be read ({str(error).splitlines()[0]}): delete '
        f'its folder and prepare {self.name} again'
      ) from error

  def _reader(self, shard: Shard):
    with self._lock:
      reader = self._readers.pop(shard.path, None)
      if reader is None:
        reader = self._open(shard)
        while len(self._readers) >= _most_open():
          self._readers.popitem(last=False)
      self._readers[shard.path] = reader  # the last used comes last
    return reader

  def _open(self, shard: Shard):
    # Random access: what lies behind a record is not wanted.
    reader = array_record_module.ArrayRecordReader(
      shard.path,
      options='readahead_buffer_size:0',
      file_reader_buffer_size=4096,
    )
    found, wanted = reader.num_records(), shard.skip + shard.take
    if found < wanted:  # one that is missing or cut short opens as empty
      raise InputError(
        f'{shard.path} has {found} records of {wanted}: it is missing or was '
        f'cut short. Delete its folder and prepare {self.name} again'
      )
    return reader


def parse_example(
  record: bytes, image: bytes, label: bytes
) -> tuple[bytes, int]:
  """The one byte string and the one integer of two features of a record.

  Reads the wire format itself: as fast as protobuf's classes, without loading
  TensorFlow Datasets for them.

  Args:
    record: a tf.train.Example, which is
      Example{features=1: Features{feature=1: map<string=1, Feature=2>}}.
    image: name of the feature that is a list of one byte string.
    label: name of the feature that is a list of one integer; b'' for none,
      whose integer is 0.

  Raises:
    LookupError: the record is no Example, or a feature is missing or has
      another type or length.
  """
  found: dict[bytes, bytes | int] = {}
  size, at = _integer(record, 1)
  end = at + size
  while at < end:  # an entry of the map a turn
    size, at = _integer(record, at + 1)
    stop = at + size
    size, at = _integer(record, at + 1)
    name = record[at : at + size]
    if name in (image, label):
      found[name] = _single(record, at + size + 1, stop)
    at = stop
  data, number = found[image], found[label] if label else 0
  if at != len(record):
    raise IndexError('the record has another length than it says')
  if not isinstance(data, bytes) or not isinstance(number, int):
    raise KeyError('another type')
  return data, number


def encode_example(data: bytes, label: int) -> bytes:
  """The tf.train.Example of an `image` and its `label`: see `parse_example`."""
  from tensorflow_datasets.proto import tf_example_pb2

  found = tf_example_pb2.Example()
  feature = found.features.feature
  feature['image'].bytes_list.value.append(data)
  feature['label'].int64_list.value.append(label)
  return found.SerializeToString(deterministic=True)


def _single(record: bytes, at: int, stop: int) -> bytes | int:
  """The one value of the Feature whose length stands at `at`."""
  _, at = _integer(record, at)
  field = record[at] >> 3
  _, at = _integer(record, at + 1)
  value: bytes | int
  if field == _BYTES:
    size, at = _integer(record, at + 1)
    value = record[at : at + size]
    at += size
  elif field == _INTEGERS:
    packed = record[at] & 7 == 2
    at += 1
    if packed:
      _, at = _integer(record, at)
    value, at = _integer(record, at)
    value -= (value >> 63) << 64  # two's complement
  else:
    raise KeyError('floats')
  if at != stop:
    raise IndexError('not one value')
  return value


def _integer(record: bytes, at: int) -> tuple[int, int]:
  """A number of seven bits a byte, the low ones first, and where it ends."""
  value = record[at]
  at += 1
  if value < 128:
    return value, at
  value &= 127
  shift = 7
  while True:
    byte = record[at]
    at += 1
    value |= (byte & 127) << shift
    if byte < 128:
      return value, at
    shift += 7


def _most_open() -> int:
  limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
  return 2**16 if limit == resource.RLIM_INFINITY else max(16, limit // 2)
