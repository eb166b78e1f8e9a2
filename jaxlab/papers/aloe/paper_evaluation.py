"""The paper's own evaluation: its attacks, its sizes, its figures.

Weaker than what is measured beside it: ten steps of 1/255 from the image
itself, the last one taken; those on MSP and ODIN are one attack, which knows
neither ODIN's temperature nor its step, and that on Mahalanobis looks at
probabilities where they do not move. Of each pair of ID and OOD images as many
of either are compared, by the figures that the official code prints
(`aloe_figures`). For figures to set beside the paper's.

Source: jfc43/robust-ood-detection, eval_ood_detection.py, cal_metric.py.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import numpy as np

from jaxlab.evals import ood
from jaxlab.ops.augment import to_float
from jaxlab.ops.detection import Detector, aloe_figures
from jaxlab.ops.score_attacks import (
  aloe_attack,
  aloe_attack_objective,
  aloe_mahalanobis_objective,
)
from jaxlab.recipes import judge

DETECTORS = ('msp', 'odin', 'mahalanobis')  # that the paper attacks


def rows(
  logits,
  args,
  detectors: Mapping[str, Detector],
  sets,
  inside: Mapping[str, np.ndarray],
  outside: Mapping[str, np.ndarray],
  devices,
  key: jax.Array,
  epsilon: float,
) -> list[dict[str, Any]]:
  """Figures of each detector and OOD set, clean and with both sides attacked.

  Args:
    logits: (images, *args) -> [b, k].
    detectors: those of `DETECTORS` are measured.
    sets: makes the feeds.
    inside: arrays of ID images.
    outside: name of an OOD set -> its images.
    epsilon: the budget, in units of images in [0, 1].

  Returns:
    Rows with `attack` ('none', 'aloe-10'), `detector`, `ood`, `examples` of
    each side, and the figures of `aloe_figures`.
  """
  measured = {n: d for n, d in detectors.items() if n in DETECTORS}
  make = judge.cached(aloe_attack, devices)

  def scored(images, inlier):
    functions = {}
    for name, detector in measured.items():
      if name == 'mahalanobis':
        objective = aloe_mahalanobis_objective(detector.score, inlier)
        own = detector.args
      else:
        objective, own = aloe_attack_objective(logits, inlier), args
      attack = make(objective, epsilon)
      score = jax.jit(detector.score)
      functions[name, 'none'] = partial(_clean, score, detector.args)
      functions[name, 'aloe-10'] = partial(
        _attacked, score, detector.args, attack, own, key
      )
    return ood.collect(functions, sets.once(images, devices), 'paper')

  ids = scored(inside, True)
  # All OOD sets at once: an attack is compiled for each call.
  others = scored({'image': np.concatenate([*outside.values()])}, False)
  found, start = [], 0
  for of, images in outside.items():
    size = min(len(images), len(inside['image']))
    for name, attack in ids:
      outliers = others[name, attack][start : start + size]
      pair = ids[name, attack][:size], outliers
      row = {'attack': attack, 'detector': name, 'ood': of, 'examples': size}
      found.append({**row, **aloe_figures(*pair)})
    start += len(images)
  return found


def averaged(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
  """The means over OOD sets, each set counting alike: `ood` is 'mean'."""
  groups: dict[tuple, list] = {}
  for row in found:
    groups.setdefault((row['attack'], row['detector']), []).append(row)
  figures = ('fpr', 'auroc', 'detection_error', 'auin', 'auout')
  return [
    {
      'attack': attack,
      'detector': detector,
      'ood': 'mean',
      **{name: float(np.mean([r[name] for r in group])) for name in figures},
    }
    for (attack, detector), group in groups.items()
  ]


def _clean(score, args, batch):
  return score(to_float(batch['image']), *args)


def _attacked(score, args, attack, own, key, batch):
  moved = attack(key, to_float(batch['image']), batch['id'], *own)
  return score(moved, *args)
