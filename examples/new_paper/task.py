"""mixup beside plain training: from a config to stages."""

import jax

from examples.new_paper.method import mix
from jaxlab.core.require import above, require
from jaxlab.core.state import Objective
from jaxlab.core.update import minimise
from jaxlab.ops.losses import masked_cross_entropy
from jaxlab.recipes import images, optimizers, study

predict = images.predict


def make_update(config, arm, rate, task):
  """The training step of an arm, 'plain' or 'mixup'."""

  def loss(params, vars, batch, key):
    augment, draw = jax.random.split(key)
    image, mask = task.prepare(augment, batch), batch['mask']
    other, weight = batch['label'], 1.0
    if arm == 'mixup':
      image, other, weight = mix(draw, image, other, config['mixup']['alpha'])
    logits, new = task.network.train(params, vars, image)
    own, rows = masked_cross_entropy(logits, batch['label'], mask)
    others, _ = masked_cross_entropy(logits, other, mask)
    return Objective(weight * own + (1 - weight) * others, rows, vars=new)

  steps = config['train']['steps']
  return minimise(
    loss, 'net', optimizers.make(config['optimizer'], steps, rate)
  )


def program(config):
  """Trials, final runs and their table."""
  require(config, {'mixup.alpha': above(0)})
  arms = study.study_of(config, ('plain', 'mixup'), ('accuracy', 'nats'))
  return arms.stages(
    lambda cell: images.classifier_stage(
      cell.name,
      config,
      lambda task, space: make_update(config, cell.arm, cell.rate(space), task),
      options=cell.options(config['train']),
      seed=cell.seed,
      finish=images.test_figures if cell.final else None,
      keep=cell.final,
    )
  )
