"""DCGAN's layers against XLA's own, and its networks' shapes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlab.models import dcgan
from jaxlab.models.dcgan import (
  Discriminator,
  Encoder,
  Generator,
  Mlp,
  MlpDiscriminator,
  sides,
)
from jaxlab.models.one_draw import parameters
from jaxlab.models.sngan import (
  ResDiscriminator,
  ResGenerator,
  SnDiscriminator,
)

RNG = np.random.default_rng(0)


def _normal(*shape):
  return RNG.normal(size=shape).astype(np.float32)


@pytest.mark.parametrize('size', [3, 5, 6])
@pytest.mark.parametrize('side', [6, 7])
def test_halve_is_a_strided_convolution_and_double_its_transpose(size, side):
  x, kernel = _normal(2, side, side, 3), _normal(size, size, 3, 2)
  half = -(-side // 2)
  before = 2 - (7 - size) // 2
  pads = (before, 2 * half - 2 + size - before - side)
  conv = lambda x: jax.lax.conv_general_dilated(
    x, kernel, (2, 2), (pads, pads), dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )
  found = jax.jit(dcgan.halve)(x, kernel)
  np.testing.assert_allclose(found, conv(x), rtol=1e-4, atol=1e-5)
  y = _normal(2, half, half, 2)
  (back,) = jax.linear_transpose(conv, x)(y)
  # double takes [k, k, in, out]: the transpose's maps are the other way round
  grown = jax.jit(dcgan.double)(y, kernel.transpose(0, 1, 3, 2))
  np.testing.assert_allclose(grown[:, :side, :side], back, rtol=1e-4, atol=1e-5)


def test_larger_kernels_and_unknown_norms_are_refused():
  with pytest.raises(ValueError, match='1 to 6 pixels, not 7'):
    dcgan.halve(_normal(1, 8, 8, 1), _normal(7, 7, 1, 1))
  with pytest.raises(ValueError, match='"batch" is not one of none, group'):
    _shapes(Discriminator((4, 8), norm='batch'), (1, 8, 8, 1))


def _shapes(module, shape):
  spec = jax.ShapeDtypeStruct(shape, jnp.float32)
  made = lambda key, x: module.init_with_output(key, x)
  return jax.eval_shape(made, jax.random.key(0), spec)


def _count(variables):
  return sum(leaf.size for leaf in jax.tree.leaves(variables))


def test_networks_have_the_papers_sizes():
  assert sides(28, 3) == [28, 14, 7, 4]
  image, made = _shapes(Generator(28, 1), (2, 100))
  assert image.shape == (2, 28, 28, 1)
  conv = lambda i, o: 25 * i * o + o
  dense = 100 * 4096 + 4096
  assert _count(made) == dense + conv(256, 128) + conv(128, 64) + conv(64, 1)
  (logits, features), made = _shapes(Discriminator(), (2, 28, 28, 1))
  assert (logits.shape, features.shape) == ((2,), (2, 4096))  # d_Phi
  wanted = conv(1, 64) + conv(64, 128) + conv(128, 256) + 4097
  assert _count(made) == wanted
  code, made = _shapes(Encoder(latent=100), (2, 28, 28, 1))
  assert code.shape == (2, 100)
  assert _count(made) == wanted - 4097 + 4096 * 100 + 100
  # Stacked digits: 64 maps at 4 x 4, 32, 16, 8, then the channels.
  stacked = Generator(28, 3, (64, 32, 16, 8), smooth=True)
  image, made = _shapes(stacked, (2, 256))
  assert image.shape == (2, 28, 28, 3)
  wanted = 257 * 1024 + conv(64, 32) + conv(32, 16) + conv(16, 8)
  assert _count(made) == wanted + 9 * 8 * 3 + 3
  (_, features), _ = _shapes(Discriminator((128, 256, 512)), (2, 32, 32, 3))
  assert features.shape == (2, 8192)


def test_logits_are_made_of_the_features_of_one_image_alone():
  disc = Discriminator((2, 3), kernel=3, norm='group')
  image = RNG.random((2, 6, 6, 1)).astype(np.float32)
  variables = jax.jit(disc.init)(jax.random.key(0), image)
  run = jax.jit(disc.apply)
  logits, features = run(variables, image)
  head = variables['params']['Dense_0']
  np.testing.assert_allclose(
    logits, (features @ head['kernel'] + head['bias'])[:, 0], rtol=1e-4
  )
  other = np.stack([image[0], 1 - image[1]])
  np.testing.assert_allclose(run(variables, other)[0][0], logits[0], rtol=1e-4)


def test_mlps_have_three_layers_and_read_the_middle_as_zero():
  disc = MlpDiscriminator((6, 5, 4), centred=True)
  params = parameters(disc, jax.random.key(0), jnp.zeros((1, 2)), gain=2.0)
  plain = parameters(disc, jax.random.key(0), jnp.zeros((1, 2)))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, np.sqrt(2) * b, rtol=1e-6),
    params,
    plain,
  )
  x = _normal(3, 2)
  h = 2 * x - 1
  for i in range(3):
    layer = params[f'Dense_{i}']
    h = np.maximum(h @ layer['kernel'] + layer['bias'], 0)
  logits, features = disc.apply({'params': params}, x)
  np.testing.assert_allclose(features, h, rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(
    logits, (h @ params['Dense_3']['kernel'])[:, 0], rtol=1e-4, atol=1e-6
  )
  out, _ = _shapes(Mlp((8,), features=3, sigmoid=True), (5, 2))
  assert out.shape == (5, 3)
  with pytest.raises(ValueError, match=r'\[b, d\], not \(5,\)'):
    _shapes(Mlp((8,)), (5,))


def test_the_networks_of_sngan_have_the_authors_sizes():
  c3 = lambda i, o: 9 * i * o + o
  c4 = lambda i, o: 16 * i * o + o
  (_, features), made = _shapes(SnDiscriminator(), (2, 32, 32, 3))
  assert features.shape == (2, 4 * 4 * 512)
  wanted = c3(3, 64) + c4(64, 64) + c3(64, 128) + c4(128, 128)
  wanted += c3(128, 256) + c4(256, 256) + c3(256, 512) + 8193
  assert _count(made) == wanted
  (_, features), made = _shapes(ResDiscriminator(), (2, 32, 32, 3))
  assert features.shape == (2, 8 * 8 * 128)  # d_Phi
  wanted = c3(3, 128) + 4 * 128 + 7 * c3(128, 128) + 129 * 128 + 8193
  assert _count(made) == wanted
  image, made = _shapes(ResGenerator(32, 3), (2, 128))
  assert image.shape == (2, 32, 32, 3)
  wanted = 129 * 4096 + 6 * c3(256, 256) + 3 * 257 * 256 + 7 * 512
  assert _count(made) == wanted + c3(256, 3)
