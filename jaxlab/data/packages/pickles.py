"""Reads pickles that others wrote without running what they ask to run.

A pickle is a program: it may import any function and call it. Here it finds no
name but the few that arrays are made of and those that the caller allows. For
these it gets our own functions, which check types and sizes against the bytes
that are there; nothing else is called, and no attribute is set. Every other
name ends the reading.

This is the only module of the project that imports `pickle`;
`jaxlab/data/packages/torch_pickles.py` reads torch's files through it.
"""

import contextlib
import io
import math
import os
import pathlib
import pickle
import re
import reprlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, ClassVar

import numpy as np

from jaxlab.core.errors import InputError
from jaxlab.data import growth

_PLAIN = (type(None), bool, int, float, str, bytes)
_OBJECT = np.dtype(object)
_DEEPEST = 200  # levels of values in values; users and `hash` recurse in them


class Record:
  """An object that was not made: the name, arguments and state it asked for."""

  name = ''  # 'igraph.Graph'

  def __init__(self, *args: Any):
    self.args, self.state = args, None


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
    file = io.BytesIO(data)
    _skip_npy_header(file)
    return whole(Unpickler(file, known, what).load(), file)


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


def element_count(shape: Any) -> int:
  """The product of a shape, neither whose type nor values are trusted."""
  if type(shape) is not tuple or not all(
    type(size) is int and size >= 0 for size in shape
  ):
    raise ValueError(f'the shape {reprlib.repr(shape)}')
  return math.prod(shape)


class _Unbuilt:
  """Something whose content follows: `build(*state)` makes it."""

  def __init__(self, build: Callable[..., Any]):
    self.build, self.built = build, None


class _Memo(dict):
  """What a pickle refers to by number; as it was built, where it was."""

  def __init__(self, most: int):
    super().__init__()
    self._most = most

  def __setitem__(self, number, value):
    if number > self._most:
      raise ValueError(f'entry {number} of fewer bytes')
    super().__setitem__(number, value)

  def __getitem__(self, number):
    found = super().__getitem__(number)
    built = found.built if isinstance(found, _Unbuilt) else None
    return found if built is None else built


_Python: Any = pickle._Unpickler


class Unpickler(_Python):
  """Python's own reader, where it would import, call, hash or set attributes.

  It is the one in Python, whose table of instructions can be changed (joblib
  does so, too): the one in C makes room for whatever number it is told. What
  is used twice counts twice where it is hashed or copied.

  Args:
    file: where the pickle begins; it is read to its end.
    known: full name -> the function to be called in its place, or a string for
      a name that is only an argument of others.
    what: what messages call it.
    storage: what a persistent id stands for.

  Raises:
    InputError: the pickle names something that is not in `known`.
    Exception: it is damaged or asks for more work than its length can need;
      use it `with damage(what)`.
  """

  dispatch: ClassVar[dict[int, Callable]] = dict(_Python.dispatch)

  def __init__(
    self,
    file: io.BytesIO,
    known: Mapping[str, Any],
    what: str,
    storage: Callable[[Any], Any] | None = None,
  ):
    super().__init__(file, encoding='latin1')
    self._file, self._size = file, file.getbuffer().nbytes
    self.memo = _Memo(self._size)
    self._limit, self._work = growth.limit(self._size), 0
    self._known = {**known, 'collections.OrderedDict': self._ordered}
    self._what, self._storage = what, storage

  def find_class(self, module, name):
    found = self._known.get(f'{module}.{name}')
    if found is None:
      raise InputError(
        f'{self._what} asks to import {module}.{name}, which is refused: only '
        f'arrays and plain values are read from pickles. Save these alone: '
        f'safetensors, np.savez, or torch.save(model.state_dict(), path)'
      )
    return found

  def get_extension(self, code):
    # These may come from a cache, past `find_class`.
    raise ValueError('it uses the registry of extensions')

  def persistent_load(self, pid):
    if self._storage is None:
      raise ValueError(f'it refers to data outside itself, {reprlib.repr(pid)}')
    return self._storage(pid)

  def _spend(self, size):
    self._work += size
    if self._work > self._limit:
      raise ValueError(f'it would take more than {self._limit} bytes')

  def _spend_on(self, parts):
    """Counts what a call that gets these may copy."""
    sized = (str, bytes, list, tuple, dict)
    lengths = (len(x) if isinstance(x, sized) else 1 for x in parts)
    self._spend(8 * (len(parts) + sum(lengths)))

  def _check_key(self, key, depth=1):
    """Counts what hashing a key takes."""
    if depth > _DEEPEST:
      raise ValueError(f'it nests values more than {_DEEPEST} deep')
    self._spend(64 + (key.bit_length() // 8 if type(key) is int else 0))
    for item in key if type(key) is tuple else ():
      self._check_key(item, depth + 1)

  def _fill(self, target, items):
    if type(target) is not dict:
      raise TypeError(f'a {type(target).__name__} where a dict should be')
    for key, value in items:
      self._check_key(key)
      target[key] = value

  def _ordered(self, items=()):
    made: dict[Any, Any] = {}
    self._fill(made, items)
    return made

  def _instantiate(self, klass, args):
    self._spend_on(args)
    self.append(klass(*args))

  def load_reduce(self):
    args = self.stack.pop()
    self._instantiate(self.stack.pop(), args)

  def load_build(self):
    state, made = self.stack.pop(), self.stack[-1]
    if isinstance(made, _Unbuilt):
      self._spend_on(state)
      self.stack[-1] = made.built = made.build(*state)
    elif isinstance(made, Record):
      made.state = state
    elif type(made) is not dict:  # an OrderedDict's attributes are dropped
      raise TypeError(f'a {type(made).__name__} has no state')

  def load_setitem(self):
    value, key = self.stack.pop(), self.stack.pop()
    self._fill(self.stack[-1], [(key, value)])

  def load_setitems(self):
    items = self.pop_mark()
    self._fill(self.stack[-1], zip(items[::2], items[1::2], strict=True))

  def load_dict(self):
    items = self.pop_mark()
    self.append(self._ordered(zip(items[::2], items[1::2], strict=True)))

  def load_frozenset(self):
    items = self.pop_mark()
    for item in items:
      self._check_key(item)
    self.append(frozenset(items))

  def load_additems(self):
    self.load_frozenset()
    items = self.stack.pop()
    if type(self.stack[-1]) is not set:
      raise TypeError(f'a {type(self.stack[-1]).__name__} is not a set')
    self.stack[-1].update(items)

  def load_frame(self):
    # Where a frame ends does not matter; bytes behind the end would hide in it.
    size = int.from_bytes(self.read(8), 'little')
    if size > self._size - self._file.tell():
      raise ValueError('a frame is cut off')

  for _code, _load in (
    (pickle.REDUCE, load_reduce),
    (pickle.NEWOBJ, load_reduce),
    (pickle.BUILD, load_build),
    (pickle.SETITEM, load_setitem),
    (pickle.SETITEMS, load_setitems),
    (pickle.DICT, load_dict),
    (pickle.ADDITEMS, load_additems),
    (pickle.FROZENSET, load_frozenset),
    (pickle.FRAME, load_frame),
    # Bytes that may be written to: read as the others, no more than are there.
    (pickle.BYTEARRAY8, dispatch[pickle.BINBYTES8[0]]),
  ):
    dispatch[_code[0]] = _load
  del dispatch[pickle.NEWOBJ_EX[0]]


def whole(value: Any, file: io.BytesIO) -> Any:
  """The value of a file that ends here, if it has no half-made parts.

  Raises:
    ValueError, TypeError: why it is not whole.
  """
  if rest := file.getbuffer().nbytes - file.tell():
    raise ValueError(f'{rest} bytes follow its end')
  seen: set[int] = set()
  level = [value]
  for _ in range(_DEEPEST):
    new = {id(x): x for x in level if type(x) not in _PLAIN}
    level = [y for i, x in new.items() if i not in seen for y in _parts(x)]
    seen |= new.keys()
    if not level:
      return value
  raise ValueError(f'it nests values more than {_DEEPEST} deep')


def _parts(value: Any) -> Iterable[Any]:
  """The values that one directly holds."""
  if type(value) is dict:
    return [*value, *value.values()]
  if type(value) in (list, tuple, set, frozenset):
    return value
  if isinstance(value, Record):
    return value.args, value.state
  if type(value) is np.ndarray:
    return value.ravel().tolist() if value.dtype == _OBJECT else ()
  if isinstance(value, np.generic):
    return ()
  raise TypeError(f'a {type(value).__name__} where a value should be')


def _skip_npy_header(file: io.BytesIO) -> None:
  """Goes behind the header if this is an .npy file."""
  if file.getvalue()[:6] != b'\x93NUMPY':
    return
  if np.lib.format.read_magic(file) == (1, 0):
    _, _, dtype = np.lib.format.read_array_header_1_0(file)
  else:
    _, _, dtype = np.lib.format.read_array_header_2_0(file)
  if dtype != _OBJECT:
    raise ValueError(f'an array of {dtype} needs no pickle: use np.load')


def _encode(text, encoding):
  """_codecs.encode: how Python 3 writes bytes in protocols below 3."""
  if encoding not in ('latin1', 'latin-1'):
    raise ValueError(f'bytes in the encoding {reprlib.repr(encoding)}')
  return text.encode('latin1')


def _dtype(name, align=False, copy=True):
  """numpy.dtype."""

  def build(_, order, *parts):
    simple = isinstance(name, str) and re.fullmatch(
      r'[|<>=]?([biufc]\d{1,2}|[SU]\d{1,9}|O[48]?)', name
    )
    if not simple or order not in ('<', '>', '|', '=') or any(parts[:3]):
      raise ValueError(f'an array of dtype {reprlib.repr(name)}')
    if name.lstrip('|<>=')[0] == 'O':
      return _OBJECT
    dtype = np.dtype(name)
    return dtype.newbyteorder(order) if order in '<>' else dtype

  return _Unbuilt(build)


def _array(data, dtype, shape, order='C', *rest):
  """numpy's _frombuffer, of protocol 5."""
  if not isinstance(dtype, np.dtype):
    raise TypeError('an array without a dtype')
  count = element_count(shape)
  if dtype == _OBJECT:
    if type(data) is not list or len(data) != count:
      raise ValueError(f'not {count} objects for an array of shape {shape}')
    array = np.empty(count, object)
    for i, item in enumerate(data):
      array[i] = item
  else:
    data = data.encode('latin1') if isinstance(data, str) else data
    if len(data) != count * dtype.itemsize:
      raise ValueError(f'{len(data)} bytes for {dtype} of shape {shape}')
    array = np.frombuffer(data, dtype).copy()
  return array.reshape(shape, order='F' if order == 'F' else 'C')


def _reconstruct(*args):
  """numpy's, an array whose contents come as its state."""

  def build(*state):  # of some, with a version in front
    shape, dtype, fortran, data = state[-4:]
    return _array(data, dtype, shape, 'F' if fortran else 'C')

  return _Unbuilt(build)


NUMPY: dict[str, Any] = {
  '_codecs.encode': _encode,
  # How protocols below 3 write no bytes.
  '__builtin__.bytes': lambda: b'',
  'builtins.bytes': lambda: b'',
  'numpy.ndarray': 'numpy.ndarray',
  'numpy.dtype': _dtype,
  **{
    f'numpy.{core}.{name}': stand_in
    for core in ('core', '_core')
    for name, stand_in in {
      'multiarray._reconstruct': _reconstruct,
      'multiarray.scalar': lambda dtype, data: _array(data, dtype, ())[()],
      'numeric._frombuffer': _array,
    }.items()
  },
}
