"""Linen networks as piecewise linear steps, against the networks themselves."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlab.core.errors import InputError
from jaxlab.models.piecewise_linear import piecewise_linear, traced
from jaxlab.papers.geometry import regions


class Small(nn.Module):
  """A convolution, running statistics, padded pooling, a skip connection."""

  @nn.compact
  def __call__(self, x, *, train=False):
    x = nn.Conv(3, (3, 3), name='conv')(x)
    x = nn.relu(nn.BatchNorm(use_running_average=not train, name='norm')(x))
    x = nn.max_pool(x, (3, 3), (2, 2), 'SAME')
    x = nn.PReLU(name='prelu')(x + nn.Conv(3, (1, 1), name='skip')(x))
    return nn.Dense(2, name='head')(nn.leaky_relu(x.mean((1, 2))))


def filled(module, shape, seed=0):
  """Random variables of a module, without its initialisers."""
  made = jax.eval_shape(
    module.init, jax.random.key(0), jax.ShapeDtypeStruct((1, *shape), 'f4')
  )
  rng = np.random.default_rng(seed)
  draw = lambda x: rng.uniform(0.2, 1, x.shape) * rng.choice([-1, 1], x.shape)
  made = jax.tree.map(lambda x: draw(x).astype('f4'), made)
  if 'batch_stats' in made:
    var = made['batch_stats']['norm']['var']
    made['batch_stats']['norm']['var'] = np.abs(var)
  return made


def test_a_linen_network_is_its_steps_and_its_cells_are_exact():
  module, shape = Small(), (5, 5, 1)
  variables = filled(module, shape)
  net = piecewise_linear(module, variables, shape)
  rng = np.random.default_rng(1)
  x = rng.normal(size=(7, *shape)).astype('f4')
  want = module.apply(variables, x)
  np.testing.assert_allclose(net(x), want, rtol=1e-5, atol=1e-5)
  corners = rng.normal(size=(3, *shape))
  found = regions.slice_polygons(net, corners)
  edges = (corners[1:] - corners[0]).reshape(2, -1)
  area = np.sqrt(np.linalg.det(edges @ edges.T)) / 2
  assert abs(found.areas.sum() - area) < 1e-9 * area
  assert found.linear <= found.activation <= len(found.polygons)
  # In every cell the map is the network.
  centre = found.polygons.mean(1)
  at = found.origin + np.tensordot(centre, found.basis, 1)
  ones = np.concatenate([np.ones((len(centre), 1)), centre], 1)
  maps = (found.maps * ones[:, None]).sum(-1)
  np.testing.assert_allclose(maps, net(at), atol=1e-9)
  # A line through the plane has the pieces that dense sampling finds.
  a, b = corners[0], (corners[1] + corners[2]) / 2
  along = regions.count_segments(net, a[None], b[None])
  t = np.linspace(0, 1, 4001)[:, None, None, None]
  y = net(a + t * (b - a))
  bends = np.abs(np.diff(y, 2, axis=0)).max(1) > 1e-9
  runs = (bends[1:] & ~bends[:-1]).sum() + bends[0]
  assert 3 < runs + 1 <= along.linear[0] <= along.activation[0]


def test_all_known_bends_are_read():
  weight = np.random.default_rng(2).normal(size=(2, 3)).astype('f4')

  def apply(x):
    a = nn.relu6(3 * jnp.abs(x).sum())
    b = jnp.minimum(nn.leaky_relu(x @ weight, 0.2), a)
    c = jnp.where(x > 0, x, 2 * x).max() + jnp.where(x <= 0, 0, x).sum()
    return jnp.maximum(b, -0.5).max(-1) - c

  net = traced(apply, (2,))
  x = np.random.default_rng(3).normal(size=(50, 2)).astype('f4')
  np.testing.assert_allclose(net(x), jax.vmap(apply)(x), rtol=1e-5, atol=1e-6)


class Named(nn.Module):
  act: object

  @nn.compact
  def __call__(self, x):
    return self.act(nn.Dense(2, name='last')(x))


@pytest.mark.parametrize(
  'act, words',
  [
    (nn.tanh, 'layer "Named/tanh" is not piecewise linear'),
    (nn.softplus, 'layer "Named/softplus/'),
    (lambda x: nn.LayerNorm(name='norm')(x), 'layer "Named/norm/'),
    (lambda x: x * x, 'layer "Named/'),
  ],
)
def test_a_smooth_layer_is_named(act, words):
  module = Named(act)
  leaves = {'kernel': np.ones((2, 2), 'f4'), 'bias': np.ones(2, 'f4')}
  scales = {'scale': np.ones(2, 'f4'), 'bias': np.ones(2, 'f4')}
  variables = {'params': {'last': leaves, 'norm': scales}}
  with pytest.raises(InputError, match=words):
    piecewise_linear(module, variables, (2,))


def test_a_constant_function_is_refused():
  with pytest.raises(InputError, match='does not depend on its input'):
    traced(lambda x: jnp.ones(3), (2,))
