"""Partition rules: nothing is replicated in silence."""

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import PartitionSpec

from jaxlab.core.errors import InputError
from jaxlab.core.state import Objective, paths
from jaxlab.core.update import chain, create_state, minimise
from jaxlab.engine import mesh, partition

_ALL = ('.*', PartitionSpec())


def _nothing(params, vars, batch, key):
  return Objective(jnp.zeros(()), jnp.ones(()))


def _state():
  params = {
    'gen': {'w': jnp.zeros((8, 4)), 'b': jnp.zeros(12)},
    'disc': {'deep': {'w': jnp.zeros((4, 16))}},
  }
  update = chain(
    minimise(_nothing, 'gen', optax.adam(1e-3)),
    minimise(_nothing, ('gen', 'disc'), optax.sgd(1e-3, 0.9), 'both'),
    minimise(_nothing, 'disc', optax.adam(1e-3), 'other'),
  )
  shape = lambda: create_state(params, update, vars={'mean': jnp.zeros(8)})
  return jax.eval_shape(shape)


def _specs(rules, axes=None, state=None):
  state = state or _state()
  layout = partition.shardings(state, mesh.make(axes), rules)
  assert jax.tree.structure(layout) == jax.tree.structure(state)
  return {path: leaf.spec for path, leaf in paths(layout)}


def test_by_default_every_device_holds_everything():
  layout = partition.shardings(_state(), mesh.make())
  assert all(leaf.is_fully_replicated for leaf in jax.tree.leaves(layout))


def test_optimizer_leaves_follow_their_parameter():
  rows, columns = PartitionSpec('data'), PartitionSpec(None, 'data')
  specs = _specs([('params/gen/w$', rows), ('params/disc/.*w$', columns), _ALL])
  sharded = {path: spec for path, spec in specs.items() if spec}
  assert sharded == {
    'params/gen/w': rows,
    'opt/gen/0/mu/w': rows,
    'opt/gen/0/nu/w': rows,
    'opt/both/0/trace/gen/w': rows,
    'params/disc/deep/w': columns,
    'opt/both/0/trace/disc/deep/w': columns,
    'opt/other/0/mu/deep/w': columns,
    'opt/other/0/nu/deep/w': columns,
  }
  assert 'opt/other/0/count' in specs


def test_an_optimizer_leaf_of_another_shape_follows_no_parameter():
  norms = optax.GradientTransformation(lambda params: {'w': jnp.zeros(5)}, None)
  update = minimise(_nothing, 'net', norms)
  params = {'net': {'w': jnp.zeros((8, 4))}}
  state = jax.eval_shape(lambda: create_state(params, update))
  rows = PartitionSpec('data')
  specs = _specs([('^params/', rows), _ALL], state=state)
  assert specs['params/net/w'] == rows
  assert specs['opt/net/w'] == PartitionSpec()


def test_an_optimizer_leaf_of_either_of_two_like_nets_is_an_input_error():
  twins = {name: {'w': jnp.zeros((8, 8))} for name in ('one', 'two')}

  def state(*names):
    update = chain(
      *(
        minimise(_nothing, net, optax.sgd(1e-3, 0.9), name)
        for net, name in zip(twins, names)
      )
    )
    return jax.eval_shape(lambda: create_state(twins, update))

  rows = PartitionSpec('data')
  rules = [('params/two', rows), _ALL]
  with pytest.raises(InputError) as caught:
    _specs(rules, state=state('a', 'b'))
  assert (
    '"opt/a/0/trace/w" may belong to any of [\'params/one/w\', '
    "'params/two/w'], which lie differently; name the update like"
  ) in str(caught.value)
  named = _specs(rules, state=state('one', 'two'))
  assert named['opt/one/0/trace/w'] == PartitionSpec()
  assert named['opt/two/0/trace/w'] == rows
  alike = _specs([('/w$', rows), _ALL], state=state('a', 'b'))
  assert alike['opt/a/0/trace/w'] == alike['opt/b/0/trace/w'] == rows


def test_the_first_rule_that_matches_wins():
  first = [('w$', PartitionSpec(None, 'data')), _ALL]
  axes = {'data': 4, 'model': 2}
  specs = _specs([('disc', PartitionSpec('data')), *first], axes)
  assert specs['params/disc/deep/w'] == PartitionSpec('data')
  assert specs['params/gen/w'] == PartitionSpec(None, 'data')


def test_one_array_axis_may_lie_on_two_mesh_axes():
  spec = PartitionSpec(('data', 'model'))
  specs = _specs([('gen/w$', spec), _ALL], {'data': 4, 'model': 2})
  assert specs['params/gen/w'] == spec


@pytest.mark.parametrize(
  'rules, message',
  [
    (
      [('gen/kernel', PartitionSpec('data')), _ALL],
      'rule "gen/kernel" is the first match of no leaf; known paths: opt/both/',
    ),
    ([_ALL, ('gen/w', PartitionSpec())], 'rule "gen/w" is the first match of'),
    (
      [('^params', PartitionSpec())],
      r'no partition rule matches "opt/both/0/.*last rule|"step" \(\); add',
    ),
    (
      [('gen/b$', PartitionSpec('data')), _ALL],
      r'gen/b" \(12,\): axis 0 of length 12 does not divide by the 8 devices',
    ),
    (
      [('gen/b$', PartitionSpec(None, 'data')), _ALL],
      r'gen/b" has more entries than its shape \(12,\)',
    ),
    (
      [('gen/w$', PartitionSpec('model')), _ALL],
      r"gen/w\" names mesh axis \"model\"; the mesh has {'data': 8}",
    ),
  ],
)
def test_a_rule_that_cannot_be_meant_is_an_input_error(rules, message):
  with pytest.raises(InputError, match=message):
    _specs(rules)


def test_scalars_are_replicated_whatever_the_rule_says():
  state = jax.eval_shape(lambda: create_state({'net': jnp.zeros(8)}))
  specs = _specs([('.*', PartitionSpec('data'))], state=state)
  assert specs['step'] == PartitionSpec()
  assert specs['params/net'] == PartitionSpec('data')


def _leaf(*shape):
  return {'net': {'w': jax.ShapeDtypeStruct(shape, jnp.float32)}}


def _spread(shape, axes=('a', 'b'), sizes=(2, 4), **limits):
  state = jax.eval_shape(
    lambda: create_state(
      jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), _leaf(*shape)),
      minimise(_nothing, 'net', optax.adam(1e-3)),
    )
  )
  rules = [('^opt/', partition.Spread(axes, **limits)), _ALL]
  specs = _specs(rules, dict(zip(axes, sizes)), state)
  assert specs['params/net/w'] == PartitionSpec()
  assert specs['opt/net/0/mu/w'] == specs['opt/net/0/nu/w']
  return specs['opt/net/0/mu/w']


@pytest.mark.parametrize(
  'shape, spec',
  [
    ((3, 8, 16), PartitionSpec(None, 'a', 'b')),
    ((64,), PartitionSpec(('b', 'a'))),
    ((3, 12), PartitionSpec(None, 'b')),  # 12 / 4 = 3 does not divide by 2
    ((8, 8), PartitionSpec('a', 'b')),  # among equals the last is cut first
  ],
)
def test_spread_cuts_the_longest_dimensions_that_divide(shape, spec):
  assert _spread(shape, min_bytes=0) == spec


def test_spread_holds_small_leaves_whole():
  assert _spread((8, 8), min_bytes=257) == PartitionSpec()
  assert _spread((8, 8), min_bytes=256) != PartitionSpec()


def test_spread_that_cannot_cut_a_large_leaf_names_the_cure():
  with pytest.raises(InputError, match=r'\(3, 5\) can be cut in 1 .*two small'):
    _spread((3, 5), min_bytes=0)
  with pytest.raises(InputError, match=r'can be cut in 4 .*8 is the least'):
    _spread((3, 12), min_bytes=0, min_ways=8)


def test_spread_update_is_the_update_cut_like_its_moments():
  devices = mesh.make({'a': 2, 'b': 4})
  rules = [('^opt/', partition.Spread(('a', 'b'), min_bytes=0)), _ALL]
  tx = optax.chain(optax.clip_by_global_norm(0.5), optax.lamb(0.1))
  params = {'w': jax.random.normal(jax.random.key(0), (8, 16))}
  grads = {'w': jax.random.normal(jax.random.key(1), (8, 16))}
  want, _ = tx.update(grads, tx.init(params), params)
  cut = partition.spread_update(tx, devices, rules)
  got, state = jax.jit(cut.update)(grads, cut.init(params), params)
  assert state[1][0].mu['w'].sharding.spec == PartitionSpec('a', 'b')
  assert jnp.allclose(got['w'], want['w'], rtol=1e-6, atol=0)
