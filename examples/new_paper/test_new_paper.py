"""mixup's oracle: a mixed image lies between its two, labels follow."""

import jax
import numpy as np

from examples.new_paper.method import mix


def test_images_and_labels_are_mixed_alike():
  images = np.arange(12, dtype=np.float32).reshape(6, 1, 1, 2)
  for alpha in (1e-3, 1.0, 1e3):
    mixed, other, weight = mix(jax.random.key(0), images, range(6), alpha)
    wanted = weight * images + (1 - weight) * images[np.asarray(other)]
    np.testing.assert_allclose(mixed, wanted, rtol=1e-6)
    assert sorted(np.asarray(other).tolist()) == [*range(6)]
    assert abs(weight - 0.5) < 0.1 if alpha > 100 else 0 <= weight <= 1
