"""A small convolutional net, its images, and what attacks are held to.

Most of the time of tests on it would be XLA's, optimising tiny programs. A test
module has it do less by

  _quick = pytest.fixture(autouse=True, scope='module')(quick_compiles)

and what depends on XLA's rearrangements, such as rounding, undoes it by
`with optimised():`.
"""

import contextlib
import functools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxlab.ops import attack_loop

KEY = jax.random.key(0)
CLASSES = 5


_SWITCH = 'jax_disable_most_optimizations'


def quick_compiles():
  """A fixture: programs of one step, without most of the optimisations."""
  with mock.patch.object(attack_loop, 'TOGETHER', 1), _switched(True):
    yield


def optimised():
  """A context in which programs are compiled as everywhere else."""
  return _switched(False)


@contextlib.contextmanager
def _switched(value):
  before = jax.config.read(_SWITCH)
  jax.config.update(_SWITCH, value)
  try:
    yield
  finally:
    jax.config.update(_SWITCH, before)


def conv_net(images, params):
  """Logits [b, 5] of [b, 8, 8, 2]; two convolutions and a linear layer."""
  x = images
  for name in ('first', 'second'):
    x = jax.lax.conv_general_dilated(
      x,
      params[name].astype(x.dtype),
      (2, 2),
      'SAME',
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )
    x = jax.nn.relu(x)
  return x.reshape(len(x), -1) @ params['head'].astype(x.dtype)


def bfloat16_net(images, params):
  return conv_net(images.astype(jnp.bfloat16), params)


@functools.cache
def trained(count=32):
  """(images [count, 8, 8, 2], ids, labels, params) of a fitted `conv_net`."""
  draw = np.random.default_rng(0)
  kinds = draw.random((CLASSES, 8, 8, 2))
  labels = jnp.arange(count) % CLASSES
  images = 0.6 * kinds[labels] + 0.4 * draw.random((count, 8, 8, 2))
  images = jnp.asarray(np.clip(images, 0, 1), jnp.float32)
  he = lambda *shape: draw.normal(0, np.sqrt(2 / np.prod(shape[:-1])), shape)
  params = {
    'first': he(3, 3, 2, 8),
    'second': he(3, 3, 8, 8),
    'head': he(32, CLASSES),
  }
  params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
  tx = optax.adam(1e-2)

  @jax.jit
  def step(params, opt):
    def loss(params):
      logits = conv_net(images, params)
      return optax.losses.softmax_cross_entropy_with_integer_labels(
        logits, labels
      ).mean()

    updates, opt = tx.update(jax.grad(loss)(params), opt)
    return optax.apply_updates(params, updates), opt

  opt = tx.init(params)
  for _ in range(30):
    params, opt = step(params, opt)
  right = conv_net(images, params).argmax(-1) == labels
  assert right.all()
  return images, jnp.arange(count), labels, params


def linear_net(images, weights):
  """Logits [b, k] of flattened images and weights [d + 1, k]."""
  flat = images.reshape(len(images), -1)
  return flat @ weights[:-1] + weights[-1]


def accuracy(net, images, labels, *rest):
  return float((net(images, *rest).argmax(-1) == labels).mean())


def lengths(clean, attacked, norm):
  """[b] norms of the perturbations in float64."""
  delta = np.asarray(attacked, np.float64) - np.asarray(clean, np.float64)
  delta = delta.reshape(len(delta), -1)
  return np.linalg.norm(delta, np.inf if norm == 'linf' else 2, axis=1)


def assert_feasible(clean, attacked, norm, epsilon):
  """The attacked images are in the ball and in [0, 1], without tolerance."""
  assert attacked.dtype == jnp.float32 and attacked.shape == clean.shape
  assert attacked.min() >= 0 and attacked.max() <= 1
  assert lengths(clean, attacked, norm).max() <= epsilon


def assert_rows_agree(found, expected, step):
  """Equal images, but for signs of gradients near 0 that rounding decides.

  A sign that flips moves its pixel by at most two steps, and with it what
  follows; 1 % of the pixels is far below what a wrong random key changes.
  """
  differ = np.abs(np.asarray(found) - np.asarray(expected)) > 1e-5
  assert differ.mean() < 0.01, differ.mean()
  assert np.abs(found - expected).max() <= 2 * step + 1e-5


def sharded(*trees):
  """The same arrays, their rows spread over all devices."""
  mesh = jax.sharding.Mesh(np.array(jax.devices()), 'data')
  rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec('data'))
  return jax.device_put(trees, rows)
