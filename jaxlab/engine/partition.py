"""Partition rules: which device holds which part of State.

A rule is `(regex, spec)`, matched with `re.search` against slash-joined State
paths such as `params/net/layers/attention/query/kernel`; the first match wins.
Optimizer leaves follow their parameter. A rule that matches nothing, a path
without a rule and an axis that does not divide are errors: silent replication
is how pods run out of memory.
"""

import re
from collections.abc import Sequence

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxlab.engine.errors import InputError
from jaxlab.engine.state import State, Tree, paths

Rule = tuple[str, PartitionSpec]
REPLICATED: tuple[Rule, ...] = (('.*', PartitionSpec()),)


def shardings(
  state: State, mesh: Mesh, rules: Sequence[Rule] = REPLICATED
) -> Tree:
  """A tree like `state` with a NamedSharding for each leaf.

  Args:
    state: State of arrays or of `jax.ShapeDtypeStruct`.

  Raises:
    InputError: an unused rule, a path without a rule, an indivisible axis.
  """
  used: set[int] = set()
  params = {
    path.removeprefix('params/'): tuple(leaf.shape)
    for path, leaf in paths(state)
    if path.startswith('params/')
  }

  def spec(path: str, shape: tuple[int, ...]) -> PartitionSpec:
    targets = [path]
    if path.startswith('opt/'):
      targets = _parameters_of(path, shape, params) or targets
    matches = {_first_match(rules, target, shape) for target in targets}
    used.update(matches)
    partition, *others = {rules[index][1] for index in matches}
    if others:
      raise InputError(
        f'"{path}" may belong to any of {targets}, which lie differently; '
        'name the update like its network'
      )
    return _checked(path, shape, partition, mesh)

  leaves = [
    (jax.tree_util.keystr(path, simple=True, separator='/'), leaf)
    for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]
  ]
  result = [
    NamedSharding(mesh, spec(path, tuple(leaf.shape))) for path, leaf in leaves
  ]
  for index, (pattern, _) in enumerate(rules):
    if index not in used:
      known = ', '.join(sorted(path for path, _ in leaves)[:20])
      raise InputError(
        f'partition rule "{pattern}" is the first match of no leaf; known '
        f'paths: {known}'
      )
  return jax.tree.unflatten(jax.tree.structure(state), result)


def _first_match(rules, path, shape) -> int:
  for index, (pattern, _) in enumerate(rules):
    if re.search(pattern, path):
      return index
  raise InputError(
    f'no partition rule matches "{path}" {shape}; add a catch-all such as '
    '(".*", PartitionSpec()) as the last rule'
  )


def _parameters_of(path, shape, params) -> list[str]:
  """The parameters that an optimizer leaf of this shape may belong to."""
  parts = path.split('/')
  update, rest = parts[1], parts[2:]
  for start in range(len(rest)):
    tail = '/'.join(rest[start:])
    for name in (tail, f'{update}/{tail}'):
      if params.get(name) == shape:
        return [f'params/{name}']
  # The update may be named otherwise than its network.
  return [
    f'params/{name}'
    for start in range(len(rest))
    for name, size in params.items()
    if size == shape and name.split('/', 1)[-1] == '/'.join(rest[start:])
  ]


def _checked(path, shape, spec, mesh) -> PartitionSpec:
  if not shape:
    return PartitionSpec()
  if len(spec) > len(shape):
    raise InputError(
      f'partition {spec} of "{path}" has more entries than its shape {shape}'
    )
  for axis, names in enumerate(spec):
    if names is None:
      continue
    names = (names,) if isinstance(names, str) else names
    ways = 1
    for name in names:
      if name not in mesh.shape:
        raise InputError(
          f'partition {spec} of "{path}" names mesh axis "{name}"; the mesh '
          f'has {dict(mesh.shape)}'
        )
      ways *= mesh.shape[name]
    if shape[axis] % ways:
      raise InputError(
        f'"{path}" {shape}: axis {axis} of length {shape[axis]} does not '
        f'divide by the {ways} devices of mesh axes {names}'
      )
  return spec
