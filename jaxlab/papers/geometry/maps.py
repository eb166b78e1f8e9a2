"""The job of AE-OT's toy: a uniform square to 25 Gaussians.

How many generated points lie between modes, with and without the filter of
singular sets, and what the filter drops.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxlab.core import keys
from jaxlab.core.require import above, at_least, between, require, some
from jaxlab.engine.metrics import say
from jaxlab.ops.intervals import student_t
from jaxlab.papers.geometry import pictures
from jaxlab.papers.geometry.method import extension, transport
from jaxlab.runs.stage import Figures, Stage, Workspace

Config = Mapping[str, Any]


def program(config: Config) -> list[Stage]:
  """One stage, `modes`.

  Raises:
    InputError: a value that cannot be; nothing has been computed yet.
  """
  share = between(0, 1)
  rules = {
    'target.atoms': at_least(25),
    'target.sigma': above(0),
    'target.seeds': some(at_least(0)),
    'transport.samples': at_least(1),
    'transport.quantiles': some(share),
    'transport.quantile': share,
    'transport.mixed': above(0, 'deviations'),
  }
  require(config, rules)
  return [Stage('modes', lambda space: _study(config, space))]


CENTRES = np.array([(x, y) for x in range(-4, 5, 2) for y in range(-4, 5, 2)])


def target(seed: int, atoms: int, sigma: float) -> np.ndarray:
  """[atoms, 2], draws of 25 Gaussians, as many of each as may be."""
  rng = np.random.default_rng([seed, 3])
  mode = np.arange(atoms) % len(CENTRES)
  return CENTRES[mode] + sigma * rng.normal(size=(atoms, 2))


def mixture(points: np.ndarray, sigma: float, limit: float) -> dict[str, float]:
  """Where points [n, 2] lie.

  Returns:
    `mixed`, the share farther than `limit` deviations from every centre;
    `modes`, those with a point; `uneven`, the total variation of the modes'
    shares from 1/25 among points that are not mixed.
  """
  apart = np.linalg.norm(points[:, None] - CENTRES, axis=-1)
  near = apart.min(1) <= limit * sigma
  count = np.bincount(apart.argmin(1)[near], minlength=len(CENTRES))
  share = count / max(count.sum(), 1)
  return {
    'mixed': float(1 - near.mean()),
    'modes': int((count > 0).sum()),
    'uneven': float(np.abs(share - 1 / len(CENTRES)).sum() / 2),
  }


def _study(config: Config, space: Workspace) -> Figures:
  c = config['transport']
  found = []
  for seed in config['target']['seeds']:
    found.append(
      _draw(config, space, seed, seed == config['target']['seeds'][0])
    )
    say(f'target {seed}: {found[-1][0]}')
  rows = []
  for i, first in enumerate(found[0]):
    row = {'filter': first['filter']}
    for name in first:
      if name != 'filter':
        row[name] = float(np.mean([of[i][name] for of in found]))
    rows.append(row)
  space.page.table(
    f'25 Gaussians, {config["target"]["atoms"]} atoms, mean of '
    f'{len(found)} draws of the target',
    [*rows[0]],
    rows,
    show=True,
  )
  at = [*c['quantiles']].index(c['quantile']) + 1
  gain = [of[0]['mixed'] - of[at]['mixed'] for of in found]
  text = (
    f'mixed modes: {rows[0]["mixed"]:.3g} without the filter, '
    f'{rows[at]["mixed"]:.3g} with it, {rows[at]["discarded"]:.3g} dropped'
  )
  verdict = ''
  if len(found) > 1:
    mean, half = student_t(gain)
    text += f'; paired difference {mean:.3g} ± {half:.2g}'
    verdict = (
      'shown' if mean > half else 'refuted' if mean < -half else 'not shown'
    )
  space.page.headline(text, verdict)
  return {
    'mixed/unfiltered': rows[0]['mixed'],
    'mixed/filtered': rows[at]['mixed'],
    'discarded': rows[at]['discarded'],
    'uneven/unfiltered': rows[0]['uneven'],
    'uneven/filtered': rows[at]['uneven'],
  }


def _draw(config: Config, space: Workspace, seed: int, show: bool):
  """The rows of one draw of the target; its figures where asked for."""
  c, t = config['transport'], config['target']
  points = target(seed, t['atoms'], t['sigma'])
  atoms, affine = transport.rescaled(points)
  problem = transport.Problem(atoms)
  solved = transport.solve(problem)
  z = np.random.default_rng([seed, 4]).uniform(size=(c['samples'], 2))
  key = keys.at(keys.stream(space.seed, 'centres'), seed)
  centres = extension.mass_centres(problem, solved.potentials, key)
  loose = extension.extend(problem, centres, z, np.inf)
  rows, kept = [], {}
  for quantile in (1.0, *c['quantiles']):
    limit = np.inf
    if quantile < 1:
      limit = extension.threshold_at(loose, quantile)
    new = extension.extend(problem, centres, z, limit)
    kept[quantile] = new
    given = affine.back(new.points[new.kept])
    rows.append(
      {
        'filter': 'none' if quantile == 1 else f'quantile {quantile:g}',
        'angle': float(min(limit, np.pi)),
        'discarded': float(1 - new.kept.mean()),
        **mixture(given, t['sigma'], c['mixed']),
      }
    )
  if show:
    of = transport.cells(problem, solved.potentials)
    space.page.figure(
      'power_diagram',
      pictures.power(of, atoms),
      'Power cells of equal area, and their atoms',
      (5, 5),
    )
    shown = pictures.mapped(z[:4000], _first(kept[c['quantile']], 4000), atoms)
    text = 'The extended map; red: samples on the singular set, dropped'
    space.page.figure('map', shown, text, (5, 5))
    space.page.figure(
      'unfiltered',
      pictures.mapped(z[:4000], _first(loose, 4000), atoms),
      'Without the filter',
      (5, 5),
    )
  jax.clear_caches()
  return rows


def _first(of, count: int):
  return type(of)(*(x[:count] for x in of))
