"""The other end of a connection, and how to make one; no JAX.

See `channel`, which uses them.
"""

import ctypes
import errno
import json
import signal
import socket
import threading
import time
from dataclasses import dataclass
from typing import Any

from jaxlab.engine.errors import HostLostError, InputError

_LINE = 2**20  # bytes; no message is longer


@dataclass(frozen=True)
class Place:
  """Where this process stands among those of the run."""

  coordinator: str = ''  # HOST:PORT of process 0
  count: int = 1
  index: int = 0

  @property
  def address(self) -> tuple[str, int]:
    """The coordinator's host and port."""
    host, _, port = self.coordinator.rpartition(':')
    return host.strip('[]'), int(port)


class Peer:
  """A connection, and what is known of the process at its other end."""

  def __init__(self, connection: socket.socket, index: int | None = None):
    self.connection, self.index = connection, index
    self.host, self.heard = '', time.monotonic()
    self._left, self._sending = b'', threading.Lock()

  def send(self, **message) -> None:
    try:
      with self._sending:
        self.connection.sendall(json.dumps(message).encode() + b'\n')
    except OSError:
      pass  # the reading side notices, and knows what to do

  def receive(self) -> list[dict[str, Any]] | None:
    """The messages that have arrived; None at the end of the connection."""
    try:
      data = self.connection.recv(2**16)
    except OSError:
      return None
    self.heard = time.monotonic()
    *lines, self._left = (self._left + data).split(b'\n')
    try:
      messages = [json.loads(line) for line in lines]
    except ValueError:
      return None
    if not data or len(self._left) > _LINE:
      return None
    return [m for m in messages if isinstance(m, dict)]


def listen(place: Place) -> socket.socket:
  host, port = place.address
  family = socket.AF_INET6 if ':' in host else socket.AF_INET
  try:
    try:
      return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
      if error.errno == errno.EADDRINUSE:
        raise
      # The name of a service or a router: listen on all of our own.
      return socket.create_server(('', port), backlog=1024)
  except OSError as error:
    raise InputError(
      f'process 0 cannot listen at --coordinator={place.coordinator} '
      f'({error.strerror or error}); choose another port'
    ) from error


def connect(place: Place, timeout: float) -> socket.socket:
  """A connection to process 0, as soon as it listens.

  Raises:
    HostLostError: it does not within `timeout` seconds.
  """
  deadline = time.monotonic() + timeout
  while True:
    left = deadline - time.monotonic()
    try:
      return socket.create_connection(place.address, max(left, 0.1))
    except OSError as error:
      if left <= 0.2:
        raise HostLostError(
          f'process 0 did not arrive within {timeout:g} s: nothing '
          f'answers at {place.coordinator} ({error}); start it with '
          '--process_id=0, or raise --host_timeout'
        ) from error
      time.sleep(0.1)


def delay_aborts() -> None:
  """An abort waits six seconds, for the watch to say first what happened.

  When process 0 dies, JAX's C++ client aborts the others within milliseconds.
  SIGABRT's handler is called with its number, 6: so let it be C's `sleep`,
  which needs no Python and may be called from a handler.
  """
  try:
    libc = ctypes.CDLL(None)
    libc.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
    libc.signal.restype = ctypes.c_void_p
    libc.signal(
      int(signal.SIGABRT), ctypes.cast(libc.sleep, ctypes.c_void_p).value
    )
  except AttributeError:
    pass  # another C library: the abort may come first
