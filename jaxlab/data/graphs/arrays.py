"""Reads the arrays of files of graphs, and checks them."""

import lzma
import pathlib
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from jaxlab.core.errors import InputError
from jaxlab.data import growth
from jaxlab.data.checks import first
from jaxlab.data.graphs.types import SPLITS

# What NumPy says of a file that is not what it should be. Encrypted members and
# unknown compressions are RuntimeErrors.
DAMAGED = (
  *(OSError, ValueError, AttributeError, TypeError, KeyError, EOFError),
  *(RuntimeError, MemoryError, SyntaxError, struct.error, tokenize.TokenError),
  *(zipfile.BadZipFile, zlib.error, lzma.LZMAError),
)


def load_npz(
  path: pathlib.Path,
  names: Iterable[str],
  optional: Iterable[str],
  explain: Callable[[Exception], InputError],
) -> dict[str, np.ndarray]:
  """Plain arrays of an npz file.

  Args:
    names, optional: of arrays that must, and that may be there.
    explain: what to raise of a file that is missing or damaged.

  Raises:
    InputError: as `explain`; an array is missing, or the file is small and
      would fill the memory.
  """
  try:
    with np.load(path, allow_pickle=False) as file:
      whole = sum(member.file_size for member in file.zip.infolist())
      growth.check(path, path.stat().st_size, whole)
      if absent := [name for name in names if name not in file]:
        raise InputError(
          f'{path} has no array {", ".join(absent)}; it has {sorted(file)}'
        )
      there = [name for name in optional if name in file]
      return {name: file[name] for name in (*names, *there)}
  except InputError:
    raise
  except DAMAGED as error:
    raise explain(error) from error


def number_of_classes(labels: np.ndarray, what: str) -> int:
  """Classes of [n] labels from 0, or [n, classes].

  Raises:
    InputError: [n] labels are more than there may be for n nodes.
  """
  if labels.ndim == 2:
    return labels.shape[1]
  count = int(labels.max(initial=-1)) + 1
  if count > max(1000, len(labels)):
    raise InputError(
      f'{what}: labels reach {count - 1}, and there are {len(labels)} nodes: '
      f'number the classes from 0'
    )
  return count


def split_of(
  rows: Mapping[str, np.ndarray],
  names: Mapping[str, str],
  nodes: int,
  what: str,
) -> np.ndarray:
  """[n] int8 of SPLITS, from lists of nodes; `names` are those of the splits.

  Raises:
    InputError: a list holds no nodes, or a node is in two.
  """
  split = np.full(nodes, SPLITS['none'], np.int8)
  for key, members in rows.items():
    check_integers(members, f'{what}: {key}')
    if at := first((members < 0) | (members >= nodes)):
      raise InputError(
        f'{what}: {key} holds the node {members[at]}, and there are {nodes} '
        f'nodes, counted from 0'
      )
    if at := first(split[members] >= 0):
      raise InputError(
        f'{what}: node {members[at]} is in {key} and in another split'
      )
    split[members] = SPLITS[names[key]]
  return split


def check_integers(array: np.ndarray, what: str, axes: int = 1) -> None:
  """Raises InputError where an array holds none, or has other axes."""
  if array.ndim != axes or array.dtype.kind not in 'iu':
    raise InputError(
      f'{what} is {array.dtype}{list(array.shape)}, not integers of {axes} axes'
    )


def check_pointers(
  pointers: np.ndarray, rows: int, count: int, what: str, of: str
) -> None:
  """Raises InputError where CSR's row pointers do not rise from 0 to `count`.

  Args:
    rows: number of rows.
    count: length of what they point into.
    what, of: what messages call the pointers, and what they point into.
  """
  # Not by differences: those of unsigned numbers are never below 0.
  rising = len(pointers) == rows + 1 and (pointers[1:] >= pointers[:-1]).all()
  if not rising or pointers[0] or pointers[-1] != count:
    raise InputError(
      f'{what} must rise from 0 to {count}, the length of {of}, in {rows + 1} '
      f'steps, one more than there are nodes'
    )
