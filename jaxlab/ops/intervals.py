"""Confidence intervals for measured figures, on the host in float64."""

import math


def wilson(
  successes: float, trials: float, z: float = 1.96
) -> tuple[float, float]:
  """Wilson's score interval of a proportion; 95 % by default.

  Returns:
    (low, high) in [0, 1].

  Raises:
    ValueError: no trials, or more successes than trials.

  Source: Wilson 1927, eq. for p with continuity correction left out.

  >>> low, high = wilson(50, 100)
  >>> round(low, 4), round(high, 4)
  (0.4038, 0.5962)
  """
  if trials <= 0 or not 0 <= successes <= trials:
    raise ValueError(
      f'wilson: {successes} successes in {trials} trials; needs trials > 0 '
      'and 0 <= successes <= trials'
    )
  p = successes / trials
  centre = p + z * z / (2 * trials)
  spread = z * math.sqrt(p * (1 - p) / trials + z * z / (4 * trials**2))
  scale = 1 + z * z / trials
  return (centre - spread) / scale, (centre + spread) / scale
