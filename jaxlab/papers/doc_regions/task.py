"""Documents by regions: holistic -> regions -> log-probabilities -> stack."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxlab.papers.doc_regions import documents, judgement, nets, trainings
from jaxlab.papers.doc_regions.method import RegionSpec
from jaxlab.papers.doc_regions.plans import plans_of
from jaxlab.recipes.images import check_images
from jaxlab.runs.model import Model
from jaxlab.runs.stage import Stage

Config = Mapping[str, Any]


def program(config: Config) -> list[Stage]:
  """The trainings of all seeds, and the stage `stack`.

  Raises:
    InputError: a value that cannot be; nothing has been computed yet.
  """
  documents.check(config)
  nets.check(config)
  judgement.check(config)
  every = [plans_of(config, seed) for seed in config['study']['seeds']]
  trained = [
    trainings.training_stage(config, plan)
    for plans in every
    for plan in plans.each
  ]
  return [*trained, judgement.stack_stage(config, every)]


def predict(model: Model, inputs: np.ndarray) -> list[dict[str, Any]]:
  """Classes of pages by the networks of a training, their mean at the end.

  Args:
    inputs: [n, h, w, 1] uint8, or float32 in [0, 1], of the config's size.

  Returns:
    One answer a page: `label`, its `probability`, `probabilities` [k], and of
    each region `regions` name -> label.

  Raises:
    InputError: pages of another shape.
  """
  config, params = model.config, model.params
  d, networks = config['data'], model.json('networks.json')
  check_images(inputs, d['height'], d['width'], 1)
  specs = [RegionSpec(*one) for one in networks['specs']]
  made = nets.nets_of(config, specs, tuple(networks['size']))
  run = jax.jit(lambda p, v, x: jax.nn.softmax(made.logits(p, v, x)))
  found = []
  for start in range(0, len(inputs), d['eval_batch_size']):
    part = inputs[start : start + d['eval_batch_size']]
    each = np.asarray(run(params, model.vars, part))
    for row in each:
      mean = row.mean(0)
      found.append(
        {
          'label': int(mean.argmax()),
          'probability': float(mean.max()),
          'probabilities': mean.tolist(),
          'regions': {
            spec.name: int(p.argmax()) for spec, p in zip(specs, row)
          },
        }
      )
  return found
