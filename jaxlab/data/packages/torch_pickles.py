"""Reads what `torch.save` wrote, without torch and without running it.

The packaged weights of EfficientNet-Lite0 come so, and whoever has weights of
somebody else's need not install torch to read them; before its version 2.6,
`torch.load(weights_only=True)` could be made to run code (CVE-2025-32434).
Since torch 1.6 a file is a zip of one pickle (`data.pkl`) and of one member a
storage. Before, it was five pickles (magic number, version, system, the tree,
the list of storages) and then the storages. `pickles` says what a pickle may do
here.
"""

import io
import os
import re
import reprlib
import zipfile
from collections.abc import Callable
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from jaxlab.data import growth
from jaxlab.data.packages import pickles

_MAGIC = 0x1950A86A20F9469CFC6C  # what torch's old layout begins with
_STORAGES = {
  f'torch.{name}Storage': np.dtype(dtype)
  for name, dtype in {
    'Double': '<f8',
    'Float': '<f4',
    'Half': '<f2',
    'BFloat16': ml_dtypes.bfloat16,
    'Long': '<i8',
    'Int': '<i4',
    'Short': '<i2',
    'Char': 'i1',
    'Byte': 'u1',
    'Bool': '?',
    'ComplexFloat': '<c8',
    'ComplexDouble': '<c16',
  }.items()
} | {'torch.storage.UntypedStorage': np.dtype('u1')}
_DTYPES = {'torch.uint16': '<u2', 'torch.uint32': '<u4', 'torch.uint64': '<u8'}


def read_torch_pickle(source: bytes | str | os.PathLike, what: str = '') -> Any:
  """The plain contents of a file of `torch.save`, new or old layout.

  Args:
    source: the bytes, or the path of a file.
    what: what messages call it; the path, if empty.

  Returns:
    As `pickles.read_pickle`; tensors and parameters are arrays, read only,
    which share memory where the tensors did.

  Raises:
    InputError: it is no such file, it holds more than tensors and plain values
      (a whole module, say), or it is damaged or cut off.
  """
  data, what = pickles.load_bytes(source, what)
  read = _read_zip if data[:4] == b'PK\3\4' else _read_legacy
  with pickles.damage(what):
    return read(data, what)


class _Storage(NamedTuple):
  """Elements of one type, or bytes if untyped, that tensors look into."""

  data: np.ndarray  # [count], read only


def _storage(pid: Any, find: Callable[[str, int, int], Any]) -> _Storage:
  """What a persistent id of torch names; `find(key, count, bytes)` has it."""
  tag, kind, key, _, count, *view = pid
  if tag != 'storage' or any(view) or {type(kind), type(key)} != {str}:
    raise ValueError(f'the storage {reprlib.repr(pid)}')
  dtype = _STORAGES[kind]
  size = pickles.element_count((count,)) * dtype.itemsize
  return _Storage(np.frombuffer(find(key, count, size), dtype, count))


def _tensor(storage, offset, shape, strides, grad=False, hooks=None, *rest):
  """torch's _rebuild_tensor and _v2: a strided view of a storage."""
  if not isinstance(storage, _Storage):
    raise TypeError('a tensor without a storage')
  if any(rest):
    raise ValueError(f'a conjugate or negative view, {reprlib.repr(rest)}')
  data, count = storage.data, pickles.element_count(shape)
  pickles.element_count(strides)
  pickles.element_count((offset,))
  if len(shape) != len(strides):
    raise ValueError(f'shape {shape} with strides {strides}')
  if not count:
    return np.empty(shape, data.dtype)
  last = offset + sum((n - 1) * step for n, step in zip(shape, strides))
  # More elements than the storage has: a few bytes could ask for any amount
  # of memory in whoever copies the array.
  if last >= len(data) or count > len(data):
    raise ValueError(
      f'a tensor of shape {shape}, strides {strides} and offset {offset} '
      f'does not lie in its storage of {len(data)} elements'
    )
  size = data.itemsize
  steps = [step * size for step in strides]
  return np.ndarray(shape, data.dtype, data, offset * size, steps)


def _tensor_v3(storage, offset, shape, strides, grad, hooks, dtype, *rest):
  """torch's _rebuild_tensor_v3: of types that have no storage of their own."""
  if not isinstance(storage, _Storage) or type(dtype) is not str:
    raise TypeError('a tensor without a storage or a dtype')
  storage = _Storage(storage.data.view(_DTYPES[dtype]))
  return _tensor(storage, offset, shape, strides, grad, hooks, *rest)


_KNOWN: dict[str, Any] = pickles.NUMPY | {
  'torch._utils._rebuild_tensor': _tensor,
  'torch._utils._rebuild_tensor_v2': _tensor,
  'torch._utils._rebuild_tensor_v3': _tensor_v3,
  'torch._utils._rebuild_parameter': lambda tensor, *rest: tensor,
  'torch.Size': lambda sizes=(): tuple(sizes),
  **{name: name for name in (*_STORAGES, *_DTYPES)},
}


def _check_order(little):
  if not little:
    raise ValueError('it is of a big-endian machine: save it anew in torch')


def _read_zip(data: bytes, what: str) -> Any:
  """torch 1.6 and later: one pickle and a member a storage."""
  storages: dict[str, bytes] = {}
  with zipfile.ZipFile(io.BytesIO(data)) as files:
    names = files.namelist()
    whole = sum(member.file_size for member in files.infolist())
    growth.check(what, len(data), whole)
    trees = [n for n in names if re.fullmatch(r'([^/]*/)?data\.pkl', n)]
    if len(trees) != 1:
      raise ValueError('this zip holds no data.pkl of torch')
    root = trees[0].removesuffix('data.pkl')
    if f'{root}byteorder' in names:
      _check_order(files.read(f'{root}byteorder') == b'little')

    def find(key, count, size):
      member = f'{root}data/{key}'
      if files.getinfo(member).file_size != size:
        raise ValueError(f'{member} does not have {size} bytes')
      if member not in storages:
        storages[member] = files.read(member)
      return storages[member]

    tree = io.BytesIO(files.read(trees[0]))
    storage = lambda pid: _storage(pid, find)
    return pickles.whole(
      pickles.Unpickler(tree, _KNOWN, what, storage).load(), tree
    )


def _read_legacy(data: bytes, what: str) -> Any:
  """Before torch 1.6: five pickles (magic number, version, system, the tree,
  the list of storages), then the storages."""
  file = io.BytesIO(data)
  storages: dict[str, tuple[int, bytearray]] = {}
  room = len(data)

  def find(key, count, size):
    nonlocal room
    if key not in storages:
      room -= size
      if room < 0:
        raise ValueError(f'storage {key} is cut off')
      storages[key] = count, bytearray(size)
    if (known := storages[key])[0] != count or len(known[1]) != size:
      raise ValueError(f'storage {key} has two sizes')
    return memoryview(known[1]).toreadonly()

  def following():
    storage = lambda pid: _storage(pid, find)
    return pickles.Unpickler(file, _KNOWN, what, storage).load()

  if data[:1] != b'\x80' or following() != _MAGIC:
    raise ValueError('this is not what torch.save writes')
  following()
  _check_order(following()['little_endian'])
  tree = following()
  keys = following()
  if any(type(key) is not str for key in keys) or {*keys} != storages.keys():
    raise ValueError('its list of storages is not that of its tensors')
  for key in keys:
    count, buffer = storages[key]
    if int.from_bytes(file.read(8), 'little') != count:
      raise ValueError(f'storage {key} has two sizes')
    if file.readinto(buffer) != len(buffer):
      raise ValueError(f'storage {key} is cut off')
  return pickles.whole(tree, file)
