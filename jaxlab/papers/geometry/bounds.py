"""Bounds on the number of linear regions.

Theorem 4.5 of arXiv 1805.10451v2 as it is printed, beside tighter ones.

G. Montúfar, R. Pascanu, K. Cho, Y. Bengio, NeurIPS 2014 (a lower bound); G.
Montúfar, SampTA 2017; T. Serra, C. Tjandraatmadja, S. Ramalingam, ICML 2018;
B. Hanin, D. Rolnick, ICML 2019.
"""

import itertools
import math
from collections.abc import Sequence
from functools import cache

from jaxlab.core.errors import InputError


def bounds(widths: Sequence[int]) -> dict[str, int]:
  """Bounds on the largest number of linear regions, as Python ints.

  Args:
    widths: of the input, the hidden layers and the output.

  Returns:
    paper             theorem 4.5 as printed: Π C(w_{i-1}, w_i), all layers
    paper_hidden      the same over hidden layers, which alone bend
    montufar17        Π Σ_{j <= d_l} binom(n_l, j), d_l the least width before
    serra18           the tightest here; exact for one input
    montufar14_lower  that some network of these widths has
    hanin_rolnick     (units)^d / d!, rounded up: an average at and near
      initialisation, with their constant T as 1. An order of magnitude, not a
      bound, and reported, unverified.

  Raises:
    InputError: fewer than three widths, or one below 1.
  """
  widths = [int(w) for w in widths]
  if len(widths) < 3 or min(widths) < 1:
    raise InputError(
      f'widths = {widths}: give input, hidden and output, each at least 1'
    )
  first, hidden = widths[0], widths[1:-1]
  parts = [parts_of(d, n) for d, n in itertools.pairwise(widths)]
  least = [min(widths[: i + 1]) for i in range(len(hidden))]
  tight = [parts_of(d, n) for d, n in zip(least, hidden)]

  @cache
  def serra(layer: int, dimension: int) -> int:
    if layer == len(hidden):
      return 1
    n = hidden[layer]
    return sum(
      math.comb(n, j) * serra(layer + 1, min(dimension, n - j))
      for j in range(min(dimension, n) + 1)
    )

  folds = math.prod((n // first) ** first for n in hidden[:-1])
  power, factor = sum(hidden) ** first, math.factorial(first)
  return {
    'paper': math.prod(parts),
    'paper_hidden': math.prod(parts[:-1]),
    'montufar17': math.prod(tight),
    'serra18': serra(0, first),
    'montufar14_lower': folds * parts_of(first, hidden[-1]),
    'hanin_rolnick': -(-power // factor),
  }


def parts_of(d: int, n: int) -> int:
  """Lemma 4.4: most parts of R^d that n hyperplanes cut."""
  return sum(math.comb(n, j) for j in range(d + 1))
