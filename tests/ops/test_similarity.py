"""SSIM beside its equation, window by window."""

import numpy as np
import pytest

from jaxlab.ops.similarity import ssim


def _direct(a, b):
  """One channel: eq. 13 with an 11 x 11 Gaussian window of deviation 1.5."""
  at = np.arange(-5, 6)
  window = np.exp(-(at[:, None] ** 2 + at**2) / (2 * 1.5**2))
  window /= window.sum()
  found = []
  for i in range(a.shape[0] - 10):
    for j in range(a.shape[1] - 10):
      x, y = a[i : i + 11, j : j + 11], b[i : i + 11, j : j + 11]
      mx, my = (window * x).sum(), (window * y).sum()
      vx, vy = (window * (x - mx) ** 2).sum(), (window * (y - my) ** 2).sum()
      both = (window * (x - mx) * (y - my)).sum()
      found.append(
        (2 * mx * my + 1e-4)
        * (2 * both + 9e-4)
        / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4))
      )
  return np.mean(found)


def test_ssim_is_the_mean_over_windows_and_channels():
  rng = np.random.default_rng(0)
  a = rng.random((2, 14, 13, 3))
  b = np.clip(a + rng.normal(0, 0.2, a.shape), 0, 1)
  wanted = [
    np.mean([_direct(a[n, ..., c], b[n, ..., c]) for c in range(3)])
    for n in range(2)
  ]
  np.testing.assert_allclose(ssim(a, b), wanted, rtol=1e-10)
  np.testing.assert_allclose(ssim(a, a), 1)
  assert (ssim(a, 1 - a) < 0).all()


def test_images_that_cannot_be_compared_are_named():
  x = np.zeros((1, 12, 12, 1))
  with pytest.raises(ValueError, match='must be alike'):
    ssim(x, x[..., 0])
  with pytest.raises(ValueError, match='smaller than 11'):
    ssim(x[:, :8], x[:, :8])
