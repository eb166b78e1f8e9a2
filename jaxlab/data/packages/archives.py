"""Files inside zip and tar archives: regular ones only, none outside.

Nothing but a named file is ever written to disk, so that no member can lead
out of a folder.
"""

import contextlib
import lzma
import os
import pathlib
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO

from jaxlab.engine.errors import InputError

DAMAGE = (
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
  with _opened(pathlib.Path(archive), member) as source:
    return source.read()


def read_members(archive: str | os.PathLike, prefix: str) -> dict[str, bytes]:
  """The regular files of an archive whose names begin so.

  Raises:
    InputError: there is none, or the archive is absent or damaged.
  """
  archive = pathlib.Path(archive)
  found = {}
  with _errors(archive):
    if zipfile.is_zipfile(archive):
      with zipfile.ZipFile(archive) as files:
        for entry in files.infolist():
          if entry.filename.startswith(prefix) and _regular(entry):
            found[entry.filename] = files.read(entry)
    else:
      with tarfile.open(archive) as tar:
        for info in tar:
          file = tar.extractfile(info) if info.isreg() else None
          if file and info.name.startswith(prefix):
            found[info.name] = file.read()
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
  parts = member.replace('\\', '/').split('/')
  if member.startswith(('/', '\\')) or '..' in parts or ':' in parts[0]:
    raise InputError(
      f'{archive}: member {member!r} points outside the archive; name a file '
      f'inside it'
    )
  partial = target.with_name(f'.{target.name}.new-{os.getpid()}')
  target.parent.mkdir(parents=True, exist_ok=True)
  try:
    with (
      _opened(pathlib.Path(archive), member) as source,
      open(partial, 'wb') as sink,
    ):
      shutil.copyfileobj(source, sink, 1 << 20)
    os.replace(partial, target)
  finally:
    partial.unlink(missing_ok=True)


@contextlib.contextmanager
def _opened(archive: pathlib.Path, member: str) -> Iterator[IO[bytes]]:
  with _errors(archive):
    if zipfile.is_zipfile(archive):
      with zipfile.ZipFile(archive) as files:
        entry = files.NameToInfo.get(member)
        if entry is None:
          raise InputError(f'{archive} has no member {member!r}')
        if not _regular(entry):
          raise InputError(
            f'{archive}: member {member!r} is not a regular file'
          )
        with files.open(entry) as source:
          yield source
      return
    with tarfile.open(archive) as tar:
      # Not getmember, which unpacks the whole archive to find the last of a
      # name; a package has each name once.
      for info in tar:
        if info.name == member:
          found = tar.extractfile(info) if info.isreg() else None
          if found is None:
            raise InputError(
              f'{archive}: member {member!r} is not a regular file'
            )
          with found:
            yield found
          return
    raise InputError(f'{archive} has no member {member!r}')


def _regular(entry: zipfile.ZipInfo) -> bool:
  if entry.flag_bits & 1:
    raise zipfile.BadZipFile(f'{entry.filename!r} is encrypted')
  # A mode of 0 is an archive made without Unix modes: a plain file.
  mode = stat.S_IFMT(entry.external_attr >> 16)
  return not entry.is_dir() and mode in (0, stat.S_IFREG)


@contextlib.contextmanager
def _errors(archive: pathlib.Path) -> Iterator[None]:
  try:
    yield
  except FileNotFoundError as error:
    raise InputError(f'{archive} does not exist') from error
  except DAMAGE as error:
    why = str(error).partition('\n')[0].rstrip(':')  # a line a method tried
    raise InputError(
      f'{archive} is damaged ({why}): delete it and run again'
    ) from error
