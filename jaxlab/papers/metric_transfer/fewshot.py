"""Few-shot classification by propagation over a pool of unlabelled images."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import numpy as np
from threadpoolctl import threadpool_limits

from jaxlab.core.require import at_least, each, filled, one_of, require, some
from jaxlab.data.images.sets import ImageSets
from jaxlab.engine.metrics import Meter
from jaxlab.ops.intervals import student_t
from jaxlab.papers.metric_transfer import (
  embedding,
  episodes,
  labels,
  pretraining,
)
from jaxlab.papers.metric_transfer.claims import claims_stage
from jaxlab.recipes import images, study
from jaxlab.runs.model import Model
from jaxlab.runs.stage import Figures, Stage, Workspace, judged_by

Config = Mapping[str, Any]


def program(config: Config) -> list[Stage]:
  """The metric where it is trained, the episodes of each set, the claims.

  Raises:
    InputError: a value that cannot be; nothing has been computed yet.
  """
  embedding.check(config)
  known = (*episodes.INDUCTIVE, *labels.METHODS)
  require(
    config,
    {
      'fewshot.sets': filled('give at least one (set, split, classes)'),
      'fewshot.ways': at_least(2),
      'fewshot.shots': some(at_least(1)),
      'fewshot.queries': at_least(1),
      'fewshot.episodes': at_least(2),
      'fewshot.pools': each(at_least(config['fewshot']['queries'])),
      'fewshot.inductive': some(one_of(*episodes.INDUCTIVE)),
      'fewshot.transductive': each(one_of(*known)),
      'propagation.k': at_least(1),
    },
  )
  metric = []
  if config['metric']['loss'] in embedding.TRAINED:
    metric = [pretraining.metric_stage(config, keep=True)]
  sets = [tuple(one) for one in config['fewshot']['sets']]
  stages = [Stage(_stage(one), partial(_run, config, one)) for one in sets]
  measured = partial(_measured, config, _stage(sets[0]))
  stages += [claims_stage('few_shot', measured)]
  return judged_by([*metric, *stages], 'fewshot.')


def _stage(one: tuple) -> str:
  """The stage of a set: its name without a path, and the split."""
  return f'{one[0].partition(":")[0]}-{one[1]}'


def arms_of(config: Config) -> dict[str, tuple[str, int]]:
  """Name -> (method, pool of a class)."""
  f = config['fewshot']
  found = {f'{one}, inductive': (one, 0) for one in f['inductive']}
  for pool in f['pools']:
    for one in f['transductive']:
      found[f'{one}, pool {pool} a class'] = one, pool
  return found


def predict(model: Model, inputs: np.ndarray) -> list[dict[str, Any]]:
  """The embedding of images by a trained metric.

  Args:
    inputs: [n, h, w, c] uint8, or float32 in [0, 1], of the config's size.

  Returns:
    One answer an image: `embedding` [d], of length 1.

  Raises:
    InputError: images of another shape.
  """
  config, d = model.config, model.config['data']
  images.check_images(inputs, d['size'], d['size'], d['channels'])
  net = embedding.backbone(config)
  embed = jax.jit(embedding.embedding_of(config, net))
  rows, found = config['data']['eval_batch_size'], []
  for start in range(0, len(inputs), rows):
    part = {'image': inputs[start : start + rows]}
    part = embed(model.params, model.vars, part)
    found += [{'embedding': row.tolist()} for row in np.asarray(part)]
  return found


def _run(config: Config, one: tuple, space: Workspace) -> Figures:
  name, split, classes = one
  f, p = config['fewshot'], config['propagation']
  data = {**config['data'], 'name': name, 'num_classes': classes}
  sets = ImageSets(data, space.offline)
  truth = np.asarray(sets.inliers(split)['label'])
  kept = _drawn(truth, f['examples_a_class'])
  arrays = {k: np.asarray(x)[kept] for k, x in sets.inliers(split).items()}
  net = embedding.embedder({**config, 'data': data}, space)
  feed = sets.once(arrays, space.mesh)
  features = embedding.embedded(net, feed, _stage(one))
  arms, rows, figures = arms_of(config), [], {}
  for shots in f['shots']:
    meter = Meter(f'{_stage(one)}, {shots} shots', f['episodes'])
    with threadpool_limits(1):  # many small problems
      found = episodes.compared(
        features,
        truth[kept],
        arms,
        ways=f['ways'],
        shots=shots,
        queries=f['queries'],
        episodes=f['episodes'],
        seed=space.seed,
        k=p['k'],
        advance=meter.advance,
        kind=p['kind'],
        temperature=p['temperature'],
        eigenvectors=p['eigenvectors'],
        alpha=p['alpha'],
      )
    first = next(iter(found))
    for arm, values in found.items():
      gains = [a - b for a, b in zip(values, found[first])]
      figures[f'{shots}_shot/{arm}'] = float(np.mean(values))
      row = {'shots': str(shots), 'method': arm}
      row['accuracy'] = study.interval(values)
      if arm != first:
        row[f'paired, - {first}'] = study.interval(gains)
        figures[f'{shots}_shot/{arm}_gain'] = float(np.mean(gains))
        figures[f'{shots}_shot/{arm}_gain_half'] = student_t(gains)[1]
      rows.append(row)
    last = [*arms][-1]
    gains = [a - b for a, b in zip(found[last], found[first])]
    space.page.headline(
      f'{name}, {f["ways"]}-way {shots}-shot: {last} - {first} = '
      f'{study.interval(gains)}',
      study.verdict(gains, True),
    )
  space.page.table(
    f'{name} ({split}, {len(kept):,} images of {classes} classes): '
    f'{f["ways"]}-way, {f["queries"]} queries a class, {f["episodes"]} '
    'episodes, 95 % interval',
    [*dict.fromkeys(column for row in rows for column in row)],
    rows,
    show=True,
  )
  space.page.figure('projection', _projection(features, truth[kept]))
  return figures


def _drawn(labels: np.ndarray, most: int) -> np.ndarray:
  """Rows, ascending: at most so many of each class; 0: all."""
  order = np.random.default_rng(0).permutation(len(labels))
  rows = [
    order[labels[order] == one][: most or None] for one in np.unique(labels)
  ]
  return np.sort(np.concatenate(rows))


def _projection(features, truth):
  flat = embedding.flattened(features)

  def draw(axes):
    axes.scatter(*flat.T, s=5, c=truth % 20, cmap='tab20')
    axes.set_xticks([])
    axes.set_yticks([])

  return draw


def _measured(config: Config, stage: str, space: Workspace) -> str:
  figures = space.figures(stage)
  inductive, *_, last = arms_of(config)
  words = []
  for shots in config['fewshot']['shots']:
    name = f'{shots}_shot/{last}_gain'
    gain, half = (100 * (figures[x] or 0) for x in (name, f'{name}_half'))
    words.append(
      f'{stage}, {shots}-shot, {last}, over {inductive} {gain:.2f} ± {half:.2f}'
    )
  return '; '.join(words)
