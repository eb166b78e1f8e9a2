"""The classifiers that no library has, against float64 NumPy."""

from functools import partial

import jax
import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from jaxlab.models.densenet_bc import DenseNetBC
from jaxlab.models.lenet import LeNet5
from jaxlab.models.resnet import ResNet
from jaxlab.models.resnet_v2 import ResNetV2
from jaxlab.models.wide_resnet import WideResNet
from tests.models.classifiers import (
  assert_close,
  draw_image,
  draw_variables,
  jit,
)


class Net:
  """Layers by path, in float64."""

  def __init__(self, variables):
    self.flat = {
      jax.tree_util.keystr(path, simple=True, separator='/'): np.float64(leaf)
      for path, leaf in jax.tree_util.tree_flatten_with_path(variables)[0]
    }

  def conv(self, path, x, strides=1, padding=0):
    kernel = self.flat[f'params/{path}/kernel']
    around = (padding, padding)
    x = np.pad(x, ((0, 0), around, around, (0, 0)))
    windows = sliding_window_view(x, kernel.shape[:2], axis=(1, 2))
    windows = windows[:, ::strides, ::strides]
    out = np.einsum('bhwcij,ijcd->bhwd', windows, kernel, optimize=True)
    return out + self.flat.get(f'params/{path}/bias', 0)

  def norm(self, path, x, epsilon=1e-5):
    scale, bias = (self.flat[f'params/{path}/{k}'] for k in ('scale', 'bias'))
    mean, var = (self.flat[f'batch_stats/{path}/{k}'] for k in ('mean', 'var'))
    return (x - mean) / np.sqrt(var + epsilon) * scale + bias

  def dense(self, path, x):
    kernel, bias = (self.flat[f'params/{path}/{k}'] for k in ('kernel', 'bias'))
    return x @ kernel + bias


def relu(x):
  return np.maximum(x, 0)


def pool(x, reduce, size=2, strides=2):
  windows = sliding_window_view(x, (size, size), axis=(1, 2))
  return reduce(windows[:, ::strides, ::strides], axis=(-2, -1))


def lenet(net, x, padding, activation):
  for name, around in (('conv1', padding), ('conv2', 0)):
    x = pool(activation(net.conv(name, x, padding=around)), np.max)
  x = x.reshape(len(x), -1)
  for name in ('dense1', 'dense2'):
    x = activation(net.dense(name, x))
  return net.dense('head', x)


def resnet(net, x, units, shortcut):
  x = relu(net.norm('stem_norm', net.conv('stem', x, padding=1)))
  for stage in (1, 2, 3):
    for unit in range(1, units + 1):
      at = f'stage{stage}_unit{unit}'
      strides = 2 if stage > 1 and unit == 1 else 1
      y = net.conv(f'{at}/conv1', x, strides, 1)
      y = relu(net.norm(f'{at}/norm1', y))
      y = net.norm(f'{at}/norm2', net.conv(f'{at}/conv2', y, 1, 1))
      if strides == 2 and shortcut == 'B':
        x = net.conv(f'{at}/shortcut', x, 2)
        x = net.norm(f'{at}/shortcut_norm', x)
      elif strides == 2:
        x = x[:, ::2, ::2]
        x = np.concatenate([x, np.zeros_like(x)], axis=-1)
      x = relu(x + y)
  return net.dense('head', x.mean(axis=(1, 2)))


def wide_resnet(net, x, units):
  x = net.conv('stem', x, padding=1)
  for stage in (1, 2, 3):
    for unit in range(1, units + 1):
      at = f'stage{stage}_unit{unit}'
      strides = 2 if stage > 1 and unit == 1 else 1
      y = relu(net.norm(f'{at}/norm1', x))
      if f'params/{at}/shortcut/kernel' in net.flat:
        x = net.conv(f'{at}/shortcut', y, strides)
      y = net.conv(f'{at}/conv1', y, strides, 1)
      y = net.conv(f'{at}/conv2', relu(net.norm(f'{at}/norm2', y)), 1, 1)
      x = x + y
  x = relu(net.norm('norm', x))
  return net.dense('head', x.mean(axis=(1, 2)))


def densenet_bc(net, x, layers):
  x = net.conv('stem', x, padding=1)
  for stage in (1, 2, 3):
    for layer in range(1, layers + 1):
      at = f'stage{stage}_layer{layer}'
      y = net.conv(f'{at}/conv1', relu(net.norm(f'{at}/norm1', x)))
      y = net.conv(f'{at}/conv2', relu(net.norm(f'{at}/norm2', y)), 1, 1)
      x = np.concatenate([x, y], axis=-1)
    if stage < 3:
      at = f'transition{stage}'
      x = pool(net.conv(f'{at}/conv', relu(net.norm(f'{at}/norm', x))), np.mean)
  x = relu(net.norm('norm', x))
  return net.dense('head', x.mean(axis=(1, 2)))


def resnet_v2_stem(net, x, pad_value):
  x = net.conv('stem', x, 2, 3)
  around = ((0, 0), (1, 1), (1, 1), (0, 0))
  return pool(np.pad(x, around, constant_values=pad_value), np.max, 3, 2)


def resnet_v2(net, x, units):
  norm = partial(net.norm, epsilon=1.001e-5)
  x = resnet_v2_stem(net, x, 0.0)
  for stage, count in enumerate(units, 1):
    for unit in range(1, count + 1):
      at = f'stage{stage}_unit{unit}'
      strides = 2 if stage < 4 and unit == count else 1
      y = relu(norm(f'{at}/norm1', x))
      if unit == 1:
        x = net.conv(f'{at}/shortcut', y, strides)
      y = relu(norm(f'{at}/norm2', net.conv(f'{at}/conv1', y)))
      y = relu(norm(f'{at}/norm3', net.conv(f'{at}/conv2', y, strides, 1)))
      x = x[:, ::strides, ::strides] if unit > 1 else x
      x = x + net.conv(f'{at}/conv3', y)
  x = relu(norm('norm', x))
  return net.dense('head', x.mean(axis=(1, 2)))


softplus = partial(np.logaddexp, 0)
CASES = {
  'lenet': (
    LeNet5(4),
    (32, 32, 3),
    partial(lenet, padding=0, activation=relu),
  ),
  'lenet_28_softplus': (
    LeNet5(4, padding=2, activation=jax.nn.softplus),
    (28, 28, 1),
    partial(lenet, padding=2, activation=softplus),
  ),
  'resnet': (
    ResNet(14, 4, width=4),
    (8, 12, 3),
    partial(resnet, units=2, shortcut='A'),
  ),
  'resnet_b': (
    ResNet(14, 4, width=4, shortcut='B'),
    (9, 11, 3),
    partial(resnet, units=2, shortcut='B'),
  ),
  'wide_resnet': (
    WideResNet(16, 2, 4, dropout_rate=0.3),
    (8, 12, 3),
    partial(wide_resnet, units=2),
  ),
  'wide_resnet_1': (  # stage 1 keeps its width: no shortcut
    WideResNet(10, 1, 4),
    (9, 7, 3),
    partial(wide_resnet, units=1),
  ),
  'densenet_bc': (
    DenseNetBC(16, 4, 4, dropout_rate=0.2),
    (8, 12, 3),
    partial(densenet_bc, layers=2),
  ),
  'resnet_v2': (
    ResNetV2(50, 4, width=4),
    (64, 65, 3),
    partial(resnet_v2, units=(3, 4, 6, 3)),
  ),
}


@pytest.mark.parametrize('name', CASES)
def test_forward_equals_a_float64_reference(name):
  model, shape, reference = CASES[name]
  variables, image = draw_variables(model, shape), draw_image(shape)
  logits = jit(partial(model.apply, train=False))(variables, image)
  # Float32 sums of at most 576 products, up to 50 times in a row.
  assert_close(logits, reference(Net(variables), np.float64(image)), 1e-5)


def test_the_stem_of_resnet_v2_may_pad_by_minus_infinity():
  shape = (32, 33, 3)
  model = ResNetV2(50, 4, width=4, pad_value=-np.inf)
  variables, image = draw_variables(model, shape), draw_image(shape)
  apply = partial(model.apply, train=False, mutable=['intermediates'])
  stem = jit(lambda x: apply(variables, x)[1]['intermediates']['block0'][0])
  net, image = Net(variables), np.float64(image)
  assert_close(stem(image), resnet_v2_stem(net, image, -np.inf), 1e-5)
  gap = stem(image) - resnet_v2_stem(net, image, 0.0)
  assert np.abs(gap).max() > 1e-3
