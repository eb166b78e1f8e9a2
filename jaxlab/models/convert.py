"""Foreign weights -> the variables of this package's Linen modules.

Weights arrive as a flat mapping from foreign names to arrays (see
`data/packages/weights.py`) and leave as the nested variables that
`module.apply` takes. `assign` does the work and is strict: every foreign array
has to be used or dropped by name, every leaf of the module has to be filled,
every shape has to agree, and all that is wrong is told at once. `to_flat`
and `from_flat` do the same for files of our own.

  shapes = template(SqueezeNet(), jnp.zeros([1, 227, 227, 3]))
  variables = pretrained.squeezenet(shapes, flat)
  logits = SqueezeNet().apply(variables, image, train=False)

The converters are in `pretrained.py`, `torch_names.py` and `keras_names.py`.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Rule(NamedTuple):
  """What becomes of the foreign arrays whose whole name matches `pattern`.

  `target` is the own path, '/'-joined with its collection in front
  (`params/conv1/kernel`). A string may quote groups of the pattern (`\\1`); a
  function gets the `re.Match` and returns the path. None drops the array.
  """

  pattern: str
  target: str | Callable[[re.Match], str | None] | None
  transform: Callable[[np.ndarray], np.ndarray] | None = None


def assign(
  template: Any,
  flat: Mapping[str, Any],
  rules: Iterable[Rule | tuple],
) -> Any:
  """Fills the leaves of `template` with the arrays of `flat`.

  Each foreign name follows the first rule that matches it. Two names that
  reach one leaf are an error, as is a floating-point leaf for which an integer
  array comes (or the reverse); among floats the own dtype is taken.

  Args:
    template: a tree of leaves with `shape` and `dtype`: `jax.eval_shape` of
      `module.init`, or what `template` returns. Its values are not read.
    flat: foreign name -> array.
    rules: `Rule`s, or plain tuples of the same two or three fields.

  Returns:
    A tree like `template` with NumPy leaves.

  Raises:
    ValueError: names without a rule, leaves without an array, wrong shapes:
      all of them, one a line.
  """
  rules = [Rule(*rule) for rule in rules]
  own = _by_path(template)
  filled: dict[str, np.ndarray] = {}
  origin: dict[str, str] = {}
  wrong: list[str] = []
  for name, array in flat.items():
    array = np.asarray(array)
    found = _first_match(rules, name)
    if found is None:
      wrong.append(f'{name!r} {array.shape}: no rule matches this name')
      continue
    path, transform = found
    if path is None:
      continue
    if path not in own:
      wrong.append(f'{name!r} {array.shape}: the model has no leaf {path!r}')
      continue
    if path in origin:
      wrong.append(f'{path!r}: filled by {origin[path]!r} and by {name!r}')
      continue
    origin[path] = name
    try:
      filled[path] = _fit(array, transform, own[path])
    except ValueError as error:
      wrong.append(f'{path!r} from {name!r}: {error}')
  wrong += [
    f'{path!r} {tuple(leaf.shape)}: no array fills this leaf of the model'
    for path, leaf in own.items()
    if path not in origin
  ]
  if wrong:
    lines = '\n'.join(f'  {line}' for line in wrong)
    raise ValueError(
      f'the weights do not fit the model, {len(wrong)} problems:\n{lines}\n'
      f'Build the model with the sizes of the weights; drop a foreign array by '
      f'a rule whose target is None.'
    )
  return jax.tree_util.tree_unflatten(
    jax.tree_util.tree_structure(template), [filled[path] for path in own]
  )


def _first_match(rules, name):
  """(path or None, transform) of the first rule for a name, None if none."""
  for pattern, target, transform in rules:
    match = re.fullmatch(pattern, name)
    if match:
      path = match.expand(target) if isinstance(target, str) else target
      return (path(match) if callable(path) else path), transform
  return None


def _fit(array, transform, leaf):
  """An array in the shape and dtype of a leaf; ValueError if it cannot be."""
  got = array.shape
  if transform is not None:
    try:
      array = transform(array)
    except (ValueError, IndexError) as error:
      raise ValueError(
        f'shape {got} cannot be brought to {tuple(leaf.shape)} ({error})'
      ) from error
  if array.shape != tuple(leaf.shape):
    shown = f'{got}' if array.shape == got else f'{got} -> {array.shape}'
    raise ValueError(f'shape {shown}, the model wants {tuple(leaf.shape)}')
  floating = [jnp.issubdtype(x.dtype, jnp.floating) for x in (array, leaf)]
  if array.dtype != leaf.dtype and not all(floating):
    raise ValueError(f'dtype {array.dtype}, the model wants {leaf.dtype}')
  return np.array(array, dtype=leaf.dtype, order='C', copy=None)


def template(module: Any, *inputs: Any, **options: Any) -> Any:
  """Shapes and dtypes of a module's variables; nothing is computed.

  Args:
    module: a Linen module.
    *inputs: example arguments of its call, arrays or `ShapeDtypeStruct`s.
    **options: static keyword arguments of the call, `train=False` if none.
  """
  init = partial(module.init, **(options or {'train': False}))
  return jax.eval_shape(init, jax.random.key(0), *inputs)


def to_flat(variables: Any) -> dict[str, np.ndarray]:
  """Nested variables -> '/'-joined path -> array: what gets written to a file.

  Raises:
    ValueError: two leaves share a path since a key holds a '/'.
  """
  return {path: np.asarray(leaf) for path, leaf in _by_path(variables).items()}


def from_flat(template: Any, flat: Mapping[str, Any]) -> Any:
  """The inverse of `to_flat`, checked against `template` as by `assign`."""
  return assign(template, flat, [Rule(r'(?s:(.*))', r'\1')])


def _by_path(tree):
  leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
  paths = {
    jax.tree_util.keystr(path, simple=True, separator='/'): leaf
    for path, leaf in leaves
  }
  if len(paths) != len(leaves):
    raise ValueError(
      'two leaves have one path: keys of a tree may not hold "/"'
    )
  return paths


def conv_kernel(array: np.ndarray) -> np.ndarray:
  """[out, in, h, w] of torch -> [h, w, in, out] of Flax."""
  return np.transpose(array, (2, 3, 1, 0))


def dense_kernel(array: np.ndarray) -> np.ndarray:
  """[out, in] of torch -> [in, out] of Flax."""
  return np.transpose(array, (1, 0))
