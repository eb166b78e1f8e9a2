import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlab.ops.losses import masked_cross_entropy


def reference(logits, labels, mask):
  """float64, row by row."""
  total = 0.0
  for row, label, counts in zip(logits.astype(np.float64), labels, mask):
    if counts:
      top = row.max()
      total += top + np.log(np.exp(row - top).sum()) - row[label]
  return total, mask.sum()


_DRAW = np.random.default_rng(0)
LOGITS = _DRAW.normal(0, 3, (12, 5)).astype(np.float32)
LABELS = _DRAW.integers(0, 5, 12)
MASK = _DRAW.random(12) < 0.6


@pytest.mark.parametrize('variant', [jax.jit, lambda f: f])
def test_equals_a_float64_reference(variant):
  found = variant(masked_cross_entropy)(LOGITS, LABELS, MASK)
  # A dozen float32 sums of values below 20: 1e-6 relative is their rounding.
  np.testing.assert_allclose(found, reference(LOGITS, LABELS, MASK), rtol=1e-6)


def test_masked_rows_may_hold_anything():
  logits = np.where(MASK[:, None], LOGITS, np.nan)
  labels = np.where(MASK, LABELS, 99)

  def loss(x):
    return masked_cross_entropy(x, labels, MASK)[0]

  value, gradient = jax.value_and_grad(loss)(jnp.asarray(logits))
  assert value == masked_cross_entropy(LOGITS, LABELS, MASK)[0]
  assert not np.any(gradient[~MASK])
  assert np.all(np.isfinite(gradient))


def test_an_all_masked_batch_weighs_nothing():
  found = masked_cross_entropy(LOGITS, LABELS, np.zeros(12, bool))
  assert found == (0.0, 0.0)
