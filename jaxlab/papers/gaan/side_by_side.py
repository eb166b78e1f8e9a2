"""Several seeds of one training in one program.

Every leaf of params, opt and vars (but for 'health') has the seeds as its first
axis, and each seed has rows of a batch and keys of its own.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxlab.core.state import Key, State, Update


def parts(batch: Any, count: int) -> Any:
  """[count b, …] -> [count, b, …]; part s holds rows s, s + count, …."""

  def cut(x):
    return jnp.moveaxis(x.reshape(-1, count, *x.shape[1:]), 1, 0)

  return jax.tree.map(cut, batch)


def keys_of(key: Key, count: int) -> Key:
  """[count] keys."""
  return jax.vmap(lambda s: jax.random.fold_in(key, s))(jnp.arange(count))


class SideBySide:
  """An Update of `count` seeds; metrics are summed over them.

  A seed that is not finite makes the whole step bad.

  Args:
    count: of seeds; a batch has a multiple of `count` rows.
    update: of one seed; it carries its optimizers.
  """

  def __init__(self, count: int, update: Update):
    self.count, self.update = count, update
    # Each seed counts its own updates.
    self.optimizers = {
      name: (nets, optax.GradientTransformation(jax.vmap(tx.init), tx.update))
      for name, (nets, tx) in getattr(update, 'optimizers', {}).items()
    }

  def __call__(self, state: State, batch, key: Key):
    vars = dict(state.vars)
    health = vars.pop('health')

    def one(params, opt, vars, batch, key):
      found = State(step=state.step, params=params, opt=opt, vars=vars)
      new, metrics = self.update(found, batch, key)
      return (new.params, new.opt, new.vars), metrics

    (params, opt, vars), metrics = jax.vmap(one)(
      state.params,
      state.opt,
      vars,
      parts(batch, self.count),
      keys_of(key, self.count),
    )
    new = state.replace(params=params, opt=opt, vars={**vars, 'health': health})
    return new, jax.tree.map(lambda x: x.sum(0), metrics)
