"""Mahalanobis detector with a feature ensemble.

K. Lee, K. Lee, H. Lee, J. Shin. A Simple Unified Framework for Detecting
Out-of-Distribution Samples and Adversarial Attacks. NeurIPS 2018.
arXiv:1807.03888. Here: class means and the tied covariance of each layer's
spatially pooled features (eq. 1), the confidence (eq. 2), the input step
(Algorithm 1) and the logistic combination of layers.

  fit        eq. 1 of every layer, in float64 on the host
  confidence eq. 2, with the factor 1/2 of the log density
  ensemble   Algorithm 1: (images, fitted, *args) -> score
  combine    the weights of layers; from VALIDATION outliers, never from a test
             set of outliers, as the paper's code would

Departs from the paper: layers' confidences are standardised before the logistic
regression and the two classes weigh alike; ALOE's code gives it the confidences
as they are, so that its L2 penalty acts on each layer by the size of its
confidences, and takes as many images of either class.

Departs from the paper: the score is the logistic regression's sum before the
sigmoid. Its order is the same, but it does not saturate: in float32 the
sigmoid's derivative is exactly 0 from a logit of 17 on, and attacks on it
stand still.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.linear_model import LogisticRegression

from jaxlab.ops.detection import Detector, Score, perturbed

FeaturesFn = Callable[..., Sequence]  # (images, *args) -> layers' [b, d]

# Directions of a smaller share of the variance than this, in features of unit
# variance, are there by rounding alone.
_SINGULAR = 1e-10
# As is a deviation that is a smaller share of the feature's size.
_CONSTANT = 1e-12


class Gaussians(NamedTuple):
  """One layer's classes, Gaussian with one covariance S."""

  centre: jax.Array  # [d] float32, the features' mean
  # [r, d] float32, with W'W the inverse of S, the pseudo-inverse where r < d.
  whiten: jax.Array
  means: jax.Array  # [k, r] float32, whitened means of classes less the centre


class Fitted(NamedTuple):
  """All that the detector learns: an argument of its score, as params are."""

  layers: tuple[Gaussians, ...]
  weights: jax.Array  # [layers] float32, of the layers' confidences
  bias: jax.Array  # () float32


def fit(
  features: Sequence, labels, classes: int, ridge: float = 0.0
) -> tuple[Gaussians, ...]:
  """Means of classes and tied covariances of ID training images.

  Args:
    features: of each layer [n, d] real, pooled over space.
    labels: [n] integer in [0, classes).
    classes: number of classes, each with an image.
    ridge: added to the covariance's diagonal, as a share of its mean. With 0
      a singular covariance has its pseudo-inverse, as in the official code:
      dead features say nothing, nor do directions without variance, taken in
      features of unit variance.

  Returns:
    A `Gaussians` of each layer.

  Raises:
    ValueError: naming the layer: shapes or labels that do not fit, features
      that are not finite, a class without images, fewer images than features
      and classes without a ridge, or no feature that varies within a class.

  Source: eq. 1, the maximum likelihood (divided by n).
  """
  labels = np.asarray(labels)
  if not 0 <= ridge < np.inf:
    raise ValueError(f'ridge={ridge} must be at least 0')
  if labels.ndim != 1 or labels.dtype.kind not in 'iu' or not len(features):
    raise ValueError(
      f'labels are {labels.dtype} {labels.shape} for {len(features)} layers; '
      'give integers [n] and a layer or more'
    )
  counts = np.bincount(
    labels[(labels >= 0) & (labels < classes)], None, classes
  )
  if counts.sum() < len(labels):
    raise ValueError(
      f'labels lie in [{labels.min()}, {labels.max()}]; with classes={classes} '
      f'they must lie in [0, {classes})'
    )
  if not counts.all():
    missing = np.flatnonzero(counts == 0)
    raise ValueError(
      f'{len(missing)} of {classes} classes have no image, first class '
      f'{missing[0]}; every class needs a mean'
    )
  layers = []
  for number, layer in enumerate(features):
    layer = _checked(np.asarray(layer), number, len(labels))
    layers.append(_fit_layer(layer, labels, counts, ridge, number))
  return tuple(layers)


def _fit_layer(features, labels, counts, ridge, number) -> Gaussians:
  rows, width = features.shape
  centre = features.mean(0)
  sums = np.zeros((len(counts), width))
  np.add.at(sums, labels, features - centre)
  means = sums / counts[:, None]
  if not ridge and rows - len(counts) < width:
    raise ValueError(
      f'layer {number} has {width} features and {rows} images of '
      f'{len(counts)} classes: the covariance is singular below '
      f'{width + len(counts)} images; give more, or ridge=1e-3, say'
    )
  around = features - centre - means[labels]
  covariance = around.T @ around / rows
  variances = np.diag(covariance).copy()
  alive = variances > (_CONSTANT * np.abs(features).max(0)) ** 2
  if not alive.any():
    raise ValueError(
      f'none of the {width} features of layer {number} varies within a class '
      '(a dead layer?); leave that layer out'
    )
  covariance.flat[:: width + 1] += ridge * variances.mean()
  alive |= ridge > 0
  inverse = np.zeros(width)  # of the deviations
  inverse[alive] = np.diag(covariance)[alive] ** -0.5
  shares, axes = np.linalg.eigh(covariance * inverse * inverse[:, None])
  kept = shares > _SINGULAR
  whiten = (axes[:, kept] / np.sqrt(shares[kept])).T * inverse
  return Gaussians(
    *(jnp.asarray(x, jnp.float32) for x in (centre, whiten, means @ whiten.T))
  )


def confidence(layer: Gaussians, features: jax.Array) -> jax.Array:
  """M(x) = max over classes of -(f - mean)' S^-1 (f - mean) / 2, [b] float32.

  Args:
    layer: fitted.
    features: [b, d] floating; computed in float32 at full precision.

  Raises:
    ValueError: features of another width.

  Source: eq. 2, halved as in the log density.
  """
  if features.ndim != 2 or features.shape[1] != layer.centre.shape[0]:
    raise ValueError(
      f'features are {features.shape}; this layer was fitted to '
      f'[n, {layer.centre.shape[0]}]'
    )
  # Not the expansion of the square: its terms cancel far from the means.
  centred = features.astype(jnp.float32) - layer.centre
  white = jnp.matmul(centred, layer.whiten.T, precision='highest')
  apart = white[:, None] - layer.means
  return -0.5 * (apart * apart).sum(-1).min(-1)


def layer_confidences(features_fn: FeaturesFn, eta: float = 0.0) -> Callable:
  """The layers' confidences of images, each of images moved for that layer.

  Args:
    features_fn: (images, *args) -> features [b, d] of each layer.
    eta: the step towards the closest class, in units of images in [0, 1]; its
      sign is a constant for a gradient from outside.

  Returns:
    (images, layers, *args) -> [b, layers] float32.

  Source: Algorithm 1.
  """

  def confidences(images, layers: tuple[Gaussians, ...], *args):
    columns = []
    for number, layer in enumerate(layers):

      def one(images, layer, *args, number=number):
        features = features_fn(images, *args)
        if len(features) != len(layers):
          raise ValueError(
            f'the network gives {len(features)} layers of features, and '
            f'{len(layers)} are fitted'
          )
        return confidence(layer, features[number])

      moved = perturbed(one, eta, images, layer, *args)
      columns.append(one(moved, layer, *args))
    return jnp.stack(columns, -1)

  return confidences


def combine(
  layers: tuple[Gaussians, ...], id_confidences, outlier_confidences
) -> Fitted:
  """Weighs the layers by logistic regression of ID against outliers.

  Args:
    layers: of `fit`.
    id_confidences: [m, layers] of validation ID images.
    outlier_confidences: [n, layers] of validation outliers. A test set of
      outliers here would be a leak: its figures would be of training.

  Returns:
    The detector; the two classes weigh alike, whatever m and n.

  Raises:
    ValueError: wrong shapes, an empty set, confidences that are not finite.
  """
  pair = (('ID', id_confidences), ('outlier', outlier_confidences))
  tables = []
  for name, table in pair:
    table = np.asarray(table, np.float64)
    if table.ndim != 2 or table.shape[1] != len(layers) or not len(table):
      raise ValueError(
        f'{name} confidences are {table.shape}; give [images, {len(layers)}] '
        'with an image or more'
      )
    if not np.isfinite(table).all():
      bad = (~np.isfinite(table)).any(1)
      raise ValueError(
        f'{bad.sum()} of {len(table)} {name} confidences are not finite, '
        f'first at row {bad.argmax()}'
      )
    tables.append(table)
  rows = np.concatenate(tables)
  is_id = np.repeat([1, 0], [len(table) for table in tables])
  # Layers differ in width, so in the size of their confidences.
  middle, scale = rows.mean(0), rows.std(0)
  scale[scale == 0] = 1.0
  model = LogisticRegression(class_weight='balanced', max_iter=1000)
  model.fit((rows - middle) / scale, is_id)
  weights = model.coef_[0] / scale
  bias = model.intercept_[0] - weights @ middle
  return Fitted(
    layers, jnp.asarray(weights, jnp.float32), jnp.asarray(bias, jnp.float32)
  )


def ensemble(features_fn: FeaturesFn, eta: float = 0.0) -> Score:
  """The detector's score: sum of weight * M + bias over layers, unbounded.

  Args:
    features_fn: (images, *args) -> features [b, d] of each layer.
    eta: of `layer_confidences`.

  Returns:
    score(images, fitted, *args) -> [b] float32, higher = more ID: the log-odds
    of the logistic regression.
  """
  confidences = layer_confidences(features_fn, eta)

  def score(images, fitted: Fitted, *args):
    found = confidences(images, fitted.layers, *args)
    return (found * fitted.weights).sum(-1) + fitted.bias

  return score


def detector(
  features_fn: FeaturesFn, fitted: Fitted, *args, eta: float = 0.0
) -> Detector:
  """`ensemble` with its arguments; attacks push the same sum."""
  score = ensemble(features_fn, eta)
  return Detector(score, score, (fitted, *args))


def _checked(features: np.ndarray, number: int, rows: int) -> np.ndarray:
  if features.ndim != 2 or len(features) != rows or not features.shape[1]:
    raise ValueError(
      f'features of layer {number} are {features.shape}; give one row for each '
      f'of the {rows} labels: [{rows}, d], pooled over space'
    )
  features = features.astype(np.float64)
  bad = (~np.isfinite(features)).any(1)
  if bad.any():
    raise ValueError(
      f'features of layer {number} are not finite in {bad.sum()} of {rows} '
      f'rows, first row {bad.argmax()}'
    )
  return features
