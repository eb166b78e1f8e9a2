"""Two processes of four CPU devices each, as one run.

`whole` is a run that nothing stops, and what every default run tests. `history`
is one that is interrupted three times (process 1 is killed, then process 0,
then process 1 is asked to stop; the fourth attempt ends it), `tour` a look at
layouts, checkpoints and bad steps: both are slow.
"""

import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from jaxlab.engine import mesh
from jaxlab.engine.checkpoint import Checkpoints, Policy
from jaxlab.engine.feed import Feed
from jaxlab.engine.fingerprint import state_sha256
from jaxlab.engine.metrics import TIME_FIELDS
from jaxlab.runs import stage, workdir
from tests import pod_program, pod_tour, runs
from tests.papers import test_bert_sharding

ROOT = Path(__file__).parents[1]
HOST = socket.gethostname()
STEPS = 24
SILENCE = 8  # seconds
# The processes bring their own number of devices.
ENVIRONMENT = runs.one_device()


@dataclass
class Attempt:
  """How two processes ended."""

  codes: list[int]
  said: list[str]
  ended: list[float]  # time.time()
  saved: set[int]  # checkpoints
  killed: float = 0.0  # when a process was sent its signal


def attempt(folder, *more, place=None):
  """Runs `tests.pod_program` in two processes to their ends."""
  address = runs.free_address()
  folder.mkdir(exist_ok=True)
  started = []
  for index in range(2):
    here = [
      f'--coordinator={address}',
      '--num_processes=2',
      f'--process_id={index}',
      f'--host_timeout={SILENCE}',
    ]
    extra = {}
    if place:
      here, extra = place(index)
    with open(folder / f'said-{index}', 'w') as said:
      started.append(
        subprocess.Popen(
          [sys.executable, '-m', 'tests.pod_program', folder, *here, *more],
          cwd=ROOT,
          env={**ENVIRONMENT, **extra},
          stdout=subprocess.DEVNULL,
          stderr=said,
        )
      )
  ended = [0.0, 0.0]
  until = time.time() + 240
  while not all(ended) and time.time() < until:
    for index, process in enumerate(started):
      if not ended[index] and process.poll() is not None:
        ended[index] = time.time()
    time.sleep(0.01)
  for process in started:
    process.kill()  # a hang is a failure, not a leftover
  said = [(folder / f'said-{index}').read_text() for index in range(2)]
  killed = folder / 'killed'
  return Attempt(
    [process.wait() for process in started],
    said,
    ended,
    saved(folder),
    float(killed.read_text()) if killed.exists() else 0.0,
  )


def saved(folder):
  return {
    int(path.name)
    for path in folder.glob('train/checkpoints/*')
    if path.name.isdigit()
  }


def lines(folder):
  text = (folder / 'train' / 'metrics.jsonl').read_text()
  return [
    {k: v for k, v in json.loads(line).items() if k not in TIME_FIELDS}
    for line in text.splitlines()
  ]


def report(folder):
  return json.loads((folder / 'train' / 'report.json').read_text())


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """An uninterrupted run of two processes, by launch/local_pod.sh."""
  folder = tmp_path_factory.mktemp('whole') / 'run'
  done = subprocess.run(
    ['launch/local_pod.sh', '2', '--devices', '4', '--', folder],
    cwd=ROOT,
    env={
      **ENVIRONMENT,
      'JAXLAB_MODULE': 'tests.pod_program',
      'PYTHON': sys.executable,
    },
    capture_output=True,
    text=True,
    timeout=240,
  )
  assert done.returncode == 0, done.stderr
  return folder, done


def in_process(folder, steps):
  """The same program in this process of eight devices."""
  folder.mkdir(exist_ok=True)
  config = {'paper': 'toy', 'train': {'steps': steps}}
  workdir.write_json(folder / 'config.json', config)
  given = SimpleNamespace(folder=folder, steps=steps, signal='-1:0:SIGKILL')
  space = stage.Workspace(folder, config, mesh.make(), seed=0)
  stage.run_all(pod_program.program(given, space), space)


@pytest.fixture(scope='module')
def history(tmp_path_factory):
  folder = tmp_path_factory.mktemp('history') / 'run'
  return folder, [
    attempt(folder, '--signal=6:1:SIGKILL'),
    attempt(folder, '--signal=8:0:SIGKILL'),
    attempt(folder, '--signal=10:1:SIGTERM'),
    attempt(folder),
  ]


def test_two_processes_of_four_devices_lose_what_one_of_eight_loses(
  whole, tmp_path
):
  assert jax.device_count() == 8
  in_process(tmp_path / 'one', STEPS)
  mine, theirs = lines(tmp_path / 'one'), lines(whole[0])
  assert [(x['step'], x['kind']) for x in mine] == [
    (x['step'], x['kind']) for x in theirs
  ]
  assert len(mine) == STEPS + 3  # and three evaluations
  losses = [
    [line.get('loss', line.get('held_out/loss')) for line in found]
    for found in (mine, theirs)
  ]
  furthest = max(abs(a / b - 1) for a, b in zip(*losses))
  print(f'largest relative difference of {len(mine)} losses: {furthest:.1e}')
  # Sums in another order, amplified a little by steps of Adam.
  assert furthest < 1e-5


def test_each_process_reads_its_own_rows_alone(whole):
  for index, rows in enumerate(([0, 32], [32, 64])):
    read = (whole[0] / f'reads-{index}.jsonl').read_text().splitlines()
    wanted = [[step, *rows] for step in range(STEPS)]
    assert [json.loads(line) for line in read] == wanted


def test_the_leader_alone_speaks_and_every_line_bears_its_process(whole):
  folder, done = whole
  said = done.stderr.splitlines()
  assert {line[:4] for line in said} == {'[0] '}
  assert said[-1] == f'[0] report: {folder}/report.html'
  assert '[Gloo]' not in done.stdout
  names = json.loads((folder / 'hosts.json').read_text())['hosts']
  assert names == [HOST, HOST]


@pytest.mark.slow
@pytest.mark.parametrize('number, victim', [(0, 1), (1, 0)])
def test_a_killed_process_ends_the_other(history, number, victim):
  found = history[1][number]
  other = 1 - victim
  assert found.codes[victim] == -signal.SIGKILL
  seconds = found.ended[other] - found.killed
  print(f'process {victim} killed: {found.codes[other]} after {seconds:.2f} s')
  if found.codes[other] == 76:  # it was in a collective
    last = found.said[other].splitlines()[-1]
    assert last.startswith(f'jaxlab: process {other}: lost another process (')
  else:
    assert found.codes[other] == -signal.SIGABRT
    assert 'another task died' in found.said[other]
  assert seconds < SILENCE + 10


@pytest.mark.slow
def test_sigterm_to_one_process_saves_the_same_step_in_both(history):
  found = history[1][2]
  assert found.codes == [75, 75], found.said
  newest = max(found.saved)
  for index, said in enumerate(found.said):
    last = said.splitlines()[-1]
    assert last == (
      f'jaxlab: process {index}: train: saved step {newest}; the same command '
      'goes on from it'
    )
  # Batch 10 was in hand; exchanges are at most 8 steps apart by then.
  assert 11 <= newest <= 19


@pytest.mark.slow
def test_a_run_killed_twice_and_stopped_once_ends_as_uninterrupted(
  history, whole
):
  folder, attempts = history
  assert attempts[3].codes == [0, 0], attempts[3].said
  from_step = max(attempts[2].saved)
  assert f'train: going on from step {from_step}' in attempts[3].said[0]
  print('state_sha256', report(folder)['state_sha256'])
  assert report(folder)['state_sha256'] == report(whole[0])['state_sha256']
  assert report(folder)['metrics'] == report(whole[0])['metrics']
  assert lines(folder) == lines(whole[0])


def test_one_process_goes_on_from_a_checkpoint_of_two(whole, tmp_path):
  folder = tmp_path / 'copy'
  shutil.copytree(whole[0], folder)
  in_process(folder, STEPS + 1)
  # The first lines are copies, the last one was computed here.
  assert lines(folder)[: STEPS + 2] == lines(whole[0])[: STEPS + 2]
  assert lines(folder)[-1]['step'] == STEPS + 1
  assert report(folder)['steps'] == STEPS + 1


@pytest.fixture(scope='module')
def tour(tmp_path_factory):
  """What both processes saw, placed by the variables of Open MPI."""
  folder = tmp_path_factory.mktemp('tour') / 'run'
  kept = Checkpoints(folder / 'single', Policy())
  state = pod_tour.state(mesh.make(), pod_tour.SPREAD)
  kept.save(state, 1, {})
  kept.close()
  # JAX makes the port out of the job's number.
  port = next(p for p in range(61_441, 65_535) if _is_free(p))
  job = (port - (65_535 - 2**12 + 1)) * 2**12

  def place(index):
    return ['--distributed'], {
      'OMPI_MCA_orte_hnp_uri': f'{job}.0;tcp://127.0.0.1:34911',
      'OMPI_COMM_WORLD_SIZE': '2',
      'OMPI_COMM_WORLD_RANK': str(index),
      'OMPI_COMM_WORLD_LOCAL_RANK': str(index),
    }

  return state, toured(folder, 'layouts', place=place)


def toured(folder, what, **more):
  """What each of two processes saw."""
  found = attempt(folder, f'--tour={what}', **more)
  assert found.codes == [0, 0], found.said
  paths = [folder / f'tour-{index}.json' for index in range(2)]
  return [json.loads(path.read_text()) for path in paths]


def _is_free(port):
  with socket.socket() as probe:
    return probe.connect_ex(('127.0.0.1', port)) != 0


@pytest.mark.slow
def test_places_come_from_the_cluster_where_it_knows_them(tour):
  assert [seen['process'] for seen in tour[1]] == [[0, 2], [1, 2]]


@pytest.mark.slow
def test_rows_are_right_where_devices_of_two_hosts_take_turns(tour):
  twice = lambda *runs: [list(run) for run in runs]
  wanted = {
    'in order': (twice((0, 8)), twice((8, 16))),
    'in turns': (
      twice((0, 2), (4, 6), (8, 10), (12, 14)),
      twice((2, 4), (6, 8), (10, 12), (14, 16)),
    ),
    # Each pair of a row's devices lies on two hosts: both read all rows.
    'model': (twice((0, 16)), twice((0, 16))),
    'model within hosts': (twice((0, 8)), twice((8, 16))),
  }
  for name, parts in wanted.items():
    for seen, asked in zip(tour[1], parts):
      assert seen['feeds'][name] == {'asked': asked, 'wrong': []}, name


def test_rows_without_an_id_are_named_by_their_number():
  found = Feed(pod_tour.Rows(), mesh.make(), steps=2).host_batch(1)
  np.testing.assert_array_equal(found['id'], np.arange(16))
  assert found['mask'].tolist() == [True] * 4 + [False] * 12


@pytest.mark.slow
def test_a_spread_state_has_one_fingerprint_under_every_layout(tour):
  state, both = tour
  for seen in both:
    found = seen['checkpoints']
    assert set(found['sha256'].values()) == {state_sha256(state)}
    assert set(found['sha256']) == {
      'saved',
      'same',
      'in turns',
      'replicated',
      'model',
      'of one process',
    }
    assert found['specs'] == {
      'same': "P(None, 'data')",
      'in turns': "P(None, 'data')",
      'replicated': 'P()',
      'model': "P('model',)",
      'of one process': "P(None, 'data')",
    }


@pytest.mark.slow
def test_a_flipped_bit_in_the_part_of_another_process_is_noticed(tour):
  for seen in tour[1]:
    assert (
      'its SHA-256 is not the recorded one' in (seen['checkpoints']['damaged'])
    )


@pytest.mark.slow
def test_bert_under_lamb_has_the_losses_and_gradients_of_one_device(tmp_path):
  one = test_bert_sharding.Job({'data': 1}, 'replicated')
  _, losses = one.run(one.begin(), 0, test_bert_sharding.STEPS)
  wanted = one.gradients()
  largest = max(np.abs(gradient).max() for gradient in wanted.values())
  both = toured(tmp_path / 'run', 'bert')
  for layout, found in [item for seen in both for item in seen.items()]:
    np.testing.assert_allclose(found['losses'], losses, rtol=1e-5)
    assert found['gradients'].keys() == wanted.keys()
    worst = 0.0
    for path, gradient in wanted.items():
      error = np.abs(found['gradients'][path] - gradient.ravel()).max()
      if path.endswith('key/bias'):
        # A softmax does not see it: its gradient is 0, all else is rounding.
        assert error < 1e-6 * largest
      else:
        worst = max(worst, error / np.abs(gradient).max())
    print(f'{layout}: largest relative difference of gradients {worst:.1e}')
    assert worst < 1e-4


@pytest.mark.slow
def test_all_processes_stop_at_a_bad_step_and_name_the_row(tour):
  for seen in tour[1]:
    assert 'are not finite in step 2 (example ids 2040).' in seen['not finite']


@pytest.mark.slow
def test_all_processes_see_the_same_published_snapshots(tour):
  first, second = (seen['published'] for seen in tour[1])
  assert len(first) == 2  # at the start, and after batch 3
  np.testing.assert_array_equal(first, second)
  assert first[0] != first[1]


def test_a_host_that_never_arrives_is_named_by_the_command_itself(tmp_path):
  began = time.monotonic()
  done = subprocess.run(
    [
      sys.executable,
      '-m',
      'jaxlab.main',
      f'--config={ROOT}/configs/bert_lamb.py:smoke',
      f'--workdir={tmp_path / "run"}',
      f'--coordinator={runs.free_address()}',
      '--num_processes=2',
      '--process_id=0',
      '--host_timeout=1',
    ],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert done.returncode == 76
  [line] = done.stderr.splitlines()
  assert line.startswith(
    'jaxlab: process 0: not all of the 2 processes have arrived at 127.0.0.1:'
  )
  assert line.endswith('or raise --host_timeout')
  assert not (tmp_path / 'run').exists()
  assert time.monotonic() - began < 60
