"""Linear regions in a box of the whole space, by mixed-integer programs."""

from dataclasses import dataclass

import numpy as np
import scipy.optimize

from jaxlab.core.errors import InputError
from jaxlab.papers.geometry.networks import Layers, checked_layers


@dataclass(frozen=True)
class Cells:
  """Activation patterns that have a cell of full dimension."""

  patterns: np.ndarray  # [n, hidden units] bool
  complete: bool  # False: stopped, there may be more

  @property
  def count(self) -> int:
    """How many.

    Raises:
      InputError: the enumeration is not complete.
    """
    if not self.complete:
      raise InputError(
        f'{self}: time or room was up; raise `seconds` or `most` for a count'
      )
    return len(self.patterns)

  def __str__(self):
    return f'{"" if self.complete else "≥ "}{len(self.patterns)} cells'


def enumerate_cells(
  layers: Layers,
  low,
  high,
  seconds: float = 60.0,
  most: int = 10_000,
  margin: float = 1e-7,
) -> Cells:
  """The cells of a small network in a box, by mixed-integer programs.

  Each program finds the pattern, not found before, whose units can be the
  farthest from 0 at one point. Hundreds of cells are many.

  Args:
    low, high: [d], the box.
    seconds: for each program; most: cells. Beyond either it stops with what
      it has.
    margin: a cell must have a point at which all units that can be 0 are
      farther from it.

  Raises:
    InputError: bad layers or box.
  """
  made = checked_layers(layers)
  low, high = np.asarray(low, float), np.asarray(high, float)
  d = len(made[0][0])
  if low.shape != (d,) or high.shape != (d,) or not (low < high).all():
    raise InputError(
      f'the box [{low.tolist()}, {high.tolist()}] is none of R^{d}: give low '
      'and high [d] with low < high'
    )
  program = _Program(made[:-1], low, high)
  found: list[np.ndarray] = []
  while len(found) < most:
    answer = program.next(found, seconds)
    if answer.status == _INFEASIBLE:
      return program.cells(found, True)
    if answer.status != 0:
      break
    if answer.x[-1] <= margin:
      return program.cells(found, True)
    found.append(answer.x[program.binary] > 0.5)
  return program.cells(found, False)


_INFEASIBLE = 2  # status of scipy.optimize.milp; 0 is optimal


class _Program:
  """max f over x, h, h', z, f: W h + b = h - h', 0 <= h <= M z, …"""

  def __init__(self, hidden, low, high):
    d, units = len(low), sum(len(b) for _, b in hidden)
    total = d + 3 * units + 1
    plus, minus, binary = (np.arange(units) + d + k * units for k in range(3))
    rows, lower, upper = [], [], []

    def add(entries, least, most):
      row = np.zeros(total)
      for index, value in entries:
        row[index] += value
      rows.append(row)
      lower.append(least)
      upper.append(most)

    bounds_low, bounds_high = low, high
    source, unit = np.arange(d), 0
    limits = np.zeros((2, total))
    limits[0, :d], limits[1, :d] = low, high
    for weight, bias in hidden:
      positive, negative = np.maximum(weight, 0), np.minimum(weight, 0)
      top = bounds_high @ positive + bounds_low @ negative + bias
      bottom = bounds_low @ positive + bounds_high @ negative + bias
      for j in range(len(bias)):
        p, m, z = plus[unit], minus[unit], binary[unit]
        most, least = max(top[j], 1e-6), max(-bottom[j], 1e-6)
        entries = [(source, weight[:, j]), (p, -1.0), (m, 1.0)]
        add(entries, -bias[j], -bias[j])
        add([(p, 1.0), (z, -most)], -np.inf, 0.0)
        add([(m, 1.0), (z, least)], -np.inf, least)
        if bottom[j] < 0 < top[j]:  # f <= h where on, f <= h' where off
          reach = most + least
          add([(total - 1, 1.0), (p, -1.0), (z, reach)], -np.inf, reach)
          add([(total - 1, 1.0), (m, -1.0), (z, -reach)], -np.inf, 0.0)
        limits[1, [p, m]] = most, least
        limits[:, z] = bottom[j] >= 0 and top[j] > 0, top[j] > 0
        unit += 1
      source = plus[unit - len(bias) : unit]
      bounds_low, bounds_high = np.maximum(bottom, 0), np.maximum(top, 0)
    limits[1, -1] = limits[1, d:-1].max(initial=1.0)
    self.binary, self.units = binary, units
    self.rows, self.lower, self.upper = np.array(rows), lower, upper
    self.bounds = scipy.optimize.Bounds(*limits)
    self.cost = np.zeros(total)
    self.cost[-1] = -1.0
    self.whole = np.zeros(total)
    self.whole[binary] = 1

  def next(self, found, seconds):
    """The program without the patterns found."""
    rules = [scipy.optimize.LinearConstraint(self.rows, self.lower, self.upper)]
    if found:
      seen = np.array(found)
      cuts = np.zeros((len(seen), len(self.cost)))
      cuts[:, self.binary] = np.where(seen, -1.0, 1.0)
      least = 1.0 - seen.sum(1)
      rules.append(scipy.optimize.LinearConstraint(cuts, least, np.inf))
    return scipy.optimize.milp(
      self.cost,
      integrality=self.whole,
      bounds=self.bounds,
      constraints=rules,
      options={'time_limit': seconds},
    )

  def cells(self, found, complete):
    return Cells(np.array(found, bool).reshape(-1, self.units), complete)
