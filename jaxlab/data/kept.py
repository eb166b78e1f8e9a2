"""Arrays and notes in the folders of `atomic.kept_folder`."""

import hashlib
import json
import pathlib
from typing import Any

import numpy as np

from jaxlab.core.errors import InputError


class GrowingArray:
  """An .npy file that is written bit by bit, within a `with`."""

  def __init__(self, path: pathlib.Path, dtype):
    self.count = 0  # rows written
    self._dtype, self._row = np.dtype(dtype), ()
    self._file = open(path, 'wb')  # noqa: SIM115

  def __enter__(self) -> 'GrowingArray':
    return self

  def __exit__(self, *error) -> None:
    self._write_header()
    self._file.close()

  def extend(self, rows) -> None:
    """Adds rows, [k, …], all of one shape."""
    rows = np.ascontiguousarray(rows, self._dtype)
    if not self.count:
      self._row = rows.shape[1:]
      self._write_header()
    self._file.write(rows.data)
    self.count += len(rows)

  def _write_header(self) -> None:
    # NumPy leaves room for the length to grow, so the header keeps its size.
    self._file.seek(0)
    header = {
      'descr': np.lib.format.dtype_to_descr(self._dtype),
      'fortran_order': False,
      'shape': (self.count, *self._row),
    }
    np.lib.format.write_array_header_1_0(self._file, header)


def load(folder: pathlib.Path, name: str) -> Any:
  """The array, memory-mapped, or the content of a JSON file in a kept folder.

  Raises:
    InputError: it cannot be read.
  """
  path = folder / name
  try:
    if path.suffix == '.json':
      return json.loads(path.read_text())
    # NumPy cannot map an array without elements.
    mapped = path.stat().st_size > 128
    return np.load(path, mmap_mode='r' if mapped else None, allow_pickle=False)
  except (OSError, ValueError) as error:
    raise InputError(
      f'{path} cannot be read ({error}): delete {folder} and run again'
    ) from error


def digest_of(options: object) -> str:
  """Names the folder of what is made by options: SHA-256 of their JSON."""
  return hashlib.sha256(json.dumps(options).encode()).hexdigest()
