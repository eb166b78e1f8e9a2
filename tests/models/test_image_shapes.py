"""Sizes, feature shapes and initial values of the image classifiers."""

import math
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlab.models.convert import template
from jaxlab.models.densenet_bc import DenseNetBC
from jaxlab.models.efficientnet_lite import EfficientNetLite
from jaxlab.models.inception_v3 import InceptionV3
from jaxlab.models.lenet import LeNet5
from jaxlab.models.page_cnn import PageCnn, _fields
from jaxlab.models.resnet import ResNet
from jaxlab.models.resnet50 import ResNet50
from jaxlab.models.resnet_v2 import ResNetV2
from jaxlab.models.squeezenet import SqueezeNet
from jaxlab.models.vgg16 import VGG16
from jaxlab.models.wide_resnet import WideResNet
from tests.models.classifiers import jit, zeros

# (model, one image's shape, parameters, running statistics)
COUNTS = [
  (LeNet5(), (32, 32, 3), 62_006, 0),
  (LeNet5(padding=2), (28, 28, 1), 61_706, 0),
  (PageCnn(), (64, 96, 1), 76_984, 336),
  (ResNet(20), (32, 32, 3), 269_722, 1_376),
  (ResNet(56), (32, 32, 3), 853_018, 4_064),
  (ResNet(20, shortcut='B'), (32, 32, 3), 272_474, 1_568),
  (WideResNet(28, 10), (32, 32, 3), 36_479_194, 17_952),
  (WideResNet(40, 2), (32, 32, 3), 2_243_546, 5_408),
  (DenseNetBC(), (32, 32, 3), 769_162, 23_988),
  (VGG16(), (224, 224, 3), 138_357_544, 0),
  (VGG16(16), (224, 224, 3), 134_326_096, 0),
  (VGG16(10, (), batch_norm=True), (32, 32, 3), 14_728_266, 8_448),
  (InceptionV3(), (299, 299, 3), 27_161_264, 36_224),
  (
    InceptionV3(aux=False, norm_scale=False),
    (299, 299, 3),
    23_851_784 - 34_432,
    34_432,
  ),
  (ResNetV2(50), (224, 224, 3), 25_613_800 - 45_440, 45_440),
  (ResNet50(), (224, 224, 3), 25_557_032, 53_120),
  (ResNet50(layout='keras_v1'), (224, 224, 3), 25_583_592, 53_120),
  (SqueezeNet(), (227, 227, 3), 1_235_496, 0),
  (EfficientNetLite(), (224, 224, 3), 4_652_008, 42_016),
  (EfficientNetLite(1), (224, 224, 3), 5_416_680, 53_664),
]
COUNTS += [
  pytest.param(*row, marks=pytest.mark.slow)
  for row in (
    (ResNet(110), (32, 32, 3), 1_727_962, 8_096),
    (ResNetV2(101), (224, 224, 3), 44_675_560 - 97_664, 97_664),
    (ResNetV2(152), (224, 224, 3), 60_380_648 - 143_744, 143_744),
    (EfficientNetLite(4), (224, 224, 3), 13_006_568, 112_368),
  )
]
# (model, side of an image and channels, the documented side and channels of
# block<i> from which i on, width of the embedding)
FEATURES = [
  (LeNet5(), (32, 1), [(14, 6), (5, 16)], 1, 84),
  (ResNet(20), (32, 3), [(32, 16), (32, 16), (16, 32), (8, 64)], 0, 64),
  (
    WideResNet(28, 10),
    (32, 3),
    [(32, 16), (32, 160), (16, 320), (8, 640)],
    0,
    640,
  ),
  (DenseNetBC(), (32, 3), [(32, 24), (16, 108), (8, 150), (8, 342)], 0, 342),
  (
    VGG16(),
    (224, 3),
    [(112, 64), (56, 128), (28, 256), (14, 512), (7, 512)],
    1,
    4096,
  ),
  (VGG16(10, ()), (32, 3), [(1, 512)], 5, 512),
  (
    InceptionV3(),
    (299, 3),
    [(35, 192), (35, 288), (17, 768), (8, 2048)],
    0,
    2048,
  ),
  (
    ResNetV2(50),
    (224, 3),
    [(56, 64), (28, 256), (14, 512), (7, 1024), (7, 2048)],
    0,
    2048,
  ),
  (
    ResNet50(),
    (224, 3),
    [(56, 64), (56, 256), (28, 512), (14, 1024), (7, 2048)],
    0,
    2048,
  ),
  (SqueezeNet(), (227, 3), [(56, 64), (56, 128), (27, 256), (13, 512)], 0, 512),
  (
    EfficientNetLite(),
    (224, 3),
    [
      *((112, 32), (112, 16), (56, 24), (28, 40)),
      *((14, 80), (14, 112), (7, 192), (7, 320)),
    ],
    0,
    1280,
  ),
]


@cache
def shapes_of(model, shape):
  return template(model, zeros(shape))


def describe(value):
  return type(value).__name__ if hasattr(value, 'apply') else None


@pytest.mark.parametrize('model, shape, params, stats', COUNTS, ids=describe)
def test_parameters_are_as_many_as_in_the_source(model, shape, params, stats):
  shapes = shapes_of(model, shape)
  count = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))
  assert count(shapes['params']) == params
  assert count(shapes.get('batch_stats', {})) == stats
  assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {np.dtype('f4')}


@pytest.mark.parametrize(
  'model, image, blocks, first, width', FEATURES, ids=describe
)
def test_sown_features_have_the_documented_shapes(
  model, image, blocks, first, width
):
  side, channels = image
  variables = shapes_of(model, (side, side, channels))
  image = jax.ShapeDtypeStruct((3, side, side, channels), jnp.float32)
  train = getattr(model, 'aux', False)
  options = {'train': train, 'mutable': ['intermediates', 'batch_stats']}
  if train:
    options['rngs'] = {'dropout': jax.random.key(0)}
  apply = partial(model.apply, **options)
  logits, state = jax.eval_shape(apply, variables, image)
  sown = state['intermediates']
  assert logits.shape == (3, model.num_classes)
  for i, (side, channels) in enumerate(blocks, first):
    (leaf,) = sown.pop(f'block{i}')
    assert leaf.shape == (3, side, side, channels)
  (leaf,) = sown.pop('embedding')
  assert (leaf.shape, leaf.dtype) == ((3, width), jnp.float32)
  if train:
    (leaf,) = sown.pop('aux_logits')
    assert (leaf.shape, leaf.dtype) == ((3, 1000), jnp.float32)
  assert set(sown) <= {f'block{i}' for i in range(first)}


# (model, shape, variance times fan and that fan, of convs and of dense kernels)
FAN_IN = lambda shape: math.prod(shape[:-1])
FAN_OUT = lambda shape: math.prod(shape) / shape[-2]
STARTS = [
  (LeNet5(), (32, 32, 3), 1, FAN_IN, 1, FAN_IN),
  (ResNet(8, 10, shortcut='B'), (8, 8, 3), 2, FAN_IN, 2, FAN_IN),
  (DenseNetBC(10, 12), (8, 8, 3), 2, FAN_OUT, 1, FAN_IN),
]
ONE = lambda _: 1
SLOW_STARTS = [
  (WideResNet(10, 2), (8, 8, 3), 2, FAN_IN, 2, FAN_IN),
  (VGG16(10, (64,)), (32, 32, 3), 2, FAN_OUT, 1e-4, ONE),
  (ResNetV2(50, 10, width=8), (32, 32, 3), 2, FAN_IN, 2, FAN_IN),
  (InceptionV3(10), (299, 299, 3), 0.01, ONE, 0.01, ONE),
]
STARTS += [pytest.param(*row, marks=pytest.mark.slow) for row in SLOW_STARTS]


@pytest.mark.parametrize(
  'model, shape, conv, conv_fan, dense, dense_fan', STARTS, ids=describe
)
def test_initial_values_are_the_documented_ones(
  model, shape, conv, conv_fan, dense, dense_fan
):
  init = jit(partial(model.init, train=False))
  variables = init(jax.random.key(0), np.zeros((1, *shape), np.float32))
  for path, leaf in jax.tree_util.tree_flatten_with_path(variables)[0]:
    name = jax.tree_util.keystr(path, simple=True, separator='/')
    if name.endswith(('bias', 'mean')):
      assert not leaf.any(), name
    elif name.endswith(('scale', 'var')):
      assert (leaf == 1).all(), name
    else:
      variance, fan = (conv, conv_fan) if leaf.ndim == 4 else (dense, dense_fan)
      variance = {'aux/conv2/conv': 1e-4, 'aux/head': 1e-6}.get(
        name[len('params/') : -len('/kernel')], variance
      )
      # The deviation of a sample of n is uncertain by 1 / sqrt(2 n).
      ratio = float(leaf.std()) / math.sqrt(variance / fan(leaf.shape))
      assert abs(ratio - 1) < 5 / math.sqrt(2 * leaf.size), name


@pytest.mark.parametrize('length', [4, 5, 7, 12])
def test_fields_are_means_of_runs_that_cover_every_position_once(length):
  fields = np.asarray(_fields(length))
  np.testing.assert_allclose(fields.sum(1), 1, rtol=1e-6)
  assert ((fields > 0).sum(0) == 1).all()
  owner = fields.argmax(0)
  assert (np.diff(owner) >= 0).all() and {*owner.tolist()} == {0, 1, 2, 3}
