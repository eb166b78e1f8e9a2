"""`fit`: going on, stopping, evaluating, logging."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

from jaxlab.core.errors import InputError, Preempted
from jaxlab.core.state import Evaluator, Task
from jaxlab.core.update import minimise
from jaxlab.engine import evaluate, loop, mesh, metrics, partition, preemption
from jaxlab.engine.compiled import first_state
from jaxlab.engine.feed import Feed
from jaxlab.engine.fingerprint import state_sha256
from jaxlab.runs import report, stage
from tests.engine import toys

_ROOT = Path(__file__).parents[2]
_KEY = jax.random.key(7)


class Crash(Exception):
  """Stands for a process that dies."""


class Hooked(Feed):
  """A feed that calls `hooks[step]()` when it is asked for batch `step`."""

  hooks = {}  # noqa: RUF012, replaced, never changed

  def batches(self, start, stop):
    for item in super().batches(start, stop):
      if item[0] in self.hooks:
        self.hooks[item[0]]()
      yield item


def _crash():
  raise Crash


def _sigterm():
  os.kill(os.getpid(), signal.SIGTERM)


def _one_device():
  return mesh.make(devices=jax.devices()[:1])


def _hooked(source=None, hooks=None, **more):
  feed = Hooked(source or toys.Rows(), _one_device(), **more)
  feed.hooks = hooks or {}
  return feed


def _task(eval_hooks=None, evaluator=None, init=toys.net):
  """Toy regression, evaluated on two batches where `eval_hooks` is given."""
  update = minimise(toys.squares, 'net', optax.adam(1e-2))
  evals = {}
  if eval_hooks is not None:
    evaluator = evaluator or toys.mean_error()
    evals = {'test': (evaluator, _hooked(hooks=eval_hooks, steps=2))}
  return toys.simple(None, {'train': update}, init, evals=evals)


def _fit(
  folder, steps=10, hooks=None, task=None, source=None, about=None, **options
):
  given = {
    'steps': steps,
    'log_every_steps': 5,
    'eval_every_steps': 4,
    'checkpoint_every_steps': 3,
    'checkpoint_every_seconds': 0.0,
    **options,
  }
  toy = task or _task()
  return loop.fit(
    'train',
    toy.task,
    loop.Inputs(_hooked(source, hooks), toy.evals, about or {}),
    loop.Options(**given),
    folder,
    _one_device(),
    seed=0,
  )


def _lines(folder):
  return [
    {k: v for k, v in line.items() if k not in metrics.TIME_FIELDS}
    for line in metrics.read(folder / 'metrics.jsonl')
  ]


def _written(folder):
  return [(line['step'], line['kind']) for line in _lines(folder)]


def _saved(folder):
  return {
    int(path.name)
    for path in (folder / 'checkpoints').iterdir()
    if path.name.isdigit()
  }


def _report(folder):
  return json.loads((folder / 'train' / 'report.json').read_text())


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """An uninterrupted fit of ten steps with evaluations: (folder, FitResult)."""
  folder = tmp_path_factory.mktemp('whole')
  return folder, _fit(folder, task=_task({}))


def _check_like(whole, folder, fitted):
  assert state_sha256(fitted.state) == state_sha256(whole[1].state)
  assert fitted.metrics == whole[1].metrics
  assert _lines(folder) == _lines(whole[0])


def test_the_order_of_a_fit_is_the_loops_law(whole):
  folder, fitted = whole
  assert _written(folder) == [
    (4, 'eval'),
    (5, 'train'),
    (8, 'eval'),
    (10, 'train'),
    (10, 'eval'),
  ]
  assert _saved(folder) == {0, 3, 6, 9, 10}
  assert fitted.state.step == 10
  assert fitted.metrics == {'test/loss': _lines(folder)[-1]['test/loss']}


def test_more_steps_go_on_and_a_finished_stage_is_skipped(tmp_path):
  toys.run('two_optimizers', tmp_path / 'a', steps=8)
  toys.run('two_optimizers', tmp_path / 'a', steps=12)
  toys.run('two_optimizers', tmp_path / 'b', steps=12)
  wanted = _report(tmp_path / 'b')['state_sha256']
  assert _report(tmp_path / 'a')['state_sha256'] == wanted
  assert _report(tmp_path / 'a')['steps'] == 12
  folder = tmp_path / 'a' / 'train'
  assert _written(folder) == [(s, 'train') for s in (5, 8, 10, 12)]

  files = {p: p.read_bytes() for p in folder.rglob('*') if p.is_file()}
  toys.run('two_optimizers', tmp_path / 'a', steps=12)
  assert {p: p.read_bytes() for p in files} == files

  with pytest.raises(InputError, match='of 12 steps, the config asks for 9;'):
    toys.run('two_optimizers', tmp_path / 'a', steps=9)


def test_fewer_steps_than_are_done_are_an_input_error(whole):
  with pytest.raises(InputError, match=r'already done 10 steps.*steps = 9;'):
    _fit(whole[0], steps=9)


def test_two_fits_in_one_process_know_nothing_of_each_other(tmp_path, whole):
  _check_like(whole, tmp_path, _fit(tmp_path, task=_task({})))


def test_sigterm_in_training_saves_the_step_and_exits_75(tmp_path):
  command = [sys.executable, '-m', 'tests.engine.toys', 'second_shape']
  done = subprocess.run(
    [*command, str(tmp_path / 'a'), '--steps=10', '--sigterm_at=7'],
    cwd=_ROOT,
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert done.returncode == 75, done.stderr
  # The signal came before step 8 began, and that step was still finished.
  assert 'train: saved step 8; the same command goes on' in done.stderr
  assert _saved(tmp_path / 'a' / 'train') == {0, 3, 6, 8}
  toys.run('second_shape', tmp_path / 'a', steps=10)
  toys.run('second_shape', tmp_path / 'b', steps=10)
  wanted = _report(tmp_path / 'b')['state_sha256']
  assert _report(tmp_path / 'a')['state_sha256'] == wanted
  assert _lines(tmp_path / 'a' / 'train') == _lines(tmp_path / 'b' / 'train')


def test_sigterm_in_an_evaluation_repeats_the_evaluation(tmp_path, whole):
  with preemption.handled(), pytest.raises(Preempted, match='saved step 4;'):
    _fit(tmp_path, task=_task({1: _sigterm}))
  assert _saved(tmp_path) == {0, 3, 4}
  assert _written(tmp_path) == []
  _check_like(whole, tmp_path, _fit(tmp_path, task=_task({})))


def test_an_evaluation_is_logged_once_however_often_it_was_begun(
  tmp_path, whole
):
  with preemption.handled(), pytest.raises(Preempted, match='saved step 4;'):
    _fit(tmp_path, task=_task({1: _sigterm}))
  with pytest.raises(Crash):  # after the evaluation of step 4
    _fit(tmp_path, task=_task({}), hooks={5: _crash})
  assert max(_saved(tmp_path)) == 4
  _check_like(whole, tmp_path, _fit(tmp_path, task=_task({})))


def test_sigterm_in_the_last_evaluation_repeats_it(tmp_path, whole):
  hooks = {}

  def last():  # the third evaluation
    hooks['seen'] = hooks.get('seen', 0) + 1
    if hooks['seen'] == 3:
      _sigterm()

  with preemption.handled(), pytest.raises(Preempted, match='saved step 10;'):
    _fit(tmp_path, task=_task({0: last}))
  _check_like(whole, tmp_path, _fit(tmp_path, task=_task({})))


def test_sigterm_in_the_last_step_leaves_the_evaluation_to_the_next_run(
  tmp_path, whole
):
  with preemption.handled(), pytest.raises(Preempted, match='saved step 10;'):
    _fit(tmp_path, task=_task({}), hooks={9: _sigterm})
  _check_like(whole, tmp_path, _fit(tmp_path, task=_task({})))


def test_sigterm_in_the_last_step_of_all_is_for_the_caller(tmp_path):
  with preemption.handled():
    assert _fit(tmp_path, steps=4, hooks={3: _sigterm}).state.step == 4
    assert preemption.asked()


def test_signals_stop_at_once_outside_of_a_fit_and_wait_within():
  before = signal.getsignal(signal.SIGINT)  # ignored in some shells' jobs
  for number in (signal.SIGTERM, signal.SIGINT):
    with preemption.handled():
      assert not preemption.asked()
      with preemption.deferred():
        os.kill(os.getpid(), number)
        assert preemption.asked()
      with pytest.raises(Preempted, match=signal.Signals(number).name):
        os.kill(os.getpid(), number)
    assert not preemption.asked()
  assert signal.getsignal(signal.SIGINT) is before


def test_the_log_is_cut_back_to_the_restored_step(tmp_path, whole):
  with pytest.raises(Crash):
    _fit(tmp_path, task=_task({}), hooks={8: _crash})
  path = tmp_path / 'metrics.jsonl'
  assert _written(tmp_path)[-1] == (8, 'eval')
  assert max(_saved(tmp_path)) == 6
  with open(path, 'a') as file:  # of a process killed while it wrote
    file.write('{"step": 8, "kind": "tr')
  _check_like(whole, tmp_path, _fit(tmp_path, task=_task({})))


def test_a_finished_fit_is_not_evaluated_again(tmp_path, whole):
  shutil.copytree(whole[0], tmp_path / 'copy')
  fitted = _fit(tmp_path / 'copy', task=_task({0: _crash}))
  _check_like(whole, tmp_path / 'copy', fitted)


def test_keys_go_on_where_they_were(tmp_path):
  def noisy(params, vars, batch, key):
    noise = jax.random.normal(key)
    return toys.squares(params, vars, batch, key).replace(
      penalty=1e-2 * noise * jnp.sum(params['net']['v']),
      metrics={'noise': (noise, jnp.ones(()))},
    )

  update = minimise(noisy, 'net', optax.adam(1e-2))
  task = toys.simple(None, {'train': update})
  whole = (
    tmp_path / 'whole',
    _fit(tmp_path / 'whole', task=task, log_every_steps=1),
  )
  with pytest.raises(Crash):
    _fit(tmp_path / 'cut', task=task, log_every_steps=1, hooks={8: _crash})
  fitted = _fit(tmp_path / 'cut', task=task, log_every_steps=1)
  _check_like(whole, tmp_path / 'cut', fitted)
  draws = {line['noise'] for line in _lines(tmp_path / 'cut')}
  assert len(draws) == 10


def test_killed_before_the_report_the_last_evaluation_is_not_lost(
  tmp_path, monkeypatch
):
  def run(folder):
    toys.run('accumulated', folder, steps=7)

  run(tmp_path / 'whole')
  with monkeypatch.context() as patch:
    patch.setattr(report, 'curves', lambda folder: _crash())
    with pytest.raises(Crash):
      run(tmp_path / 'killed')
  lines = _lines(tmp_path / 'killed' / 'train')
  assert lines[-1]['kind'] == 'eval'
  run(tmp_path / 'killed')
  assert _report(tmp_path / 'killed')['metrics'] == {
    'held_out/loss': lines[-1]['held_out/loss']
  }
  for key in ('metrics', 'state_sha256'):
    assert _report(tmp_path / 'killed')[key] == _report(tmp_path / 'whole')[key]
  assert _lines(tmp_path / 'killed' / 'train') == lines


def test_lines_are_means_of_the_interval_though_it_was_interrupted(tmp_path):
  _fit(tmp_path / 'each', log_every_steps=1)
  losses = {line['step']: line['loss'] for line in _lines(tmp_path / 'each')}
  with pytest.raises(Crash):
    _fit(tmp_path / 'cut', hooks={8: _crash})
  assert _saved(tmp_path / 'cut') == {0, 3, 6}  # in mid-interval
  _fit(tmp_path / 'cut')
  means = {line['step']: line['loss'] for line in _lines(tmp_path / 'cut')}
  assert set(means) == {5, 10}
  for step, mean in means.items():
    # Sums of float32 numbers in float64; the weights are all 64.
    steps = range(step - 4, step + 1)
    wanted = np.mean([losses[s] for s in steps])
    assert mean == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize(
  'options, message',
  [
    ({'steps': 0}, 'train.steps = 0 must be at least 1'),
    ({'log_every_steps': 0}, 'train.log_every_steps = 0 must be at least 1'),
    ({'eval_every_steps': -1}, 'eval_every_steps = -1 must be at least 0'),
    ({'checkpoint_every_steps': -2}, 'every_steps = -2 must be at least 0'),
    ({'checkpoint_every_seconds': -0.5}, 'every_seconds = -0.5 must be at'),
    ({'max_bad_steps': -1}, 'bad_steps = -1 must be at least 0; 0 switches'),
    ({'checkpoint_keep': 0}, 'checkpoint_keep = 0 must be at least 1'),
  ],
)
def test_options_that_make_no_sense_are_input_errors(
  options, message, tmp_path
):
  with pytest.raises(InputError, match=message):
    _fit(tmp_path, **options)


def test_a_step_of_unknown_kind_is_an_input_error(tmp_path):
  with pytest.raises(InputError, match=r'kind "large"; the task has \[\'train'):
    _fit(tmp_path, source=toys.Rows(every=2))


def test_other_data_under_the_same_folder_is_an_input_error(tmp_path):
  _fit(tmp_path, steps=2, about={'data': 'abc'})
  with pytest.raises(InputError, match='with data = abc, now it is abd: '):
    _fit(tmp_path, about={'data': 'abd'})
  assert _fit(tmp_path, steps=3, about={'data': 'abc'}).state.step == 3


def test_donation_spares_what_init_closed_over(tmp_path):
  pretrained = toys.net(_KEY)
  before = jax.device_get(pretrained)
  update = minimise(toys.squares, 'net', optax.adam(1e-2))

  def init(key):
    # The same buffers twice: as the start and as a frozen copy.
    return {'net': pretrained, 'teacher': pretrained}, {}

  toy = toys.Toy(Task(init, {'train': update}), None)
  fitted = _fit(tmp_path, steps=3, task=toy)
  for name, value in before.items():
    np.testing.assert_array_equal(pretrained[name], value)
    np.testing.assert_array_equal(fitted.state.params['teacher'][name], value)
    assert not np.array_equal(fitted.state.params['net'][name], value)


def test_donation_spares_what_an_evaluators_init_closed_over(tmp_path):
  zero = jnp.zeros(())
  evaluator = toys.mean_error()._replace(init=lambda: {'sum': zero, 'n': zero})
  fitted = _fit(tmp_path, steps=5, task=_task({}, evaluator))
  assert fitted.metrics['test/loss'] > 0
  assert zero == 0


@pytest.mark.parametrize('count', [1, 8])
def test_an_evaluator_is_traced_once(count):
  traces = []

  def update(total, state, batch, key):
    traces.append(1)
    return toys.mean_error().update(total, state, batch, key)

  devices = mesh.make(devices=jax.devices()[:count])
  evaluation = evaluate.Evaluation(
    'test',
    toys.mean_error()._replace(update=update),
    Feed(toys.Rows(), devices, steps=3),
    seed=0,
  )
  state = first_state(_task().task, _KEY)
  state = jax.device_put(state, mesh.replicated(devices))
  first, second = evaluation.run(state), evaluation.run(state)
  assert first == second
  assert len(traces) == 1


def test_an_evaluators_keys_depend_on_seed_name_and_batch_alone(tmp_path):
  def update(total, state, batch, key):
    return total + jax.random.uniform(key)

  evaluator = Evaluator(
    lambda: jnp.zeros(()), update, lambda total: {'sum': float(total)}
  )
  _fit(tmp_path, steps=8, task=_task({}, evaluator))
  sums = [x['test/sum'] for x in _lines(tmp_path) if x['kind'] == 'eval']
  assert len(sums) == 2
  assert sums[0] == sums[1]


def test_a_sharded_state_trains_like_a_replicated_one_and_resumes(tmp_path):
  def fit(folder, steps, rules):
    return loop.fit(
      'train',
      _task().task,
      loop.Inputs(Feed(toys.Rows(), mesh.make())),
      loop.Options(steps, rules=rules, log_every_steps=1),
      folder,
      mesh.make(),
      seed=0,
    )

  rules = (('net/w$', PartitionSpec(None, 'data')), *partition.REPLICATED)
  fit(tmp_path / 'sharded', 4, rules)
  state = fit(tmp_path / 'sharded', 6, rules).state
  fit(tmp_path / 'replicated', 6, partition.REPLICATED)
  for tree in (state.params['net'], state.opt['net'][0].mu):
    assert tree['w'].sharding.spec == PartitionSpec(None, 'data')
    assert tree['w'].addressable_shards[0].data.shape == (toys.WIDTH, 2)
    assert tree['v'].sharding.is_fully_replicated
  lines = _lines(tmp_path / 'sharded')
  others = _lines(tmp_path / 'replicated')
  # Sums in another order, amplified a little by six steps of Adam.
  assert [line['loss'] for line in lines] == pytest.approx(
    [line['loss'] for line in others], rel=1e-5
  )


def _traces(folder):
  return sorted(folder.rglob('*.xplane.pb'))


def test_profile_writes_a_trace(tmp_path):
  _fit(tmp_path, steps=5, profile=(2, 4))
  assert len(_traces(tmp_path / 'profile')) == 1


def test_a_profile_window_cut_by_either_end_of_a_run_is_no_error(tmp_path):
  _fit(tmp_path / 'a', steps=3, profile=(2, 8))  # ends within the window
  assert len(_traces(tmp_path / 'a')) == 1
  _fit(tmp_path / 'a', steps=9, profile=(2, 8))  # begins within it
  with pytest.raises(Crash):
    _fit(tmp_path / 'c', steps=9, profile=(1, 8), hooks={3: _crash})
  _fit(tmp_path / 'b', steps=4, profile=(2, 3))  # none is left running
  assert len(_traces(tmp_path / 'b')) == 1


def test_tensorboard_events_are_written_where_tensorboardx_is(tmp_path):
  pytest.importorskip('tensorboardX')
  _fit(tmp_path, steps=5, task=_task({}))
  [path] = (tmp_path / 'events').iterdir()
  events = path.read_bytes()
  assert b'train/loss' in events
  assert b'eval/test/loss' in events


def test_the_last_state_of_a_finished_stage_is_loaded_for_later_ones(tmp_path):
  toys.run('oracle', tmp_path, steps=3)
  (tmp_path / 'second' / 'report.json').unlink()
  space = toys.run('oracle', tmp_path, steps=3)
  # The first two were skipped, and the third asked for what they had left.
  assert set(space.artefacts) >= {'oracle', 'second'}
  first = space.artefact('first')
  wanted = json.loads((tmp_path / 'first' / 'report.json').read_text())
  assert state_sha256(first) == wanted['state_sha256']


def test_an_artefact_of_no_stage_is_an_input_error(tmp_path):
  space = stage.Workspace(tmp_path, {}, _one_device(), 0)
  with pytest.raises(InputError, match=r'no stage "first" ran before; known: '):
    space.artefact('first')


def test_a_training_is_watched_at_evaluations_every_half_minute(tmp_path):
  times, seen = iter(range(0, 10_000, 4)), []
  now = [0.0]

  def clock():
    now[0] = float(next(times))
    return now[0]

  _fit(
    tmp_path,
    steps=24,
    task=_task({}),
    eval_every_steps=1,
    checkpoint_every_seconds=0.0,
    clock=clock,
    watch=lambda: seen.append(now[0]),
  )
  assert len(seen) > 2 and seen[0] >= 30
  apart = np.diff(seen)
  assert (apart >= 30).all() and (apart < 120).any()
