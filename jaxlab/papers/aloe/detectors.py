"""The detectors of a config, tuned and fitted for one network."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlab.core.errors import InputError
from jaxlab.data.images.sets import drawn
from jaxlab.evals import ood
from jaxlab.ops import augment, detection, mahalanobis
from jaxlab.ops.detection import Detector
from jaxlab.ops.detection_metrics import threshold_at_tpr
from jaxlab.papers.aloe.sets import Sets
from jaxlab.recipes.images import image_task
from jaxlab.runs.model import Model

Config = Mapping[str, Any]

DETECTORS = ('msp', 'max_logit', 'energy', 'entropy', 'odin', 'mahalanobis')


def tuned(config: Config, net, args, sets: Sets, devices):
  """The detectors, tuned on validation images and validation outliers.

  Of the etas the one of the lowest `fpr_at_95tpr_id_positive` is taken, the
  smallest of equals.

  Returns:
    (name -> Detector, name of a choice -> its value).
  """
  d = config['detection']
  inside = drawn(
    sets.inliers(config['data']['validation_split']), d['validation_examples']
  )
  outside = drawn({'image': sets.validation_outliers}, d['validation_examples'])
  feeds = [sets.once(arrays, devices) for arrays in (inside, outside)]
  plain = detection.detectors(net.logits, *args)
  found = {n: plain[n] for n in d['detectors'] if n in plain}
  chosen: dict[str, float] = {}
  if 'odin' in found:
    options = {
      eta: detection.detectors(net.logits, *args, eta=eta)['odin']
      for eta in d['odin_etas']
    }
    chosen['odin_eta'] = _best_eta(options, feeds)
    found['odin'] = options[chosen['odin_eta']]
  if 'mahalanobis' in d['detectors']:
    options = _mahalanobis(config, net, args, sets, devices, feeds)
    chosen['mahalanobis_eta'] = _best_eta(options, feeds)
    found['mahalanobis'] = options[chosen['mahalanobis_eta']]
  return {name: found[name] for name in d['detectors']}, chosen


def _best_eta(options: Mapping[float, Detector], feeds) -> float:
  named = {str(eta): option for eta, option in options.items()}
  inside, outside = (
    ood.scored(named, feed, inlier)
    for feed, inlier in zip(feeds, (True, False))
  )
  errors = {
    eta: detection.fpr_at_95tpr_id_positive(
      inside[str(eta), 0.0], outside[str(eta), 0.0]
    )
    for eta in sorted(options)
  }
  return min(errors, key=errors.__getitem__)


def _mahalanobis(config, net, args, sets, devices, feeds):
  d = config['detection']
  look = jax.jit(net.features)
  some = drawn(sets.inliers(config['data']['train_split']), d['fit_examples'])
  count = len(d['layers'])
  functions = {
    i: lambda batch, i=i: look(augment.to_float(batch['image']), *args)[i]
    for i in range(count)
  }
  values = ood.collect(functions, sets.once(some, devices))
  try:
    layers = mahalanobis.fit(
      [values[i] for i in range(count)],
      some['label'],
      config['data']['num_classes'],
      d['ridge'],
    )
  except ValueError as error:
    raise InputError(
      f'config.detection.layers {d["layers"]}: {error}'
    ) from error
  options = {}
  for eta in d['mahalanobis_etas']:
    near = jax.jit(mahalanobis.layer_confidences(net.features, eta))
    parts = [_near(near, layers, args, feed) for feed in feeds]
    fitted = mahalanobis.combine(layers, *parts)
    options[eta] = mahalanobis.detector(net.features, fitted, *args, eta=eta)
  return options


def _near(near, layers, args, feed) -> np.ndarray:
  def confidences(batch):
    return near(augment.to_float(batch['image']), layers, *args)

  return ood.collect({'near': confidences}, feed)['near']


FILE = 'detectors.json'  # of a model
_ACCEPTED = 0.95  # of validation images


def thresholds(
  config: Config,
  found: Mapping[str, Detector],
  chosen: Mapping[str, float],
  sets: Sets,
  devices,
) -> dict[str, dict[str, float]]:
  """Detector -> `threshold`, which accepts 95 % of validation images, `eta`.

  Without 'mahalanobis', whose fitted statistics are not part of a model.
  """
  d = config['detection']
  inside = drawn(
    sets.inliers(config['data']['validation_split']), d['validation_examples']
  )
  plain = {name: of for name, of in found.items() if name != 'mahalanobis'}
  scores = ood.scored(plain, sets.once(inside, devices), True)
  return {
    name: {
      'threshold': threshold_at_tpr(scores[name, 0.0], _ACCEPTED),
      'eta': float(chosen.get(f'{name}_eta', 0.0)),
    }
    for name in plain
  }


def verdicts(model: Model, images: np.ndarray) -> list[dict[str, Any]]:
  """Of each image `detectors`: name -> `score`, `threshold`, `verdict`.

  Nothing of each where the judgement has tuned none.
  """
  if FILE not in model.files:
    return [{} for _ in images]
  known = model.json(FILE)
  logits = image_task(model.config).network.logits
  args, scores = (model.params, model.vars), {}
  rows = model.config['data']['eval_batch_size']
  for name, one in known.items():
    of = detection.detectors(logits, *args, eta=one['eta'])[name]
    score = jax.jit(of.score)
    scores[name] = np.concatenate(
      [
        score(augment.to_float(jnp.asarray(images[i : i + rows])), *of.args)
        for i in range(0, len(images), rows)
      ]
    )
  return [
    {
      'detectors': {
        name: {
          'score': float(scores[name][i]),
          'threshold': one['threshold'],
          'verdict': 'inlier'
          if scores[name][i] >= one['threshold']
          else 'outlier',
        }
        for name, one in known.items()
      }
    }
    for i in range(len(images))
  ]
