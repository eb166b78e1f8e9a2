"""Programs: stages that run once."""

import json
import os
import shutil
import signal

import chex
import jax
import numpy as np
import pytest

from jaxlab.core.errors import InputError, Preempted
from jaxlab.engine import loop, mesh, preemption
from jaxlab.engine.compiled import Start, first_state
from jaxlab.engine.feed import Feed
from jaxlab.engine.fingerprint import state_sha256
from jaxlab.runs import model, record, stage, workdir
from tests.engine import toys


class Program:
  """Two stages of host work, the second on what the first left."""

  def __init__(self, folder):
    self.ran = []
    self.config = {'paper': 'toy'}
    self.folder = folder
    workdir.write_json(folder / 'config.json', self.config)

  def run(self):
    space = stage.Workspace(self.folder, self.config, mesh=None, seed=0)
    stages = [
      stage.Stage('one', self.one, load=self.load),
      stage.Stage('two', self.two),
    ]
    stage.run_all(stages, space)
    return space

  def one(self, space):
    self.ran.append('one')
    space.artefacts['one'] = {'x': np.arange(3)}
    np.save(space.folder('one') / 'x.npy', np.arange(3))
    return {'size': 3.0}

  def load(self, space):
    self.ran.append('load')
    return {'x': np.load(space.folder('one') / 'x.npy', allow_pickle=False)}

  def two(self, space):
    self.ran.append('two')
    space.facts['note'] = 'fact'
    return {'sum': float(space.artefact('one')['x'].sum())}

  def report(self, name):
    return json.loads((self.folder / name / 'report.json').read_text())


def test_stages_run_in_order_and_once(tmp_path):
  program = Program(tmp_path)
  program.run()
  program.run()
  assert program.ran == ['one', 'two']
  one, two = program.report('one'), program.report('two')
  assert one['metrics'] == {'size': 3.0}
  assert one['artefact_sha256'] == state_sha256({'x': np.arange(3)})
  assert (two['metrics'], two['note']) == ({'sum': 3.0}, 'fact')
  assert (tmp_path / 'report.html').exists()


def test_an_earlier_artefact_is_loaded_when_its_stage_is_skipped(tmp_path):
  Program(tmp_path).run()
  (tmp_path / 'two' / 'report.json').unlink()
  program = Program(tmp_path)
  program.run()
  assert program.ran == ['two', 'load']
  assert program.report('two')['metrics'] == {'sum': 3.0}


@pytest.mark.parametrize('text', ['{"steps": ', '{}', '[]'])
def test_a_report_that_is_none_is_an_input_error(tmp_path, text):
  program = Program(tmp_path)
  program.run()
  (tmp_path / 'one' / 'report.json').write_text(text)
  with pytest.raises(InputError, match=r"report\.json is not a stage's report"):
    program.run()


def test_a_signal_between_stages_leaves_the_finished_ones(
  tmp_path, monkeypatch
):
  program = Program(tmp_path)

  def one(space):
    with preemption.deferred():  # as a fit does that is in its last step
      os.kill(os.getpid(), signal.SIGTERM)
    return Program.one(program, space)

  with monkeypatch.context() as patch, preemption.handled():
    patch.setattr(program, 'one', one)
    with pytest.raises(Preempted, match='one is finished') as caught:
      program.run()
  assert caught.value.exit_code == 75
  assert program.ran == ['one']
  program.run()
  assert program.ran == ['one', 'two', 'load']


def test_a_stage_of_host_work_runs_again_when_what_it_stands_on_changed(
  tmp_path,
):
  program = Program(tmp_path)
  program.run()
  (tmp_path / 'one' / 'report.json').unlink()
  program.one = lambda space: (
    program.ran.append('other one')
    or space.artefacts.__setitem__('one', {'x': np.arange(5)})
    or {'size': 5.0}
  )
  program.ran.clear()
  program.run()
  assert program.ran == ['other one', 'two']


def test_a_training_on_an_artefact_that_changed_names_the_cure(tmp_path):
  """The first fit goes on from 3 to 6 steps; the second stood on step 3."""
  toys.run('oracle', tmp_path, steps=3)
  with pytest.raises(InputError, match='second was trained from what first'):
    toys.run('oracle', tmp_path, steps=6)
  shutil.rmtree(tmp_path / 'second')
  toys.run('oracle', tmp_path, steps=6)
  fresh = tmp_path / 'fresh'
  toys.run('oracle', fresh, steps=6)
  for name in ('first', 'oracle', 'second'):
    done, want = (
      json.loads((folder / name / 'report.json').read_text())
      for folder in (tmp_path, fresh)
    )
    for key in ('state_sha256', 'artefact_sha256'):
      assert done.get(key) == want.get(key)


class Judged:
  """A training with a finish, host work beside it, a judgement and a table."""

  def __init__(self, folder, steps=2):
    self.folder, self.steps, self.ran = folder, steps, []

  def run(self, judges=False, trains=True, **changes):
    self.ran = []
    config = {
      'paper': 'toy',
      'train': {'steps': self.steps},
      'rate': 1.0,
      'judge': {'by': 1},
    }
    config |= changes
    toy = toys.second_shape()

    def task(space, inputs):
      self.ran.append('opened')
      return toy.task

    def finish(space, inputs, result):
      self.ran.append(f'finish of {result.step}')
      return {'by': float(config['judge']['by'])}

    trained = stage.training(
      'fit',
      loop.Options(steps=self.steps),
      spec=lambda space: toy.source.spec,
      task=task,
      inputs=lambda space: loop.Inputs(Feed(toy.source, space.mesh)),
      finish=finish,
    )
    stages = stage.judged_by(
      [
        stage.Stage('asked', lambda space: self.host('asked'), judges=False),
        trained._replace(judges=judges),
        stage.Stage('judge', lambda space: self.judge(space)),
        stage.Stage('table', lambda space: self.host('table')),
      ],
      'judge.',
    )
    workdir.write_json(self.folder / 'config.json', config)
    space = stage.Workspace(self.folder, config, mesh.make(), seed=0)
    stage.run_all(stages, space, trains)

  def host(self, name):
    self.ran.append(name)
    return {}

  def judge(self, space):
    self.ran.append('judge')
    return {'step': float(space.artefact('fit').step)}

  def lines(self):
    return (self.folder / 'fit' / 'metrics.jsonl').read_text()


def test_changed_keys_of_the_judgement_are_judged_again_and_train_nothing(
  tmp_path,
):
  program = Judged(tmp_path)
  program.run()
  assert program.ran == ['asked', 'opened', 'finish of 2', 'judge', 'table']
  lines = program.lines()
  fitted = json.loads((tmp_path / 'fit' / 'report.json').read_text())
  for trains in (True, False):
    program.run(trains=trains)
    assert program.ran == []
  program.run(trains=False, judge={'by': 2})
  assert program.ran == ['judge', 'opened', 'table']  # opened to be loaded
  again = json.loads((tmp_path / 'fit' / 'report.json').read_text())
  assert (again, program.lines()) == (fitted, lines)
  program.run(judge={'by': 2})
  assert program.ran == []


def test_a_judgement_in_a_training_is_made_again_without_a_step(tmp_path):
  program = Judged(tmp_path)
  program.run(judges=True)
  lines = program.lines()
  before = json.loads((tmp_path / 'fit' / 'report.json').read_text())
  program.run(judges=True, trains=False, judge={'by': 3})
  assert program.ran == ['opened', 'finish of 2', 'judge', 'table']
  after = json.loads((tmp_path / 'fit' / 'report.json').read_text())
  assert after['metrics'] == {**before['metrics'], 'by': 3.0}
  assert after['state_sha256'] == before['state_sha256']
  assert program.lines() == lines and not after['traces']


def test_what_a_training_reads_cannot_change_under_it(tmp_path):
  program = Judged(tmp_path)
  program.run()
  with pytest.raises(InputError, match='fit was trained by another config'):
    program.run(rate=2.0)
  (tmp_path / 'fit' / 'report.json').unlink()  # as killed before it
  with pytest.raises(InputError, match='was begun with config_sha256'):
    program.run(rate=2.0)
  program.run(judge={'by': 2})
  assert program.ran[1:3] == ['opened', 'finish of 2']


def test_eval_names_a_training_that_is_not_finished(tmp_path):
  program = Judged(tmp_path)
  with pytest.raises(InputError, match='fit is not trained to the 2 steps'):
    program.run(trains=False)
  assert program.ran == []
  program.run()
  program.steps = 3
  with pytest.raises(InputError, match=r'--eval trains nothing, and .*3 steps'):
    program.run(trains=False)
  assert program.ran == []


def test_a_figure_that_is_not_finite_is_null_in_the_report(tmp_path):
  program = Program(tmp_path)
  program.one = lambda space: {'size': float('nan'), 'other': 1.0}
  program.two = program.one
  program.load = None
  program.run()
  report = json.loads((tmp_path / 'one' / 'report.json').read_text())
  assert report['metrics'] == {'size': None, 'other': 1.0}
  assert 'not finite' in (tmp_path / 'report.html').read_text()


def fitted(folder, **changes):
  """A training of two steps of the toy regression, with its workspace."""
  config = {'paper': 'toy', 'train': {'steps': 2}}
  workdir.write_json(folder / 'config.json', config)
  space = stage.Workspace(folder, config, mesh.make(), seed=0)
  toy = toys.second_shape()
  given = {
    'spec': lambda space: toy.source.spec,
    'task': lambda space, inputs: toy.task,
    'inputs': lambda space: loop.Inputs(Feed(toy.source, space.mesh)),
    **changes,
  }
  return stage.training('fit', loop.Options(steps=2), **given), space


def test_data_that_is_not_as_the_stage_was_told_is_named(tmp_path):
  one, space = fitted(tmp_path, spec=lambda space: toys.Rows().spec)
  with pytest.raises(InputError, match=r'fit: .* batches have "large/id" None'):
    one.run(space)
  assert not (tmp_path / 'fit').exists()  # before anything is written


def test_finish_gets_the_open_inputs_and_the_result(tmp_path):
  seen = []

  def finish(space, inputs, result):
    seen.append((inputs.feed.source.kind(0), int(result.state.step)))
    return {'more': 1.0}

  one, space = fitted(tmp_path, finish=finish)
  assert one.run(space)['more'] == 1.0
  assert seen == [('large', 2)]
  assert space.facts['traces'] == {'large': 1, 'train': 1}


def test_a_model_is_there_before_its_stage_is_finished_and_comes_again(
  tmp_path,
):
  told = []

  def keep(space, inputs, result):
    told.append((inputs.feed.source.kind(0), int(result.state.step)))
    report = tmp_path / 'fit' / 'report.json'
    assert not report.exists() and result.metrics is not None
    if len(told) == 1:
      raise InputError('no model')
    return model.Kept({'kind': 'number', 'count': 2}, [1])

  one, space = fitted(tmp_path, keep=keep, seed=5)
  assert one.model and not fitted(tmp_path)[0].model
  with pytest.raises(InputError, match='no model'):
    stage.run_all([one], space)
  path = tmp_path / 'fit' / 'model'
  for _ in range(2):  # made; then made again where it was lost
    one, space = fitted(tmp_path, keep=keep, seed=5)
    stage.run_all([one], space)
    found = model.read(path)
    assert found.about['seed'] == 5 and found.about['stage'] == 'fit'
    state = space.artefact('fit')
    chex.assert_trees_all_equal(found.params, jax.device_get(state.params))
    assert (path / 'README.md').read_text().startswith('# toy: fit')
    shutil.rmtree(path)
    (tmp_path / 'fit' / 'report.json').unlink()
  assert told == 3 * [('large', 2)]
  assert (tmp_path / 'fit' / 'metrics.jsonl').read_text().count('"step": 1') < 2
  run = record.opened(tmp_path)
  assert run.stages == run.models == ['fit']


def test_a_plan_opens_nothing_and_knows_that_it_is_one(tmp_path):
  told = []

  def task(space, inputs):
    told.append((space.planning, inputs))
    return toys.second_shape().task

  def inputs(space):
    raise AssertionError('a plan opens no data')

  one, space = fitted(tmp_path, task=task, inputs=inputs)
  planned = one.plan(space)
  assert told == [(True, None)] and not space.planning
  assert set(planned.spec) == set(planned.task.steps) == {'large', 'train'}


def test_a_fit_starts_from_given_entries_and_refuses_those_of_another_net(
  tmp_path,
):
  net = toys.net(jax.random.key(7))
  state = first_state(
    toys.second_shape().task, jax.random.key(0), Start({'net': net})
  )
  chex.assert_trees_all_equal(state.params['net'], net)
  assert state.vars.keys() == {'health'} and state.opt.keys() == {'net'}
  kept = jax.tree.map(lambda x: x + 1, state.opt)
  task = toys.second_shape().task
  again = first_state(task, jax.random.key(0), Start({'net': net}, opt=kept))
  chex.assert_trees_all_equal(again.opt, kept)
  wide = {**net, 'v': np.zeros(17)}
  one, space = fitted(tmp_path, start=lambda space: Start({'net': wide}))
  message = r'params/net/v of shape \(17,\), and its own is \(16,\)'
  with pytest.raises(InputError, match=message):
    one.run(space)
  with pytest.raises(InputError, match=r'params/gen/w of .*own is \(absent\)'):
    first_state(task, jax.random.key(0), Start({'gen': {'w': np.zeros(2)}}))
