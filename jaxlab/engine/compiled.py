"""The compiled steps of a task, and the shapes they work on."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from jaxlab.core import keys
from jaxlab.core.errors import InputError
from jaxlab.core.state import Key, State, Task, Tree, paths
from jaxlab.core.update import create_state, guarded
from jaxlab.engine import mesh, partition


class Start(NamedTuple):
  """Entries of State that a fit begins with instead of new ones."""

  params: Mapping[str, Tree] = {}  # before optimizers see them
  vars: Mapping[str, Tree] = {}
  opt: Mapping[str, Tree] = {}


FRESH = Start()


def first_state(task: Task, key: Key, start: Start = FRESH) -> State:
  """The State at step 0.

  Raises:
    InputError: an entry of `start` is not shaped like the task's own.
  """
  params, vars = task.init(key)
  params = {**params, **_like('params', start.params, params)}
  vars = {**vars, **_like('vars', start.vars, vars)}
  state = create_state(params, *task.steps.values(), vars=vars)
  opt = {**state.opt, **_like('opt', start.opt, state.opt)}
  return state.replace(opt=opt)


def _like(
  part: str, given: Mapping[str, Tree], own: Mapping[str, Tree]
) -> Mapping[str, Tree]:
  want = _shapes({name: own.get(name, {}) for name in given})
  have = _shapes(given)
  for path in sorted({*have, *want}):
    if have.get(path) != want.get(path):
      raise InputError(
        f'the training is to start from {part}/{path} of shape '
        f'{have.get(path, "(absent)")}, and its own is '
        f'{want.get(path, "(absent)")}: they are of two networks'
      )
  return given


def _shapes(tree: Tree) -> dict[str, tuple[int, ...]]:
  return {path: tuple(jnp.shape(leaf)) for path, leaf in paths(tree)}


def abstract_state(
  task: Task, devices: Mesh, rules: Sequence[partition.Rule]
) -> State:
  """State of `jax.ShapeDtypeStruct` with shardings; nothing is computed."""
  first = lambda key: first_state(task, key)
  shapes = jax.eval_shape(first, jax.random.key(0))
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    shapes,
    partition.shardings(shapes, devices, rules),
  )


class Steps:
  """The compiled steps of a task: one trace for each (kind, batch shape).

  A step takes (State, batch, root key) and returns (State, packed metrics
  [names, 2] float32); State is donated and keeps its layout.
  """

  def __init__(self, task: Task, max_bad_steps: int, state: State):
    self.names: dict[str, list[str]] = {}
    self.traces: dict[str, int] = {}
    layout = jax.tree.map(lambda x: x.sharding, state)
    some = jax.tree.leaves(layout)[0]
    self._functions = {
      kind: self._compile(kind, guarded(update, max_bad_steps), layout, some)
      for kind, update in task.steps.items()
    }

  def _compile(self, kind, update, layout, some):
    def step(state, batch, root):
      self.traces[kind] = self.traces.get(kind, 0) + 1
      state, values = update(state, batch, keys.at(root, state.step))
      self.names[kind] = sorted(values)
      pairs = [jnp.stack(values[name]) for name in self.names[kind]]
      return state, jnp.stack(pairs).astype(jnp.float32)

    return jax.jit(
      step,
      donate_argnums=0,
      in_shardings=(layout, None, None),
      out_shardings=(layout, mesh.replicated(some.mesh)),
    )

  def lower(self, kind, state, batch, root) -> jax.stages.Lowered:
    """The step of a kind on shapes, to be compiled and not run."""
    return self._functions[kind].lower(state, batch, root)

  def compiled(self, kind: str) -> bool:
    """Whether a step of this kind has run."""
    return kind in self.traces

  def __call__(self, kind, state, batch, root):
    if kind not in self._functions:
      raise InputError(
        f'the source asks for a step of kind "{kind}"; the task has '
        f'{sorted(self._functions)}'
      )
    return self._functions[kind](state, batch, root)


def versions() -> dict[str, str]:
  """Versions of what computed a result."""
  names = {'jax': jax, 'flax': flax, 'optax': optax, 'numpy': np}
  found = {name: module.__version__ for name, module in names.items()}
  device = jax.devices()[0]
  return {**found, 'device': f'{jax.device_count()} x {device.device_kind}'}
