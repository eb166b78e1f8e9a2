"""Runs Evaluators over finite feeds."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlab.core import keys
from jaxlab.core.errors import InputError, Preempted
from jaxlab.core.state import Evaluator, State
from jaxlab.engine import hosts, mesh, preemption
from jaxlab.engine.feed import Feed


class Evaluation:
  """One evaluator over one feed, compiled once.

  Args:
    name: names the stream of random keys.
    evaluator: what is measured.
    feed: a finite feed.
    seed: the run's seed.
  """

  def __init__(self, name: str, evaluator: Evaluator, feed: Feed, seed: int):
    if not feed.steps:
      raise InputError(
        f'the feed of evaluation "{name}" has no end; give it steps='
      )
    self.name = name
    self.evaluator = evaluator
    self.feed, self.steps = feed, feed.steps
    self._root = keys.stream(seed, f'eval/{name}')
    # The total stays in one layout, so that there is one trace, and every
    # host holds all of it at the end.
    self._layout = mesh.replicated(feed.mesh)
    self._update: Callable = jax.jit(
      evaluator.update, donate_argnums=0, out_shardings=self._layout
    )

  def run(self, state: State) -> dict[str, float]:
    """The evaluator's figures for this State.

    Raises:
      Preempted: a signal arrived; nothing is lost but this evaluation.
    """
    return self.evaluator.finish(self.total(state))

  def total(self, state: State) -> Any:
    """What the evaluator summed up, on the host, before `finish`."""
    # A copy: it is donated, and may be what `init` closed over.
    total = jax.tree.map(_copied, self.evaluator.init())
    total = mesh.place(total, self._layout)
    agree = hosts.Agreement(f'evaluation {self.name}')
    for step, _, batch in self.feed.batches(0, self.steps):
      if agree(step, stop=preemption.asked())['stop']:
        raise Preempted(
          f'stopped in evaluation "{self.name}"; the same command goes on'
        )
      total = self._update(total, state, batch, keys.at(self._root, step))
    return jax.device_get(total)


def _copied(leaf):
  # Of NumPy's array by NumPy: JAX compiles a copy of each shape.
  return leaf.copy() if isinstance(leaf, np.ndarray) else jnp.copy(leaf)


def measure(
  name: str, evaluator: Evaluator, feed: Feed, state: State, seed: int
) -> dict[str, float]:
  """The evaluator's figures for one State, each named `NAME/figure`.

  Raises:
    Preempted: a signal arrived.
  """
  return measured(name, evaluator, feed, state, seed)[0]


def measured(
  name: str, evaluator: Evaluator, feed: Feed, state: State, seed: int
) -> tuple[dict[str, float], Any]:
  """The same, and the total that they are made of: there may be more in it."""
  total = Evaluation(name, evaluator, feed, seed).total(state)
  found = evaluator.finish(total)
  return {f'{name}/{figure}': value for figure, value in found.items()}, total
