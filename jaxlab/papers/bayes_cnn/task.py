"""Bayesian CNNs beside other ways to uncertainty: from a config to stages."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlab.core.errors import InputError
from jaxlab.core.require import (
  above,
  at_least,
  between,
  each,
  inside,
  one_of,
  require,
  some,
)
from jaxlab.papers.bayes_cnn import arms, judgement, method, priors
from jaxlab.papers.bayes_cnn.arms import POST_HOC, TRAINED, VARIATIONAL
from jaxlab.recipes import optimizers
from jaxlab.recipes.images import check_images, classifier_stage
from jaxlab.recipes.study import Cell, Study, study_of
from jaxlab.runs.model import Model
from jaxlab.runs.stage import Stage, judged_by

Config = Mapping[str, Any]


def program(config: Config) -> list[Stage]:
  """Trainings, each with its judgement, the table of all, and figures.

  Raises:
    InputError: a value that cannot be; nothing has been computed yet.
  """
  check(config)
  study = make_study(config)
  stages = study.stages(lambda cell: cell_stages(config, cell))
  figures = judgement.figures_stage(config, study)
  return judged_by([*stages, figures], 'evaluation.', 'predict.')


def check(config: Config) -> None:
  """Raises InputError where a value cannot be."""
  limit = method.RHO_LIMIT
  draws = at_least(1, 'draws of the weights')
  require(
    config,
    {
      'study.arms': some(one_of(*TRAINED, *POST_HOC)),
      'bayes.posterior': one_of('rho', 'log_alpha'),
      'bayes.spread': between(-limit, limit, 'of every weight; about -5'),
      'bayes.spread_rate': above(0, "times the means' rate"),
      'bayes.samples': draws,
      'bayes.kl_samples': draws,
      'bayes.beta': at_least(0, '1: the evidence lower bound'),
      'mc_dropout.rate': inside(0, 1),
      'ensemble.members': at_least(2),
      'ensemble.steps': at_least(1),
      'ivon.rates': some(above(0)),
      'laplace.precision': at_least(0, '0: by the evidence'),
      'evaluation.draws': draws,
      'evaluation.timed_draws': each(draws),
      'evaluation.examples': at_least(2),
      'evaluation.ood_examples': at_least(2),
      'evaluation.corrupted_examples': at_least(2),
      'evaluation.corruptions': each(_named()),
      'predict.arm': one_of(*TRAINED),
      'predict.draws': draws,
    },
  )
  b, chosen = config['bayes'], config['study']['arms']
  priors.make(config['prior'])
  method.elbo(jnp.zeros(()), jnp.zeros(()), b['n_train'])
  method.beta_schedule(b['schedule'], 1, b['warmup_epochs'], b['beta'])
  if {*chosen} & {*VARIATIONAL}:
    method.refuse_decay(config['optimizer']['weight_decay'], b['beta'])
  if {*chosen} & {*POST_HOC} and 'deterministic' not in chosen:
    raise InputError(
      f'config.study.arms = {list(chosen)}: {" and ".join(POST_HOC)} are made '
      "of the deterministic arm's networks; add 'deterministic'"
    )
  optimizers.make(config['optimizer'], config['train']['steps'], 1.0)


def _named():
  words = 'NAME:SEVERITY, say gaussian_noise:3'
  rule = one_of(cure=words)
  return rule._replace(holds=lambda x: x.count(':') == 1, words=words)


def make_study(config: Config) -> Study:
  """The study of the arms; rates are those of each arm."""
  metrics = ('accuracy', 'nats')
  # Of figures that are better the higher; the table has the others, too.
  apart = [f'auroc/{name}/total' for name, _ in config['evaluation']['ood']]
  headlines = [f'test/{name}' for name in ('accuracy', *apart)]
  study = study_of(config, config['study']['arms'], metrics, headlines)
  common = config['study']['rates']

  def rates(arm, setting):
    if arm in POST_HOC:
      return common[:1]
    return config['ivon']['rates'] if arm == 'ivon' else common

  # The arms made of other arms' networks come behind them.
  order = sorted(study.arms, key=lambda arm: arm in POST_HOC)
  return replace(study, rates=rates, arms=order)


def cell_stages(config: Config, cell: Cell) -> list[Stage]:
  """The stage `ARM-sSEED`, and the judgement of a final run."""
  judged = [judgement.stage(config, cell)] if cell.final else []
  if cell.arm in POST_HOC:
    return judged
  options = cell.options(config['train'])
  if cell.arm == 'ensemble':
    options = replace(options, steps=config['ensemble']['steps'])
  counted = cell.arm in VARIATIONAL
  trained = classifier_stage(
    cell.name,
    config,
    lambda task, space: arms.make_update(
      config, cell.arm, cell.rate(space), task, options.steps
    ),
    options=options,
    seed=cell.seed,
    finish=None,
    vars={'updates': jnp.zeros((), jnp.int32)} if counted else {},
    build=lambda config, offline: arms.image_task(config, cell.arm, offline),
    keep=cell.final,
    own={**config, 'predict': {**config['predict'], 'arm': cell.arm}},
  )
  return [trained, *judged]


def predict(model: Model, inputs: np.ndarray) -> list[dict[str, Any]]:
  """Classes of images, and how sure they are.

  Of the arm `config.predict.arm`, by `config.predict.draws` draws of its
  weights; of IVON by the mean weights, as its posterior is in State.opt.

  Args:
    inputs: [n, h, w, c] uint8, or float32 in [0, 1], of the config's size.

  Returns:
    One answer an image: `label`, its `probability`, `probabilities` [k],
    traces `aleatoric` and `epistemic`, and `mutual_information` in nats.

  Raises:
    InputError: images of another shape.
  """
  config, vars = model.config, model.vars
  d, c = config['data'], config['predict']
  check_images(inputs, d['size'], d['size'], d['channels'])
  arm = 'deterministic' if c['arm'] == 'ivon' else c['arm']
  key = jax.random.key(config['seed'])
  found = arms.predictor(config, arm, model.params, vars, key)
  size = d['eval_batch_size']
  feed = [
    {
      'image': inputs[start : start + size],
      'id': np.arange(start, start + len(inputs[start : start + size])),
      'mask': np.ones(len(inputs[start : start + size]), bool),
    }
    for start in range(0, len(inputs), size)
  ]
  log_p = judgement.log_probabilities(found, vars, feed, c['draws'], '')
  aleatoric, epistemic = judgement.traces(log_p)
  information = np.asarray(method.entropy_split(np.exp(log_p))[1])
  return [
    {
      'label': int(p.argmax()),
      'probability': float(p.max()),
      'probabilities': p.tolist(),
      'aleatoric': float(a),
      'epistemic': float(e),
      'mutual_information': float(i),
    }
    for p, a, e, i in zip(
      np.exp(log_p).mean(0), aleatoric, epistemic, information
    )
  ]
