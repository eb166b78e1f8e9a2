"""The job of theorem 4.12 and 4.14: the smallest encoder of a growing curve.

Encoders R^2 -> R^1 of several widths are trained along spirals and Hilbert's
curves. One encodes a curve if its code is strictly monotone along it, which is
decided exactly.
"""

import itertools
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxlab.core import keys
from jaxlab.core.require import (
  above,
  at_least,
  between,
  each,
  require,
  some,
)
from jaxlab.engine.metrics import say
from jaxlab.papers.geometry import complexity, encoders, regions
from jaxlab.runs.stage import Figures, Stage, Workspace

Config = Mapping[str, Any]
Row = dict[str, Any]


def program(config: Config) -> list[Stage]:
  """One stage, `theorem`.

  Raises:
    InputError: a value that cannot be; nothing has been computed yet.
  """
  rules = {
    'curves.spirals': each(above(0, 'radians')),
    'curves.hilbert': each(between(1, 5)),
    'curves.polyline': between(2, 1024, 'corners of a spiral'),
    'encoders.widths': some(at_least(1)),
    'encoders.seeds': at_least(1),
    'encoders.depth': at_least(1, 'hidden layers'),
    'encoders.points': at_least(2, 'of the curve in a step'),
    'encoders.steps': at_least(1),
    'encoders.rate': above(0),
    'encoders.polish': at_least(0, 'rounds'),
  }
  require(config, rules)
  return [Stage('theorem', lambda space: _study(config, space))]


class Curve(NamedTuple):
  """A curve scaled into [-1, 1]²."""

  family: str
  size: float  # radians, or the order
  points: np.ndarray
  manifold: complexity.Manifold


def curves(config: Config) -> list[Curve]:
  """The curves of a config, small ones first."""
  found = []
  for turns in sorted(config['spirals']):
    points = complexity.spiral(turns, config['polyline'])
    scaled = points / np.abs(points).max()
    of = complexity.spiral_manifold(turns)
    found.append(Curve('spiral', turns, scaled, of))
  for order in sorted(config['hilbert']):
    points = 2 * complexity.hilbert(order) - 1
    of = complexity.hilbert_manifold(order)
    found.append(Curve('hilbert', order, points, of))
  return found


def _study(config: Config, space: Workspace) -> Figures:
  e = config['encoders']
  rows, figures, known = [], {}, curves(config['curves'])
  began = time.monotonic()
  for number, curve in enumerate(known):
    found = encoders.train(
      keys.at(keys.stream(space.seed, 'encoders'), number),
      curve.points,
      [*e['widths']],
      e['seeds'],
      e['depth'],
      e['steps'],
      e['rate'],
      e['points'],
    )
    rows.append(_row(curve, e, found))
    name = f'{curve.family}_{curve.size:g}'
    figures[f'{name}/smallest_width'] = rows[-1]['smallest trained'] or 0
    figures[f'{name}/certified_cells'] = curve.manifold.cells
    spent = time.monotonic() - began
    left = spent / (number + 1) * (len(known) - number - 1)
    say(f'{curve.manifold.name}: {spent:.0f} s, {left:.0f} s left')
  _show(space, rows)
  return figures


def _row(curve: Curve, e: Config, found) -> Row:
  """What the encoders of one curve came to."""
  widths = [*e['widths']]
  shape = lambda w: [2, *[w] * e['depth'], 1]
  judged = [
    [_judged(net, curve.points, e['polish']) for net in nets] for nets in found
  ]
  good = [sum(x is not None for x in of) for of in judged]
  best = next((i for i, n in enumerate(good) if n), None)
  row: Row = {
    'curve': curve.manifold.name,
    'family': curve.family,
    'connected charts': len(complexity.charts(curve.points)),
    'certified cells': curve.manifold.cells,
    'smallest not excluded': next(
      w
      for w in range(1, 10_000)
      if complexity.encodable_necessary(shape(w), curve.manifold)
      == 'not excluded'
    ),
    'smallest trained': None if best is None else widths[best],
    'its cells along the curve': None,
    'its upper bound': None,
    'its margin': None,
    'encode, by width': ', '.join(
      f'{w}: {n}/{len(of)}' for w, n, of in zip(widths, good, judged)
    ),
  }
  if best is not None:
    margin, pieces = max(x for x in judged[best] if x is not None)
    row |= {
      'its cells along the curve': pieces,
      'its upper bound': regions.bounds(shape(widths[best]))['serra18'],
      'its margin': margin,
    }
  return row


_NEAR = 0.05  # polished where at most this share of the corners is a descent


def _judged(net, points, rounds: int) -> tuple[float, int] | None:
  """Margin and pieces along the curve of a net that encodes it."""
  code = _code(net, points)
  if (np.diff(code) <= 0).mean() > _NEAR:
    return None
  net = encoders.polish(net, points, rounds)
  found = complexity.injective_along(net, points)
  if not found.injective:
    return None
  pieces = regions.count_segments(net, points[:-1], points[1:])
  return found.margin, int((pieces.activation - 1).sum()) + 1


def _code(net, x: np.ndarray) -> np.ndarray:
  for i, (w, b) in enumerate(net):
    x = (np.maximum(x, 0) if i else x) @ w + b
  return x[:, 0]


def _show(space: Workspace, rows: list[Row]) -> None:
  encoded = [r for r in rows if r['smallest trained']]
  broken = [r for r in encoded if r['certified cells'] > r['its upper bound']]
  widths = lambda family: [
    r['smallest trained'] or np.inf for r in rows if r['family'] == family
  ]
  grows = all(_rises(widths(family)) for family in ('spiral', 'hilbert'))
  verdict = 'refuted' if broken else 'shown' if grows else 'not shown'
  space.page.headline(
    f'{len(encoded)} of {len(rows)} curves are encoded by some width, '
    f'{len(broken)} by one that the certified bound excludes; the smallest '
    f'width that does it {"grows" if grows else "does not always grow"} with '
    'the curve',
    verdict,
  )
  columns = [key for key in rows[0] if key != 'family']
  cells = [{k: '–' if r[k] is None else r[k] for k in columns} for r in rows]
  space.page.table(
    'Smallest encoders of growing curves', columns, cells, show=True
  )
  space.page.figure(
    'smallest', lambda axes: _draw(axes, rows), 'Cells: bounds and encoders'
  )


def _rises(widths) -> bool:
  """From a width that was found, never down, and up at least once."""
  pairs = [*itertools.pairwise(widths)]
  up = any(a < b for a, b in pairs) and all(a <= b for a, b in pairs)
  return up and np.isfinite(widths[0])


def _draw(axes, rows: list[Row]) -> None:
  at = np.arange(len(rows))
  series = {
    'certified cells': ('certified lower bound', 'v-'),
    'connected charts': ('connected charts (no bound)', 's:'),
    'its cells along the curve': ('smallest trained, along the curve', 'o-'),
    'its upper bound': ("Serra's upper bound of it", '^-'),
  }
  for family in ('spiral', 'hilbert'):
    of = [i for i in at if rows[i]['family'] == family]
    for number, (key, (label, style)) in enumerate(series.items()):
      y = [np.nan if rows[i][key] is None else rows[i][key] for i in of]
      name = label if of and of[0] == 0 else None
      axes.plot(of, y, style, color=f'C{number}', label=name, markersize=5)
  axes.set_yscale('log')
  axes.set_xticks(at, [r['curve'] for r in rows], rotation=30, ha='right')
  axes.set_ylabel('cells')
  axes.grid(alpha=0.3)
  axes.legend(frameon=False, fontsize=8)
