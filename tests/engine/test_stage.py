"""Programs: stages that run once."""

import json
import os
import signal

import numpy as np
import pytest

from jaxlab.engine import preemption, stage, workdir
from jaxlab.engine.errors import InputError, Preempted
from jaxlab.engine.state import state_sha256


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
