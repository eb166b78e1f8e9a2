"""The State of the best evaluation, and stopping early."""

import math

import jax
import jax.numpy as jnp
import optax
import pytest

from jaxlab.core.errors import InputError
from jaxlab.core.state import Evaluator
from jaxlab.core.update import minimise
from jaxlab.engine import best, loop, mesh, metrics
from jaxlab.engine.feed import Feed
from jaxlab.engine.fingerprint import state_sha256
from tests.engine import toys


class Crash(Exception):
  """Stands for a process that dies."""


class Crashing(Feed):
  """A feed that fails instead of giving batch `at`."""

  at = -1

  def batches(self, start, stop):
    for item in super().batches(start, stop):
      if item[0] == self.at:
        raise Crash
      yield item


def _feed(at=-1, **more):
  devices = mesh.make(devices=jax.devices()[:1])
  feed = Crashing(toys.Rows(), devices, **more)
  feed.at = at
  return feed


def _quality(of_step):
  """An evaluator whose figure is a function of the step alone."""
  return Evaluator(
    init=lambda: jnp.zeros((), jnp.int32),
    update=lambda total, state, batch, key: state.step,
    finish=lambda step: {'quality': of_step(int(step))},
  )


def _fit(folder, of_step, *, crash=-1, steps=20, **chosen):
  update = minimise(toys.squares, 'net', optax.adam(1e-2))
  evals = {'validation': (_quality(of_step), _feed(steps=1))}
  task = toys.simple(None, {'train': update}).task
  options = loop.Options(
    steps=steps,
    log_every_steps=3,
    eval_every_steps=2,
    checkpoint_every_seconds=0,
    checkpoint_every_steps=5,
    best=best.Best('validation/quality', **chosen),
  )
  feed = _feed(crash)
  inputs = loop.Inputs(feed, evals)
  return loop.fit('toy', task, inputs, options, folder, feed.mesh, 0)


def hill(step):
  return -((step - 6) ** 2)


def test_a_fit_leaves_the_state_of_its_best_evaluation(tmp_path):
  fitted = _fit(tmp_path / 'a', hill)
  assert fitted.step == int(fitted.state.step) == 6
  assert fitted.steps == 20
  assert fitted.metrics == {'validation/quality': 0.0}
  short = _fit(tmp_path / 'b', lambda step: step, steps=6)
  assert state_sha256(short.state) == state_sha256(fitted.state)


def test_patience_ends_a_fit_and_the_lower_may_be_the_better(tmp_path):
  fitted = _fit(tmp_path, lambda s: -hill(s), higher=False, patience=2)
  assert (fitted.step, fitted.steps) == (6, 10)
  lines = metrics.read(tmp_path / 'metrics.jsonl')
  # What was trained after the last regular line is in the log as well.
  assert [x['step'] for x in lines if x['kind'] == 'train'] == [3, 6, 9, 10]


def test_an_evaluation_as_good_as_the_best_is_no_better(tmp_path):
  fitted = _fit(tmp_path, lambda step: 1.0, patience=3)
  assert (fitted.step, fitted.steps) == (2, 8)


def test_nan_is_never_the_best(tmp_path):
  values = {2: math.nan, 4: 1.0, 6: math.nan}
  fitted = _fit(tmp_path, lambda step: values.get(step, 0.5), patience=2)
  assert (fitted.step, fitted.steps) == (4, 8)


@pytest.mark.parametrize('crash', [3, 7, 9])
def test_a_killed_fit_leaves_the_same(tmp_path, crash):
  whole = _fit(tmp_path / 'whole', hill, patience=2)
  with pytest.raises(Crash):
    _fit(tmp_path / 'killed', hill, patience=2, crash=crash)
  killed = _fit(tmp_path / 'killed', hill, patience=2)
  assert (killed.step, killed.steps) == (whole.step, whole.steps)
  assert killed.metrics == whole.metrics
  assert state_sha256(killed.state) == state_sha256(whole.state)


def test_a_fit_that_stopped_early_is_not_trained_on(tmp_path):
  first = _fit(tmp_path, hill, patience=2)
  again = _fit(tmp_path, hill, patience=2, crash=10)
  assert (again.step, again.steps) == (6, 10)
  assert state_sha256(again.state) == state_sha256(first.state)


def test_a_metric_that_is_not_evaluated_is_an_input_error(tmp_path):
  update = minimise(toys.squares, 'net', optax.adam(1e-2))
  evals = {'validation': (_quality(hill), _feed(steps=1))}
  task = toys.simple(None, {'train': update}).task
  options = loop.Options(steps=2, best=best.Best('test/f1'))
  feed = _feed()
  with pytest.raises(InputError, match=r'no "test/f1" .*validation/quality'):
    inputs = loop.Inputs(feed, evals)
    loop.fit('toy', task, inputs, options, tmp_path, feed.mesh, 0)


def test_negative_patience_is_an_input_error():
  with pytest.raises(InputError, match='patience = -1'):
    best.Best('validation/f1', patience=-1)
