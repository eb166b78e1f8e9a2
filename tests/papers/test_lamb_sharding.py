"""LAMB's and LARS's states are sharded as other optimizers' are."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxlab.papers.lamb import method

MAKERS = {
  'lamb': lambda **more: method.lamb(0.1, **more),
  'lars': lambda **more: method.lars(0.1, order='you2017', **more),
}
every = pytest.mark.parametrize('make', MAKERS.values(), ids=MAKERS)


def _params():
  kernel = np.random.default_rng(0).normal(size=(3, 4, 6)).astype(np.float32)
  return {'layers': {'kernel': kernel, 'bias': np.ones((3, 6), np.float32)}}


def _alone(make):
  """The updates without a mesh."""
  params, tx = _params(), make(layer_axes=1)
  return jax.jit(tx.update)(params, tx.init(params), params)[0]


@every
def test_boxed_parameters_give_every_leaf_of_the_state_a_sharding(make):
  mesh = jax.make_mesh((2,), ('model',), axis_types=(AxisType.Auto,),
                       devices=jax.devices()[:2])  # fmt: skip
  names = {'kernel': (None, None, 'model'), 'bias': (None, 'model')}
  boxed = {
    'layers': {
      name: nn.Partitioned(jnp.asarray(leaf), names[name])
      for name, leaf in _params()['layers'].items()
    }
  }
  tx = make(layer_axes=1)
  shapes = jax.eval_shape(tx.init, boxed)
  shardings = nn.get_sharding(shapes, mesh)
  state = jax.jit(tx.init, out_shardings=shardings)(boxed)
  updates, state = jax.jit(tx.update)(boxed, state, boxed)
  kernel = updates['layers']['kernel'].value
  wanted = _alone(make)['layers']['kernel']
  np.testing.assert_allclose(kernel, wanted, rtol=1e-5, atol=1e-7)
  moment = state[1]['layers']['kernel'].value
  assert moment.sharding.spec == PartitionSpec(None, None, 'model')


@every
def test_explicit_axes_shard_updates_as_parameters(make):
  mesh = jax.make_mesh((2,), ('model',), axis_types=(AxisType.Explicit,),
                       devices=jax.devices()[:2])  # fmt: skip
  tx = make(layer_axes=1)
  specs = {'kernel': jax.P(None, None, 'model'), 'bias': jax.P(None, 'model')}
  with jax.set_mesh(mesh):
    params = {
      'layers': {
        name: jax.device_put(leaf, NamedSharding(mesh, specs[name]))
        for name, leaf in _params()['layers'].items()
      }
    }
    state = jax.jit(tx.init)(params)
    updates, state = jax.jit(tx.update)(params, state, params)
  kernel = updates['layers']['kernel']
  assert jax.typeof(kernel).sharding.spec == specs['kernel']
  np.testing.assert_allclose(
    kernel, _alone(make)['layers']['kernel'], rtol=1e-5, atol=1e-7
  )


def test_layers_may_be_sharded_over_explicit_axes():
  mesh = jax.make_mesh((3,), ('layer',), axis_types=(AxisType.Explicit,),
                       devices=jax.devices()[:3])  # fmt: skip
  tx = MAKERS['lamb'](layer_axes=1)
  with jax.set_mesh(mesh):
    sharding = NamedSharding(mesh, jax.P('layer'))
    params = jax.device_put(_params(), sharding)
    updates, state = jax.jit(tx.update)(params, tx.init(params), params)
  ratios = method.trust_ratios(state, 1)['layers']
  assert ratios['kernel'].shape == ratios['bias'].shape == (3,)
  np.testing.assert_allclose(
    updates['layers']['kernel'],
    _alone(MAKERS['lamb'])['layers']['kernel'],
    rtol=1e-5,
    atol=1e-7,
  )


@every
def test_optax_finds_what_mirrors_the_parameters(make):
  params, tx = _params(), make(layer_axes=1)
  state = tx.init(params)
  marked = optax.tree_map_params(
    tx,
    lambda leaf: 'parameter',
    state,
    transform_non_params=lambda leaf: 'other',
  )
  assert marked.step == marked.ratios == 'other'
  assert {*jax.tree.leaves(marked[1])} == {'parameter'}


@every
def test_nnx_optimizers_keep_the_sharding_of_parameters(make):
  mesh = jax.make_mesh((2,), ('model',), axis_types=(AxisType.Auto,),
                       devices=jax.devices()[:2])  # fmt: skip

  class Net(nnx.Module):
    def __init__(self):
      kernel = jnp.asarray(_params()['layers']['kernel'][0])
      self.kernel = nnx.Param(kernel, out_sharding=(None, 'model'))

  with jax.set_mesh(mesh):
    net = Net()
    optimizer = nnx.Optimizer(net, make(), wrt=nnx.Param)
    specs = jax.tree.leaves(nnx.get_partition_spec(nnx.state(optimizer)))
    arrays = jax.tree.leaves(nnx.state(optimizer))
    before = np.asarray(net.kernel)
    grads = nnx.grad(lambda net: (net.kernel**2).sum())(net)
    optimizer.update(net, grads)
  ranks = [(x.ndim, spec) for x, spec in zip(arrays, specs, strict=True)]
  assert {spec for ndim, spec in ranks if ndim == 2} == {jax.P(None, 'model')}
  assert {spec for ndim, spec in ranks if ndim < 2} <= {jax.P(), None}
  assert np.abs(np.asarray(net.kernel) - before).max() > 1e-5
