"""Processes that find each other, exchange values, and hear of an end.

No JAX here: most tests are threads with a Channel each; where a process has
to die, `python -c` without JAX, which starts in a moment.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from jaxlab.engine.channel import Channel
from jaxlab.engine.errors import HostLostError, InputError, OtherStopped
from jaxlab.engine.peer import Place

ROOT = Path(__file__).parents[2]
HOST = socket.gethostname()


def free_address():
  with socket.socket() as probe:
    probe.bind(('127.0.0.1', 0))
    return f'127.0.0.1:{probe.getsockname()[1]}'


@pytest.fixture(autouse=True)
def aborts_as_before():
  yield
  signal.signal(signal.SIGABRT, signal.SIG_DFL)


@contextlib.contextmanager
def pod(places, commands=None, timeout=20.0, end=True):
  """A Channel for each place, or the exception that it raised."""

  def join(place, command):
    try:
      return Channel(place, command, timeout)
    except Exception as error:
      return error

  with ThreadPoolExecutor(len(places)) as pool:
    commands = commands or ['same'] * len(places)
    joined = list(pool.map(join, places, commands))
    try:
      yield joined
    finally:
      channels = [c for c in joined if isinstance(c, Channel)]
      if end:
        list(pool.map(lambda channel: channel.leave(0), channels))


def places(count, address=None):
  address = address or free_address()
  return [Place(address, count, index) for index in range(count)]


def at_once(*calls):
  with ThreadPoolExecutor(len(calls)) as pool:
    futures = [pool.submit(call) for call in calls]
    return [future.exception() or future.result() for future in futures]


def test_every_process_gets_the_values_of_all_in_order():
  with pod(places(3)) as channels:

    def say(channel):
      index = channel.place.index
      return [
        channel.gather('n', [index, {'round': n}, None]) for n in range(50)
      ]

    answers = at_once(*(lambda c=c: say(c) for c in channels))
    wanted = [[[i, {'round': n}, None] for i in range(3)] for n in range(50)]
    assert answers == [wanted] * 3
    assert {tuple(c.hosts) for c in channels} == {(HOST,) * 3}
    assert len({c.jax_port for c in channels}) == 1


def test_a_value_of_a_megabyte_is_too_much_for_nobody_below_it():
  text = 'x' * 500_000
  with pod(places(2)) as (a, b):
    got = at_once(lambda: a.gather('t', text), lambda: b.gather('t', text))
    assert got == [[text, text]] * 2


def test_processes_at_different_meetings_are_told_so():
  with pod(places(2)) as (a, b):
    for error in at_once(lambda: a.gather('x', 1), lambda: b.gather('y', 1)):
      assert isinstance(error, RuntimeError)
      assert f'process 1 on {HOST} has come to "y", process 0' in str(error)


def test_a_process_that_does_not_arrive_is_named_to_all_that_did():
  began = time.monotonic()
  with pod(places(4)[:2], timeout=1.0) as errors:
    for error in errors:
      assert isinstance(error, HostLostError)
      assert error.exit_code == 76
      assert 'processes 2, 3 of 4 did not arrive at 127.0.0.1:' in str(error)
      assert 'within 1 s' in str(error)
  assert 1.0 <= time.monotonic() - began < 4.0


def test_a_first_process_that_does_not_arrive_is_named():
  with pod(places(2)[1:], timeout=0.5) as [error]:
    assert isinstance(error, HostLostError)
    assert 'process 0 did not arrive within 0.5 s: nothing answers' in str(
      error
    )


@pytest.mark.parametrize(
  'who, command, message',
  [
    (Place('', 3, 1), 'same', '--num_processes=3, process 0 with 2'),
    (Place('', 2, 2), 'same', '--process_id=2 on .* is not one of 1 … 1'),
    (Place('', 2, 1), 'other', 'another config or other flags than process 0'),
  ],
)
def test_a_process_that_does_not_fit_is_refused(who, command, message):
  first, _ = places(2)
  who = Place(first.coordinator, who.count, who.index)
  with pod([first, who], ['same', command], timeout=1.0) as (lost, refused):
    assert isinstance(lost, HostLostError)
    with pytest.raises(InputError, match=message):
      raise refused


def test_a_second_process_of_the_same_number_is_refused():
  there = places(2)
  with pod([*there, there[1]], timeout=5.0) as joined:
    [refused] = [x for x in joined if not isinstance(x, Channel)]
    assert isinstance(refused, InputError)
    assert 'a process with --process_id=1 has arrived' in str(refused)


def test_an_address_in_use_is_an_input_error():
  with socket.socket() as other:
    other.bind(('127.0.0.1', 0))
    other.listen()
    address = f'127.0.0.1:{other.getsockname()[1]}'
    with pod([Place(address, 2, 0)], timeout=1.0) as [error]:
      assert isinstance(error, InputError)
      assert f'cannot listen at --coordinator={address}' in str(error)


def test_strangers_at_the_port_are_ignored():
  address = free_address()

  def knock():
    for text in (b'GET / HTTP/1.1\r\n\r\n', b'[1]\n', b'{"hello": "x"}\n', b''):
      for _ in range(100):
        with contextlib.suppress(ConnectionRefusedError):
          with socket.create_connection(tuple_of(address), 5) as stranger:
            stranger.sendall(text)
          break
        time.sleep(0.02)

  thread = threading.Thread(target=knock)
  thread.start()
  with ThreadPoolExecutor(2) as pool:
    first = pool.submit(Channel, Place(address, 2, 0), 'same', 20.0)
    thread.join()
    second = pool.submit(Channel, Place(address, 2, 1), 'same', 20.0)
    a, b = first.result(), second.result()
    got = at_once(lambda: a.gather('g', 1), lambda: b.gather('g', 2))
    assert got == [[1, 2]] * 2
    list(pool.map(lambda channel: channel.leave(0), (a, b)))


def tuple_of(address):
  host, port = address.split(':')
  return host, int(port)


def test_an_error_in_one_process_ends_the_others_with_its_code():
  with pod(places(3)) as channels:
    waiting = [
      threading.Thread(target=lambda c=c: errors.append(wait(c)))
      for c in channels[:2]
    ]
    errors = []

    def wait(channel):
      try:
        channel.gather('never complete', 0)
      except OtherStopped as error:
        channel.leave(error.exit_code, str(error))
        return error

    for thread in waiting:
      thread.start()
    channels[2].leave(2, 'the file x is missing')
    for thread in waiting:
      thread.join(20)
    assert [error.exit_code for error in errors] == [2, 2]
    for error in errors:
      assert f'process 2 on {HOST} stopped: the file x is missing' in str(error)


PROGRAM = """if True:
  import ctypes, sys, time
  from jaxlab.engine import hosts
  from jaxlab.engine.errors import InputError, OtherStopped
  _, coordinator, count, index, timeout, what = sys.argv
  place = hosts.place(coordinator, int(count), int(index))
  try:
    with hosts.joined(place, {}, float(timeout)):
      print('joined', flush=True)
      if index == '1':
        if what == 'raises':
          raise ValueError('no such thing')
        if what == 'fails':
          raise InputError('a file is missing')
        if what == 'aborts':
          ctypes.CDLL(None).abort()
        time.sleep(1000)  # as a main thread does that waits for a device
      if what == 'fails':
        time.sleep(1000)
      hosts.meet('never')
  except (InputError, OtherStopped) as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
"""


@contextlib.contextmanager
def processes(count, timeout, what='waits'):
  address = free_address()
  started = [
    subprocess.Popen(
      [
        sys.executable,
        '-c',
        PROGRAM,
        address,
        str(count),
        str(i),
        str(timeout),
        what,
      ],
      cwd=ROOT,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for i in range(count)
  ]
  try:
    for process in started:
      assert process.stdout.readline() == 'joined\n', process.stderr.read()
    yield started
  finally:
    for process in started:
      process.kill()
      process.communicate()


@pytest.mark.parametrize('victim', [0, 1, 2])
def test_a_killed_process_is_named_by_all_others_at_once(victim):
  with processes(3, timeout=60) as started:
    began = time.monotonic()
    started[victim].kill()
    for index, process in enumerate(started):
      message = process.communicate(timeout=30)[1]
      if index != victim:
        assert process.returncode == 76, message
        assert f'process {index} on {HOST}: lost process {victim} on' in message
        assert 'its connection closed: it was killed, or crashed' in message
    # The time limit is 60 s; the system closes a dead process's connections.
    assert time.monotonic() - began < 10


@pytest.mark.parametrize('victim', [0, 1])
def test_a_process_that_falls_silent_is_named_after_the_time_limit(victim):
  with processes(2, timeout=2) as started:
    began = time.monotonic()
    os.kill(started[victim].pid, signal.SIGSTOP)
    other = started[1 - victim]
    message = other.communicate(timeout=30)[1]
    assert other.returncode == 76
    assert f'lost process {victim} on {HOST}: not heard of for 2 s' in message
    assert 1.5 < time.monotonic() - began < 15


def test_an_abort_waits_for_the_watch_to_say_who_was_lost():
  # As JAX's client does within milliseconds of the death of process 0.
  with processes(2, timeout=60, what='aborts') as started:
    time.sleep(0.3)
    assert started[1].poll() is None
    started[0].kill()
    message = started[1].communicate(timeout=30)[1]
    assert started[1].returncode == 76, message
    assert f'lost process 0 on {HOST}: its connection closed' in message


def test_an_abort_of_its_own_is_one_and_the_others_name_the_process():
  with processes(2, timeout=60, what='aborts') as started:
    message = started[0].communicate(timeout=30)[1]
    assert started[0].returncode == 76
    assert f'lost process 1 on {HOST}' in message
    assert started[1].wait(10) == -signal.SIGABRT


def test_an_exception_in_one_process_is_told_to_those_that_wait_for_it():
  with processes(2, timeout=60, what='raises') as started:
    message = started[0].communicate(timeout=30)[1]
    assert started[0].returncode == 1
    assert f'process 1 on {HOST} stopped: no such thing' in message
    assert 'ValueError: no such thing' in started[1].communicate()[1]


def test_an_error_in_one_process_ends_others_that_wait_for_a_device():
  with processes(2, timeout=60, what='fails') as started:
    began = time.monotonic()
    message = started[0].communicate(timeout=60)[1]
    assert started[0].returncode == 2
    assert f'process 1 on {HOST} stopped: a file is missing' in message
    # They have five seconds to come to the same error by themselves.
    assert 4 < time.monotonic() - began < 30
    assert started[1].wait(10) == 2
