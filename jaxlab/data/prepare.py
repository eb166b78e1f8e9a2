"""Prepares data sets and holds them against what is known of them.

  python -m jaxlab.data.prepare mnist cifar10
  python -m jaxlab.data.prepare --list
  python -m jaxlab.data.prepare --offline imdb

Sets that jaxlab makes itself are downloaded and prepared where they must be;
any other name is one of TFDS, of which it is said whether it can be read here.
Exit codes: 0 done; 2 bad input, or a set that is not what it should be.
"""

import argparse
import difflib
import errno
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

import absl.logging

from jaxlab import extras
from jaxlab.core.errors import BAD_INPUT, InputError, printable
from jaxlab.data import atomic, builders, tfds

STOPPED = 130  # the exit code of shells for Ctrl-C
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)


class _Parser(argparse.ArgumentParser):
  """Mistakes are InputErrors, as everywhere."""

  def error(self, message: str) -> NoReturn:
    raise InputError(f'{message}. {self.format_usage().strip()}')


def main(argv: Sequence[str]) -> int:
  """Runs one command line, without the program's name; the exit code."""
  absl.logging.set_verbosity(absl.logging.ERROR)
  try:
    flags = _parse(argv)
    if flags.list:
      print(list_sets(flags.names or builders.names()))
      return 0
    failed = False
    # TFDS's first: a mistyped name is answered before minutes of work.
    for name in sorted(flags.names, key=lambda name: name in builders.names()):
      try:
        if name in builders.names():
          print(prepare(name, offline=flags.offline), flush=True)
        else:
          print(look_at(name), flush=True)
      except InputError as error:
        print(f'error: {printable(error)}', file=sys.stderr, flush=True)
        failed = True
    return BAD_INPUT if failed else 0
  except InputError as error:
    print(f'error: {printable(error)}', file=sys.stderr)
    return error.exit_code
  except ModuleNotFoundError as error:
    if not (line := extras.cure(error)):
      raise
    print(f'error: {line}', file=sys.stderr)
    return BAD_INPUT
  except OSError as error:
    if error.errno not in _DISK:
      raise
    print(
      f'error: {error.filename or "a file"}: {error.strerror}; free space, or '
      f'set JAXLAB_DATA_DIR to a folder that can be written, and run the same '
      f'command again',
      file=sys.stderr,
    )
    return BAD_INPUT
  except KeyboardInterrupt:
    print('error: stopped; run the same command again', file=sys.stderr)
    return STOPPED


def _parse(argv: Sequence[str]) -> argparse.Namespace:
  parser = _Parser(
    prog='python -m jaxlab.data.prepare',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  parser.add_argument('names', nargs='*', metavar='NAME', help='data sets')
  parser.add_argument(
    '--list', action='store_true', help='a table of the sets; prepares none'
  )
  parser.add_argument(
    '--offline', action='store_true', help='open no socket; use what is here'
  )
  flags = parser.parse_args(argv)
  if not flags.names and not flags.list:
    parser.error(f'name a data set: {", ".join(builders.names())}')
  if flags.list:
    for name in flags.names:
      if name not in builders.names():
        raise InputError(
          f'no data set of jaxlab is named {name!r}{_near(name)}'
        )
  return flags


def _near(name: str) -> str:
  """A guess at what a name should have been, as the end of a sentence."""
  near = difflib.get_close_matches(name, builders.names(), 3, 0.5)
  return f'; did you mean {" or ".join(near)}?' if near else ''


def list_sets(names: Sequence[str]) -> str:
  """A table of own sets."""
  rows = [('name', 'what it is', 'download MiB', 'prepared', 'licence')]
  for name in names:
    state, size = tfds.state_of(name)
    make = builders.builder_class(name)
    download = sum(package.mebibytes for package in make.PACKAGES)
    rows.append(
      (
        name,
        make.SUMMARY,
        f'{download:.1f}',
        state if state == 'no' else f'{state} {size / 2**20:.1f} MiB',
        make.LICENCE,
      )
    )
  return _table(rows, right=(2,))


def prepare(name: str, *, offline: bool = False) -> str:
  """Prepares an own set where it must be; says what was measured.

  Raises:
    InputError: it cannot be prepared, or a figure is not what it should be.
  """
  found = tfds.inspect_set(name, offline=offline)
  make = builders.builder_class(name)
  state, size = tfds.state_of(name)
  lines = [f'{name}: {make.SUMMARY}']
  if state == 'TFDS':
    lines.append(
      f"  TFDS's own copy is used, of {make.TFDS_NAME or name} in "
      f'{tfds.folder()} ({size / 2**20:.1f} MiB)'
    )
    cure = (
      'set TFDS_DATA_DIR to another folder, and jaxlab prepares its own copy'
    )
  else:
    folder = atomic.data_dir() / 'tfds' / name
    cure = f'delete {folder} and run again'
    lines.append(f'  prepared in {folder} ({size / 2**20:.1f} MiB)')
  lines.append(f'  splits: {_splits(name, found.splits, offline)}')
  builder = make(data_dir=atomic.data_dir() / 'tfds')
  measured = builder.measure(lambda split: _read(name, split, cure, offline))
  lines.append(compare(measured, make.PUBLISHED))
  report = '\n'.join(lines)
  if wrong := mismatches(measured, make.PUBLISHED):
    raise InputError(
      f'{name} is not what it should be: {"; ".join(wrong)}. If the code that '
      f'makes it is unchanged, {cure}\n{report}'
    )
  return report


def _read(
  name: str, split: str, cure: str, offline: bool = False
) -> Iterator[dict[str, Any]]:
  """Examples; what readers and decoders raise becomes an InputError."""
  try:
    yield from tfds.examples(name, split, offline=offline)
  except InputError:
    raise
  except Exception as error:
    raise InputError(
      f'data set {name}, split {split}, cannot be read '
      f'({type(error).__name__}: {error}): {cure}'
    ) from error


def compare(measured: Mapping[str, float], published: Mapping) -> str:
  """A table of the figures measured beside those expected."""
  rows = [('  figure', 'measured', 'expected')]
  for figure in dict.fromkeys((*published, *measured)):
    known = published.get(figure)
    rows.append(
      (
        f'  {figure}',
        _figure(measured.get(figure, math.nan)),
        _expected(known) if known else '',
      )
    )
  return _table(rows, right=(1,))


def mismatches(measured: Mapping[str, float], published: Mapping) -> list[str]:
  """What is wrong with the figures measured, one sentence each."""
  wrong = []
  for figure, known in published.items():
    value = measured.get(figure, math.nan)
    # Asked this way round, a figure that is not a number is wrong too.
    if not abs(value - known.value) <= known.tolerance:
      wrong.append(f'{figure} is {_figure(value)}, expected {_expected(known)}')
  return wrong


def look_at(name: str) -> str:
  """Says that a set of TFDS can be read here, or why not.

  Raises:
    InputError: it is not prepared, or not in a form that can be read.
  """
  try:
    found = tfds.inspect_set(name)
  except InputError as error:
    if not (near := _near(name)):
      raise
    raise InputError(
      f'no data set of jaxlab is named {name!r}{near} As a name of TFDS: '
      f'{error}'
    ) from error
  for split in found.splits:
    cure = 'it may be damaged, or need TensorFlow to be decoded'
    next(_read(name, f'{split}[:1]', cure), None)
  return (
    f'{name}: prepared by TFDS in {tfds.folder()}, and can be read here\n'
    f'  splits: {_splits(name, found.splits, False)}\n'
    f'  features: {", ".join(sorted(found.features))}'
  )


def _splits(name: str, splits: Sequence[str], offline: bool) -> str:
  sizes = {s: len(tfds.open_split(name, s, offline=offline)) for s in splits}
  return ', '.join(f'{split} {size:,}' for split, size in sizes.items())


def _figure(value: float) -> str:
  whole = math.isfinite(value) and float(value).is_integer()
  return f'{int(value):,}' if whole else f'{value:.5f}'


def _expected(known) -> str:
  around = f' ± {known.tolerance:g}' if known.tolerance else ''
  return f'{_figure(known.value)}{around}'


def _table(rows: Sequence[Sequence[str]], right: tuple[int, ...]) -> str:
  """Columns in line, those of `right` flush right."""
  widths = [max(map(len, column)) for column in zip(*rows)]
  lines = []
  for row in rows:
    cells = [
      cell.rjust(width) if i in right else cell.ljust(width)
      for i, (cell, width) in enumerate(zip(row, widths))
    ]
    lines.append('  '.join(cells).rstrip())
  return '\n'.join(lines)


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
