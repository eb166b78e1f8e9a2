"""Figures of samples against closed forms, scipy and perfect samplers."""

import math

import numpy as np
import pytest
import scipy.linalg

from jaxlab.ops import generative
from jaxlab.ops.generative import (
  frechet_distance,
  grid_modes,
  kernel_distance,
  latent_map,
  nearest_distances,
  precision_recall,
  stacked_modes,
)


def _normal(seed, *shape):
  return np.random.default_rng(seed).normal(size=shape)


def test_frechet_distance_is_scipys_on_gaussians():
  a = _normal(0, 90, 5) @ _normal(1, 5, 5) + 3
  b = _normal(2, 70, 5) @ _normal(3, 5, 5)
  one, two = np.cov(a.T), np.cov(b.T)
  root = scipy.linalg.sqrtm(one @ two).real
  apart = np.square(a.mean(0) - b.mean(0)).sum()
  expected = apart + np.trace(one + two - 2 * root)
  assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)
  assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_of_scaled_sets_has_the_closed_form():
  x = _normal(0, 400, 4)
  x = (x - x.mean(0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(x.T))).T
  m = np.array([1.0, -2.0, 0.5, 0.0])
  found = frechet_distance(x, 3 * x + m)  # covariances I and 9 I
  assert found == pytest.approx((m**2).sum() + 4 * (1 - 3) ** 2, rel=1e-9)


def test_frechet_distance_of_a_set_to_itself_is_zero_and_turning_leaves_it():
  a = _normal(0, 300, 40) * np.logspace(-9, 3, 40)  # some nearly flat
  assert frechet_distance(a, a[::-1]) < 1e-8
  b = _normal(1, 200, 40)
  turn = np.linalg.qr(_normal(2, 40, 40))[0]
  assert frechet_distance(a @ turn, b @ turn) == pytest.approx(
    frechet_distance(a, b), rel=1e-9
  )


def test_frechet_distance_refuses_too_few_samples_and_what_is_not_finite():
  a, b = _normal(0, 9, 4), _normal(1, 4, 4)
  with pytest.raises(ValueError, match='4 samples of 4 features') as error:
    frechet_distance(a, b)
  assert 'give more than 4, better 40' in str(error.value)
  frechet_distance(a, _normal(1, 5, 4))
  a[3, 1] = np.inf
  with pytest.raises(ValueError, match=r'1 of 9 samples of the first.* row 3'):
    frechet_distance(a, a)
  with pytest.raises(ValueError, match=r'\(9, 4\) and \(9, 3\)'):
    frechet_distance(_normal(0, 9, 4), _normal(0, 9, 3))


def test_kernel_distance_is_the_sum_over_pairs(monkeypatch):
  a, b = _normal(0, 7, 3), _normal(1, 5, 3) + 1
  k = lambda x, y: (x @ y / 3 + 1) ** 3
  pairs = lambda x: np.mean(
    [k(x[i], x[j]) for i in range(len(x)) for j in range(len(x)) if i != j]
  )
  both = np.mean([k(x, y) for x in a for y in b])
  monkeypatch.setattr(generative, '_BLOCK', 3)
  expected = pairs(a) + pairs(b) - 2 * both
  assert kernel_distance(a, b) == pytest.approx(expected, rel=1e-12)


def test_precision_falls_with_bad_samples_and_recall_with_lost_modes():
  real = np.concatenate([_normal(0, 200, 2), _normal(1, 200, 2) + 50])
  one_mode = _normal(2, 200, 2)
  precision, recall = precision_recall(real, one_mode)
  assert precision > 0.9 and 0.4 < recall <= 0.5
  half_bad = np.concatenate([_normal(3, 200, 2), _normal(4, 200, 2) - 50])
  precision, recall = precision_recall(one_mode, half_bad)
  assert 0.4 < precision <= 0.5 and recall > 0.9
  assert precision_recall(real, real) == (1.0, 1.0)


def test_precision_takes_the_radius_to_the_third_neighbour_of_others():
  line = np.array([[0.0], [1.0], [2.0], [4.0], [8.0]])
  # Radii 4, 3, 2, 4, 7: of 4 the third neighbour but itself is 8 (or 0).
  points = np.array([[-4.1], [-3.9], [14.9], [15.1], [3.0]])
  assert precision_recall(line, points)[0] == pytest.approx(3 / 5)


def test_a_perfect_sampler_meets_the_ceilings_of_both_conventions():
  rng = np.random.default_rng(0)
  n = 200_000
  points = generative.GRID[rng.integers(25, size=n)] + 0.05 * rng.normal(
    size=(n, 2)
  )
  found = grid_modes(points)
  for name, ceiling in (('gaan', 0.9817), ('pacgan', 0.9889)):
    modes = found[name]
    assert modes.ceiling == pytest.approx(ceiling, abs=5e-5)
    error = math.sqrt(ceiling * (1 - ceiling) / n)
    assert abs(modes.share - modes.ceiling) < 3 * error
    assert modes.registered == round(modes.share * n)
    assert modes.covered == 25
  parts = points.reshape(100, 2000, 2)
  kl = [grid_modes(part)['gaan'].kl for part in parts]
  floor = 24 / (2 * 0.9817 * 2000)
  spread = math.sqrt(24 / 2) / (0.9817 * 2000)  # of one, chi-squared
  assert abs(np.mean(kl) - floor) < 3 * spread / 10 + 0.02 * floor
  assert found['gaan'].kl_floor == pytest.approx(24 / (2 * 0.981684 * n))


def test_the_conventions_differ_in_radius_and_in_what_covers_a_mode():
  at = lambda sigmas, count: np.tile([[4 + 0.05 * sigmas, -2.0]], (count, 1))
  # 30 on a first mode within both radii, 19 on a second between them.
  points = np.concatenate([at(2.8, 30), [[-4, -4.0 + 0.05 * 2.9]] * 19])
  points = np.concatenate([points, np.full((1951, 2), 1.0)])
  found = grid_modes(points)
  assert found['gaan'][:3] == (30, 0.015, 1)
  assert found['pacgan'][:3] == (49, 0.0245, 2)
  p = np.array([30, 19]) / 49
  assert found['pacgan'].kl == pytest.approx(float(p @ np.log(25 * p)))
  assert grid_modes(at(0, 19))['gaan'].covered == 1
  few = np.concatenate([at(0, 19), np.full((1981, 2), np.nan)])
  assert grid_modes(few)['gaan'].covered == 0
  enough = np.concatenate([at(0, 20), np.full((1980, 2), np.nan)])
  assert grid_modes(enough)['gaan'].covered == 1
  assert math.isnan(grid_modes(np.ones((5, 2)))['gaan'].kl)
  with pytest.raises(ValueError, match=r'\(5, 3\) must be \[n, 2\]'):
    grid_modes(np.ones((5, 3)))


def test_a_perfect_sampler_of_stacked_digits_has_the_divergence_of_its_floor():
  rng = np.random.default_rng(1)
  p = np.eye(10)[rng.integers(10, size=(25_600, 3))]
  found = stacked_modes(p)
  assert found['kl_floor'] == pytest.approx(999 / 51_200)
  assert abs(found['kl'] - 0.0196) < 3 * 0.0009
  assert (found['modes'], found['images']) == (1000, 25_600)


def test_stacked_modes_are_triples_and_doubtful_images_are_left_out():
  p = np.full((4, 3, 10), 0.02)
  for row, digits in enumerate([(1, 2, 3), (3, 2, 1), (1, 2, 3), (0, 0, 0)]):
    p[row, range(3), digits] = 0.82
  p[3, 1] = 0.1
  found = stacked_modes(p)
  assert found['modes'] == 3
  assert found['kl'] == pytest.approx(
    math.log(1000) - 0.5 * math.log(2) - 0.5 * math.log(4)
  )
  assert found['confidence'] == pytest.approx((11 * 0.82 + 0.1) / 12)
  sure = stacked_modes(p, confidence=0.5)
  assert (sure['modes'], sure['images']) == (2, 3)
  none = stacked_modes(p, confidence=0.9)
  assert none['modes'] == 0 and math.isnan(none['kl'])


def test_a_latent_map_has_areas_regions_and_borders():
  labels = np.array(
    [
      [0, 0, 1, 1],
      [0, 0, 1, 1],
      [1, 1, 0, 0],
      [1, 1, 0, 2],
    ]
  )
  found = latent_map(labels, np.array([2, 1, 1]))
  np.testing.assert_allclose(found.areas, [7 / 16, 8 / 16, 1 / 16])
  np.testing.assert_array_equal(found.components, [2, 2, 1])
  assert found.boundary == 10 / 4
  p, q = np.array([7, 8, 1]) / 16, np.array([2, 1, 1]) / 4
  assert found.kl == pytest.approx(float(p @ np.log(p / q)))


def test_memorised_samples_are_at_distance_zero():
  train = _normal(0, 20, 2, 3)
  new = train[:4] + np.array([0, 0, 0, 2e-3])[:, None, None]
  np.testing.assert_allclose(
    nearest_distances(new, train), [0, 0, 0, 2e-3 * math.sqrt(6)], atol=1e-7
  )
