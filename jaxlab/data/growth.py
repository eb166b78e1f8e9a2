"""How much memory a file of somebody else's may ask for."""

from jaxlab.core.errors import InputError

_TIMES = 64  # of a file's size, to which its contents may unpack
_ANY = 2**28  # bytes that any file may unpack to


def limit(stored: int) -> int:
  """Bytes that a file of `stored` bytes may unpack to."""
  return max(_ANY, _TIMES * stored)


def check(what: object, stored: int, built: int) -> None:
  """Refuses a small file that would fill the memory, before it is read.

  Args:
    what: what messages call it.
    stored: bytes of the file.
    built: bytes that its contents would take.

  Raises:
    InputError: they are more than 64 times the file, and than 256 MiB.
  """
  if built > limit(stored):
    raise InputError(
      f'{what} has {stored / 2**20:.3g} MiB and its contents would have '
      f'{built / 2**20:.0f} MiB, more than {_TIMES} times as much: it is '
      'damaged or meant to fill the memory; write it anew'
    )
