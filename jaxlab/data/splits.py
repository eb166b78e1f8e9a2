"""Splits of what comes without any."""

import hashlib
from collections.abc import Callable, Iterable


def sha256(key: str) -> bytes:
  """A rank of keys that has nothing to do with what they are."""
  return hashlib.sha256(key.encode()).digest()


def tenths(
  keys: Iterable[str], least: int = 0, rank: Callable[[str], object] = sha256
) -> dict[str, list[str]]:
  """A tenth of different keys as `test`, a tenth as `validation`, and `train`.

  They are taken in the order of a hash of each, so that a key's split hardly
  depends on the others.

  Args:
    least: keys of a tenth.
  """
  ranked = sorted(set(keys), key=rank)  # type: ignore[arg-type]
  held = max(least, round(len(ranked) / 10))
  return {
    'test': ranked[:held],
    'validation': ranked[held : 2 * held],
    'train': ranked[2 * held :],
  }
