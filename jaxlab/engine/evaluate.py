"""Runs an Evaluator over a finite feed."""

from collections.abc import Callable
from typing import Any

import jax

from jaxlab.engine import keys, preemption
from jaxlab.engine.errors import Preempted
from jaxlab.engine.state import Evaluator, State


class Evaluation:
  """One evaluator over one feed, compiled once.

  Args:
    name: names the stream of random keys.
    evaluator: what is measured.
    feed: a finite feed: has `steps` and `batches(start, stop)`.
    seed: the run's seed.
  """

  def __init__(self, name: str, evaluator: Evaluator, feed: Any, seed: int):
    self.evaluator = evaluator
    self.feed = feed
    self._root = keys.stream(seed, f'eval/{name}')
    self._update: Callable = jax.jit(evaluator.update, donate_argnums=0)

  def run(self, state: State) -> dict[str, float]:
    """The evaluator's figures for this State.

    Raises:
      Preempted: a signal arrived; nothing is lost but this evaluation.
    """
    total = self.evaluator.init()
    for step, _, batch in self.feed.batches(0, self.feed.steps):
      if preemption.asked():
        raise Preempted('evaluation')
      total = self._update(total, state, batch, keys.at(self._root, step))
    return self.evaluator.finish(jax.device_get(total))
