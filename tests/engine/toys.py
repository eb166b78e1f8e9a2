"""Six toy programs: the shapes of training that the papers stand on.

  python -m tests.engine.toys NAME WORKDIR [--die_at=STEP] [--steps=N]
    [--sigterm_at=STEP]

runs one on one CPU device; --die_at kills the process (SIGKILL) when it has
done that many steps of its last fit, --sigterm_at sends it SIGTERM there.
Exits with 75 when it was stopped by a signal, as `jaxlab.main` does.
"""

import argparse
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxlab.core.errors import Preempted
from jaxlab.core.source import ArraySpec
from jaxlab.core.state import Evaluator, Objective, Task
from jaxlab.core.update import accumulate, chain, minimise
from jaxlab.engine import loop, mesh, preemption
from jaxlab.engine.feed import Feed
from jaxlab.runs import stage

ROWS, WIDTH = 64, 8


class Toy(NamedTuple):
  task: Task
  source: Any
  evals: Mapping[str, Any] = {}


class Rows:
  """Regression rows, each a pure function of its global index."""

  def __init__(self, rows=ROWS, every=0, hide=None, steps=None):
    self.every, self.hide, self.steps = every, hide, steps
    self.spec = {'train': self._spec(rows)}
    if every:
      self.spec['large'] = self._spec(4 * rows)

  @staticmethod
  def _spec(rows):
    return {
      'x': ArraySpec((rows, WIDTH), np.float32),
      'y': ArraySpec((rows,), np.float32),
      'id': ArraySpec((rows,), np.int32),
    }

  def kind(self, step):
    return 'large' if self.every and step % self.every == 0 else 'train'

  def batch(self, step, rows):
    ids = np.arange(rows.start, rows.stop) + 1000 * step
    return self.rows(ids)

  def rows(self, ids):
    draws = np.stack([np.random.default_rng(i).normal(size=9) for i in ids])
    x = draws[:, :WIDTH].astype(np.float32)
    y = (np.tanh(x).sum(1) + 0.1 * draws[:, 8]).astype(np.float32)
    batch = {'x': x, 'y': y, 'id': ids.astype(np.int32)}
    if self.hide is not None:
      batch['mask'] = ids % 4 != self.hide
    return batch


class Learned(Rows):
  """Draws its rows by a snapshot that training publishes every 4 steps."""

  def __init__(self):
    super().__init__()
    self.spec['refresh'] = self.spec['train']
    self.p = None

  def kind(self, step):
    return 'refresh' if step % 4 == 3 else 'train'

  def publishes(self, step):
    return self.kind(step) == 'refresh'

  def publish(self, snapshot):
    self.p = snapshot['p'].astype(np.float64)

  def batch(self, step, rows):
    cells = [
      np.random.default_rng((step, i)).choice(16, p=self.p / self.p.sum())
      for i in range(rows.start, rows.stop)
    ]
    ids = np.array(cells) + 16 * np.arange(rows.start, rows.stop)
    return self.rows(ids)


def net(key):
  a, b = jax.random.split(key)
  return {
    'w': jax.random.normal(a, (WIDTH, 16)) / WIDTH**0.5,
    'v': jax.random.normal(b, (16,)) / 4,
  }


def predict(p, x):
  return jnp.tanh(x @ p['w']) @ p['v']


def squares(params, vars, batch, key, power=2.0):
  error = jnp.abs(predict(params['net'], batch['x']) - batch['y']) ** power
  return Objective(
    jnp.sum(error * batch['mask']), jnp.sum(batch['mask']).astype(jnp.float32)
  )


def penalised(params, vars, batch, key):
  decay = sum(jnp.sum(x**2) for x in jax.tree.leaves(params['net']))
  return squares(params, vars, batch, key).replace(penalty=1e-2 * decay)


def mean_error():
  def update(total, state, batch, key):
    got = squares(state.params, state.vars, batch, key)
    return {'sum': total['sum'] + got.sum, 'n': total['n'] + got.weight}

  return Evaluator(
    lambda: {'sum': jnp.zeros(()), 'n': jnp.zeros(())},
    update,
    lambda total: {'loss': float(total['sum'] / total['n'])},
  )


def simple(source, steps, init=net, vars=None, evals=None):
  task = Task(lambda key: ({'net': init(key)}, vars or {}), steps)
  return Toy(task, source, evals or {})


def accumulated(n=4, devices=None):
  update = (
    accumulate(n, penalised, 'net', optax.adam(1e-2))
    if n > 1
    else minimise(penalised, 'net', optax.adam(1e-2))
  )
  evals = {}
  if devices is not None:
    evals = {'held_out': (mean_error(), Evaluated(Rows(), devices, steps=2))}
  return simple(Rows(hide=2), {'train': update}, evals=evals)


def two_optimizers(devices=None):
  absolute = lambda *a: squares(*a, power=1.0)
  update = chain(
    minimise(squares, 'net', optax.adam(1e-2), 'square'),
    minimise(absolute, 'net', optax.sgd(1e-3, 0.9), 'absolute'),
  )
  return simple(Rows(), {'train': update})


def second_shape(devices=None):
  update = minimise(squares, 'net', optax.adam(1e-2))
  return simple(Rows(every=5), {'train': update, 'large': update})


def published(devices=None):
  def loss(params, vars, batch, key):
    error = (predict(params['net'], batch['x']) - batch['y']) ** 2
    cell = batch['id'] % 16
    live = vars['sampler']['live']['p']
    live = 0.9 * live + 0.1 * jnp.zeros(16).at[cell].add(error)
    return squares(params, vars, batch, key).replace(
      vars={'sampler': {**vars['sampler'], 'live': {'p': live}}}
    )

  train = minimise(loss, 'net', optax.adam(1e-2))

  def refresh(state, batch, key):
    state, metrics = train(state, batch, key)
    live = state.vars['sampler']['live']
    sampler = {'live': live, 'published': live}
    return state.replace(vars={**state.vars, 'sampler': sampler}), metrics

  p = {'p': jnp.ones(16)}
  return simple(
    Learned(),
    {'train': train, 'refresh': refresh},
    vars={'sampler': {'live': p, 'published': p}},
  )


def frozen(devices=None):
  def loss(params, vars, batch, key):
    wanted = predict(params['teacher'], batch['x'])
    return squares(params, vars, {**batch, 'y': wanted}, key)

  update = minimise(loss, 'net', optax.adam(1e-2))

  def init(key):
    a, b = jax.random.split(key)
    return {'net': net(a), 'teacher': net(b)}, {}

  return Toy(Task(init, {'train': update}), Rows())


TOYS: dict[str, Callable[..., Toy]] = {
  'accumulated': accumulated,
  'two_optimizers': two_optimizers,
  'second_shape': second_shape,
  'published': published,
  'frozen': frozen,
  'oracle': two_optimizers,  # of its two fits; see `program`
}


def options(steps):
  return loop.Options(
    steps=steps,
    log_every_steps=5,
    eval_every_steps=6,
    checkpoint_every_steps=3,
    checkpoint_every_seconds=0,
  )


class Evaluated(Feed):
  """A feed that kills its process in the middle of its n-th evaluation."""

  die_in = -1

  def batches(self, start, stop):
    self.die_in -= 1
    for item in super().batches(start, stop):
      if item[0] == 1 and self.die_in == 0:
        os.kill(os.getpid(), signal.SIGKILL)
      yield item


class Deadly(Feed):
  """A feed that sends its process a signal when asked for a certain batch."""

  signals: Mapping[int, signal.Signals] = {}  # step -> signal

  def batches(self, start, stop):
    for item in super().batches(start, stop):
      if item[0] in self.signals:
        os.kill(os.getpid(), self.signals[item[0]])
      yield item


def fit_stage(name, make, steps, signals, spec=None):
  """A training stage; `make(space)` gives its Toy."""

  def inputs(space):
    toy = make(space)
    feed = Deadly(toy.source, space.mesh)
    feed.signals = signals
    return loop.Inputs(feed, toy.evals, data=toy)

  return stage.training(
    name,
    options(steps),
    spec=lambda space: spec or Rows().spec,
    task=lambda space, inputs: inputs.data.task,
    inputs=inputs,
  )


def program(name, steps, signals):
  if name != 'oracle':
    make = lambda space: TOYS[name](devices=space.mesh)
    sources = {'published': Learned, 'second_shape': lambda: Rows(every=5)}
    spec = sources.get(name, Rows)().spec
    return [fit_stage('train', make, steps, signals, spec)]

  first = fit_stage('first', lambda space: two_optimizers(), steps, {})

  def consult(space):
    """Host work between two fits: labels from a Python function."""
    learned = jax.device_get(space.artefact('first').params['net'])
    answers = np.sign(np.asarray(learned['v']))
    np.save(space.folder('oracle') / 'answers.npy', answers)
    space.artefacts['oracle'] = {'answers': answers}
    return {'positive': float((answers > 0).mean())}

  def answers(space):
    path = space.folder('oracle') / 'answers.npy'
    return {'answers': np.load(path, allow_pickle=False)}

  def second(space):
    sign = jnp.asarray(space.artefact('oracle')['answers'])

    def init(key):
      return {**net(key), 'v': sign / 4}

    update = minimise(squares, 'net', optax.adam(1e-2))
    return simple(Rows(), {'train': update}, init)

  return [
    first,
    stage.Stage('oracle', consult, load=answers),
    fit_stage('second', second, steps, signals),
  ]


def run(name, folder, steps=14, devices=1, die_at=-1, sigterm_at=-1):
  """Runs a toy program on the first `devices` devices."""
  folder.mkdir(parents=True, exist_ok=True)
  config = {'paper': 'toy', 'train': {'steps': steps}}
  stage.workdir.write_json(folder / 'config.json', config)
  space = stage.Workspace(
    folder, config, mesh.make(devices=jax.devices()[:devices]), seed=0
  )
  signals = {die_at: signal.SIGKILL, sigterm_at: signal.SIGTERM}
  stage.run_all(program(name, steps, signals), space)
  return space


if __name__ == '__main__':
  parser = argparse.ArgumentParser()
  parser.add_argument('name')
  parser.add_argument('folder', type=Path)
  parser.add_argument('--die_at', type=int, default=-1)
  parser.add_argument('--steps', type=int, default=14)
  parser.add_argument('--sigterm_at', type=int, default=-1)
  parser.add_argument('--die_in_evaluation', type=int, default=-1)
  given = vars(parser.parse_args())
  Evaluated.die_in = given.pop('die_in_evaluation')
  mesh.start()
  try:
    with preemption.handled():
      run(**given)
  except Preempted as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
