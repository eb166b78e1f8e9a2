"""`fit`: the one training loop.

  restore or init -> [evaluate if due -> save if due or preempted ->
  batch(step) -> step -> log if due] -> wait

Step t means "t updates done". The last step always evaluates and saves.

Several processes run the same loop. What follows from the step or from global
metrics they decide alike by themselves; signals and the clock of the
checkpoints they agree on about once a second (`hosts.Agreement`).
"""

import contextlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxlab.core import keys
from jaxlab.core.errors import (
  DamagedError,
  InputError,
  NonFiniteError,
  Preempted,
  WorkerLostError,
)
from jaxlab.core.require import at_least, require
from jaxlab.core.state import Evaluator, State, Task
from jaxlab.engine import (
  checkpoint,
  evaluate,
  hosts,
  mesh,
  metrics,
  partition,
  preemption,
)
from jaxlab.engine.best import Best, Keeper, folder_of
from jaxlab.engine.compiled import (
  FRESH,
  Start,
  Steps,
  abstract_state,
  first_state,
  versions,
)
from jaxlab.engine.feed import Feed

_SECONDS_BETWEEN_LOOKS = 30.0
_IN_FLIGHT = 2  # steps that the host may be ahead of the device
_TOGETHER = NonFiniteError | Preempted  # raised by all processes or by none


@dataclass(frozen=True)
class Options:
  """How long, how often, how careful: `config.train` by the same names."""

  steps: int
  log_every_steps: int = 100
  eval_every_steps: int = 0  # 0: only at the end
  checkpoint_every_steps: int = 0  # kept for good; 0: none
  checkpoint_every_seconds: float = 60.0  # rolling; 0: none
  checkpoint_keep: int = 1
  max_bad_steps: int = 0
  best: Best | None = None  # leave the State of the best evaluation
  profile: tuple[int, int] | None = None  # [start, stop) steps to trace
  rules: Sequence[partition.Rule] = partition.REPLICATED
  clock: Callable[[], float] = time.monotonic
  # Called at evaluations, but not more often than every 30 seconds.
  watch: Callable[[], None] | None = None

  def __post_init__(self):
    never = at_least(0, '0 switches it off')
    rules = {
      'train.steps': at_least(1),
      'train.log_every_steps': at_least(1),
      'train.eval_every_steps': never,
      'train.checkpoint_every_steps': never,
      'train.checkpoint_every_seconds': never,
      'train.checkpoint_keep': at_least(1, 'else nothing is there to resume'),
      'train.max_bad_steps': never,
    }
    require({'train': vars(self)}, rules)


class Inputs(NamedTuple):
  """Open data of one training."""

  feed: Feed  # of training batches
  evals: Mapping[str, tuple[Evaluator, Feed]] = {}  # name -> (…, finite feed)
  about: Mapping[str, Any] = {}  # digests of data that a checkpoint belongs to
  data: Any = None  # anything else that the stage's functions need


@dataclass(frozen=True)
class FitResult:
  """What a fit leaves."""

  state: State
  metrics: dict[str, float]  # of that State's evaluation, 'name/metric'
  seconds: float  # spent in training over all attempts
  step: int  # of the State
  steps: int  # updates done; fewer than asked for where the fit stopped early
  traces: Mapping[str, int]  # step kind -> traces, in this process


def fit(
  name: str,
  task: Task,
  inputs: Inputs,
  options: Options,
  folder: Path,
  devices: Mesh,
  seed: int,
  start: Start = FRESH,
) -> FitResult:
  """Trains `task` to `options.steps` updates, resuming what `folder` holds.

  Args:
    name: the stage, for the progress line.
    inputs: a run of other `inputs.about` than the folder's is refused.
    folder: takes metrics.jsonl and checkpoints/.
    devices: the mesh.
    seed: the run's seed.
    start: entries of the State at step 0.

  Raises:
    InputError: bad input; NonFiniteError: the non-finite law stopped the run;
    Preempted: a signal arrived and everything finished is saved.
  """
  with preemption.deferred():
    run = _Run(name, task, inputs, options, folder, devices, seed, start)
    try:
      return run.run()
    finally:
      error = sys.exception()
      # A process that fails alone must not wait for the others in here.
      if hosts.count() == 1 or isinstance(error, None | _TOGETHER):
        run.close()


def last_state(
  task: Task,
  folder: Path,
  devices: Mesh,
  rules: Sequence[partition.Rule] = partition.REPLICATED,
  of_best: bool = False,
) -> State:
  """The newest State that a fit left in its folder, or its best.

  Raises:
    InputError: there is none, or it is damaged or of another model.
  """
  where = folder_of(folder) if of_best else folder / 'checkpoints'
  kept = checkpoint.Checkpoints(where, checkpoint.Policy(), writes=False)
  latest = kept.latest()
  if latest is None:
    raise InputError(
      f'{folder} holds no checkpoint; remove its report.json to train again'
    )
  state, _ = kept.restore(abstract_state(task, devices, rules), latest)
  kept.close()
  return state


class _Run:
  """The state of one call of `fit`."""

  def __init__(self, name, task, inputs, options, folder, devices, seed, start):
    self.task, self.feed, self.options = task, inputs.feed, options
    self.about = inputs.about
    self.folder, self.name, self.seed = folder, name, seed
    folder.mkdir(parents=True, exist_ok=True)
    self.checkpoints = checkpoint.Checkpoints(
      folder / 'checkpoints',
      checkpoint.Policy(
        options.checkpoint_every_steps,
        options.checkpoint_every_seconds,
        options.checkpoint_keep,
        options.clock,
      ),
    )
    self.state, about = self._restore_or_init(devices, start)
    self.step = int(self.state.step)
    if self.step > options.steps:
      raise InputError(
        f'{folder} has already done {self.step} steps, train.steps = '
        f'{options.steps}; take more steps or another --workdir'
      )
    self.evaluated = about.get('evaluated', False)
    self.totals = metrics.Totals(about.get('totals'))
    self.best = Keeper(options.best, folder, about.get('best'))
    self.started = options.clock() - about.get('seconds', 0.0)
    self.log = metrics.Log(folder, self.step, self.evaluated, about.get('log'))
    self.progress = metrics.Progress(
      name, self.step, options.steps, options.clock
    )
    self.evaluations = {
      key: evaluate.Evaluation(key, evaluator, eval_feed, seed)
      for key, (evaluator, eval_feed) in inputs.evals.items()
    }
    self.agree = hosts.Agreement(f'{name}: stop or save?')
    self.root = keys.stream(seed, 'train')
    self.steps = Steps(task, options.max_bad_steps, self.state)
    self.pending: list[tuple[str, jax.Array]] = []
    self.tracing = False
    self.watched = options.clock()

  def _restore_or_init(self, devices, start) -> tuple[State, dict[str, Any]]:
    key = keys.stream(self.seed, 'init')
    like = abstract_state(self.task, devices, self.options.rules)
    latest = hosts.share(f'{self.name}: from', self.checkpoints.latest)
    found = self._restore(like, latest)
    if found is None:
      # Copies: State is donated, so it may share no buffer, neither with
      # itself nor with what `init` closed over.
      copy = jax.jit(lambda state: jax.tree.map(jnp.copy, state))
      state = copy(first_state(self.task, key, start))
      return mesh.place(state, jax.tree.map(lambda x: x.sharding, like)), {}
    latest, state, about = found
    for entry, value in self.about.items():
      if about.get(entry) != value:
        raise InputError(
          f'{self.folder} was begun with {entry} = {about.get(entry)}, now it '
          f'is {value}: the data or the model changed under it; choose another '
          '--workdir, or bring the old one back'
        )
    metrics.say(f'{self.name}: going on from step {latest}')
    return state, about

  def _restore(self, like, latest) -> tuple[int, State, dict[str, Any]] | None:
    """The newest checkpoint that is whole, its State and JSON; those that are
    not are set aside. None where there never was one."""
    aside: list[str] = []
    while latest is not None:
      try:
        return latest, *self.checkpoints.restore(like, latest)
      except DamagedError as error:
        if hosts.count() > 1:  # the others may have read their parts
          raise
        to = self.checkpoints.set_aside(latest)
        aside.append(f'{to}')
        metrics.say(f'{self.name}: {error.args[0].split("; remove")[0]}')
        latest = self.checkpoints.latest()
        before = 'no other' if latest is None else f'step {latest}'
        metrics.say(f'{self.name}: it lies in {to} now; {before} is tried')
    if aside:
      raise InputError(
        f'{self.folder} has no whole checkpoint left ({", ".join(aside)} were '
        'set aside); remove that folder to train from step 0'
      )
    return None

  def run(self) -> FitResult:
    options = self.options
    if self.feed.learns:
      self._publish()
    final: dict[str, float] = {}
    with contextlib.closing(
      self.feed.batches(self.step, options.steps)
    ) as batches:
      while True:
        if self._eval_due():
          final = self._evaluate()
        last = self.step == options.steps or self.best.stop
        policy = self.checkpoints.policy
        wish = self.agree(
          self.step, stop=preemption.asked(), save=policy.due_by_clock()
        )
        if last or any(wish.values()) or policy.due_by_step(self.step):
          self._save()
        if wish['stop'] and not last:
          raise self._preempted()
        if last:
          break
        with self._profiled():
          self._train(*self._next(batches))
        if self.step % options.log_every_steps == 0 or (
          self.step == options.steps
        ):
          self._log()
    self._wait()
    state, step = self.state, self.step
    if options.best:
      like = abstract_state(self.task, self.feed.mesh, options.rules)
      state, step, final = self.best.restore(like), self.best.step, {}
    if not final:
      final = self._evaluation_of(step)
    seconds = options.clock() - self.started
    traces = dict(self.steps.traces)
    return FitResult(state, final, seconds, step, self.step, traces)

  def _next(self, batches):
    """The next batch; what is done is saved where there is none."""
    try:
      return next(batches)
    except (Preempted, WorkerLostError) as error:
      if hosts.count() > 1:
        raise
      self._save()
      if isinstance(error, Preempted):
        raise self._preempted() from None
      self._wait()
      raise

  def _train(self, step, kind, batch) -> None:
    new = not self.steps.compiled(kind)
    if new:
      metrics.say(f'{self.name}: compiling the {kind} step')
    self.state, packed = self.steps(kind, self.state, batch, self.root)
    if new:  # keeps the compilation out of examples/s and ETA
      self.progress.restart(self.step)
    self.pending.append((kind, packed))
    if len(self.pending) > _IN_FLIGHT:
      self.pending[-1 - _IN_FLIGHT][1].block_until_ready()
    self.step, self.evaluated = step + 1, False
    if self.feed.publishes(step):
      self._publish()

  def _publish(self) -> None:
    published = self.state.vars['sampler']['published']
    # A copy: the buffer behind the view is donated by the next step.
    self.feed.publish(
      {k: np.array(mesh.whole(published[k])) for k in sorted(published)}
    )

  def _fetch(self) -> None:
    """Takes over what the steps reported; stops a run that went bad."""
    limit = max(1, self.options.max_bad_steps)
    for kind, packed in self.pending:
      values = np.asarray(packed)
      names = self.steps.names[kind]
      self.totals.add(kind, names, values)
      if values[names.index('run_length'), 0] >= limit:
        raise self._non_finite()
    self.pending.clear()

  def _non_finite(self) -> NonFiniteError:
    health = jax.device_get(self.state.vars['health'])
    length = int(health['run_length'])
    step = int(self.state.step) - length
    ids = []
    for bad in range(step, step + length):
      found = _suspects(self.feed.host_batch(bad))
      parts = hosts.gather(f'{self.name}: bad rows of {bad}', found)
      certain = [i for sure, some in parts if sure for i in some]
      ids += sorted({*certain} or {i for _, some in parts for i in some})
    shown = ', '.join(map(str, ids[:16])) + (' …' if len(ids) > 16 else '')
    latest = self.checkpoints.latest()
    return NonFiniteError(
      f'{self.name}: loss or gradients are not finite in step {step}'
      + (f' and the {length - 1} after it' if length > 1 else '')
      + f' (example ids {shown}). Parameters are as they were before it; '
      f'the last checkpoint is step {latest or 0}. Lower the learning rate, '
      'mend the examples, or skip such steps with '
      f'--config.train.max_bad_steps={max(10, 2 * length)}'
    )

  def _log(self) -> None:
    self._fetch()
    examples = self._examples(self.progress.since, self.step)
    rate = self.progress.rate(self.step, examples)
    for kind, values in self.totals.means().items():
      self.log.write(self.step, kind, {**values, **rate})
      self.progress.show(self.step, {**values, **rate})
    self.totals = metrics.Totals()

  def _examples(self, start, stop) -> int:
    source = self.feed.source
    return sum(
      next(iter(source.spec[source.kind(step)].values())).shape[0]
      for step in range(start, stop)
    )

  def _eval_due(self) -> bool:
    every = self.options.eval_every_steps
    last = self.step == self.options.steps
    due = last or (every and self.step and self.step % every == 0)
    return bool(due and self.evaluations and not self.evaluated)

  def _evaluate(self) -> dict[str, float]:
    self._fetch()
    values: dict[str, float] = {}
    try:
      for name, evaluation in self.evaluations.items():
        for metric, value in evaluation.run(self.state).items():
          values[f'{name}/{metric}'] = value
    except Preempted:
      self._save()
      raise self._preempted() from None
    self.log.write(self.step, 'eval', values)
    # The first few: an evaluator names its main figures first.
    first = list(values.items())[:4]
    figures = '  '.join(f'{k} {v:.4g}' for k, v in first)
    metrics.say(f'{self.name} {self.step}/{self.options.steps}  {figures}')
    self.evaluated = True
    self.best.take(self.state, self.step, values)
    if self.best.stop:
      metrics.say(
        f'{self.name}: {self.best.worse} evaluations no better than that of '
        f'step {self.best.step}; stopped'
      )
      self._log()
    watch, now = self.options.watch, self.options.clock()
    if watch and now - self.watched >= _SECONDS_BETWEEN_LOOKS:
      watch()
      self.watched = self.options.clock()
    self.progress.restart(self.step)  # keeps this out of examples/s
    return values

  def _evaluation_of(self, step: int) -> dict[str, float]:
    read = partial(self._read_evaluation, step)
    return hosts.share(f'{self.name}: evaluated', read)

  def _read_evaluation(self, step: int) -> dict[str, float]:
    lines = [
      line
      for line in metrics.read(self.log.path)
      if line['kind'] == 'eval' and line['step'] == step
    ]
    found = lines[-1] if lines else {}
    return {k: v for k, v in found.items() if k not in ('step', 'kind')}

  def _save(self) -> None:
    self._fetch()
    log = self.log.sync()  # before the checkpoint that counts on it
    self.checkpoints.save(
      self.state,
      self.step,
      {
        **self.about,
        'evaluated': self.evaluated,
        'totals': self.totals.saved(),
        'best': self.best.saved,
        'log': log,
        'seconds': self.options.clock() - self.started,
        'versions': versions(),
      },
    )

  def _wait(self) -> None:
    self.checkpoints.wait()
    self.best.wait()
    hosts.meet(f'{self.name}: saved')  # by all, before any of them leaves

  def _preempted(self) -> Preempted:
    self._wait()
    return Preempted(
      f'{self.name}: saved step {self.step}; the same command goes on from it'
    )

  @contextlib.contextmanager
  def _profiled(self):
    start, stop = self.options.profile or (0, 0)
    if start <= self.step < stop and not self.tracing:
      jax.profiler.start_trace(str(self.folder / 'profile'))
      self.tracing = True
    yield
    if self.tracing and self.step in (stop, self.options.steps):
      jax.block_until_ready(self.state)
      self._stop_tracing()

  def _stop_tracing(self) -> None:
    jax.profiler.stop_trace()
    self.tracing = False
    metrics.say(f'{self.name}: trace written to {self.folder / "profile"}')

  def close(self) -> None:
    if self.tracing:
      self._stop_tracing()
    if hasattr(self, 'log'):
      self.log.close()
    if hasattr(self, 'best'):
      self.best.close()
    self.checkpoints.close()


def _suspects(batch) -> tuple[bool, list[int]]:
  """Ids of the rows that hold a number that is not finite; else of all.

  Returns:
    Whether they do, and a few more ids than are shown.
  """
  rows = len(batch['mask'])
  bad = np.zeros(rows, bool)
  for array in batch.values():
    if np.issubdtype(array.dtype, np.floating):
      bad |= ~np.isfinite(array.reshape(rows, -1)).all(1)
  chosen = bad if bad.any() else batch['mask'].astype(bool)
  return bool(bad.any()), np.asarray(batch['id'])[chosen].tolist()[:20]
