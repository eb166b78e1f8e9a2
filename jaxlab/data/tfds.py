"""TFDS data sets as random-access sequences, without TensorFlow.

A name is looked for where TFDS keeps its sets on this machine ($TFDS_DATA_DIR,
or TFDS's default); a set there must be in the array_record format. Where it is
not there, and jaxlab builds it itself (`builders/`), it is prepared on first
use under `data_dir()/tfds`. Preparing any other may need TensorFlow, and often
much time.
"""

import contextlib
import functools
import hashlib
import io
import json
import os
import pathlib
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

import absl.logging

from jaxlab.core.errors import InputError
from jaxlab.data import atomic, builders
from jaxlab.data.packages import registry

FORMAT = 'array_record'


class PreparedSet(NamedTuple):
  """What is known of a prepared set without reading its examples."""

  splits: tuple[str, ...]
  features: tuple[str, ...]
  classes: Mapping[str, tuple[str, ...]]  # ClassLabel feature -> class names
  fingerprint: str  # of name, version, features and sizes of its splits


def open_split(
  name: str, split: str, *, offline: bool = False, raw: bool = False
) -> Sequence[Mapping[str, Any]]:
  """The examples of one split, by index; text comes as UTF-8 bytes.

  Args:
    name: an own set (`builders.names()`), or any TFDS name: `imdb_reviews`,
      `wikipedia/20230601.en`, `wikipedia/20230601.en:1.0.0`.
    split: a split or a slice of one, `train[:10%]`.
    offline: never open a socket.
    raw: images come as the encoded bytes that are stored, not as arrays.

  Raises:
    InputError: the set is not prepared, is in another format, lacks files or
      has no such split.
  """
  builder = _open(name, offline)
  splits = builder.info.splits
  named = [re.split(r'\[', part)[0].strip() for part in split.split('+')]
  for whole in named:
    if whole not in splits and whole != 'all':
      raise InputError(
        f'TFDS set {name} has no split {whole!r}; it has {sorted(splits)}'
      )
  whole = splits if 'all' in named else named
  for path in [path for one in whole for path in splits[one].filepaths]:
    if not pathlib.Path(path).exists():
      raise InputError(
        f'TFDS set {name} is incomplete: {path} is missing. Delete '
        f'{builder.data_dir} and prepare it again'
      )
  full = _import_tfds()
  images = {
    name: full.decode.SkipDecoding()
    for name, feature in builder.info.features.items()
    if raw and isinstance(feature, full.features.Image)
  }
  try:
    with _quiet():
      return builder.as_data_source(split, decoders=images or None)
  except ValueError as error:
    raise InputError(
      f'TFDS set {name} cannot read the split {split!r}: {error}'
    ) from error


def examples(
  name: str, split: str, *, offline: bool = False
) -> Iterator[dict[str, Any]]:
  """Examples in order; read by the thousand, which is several times faster.

  Raises:
    InputError: as `open_split`, or a file of the set is damaged.
  """
  source = open_split(name, split, offline=offline)
  for start in range(0, len(source), 1024):
    indices = list(range(start, min(start + 1024, len(source))))
    try:
      found = source.__getitems__(indices)  # type: ignore[attr-defined]
    except (RuntimeError, IndexError) as error:  # of array_record
      why = ' '.join(str(error).split())[:200]
      folder = _open(name, offline).data_dir
      again = 'run' if name in builders.names() else 'prepare it'
      raise InputError(
        f'data set {name}, split {split}, cannot be read ({why}): delete '
        f'{folder} and {again} again'
      ) from error
    yield from found


def inspect_set(name: str, *, offline: bool = False) -> PreparedSet:
  """Splits, features and fingerprint of a set, prepared where it must be.

  Raises:
    InputError: as `open_split`.
  """
  builder = _open(name, offline)
  digest = hashlib.sha256(builder.info.full_name.encode())
  for path in sorted(pathlib.Path(builder.data_dir).iterdir()):
    # Sizes of splits are in dataset_info.json; those of the shards also depend
    # on how they were compressed.
    content = path.read_bytes() if path.suffix == '.json' else b''
    digest.update(f'\n{path.name}\n'.encode() + content)
  return PreparedSet(
    splits=tuple(builder.info.splits),
    features=tuple(builder.info.features),
    classes={
      feature: tuple(known.names)
      for feature, known in builder.info.features.items()
      if isinstance(known, _import_tfds().features.ClassLabel)
    },
    fingerprint=digest.hexdigest(),
  )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Holds back TFDS's INFO and WARNING lines."""
  verbosity = absl.logging.get_verbosity()
  absl.logging.set_verbosity(absl.logging.ERROR)
  try:
    yield
  finally:
    absl.logging.set_verbosity(verbosity)


@functools.cache
def _import_tfds():
  with _quiet():
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.utils import gcs_utils

    # Opening a set must not ask a bucket about it, in any release.
    gcs_utils._is_gcs_disabled = True
    tfds.disable_progress_bar()
  return tfds


def state_of(name: str) -> tuple[str, int]:
  """Where an own set stands, without preparing it.

  Returns:
    'no', 'yes', or 'TFDS' where TFDS has it on this machine; and its bytes.
  """
  _import_tfds()
  make = builders.builder_class(name)
  with _quiet():
    try:
      found = _find(make.TFDS_NAME or name)
      builder = found or make(data_dir=_root())
    except InputError:
      return 'no', 0
  folder = pathlib.Path(builder.data_dir)
  size = sum(p.stat().st_size for p in folder.glob('*') if p.is_file())
  return ('TFDS' if found else 'yes' if folder.exists() else 'no'), size


def _open(name: str, offline: bool):
  _import_tfds()
  with _quiet():
    if name not in builders.names():
      return _find(name) or _not_prepared(name)
    make = builders.builder_class(name)
    return _find(make.TFDS_NAME or name) or _open_own(make, offline)


@contextlib.contextmanager
def _described(name: str, folder: object, *more: type) -> Iterator[None]:
  """A set's own description that cannot be read is an InputError.

  Args:
    more: further exceptions that mean so.
  """
  from google.protobuf import json_format

  try:
    yield
  except (
    *(json_format.Error, json.JSONDecodeError, UnicodeDecodeError),
    *(KeyError, AttributeError, TypeError, *more),
  ) as error:
    why = ' '.join(str(error).split())[:200]
    raise InputError(
      f'TFDS set {name}: dataset_info.json or features.json is damaged '
      f'({type(error).__name__}: {why}): delete {folder} and prepare it again'
    ) from error


def _root() -> pathlib.Path:
  return atomic.data_dir() / 'tfds'


def _open_own(make, offline: bool):
  target = _root() / make.name / str(make.VERSION)
  prepare = lambda folder: _prepare_own(make, folder, offline)
  lock = _root() / f'.{make.name}.lock'
  atomic.made_once(target, f'the data set {make.name}', prepare, lock)
  with _described(make.name, target, ValueError, AssertionError):
    return make(data_dir=_root())


def _prepare_own(make, folder: pathlib.Path, offline: bool) -> pathlib.Path:
  """Builds a set somewhere in a scratch folder; where."""
  tfds = _import_tfds()
  start, downloads = time.monotonic(), registry.download_seconds()
  builder = make(data_dir=folder, offline=offline)
  builder.check_needs()
  atomic.note(f'preparing the data set {make.name}')
  with contextlib.redirect_stdout(io.StringIO()):  # TFDS prints there
    builder.download_and_prepare(
      file_format=FORMAT,
      download_config=tfds.download.DownloadConfig(try_download_gcs=False),
    )
  downloads = registry.download_seconds() - downloads
  seconds = time.monotonic() - start - downloads
  atomic.note(
    f'prepared the data set {make.name} in {seconds:.1f} s'
    + (f', and {downloads:.1f} s of downloads' if downloads else '')
  )
  return pathlib.Path(builder.data_dir)


def _find(name: str):
  """The builder of a set that TFDS has on this machine, or None.

  Raises:
    InputError: it is there in a format that has no random access, or broken.
  """
  from tensorflow_datasets.core import read_only_builder, registered

  root = os.environ.get('TFDS_DATA_DIR')
  root = os.path.expanduser(root) if root else None
  try:
    # From its files alone: the builder's code may need TensorFlow.
    with _described(name, f'its folder in {root or "~/tensorflow_datasets"}'):
      builder = read_only_builder.builder_from_files(name, data_dir=root)
  except registered.DatasetNotFoundError:
    return None
  except (ValueError, OSError) as error:
    why = str(error).partition('\n')[0]
    raise InputError(
      f'TFDS set {name!r} cannot be opened ({why}); names look like '
      f'imdb_reviews, wikipedia/20230601.en or wikipedia/20230601.en:1.0.0'
    ) from error
  formats = {known.value for known in builder.info.available_file_formats()}
  if FORMAT not in formats:
    own = (
      ', or point TFDS_DATA_DIR elsewhere, and jaxlab prepares its own copy'
      if name in builders.names()
      else ''
    )
    raise InputError(
      f'TFDS set {name} at {builder.data_dir} is in the format '
      f'{", ".join(sorted(formats)) or "unknown"}, which cannot be read '
      f'without TensorFlow. Where TensorFlow is installed, convert it in place'
      f' with\n'
      f'  tfds convert_format --dataset_version_dir={builder.data_dir} '
      f'--out_file_format={FORMAT}\n'
      f'or prepare it again, in another data_dir, with\n'
      f'  tfds build {name} --file_format={FORMAT}{own}'
    )
  return builder


def _not_prepared(name: str) -> NoReturn:
  raise InputError(
    f'TFDS set {name!r} is not prepared in {folder()}. Where TensorFlow is '
    f'installed, run\n'
    f'  tfds build {name} --file_format={FORMAT}\n'
    f'or set TFDS_DATA_DIR to the folder that holds it. Sets that jaxlab '
    f'prepares itself, without TensorFlow: {", ".join(builders.names())}'
  )


def folder() -> str:
  """Where TFDS keeps its sets, for messages."""
  root = os.environ.get('TFDS_DATA_DIR')
  return root or "TFDS's default folder (~/tensorflow_datasets)"
