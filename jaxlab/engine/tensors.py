"""Nested dictionaries of arrays as safetensors, and back.

Names are the paths, joined with '/'. The format holds no object and runs
nothing when it is read.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from jaxlab.core.errors import InputError

Flat = dict[str, np.ndarray]

_TYPES = {
  'F64': '<f8',
  'F32': '<f4',
  'F16': '<f2',
  'C64': '<c8',
  'BOOL': '?',
  'I64': '<i8',
  'I32': '<i4',
  'I16': '<i2',
  'I8': 'i1',
  'U64': '<u8',
  'U32': '<u4',
  'U16': '<u2',
  'U8': 'u1',
  'BF16': ml_dtypes.bfloat16,
  'F8_E4M3': ml_dtypes.float8_e4m3fn,
  'F8_E5M2': ml_dtypes.float8_e5m2,
}


def decode(data: bytes) -> Flat:
  """The arrays of a safetensors file, by name.

  Raises:
    Exception: of many kinds, where it is damaged.
  """
  return {
    name: np.frombuffer(entry['data'], _TYPES[entry['dtype']]).reshape(
      entry['shape']
    )
    for name, entry in sorted(
      safetensors.deserialize(data), key=lambda item: item[0]
    )
  }


def save(
  path: Path,
  flat: Mapping[str, np.ndarray],
  metadata: dict[str, str] | None = None,
) -> None:
  """Writes arrays; the same ones give the same bytes.

  Args:
    metadata: kept in the file's header.

  Raises:
    InputError: it cannot be written.
  """
  try:
    safetensors.numpy.save_file(dict(flat), path, metadata)
    path.chmod(0o644)  # it is made for its owner alone
  except (safetensors.SafetensorError, OSError) as error:
    raise InputError(f'cannot write {path}: {error}') from error


def flattened(tree: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
  """The leaves of nested dictionaries by path, and the paths of empty ones.

  Raises:
    InputError: a container that is not a dictionary; a key that is not a name.
  """
  flat: dict[str, Any] = {}
  empty: list[str] = []

  def walk(path: str, value: Any) -> None:
    if isinstance(value, Mapping):
      if not value:
        empty.append(path)
      for key, inner in value.items():
        if not isinstance(key, str) or '/' in key or not key:
          raise InputError(f'{path}: the key {key!r} must be a name without /')
        walk(f'{path}/{key}' if path else key, inner)
    elif hasattr(value, 'dtype') and hasattr(value, 'shape'):
      flat[path] = value
    else:
      raise InputError(
        f'{path} is a {type(value).__name__}; a model is nested dictionaries '
        'of arrays: keep it in such, or leave that entry out'
      )

  walk('', tree)
  return flat, empty


def nested(flat: Mapping[str, Any], empty: Iterable[str]) -> dict[str, Any]:
  """What `flattened` was given."""
  tree: dict[str, Any] = {}
  for path, leaf in [*flat.items(), *((path, {}) for path in empty)]:
    *parents, last = path.split('/')
    at = tree
    for name in parents:
      at = at.setdefault(name, {})
    at[last] = leaf
  return tree
