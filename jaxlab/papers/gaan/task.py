"""GAAN and what it is compared with: from a config to stages.

A config has the section `grid` (25 Gaussians), the section `images`, or both.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlab.core.errors import InputError
from jaxlab.core.require import one_of, require
from jaxlab.papers.gaan import game, grid, images
from jaxlab.runs.model import Model
from jaxlab.runs.stage import Stage, judged_by

Config = Mapping[str, Any]


def program(config: Config) -> list[Stage]:
  """Trainings and judgements of the parts that a config has.

  Raises:
    InputError: a value that cannot be; nothing has been computed yet.
  """
  parts = {'grid': grid, 'images': images}
  require(config, {'parts': one_of(('grid',), ('images',), ('grid', 'images'))})
  stages: list[Stage] = []
  for name in config['parts']:
    parts[name].check(config)
    stages += parts[name].stages(config)
  return judged_by(stages, 'judge.')


def predict(model: Model, inputs: np.ndarray) -> list[dict[str, Any]]:
  """Images, or points, of codes by a trained generator.

  Of the grid the training's first seed answers.

  Args:
    inputs: [n, d_z] floating, codes; of GAAN in [-1, 1].

  Returns:
    One answer a code: `picture` [h, w, c] float32 in [0, 1]; of the grid
    `sample`, a point in units of the data.

  Raises:
    InputError: codes of another shape, or not finite.
  """
  config = model.config
  part = config['parts'][-1]
  c = config[part]
  codes = np.asarray(inputs, np.float32)
  if codes.ndim != 2 or codes.shape[1] != c['latent']:
    raise InputError(
      f'codes have shape {codes.shape}, not [n, {c["latent"]}]: give as many '
      f'numbers as config.{part}.latent says'
    )
  if not np.isfinite(codes).all():
    raise InputError('codes hold NaN or infinite values; give finite ones')
  arm = c['arms'][-1]
  of = grid.make(c, arm) if part == 'grid' else images.make(config, arm)
  averaged = game.average(model.params, model.vars)
  if part == 'grid':
    averaged = jax.tree.map(lambda x: x[0], averaged)
  made = np.asarray(of.generate(averaged, jnp.asarray(codes)))
  if part == 'grid':
    return [{'sample': x.tolist()} for x in grid.plane(made)]
  return [{'picture': x} for x in made]
