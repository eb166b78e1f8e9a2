"""Cheap random numbers: their distribution, and what they follow from."""

import jax
import numpy as np
import scipy.stats

from jaxlab.ops import row_random

KEY = jax.random.key(3)


def test_normals_are_standard_and_independent():
  x = np.asarray(row_random.normal(KEY, (300, 10, 20)))
  assert x.dtype == np.float32
  # 60,000 draws: a distance of .0067 has a probability of 1 %.
  assert scipy.stats.kstest(x.ravel(), 'norm').statistic < 0.0067
  flat = x.reshape(300, -1)
  rows = np.corrcoef(flat)[np.triu_indices(300, 1)]
  columns = np.corrcoef(flat.T)[np.triu_indices(200, 1)]
  for found, n in ((rows, 200), (columns, 300)):
    assert abs(found.std() * np.sqrt(n) - 1) < 0.03
    assert abs(found).max() < 6 / np.sqrt(n)
  other = np.asarray(row_random.normal(jax.random.key(4), (300, 10, 20)))
  assert abs(np.corrcoef(flat.ravel(), other.ravel())[0, 1]) < 0.02


def test_uniform_draws_fill_the_unit_interval_and_follow_from_ids():
  x = np.asarray(row_random.uniform(KEY, (300, 200)))
  assert x.dtype == np.float32 and x.min() > 0 and x.max() < 1
  assert scipy.stats.kstest(x.ravel(), 'uniform').statistic < 0.0067
  ids = np.array([7, 3])
  one = np.asarray(row_random.uniform(KEY, (1, 4), ids[1:]))
  np.testing.assert_array_equal(
    np.asarray(row_random.uniform(KEY, (2, 4), ids))[1:], one
  )


def test_tails_are_there_and_finite():
  x = np.asarray(row_random.normal(KEY, (1000, 1000)))
  assert np.isfinite(x).all()
  assert 4.5 < abs(x).max() < 5.4
  assert abs((abs(x) > 3).mean() - 0.0027) < 0.0003


def test_a_row_follows_from_its_id_wherever_it_stands():
  ids = np.array([7, 3, 123_456, 3])
  x = np.asarray(row_random.normal(KEY, (4, 5), ids))
  alone = np.asarray(row_random.normal(KEY, (1, 5), ids[2:3]))
  np.testing.assert_array_equal(x[2], alone[0])
  np.testing.assert_array_equal(x[1], x[3])
  assert not np.isclose(x[0], x[1]).any()
  places = row_random.normal(KEY, (4, 5), np.arange(4))
  np.testing.assert_array_equal(row_random.normal(KEY, (4, 5)), places)


def test_signs_and_masks_have_their_shares():
  signs = np.asarray(row_random.signs(KEY, (200, 300)))
  assert {*signs.ravel().tolist()} == {-1.0, 1.0}
  assert abs(signs.mean()) < 0.02
  kept = np.asarray(row_random.kept(KEY, (200, 300), 0.3))
  assert abs(kept.mean() - 0.7) < 0.01
