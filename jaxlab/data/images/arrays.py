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
from functools import partial
from typing import NamedTuple

import numpy as np

from jaxlab.core.errors import InputError
from jaxlab.data import atomic, kept
from jaxlab.data.images import streaming
from jaxlab.data.images.pixels import Canvas, Channels, Fit

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
  make = partial(_decode_all, records, canvas, max_undecodable)
  atomic.kept_folder(target, f'the set of images {name}', make)
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


def _decode_all(
  records: streaming.Records, canvas: Canvas, allowed: int, folder: pathlib.Path
) -> None:
  """Writes all images of a set into a folder; `allowed` need not decode."""
  start, total = time.monotonic(), len(records)
  atomic.note(f'decoding {total:,} images of {_set(records)}')
  digest = hashlib.sha256()
  skipped: list[int] = []
  labels: list[int] = []
  first: tuple[int, tuple[int, ...]] | None = None  # index and shape

  def decode(data: bytes, name: str) -> np.ndarray | InputError:
    try:
      return canvas(data, name)
    except InputError as error:
      return error

  with kept.GrowingArray(folder / 'image.npy', np.uint8) as file:
    for index, label, image in streaming.mapped(records, decode):
      if isinstance(image, InputError):
        skipped.append(index)
        if len(skipped) > allowed:
          which = f', after {allowed} that were allowed for' if allowed else ''
          raise InputError(
            f'{image}{which}, or allow for such images with max_undecodable'
          ) from image
        continue
      if first is None:
        first = index, image.shape
        _check_room(records, image.nbytes * total, folder)
      elif image.shape != first[1]:
        other, known = first
        cure = 'size' if image.shape[:2] != known[:2] else 'channels'
        raise InputError(
          f'{records.describe(other)} is {_written(known)} and '
          f'{records.describe(index)} is {_written(image.shape)}: give {cure}, '
          f'to which all are brought'
        )
      labels.append(label)
      file.extend(image[None])
      digest.update(image.data)
  if first is None:
    raise InputError(f'no image of {_set(records)} decodes')
  found = np.array(labels, np.int32)
  digest.update(found.data)
  np.save(folder / 'label.npy', found, allow_pickle=False)
  about = {'sha256': digest.hexdigest(), 'skipped': skipped}
  (folder / 'images.json').write_text(json.dumps(about))
  atomic.note(
    f'decoded {len(labels):,} images of {_set(records)} in '
    f'{time.monotonic() - start:.1f} s'
  )


def _check_room(records, needed: int, folder: pathlib.Path) -> None:
  """Raises InputError where a disk has no room for a set."""
  free = shutil.disk_usage(folder).free
  if needed > free:
    raise InputError(
      f'{_set(records)} takes {needed / 1e9:.1f} GB decoded, and '
      f'{folder.parent} has {free / 1e9:.1f} GB left: lower size, set '
      f'JAXLAB_DATA_DIR, or stream it with RecordSource'
    )


def _set(records: streaming.Records) -> str:
  return f'the split {records.split!r} of {records.name}'


def _written(shape: tuple[int, ...]) -> str:
  return f'{shape[0]} x {shape[1]} with {shape[2]} channels'
