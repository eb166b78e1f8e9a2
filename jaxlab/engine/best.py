"""The State of a fit's best evaluation, and stopping when none is better.

It is a checkpoint of its own beside the newest ones, so that a killed run has
it too.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxlab.core.errors import InputError
from jaxlab.core.state import State, Tree
from jaxlab.engine import checkpoint, hosts


@dataclass(frozen=True)
class Best:
  """Which evaluation's State a fit leaves, and when it stops early."""

  metric: str  # 'evaluation/metric'
  higher: bool = True  # is better
  patience: int = 0  # evaluations in a row that are no better; 0: to the end

  def __post_init__(self):
    if self.patience < 0:
      raise InputError(
        f'patience = {self.patience} is negative; 0 trains to the end'
      )


class Keeper:
  """Follows the evaluations of a fit.

  Args:
    best: None keeps nothing.
    folder: of the fit.
    saved: what `saved` was in the checkpoint that the fit goes on from.
  """

  def __init__(self, best: Best | None, folder: Path, saved: Any = None):
    self.best = best
    self.step: int
    self.value: float | None
    self.worse: int
    self.step, self.value, self.worse = saved or (0, None, 0)
    self._kept: Any = _open(folder) if best else None

  @property
  def saved(self) -> list[Any]:
    """The step of the best evaluation, its value, how many were no better."""
    return [self.step, self.value, self.worse]

  @property
  def stop(self) -> bool:
    """Whether patience is at its end."""
    return bool(self.best and 0 < self.best.patience <= self.worse)

  def take(self, state: State, step: int, values: Mapping[str, float]) -> None:
    """Looks at an evaluation, and saves State where it is the best.

    Raises:
      InputError: the metric was not evaluated.
    """
    if not self.best:
      return
    if self.best.metric not in values:
      raise InputError(
        f'there is no "{self.best.metric}" among the evaluations '
        f'({", ".join(values)}), by which the best State is to be kept'
      )
    value = values[self.best.metric]
    sign = 1 if self.best.higher else -1
    if self.value is not None and not sign * value > sign * self.value:
      self.worse += 1
      return
    if math.isfinite(value):
      self.step, self.value, self.worse = step, value, 0
    # A run that was killed comes by here again, to the same State.
    latest = hosts.share(f'best before step {step}', self._kept.latest)
    if latest is None or latest < step:
      self._kept.save(state, step, {})

  def restore(self, like: Tree) -> State:
    """The State of the best evaluation."""
    self._kept.wait()
    return self._kept.restore(like, self._kept.latest())[0]

  def wait(self) -> None:
    """Returns when what was saved is on disk."""
    if self._kept:
      self._kept.wait()

  def close(self) -> None:
    if self._kept:
      self._kept.close()


def folder_of(fit: Path) -> Path:
  """Where the best State of a fit lies."""
  return fit / 'best'


def _open(fit: Path) -> checkpoint.Checkpoints:
  return checkpoint.Checkpoints(
    folder_of(fit), checkpoint.Policy(every_seconds=0, keep=1)
  )
