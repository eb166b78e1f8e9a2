"""Metric transfer: metric -> embed -> propagate -> fine-tune -> report.

With a packaged network as the metric, linear heads on its frozen embedding
take the place of fine-tuning.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from jaxlab.core.require import filled, require
from jaxlab.papers.metric_transfer import (
  embedding,
  finetuning,
  heads,
  labels,
  pretraining,
  pseudo_labels,
)
from jaxlab.papers.metric_transfer.claims import claims_stage
from jaxlab.recipes import images, study
from jaxlab.runs.stage import Stage

Config = Mapping[str, Any]

predict = images.predict


def program(config: Config) -> list[Stage]:
  """The stages.

  Raises:
    InputError: a value that cannot be; nothing has been computed yet.
  """
  embedding.check(config)
  pseudo_labels.check(config)
  require(config, {'study.seeds': filled()})
  finetuning.check(config)
  methods, seeds = config['study']['methods'], config['study']['seeds']
  used = [name for name in methods if name in labels.METHODS]
  before = [
    embedding.embed_stage(config),
    pseudo_labels.propagate_stage(config, seeds, used),
  ]
  if config['metric']['loss'] not in embedding.TRAINED:
    heads.check(config)
    measured = partial(_of_heads, methods, seeds)
    return [
      *before,
      heads.heads_stage(config, methods, seeds),
      claims_stage('transfer', measured),
    ]
  arms = study.study_of(config, methods, ('accuracy', 'nats'))
  trained = arms.stages(partial(finetuning.cell_stage, config))
  measured = partial(_of_study, arms, seeds)
  metric = pretraining.metric_stage(config)
  return [metric, *before, *trained, claims_stage('semi', measured)]


def _of_study(arms, seeds, space) -> str:
  values = {
    arm: [
      100 * space.figures(cell.name)['test/accuracy']
      for cell in arms.finals(arm)
    ]
    for arm in arms.arms
  }
  return _gains(values)


def _of_heads(methods, seeds, space) -> str:
  figures = space.figures('heads')
  return _gains(
    {arm: [100 * figures[f'test/{arm}-s{s}'] for s in seeds] for arm in methods}
  )


def _gains(values: Mapping[str, list[float]]) -> str:
  """'over supervised 3.1 ± 1.2, …', in points."""
  ours = values.get('normalized_cut')
  if ours is None:
    return 'normalized_cut is not among config.study.methods'
  others = [arm for arm in values if arm != 'normalized_cut']
  if not others:
    return 'no arm to compare normalized_cut with'
  return 'normalized_cut ' + ', '.join(
    f'over {arm} ' + study.interval([a - b for a, b in zip(ours, values[arm])])
    for arm in others
  )
