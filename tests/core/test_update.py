"""The algebra of training steps, with and without jit."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxlab.core.state import Objective
from jaxlab.core.update import (
  accumulate,
  chain,
  create_state,
  every,
  guarded,
  minimise,
  repeat,
)
from jaxlab.engine import mesh, partition
from jaxlab.engine.feed import Feed
from tests.engine import toys

_KEY = jax.random.key(3)

# An optimizer that changes nothing and keeps the gradient as its state.
_recording = optax.GradientTransformation(
  lambda params: jax.tree.map(jnp.zeros_like, params),
  lambda grads, state, params=None: (
    jax.tree.map(jnp.zeros_like, grads),
    grads,
  ),
)


def _scalars(**values):
  return {name: {'p': jnp.float32(value)} for name, value in values.items()}


def _batch(rows=8):
  x = jnp.arange(1.0, rows + 1)
  return {'x': x, 'mask': jnp.ones(rows, bool)}


def _distance(net):
  """The masked mean of (x - p)^2 / 2, p of network `net`."""

  def loss(params, vars, batch, key):
    error = 0.5 * (batch['x'] - params[net]['p']) ** 2
    return Objective(
      jnp.sum(error * batch['mask']), jnp.sum(batch['mask'] * 1.0)
    )

  return loss


def _noisy(params, vars, batch, key):
  noise = jax.random.normal(key, batch['x'].shape)
  return _distance('net')(
    params, vars, {**batch, 'x': batch['x'] + noise}, key
  ).replace(metrics={'noise': (jnp.sum(noise), jnp.float32(noise.size))})


def _close(a, b):
  # The same few float32 operations in another order: some ulps, 1e-7 each.
  chex.assert_trees_all_close(a, b, rtol=1e-6, atol=1e-6)


class Algebra(chex.TestCase):
  """Every composition, traced and not."""

  def stepped(self, update, state, batch=None, key=_KEY):
    step = self.variant(lambda *args: update(*args))
    return step(state, _batch() if batch is None else batch, key)

  @chex.variants(with_jit=True, without_jit=True)
  def test_chain_shows_each_update_what_the_last_one_left(self):
    def add(state, batch, key):
      new = {'p': state.params['a']['p'] + 1}
      return state.replace(params={**state.params, 'a': new}), {}

    def copy_ten_fold(state, batch, key):
      new = {'p': 10 * state.params['a']['p']}
      return state.replace(params={**state.params, 'b': new}), {}

    state = create_state(_scalars(a=2, b=0))
    new, _ = self.stepped(chain(add, copy_ten_fold), state)
    other, _ = self.stepped(chain(copy_ten_fold, add), state)
    assert (new.params['a']['p'], new.params['b']['p']) == (3, 30)
    assert (other.params['a']['p'], other.params['b']['p']) == (3, 20)

  @chex.variants(with_jit=True, without_jit=True)
  def test_chained_updates_get_keys_of_their_own(self):
    update = chain(
      minimise(_noisy, 'net', optax.sgd(0.1), 'one'),
      minimise(_noisy, 'net', optax.sgd(0.1), 'two'),
    )
    state = create_state(_scalars(net=0), update)
    _, metrics = self.stepped(update, state)
    assert metrics['one/noise'][0] != metrics['two/noise'][0]

  @chex.variants(with_jit=True, without_jit=True)
  def test_minimise_of_a_tuple_moves_all_nets_at_once(self):
    def product(params, vars, batch, key):
      value = params['a']['p'] * params['b']['p']
      return Objective(value, jnp.ones(()))

    both = minimise(product, ('a', 'b'), optax.sgd(1.0))
    in_turn = chain(
      minimise(product, 'a', optax.sgd(1.0), 'first'),
      minimise(product, 'b', optax.sgd(1.0), 'second'),
    )
    params = _scalars(a=3, b=5)
    new, _ = self.stepped(both, create_state(params, both))
    assert (new.params['a']['p'], new.params['b']['p']) == (3 - 5, 5 - 3)
    assert set(new.opt) == {'a+b'}
    new, _ = self.stepped(in_turn, create_state(params, in_turn))
    assert (new.params['a']['p'], new.params['b']['p']) == (-2, 5 + 2)

  @chex.variants(with_jit=True, without_jit=True)
  def test_repeat_is_the_update_in_a_python_loop(self):
    update = minimise(_noisy, 'net', optax.adam(0.1))
    state = expected = create_state(_scalars(net=0), update)
    total = 0.0
    for i in range(3):
      expected, metrics = update(
        expected, _batch(), jax.random.fold_in(_KEY, i)
      )
      total += metrics['noise'][0]
    for unroll in (True, False):
      new, metrics = self.stepped(repeat(3, update, unroll=unroll), state)
      _close(new, expected)
      _close(metrics['noise'], (total, jnp.float32(24)))

  @chex.variants(with_jit=True, without_jit=True)
  def test_split_gives_each_repetition_its_own_part(self):
    update = minimise(_noisy, 'net', optax.sgd(0.5))
    state = expected = create_state(_scalars(net=0), update)
    for i in range(4):
      part = jax.tree.map(lambda x, i=i: x[i::4], _batch())
      expected, _ = update(expected, part, jax.random.fold_in(_KEY, i))
    for unroll in (True, False):
      new, _ = self.stepped(repeat(4, update, True, unroll), state)
      _close(new, expected)

  @chex.variants(with_jit=True, without_jit=True)
  def test_every_acts_at_its_steps_and_counts_nothing_elsewhere(self):
    update = minimise(_distance('net'), 'net', optax.adam(0.1))
    state = create_state(_scalars(net=0), update)
    for step in range(7):
      state = state.replace(step=jnp.int32(step))
      new, metrics = self.stepped(every(3, update), state)
      if step in (0, 3, 6):
        _close((new, metrics), update(state, _batch(), _KEY))
        assert new.params['net']['p'] != state.params['net']['p']
      else:
        chex.assert_trees_all_equal(new, state)
        assert all(pair == (0, 0) for pair in metrics.values())
      state = new

  @chex.variants(with_jit=True, without_jit=True)
  def test_vars_are_replaced_entry_by_entry(self):
    def loss(params, vars, batch, key):
      return _distance('net')(params, vars, batch, key).replace(
        vars={'seen': vars['seen'] + jnp.sum(batch['mask'])}
      )

    for update in (
      minimise(loss, 'net', optax.sgd(0.1)),
      accumulate(4, loss, 'net', optax.sgd(0.1)),
      accumulate(4, loss, 'net', optax.sgd(0.1), unroll=False),
    ):
      vars = {'seen': jnp.int32(1), 'other': jnp.arange(3)}
      state = create_state(_scalars(net=0), update, vars=vars)
      new, _ = self.stepped(update, state)
      assert new.vars['seen'] == 1 + 8
      chex.assert_trees_all_equal(new.vars['other'], vars['other'])
      chex.assert_trees_all_equal(new.vars['health'], state.vars['health'])

  @chex.variants(with_jit=True, without_jit=True)
  def test_a_batch_of_padding_has_loss_zero_and_gradient_zero(self):
    batch = {**_batch(), 'mask': jnp.zeros(8, bool)}
    for update in (
      minimise(_distance('net'), 'net', _recording),
      accumulate(4, _distance('net'), 'net', _recording),
      accumulate(4, _distance('net'), 'net', _recording, unroll=False),
    ):
      state = create_state(_scalars(net=2), update)
      new, metrics = self.stepped(guarded(update, 0), state, batch)
      assert metrics['loss'] == (0, 0)
      assert new.opt['net']['p'] == 0
      assert new.vars['health']['bad_steps'] == 0

  @chex.variants(with_jit=True, without_jit=True)
  def test_no_gradient_flows_through_the_weight(self):
    def loss(params, vars, batch, key):
      p = params['net']['p']
      return Objective(3 * p, 2 * p)

    for update in (
      minimise(loss, 'net', _recording),
      accumulate(4, loss, 'net', _recording),
    ):
      new, metrics = self.stepped(update, create_state(_scalars(net=5), update))
      _close(new.opt['net']['p'], jnp.float32(3 / (2 * 5)))
      total, weight = metrics['loss']
      _close(total / weight, jnp.float32(1.5))

  @chex.variants(with_jit=True, without_jit=True)
  def test_a_penalty_is_added_once_however_a_batch_is_cut(self):
    def constant(params, vars, batch, key):
      return _distance('net')(params, vars, batch, key).replace(penalty=0.5)

    def decay(params, vars, batch, key):
      penalty = 0.5 * params['net']['p'] ** 2
      return _distance('net')(params, vars, batch, key).replace(penalty=penalty)

    x = np.arange(1, 9)
    mean = 0.5 * np.mean((x - 2) ** 2)
    for loss, value, grad in (
      (constant, mean + 0.5, 2 - x.mean()),
      (decay, mean + 0.5 * 4, 2 - x.mean() + 2),
    ):
      for update in (
        minimise(loss, 'net', _recording),
        accumulate(4, loss, 'net', _recording),
        accumulate(4, loss, 'net', _recording, unroll=False),
      ):
        state = create_state(_scalars(net=2), update)
        new, metrics = self.stepped(update, state)
        total, weight = metrics['loss']
        _close(total / weight, jnp.float32(value))
        _close(new.opt['net']['p'], jnp.float32(grad))


@pytest.mark.parametrize('unroll', [True, False])
def test_micro_batches_get_keys_of_their_own(unroll):
  update = accumulate(4, _noisy, 'net', _recording, unroll=unroll)
  _, metrics = update(create_state(_scalars(net=0), update), _batch(), _KEY)
  keys = [jax.random.fold_in(_KEY, j) for j in range(4)]
  noise = sum(jnp.sum(jax.random.normal(key, (2,))) for key in keys)
  _close(metrics['noise'], (noise, jnp.float32(8)))


@pytest.mark.parametrize('unroll', [True, False])
def test_the_penalty_is_that_of_the_first_micro_batch(unroll):
  def loss(params, vars, batch, key):
    slope = vars['seen'] + batch['x'][0] + jax.random.normal(key)
    return _distance('net')(params, vars, batch, key).replace(
      penalty=params['net']['p'] * slope,
      vars={'seen': vars['seen'] + 10 * batch['x'][0]},
    )

  update = accumulate(4, loss, 'net', _recording, unroll=unroll)
  vars = {'seen': jnp.float32(100)}
  state = create_state(_scalars(net=2), update, vars=vars)
  new, _ = update(state, _batch(), _KEY)
  noise = jax.random.normal(jax.random.fold_in(_KEY, 0))
  # (p - mean of x) of the rows, then the penalty's slope.
  _close(new.opt['net']['p'], jnp.float32(2 - 4.5 + 100 + 1) + noise)


def test_a_frozen_net_stays_bitwise_and_has_no_optimizer():
  update = minimise(_two_nets, 'net', optax.adam(0.1))
  params = {'net': toys.net(_KEY), 'teacher': toys.net(jax.random.key(4))}
  state = create_state(params, update)
  step = jax.jit(lambda *args: guarded(update, 0)(*args))
  batch = {
    'x': jax.random.normal(_KEY, (8, toys.WIDTH)),
    'mask': jnp.ones(8, bool),
  }
  new = state
  for _ in range(3):
    new, _ = step(new, batch, _KEY)
  chex.assert_trees_all_equal(new.params['teacher'], state.params['teacher'])
  assert set(new.opt) == {'net'}
  assert not np.array_equal(new.params['net']['v'], state.params['net']['v'])


def _two_nets(params, vars, batch, key):
  error = toys.predict(params['net'], batch['x']) - toys.predict(
    params['teacher'], batch['x']
  )
  return Objective(
    jnp.sum(error**2 * batch['mask']), jnp.sum(batch['mask'] * 1.0)
  )


def test_metrics_of_two_updates_under_one_name_raise():
  def count(state, batch, key):
    return state, {'seen': (jnp.ones(()), jnp.ones(()))}

  with pytest.raises(ValueError, match=r"\['seen'\] come from two updates"):
    chain(count, count)(create_state(_scalars(a=1)), _batch(), _KEY)


@pytest.mark.parametrize(
  'name, taken',
  [
    (None, 'loss'),
    ('d', 'loss'),
    (None, 'nonfinite'),
    (None, 'bad'),
    (None, 'run_length'),
  ],
)
def test_a_metric_under_a_name_of_the_engines_own_raises(name, taken):
  def loss(params, vars, batch, key):
    pair = (jnp.ones(()), jnp.ones(()))
    return _distance('a')(params, vars, batch, key).replace(
      metrics={taken: pair}
    )

  update = minimise(loss, 'a', optax.sgd(0.1), name)
  shown = f'{name}/{taken}' if name else taken
  with pytest.raises(ValueError, match=f"metrics .'{shown}'., which are names"):
    update(create_state(_scalars(a=1), update), _batch(), _KEY)


def test_two_optimizers_under_one_name_raise():
  one = minimise(_distance('a'), 'a', optax.adam(0.1))
  two = minimise(_distance('a'), 'a', optax.sgd(0.1))
  with pytest.raises(ValueError, match='optimizer state called "a"'):
    chain(one, two)
  with pytest.raises(ValueError, match='optimizer state called "a"'):
    create_state(_scalars(a=1), one, two)
  assert set(create_state(_scalars(a=1), one, repeat(2, one)).opt) == {'a'}


@pytest.mark.parametrize(
  'make, message',
  [
    (lambda: chain(), 'at least one update'),
    (lambda: repeat(0, lambda *a: a), 'k must be at least 1, got 0'),
    (lambda: every(0, lambda *a: a), 'k must be at least 1, got 0'),
    (
      lambda: accumulate(0, _distance('a'), 'a', optax.sgd(1.0)),
      'n must be at least 1, got 0',
    ),
  ],
)
def test_a_composition_of_nothing_raises(make, message):
  with pytest.raises(ValueError, match=message):
    make()


def test_a_net_that_is_not_there_is_named():
  update = minimise(_distance('a'), 'disc', optax.sgd(0.1))
  with pytest.raises(ValueError, match=r"no network \"disc\".*\['a'\]"):
    create_state(_scalars(a=1), update)


@pytest.mark.parametrize('cut', ['accumulate', 'split'])
def test_rows_that_do_not_divide_raise(cut):
  update = minimise(_distance('a'), 'a', optax.sgd(0.1))
  if cut == 'split':
    update = repeat(3, update, split=True)
  else:
    update = accumulate(3, _distance('a'), 'a', optax.sgd(0.1))
  with pytest.raises(ValueError, match='8 rows does not divide into 3 parts'):
    update(create_state(_scalars(a=1), update), _batch(), _KEY)


@pytest.mark.parametrize('k', [1, 3])
def test_every_traces_its_update_once(k):
  chex.clear_trace_counter()

  @chex.assert_max_traces(n=1)
  def loss(params, vars, batch, key):
    return _distance('net')(params, vars, batch, key)

  update = every(k, minimise(loss, 'net', optax.adam(0.1)))
  state = create_state(_scalars(net=0), update)
  step = jax.jit(lambda *args: guarded(update, 0)(*args))
  for _ in range(4):
    state, _ = step(state, _batch(), _KEY)
  assert state.step == 4


def test_a_gan_of_three_nets_and_three_optimizers_is_one_chain():
  def score(params, images):
    return jnp.tanh(images @ params['disc']['w']).sum(-1)

  def generated(params, batch, key):
    noise = jax.random.normal(key, batch['x'].shape)
    return jnp.tanh(noise @ params['gen']['w'])

  def mean_over(values, batch, **rest):
    weight = jnp.sum(batch['mask'] * 1.0)
    return Objective(jnp.sum(values * batch['mask']), weight, **rest)

  def rec(params, vars, batch, key):
    code = batch['x'] @ params['enc']['w']
    error = (jnp.tanh(code @ params['gen']['w']) - batch['x']) ** 2
    return mean_over(error.sum(-1), batch)

  def d_loss(params, vars, batch, key):
    real = score(params, batch['x'])
    fake = score(params, generated(params, batch, key))
    return mean_over(jax.nn.softplus(-real) + jax.nn.softplus(fake), batch)

  def g_loss(params, vars, batch, key):
    fake = score(params, generated(params, batch, key))
    return mean_over(jax.nn.softplus(-fake), batch)

  traces = []

  def step(state, batch, key):
    traces.append(1)
    return guarded(update, 0)(state, batch, key)

  update = chain(
    minimise(rec, 'enc', optax.adam(1e-2), 'rec'),
    repeat(5, minimise(d_loss, 'disc', optax.adam(1e-2), 'd')),
    minimise(g_loss, 'gen', optax.adam(1e-2), 'g'),
  )
  nets = ('enc', 'disc', 'gen')
  params = {
    name: {'w': jax.random.normal(jax.random.key(i), (4, 4))}
    for i, name in enumerate(nets)
  }
  state = first = create_state(params, update)
  compiled = jax.jit(step)
  batch = {
    'x': jax.random.normal(_KEY, (16, 4)),
    'mask': jnp.arange(16) < 12,
  }
  for t in range(3):
    state, metrics = compiled(state, batch, jax.random.fold_in(_KEY, t))
  assert len(traces) == 1
  counts = {name: int(opt[0].count) for name, opt in state.opt.items()}
  assert counts == {'rec': 3, 'd': 15, 'g': 3}
  assert state.vars['health']['bad_steps'] == 0
  assert {k: float(v[1]) for k, v in metrics.items() if 'loss' in k} == {
    'rec/loss': 12.0,
    'd/loss': 60.0,
    'g/loss': 12.0,
  }
  chex.assert_tree_all_finite(state.params)
  for name in nets:
    moved = jnp.abs(state.params[name]['w'] - first.params[name]['w'])
    assert moved.min() > 0


def _formula(params, batch):
  """Loss and gradient of toys.penalised, by hand in float64."""
  w, v = (np.asarray(params['net'][k], np.float64) for k in 'wv')
  x, y, mask = (np.asarray(batch[k], np.float64) for k in ('x', 'y', 'mask'))
  hidden = np.tanh(x @ w)
  error = hidden @ v - y
  loss = np.sum(mask * error**2) / mask.sum()
  loss += 1e-2 * (np.sum(w**2) + np.sum(v**2))
  outer = 2 * mask * error / mask.sum()
  slope = outer[:, None] * v * (1 - hidden**2)
  return loss, {
    'w': x.T @ slope + 2e-2 * w,
    'v': hidden.T @ outer + 2e-2 * v,
  }


@pytest.mark.parametrize('count', [1, 8])
@pytest.mark.parametrize(
  'update',
  [
    minimise(toys.penalised, 'net', _recording),
    accumulate(4, toys.penalised, 'net', _recording),
    accumulate(4, toys.penalised, 'net', _recording, unroll=False),
  ],
  ids=['whole', 'unrolled', 'scanned'],
)
def test_micro_batches_and_devices_do_not_change_loss_and_gradient(
  update, count
):
  devices = mesh.make(devices=jax.devices()[:count])
  source = toys.Rows(hide=2)  # rows 2, 6, 10, …: all of micro-batch 2
  [(_, _, batch)] = Feed(source, devices).batches(0, 1)
  state = create_state({'net': toys.net(_KEY)}, update)
  state = jax.device_put(state, partition.shardings(state, devices))
  new, metrics = jax.jit(lambda *args: update(*args))(state, batch, _KEY)

  loss, grads = _formula(state.params, source.batch(0, slice(0, 64)))
  total, weight = metrics['loss']
  assert weight == 48
  assert len(batch['x'].sharding.device_set) == count
  # Sums of 48 float32 terms of size 1: rounding of some 1e-7.
  np.testing.assert_allclose(total / weight, loss, rtol=1e-6)
  for name, grad in grads.items():
    np.testing.assert_allclose(new.opt['net'][name], grad, rtol=0, atol=1e-6)


def test_accumulation_keeps_the_dtype_of_the_gradients():
  update = accumulate(4, _distance('net'), 'net', _recording)
  params = {'net': {'p': jnp.bfloat16(0.5)}}
  state = create_state(params, update)
  new, _ = update(state, _batch(), _KEY)
  assert new.opt['net']['p'].dtype == jnp.bfloat16
