"""Labels over a graph: propagation, and how sure it is."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxlab.core.errors import InputError
from jaxlab.papers.metric_transfer.graph import (
  Graph,
  Weights,
  affinity,
  normalised,
)
from jaxlab.papers.metric_transfer.spectrum import (
  Component,
  components,
  solve_spreading,
)

METHODS = ('normalized_cut', 'spreading', 'knn')
CONFIDENCES = ('margin', 'maxprob', 'entropy', 'none')
# What each method's own authors use; the public code's for the first and last.
_OWN = {'normalized_cut': 'margin', 'spreading': 'entropy', 'knn': 'maxprob'}
UNDECIDED = -1


class Propagated(NamedTuple):
  """Labels of all nodes of a graph."""

  scores: np.ndarray  # [n, c] float32, see `propagate`
  labels: np.ndarray  # [n] int32, -1 where no label reaches
  confidence: np.ndarray  # [n] float32 in [0, 1]; labelled 1, undecided 0


def propagate(
  graph: Graph,
  labels: Any,
  mask: Any,
  method: str = 'normalized_cut',
  *,
  num_classes: int | None = None,
  kind: str = 'const',
  temperature: float = 0.2,
  eigenvectors: int = 200,
  alpha: float = 0.99,
  nearest: int = 200,
  confidence: str = 'own',
  prior: Sequence[float] | None = None,
  solver: str = 'auto',
  weights: Weights | None = None,
  parts: list[Component] | None = None,
) -> Propagated:
  """Spreads the labels of some images over all.

  A node that no label reaches (a component without one) has the label -1 and
  confidence 0; `knn` has none such. Labelled nodes keep their labels.

  Args:
    graph: of `knn_graph`.
    labels: [n] int in [0, num_classes) where the mask is True, any elsewhere.
    mask: [n] bool, True = labelled.
    method: `normalized_cut`, `spreading` or `knn`, the functions below.
    num_classes: default: the largest label + 1. Every class needs a label.
    kind, temperature: of `affinity`; temperature also of knn's weights, half
      of it (the public code's 0.1).
    eigenvectors, solver: of `spectrum.components`.
    alpha: of `spreading`.
    nearest: labelled images looked at by `knn`.
    confidence: of `CONFIDENCES`, or 'own': the method's.
    prior: [c] shares of the classes; probabilities are then class-mass
      normalised, and are the scores (their logarithms for normalized_cut).
    weights, parts: of `affinity` and `components`, where they are at hand.

  Returns:
    scores: of normalized_cut columns of unit RMS in each component, -inf for a
    class without a label there; of the others shares.

  Raises:
    InputError: no or all-wrong labels, a class without one, an unknown name.
  """
  y, known, classes = _checked(graph, labels, mask, num_classes)
  _one_of('method', method, METHODS)
  _one_of('confidence', confidence, ('own', *CONFIDENCES))
  if method == 'knn':
    scores = nearest_labelled(
      graph.features, y, known, classes, nearest, temperature / 2
    )
  else:
    if weights is None and (parts is None or method == 'spreading'):
      weights = affinity(graph, kind, temperature)
    if method == 'spreading':
      scores = spreading(weights, y, known, classes, alpha)
    else:
      if parts is None:
        parts = components(weights, eigenvectors, solver)
      scores = normalized_cut(parts, y, known, classes)
  shares = probabilities(scores, method)
  if prior is not None:
    shares = class_mass_normalised(shares, prior)
    cut = method == 'normalized_cut'
    scores = np.log(np.maximum(shares, 1e-30)) if cut else shares
    scores = np.where(_reached(shares)[:, None], scores, 0)
  reached = _reached(shares)
  found = np.where(reached, shares.argmax(1), UNDECIDED)
  of = _OWN[method] if confidence == 'own' else confidence
  sure = confidences(scores, shares, of)
  return Propagated(
    scores.astype(np.float32),
    np.where(known, y, found).astype(np.int32),
    np.where(known, 1, np.where(reached, sure, 0)).astype(np.float32),
  )


def _reached(shares: np.ndarray) -> np.ndarray:
  return shares.sum(1) > 0


def _checked(graph, labels, mask, num_classes):
  y, known = np.asarray(labels), np.asarray(mask)
  n = len(graph.features)
  if y.shape != (n,) or known.shape != (n,) or known.dtype != bool:
    raise InputError(
      f'labels {y.shape} and mask {known.shape} {known.dtype} must be [{n}] '
      'int and bool, one for each row of the features'
    )
  if not known.any():
    raise InputError('no image is labelled; give at least one of each class')
  if not np.issubdtype(y.dtype, np.integer):
    raise InputError(f'labels are {y.dtype}; give integers')
  given = y[known]
  classes = int(given.max()) + 1 if num_classes is None else num_classes
  if given.min() < 0 or given.max() >= classes:
    bad = given[(given < 0) | (given >= classes)][0]
    raise InputError(
      f'label {bad} is outside of the classes 0 … {classes - 1}; mask it, or '
      'raise num_classes'
    )
  missing = np.flatnonzero(np.bincount(given, minlength=classes) == 0)
  if len(missing):
    raise InputError(
      f'class {missing[0]} has no label (of {classes} classes, {len(missing)} '
      'have none); label an image of each, or leave the class out'
    )
  return np.where(known, y, 0), known, classes


def _one_of(name: str, value: str, known: Sequence[str]) -> None:
  if value not in known:
    raise InputError(f'{name} "{value}" is not one of {", ".join(known)}')


def normalized_cut(
  parts: list[Component], labels: np.ndarray, mask: np.ndarray, classes: int
) -> np.ndarray:
  """[n, c] float64 scores of the biased normalized cut, one class against all.

  In each component, with U and λ its smoothest vectors but the constant one,
  and q = 1 for labels of the class, -1 for others, 0 elsewhere:

    s = √(d/r) [q = 1] - √(d r) [q = -1],  r = Σ d [q = 1] / Σ d [q = -1]
    F = U diag(1/λ) Uᵀ s / |s|,  columns scaled to unit RMS

  A class without a label in a component is -inf there; where one class alone
  has labels, it has the score 1 and takes the whole component.

  Departs from the paper: components are cut apart, and degrees leave out the
  loop of an image to itself (the public code counts it in s alone).

  Source: the public code's notebook nc; Maji et al. 2011, biased normalized
  cuts, at α = 0.
  """
  scores = np.zeros((len(labels), classes))
  for part in parts:
    y, known = labels[part.nodes], mask[part.nodes]
    present = np.unique(y[known])
    if not len(present):
      continue
    own = np.full((len(y), classes), -np.inf)
    own[:, present] = 1
    if len(present) > 1:
      own[:, present] = _cut(part, y, known, present)
    scores[part.nodes] = own
  return scores


def _cut(part, y, known, present):
  hit = (y[:, None] == present) & known[:, None]
  other = ~hit & known[:, None]
  d = part.degree[:, None]
  ratio = (d * hit).sum(0) / (d * other).sum(0)
  bias = np.sqrt(d / ratio) * hit - np.sqrt(d * ratio) * other
  bias /= np.linalg.norm(bias, axis=0)
  vectors = part.vectors[:, 1:].astype(np.float64)
  values = np.maximum(part.values[1:], 1e-8)[:, None]
  cut = vectors @ ((vectors.T @ bias) / values)
  return cut * np.sqrt(len(y)) / np.maximum(np.linalg.norm(cut, axis=0), 1e-30)


def spreading(
  weights: Weights,
  labels: np.ndarray,
  mask: np.ndarray,
  classes: int,
  alpha: float = 0.99,
) -> np.ndarray:
  """[n, c] float64: F = (1 - α) (I - α S)^-1 Y, the limit of α S F + (1 - α) Y.

  Args:
    alpha: in (0, 1), how much comes from neighbours.

  Source: Zhou et al., Learning with local and global consistency, eq. 3.
  """
  if not 0 < alpha < 1:
    raise InputError(f'alpha = {alpha} must be in (0, 1)')
  smooth, _ = normalised(weights)
  own = np.eye(classes)[labels] * mask[:, None]
  # Rounding may leave -1e-9 where a class is far.
  return np.maximum((1 - alpha) * solve_spreading(smooth, alpha, own), 0)


def nearest_labelled(
  features: np.ndarray,
  labels: np.ndarray,
  mask: np.ndarray,
  classes: int,
  nearest: int = 200,
  temperature: float = 0.1,
  block: int = 4096,
) -> np.ndarray:
  """[n, c] float64 shares: q_c = Σ exp(cosine / T) over the nearest labelled.

  A labelled image does not see itself. Source: the public code's notebook knn.
  """
  known = np.flatnonzero(mask)
  own = np.eye(classes)[labels[known]]
  shares = np.full((len(features), classes), 1 / classes)
  for start in range(0, len(features), block):
    rows = np.arange(start, min(start + block, len(features)))
    cosine = features[rows] @ features[known].T
    cosine[rows[:, None] == known] = -np.inf
    if len(known) > nearest:
      far = np.argpartition(-cosine, nearest - 1, 1)[:, nearest:]
      np.put_along_axis(cosine, far, -np.inf, 1)
    top = cosine.max(1, keepdims=True)
    seen = np.isfinite(top[:, 0])  # False for the only labelled image
    weight = np.exp((cosine[seen] - top[seen]) / temperature)
    found = weight @ own
    shares[rows[seen]] = found / found.sum(1, keepdims=True)
  return shares


def probabilities(scores: np.ndarray, method: str) -> np.ndarray:
  """[n, c] shares of the classes; rows of zeros where no label reaches.

  Softmax of normalized_cut's scores, the other methods' divided by their sums.
  """
  if method == 'normalized_cut':
    reached = (scores != 0).any(1)
    best = scores.max(1, keepdims=True)
    shares = np.exp(scores - best) * reached[:, None]
  else:
    shares = np.asarray(scores, np.float64)
  total = shares.sum(1, keepdims=True)
  return np.divide(shares, total, out=np.zeros_like(shares), where=total > 0)


def confidences(
  scores: np.ndarray, shares: np.ndarray, kind: str, temperature: float = 1.0
) -> np.ndarray:
  """[n] weights in [0, 1] of pseudo-labels.

  margin   1 - exp(-(first - second score) / T)   the public code
  maxprob  the largest share
  entropy  1 - H / log c, divided by its largest  Iscen et al. 2019; the
           paper's own (reported, unverified) is of this kind
  none     1
  """
  _one_of('confidence', kind, CONFIDENCES)
  classes = scores.shape[1]
  if kind == 'none' or classes < 2:
    return np.ones(len(scores))
  if kind == 'maxprob':
    return shares.max(1)
  if kind == 'margin':
    second, first = np.sort(scores, 1)[:, -2:].T
    return 1 - np.exp(-(first - second) / temperature)
  logs = np.log(np.where(shares > 0, shares, 1))
  sure = np.clip(1 + (shares * logs).sum(1) / np.log(classes), 0, 1)
  sure = np.where(_reached(shares), sure, 0)
  return sure / max(sure.max(), 1e-30)


def class_mass_normalised(
  shares: np.ndarray, prior: Sequence[float]
) -> np.ndarray:
  """[n, c] shares whose columns had been scaled to the classes' shares.

  Args:
    prior: [c] >= 0; scaled to sum to 1.

  Source: Zhu, Ghahramani, Lafferty 2003, section 4.
  """
  p = np.asarray(prior, np.float64)
  if p.shape != shares.shape[1:] or not (p >= 0).all() or not p.sum() > 0:
    raise InputError(
      f'prior {np.shape(prior)} must be {shares.shape[1]} shares, none negative'
    )
  mass = shares.sum(0)
  scaled = shares * np.where(mass > 0, p / p.sum() / np.maximum(mass, 1e-30), 0)
  total = scaled.sum(1, keepdims=True)
  return np.divide(scaled, total, out=np.zeros_like(scaled), where=total > 0)
