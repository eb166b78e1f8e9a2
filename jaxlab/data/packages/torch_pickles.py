"""Reads what `torch.save` wrote, without torch and without running it.

Since torch 1.6 a file is a zip of one pickle (`data.pkl`) and of one member a
storage. Before, it was five pickles (magic number, version, system, the tree,
the list of storages) and then the storages. `pickles` says what a pickle may do
here.
"""

import io
import os
import re
import zipfile
from typing import Any

import ml_dtypes
import numpy as np

from jaxlab.data import growth
from jaxlab.data.packages import pickles

_MAGIC = 0x1950A86A20F9469CFC6C
_UNTYPED = 'torch.storage.UntypedStorage'
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
} | {_UNTYPED: np.dtype('u1')}
_DTYPES = {'torch.uint16': '<u2', 'torch.uint32': '<u4', 'torch.uint64': '<u8'}


def read_torch_pickle(source: bytes | str | os.PathLike, what: str = '') -> Any:
  """The plain contents of a file of `torch.save`, new or old format.

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
  with pickles.damage(what):
    if data[:4] == b'PK\3\4':
      return _read_zip(data, what)
    return _read_legacy(data, what)


class _Storage(pickles.Note):
  """Elements of one type, or bytes if untyped, that tensors look into."""

  def __init__(self, pid):
    tag, kind, self.key, _, self.count, *view = pid
    if tag != 'storage' or any(view):
      raise ValueError(f'the storage {pid!r:.80}')
    pickles.element_count((self.count,))
    self.untyped = kind == _UNTYPED
    self.dtype = _STORAGES[kind]
    self.nbytes = self.count * self.dtype.itemsize
    self.data = np.empty(0, self.dtype)

  def read(self, data, start=0):
    """Looks into `nbytes` of these bytes."""
    if start + self.nbytes > len(data):
      raise ValueError(f'storage {self.key} is cut off')
    self.data = np.frombuffer(data, self.dtype, self.count, start)


class _Tensor(pickles.Note):
  """torch's _rebuild_tensor, _v2 and _v3: a strided view of a storage."""

  def __init__(self, storage, offset, shape, strides, *rest):
    self.view = storage, offset, shape, strides
    self.rest = rest  # requires_grad, hooks, in _v3 the dtype, metadata

  def build(self, resolve):
    storage, offset, shape, strides = self.view
    if not isinstance(storage, _Storage):
      raise TypeError('a tensor without a storage')
    data, rest = storage.data, list(self.rest[2:])
    if storage.untyped:
      data = data.view(_DTYPES[rest.pop(0)])
    if any(rest):
      raise ValueError(f'a conjugate or negative view, {rest!r:.80}')
    count = pickles.element_count(shape)
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


class _Parameter:
  """torch's _rebuild_parameter: the tensor alone."""

  def __new__(cls, tensor, *rest):
    return tensor

  def __setstate__(self, state):
    raise TypeError('a parameter has no state')


class _Size:
  """torch.Size."""

  def __new__(cls, sizes=()):
    return tuple(sizes)

  def __setstate__(self, state):
    raise TypeError('a size has no state')


_KNOWN: dict[str, type | str] = pickles.NUMPY | {
  'torch._utils._rebuild_tensor': _Tensor,
  'torch._utils._rebuild_tensor_v2': _Tensor,
  'torch._utils._rebuild_tensor_v3': _Tensor,
  'torch._utils._rebuild_parameter': _Parameter,
  'torch.Size': _Size,
  **{name: name for name in (*_STORAGES, *_DTYPES)},
}


def _check_order(little):
  if not little:
    raise ValueError('it is of a big-endian machine: save it anew in torch')


def _read_zip(data, what):
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

    def persistent(pid):
      storage = _Storage(pid)
      member = f'{root}data/{storage.key}'
      if files.getinfo(member).file_size != storage.nbytes:
        raise ValueError(f'{member} does not have {storage.nbytes} bytes')
      if member not in storages:
        storages[member] = files.read(member)
      storage.read(storages[member])
      return storage

    tree = files.read(trees[0])
    pickles.scan(tree)
    return pickles.resolve(pickles.load(tree, _KNOWN, what, persistent))


def _read_legacy(data, what):
  end = 0
  storages: dict[str, list[_Storage]] = {}

  def persistent(pid):
    storage = _Storage(pid)
    storages.setdefault(storage.key, []).append(storage)
    return storage

  def following():
    nonlocal end
    start, end = end, pickles.scan(data, end)
    return pickles.load(data[start:end], _KNOWN, what, persistent)

  if data[:1] != b'\x80' or following() != _MAGIC:
    raise ValueError('this is not what torch.save writes')
  following()
  _check_order(following()['little_endian'])
  tree = following()
  for key in following():
    count = int.from_bytes(data[end : end + 8], 'little')
    end += 8
    users = storages[key]
    nbytes = users[0].nbytes
    for storage in users:
      if (storage.count, storage.nbytes) != (count, nbytes):
        raise ValueError(f'storage {key} has two sizes')
      storage.read(data, end)
    end += nbytes
  if end != len(data):
    raise ValueError(f'{len(data) - end} bytes follow its end')
  return pickles.resolve(tree)
