"""One TCP connection from each process of a run to process 0.

Lines of JSON. Over it the processes find each other, exchange small values,
and hear of each other's end: a killed process is known at once, because the
system closes its connections; a machine that vanishes, after `timeout` seconds
without a word. JAX has a heartbeat of its own, but it aborts the process with
a C++ stack trace that does not name the one that is lost.

Imports no JAX. `hosts` is the door to this.
"""

import os
import selectors
import socket
import threading
import time
from typing import Any

from jaxlab.engine.errors import (
  HOST_LOST,
  HostLostError,
  InputError,
  OtherStopped,
)
from jaxlab.engine.peer import Peer, Place, connect, delay_aborts, listen

_GRACE = 5.0  # seconds to reach an error that another process reached first
_LINGER = 5.0  # seconds that process 0 waits for the others to go first


class Channel:
  """The connections of this process; returns when all have arrived.

  Args:
    place: this process; `count` is at least 2.
    command: a digest of what is run, the same in every process.
    timeout: seconds to wait for an arrival, and of silence.

  Raises:
    HostLostError: names the processes that did not arrive.
    InputError: the address cannot be used, or the processes do not fit.
  """

  def __init__(self, place: Place, command: str, timeout: float):
    self.place, self._command, self._timeout = place, command, timeout
    self.hosts: list[str] = []  # names of the machines, by process
    self.jax_port = 0  # of JAX's own coordinator, on the machine of process 0
    self._peers: dict[int, Peer] = {}
    self._ended: dict[int, tuple[int, str]] = {}  # index -> exit code, words
    self._values: dict[int, dict[int, tuple[str, Any]]] = {}
    self._asked = 0
    self._refused: Exception | None = None
    self._leaving = False
    self._changed = threading.Condition()
    self._selector = selectors.DefaultSelector()
    self._wake, self._woken = socket.socketpair()
    self._selector.register(self._woken, selectors.EVENT_READ, None)
    self._deadline = time.monotonic() + timeout
    if place.index == 0:
      self._listener = listen(place)
      self._selector.register(self._listener, selectors.EVENT_READ, None)
    else:
      self._greet()
    self._thread = threading.Thread(
      target=self._watch, name='jaxlab-channel', daemon=True
    )
    self._thread.start()
    try:
      self._await_roster()
    except Exception:
      self._stop()
      raise
    delay_aborts()

  def name(self, index: int) -> str:
    """'process 1 on HOST', as far as it is known."""
    known = index < len(self.hosts)
    return f'process {index}' + (f' on {self.hosts[index]}' if known else '')

  def gather(self, what: str, value: Any) -> list[Any]:
    """The values of all processes, by process; waits for the last.

    Raises:
      OtherStopped: a process has left with an error, or for good.
    """
    self._asked += 1
    number = self._asked
    if self.place.index == 0:
      self._put(number, 0, what, value)
    else:
      self._peers[0].send(gather=number, what=what, value=value)
    complete = lambda: len(self._values.get(number, ())) == self.place.count
    with self._changed:
      while not complete() and not self._ended:
        self._changed.wait()
      if not complete():
        raise self._other_stopped()
      found = self._values.pop(number)
    names = [found[i][0] for i in range(self.place.count)]
    for index, name in enumerate(names):
      if name != names[0]:
        raise RuntimeError(
          f'{self.name(index)} has come to "{name}", {self.name(0)} to '
          f'"{names[0]}": the processes do not run the same program'
        )
    return [found[i][1] for i in range(self.place.count)]

  def leave(self, code: int, words: str = '') -> None:
    """Says goodbye; process 0, on which the others hang, goes last."""
    with self._changed:
      if self._leaving:
        return
      self._leaving = True
    self._send_all(bye=code, of=self.place.index, words=words[:2000])
    if self.place.index == 0:
      self._await(lambda: not self._peers, _LINGER)
    self._stop()

  def await_verdict(self, seconds: float = 3.0) -> None:
    """Gives the watch a moment to find out what an error came from.

    It ends the process if another one is lost.
    """
    self._await(lambda: bool(self._ended), seconds)

  def _await(self, condition, seconds) -> bool:
    with self._changed:
      return self._changed.wait_for(condition, seconds)

  def _stop(self) -> None:
    with self._changed:
      self._leaving = True
    self._wake.send(b'.')
    self._thread.join(1.0)

  def _send_all(self, **message) -> None:
    for peer in list(self._peers.values()):
      peer.send(**message)

  # Arrival.

  def _greet(self) -> None:
    """Connects to process 0, as soon as it listens."""
    connection = connect(self.place, self._timeout)
    connection.settimeout(self._timeout)
    peer = Peer(connection, 0)
    self._peers[0] = peer
    self._selector.register(connection, selectors.EVENT_READ, peer)
    peer.send(
      hello=self.place.index,
      count=self.place.count,
      host=socket.gethostname(),
      command=self._command,
    )

  def _await_roster(self) -> None:
    # Process 0 knows who is missing, and says so a little earlier.
    extra = 0.0 if self.place.index == 0 else 2.0
    left = self._deadline - time.monotonic() + extra
    self._await(lambda: self.hosts or self._refused, left)
    if self._refused:
      raise self._refused
    if self.hosts:
      return
    if self.place.index:
      raise HostLostError(
        f'process 0 at {self.place.coordinator} did not call the roll within '
        f'{self._timeout:g} s'
      )
    missing = sorted({*range(1, self.place.count)} - {*self._peers})
    processes = 'process' if len(missing) == 1 else 'processes'
    words = (
      f'{processes} {", ".join(map(str, missing))} of {self.place.count} did '
      f'not arrive at {self.place.coordinator} within {self._timeout:g} s; '
      f'start {"it" if len(missing) == 1 else "them"} with --process_id, look '
      'at what their machines print, or raise --host_timeout'
    )
    self._send_all(refused=words, code=HOST_LOST)
    raise HostLostError(words)

  def _welcome(self, peer: Peer, message: dict[str, Any]) -> None:
    """Takes in a process that says hello to process 0, or refuses it."""
    index, host = message.get('hello'), str(message.get('host'))
    count = self.place.count
    if message.get('count') != count:
      words = (
        f'process {index} on {host} was started with --num_processes='
        f'{message.get("count")}, process 0 with {count}; give both the same'
      )
    elif not isinstance(index, int) or not 0 < index < count:
      words = f'--process_id={index} on {host} is not one of 1 … {count - 1}'
    elif index in self._peers or self.hosts:
      there = self._peers[index].host if index in self._peers else 'elsewhere'
      words = (
        f'a process with --process_id={index} has arrived from {there}, and '
        f'another one from {host}; end what an earlier run left'
      )
    elif message.get('command') != self._command:
      words = (
        f'process {index} on {host} was started with another config or other '
        'flags than process 0; give every process the same command'
      )
    else:
      peer.index, peer.host = index, host
      with self._changed:
        self._peers[index] = peer
      if len(self._peers) == count - 1:
        self._call_roll()
      return
    peer.send(refused=words, code=InputError.exit_code)
    self._drop(peer)

  def _call_roll(self) -> None:
    others = [self._peers[i].host for i in range(1, self.place.count)]
    with socket.socket() as probe:
      probe.bind(('', 0))  # the system knows a free port
      port = probe.getsockname()[1]
    roll = [socket.gethostname(), *others]
    self._send_all(roll=roll, jax_port=port)
    with self._changed:
      self.hosts, self.jax_port = roll, port
      self._changed.notify_all()

  # The watch: the only thread that reads.

  def _watch(self) -> None:
    pause = min(self._timeout / 5, 5.0)
    pinged = time.monotonic()
    while True:
      for key, _ in self._selector.select(pause / 2):
        if key.fileobj is self._woken:
          self._close()
          return
        if key.data is None:
          self._accept()
        else:
          self._read(key.data)
      now = time.monotonic()
      if now - pinged > pause:
        pinged = now
        self._send_all(ping=1)
      for peer in list(self._peers.values()):
        if now - peer.heard > self._timeout:
          self._gone(peer, f'not heard of for {self._timeout:g} s')

  def _accept(self) -> None:
    try:
      connection, _ = self._listener.accept()
    except OSError:
      return
    connection.settimeout(self._timeout)
    self._selector.register(connection, selectors.EVENT_READ, Peer(connection))

  def _read(self, peer: Peer) -> None:
    messages = peer.receive()
    for message in messages or ():
      if peer.index is None:
        self._welcome(peer, message)
      else:
        self._handle(peer, message)
    if messages is None:
      self._gone(peer, 'its connection closed: it was killed, or crashed')

  def _handle(self, peer: Peer, message: dict[str, Any]) -> None:
    if 'gather' in message:
      self._put(
        message['gather'], peer.index, message['what'], message['value']
      )
    elif 'values' in message:
      with self._changed:
        self._values[message['values']] = dict(enumerate(message['all']))
        self._changed.notify_all()
    elif 'roll' in message:
      with self._changed:
        self.hosts, self.jax_port = message['roll'], message['jax_port']
        self._changed.notify_all()
    elif 'refused' in message:
      kind = HostLostError if message['code'] == HOST_LOST else InputError
      with self._changed:
        self._refused = kind(message['refused'])
        self._changed.notify_all()
    elif 'bye' in message:
      self._hear_bye(message['of'], message['bye'], message['words'])
    elif 'lost' in message:
      self._end(message['lost'], HOST_LOST)

  def _put(self, number, index, what, value) -> None:
    """Process 0 collects what the processes give, and hands it to all."""
    with self._changed:
      given = self._values.setdefault(number, {})
      given[index] = (what, value)
      if len(given) < self.place.count:
        return
      self._changed.notify_all()
      everything = [given[i] for i in range(self.place.count)]
    self._send_all(values=number, all=everything)

  def _hear_bye(self, index: int, code: int, words: str) -> None:
    if index == self.place.index:
      return  # our own, handed on by process 0
    with self._changed:
      first = index not in self._ended
      self._ended.setdefault(index, (code, words))
      self._changed.notify_all()
    if not first:
      return
    if self.place.index == 0:
      self._send_all(bye=code, of=index, words=words)
    if code:
      threading.Thread(target=self._end_late, daemon=True).start()

  def _gone(self, peer: Peer, why: str) -> None:
    """A connection is at its end."""
    self._drop(peer)
    if peer.index is None or self._leaving or peer.index in self._ended:
      return
    if not self.hosts:  # before the roll: it may come again
      if peer.index == 0:
        with self._changed:
          self._refused = self._refused or HostLostError(
            f'process 0 at {self.place.coordinator} left before all had come'
          )
          self._changed.notify_all()
      return
    words = (
      f'lost {self.name(peer.index)}: {why}. All processes stop; the same '
      'command goes on from the last checkpoint'
    )
    self._send_all(lost=words)
    self._end(words, HOST_LOST)

  def _drop(self, peer: Peer) -> None:
    with self._changed:
      if peer.index is not None and self._peers.get(peer.index) is peer:
        del self._peers[peer.index]
      self._changed.notify_all()
    self._selector.unregister(peer.connection)
    peer.connection.close()

  def _close(self) -> None:
    for key in list(self._selector.get_map().values()):
      self._selector.unregister(key.fileobj)
      key.fileobj.close()  # type: ignore[union-attr]
    self._wake.close()

  # The end.

  def _other_stopped(self) -> OtherStopped:
    for index, (code, words) in sorted(self._ended.items()):
      if code:
        return OtherStopped(f'{self.name(index)} stopped: {words}', code)
    return OtherStopped(f'{self.name(min(self._ended))} has ended', 1)

  def _end_late(self) -> None:
    """Ends the process unless it comes to its own end in a moment."""
    if not self._await(lambda: self._leaving, _GRACE):
      error = self._other_stopped()
      self._end(str(error), error.exit_code)

  def _end(self, words: str, code: int) -> None:
    """Ends the process, whatever its main thread waits for."""
    with self._changed:
      if self._leaving and code == HOST_LOST:
        return
    # Not sys.stderr: the main thread may hold its lock.
    text = f'jaxlab: {self.name(self.place.index)}: {words}\n'
    os.write(2, text.encode())
    if self.place.index == 0:
      self._linger()
    os._exit(code)

  def _linger(self, seconds: float = 1.0) -> None:
    """Where process 0 goes first, JAX aborts the others on the spot."""
    if threading.current_thread() is not self._thread:
      self._await(lambda: not self._peers, seconds)
      return
    until = time.monotonic() + seconds
    while self._peers and time.monotonic() < until:
      for key, _ in self._selector.select(0.1):
        if isinstance(key.data, Peer) and key.data.receive() is None:
          self._drop(key.data)
