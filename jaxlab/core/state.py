"""State, Objective and the other types that the engine is made of.

Data flows one way:

  Source.batch(step) -> feed -> step(State, Batch, Key) -> State, Metrics
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import flax.struct
import jax
import jax.numpy as jnp

Tree = Any  # a pytree of arrays
Key = jax.Array  # a typed PRNG key, ()
Params = Mapping[str, Tree]  # network name -> parameters
Vars = Mapping[str, Tree]  # name -> anything else that training carries
Batch = Mapping[str, Any]  # has 'mask' wherever rows may be padding
Metrics = dict[str, tuple[jax.Array, jax.Array]]  # name -> (sum, count)


class State(flax.struct.PyTreeNode):
  """All that training carries from step to step; the only thing saved."""

  step: jax.Array  # () int32, completed updates
  params: dict[str, Tree]  # network name -> parameters, trained or frozen
  opt: dict[str, Tree]  # update name -> optimizer state
  vars: dict[str, Tree]  # batch statistics, EMA, memory banks, health, …


class Objective(flax.struct.PyTreeNode):
  """What a loss returns: sums, never means, so that masks, micro-batches and
  hosts add up.

  loss = sum / weight + penalty, divided once, over the global batch. `weight`
  is a count: no gradient flows through it.
  """

  sum: jax.Array  # () float32
  weight: jax.Array  # () float32, >= 0
  penalty: jax.Array | float = 0.0  # (), added once, however a batch is cut
  vars: Vars = flax.struct.field(default_factory=dict)  # replaced entries
  metrics: Metrics = flax.struct.field(default_factory=dict)


Loss = Callable[[Params, Vars, Batch, Key], Objective]


class Update(Protocol):
  """One change of State: `minimise`, a composition of them, or any function
  of this type written by hand.

  An update may carry `optimizers: dict[name, (nets, tx)]`, from which
  `update.create_state` makes the optimizer states.
  """

  def __call__(
    self, state: State, batch: Batch, key: Key
  ) -> tuple[State, Metrics]: ...


class Evaluator(NamedTuple):
  """A measurement over a finite feed: `finish(update(… update(init())))`."""

  init: Callable[[], Tree]
  update: Callable[[Tree, State, Batch, Key], Tree]  # jitted by the engine
  finish: Callable[[Tree], dict[str, float]]  # on host arrays


class Task(NamedTuple):
  """What is trained: pure functions only.

  The engine makes the State: `create_state(params, *steps.values(), vars=vars)`
  of what `init` returns.
  """

  init: Callable[[Key], tuple[Params, Vars]]
  steps: Mapping[str, Update]  # {'train': …}; a kind for each batch shape


def paths(tree: Tree) -> list[tuple[str, Any]]:
  """Leaves of a tree with their slash-joined paths, sorted by path."""
  leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
  named = [
    (jax.tree_util.keystr(path, simple=True, separator='/'), leaf)
    for path, leaf in leaves
  ]
  return sorted(named, key=lambda item: item[0])


def new_health() -> dict[str, jax.Array]:
  """Counters of non-finite steps, at `State.vars['health']`."""
  return {
    'bad_steps': jnp.zeros((), jnp.int32),
    'first_bad_step': jnp.full((), -1, jnp.int32),  # -1: none yet
    'run_length': jnp.zeros((), jnp.int32),  # bad steps in a row, now
  }
