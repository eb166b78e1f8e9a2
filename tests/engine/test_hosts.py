"""Who this process is, and how wishes become decisions of all."""

import subprocess
import sys
from pathlib import Path

import pytest

from jaxlab.engine import hosts
from jaxlab.engine.errors import InputError
from jaxlab.engine.peer import Place
from jaxlab.runs import workdir

ROOT = Path(__file__).parents[2]


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
  assert hosts.place().address == ('::1', 8476)


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


SHARED = """if True:
  import sys
  from pathlib import Path
  from jaxlab.engine import hosts, workdir
  workdir._PATIENCE = 1.0
  _, coordinator, index, folder = sys.argv
  try:
    with (
      hosts.joined(hosts.place(coordinator, 2, int(index)), {}, 20.0),
      workdir.claimed(Path(folder), {}),
    ):
      hosts.meet('end')
  except Exception as error:
    print(error)
    sys.exit(error.exit_code)
"""


def _both(address, folders):
  started = [
    subprocess.Popen(
      [sys.executable, '-c', SHARED, address, str(i), str(folder)],
      cwd=ROOT,
      stdout=subprocess.PIPE,
      text=True,
    )
    for i, folder in enumerate(folders)
  ]
  said = [process.communicate(timeout=60)[0] for process in started]
  return [process.returncode for process in started], said


def test_a_workdir_that_is_not_shared_is_an_input_error(tmp_path):
  from tests.engine.test_channel import free_address

  same = tmp_path / 'same'
  assert _both(free_address(), [same, same]) == ([0, 0], ['', ''])
  codes, said = _both(free_address(), [tmp_path / 'a', tmp_path / 'b'])
  assert codes == [2, 2]
  for text in said:
    assert f'workdir {tmp_path / "b"} of process 1 on ' in text
    assert 'is not that of process 0 on ' in text
    assert 'on storage that all of them share' in text
  assert not (tmp_path / 'b').exists()


def test_a_workdir_in_use_stops_all_processes(tmp_path):
  from tests.engine.test_channel import free_address

  with workdir.claimed(tmp_path / 'x', {}):
    codes, said = _both(free_address(), [tmp_path / 'x'] * 2)
  assert codes == [2, 2]
  assert all('is in use by process' in text for text in said)
