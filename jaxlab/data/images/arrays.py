"""Whole image sets as arrays, decoded once and memory-mapped afterwards.

`open_images` is for sets that fit on the disk decoded; its arrays go to
`in_memory.ArraySource`. Larger ones are decoded on the way: a `Canvas` is the
decoder of a `streaming.RecordSource`.
"""

import hashlib
import json
import pathlib
import re
import shutil
import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from jaxlab.data import atomic, kept
from jaxlab.data.images import streaming
from jaxlab.data.images.pixels import Canvas, Channels, Fit
from jaxlab.engine.errors import InputError

_FORMAT = 1  # of the decoded folder; a new one makes old folders unused


class Images(NamedTuple):
  """A labelled image set, decoded."""

  name: str
  split: str
  fingerprint: str  # of all pixels and labels
  image: np.ndarray  # [n, h, w, c] uint8, memory-mapped
  label: np.ndarray  # [n] int32 in [0, len(classes))
  classes: tuple[str, ...]
  skipped: tuple[int, ...]  # indices in the split that did not decode


def open_images(
  name: str,
  split: str,
  *,
  size: int | tuple[int, int] | None = None,
  channels: Channels | None = None,
  fit: Fit = 'crop',
  image: str = 'image',
  label: str = 'label',
  max_undecodable: int = 0,
  offline: bool = False,
) -> Images:
  """A whole image set as arrays, decoded the first time.

  They are kept under `data_dir()/decoded` and memory-mapped from there. Two
  processes decode a set once, and one that is killed leaves nothing that is
  read. Where images were skipped, row r is the r-th image that decoded.

  Args:
    name, split, image, label, offline: see `streaming.open_records`.
    size: of the canvas, a side or (height, width); None for a set whose images
      are of one size.
    channels: 3 or 1; None keeps what the images have, see `pixels.decode`.
    fit: how images come to `size`, see `pixels.resize`.
    max_undecodable: how many images may be skipped because they do not decode;
      they are counted and named on stderr whenever the set is opened.

  Raises:
    InputError: the set cannot be had; more images do not decode; they have
      different sizes or channels and none is given; the disk is too small.
  """
  canvas = Canvas(size, channels, fit)
  if max_undecodable < 0:
    raise InputError(f'max_undecodable={max_undecodable} must not be negative')
  records = streaming.open_records(
    name, split, image=image, label=label, offline=offline
  )
  options = (
    *(_FORMAT, name, split, records.fingerprint, image, label),
    *(canvas.size, channels, fit if canvas.size else ''),
  )
  digest = kept.digest_of(options)[:16]
  plain = re.sub(r'\W+', '_', f'{name[-60:]}-{split}').strip('_')
  target = atomic.data_dir() / 'decoded' / f'{plain}-{digest}'
  make = _Decoding(records, canvas, max_undecodable).write
  atomic.kept_folder(target, f'the set of images {name}', make)
  return _load(target, records, max_undecodable)


def _load(
  target: pathlib.Path, records: streaming.Records, max_undecodable: int
) -> Images:
  known = kept.load(target, 'images.json')
  skipped = tuple(known['skipped'])
  if skipped:
    text = (
      f'{len(skipped)} of the {len(records):,} images of {_set(records)} do '
      f'not decode: {", ".join(map(records.describe, skipped[:3]))}'
      f'{", …" * (len(skipped) > 3)}'
    )
    if len(skipped) > max_undecodable:
      raise InputError(f'{text}; max_undecodable={len(skipped)} allows it')
    atomic.note(f'{text}; skipped')
  return Images(
    name=records.name,
    split=records.split,
    fingerprint=known['sha256'],
    image=kept.load(target, 'image.npy'),
    label=np.array(kept.load(target, 'label.npy')),
    classes=records.classes,
    skipped=skipped,
  )


class _Decoding:
  """Writes all images of a set into a folder."""

  def __init__(
    self, records: streaming.Records, canvas: Canvas, max_undecodable: int
  ):
    self.records, self.canvas = records, canvas
    self.max_undecodable = max_undecodable
    self.first: tuple[int, tuple[int, ...]] | None = None  # index and shape
    self.skipped: list[int] = []
    self.labels: list[int] = []  # of images that were not skipped

  def write(self, folder: pathlib.Path) -> None:
    start, total = time.monotonic(), len(self.records)
    atomic.note(f'decoding {total:,} images of {_set(self.records)}')
    digest = hashlib.sha256()
    with kept.GrowingArray(folder / 'image.npy', np.uint8) as file:
      for image in self._images(folder):
        file.extend(image[None])
        digest.update(image.data)
    if self.first is None:
      raise InputError(f'no image of {_set(self.records)} decodes')
    label = np.array(self.labels, np.int32)
    digest.update(label.data)
    np.save(folder / 'label.npy', label, allow_pickle=False)
    (folder / 'images.json').write_text(
      json.dumps({'sha256': digest.hexdigest(), 'skipped': self.skipped})
    )
    seconds = time.monotonic() - start
    atomic.note(
      f'decoded {len(label):,} images of {_set(self.records)} in '
      f'{seconds:.1f} s'
    )

  def _images(self, folder: pathlib.Path) -> Iterator[np.ndarray]:
    """Decoded images in order; fills the lists."""
    for index, label, image in streaming.mapped(self.records, self._decode):
      if isinstance(image, InputError):
        self._skip(index, image)
      else:
        self._check_shape(index, image.shape, folder)
        self.labels.append(label)
        yield image

  def _decode(self, data: bytes, name: str) -> np.ndarray | InputError:
    try:
      return self.canvas(data, name)
    except InputError as error:
      return error

  def _skip(self, index: int, error: InputError) -> None:
    self.skipped.append(index)
    if len(self.skipped) > self.max_undecodable:
      before = self.max_undecodable
      which = f', after {before} that were allowed for' if before else ''
      raise InputError(
        f'{error}{which}, or allow for such images with max_undecodable'
      ) from error

  def _check_shape(self, index, shape, folder) -> None:
    if self.first is None:
      self.first = index, shape
      needed = len(self.records) * int(np.prod(shape))
      free = shutil.disk_usage(folder).free
      if needed > free:
        raise InputError(
          f'{_set(self.records)} takes {needed / 1e9:.1f} GB decoded, and '
          f'{folder.parent} has {free / 1e9:.1f} GB left: lower size, set '
          f'JAXLAB_DATA_DIR, or stream it with RecordSource'
        )
    elif shape != self.first[1]:
      other, known = self.first
      cure = 'size' if shape[:2] != known[:2] else 'channels'
      raise InputError(
        f'{self.records.describe(other)} is {_written(known)} and '
        f'{self.records.describe(index)} is {_written(shape)}: give {cure}, '
        f'to which all are brought'
      )


def _set(records: streaming.Records) -> str:
  return f'the split {records.split!r} of {records.name}'


def _written(shape: tuple[int, ...]) -> str:
  return f'{shape[0]} x {shape[1]} with {shape[2]} channels'
