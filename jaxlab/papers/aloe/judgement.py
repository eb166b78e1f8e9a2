"""How well a trained network tells outliers, clean and under attack.

Detectors are tuned on validation images and validation outliers, never on a
test set. Every detector is attacked by itself (jaxlab/ops/score_attacks.py).
An OOD set whose kind outliers were trained on, by another split, has its rows
and is in no mean.
"""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from jaxlab.core import keys
from jaxlab.core.errors import InputError
from jaxlab.core.require import (
  at_least,
  between,
  each,
  filled,
  inside,
  one_of,
  require,
  some,
)
from jaxlab.core.state import State
from jaxlab.data.images.sets import drawn
from jaxlab.evals import ood
from jaxlab.evals.classify import classify
from jaxlab.ops import adversarial
from jaxlab.ops.attacks import apgd, pgd
from jaxlab.papers.aloe import detectors as of_scores
from jaxlab.papers.aloe import method, paper_evaluation
from jaxlab.papers.aloe.detectors import DETECTORS, tuned
from jaxlab.papers.aloe.sets import Sets, seen
from jaxlab.recipes import judge, pictures
from jaxlab.recipes.images import ImageTask, image_task, tested
from jaxlab.recipes.judge import Row
from jaxlab.recipes.study import Cell, Study
from jaxlab.runs import model, workdir
from jaxlab.runs.stage import Figures, Stage, Workspace

Config = Mapping[str, Any]

_SEEN = '(seen in training)'  # of OOD sets that no mean counts
MAIN = ('auroc', 'fpr_at_95tpr_id_positive')
_OTHER = (
  'fpr_at_95tpr_ood_positive',
  'detection_error',
  'aupr_in',
  'aupr_out',
  'fpr_at_clean_threshold',
  'tpr_at_clean_threshold',
)


def check(config: Config) -> None:
  """Raises InputError where a value cannot be."""
  units = 'in units of images in [0, 1], as 8 / 255'
  known, adaptive = config['detection']['detectors'], 'ood.adaptive'
  budgets = each(inside(0, 1, f'{units}; clean is always there'))
  require(
    config,
    {
      'detection.detectors': some(one_of(*DETECTORS)),
      'detection.odin_etas': each(between(0, 1, units)),
      'detection.mahalanobis_etas': each(between(0, 1, units)),
      'ood.sets': filled('give at least one OOD set'),
      'ood.paper': one_of(True, False),
      'ood.epsilons': budgets,
      'ood.steps': at_least(1),
      f'{adaptive}.epsilons': budgets,
      f'{adaptive}.detectors': each(one_of(*DETECTORS)),
    },
  )
  if not {name for name, _ in config['ood']['sets']} - seen(config):
    raise InputError(
      f'config.ood.sets {config["ood"]["sets"]} are all of sets that '
      'config.outliers.train trains on; give one that is not seen in training'
    )
  if config['ood']['adaptive']['methods']:
    cure = 'one of config.detection.detectors'
    among = each(one_of(*known, cure=cure))
    require(config, {f'{adaptive}.detectors': among})


def stage(config: Config, cell: Cell) -> Stage:
  """The stage `METHOD-sSEED-ood`: tables and figures of one network."""
  name = f'{cell.name}-ood'

  def run(space):
    state = space.artefact(cell.name)
    return _judge(config, cell, space, state, space.folder(name))

  return Stage(name, run)


def attacks_of(config: Config) -> dict[str, tuple[str, float]]:
  """Main rows of the table: name of an attack -> its detector and budget."""
  o = config['ood']
  found = {}
  if o['epsilons']:
    found[f'pgd-{o["steps"]}'] = (
      config['detection']['detectors'][0],
      o['epsilons'][0],
    )
  a = o['adaptive']
  if a['methods'] and a['epsilons'] and a['detectors']:
    found[_adaptive(a)] = a['detectors'][0], a['epsilons'][0]
  return found


def headlines(config: Config) -> list[str]:
  """The figures that methods are compared by: AUROC, both sides attacked."""
  rows = [
    {'attack': k, 'detector': d, 'epsilon': e, 'setting': 'both'}
    for k, (d, e) in attacks_of(config).items()
  ]
  return [f'test/{label(row)}/auroc' for row in rows]


def _judge(config, cell, space: Workspace, state: State, folder) -> Figures:
  task = image_task(config, space.offline)
  layers = config['detection']['layers']
  net = task.network._replace(
    features=partial(task.network.features, names=layers)
  )
  args, sets = judge.args_of(state), Sets(config, space.offline)
  _check_apart(cell, sets, space)
  found, chosen = tuned(config, net, args, sets, space.mesh)
  model.add(
    space.folder(cell.name) / model.FOLDER,
    of_scores.FILE,
    of_scores.thresholds(config, found, chosen, sets, space.mesh),
  )
  o = config['ood']
  test = sets.inliers(config['data']['test_split'])

  def outliers(count):
    return {_name(config, n, s): sets.ood(n, s, count) for n, s in o['sets']}

  def table(detectors, inside, outside, attack=None, epsilons=()):
    return judge.outlier_rows(
      sets,
      detectors,
      drawn(test, inside),
      outliers(outside),
      space.mesh,
      attack=attack and judge.cached(attack, space.mesh),
      epsilons=epsilons,
      key=keys.stream(space.seed, 'ood'),
      name=cell.name,
    )

  ids, others, clean = table(found, o['examples'], o['examples_each'])
  rows = _named('none', clean)
  if o['epsilons']:
    attack = partial(pgd, steps=o['steps'])
    ids, others, attacked = table(
      found, o['attacked'], o['attacked_each'], attack, o['epsilons']
    )
    rows += _named(f'pgd-{o["steps"]}', attacked)
  a = o['adaptive']
  if cell.arm in a['methods'] and a['epsilons']:
    attack = partial(apgd, steps=a['steps'], restarts=a['restarts'])
    some = {n: d for n, d in found.items() if n in a['detectors']}
    _, _, adaptive = table(
      some, a['examples'], a['examples_each'], attack, a['epsilons']
    )
    rows += _named(_adaptive(a), adaptive)
  papers = {}
  if o['paper']:
    own = paper_evaluation.rows(
      net.logits,
      args,
      found,
      sets,
      drawn(test, o['attacked']),
      outliers(o['attacked_each']),
      space.mesh,
      keys.stream(space.seed, 'ood'),
      config['attack']['epsilon'],
    )
    papers = _paper(space, folder, own)
  workdir.write_json(folder / 'ood.json', rows)
  pictures.by_distance(space.page, clean, config['detection']['detectors'][0])
  _show(space, rows, ids, others, o['epsilons'])
  accuracy = _accuracy(config, cell, task, state, sets, test, space)
  means = {
    f'test/{label(row)}/{column}': row[column]
    for row in rows
    if row['ood'] == 'mean'
    for column in MAIN
  }
  return {**accuracy, **chosen, **means, **papers}


def _check_apart(cell: Cell, sets: Sets, space: Workspace) -> None:
  """Raises InputError where the network was trained on what it is tested on.

  Outliers of the OOD test sets are left out of the training; `ood.sets` may
  have others since.
  """
  if not method.FAMILY[cell.arm].outliers:
    return
  path = space.folder(cell.name) / 'report.json'
  then = json.loads(path.read_text()).get('outliers_sha256')
  if then not in (None, sets.outliers_sha256):
    raise InputError(
      f'{cell.name} was trained on other outliers than those that '
      'config.ood.sets leaves now: it may have seen images of a test set; take '
      'the sets that it was trained beside, or train in another --workdir'
    )


def _name(config: Config, name: str, split: str) -> str:
  """Of an OOD set, in tables."""
  if name in seen(config):
    return f'{name} {split} {_SEEN}'
  return f'{name} {split}'.strip()


def _unseen(rows: Sequence[Row]) -> list[Row]:
  return [row for row in rows if not row['ood'].endswith(_SEEN)]


def _paper(space: Workspace, folder, own: list[Row]) -> Figures:
  """The paper's own evaluation: table, paper.json, and means as figures."""
  means = paper_evaluation.averaged(_unseen(own))
  rows = [*own, *means]
  workdir.write_json(folder / 'paper.json', rows)
  columns = [name for name in own[0] if name != 'examples'] + ['examples']
  space.page.table("The paper's own evaluation", columns, rows)
  return {
    f'test/paper/{row["attack"]}/{row["detector"]}/{name}': row[name]
    for row in means
    for name in ('auroc', 'fpr', 'detection_error')
  }


def _adaptive(a: Config) -> str:
  return f'apgd-{a["steps"]}x{a["restarts"]}'


def _named(attack: str, rows: Sequence[Row]) -> list[Row]:
  means = ood.averaged(_unseen(rows))
  return [{'attack': attack, **row} for row in [*rows, *means]]


def label(row: Row) -> str:
  """Attack, detector, setting and budget of a row in one name."""
  at = f' {255 * row["epsilon"]:.4g}/255' if row['epsilon'] else ''
  return f'{row["attack"]}/{row["detector"]}/{row["setting"]}{at}'


def _accuracy(
  config, cell: Cell, task: ImageTask, state, sets, test, space
) -> Figures:
  """Of the classifier: on the whole test set, and attacked on a part of it."""
  o, feed = config['ood'], sets.once(test, space.mesh)
  evaluator = classify(task.logits, config['data']['num_classes'])
  figures = tested(space, sets, evaluator, feed, state, cell.pictured)
  budgets = {f'pgd_{255 * e:.4g}': e for e in o['epsilons']}
  attacks = {
    name: pgd(adversarial.of_batch(task.logits), epsilon=e, steps=o['steps'])
    for name, e in budgets.items()
  }
  if attacks:
    of = space.page, sets.classes, dict([*budgets.items()][:1])
    part = drawn(test, o['attacked'])
    part['image'] = part['image'].astype(np.float32) / 255
    figures |= {
      f'test/{name}': value
      for name, value in judge.withstood(
        task.logits,
        attacks,
        judge.args_of(state),
        sets.once(part, space.mesh),
        space.seed,
        partial(pictures.keep_attacked, *of) if cell.pictured else None,
      ).items()
    }
  return figures


def _show(space: Workspace, rows, ids, others, epsilons) -> None:
  """The table; ROC curves and histograms of the first detector and set."""
  columns = ('attack', 'detector', 'ood', 'epsilon', 'setting', *MAIN, *_OTHER)
  budget = lambda e: f'{255 * e:.4g}/255'
  shown = [{**row, 'epsilon': budget(row['epsilon'])} for row in rows]
  space.page.table('Detection of outliers', columns, shown)
  name, first = next(iter(ids))[0], next(iter(others))
  budgets = [0.0, *epsilons]
  pairs = {
    f'{name}, {first}, {budget(e)}': (ids[name, e], others[first][name, e])
    for e in budgets
  }
  groups = [
    {f'ID, {budget(e)}': ids[name, e], first: others[first][name, e]}
    for e in budgets
  ]
  space.page.panels(
    'scores',
    [ood.roc_curves(pairs), *map(ood.histograms, groups)],
    f'{name} and {first}: ROC by budget, then the scores of inliers and '
    'outliers at each, which an attack of both pushes into each other',
    (4 * (1 + len(groups)), 3.6),
  )


def budgets_stage(config: Config, study: Study) -> Stage:
  """The stage `budgets`: AUROC against the budget, one line a method."""
  first = config['detection']['detectors'][0]

  def run(space):
    curves: dict[str, dict[float, list[float]]] = {}
    for arm in study.arms:
      for cell in study.finals(arm):
        path = space.folder(f'{cell.name}-ood') / 'ood.json'
        for row in json.loads(path.read_text()):
          main = row['ood'] == 'mean' and row['detector'] == first
          plain = not row['attack'].startswith('apgd')
          if main and plain and row['setting'] in ('clean', 'both'):
            line = curves.setdefault(arm, {})
            line.setdefault(255 * row['epsilon'], []).append(row['auroc'])

    def draw(axes):
      for arm, points in curves.items():
        line = sorted((e, np.mean(x)) for e, x in points.items())
        axes.plot(*zip(*line), 'o-', label=arm)
      axes.set_xlabel('budget in 1/255, ID and OOD images attacked')
      axes.set_ylabel(f'AUROC of {first}, mean over OOD sets')
      axes.grid(alpha=0.3)
      axes.legend(frameon=False)

    space.page.figure('budgets', draw, 'AUROC by budget, mean over seeds')
    return {}

  return Stage('budgets', run)
