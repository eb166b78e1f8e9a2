"""Images and labels of a TFDS set, read by index from its ArrayRecord files.

As `jaxlab.data.tfds` reads them, without what takes most of its time: two
features alone are parsed, nothing is decoded, and a worker process that reads
does not load TensorFlow Datasets.
"""

import bisect
import functools
import os
import resource
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from array_record.python import array_record_module
from google.protobuf import (
  descriptor_pb2,
  descriptor_pool,
  message,
  message_factory,
)

from jaxlab.core.errors import InputError
from jaxlab.data import tfds
from jaxlab.data.checks import first
from jaxlab.data.in_memory import Caching

# What of tf.train.Example is read, by the numbers of the fields. An entry of a
# map is a message too.
_MESSAGES = {
  'Texts': {1: ('REPEATED', 'BYTES', 'values')},
  'Integers': {1: ('REPEATED', 'INT64', 'values')},
  'Feature': {
    1: ('OPTIONAL', 'Texts', 'texts'),
    3: ('OPTIONAL', 'Integers', 'integers'),
  },
  'Entry': {
    1: ('OPTIONAL', 'BYTES', 'key'),
    2: ('OPTIONAL', 'Feature', 'value'),
  },
  'Features': {1: ('REPEATED', 'Entry', 'entries')},
  'Example': {1: ('OPTIONAL', 'Features', 'features')},
}


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


class ArrayRecords(Caching):
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
    self.fingerprint, self.shards = fingerprint, list(shards)
    self.image, self.label = image, label
    self.ends = np.cumsum([shard.take for shard in shards]).tolist()
    self._start()

  def _start(self) -> None:
    self._reader = functools.lru_cache(_most_open())(self._open)

  def __len__(self) -> int:
    return self.ends[-1]

  def describe(self, index: int) -> str:
    return f'example {index} of the split {self.split!r} of {self.name}'

  def read(self, indices: Sequence[int]) -> tuple[list[bytes], np.ndarray]:
    """Encoded images and labels [n] int32, in the order of `indices`.

    Raises:
      InputError: a file is missing, short or corrupted, or a record has no
        image or a label that is not a class.
    """
    rows_of: dict[int, list[int]] = {}
    for row, index in enumerate(indices):
      number = bisect.bisect_right(self.ends, index)
      rows_of.setdefault(number, []).append(row)
    image, label = self.image.encode(), self.label.encode()
    images = [b''] * len(indices)
    labels = np.empty(len(indices), np.int32)
    for number, rows in rows_of.items():
      shard = self.shards[number]
      begin = self.ends[number] - shard.take - shard.skip
      places = [indices[row] - begin for row in rows]
      try:
        found = self._reader(shard).read(places)
      except RuntimeError as error:  # array_record raises no other
        raise InputError(
          f'{shard.path} cannot be read ({str(error).splitlines()[0]}): delete '
          f'its folder and prepare {self.name} again'
        ) from error
      for row, record in zip(rows, found):
        try:
          images[row], labels[row] = parse_example(record, image, label)
        except (LookupError, OverflowError) as error:
          raise InputError(
            f'{self.describe(indices[row])} has no single encoded image '
            f'{self.image!r} and integer {self.label!r}: name the features '
            f'that are one image and its label, or prepare the set again'
          ) from error
    if at := first((labels < 0) | (labels >= len(self.classes))):
      raise InputError(
        f'{self.describe(indices[at[0]])} has the label {labels[at]}, and the '
        f'labels of the {len(self.classes)} classes begin with 0: take a split '
        f'that has labels (a public "test" often has none)'
      )
    return images, labels

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

  Args:
    record: a tf.train.Example.
    image: name of the feature that is a list of one byte string.
    label: name of the feature that is a list of one integer; b'' for none,
      whose integer is 0.

  Raises:
    LookupError: the record is not an Example, or a feature is missing or has
      another type or length.
  """
  try:
    entries = _example_class().FromString(record).features.entries
  except message.DecodeError as error:
    raise LookupError('no Example') from error
  found = {entry.key: entry.value for entry in entries}
  data = found[image].texts.values
  numbers = found[label].integers.values if label else [0]
  if len(data) != 1 or len(numbers) != 1:
    raise LookupError('not one value')
  return data[0], numbers[0]


def encode_example(data: bytes, label: int) -> bytes:
  """The tf.train.Example of an `image` and its `label`: see `parse_example`."""
  found = _example_class()()
  entries = found.features.entries
  entries.add(key=b'image').value.texts.values.append(data)
  entries.add(key=b'label').value.integers.values.append(label)
  return found.SerializeToString()


@functools.cache
def _example_class() -> Any:
  """tf.train.Example, without loading TensorFlow Datasets for it."""
  file = descriptor_pb2.FileDescriptorProto(name='example', syntax='proto3')
  kinds = descriptor_pb2.FieldDescriptorProto
  for name, fields in _MESSAGES.items():
    made = file.message_type.add(name=name)
    for number, (label, kind, field) in fields.items():
      one = made.field.add(name=field, number=number)
      one.label = kinds.Label.Value(f'LABEL_{label}')
      if kind in _MESSAGES:
        one.type_name = kind
      else:
        one.type = kinds.Type.Value(f'TYPE_{kind}')
  pool = descriptor_pool.DescriptorPool()
  pool.Add(file)
  return message_factory.GetMessageClass(pool.FindMessageTypeByName('Example'))


def _most_open() -> int:
  limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
  return 2**16 if limit == resource.RLIM_INFINITY else max(16, limit // 2)
