"""Label propagation with the face of scikit-learn's LabelSpreading.

>>> import numpy as np
>>> corners = np.repeat([[1.0, 0.0], [0.0, 1.0]], 5, 0)
>>> features = corners + 0.01 * np.arange(20).reshape(10, 2)
>>> labels = np.array([7, -1, -1, -1, -1, 3, -1, -1, -1, -1])
>>> LabelPropagation(k=3).fit(features, labels).transduction_.tolist()
[7, 7, 7, 7, 7, 3, 3, 3, 3, 3]
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from jaxlab.core.errors import InputError
from jaxlab.papers.metric_transfer.graph import knn_graph, unit_rows
from jaxlab.papers.metric_transfer.labels import probabilities, propagate


class LabelPropagation(ClassifierMixin, BaseEstimator):
  """Propagates labels over the neighbour graph of an embedding.

  Args:
    method: 'normalized_cut', 'spreading' or 'knn'.
    k: neighbours of an image in the graph, fewer than there are images.
    eigenvectors: of normalized_cut.
    kind, temperature: weights of the graph, see `graph.affinity`.
    alpha: of spreading.
    confidence: 'margin', 'maxprob', 'entropy', 'none', or 'own': the method's.
    prior: the classes' shares in the order of `classes_`, or None.
    approximate: of the graph.

  After `fit`:
    classes_ [c], the labels in ascending order;
    transduction_ [n], of `classes_`, and -1 where no label reaches;
    label_distributions_ [n, c] float64, rows sum to 1, or to 0 at -1;
    confidence_ [n] float32 in [0, 1], 1 at labels that were given.
  """

  def __init__(
    self,
    method: str = 'normalized_cut',
    k: int = 20,
    eigenvectors: int = 200,
    *,
    kind: str = 'const',
    temperature: float = 0.2,
    alpha: float = 0.99,
    confidence: str = 'own',
    prior: Sequence[float] | None = None,
    approximate: bool = False,
  ):
    self.method = method
    self.k = k
    self.eigenvectors = eigenvectors
    self.kind = kind
    self.temperature = temperature
    self.alpha = alpha
    self.confidence = confidence
    self.prior = prior
    self.approximate = approximate

  def fit(self, features: Any, labels: Any) -> 'LabelPropagation':
    """Propagates.

    Args:
      features: [n, d] floating, no row zero.
      labels: [n] int, -1 = unlabelled.

    Raises:
      InputError: see `knn_graph` and `propagate`.
    """
    y = np.asarray(labels)
    if not np.issubdtype(y.dtype, np.integer) or (y < -1).any():
      raise InputError(
        f'labels are {y.dtype}, the least {y.min()}: give integers, -1 where '
        'there is no label'
      )
    graph = knn_graph(features, self.k, approximate=self.approximate)
    known = y >= 0
    self.classes_ = np.unique(y[known])
    places = np.searchsorted(self.classes_, y)
    found = propagate(
      graph,
      places,
      known,
      self.method,
      num_classes=len(self.classes_),
      kind=self.kind,
      temperature=self.temperature,
      eigenvectors=self.eigenvectors,
      alpha=self.alpha,
      confidence=self.confidence,
      prior=self.prior,
    )
    self.graph_ = graph
    self.n_features_in_ = graph.features.shape[1]
    # Of class -1 the last is taken, and replaced.
    self.transduction_ = np.where(
      found.labels < 0, -1, self.classes_[found.labels]
    )
    shares = probabilities(found.scores.astype(np.float64), self.method)
    shares[known] = np.eye(len(self.classes_))[places[known]]
    self.label_distributions_ = shares
    self.confidence_ = found.confidence
    return self

  def predict_proba(self, features: Any) -> np.ndarray:
    """[m, c] of new images: their k nearest fitted ones' distributions.

    Weights are exp(cosine / temperature).
    """
    check_is_fitted(self)
    x = unit_rows(features)
    cosine = x @ self.graph_.features.T
    near = np.argpartition(-cosine, self.k - 1, 1)[:, : self.k]
    values = np.take_along_axis(cosine, near, 1).astype(np.float64)
    weight = np.exp((values - values.max(1, keepdims=True)) / self.temperature)
    votes = np.einsum('mk,mkc->mc', weight, self.label_distributions_[near])
    total = votes.sum(1, keepdims=True)
    return np.divide(votes, total, out=np.zeros_like(votes), where=total > 0)

  def predict(self, features: Any) -> np.ndarray:
    """[m] of `classes_`; -1 where all neighbours are undecided."""
    votes = self.predict_proba(features)
    best = self.classes_[votes.argmax(1)]
    return np.where(votes.sum(1) > 0, best, -1)
