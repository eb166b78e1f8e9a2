"""Stages: a program is a list of them, each with its folder and its report.

A finished stage is skipped when the same command runs again.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from jaxlab.engine import hosts, partition, preemption, report, workdir
from jaxlab.engine.compiled import versions
from jaxlab.engine.errors import InputError, Preempted
from jaxlab.engine.loop import Fitted, Options, fit, last_state
from jaxlab.engine.metrics import plain, say
from jaxlab.engine.state import State, Task, state_sha256


@dataclass
class Workspace:
  """What a stage runs in."""

  dir: Path  # WORKDIR
  config: Mapping[str, Any]  # the resolved config
  mesh: Mesh
  seed: int
  offline: bool = False  # open no socket
  profile: tuple[int, int] | None = None  # [start, stop) steps to trace
  artefacts: dict[str, Any] = field(default_factory=dict)  # of stages run
  loaders: dict[str, Callable] = field(default_factory=dict)
  facts: dict[str, Any] = field(default_factory=dict)  # for report.json
  after: dict[str, str] = field(default_factory=dict)  # stage -> fingerprint

  def folder(self, stage: str) -> Path:
    """WORKDIR/<stage>."""
    return self.dir / stage

  def artefact(self, stage: str) -> Any:
    """What an earlier stage left: kept from its run, or loaded again."""
    if stage not in self.artefacts:
      if stage not in self.loaders:
        raise InputError(
          f'no stage "{stage}" ran before; known: {sorted(self.loaders)}'
        )
      self.artefacts[stage] = self.loaders[stage](self)
    return self.artefacts[stage]


class Planned(NamedTuple):
  """A training stage as shapes: what `--plan` compiles.

  `task.init` is traced, never run. A mesh of planned devices has
  `platform(mesh) == 'tpu'` whatever this machine is.
  """

  task: Task
  spec: Mapping[str, Mapping[str, Any]]  # kind -> arrays with shape and dtype
  steps: int
  rules: Sequence[partition.Rule] = partition.REPLICATED
  max_bad_steps: int = 0
  flops: Mapping[str, float] = {}  # kind -> of the model, without recomputation


class Stage(NamedTuple):
  """One step of a program: training, or work between trainings.

  `run(space)` returns the stage's figures. It puts what later stages need at
  `space.artefacts[name]`: a State, or another tree of arrays. `load(space)`
  brings that back when the stage is skipped. `steps` is the number of updates,
  0 for a stage that does not train. `plan(space)` says what training would
  compile, without data.
  """

  name: str
  run: Callable[[Workspace], dict[str, float]]
  steps: int = 0
  load: Callable[[Workspace], Any] | None = None
  plan: Callable[[Workspace], Planned] | None = None


def training(
  name: str,
  build: Callable[[Workspace], tuple[Task, Any]],
  options: Options,
  finish: Callable[[Workspace, Task, Fitted], dict[str, float]] | None = None,
  plan: Callable[[Workspace], Planned] | None = None,
  rules: Callable[[Mesh], Sequence[partition.Rule]] | None = None,
  seed: int | None = None,
) -> Stage:
  """The stage of one fit.

  Args:
    build: makes the task and the feed of its training batches.
    finish: measures once more after the fit (a test set, figures); its figures
      join those of the last evaluation.
    plan: the same as shapes.
    rules: where State lies on a mesh; default: every device holds it all.
    seed: of this fit; default: the run's.
  """

  def lay(space):
    return rules(space.mesh) if rules else partition.REPLICATED

  def run(space):
    task, feed = build(space)
    about = {
      **options.about,
      'config_sha256': workdir.digest(space.config),
      'after': space.after,
    }
    here = replace(
      options, profile=space.profile, about=about, rules=lay(space)
    )
    folder = space.folder(name)
    chosen = space.seed if seed is None else seed
    fitted = fit(name, task, feed, here, folder, space.mesh, chosen)
    space.artefacts[name] = fitted.state
    space.facts['wall_seconds'] = round(fitted.seconds, 3)
    if options.best:
      space.facts['best_step'] = fitted.step
      space.facts['steps_done'] = fitted.steps
    more = finish(space, task, fitted) if finish else {}
    return {**fitted.metrics, **more}

  def load(space):
    task, _ = build(space)
    folder, of_best = space.folder(name), options.best is not None
    return last_state(task, folder, space.mesh, lay(space), of_best)

  return Stage(name, run, options.steps, load, plan)


def run_all(stages: Sequence[Stage], space: Workspace) -> None:
  """Runs the stages that are not finished; then writes report.html.

  Raises:
    Preempted: a signal arrived; what is finished stays finished.
  """
  for stage in stages:
    if stage.load:
      space.loaders[stage.name] = stage.load
    # One answer for all processes, though the leader writes a report meanwhile.
    done = hosts.share(
      f'{stage.name}: finished?', partial(_finished, stage, space)
    )
    if done:
      say(f'{stage.name}: finished before, skipped')
    else:
      done = _run(stage, space)
      if stage is not stages[-1]:
        # Or a study of many trainings would hold the programs of all of them.
        jax.clear_caches()
    space.after = {**space.after, stage.name: _fingerprint(done)}
    if any(hosts.gather(f'{stage.name}: stop?', preemption.asked())):
      raise Preempted(f'{stage.name} is finished')
  if hosts.leads():
    path = report.write_html(space.dir, [stage.name for stage in stages])
    say(f'report: {path}')


def _finished(stage: Stage, space: Workspace) -> dict[str, Any]:
  """The report of a finished stage; {} if it is to be run."""
  path = space.folder(stage.name) / 'report.json'
  if not path.exists():
    return {}
  try:
    done = json.loads(path.read_text())
    steps, after = done['steps'], done['after']
  except (ValueError, KeyError, TypeError) as error:
    raise InputError(
      f"{path} is not a stage's report ({error}); remove it and run again"
    ) from error
  if steps > stage.steps:
    raise InputError(
      f'{path} is of {steps} steps, the config asks for {stage.steps}; take '
      'more steps or another --workdir'
    )
  if after != space.after:
    if stage.steps:
      raise InputError(
        f'{path.parent} was trained from what {", ".join(after)} left before '
        'going on; remove that folder to train it again, or take another '
        '--workdir'
      )
    return {}
  return done if steps == stage.steps else {}


def _run(stage: Stage, space: Workspace) -> dict[str, Any]:
  folder = space.folder(stage.name)
  folder.mkdir(parents=True, exist_ok=True)
  space.facts = {}
  began = time.monotonic()
  figures = stage.run(space)
  left = space.artefacts.get(stage.name)
  name = 'state_sha256' if isinstance(left, State) else 'artefact_sha256'
  config = space.config
  about = {
    'paper': config['paper'],
    'stage': stage.name,
    'steps': stage.steps,
    'seed': space.seed,
    'wall_seconds': round(time.monotonic() - began, 3),
    'metrics': plain(figures),
    'paper_reported': config.get('paper_reported', {}),
    name: state_sha256(left) if left is not None else None,
    'after': space.after,
    'config_sha256': workdir.digest(config),
    'versions': versions(),
    **space.facts,
  }
  hosts.meet(f'{stage.name}: done')  # and everything it wrote is written
  if hosts.leads():
    report.curves(folder)
    workdir.write_json(folder / 'report.json', about)
  return about


def _fingerprint(done: Mapping[str, Any]) -> str:
  return done.get('state_sha256') or done.get('artefact_sha256') or ''
