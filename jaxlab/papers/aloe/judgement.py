"""How well a trained network tells outliers, clean and under attack.

Detectors are tuned on validation images and validation outliers, never on a
test set. Every detector is attacked by itself (jaxlab/ops/score_attacks.py).
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from jaxlab.data.image_sets import drawn
from jaxlab.engine import keys, mesh, workdir
from jaxlab.engine.errors import InputError
from jaxlab.engine.evaluate import Evaluation
from jaxlab.engine.stage import Stage, Workspace
from jaxlab.evals import ood
from jaxlab.evals.classify import classify
from jaxlab.evals.robust import robust
from jaxlab.ops import adversarial, augment
from jaxlab.ops.attacks import apgd, in_chunks, pgd
from jaxlab.papers.aloe import network
from jaxlab.papers.aloe.detectors import DETECTORS, tuned
from jaxlab.papers.aloe.sets import Sets

Config = Mapping[str, Any]
Row = dict[str, Any]

_CHUNK = 25  # images attacked together

COLUMNS = ('auroc', 'fpr_at_95tpr_id_positive')


def check(config: Config) -> None:
  """Raises InputError where a value cannot be."""
  d, o = config['detection'], config['ood']
  asked = {*d['detectors'], *o['adaptive']['detectors']}
  if asked - {*DETECTORS} or not d['detectors']:
    raise InputError(
      f'config.detection.detectors or ood.adaptive.detectors name '
      f'{sorted(asked - {*DETECTORS})}; known: {", ".join(DETECTORS)}'
    )
  adaptive = (
    {*o['adaptive']['detectors']} if o['adaptive']['methods'] else set()
  )
  if adaptive - {*d['detectors']}:
    raise InputError(
      'config.ood.adaptive.detectors must be among config.detection.detectors'
    )
  for name, values in (
    ('ood.epsilons', o['epsilons']),
    ('ood.adaptive.epsilons', o['adaptive']['epsilons']),
    ('detection.odin_etas', d['odin_etas']),
    ('detection.mahalanobis_etas', d['mahalanobis_etas']),
  ):
    low = min(values, default=0) >= 0 and max(values, default=0) <= 1
    if not low or ('eps' in name and not all(values)):
      raise InputError(
        f'config.{name} = {list(values)}; give numbers in [0, 1] in units of '
        'images in [0, 1], as 8 / 255 (budgets above 0: clean is always there)'
      )
  if not o['sets']:
    raise InputError('config.ood.sets is empty: give at least one OOD set')


def stage(config: Config, method: str, trained: str) -> Stage:
  """The stage `TRAINED-ood`: tables and figures of one network."""
  name = f'{trained}-ood'

  def run(space):
    return _judge(config, method, space, space.artefact(trained), name)

  return Stage(name, run)


def _judge(config, method, space: Workspace, state, name) -> dict[str, float]:
  net = network.build(config)
  args = ({'net': state.params['net']}, {'net': state.vars['net']})
  sets = Sets(config, space.offline)
  found, chosen = tuned(config, net, args, sets, space.mesh)
  o = config['ood']
  key = keys.stream(space.seed, 'ood')
  test = sets.inliers(config['data']['test_split'])

  def score(detectors, images, inlier, attack=None, epsilons=()):
    feed = sets.once(images, space.mesh)
    return ood.scored(
      detectors, feed, inlier, attack=attack, epsilons=epsilons, key=key
    )

  def table(detectors, inside, outside, attack=None, epsilons=()):
    ids = score(detectors, drawn(test, inside), True, attack, epsilons)
    # All OOD sets at once: an attack is compiled for each call.
    parts = {
      ' '.join(p).strip(): sets.ood(p[0], p[1], outside) for p in o['sets']
    }
    images = {'image': np.concatenate([*parts.values()])}
    together = score(detectors, images, False, attack, epsilons)
    ends = np.cumsum([len(part) for part in parts.values()])
    pieces = {k: np.split(v, ends[:-1]) for k, v in together.items()}
    others = {
      name: {k: piece[i] for k, piece in pieces.items()}
      for i, name in enumerate(parts)
    }
    return ids, others, ood.ood_table(ids, others)

  figures = {**_accuracy(config, net, state, sets, space), **chosen}
  folder = space.folder(name)
  ids, others, clean = table(found, o['examples'], o['examples_each'])
  rows = _named('none', clean)
  if o['epsilons']:
    attack = _cached(partial(pgd, steps=o['steps']), space.mesh)
    ids, others, attacked = table(
      found, o['attacked'], o['attacked_each'], attack, o['epsilons']
    )
    rows += _named(f'pgd-{o["steps"]}', attacked)
  a = o['adaptive']
  if method in a['methods'] and a['epsilons']:
    many = partial(apgd, steps=a['steps'], restarts=a['restarts'])
    attack = _cached(many, space.mesh)
    some = {n: d for n, d in found.items() if n in a['detectors']}
    _, _, adaptive = table(
      some, a['examples'], a['examples_each'], attack, a['epsilons']
    )
    rows += _named(f'apgd-{a["steps"]}x{a["restarts"]}', adaptive)
  workdir.write_json(folder / 'ood.json', rows)
  (folder / 'ood.md').write_text(ood.markdown(rows, _columns()))
  _draw(folder / 'figures', ids, others, o['epsilons'])
  for row in rows:
    if row['ood'] == 'mean':
      for column in COLUMNS:
        figures[f'{label(row)}/{column}'] = row[column]
  return figures


def _cached(make, devices):
  """(objective, epsilon) -> attack; on one CPU, of what its cache holds."""
  alone = mesh.platform(devices) == 'cpu' and devices.size == 1

  def attack(objective, epsilon):
    whole = make(objective, epsilon=epsilon)
    return in_chunks(whole, _CHUNK, row_args=0) if alone else whole

  return attack


def _named(attack: str, rows: Sequence[Row]) -> list[Row]:
  return [{'attack': attack, **row} for row in [*rows, *ood.averaged(rows)]]


def _columns() -> tuple[str, ...]:
  own = ('fpr_at_95tpr_ood_positive', 'detection_error')
  deployed = ('fpr_at_clean_threshold', 'tpr_at_clean_threshold')
  where = ('attack', 'detector', 'ood', 'epsilon', 'setting')
  return (*where, *COLUMNS, *own, 'aupr_in', 'aupr_out', *deployed)


def label(row: Row) -> str:
  """What a row is of, in one name."""
  at = f' {255 * row["epsilon"]:.4g}/255' if row['epsilon'] else ''
  return f'{row["attack"]}/{row["detector"]}/{row["setting"]}{at}'


def _accuracy(config, net, state, sets, space) -> dict[str, float]:
  """Of the classifier: on the whole test set, and attacked on a part of it."""

  def logits(params, vars, batch):
    return net.logits(augment.to_float(batch['image']), params, vars)

  def figures(name, evaluator, arrays):
    feed = sets.once(arrays, space.mesh)
    found = Evaluation(name, evaluator, feed, space.seed).run(state)
    return {f'{name}/{figure}': value for figure, value in found.items()}

  o, test = config['ood'], sets.inliers(config['data']['test_split'])
  result = figures('test', classify(logits), test)
  attacks = {
    f'pgd_{255 * e:.4g}': pgd(
      adversarial.of_batch(logits), epsilon=e, steps=o['steps']
    )
    for e in o['epsilons']
  }
  if attacks:
    part = drawn(test, o['attacked'])
    part['image'] = part['image'].astype(np.float32) / 255
    result |= figures('attacked', robust(logits, attacks, space.seed), part)
  return result


def _draw(folder, ids, others, epsilons) -> None:
  """ROC curves and histograms of the first detector on the first OOD set."""
  name = next(iter(ids))[0]
  first = next(iter(others))
  budgets = [0.0, *epsilons]
  pairs = {
    f'{name}, {first}, {255 * e:.4g}/255': (
      ids[name, e],
      others[first][name, e],
    )
    for e in budgets
  }
  ood.roc_figure(folder / 'roc.png', pairs)
  for e in budgets:
    groups = {'ID': ids[name, e], first: others[first][name, e]}
    path = folder / f'scores_{name}_at_{255 * e:.4g}.png'
    ood.histogram_figure(path, groups)
