"""Stages: a program is a list of them, each with its folder and its report.

A finished stage is skipped when the same command runs again. Where keys of
the judgement alone were changed (`judged_by`), what reads them runs again, and
no fit does a step.
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

from jaxlab.core.errors import InputError, NonFiniteError, Preempted
from jaxlab.core.source import Spec
from jaxlab.core.state import State, Task
from jaxlab.engine import hosts, partition, preemption
from jaxlab.engine.compiled import FRESH, Start, versions
from jaxlab.engine.fingerprint import state_sha256
from jaxlab.engine.loop import FitResult, Inputs, Options, fit, last_state
from jaxlab.engine.metrics import plain, say
from jaxlab.runs import card, listing, model, record, report, workdir
from jaxlab.runs.sections import Sections

Figures = dict[str, float]  # name -> value
Specs = Mapping[str, Spec]  # step kind -> arrays of one global batch


@dataclass
class Workspace:
  """Where a stage runs, and what earlier stages left."""

  dir: Path  # WORKDIR
  config: Mapping[str, Any]  # the resolved config
  mesh: Mesh
  seed: int
  offline: bool = False  # open no socket
  planning: bool = False  # shapes alone: there is no data and no earlier stage
  profile: tuple[int, int] | None = None  # [start, stop) steps to trace
  artefacts: dict[str, Any] = field(default_factory=dict)  # of stages run
  loaders: dict[str, Callable] = field(default_factory=dict)
  facts: dict[str, Any] = field(default_factory=dict)  # for report.json
  page: Sections = field(default_factory=Sections)  # of the running stage
  after: dict[str, str] = field(default_factory=dict)  # stage -> fingerprint
  show: Callable[[], Any] = lambda: None  # writes report.html as far as it is
  command: Sequence[str] = ()  # the arguments of jaxlab.main
  # What checkpoints and the report of the running stage were made with.
  own: dict[str, Any] = field(default_factory=dict)

  def folder(self, stage: str) -> Path:
    """WORKDIR/<stage>."""
    return self.dir / stage

  def artefact(self, stage: str) -> Any:
    """An earlier stage's artefact: kept from its run, or loaded again."""
    if stage not in self.artefacts:
      if stage not in self.loaders:
        raise InputError(
          f'no stage "{stage}" ran before; known: {sorted(self.loaders)}'
        )
      self.artefacts[stage] = self.loaders[stage](self)
    return self.artefacts[stage]

  def figures(self, stage: str) -> dict[str, float | None]:
    """The figures of a finished stage; None where one is not finite."""
    path = self.folder(stage) / 'report.json'
    return json.loads(path.read_text())['metrics']


class Planned(NamedTuple):
  """A training stage as shapes: what `--plan` compiles.

  `task.init` is traced, never run. A mesh of planned devices has
  `platform(mesh) == 'tpu'` whatever this machine is.
  """

  task: Task
  spec: Specs
  steps: int
  rules: Sequence[partition.Rule] = partition.REPLICATED
  max_bad_steps: int = 0
  flops: Mapping[str, float] = {}  # kind -> of the model, without recomputation


class Stage(NamedTuple):
  """One step of a program: training, or work between trainings.

  `run(space)` returns the stage's figures. It puts what later stages need at
  `space.artefacts[name]`: a State, or another tree of arrays. `load(space)`
  brings that back when the stage is skipped. `steps` is the number of updates,
  0 for a stage that does not train. `open(space)` opens the data of a training
  and makes its task; `plan(space)` says what it would compile, without data.
  `model` says that WORKDIR/<stage>/model is left, to predict with.

  `unread` are the keys and sections ('ood.') of the config that no fit and
  nothing that a fit stands on reads. A stage that `judges` reads them, a
  training in its `finish`: if one is changed it runs again, a training without
  a step. Other stages do not.
  """

  name: str
  run: Callable[[Workspace], Figures]
  steps: int = 0
  load: Callable[[Workspace], Any] | None = None
  open: Callable[[Workspace], tuple[Task, Inputs]] | None = None
  plan: Callable[[Workspace], Planned] | None = None
  model: bool = False
  unread: tuple[str, ...] = ()
  judges: bool = True


def judged_by(stages: Sequence[Stage], *keys: str) -> list[Stage]:
  """Stages of whose config `keys` are the judgement's: no fit reads them.

  Args:
    keys: 'outliers.validation', or a section: 'ood.'.
  """
  return [stage._replace(unread=keys) for stage in stages]


def training(
  name: str,
  options: Options,
  *,
  spec: Callable[[Workspace], Specs],
  task: Callable[[Workspace, Inputs | None], Task],
  inputs: Callable[[Workspace], Inputs],
  finish: Callable[[Workspace, Inputs, FitResult], Figures] | None = None,
  rules: Callable[[Mesh], Sequence[partition.Rule]] | None = None,
  seed: int | None = None,
  start: Callable[[Workspace], Start] | None = None,
  flops: Mapping[str, float] | None = None,
  keep: Callable[[Workspace, Inputs, FitResult], model.Kept] | None = None,
) -> Stage:
  """The stage of one fit.

  Args:
    options: of the engine, `Options(**config['train'])`.
    spec: the arrays of a batch, from the config and `space.mesh` alone where
      that can be: `--plan` compiles them, and no data need be there. The feed
      must give the same.
    task: init and steps; gets None for inputs under `--plan`, where no data is
      opened.
    inputs: opens the data: the training feed, and the evaluations.
    finish: measures once more after the fit (a test set, figures); its figures
      join those of the last evaluation. It gets the open inputs.
    rules: where State lies on a mesh; default: every device holds it all.
    seed: of this fit; default: the run's.
    start: entries of State to begin with, such as an earlier stage's.
    flops: step kind -> FLOPs of the model, for `--plan`; default: counted.
    keep: what goes beside the final State into WORKDIR/<name>/model, where the
      job's `predict` finds it; default: there is none.
  """

  def lay(space):
    return rules(space.mesh) if rules else partition.REPLICATED

  def open(space):
    found = inputs(space)
    _check_spec(name, spec(space), found.feed.source.spec)
    return task(space, found), found

  def run(space):
    made, found = open(space)
    of_fit = space.seed if seed is None else seed
    result = fit(
      name,
      made,
      found._replace(about={**found.about, **space.own}),
      replace(
        options,
        profile=space.profile,
        rules=lay(space),
        watch=partial(_watch, space, name),
      ),
      space.folder(name),
      space.mesh,
      of_fit,
      start(space) if start else FRESH,
    )
    space.artefacts[name] = result.state
    space.facts |= {
      'wall_seconds': round(result.seconds, 3),
      'traces': result.traces,
      **found.about,
    }
    if options.best:
      space.facts |= {'best_step': result.step, 'steps_done': result.steps}
    more = finish(space, found, result) if finish else {}
    if keep:
      kept = keep(space, found, result)
      _keep(space, name, of_fit, kept, result.state)
    return {**result.metrics, **more}

  def load(space):
    made, _ = open(space)
    folder, of_best = space.folder(name), options.best is not None
    return last_state(made, folder, space.mesh, lay(space), of_best)

  def plan(space):
    space = replace(space, planning=True)
    return Planned(
      task(space, None),
      spec(space),
      options.steps,
      lay(space),
      options.max_bad_steps,
      flops or {},
    )

  return Stage(
    *(name, run, options.steps, load, open, plan),
    model=keep is not None,
    judges=False,
  )


def _when() -> dict[str, str]:
  now = time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime())
  return {'date': now, 'commit': card.commit()}


def _keep(
  space: Workspace, name: str, seed: int, kept: model.Kept, state: State
) -> None:
  """Writes WORKDIR/<name>/model."""
  config = space.config
  about = {
    'paper': config['paper'],
    'job': config.get('job', 'task'),
    'stage': name,
    'seed': seed,
    **_when(),
    'versions': {'jaxlab': listing.version()[7:], **versions()},
  }
  model.write(space.folder(name) / model.FOLDER, state, kept, config, about)


def _watch(space: Workspace, name: str) -> None:
  """Shows a training that goes on; the leader does."""
  if hosts.leads():
    report.curves(space.folder(name))
    space.show()


def _check_spec(name: str, said: Specs, given: Specs) -> None:
  flat = lambda specs: {
    f'{kind}/{array}': (tuple(of.shape), str(of.dtype))
    for kind, spec in specs.items()
    for array, of in spec.items()
  }
  wanted, found = flat(said), flat(given)
  for key in sorted({*wanted, *found}):
    if wanted.get(key) != found.get(key):
      raise InputError(
        f'{name}: the config says that batches have "{key}" '
        f'{wanted.get(key)}, and the data has {found.get(key)}; make '
        'config.data say what the data is'
      )


def run_all(
  stages: Sequence[Stage], space: Workspace, trains: bool = True
) -> None:
  """Runs the stages that are not finished; then writes report.html.

  Args:
    trains: False: every training must be finished; its judgement is made anew
      where keys of the judgement were changed.

  Raises:
    InputError: a training is not finished and is not to be.
    Preempted: a signal arrived; what is finished stays finished.
  """
  if not trains:
    _check_trained(stages, space)
  names = [stage.name for stage in stages]
  if hosts.leads():
    workdir.write_json(space.dir / 'config.json', space.config)
    kept = [stage.name for stage in stages if stage.model]
    record.note(space.dir, space.command, names, kept)
  space.show = partial(report.write_html, space.dir, names)
  try:
    _run_each(stages, space)
  except (Preempted, NonFiniteError):
    if hosts.leads():
      for name in names:
        if not (space.folder(name) / 'report.json').exists():
          report.curves(space.folder(name))
      space.show()
    raise
  if hosts.leads():
    title = space.config.get('title') or space.config['paper']
    card.write_all(record.opened(space.dir), title)
    path = space.show()
    for text in report.summary(space.dir, names):
      say(text)
    say(f'report: {path}')


def _run_each(stages: Sequence[Stage], space: Workspace) -> None:
  for number, stage in enumerate(stages, 1):
    if stage.load:
      space.loaders[stage.name] = stage.load
    # One answer for all processes, though the leader writes a report meanwhile.
    done = hosts.share(
      f'{stage.name}: finished?', partial(_finished, stage, space)
    )
    if done:
      say(f'{stage.name}: finished before, skipped')
    else:
      if len(stages) > 1:
        say(f'{stage.name}: stage {number} of {len(stages)}')
      done = _run(stage, space)
      if stage is not stages[-1]:
        # Or a study of many trainings would hold the programs of all of them.
        jax.clear_caches()
    space.after = {**space.after, stage.name: _fingerprint(done)}
    if any(hosts.gather(f'{stage.name}: stop?', preemption.asked())):
      raise Preempted(f'{stage.name} is finished')


def _check_trained(stages: Sequence[Stage], space: Workspace) -> None:
  """Raises InputError where a training is not finished."""
  for stage in stages:
    folder = space.folder(stage.name)
    path = folder / 'report.json'
    done = json.loads(path.read_text()) if path.exists() else {}
    if stage.steps and done.get('steps') != stage.steps:
      raise InputError(
        f'--eval trains nothing, and {folder} is not trained to the '
        f'{stage.steps} steps of the config; run without --eval first'
      )


def _finished(stage: Stage, space: Workspace) -> dict[str, Any]:
  """The report of a finished stage; {} if it is to be run."""
  path = space.folder(stage.name) / 'report.json'
  done = _report(stage, space, path) if path.exists() else {}
  same = done.get('judged_sha256') in (None, _judged(stage, space))
  return done if same and done.get('steps') == stage.steps else {}


def _report(stage: Stage, space: Workspace, path: Path) -> dict[str, Any]:
  """The report of a stage that was run; {} if it stands on nothing now.

  Raises:
    InputError: it is of more steps, of other keys or of another artefact, or
      is not a report.
  """
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
  # Reports of versions without `unread` are compared by config.json alone.
  own = done.get('config_sha256')
  if stage.steps and 'unread' in done and own != _own(stage, space):
    raise InputError(
      f'{path.parent} was trained by another config; take another --workdir, '
      'or remove that folder to train it again'
    )
  if after != space.after:
    if stage.steps:
      raise InputError(
        f'{path.parent} was trained from what {", ".join(after)} left before '
        'going on; remove that folder to train it again, or take another '
        '--workdir'
      )
    return {}
  return done


def _own(stage: Stage, space: Workspace) -> str:
  return workdir.digest(space.config, stage.unread)


def _judged(stage: Stage, space: Workspace) -> str:
  return workdir.digest(space.config, () if stage.judges else stage.unread)


def _run(stage: Stage, space: Workspace) -> dict[str, Any]:
  folder = space.folder(stage.name)
  folder.mkdir(parents=True, exist_ok=True)
  space.facts, space.page = {}, Sections(folder)
  space.own = {
    'config_sha256': _own(stage, space),
    'unread': list(stage.unread),
    'after': space.after,
  }
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
    **space.own,
    'judged_sha256': _judged(stage, space),
    **_when(),
    'versions': versions(),
    **space.facts,
  }
  hosts.meet(f'{stage.name}: done')  # and everything it wrote is written
  if hosts.leads():
    report.curves(folder)
    space.page.write()
    workdir.write_json(folder / 'report.json', about)
  return about


def _fingerprint(done: Mapping[str, Any]) -> str:
  return done.get('state_sha256') or done.get('artefact_sha256') or ''
