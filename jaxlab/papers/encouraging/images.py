"""Image classification with cross-entropy and the encouraging loss."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxlab.core.require import at_least, require
from jaxlab.core.state import Objective, Update
from jaxlab.data.images.sets import ImageSets
from jaxlab.data.in_memory import ArraySource
from jaxlab.engine import mesh
from jaxlab.papers.encouraging import analysis, arms, image_judgement
from jaxlab.recipes import images, optimizers
from jaxlab.recipes.images import ImageTask, classifier_stage, supervised
from jaxlab.recipes.study import Cell, study_of
from jaxlab.runs.stage import Stage, judged_by

Config = Mapping[str, Any]

predict = images.predict


def program(config: Config) -> list[Stage]:
  """Trials, final runs with their judgement, the study and the figures.

  Raises:
    InputError: a value that cannot be; nothing has been computed yet.
  """
  tail = 'examples of the most frequent class to one of the least; 1: as it is'
  require(config, {'data.long_tail': at_least(1, tail)})
  arms.check(config, np.ones(config['data']['num_classes'], int))
  optimizers.make(config['optimizer'], config['train']['steps'], 1.0)
  image_judgement.check(config)
  study = study_of(config, list(config['losses']), ('accuracy', 'nats'))
  stages = study.stages(partial(training_stage, config))
  stages += [image_judgement.figures_stage(study)]
  return judged_by(stages, 'ood.', 'adversarial.', 'analysis.')


def long_tailed(labels: np.ndarray, classes: int, ratio: float) -> np.ndarray:
  """Rows of a long-tailed part of a set, ascending.

  Class k keeps n ratio^(-k / (K - 1)) of its first examples, where n is the
  number of the rarest class. Source: Cui et al., arXiv 1901.05555, section 5.1.

  Args:
    labels: [n] int in [0, classes).
    ratio: >= 1, of the most frequent class to the least.
  """
  most = np.bincount(labels, minlength=classes).min()
  kept = []
  for k in range(classes):
    count = max(1, int(most * ratio ** (-k / max(classes - 1, 1))))
    kept.append(np.flatnonzero(labels == k)[:count])
  return np.sort(np.concatenate(kept))


def training_set(sets: ImageSets) -> dict[str, np.ndarray]:
  """The images to train on, long-tailed if the config says so."""
  d = sets.data
  arrays = sets.inliers(d['train_split'])
  if d['long_tail'] == 1:
    return arrays
  kept = long_tailed(arrays['label'], d['num_classes'], d['long_tail'])
  return {name: array[kept] for name, array in arrays.items()}


def class_counts(config: Config, task: ImageTask) -> np.ndarray:
  """[K] training examples of each class; ones under --plan."""
  classes = config['data']['num_classes']
  if task.sets is None:
    return np.ones(classes, int)
  return np.bincount(training_set(task.sets)['label'], minlength=classes)


def make_update(
  config: Config, arm: str, rate: float, task: ImageTask
) -> Update:
  """The training step on `params['net']`; `vars['updates']` counts."""
  of_rows = arms.loss_of(config, arm, class_counts(config, task))

  def loss(logits, labels, mask, vars):
    found = of_rows(logits, labels, mask, vars['updates'])
    rows = mask.sum().astype(jnp.float32)
    return Objective(found.sum(), rows, vars={'updates': vars['updates'] + 1})

  steps = config['train']['steps']
  return supervised(
    task, optimizers.make(config['optimizer'], steps, rate), loss
  )


def training_stage(config: Config, cell: Cell) -> Stage:
  """The stage that trains a cell, and judges it if it is final."""
  d = config['data']

  def evals(task, space):
    held = task.sets.held_out(d['validation_split'], space.mesh)
    rows = mesh.round_rows(space.mesh, d['eval_batch_size'])
    measured = analysis.margin_quantiles(task.logits, held.steps * rows)
    return {'margins': (measured, held)}

  def finish(space, inputs, result):
    if not cell.final:
      return {}
    counts = class_counts(config, inputs.data)
    of_rows = arms.loss_of(config, cell.arm, counts)
    return image_judgement.judge(
      config, cell, of_rows, space, inputs, result.state
    )

  trained = classifier_stage(
    cell.name,
    config,
    lambda task, space: make_update(config, cell.arm, cell.rate(space), task),
    options=cell.options(config['train']),
    seed=cell.seed,
    finish=finish,
    vars={'updates': jnp.zeros((), jnp.int32)},
    source=lambda sets, rows: ArraySource(
      training_set(sets), batch_size=rows, seed=cell.seed
    ),
    evals=evals,
    keep=cell.final,
  )
  return trained._replace(judges=cell.final)
