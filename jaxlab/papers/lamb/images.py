"""Image classification under LAMB and its rivals: from a config to stages.

`configs/resnet50.py` is one training on ImageNet, `configs/lamb_images.py` a
study of batch sizes.
"""

from collections.abc import Mapping
from typing import Any

from jaxlab.core.require import between, require
from jaxlab.engine.loop import Options
from jaxlab.papers.lamb import optimizers, ratios, sizes
from jaxlab.recipes import images, measured
from jaxlab.recipes.images import (
  classifier_stage,
  cross_entropy,
  supervised,
  test_figures,
)
from jaxlab.recipes.study import Cell
from jaxlab.runs.stage import Stage

Config = Mapping[str, Any]

predict = images.predict
measure = measured.images


def program(config: Config) -> list[Stage]:
  """One training, or the cells of the study and its figures.

  Raises:
    InputError: a value that cannot be; nothing has been computed yet.
  """
  if config['study']['batch_sizes']:
    return sizes.stages(config, ('accuracy', 'nats'), _stage)
  return [_stage(config)]


def _stage(config: Config, cell: Cell | None = None) -> Stage:
  train = config['train']
  options = cell.options(train) if cell else Options(**train)
  optimizers.make(config)  # complains now
  require(config, {'model.label_smoothing': between(0, 1)})
  loss = cross_entropy(config['model']['label_smoothing'])
  micro = config['optimizer']['micro_batches']

  def update(task, space):
    tx = optimizers.make(config, cell.rate(space) if cell else None)
    return supervised(task, tx, loss, micro)

  name = cell.name if cell else 'train'

  def finish(space, inputs, result):
    pictured = not cell or cell.pictured
    if pictured:
      ratios.show(space.page, space.folder(name), result.state)
    return test_figures(space, inputs, result, pictured)

  return classifier_stage(
    name,
    config,
    update,
    options=options,
    seed=config['seed'],
    finish=finish if not cell or cell.final else None,
    keep=not cell or cell.final,
  )
