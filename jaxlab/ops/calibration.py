"""Calibration of a classifier's probabilities, on the host in float64.

All functions take `logits` [n, k], not probabilities, and `labels` [n]. The
confidence of an example is its largest softmax probability.

  ece, reliability  Guo, Pleiss, Sun, Weinberger, arXiv:1706.04599, eq. 3;
                    equal-mass bins: Nixon et al., arXiv:1904.01685
  brier             Brier 1950, summed over classes: in [0, 2]
  fit_temperature   Guo et al., section 4.2
"""

from typing import NamedTuple

import numpy as np
import scipy.optimize
import scipy.special

_COLDEST, _HOTTEST = 0.01, 100.0  # temperatures that are sought


class Reliability(NamedTuple):
  """A reliability diagram: confidence against accuracy, bin by bin."""

  low: np.ndarray  # [bins] float64, a bin holds confidences in (low, high]
  high: np.ndarray  # [bins]
  examples: np.ndarray  # [bins] int64, how many
  confidence: np.ndarray  # [bins], mean; NaN in an empty bin
  accuracy: np.ndarray  # [bins], mean; NaN in an empty bin


def reliability(
  logits, labels, bins: int = 15, equal_mass: bool = False
) -> Reliability:
  """Confidence and accuracy of the examples of each bin of confidence.

  Args:
    bins: equally wide over [0, 1].
    equal_mass: bins of equally many examples instead. Equal confidences share
      a bin, so that there may be fewer bins, and none of them is empty.

  Raises:
    ValueError: no examples, logits that are no [n, k] of finite numbers or are
      probabilities, labels out of range, bins < 1; so do all functions here.
  """
  logits, labels = _checked(logits, labels)
  if bins < 1:
    raise ValueError(f'bins={bins} must be at least 1')
  confidence = scipy.special.softmax(logits, -1).max(-1)
  right = logits.argmax(-1) == labels
  edges = np.linspace(0, 1, bins + 1)
  if equal_mass:
    n = len(confidence)
    last = (np.arange(1, bins + 1) * n + bins - 1) // bins - 1
    edges = np.append(0, np.unique(np.sort(confidence)[last]))
  # 1 may be 1 + 1e-16 after the softmax.
  place = np.minimum(np.searchsorted(edges, confidence) - 1, len(edges) - 2)
  return tabulate(
    edges,
    *(
      np.bincount(place, weights, len(edges) - 1)
      for weights in (None, confidence, right)
    ),
  )


def tabulate(edges, examples, confidence, right) -> Reliability:
  """The diagram of each bin's sums.

  Args:
    edges: [bins + 1] rising.
    examples: [bins], how many.
    confidence: [bins] sum of their confidences.
    right: [bins] how many are right.
  """
  edges, examples = np.asarray(edges), np.asarray(examples)
  safe = np.where(examples > 0, examples, np.nan)
  return Reliability(
    edges[:-1],
    edges[1:],
    examples.astype(np.int64),
    confidence / safe,
    right / safe,
  )


def expected_error(table: Reliability) -> float:
  """ECE of a diagram: mean gap of confidence and accuracy, by example."""
  gaps = np.where(table.examples > 0, abs(table.confidence - table.accuracy), 0)
  return float((table.examples * gaps).sum() / table.examples.sum())


def ece(logits, labels, bins: int = 15, equal_mass: bool = False) -> float:
  """Expected calibration error, in [0, 1]. See `reliability`."""
  return expected_error(reliability(logits, labels, bins, equal_mass))


def nll(logits, labels) -> float:
  """Mean negative log-likelihood of the labels, in nats."""
  logits, labels = _checked(logits, labels)
  return _nll(logits, labels)


def brier(logits, labels) -> float:
  """Mean squared distance of probabilities and one-hot labels, in [0, 2]."""
  logits, labels = _checked(logits, labels)
  errors = scipy.special.softmax(logits, -1)
  errors[np.arange(len(labels)), labels] -= 1
  return float((errors**2).sum(-1).mean())


class NoTemperature(ValueError):
  """Validation examples that no temperature fits best."""


def fit_temperature(logits, labels) -> float:
  """The T > 0 for which logits / T have the smallest `nll`.

  Args:
    logits, labels: of validation examples, not of the test set.

  Raises:
    ValueError: bad input.
    NoTemperature: no temperature in [.01, 100] is best, as when every example
      is right: colder is then always better.
  """
  logits, labels = _checked(logits, labels)
  rivals = logits.copy()
  rivals[np.arange(len(labels)), labels] = -np.inf
  if (logits[np.arange(len(labels)), labels] > rivals.max(-1)).all():
    raise NoTemperature(
      f'all of {len(labels)} validation examples are right, so that colder is '
      'always better; give more validation examples, not seen in training'
    )
  # nll is convex in 1 / T, so it has one valley in log T.
  found = scipy.optimize.minimize_scalar(
    lambda log_t: _nll(logits / np.exp(log_t), labels),
    bounds=(np.log(_COLDEST), np.log(_HOTTEST)),
    method='bounded',
    options={'xatol': 1e-8},
  )
  temperature = float(np.exp(found.x))
  if not 1.01 * _COLDEST < temperature < _HOTTEST / 1.01:
    right = int((logits.argmax(-1) == labels).sum())
    raise NoTemperature(
      f'no temperature in [{_COLDEST}, {_HOTTEST}] fits: {right} of '
      f'{len(labels)} validation examples are right, and the likelihood grows '
      'towards the end of the range; give more validation examples, not seen '
      'in training'
    )
  return temperature


def summary(logits, labels, bins: int = 15) -> dict[str, float]:
  """`ece`, `ece_equal_mass`, `nll`, `brier`, `accuracy`, `confidence`."""
  logits, labels = _checked(logits, labels)
  return {
    'ece': ece(logits, labels, bins),
    'ece_equal_mass': ece(logits, labels, bins, equal_mass=True),
    'nll': nll(logits, labels),
    'brier': brier(logits, labels),
    'accuracy': float((logits.argmax(-1) == labels).mean()),
    'confidence': float(scipy.special.softmax(logits, -1).max(-1).mean()),
  }


def _nll(logits, labels) -> float:
  rows = np.arange(len(labels))
  return float(
    (scipy.special.logsumexp(logits, -1) - logits[rows, labels]).mean()
  )


def _checked(logits, labels) -> tuple[np.ndarray, np.ndarray]:
  logits, labels = np.asarray(logits), np.asarray(labels)
  if logits.ndim != 2 or not len(logits) or logits.shape[1] < 2:
    raise ValueError(
      f'logits are {logits.shape}; give [examples, classes] with an example '
      'and two classes or more'
    )
  if labels.shape != logits.shape[:1] or labels.dtype.kind not in 'iu':
    raise ValueError(
      f'labels are {labels.dtype} {labels.shape} beside logits '
      f'{logits.shape}; give {len(logits)} integers'
    )
  logits = logits.astype(np.float64)
  bad = (~np.isfinite(logits)).any(1)
  if bad.any():
    raise ValueError(
      f'logits of {bad.sum()} of {len(bad)} examples are not finite, first at '
      f'row {bad.argmax()}'
    )
  if logits.min() >= 0 and (abs(logits.sum(-1) - 1) < 1e-3).all():
    raise ValueError(
      'these are probabilities: no number is negative and every row sums to '
      '1; give the logits before the softmax'
    )
  outside = (labels < 0) | (labels >= logits.shape[1])
  if outside.any():
    raise ValueError(
      f'{outside.sum()} labels are outside of [0, {logits.shape[1]}), first '
      f'{labels[outside][0]} at row {outside.argmax()}'
    )
  return logits, labels
