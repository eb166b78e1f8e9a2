"""What a trained classifier is worth: test, calibration, outliers, attacks."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlab.data.image_sets import ImageSets, drawn
from jaxlab.engine import hosts, metrics
from jaxlab.engine.errors import InputError
from jaxlab.engine.evaluate import Evaluation
from jaxlab.engine.stage import Stage
from jaxlab.evals import ood, study
from jaxlab.evals.calibrate import temperature_scaled
from jaxlab.models.normalised import Network
from jaxlab.ops import adversarial, augment, detection_metrics
from jaxlab.ops.attack_objectives import nats, ratios, wrong
from jaxlab.ops.attacks import fgsm, pgd
from jaxlab.ops.detection import detectors
from jaxlab.papers.encouraging import analysis, arms

Config = Mapping[str, Any]
DETECTORS = ('msp', 'max_logit', 'energy')
_ANALYSED = 'analysis.npz'


def check(config: Config) -> None:
  """Raises InputError where a value cannot be."""
  a = config['adversarial']
  if not all(0 < e <= 1 for e in a['epsilons']):
    raise InputError(
      f'config.adversarial.epsilons = {list(a["epsilons"])} must be in (0, 1], '
      'in units of images in [0, 1], as 8 / 255'
    )


def judge(
  config: Config, cell: study.Cell, net: Network, counts, space, task, state
) -> dict[str, float]:
  """All test figures of one network; what the figures need goes to a file.

  Args:
    counts: [K] training examples of each class, for losses that weigh them.
  """
  d = config['data']
  sets = ImageSets(d, space.offline)
  test = sets.inliers(d['test_split'])
  feed = sets.once(test, space.mesh)
  found = Evaluation('test', task.evals['validation'][0], feed, space.seed)
  figures = found.run(state)
  args = ({'net': state.params['net']}, {'net': state.vars['net']})

  def logits(batch, params, vars):
    return net.logits(augment.to_float(batch['image']), params, vars)

  held = sets.once(sets.inliers(d['validation_split']), space.mesh)
  temperature, rows = temperature_scaled(logits, args, held, feed)
  for row, name in zip(rows, ('', '_scaled')):
    figures |= {f'{k}{name}': row[k] for k in ('ece', 'nll', 'brier')}
  figures['temperature'] = temperature
  figures |= _outliers(config, net, args, sets, space, test)
  figures |= _attacked(config, net, args, sets, space, cell.seed, test)
  _analyse(config, cell, net, counts, args, sets, space, test)
  return {f'test/{name}': float(value) for name, value in figures.items()}


def _outliers(config, net, args, sets, space, test) -> dict[str, float]:
  o = config['ood']
  known = detectors(net.logits, *args)
  found = {name: known[name] for name in DETECTORS}
  inside = sets.once(drawn(test, o['examples']), space.mesh)
  own = ood.scored(found, inside, True)
  figures = {}
  for name, split in o['sets']:
    images = {'image': sets.ood(name, split, o['examples_each'])}
    other = ood.scored(found, sets.once(images, space.mesh), False)
    for score in DETECTORS:
      row = detection_metrics.summary(own[score, 0.0], other[score, 0.0])
      for figure in ('auroc', 'fpr_at_95tpr_id_positive'):
        figures[f'{figure}/{name}/{score}'] = row[figure]
  return figures


def rescaled(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Cross-entropy of logits brought to a deviation of 1 in each row.

  Where a loss makes logits large, cross-entropy's gradient is 0 in float32 and
  an attack by it stands still; this one's is not.
  """
  spread = jax.lax.stop_gradient(logits.std(-1, keepdims=True))
  return nats(logits / (spread + 1e-12), labels)


def _attacked(config, net, args, sets, space, seed, test) -> dict[str, float]:
  a = config['adversarial']
  if not a['epsilons']:
    return {}

  def logits(params, vars, batch):
    return net.logits(batch['image'], params, vars)

  attacks = {}
  for e in a['epsilons']:
    name = f'{e:.3g}'
    plain = adversarial.of_batch(logits, nats)
    attacks[f'fgsm_{name}'] = fgsm(plain, epsilon=e)
    for kind, criterion in (
      ('pgd', nats),
      ('pgd_rescaled', rescaled),
      ('pgd_dlr', ratios),
    ):
      objective = adversarial.of_batch(logits, criterion)
      attacks[f'{kind}_{name}'] = pgd(objective, epsilon=e, steps=a['steps'])
  part = drawn(test, a['examples'])
  part['image'] = part['image'].astype(np.float32) / 255
  return _withstood(logits, attacks, args, sets.once(part, space.mesh), seed)


def _withstood(logits, attacks, args, feed, seed: int) -> dict[str, float]:
  """Shares of the images classified rightly, clean and under each attack.

  Attacks run one step at a time: all of them in one program, as an Evaluator
  would have them, took 22 GB.
  """

  @jax.jit
  def right(image, batch):
    of = logits(*args, {**batch, 'image': image})
    return ~wrong(of, batch['label'])

  functions = {'': lambda batch: right(batch['image'], batch)}
  for number, (name, attack) in enumerate(attacks.items()):
    key = jax.random.fold_in(jax.random.key(seed), number)

    def stands(batch, attack=attack, key=key):
      image = attack(key, batch['image'], batch['id'], *args, batch)
      return right(image, batch)

    functions[f'{name}_'] = stands
  found = ood.collect(functions, feed)
  clean = found['']
  shares = {
    f'attacked/{name}accuracy': float((clean & each).mean())
    for name, each in found.items()
  }
  worst = np.logical_and.reduce(list(found.values()))
  return {**shares, 'attacked/worst_accuracy': float(worst.mean())}


def _analyse(config, cell, net, counts, args, sets, space, test) -> None:
  """Margins, energies and gradient norms of test examples, to a file."""
  of_rows = arms.loss_of(config, cell.arm, counts)
  updates = jnp.int32(config['train']['steps'])
  kernel = args[0]['net']['head']['kernel']

  @jax.jit
  def views(batch, params, vars):
    labels, mask = batch['label'], batch['mask']
    logits = net.logits(augment.to_float(batch['image']), params, vars)
    loss = lambda f, y: of_rows(f, y, mask, updates)
    own, others = analysis.energies(logits, labels)
    return {
      'margin': analysis.margins(logits, labels),
      'energy': own,
      'other_energy': others,
      'p': jax.nn.softmax(logits)[np.arange(len(labels)), labels],
      'gradient': analysis.representation_gradients(
        loss, logits, labels, kernel
      ),
    }

  names = ('margin', 'energy', 'other_energy', 'p', 'gradient')
  functions = {n: (lambda b, n=n: views(b, *args)[n]) for n in names}
  some = drawn(test, config['analysis']['examples'])
  found: dict[str, Any] = ood.collect(functions, sets.once(some, space.mesh))
  if hosts.leads():
    np.savez(space.folder(cell.name) / _ANALYSED, **found)


def figures_stage(config: Config) -> Stage:
  """The stage `analysis`: the losses of the first seed side by side."""

  def run(space):
    folder = space.folder('analysis') / 'figures'
    views, lines = {}, {}
    for arm in config['losses']:
      name = study.finals_of(config, arm)[0].name
      with np.load(space.folder(name) / _ANALYSED) as held:
        views[arm] = dict(held)
      lines[arm] = metrics.read(space.folder(name) / 'metrics.jsonl')
    pick = lambda what: {arm: view[what] for arm, view in views.items()}
    analysis.representation_figure(
      folder / 'representation.png',
      {arm: (view['p'], view['gradient']) for arm, view in views.items()},
    )
    analysis.histogram_figure(
      folder / 'energy_of_label.png', pick('energy'), 'E(y|x) of the label'
    )
    analysis.histogram_figure(
      folder / 'energy_of_others.png',
      pick('other_energy'),
      'E(k|x) of the other classes',
    )
    analysis.histogram_figure(
      folder / 'margin.png', pick('margin'), 'margin at the end'
    )
    analysis.margins_figure(
      folder / 'margins_over_training.png', lines, 'margins/'
    )
    return {
      f'{arm}/{what}': float(view[what].mean())
      for arm, view in views.items()
      for what in ('margin', 'energy', 'gradient')
    }

  return Stage('analysis', run)
