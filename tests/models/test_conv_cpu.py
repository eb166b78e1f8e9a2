import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxlab.models import conv_cpu

LAYOUT = ('NHWC', 'HWIO', 'NHWC')
CASES = [  # image, kernel, channels in and out, padding
  ((8, 8), (3, 3), (3, 5), 'SAME'),
  ((8, 7), (3, 3), (1, 4), [(1, 1), (1, 1)]),
  ((9, 10), (3, 3), (2, 3), 'VALID'),
  ((7, 5), (3, 2), (3, 5), [(1, 1), (2, 0)]),
  ((7, 6), (4, 5), (4, 2), [(3, 2), (0, 4)]),
  ((5, 4), (1, 1), (3, 6), 'VALID'),
]


def draw(case):
  image, window, (channels, features), _ = case
  rng = np.random.default_rng(0)
  normal = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
  return normal(2, *image, channels), normal(*window, channels, features)


def program(x, kernel, *args, **options):
  options = {'dimension_numbers': LAYOUT, **options}
  args = args or ((1, 1), [(0, 0), (0, 0)])
  return str(
    jax.make_jaxpr(lambda x, k: conv_cpu.conv(x, k, *args, **options))(
      x, kernel
    )
  )


@pytest.mark.parametrize('case', CASES, ids=str)
def test_it_equals_xlas_convolution_and_gradients(case):
  x, kernel = draw(case)
  assert 'custom_vjp' in program(x, kernel)
  (expected, pull), (found, own) = (
    jax.vjp(
      lambda x, k, conv=conv: conv(
        x, k, (1, 1), case[3], dimension_numbers=LAYOUT
      ),
      x,
      kernel,
    )
    for conv in (lax.conv_general_dilated, conv_cpu.conv)
  )
  # Sums of up to 112 products of size 1 in another order.
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=5e-5)
  slope = jnp.asarray(
    np.random.default_rng(1).normal(size=expected.shape), jnp.float32
  )
  for mine, theirs in zip(own(slope), pull(slope)):
    assert mine.shape == theirs.shape
    np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize('strides', [1, 2])
def test_a_linen_layer_takes_it(strides):
  x = jnp.asarray(np.random.default_rng(0).random((2, 8, 8, 3)), jnp.float32)
  layers = [
    nn.Conv(6, (3, 3), strides, padding=1, conv_general_dilated=conv)
    for conv in (None, conv_cpu.conv)
  ]
  params = layers[0].init(jax.random.key(0), x)

  def total(x, params, layer):
    return jnp.sum(layer.apply(params, x) ** 2)

  theirs, mine = (
    jax.jit(jax.value_and_grad(total, (0, 1)), static_argnums=2)(
      x, params, layer
    )
    for layer in layers
  )
  for a, b in zip(jax.tree.leaves(mine), jax.tree.leaves(theirs)):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
  'options, strides',
  [
    ({}, (2, 1)),
    ({'rhs_dilation': (2, 2)}, (1, 1)),
    ({'lhs_dilation': (2, 2)}, (1, 1)),
    ({'feature_group_count': 2}, (1, 1)),
    ({'dimension_numbers': ('NCHW', 'OIHW', 'NCHW')}, (1, 1)),
  ],
  ids=str,
)
def test_other_convolutions_are_xlas_own(options, strides):
  rng = np.random.default_rng(0)
  options = {'dimension_numbers': LAYOUT, **options}
  groups = options.get('feature_group_count', 1)
  x, kernel = rng.random((2, 4, 4, 4)), rng.random((3, 3, 4 // groups, 4))
  if options['dimension_numbers'][0] == 'NCHW':
    kernel = kernel.transpose(3, 2, 0, 1)
  x, kernel = jnp.asarray(x, jnp.float32), jnp.asarray(kernel, jnp.float32)
  args = (strides, [(1, 1), (1, 1)])
  np.testing.assert_array_equal(
    conv_cpu.conv(x, kernel, *args, **options),
    lax.conv_general_dilated(x, kernel, *args, **options),
  )
  assert 'custom_vjp' not in program(x, kernel, *args, **options)


def test_many_channels_other_dtypes_and_devices_are_xlas_own(monkeypatch):
  x, kernel = draw(CASES[0])
  assert 'custom_vjp' in program(x, kernel)
  half = lambda a: a.astype(jnp.bfloat16)
  assert 'custom_vjp' not in program(half(x), half(kernel))
  wide = draw(((8, 8), (3, 3), (5, 5), 'SAME'))
  assert 'custom_vjp' not in program(*wide)
  monkeypatch.setattr(jax, 'default_backend', lambda: 'tpu')
  assert 'custom_vjp' not in program(x, kernel)


@pytest.mark.parametrize(
  'image, window, strides, padding',
  [
    ((8, 7), (3, 3), (1, 1), 'SAME'),
    ((9, 8), (3, 5), (2, 2), 'SAME'),
    ((9, 8), (3, 2), (2, 1), 'VALID'),
    ((7, 6), (3, 3), (2, 2), [(0, 2), (1, 0)]),
  ],
  ids=str,
)
def test_depthwise_it_equals_xlas_convolution_and_gradients(
  image, window, strides, padding
):
  rng = np.random.default_rng(0)
  normal = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
  x, kernel = normal(2, *image, 6), normal(*window, 1, 6)
  options = {'dimension_numbers': LAYOUT, 'feature_group_count': 6}
  assert 'conv_general' not in program(x, kernel, strides, padding, **options)
  (expected, pull), (found, own) = (
    jax.vjp(
      lambda x, k, conv=conv: conv(x, k, strides, padding, **options),
      x,
      kernel,
    )
    for conv in (lax.conv_general_dilated, conv_cpu.conv)
  )
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=5e-5)
  slope = normal(*expected.shape)
  for mine, theirs in zip(own(slope), pull(slope)):
    np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-4)
