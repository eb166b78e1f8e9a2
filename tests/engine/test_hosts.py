"""Who this process is, and how wishes become decisions of all."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from jaxlab.core.errors import (
  HostLostError,
  InputError,
  OtherStopped,
  Preempted,
)
from jaxlab.engine import hosts
from jaxlab.engine.hosts import Place
from jaxlab.runs import workdir
from tests import runs

HOST = socket.gethostname()


def test_one_process_is_the_leader_and_asks_nobody():
  with hosts.joined(hosts.place(), {}, 60.0):
    assert (hosts.index(), hosts.count(), hosts.leads()) == (0, 1, True)
    assert hosts.gather('x', 7) == [7]
    assert hosts.share('x', lambda: 'made') == 'made'
    hosts.meet('x')
    assert hosts.label() == 'jaxlab'
    agree = hosts.Agreement('x')
    for step in range(3):
      assert agree(step, stop=True, save=False) == {'stop': True, 'save': False}


def test_a_place_comes_from_flags_before_the_environment(monkeypatch):
  assert hosts.place('h:1', 4, 2) == Place('h:1', 4, 2)
  monkeypatch.setenv('JAXLAB_COORDINATOR', '[::1]:8476')
  monkeypatch.setenv('JAXLAB_NUM_PROCESSES', '3')
  monkeypatch.setenv('JAXLAB_PROCESS_ID', '0')
  assert hosts.place() == Place('[::1]:8476', 3, 0)
  assert hosts.place(index=2) == Place('[::1]:8476', 3, 2)


@pytest.mark.parametrize(
  'given, message',
  [
    (('h:1', None, 0), '--num_processes missing'),
    (('', 2, None), '--coordinator and --process_id missing'),
    (('h', 2, 0), '--coordinator=h is not HOST:PORT'),
    (('h:1', 2, 2), '--process_id=2 of --num_processes=2: ids go from 0 to 1'),
    (('h:1', 2, -1), '--process_id=-1 of --num_processes=2'),
    (('h:1', 0, 0), '--process_id=0 of --num_processes=0'),
  ],
)
def test_a_place_that_makes_no_sense_is_an_input_error(given, message):
  with pytest.raises(InputError, match=message):
    hosts.place(*given)


def test_an_environment_that_makes_no_sense_is_an_input_error(monkeypatch):
  monkeypatch.setenv('JAXLAB_PROCESS_ID', 'one')
  with pytest.raises(InputError, match='JAXLAB_PROCESS_ID=one is not a whole'):
    hosts.place()


def test_a_timeout_of_nothing_is_an_input_error():
  with (
    pytest.raises(InputError, match='--host_timeout=0 is not a number'),
    hosts.joined(Place('127.0.0.1:1', 2, 0), {}, 0),
  ):
    pass


class Others:
  """Stands for another process: what it wants, and when it was asked."""

  def __init__(self, monkeypatch, pace):
    self.wishes, self.asked, self.now = {}, [], 0.0
    self.pace = pace
    monkeypatch.setattr(hosts, 'count', lambda: 2)
    monkeypatch.setattr(hosts, 'gather', self.gather)

  def gather(self, what, value):
    assert what == 'loop'
    self.asked.append(self.step)
    span, mine = value
    # The second process wants another span; the leader's counts.
    return [value, [99 * span, {**dict.fromkeys(mine, False), **self.wishes}]]

  def run(self, steps, agree, wish_at=None, **wishes):
    """Steps at which a wish came true."""
    heeded = []
    for self.step in range(*steps):
      if self.step == wish_at:
        self.wishes = wishes
      if any(agree(self.step, stop=False, save=False).values()):
        heeded.append(self.step)
        self.wishes = {}
      self.now += self.pace
    return heeded


def test_wishes_are_exchanged_about_once_a_second(monkeypatch):
  others = Others(monkeypatch, pace=0.1)
  agree = hosts.Agreement('loop', seconds=1.0, clock=lambda: others.now)
  others.run((100, 160), agree)
  # 1, 2, 4, 8 steps apart, then the ten that fit into a second (0.1 + … + 0.1
  # may come to a little more than that).
  assert others.asked[:5] == [100, 101, 103, 107, 115]
  gaps = [b - a for a, b in zip(others.asked[4:], others.asked[5:])]
  assert gaps and set(gaps) <= {9, 10}


def test_slow_steps_are_each_followed_by_an_exchange(monkeypatch):
  others = Others(monkeypatch, pace=3.0)
  agree = hosts.Agreement('loop', seconds=1.0, clock=lambda: others.now)
  others.run((0, 6), agree)
  assert others.asked == [0, 1, 2, 3, 4, 5]


def test_a_wish_of_another_process_is_heeded_at_the_next_exchange(monkeypatch):
  others = Others(monkeypatch, pace=0.1)
  agree = hosts.Agreement('loop', seconds=1.0, clock=lambda: others.now)
  assert others.run((0, 40), agree, wish_at=8, stop=True) == [15]
  assert 8 not in others.asked and 15 in others.asked


PROGRAM = """if True:
  import os, sys, time
  from pathlib import Path
  from jaxlab.core import errors
  from jaxlab.engine import hosts
  from jaxlab.runs import workdir
  address, count, index, timeout, command, do = sys.argv[1:]
  me = int(index)

  def collective():
    import jax, numpy
    from jaxlab.engine import mesh
    mesh.start()
    mesh.connect(mesh.make())
    if me == 1:
      raise errors.InputError('no such file')
    mesh.connect(mesh.make())

  def fail():
    if me == int(os.environ['VICTIM']):
      raise errors.InputError('no such file')
    hosts.meet('never')

  def claim():
    workdir._PATIENCE = 1.0
    with workdir.claimed(Path(os.environ[f'FOLDER{me}']), {}):
      hosts.meet('end')

  try:
    here = hosts.place(address, int(count), me)
    with hosts.joined(here, command, float(timeout)):
      exec(do)
  except Exception as error:
    print(type(error).__name__, error, flush=True)
    os._exit(getattr(error, 'exit_code', 1))
"""


def start(do, commands=('same', 'same'), timeout=20.0, address='', **more):
  """A process for each command."""
  address = address or runs.free_address()
  return [
    subprocess.Popen(
      [
        *(sys.executable, '-c', PROGRAM, address, str(len(commands))),
        *(str(index), str(timeout), command, do),
      ],
      cwd=runs.ROOT,
      env={**runs.one_device(), 'JAX_PLATFORMS': 'cpu', **more},
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for index, command in enumerate(commands)
  ]


def ended(started, seconds=60):
  """Exit codes, and what each process printed on stdout."""
  try:
    said = [process.communicate(timeout=seconds)[0] for process in started]
  finally:
    for process in started:
      process.kill()
  words = [
    ''.join(x for x in text.splitlines(True) if '[Gloo]' not in x)
    for text in said
  ]
  return [process.returncode for process in started], words


def test_every_process_gets_the_values_of_all_in_order():
  do = """import json; big = hosts.gather('big', str(me) * 2**20)
print(json.dumps([
  hosts.gather('squares', {'of': me, 'is': me * me}),
  hosts.share('name', lambda: f'of {me}' if me == 0 else 1 // 0),
  [len(text) for text in big], [text[0] for text in big],
  hosts.names(), hosts.index(), hosts.count(), hosts.leads(), hosts.label()]))
"""
  codes, said = ended(start(do, ('same',) * 3))
  assert codes == [0, 0, 0]
  for me, text in enumerate(said):
    assert json.loads(text) == [
      [{'of': i, 'is': i * i} for i in range(3)],
      'of 0',
      [2**20] * 3,
      ['0', '1', '2'],
      [HOST] * 3,
      *(me, 3, me == 0, f'jaxlab: process {me}'),
    ]


def test_processes_at_different_meetings_are_told_so():
  codes, said = ended(start("hosts.meet(f'meeting {me}')"))
  assert codes == [1, 1]
  for text in said:
    assert text == (
      f'RuntimeError process 1 on {HOST} has come to "meeting 1", process 0 to '
      '"meeting 0": the processes do not run the same program\n'
    )


def test_another_command_is_refused_by_all():
  codes, said = ended(start('pass', ('same', 'other')))
  assert codes == [2, 2]
  for text in said:
    assert f'InputError process 1 on {HOST} was started with another' in text


@pytest.mark.parametrize('victim', [0, 1])
def test_an_error_in_one_process_ends_the_others_with_its_code(victim):
  codes, said = ended(start('fail()', VICTIM=str(victim)))
  assert codes == [2, 2]
  assert said[victim] == 'InputError no such file\n'
  assert said[1 - victim] == (
    f'OtherStopped process {victim} on {HOST} stopped: no such file\n'
  )


def test_an_error_in_one_process_ends_others_that_wait_for_a_device():
  codes, said = ended(start('collective()'))
  assert codes == [2, 2]
  assert said[0].startswith(f'OtherStopped process 1 on {HOST} stopped: no su')


@pytest.mark.slow
@pytest.mark.parametrize('victim', [0, 1])
def test_a_process_that_falls_silent_ends_the_other_in_time(victim):
  started = start("print('here', flush=True); hosts.meet('a'); time.sleep(60)")
  for process in started:
    assert process.stdout.readline() == 'here\n'
  os.kill(started[victim].pid, signal.SIGSTOP)
  began = time.monotonic()
  try:
    started[1 - victim].wait(60)
  finally:
    started[victim].kill()
  assert started[1 - victim].returncode == -signal.SIGABRT
  assert 'stopped sending heartbeats' in started[1 - victim].stderr.read() or (
    victim == 0
  )
  assert 15 < time.monotonic() - began < 30


def test_an_address_in_use_is_an_input_error():
  with socket.create_server(('127.0.0.1', 0)) as taken:
    where = f'127.0.0.1:{taken.getsockname()[1]}'
    first, second = start('pass', address=where)
    codes, said = ended([first])
    second.kill()
    second.communicate()
  assert codes == [2]
  assert f'at --coordinator={where} (Address already in use' in said[0]


class Service:
  """Stands for JAX's client: what the others have left."""

  def __init__(self, *left):
    self.left = left

  def key_value_dir_get(self, prefix):
    if isinstance(self.left[0], Exception):
      raise self.left[0]
    return [(f'{prefix}{i}', json.dumps(x)) for i, x in self.left]


def group(*left):
  made = object.__new__(hosts._Group)
  made.place, made.hosts = Place('h:1', 3, 1), ['a', 'b', 'c']
  made._client = Service(*left)
  return made


GLOO = ValueError('UNKNOWN: Gloo AllGather failed: Connection reset by peer')


def test_the_cause_of_a_broken_collective_is_what_another_process_says():
  found = group((1, [75, 'own']), (2, [3, 'not finite'])).cause_of(GLOO)
  assert isinstance(found, OtherStopped)
  assert (str(found), found.exit_code) == (
    'process 2 on c stopped: not finite',
    3,
  )


def test_a_broken_collective_without_a_word_is_a_lost_process():
  # As `checkpoint` wraps what went wrong in a read.
  wrapped = InputError('checkpoint 5 is damaged')
  wrapped.__cause__ = GLOO
  for error in (GLOO, wrapped):
    found = group(RuntimeError('the service is lost')).cause_of(error)
    assert isinstance(found, HostLostError)
    assert str(found).startswith(
      f'lost another process ({GLOO}); all processes'
    )


@pytest.mark.parametrize(
  'error',
  [
    InputError('no file Gloo'),
    Preempted('UNAVAILABLE'),
    RuntimeError('no such thing'),
    ConnectionResetError('Connection reset by peer'),  # of a download, say
    KeyboardInterrupt(),
  ],
)
def test_an_error_of_its_own_stays_what_it_is(error):
  assert group((2, [3, 'not finite'])).cause_of(error) is error


def claimed_by_two(*folders):
  both = {f'FOLDER{i}': str(folder) for i, folder in enumerate(folders)}
  return ended(start('claim()', **both))


def test_a_workdir_that_is_not_shared_is_an_input_error(tmp_path):
  same = tmp_path / 'same'
  assert claimed_by_two(same, same) == ([0, 0], ['', ''])
  codes, said = claimed_by_two(tmp_path / 'a', tmp_path / 'b')
  assert codes == [2, 2]
  for text in said:
    assert f'workdir {tmp_path / "b"} of process 1 on ' in text
    assert 'is not that of process 0 on ' in text
    assert 'on storage that all of them share' in text
  assert not (tmp_path / 'b').exists()


def test_a_workdir_in_use_stops_all_processes(tmp_path):
  with workdir.claimed(tmp_path / 'x', {}):
    codes, said = claimed_by_two(tmp_path / 'x', tmp_path / 'x')
  assert codes == [2, 2]
  assert all('is in use by process' in text for text in said)
