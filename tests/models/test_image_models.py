"""Laws that all image classifiers keep."""

import math
from functools import cache, partial

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
SLOW = [pytest.param('inception_v3', marks=pytest.mark.slow)]
QUICK = [name for name in SMALL if name != 'inception_v3']


@cache
def run(name):
  """One training step and one evaluation of a small model."""
  model, shape = SMALL[name]
  variables, image = draw_variables(model, shape), draw_image(shape)
  mutable = ['batch_stats', 'intermediates']

  def loss(params, variables):
    logits, state = model.apply(
      {**variables, 'params': params},
      image,
      train=True,
      mutable=mutable,
      rngs={'dropout': jax.random.key(0)},
    )
    chosen = jax.nn.log_softmax(logits)[np.arange(2), LABELS]
    return -chosen.mean(), state.get('batch_stats')

  step = jit(jax.value_and_grad(loss, has_aux=True))
  (value, stats), grads = step(variables['params'], variables)
  evaluate = jit(partial(model.apply, train=False, mutable=mutable))
  logits, state = evaluate(variables, image)
  return variables, value, stats, grads, logits, state


@pytest.mark.parametrize('name', QUICK + SLOW)
def test_only_training_moves_the_running_statistics(name):
  variables, _, stats, _, _, state = run(name)
  before = variables.get('batch_stats')
  if before is None:
    assert stats is None and 'batch_stats' not in state
    return
  chex.assert_trees_all_equal(state['batch_stats'], before)
  chex.assert_trees_all_equal_shapes_and_dtypes(stats, before)
  for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(stats)):
    assert np.isfinite(new).all() and (new != old).any()


@pytest.mark.parametrize('name', QUICK + SLOW)
def test_gradients_are_finite_and_reach_every_kernel(name):
  variables, value, _, grads, _, _ = run(name)
  assert np.isfinite(value)
  chex.assert_trees_all_equal_shapes_and_dtypes(grads, variables['params'])
  for path, leaf in jax.tree_util.tree_flatten_with_path(grads)[0]:
    assert np.isfinite(leaf).all(), path
    if path[-1].key in ('kernel', 'scale'):
      assert np.abs(leaf).max() > 0, path


@pytest.mark.parametrize('name', QUICK + SLOW)
def test_logits_are_the_head_of_the_embedding(name):
  variables, *_, logits, state = run(name)
  chex.assert_shape(logits, (2, 4))
  (embedding,) = state['intermediates']['embedding']
  head = variables['params']['head']
  # Float32 sums of at most 2,048 products.
  assert_close(logits, embedding @ head['kernel'] + head['bias'], 1e-5)
  if name not in ('lenet', 'vgg16', 'mnist_cnn'):
    last = max(k for k in state['intermediates'] if k.startswith('block'))
    (block,) = state['intermediates'][last]
    assert_close(embedding, block.mean(axis=(1, 2)), 1e-6)


@pytest.mark.parametrize('name', SMALL)
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


@pytest.mark.parametrize('name', ['resnet', 'wide_resnet', 'densenet_bc'])
def test_bfloat16_computes_close_to_float32(name):
  model, shape = SMALL[name]
  variables, *_, logits, _ = run(name)
  half = jit(partial(model.clone(dtype=jnp.bfloat16).apply, train=False))
  got = half(variables, draw_image(shape))
  # Some 20 roundings by up to 2^-9 in a row, which add up as their root, and
  # to no more than 3 deviations; but not none.
  spread = 3 * 2**-9 * math.sqrt(20) * np.abs(logits).max()
  assert 1e-5 < np.abs(got - logits).max() < spread


@pytest.mark.parametrize('name', ['lenet', 'resnet', 'densenet_bc', 'vgg16'])
def test_images_of_one_shape_are_traced_once(name):
  model, shape = SMALL[name]
  variables = draw_variables(model, shape)
  chex.clear_trace_counter()

  @jit
  @chex.assert_max_traces(n=1)
  def apply(variables, image):
    return model.apply(variables, image, train=False)

  one, other = (
    apply(variables, draw_image(shape, seed=seed)) for seed in (1, 2)
  )
  assert np.abs(one - other).max() > 1e-3


@pytest.mark.parametrize(
  'name',
  [
    'wide_resnet',
    'densenet_bc',
    pytest.param('vgg16', marks=pytest.mark.slow),
    pytest.param('inception_v3', marks=pytest.mark.slow),
  ],
)
def test_dropout_follows_its_key_and_only_in_training(name):
  model, shape = SMALL[name]
  variables, image = draw_variables(model, shape), draw_image(shape)

  @jit
  def train(key):
    rngs = {'dropout': key}
    return model.apply(
      variables, image, train=True, mutable=['batch_stats'], rngs=rngs
    )[0]

  one, again, other = (train(jax.random.key(i)) for i in (1, 1, 2))
  chex.assert_trees_all_equal(one, again)
  assert np.abs(one - other).max() > 1e-3
  still = model.clone(dropout_rate=0.0)
  jax.eval_shape(  # asks for no key
    partial(still.apply, train=True, mutable=['batch_stats']), variables, image
  )


def test_rows_do_not_influence_each_other_in_evaluation():
  model, shape = SMALL['resnet']
  variables, image = draw_variables(model, shape), draw_image(shape, rows=3)
  apply = jit(partial(model.apply, train=False))
  whole = apply(variables, image)
  for i in range(3):
    # The same sums, perhaps in another order.
    assert_close(apply(variables, image[i : i + 1])[0], whole[i], 1e-5)


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
