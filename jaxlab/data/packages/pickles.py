"""Reads pickles that others wrote without running what they ask to run.

A pickle is a program: it may import any function and call it. Here a pickle
gets stand-ins for the few names that arrays are made of and for those that the
caller names; a stand-in only notes its arguments. Every other name ends the
reading before anything is called. Arrays are built afterwards, from notes
whose types and sizes have been checked against the bytes that are there.

This is the only module of the project that imports `pickle`;
`jaxlab/data/packages/torch_pickles.py` reads torch's files through it.
"""

import contextlib
import io
import math
import os
import pathlib
import pickle
import pickletools
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import numpy as np

from jaxlab.data import growth
from jaxlab.engine.errors import InputError

_PLAIN = (type(None), bool, int, float, str, bytes, bytearray)
_OBJECT = np.dtype(object)
_DEEPEST = 200  # levels of values in values; C recurses through them
# Instructions that change what they find, and which of the things that others
# take they hash or copy.
_CHANGES = {'APPEND', 'APPENDS', 'SETITEM', 'SETITEMS', 'ADDITEMS', 'BUILD'}
_WORKS = {
  'DICT': slice(0, None, 2),
  'FROZENSET': slice(None),
  'SETITEM': slice(1, 2),
  'SETITEMS': slice(1, None, 2),
  'ADDITEMS': slice(1, None),
  'BUILD': slice(1, None),
  **dict.fromkeys(
    ('REDUCE', 'NEWOBJ', 'NEWOBJ_EX', 'INST', 'OBJ'), slice(None)
  ),
}


class Record:
  """An object that was not made: the name, arguments and state it asked for."""

  name = ''  # 'igraph.Graph'
  args: tuple
  state: Any

  def __new__(cls, *args):
    self = super().__new__(cls)
    self.args, self.state = args, None
    return self

  def __setstate__(self, state):
    self.state = state


def read_pickle(
  source: bytes | str | os.PathLike,
  *,
  allow: Collection[str] = (),
  what: str = '',
) -> Any:
  """The plain contents of one pickle, or of an .npy file of objects.

  Args:
    source: the bytes, or the path of a file.
    allow: full names ('igraph.Graph') that become a `Record`; nothing of those
      names is imported or run.
    what: what messages call it; the path, if empty.

  Returns:
    Dictionaries, lists, tuples, sets, numbers, strings, bytes, arrays and
    Records. Strings of Python 2 are read as latin-1.

  Raises:
    InputError: it names anything else, or is damaged or cut off.
  """
  data, what = load_bytes(source, what)
  known = NUMPY | {
    name: type('Record', (Record,), {'name': name}) for name in allow
  }
  with damage(what):
    start = _npy_header(data)
    end = scan(data, start)
    if end != len(data):
      raise ValueError(f'{len(data) - end} bytes follow its end')
    return resolve(load(data[start:end], known, what))


def load_bytes(
  source: bytes | str | os.PathLike, what: str = ''
) -> tuple[bytes, str]:
  """The bytes of a file (or the given ones) and what messages call them."""
  if isinstance(source, bytes):
    return source, what or 'the pickle'
  try:
    return pathlib.Path(source).read_bytes(), what or str(source)
  except OSError as error:
    raise InputError(
      f'cannot read {source} ({error.strerror}): give the path of a file'
    ) from error


@contextlib.contextmanager
def damage(what: str) -> Iterator[None]:
  """Whatever goes wrong inside is an InputError; pickle lists no exceptions."""
  try:
    yield
  except InputError:
    raise
  except Exception as error:
    raise InputError(
      f'{what} is damaged, cut off or of another format '
      f'({type(error).__name__}: {error}): fetch or copy it again'
    ) from error


def _npy_header(data):
  """Where the pickle begins: behind the header if this is an .npy file."""
  if data[:6] != b'\x93NUMPY':
    return 0
  file = io.BytesIO(data)
  if np.lib.format.read_magic(file) == (1, 0):
    _, _, dtype = np.lib.format.read_array_header_1_0(file)
  else:
    _, _, dtype = np.lib.format.read_array_header_2_0(file)
  if dtype != _OBJECT:
    raise ValueError(f'an array of {dtype} needs no pickle: use np.load')
  return file.tell()


def scan(data: bytes, start: int = 0) -> int:
  """Disassembles a pickle without running it; returns where it ends.

  What it would put on its stack is followed as depths and sizes. What is used
  twice counts twice where it is hashed or copied.

  Raises:
    ValueError: it is damaged, cut off, nested too deep or asks for more memory
      or work than its length can need.
  """
  file = io.BytesIO(data)
  file.seek(start)
  stack = _Stack(growth.limit(len(data) - start))
  for code, argument, position in pickletools.genops(file):
    if code.name.startswith('EXT'):
      # These may come from a cache, past `find_class`.
      raise ValueError('it uses the registry of extensions')
    if code.name.endswith('PUT') and (argument or 0) > (position or 0) - start:
      # The C unpickler makes room for whatever number it is told.
      raise ValueError(f'entry {argument} at byte {position}')
    stack.take(code, argument)
  return file.tell()


class _Extent:
  """Of something on the stack: levels, and bytes with all that is in it."""

  __slots__ = ('depth', 'size')

  def __init__(self, depth: int, size: int):
    self.depth, self.size = depth, size


class _Stack:
  """The stack of a pickle machine that makes nothing."""

  def __init__(self, limit: int):
    self._limit, self._work = limit, 0
    self._items: list[_Extent | None] = []  # None: a mark
    self._memo: dict[int, _Extent | None] = {}

  def take(self, code: pickletools.OpcodeInfo, argument: Any) -> None:
    """Follows one instruction."""
    items = self._items
    if code.name == 'MARK':
      items.append(None)
    elif code.name == 'DUP':
      items.append(items[-1])
    elif code.name.endswith('GET'):
      items.append(self._memo[argument])
    elif code.name == 'MEMOIZE' or code.name.endswith('PUT'):
      where = len(self._memo) if argument is None else argument
      self._memo[where] = items[-1]
    elif code.name == 'POP':
      items.pop()
    else:
      self._build(code, argument)

  def _build(self, code, argument):
    parts = self._pop(code.stack_before)
    if not code.stack_after:
      return
    depth = max((part.depth for part in parts), default=0)
    size = min(sum(part.size for part in parts), self._limit + 1)
    if code.name in _CHANGES:
      made = parts[0]
      made.depth = max(depth, max((x.depth for x in parts[1:]), default=0) + 1)
      made.size = size
    else:
      payload = len(argument) if isinstance(argument, (bytes, str)) else 0
      made = _Extent(depth + 1, size + 8 + payload)
    if code.name in _WORKS:
      worked = parts[_WORKS[code.name]]
      self._work += sum(part.size for part in worked)
    if made.depth > _DEEPEST:
      raise ValueError(f'it nests values more than {_DEEPEST} deep')
    if self._work > self._limit:
      raise ValueError(f'it would take more than {self._limit} bytes')
    self._items.append(made)

  def _pop(self, before):
    """What an instruction takes from the stack, the lowest first."""
    found: list[_Extent | None] = []
    single = len(before)
    if pickletools.markobject in before:
      single = before.index(pickletools.markobject)
      while (part := self._items.pop()) is not None:
        found.append(part)
    for _ in range(single):
      found.append(self._items.pop())
    sizes = [part for part in found[::-1] if part is not None]
    if len(sizes) < len(found):
      raise ValueError('a mark where a value should be')
    return sizes


def load(
  data: bytes,
  known: Mapping[str, type | str],
  what: str,
  persistent: Callable[[Any], Any] | None = None,
) -> Any:
  """Runs a scanned pickle with stand-ins; the result still holds notes.

  Args:
    data: the pickle.
    known: full name -> its stand-in: a class with a `__setstate__` (without
      one a pickle could set attributes, of an instance or of the class), or a
      string for a name that is only an argument of others.
    what: what messages call it.
    persistent: what a persistent id stands for.

  Raises:
    InputError: the pickle names what is not in `known`.
    Exception: it is damaged; use it `with damage(what)`.
  """
  return _Unpickler(data, known, what, persistent).load()


class _Unpickler(pickle.Unpickler):
  """Looks names up in `known` instead of importing them."""

  def __init__(self, data, known, what, persistent):
    super().__init__(io.BytesIO(data), encoding='latin1')
    self._known, self._what, self._persistent = known, what, persistent

  def find_class(self, module, name):
    found = self._known.get(f'{module}.{name}')
    if found is None:
      raise InputError(
        f'{self._what} asks to import {module}.{name}, which is refused: only '
        f'arrays and plain values are read from pickles. Save these alone: '
        f'safetensors, np.savez, or torch.save(model.state_dict(), path)'
      )
    return found

  def persistent_load(self, pid):
    if self._persistent is None:
      raise ValueError(f'it refers to data outside itself, {pid!r:.80}')
    return self._persistent(pid)


def resolve(value: Any, memo: dict[int, tuple] | None = None) -> Any:
  """A copy of a tree whose notes are replaced by what they stand for."""
  if type(value) in _PLAIN:
    return value
  memo = {} if memo is None else memo
  if id(value) in memo:
    return memo[id(value)][0]
  if isinstance(value, Note):
    result = value.build(lambda item: resolve(item, memo))
  elif isinstance(value, dict):
    memo[id(value)] = (result := {}), value
    for key, item in value.items():
      result[resolve(key, memo)] = resolve(item, memo)
  elif type(value) is list:
    memo[id(value)] = (result := []), value
    result.extend(resolve(item, memo) for item in value)
  elif type(value) in (tuple, set, frozenset):
    result = type(value)(resolve(item, memo) for item in value)
  elif isinstance(value, Record):
    memo[id(value)] = (result := value), value
    value.args = resolve(value.args, memo)
    value.state = resolve(value.state, memo)
  else:
    raise TypeError(f'a {type(value).__name__} where a value should be')
  memo[id(value)] = result, value  # kept, so that its id stays its own
  return result


class Note:
  """A stand-in for something that is built once everything is read."""

  def __setstate__(self, state):
    raise TypeError(f'{type(self).__name__} has no state')

  def build(self, resolve: Callable[[Any], Any]) -> Any:
    """What this stands for; `resolve` does the same for its parts."""
    raise TypeError(f'a {type(self).__name__[1:]} is no value of its own')


def element_count(shape: Any) -> int:
  """The product of a shape, neither whose type nor values are trusted."""
  if type(shape) is not tuple or not all(
    type(size) is int and size >= 0 for size in shape
  ):
    raise ValueError(f'the shape {shape!r:.80}')
  return math.prod(shape)


class _Dict(dict):
  """collections.OrderedDict; its attributes are dropped."""

  __slots__ = ()

  def __setstate__(self, state):
    pass


class _Encode:
  """_codecs.encode: how Python 3 writes bytes in protocols below 3."""

  def __new__(cls, text, encoding):
    if encoding not in ('latin1', 'latin-1'):
      raise ValueError(f'bytes in the encoding {encoding!r:.80}')
    return text.encode('latin1')

  def __setstate__(self, state):
    raise TypeError('bytes have no state')


class _Empty:
  """bytes(): how protocols below 3 write none."""

  def __new__(cls):
    return b''

  def __setstate__(self, state):
    raise TypeError('bytes have no state')


class _DType(Note):
  """numpy.dtype."""

  def __init__(self, name, align=False, copy=True):
    self.name, self.state = name, (None, '|', None, None, None)

  def __setstate__(self, state):
    self.state = state

  def build(self, resolve):
    _, order, *parts = self.state[:5]
    simple = isinstance(self.name, str) and re.fullmatch(
      r'[|<>=]?([biufc]\d{1,2}|[SU]\d{1,9}|O[48]?)', self.name
    )
    if not simple or order not in ('<', '>', '|', '=') or any(parts):
      raise ValueError(f'an array of dtype {self.name!r:.80}')
    if self.name.lstrip('|<>=')[0] == 'O':
      return _OBJECT
    dtype = np.dtype(self.name)
    return dtype.newbyteorder(order) if order in '<>' else dtype


class _Array(Note):
  """numpy's _reconstruct: an array whose contents come as its state."""

  scalar = False

  def __init__(self, *args):
    self.state: tuple = ()

  def __setstate__(self, state):
    self.state = state

  def build(self, resolve):
    # Some states have a version in front.
    shape, dtype, fortran, data = self.state[-4:]
    if not isinstance(dtype, _DType):
      raise TypeError('an array without a dtype')
    dtype = dtype.build(resolve)
    count = element_count(shape)
    if dtype == _OBJECT:
      if type(data) is not list or len(data) != count:
        raise ValueError(f'not {count} objects for an array of shape {shape}')
      array = np.empty(count, object)
      for i, item in enumerate(data):
        array[i] = resolve(item)
    else:
      data = data.encode('latin1') if isinstance(data, str) else data
      if len(data) != count * dtype.itemsize:
        raise ValueError(f'{len(data)} bytes for {dtype} of shape {shape}')
      array = np.frombuffer(data, dtype).copy()
    array = array.reshape(shape, order='F' if fortran else 'C')
    return array[()] if self.scalar else array


class _Scalar(_Array):
  """numpy's scalar(dtype, bytes)."""

  scalar = True

  def __init__(self, dtype, data):
    self.state = (), dtype, False, data


class _FromBuffer(_Array):
  """numpy's _frombuffer, of protocol 5."""

  def __init__(self, data, dtype, shape, order, *rest):
    self.state = shape, dtype, order == 'F', data


NUMPY: dict[str, type | str] = {
  'collections.OrderedDict': _Dict,
  '_codecs.encode': _Encode,
  '__builtin__.bytes': _Empty,
  'builtins.bytes': _Empty,
  'numpy.ndarray': 'numpy.ndarray',
  'numpy.dtype': _DType,
  **{
    f'numpy.{core}.{name}': stand_in
    for core in ('core', '_core')
    for name, stand_in in {
      'multiarray._reconstruct': _Array,
      'multiarray.scalar': _Scalar,
      'numeric._frombuffer': _FromBuffer,
    }.items()
  },
}
