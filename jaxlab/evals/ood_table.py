"""Tables and figures of OOD detection, from scores on the host."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxlab.core.errors import InputError
from jaxlab.ops import detection_metrics as metrics

Scores = dict[tuple[str, float], np.ndarray]  # (detector, epsilon) -> [n]
Draw = Callable[[Any], None]  # on matplotlib axes


def ood_table(
  inside: Scores, outside: Mapping[str, Scores], equal_sizes: bool = False
) -> list[dict[str, Any]]:
  """One row for each detector, OOD set, budget and setting.

  Args:
    inside: `scored` ID images.
    outside: name of an OOD set -> `scored` images of it, of the same detectors
      and budgets.
    equal_sizes: cut the larger set to the smaller one's size, as ALOE does, so
      that 1/2 is the chance level of `aupr_in` and `aupr_out`.

  Returns:
    Rows with `detector`, `ood`, `epsilon`, `setting`, the figures of
    `detection_metrics.summary`, `id_examples`, `ood_examples`, and of the
    deployed threshold, which accepts 95 % of CLEAN ID images:
    `fpr_at_clean_threshold` and `tpr_at_clean_threshold`.

  Raises:
    InputError: scores that are missing, empty or not finite, by name.
  """
  rows = []
  for ood, outliers in outside.items():
    if missing := inside.keys() ^ outliers.keys():
      raise InputError(
        f'ID images and OOD set "{ood}" were not scored alike; only one has '
        f'{sorted(missing)}'
      )
    for name, epsilon in inside:
      both = [(name, epsilon), (name, epsilon)]
      clean = (name, 0.0)
      settings: dict[str, Sequence] = {'clean': both}
      if epsilon:
        in_, out = [both[0], clean], [clean, both[1]]
        settings = {'in': in_, 'out': out, 'both': both}
      for setting, (first, second) in settings.items():
        pair = inside[first], outliers[second]
        size = min(len(x) for x in pair) if equal_sizes else None
        a, b = (x[:size] for x in pair)
        what = f'{name} on {ood}, {setting}, epsilon {epsilon:g}'
        rows.append(
          {
            'detector': name,
            'ood': ood,
            'epsilon': epsilon,
            'setting': setting,
            **figures(what, a, b, inside[clean][:size]),
            'id_examples': len(a),
            'ood_examples': len(b),
          }
        )
  return rows


def averaged(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
  """Rows of the mean over OOD sets, as papers report: `ood` is 'mean'.

  Each set counts alike; intervals are left out, as means have others.
  """
  groups: dict[tuple, list] = {}
  for row in rows:
    same = tuple(row[k] for k in ('detector', 'epsilon', 'setting'))
    groups.setdefault(same, []).append(row)
  found = []
  for group in groups.values():
    mean = {**group[0], 'ood': 'mean'}
    for name, value in group[0].items():
      if name in ('auroc_low', 'auroc_high', 'id_examples', 'ood_examples'):
        del mean[name]
      elif name != 'epsilon' and isinstance(value, float):
        mean[name] = float(np.mean([row[name] for row in group]))
    found.append(mean)
  return found


def roc_curves(pairs: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Draw:
  """ROC curves, to be drawn: label -> (ID scores, OOD scores)."""

  def draw(axes):
    for label, (inside, outside) in pairs.items():
      area = metrics.auroc(inside, outside)
      axes.plot(
        *metrics.roc(inside, outside),
        linewidth=1,
        label=f'{label}: AUROC {area:.3f}',
      )
    axes.plot([0, 1], [0, 1], ':', color='grey', linewidth=1)
    axes.set_xlabel('OOD accepted')
    axes.set_ylabel('ID accepted')
    axes.legend(frameon=False)

  return draw


def histograms(groups: Mapping[str, np.ndarray]) -> Draw:
  """Histograms of scores on common bins, to be drawn: label -> scores [n]."""
  edges = np.histogram_bin_edges(np.concatenate([*groups.values()]), 50)

  def draw(axes):
    for label, scores in groups.items():
      weights = np.full(len(scores), 1 / len(scores))
      axes.hist(scores, edges, weights=weights, histtype='step', label=label)
    axes.set_xlabel('score (higher = more in-distribution)')
    axes.set_ylabel('share of images')
    axes.legend(frameon=False)

  return draw


def figures(what: str, inside, outside, clean=None) -> dict[str, float]:
  """`detection_metrics.summary`, and those at the clean threshold.

  Args:
    what: was scored, for errors.
    inside, outside: ID and OOD scores [n].
    clean: ID scores of the deployed threshold, if these figures are wanted.
  """
  try:
    found = metrics.summary(inside, outside)
    if clean is not None:
      threshold = metrics.threshold_at_tpr(clean)
      found['fpr_at_clean_threshold'] = metrics.accepted(outside, threshold)
      found['tpr_at_clean_threshold'] = metrics.accepted(inside, threshold)
  except ValueError as error:
    raise InputError(f'{what}: {error}') from error
  return found
