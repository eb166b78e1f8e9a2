"""Figures of a detector from its scores, on the host in float64.

All functions take `id_scores` [m] and `ood_scores` [n], any finite numbers;
higher = more in-distribution. Equal scores are one threshold; where pairs are
counted, a tie is half a pair.

Two conventions that published codes keep to themselves are in the names here:

- FPR: with ID as the positive class it is the share of OOD accepted at a
  threshold that accepts 95 % of ID; with OOD as the positive class, the share
  of ID rejected at one that rejects 95 % of OOD. The same scores may give .24
  and .60.
- the area under precision and recall depends on the ratio m : n, and on how
  it is interpolated; its chance level is the positive class's share.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.stats

from jaxlab.ops.intervals import wilson

Metric = Callable[[Any, Any], float]  # (id_scores, ood_scores)


def auroc(id_scores, ood_scores) -> float:
  """P(ID > OOD) + P(ID = OOD) / 2 over all pairs, in [0, 1].

  Raises:
    ValueError: an empty array (one class), another shape than [n], or scores
      that are not finite; so do all functions here.

  Source: Mann and Whitney 1947; Hanley and McNeil 1982.

  >>> auroc([2, 3], [1, 2])
  0.875
  """
  inside, outside = _pair(id_scores, ood_scores)
  m, n = len(inside), len(outside)
  ranks = scipy.stats.rankdata(np.concatenate([inside, outside]))
  return float((ranks[:m].sum() - m * (m + 1) / 2) / (m * n))


def auroc_interval(
  id_scores, ood_scores, level: float = 0.95
) -> tuple[float, float]:
  """Confidence interval of `auroc`: DeLong's variance, on the log-odds.

  Where that variance is zero (no ID and OOD scores overlap, or all tie) or a
  class has one example, Wilson's interval of as many trials as the smaller
  class has, which is wide.

  Returns:
    (low, high) in [0, 1].

  Source: DeLong, DeLong and Clarke-Pearson 1988.
  """
  inside, outside = _pair(id_scores, ood_scores)
  m, n = len(inside), len(outside)
  area = auroc(inside, outside)
  z = float(scipy.stats.norm.ppf(0.5 + level / 2))
  variance = 0.0
  if min(m, n) > 1:
    # Of each example, the share of the other class on its right side.
    rank = scipy.stats.rankdata
    ranks = rank(np.concatenate([inside, outside]))
    above = (ranks[:m] - rank(inside)) / n
    below = 1 - (ranks[m:] - rank(outside)) / m
    variance = above.var(ddof=1) / m + below.var(ddof=1) / n
  # Not at 0 or 1, where the log-odds are infinite; not of rounding alone.
  if not (0 < area < 1 and variance > 1e-20):
    return wilson(min(m, n) * area, min(m, n), z)
  odds = np.log(area / (1 - area))
  half = z * np.sqrt(variance) / (area * (1 - area))
  low, high = 1 / (1 + np.exp(-(odds + np.array([-half, half]))))
  return float(low), float(high)


def bootstrap(
  metric: Metric,
  id_scores,
  ood_scores,
  *,
  replicates: int = 1000,
  level: float = 0.95,
  seed: int = 0,
) -> tuple[float, float]:
  """Percentile interval of any metric, each class resampled by itself.

  Returns:
    (low, high); a metric at the end of its range, as an AUROC of 1, gives an
    interval without width: use `auroc_interval` there.
  """
  inside, outside = _pair(id_scores, ood_scores)
  draw = np.random.default_rng(seed)
  values = [
    metric(draw.choice(inside, len(inside)), draw.choice(outside, len(outside)))
    for _ in range(replicates)
  ]
  low, high = np.quantile(values, [0.5 - level / 2, 0.5 + level / 2])
  return float(low), float(high)


def aupr_in(id_scores, ood_scores, interpolation: str = 'trapezoid') -> float:
  """Area under precision over recall, ID the positive class.

  Args:
    interpolation: `trapezoid` joins the points of all thresholds, from recall
      0 at precision 1 on, by straight lines (OpenOOD, ALOE: optimistic between
      far points); `step` is the average precision (Outlier Exposure).
  """
  return _aupr(*_pair(id_scores, ood_scores), interpolation)


def aupr_out(id_scores, ood_scores, interpolation: str = 'trapezoid') -> float:
  """`aupr_in` with OOD the positive class, found by low scores."""
  inside, outside = _pair(id_scores, ood_scores)
  return _aupr(-outside, -inside, interpolation)


def detection_error(id_scores, ood_scores) -> float:
  """Smallest mean of the two error rates over all thresholds, in [0, .5].

  Source: ALOE, as min over thresholds of (1 - TPR + FPR) / 2. (ODIN's own is
  taken near TPR = .95, ATOM's weighs the classes by their counts.)
  """
  inside, outside = _pair(id_scores, ood_scores)
  tp, fp = _counts(inside, outside)
  return float((1 - tp / len(inside) + fp / len(outside)).min() / 2)


def threshold_at_tpr(id_scores, tpr: float = 0.95) -> float:
  """The largest threshold that accepts (score >= it) a share `tpr` of ID.

  Raises:
    ValueError: tpr outside of (0, 1].
  """
  scores = _checked(id_scores, 'ID')
  if not 0 < tpr <= 1:
    raise ValueError(f'tpr={tpr} must be in (0, 1], as 0.95')
  falling = np.sort(scores)[::-1]
  shares = np.arange(1, len(falling) + 1) / len(falling)
  return float(falling[np.searchsorted(shares, tpr)])


def accepted(scores, threshold: float) -> float:
  """The share of scores at or above a threshold: FPR of OOD, TPR of ID."""
  return float((_checked(scores, 'given') >= threshold).mean())


def fpr_at_95tpr_id_positive(id_scores, ood_scores) -> float:
  """Share of OOD accepted where at least 95 % of ID are; smallest such.

  The convention of ODIN, ALOE and ATOM.
  """
  inside, outside = _pair(id_scores, ood_scores)
  return accepted(outside, threshold_at_tpr(inside))


def fpr_at_95tpr_ood_positive(id_scores, ood_scores) -> float:
  """Share of ID rejected where at least 95 % of OOD are; smallest such.

  The convention of Outlier Exposure, and of OpenOOD since August 2023.
  """
  inside, outside = _pair(id_scores, ood_scores)
  return accepted(-inside, threshold_at_tpr(-outside))


def roc(id_scores, ood_scores) -> tuple[np.ndarray, np.ndarray]:
  """(fpr, tpr), each [thresholds + 1] rising from 0 to 1; ID is positive."""
  inside, outside = _pair(id_scores, ood_scores)
  tp, fp = _counts(inside, outside)
  return fp / len(outside), tp / len(inside)


def summary(id_scores, ood_scores) -> dict[str, float]:
  """All figures by name, with the AUROC's 95 % interval."""
  metrics: tuple[Metric, ...] = (
    auroc,
    aupr_in,
    aupr_out,
    detection_error,
    fpr_at_95tpr_id_positive,
    fpr_at_95tpr_ood_positive,
  )
  found = {f.__name__: f(id_scores, ood_scores) for f in metrics}
  low, high = auroc_interval(id_scores, ood_scores)
  return {**found, 'auroc_low': low, 'auroc_high': high}


def aloe_figures(id_scores, ood_scores) -> dict[str, float]:
  """What the published code of ALOE, and ODIN's line of codes, would print.

  Only for figures to set beside that literature's tables. It walks through all
  scores one at a time, so that
  - among equal scores ID goes first: ties count wholly against the detector;
  - FPR is taken at the TPR *nearest* to .95, and there at the lowest threshold;
  - both areas under precision and recall join an end point at precision 1/2.

  Returns:
    fpr, auroc, detection_error, auin, auout.
  """
  inside, outside = _pair(id_scores, ood_scores)
  m, n = len(inside), len(outside)
  is_out = np.repeat([False, True], [m, n])
  order = np.lexsort((is_out, np.concatenate([inside, outside])))
  rejected = np.concatenate([[0], np.cumsum(is_out[order])])
  fp = n - rejected  # accepted OOD after 0, 1, … m + n scores are rejected
  tp = m - (np.arange(m + n + 1) - rejected)
  tpr, fpr = tp / m, fp / n
  some = tp + fp > 0
  precise_in = np.append(0.5, tp[some] / (tp + fp)[some])
  recall_in = np.append(1.0, tpr[some])
  none = rejected + m - tp > 0
  precise_out = np.append(
    (rejected / np.maximum(rejected + m - tp, 1))[none], 0.5
  )
  recall_out = np.append((1 - fpr)[none], 1.0)
  return {
    'fpr': float(fpr[np.abs(tpr - 0.95).argmin()]),
    'auroc': float(np.trapezoid((1 - fpr)[::-1], tpr[::-1])),
    'detection_error': float((1 - tpr + fpr).min() / 2),
    'auin': float(
      np.trapezoid(
        np.append(0.0, precise_in[::-1]), np.append(0.0, recall_in[::-1])
      )
    ),
    'auout': float(
      np.trapezoid(np.append(0.0, precise_out), np.append(0.0, recall_out))
    ),
  }


def _aupr(positive, negative, interpolation: str) -> float:
  tp, fp = _counts(positive, negative)
  recall = tp / len(positive)
  precision = np.append(1.0, tp[1:] / (tp + fp)[1:])
  if interpolation == 'trapezoid':
    return float(np.trapezoid(precision, recall))
  if interpolation == 'step':
    return float((np.diff(recall) * precision[1:]).sum())
  raise ValueError(f'interpolation={interpolation!r}: take trapezoid or step')


def _counts(positive, negative) -> tuple[np.ndarray, np.ndarray]:
  """Accepted of each class, at no threshold and then at all, falling."""
  thresholds = np.unique(np.concatenate([positive, negative]))[::-1]

  def at_least(scores):
    count = len(scores) - np.searchsorted(np.sort(scores), thresholds)
    return np.append(0, count)

  return at_least(positive), at_least(negative)


def _pair(id_scores, ood_scores) -> tuple[np.ndarray, np.ndarray]:
  return _checked(id_scores, 'ID'), _checked(ood_scores, 'OOD')


def _checked(scores, name: str) -> np.ndarray:
  scores = np.asarray(scores)
  if scores.dtype.name in ('bfloat16', 'float8_e4m3fn', 'float8_e5m2'):
    scores = scores.astype(np.float32)  # no kind of number to NumPy
  if scores.ndim != 1 or scores.dtype.kind not in 'fiu':
    scores = np.asarray(scores)
    raise ValueError(
      f'the {name} scores are {scores.dtype} {scores.shape}; give one real '
      'number an example'
    )
  if not len(scores):
    raise ValueError(
      f'there are no {name} scores: a detector is measured on both classes'
    )
  scores = scores.astype(np.float64)
  bad = np.flatnonzero(~np.isfinite(scores))
  if len(bad):
    raise ValueError(
      f'{len(bad)} of {len(scores)} {name} scores are not finite, first at row '
      f'{bad[0]} ({scores[bad[0]]}); look for NaN or overflow in the model'
    )
  return scores
