"""Files inside zip and tar archives: regular ones only, none outside.

Nothing but a named file is ever written to disk, so that no member can lead
out of a folder.
"""

import contextlib
import functools
import lzma
import os
import pathlib
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import IO

from jaxlab.core.errors import InputError
from jaxlab.data import atomic

_DAMAGE = (
  tarfile.TarError,
  zipfile.BadZipFile,
  lzma.LZMAError,
  zlib.error,
  EOFError,
  NotImplementedError,  # a zip member packed in a way that Python cannot read
)


def read_member(archive: str | os.PathLike, member: str) -> bytes:
  """The content of one regular file of an archive.

  Args:
    archive: zip or tar, packed or not.
    member: the exact name, as 'package/package.json'.

  Raises:
    InputError: the archive or the member is absent, the member is a folder, a
      link or a device, or the archive is damaged.
  """
  with _opened(archive, member) as source:
    return source.read()


def read_members(archive: str | os.PathLike, prefix: str) -> dict[str, bytes]:
  """The regular files of an archive whose names begin so.

  Raises:
    InputError: there is none, or the archive is absent or damaged.
  """
  found = {}
  with errors(archive):
    for name, opened in _entries(archive):
      if name.startswith(prefix) and (source := opened()):
        found[name] = source.read()
  if not found:
    raise InputError(f'{archive} has no file {prefix}…')
  return found


def extract_member(
  archive: str | os.PathLike, member: str, target: pathlib.Path
) -> None:
  """Writes one regular file of an archive to the path `target`.

  Raises:
    InputError: the name is absolute or holds `..`; or as `read_member`.
  """
  check_inside(archive, member, 'name a file inside it')
  with (
    atomic.whole(target) as partial,
    _opened(archive, member) as source,
    open(partial, 'wb') as sink,
  ):
    shutil.copyfileobj(source, sink, 1 << 20)


def check_inside(archive: str | os.PathLike, name: str, cure: str) -> None:
  """Raises InputError where the name of a member is absolute or holds `..`."""
  parts = name.replace('\\', '/').split('/')
  if name.startswith(('/', '\\')) or '..' in parts or ':' in parts[0]:
    raise InputError(
      f'{archive}: member {name!r} points outside the archive; {cure}'
    )


@contextlib.contextmanager
def _opened(archive: str | os.PathLike, member: str) -> Iterator[IO[bytes]]:
  with errors(archive):
    for name, opened in _entries(archive):
      if name == member:
        source = opened()
        if source is None:
          raise InputError(
            f'{archive}: member {member!r} is not a regular file'
          )
        with source:
          yield source
        return
    raise InputError(f'{archive} has no member {member!r}')


def _entries(
  archive: str | os.PathLike,
) -> Iterator[tuple[str, Callable[[], IO[bytes] | None]]]:
  """Names in turn, and what opens each: None where it is not a regular file.

  A packed tar is read no further than asked; a package has each name once.
  """
  if zipfile.is_zipfile(archive):
    with zipfile.ZipFile(archive) as files:
      for entry in files.infolist():
        yield entry.filename, functools.partial(_open_zipped, files, entry)
  else:
    with tarfile.open(archive) as tar:
      for info in tar:
        opened = functools.partial(tar.extractfile, info)
        yield info.name, opened if info.isreg() else lambda: None


def _open_zipped(
  files: zipfile.ZipFile, entry: zipfile.ZipInfo
) -> IO[bytes] | None:
  if entry.flag_bits & 1:
    raise zipfile.BadZipFile(f'{entry.filename!r} is encrypted')
  # A mode of 0 is an archive made without Unix modes: a plain file.
  mode = stat.S_IFMT(entry.external_attr >> 16)
  regular = not entry.is_dir() and mode in (0, stat.S_IFREG)
  return files.open(entry) if regular else None


@contextlib.contextmanager
def errors(archive: str | os.PathLike) -> Iterator[None]:
  """Turns what the readers of archives raise into InputError."""
  try:
    yield
  except FileNotFoundError as error:
    raise InputError(f'{archive} does not exist') from error
  except _DAMAGE as error:
    why = str(error).partition('\n')[0].rstrip(':')  # a line a method tried
    raise InputError(
      f'{archive} is damaged ({why}): delete it and run again'
    ) from error
