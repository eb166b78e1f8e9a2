"""What a trained classifier is worth: test, calibration, outliers, attacks."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlab.core.require import at_least, between, each, require
from jaxlab.core.state import State
from jaxlab.data.images.sets import drawn
from jaxlab.engine import hosts, metrics
from jaxlab.engine.loop import Inputs
from jaxlab.ops import adversarial
from jaxlab.ops.attack_objectives import nats, ratios, rescaled_nats
from jaxlab.ops.attacks import fgsm, pgd
from jaxlab.ops.detection import detectors
from jaxlab.papers.encouraging import analysis
from jaxlab.papers.encouraging.arms import ArmLoss
from jaxlab.recipes import judge as judging
from jaxlab.recipes import pictures
from jaxlab.recipes.images import ImageTask, tested
from jaxlab.recipes.study import Cell, Study
from jaxlab.runs.stage import Figures, Stage, Workspace

Config = Mapping[str, Any]
DETECTORS = ('msp', 'max_logit', 'energy')
_ANALYSED = 'analysis.npz'


def check(config: Config) -> None:
  """Raises InputError where a value cannot be."""
  units = 'in units of images in [0, 1], as 8 / 255'
  rules = {
    'adversarial.epsilons': each(between(1e-9, 1, units)),
    'adversarial.steps': at_least(1),
  }
  require(config, rules)


def judge(
  config: Config,
  cell: Cell,
  of_rows: ArmLoss,
  space: Workspace,
  inputs: Inputs,
  state: State,
) -> Figures:
  """All test figures of one network; values for the figures go to a file."""
  task: ImageTask = inputs.data
  sets, args = task.sets, judging.args_of(state)
  evaluator, held = inputs.evals['validation']
  test = sets.inliers(config['data']['test_split'])
  feed = sets.once(test, space.mesh)
  figures = {
    **tested(space, sets, evaluator, feed, state, cell.pictured),
    **_test(judging.calibration(task, args, held, feed)),
    **_test(_outliers(config, task, args, space, test)),
    **_test(_attacked(config, task, args, space, cell, test)),
  }
  some = drawn(test, config['analysis']['examples'])
  updates = config['train']['steps']
  views = _views(task, of_rows, updates, args, sets.once(some, space.mesh))
  if hosts.leads():
    np.savez(space.folder(cell.name) / _ANALYSED, **views)
  return figures


def _test(figures: Figures) -> Figures:
  return {f'test/{name}': float(value) for name, value in figures.items()}


def _outliers(config, task: ImageTask, args, space, test) -> Figures:
  o, known = config['ood'], detectors(task.network.logits, *args)
  _, _, rows = judging.outlier_rows(
    task.sets,
    {name: known[name] for name in DETECTORS},
    drawn(test, o['examples']),
    {
      name: task.sets.ood(name, split, o['examples_each'])
      for name, split in o['sets']
    },
    space.mesh,
  )
  pictures.by_distance(space.page, rows, DETECTORS[0])
  return {
    f'{figure}/{row["ood"]}/{row["detector"]}': row[figure]
    for row in rows
    for figure in ('auroc', 'fpr_at_95tpr_id_positive')
  }


def _attacked(
  config, task: ImageTask, args, space, cell: Cell, test
) -> Figures:
  a = config['adversarial']
  if not a['epsilons']:
    return {}
  attacks = {}
  for e in a['epsilons']:
    name = f'{e:.3g}'
    of = lambda criterion: adversarial.of_batch(task.logits, criterion)
    attacks[f'fgsm_{name}'] = fgsm(of(nats), epsilon=e)
    for kind, criterion in (
      ('pgd', nats),
      ('pgd_rescaled', rescaled_nats),
      ('pgd_dlr', ratios),
    ):
      attacks[f'{kind}_{name}'] = pgd(
        of(criterion), epsilon=e, steps=a['steps']
      )
  part = drawn(test, a['examples'])
  part['image'] = part['image'].astype(np.float32) / 255
  feed = task.sets.once(part, space.mesh)
  first = {f'pgd_{a["epsilons"][0]:.3g}': a['epsilons'][0]}
  shown = partial(pictures.keep_attacked, space.page, task.sets.classes, first)
  keep = shown if cell.pictured else None
  return judging.withstood(task.logits, attacks, args, feed, cell.seed, keep)


def _views(task: ImageTask, of_rows: ArmLoss, updates: int, args, feed):
  """Margins, energies, probabilities and gradient norms of examples."""

  def values(batch, params, vars):
    labels, mask = batch['label'], batch['mask']
    logits = task.logits(params, vars, batch)
    loss = lambda f, y: of_rows(f, y, mask, jnp.int32(updates))
    own, others = analysis.energies(logits, labels)
    return {
      'margin': analysis.margins(logits, labels),
      'energy': own,
      'other_energy': others,
      'p': jax.nn.softmax(logits)[np.arange(len(labels)), labels],
      'gradient': analysis.representation_gradients(
        loss, logits, labels, params['net']['head']['kernel']
      ),
    }

  names = ('margin', 'energy', 'other_energy', 'p', 'gradient')
  return judging.views(values, names, args, feed)


def figures_stage(study: Study) -> Stage:
  """The stage `analysis`: the losses of the first seed side by side."""

  def run(space):
    views, lines = {}, {}
    for arm in study.arms:
      folder = space.folder(study.finals(arm)[0].name)
      with np.load(folder / _ANALYSED) as held:
        views[arm] = dict(held)
      lines[arm] = metrics.read(folder / 'metrics.jsonl')
    pick = lambda name: {arm: view[name] for arm, view in views.items()}
    curves = {arm: (view['p'], view['gradient']) for arm, view in views.items()}
    for name, draw in {
      'representation': analysis.draw_representation(curves),
      'energy_of_label': analysis.draw_histograms(
        pick('energy'), 'E(y|x) of the label'
      ),
      'energy_of_others': analysis.draw_histograms(
        pick('other_energy'), 'E(k|x) of the other classes'
      ),
      'margin': analysis.draw_histograms(pick('margin'), 'margin at the end'),
      'margins_over_training': analysis.draw_margins(lines, 'margins/'),
    }.items():
      space.page.figure(name, draw)
    return {
      f'{arm}/{name}': float(view[name].mean())
      for arm, view in views.items()
      for name in ('margin', 'energy', 'gradient')
    }

  return Stage('analysis', run)
