"""Where an array is not as it must be."""

import numpy as np


def first(wrong: np.ndarray) -> tuple[int, ...] | None:
  """The place of the first True, or None.

  >>> first(np.array([[False, False], [False, True]]))
  (1, 1)
  """
  return tuple(np.argwhere(wrong)[0].tolist()) if wrong.any() else None
