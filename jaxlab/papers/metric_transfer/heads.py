"""Linear classifiers on a frozen embedding: the cheapest transfer there is."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxlab.core.require import above, require, some
from jaxlab.engine.metrics import Meter
from jaxlab.papers.metric_transfer.embedding import (
  embedded,
  embedder,
  projected,
)
from jaxlab.papers.metric_transfer.finetuning import training_set
from jaxlab.recipes import images, study
from jaxlab.runs.stage import Figures, Stage, Workspace

Config = Mapping[str, Any]


def check(config: Config) -> None:
  """Raises InputError where a value of `heads` cannot be."""
  require(config, {'heads.penalties': some(above(0))})


def heads_stage(
  config: Config, arms: Sequence[str], seeds: Sequence[int]
) -> Stage:
  """The stage `heads`: multinomial logistic regression for each arm and split.

  Arms as of `finetuning`; `pseudo_label` answers the unlabelled images by the
  supervised head, once. Of `heads.penalties` (scikit-learn's C, for features
  of length √d) the best on validation is taken; the test set is read once a
  head.
  """

  def run(space):
    d = config['data']
    sets = images.image_task(config, space.offline).sets
    net, own = embedder(config, space), space.artefact('embed')
    held = {}
    for name in ('validation', 'test'):
      feed = sets.held_out(d[f'{name}_split'], space.mesh)
      labels = np.asarray(sets.inliers(d[f'{name}_split'])['label'])
      features = projected(embedded(net, feed, name), own)
      held[name] = _scaled(features), labels
    train = {
      'image': _scaled(own['features']),
      'label': sets.inliers(d['train_split'])['label'],
    }
    spread = space.artefact('propagate')
    meter = Meter('heads', len(arms) * len(seeds))
    found: dict[str, list[float]] = {arm: [] for arm in arms}
    for arm in arms:
      for seed in seeds:
        rows = training_set(config, train, arm, seed, spread)
        head = _best(config, rows, held['validation'])
        found[arm].append(float(head.score(*held['test'])))
        meter.advance()
    return _report(space, found, seeds)

  return Stage('heads', run)


def _scaled(features: np.ndarray) -> np.ndarray:
  return features * np.float32(np.sqrt(features.shape[1]))


def _best(config, rows, validation):
  own, labels = rows['own'], rows['target'].argmax(1)
  if own.any():
    first = {name: array[~own] for name, array in rows.items()}
    answers = _best(config, first, validation).predict(rows['image'][own])
    labels[own] = answers
  heads = [
    _fitted(rows['image'], labels, rows['weight'], penalty)
    for penalty in config['heads']['penalties']
  ]
  return max(heads, key=lambda head: head.score(*validation))


def _fitted(features, labels, weight, penalty):
  from sklearn.linear_model import LogisticRegression

  return LogisticRegression(C=penalty, max_iter=200).fit(
    features, labels, sample_weight=weight
  )


def _report(space: Workspace, found, seeds) -> Figures:
  first, *others = found
  row = {arm: study.interval(values) for arm, values in found.items()}
  for arm in others:
    gains = [a - b for a, b in zip(found[arm], found[first])]
    row[f'{arm} - {first}'] = study.interval(gains)
    space.page.headline(
      f'test accuracy of linear heads: {arm} - {first} = '
      f'{study.interval(gains)}',
      study.verdict(gains, True),
    )
  title = f'Test accuracy of linear heads, splits {list(seeds)}'
  space.page.table(title, [*row], [row], show=True)
  return {
    f'test/{arm}-s{seed}': value
    for arm, values in found.items()
    for seed, value in zip(seeds, values)
  }
