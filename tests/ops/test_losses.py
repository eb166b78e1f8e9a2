import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest  # chex.variants needs TestCase

from jaxlab.ops.losses import masked_cross_entropy


def reference(logits, labels, mask):
  """float64, row by row."""
  total = 0.0
  for row, label, counts in zip(logits.astype(np.float64), labels, mask):
    if counts:
      top = row.max()
      total += top + np.log(np.exp(row - top).sum()) - row[label]
  return total, mask.sum()


class MaskedCrossEntropyTest(chex.TestCase):
  def setUp(self):
    super().setUp()
    draw = np.random.default_rng(0)
    self.logits = draw.normal(0, 3, (12, 5)).astype(np.float32)
    self.labels = draw.integers(0, 5, 12)
    self.mask = draw.random(12) < 0.6

  @chex.variants(with_jit=True, without_jit=True)
  def test_equals_a_float64_reference(self):
    found = self.variant(masked_cross_entropy)(
      self.logits, self.labels, self.mask
    )
    # A dozen float32 sums of values below 20: 1e-6 relative is their rounding.
    np.testing.assert_allclose(
      found, reference(self.logits, self.labels, self.mask), rtol=1e-6
    )

  def test_masked_rows_may_hold_anything(self):
    logits = np.where(self.mask[:, None], self.logits, np.nan)
    labels = np.where(self.mask, self.labels, 99)

    def loss(x):
      return masked_cross_entropy(x, labels, self.mask)[0]

    value, gradient = jax.value_and_grad(loss)(jnp.asarray(logits))
    clean = masked_cross_entropy(self.logits, self.labels, self.mask)[0]
    assert value == clean
    assert not np.any(gradient[~self.mask])
    assert np.all(np.isfinite(gradient))

  def test_an_all_masked_batch_weighs_nothing(self):
    value, weight = masked_cross_entropy(
      self.logits, self.labels, np.zeros(12, bool)
    )
    assert (value, weight) == (0.0, 0.0)


if __name__ == '__main__':
  absltest.main()
