"""The processes of one run: who this one is, and what all of them decide.

One process is the ordinary case: then nothing here waits or sends. Several
share one workdir; process 0, the leader, alone writes what there is one of
(config.json, metrics.jsonl, report.json, figures) and talks to people.

Imports no JAX: processes find each other, and miss each other, before it is
loaded.
"""

import contextlib
import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from jaxlab.engine.channel import Channel
from jaxlab.engine.errors import InputError
from jaxlab.engine.peer import Place

AGREE_SECONDS = 1.0  # between two exchanges of wishes in a loop
_ENVIRONMENT = ('COORDINATOR', 'NUM_PROCESSES', 'PROCESS_ID')

_channel: Channel | None = None
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

  Args:
    command: JSON of what is run, the same in all processes.
    timeout: seconds to wait for an arrival, and of silence. A process that is
      killed is noticed at once, a machine that vanishes after this time; then
      every other process ends with exit code 76, whatever it waits for.

  Raises:
    HostLostError: names the processes that did not arrive.
  """
  global _channel, _label
  if here.count == 1:
    yield
    return
  if timeout <= 0:
    raise InputError(f'--host_timeout={timeout} is not a number of seconds > 0')
  _label = f'jaxlab: process {here.index}'
  text = json.dumps(command, sort_keys=True, default=str)
  digest = hashlib.sha256(text.encode()).hexdigest()
  _channel = Channel(here, digest, timeout)
  try:
    yield
  except BaseException as error:
    if not hasattr(error, 'exit_code'):
      # Perhaps what the loss of another process looks like from here.
      _channel.await_verdict()
    _channel.leave(getattr(error, 'exit_code', 1), str(error))
    raise
  else:
    _channel.leave(0)
  finally:
    _channel = None


def label() -> str:
  """How lines of this process begin: 'jaxlab', 'jaxlab: process 1'."""
  return _label


def index() -> int:
  """The number of this process."""
  return _channel.place.index if _channel else 0


def count() -> int:
  """The number of processes."""
  return _channel.place.count if _channel else 1


def leads() -> bool:
  """Whether this is process 0, which writes and speaks for all."""
  return index() == 0


def names() -> list[str]:
  """The machine of each process."""
  return list(_channel.hosts) if _channel else [os.uname().nodename]


def coordinator() -> str:
  """HOST:PORT for JAX's own service on the machine of process 0."""
  assert _channel
  host = _channel.place.coordinator.rpartition(':')[0]
  return f'{host}:{_channel.jax_port}'


def gather(what: str, value: Any) -> list[Any]:
  """The values (JSON) of all processes, in order; each waits for the last.

  Args:
    what: a name for this meeting, the same in all processes.
  """
  return _channel.gather(what, value) if _channel else [value]


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
