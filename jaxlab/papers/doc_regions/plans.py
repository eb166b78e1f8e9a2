"""The trainings of a seed, and the regions that they see."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxlab.core.require import (
  Rule,
  at_least,
  each,
  one_of,
  require,
)
from jaxlab.papers.doc_regions import method
from jaxlab.papers.doc_regions.trainings import Plan

Config = Mapping[str, Any]
_RECTANGLE = Rule(lambda x: len(x) == 5, 'name, top, bottom, left, right')


class Plans(NamedTuple):
  """The trainings of one seed."""

  holistic: Plan
  regions: Plan
  folds: Sequence[tuple[Plan, Plan]]  # the same two, without a fold
  direct: Plan | None  # regions begun as the holistic network was
  pixels: Plan | None  # one holistic network at the budget of all

  @property
  def each(self) -> list[Plan]:
    """All, in an order in which sources come first."""
    more = [x for x in (self.direct, self.pixels) if x]
    pairs = [(self.holistic, self.regions), *self.folds]
    return [*(plan for pair in pairs for plan in pair), *more]


def plans_of(config: Config, seed: int) -> Plans:
  """The trainings of a seed."""
  m, controls = config['model'], config['controls']
  size = m['height'], m['width']
  whole, *others = specs_of(config)

  def pair(name, fold):
    first = Plan(f'holistic-{name}', 'holistic', (whole,), size, seed, '', fold)
    parts = tuple(others)
    second = Plan(
      f'regions-{name}', 'regions', parts, size, seed, first.name, fold
    )
    return first, second

  folds = []
  if 'oof' in config['stack']['protocols']:
    count = config['stack']['folds']
    folds = [pair(f's{seed}-fold{fold}', fold) for fold in range(count)]
  first, second = pair(f's{seed}', -1)
  direct = second._replace(name=f'direct-s{seed}', source='')
  larger = tuple(round(side * np.sqrt(1 + len(others))) for side in size)
  pixels = first._replace(name=f'pixels-s{seed}', size=larger)
  return Plans(
    *(first, second, folds),
    direct if controls['direct'] else None,
    pixels if controls['pixels'] else None,
  )


def specs_of(config: Config) -> list[method.RegionSpec]:
  """The regions, the whole page first.

  Raises:
    InputError: a region that cannot be.
  """
  require(config, {'regions.specs': each(_RECTANGLE)})
  found = [method.RegionSpec(*one) for one in config['regions']['specs']]
  method.check_regions(found)
  require(
    {'regions': {'specs': {'first': found[0].name, 'count': len(found)}}},
    {
      'regions.specs.first': one_of('holistic'),
      'regions.specs.count': at_least(2, 'the page and a region of it'),
    },
    name='config.',
  )
  return found
