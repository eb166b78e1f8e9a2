import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.spatial.distance
from sklearn.covariance import EmpiricalCovariance
from sklearn.linear_model import LogisticRegression

from jaxlab.ops import detection, mahalanobis

CLASSES = 3


def two_layers(images, weights):
  """Features [b, 4] and [b, 3] of images [b, 2, 3, 1]."""
  first, second = weights
  hidden = jnp.tanh(images.reshape(len(images), -1) @ first)
  return hidden, hidden @ second


def gaussian(seed=0, rows=300, width=5, scales=None):
  """Correlated features of three classes, and their labels, in float64."""
  draw = np.random.default_rng(seed)
  labels = np.arange(rows) % CLASSES
  mix = draw.normal(size=(width, width))
  means = draw.normal(0, 3, (CLASSES, width))
  features = means[labels] + draw.normal(size=(rows, width)) @ mix
  return features * (1 if scales is None else scales), labels


@pytest.fixture(scope='module')
def toy():
  """(images, weights, layers fitted to other images of the same kind)."""
  draw = np.random.default_rng(0)
  weights = (
    jnp.asarray(draw.normal(0, 1, (6, 4)), jnp.float32).at[-1].set(0),
    jnp.asarray(draw.normal(0, 1, (4, 3)), jnp.float32),
  )
  images = jnp.asarray(draw.random((200, 2, 3, 1)), jnp.float32)
  labels = np.arange(200) % CLASSES
  layers = mahalanobis.fit(two_layers(images, weights), labels, CLASSES)
  return images[:8], weights, layers


@pytest.mark.parametrize('scales', [None, np.logspace(-3, 3, 5)])
def test_confidence_equals_scikit_learns_and_scipys_distances(scales):
  features, labels = gaussian(scales=scales)
  means = np.stack([features[labels == c].mean(0) for c in range(CLASSES)])
  tied = EmpiricalCovariance(assume_centered=True)
  tied.fit(features - means[labels])
  others = features[::7] + 2 * features.std(0)
  distances = np.stack([tied.mahalanobis(others - m) for m in means], -1)
  expected = -0.5 * distances.min(-1)
  direct = scipy.spatial.distance.cdist(
    others, means, 'mahalanobis', VI=np.linalg.inv(tied.covariance_)
  )
  np.testing.assert_allclose(-0.5 * direct.min(-1) ** 2, expected, rtol=1e-6)

  (layer,) = mahalanobis.fit([features], labels, CLASSES)
  found = mahalanobis.confidence(layer, jnp.asarray(others, jnp.float32))
  assert found.dtype == jnp.float32
  # float32 of features whose correlations have a condition number of 6^2.
  np.testing.assert_allclose(found, expected, rtol=2e-5)


def test_features_far_from_the_origin_keep_their_digits():
  features, labels = gaussian()
  (near,) = mahalanobis.fit([features], labels, CLASSES)
  (far,) = mahalanobis.fit([features + 1000], labels, CLASSES)
  few = jnp.asarray(features[:9], jnp.float32)
  # 1000 in float32 has a step of 6e-5, the smallest deviation is about .3.
  np.testing.assert_allclose(
    mahalanobis.confidence(far, few + 1000),
    mahalanobis.confidence(near, few),
    rtol=2e-3,
    atol=2e-3,
  )


def test_features_that_are_not_numbers_never_become_confidences():
  features, labels = gaussian()
  (layer,) = mahalanobis.fit([features], labels, CLASSES)
  few = jnp.asarray(features[:9], jnp.float32)
  found = mahalanobis.confidence(layer, few.at[4, 2].set(jnp.nan))
  assert np.flatnonzero(~np.isfinite(found)).tolist() == [4]


def test_ridge_adds_its_share_of_the_mean_variance():
  features, labels = gaussian()
  means = np.stack([features[labels == c].mean(0) for c in range(CLASSES)])
  covariance = np.cov((features - means[labels]).T, bias=True)
  covariance += 0.1 * np.diag(covariance).mean() * np.eye(5)
  (layer,) = mahalanobis.fit([features], labels, CLASSES, ridge=0.1)
  whiten = np.asarray(layer.whiten, np.float64)
  found = whiten @ covariance @ whiten.T
  np.testing.assert_allclose(found, np.eye(5), atol=1e-5)


def test_ridge_makes_dead_units_and_few_images_fit():
  features, labels = gaussian(rows=9, width=20)
  features[:, 3] = 0.5
  (layer,) = mahalanobis.fit([features], labels, CLASSES, ridge=1e-3)
  found = mahalanobis.confidence(layer, jnp.asarray(features, jnp.float32))
  assert np.isfinite(found).all()


def test_a_singular_covariance_has_its_pseudo_inverse():
  """A dead unit, one that is the same for all of a class, a copy."""
  features, labels = gaussian()
  wide = np.concatenate(
    [
      np.full((300, 1), 0.1),
      features,
      np.array([0.3, 0.7, 1.9])[labels, None],
      features[:, 2:3],
    ],
    1,
  )
  means = np.stack([wide[labels == c].mean(0) for c in range(CLASSES)])
  around = wide - means[labels]
  inverse = scipy.linalg.pinvh(around.T @ around / 300, rtol=1e-10)
  others = wide + 2 * np.roll(around, 7, 0)  # no two copies differ
  expected = [
    -0.5 * min((x - m) @ inverse @ (x - m) for m in means) for x in others[:20]
  ]
  (layer,) = mahalanobis.fit([wide], labels, CLASSES, ridge=0.0)
  assert layer.whiten.shape == (5, 8)
  found = mahalanobis.confidence(layer, jnp.asarray(others[:20], jnp.float32))
  np.testing.assert_allclose(found, expected, rtol=1e-4)
  # What never moved says nothing when it does.
  moved = jnp.asarray(others[:20], jnp.float32).at[:, 0].add(1.0)
  np.testing.assert_allclose(
    mahalanobis.confidence(layer, moved), found, rtol=1e-5
  )


def test_layers_are_moved_towards_their_own_closest_class(toy):
  images, weights, layers = toy
  eta = 1e-3

  @jax.jit
  def both(*args):
    still = mahalanobis.layer_confidences(two_layers)
    moved = mahalanobis.layer_confidences(two_layers, eta)
    return still(*args), moved(*args)

  plain, found = both(images, layers, weights)
  assert plain.shape == (8, 2) and (found > plain).all()
  for number in range(2):

    @jax.jit
    def one(x, number=number):
      return mahalanobis.confidence(
        layers[number], two_layers(x, weights)[number]
      )

    np.testing.assert_allclose(plain[:, number], one(images), rtol=1e-5)
    slope = jax.jit(jax.grad(lambda x: -one(x).sum()))(images)
    sign = np.where(slope >= 0, 1, -1)
    assert (sign.reshape(8, -1)[:, -1] == 1).all()  # a pixel without gradient
    np.testing.assert_allclose(
      found[:, number], one(images - eta * sign), rtol=1e-5
    )


def test_the_score_is_the_logistic_regressions_log_odds(toy):
  images, weights, layers = toy
  draw = np.random.default_rng(1)
  inside = draw.normal([-3, -200], [1, 40], (60, 2))
  outliers = draw.normal([-5, -300], [1, 60], (25, 2))
  fitted = mahalanobis.combine(layers, inside, outliers)

  rows = np.concatenate([inside, outliers])
  standard = (rows - rows.mean(0)) / rows.std(0)
  model = LogisticRegression(class_weight='balanced')
  model.fit(standard, np.repeat([1, 0], [60, 25]))
  found = rows @ np.asarray(fitted.weights, float) + float(fitted.bias)
  expected = model.decision_function(standard)
  # lbfgs stops at 1e-4 of the gradient; both runs stop at the same place.
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
  assert found[:60].mean() > 0 > found[60:].mean()

  score = mahalanobis.ensemble(two_layers)
  each = jax.jit(mahalanobis.layer_confidences(two_layers))
  each = each(images, layers, weights)
  np.testing.assert_allclose(
    jax.jit(score)(images, fitted, weights),
    each @ fitted.weights + fitted.bias,
    rtol=1e-5,
  )
  ready = mahalanobis.detector(two_layers, fitted, weights, eta=1e-3)
  assert isinstance(ready, detection.Detector)
  moved = jax.jit(mahalanobis.ensemble(two_layers, 1e-3))
  np.testing.assert_allclose(
    jax.jit(ready.score)(images, *ready.args), moved(images, fitted, weights)
  )


def test_a_layer_that_says_nothing_gets_no_weight(toy):
  _, _, layers = toy
  draw = np.random.default_rng(2)
  inside, outliers = draw.normal(0, 1, (50, 2)), draw.normal(-2, 1, (50, 2))
  inside[:, 1] = outliers[:, 1] = -7.0
  fitted = mahalanobis.combine(layers, inside, outliers)
  assert fitted.weights[0] > 0.5 and fitted.weights[1] == 0


def bad_fit(**changes):
  features, labels = gaussian(rows=60)
  given = {'features': [features], 'labels': labels, 'classes': CLASSES}
  return {**given, **changes}


_FEATURES, _LABELS = gaussian(rows=60)


@pytest.mark.parametrize(
  'change, words',
  [
    (
      {'features': [_FEATURES, np.full((60, 5), 0.1)]},
      'none of the 5 features of layer 1 varies',
    ),
    (
      {'features': [_FEATURES[:6]], 'labels': _LABELS[:6]},
      'layer 0 has 5 features and 6 images of 3 classes',
    ),
    ({'classes': 5}, '2 of 5 classes have no image, first class 3'),
    ({'classes': 2}, r'labels lie in \[0, 2\]'),
    ({'labels': _LABELS - 1}, r'labels lie in \[-1, 1\]'),
    ({'labels': _LABELS[:-1]}, r'features of layer 0 are \(60, 5\)'),
    ({'labels': _LABELS.astype(float)}, 'labels are float64'),
    ({'features': []}, '0 layers'),
    ({'features': [_FEATURES[:, :, None]]}, 'pooled over space'),
    (
      {'features': [np.where(_FEATURES > 5, np.nan, _FEATURES)]},
      'layer 0 are not finite in .* of 60 rows',
    ),
    ({'ridge': -1.0}, 'ridge=-1.0'),
  ],
)
def test_what_cannot_be_fitted_is_refused(change, words):
  with pytest.raises(ValueError, match=words):
    mahalanobis.fit(**bad_fit(**change))


def test_what_cannot_be_combined_or_scored_is_refused(toy):
  images, weights, layers = toy
  good = np.random.default_rng(0).normal(size=(5, 2))
  nan = np.where(good > 1, np.nan, good)
  for args, words in (
    ((good[:, :1], good), r'ID confidences are \(5, 1\)'),
    ((good, good[:0]), r'outlier confidences are \(0, 2\)'),
    ((good, nan), 'outlier confidences are not finite'),
  ):
    with pytest.raises(ValueError, match=words):
      mahalanobis.combine(layers, *args)
  with pytest.raises(ValueError, match=r'fitted to \[n, 4\]'):
    mahalanobis.confidence(layers[0], jnp.zeros((2, 3)))
  with pytest.raises(ValueError, match=r'gives 2 layers.*1 are fitted'):
    mahalanobis.layer_confidences(two_layers)(images, layers[:1], weights)
