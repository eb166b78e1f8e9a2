"""The stage `stack`: meta-classifiers, controls, and what they show."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxlab.core.require import (
  above,
  at_least,
  one_of,
  require,
  some,
)
from jaxlab.engine import metrics
from jaxlab.ops import calibration
from jaxlab.ops.detection_metrics import auroc
from jaxlab.papers.doc_regions import documents, method
from jaxlab.papers.doc_regions.documents import Documents
from jaxlab.papers.doc_regions.plans import Plans, specs_of
from jaxlab.papers.doc_regions.stacking import (
  Seed,
  stack_seed,
)
from jaxlab.recipes import pictures
from jaxlab.runs.stage import Figures, Stage, Workspace

Config = Mapping[str, Any]
_PAPER = 'paper, RVL-CDIP'
PROTOCOLS = ('paper', 'oof')


def check(config: Config) -> None:
  """Raises InputError where a value of `stack` or `controls` cannot be."""
  flag = one_of(True, False)
  require(
    config,
    {
      'stack.protocols': some(one_of(*PROTOCOLS)),
      'stack.kinds': some(one_of(*method.KINDS)),
      'stack.headline': one_of(*config['stack']['kinds']),
      'stack.folds': at_least(2),
      'stack.penalty': above(0),
      'stack.hidden': at_least(1),
      'stack.steps': at_least(1),
      'stack.scaled': flag,
      'controls.direct': flag,
      'controls.pixels': flag,
      'controls.coarse': flag,
      'study.seeds': some(at_least(0)),
    },
  )


def stack_stage(config: Config, every: Sequence[Plans]) -> Stage:
  """The stage that fits the stackers and reads the test set."""

  def run(space):
    found = documents.opened(config, space.offline)
    seeds = [stack_seed(config, space, found, plans) for plans in every]
    figures = _table(config, space, found, seeds)
    figures |= _verdicts(config, space, found, seeds)
    if every[0].direct:
      figures |= _transfer(config, space, found, seeds)
      figures |= _convergence(space, every)
    _diversity(config, space, found, seeds)
    figures |= _outside(space, seeds)
    _pictures(config, space, found, seeds[0])
    if found.skipped:
      rows = [list(x) for x in found.skipped[:20]]
      space.page.table(
        f'{len(found.skipped)} files are not pages', ['file', 'why'], rows
      )
    figures['skipped files'] = len(found.skipped)
    figures['test pages seen in training'] = float(found.seen().mean())
    return figures

  return Stage('stack', run)


def _right(seeds: Sequence[Seed], name, label: np.ndarray) -> np.ndarray:
  """[n]: the share of seeds that are right about each page."""
  return np.mean([s.answers[name].argmax(1) == label for s in seeds], 0)


def _table(config, space: Workspace, found: Documents, seeds) -> Figures:
  test, rows = found.parts['test'], []
  figures: Figures = {}
  base = _right(seeds, ('holistic', '–'), test.label)
  noisy, seen = bool((test.label != test.truth).any()), found.seen()
  known = dict(config['paper_reported'])
  paper = {'mlp': 'stacked'}
  bases = [spec.name for spec in specs_of(config)]
  for name in seeds[0].answers:
    model, protocol = name
    right = _right(seeds, name, test.label)
    mean, low, high = method.paired_difference(right, 0 * right, test.group)
    row: dict[str, Any] = {
      'model': model,
      'stacker fitted by': protocol,
      'accuracy': f'{mean:.3f} [{low:.3f}, {high:.3f}]',
      'nats': _mean(_nats(s.answers[name], test.label) for s in seeds),
      'ECE': _mean(_ece(s.answers[name], test.label) for s in seeds),
    }
    if model != 'holistic':
      gain = method.paired_difference(right, base, test.group)
      row['- holistic'] = _interval(gain)
    if model in bases:
      at = bases.index(model)
      row['ECE at a temperature'] = _mean(
        _ece(s.cool[:, at], test.label) for s in seeds
      )
    if noisy:
      row['accuracy, labels mended'] = float(
        _right(seeds, name, test.truth).mean()
      )
    if seen.any() and not seen.all():
      row['accuracy, new pages'] = float(right[~seen].mean())
    if protocol in ('–', 'paper') and paper.get(model, model) in known:
      row[_PAPER] = known[paper.get(model, model)]
    rows.append(row)
    figures[f'test/{model}, {protocol}'.removesuffix(', –')] = mean
  columns = list(dict.fromkeys(key for row in rows for key in row))
  columns.sort(key=lambda x: x == _PAPER)
  space.page.table(
    f'Accuracy on {len(test.label)} test pages of '
    f'{len(np.unique(test.group))} groups, seeds '
    f'{list(config["study"]["seeds"])}; 95 % intervals over groups',
    columns,
    rows,
    show=True,
  )
  return figures


def _verdicts(config, space: Workspace, found: Documents, seeds) -> Figures:
  c, test = config['stack'], found.parts['test']
  figures: Figures = {}
  ours = c['headline'], c['protocols'][0]
  held = [('holistic', '–'), ('holistic, more pixels', '–')]
  for protocol in c['protocols'][1:]:
    held.append((c['headline'], protocol))
  right = _right(seeds, ours, test.label)
  for other in held:
    if other not in seeds[0].answers:
      continue
    against = _right(seeds, other, test.label)
    gain = method.paired_difference(right, against, test.group)
    words = ' by '.join(other).removesuffix(' by –')
    space.page.headline(
      f'test accuracy: {ours[0]} by the protocol {ours[1]} - {words} = '
      f'{_interval(gain)}',
      _verdict(gain),
    )
    figures[f'test/gain over {words}'] = gain[0]
  return figures


def _transfer(config, space: Workspace, found: Documents, seeds) -> Figures:
  """Regions begun from the holistic network beside those begun as it was."""
  test, names = found.parts['test'], [x.name for x in specs_of(config)[1:]]
  mean = lambda word: np.mean(
    [_right(seeds, (f'{name}{word}', '–'), test.label) for name in names], 0
  )
  gain = method.paired_difference(mean(''), mean(', direct'), test.group)
  space.page.headline(
    'test accuracy, mean of regions: begun from the holistic network - begun '
    f'as it was = {_interval(gain)}',
    _verdict(gain),
  )
  return {'test/gain of transfer': gain[0]}


def _verdict(gain) -> str:
  _, low, high = gain
  return 'shown' if low > 0 else 'refuted' if high < 0 else 'not shown'


def _interval(gain) -> str:
  return f'{gain[0]:.3f} [{gain[1]:.3f}, {gain[2]:.3f}]'


def _nats(log_p, labels) -> float:
  return float(-log_p[np.arange(len(labels)), labels].mean())


def _ece(log_p, labels) -> float:
  return calibration.ece(np.asarray(log_p, np.float64), labels)


def _mean(values) -> float:
  return float(np.mean([*values]))


def _convergence(space: Workspace, every: Sequence[Plans]) -> Figures:
  """Validation accuracy of regions by step: intra-domain and direct."""
  curves: dict[str, np.ndarray] = {}
  steps: list[int] = []
  for way in ('regions', 'direct'):
    found = []
    for plans in every:
      path = space.folder(getattr(plans, way).name) / 'metrics.jsonl'
      lines = [x for x in metrics.read(path) if x['kind'] == 'eval']
      steps = [x['step'] for x in lines]
      found.append([x['validation/accuracy'] for x in lines])
    curves[way] = np.mean(found, 0)

  def draw(axes):
    for way, label in (
      ('regions', 'from the holistic network'),
      ('direct', 'as the holistic network began'),
    ):
      axes.plot(steps, curves[way], marker='.', label=label)
    axes.set_xlabel('updates')
    axes.set_ylabel('validation accuracy, mean of regions')
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)

  space.page.figure('convergence', draw, 'Intra-domain transfer')
  first, last = (float(curves['regions'][i]) for i in (0, -1))
  other, end = (float(curves['direct'][i]) for i in (0, -1))
  space.page.headline(
    f'regions after {steps[0]} and {steps[-1]} updates, validation accuracy: '
    f'{first:.3f} and {last:.3f} from the holistic network, {other:.3f} and '
    f'{end:.3f} without it'
  )
  return {
    'validation/regions': last,
    'validation/direct': end,
    'validation/regions, first': first,
    'validation/direct, first': other,
  }


def _diversity(config, space: Workspace, found: Documents, seeds) -> None:
  names = [spec.name for spec in specs_of(config)]
  labels = found.parts['test'].label[:, None]
  right = [s.test.argmax(-1) == labels for s in seeds]
  q = np.mean([method.q_statistic(x) for x in right], 0)
  double = np.mean([method.double_fault(x) for x in right], 0)
  lost = np.mean([s.lost for s in seeds], 0)
  rows = []
  for i, name in enumerate(names):
    row: dict[str, Any] = {'region': name, 'lost without it': float(lost[i])}
    for j, other in enumerate(names):
      if j != i:
        row[f'Q, {other}'] = float(q[i, j])
        row[f'both wrong, {other}'] = float(double[i, j])
    rows.append(row)
  pairs = [f'{word}, {n}' for n in names for word in ('Q', 'both wrong')]
  space.page.table(
    'Regions beside each other, and the mean stacker without each: test pages',
    ['region', 'lost without it', *pairs],
    rows,
  )


def _outside(space: Workspace, seeds) -> Figures:
  figures: Figures = {}
  rows = []
  for name in seeds[0].outside:
    for model in seeds[0].outside[name]:
      of = tuple(model.split(', ')) if ', ' in model else (model, '–')
      each = [
        auroc(s.answers[of].max(1), s.outside[name][model].max(1))
        for s in seeds
      ]
      figures[f'{name}/auroc, {model}'] = _mean(each)
      rows.append([name, model, _mean(each)])
  if rows:
    space.page.table(
      'AUROC of the largest probability: test pages above pages of no class',
      ['pages', 'model', 'AUROC'],
      rows,
    )
  return figures


def _pictures(config, space: Workspace, found: Documents, seed: Seed) -> None:
  test, specs = found.parts['test'], specs_of(config)
  c = config['stack']
  answer = seed.answers[c['headline'], c['protocols'][0]].argmax(1)
  page = test.pages([0])[0, ..., 0]

  def regions(axes):
    axes.imshow(page, cmap='gray', vmin=0, vmax=255)
    height, width = page.shape
    for number, spec in enumerate(specs[1:]):
      x = [spec.left, spec.right, spec.right, spec.left, spec.left]
      y = [spec.top, spec.top, spec.bottom, spec.bottom, spec.top]
      axes.plot(
        np.array(x) * width - 0.5,
        np.array(y) * height - 0.5,
        color=f'C{number}',
        label=spec.name,
      )
    axes.legend(fontsize=7, loc='center left', bbox_to_anchor=(1, 0.5))
    axes.axis('off')

  space.page.figure(
    'regions', regions, f'Regions of a page: {found.classes[test.label[0]]}'
  )
  count = len(found.classes)
  table = np.zeros((count, count), int)
  np.add.at(table, (test.label, answer), 1)
  words = f'{c["headline"]}, protocol {c["protocols"][0]}'
  space.page.figure(
    'confusion',
    pictures.confusion(table, found.classes),
    f'{words}: what is taken for what, each row its share of a label',
    (6, 6),
  )
  answers, spread = method.disagreement(seed.test)
  most = np.lexsort((-spread, -answers))[:8]
  name = lambda number: found.classes[number]
  space.page.images(
    'disagreement',
    test.pages(most),
    [f'{name(test.label[i])}\n-> {name(answer[i])}' for i in most],
    "The pages whose regions disagree most: label -> the stack's answer",
    columns=4,
  )
  space.page.table(
    'Answers about these pages, in their order',
    ['label', *(spec.name for spec in specs), words],
    [
      [
        name(test.label[i]),
        *(name(p.argmax()) for p in seed.test[i]),
        name(answer[i]),
      ]
      for i in most
    ],
  )
