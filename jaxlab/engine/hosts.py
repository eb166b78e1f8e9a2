"""The processes of one run: who this one is, and what all of them decide.

One process is the ordinary case: then nothing here waits or sends, and JAX is
not loaded. Several are joined by `jax.distributed`: its coordination service
runs in process 0, tells every process who is lost, and holds the small values
that they exchange. They share one workdir; process 0, the leader, alone writes
what there is one of (config.json, metrics.jsonl, report.json, figures) and
talks to people.
"""

import contextlib
import hashlib
import json
import math
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from jaxlab.core.errors import (
  HOST_LOST,
  HostLostError,
  InputError,
  OtherStopped,
)

AGREE_SECONDS = 1.0  # between two exchanges of wishes in a loop
_GRACE = 3.0  # seconds to hear why a collective failed, or to be heard
_ENVIRONMENT = ('COORDINATOR', 'NUM_PROCESSES', 'PROCESS_ID')
# How JAX says that the other end of a collective is gone.
_LOST = re.compile(
  r'Gloo|NCCL|UNAVAILABLE|ABORTED|heartbeat|coordination|[Cc]onnection (closed|'
  r'reset)'
)


@dataclass(frozen=True)
class Place:
  """Where this process stands among those of the run."""

  coordinator: str = ''  # HOST:PORT of process 0
  count: int = 1
  index: int = 0


_group: '_Group | None' = None
_label = 'jaxlab'


def place(
  coordinator: str = '', count: int | None = None, index: int | None = None
) -> Place:
  """From flags, or else from JAXLAB_COORDINATOR, JAXLAB_NUM_PROCESSES and
  JAXLAB_PROCESS_ID; one process where none of them is given.

  Raises:
    InputError: some are given and others are not, or they make no sense.
  """
  given: list[Any] = [coordinator or None, count, index]
  for i, name in enumerate(_ENVIRONMENT):
    text = os.environ.get(f'JAXLAB_{name}')
    if given[i] is None and text:
      if i and not re.fullmatch(r'\d+', text):
        raise InputError(f'JAXLAB_{name}={text} is not a whole number')
      given[i] = int(text) if i else text
  flags = [f'--{name.lower()}' for name in _ENVIRONMENT]
  missing = [flag for flag, value in zip(flags, given) if value is None]
  if len(missing) == 3:
    return Place()
  if missing:
    raise InputError(
      f'{" and ".join(missing)} missing: several processes need all of '
      f'{", ".join(flags)}'
    )
  where, of, me = given
  if not re.fullmatch(r'.+:\d{1,5}', where):
    raise InputError(
      f'--coordinator={where} is not HOST:PORT of process 0, such as '
      '10.0.0.1:8476'
    )
  if of < 1 or not 0 <= me < of:
    raise InputError(
      f'--process_id={me} of --num_processes={of}: ids go from 0 to '
      f'{max(of, 1) - 1}'
    )
  return Place(where, of, me)


@contextlib.contextmanager
def joined(here: Place, command: Any, timeout: float) -> Iterator[None]:
  """Within, this process belongs with the others of its run.

  Must come before JAX looks for devices, which are then those of all processes.

  Args:
    command: JSON of what is run, the same in all processes.
    timeout: seconds to wait for an arrival, and of silence. Where a process is
      lost, an operation on devices fails at once in the others, which raise
      HostLostError; JAX aborts those that wait for something else (SIGABRT,
      134), for process 0 at once and for another after `timeout` seconds.

  Raises:
    InputError: the address cannot be used, or another command was given.
    HostLostError: a process was lost.
    OtherStopped: another process ended with an error of its own.
  """
  global _group, _label
  if here.count == 1:
    yield
    return
  if timeout <= 0:
    raise InputError(f'--host_timeout={timeout} is not a number of seconds > 0')
  _label = f'jaxlab: process {here.index}'
  _group = _Group(here, timeout)
  try:
    _group.call_roll(command)
    yield
    _group.shutdown()
  except BaseException as error:
    cause = _group.cause_of(error)
    _group.leave(getattr(cause, 'exit_code', 1), str(cause))
    if cause is error:
      raise
    raise cause from error
  finally:
    _group = None


def label() -> str:
  """How lines of this process begin: 'jaxlab', 'jaxlab: process 1'."""
  return _label


def index() -> int:
  """The number of this process."""
  return _group.place.index if _group else 0


def count() -> int:
  """The number of processes."""
  return _group.place.count if _group else 1


def leads() -> bool:
  """Whether this is process 0, which writes and speaks for all."""
  return index() == 0


def names() -> list[str]:
  """The machine of each process."""
  return list(_group.hosts) if _group else [socket.gethostname()]


def gather(what: str, value: Any) -> list[Any]:
  """The values (JSON) of all processes, in order; each waits for the last.

  Args:
    what: a name for this meeting, the same in all processes.
  """
  return _group.gather(what, value) if _group else [value]


def meet(what: str) -> None:
  """Returns when all processes have come here."""
  gather(what, None)


def share(what: str, make: Callable[[], Any]) -> Any:
  """`make()` of the leader (JSON), in every process."""
  return gather(what, make() if leads() else None)[0]


class Agreement:
  """Wishes of single processes, made decisions of all at the same step.

  One process decides at every step. Several exchange wishes at steps that all
  of them know beforehand, about `seconds` apart: so long, and one step, may
  pass until a signal is heeded or a save is made.
  """

  def __init__(
    self,
    what: str,
    seconds: float = AGREE_SECONDS,
    clock: Callable[[], float] = time.monotonic,
  ):
    self._what, self._seconds, self._clock = what, seconds, clock
    self._next, self._then, self._span = 0, 0.0, 0

  def __call__(self, step: int, **wishes: bool) -> Mapping[str, bool]:
    """For each wish, whether any process has it; all False in between."""
    if count() == 1:
      return wishes
    if self._span and step < self._next:
      return dict.fromkeys(wishes, False)
    said = gather(self._what, [self._wanted(), wishes])
    self._span = said[0][0]
    self._next, self._then = step + self._span, self._clock()
    return {name: any(w[name] for _, w in said) for name in wishes}

  def _wanted(self) -> int:
    """Steps until the next exchange: at most twice as many as the last."""
    if not self._span:
      return 1
    pace = (self._clock() - self._then) / self._span
    fitting = int(self._seconds / max(pace, 1e-9))
    return max(1, min(2 * self._span, fitting))


class _Group:
  """This process's part in JAX's coordination service."""

  def __init__(self, place: Place, timeout: float):
    self.place, self.hosts = place, [socket.gethostname()]
    self._asked = 0
    local = place.coordinator.startswith(('127.', 'localhost:', '[::1]:'))
    if place.index == 0:
      _check_free(place.coordinator, local)
    import jax

    # Its service would take SIGTERM away from `preemption`.
    jax.config.update('jax_enable_preemption_service', False)
    # JAX's own end of a failed arrival is an abort.
    late = threading.Timer(timeout, self._give_up, [timeout])
    late.daemon = True
    late.start()
    jax.distributed.initialize(
      place.coordinator,
      place.count,
      place.index,
      cluster_detection_method='deactivate',
      coordinator_bind_address=place.coordinator if local else None,
      initialization_timeout=math.ceil(timeout) + 60,
      heartbeat_timeout_seconds=math.ceil(timeout),
      shutdown_timeout_seconds=math.ceil(timeout),
    )
    late.cancel()
    # Not public in JAX. `multihost_utils` exchanges values by collectives of
    # the devices: these wait for the steps in hand, and cannot give up.
    from jax._src import distributed

    self._client: Any = distributed.global_state.client

  def _give_up(self, timeout: float) -> None:
    os.write(
      2,
      f'{_label}: not all of the {self.place.count} processes have arrived at '
      f'{self.place.coordinator} within {timeout:g} s; start each with its '
      '--process_id, look at what their machines print, or raise '
      '--host_timeout\n'.encode(),
    )
    os._exit(HOST_LOST)

  def call_roll(self, command: Any) -> None:
    """Learns the machines' names, and that all run the same command."""
    text = json.dumps(command, sort_keys=True, default=str)
    digest = hashlib.sha256(text.encode()).hexdigest()
    said = self.gather('roll', [self.hosts[0], digest])
    self.hosts = [host for host, _ in said]
    for i, (host, other) in enumerate(said):
      if other != said[0][1]:
        raise InputError(
          f'process {i} on {host} was started with another config or other '
          'flags than process 0; give every process the same command'
        )

  def gather(self, what: str, value: Any) -> list[Any]:
    """The values of all processes, by process; waits for the last.

    The leader reads them and hands on one list: at a thousand hosts, each
    reading all would be a million reads.
    """
    self._asked += 1
    me, key = self.place.index, f'jaxlab/{self._asked}'
    self._client.key_value_set(f'{key}/of/{me}', json.dumps([what, value]))
    if me == 0:
      said = self._collect(f'{key}/of/')
      self._client.key_value_set(f'{key}/all', json.dumps(said))
    else:
      said = json.loads(self._wait(f'{key}/all'))
    # Whoever has come here has read all of the meeting before.
    for old in (f'of/{me}', *(['all'] if me == 0 else [])):
      self._client.key_value_delete(f'jaxlab/{self._asked - 1}/{old}')
    for i, (name, _) in enumerate(said):
      if name != said[0][0]:
        raise RuntimeError(
          f'process {i} on {self.hosts[i]} has come to "{name}", process 0 to '
          f'"{said[0][0]}": the processes do not run the same program'
        )
    return [value for _, value in said]

  def _collect(self, folder: str) -> list[Any]:
    while True:
      there = dict(self._client.key_value_dir_get(folder))
      keys = [f'{folder}{i}' for i in range(self.place.count)]
      missing = [key for key in keys if key not in there]
      if not missing:
        return [json.loads(there[key]) for key in keys]
      self._wait(missing[0])

  def _wait(self, key: str) -> str:
    from jax.errors import JaxRuntimeError

    while True:
      try:
        # By the second, to hear of a process that will not come.
        return self._client.blocking_key_value_get(key, 1000)
      except JaxRuntimeError as error:
        if 'DEADLINE_EXCEEDED' not in str(error):
          raise
        if stopped := self._stopped():
          raise stopped from None

  def _stopped(self) -> OtherStopped | None:
    """The first of the others that has said goodbye."""
    for key, text in sorted(self._client.key_value_dir_get('jaxlab/left/')):
      i = int(key.rpartition('/')[2])
      if i != self.place.index:
        code, words = json.loads(text)
        return OtherStopped(
          f'process {i} on {self.hosts[i]} stopped: {words}', code
        )
    return None

  def cause_of(self, error: BaseException) -> BaseException:
    """What an error came from: here, or the end of another process."""
    first = error
    while first.__cause__:
      first = first.__cause__
    of_jax = isinstance(first, (ValueError, RuntimeError))
    if hasattr(first, 'exit_code') or not of_jax:
      return error
    if not _LOST.search(str(first)):
      return error
    until = time.monotonic() + _GRACE
    while time.monotonic() < until:
      try:
        if stopped := self._stopped():
          return stopped
      except Exception:
        break  # the service is lost, too
      time.sleep(0.1)
    said = ' '.join(str(first).split())[:300]
    return HostLostError(
      f'lost another process ({said}); all processes stop, and the same '
      'command goes on from the last checkpoint'
    )

  def leave(self, code: int, words: str) -> None:
    """Says goodbye; process 0, whose end aborts the others, goes last."""
    with contextlib.suppress(Exception):  # what matters is the error
      self._client.key_value_set(
        f'jaxlab/left/{self.place.index}', json.dumps([code, words[:2000]])
      )
      left, until = 0, time.monotonic() + _GRACE
      while self.place.index == 0 and time.monotonic() < until:
        time.sleep(0.2)  # time to read this, for the last one too
        if left == self.place.count:
          break
        left = len(self._client.key_value_dir_get('jaxlab/left/'))

  def shutdown(self) -> None:
    """Leaves the service, when all are done."""
    import jax

    self.gather('the end', None)
    jax.distributed.shutdown()


def _check_free(coordinator: str, local: bool) -> None:
  """JAX crashes where the port is taken."""
  host, _, port = coordinator.rpartition(':')
  family = socket.AF_INET6 if ':' in host else socket.AF_INET
  here = host.strip('[]') if local else ''
  try:
    socket.create_server((here, int(port)), family=family).close()
  except OSError as error:
    raise InputError(
      f'process 0 cannot listen at --coordinator={coordinator} '
      f'({error.strerror or error}); choose another port'
    ) from error
