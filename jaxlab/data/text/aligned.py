"""Lines of text files whose numbers count: line i belongs to another line i."""

import gzip
import os
import pathlib
import zlib

from jaxlab.engine.errors import InputError


def read_lines(path: str | os.PathLike) -> list[str]:
  """The lines of a UTF-8 file, or of a packed one whose name ends in `.gz`.

  A line ends in LF or CRLF and in nothing else: the other separators that
  Unicode knows stand inside of sentences, and would shift the lines behind
  them. A byte order mark is no part of the first line.

  Raises:
    InputError: the file cannot be read, is cut off, or is not UTF-8.
  """
  path = pathlib.Path(path).expanduser()
  try:
    data = path.read_bytes()
    if path.suffix == '.gz':
      data = gzip.decompress(data)
  except (gzip.BadGzipFile, EOFError, zlib.error) as error:
    raise InputError(
      f'{path} is damaged or cut off ({error}): fetch it again, or drop the '
      f'.gz from its name if it is not packed'
    ) from error
  except OSError as error:
    raise InputError(f'cannot read {path}: {error.strerror}') from error
  lines = decode(data, path).split('\n')
  if not lines[-1]:
    lines.pop()
  return [line.removesuffix('\r') for line in lines]


def decode(data: bytes, path: pathlib.Path) -> str:
  """The text of a UTF-8 file, without its byte order mark.

  Raises:
    InputError: it is not UTF-8, from which byte on.
  """
  try:
    return data.decode().removeprefix('\ufeff')
  except UnicodeDecodeError as error:
    raise InputError(
      f'{path} is not UTF-8: byte {error.object[error.start]:#04x} at offset '
      f'{error.start}. Convert it: iconv -f ENCODING -t UTF-8'
    ) from error
