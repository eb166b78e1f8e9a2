"""Several batch sizes over the same number of examples, optimizer by optimizer.

The paper's rule is not tuned: the rate grows with the square root of the batch
and warm-up takes the same number of steps, so that its share of the training
grows with the batch (section 4). Its known criticism (Nado et al., 2021, arXiv
2102.06356) is that the rivals were not tuned: here an optimizer may also be
tuned at every batch size, with as many trials for each choice.

  sqrt   rates tried at the reference batch, the best scaled by √(b / reference)
  tuned  rates · √(batch / reference) tried at every batch size
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxlab.core.require import (
  above,
  at_least,
  filled,
  one_of,
  require,
  some,
)
from jaxlab.recipes.study import Cell, Study
from jaxlab.runs.stage import Stage

Config = Mapping[str, Any]


def stages(
  config: Config,
  metrics: Sequence[str],
  make: Callable[[Config, Cell], Stage],
) -> list[Stage]:
  """Trials, final runs, and the stage `study`.

  Args:
    metrics: what `config.study.metric` may be.
    make: the stage that trains a cell, by a config of its own.

  Raises:
    InputError: a study that cannot be.
  """
  study = study_of(config, metrics)
  own = lambda cell: make(cell_config(config, cell), cell)
  *trainings, last = study.stages(own)

  def conclude(space):
    columns = ('optimizer', 'rule', 'batch size', 'steps', 'warm-up', 'rate')
    rows = []
    for arm in study.arms:
      for cell in (study.finals(arm, at)[0] for at in study.settings):
        c = cell_config(config, cell)
        warmup, steps = c['optimizer']['warmup_steps'], c['train']['steps']
        rule = config['study']['optimizers'][arm]['rule']
        rows.append((arm, rule, cell.setting, steps, warmup, cell.rate(space)))
    space.page.table('The trainings', columns, rows, show=True)
    return last.run(space)

  return [*trainings, last._replace(run=conclude)]


def study_of(config: Config, metrics: Sequence[str]) -> Study:
  """The study of a config's section `study`.

  Raises:
    InputError: a study that cannot be.
  """
  c = config['study']
  sizes, arms = c['batch_sizes'], c['optimizers']
  rules = {
    'study.batch_sizes': some(at_least(1)),
    'study.reference_batch_size': one_of(*sizes),
    'study.examples': at_least(max(sizes), 'one batch of each size'),
    'study.largest_micro_batch': at_least(1),
    'study.warmup_steps': at_least(0),
    'study.seeds': filled(),
    'study.metric': one_of(*metrics),
    'study.better': one_of('lower', 'higher'),
    'study.baseline': one_of(*arms),
  }
  for arm in arms:
    rules[f'study.optimizers.{arm}.rule'] = one_of('sqrt', 'tuned')
    rules[f'study.optimizers.{arm}.rates'] = some(above(0))
  require(config, rules)
  reference = c['reference_batch_size']
  scale = lambda batch: math.sqrt(batch / reference)

  def tuned_at(arm, batch):
    if arms[arm]['rule'] == 'tuned':
      return batch, 1.0
    return reference, scale(batch)

  return Study(
    sorted(arms, key=lambda arm: arm != c['baseline']),
    lambda arm, batch: [scale(batch) * rate for rate in arms[arm]['rates']],
    c['seeds'],
    c['metric'],
    c['better'] == 'higher',
    sizes,
    'batch size, the same number of examples in all',
    tuned_at,
  )


def cell_config(config: Config, cell: Cell) -> Config:
  """The config of one training; its rate is `cell.rate`."""
  c = config['study']
  steps = c['examples'] // cell.setting
  return changed(
    {**config, 'seed': cell.seed},
    data={'batch_size': cell.setting},
    train={'steps': steps},
    optimizer={
      'name': cell.arm,
      'warmup_steps': min(c['warmup_steps'], steps // 2),
      'micro_batches': max(1, cell.setting // c['largest_micro_batch']),
    },
  )


def changed(config: Config, **sections: Config) -> Config:
  """The config with other values in some sections."""
  new = {name: {**config[name], **of} for name, of in sections.items()}
  return {**config, **new}
