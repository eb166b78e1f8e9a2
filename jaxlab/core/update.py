"""The algebra of training steps: small Updates and their compositions.

optax composes gradients from small pure functions; these compose whole
training steps from gradient steps:

  chain(minimise(rec, 'enc', a), repeat(5, minimise(d_loss, 'disc', b)),
        minimise(g_loss, 'gen', c))

Every Update is `(State, Batch, Key) -> (State, Metrics)`. The metric
`'nonfinite'` is reserved: it counts updates whose loss or gradients were not
finite, and `guarded` turns it into the non-finite law.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jaxlab.core.state import (
  Batch,
  Key,
  Loss,
  Metrics,
  Objective,
  Params,
  State,
  Tree,
  Update,
  new_health,
)

Nets = str | tuple[str, ...]


@dataclass(frozen=True, eq=False)
class _Composed:
  """An Update that knows its optimizers, so that State can be made for it."""

  run: Callable[[State, Batch, Key], tuple[State, Metrics]]
  optimizers: Mapping[str, tuple[Nets, Any]] = field(default_factory=dict)

  def __call__(self, state, batch, key):
    return self.run(state, batch, key)


def create_state(
  params: Params,
  *updates: Update,
  vars: Mapping[str, Tree] | None = None,  # the field's name in State
) -> State:
  """A State at step 0 with the optimizer states that the updates need.

  Args:
    params: network name -> parameters, trained or frozen.
    updates: all step kinds of the task.
    vars: further entries of `State.vars`; 'health' is added.
  """
  optimizers = _merge_optimizers(updates)

  @jax.jit  # one program, where every leaf would have its own
  def begin(params):
    return {
      name: tx.init(_trained(params, nets))
      for name, (nets, tx) in optimizers.items()
    }

  return State(
    step=jnp.zeros((), jnp.int32),
    params=dict(params),
    opt=begin(dict(params)),
    vars={**(vars or {}), 'health': new_health()},
  )


def minimise(
  loss: Loss,
  nets: Nets,
  tx: optax.GradientTransformation,
  name: str | None = None,
) -> Update:
  """One gradient step of a network, or of a tuple of networks at once.

  The loss sees all of `State.params`; only `nets` are differentiated and
  changed. `tx` sees the tree of the network itself, or a dict of trees where
  `nets` is a tuple.

  Args:
    name: key of the optimizer state in `State.opt`; default: the nets joined
      by '+'. Two updates with their own optimizers on one network need two
      names. A given name also prefixes the metrics.
  """
  return _gradient_step(loss, nets, tx, name, micro=None, unroll=True)


def accumulate(
  n: int,
  loss: Loss,
  nets: Nets,
  tx: optax.GradientTransformation,
  name: str | None = None,
  unroll: bool = True,
) -> Update:
  """`minimise` over `n` micro-batches with one update at the end.

  Equals the unaccumulated step for losses that are sums over rows: sums and
  weights add up, are divided once, and a penalty (taken from the first
  micro-batch) is added once. Micro-batch j holds rows j, j+n, j+2n, …, so that
  each device keeps its own rows. `Objective.vars` thread from one to the next.

  Args:
    unroll: a Python loop instead of `lax.scan`; XLA:CPU wants it for
      convolutions.

  Raises:
    ValueError: n < 1; at trace time, rows that do not divide by n.
  """
  if n < 1:
    raise ValueError(f'accumulate: n must be at least 1, got {n}')
  return _gradient_step(loss, nets, tx, name, micro=n, unroll=unroll)


def chain(*updates: Update) -> Update:
  """One update after the other; each sees the State that the last one left."""
  if not updates:
    raise ValueError('chain: needs at least one update')

  def run(state, batch, key):
    metrics: Metrics = {}
    for index, update in enumerate(updates):
      state, new = _judged(update, state, batch, jax.random.fold_in(key, index))
      both = set(metrics) & set(new) - {'nonfinite'}
      if both:
        raise ValueError(
          f'chain: metrics {sorted(both)} come from two updates; give each '
          'minimise a name'
        )
      metrics = _add(metrics, new)
    return state, metrics

  return _Composed(run, _merge_optimizers(updates))


def repeat(
  k: int, update: Update, split: bool = False, unroll: bool = True
) -> Update:
  """The same update `k` times, each with its own key; metrics add up.

  Args:
    split: cut the batch into k equal parts, one for each; else every one sees
      the whole batch.
    unroll: a Python loop instead of `lax.scan`.

  Raises:
    ValueError: k < 1; at trace time, rows that do not divide by k.
  """
  if k < 1:
    raise ValueError(f'repeat: k must be at least 1, got {k}')

  def run(state, batch, key):
    keys = jnp.stack([jax.random.fold_in(key, i) for i in range(k)])
    parts = _cut(batch, k) if split else None

    def part(i):
      return batch if parts is None else jax.tree.map(lambda x: x[i], parts)

    if unroll:
      metrics: Metrics = {}
      for i in range(k):
        state, new = update(state, part(i), keys[i])
        metrics = _add(metrics, new)
      return state, metrics

    def body(state, i):
      return update(state, part(i), keys[i])

    state, stacked = lax.scan(body, state, jnp.arange(k))
    return state, jax.tree.map(lambda x: x.sum(0), stacked)

  return _Composed(run, _merge_optimizers([update]))


def every(k: int, update: Update) -> Update:
  """The update at steps 0, k, 2k, …; elsewhere State and metrics stay."""
  if k < 1:
    raise ValueError(f'every: k must be at least 1, got {k}')

  def run(state, batch, key):
    # jit remembers the trace, so that asking for the shapes costs no second.
    traced = jax.jit(lambda *args: update(*args))
    shapes = jax.eval_shape(traced, state, batch, key)[1]
    none = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return lax.cond(
      state.step % k == 0,
      lambda: traced(state, batch, key),
      lambda: (state, none),
    )

  return _Composed(run, _merge_optimizers([update]))


def guarded(update: Update, max_bad_steps: int) -> Update:
  """The whole step under the non-finite law; what the engine compiles.

  A step with a loss or gradients that are not finite leaves params, opt and
  vars bitwise unchanged, except `vars['health']`, adds nothing to the metrics
  and counts as done. After max(1, max_bad_steps) of them in a row the State
  does not change any more, and the loop stops the run when it next looks.

  An update written by hand that reports no 'nonfinite' is judged by its
  metrics and its new params.

  Returns:
    An update whose metrics have two more entries: 'bad' (1 for a bad step) and
    'run_length' (bad steps in a row).
  """
  limit = max(1, max_bad_steps)

  def run(state, batch, key):
    health = state.vars['health']
    halted = health['run_length'] >= limit
    new, metrics = _judged(update, state, batch, key)
    _check_vars(state, new)
    bad = metrics.pop('nonfinite')[0] > 0
    stay = bad | halted
    keep = lambda old, fresh: jax.tree.map(
      lambda a, b: jnp.where(stay, a, b), old, fresh
    )
    one = (~halted).astype(jnp.int32)
    first = health['first_bad_step']
    counted = {
      'bad_steps': health['bad_steps'] + bad * one,
      'first_bad_step': jnp.where(
        bad & ~halted & (first < 0), state.step, first
      ),
      'run_length': jnp.where(
        halted, health['run_length'], (health['run_length'] + 1) * bad
      ),
    }
    entries = {k: v for k, v in new.vars.items() if k != 'health'}
    old_entries = {k: v for k, v in state.vars.items() if k != 'health'}
    state = State(
      step=state.step + one,
      params=keep(state.params, new.params),
      opt=keep(state.opt, new.opt),
      vars={**keep(old_entries, entries), 'health': counted},
    )
    metrics = jax.tree.map(
      lambda x: jnp.where(stay, 0.0, x.astype(jnp.float32)), metrics
    )
    metrics['bad'] = ((bad * one).astype(jnp.float32), jnp.ones(()))
    metrics['run_length'] = (
      counted['run_length'].astype(jnp.float32),
      jnp.ones(()),
    )
    return state, metrics

  return _Composed(run, getattr(update, 'optimizers', {}))


def _judged(update, state, batch, key) -> tuple[State, Metrics]:
  """The update, with 'nonfinite' also where it was written by hand."""
  state, metrics = update(state, batch, key)
  metrics = dict(metrics)
  if 'nonfinite' not in metrics:
    good = _all_finite((metrics, state.params))
    metrics['nonfinite'] = (1.0 - good.astype(jnp.float32), jnp.ones(()))
  return state, metrics


def _check_vars(old: State, new: State) -> None:
  added = sorted(set(new.vars) ^ set(old.vars))
  if added:
    raise ValueError(
      f'a step adds or drops vars {added}; State.vars begins with all of its '
      f'entries: give them to create_state(vars=…), known: {sorted(old.vars)}'
    )


def _gradient_step(loss, nets, tx, name, micro, unroll) -> Update:
  key_name = name or (nets if isinstance(nets, str) else '+'.join(nets))
  prefix = f'{name}/' if name else ''

  def run(state, batch, key):
    trained = _trained(state.params, nets)
    compute = _whole if micro is None else _accumulated(micro, unroll)
    value, grads, objective = compute(
      lambda t, v, b, k: loss(_with(state.params, nets, t), v, b, k),
      trained,
      state.vars,
      batch,
      key,
    )
    updates, opt = tx.update(grads, state.opt[key_name], trained)
    metrics = {prefix + k: v for k, v in objective.metrics.items()}
    taken = {prefix + 'loss', 'nonfinite', 'bad', 'run_length'} & set(metrics)
    if taken:
      raise ValueError(
        f'a loss returns metrics {sorted(taken)}, which are names of the '
        "engine's own; choose others"
      )
    metrics[prefix + 'loss'] = (value * objective.weight, objective.weight)
    metrics['nonfinite'] = (
      1.0 - _all_finite((value, grads)).astype(jnp.float32),
      jnp.ones(()),
    )
    return state.replace(
      params=_with(state.params, nets, optax.apply_updates(trained, updates)),
      opt={**state.opt, key_name: opt},
      vars={**state.vars, **objective.vars},
    ), metrics

  return _Composed(run, {key_name: (nets, tx)})


def _whole(loss, trained, vars, batch, key):
  def scalar(trained):
    objective = loss(trained, vars, batch, key)
    return _value(objective), objective

  (value, objective), grads = jax.value_and_grad(scalar, has_aux=True)(trained)
  return value, grads, objective


def _accumulated(n, unroll):
  def compute(loss, trained, vars, batch, key):
    parts = _cut(batch, n)
    penalised = False  # known once the loss has been traced

    def body(carry, i):
      nonlocal penalised
      grads, total, weight, vars = carry
      part = jax.tree.map(lambda x: x[i], parts)

      def summed(trained):
        objective = loss(trained, vars, part, jax.random.fold_in(key, i))
        return objective.sum, objective

      (_, objective), new = jax.value_and_grad(summed, has_aux=True)(trained)
      added = objective.penalty
      penalised = not isinstance(added, (int, float)) or added != 0
      carry = (
        jax.tree.map(jnp.add, grads, new),
        total + objective.sum,
        weight + objective.weight,
        {**vars, **objective.vars},
      )
      return carry, objective.metrics

    zeros = jax.tree.map(jnp.zeros_like, trained)
    carry = (zeros, jnp.zeros(()), jnp.zeros(()), dict(vars))
    metrics: Metrics = {}
    if unroll:
      for i in range(n):
        carry, new = body(carry, i)
        metrics = _add(metrics, new)
    else:
      carry, stacked = lax.scan(body, carry, jnp.arange(n))
      metrics = jax.tree.map(lambda x: x.sum(0), stacked)
    grads, total, weight, new_vars = carry

    def penalty(trained):
      # A forward pass of its own; where the penalty does not depend on the
      # batch, the compiler drops all of it but the penalty.
      part = jax.tree.map(lambda x: x[0], parts)
      return jnp.asarray(
        loss(trained, vars, part, jax.random.fold_in(key, 0)).penalty,
        jnp.float32,
      )

    scale = _reciprocal(weight)
    value = total * scale
    grads = jax.tree.map(lambda g: (g * scale).astype(g.dtype), grads)
    if penalised:
      added, penalty_grads = jax.value_and_grad(penalty)(trained)
      value, grads = value + added, jax.tree.map(jnp.add, grads, penalty_grads)
    return (
      value,
      grads,
      Objective(total, weight, vars=new_vars, metrics=metrics),
    )

  return compute


def _value(objective: Objective) -> jax.Array:
  scale = _reciprocal(lax.stop_gradient(objective.weight))
  return objective.sum * scale + objective.penalty


def _reciprocal(weight):
  """1 / weight, and 0 where all rows are padding."""
  return jnp.where(weight > 0, 1.0 / jnp.where(weight > 0, weight, 1.0), 0.0)


def _cut(batch: Batch, n: int) -> Tree:
  """[b, …] -> [n, b/n, …]; part j holds rows j, j+n, … of the batch."""

  def cut(x):
    if x.shape[0] % n:
      raise ValueError(
        f'a batch array of {x.shape[0]} rows does not divide into {n} parts'
      )
    return jnp.moveaxis(x.reshape(x.shape[0] // n, n, *x.shape[1:]), 1, 0)

  return jax.tree.map(cut, batch)


def _trained(params: Params, nets: Nets) -> Tree:
  names = (nets,) if isinstance(nets, str) else nets
  for name in names:
    if name not in params:
      raise ValueError(f'no network "{name}" in params; known: {list(params)}')
  return params[nets] if isinstance(nets, str) else {n: params[n] for n in nets}


def _with(params: Params, nets: Nets, trained: Tree) -> dict[str, Tree]:
  new = {nets: trained} if isinstance(nets, str) else trained
  return {**params, **new}


def _merge_optimizers(updates) -> dict[str, tuple[Nets, Any]]:
  merged: dict[str, tuple[Nets, Any]] = {}
  for update in updates:
    for name, pair in getattr(update, 'optimizers', {}).items():
      known = merged.setdefault(name, pair)
      if known[0] != pair[0] or known[1] is not pair[1]:
        raise ValueError(
          f'two updates own an optimizer state called "{name}"; give each '
          'minimise a name'
        )
  return merged


def _add(a: Metrics, b: Metrics) -> Metrics:
  total = dict(a)
  for name, (value, count) in b.items():
    if name in total:
      value, count = total[name][0] + value, total[name][1] + count
    total[name] = (value, count)
  return total


def _all_finite(tree: Tree) -> jax.Array:
  flags = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]
  return jnp.all(jnp.stack(flags))
