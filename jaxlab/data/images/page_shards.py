"""Scanned pages, converted once: any labelled images -> ArrayRecord shards.

  found = converted('rvl_cdip:/data/rvl', 'train', size=(780, 600))
  found.records    grey PNGs of one size, for `streaming.RecordSource`
  found.hashes     of their looks, see ops/duplicates.py
  found.skipped    files that are not pages: (name, why)

RVL-CDIP has files of several modes and some that do not decode; all that is
read later is a page.
"""

import io
import json
import pathlib
from typing import Any, NamedTuple

import numpy as np
from array_record.python import array_record_module
from PIL import Image

from jaxlab.core.errors import InputError
from jaxlab.data import atomic, kept
from jaxlab.data.array_records import ArrayRecords, Shard, encode_example
from jaxlab.data.images import streaming
from jaxlab.data.images.pixels import decode, resize
from jaxlab.engine.metrics import Meter
from jaxlab.ops.duplicates import SIDE, perceptual_hash

_FORMAT = 1
_SHARD = 8192  # pages of a file


class Converted(NamedTuple):
  """A split of pages."""

  records: ArrayRecords
  label: np.ndarray  # [n] int32
  hashes: np.ndarray  # [n] uint64
  skipped: tuple[tuple[str, str], ...]  # file, why it is not a page


def converted(
  name: str,
  split: str,
  *,
  size: tuple[int, int],
  least: int = 16,
  image: str = 'image',
  label: str = 'label',
  offline: bool = False,
) -> Converted:
  """A split as shards under `data_dir()/pages`, made where they must be.

  Args:
    name, split, image, label, offline: see `streaming.open_records`.
    size: height and width; pages are stretched to it.
    least: pixels; an image with a shorter side is not a page.

  Raises:
    InputError: the set cannot be had, or none of its images is a page.
  """
  given = streaming.open_records(
    name, split, image=image, label=label, offline=offline
  )
  options = [_FORMAT, name, split, given.fingerprint, size, least]
  digest = kept.digest_of(options)[:24]
  target = atomic.made_once(
    atomic.data_dir() / 'pages' / digest,
    f'pages of {name}',
    lambda folder: _convert(given, folder, size, least),
  )
  known = kept.load(target, 'pages.json')
  skipped = tuple((file, why) for file, why in known['skipped'])
  if skipped:
    atomic.note(
      f'{len(skipped)} of the {len(given):,} files of the split '
      f'{given.split!r} of {given.name} are not pages and left out: '
      f'{"; ".join(why for _, why in skipped[:3])}'
    )
  shards = [
    Shard(str(target / f'{start:08d}.array_record'), 0, count)
    for start, count in known['shards']
  ]
  records = ArrayRecords(
    *(given.name, given.split, given.classes, digest, shards),
    *('image', 'label'),
  )
  read = lambda name: np.array(kept.load(target, f'{name}.npy'))
  return Converted(records, read('label'), read('hashes'), skipped)


def _convert(given, folder: pathlib.Path, size, least: int) -> None:
  skipped: list[tuple[str, str]] = []
  labels: list[int] = []
  small: list[np.ndarray] = []
  meter = Meter(f'converting {given.name} {given.split}', len(given))
  writer: Any = None
  change = lambda data, name: _page(data, name, size, least)
  for place, label, page in streaming.mapped(given, change):
    meter.advance()
    if isinstance(page, str):
      skipped.append((given.describe(place), page))
      continue
    if len(labels) % _SHARD == 0:
      if writer is not None:
        writer.close()
      path = folder / f'{len(labels):08d}.array_record'
      writer = array_record_module.ArrayRecordWriter(str(path), 'group_size:1')
    writer.write(encode_example(page[0], label))
    labels.append(label)
    small.append(page[1])
  if writer is None:
    raise InputError(
      f'none of the {len(given)} images of the split {given.split!r} of '
      f'{given.name} is a page: {skipped[0][1]}'
    )
  writer.close()
  np.save(folder / 'label.npy', np.array(labels, np.int32))
  np.save(folder / 'hashes.npy', perceptual_hash(np.stack(small)))
  count = len(labels)
  shards = [(i, min(_SHARD, count - i)) for i in range(0, count, _SHARD)]
  about = {'shards': shards, 'skipped': skipped}
  (folder / 'pages.json').write_text(json.dumps(about))


def _page(data: bytes, name: str, size, least: int):
  """PNG and thumbnail of a page; why it is none."""
  try:
    page = decode(data, channels=1, what=name)
  except InputError as error:
    return str(error)
  if min(page.shape[:2]) < least:
    return f'{name} is {page.shape[0]} x {page.shape[1]} pixels, no page'
  page = resize(page, size, 'stretch')
  encoded = io.BytesIO()
  # A seventh larger than by level 6, in a quarter of the time.
  Image.fromarray(page[..., 0]).save(encoded, 'PNG', compress_level=1)
  return encoded.getvalue(), thumbnail(page)


def thumbnail(page: np.ndarray) -> np.ndarray:
  """[32, 32] uint8 of a page [h, w, 1] uint8, to be hashed."""
  return resize(page, (SIDE, SIDE), 'stretch')[..., 0]
