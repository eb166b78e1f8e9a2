"""Debian packages read as archives: neither dpkg nor a network is needed.

A `.deb` is an `ar` archive of `debian-binary`, `control.tar.*` and
`data.tar.xz`; the last holds the files. Nothing is written to disk here.
"""

import io
import lzma
import pathlib
import tarfile
from collections.abc import Callable, Iterable, Iterator
from typing import IO

from jaxlab.core.errors import InputError
from jaxlab.data.packages import archives

_MAGIC = b'!<arch>\n'
_DATA = 'data.tar.xz'  # as all packages are packed whose sets are made here
# Bytes of an entry: name 16, time 12, owner 6, group 6, mode 8, size 10, end 2.
_HEADER = 60


def read_members(
  deb: pathlib.Path, match: Callable[[str], bool], *, skip_links: bool = False
) -> Iterator[tuple[str, bytes]]:
  """The files of a `.deb` whose names `match`, in the order of the archive.

  Args:
    deb: a Debian package.
    match: takes a name without a leading `/` or `./`, as
      `usr/share/doc/x/README`. Folders are never asked about.
    skip_links: links are not asked about either.

  Yields:
    The name and the content of each.

  Raises:
    InputError: the archive is damaged, cut off or packed in a way unknown
      here; a name in it is absolute or holds `..`; or a name that matches is
      a link or a device.
  """
  try:
    file = open(deb, 'rb')  # noqa: SIM115
  except OSError as error:
    raise InputError(
      f'cannot read {deb} ({error.strerror}): give the path of a .deb file'
    ) from error
  with file, archives.errors(deb):
    _find_data(file, deb)
    with lzma.LZMAFile(file) as data:
      with tarfile.open(fileobj=data, mode='r|') as files:
        for info in files:
          archives.check_inside(
            deb, info.name, 'this is not a package of Debian: delete it'
          )
          link = info.issym() or info.islnk()
          name = info.name.removeprefix('./')
          if info.isdir() or (link and skip_links) or not match(name):
            continue
          source = files.extractfile(info) if info.isreg() else None
          if source is None:
            raise InputError(
              f'{deb}: member {name!r} is a link or a device, not a regular '
              f'file'
            )
          yield name, source.read()
      # What follows the last file: the checksum of the whole is there.
      while data.read(1 << 20):
        pass


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


def _find_data(file: IO[bytes], deb: pathlib.Path) -> None:
  """Goes to `data.tar.xz`, the last member of an `ar` archive."""
  end = file.seek(0, io.SEEK_END)
  file.seek(0)
  if file.read(len(_MAGIC)) != _MAGIC:
    raise InputError(f'{deb} is not a Debian package: it is not an ar archive')
  seen = []
  while (start := file.tell()) < end:
    header = file.read(_HEADER)
    digits = header[48:58].strip()
    if header[58:] != b'`\n' or not digits.isdigit():
      raise _damaged(deb, f'there is no ar header at byte {start}')
    name = header[:16].decode('latin1').strip().removesuffix('/')
    size, left = int(digits), end - file.tell()
    if size > left:
      raise _damaged(deb, f'{name} should be {size} bytes long and is {left}')
    if name == _DATA:
      return
    seen.append(name)
    file.seek(size + size % 2, io.SEEK_CUR)
  if packed := [name for name in seen if name.startswith('data.tar')]:
    raise InputError(
      f'{deb}: {packed[0]} is packed in a way that is not read here; known '
      f'is {_DATA}'
    )
  raise _damaged(deb, f'it has no data.tar among {seen}')


def _damaged(deb, why: str) -> InputError:
  return InputError(f'{deb} is damaged ({why}): delete it and run again')
