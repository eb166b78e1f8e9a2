"""Keras' weights find their places, and give Keras' logits where it is."""

from functools import cache, partial

import numpy as np
import pytest

from jaxlab.models import keras_names
from jaxlab.models.convert import template
from jaxlab.models.inception_v3 import InceptionV3, conv_paths
from jaxlab.models.resnet_v2 import ResNetV2
from jaxlab.models.vgg16 import VGG16
from tests.models.classifiers import assert_close, draw_image, jit, zeros

KERAS_INCEPTION = InceptionV3(
  7, aux=False, norm_scale=False, pool_counts_padding=False, momentum=0.99
)
CASES = {
  'vgg16': ('VGG16', VGG16(7), (32, 32, 3)),
  'resnet_v2': ('ResNet50V2', ResNetV2(50, 7), (64, 64, 3)),
  'inception_v3': ('InceptionV3', KERAS_INCEPTION, (75, 75, 3)),
}


@pytest.mark.slow
@pytest.mark.parametrize('name', CASES)
def test_logits_equal_keras(name, monkeypatch, tmp_path):
  monkeypatch.setenv('KERAS_BACKEND', 'jax')
  keras = pytest.importorskip('keras', reason='needs keras')
  h5py = pytest.importorskip('h5py', reason='needs h5py')
  theirs, model, shape = CASES[name]
  theirs = getattr(keras.applications, theirs)(
    weights=None, classes=7, input_shape=shape, classifier_activation=None
  )
  rng = np.random.default_rng(0)

  def draw(weight):
    if len(weight.shape) > 1:
      scale = np.float32(np.sqrt(2 / np.prod(weight.shape[:-1])))
      return scale * rng.standard_normal(weight.shape, np.float32)
    low, high = (0.5, 1.5) if weight.name in ONES else (-0.3, 0.3)
    return rng.uniform(low, high, weight.shape).astype(np.float32)

  theirs.set_weights([draw(weight) for weight in theirs.weights])
  theirs.save(tmp_path / 'weights.h5')
  flat = {}

  def collect(path, leaf):
    if isinstance(leaf, h5py.Dataset):
      flat[path] = leaf[()]

  with h5py.File(tmp_path / 'weights.h5') as file:
    file.visititems(collect)
  shapes = template(model, zeros(shape))
  variables = getattr(keras_names, name)(shapes, flat)
  image = draw_image(shape)
  got = jit(partial(model.apply, train=False))(variables, image)
  # Two float32 programs of up to 94 layers; 1e-6 was measured.
  assert_close(got, np.asarray(theirs(image)), 2e-5)


ONES = ('gamma', 'moving_variance')
LEAVES = {
  'kernel': 'kernel',
  'bias': 'bias',
  'scale': 'gamma',
  'mean': 'moving_mean',
  'var': 'moving_variance',
}


def fill(shapes, layers, spell):
  """Keras' flat weights of a model of ours, each full of a number of its own.

  `layers`: Keras' layer -> our path. `spell`: (layer, leaf) -> Keras' name.
  Returns the weights and (collection, our path, leaf) -> number.
  """
  flat, want = {}, {}
  for layer, path in layers.items():
    for collection in shapes:
      node = shapes[collection]
      for part in path.split('/'):
        node = node.get(part, {})
      for leaf, shape in node.items():
        norm = layer.startswith('batch_') or layer.endswith('_bn')
        theirs = 'beta' if norm and leaf == 'bias' else LEAVES[leaf]
        number = np.float32(len(flat) + 1)
        flat[spell(layer, theirs)] = np.broadcast_to(number, shape.shape)
        want[collection, path, leaf] = number
  return flat, want


def check(variables, want):
  for (collection, path, leaf), number in want.items():
    node = variables[collection]
    for part in path.split('/'):
      node = node[part]
    assert (node[leaf] == number).all(), (path, leaf)


OLD = {'kernel': 'W', 'bias': 'b'}
SPELLINGS = {
  'keras_2': lambda layer, leaf: f'{layer}/{layer}/{leaf}:0',
  'keras_3': lambda layer, leaf: f'model_weights/{layer}/{layer}/{leaf}',
  'short': lambda layer, leaf: f'{layer}/{leaf}',
  'old': lambda layer, leaf: f'{layer}/{layer}_{OLD.get(leaf, leaf)}_1:0',
}


def number_arrays(flat):
  """Names as in a `.weights.h5`: `layers/<layer>/vars/<number>`."""
  order = ('kernel', 'gamma', 'bias', 'beta', 'moving_mean', 'moving_variance')
  layers = {}
  for name in flat:
    layer, leaf = name.split('/')
    layers.setdefault(layer, []).append(leaf)
  return {
    f'layers/{layer}/vars/{i}': flat[f'{layer}/{leaf}']
    for layer, leaves in layers.items()
    for i, leaf in enumerate(sorted(leaves, key=order.index))
  }


@pytest.mark.parametrize('spelling', SPELLINGS)
def test_vgg16_is_filled_from_every_spelling(spelling):
  layers = {
    f'block{stage}_conv{i}': f'conv{stage}_{i}'
    for stage, convs in enumerate((2, 2, 3, 3, 3), 1)
    for i in range(1, convs + 1)
  }
  layers |= {'fc1': 'dense1', 'fc2': 'dense2', 'predictions': 'head'}
  shapes = template(VGG16(7, (8, 9)), zeros((32, 32, 3)))
  flat, want = fill(shapes, layers, SPELLINGS[spelling])
  assert len(flat) == 32
  check(keras_names.vgg16(shapes, flat), want)
  del flat[SPELLINGS[spelling]('fc2', 'bias')]
  with pytest.raises(ValueError, match='params/dense2/bias'):
    keras_names.vgg16(shapes, flat)


def test_resnet_v2_is_filled():
  layers = {'conv1_conv': 'stem', 'post_bn': 'norm', 'predictions': 'head'}
  for stage, units in enumerate((3, 4, 23, 3), 1):
    for unit in range(1, units + 1):
      theirs = f'conv{stage + 1}_block{unit}_'
      ours = f'stage{stage}_unit{unit}/'
      layers[theirs + 'preact_bn'] = ours + 'norm1'
      if unit == 1:
        layers[theirs + '0_conv'] = ours + 'shortcut'
      for i in (1, 2, 3):
        layers[theirs + f'{i}_conv'] = ours + f'conv{i}'
      for i in (1, 2):
        layers[theirs + f'{i}_bn'] = ours + f'norm{i + 1}'
  shapes = template(ResNetV2(101, 7, width=4), zeros((32, 32, 3)))
  flat, want = fill(shapes, layers, SPELLINGS['keras_2'])
  assert len(flat) == 272 + 17 * 16  # 17 units more than ResNet50V2 has
  check(keras_names.resnet_v2(shapes, flat), want)
  flat, want = fill(shapes, layers, SPELLINGS['short'])
  check(keras_names.resnet_v2(shapes, number_arrays(flat)), want)


# Some of the 94 convolutions, counted in keras.applications' source.
PLACES = {
  0: 'conv2d_1a_3x3',
  4: 'conv2d_4a_3x3',
  5: 'mixed_5b/branch1x1',
  7: 'mixed_5b/branch5x5_2',
  11: 'mixed_5b/branch_pool',
  26: 'mixed_6a/branch3x3',
  29: 'mixed_6a/branch3x3dbl_3',
  30: 'mixed_6b/branch1x1',
  39: 'mixed_6b/branch_pool',
  70: 'mixed_7a/branch3x3_1',
  76: 'mixed_7b/branch1x1',
  79: 'mixed_7b/branch3x3_2b',
  93: 'mixed_7c/branch_pool',
}


@cache
def inception_shapes():
  return template(KERAS_INCEPTION, zeros((75, 75, 3)))


@pytest.mark.parametrize('first', [0, 1, 94])
def test_inception_layers_are_placed_by_the_order_of_their_numbers(first):
  paths = conv_paths()
  assert {i: paths[i] for i in PLACES} == PLACES
  layers = {'predictions': 'head'}
  for i, path in enumerate(paths, first):
    number = f'_{i}' if i else ''
    layers[f'conv2d{number}'] = f'{path}/conv'
    layers[f'batch_normalization{number}'] = f'{path}/norm'
  shapes = inception_shapes()
  flat, want = fill(shapes, layers, SPELLINGS['keras_3'])
  assert len(flat) == 378
  shuffled = dict(sorted(flat.items()))
  check(keras_names.inception_v3(shapes, shuffled), want)
  flat, want = fill(shapes, layers, SPELLINGS['short'])
  check(keras_names.inception_v3(shapes, number_arrays(flat)), want)


def test_weights_of_another_network_are_refused():
  shapes = inception_shapes()
  flat = {'conv2d_1/kernel': np.zeros((3, 3, 3, 32), np.float32)}
  with pytest.raises(ValueError, match='1 layers are named conv2d'):
    keras_names.inception_v3(shapes, flat)
