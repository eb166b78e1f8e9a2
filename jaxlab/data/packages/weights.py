"""Weights that others trained, as a flat mapping from name to array.

Four formats are read without the frameworks that wrote them and without
running anything: safetensors (also written), Keras' HDF5, torch's pickles and
TensorFlow.js' shards. Names are the foreign ones; `jaxlab/models/pretrained.py`
knows what they mean. Arrays may be read only. `packaged_weights.py` fetches
weights that ordinary packages ship.
"""

import json
import os
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxlab.core.errors import InputError
from jaxlab.data import atomic, growth
from jaxlab.data.packages import pickles
from jaxlab.data.packages.torch_pickles import read_torch_pickle
from jaxlab.engine import tensors

Path = str | os.PathLike
Flat = dict[str, np.ndarray]

_TFJS = {'float32': '<f4', 'int32': '<i4', 'bool': '?', 'complex64': '<c8'}
_TFJS_PACKED = {'uint8': 'u1', 'uint16': '<u2', 'float16': '<f2'}


def read_safetensors(path: Path) -> Flat:
  """A safetensors file.

  Raises:
    InputError: it is absent, damaged or holds a type NumPy lacks.
  """
  return decode_safetensors(*pickles.load_bytes(path))


def write_safetensors(
  path: Path, tree: Any, metadata: dict[str, str] | None = None
) -> None:
  """Writes nested variables, or a flat mapping, under '/'-joined names.

  The same arrays give the same bytes. The file is complete or not there.

  Args:
    metadata: kept in the file's header.

  Raises:
    InputError: two leaves have one name, or a leaf is not an array of numbers.
  """
  flat = {}
  leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
  for place, leaf in leaves:
    name = jax.tree_util.keystr(place, simple=True, separator='/')
    flat[name] = np.asarray(leaf, order='C')
    if flat[name].dtype == object:
      raise InputError(f'{name} is not an array of numbers but {leaf!r:.80}')
  if len(flat) != len(leaves):
    raise InputError('two leaves have one name: keys may not hold "/"')
  try:
    with atomic.whole(pathlib.Path(path)) as partial:
      tensors.save(partial, flat, metadata)
  except OSError as error:
    raise InputError(f'cannot write {path}: {error}') from error


def read_keras_h5(path: Path) -> Flat:
  """Weights of Keras 2 or 3 in HDF5, by the paths of their data sets.

  `conv1/conv1/kernel:0` of `save_weights` in Keras 2, with `model_weights/` in
  front in whole models. In a `.weights.h5` of Keras 3 `layers/conv1/vars/0`,
  where the file knows the name that the layer had, else its class and number:
  `layers/conv2d_3/vars/0`. What belongs to an optimizer is left out.

  Raises:
    InputError: it is absent, damaged, or refers to other files; or h5py is
      not installed.
  """
  try:
    import h5py  # of an extra, and slow to load
  except ImportError as error:
    raise InputError(
      f'{path} is HDF5, which needs h5py: pip install h5py'
    ) from error
  flat: Flat = {}

  def visit(name, item):
    if not isinstance(item, h5py.Dataset) or name.startswith('optimizer'):
      return
    if item.is_virtual or item.external:
      raise ValueError(f'{name} refers to another file')
    if item.dtype.kind not in 'biufc':
      raise ValueError(f'{name} holds {item.dtype}, not numbers')
    group, _, index = name.rpartition('/')
    layer = item.parent.attrs.get('name')
    if isinstance(layer, str) and group.endswith('/vars'):
      named = f'{group.rsplit("/", 2)[0]}/{layer}/vars/{index}'
      name = name if named in flat else named
    size = item.size * item.dtype.itemsize
    growth.check(path, stored, size + sum(x.nbytes for x in flat.values()))
    flat[name] = np.asarray(item[()])

  if not pathlib.Path(path).is_file():
    raise InputError(f'cannot read {path}: give the path of a file')
  stored = pathlib.Path(path).stat().st_size
  with pickles.damage(str(path)), h5py.File(path, 'r') as file:
    file.visititems(visit)
  return flat


def read_torch(path: Path, prefix: str = '') -> Flat:
  """The tensors of a `.pt` or `.pth` of state dicts, old format or new.

  Args:
    path: a file that `torch.save` wrote.
    prefix: only names that begin so, less it: `state_dict.` of a checkpoint,
      `module.` of DataParallel.

  Returns:
    Dictionaries and lists are joined with '.'; all but tensors is left out.

  Raises:
    InputError: it is absent, damaged, asks to run something, or has no tensor
      of such a name.
  """
  tree = read_torch_pickle(path)
  with pickles.damage(str(path)):
    flat = join_names(tree)
  chosen = {
    name.removeprefix(prefix): array
    for name, array in flat.items()
    if name.startswith(prefix)
  }
  if not chosen:
    some = ', '.join(list(flat)[:5]) or 'none at all'
    raise InputError(
      f'{path} has no tensors named {prefix + "…"!r}; it has {some}'
    )
  return chosen


def read_tfjs(path: Path) -> Flat:
  """A TensorFlow.js model: `model.json` (or its folder) and shards beside it.

  Raises:
    InputError: a file is absent or damaged, or a shard lies elsewhere.
  """
  model = pathlib.Path(path)
  model = model / 'model.json' if model.is_dir() else model
  data, what = pickles.load_bytes(model)

  def read(shard):
    if pathlib.PurePath(shard).name != shard:
      raise ValueError(f'shard {shard!r} is not beside it')
    return pickles.load_bytes(model.parent / shard)[0]

  return decode_tfjs(data, read, what)


def decode_safetensors(data: bytes, what: str) -> Flat:
  """The bytes of a safetensors file; `what` is its name in messages."""
  with pickles.damage(what):
    return tensors.decode(data)


def join_names(tree: Any, name: str = '') -> Flat:
  """The arrays in nested dictionaries and lists, keys joined with '.'.

  Raises:
    ValueError: two have one name.
  """
  if isinstance(tree, np.ndarray):
    return {name: tree}
  items: Any = ()
  if isinstance(tree, dict):
    items = tree.items()
  elif isinstance(tree, (list, tuple)):
    items = enumerate(tree)
  flat: Flat = {}
  for key, item in items:
    inner = join_names(item, f'{name}.{key}' if name else f'{key}')
    if both := flat.keys() & inner.keys():
      raise ValueError(f'two arrays are called {sorted(both)}')
    flat |= inner
  return flat


def decode_tfjs(model: bytes, read: Callable[[str], bytes], what: str) -> Flat:
  """The arrays of a `model.json`, whose shards `read` gets by name."""
  flat: Flat = {}
  with pickles.damage(what):
    groups = json.loads(model)['weightsManifest']
    shards = [shard for group in groups for shard in group['paths']]
    if len({*shards}) != len(shards):
      raise ValueError('a shard is named twice')
    for group in groups:
      data = b''.join(read(shard) for shard in group['paths'])
      start = 0
      for entry in group['weights']:
        if entry['name'] in flat:
          raise ValueError(f'{entry["name"]} is there twice')
        flat[entry['name']], used = _tfjs_array(entry, data, start)
        start += used
      if start != len(data):
        raise ValueError(f'{len(data) - start} bytes of shards are left over')
  return flat


def _tfjs_array(entry, data, start):
  """(array, bytes it took) of one entry of a manifest."""
  kind, packed = _TFJS[entry['dtype']], entry.get('quantization')
  stored = _TFJS_PACKED[packed['dtype']] if packed else kind
  shape = tuple(entry['shape'])
  count = pickles.element_count(shape)
  array = np.frombuffer(data, stored, count, start).reshape(shape)
  used = array.nbytes
  if packed:
    array = array.astype(kind)
    if 'scale' in packed:
      array = array * np.float32(packed['scale']) + np.float32(packed['min'])
  return array, used
