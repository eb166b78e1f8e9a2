"""SIGTERM and Ctrl-C: save, then leave with exit code 75.

A second Ctrl-C leaves at once, with what was saved before, and 130.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

from jaxlab.core.errors import Preempted

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_AT_ONCE = (
  b'jaxlab: stopped at once; the same command goes on from the last '
  b'checkpoint\n'
)
_asked = threading.Event()
_deferred = 0


def asked() -> bool:
  """Whether a signal to stop has arrived."""
  return _asked.is_set()


@contextlib.contextmanager
def handled() -> Iterator[None]:
  """Turns the signals into `Preempted`, at once outside of `deferred`."""

  def on_signal(number, frame):
    if _deferred and _asked.is_set() and number == signal.SIGINT:
      os.write(2, _AT_ONCE)
      os._exit(130)
    _asked.set()
    if not _deferred:
      raise Preempted(
        f'stopped by {signal.Signals(number).name}; the same command goes on'
      )

  old = {number: signal.signal(number, on_signal) for number in _SIGNALS}
  try:
    yield
  finally:
    _asked.clear()
    for number, handler in old.items():
      signal.signal(number, handler)


@contextlib.contextmanager
def deferred() -> Iterator[None]:
  """Within, signals only set the flag that `asked` reads."""
  global _deferred
  _deferred += 1
  try:
    yield
  finally:
    _deferred -= 1
