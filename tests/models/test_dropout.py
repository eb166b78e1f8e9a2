import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxlab.models.dropout import dropout, keep_mask


def draws(rate, rows=20_000, columns=64):
  mask = keep_mask(jax.random.key(0), (rows, columns), rate)
  return np.asarray(mask, np.float64)


def test_keeps_the_stated_share_in_every_column():
  for rate in (0.1, 0.5):
    share = draws(rate).mean(axis=0)
    deviation = np.sqrt(rate * (1 - rate) / 20_000)
    # The largest of 64 normal deviates exceeds 5 once in 30,000 seeds.
    assert np.abs(share - (1 - rate)).max() < 5 * deviation


def test_no_two_columns_of_a_row_are_correlated():
  # Rows draw their words from JAX's generator; columns rely on the hash. Each
  # of the 2,016 sample correlations has deviation 1 / sqrt(20,000) if columns
  # are independent, hence their mean square is 1 +- .032 in that unit.
  for rate in (0.1, 0.5):
    correlation = np.corrcoef(draws(rate), rowvar=False)
    z = correlation[np.triu_indices(64, 1)] * np.sqrt(20_000)
    assert np.abs(z).max() < 5.5
    assert abs(np.mean(z**2) - 1) < 5 * np.sqrt(2 / z.size)


def test_number_kept_in_a_row_is_binomial():
  # The sample variance of 20,000 rows has relative deviation sqrt(2 / 20,000).
  variance = draws(0.1).sum(axis=1).var()
  assert abs(variance / (64 * 0.1 * 0.9) - 1) < 5 * np.sqrt(2 / 20_000)


def test_masks_of_two_keys_agree_as_often_as_chance():
  a, b = (
    np.asarray(keep_mask(key, (2_000, 64), 0.5))
    for key in jax.random.split(jax.random.key(1))
  )
  assert abs(np.mean(a == b) - 0.5) < 5 * 0.5 / np.sqrt(a.size)


def test_kept_values_are_scaled_up_and_the_others_are_zero():
  x = jnp.linspace(1, 2, 12).reshape(3, 4)
  y = dropout(jax.random.key(0), x, 0.25)
  kept = keep_mask(jax.random.key(0), x.shape, 0.25)
  assert 0 < kept.sum() < kept.size
  chex.assert_trees_all_close(y, jnp.where(kept, x / 0.75, 0), rtol=1e-6)


def test_keeps_the_dtype():
  x = jnp.ones((2, 4), jnp.bfloat16)
  assert dropout(jax.random.key(0), x, 0.5).dtype == jnp.bfloat16


def test_same_mask_on_one_and_on_eight_devices():
  draw = lambda key: keep_mask(key, (16, 4, 8), 0.5)
  key = jax.random.key(0)
  types = (jax.sharding.AxisType.Auto,) * 2
  mesh = jax.make_mesh((4, 2), ('data', 'model'), axis_types=types)
  for spec in (P(('data', 'model')), P('data', None, 'model')):
    split = jax.jit(draw, out_shardings=NamedSharding(mesh, spec))(key)
    assert len(split.sharding.device_set) == 8
    assert not split.sharding.is_fully_replicated
    np.testing.assert_array_equal(draw(key), split)
