"""Partition rules: which device holds which part of State.

A rule is `(regex, spec)`, matched with `re.search` against slash-joined State
paths such as `params/net/layers/attention/query/kernel`; the first match wins.
Optimizer leaves follow their parameter, unless a rule that begins with `^opt/`
matches `opt/` + the parameter's path. A spec is a `PartitionSpec`, or `Spread`,
which splits any leaf wherever its dimensions divide. A rule that matches
nothing, a path without a rule and an axis that does not divide are errors:
silent replication is how pods run out of memory.

Weight-update sharding (ZeRO-1) is the rule `('^opt/', Spread(axes))` and the
optimizer wrapped in `spread_update`.
"""

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import jax
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxlab.core.errors import InputError
from jaxlab.core.state import State, Tree, paths


class Spread(NamedTuple):
  """Splits each leaf over mesh axes wherever its dimensions divide.

  Every axis goes to the dimension that is longest after what it was cut in
  already, the largest axis first; an axis that divides no dimension is left
  out.
  """

  axes: tuple[str, ...]
  min_bytes: int = 2**20  # smaller leaves are held whole
  min_ways: int = 2  # a larger leaf that cannot be cut in so many is an error


Rule = tuple[str, PartitionSpec | Spread]
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

  def spec(path: str, leaf) -> PartitionSpec:
    shape = tuple(leaf.shape)
    targets = [path]
    if path.startswith('opt/'):
      targets = _parameters_of(path, shape, params) or targets
    matches = {
      _first_match(rules, target, shape, moment=target != path)
      for target in targets
    }
    used.update(matches)
    partition, *others = {rules[index][1] for index in matches}
    if others:
      raise InputError(
        f'"{path}" may belong to any of {targets}, which lie differently; '
        'name the update like its network'
      )
    return _checked(path, leaf, partition, mesh)

  leaves = [
    (jax.tree_util.keystr(path, simple=True, separator='/'), leaf)
    for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]
  ]
  result = [NamedSharding(mesh, spec(path, leaf)) for path, leaf in leaves]
  for index, (pattern, _) in enumerate(rules):
    if index not in used:
      known = ', '.join(sorted(path for path, _ in leaves)[:20])
      raise InputError(
        f'partition rule "{pattern}" is the first match of no leaf; known '
        f'paths: {known}'
      )
  return jax.tree.unflatten(jax.tree.structure(state), result)


def spread_update(
  tx: optax.GradientTransformation,
  mesh: Mesh,
  rules: Sequence[Rule],
  net: str = 'net',
) -> optax.GradientTransformation:
  """The optimizer, computed where the rules lay its moments (ZeRO-1).

  Gradients and parameters are cut like the moments before the update and the
  update is gathered after it, so that each device computes its part alone.
  Norms inside `tx` stay those of whole layers.

  Args:
    tx: elementwise but for norms, such as LAMB behind a global-norm clip.
    rules: the partition rules of the State.
    net: the network that `tx` updates.
  """

  def cut(tree):
    def place(path, leaf):
      name = jax.tree_util.keystr(path, simple=True, separator='/')
      target, shape = f'params/{net}/{name}', tuple(leaf.shape)
      index = _first_match(rules, target, shape, moment=True)
      spec = _checked(target, leaf, rules[index][1], mesh)
      return jax.lax.with_sharding_constraint(leaf, NamedSharding(mesh, spec))

    return jax.tree_util.tree_map_with_path(place, tree)

  def update(grads, state, params=None):
    return tx.update(cut(grads), state, cut(params))

  return optax.GradientTransformation(tx.init, update)


def _first_match(rules, path, shape, moment=False) -> int:
  if moment:
    theirs = f'opt/{path.removeprefix("params/")}'
    for index, (pattern, _) in enumerate(rules):
      if pattern.startswith('^opt/') and re.search(pattern, theirs):
        return index
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


def _checked(path, leaf, spec, mesh) -> PartitionSpec:
  shape = tuple(leaf.shape)
  if not shape:
    return PartitionSpec()
  if isinstance(spec, Spread):
    return _spread(path, leaf, spec, mesh)
  if len(spec) > len(shape):
    raise InputError(
      f'partition {spec} of "{path}" has more entries than its shape {shape}'
    )
  for axis, names in enumerate(spec):
    if names is None:
      continue
    names = (names,) if isinstance(names, str) else names
    ways = _ways(path, spec, names, mesh)
    if shape[axis] % ways:
      raise InputError(
        f'"{path}" {shape}: axis {axis} of length {shape[axis]} does not '
        f'divide by the {ways} devices of mesh axes {names}'
      )
  return spec


def _ways(path, spec, names, mesh) -> int:
  for name in names:
    if name not in mesh.shape:
      raise InputError(
        f'partition {spec} of "{path}" names mesh axis "{name}"; the mesh '
        f'has {dict(mesh.shape)}'
      )
  return math.prod(mesh.shape[name] for name in names)


def _spread(path, leaf, spec, mesh) -> PartitionSpec:
  shape = tuple(leaf.shape)
  total = _ways(path, spec, spec.axes, mesh)
  if math.prod(shape) * leaf.dtype.itemsize < spec.min_bytes:
    return PartitionSpec()
  entries: list[tuple[str, ...]] = [() for _ in shape]
  left = list(shape)
  for name in sorted(spec.axes, key=lambda name: -mesh.shape[name]):
    ways = mesh.shape[name]
    fitting = [d for d, length in enumerate(left) if length % ways == 0]
    if fitting:
      # Among equals the last, which is contiguous in memory.
      best = max(fitting, key=lambda d: (left[d], d))
      left[best] //= ways
      entries[best] += (name,)
  reached = math.prod(shape) // math.prod(left)
  if reached < min(spec.min_ways, total):
    raise InputError(
      f'"{path}" {shape} can be cut in {reached} over the mesh axes '
      f'{ {name: mesh.shape[name] for name in spec.axes} }, and '
      f'{spec.min_ways} is the least: give the mesh two smaller axes instead '
      'of a large one, such as 32 x 64 for 2,048 cores'
    )
  return PartitionSpec(*(names or None for names in entries))
