"""Converted PyTorch weights give PyTorch's logits."""

import re
from collections import OrderedDict
from functools import partial

import chex
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlab.models import torch_names
from jaxlab.models.convert import template
from jaxlab.models.densenet_bc import DenseNetBC
from jaxlab.models.inception_v3 import InceptionV3
from jaxlab.models.vgg16 import VGG16
from jaxlab.models.wide_resnet import WideResNet
from tests.models.classifiers import assert_close, draw_image, jit, zeros

torch = pytest.importorskip('torch', reason='needs torch: .[bench]')
torchvision = pytest.importorskip('torchvision', reason='needs torchvision')


def draw_state(shapes, seed=0):
  """name -> array: no two leaves alike, activations of order 1."""
  rng = np.random.default_rng(seed)
  state = {}
  for name, shape in shapes.items():
    if name.endswith('num_batches_tracked'):
      state[name] = np.zeros((), np.int64)
    elif len(shape) > 1:
      scale = np.float32(np.sqrt(2 / np.prod(shape[1:])))
      state[name] = scale * rng.standard_normal(shape, np.float32)
    elif name.endswith(('weight', 'running_var')):
      state[name] = rng.uniform(0.5, 1.5, shape).astype(np.float32)
    else:
      state[name] = rng.uniform(-0.3, 0.3, shape).astype(np.float32)
  return state


def build(make):
  """A torch model without its own initial values, and what replaced them."""
  with torch.device('meta'):
    model = make()
  model = model.to_empty(device='cpu').eval()
  state = draw_state({k: v.shape for k, v in model.state_dict().items()})
  model.load_state_dict({k: torch.from_numpy(v) for k, v in state.items()})
  return model, state


def channels_first(image):
  return torch.from_numpy(np.ascontiguousarray(image.transpose(0, 3, 1, 2)))


def vgg16(batch_norm, hidden):
  names = {False: 'vgg16', True: 'vgg16_bn'}
  model = getattr(torchvision.models, names[batch_norm])(init_weights=False)
  if hidden:  # at 64 x 64 pixels the maps are 2 x 2
    model.avgpool = torch.nn.Identity()
    sizes = (512 * 4, *hidden, 7)
    for i, at in enumerate((0, 3, 6)):
      model.classifier[at] = torch.nn.Linear(*sizes[i : i + 2])
  else:
    model.avgpool = torch.nn.AdaptiveAvgPool2d(1)
    layer = torch.nn.Linear(512, 7)
    model.classifier = torch.nn.Sequential(OrderedDict({'6': layer}))
  return model


def densenet_bc():
  """torchvision's DenseNet with the stem of small images."""
  model = torchvision.models.DenseNet(4, (3, 3, 3), 8, num_classes=7)
  layers = OrderedDict(model.features.named_children())
  layers['conv0'] = torch.nn.Conv2d(3, 8, 3, padding=1, bias=False)
  for name in ('norm0', 'relu0', 'pool0'):
    del layers[name]
  model.features = torch.nn.Sequential(layers)
  return model


CASES = {
  'vgg16': (
    partial(vgg16, False, (16, 12)),
    VGG16(7, (16, 12)),
    (64, 64, 3),
  ),
  'vgg16_bn': (
    partial(vgg16, True, ()),
    VGG16(7, (), batch_norm=True),
    (32, 48, 3),
  ),
  'densenet_bc': (densenet_bc, DenseNetBC(22, 4, 7), (8, 12, 3)),
  'inception_v3': (
    lambda: torchvision.models.Inception3(7, init_weights=False),
    InceptionV3(7, aux=False),
    (75, 99, 3),
  ),
}


@pytest.mark.parametrize('name', CASES)
def test_logits_equal_torchvision(name):
  make, model, shape = CASES[name]
  theirs, state = build(make)
  convert = getattr(torch_names, name.removesuffix('_bn'))
  variables = convert(template(model, zeros(shape)), state)
  image = draw_image(shape)
  with torch.no_grad():
    want = theirs(channels_first(image)).numpy()
  got = jit(partial(model.apply, train=False))(variables, image)
  # Two float32 programs of up to 94 layers; 3e-6 was measured.
  assert_close(got, want, 2e-5)


@pytest.mark.slow
def test_inception_trains_as_torchvision_with_auxiliary_logits():
  theirs, state = build(
    lambda: torchvision.models.Inception3(7, init_weights=False, dropout=0.0)
  )
  model = InceptionV3(7, dropout_rate=0.0)
  shape = (299, 299, 3)
  variables = torch_names.inception_v3(template(model, zeros(shape)), state)
  image = draw_image(shape, rows=4)
  with torch.no_grad():
    want = theirs.train()(channels_first(image))
  apply = partial(
    model.apply, train=True, mutable=['batch_stats', 'intermediates']
  )
  logits, new = jit(apply)(variables, image)
  # Norms over as few as 4 values divide by their spread.
  assert_close(logits, want.logits.numpy(), 1e-3)
  (aux,) = new['intermediates']['aux_logits']
  assert_close(aux, want.aux_logits.numpy(), 1e-3)
  mean = new['batch_stats']['aux']['conv2']['norm']['mean']
  assert_close(mean, theirs.AuxLogits.conv1.bn.running_mean.numpy(), 1e-4)


def test_inception_keeps_the_auxiliary_weights_where_there_is_room():
  with torch.device('meta'):
    theirs = torchvision.models.Inception3(7, init_weights=False)
  # Zeros without memory; each leaf is one number that tells its name.
  state = {
    name: np.broadcast_to(np.float32(i), leaf.shape)
    for i, (name, leaf) in enumerate(theirs.state_dict().items())
  }
  variables = torch_names.inception_v3(
    template(InceptionV3(7), zeros((299, 299, 3))), state
  )
  aux = variables['params']['aux']
  for ours, name in {
    'head': 'fc',
    'conv1': 'conv0.conv',
    'conv2': 'conv1.conv',
  }.items():
    leaf = aux[ours] if ours == 'head' else aux[ours]['conv']
    want = state[f'AuxLogits.{name}.weight'].flat[0]
    assert (leaf['kernel'] == want).all()
  del state['AuxLogits.fc.weight']
  with pytest.raises(ValueError, match='params/aux/head/kernel'):
    torch_names.inception_v3(
      template(InceptionV3(7), zeros((299, 299, 3))), state
    )


def to_aloe(name):
  """A name of torchvision's DenseNet -> that of ALOE's."""
  name = name.removeprefix('features.')
  name = re.sub(
    r'denseblock(\d)\.denselayer(\d+)',
    lambda m: f'block{m[1]}.layer.{int(m[2]) - 1}',
    name,
  )
  name = re.sub(r'transition(\d)\.(norm|conv)', r'trans\1.\g<2>1', name)
  for old, new in {
    'norm5': 'norm1',
    'conv0': 'conv1',
    'norm': 'bn',
    'classifier': 'fc',
  }.items():
    name = name.replace(old, new)
  return name


def test_both_layouts_of_densenet_fill_the_same_leaves():
  _, state = build(densenet_bc)
  renamed = {to_aloe(name): leaf for name, leaf in state.items()}
  assert {'conv1.weight', 'bn1.running_var', 'fc.bias'} <= set(renamed)
  assert {'block3.layer.0.bn2.weight', 'trans2.conv1.weight'} <= set(renamed)
  shapes = template(DenseNetBC(22, 4, 7), zeros((8, 8, 3)))
  chex.assert_trees_all_equal(
    torch_names.densenet_bc(shapes, renamed),
    torch_names.densenet_bc(shapes, state),
  )


def wide_resnet_shapes(units, widen):
  """Names and shapes of a WRN in Outlier Exposure's layout."""
  shapes: dict[str, tuple[int, ...]] = {'conv1.weight': (16, 3, 3, 3)}

  def norm(name, size):
    for leaf in ('weight', 'bias', 'running_mean', 'running_var'):
      shapes[f'{name}.{leaf}'] = (size,)
    shapes[f'{name}.num_batches_tracked'] = ()

  before = 16
  for i, after in enumerate((16 * widen, 32 * widen, 64 * widen), 1):
    for j in range(units):
      at = f'block{i}.layer.{j}'
      norm(f'{at}.bn1', before)
      norm(f'{at}.bn2', after)
      shapes[f'{at}.conv1.weight'] = (after, before, 3, 3)
      shapes[f'{at}.conv2.weight'] = (after, after, 3, 3)
      if before != after:
        shapes[f'{at}.convShortcut.weight'] = (after, before, 1, 1)
      before = after
  norm('bn1', before)
  return shapes | {'fc.weight': (7, before), 'fc.bias': (7,)}


def wide_resnet(state, x, units):
  """WRN on torch's functions, from Outlier Exposure's names."""
  conv2d = torch.nn.functional.conv2d

  def active(name, x):
    return torch.nn.functional.batch_norm(
      x,
      *(state[f'{name}.{k}'] for k in ('running_mean', 'running_var')),
      *(state[f'{name}.{k}'] for k in ('weight', 'bias')),
    ).relu()

  x = conv2d(x, state['conv1.weight'], padding=1)
  for i in (1, 2, 3):
    for j in range(units):
      at = f'block{i}.layer.{j}'
      stride = 2 if i > 1 and j == 0 else 1
      y = active(f'{at}.bn1', x)
      shortcut = state.get(f'{at}.convShortcut.weight')
      x = x if shortcut is None else conv2d(y, shortcut, stride=stride)
      y = conv2d(y, state[f'{at}.conv1.weight'], stride=stride, padding=1)
      y = active(f'{at}.bn2', y)
      x = x + conv2d(y, state[f'{at}.conv2.weight'], padding=1)
  x = active('bn1', x).mean(dim=(2, 3))
  return torch.nn.functional.linear(x, state['fc.weight'], state['fc.bias'])


@pytest.mark.parametrize('units, widen', [(1, 1), (2, 2)])
def test_wide_resnet_equals_torch_by_outlier_exposure_names(units, widen):
  model = WideResNet(6 * units + 4, widen, 7, dropout_rate=0.3)
  state = draw_state(wide_resnet_shapes(units, widen))
  shape = (8, 12, 3)
  variables = torch_names.wide_resnet(template(model, zeros(shape)), state)
  image = draw_image(shape)
  tensors = {k: torch.from_numpy(v) for k, v in state.items()}
  want = wide_resnet(tensors, channels_first(image), units).numpy()
  got = jit(partial(model.apply, train=False))(variables, image)
  assert_close(got, want, 2e-5)


def test_weights_of_another_size_are_refused_by_name():
  _, state = build(partial(vgg16, False, (16, 12)))
  shapes = template(VGG16(7, (16, 12)), zeros((32, 32, 3)))
  with pytest.raises(ValueError) as error:
    torch_names.vgg16(shapes, state | {'extra': np.zeros(1)})
  text = str(error.value)
  assert "'params/dense1/kernel' from 'classifier.0.weight'" in text
  assert "'extra' (1,): no rule" in text
  assert text.count('\n') == 3  # both, and no more

  state['classifier.0.weight'] = np.zeros((16, 512 * 3), np.float32)
  with pytest.raises(ValueError, match='dense1/kernel'):
    torch_names.vgg16(shapes, state)


def test_conversion_keeps_float32_whatever_computes():
  model = VGG16(7, (16, 12), dtype=jnp.bfloat16)
  _, state = build(partial(vgg16, False, (16, 12)))
  variables = torch_names.vgg16(template(model, zeros((64, 64, 3))), state)
  kernel = variables['params']['conv5_3']['kernel']
  want = state['features.28.weight'].transpose(2, 3, 1, 0)
  np.testing.assert_array_equal(kernel, want)
