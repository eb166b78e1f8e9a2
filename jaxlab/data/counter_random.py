"""Random numbers as a pure function of integers: a counter-based hash.

A NumPy Generator is a sequence, and making one costs 10 microseconds or more,
which is too much for one a row or one a document. Here every draw is a hash
of what it is for (seed, epoch, document, …), vectorised over any of these,
independent of the order of the calls and of NumPy's version.

Source: the finaliser is that of SplitMix64 (Steele, Lea & Flood, OOPSLA 2014,
with Stafford's constants "Mix13").
"""

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)


def mix(*words) -> np.ndarray:
  """Hash of integer words.

  Args:
    *words: integers or integer arrays that broadcast, taken modulo 2^64. The
      order matters: mix(1, 2) and mix(2, 1) are unrelated. A result may be the
      first word of another mix.

  Returns:
    uint64 array of the broadcast shape (at least 1-d), uniform in [0, 2^64).
  """
  state = np.zeros(1, np.uint64)
  with np.errstate(over='ignore'):
    for word in words:
      if isinstance(word, int):
        word = np.uint64(word % 2**64)
      state = (state ^ np.asarray(word).astype(np.uint64)) + _GOLDEN
      state = (state ^ (state >> np.uint64(30))) * _FIRST
      state = (state ^ (state >> np.uint64(27))) * _SECOND
      state = state ^ (state >> np.uint64(31))
  return state


def uniform(bits: np.ndarray) -> np.ndarray:
  """float64 in [0, 1) from uint64 bits."""
  return (bits >> np.uint64(11)) * 2.0**-53


def below(bits: np.ndarray, bound) -> np.ndarray:
  """int64 in [0, bound) from uint64 bits, for 1 <= bound < 2^32.

  Values differ in probability by at most bound / 2^32 of it.
  """
  bound = np.asarray(bound).astype(np.uint64)
  return ((bits >> np.uint64(32)) * bound >> np.uint64(32)).astype(np.int64)


def heads(state: np.ndarray, tosses: np.ndarray) -> np.ndarray:
  """int64 number of heads in `tosses` fair coins: binomial(tosses, 1/2).

  Args:
    state: [n] uint64, one hash a row.
    tosses: [n] int64, >= 0.
  """
  total = np.zeros(tosses.shape, np.int64)
  rows = np.flatnonzero(tosses)
  word = 0
  while rows.size:
    left = tosses[rows] - 64 * word
    coins = mix(state[rows], word)
    # A shift by 64 is undefined, hence the minimum of 63 unused bits at most.
    unused = (64 - np.minimum(left, 64)).astype(np.uint64)
    total[rows] += np.bitwise_count(coins >> unused).astype(np.int64)
    rows = rows[left > 64]
    word += 1
  return total
