"""Pretrained networks: sizes, converters, and what the real weights answer."""

import itertools
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlab.core.errors import InputError
from jaxlab.data.packages import packaged_weights
from jaxlab.data.text import wordpiece
from jaxlab.models import bert_names, pretrained
from jaxlab.models.bert import Bert
from jaxlab.models.convert import template, to_flat
from jaxlab.models.efficientnet_lite import (
  SCALES,
  EfficientNetLite,
  _Stage,
  _Unit,
  lite_image,
)
from jaxlab.models.resnet50 import ResNet50, keras_image
from jaxlab.models.squeezenet import SqueezeNet
from tests.models.classifiers import (
  SMALL,
  assert_close,
  draw_image,
  draw_variables,
  jit,
  zeros,
)

IMAGE = (32, 32, 3)


def count(tree):
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def test_bfloat16_stays_close_to_float32():
  model, _ = SMALL['resnet50']
  variables, image = draw_variables(model, IMAGE), draw_image(IMAGE)
  want, got = (
    jit(partial(model.clone(dtype=dtype).apply, train=False))(variables, image)
    for dtype in (jnp.float32, jnp.bfloat16)
  )
  # Some 50 roundings of 2^-9 in a row, adding up as their root: 3 %.
  assert_close(got, want, 0.1)
  assert np.abs(got - want).max() > 1e-6


def test_momentum_and_epsilon_are_those_of_the_layout_unless_given():
  # One step moves a running mean by (1 - momentum) of the way.
  image = draw_image(IMAGE, rows=4)
  for layout, momentum in (('v1_5', 0.9), ('keras_v1', 0.99)):
    model = ResNet50(7, (), 8, layout)  # the stem alone
    variables = draw_variables(model, IMAGE)
    for given, want in ((None, momentum), (0.5, 0.5)):
      _, new = jit(
        partial(
          model.clone(momentum=given).apply, train=True, mutable='batch_stats'
        )
      )(variables, image)
      old = variables['batch_stats']['stem_norm']['mean']
      kernel = variables['params']['stem']
      mean = jax.lax.conv_general_dilated(
        image,
        kernel['kernel'],
        (2, 2),
        [(3, 3), (3, 3)],
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
      ).mean((0, 1, 2)) + kernel.get('bias', 0)
      new = new['batch_stats']['stem_norm']['mean']
      assert_close(new, want * old + (1 - want) * mean, 1e-5)


def draw_unit(unit, image):
  rng = np.random.default_rng(0)
  shapes = template(unit, image, train=False)
  return jax.tree.map(
    lambda leaf: rng.uniform(0.5, 1, leaf.shape).astype('f4'), shapes
  )


def test_units_are_left_out_in_training_and_scaled_up_where_kept():
  stage = _Stage(1, 3, 1, 2, 4)
  unit = _Unit(stage, 0.5, 0.9, 1e-3, jnp.float32)
  image = draw_image((4, 4, 4), rows=16)
  variables = draw_unit(unit, image)

  (out, _), (whole, _) = (
    jit(partial(unit.clone(skip_rate=rate).apply, train=True, mutable=True))(
      variables, image, rngs={'dropout': jax.random.key(1)}
    )
    for rate in (0.5, 0.0)
  )
  added = np.asarray(out - image)
  left_out = ~added.any(axis=(1, 2, 3))
  assert 0 < left_out.sum() < 16
  want = 2 * (whole - image)
  np.testing.assert_allclose(
    added[~left_out], want[~left_out], atol=1e-5 * np.abs(want).max()
  )


@pytest.mark.parametrize(
  'name', ['resnet50', 'squeezenet', 'efficientnet_lite']
)
def test_channels_are_those_of_the_weights(name):
  model, shape = SMALL[name]
  with pytest.raises(ValueError, match='1 channels, the weights want 3: conv'):
    jax.eval_shape(
      partial(model.apply, train=False),
      template(model, zeros(shape)),
      zeros((32, 32, 1)),
    )
  template(model, zeros((32, 32, 1)))  # a model of its own may be grey


def test_unknown_layouts_and_variants_are_refused():
  with pytest.raises(ValueError, match=r"layout 'v2': take one of \['v1_5'"):
    ResNet50(layout='v2')
  with pytest.raises(ValueError, match=r'variant 5: take 0 to 4'):
    EfficientNetLite(5)
  assert [scale.image for scale in SCALES] == [224, 240, 260, 280, 300]


def test_preprocessing_is_what_the_weights_were_trained_with():
  pixel = np.array([[[10, 20, 30]]], np.uint8)
  np.testing.assert_allclose(
    keras_image(pixel)[0, 0],
    [30 - 103.939, 20 - 116.779, 10 - 123.68],
    rtol=1e-6,
  )
  np.testing.assert_array_equal(
    lite_image(np.array([0, 127, 255], np.uint8)), [-127 / 128, 0, 1]
  )


# Converters


def unique(shapes):
  """name -> array, all values different."""
  flat, start = {}, 0
  for name, shape in shapes.items():
    size = math.prod(shape)
    flat[name] = np.arange(start, start + size, dtype='f4').reshape(shape)
    start += size
  return flat


def keras_shapes(unit, array):
  """Names and shapes of Keras' ResNet50 of one unit a stage, width 8."""

  def conv(name, *shape):
    return {array(name, 0): shape, array(name, 1): shape[-1:]}

  def norm(name, width):
    return {array(name, i): (width,) for i in (2, 3, 4, 5)}

  shapes = conv(unit('stem', 0)[0], 7, 7, 3, 8) | norm(unit('stem', 0)[1], 8)
  inputs = 8
  for stage in range(4):
    w = 8 * 2**stage
    for layer, shape in (
      ('1', (1, 1, inputs, w)),
      ('2', (3, 3, w, w)),
      ('3', (1, 1, w, 4 * w)),
      ('0', (1, 1, inputs, 4 * w)),
    ):
      names = unit(layer, stage)
      shapes |= conv(names[0], *shape) | norm(names[1], shape[-1])
    inputs = 4 * w
  return shapes | conv(unit('head', 0)[0], 256, 7)


def old_unit(layer, stage):
  if layer in ('stem', 'head'):
    return {'stem': ('conv1', 'bn_conv1'), 'head': ('fc1000', '')}[layer]
  branch = {'0': '1', '1': '2a', '2': '2b', '3': '2c'}[layer]
  return f'res{stage + 2}a_branch{branch}', f'bn{stage + 2}a_branch{branch}'


def new_unit(layer, stage):
  if layer in ('stem', 'head'):
    return {'stem': ('conv1_conv', 'conv1_bn'), 'head': ('predictions', '')}[
      layer
    ]
  name = f'conv{stage + 2}_block1_{layer}'
  return f'{name}_conv', f'{name}_bn'


LEAVES = ('kernel', 'bias', 'gamma', 'beta', 'moving_mean', 'moving_variance')
SPELLINGS = {
  'tfjs': (old_unit, lambda name, i: f'{name}/{LEAVES[i]}'),
  'keras_2': (old_unit, lambda name, i: f'{name}/{name}/{LEAVES[i]}:0'),
  'keras_2_model': (
    new_unit,
    lambda name, i: f'model_weights/{name}/{name}/{LEAVES[i]}:0',
  ),
  'keras_3_model': (
    new_unit,
    lambda name, i: f'model_weights/{name}/resnet50/{name}/{LEAVES[i]}',
  ),
  'keras_3': (
    new_unit,
    lambda name, i: f'layers/{name}/vars/{i if i < 2 else i - 2}',
  ),
}


@pytest.mark.parametrize('spelling', SPELLINGS)
def test_keras_resnet50_is_read_in_every_spelling(spelling):
  unit, array = SPELLINGS[spelling]
  flat = unique(keras_shapes(unit, array))
  model = ResNet50(7, (1, 1, 1, 1), 8, 'keras_v1')
  found = pretrained.resnet50_keras(template(model, zeros(IMAGE)), flat)
  values = np.concatenate([x.ravel() for x in jax.tree.leaves(found)])
  assert (
    len(np.unique(values)) == len(values) == sum(map(np.size, flat.values()))
  )
  params, stats = found['params'], found['batch_stats']
  for got, layer, stage, kind, leaf in (
    (params['stem']['kernel'], 'stem', 0, 0, 0),
    (params['stem_norm']['bias'], 'stem', 0, 1, 3),
    (params['head']['bias'], 'head', 0, 0, 1),
    (params['stage1_unit1']['conv2']['kernel'], '2', 0, 0, 0),
    (params['stage4_unit1']['shortcut']['kernel'], '0', 3, 0, 0),
    (params['stage2_unit1']['shortcut_norm']['scale'], '0', 1, 1, 2),
    (stats['stage3_unit1']['norm3']['var'], '3', 2, 1, 5),
    (stats['stage3_unit1']['norm1']['mean'], '1', 2, 1, 4),
  ):
    name = array(unit(layer, stage)[kind], leaf)
    np.testing.assert_array_equal(got, flat[name], err_msg=name)


def test_keras_v1_and_torch_differ_by_where_they_stride():
  variables = draw_variables(SMALL['resnet50'][0], IMAGE)
  flat = to_flat(variables)
  shapes = template(SMALL['resnet50_keras'][0], zeros(IMAGE))
  missing = set(to_flat(shapes)) - set(flat)
  assert {name.split('/')[-1] for name in missing} == {'bias'}
  assert all('norm' not in name for name in missing)
  # With biases of 0 and one epsilon the strides alone are left.
  both = jax.tree_util.tree_map_with_path(
    lambda path, leaf: flat.get(
      jax.tree_util.keystr(path, simple=True, separator='/'),
      np.zeros(leaf.shape, 'f4'),
    ),
    shapes,
  )
  image = draw_image(IMAGE)
  one, two = (
    jit(
      partial(
        SMALL[name][0].clone(epsilon=1e-5).apply,
        train=False,
        mutable='intermediates',
      )
    )(v, image)[1]['intermediates']
    for name, v in (('resnet50', variables), ('resnet50_keras', both))
  )
  assert_close(two['block1'][0], one['block1'][0], 1e-5)
  assert np.abs(two['block2'][0] - one['block2'][0]).max() > 1e-2


def test_converted_torch_resnet50_gives_torch_logits():
  torch = pytest.importorskip('torch', reason='needs torch: .[bench]')
  resnet = pytest.importorskip('torchvision').models.resnet
  torch.manual_seed(0)
  model = resnet.ResNet(resnet.Bottleneck, [1, 2, 1, 1], num_classes=7).eval()
  with torch.no_grad():
    for name, tensor in model.state_dict().items():
      if name.endswith('running_var'):
        tensor.uniform_(0.5, 1.5)
      elif tensor.ndim == 1:
        tensor.add_(torch.rand_like(tensor) - 0.5)
    image = draw_image((32, 48, 3))
    want = model(torch.from_numpy(image.transpose(0, 3, 1, 2))).numpy()
  flat = {name: x.numpy() for name, x in model.state_dict().items()}
  ours = ResNet50(7, (1, 2, 1, 1))
  variables = pretrained.resnet50_torch(template(ours, zeros(IMAGE)), flat)
  got = jit(partial(ours.apply, train=False))(variables, image)
  # 17 convolutions of float32, each rounding by some 1e-7.
  assert_close(got, want, 1e-5)


def test_efficientnet_names_count_units_through_the_stages():
  model = EfficientNetLite(num_classes=7)
  shapes = template(model, zeros(IMAGE))
  flat, ours = {}, to_flat(jax.tree.map(lambda x: np.empty(x.shape), shapes))
  units = [
    f'stage{stage}_unit{unit}'
    for stage, number in enumerate((1, 2, 2, 3, 3, 4, 1), 1)
    for unit in range(1, number + 1)
  ]
  layers = {'stem': '_conv_stem', 'stem_norm': '_bn0', 'top': '_conv_head'}
  layers |= {'top_norm': '_bn1', 'head': '_fc'}
  inner = {'expand': '_expand_conv', 'expand_norm': '_bn0'}
  inner |= {'depthwise': '_depthwise_conv', 'depthwise_norm': '_bn1'}
  inner |= {'project': '_project_conv', 'project_norm': '_bn2'}
  leaves = {'kernel': 'weight', 'scale': 'weight', 'bias': 'bias'}
  leaves |= {'mean': 'running_mean', 'var': 'running_var'}
  foreign = {}
  for path, array in ours.items():
    _, *place, leaf = path.split('/')
    theirs = layers.get(place[0])
    if theirs is None:
      theirs = f'_blocks.{units.index(place[0])}.{inner[place[1]]}'
    turned = array.T if array.ndim == 2 else np.zeros(0)
    turned = array.transpose(3, 2, 0, 1) if array.ndim == 4 else turned
    shape = array.shape if array.ndim == 1 else turned.shape
    foreign[path] = f'{theirs}.{leaves[leaf]}'
    flat[foreign[path]] = np.full(shape, len(flat), 'f4')
    if leaf == 'scale':
      flat[f'{theirs}.num_batches_tracked'] = np.array(1)
  found = to_flat(pretrained.efficientnet_lite(shapes, flat))
  for path, array in found.items():
    assert (array == flat[foreign[path]].flat[0]).all(), path
  flat['_blocks.16._bn0.weight'] = np.zeros(3, 'f4')
  with pytest.raises(ValueError, match=r'_blocks\.16.*no leaf .*unit 17/'):
    pretrained.efficientnet_lite(shapes, flat)


# BERT


# The real weights


def open_or_skip(name):
  try:
    packaged_weights.open_packaged(name)
    packaged_weights.read_samples()
  except InputError as error:
    pytest.skip(f'the package of {name} or foolbox cannot be had: {error}')
  return packaged_weights.open_packaged(name, offline=True)  # from the cache


def top_one(name, model, convert, prepare, size):
  """How many of the 20 photographs come first, and among the first five."""
  flat = open_or_skip(name)
  variables = convert(template(model, zeros((size, size, 3))), flat)
  images, labels = packaged_weights.read_samples(offline=True)
  image = np.stack([packaged_weights.center_crop(x, size) for x in images])
  logits = jax.jit(lambda v, x: model.apply(v, prepare(x), train=False))(
    variables, image
  )
  order = np.argsort(-np.asarray(logits), axis=1)
  right = order[:, :5] == labels[:, None]
  return variables, right[:, 0].sum(), right.any(1).sum()


def test_all_of_squeezenets_weights_find_their_places():
  flat = open_or_skip('squeezenet_imagenet')
  variables = pretrained.squeezenet(
    template(SqueezeNet(), zeros((227, 227, 3))), flat
  )
  assert count(variables) == 1_235_496


@pytest.mark.slow
def test_squeezenet_names_14_of_20_photographs():
  _, first, five = top_one(
    'squeezenet_imagenet',
    SqueezeNet(),
    pretrained.squeezenet,
    keras_image,
    227,
  )
  # The nearest first place is decided by .34, the nearest fifth by .002, which
  # another JPEG decoder may turn.
  assert first == 14
  assert five in (18, 19, 20)


@pytest.mark.slow
def test_efficientnet_lite0_names_18_of_20_photographs():
  variables, first, five = top_one(
    'efficientnet_lite0_imagenet',
    EfficientNetLite(),
    pretrained.efficientnet_lite,
    lite_image,
    224,
  )
  assert count(variables['params']) == 4_652_008
  assert (first, five) == (18, 19)


@pytest.mark.slow
def test_resnet50_names_19_of_20_photographs():
  variables, first, five = top_one(
    'resnet50_imagenet',
    ResNet50(layout='keras_v1'),
    pretrained.resnet50_keras,
    keras_image,
    224,
  )
  assert count(variables) == 25_636_712
  assert (first, five) == (19, 20)
  classes = packaged_weights.imagenet_classes(offline=True)
  assert len(classes) == len({*classes, 'crane', 'maillot'}) + 2 == 1000
  assert classes[0] == 'tench' and classes[243] == 'bull_mastiff'


@pytest.mark.slow
def test_minilm_finds_a_very_happy_person_close_to_a_happy_one():
  flat = open_or_skip('minilm')
  pieces = packaged_weights.minilm_vocabulary(offline=True)
  assert len(pieces) == 30_522
  assert wordpiece.special_ids(pieces) == (0, 100, 101, 102, 103)
  tokenizer = wordpiece.make_tokenizer(pieces)
  sentences = (
    'That is a happy person',
    'That is a very happy person',
    'The derivative of a polynomial',
  )
  encoded = [tokenizer.encode(sentence).tokens for sentence in sentences]
  rows = [['[CLS]', *tokens, '[SEP]'] for tokens in encoded]
  table = itertools.zip_longest(*rows, fillvalue='[PAD]')
  tokens = np.array([[pieces.index(t) for t in row] for row in zip(*table)])
  attention = tokens != 0
  model = Bert(30_522, 6, 384, 12, 1536, heads=False)
  inputs = (tokens, np.zeros_like(tokens), attention)
  options = {'method': 'encode', 'deterministic': True}
  shapes = template(model, *inputs, **options)
  variables, _ = bert_names.from_hugging_face(shapes, flat)
  assert count(variables) == 22_713_216
  sequence, _ = model.apply(variables, *inputs, **options)
  mean = (sequence * attention[:, :, None]).sum(1)
  mean = np.asarray(mean / np.linalg.norm(mean, axis=1, keepdims=True))
  cosines = mean @ mean.T
  np.testing.assert_allclose(cosines[0, 1], 0.943, atol=5e-4)
  assert np.abs(cosines[2, :2]).max() < 0.035
