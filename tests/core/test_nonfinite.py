"""The non-finite law: a bad step changes nothing but the health counters."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxlab.core.errors import NonFiniteError
from jaxlab.core.state import Objective
from jaxlab.core.update import chain, create_state, guarded, minimise
from jaxlab.engine import loop, mesh, metrics
from jaxlab.engine.compiled import first_state
from jaxlab.engine.feed import Feed
from jaxlab.engine.fingerprint import state_sha256
from tests.engine import toys

_KEY = jax.random.key(5)


class Poisoned(toys.Rows):
  """Rows of which one is not a number at the given steps."""

  def __init__(self, poison):
    super().__init__()
    self.poison = poison  # step -> row

  def batch(self, step, rows):
    batch = super().batch(step, rows)
    if step in self.poison:
      batch['x'][self.poison[step] - rows.start, 3] = np.nan
    return batch


def _remembering(params, vars, batch, key):
  mean = 0.5 * vars['mean'] + 0.5 * batch['x'].mean(0)
  return toys.squares(params, vars, batch, key).replace(vars={'mean': mean})


def _task(update=None):
  update = update or minimise(_remembering, 'net', optax.adam(1e-2))
  vars = {'mean': jnp.zeros(toys.WIDTH)}
  return toys.simple(None, {'train': update}, vars=vars).task


def _fit(folder, source, steps=10, devices=1, task=None, **options):
  devices = mesh.make(devices=jax.devices()[:devices])
  given = {
    'steps': steps,
    'log_every_steps': 100,
    'checkpoint_every_steps': 3,
    'checkpoint_every_seconds': 0.0,
    **options,
  }
  return loop.fit(
    'train',
    task or _task(),
    loop.Inputs(Feed(source, devices)),
    loop.Options(**given),
    folder,
    devices,
    seed=0,
  )


def _saved(folder):
  return sorted(int(path.name) for path in (folder / 'checkpoints').iterdir())


def test_nan_on_one_of_eight_devices_changes_nothing_but_health():
  devices = mesh.make()
  poisoned = Feed(Poisoned({1: 37}), devices)
  task = _task()
  state = jax.device_put(first_state(task, _KEY), mesh.replicated(devices))
  step = jax.jit(lambda *args: guarded(task.steps['train'], 9)(*args))
  states = [state]
  for _, _, batch in poisoned.batches(0, 3):
    held = [np.isnan(part.data).any() for part in batch['x'].addressable_shards]
    state, values = step(state, batch, _KEY)
    states.append(state)
    if sum(held):
      assert sum(held) == 1 and len(held) == 8
      assert values.pop('bad') == (1, 1)
      assert values.pop('run_length') == (1, 1)
      assert set(values) == {'loss'}
      assert values['loss'] == (0, 0)
  _, good, bad, after = states
  assert [int(s.step) for s in states] == [0, 1, 2, 3]
  chex.assert_trees_all_equal(bad.params, good.params)
  chex.assert_trees_all_equal(bad.opt, good.opt)
  chex.assert_trees_all_equal(bad.vars['mean'], good.vars['mean'])
  health = [jax.tree.map(int, s.vars['health']) for s in (good, bad, after)]
  assert health == [
    {'bad_steps': 0, 'first_bad_step': -1, 'run_length': 0},
    {'bad_steps': 1, 'first_bad_step': 1, 'run_length': 1},
    {'bad_steps': 1, 'first_bad_step': 1, 'run_length': 0},
  ]
  chex.assert_tree_all_finite((after.params, after.opt, after.vars))
  assert not np.array_equal(after.params['net']['w'], bad.params['net']['w'])


def test_the_first_bad_step_stops_the_run_and_names_step_and_example(tmp_path):
  with pytest.raises(NonFiniteError) as caught:
    _fit(tmp_path, Poisoned({4: 21}), devices=8)
  message = str(caught.value)
  assert caught.value.exit_code == 3
  assert 'not finite in step 4 (example ids 4021)' in message
  assert 'the last checkpoint is step 3' in message
  # Step 6 was due: the State there never saw a bad number, yet is not saved,
  # since the run stops when it looks.
  assert _saved(tmp_path) == [0, 3]


def test_the_state_before_a_bad_step_is_restorable(tmp_path):
  with pytest.raises(NonFiniteError, match='in step 4 '):
    _fit(tmp_path / 'a', Poisoned({4: 0}), checkpoint_every_steps=1)
  assert _saved(tmp_path / 'a') == [0, 1, 2, 3, 4]
  clean = _fit(tmp_path / 'b', toys.Rows(), steps=4)
  devices = mesh.make(devices=jax.devices()[:1])
  state = loop.last_state(_task(), tmp_path / 'a', devices)
  assert state_sha256(state) == state_sha256(clean.state)
  # Mended, the same command goes on from it.
  mended = _fit(tmp_path / 'a', toys.Rows(), steps=6)
  assert mended.state.vars['health']['bad_steps'] == 0


def test_two_bad_steps_in_a_row_are_skipped_counted_and_reported(tmp_path):
  source = Poisoned({4: 0, 5: 9})
  fitted = _fit(tmp_path, source, max_bad_steps=3, log_every_steps=5)
  health = jax.tree.map(int, fitted.state.vars['health'])
  assert health == {'bad_steps': 2, 'first_bad_step': 4, 'run_length': 0}
  reported = {
    line['step']: line.get('bad_steps', 0)
    for line in metrics.read(tmp_path / 'metrics.jsonl')
  }
  assert reported == {5: 1, 10: 1}

  # The good steps alone, without the law around them.
  task = _task()
  state = first_state(task, loop.keys.stream(0, 'init'))
  step = jax.jit(lambda *args: task.steps['train'](*args))
  devices = mesh.make(devices=jax.devices()[:1])
  for t, _, batch in Feed(source, devices).batches(0, 10):
    if t not in source.poison:
      state, _ = step(state, batch, _KEY)
  # Another program of the same float32 operations: some ulps.
  chex.assert_trees_all_close(fitted.state.params, state.params, rtol=1e-5)
  assert fitted.state.opt['net'][0].count == 8


def test_as_many_bad_steps_in_a_row_as_the_limit_stop_the_run(tmp_path):
  source = Poisoned({3: 1, 4: 2, 5: 3})
  with pytest.raises(NonFiniteError) as caught:
    _fit(tmp_path, source, max_bad_steps=3)
  message = str(caught.value)
  assert 'in step 3 and the 2 after it' in message
  assert 'example ids 3001, 4002, 5003' in message
  assert _saved(tmp_path) == [0, 3]


def test_bad_steps_in_a_row_are_counted_across_an_interruption(tmp_path):
  source = Poisoned({4: 1, 5: 2, 6: 3})
  first = _fit(tmp_path, source, steps=6, max_bad_steps=3)
  assert first.state.vars['health']['run_length'] == 2
  with pytest.raises(NonFiniteError, match='in step 4 and the 2 after it'):
    _fit(tmp_path, source, max_bad_steps=3)


def test_nan_in_the_gradient_alone_is_a_bad_step():
  def loss(params, vars, batch, key):
    # sqrt has no slope at 0, where it is finite.
    length = jnp.sqrt(jnp.sum((batch['x'] * params['net']['p']) ** 2, -1))
    return Objective(jnp.sum(length), jnp.float32(len(length)))

  update = minimise(loss, 'net', optax.sgd(0.1))
  state = create_state({'net': {'p': jnp.ones(2)}}, update)
  batch = {'x': jnp.array([[1.0, 2.0], [0.0, 0.0]])}
  assert jnp.isfinite(loss(state.params, {}, batch, _KEY).sum)
  new, values = jax.jit(guarded(update, 0))(state, batch, _KEY)
  assert values['bad'] == (1, 1)
  chex.assert_trees_all_equal(new.params, state.params)


def test_a_bad_update_anywhere_in_a_chain_undoes_the_whole_step():
  def bad(params, vars, batch, key):
    return toys.squares(params, vars, batch, key).replace(penalty=jnp.log(-1.0))

  update = chain(
    minimise(toys.squares, 'net', optax.adam(1e-2), 'good'),
    minimise(bad, 'net', optax.adam(1e-2), 'bad'),
  )
  state = create_state({'net': toys.net(_KEY)}, update)
  batch = {**toys.Rows().batch(0, slice(0, 8)), 'mask': np.ones(8, bool)}
  new, values = jax.jit(guarded(update, 0))(state, batch, _KEY)
  assert values['bad'] == (1, 1)
  chex.assert_trees_all_equal((new.params, new.opt), (state.params, state.opt))


def test_parameters_that_the_optimizer_spoils_are_not_saved(tmp_path):
  def update(grads, count, params=None):
    nan = jnp.where(count == 4, jnp.nan, 0.0)
    return jax.tree.map(lambda g: -0.01 * g + nan, grads), count + 1

  tx = optax.GradientTransformation(lambda params: jnp.int32(0), update)
  task = _task(minimise(_remembering, 'net', tx))
  with pytest.raises(NonFiniteError, match='"params/net/v" is not finite') as e:
    # All steps are finite to the law: the loss is looked at before the update.
    _fit(tmp_path, toys.Rows(), steps=5, task=task)
  assert e.value.exit_code == 3
  assert 'after step 5' in str(e.value)
  assert _saved(tmp_path) == [0, 3]


@pytest.mark.parametrize('spoiled', ['params', 'metrics', 'nothing'])
def test_an_update_written_by_hand_is_judged_by_params_and_metrics(spoiled):
  def update(state, batch, key):
    nan = {spoiled: jnp.nan}
    new = {'p': state.params['net']['p'] + 1 + nan.get('params', 0)}
    values = {'size': (jnp.ones(()) + nan.get('metrics', 0), jnp.ones(()))}
    return state.replace(params={'net': new}), values

  state = create_state({'net': {'p': jnp.zeros(2)}})
  new, values = jax.jit(guarded(update, 0))(state, {}, _KEY)
  bad = spoiled != 'nothing'
  assert values['bad'] == (bad, 1)
  assert new.vars['health']['bad_steps'] == bad
  np.testing.assert_array_equal(new.params['net']['p'], [1 - bad, 1 - bad])


def test_after_the_limit_the_state_does_not_change_any_more():
  task = _task()
  step = jax.jit(lambda *args: guarded(task.steps['train'], 2)(*args))
  state = first_state(task, _KEY)
  source = Poisoned({1: 0, 2: 0})
  states = []
  for t in range(5):
    batch = {**source.batch(t, slice(0, 64)), 'mask': np.ones(64, bool)}
    state, values = step(state, batch, _KEY)
    states.append((state, values))
  assert [int(s.step) for s, _ in states] == [1, 2, 3, 3, 3]
  assert [float(v['bad'][0]) for _, v in states] == [0, 1, 1, 0, 0]
  assert [float(v['run_length'][0]) for _, v in states] == [0, 1, 2, 2, 2]
  chex.assert_trees_all_equal(states[2][0], states[4][0])


def test_nan_from_a_hand_written_part_of_a_chain_never_enters_state():
  """Its gradient step is sound; only the second part writes NaN."""
  sound = minimise(toys.squares, 'net', optax.sgd(1e-2))

  def broken(state, batch, key):
    bad = jax.tree.map(lambda x: x * jnp.nan, state.params)
    return state.replace(params=bad), {}

  state = create_state({'net': toys.net(jax.random.key(0))}, sound)
  batch = {**toys.Rows().batch(0, slice(0, 8)), 'mask': np.ones(8, bool)}
  step = jax.jit(guarded(chain(sound, broken), 0))
  after, metrics = step(state, batch, jax.random.key(0))
  chex.assert_trees_all_equal(after.params, state.params)
  assert metrics['bad'][0] == 1


def test_a_loss_that_adds_an_entry_to_vars_is_named():
  def loss(params, vars, batch, key):
    return toys.squares(params, vars, batch, key).replace(vars={'new': 1.0})

  update = minimise(loss, 'net', optax.sgd(1e-2))
  state = create_state({'net': toys.net(jax.random.key(0))}, update)
  batch = {**toys.Rows().batch(0, slice(0, 8)), 'mask': np.ones(8, bool)}
  with pytest.raises(ValueError, match=r"vars \['new'\]"):
    jax.eval_shape(guarded(update, 0), state, batch, jax.random.key(0))
