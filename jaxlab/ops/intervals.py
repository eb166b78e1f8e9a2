"""Confidence intervals for measured figures, on the host in float64."""

import math
import statistics
from collections.abc import Sequence


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


def student_t(
  values: Sequence[float], level: float = 0.95
) -> tuple[float, float]:
  """Mean of independent measurements and half the width of its t-interval.

  Args:
    values: at least one number; of one alone the half-width is infinite.
    level: of confidence, in (0, 1).

  Returns:
    (mean, half-width).

  Raises:
    ValueError: no values.

  >>> mean, half = student_t([1.0, 2.0, 3.0])
  >>> mean, round(half, 4)
  (2.0, 2.4841)
  """
  if not values:
    raise ValueError('student_t: needs at least one value')
  mean = statistics.fmean(values)
  if len(values) == 1:
    return mean, math.inf
  # Late: SciPy takes a quarter of a second that attacks do without, and
  # scipy.stats most of a second more.
  import scipy.special

  deviation = statistics.stdev(values) / math.sqrt(len(values))
  quantile = float(scipy.special.stdtrit(len(values) - 1, 0.5 + level / 2))
  return mean, quantile * deviation
