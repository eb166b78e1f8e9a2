"""Debian packages read as archives: neither dpkg nor a network is needed.

A `.deb` is an `ar` archive of `debian-binary`, `control.tar.*` and
`data.tar.*`; the last holds the files. Nothing is written to disk here.
"""

import bz2
import contextlib
import gzip
import io
import lzma
import pathlib
import posixpath
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import IO, Any

from jaxlab.data.packages import archives
from jaxlab.engine.errors import InputError

_MAGIC = b'!<arch>\n'
_HEADER = (
  60  # bytes: name 16, time 12, owner 6, group 6, mode 8, size 10, end 2
)
_OPENERS: Mapping[str, Callable[[IO[bytes]], Any]] = {
  'data.tar': lambda file: file,
  'data.tar.gz': lambda file: gzip.GzipFile(fileobj=file),
  'data.tar.bz2': bz2.BZ2File,
  'data.tar.xz': lzma.LZMAFile,
  'data.tar.lzma': lzma.LZMAFile,
}


def read_members(
  deb: pathlib.Path, match: Callable[[str], bool]
) -> Iterator[tuple[str, bytes]]:
  """The files of a `.deb` whose names `match`, in the order of the archive.

  Args:
    deb: a Debian package.
    match: takes a name without a leading `/` or `./`, as
      `usr/share/doc/x/README`. Folders are never asked about.

  Yields:
    The name and the content of each.

  Raises:
    InputError: the archive is damaged, cut off or packed in a way unknown
      here; a name in it is absolute or holds `..`; or a name that matches is
      a link (leave those of `read_links` out) or a device.
  """
  with _named(deb):
    for name, info, files in _walk(pathlib.Path(deb)):
      if info.isdir() or not match(name):
        continue
      source = files.extractfile(info) if info.isreg() else None
      if source is None:
        raise InputError(
          f'{deb}: member {name!r} is a link or a device, not a regular file'
        )
      yield name, source.read()


def read_links(deb: pathlib.Path) -> dict[str, str]:
  """The links of a `.deb`: name -> the name it points to.

  Targets are named as `read_members` names files, from the root of the
  package. They may be links or folders, or belong to another package.

  Raises:
    InputError: a link points above the root, or as `read_members`.
  """
  links = {}
  with _named(deb):
    for name, info, _ in _walk(pathlib.Path(deb)):
      if info.issym():
        if _climbs(name, info.linkname):
          raise InputError(
            f'{deb}: link {name!r} points outside the archive, to '
            f'{info.linkname!r}'
          )
        # A relative link counts from its folder, an absolute one from the root.
        target = posixpath.join('/', posixpath.dirname(name), info.linkname)
        links[name] = posixpath.normpath(target).lstrip('/')
      elif info.islnk():
        _check_name(deb, info.linkname)
        links[name] = info.linkname.removeprefix('./')
  return links


def read_files(deb: pathlib.Path, names: Iterable[str]) -> dict[str, bytes]:
  """The content of files that must be there, by name.

  Raises:
    InputError: a name is absent, or as `read_members`.
  """
  wanted = set(names)
  found = dict(read_members(deb, wanted.__contains__))
  if absent := sorted(wanted - set(found)):
    raise InputError(f'{deb} has no file {", ".join(absent)}')
  return found


def _walk(
  deb: pathlib.Path,
) -> Iterator[tuple[str, tarfile.TarInfo, tarfile.TarFile]]:
  """Every member in turn; its content can be read before the next is asked."""
  with open(deb, 'rb') as file, _open_data(file, deb) as data:
    with tarfile.open(fileobj=data, mode='r|') as files:
      for info in files:
        _check_name(deb, info.name)
        yield info.name.removeprefix('./'), info, files
    # What follows the last file: the checksum of the whole is there.
    while data.read(1 << 20):
      pass


@contextlib.contextmanager
def _named(deb: pathlib.Path) -> Iterator[None]:
  """Turns what the readers of archives raise into InputError."""
  try:
    yield
  except (*archives.DAMAGE, OSError) as error:
    if isinstance(error, OSError) and error.errno:
      raise InputError(
        f'cannot read {deb} ({error.strerror}): give the path of a .deb file'
      ) from error
    raise _damaged(deb, str(error)) from error


def _check_name(deb: pathlib.Path, name: str) -> None:
  parts = name.replace('\\', '/').split('/')
  if name.startswith(('/', '\\')) or '..' in parts or ':' in parts[0]:
    raise InputError(
      f'{deb}: member {name!r} points outside the archive; this is no package '
      f'of Debian: delete it'
    )


def _climbs(name: str, target: str) -> bool:
  """Whether a symbolic link leads above the root on its way."""
  depth = 0 if target.startswith('/') else name.count('/')
  for part in target.split('/'):
    depth += (part not in ('', '.', '..')) - (part == '..')
    if depth < 0:
      return True
  return False


def _open_data(file: IO[bytes], deb: pathlib.Path) -> Any:
  """The tar stream of `data.tar.*`, a readable file."""
  seen = []
  for name, offset, size in _read_ar(file, deb):
    if name in _OPENERS:
      return _OPENERS[name](io.BufferedReader(_Part(file, offset, size)))
    seen.append(name)
  if packed := [name for name in seen if name.startswith('data.tar')]:
    raise InputError(
      f'{deb}: {packed[0]} is packed in a way that is not read here; known '
      f'are {", ".join(_OPENERS)}'
    )
  raise _damaged(deb, f'it has no data.tar among {seen}')


def _read_ar(file, deb) -> Iterator[tuple[str, int, int]]:
  """Name, offset and size of each member of an `ar` archive."""
  end = file.seek(0, io.SEEK_END)
  file.seek(0)
  if file.read(len(_MAGIC)) != _MAGIC:
    raise InputError(f'{deb} is not a Debian package: it is no ar archive')
  offset = len(_MAGIC)
  while offset < end:
    file.seek(offset)
    header = file.read(_HEADER)
    size = header[48:58].strip()
    if len(header) < _HEADER or header[58:] != b'`\n' or not size.isdigit():
      raise _damaged(deb, f'there is no ar header at byte {offset}')
    name = header[:16].decode('latin1').strip().removesuffix('/')
    offset += _HEADER
    if offset + int(size) > end:
      raise _damaged(
        deb,
        f'{name} should be {int(size)} bytes long and is {end - offset}',
      )
    yield name, offset, int(size)
    offset += int(size) + int(size) % 2


def _damaged(deb, why: str) -> InputError:
  return InputError(f'{deb} is damaged ({why}): delete it and run again')


class _Part(io.RawIOBase):
  """Bytes [offset, offset + size) of an open file, read once, forwards."""

  def __init__(self, file: IO[bytes], offset: int, size: int):
    super().__init__()
    self._file, self._left = file, size
    file.seek(offset)

  def readable(self):
    return True

  def readinto(self, buffer):
    part = self._file.read(min(len(buffer), self._left))
    buffer[: len(part)] = part
    self._left -= len(part)
    return len(part)
