"""Six toy programs: killed and run again, on one device and on eight."""

import collections
import json
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import chex
import pytest

from jaxlab.engine import metrics
from tests import runs
from tests.engine import toys

_ROOT = Path(__file__).parents[2]
_DIE_AT = 10  # neither a checkpoint (10 % 3) nor a refresh (10 % 4 != 3)
_STAGES = {'oracle': ('first', 'oracle', 'second')}


def _reports(folder):
  found = {
    path.parent.name: json.loads(path.read_text())
    for path in folder.glob('*/report.json')
  }
  return {
    stage: {
      key: report.get(key)
      for key in ('steps', 'metrics', 'state_sha256', 'artefact_sha256')
    }
    for stage, report in found.items()
  }


def _lines(folder):
  """Stage -> lines of metrics.jsonl without the fields that tell time."""
  return {
    path.parent.name: [
      {k: v for k, v in line.items() if k not in metrics.TIME_FIELDS}
      for line in metrics.read(path)
    ]
    for path in sorted(folder.glob('*/metrics.jsonl'))
  }


def _process(name, folder, option):
  """Exit code of a toy in a process of its own, on one device."""
  done = subprocess.run(
    [sys.executable, '-m', 'tests.engine.toys', name, str(folder), option],
    cwd=_ROOT,
    env=runs.one_device(),
    capture_output=True,
    timeout=120,
  )
  return done.returncode


@pytest.fixture(scope='module')
def killed(tmp_path_factory):
  """Name -> (exit code, folder) of a process that killed itself at step 10."""

  def run(name):
    folder = tmp_path_factory.mktemp(f'killed-{name}')
    return _process(name, folder, f'--die_at={_DIE_AT}'), folder

  with ThreadPoolExecutor(2) as pool:
    runs = {name: pool.submit(run, name) for name in toys.TOYS}
    yield lambda name: runs[name].result()


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """Name -> the folder of an uninterrupted run on one device."""
  folders = {}

  def run(name):
    if name not in folders:
      folders[name] = tmp_path_factory.mktemp(f'whole-{name}')
      toys.run(name, folders[name])
    return folders[name]

  return run


@pytest.mark.parametrize('name', toys.TOYS)
def test_a_killed_run_ends_like_one_that_was_never_killed(name, whole, killed):
  expected = whole(name)
  code, folder = killed(name)
  stages = _STAGES.get(name, ('train',))
  kept = [
    int(path.name)
    for path in (folder / stages[-1] / 'checkpoints').iterdir()
    if path.name.isdigit()
  ]
  assert code == -signal.SIGKILL
  # It goes on from the middle, after the first refresh (step 3): to begin to
  # save step 9 is to have finished saving step 6.
  assert max(kept) in (6, 9)
  assert set(_reports(folder)) == set(stages[:-1])

  toys.run(name, folder)

  assert _reports(folder) == _reports(expected)
  assert set(_reports(folder)) == set(stages)
  assert _lines(folder) == _lines(expected)
  for lines in _lines(folder).values():
    written = [(line['step'], line['kind']) for line in lines]
    assert len(written) == len(set(written))
    assert written[-1][0] == 14


def test_killed_in_an_evaluation_it_is_repeated_and_logged_once(
  whole, tmp_path
):
  """In the second evaluation, that of step 12."""
  code = _process('accumulated', tmp_path, '--die_in_evaluation=2')
  assert code == -signal.SIGKILL
  before = [(x['step'], x['kind']) for x in _lines(tmp_path)['train']]
  assert (6, 'eval') in before and (12, 'eval') not in before
  toys.run('accumulated', tmp_path)
  assert _reports(tmp_path) == _reports(whole('accumulated'))
  assert _lines(tmp_path) == _lines(whole('accumulated'))


@pytest.mark.parametrize('name', toys.TOYS)
def test_eight_devices_give_the_losses_of_one_from_one_trace_a_kind(
  name, whole, tmp_path, monkeypatch
):
  traced = collections.Counter()
  fits = []

  def watched(kind, update):
    def step(state, batch, key):
      traced[kind] += 1
      return update(state, batch, key)

    # chex counts by the name and the source of the function.
    step.__name__ = f'{kind}{len(fits)}'
    counted = chex.assert_max_traces(step, 1)
    counted.optimizers = getattr(update, 'optimizers', {})
    return counted

  def simple(*args, **kwargs):
    toy = plain(*args, **kwargs)
    return toy._replace(task=watched_task(toy.task))

  def watched_task(task):
    fits.append(sorted(task.steps))
    steps = {kind: watched(kind, step) for kind, step in task.steps.items()}
    return task._replace(steps=steps)

  def frozen(**kwargs):
    toy = toys.frozen(**kwargs)
    return toy._replace(task=watched_task(toy.task))

  plain = toys.simple
  monkeypatch.setattr(toys, 'simple', simple)
  monkeypatch.setitem(toys.TOYS, 'frozen', frozen)
  chex.clear_trace_counter()

  toys.run(name, tmp_path, devices=8)

  assert fits == {
    'oracle': [['train'], ['train']],
    'second_shape': [['large', 'train']],
    'published': [['refresh', 'train']],
  }.get(name, [['train']])
  assert traced == collections.Counter(kind for kinds in fits for kind in kinds)
  one, eight = _lines(whole(name)), _lines(tmp_path)
  assert set(one) == set(eight)
  for stage, lines in one.items():
    assert len(lines) == len(eight[stage])
    for line, other in zip(lines, eight[stage]):
      # Fourteen small steps amplify rounding (1e-7) by less than 100.
      assert other.pop('kind') == line['kind']
      values = {k: v for k, v in line.items() if k != 'kind'}
      assert other == pytest.approx(values, rel=1e-5)
