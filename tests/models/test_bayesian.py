"""Bayesian networks: their sizes, their modes, and the plain net inside."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlab.models.bayesian import BayesConv, BayesDense, BayesNet, bayesian
from jaxlab.models.lenet import LeNet5
from jaxlab.ops import variational

KEY = jax.random.key(0)
quick = partial(jax.jit, compiler_options={'xla_backend_optimization_level': 0})


@pytest.mark.parametrize(
  'net, channels, size',
  [
    ('lenet5', 1, 61_706),
    ('lenet5', 3, 62_006),
    ('alexnet', 3, 2_175_946),
    ('3conv3fc', 3, 1_782_634),
  ],
)
def test_nets_have_the_papers_numbers_of_weights(net, channels, size):
  image = jax.ShapeDtypeStruct((2, 32, 32, channels), jnp.float32)
  model = BayesNet(net, 10, mode='lrt')
  keys = {'params': KEY, 'posterior': KEY}
  logits, found = jax.eval_shape(model.init_with_output, keys, image)
  assert logits.shape == (2, 10)
  count = lambda tree: sum(x.size for x in jax.tree.leaves(tree))
  assert count(found['params']) == count(found['rho']) == size
  assert jax.tree.structure(found['params']) == jax.tree.structure(found['rho'])


def test_alexnet_half_has_half_the_channels():
  image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
  made = jax.eval_shape(BayesNet('alexnet_half', 10).init, KEY, image)
  shapes = {k: v['kernel'].shape for k, v in made['params'].items()}
  assert shapes['conv1'] == (11, 11, 3, 32)
  assert shapes['conv5'] == (3, 3, 192 - 64, 64)
  assert shapes['head'] == (64, 10)


@pytest.fixture(scope='module')
def lenet():
  """Weights of a LeNet-5, images of 16 x 16."""
  images = jax.random.normal(KEY, (5, 16, 16, 1))
  q = BayesNet('lenet5', 10, mode='lrt', spread=-3.0).init(KEY, images)
  return images, q


def outputs(lenet, mode, key=KEY, rows=slice(None), **fields):
  images, q = lenet
  net = BayesNet('lenet5', 10, mode=mode, **fields)
  run = quick(
    lambda q, x, ids, k: net.apply(
      q, x, ids=ids, rngs={'posterior': k, 'dropout': k}
    )
  )
  return run(q, images[rows], jnp.arange(5)[rows], key)


def test_the_means_are_a_plain_lenet_with_softplus(lenet):
  images, q = lenet
  plain = LeNet5(activation=nn.softplus)
  wanted = quick(partial(plain.apply, train=False))(
    {'params': q['params']}, images
  )
  np.testing.assert_allclose(outputs(lenet, 'mean'), wanted, rtol=1e-4)


def test_noise_of_an_example_is_its_own(lenet):
  whole = outputs(lenet, 'lrt')
  part = outputs(lenet, 'lrt', rows=slice(2, 4))
  np.testing.assert_allclose(part, whole[2:4], rtol=1e-4, atol=1e-5)
  other = outputs(lenet, 'lrt', key=jax.random.key(9))
  assert abs(other - whole).min(-1).max() > 1e-4


def test_sampling_in_layers_draws_one_set_of_weights(lenet):
  images, q = lenet
  same = (jnp.stack([images[0]] * 5), q)
  found = outputs(same, 'sample')
  np.testing.assert_allclose(found, found[:1].repeat(5, 0), rtol=1e-5)
  assert abs(found[0] - outputs(same, 'mean')[0]).max() > 1e-3
  noisy = outputs(same, 'lrt')
  assert abs(noisy[0] - noisy[1]).max() > 1e-3


def test_modes_have_the_same_spread_at_the_first_logits(lenet):
  """Of one dense layer they agree in law; here by its mean and deviation."""
  x = 0.5 * jax.random.normal(KEY, (1, 5))
  keys = jax.random.split(KEY, 3000)
  q = BayesDense(4, spread=-1.0).init(KEY, x)
  moments = {}
  for mode in ('lrt', 'flipout', 'sample'):
    layer = BayesDense(4, mode=mode)
    one = lambda k, layer=layer: layer.apply(q, x, rngs={'posterior': k})[0]
    y = np.asarray(jax.jit(jax.vmap(one))(keys))
    moments[mode] = y.mean(0), y.std(0)
  mean = BayesDense(4, mode='mean').apply(q, x)[0]
  sigma = np.log1p(np.exp(-1.0))
  deviation = sigma * np.sqrt(1 + np.square(x).sum())
  for found in moments.values():
    assert (abs(found[0] - mean) < 5 * deviation / 3000**0.5).all()
    np.testing.assert_allclose(found[1], deviation, rtol=0.05)


def test_a_strided_convolution_has_the_variance_of_its_window():
  x = jax.random.normal(KEY, (2, 7, 7, 2))
  layer = BayesConv(3, size=3, strides=2, padding=1, spread=-1.0)
  q = layer.init(KEY, x)
  one = lambda k: layer.apply(q, x, rngs={'posterior': k})
  y = np.asarray(jax.jit(jax.vmap(one))(jax.random.split(KEY, 4000)))
  assert y.shape[1:] == (2, 4, 4, 3)
  padded = np.pad(np.square(x), ((0, 0), (1, 1), (1, 1), (0, 0)))
  variance = np.log1p(np.exp(-1.0)) ** 2
  for i, j in ((0, 0), (1, 3), (2, 1)):
    window = padded[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].sum((1, 2, 3))
    wanted = variance * (window + 1)  # and the bias
    found = y[:, :, i, j].var(0).mean(-1)
    np.testing.assert_allclose(found, wanted, rtol=0.06)


def test_alpha_widens_with_the_weight():
  x = jnp.ones((1, 2))
  layer = BayesDense(1, posterior='log_alpha', use_bias=False)
  q = layer.init(KEY, x)
  np.testing.assert_array_equal(q['log_alpha']['kernel'], -10)
  q = {
    'params': {'kernel': jnp.array([[3.0], [0.0]])},
    'log_alpha': {'kernel': jnp.full((2, 1), np.log(0.25))},
  }
  one = lambda k: layer.apply(q, x, rngs={'posterior': k})[0, 0]
  y = jax.vmap(one)(jax.random.split(KEY, 4000))
  np.testing.assert_allclose(y.std(), 1.5, rtol=0.05)


def test_dropout_scales_up_what_it_keeps_by_example(lenet):
  found = outputs(lenet, 'mean', dropout=0.5)
  part = outputs(lenet, 'mean', dropout=0.5, rows=slice(1, 3))
  np.testing.assert_allclose(part, found[1:3], rtol=1e-4, atol=1e-5)
  plain = outputs(lenet, 'mean')
  assert abs(found - plain).max() > 1e-2
  net, x = BayesNet('lenet5', 10, dropout=0.2), jnp.ones((50, 40))
  y = net.apply({}, x, None, rngs={'dropout': KEY}, method=net._drop)
  assert {*np.unique(y).round(4).tolist()} == {0.0, 1.25}
  assert abs(y.mean() - 1) < 0.05


def test_any_module_is_bayesian_in_one_line():
  model = nn.Sequential([nn.Dense(3), nn.softplus, nn.Dense(2)])
  posterior = bayesian(model, rho0=-2.0)
  x = jnp.ones((4, 5))
  q = posterior.init(KEY, x)
  np.testing.assert_allclose(
    posterior.apply(q, KEY, x),
    model.apply({'params': variational.draw(KEY, q)}, x),
    rtol=1e-6,
  )
  mean = model.apply({'params': q['mu']}, x)
  np.testing.assert_allclose(posterior.mean(q, x), mean)
  np.testing.assert_allclose(jax.tree.leaves(q['rho'])[0], -2.0)


def test_batch_statistics_and_chosen_weights_stay_as_they_are():
  class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
      return nn.BatchNorm(use_running_average=True)(nn.Dense(3)(x))

  posterior = bayesian(Net(), chosen=lambda path: path.startswith('Dense'))
  x = jnp.ones((2, 4))
  q = posterior.init(KEY, x)
  assert {*q['rho']} == {'Dense_0'}
  more = {
    'batch_stats': {'BatchNorm_0': {'mean': jnp.ones(3), 'var': jnp.ones(3)}}
  }
  found = posterior.mean(q, x, more=more)
  plain = (x @ q['mu']['Dense_0']['kernel'] - 1) / np.sqrt(1 + 1e-5)
  np.testing.assert_allclose(found, plain, rtol=1e-5)
  assert variational.draw(KEY, q)['BatchNorm_0']['scale'].tolist() == [1, 1, 1]


def test_what_there_is_not_is_named():
  x = jnp.ones((1, 3))
  with pytest.raises(ValueError, match='mode="eval" is not one of lrt, fl'):
    BayesDense(2, mode='eval').init(KEY, x)
  with pytest.raises(ValueError, match='posterior="beta" is not one of rho'):
    BayesDense(2, posterior='beta').init(KEY, x)
  with pytest.raises(ValueError, match='no net "lenet"; known: lenet5'):
    BayesNet('lenet', 10).init(KEY, jnp.ones((1, 32, 32, 1)))
  with pytest.raises(ValueError, match='8 x 8 pixels is smaller'):
    BayesNet('lenet5', 10).init(KEY, jnp.ones((1, 8, 8, 1)))
