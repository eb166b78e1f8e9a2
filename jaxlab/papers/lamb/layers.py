"""Which leaves decay and adapt, which hold many layers, and a layer's ratio.

You et al. 2020 (the citation is in method.py) call every parameter tensor a
layer. A scanned model stacks the tensors of its layers, so that a layer is a
slice of a leaf there.

  paper                                        here
  exclusion of LayerNorm and bias              default_decay_mask
  φ(‖x‖) / ‖u‖, one a layer                    Layers.ratio
  L1, L2, L∞ norms (appendix)                  Layers(norm_ord=…)
"""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Tree = Any  # a pytree
PerLeaf = Tree | Callable[[Tree], Tree] | None

# Searched on slash-joined paths. The published rule (LayerNorm | layer_norm |
# bias), widened to every leaf whose module is called `…norm`, `ln`, `bn` or
# `gn`, and to biases called `b`.
EXCLUDED = (
  r'(?i)layer_?norm',
  r'(?i)norm(alization)?(_?\d+)?/[^/]+$',
  r'(?i)(^|/|_)(ln|bn|gn)(_?\d+|_[^/]*)?/[^/]+$',
  r'(bias|(^|/)b)$',
)


def default_decay_mask(params: Tree, exclude: Sequence[str] = EXCLUDED) -> Tree:
  """The published rule: no decay and no adaptation for biases and LayerNorms.

  Goes by paths, never by the number of axes: a stacked bias is a matrix.

  Args:
    params: parameters.
    exclude: regexes searched on slash-joined paths (`encoder/norm_1/scale`);
      what holds an array (the `…/value` of Flax's variables and boxes) is no
      part of them.

  Returns:
    A tree of bools as the parameters, False where a regex matches. Serves
    `decay_mask` and `adapt_mask`, as a callable or called.

  Raises:
    ValueError: `exclude` is one string, whose letters would be searched.
  """
  if isinstance(exclude, str):
    raise ValueError(f'exclude is {exclude!r}; give a sequence: ({exclude!r},)')
  rules = [re.compile(rule) for rule in exclude]

  def keeps(path, _):
    name = path_name(path).removesuffix('/value')
    return not any(rule.search(name) for rule in rules)

  return jax.tree_util.tree_map_with_path(keeps, params)


def layer_axes_from(params: Tree, stacked: Sequence[str] = ('layers',)) -> Tree:
  """Reads off a scanned model which leaves are stacked: 1 there, 0 elsewhere.

  A leaf is stacked when a component of its path equals one of the names, and
  is not followed by a number: `layers/dense/kernel` is, `layers_0/dense/kernel`
  and `layers/0/dense/kernel` (separate layers) are not.

  Args:
    params: parameters.
    stacked: names of the scanned modules, not regexes.

  Returns:
    A tree of ints as the parameters, for `layer_axes`.

  Raises:
    ValueError: leaves under one such name differ in their leading axis, so that
      it cannot enumerate layers; or `stacked` is one string.
  """
  if isinstance(stacked, str):
    raise ValueError(f'stacked is {stacked!r}; give a sequence: ({stacked!r},)')
  lengths: dict[str, tuple[int, str]] = {}

  def axes(path, leaf):
    parts = path_name(path).split('/')
    for i, part in enumerate(parts[:-1]):
      if part not in stacked or parts[i + 1].isdigit():
        continue
      shape = np.shape(leaf)
      stack = '/'.join(parts[: i + 1])
      length, first = lengths.setdefault(
        stack, (shape[0] if shape else 0, '/'.join(parts))
      )
      if not shape or shape[0] != length:
        raise ValueError(
          f'{"/".join(parts)!r} has shape {shape} but {first!r} has leading '
          f'axis {length}: {stack!r} is not a stack of layers; leave '
          f'{part!r} out of stacked, or give layer_axes as a tree'
        )
      return 1
    return 0

  return jax.tree_util.tree_map_with_path(axes, params)


class Rule(NamedTuple):
  """What is to be done with one leaf."""

  decay: bool
  adapt: bool
  axes: int  # leading axes that enumerate layers


class Plan(NamedTuple):
  """The leaves of the parameters, each with its rule."""

  leaves: list[jax.Array]
  treedef: jax.tree_util.PyTreeDef
  rules: list[Rule]

  def zeros(self, dtype=None):
    """Moments: zeros in float32, or float64 for float64 leaves."""
    zeros = [jnp.zeros_like(x, dtype=dtype or wide(x)) for x in self.leaves]
    return self.treedef.unflatten(zeros)

  def ones(self):
    """Trust ratios before the first update: [layers of all leaves] float32.

    No tree as the parameters: whoever gives every leaf of the parameters a
    sharding gives it to what mirrors them too, and it fits no other rank.
    """
    return jnp.ones(sum(self._counts()), jnp.float32)

  def apart(self, ratios):
    """A tree of leaf.shape[:axes] of what `map` returned last."""
    counts = self._counts()
    if ratios.shape != (sum(counts),):
      raise ValueError(
        f'opt_state holds {ratios.size} trust ratios, layer_axes say '
        f'{sum(counts)}; give the layer_axes that the optimizer was given'
      )
    starts = np.cumsum([0, *counts])
    parts = [
      ratios[start : start + count].reshape(x.shape[: rule.axes])
      for x, rule, start, count in zip(self.leaves, self.rules, starts, counts)
    ]
    return self.treedef.unflatten(parts)

  def _counts(self):
    pairs = zip(self.leaves, self.rules)
    return [math.prod(x.shape[: rule.axes]) for x, rule in pairs]

  def map(self, leaf, width, *trees):
    """`width` trees of what `leaf(rule, x, *leaves of trees)` returns, then
    its last value, the ratios, of all leaves one after the other."""
    columns = [self.treedef.flatten_up_to(tree) for tree in trees]
    rows = list(map(leaf, self.rules, self.leaves, *columns))
    columns = [[row[i] for row in rows] for i in range(width)]
    ratios = [_everywhere(row[-1]).astype(jnp.float32).ravel() for row in rows]
    flat = jnp.concatenate(ratios) if ratios else self.ones()
    return [*map(self.treedef.unflatten, columns), flat]


def _everywhere(ratio):
  """Explicitly sharded ratios, made one array with others."""
  spec = jax.typeof(ratio).sharding.spec
  return jax.sharding.reshard(ratio, jax.P()) if any(spec) else ratio


def wide(x):
  """The dtype of an array's moments."""
  return jnp.promote_types(x.dtype, jnp.float32)


class Layers:
  """Which leaves decay and adapt, and the trust ratio of a layer."""

  def __init__(
    self,
    decay_mask=None,
    adapt_mask=None,
    layer_axes=None,
    phi=None,
    norm_ord=None,
    trust_clip=None,
  ):
    norm_ord = 2 if norm_ord is None else norm_ord
    check_one_of('norm_ord', norm_ord, (1, 2, math.inf))
    self._masks = decay_mask, adapt_mask, layer_axes
    self._phi, self._ord = _check_phi(phi), norm_ord
    self._clip = (
      _identity
      if trust_clip is None
      else _bounds('trust_clip', trust_clip, 'None or a pair')
    )

  def plan(self, params):
    """Reads the rules against the parameters: at trace time, nothing runs."""
    if params is None:
      raise ValueError('params is None; call update(grads, state, params)')
    flat, treedef = jax.tree_util.tree_flatten_with_path(params)
    names = [path_name(path) for path, _ in flat]
    leaves = [jnp.asarray(leaf) for _, leaf in flat]
    for name, x in zip(names, leaves):
      if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(
          f'parameter {name!r} has dtype {x.dtype}; only real floating point '
          'leaves can be updated: leave it out with optax.masked'
        )
    decay_mask, adapt_mask, layer_axes = self._masks
    decays = _per_leaf('decay_mask', decay_mask, params, True, bool)
    adapts = _per_leaf('adapt_mask', adapt_mask, params, True, bool)
    axes = _per_leaf('layer_axes', layer_axes, params, 0, int)
    for name, x, n in zip(names, leaves, axes):
      if not 0 <= n <= x.ndim:
        raise ValueError(
          f'layer_axes is {n} for {name!r} of shape {x.shape}; give a number '
          f'of leading axes in 0 … {x.ndim}'
        )
    return Plan(leaves, treedef, list(map(Rule, decays, adapts, axes)))

  def ratio(self, x, u, rule, scale=1.0, eps=0.0, share=0.0):
    """scale φ(‖x‖) / (‖u‖ + share ‖x‖ + eps) within the bounds, one a layer;
    1 where ‖x‖ or ‖u‖ is 0."""
    if not rule.adapt:
      return jnp.ones(x.shape[: rule.axes], x.dtype)
    norm_x, norm_u = self._norm(x, rule.axes), self._norm(u, rule.axes)
    # Asked as "is zero", not "is positive": a NaN norm must stay a NaN.
    zero = (norm_x == 0) | (norm_u == 0)
    below = jnp.where(zero, 1, norm_u + share * norm_x + eps)
    ratio = self._clip(scale * self._phi(norm_x) / below)
    return jnp.where(zero, 1, ratio)

  def _norm(self, x, axes):
    over = tuple(range(axes, x.ndim))
    if self._ord == 1:
      return jnp.sum(jnp.abs(x), axis=over)
    if self._ord == 2:
      square = jnp.sum(x * x, axis=over)
      zero = square == 0  # where the root has no derivative
      return jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, square)))
    return jnp.max(jnp.abs(x), axis=over, initial=0.0)


def _per_leaf(name, tree, params, default, kind):
  """Values of a tree, prefix tree or callable, one a leaf of `params`."""
  # No leaves: nothing to say, and optax's placeholder trees fit no mask.
  if tree is None or not jax.tree.leaves(params):
    return [default] * len(jax.tree.leaves(params))
  # A callable module is a tree, where its class says so to JAX.
  function = callable(tree) and jax.tree_util.all_leaves([tree])
  tree = tree(params) if function else tree
  try:
    values = jax.tree.leaves(jax.tree.broadcast(tree, params))
  except ValueError as error:
    raise ValueError(
      f'{name} has the structure {jax.tree.structure(tree)}, the parameters '
      f'have {jax.tree.structure(params)}; give a tree or prefix tree of '
      f'{kind.__name__} as the parameters, or a callable of them'
    ) from error
  for value in values:
    bare = value.item() if isinstance(value, np.generic) else value
    if type(bare) is not kind:
      raise ValueError(
        f'{name} holds {value!r}; give a tree of {kind.__name__}'
      )
  return values


def _identity(x):
  return x


def _check_phi(phi):
  if phi is None:
    return _identity
  if callable(phi):
    return phi
  return _bounds('phi', phi, 'None, a callable, or a pair')


def _bounds(name, pair, known):
  """A function that clips to a pair of bounds."""
  try:
    lower, upper = (float(bound) for bound in pair)
  except (TypeError, ValueError):
    lower, upper = math.nan, math.nan
  if not 0 <= lower <= upper or lower == math.inf:
    raise ValueError(
      f'{name} is {pair!r}; give {known} of bounds with 0 <= lower <= upper'
    )
  return lambda x: jnp.clip(x, lower, upper)


def spread(ratio, u):
  """The ratios of a leaf's layers with axes added, to multiply the leaf."""
  return jnp.expand_dims(ratio, tuple(range(ratio.ndim, u.ndim)))


def check_number(name, value, below=math.inf):
  """`value` as a float; as it is where it is traced and has no value yet.

  Raises:
    ValueError: it is not a number, or outside [0, below).
  """
  if isinstance(value, jax.core.Tracer):
    return value
  try:
    number = float(value)
  except (TypeError, ValueError):
    number = math.nan
  if not 0 <= number < below:
    raise ValueError(f'{name} is {value!r}; give a number in [0, {below})')
  return number


def check_one_of(name, value, known):
  """Raises ValueError unless `value` is one of `known`."""
  if value not in known:
    raise ValueError(f'{name} is {value!r}; give one of {known}')


def path_name(path):
  """A JAX key path as `net/layers/bias`."""
  return jax.tree_util.keystr(path, simple=True, separator='/')
