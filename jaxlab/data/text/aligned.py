"""Reads text files line by line, and pairs that translate each other."""

import gzip
import os
import pathlib
import zlib

from jaxlab.core.errors import InputError


def read_aligned(
  source_file: str | os.PathLike, target_file: str | os.PathLike
) -> list[tuple[str, str]]:
  """Pairs of lines, of two UTF-8 files that translate each other; plain or .gz.

  Space around a line is dropped. A pair with an empty side has no translation
  and is left out, so that the pairs can be fewer than the lines.

  Raises:
    InputError: a file cannot be read or is not UTF-8, the files have different
      numbers of lines, or no pair is left.
  """
  sources, targets = map(_read_lines, (source_file, target_file))
  if len(sources) != len(targets):
    raise InputError(
      f'{source_file} has {len(sources)} lines and {target_file} has '
      f'{len(targets)}; line i of one must translate line i of the other'
    )
  lines = ((a.strip(), b.strip()) for a, b in zip(sources, targets))
  if not (pairs := [(a, b) for a, b in lines if a and b]):
    raise InputError(
      f'{source_file} and {target_file} have {len(sources)} lines and no pair '
      f'of lines that are not empty'
    )
  return pairs


def _read_lines(path: str | os.PathLike) -> list[str]:
  """The lines of a UTF-8 file, or of a packed one whose name ends in `.gz`.

  A line ends in LF or CRLF and in nothing else: the other separators that
  Unicode knows stand inside of sentences, and would shift the lines behind
  them. A byte order mark is not part of the first line.

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
