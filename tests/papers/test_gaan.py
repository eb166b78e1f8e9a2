"""GAAN's losses against numbers by hand, with rows that are padding."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxlab.papers.gaan import method

RNG = np.random.default_rng(0)
MASK = np.array([True, True, False, True, True, True, False, True])


def _normal(*shape):
  return RNG.normal(size=shape).astype(np.float32)


PARTS = {
  'real': _normal(8, 12),
  'recon': _normal(8, 12),
  'fake': _normal(8, 12) + 1,
  'encoded': _normal(8, 3) + 2,
  'latent': _normal(8, 3),
}


def _numpy_distance(anchor, scope):
  """L_W in float64, from its definition."""
  real, recon, fake, encoded, latent = (
    x[MASK].astype(np.float64) for x in PARTS.values()
  )
  held = {'recon': recon, 'real': real}[anchor]
  weight = math.sqrt(3 / 12)
  if scope == 'batch_mean':
    f = np.mean(held.mean(0) - fake.mean(0))
    g = np.mean(encoded.mean(0) - latent.mean(0))
    return (f - weight * g) ** 2
  if scope == 'per_sample':
    each = [
      (np.mean(a - b) - weight * np.mean(e - z)) ** 2
      for a, b, e, z in zip(held, fake, encoded, latent)
    ]
    return np.mean(each)
  rms = lambda x: math.sqrt(np.mean(x**2))
  each = [
    (rms(a - b) - rms(e - z)) ** 2
    for a, e in zip(held, encoded)
    for b, z in zip(fake, latent)
  ]
  return np.mean(each)


@pytest.mark.parametrize('anchor', method.ANCHORS)
@pytest.mark.parametrize('scope', method.SCOPES)
def test_latent_data_distance_is_its_definition_without_padding(anchor, scope):
  broken = {k: np.where(MASK[:, None], x, np.nan) for k, x in PARTS.items()}
  for parts in (PARTS, broken):
    found = method.latent_data_distance(
      **parts, mask=MASK, anchor=anchor, scope=scope
    )
    np.testing.assert_allclose(found, _numpy_distance(anchor, scope), rtol=2e-5)


def test_a_constant_in_all_features_leaves_the_distance():
  moved = {k: PARTS[k] + 5 for k in ('real', 'recon', 'fake')}
  for scope in method.SCOPES:
    run = lambda parts, scope=scope: method.latent_data_distance(
      **parts, mask=MASK, scope=scope
    )
    np.testing.assert_allclose(run({**PARTS, **moved}), run(PARTS), rtol=1e-4)


def test_a_collapsed_generator_is_only_seen_by_pairs_and_rows():
  z = _normal(8, 3)
  still = np.ones((8, 12), np.float32)  # G makes one image
  run = lambda scope: method.latent_data_distance(
    still, still, still, z[::-1], z, np.ones(8, bool), scope=scope
  )
  assert run('batch_mean') < 1e-10
  assert run('per_sample') > 0.01
  assert run('pairwise') > 0.1


def test_lambda_w_brings_both_means_to_one_scale():
  assert method.lambda_w(100, 4096) == pytest.approx(0.15625)
  x, z = RNG.normal(size=(4000, 640)), RNG.normal(size=(4000, 10))
  f, g = x.mean(1).std(), method.lambda_w(10, 640) * z.mean(1).std()
  assert f == pytest.approx(g, rel=0.05)


def test_an_unknown_anchor_scope_penalty_score_or_schedule_is_refused():
  for call in (
    lambda: method.latent_data_distance(**PARTS, mask=MASK, anchor='fake'),
    lambda: method.latent_data_distance(**PARTS, mask=MASK, scope='all'),
    lambda: method.gradient_penalty(lambda x: x[:, 0], jnp.ones((2, 2)), 'l2'),
    lambda: method.score_distance(jnp.ones(2), jnp.ones(2), MASK, kind='x'),
    lambda: method.recon_schedule('none', jnp.zeros(())),
  ):
    with pytest.raises(ValueError, match=r'one of|none of'):
      call()


def test_means_come_before_squares_and_are_the_same_on_eight_devices():
  devices = np.array(jax.devices()[:8])
  rows = NamedSharding(Mesh(devices, ('data',)), PartitionSpec('data'))

  def both(parts, mask, scores):
    far = method.latent_data_distance(**parts, mask=mask)
    apart = method.score_distance(*scores, mask)
    return far + apart, (far, apart)

  run = jax.jit(jax.value_and_grad(both, has_aux=True))
  scores = (2 * _normal(8), 2 * _normal(8))
  (_, found), slope = run(PARTS, MASK, scores)
  (_, spread), slopes = run(*jax.device_put((PARTS, MASK, scores), rows))
  np.testing.assert_allclose(found, spread, rtol=1e-5)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-8),
    slope,
    slopes,
  )
  sigmoid = lambda x: 1 / (1 + np.exp(-x[MASK].astype(np.float64)))
  wanted = abs(np.mean(sigmoid(scores[0])) - np.mean(sigmoid(scores[1])))
  np.testing.assert_allclose(found[1], wanted, rtol=1e-5)
  each = np.mean(abs(sigmoid(scores[0]) - sigmoid(scores[1])))
  assert abs(each - wanted) > 0.01  # what a mean of distances would be


def test_the_score_distance_pulls_fakes_to_reals_from_either_side():
  mask = np.ones(2, bool)
  high, low = np.array([1.0, 2.0]), np.array([-1.0, -2.0])
  slope = jax.grad(
    lambda fake, real, smooth, kind: method.score_distance(
      real, fake, mask, smooth=smooth, kind=kind
    )
  )
  assert (slope(low, high, 0.0, 'sigmoid') < 0).all()
  assert (slope(high, low, 0.0, 'sigmoid') > 0).all()
  assert (slope(low, low, 0.0, 'sigmoid') == 0).all()
  assert (slope(low, low, 0.1, 'sigmoid') == 0).all()
  np.testing.assert_allclose(slope(low, high, 0.0, 'logit'), [-0.5, -0.5])
  smooth = method.score_distance(high, low, mask, kind='logit', smooth=4.0)
  np.testing.assert_allclose(smooth, 5.0)


@pytest.mark.parametrize(
  ('kind', 'wanted'),
  [
    ('wgangp', lambda norm, d: (norm - 1) ** 2),
    ('squared', lambda norm, d: (norm**2 - 1) ** 2),
    ('rms', lambda norm, d: (norm / math.sqrt(d) - 1) ** 2),
  ],
)
def test_the_penalty_of_a_linear_score_is_least_at_its_slope(kind, wanted):
  points, w = _normal(3, 2, 2), _normal(2, 2)
  norm = float(np.linalg.norm(w))

  @jax.jit
  def penalty(scale):
    score = lambda x: scale * jnp.einsum('bij,ij->b', x, w) + 7
    return method.gradient_penalty(score, points, kind).sum()

  of = jax.value_and_grad(penalty)
  best = {'wgangp': 1.0, 'squared': 1.0, 'rms': 2.0}[kind] / norm
  for scale in (0.3, 1.0, 2.5):
    value, slope = of(scale)
    np.testing.assert_allclose(
      value, 3 * wanted(scale * norm, 4), rtol=1e-4, atol=1e-9
    )
    # Descent brings the slope to its aim from either side.
    assert np.sign(slope) == np.sign(scale - best)
  assert of(best)[0] < 1e-8
  assert np.isfinite(of(0.0)[1])


def test_interpolated_points_lie_between_their_own_pair():
  real, fake = _normal(3, 2, 1), _normal(3, 2, 1)
  share = np.array([0.0, 1.0, 0.25], np.float32)
  found = method.interpolated(share, real, fake)
  np.testing.assert_allclose(found[0], fake[0], rtol=1e-6)
  np.testing.assert_allclose(found[1], real[1], rtol=1e-6)
  np.testing.assert_allclose(
    found[2], 0.25 * real[2] + 0.75 * fake[2], rtol=1e-5
  )


def test_terms_of_the_discriminator_are_logarithms_of_scores():
  real, fake = np.array([0.5, -2.0]), np.array([1.5, -0.3])
  s = lambda x: 1 / (1 + np.exp(-x))
  wanted = -0.7 * np.log(s(real)) - np.log(1 - s(fake))
  np.testing.assert_allclose(
    method.disc_terms(real, fake, 0.7), wanted, rtol=1e-5
  )
  np.testing.assert_allclose(
    method.recon_term(fake, 0.3), -0.3 * np.log(s(fake)), rtol=1e-5
  )
  np.testing.assert_allclose(
    method.recon_term(fake, 0.3, 'fake'), -0.3 * np.log(1 - s(fake)), rtol=1e-5
  )
  np.testing.assert_allclose(method.gen_term(fake), -np.log(s(fake)), rtol=1e-5)
  np.testing.assert_allclose(method.critic_terms(real, fake), [1.0, 1.7])


@pytest.mark.parametrize(
  ('name', 'at', 'wanted'),
  [
    ('paper', 0.3, (1, 1)),
    ('half', 0.9, (0.5, 0.5)),
    ('decay', 0.0, (0.95, 0.05)),
    ('decay', 0.5, (0.95, 0.05)),
    ('decay', 0.6, (0.97, 0.03)),
    ('decay', 0.75, (1, 0)),
    ('decay', 1.0, (1, 0)),
  ],
)
def test_reconstructions_count_as_the_schedule_says(name, at, wanted):
  found = method.recon_schedule(name, jnp.float32(at))
  np.testing.assert_allclose(found, wanted, atol=1e-7)


def test_reconstruction_is_a_mean_over_features():
  a, b = np.array([[1.0, 2.0], [0.0, 0.0]]), np.array([[0.0, 4.0], [0.0, 0.0]])
  np.testing.assert_allclose(method.reconstruction(a, b), [2.5, 0.0])


def test_the_divergence_of_a_gaussian_code_is_its_integral():
  mu, log_variance = np.array([[0.5, -1.0]]), np.array([[0.3, -0.7]])
  x = np.linspace(-12, 12, 200_001)
  total = 0.0
  for m, v in zip(mu[0], np.exp(log_variance[0])):
    log_q = -((x - m) ** 2) / (2 * v) - math.log(v) / 2
    log_p = -(x**2) / 2
    q = np.exp(log_q) / math.sqrt(2 * math.pi)
    total += np.trapezoid(q * (log_q - log_p), x)
  code = np.concatenate([mu, log_variance], -1)
  np.testing.assert_allclose(
    method.gaussian_divergence(code), [total], rtol=1e-5
  )
  drawn = method.gaussian_code(code, np.array([[1.0, -2.0]]))
  sigma = np.exp(log_variance / 2)
  np.testing.assert_allclose(drawn, mu + sigma * [[1, -2]], rtol=1e-5)
