"""Locks and scratch folders: what is half made is never seen."""

import contextlib
import fcntl
import hashlib
import json
import os
import pathlib
import shutil
import sys
from collections.abc import Callable, Iterator

from jaxlab.core.errors import InputError, printable
from jaxlab.engine import durable

_SEAL = 'sha256.json'  # file of a kept folder -> its SHA-256


def note(text: str) -> None:
  """One line of progress for the user, on stderr."""
  print(f'jaxlab: {printable(text)}', file=sys.stderr, flush=True)


def data_dir() -> pathlib.Path:
  """Where data is kept: $JAXLAB_DATA_DIR, or ~/.cache/jaxlab."""
  named = os.environ.get('JAXLAB_DATA_DIR') or '~/.cache/jaxlab'
  return pathlib.Path(named).expanduser().absolute()


@contextlib.contextmanager
def lock(path: pathlib.Path, what: str) -> Iterator[None]:
  """Holds lock file `path`: one process at a time prepares `what`.

  The kernel drops the lock with its process, however that ends. The file stays:
  removing it would let two processes lock two files of one name.

  Raises:
    InputError: the folder cannot be written.
  """
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    file = open(path, 'a')  # noqa: SIM115
  except OSError as error:
    raise InputError(
      f'cannot write {path.parent} ({error.strerror}): set JAXLAB_DATA_DIR to '
      f'a folder that can be written'
    ) from error
  with file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      note(f'waiting for another process that prepares {what}')
      fcntl.flock(file, fcntl.LOCK_EX)
    yield


@contextlib.contextmanager
def whole(target: pathlib.Path) -> Iterator[pathlib.Path]:
  """A path beside `target` for a file or a folder, renamed to it at the end.

  Where the block raises, nothing is left of it. Hold the lock, or be the only
  one who writes there.
  """
  with scratch_folder(target) as folder:
    yield folder / target.name
    os.replace(folder / target.name, target)


@contextlib.contextmanager
def scratch_folder(target: pathlib.Path) -> Iterator[pathlib.Path]:
  """An empty folder beside `target`, removed at the end; hold the lock.

  The caller makes something in it and renames that to `target`. Folders left
  by killed processes are removed first.
  """
  target.parent.mkdir(parents=True, exist_ok=True)
  for stale in target.parent.glob(f'.{target.name}.new-*'):
    shutil.rmtree(stale, ignore_errors=True)
  folder = target.with_name(f'.{target.name}.new-{os.getpid()}')
  folder.mkdir()
  try:
    yield folder
  finally:
    shutil.rmtree(folder, ignore_errors=True)


def made_once(
  target: pathlib.Path,
  what: str,
  make: Callable[[pathlib.Path], pathlib.Path | None],
  lock_file: pathlib.Path | None = None,
) -> pathlib.Path:
  """A folder that is made once, and taken as it is wherever it is there.

  Args:
    make: fills the folder that it is given; may return one within it, which is
      kept instead.
    lock_file: by default beside `target`.

  Raises:
    InputError: as `make`, or the folder cannot be written.
  """
  if not target.exists():
    with lock(lock_file or target.with_name(f'.{target.name}.lock'), what):
      if not target.exists():
        with scratch_folder(target) as folder:
          os.rename(make(folder) or folder, target)
  return target


def kept_folder(
  target: pathlib.Path, what: str, make: Callable[[pathlib.Path], None]
) -> pathlib.Path:
  """A folder of files that `make(folder)` writes, made once and kept.

  Every opening compares the files with their SHA-256; a folder that is not as
  it was written is named and made again.

  Raises:
    InputError: as `make`, or the folder cannot be written.
  """

  def sealed(folder: pathlib.Path) -> None:
    make(folder)
    sums = {path.name: _sha256(path) for path in sorted(folder.iterdir())}
    (folder / _SEAL).write_text(json.dumps(sums))
    durable.sync_tree(folder)

  if _changed(target):
    with lock(target.with_name(f'.{target.name}.lock'), what):
      if bad := _changed(target):  # another process may have made it
        note(f'{target / bad} is not what was written; {what} is made again')
        shutil.rmtree(target)
  return made_once(target, what, sealed)


def _changed(folder: pathlib.Path) -> str | None:
  """The first file that is not as it was written; '' where all are, None
  where there is no folder."""
  if not folder.exists():
    return None
  try:
    sums = json.loads((folder / _SEAL).read_text())
    for name, wanted in sums.items():
      if _sha256(folder / name) != wanted:
        return name
  except (OSError, ValueError, AttributeError):
    return _SEAL
  return ''


def _sha256(path: pathlib.Path) -> str:
  with open(path, 'rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()
