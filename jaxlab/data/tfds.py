"""TFDS data sets as random-access sequences, without TensorFlow.

Sets that jaxlab builds itself (`BUILDERS`) are prepared on first use under
`data_dir()/tfds`. Every other name is opened where TFDS keeps its sets on this
machine ($TFDS_DATA_DIR, or TFDS's default) and must be there in the
array_record format: preparing it may need TensorFlow, and often much time.
"""

import contextlib
import functools
import hashlib
import importlib
import io
import os
import pathlib
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import absl.logging

from jaxlab.data import atomic
from jaxlab.engine.errors import InputError

BUILDERS = {
  'bible_pairs': 'jaxlab.data.builders.bible_pairs.bible_pairs_dataset_builder'
}
FORMAT = 'array_record'


class PreparedSet(NamedTuple):
  """What is known of a prepared set without reading its examples."""

  splits: tuple[str, ...]
  features: tuple[str, ...]
  fingerprint: str  # of name, version, features and sizes of its splits


def open_split(
  name: str, split: str, *, offline: bool = False
) -> Sequence[Mapping[str, Any]]:
  """The examples of one split, by index; text comes as UTF-8 bytes.

  Args:
    name: one of `BUILDERS`, or any TFDS name: `imdb_reviews`,
      `wikipedia/20230601.en`, `wikipedia/20230601.en:1.0.0`.
    split: a split or a slice of one, `train[:10%]`.
    offline: never open a socket.

  Raises:
    InputError: the set is not prepared, is in another format, lacks files or
      has no such split.
  """
  builder = _open(name, offline)
  whole = re.split(r'[\[+]', split)[0]
  splits = builder.info.splits
  if whole not in splits:
    raise InputError(
      f'TFDS set {name} has no split {whole!r}; it has {sorted(splits)}'
    )
  for path in splits[whole].filepaths:
    if not pathlib.Path(path).exists():
      raise InputError(
        f'TFDS set {name} is incomplete: {path} is missing. Delete '
        f'{builder.data_dir} and prepare it again'
      )
  try:
    with _quiet():
      return builder.as_data_source(split)
  except ValueError as error:
    raise InputError(
      f'TFDS set {name} cannot read the split {split!r}: {error}'
    ) from error


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


def _open(name: str, offline: bool):
  _import_tfds()
  with _quiet():
    if name in BUILDERS:
      return _open_own(name, offline)
    return _open_prepared(name)


def _open_own(name: str, offline: bool):
  module = importlib.import_module(BUILDERS[name])
  root = atomic.data_dir() / 'tfds'
  target = pathlib.Path(module.Builder(data_dir=root).data_dir)
  if not target.exists():
    with atomic.lock(root / f'.{name}.lock', f'the data set {name}'):
      if not target.exists():
        _prepare_own(module.Builder, name, target, offline)
  return module.Builder(data_dir=root)


def _prepare_own(make_builder, name, target, offline) -> None:
  """Builds a set in a scratch folder and renames the whole to `target`."""
  tfds = _import_tfds()
  start = time.monotonic()
  with atomic.scratch_folder(target) as folder:
    builder = make_builder(data_dir=folder, offline=offline)
    atomic.note(f'preparing the data set {name}')
    with contextlib.redirect_stdout(io.StringIO()):  # TFDS prints there
      builder.download_and_prepare(
        file_format=FORMAT,
        download_config=tfds.download.DownloadConfig(try_download_gcs=False),
      )
    os.rename(builder.data_dir, target)
  atomic.note(
    f'prepared the data set {name} in {time.monotonic() - start:.1f} s '
    f'(downloads included)'
  )


def _open_prepared(name: str):
  _import_tfds()
  from tensorflow_datasets.core import read_only_builder, registered

  root = os.environ.get('TFDS_DATA_DIR')
  root = os.path.expanduser(root) if root else None
  try:
    # From its files alone: the builder's code may need TensorFlow.
    builder = read_only_builder.builder_from_files(name, data_dir=root)
  except registered.DatasetNotFoundError as error:
    where = root or "TFDS's default folder (~/tensorflow_datasets)"
    raise InputError(
      f'TFDS set {name!r} is not prepared in {where}. Where TensorFlow is '
      f'installed, run\n'
      f'  tfds build {name} --file_format={FORMAT}\n'
      f'or set TFDS_DATA_DIR to the folder that holds it. Sets that jaxlab '
      f'prepares itself, without TensorFlow: {sorted(BUILDERS)}'
    ) from error
  except (ValueError, OSError) as error:
    why = str(error).partition('\n')[0]
    raise InputError(
      f'TFDS set {name!r} cannot be opened ({why}); names look like '
      f'imdb_reviews, wikipedia/20230601.en or wikipedia/20230601.en:1.0.0'
    ) from error
  formats = {known.value for known in builder.info.available_file_formats()}
  if FORMAT not in formats:
    raise InputError(
      f'TFDS set {name} at {builder.data_dir} is in the format '
      f'{", ".join(sorted(formats)) or "unknown"}, which cannot be read '
      f'without TensorFlow. Where TensorFlow is installed, convert it in place'
      f' with\n'
      f'  tfds convert_format --dataset_version_dir={builder.data_dir} '
      f'--out_file_format={FORMAT}\n'
      f'or prepare it again, in another data_dir, with\n'
      f'  tfds build {name} --file_format={FORMAT}'
    )
  return builder
