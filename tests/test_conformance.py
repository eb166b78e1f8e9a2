"""The engine's promises, kept by the smoke variant of every config.

Each configs/NAME.py is run twice by the same command: once with nothing in its
way, and once from what a kill in its first training would have left, stopped in
its last and started again; what they leave must be the same.
A few steps on one and on eight devices, and all plans, are made in here.
"""

import json
import math
import re
import shutil
import signal
import socket
from pathlib import Path
from typing import NamedTuple

import chex
import jax
import numpy as np
import pytest

import jaxlab
from jaxlab import main
from jaxlab.core.errors import InputError
from jaxlab.core.update import guarded
from jaxlab.engine import loop, mesh, metrics
from jaxlab.planning import plan
from jaxlab.runs import stage
from tests import forked, runs
from tests.forked import Snapshot, Stop

CONFIGS = [*runs.smokes(), 'examples/new_paper/config.py']
FIELDS = {
  'paper': str,
  'stage': str,
  'steps': int,
  'seed': int,
  'wall_seconds': float,
  'metrics': dict,
  'paper_reported': dict,
  'versions': dict,
}
FIRST_STEPS = 3  # that one and eight devices are compared at


# --- the stage API, in one place ---


def smoke_of(name: str):
  """The resolved smoke config of configs/NAME.py."""
  return runs.config_of(name, 'smoke').to_dict()


def stages_of(config) -> list[stage.Stage]:
  """The program of a config."""
  return main.program_of(config)


def space_on(devices: int, config, folder) -> stage.Workspace:
  """A workspace on so many CPU devices, without a network."""
  made = mesh.make(devices=jax.devices()[:devices])
  return stage.Workspace(folder, config, made, config['seed'], offline=True)


def first_lines(training: stage.Stage, space: stage.Workspace) -> list[dict]:
  """What the first steps of a training stage log; nothing is evaluated."""
  task, inputs = training.open(space)
  options = loop.Options(
    steps=FIRST_STEPS,
    log_every_steps=1,
    checkpoint_every_seconds=0.0,
    rules=training.plan(space).rules,
  )
  loop.fit(
    training.name,
    task,
    inputs._replace(evals={}),
    options,
    space.folder(training.name),
    space.mesh,
    space.seed,
  )
  return untimed_lines(space.folder(training.name))


def planned_steps(training: stage.Stage, space: stage.Workspace):
  """(kind, State before, State after, metrics) of a stage's plan, as shapes."""
  planned = training.plan(space)
  assert set(planned.spec) == set(planned.task.steps)
  for kind, update in planned.task.steps.items():
    state, batch = plan.shapes(planned, kind, space.mesh)
    step = guarded(update, planned.max_bad_steps)
    yield kind, state, *jax.eval_shape(step, state, batch, jax.random.key(0))


# --- runs ---


class Run(NamedTuple):
  """A finished run, and the command that it was started by."""

  name: str
  config: dict
  flags: list[str]
  folder: Path
  data: Path  # JAXLAB_DATA_DIR

  @property
  def trained(self) -> list[stage.Stage]:
    """Its training stages."""
    return [one for one in stages_of(self.config) if one.steps]


@pytest.fixture(scope='module')
def data(tmp_path_factory):
  """One data folder for all of them."""
  return tmp_path_factory.mktemp('conformance') / 'data'


@pytest.fixture(scope='module', params=CONFIGS)
def whole(request, tmp_path_factory, data) -> Run:
  """A run that nothing stopped; it saves between two lines of the log."""
  name = request.param
  config = smoke_of(name)
  flags = [f'--config={runs.path_of(name)}:smoke', '--offline']
  if 'train' in config:
    often = max(1, 3 * config['train']['log_every_steps'] // 2)
    flags.append(f'--config.train.checkpoint_every_steps={often}')
  folder = tmp_path_factory.mktemp(Path(name).stem) / 'whole'
  trained = [one for one in stages_of(config) if one.steps]
  kill = None
  if trained:
    stage_name, step = kill_of(config, trained)
    kill = Snapshot(folder.with_name('other'), stage_name, step)
  ended = forked.run(flags, folder, data, kill)
  assert ended.code == 0, ended.said
  return Run(name, config, flags, folder, data)


def report_of(folder, name: str):
  """A stage's report, which is strict JSON."""

  def refuse(constant):
    raise AssertionError(f'{name}/report.json holds {constant}, not JSON')

  text = (folder / name / 'report.json').read_text()
  return json.loads(text, parse_constant=refuse)


def left(folder, name: str):
  """Fingerprint, figures, and metrics lines without times, of a stage."""
  about = report_of(folder, name)
  prints = about.get('state_sha256'), about.get('artefact_sha256')
  untimed = {k: v for k, v in about['metrics'].items() if 'seconds' not in k}
  return prints, untimed, untimed_lines(folder / name)


def untimed_lines(folder) -> list[dict]:
  """The lines of a stage's metrics.jsonl, without times."""
  return [
    {k: v for k, v in line.items() if k not in metrics.TIME_FIELDS}
    for line in metrics.read(folder / 'metrics.jsonl')
  ]


def same(one, other, names) -> None:
  """Every stage of two runs left the same."""
  for name in names:
    assert left(one, name) == left(other, name), name


def kill_of(config, trained: list[stage.Stage]) -> tuple[str, int]:
  """The stage and the step of the kill: in the first training."""
  return trained[0].name, 2 * config['train']['log_every_steps']


def term_of(config, trained: list[stage.Stage]) -> Stop:
  """A SIGTERM in the last training, later."""
  every = config['train']['log_every_steps']
  first, last = trained[0], trained[-1]
  late = 2 * every if last is not first else last.steps // every * every
  while late >= last.steps:
    late -= every
  return Stop(signal.SIGTERM, last.name, late)


def test_a_smoke_reports_every_stage_in_full(whole):
  stages = stages_of(whole.config)
  for one in stages:
    about = report_of(whole.folder, one.name)
    for field, kind in FIELDS.items():
      assert isinstance(about[field], kind), (one.name, field)
    assert about['paper'] == whole.config['paper']
    assert (about['stage'], about['steps']) == (one.name, one.steps)
    assert {'jax', 'flax', 'optax', 'numpy', 'device'} <= {*about['versions']}
    assert about['versions']['device'].startswith('1 x ')
    assert 'state_sha256' in about or 'artefact_sha256' in about
    for name, value in about['metrics'].items():
      assert value is None or math.isfinite(value), (one.name, name)
    if one.steps:
      assert re.fullmatch('[0-9a-f]{64}', about['state_sha256'])


def test_a_smoke_logs_and_evaluates_twice_in_each_training(whole):
  for one in whole.trained:
    lines = metrics.read(whole.folder / one.name / 'metrics.jsonl')
    kinds = [line['kind'] for line in lines]
    assert kinds.count('eval') >= 2, one.name
    assert len(kinds) - kinds.count('eval') >= 2, one.name
    assert [line['step'] for line in lines][-1] == one.steps


def test_a_step_kind_is_traced_once(whole):
  for one in whole.trained:
    traces = report_of(whole.folder, one.name)['traces']
    assert traces and set(traces.values()) == {1}, one.name


def test_the_page_stands_alone(whole):
  page = (whole.folder / 'report.html').read_text()
  for one in stages_of(whole.config):
    assert one.name in page
  loaded = re.findall(r'(?:src|href|action)\s*=\s*["\']?([^"\'>\s]+)', page)
  assert all(each.startswith(('data:', '#')) for each in loaded)
  assert not re.search(r'<link|@import|url\((?!["\']?data:)', page)


def test_killed_and_stopped_it_ends_as_if_nothing_had_happened(whole):
  other = whole.folder.with_name('other')
  names = [one.name for one in stages_of(whole.config)]
  if not whole.trained:
    ended = forked.run(whole.flags, other, whole.data)
    assert ended.code == 0, ended.said
    same(other, whole.folder, names)
    before = {n: (other / n / 'report.json').read_bytes() for n in names}
    ended = forked.run(whole.flags, other, whole.data)
    assert ended.code == 0, ended.said
    for name in names:
      assert f'{name}: finished before, skipped' in ended.said
      assert (other / name / 'report.json').read_bytes() == before[name]
    return
  killed, step = kill_of(whole.config, whole.trained)
  term = term_of(whole.config, whole.trained)
  assert not (other / killed / 'report.json').exists()
  saved = runs.saved_steps(other / killed)[-1]
  assert 0 < saved <= step
  ended = forked.run(whole.flags, other, whole.data, term, draws=False)
  assert ended.code == 75, ended.said
  assert f'{killed}: going on from step {saved}' in ended.said
  assert f'{term.stage}: saved step {term.step}' in ended.said
  assert not (other / term.stage / 'report.json').exists()
  ended = forked.run(whole.flags, other, whole.data, draws=False)
  assert ended.code == 0, ended.said
  assert f'{term.stage}: going on from step {term.step}' in ended.said
  for one in whole.trained[:-1]:
    assert f'{one.name}: finished before, skipped' in ended.said
  same(other, whole.folder, names)


def test_a_real_kill_is_gone_on_from_too(whole):
  if whole.name != CONFIGS[-1]:
    return
  killed, step = kill_of(whole.config, whole.trained)
  other, kill = whole.folder.with_name('killed'), signal.SIGKILL
  stop = Stop(kill, killed, step)
  ended = forked.run(whole.flags, other, whole.data, stop, draws=False)
  assert ended.code == -kill, ended.said
  ended = forked.run(whole.flags, other, whole.data, draws=False)
  assert ended.code == 0, ended.said
  assert f'{killed}: going on from step' in ended.said
  same(other, whole.folder, [one.name for one in stages_of(whole.config)])


# --- in this process ---


@pytest.fixture
def no_data(tmp_path, monkeypatch):
  """An empty data folder."""
  monkeypatch.setenv('JAXLAB_DATA_DIR', str(tmp_path / 'none'))
  return tmp_path


def test_eight_devices_train_as_one(whole, tmp_path, monkeypatch):
  if not whole.trained:
    return
  monkeypatch.setenv('JAXLAB_DATA_DIR', str(whole.data))
  first = whole.trained[0]
  found = []
  for devices in (1, 8):
    space = space_on(devices, whole.config, tmp_path / str(devices))
    found.append(first_lines(first, space))
  assert [line['step'] for line in found[0]] == [*range(1, FIRST_STEPS + 1)]
  for one, eight in zip(*found, strict=True):
    assert one.pop('kind') == eight.pop('kind')
    # Eight devices add up sampled edges in another order than one.
    rel = 2e-5 if whole.name == 'mvs_gnn' else 1e-5
    assert eight == pytest.approx(one, rel=rel, abs=1e-7)


def test_models_answer_from_a_copied_run_alone(whole, no_data, monkeypatch):
  def refuse(*args):
    raise AssertionError(args)

  monkeypatch.setattr(socket.socket, 'connect', refuse)
  leave = shutil.ignore_patterns('checkpoints')
  folder = shutil.copytree(whole.folder, no_data / 'copy', ignore=leave)
  names = [one.name for one in stages_of(whole.config) if one.model]
  assert bool(names) == bool(whole.trained)
  if not names:
    with pytest.raises(InputError, match='has no model'):
      jaxlab.load(folder)
  for name in names:
    model = jaxlab.load(folder / name)
    assert model.about['data'] and model.config
    given = model.example()
    answers = model.predict(given)
    assert len(answers) == len(given) > 0
    for answer in answers:
      if isinstance(answer, dict) and 'probabilities' in answer:
        assert sum(answer['probabilities']) == pytest.approx(1, abs=1e-4)
      leaves = [x for x in jax.tree.leaves(answer) if not isinstance(x, str)]
      assert all(np.isfinite(leaf).all() for leaf in leaves)
    card = (folder / name / 'model' / 'README.md').read_text()
    assert all(f'## {x}' in card for x in ('Use', 'Data', 'Figures', 'Origin'))


@pytest.mark.parametrize('name', CONFIGS)
def test_a_plan_needs_shapes_alone(name, no_data):
  config = smoke_of(name)
  space = space_on(8, config, no_data)
  trained = [one for one in stages_of(config) if one.steps]
  for one in trained:
    for kind, before, after, figures in planned_steps(one, space):
      chex.assert_trees_all_equal_shapes_and_dtypes(after, before)
      assert 'run_length' in figures, kind  # of the non-finite law
