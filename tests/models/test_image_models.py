"""Laws that all image classifiers keep."""

import math
from functools import cache, partial
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlab.models.convert import template
from jaxlab.models.densenet_bc import DenseNetBC
from jaxlab.models.inception_v3 import InceptionV3
from jaxlab.models.resnet import ResNet
from jaxlab.models.resnet_v2 import ResNetV2
from jaxlab.models.wide_resnet import WideResNet
from tests.models.classifiers import (
  SMALL,
  assert_close,
  draw_image,
  draw_variables,
  jit,
  zeros,
)

LABELS = np.array([1, 3])
# The layouts B and keras_v1 differ in forward passes alone, which are compared
# with NumPy and torchvision.
RUN = [
  pytest.param(name, marks=pytest.mark.slow) if name == 'inception_v3' else name
  for name in SMALL
  if name not in ('resnet_b', 'resnet50_keras')
]

# Those of deep models take long to compile, and follow from the forward passes.
DEEP = (
  *('densenet_bc', 'vgg16', 'resnet_v2', 'resnet50', 'efficientnet_lite'),
)
GRADIENTS = [
  pytest.param(name, marks=pytest.mark.slow) if name in DEEP else name
  for name in RUN
]


class Run(NamedTuple):
  variables: Any
  training: list  # (logits, statistics) under the keys 0, 0 and 1
  grads: Any  # under key 0, or the loss of a deep model
  evaluations: list  # (logits, state); in the second the last image is another


def loss(params, variables, image, key, model):
  """Returns the cross-entropy, and (logits, statistics)."""
  logits, state = model.apply(
    {**variables, 'params': params},
    image,
    train=True,
    mutable=['batch_stats'],
    rngs={'dropout': key},
  )
  chosen = jax.nn.log_softmax(logits)[np.arange(2), LABELS]
  return -chosen.mean(), (logits, state.get('batch_stats'))


@cache
def run(name, slopes=False):
  """A small model's training and evaluation, one program each."""
  model, shape = SMALL[name]
  variables, image = draw_variables(model, shape), draw_image(shape)
  chex.clear_trace_counter()
  step = partial(loss, model=model)
  if slopes or name not in DEEP:
    step = jax.grad(step, has_aux=True)
  step = jit(step)

  @jit
  @chex.assert_max_traces(n=1)
  def evaluate(variables, image):
    mutable = ['batch_stats', 'intermediates']
    return model.apply(variables, image, train=False, mutable=mutable)

  steps = [
    step(variables['params'], variables, image, jax.random.key(i))
    for i in (0, 0, 1)
  ]
  other = np.concatenate([image[:1], draw_image(shape, seed=2)[1:]])
  return Run(
    variables,
    [training for _, training in steps],
    steps[0][0],
    [evaluate(variables, x) for x in (image, other)],
  )


@pytest.mark.parametrize('name', RUN)
def test_only_training_moves_the_running_statistics(name):
  found = run(name)
  before = found.variables.get('batch_stats')
  (_, stats), (_, state) = found.training[0], found.evaluations[0]
  if before is None:
    assert stats is None and 'batch_stats' not in state
    return
  chex.assert_trees_all_equal(state['batch_stats'], before)
  chex.assert_trees_all_equal_shapes_and_dtypes(stats, before)
  for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(stats)):
    assert np.isfinite(new).all() and (new != old).any()


def test_running_statistics_take_a_tenth_of_the_biased_batch_statistics():
  found = run('resnet')
  x = jax.lax.conv_general_dilated(
    draw_image((8, 8, 3)),
    found.variables['params']['stem']['kernel'],
    (1, 1),
    'SAME',
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )
  x = np.float64(x)
  old = found.variables['batch_stats']['stem_norm']
  new = found.training[0][1]['stem_norm']
  for leaf, value in (('mean', x.mean((0, 1, 2))), ('var', x.var((0, 1, 2)))):
    # A variance as a difference of means of squares loses a digit or so.
    np.testing.assert_allclose(
      new[leaf], 0.9 * old[leaf] + 0.1 * value, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize('name', GRADIENTS)
def test_gradients_are_finite_and_reach_every_kernel(name):
  found = run(name, True) if name in DEEP else run(name)
  grads, params = found.grads, found.variables['params']
  chex.assert_trees_all_equal_shapes_and_dtypes(grads, params)
  for path, leaf in jax.tree_util.tree_flatten_with_path(grads)[0]:
    assert np.isfinite(leaf).all(), path
    if path[-1].key in ('kernel', 'scale'):
      assert np.abs(leaf).max() > 0, path


@pytest.mark.parametrize('name', RUN)
def test_logits_are_the_head_of_the_embedding(name):
  found = run(name)
  logits, state = found.evaluations[0]
  (embedding,) = state['intermediates']['embedding']
  chex.assert_shape(logits, (2, 4))
  chex.assert_type([logits, embedding], jnp.float32)
  if name != 'squeezenet':  # whose head is a convolution
    head = found.variables['params']['head']
    # Float32 sums of at most 2,048 products.
    assert_close(logits, embedding @ head['kernel'] + head['bias'], 1e-5)
  flat = ('lenet', 'vgg16', 'mnist_cnn', 'page_cnn', 'efficientnet_lite')
  if name not in flat:
    last = max(k for k in state['intermediates'] if k.startswith('block'))
    (block,) = state['intermediates'][last]
    assert_close(embedding, block.mean(axis=(1, 2)), 1e-6)


@pytest.mark.parametrize('name', RUN)
def test_an_image_does_not_influence_the_others_in_evaluation(name):
  one, other = (logits for logits, _ in run(name).evaluations)
  np.testing.assert_array_equal(one[0], other[0])
  assert np.abs(one[1] - other[1]).max() > 1e-3


@pytest.mark.parametrize('name', RUN)
def test_dropout_follows_its_key_and_only_in_training(name):
  one, again, other = (logits for logits, _ in run(name).training)
  np.testing.assert_array_equal(one, again)
  assert np.isfinite(one).all()
  model, shape = SMALL[name]
  random = getattr(model, 'dropout_rate', 0) or name == 'efficientnet_lite'
  assert (np.abs(one - other).max() > 1e-3) == bool(random)
  if hasattr(model, 'dropout_rate'):
    still = model.clone(dropout_rate=0.0)
    apply = partial(still.apply, train=True, mutable=['batch_stats'])
    jax.eval_shape(apply, template(model, zeros(shape)), zeros(shape))  # no key


@pytest.mark.parametrize('name', RUN)
def test_bfloat16_keeps_parameters_and_logits_in_float32(name):
  model, shape = SMALL[name]
  model = model.clone(dtype=jnp.bfloat16)
  shapes = template(model, zeros(shape))
  assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {np.dtype('f4')}
  logits, state = jax.eval_shape(
    partial(
      model.apply,
      train=True,
      mutable=['batch_stats', 'intermediates'],
      rngs={'dropout': jax.random.key(0)},
    ),
    shapes,
    zeros(shape),
  )
  assert logits.dtype == jnp.float32
  for leaf in jax.tree.leaves(state.get('batch_stats', {})):
    assert leaf.dtype == jnp.float32
  for key, (leaf,) in state['intermediates'].items():
    want = jnp.float32 if key == 'embedding' else jnp.bfloat16
    assert leaf.dtype == want, key


@pytest.mark.parametrize('name', ['resnet', 'densenet_bc'])
def test_bfloat16_computes_close_to_float32(name):
  model, shape = SMALL[name]
  found = run(name)
  logits, _ = found.evaluations[0]
  half = jit(partial(model.clone(dtype=jnp.bfloat16).apply, train=False))
  got = half(found.variables, draw_image(shape))
  # Some 20 roundings by up to 2^-9 in a row, which add up as their root, and
  # to no more than 3 deviations; but not none.
  spread = 3 * 2**-9 * math.sqrt(20) * np.abs(logits).max()
  assert 1e-5 < np.abs(got - logits).max() < spread


@pytest.mark.parametrize('name', SMALL)
@pytest.mark.parametrize(
  'change, cure',
  [
    (lambda image: image[0], 'batch axis'),
    (lambda image: (image * 255).astype(np.uint8), 'scale and normalise'),
    (lambda image: image[:, :3], 'resize or pad'),
    (lambda image: image[:, :, :3], 'resize or pad'),
  ],
)
def test_a_wrong_image_is_refused_with_a_cure(name, change, cure):
  model, shape = SMALL[name]
  image = change(np.zeros((2, *shape), np.float32))
  with pytest.raises(ValueError, match=cure):
    template(model, image)


@pytest.mark.parametrize(
  'make, cure',
  [
    (lambda: ResNet(21), r'depth 21 is not 6n \+ 2'),
    (lambda: ResNet(2), r'depth 2 is not 6n \+ 2'),
    (lambda: ResNet(shortcut='C'), "shortcut 'C'"),
    (lambda: WideResNet(29), r'depth 29 is not 6n \+ 4'),
    (lambda: DenseNetBC(4), r'depth 4 is not 6n \+ 4'),
    (lambda: ResNetV2(34), r'depth 34: take one of \[50, 101, 152\]'),
  ],
)
def test_a_depth_or_shortcut_that_does_not_exist_is_refused(make, cure):
  with pytest.raises(ValueError, match=cure):
    make()


def test_auxiliary_logits_want_a_large_image_in_training_alone():
  model = InceptionV3(4)
  with pytest.raises(ValueError, match=r'299 x 299.*aux=False'):
    template(model, zeros((75, 75, 3)))
  variables = template(model, zeros((299, 299, 3)))
  small = zeros((75, 75, 3))
  logits = jax.eval_shape(partial(model.apply, train=False), variables, small)
  assert logits.shape == (1, 4)
