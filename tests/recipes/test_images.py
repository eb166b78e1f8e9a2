"""The classification task of a config: preparation, step, stage, prediction."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxlab.core.errors import InputError
from jaxlab.core.update import create_state
from jaxlab.engine import mesh
from jaxlab.ops.losses import masked_cross_entropy
from jaxlab.recipes import images
from jaxlab.runs import stage
from jaxlab.runs.model import Model
from tests import runs


@pytest.fixture(scope='module')
def config():
  config = runs.config_of('lamb_images', 'smoke')
  config.model.name, config.model.padding = 'lenet', 4
  return config.to_dict()


def changed(config, **data):
  return {**config, 'data': {**config['data'], **data}}


@pytest.fixture(scope='module')
def trained(config):
  """A task, the State of its network, and a batch of 8 with padding."""
  task = images.image_task(config)
  update = images.supervised(task, optax.sgd(0.1))
  params, vars = task.network.init(jax.random.key(0))
  state = create_state(params, update, vars=vars)
  draw = np.random.default_rng(0)
  side, channels = config['data']['size'], config['data']['channels']
  batch = {
    'image': draw.integers(0, 256, (8, side, side, channels), np.uint8),
    'label': draw.integers(0, 10, 8).astype(np.int32),
    'id': np.arange(8, dtype=np.int32),
    'mask': np.arange(8) < 6,
  }
  # Rows that do not count are classified rightly.
  batch['label'][6:] = task.logits(params, vars, batch).argmax(-1)[6:]
  return task, update, state, batch


def test_a_step_is_sgd_on_the_masked_mean(trained):
  task, update, state, batch = trained

  def mean(params):
    scaled = batch['image'].astype(np.float32) / 255
    logits, _ = task.network.train(params, state.vars, scaled)
    total, count = masked_cross_entropy(logits, batch['label'], batch['mask'])
    return total / count, logits

  (value, logits), grads = jax.value_and_grad(mean, has_aux=True)(state.params)
  new, metrics = jax.jit(update)(state, batch, jax.random.key(1))
  wanted = jax.tree.map(lambda p, g: p - 0.1 * g, state.params, grads)
  chex.assert_trees_all_close(new.params, wanted, rtol=1e-4, atol=1e-6)
  loss, count = metrics['loss']
  assert loss / count == pytest.approx(float(value), 1e-5)
  right = (logits.argmax(-1) == batch['label'])[:6].sum()
  assert (metrics['accuracy'][0], metrics['accuracy'][1]) == (right, 6)


def test_a_masked_row_may_hold_anything(trained):
  task, update, state, batch = trained
  image = batch['image'].astype(np.float32) / 255
  broken = image.copy()
  broken[6:] = np.nan  # those that are masked
  seen = task.prepare(jax.random.key(0), {**batch, 'image': jnp.array(broken)})
  assert np.isfinite(seen).all() and not seen[6:].any()
  step = jax.jit(update)
  found, wanted = (
    step(state, {**batch, 'image': x}, jax.random.key(1))[0]
    for x in (broken, image)
  )
  chex.assert_trees_all_equal(found.params, wanted.params)


def test_micro_batches_and_a_loss_of_ones_own(trained):
  task, update, state, batch = trained
  batch = {**batch, 'mask': np.ones(8, bool)}
  once, _ = jax.jit(update)(state, batch, jax.random.key(1))
  cut = images.supervised(task, optax.sgd(0.1), micro_batches=2)
  twice, _ = jax.jit(cut)(state, batch, jax.random.key(1))
  chex.assert_trees_all_close(once.params, twice.params, rtol=1e-4, atol=1e-6)

  def doubled(logits, labels, mask, vars):
    found = images.cross_entropy(0.1)(logits, labels, mask, vars)
    return found.replace(sum=2 * found.sum, vars={'seen': vars['seen'] + 1})

  own = images.supervised(task, optax.sgd(0.05), doubled)
  smooth = images.supervised(task, optax.sgd(0.1), images.cross_entropy(0.1))
  counted = state.replace(vars={**state.vars, 'seen': jnp.int32(0)})
  a, _ = jax.jit(own)(counted, batch, jax.random.key(1))
  b, _ = jax.jit(smooth)(state, batch, jax.random.key(1))
  chex.assert_trees_all_close(a.params, b.params, rtol=1e-4, atol=1e-6)
  assert a.vars['seen'] == 1


def test_the_network_sees_the_middle_of_a_held_out_image(config):
  task = images.image_task(changed(config, size=12, crop=8))
  params, vars = task.network.init(jax.random.key(0))
  pixels = np.random.default_rng(0).integers(0, 256, (2, 12, 12, 1), np.uint8)
  found = task.logits(params, vars, {'image': pixels})
  middle = pixels[:, 2:10, 2:10].astype(np.float32) / 255
  wanted = task.network.logits(middle, params, vars)
  chex.assert_trees_all_close(found, wanted, rtol=1e-5)


@pytest.mark.parametrize('kind', ['none', 'crop_flip', 'imagenet'])
def test_augmentation_keeps_shape_and_range_and_follows_ids(config, kind):
  crop = 6 if kind == 'imagenet' else 0
  task = images.image_task(changed(config, augment=kind, crop=crop))
  pixels = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 1), np.uint8)
  batch = {'image': pixels, 'id': np.arange(4)}
  found = task.prepare(jax.random.key(0), batch)
  assert found.shape == (4, crop or 8, crop or 8, 1)
  assert found.dtype == jnp.float32 and 0 <= found.min() <= found.max() <= 1
  swapped = {'image': pixels[::-1], 'id': np.arange(4)[::-1]}
  other = task.prepare(jax.random.key(0), swapped)
  chex.assert_trees_all_close(found, other[::-1])
  plain = jnp.float32(pixels) / 255
  assert (kind == 'none') == bool(
    (found.shape == plain.shape) and (found == plain).all()
  )


@pytest.mark.parametrize(
  'key, value, message',
  [
    ('channels', 2, r'config\.data\.channels = 2 must be one of 1, 3'),
    ('augment', 'mixup', 'must be one of none, crop_flip, imagenet'),
    ('batch_size', 0, r'batch_size = 0 must be at least 1'),
    ('size', 0, 'the side of all images'),
    ('mean', (0.1, 0.2, 0.3), 'have 3 and 1 values for 1 channels'),
  ],
)
def test_a_value_that_cannot_be_is_named_before_data(
  config, key, value, message
):
  with pytest.raises(InputError, match=message):
    images.classifier_stage('train', changed(config, **{key: value}), None)


def test_data_that_is_not_as_the_config_says_is_named(
  config, tmp_path, monkeypatch
):
  monkeypatch.setenv('JAXLAB_DATA_DIR', str(tmp_path))
  make = lambda task, space: images.supervised(task, optax.sgd(0.1))
  space = stage.Workspace(tmp_path, config, mesh.make(), 0, offline=True)
  wrong = changed(config, num_classes=9, batch_size=16)
  with pytest.raises(InputError, match='has 10 classes, and'):
    images.classifier_stage('train', wrong, make).open(space)


def test_predictions_are_probabilities_of_each_image(config, trained):
  _, _, state, batch = trained
  small = changed(config, eval_batch_size=3)
  made = Model(small, state.params, state.vars)
  found = images.predict(made, batch['image'])
  task = trained[0]
  logits = task.logits(state.params, state.vars, batch)
  p = np.asarray(jax.nn.softmax(logits))
  assert [x['label'] for x in found] == p.argmax(-1).tolist()
  best = [x['probability'] for x in found]
  np.testing.assert_allclose(best, p.max(-1), rtol=1e-4)
  chex.assert_trees_all_close(
    np.array([x['probabilities'] for x in found]), p, rtol=1e-4, atol=1e-6
  )
  for wrong, words in (
    (batch['image'][:, :4], r'shape \(\d+, 4, 8, 1\) are not \[n, 8, 8, 1\]'),
    (batch['image'].astype(int), 'int64 are neither uint8 nor floating'),
    (batch['image'].astype('f4'), 'float32 hold values from 0 to 2'),
  ):
    with pytest.raises(InputError, match=words):
      images.predict(made, wrong)
