"""Small image classifiers and random variables for the tests."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxlab.models.convert import template
from jaxlab.models.densenet_bc import DenseNetBC
from jaxlab.models.efficientnet_lite import EfficientNetLite
from jaxlab.models.inception_v3 import InceptionV3
from jaxlab.models.lenet import LeNet5
from jaxlab.models.mnist_cnn import MnistCnn
from jaxlab.models.page_cnn import PageCnn
from jaxlab.models.resnet import ResNet
from jaxlab.models.resnet50 import ResNet50
from jaxlab.models.resnet_v2 import ResNetV2
from jaxlab.models.squeezenet import SqueezeNet
from jaxlab.models.vgg16 import VGG16
from jaxlab.models.wide_resnet import WideResNet

# Most of these tests' time is LLVM's, for programs that run once.
jit = partial(jax.jit, compiler_options={'xla_backend_optimization_level': 0})

# Every class, small; (model, one image's shape).
SMALL = {
  'lenet': (LeNet5(4, padding=2), (28, 28, 1)),
  'mnist_cnn': (MnistCnn(4, width=4), (28, 28, 1)),
  'page_cnn': (PageCnn(4, width=4), (33, 40, 1)),
  'resnet': (ResNet(8, 4, width=4), (8, 8, 3)),
  'resnet_b': (ResNet(8, 4, width=4, shortcut='B'), (8, 8, 3)),
  'wide_resnet': (WideResNet(10, 1, 4, dropout_rate=0.3), (8, 8, 3)),
  'densenet_bc': (DenseNetBC(16, 4, 4, dropout_rate=0.2), (8, 8, 3)),
  'vgg16': (VGG16(4, (16,), batch_norm=True), (32, 32, 3)),
  'resnet_v2': (ResNetV2(50, 4, width=4), (32, 32, 3)),
  'resnet50': (ResNet50(4, (1, 2, 1, 1), 8), (32, 32, 3)),
  'resnet50_keras': (ResNet50(4, (1, 2, 1, 1), 8, 'keras_v1'), (32, 32, 3)),
  'squeezenet': (SqueezeNet(4), (32, 32, 3)),
  'efficientnet_lite': (EfficientNetLite(num_classes=4), (32, 32, 3)),
  'inception_v3': (InceptionV3(4, aux=False), (75, 75, 3)),
}


def zeros(shape):
  """[1, *shape] without the memory."""
  return jax.ShapeDtypeStruct((1, *shape), jnp.float32)


def draw_image(shape, rows=2, seed=1):
  rng = np.random.default_rng(seed)
  return rng.uniform(-1, 1, (rows, *shape)).astype(np.float32)


def draw_variables(model, shape, seed=0):
  """Variables of which none is zero or one and each leaf is different, while
  activations keep their order of magnitude."""
  rng = np.random.default_rng(seed)

  def draw(path, leaf):
    name = path[-1].key
    if name == 'kernel':
      scale = np.float32(np.sqrt(2 / np.prod(leaf.shape[:-1])))
      return scale * rng.standard_normal(leaf.shape, np.float32)
    if name in ('scale', 'var'):
      return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
    return rng.uniform(-0.3, 0.3, leaf.shape).astype(np.float32)

  shapes = template(model, zeros(shape))
  return jax.tree_util.tree_map_with_path(draw, shapes)


def assert_close(got, want, relative):
  """Equal to `relative` times the largest of the wanted values."""
  want = np.asarray(want)
  assert np.isfinite(want).all() and np.ptp(want) > 0
  bound = relative * np.abs(want).max()
  np.testing.assert_allclose(got, want, rtol=0, atol=bound)
