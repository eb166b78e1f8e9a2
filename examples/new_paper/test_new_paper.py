"""mixup's oracle: both ends of the weight, and the pairing."""

import jax
import numpy as np
import pytest

from examples.new_paper.method import mix


@pytest.mark.parametrize('alpha', [1e-3, 1.0, 1e3])
def test_a_mixed_image_lies_between_its_two_and_labels_follow(alpha):
  images = np.arange(12, dtype=np.float32).reshape(6, 1, 1, 2)
  labels = np.arange(6)
  mixed, other, weight = mix(jax.random.key(0), images, labels, alpha)
  wanted = weight * images + (1 - weight) * images[np.asarray(other)]
  np.testing.assert_allclose(mixed, wanted, rtol=1e-6)
  assert sorted(np.asarray(other).tolist()) == list(range(6))
  assert abs(weight - 0.5) < 0.1 if alpha > 100 else 0 <= weight <= 1
