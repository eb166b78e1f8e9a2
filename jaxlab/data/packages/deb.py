"""Debian packages read as archives: neither dpkg nor a network is needed.

A `.deb` is an `ar` archive of `debian-binary`, `control.tar.*` and
`data.tar.xz`; the last holds the files. Nothing is written to disk here.
"""

import io
import lzma
import pathlib
import posixpath
import tarfile
from collections.abc import Callable, Iterable, Iterator
from typing import IO

from jaxlab.data.packages import archives
from jaxlab.engine.errors import InputError

_MAGIC = b'!<arch>\n'
_DATA = 'data.tar.xz'  # as all packages are packed whose sets are made here
# Bytes of an entry: name 16, time 12, owner 6, group 6, mode 8, size 10, end 2.
_HEADER = 60
_ODD = 'this is no package of Debian: delete it'


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
  for name, _, content in _walk(deb, match):
    if content is not None:
      yield name, content


def read_links(deb: pathlib.Path) -> dict[str, str]:
  """The links of a `.deb`: name -> the name it points to.

  Targets are named as `read_members` names files, from the root of the
  package. They may be links or folders, or belong to another package.

  Raises:
    InputError: a link points above the root, or as `read_members`.
  """
  links = {}
  for name, info, _ in _walk(deb):
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
      archives.check_inside(deb, info.linkname, _ODD)
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
  deb: pathlib.Path, match: Callable[[str], bool] = lambda name: False
) -> Iterator[tuple[str, tarfile.TarInfo, bytes | None]]:
  """Every member in turn; with its content, if it is a file that matches."""
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
          archives.check_inside(deb, info.name, _ODD)
          name = info.name.removeprefix('./')
          content = None
          if not info.isdir() and match(name):
            source = files.extractfile(info) if info.isreg() else None
            if source is None:
              raise InputError(
                f'{deb}: member {name!r} is a link or a device, not a regular '
                f'file'
              )
            content = source.read()
          yield name, info, content
      # What follows the last file: the checksum of the whole is there.
      while data.read(1 << 20):
        pass


def _climbs(name: str, target: str) -> bool:
  """Whether a symbolic link leads above the root on its way."""
  depth = 0 if target.startswith('/') else name.count('/')
  for part in target.split('/'):
    depth += (part not in ('', '.', '..')) - (part == '..')
    if depth < 0:
      return True
  return False


def _find_data(file: IO[bytes], deb: pathlib.Path) -> None:
  """Goes to `data.tar.xz`, the last member of an `ar` archive."""
  end = file.seek(0, io.SEEK_END)
  file.seek(0)
  if file.read(len(_MAGIC)) != _MAGIC:
    raise InputError(f'{deb} is not a Debian package: it is no ar archive')
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
