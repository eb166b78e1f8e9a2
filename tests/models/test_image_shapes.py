"""Sizes, feature shapes and initial values of the image classifiers."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlab.models.convert import template
from jaxlab.models.densenet_bc import DenseNetBC
from jaxlab.models.inception_v3 import InceptionV3
from jaxlab.models.lenet import LeNet5
from jaxlab.models.resnet import ResNet
from jaxlab.models.resnet_v2 import ResNetV2
from jaxlab.models.vgg16 import VGG16
from jaxlab.models.wide_resnet import WideResNet
from tests.models.classifiers import jit, zeros

# (model, one image's shape, parameters, running statistics)
COUNTS = [
  (LeNet5(), (32, 32, 1), 61_706, 0),
  (LeNet5(), (32, 32, 3), 62_006, 0),
  (LeNet5(padding=2), (28, 28, 1), 61_706, 0),
  (ResNet(20), (32, 32, 3), 269_722, 1_376),
  (ResNet(56), (32, 32, 3), 853_018, 4_064),
  (ResNet(110), (32, 32, 3), 1_727_962, 8_096),
  (ResNet(20, shortcut='B'), (32, 32, 3), 272_474, 1_568),
  (WideResNet(28, 10), (32, 32, 3), 36_479_194, 17_952),
  (WideResNet(40, 2), (32, 32, 3), 2_243_546, 5_408),
  (WideResNet(28, 2), (32, 32, 3), 1_467_610, 3_616),
  (DenseNetBC(), (32, 32, 3), 769_162, 23_988),
  (VGG16(), (224, 224, 3), 138_357_544, 0),
  (VGG16(batch_norm=True), (224, 224, 3), 138_365_992, 8_448),
  (VGG16(16), (224, 224, 3), 134_326_096, 0),
  (VGG16(10, (), batch_norm=True), (32, 32, 3), 14_728_266, 8_448),
  (InceptionV3(), (299, 299, 3), 27_161_264, 36_224),
  (InceptionV3(aux=False), (299, 299, 3), 23_834_568, 34_432),
  (
    InceptionV3(aux=False, norm_scale=False),
    (299, 299, 3),
    23_851_784 - 34_432,
    34_432,
  ),
  (ResNetV2(50), (224, 224, 3), 25_613_800 - 45_440, 45_440),
  (ResNetV2(101), (224, 224, 3), 44_675_560 - 97_664, 97_664),
  (ResNetV2(152), (224, 224, 3), 60_380_648 - 143_744, 143_744),
]
# The documented [b, h, w, c] of block<i>, from the first on, and of embedding.
FEATURES = [
  (LeNet5(), (32, 32, 1), 1, [(14, 14, 6), (5, 5, 16)], 84),
  (
    ResNet(20),
    (32, 32, 3),
    0,
    [(32, 32, 16), (32, 32, 16), (16, 16, 32), (8, 8, 64)],
    64,
  ),
  (
    WideResNet(28, 10),
    (32, 32, 3),
    0,
    [(32, 32, 16), (32, 32, 160), (16, 16, 320), (8, 8, 640)],
    640,
  ),
  (
    DenseNetBC(),
    (32, 32, 3),
    0,
    [(32, 32, 24), (16, 16, 108), (8, 8, 150), (8, 8, 342)],
    342,
  ),
  (
    VGG16(),
    (224, 224, 3),
    1,
    [(112, 112, 64), (56, 56, 128), (28, 28, 256), (14, 14, 512), (7, 7, 512)],
    4096,
  ),
  (VGG16(10, ()), (32, 32, 3), 5, [(1, 1, 512)], 512),
  (
    InceptionV3(),
    (299, 299, 3),
    0,
    [(35, 35, 192), (35, 35, 288), (17, 17, 768), (8, 8, 2048)],
    2048,
  ),
  (
    ResNetV2(50),
    (224, 224, 3),
    0,
    [(56, 56, 64), (28, 28, 256), (14, 14, 512), (7, 7, 1024), (7, 7, 2048)],
    2048,
  ),
]


def describe(value):
  return type(value).__name__ if hasattr(value, 'apply') else None


@pytest.mark.parametrize('model, shape, params, stats', COUNTS, ids=describe)
def test_parameters_are_as_many_as_in_the_source(model, shape, params, stats):
  shapes = template(model, zeros(shape))
  count = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))
  assert count(shapes['params']) == params
  assert count(shapes.get('batch_stats', {})) == stats
  assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {np.dtype('f4')}


@pytest.mark.parametrize(
  'model, shape, first, blocks, width', FEATURES, ids=describe
)
def test_sown_features_have_the_documented_shapes(
  model, shape, first, blocks, width
):
  for train in (False, True):
    image = jax.ShapeDtypeStruct((3, *shape), jnp.float32)
    options = {'train': train, 'mutable': ['intermediates', 'batch_stats']}
    if train:
      options['rngs'] = {'dropout': jax.random.key(0)}
    variables = template(model, zeros(shape))
    logits, state = jax.eval_shape(
      partial(model.apply, **options), variables, image
    )
    sown = state['intermediates']
    assert logits.shape == (3, model.num_classes)
    for i, block in enumerate(blocks, first):
      (leaf,) = sown.pop(f'block{i}')
      assert leaf.shape == (3, *block)
    (leaf,) = sown.pop('embedding')
    assert (leaf.shape, leaf.dtype) == ((3, width), jnp.float32)
    if getattr(model, 'aux', False) and train:
      (leaf,) = sown.pop('aux_logits')
      assert (leaf.shape, leaf.dtype) == ((3, 1000), jnp.float32)
    assert set(sown) <= {f'block{i}' for i in range(first)}


# (model, shape, variance times fan and that fan, of convs and of dense kernels)
FAN_IN = lambda shape: math.prod(shape[:-1])
FAN_OUT = lambda shape: math.prod(shape) / shape[-2]
STARTS = [
  (LeNet5(), (32, 32, 3), 1, FAN_IN, 1, FAN_IN),
  (ResNet(8, 10, shortcut='B'), (8, 8, 3), 2, FAN_IN, 2, FAN_IN),
  (WideResNet(10, 2), (8, 8, 3), 2, FAN_IN, 2, FAN_IN),
  (DenseNetBC(10, 12), (8, 8, 3), 2, FAN_OUT, 1, FAN_IN),
]
ONE = lambda _: 1
SLOW_STARTS = [
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
