"""How alike two images look: structural similarity, on the host.

Z. Wang, A. C. Bovik, H. R. Sheikh, E. P. Simoncelli. Image Quality Assessment:
From Error Visibility to Structural Similarity. IEEE TIP 13(4), 2004.
"""

import numpy as np
from scipy.ndimage import gaussian_filter

_SIGMA, _RADIUS = 1.5, 5  # their 11 x 11 window
_C1, _C2 = 0.01**2, 0.03**2


def ssim(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """Mean structural similarity of pairs of images, 1 where they are equal.

  Local moments are weighted by a Gaussian; the mean is over positions whose
  window lies in the image, and over channels.

  Args:
    a, b: [n, h, w, c] floating in [0, 1]; h, w >= 11.

  Returns:
    [n] float64 in [-1, 1].

  Raises:
    ValueError: two shapes, or images smaller than the window.

  Source: eq. 13 and section III.C.
  """
  a, b = (np.asarray(x, np.float64) for x in (a, b))
  if a.shape != b.shape or a.ndim != 4:
    raise ValueError(
      f'ssim: {a.shape} and {b.shape} must be alike [n, h, w, c]'
    )
  if min(a.shape[1:3]) <= 2 * _RADIUS:
    raise ValueError(f'ssim: images {a.shape[1:3]} are smaller than 11 x 11')

  def mean(x):
    width = (0, _SIGMA, _SIGMA, 0)
    return gaussian_filter(x, width, radius=(0, _RADIUS, _RADIUS, 0))

  mean_a, mean_b = mean(a), mean(b)
  var_a, var_b = mean(a * a) - mean_a**2, mean(b * b) - mean_b**2
  both = mean(a * b) - mean_a * mean_b
  found = (2 * mean_a * mean_b + _C1) * (2 * both + _C2)
  found /= (mean_a**2 + mean_b**2 + _C1) * (var_a + var_b + _C2)
  inner = slice(_RADIUS, -_RADIUS)
  return found[:, inner, inner].mean((1, 2, 3))
