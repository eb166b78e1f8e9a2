"""AdvGAN against networks that it sees: from a config to stages.

Every network of `study.arms` is trained with every seed, then a generator
against it, which is judged on the test set.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxlab.core.require import one_of, require, some
from jaxlab.papers.advgan import game, judgement, stages
from jaxlab.recipes import images
from jaxlab.recipes.judge import args_of
from jaxlab.recipes.study import Cell, study_of
from jaxlab.runs.model import Model
from jaxlab.runs.stage import Stage, judged_by

Config = Mapping[str, Any]


def program(config: Config) -> list[Stage]:
  """Targets, generators, judgements and their table.

  Raises:
    InputError: a value that cannot be; nothing has been computed yet.
  """
  stages.check(config)
  judgement.check(config)
  arms = config['study']['arms']
  require(config, {'study.arms': some(one_of(*config['models']))})
  study = study_of(config, arms, ('success',))
  found = study.stages(lambda cell: cell_stages(config, cell))
  return judged_by(found, 'judge.')


def cell_stages(config: Config, cell: Cell) -> list[Stage]:
  """`MODEL-sSEED-target`, `MODEL-sSEED` and `MODEL-sSEED-judge`."""
  target, name = f'{cell.name}-target', f'{cell.name}-judge'
  own = stages.with_model(config, cell.arm, config['attack']['split'])

  def judge(space):
    task = images.image_task(own, space.offline)
    state = space.artefact(cell.name)
    args = args_of(state)
    return judgement.judge(
      own,
      space,
      game.make(own, task.network),
      task.sets,
      state,
      judgement.logits_of(task.network, args),
      args,
    )

  return [
    stages.target_stage(config, target, cell.seed, cell.arm),
    stages.game_stage(config, cell.name, cell.seed, cell.arm, target),
    Stage(name, judge),
  ]


def predict(model: Model, inputs: np.ndarray) -> list[dict[str, Any]]:
  """What a trained generator makes of images.

  Args:
    inputs: [n, h, w, c] uint8, or float32 in [0, 1], of the config's size.

  Returns:
    One answer an image: the `label` that the network gives it, and for each
    class aimed at, `aims`, what the network takes the changed image for,
    `labels`; without targets, `aims` is empty and `labels` has one entry. The
    changed images are `pictures` [k, h, w, c] float32 in [0, 1].

  Raises:
    InputError: images of another shape.
  """
  return judgement.answer(model, inputs)
