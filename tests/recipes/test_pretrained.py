"""ImageNet networks from packaged and foreign files of weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.errors import InvalidRngError

from jaxlab.core.errors import InputError
from jaxlab.data.packages import packaged_weights, weights
from jaxlab.models.convert import template, to_flat
from jaxlab.models.resnet50 import keras_image
from jaxlab.models.squeezenet import SqueezeNet
from jaxlab.recipes.pretrained import architecture, imagenet


@pytest.fixture(scope='module')
def flat():
  """SqueezeNet's arrays under the names that the package has."""
  dummy = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
  draw = np.random.default_rng(0)
  shapes = jax.eval_shape(lambda: template(SqueezeNet(), dummy))
  arrays = jax.tree.map(
    lambda x: draw.normal(0, 0.1, x.shape).astype(np.float32), shapes
  )
  names = {'squeeze': 'squeeze1x1', 'expand1': 'expand1x1'}
  names['expand3'] = 'expand3x3'
  found = {}
  for path, array in to_flat(arrays).items():
    parts = [names.get(part, part) for part in path.split('/')[1:]]
    found['/'.join(parts)] = array
  return found


@pytest.fixture
def packaged(flat, monkeypatch):
  monkeypatch.setattr(
    packaged_weights, 'open_packaged', lambda name, offline: flat
  )


def test_the_network_reads_images_in_0_1_as_the_model_reads_its_pixels(
  packaged, flat
):
  found = imagenet('squeezenet', size=64)
  image = np.random.default_rng(1).random((2, 64, 64, 3), np.float32)
  apply = jax.jit(
    lambda p, x: SqueezeNet().apply({'params': p}, x, train=False)
  )
  wanted = apply(found.params['net'], keras_image(255 * image))
  got = jax.jit(found.network.logits)(image, found.params, found.vars)
  np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)
  kernel = found.params['net']['fire2']['squeeze']['kernel']
  np.testing.assert_array_equal(kernel, flat['fire2/squeeze1x1/kernel'])


def test_a_file_of_ones_own_is_read_and_one_that_does_not_fit_is_named(
  flat, tmp_path
):
  path = str(tmp_path / 'mine.safetensors')
  weights.write_safetensors(path, flat)
  found = imagenet('squeezenet', size=64, path=path)
  kernel = found.params['net']['conv1']['kernel']
  np.testing.assert_array_equal(kernel, flat['conv1/kernel'])
  with pytest.raises(InputError, match=r'(?s)mine\.safetensors: .*stem'):
    imagenet('resnet50', size=64, path=path)


@pytest.mark.parametrize(
  'name, more, message',
  [
    ('alexnet', {}, '^name = "alexnet" must be one of squeezenet, eff'),
    ('squeezenet', {'size': 16}, '^size = 16 must be at least 32'),
    ('resnet50_torch', {}, 'no package ships the weights of "resnet50_torch"'),
    ('resnet50', {'path': 'a.zip'}, r'a\.zip is not a file of weights'),
    ('resnet50', {'path': 'none.pth'}, 'none'),
  ],
)
def test_weights_that_cannot_be_had_are_named(name, more, message):
  with pytest.raises(InputError, match=message):
    imagenet(name, **more)


@pytest.mark.parametrize('name', ['inception_v3', 'resnet50_v2', 'vgg16'])
def test_a_network_without_packaged_weights_has_a_thousand_logits(name):
  network = architecture(name, size=96, dtype=jnp.bfloat16)
  params, vars = jax.eval_shape(network.init, jax.random.key(0))
  image = jax.ShapeDtypeStruct((2, 96, 96, 3), jnp.float32)
  found = jax.eval_shape(network.logits, image, params, vars)
  assert (found.shape, found.dtype) == ((2, 1000), jnp.float32)
  with pytest.raises(InputError, match=f'ships the weights of "{name}"'):
    imagenet(name, size=96)


def test_a_network_with_dropout_trains_under_a_key():
  network = architecture('vgg16_torch', size=32, num_classes=4)
  image = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
  key = jax.random.key(0)
  params, vars = jax.eval_shape(network.init, key)
  logits, new = jax.eval_shape(network.train, params, vars, image, key)
  assert (logits.shape, new) == ((2, 4), {'net': {}})
  with pytest.raises(InvalidRngError, match='dropout'):
    jax.eval_shape(network.train, params, vars, image)
