"""ALOE: the family's identities, its batches, and a run from end to end."""

import json
import shutil
from dataclasses import replace
from functools import partial

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import jaxlab
from jaxlab.core.errors import InputError
from jaxlab.core.update import create_state
from jaxlab.data.images.sets import ImageSets, drawn
from jaxlab.engine import mesh
from jaxlab.models.normalised import normalised
from jaxlab.ops.attack_objectives import cross_entropy
from jaxlab.ops.attacks import pgd
from jaxlab.ops.detection import from_logits, uniform_cross_entropy
from jaxlab.papers.aloe import detectors, judgement, method, task
from jaxlab.papers.aloe.sets import Sets
from jaxlab.recipes import images
from jaxlab.recipes.images import image_task
from jaxlab.recipes.study import Cell
from jaxlab.runs import stage, workdir
from tests import runs
from tests.goldens import aloe_steps as golden
from tests.ops.attacked import quick_compiles

# Programs that run once or twice.
quick = partial(jax.jit, compiler_options={'xla_backend_optimization_level': 0})
CLASSES, SIDE = 5, 6


config_of = partial(runs.config_of, 'aloe')


_quick = pytest.fixture(autouse=True, scope='module')(quick_compiles)


@pytest.fixture(autouse=True)
def own_data(tmp_path_factory, monkeypatch):
  folder = tmp_path_factory.getbasetemp() / 'aloe_data'
  monkeypatch.setenv('JAXLAB_DATA_DIR', str(folder))


# --- the method, on a linear classifier with a running mean ---


def logits_of(images, params, vars):
  flat = images.reshape(len(images), -1) - vars['net']['mean']
  return flat @ params['net']['w']


def forward(params, vars, images, mask):
  logits = logits_of(images, params, vars)
  flat = images.reshape(len(images), -1)
  mean = 0.9 * vars['net']['mean'] + 0.1 * mask @ flat / mask.sum()
  return logits, {'net': {'mean': mean}}


def loss_of(name, epsilon=0.1, weight=0.5, mine=None):
  make = partial(pgd, epsilon=epsilon, steps=3, keep='last')
  far = from_logits(logits_of, uniform_cross_entropy)
  return method.robust_loss(
    forward,
    method.FAMILY[name],
    attack_inliers=make(cross_entropy(logits_of)),
    attack_outliers=make(far),
    weight=weight,
    mine=mine,
  )


def toy(rows=8, ratio=2, seed=0):
  draw = np.random.default_rng(seed)
  size = SIDE * SIDE
  params = {'net': {'w': jnp.float32(draw.normal(size=(size, CLASSES)))}}
  vars = {'net': {'mean': jnp.full(size, 0.5, jnp.float32)}}
  shape = (SIDE, SIDE, 1)
  batch = {
    'image': jnp.float32(draw.random((rows, *shape))),
    'label': jnp.int32(draw.integers(0, CLASSES, rows)),
    'id': jnp.arange(rows, dtype=jnp.int32),
    'mask': jnp.ones(rows, bool),
    'outlier': jnp.float32(draw.random((rows, ratio, *shape))),
    'outlier_id': jnp.arange(rows * ratio, dtype=jnp.int32).reshape(rows, -1),
  }
  return params, vars, batch


def whole(loss, params, vars, batch):
  """Value, gradients and new vars, compiled with few optimizations."""

  def scalar(params):
    found = loss(params, vars, batch, jax.random.key(3))
    return found.sum / found.weight, found.vars

  return quick(jax.value_and_grad(scalar, has_aux=True))(params)


def test_acet_attacks_the_second_half_of_the_outliers_alone():
  params, vars, batch = toy(ratio=4)
  seen = {}

  def attack(key, images, ids, params, vars):
    seen.update(ids=ids, images=images)
    return images

  loss = method.robust_loss(
    forward, method.FAMILY['acet'], attack_outliers=attack
  )

  def attacked():
    loss(params, vars, batch, jax.random.key(0))
    return seen

  found = quick(attacked)()
  for name, array in (('ids', 'outlier_id'), ('images', 'outlier')):
    wanted = batch[array][:, 2:].reshape(found[name].shape)
    np.testing.assert_array_equal(found[name], wanted)


@pytest.mark.parametrize('name', ['oe', 'aloe'])
def test_a_masked_row_changes_nothing_whatever_it_holds(name):
  """Neither the loss, nor its gradients, nor statistics: as if it were not."""
  params, vars, batch = toy()
  broken = {
    **batch,
    'mask': batch['mask'].at[3].set(False),
    'image': batch['image'].at[3].set(jnp.nan),
    'outlier': batch['outlier'].at[3].set(jnp.nan),
    'label': batch['label'].at[3].set(-7),
  }
  without = {k: jnp.delete(x, 3, 0) for k, x in batch.items()}
  loss = loss_of(name)
  found, wanted = (whole(loss, params, vars, x) for x in (broken, without))
  chex.assert_trees_all_close(found, wanted, rtol=1e-5, atol=1e-7)


def test_attacks_leave_vars_to_the_pass_of_the_loss():
  """The new running mean is of the images trained on, once."""
  params, vars, batch = toy()
  loss = loss_of('aloe', epsilon=0.0)
  found = quick(loss)(params, vars, batch, jax.random.key(0))
  both = np.concatenate([batch['image'][:, None], batch['outlier']], 1)
  seen = both.reshape(24, -1).mean(0)
  np.testing.assert_allclose(
    found.vars['net']['mean'], 0.45 + 0.1 * seen, rtol=1e-5
  )


def test_the_training_attack_has_the_papers_steps():
  assert [method.attack_steps(k / 255) for k in (0, 1, 2, 8)] == [1, 2, 3, 9]


@pytest.mark.parametrize('quantile, ranks', [(0.0, [0, 1]), (0.5, [3, 4])])
def test_mining_keeps_the_ranks_that_it_is_asked_for(quantile, ranks):
  draw = np.random.default_rng(0)
  sure = jnp.float32(draw.permutation(3 * 8).reshape(3, 8))
  outliers = sure[..., None, None, None]
  ids = jnp.arange(24).reshape(3, 8)
  confidence = lambda images, params, vars: images[:, 0, 0, 0]
  mine = method.informative(confidence, 2, quantile)
  kept, names = mine(outliers, ids, {}, {})
  expected = np.sort(sure, 1)[:, ranks]
  np.testing.assert_array_equal(kept[..., 0, 0, 0], expected)
  np.testing.assert_array_equal(
    np.take_along_axis(np.asarray(sure), np.asarray(names) % 8, 1), expected
  )


def test_what_the_method_cannot_do_is_named():
  with pytest.raises(ValueError, match='need attack_inliers'):
    method.robust_loss(forward, method.FAMILY['adv'])
  with pytest.raises(ValueError, match='need attack_outliers'):
    method.robust_loss(forward, method.FAMILY['acet'])
  with pytest.raises(ValueError, match='weight must be'):
    loss_of('oe', weight=-1.0)
  with pytest.raises(ValueError, match='must be in'):
    method.informative(lambda *a: a, 2, 1.5)
  mine = method.informative(lambda x, p, v: x[:, 0, 0, 0], 3, 0.0)
  params, vars, batch = toy()
  with pytest.raises(ValueError, match='2 candidates a row, 3 to keep'):
    loss_of('oe', mine=mine)(params, vars, batch, jax.random.key(0))


# --- four steps, against NumPy ---


class Tiny(nn.Module):
  """The network of tests/goldens/aloe_steps.py."""

  @nn.compact
  def __call__(self, image, *, train):
    x = image.reshape(len(image), -1)
    x = nn.Dense(golden.HIDDEN, use_bias=False, name='in')(x)
    x = nn.BatchNorm(
      use_running_average=not train,
      momentum=golden.MOMENTUM,
      epsilon=golden.EPSILON,
      name='norm',
    )(x)
    return nn.Dense(golden.CLASSES, name='out')(nn.relu(x))


def golden_config(case):
  _, candidates, statistics, changes = golden.CASES[case]
  config = config_of('smoke')
  config.update_from_flattened_dict(
    {
      'data.size': golden.SIDE,
      'data.augment': 'crop_flip',
      'data.pad': golden.PAD,
      'outliers.augment': changes,
      'outliers.ratio': golden.RATIO,
      'outliers.candidates': candidates,
      'outliers.quantile': golden.QUANTILE,
      'outliers.weight': golden.WEIGHT,
      'attack.epsilon': golden.EPS,
      'attack.steps': golden.ATTACK_STEPS,
      'attack.step_size': golden.STEP_SIZE,
      'attack.batch_norm': statistics,
      'optimizer.weight_decay': golden.DECAY,
      'optimizer.momentum': golden.MOMENTUM,
      'optimizer.final_fraction': golden.FINAL,
      'train.steps': golden.STEPS,
    }
  )
  return config.to_dict()


def tree_of(found):
  """Parameters and statistics of the reference as those of `Tiny`."""
  rows = lambda name, width: np.reshape(found[name], (-1, width))
  params = {
    'in': {'kernel': rows('V', golden.HIDDEN)},
    'norm': {'scale': found['scale'], 'bias': found['bias']},
    'out': {'kernel': rows('W', golden.CLASSES), 'bias': found['b']},
  }
  vars = {'batch_stats': {'norm': {k: found[k] for k in ('mean', 'var')}}}
  return jax.tree.map(
    lambda x: np.asarray(x, np.float32),
    ({'net': params}, {'net': vars}),
    is_leaf=lambda x: isinstance(x, list),
  )


@pytest.mark.parametrize('case', golden.CASES)
def test_four_steps_are_those_of_numpy(case):
  """Losses, parameters and statistics, at partial batches."""
  kept = json.loads(golden.PATH.read_text())[case]
  config, (arm, *_) = golden_config(case), golden.CASES[case]
  shape = (golden.SIDE, golden.SIDE, 1)
  built = images.ImageTask(
    normalised(Tiny(), shape, (golden.MEAN,), (golden.STD,)),
    None,
    images.preparation(config['data']),
    None,
  )
  update = task.make_update(config, arm, golden.RATE, built, 'cpu')
  params, stats = golden.start()
  params, vars = tree_of({**params, **stats})
  state, step = create_state(params, update, vars=vars), quick(update)
  losses = []
  for t in range(golden.STEPS):
    key = jax.random.fold_in(jax.random.key(7), t)
    batch = golden.batch(case, t)
    if arm in ('original', 'adv'):
      batch = {k: v for k, v in batch.items() if 'outlier' not in k}
    state, metrics = step(state, batch, key)
    losses.append(metrics['loss'][0] / metrics['loss'][1])
  np.testing.assert_allclose(losses, kept['losses'], rtol=2e-5)
  wanted, statistics = tree_of(kept)
  # float32 against float64 over four steps.
  chex.assert_trees_all_close(state.params, wanted, rtol=1e-4, atol=1e-5)
  found = {'net': state.vars['net']}
  chex.assert_trees_all_close(found, statistics, rtol=1e-4, atol=1e-5)


def test_a_network_in_training_leaves_masked_rows_out():
  shape = (golden.SIDE, golden.SIDE, 1)
  net = normalised(Tiny(), shape, (golden.MEAN,), (golden.STD,))
  params, stats = golden.start()
  params, vars = tree_of({**params, **stats})
  images = golden.batch('oe', 0)['image'].astype(np.float32) / 255

  def run(images, mask=None):
    def scalar(params):
      logits, new = net.train(params, vars, images, mask=mask)
      rows = slice(None) if mask is None else np.flatnonzero(mask)
      return jnp.square(logits[rows]).sum(), new

    return quick(jax.value_and_grad(scalar, has_aux=True))(params)

  mask = np.arange(golden.ROWS) != 2
  broken = np.where(mask[:, None, None, None], images, np.nan)
  found, wanted = run(jnp.asarray(broken), mask), run(images[mask])
  chex.assert_trees_all_close(found, wanted, rtol=1e-5, atol=1e-6)
  none = run(images, np.zeros(golden.ROWS, bool))
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(none))


def test_the_stored_steps_are_those_of_their_script():
  kept = json.loads(golden.PATH.read_text())
  assert kept.keys() == golden.CASES.keys()
  made = golden.trained('aloe, mined')
  for name, values in kept['aloe, mined'].items():
    np.testing.assert_allclose(made[name], values, rtol=1e-6)


# --- the network ---


@pytest.fixture(scope='module')
def small():
  config = config_of('smoke')
  config.data.size = 16
  config.model.name = 'resnet'
  config.model.width = 4
  built = image_task(config.to_dict())
  params, vars = built.network.init(jax.random.key(0))
  images = jax.random.uniform(jax.random.key(1), (6, 16, 16, 1))
  return config.to_dict(), built, params, vars, images


def test_running_statistics_make_images_independent(small):
  _, built, params, vars, images = small
  net = built.network
  logits, batch_logits = quick(net.logits), quick(net.batch_logits)
  alone = logits(jnp.roll(images, 1, 0), params, vars)
  np.testing.assert_allclose(
    logits(images, params, vars), jnp.roll(alone, -1, 0), rtol=1e-4, atol=1e-5
  )
  other = images.at[3:].set(0.0)
  np.testing.assert_allclose(
    logits(other, params, vars)[:3], logits(images, params, vars)[:3], rtol=1e-4
  )
  # And the batch's own do not.
  together = batch_logits(images, params, vars)
  half = batch_logits(other, params, vars)[:3]
  assert np.abs(together[:3] - half).max() > 1e-3


def test_an_attack_in_batch_mode_leaves_the_statistics_alone(small):
  config, built, params, vars, images = small
  config = {**config, 'attack': {**config['attack'], 'batch_norm': 'batch'}}
  batch = {
    'image': jnp.uint8(255 * images),
    'label': jnp.zeros(6, jnp.int32),
    'id': jnp.arange(6, dtype=jnp.int32),
    'mask': jnp.ones(6, bool),
  }
  zero = {**config, 'attack': {**config['attack'], 'epsilon': 0.0}}
  terms = method.FAMILY['adv']
  key = jax.random.key(0)

  def run(config, terms=terms):
    loss = task.make_loss(config, built, terms, 'cpu')
    return quick(lambda *given: loss(*given).vars)(params, vars, batch, key)

  expected = run(config, method.FAMILY['original'])
  chex.assert_trees_all_close(run(zero), expected, rtol=1e-5)
  # One pass of the momentum .9, not several: near the old statistics.
  moved = jax.tree.leaves(run(config))
  old = jax.tree.leaves(vars)
  far = max(float(jnp.abs(a - b).max()) for a, b in zip(moved, old))
  assert 0 < far < 2


# --- sets ---


def image_folder(root, classes, each, side=12, splits=('train', 'test')):
  for s, split in enumerate(splits):
    for label in range(classes):
      folder = root / split / f'c{label}'
      folder.mkdir(parents=True)
      for i in range(each):
        seed = [s, label, i]
        pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f'{i}.png')


def folder_config(root):
  config = config_of('gtsrb')
  config.data.name = f'image_folder:{root}'
  config.data.validation_split = 'test[:2]'
  config.data.test_split = 'test[2:]'
  config.data.num_classes = 3
  config.data.size = 12
  config.data.balance_to = 5
  config.outliers.file = str(root / 'random.npy')
  config.ood.sets = (('gaussian_noise', 'test'),)
  return config


def test_a_folder_of_signs_is_balanced_and_an_array_gives_the_outliers(
  tmp_path,
):
  root = tmp_path / 'signs'
  image_folder(root, 3, 4)
  random = np.random.default_rng(0).integers(0, 256, (7, 10, 10, 3), np.uint8)
  np.save(root / 'random.npy', random)
  sets = Sets(folder_config(root).to_dict(), offline=True)
  assert np.bincount(sets.train['label']).tolist() == [5, 5, 5]
  assert sets.train['image'].shape == (15, 12, 12, 3)
  # The first four of a class are the files, the fifth is made of the first.
  plain = sets.inliers('train')
  first = plain['image'][plain['label'] == 0]
  np.testing.assert_array_equal(sets.train['image'][:4], first)
  assert (sets.train['image'][4] != first[0]).mean() > 0.5
  assert sets.outliers['image'].shape == (7, 12, 12, 3)


def test_outliers_that_are_in_a_test_set_are_refused(tmp_path):
  root, other = tmp_path / 'signs', tmp_path / 'other'
  image_folder(root, 3, 4)
  image_folder(other, 2, 3)
  config = folder_config(root)
  config.ood.sets = ((f'image_folder:{other}', 'test'),)
  name = f'image_folder:{other}'
  test = Sets(config.to_dict(), offline=True).ood(name, 'test', 10)
  random = np.random.default_rng(0).integers(0, 256, (7, 12, 12, 3), np.uint8)
  np.save(root / 'random.npy', np.concatenate([random, test[:2]]))
  config.outliers.overlap = 'drop'
  assert len(Sets(config.to_dict(), offline=True).outliers['image']) == 7
  config.outliers.overlap = 'refuse'
  with pytest.raises(
    InputError, match='2 of 9 outliers are among the 6 images'
  ):
    len(Sets(config.to_dict(), offline=True).outliers)


def test_validation_outliers_that_are_in_a_test_set_are_refused(tmp_path):
  root, other = tmp_path / 'signs', tmp_path / 'other'
  image_folder(root, 3, 4)
  image_folder(other, 2, 3)
  config = folder_config(root)
  name = f'image_folder:{other}'
  config.ood.sets = ((name, 'test'),)
  config.outliers.validation = ((name, 'train'), (name, 'test'))
  config.outliers.overlap = 'drop'
  found = Sets(config.to_dict(), offline=True).validation_outliers
  kept = Sets(config.to_dict(), offline=True).ood(name, 'train', 6)
  assert len(found) == len(kept) == 6
  config.outliers.overlap = 'refuse'
  with pytest.raises(InputError, match='6 of 12 outliers are among the 6'):
    len(Sets(config.to_dict(), offline=True).validation_outliers)


def test_sets_that_do_not_fit_the_config_are_named(tmp_path):
  root = tmp_path / 'signs'
  image_folder(root, 3, 4)
  config = folder_config(root)
  config.data.num_classes = 4
  with pytest.raises(InputError, match='has 3 classes, and'):
    Sets(config.to_dict(), offline=True).inliers('train')
  config.outliers.file = ''
  with pytest.raises(InputError, match='names no set and no file'):
    len(Sets(config.to_dict(), offline=True).outliers)
  config.outliers.validation = ()
  with pytest.raises(InputError, match=r'outliers\.validation is empty'):
    len(Sets(config.to_dict(), offline=True).validation_outliers)


@pytest.mark.parametrize(
  'name, says',
  [
    ('corrupted:gaussian_blur', 'is not corrupted:NAME:SEVERITY'),
    ('corrupted:mist:3', 'mist'),
    ('corrupted:gaussian_blur:9', '9'),
  ],
)
def test_a_corruption_that_there_is_none_of_is_named(name, says):
  sets = Sets(config_of('smoke').to_dict(), offline=True)
  with pytest.raises(InputError, match=says):
    sets.ood(name, '', 10)


def test_images_are_drawn_alike_in_every_run_and_noise_differs_by_split():
  sets = Sets(config_of('smoke').to_dict(), offline=True)
  one, two = (sets.ood('uniform_noise', s, 20) for s in ('train', 'test'))
  assert one.shape == (20, 8, 8, 1)
  assert (one != two).mean() > 0.9
  np.testing.assert_array_equal(one[:5], sets.ood('uniform_noise', 'train', 5))
  arrays = {'image': np.arange(50), 'label': np.arange(50)}
  some = drawn(arrays, 10)
  np.testing.assert_array_equal(some['image'], some['label'])
  assert len({*some['image'].tolist()}) == 10


# --- the program ---


def tiny_config():
  config = config_of('smoke')
  config.study.methods = ('oe',)
  config.study.baseline = 'oe'
  config.train.steps = 40
  config.train.log_every_steps = 40
  config.train.eval_every_steps = 0
  config.data.batch_size = 32
  config.data.size = 16
  config.data.eval_batch_size = 60
  config.model.padding = 2
  config.outliers.ratio = 2
  config.detection.detectors = ('odin', 'mahalanobis')
  config.detection.odin_etas = (0.0, 0.01)
  config.detection.mahalanobis_etas = (0.0,)
  config.detection.layers = ('embedding',)  # of which some are dead
  config.detection.ridge = 0.0
  config.detection.fit_examples = 120
  config.ood.sets = (('gaussian_noise', 'test'), ('uniform_noise', 'test'))
  config.ood.paper = True
  config.ood.examples = 60
  config.ood.examples_each = 30
  config.ood.attacked = 20
  config.ood.attacked_each = 10
  config.ood.steps = 2
  config.ood.adaptive.methods = ()
  return config


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  patch = pytest.MonkeyPatch()
  folder = tmp_path_factory.mktemp('aloe')
  patch.setenv('JAXLAB_DATA_DIR', str(folder / 'data'))
  config = tiny_config()
  workdir.write_json(folder / 'config.json', config.to_dict())
  devices = mesh.make(devices=jax.devices()[:1])
  space = stage.Workspace(folder, config.to_dict(), devices, 0)
  stage.run_all(task.program(space.config), space)
  patch.undo()
  return folder


def test_a_run_judges_every_network_and_puts_them_side_by_side(finished):
  rows = json.loads((finished / 'oe-s0-ood' / 'ood.json').read_text())
  cells = {
    (r['attack'], r['detector'], r['epsilon'] > 0, r['setting']) for r in rows
  }
  settings = [(False, 'clean'), (True, 'in'), (True, 'out'), (True, 'both')]
  for detector in ('odin', 'mahalanobis'):
    assert ('none', detector, False, 'clean') in cells
    for attacked, setting in settings:
      assert ('pgd-2', detector, attacked, setting) in cells
  table = (finished / 'study' / 'tables.md').read_text()
  assert '| figure | oe |' in table
  assert 'test/pgd-2/odin/both 8/255/auroc' in table
  assert (finished / 'budgets' / 'figures' / 'budgets.png').exists()
  drawn = {p.stem for p in (finished / 'oe-s0-ood' / 'figures').iterdir()}
  assert drawn == {'scores', 'answers_test', 'mistakes_test', 'attacked_pgd_8'}
  figures = json.loads((finished / 'oe-s0' / 'report.json').read_text())
  assert figures['metrics']['validation/accuracy'] > 0.5


def test_an_image_is_told_by_the_threshold_of_validation_images(
  finished, monkeypatch
):
  monkeypatch.setenv('JAXLAB_DATA_DIR', str(finished / 'data'))
  made = jaxlab.load(finished / 'oe-s0')
  assert {*made.about['data']} == {'digits', 'uniform_noise'}
  figures = json.loads((finished / 'oe-s0-ood' / 'report.json').read_text())
  (odin,) = made.json('detectors.json').values()  # Mahalanobis is left out
  assert odin['eta'] == figures['metrics']['odin_eta']
  sets = ImageSets(made.config['data'], True)
  count = made.config['detection']['validation_examples']
  inside = drawn(sets.inliers(made.config['data']['validation_split']), count)
  found = [one['detectors']['odin'] for one in made.predict(inside['image'])]
  scores = np.sort([one['score'] for one in found])
  below = np.mean(scores < odin['threshold'])
  assert 0.05 - 1 / len(scores) <= below <= 0.05
  for one in found:
    inlier = one['score'] >= one['threshold'] == odin['threshold']
    assert one['verdict'] == ('inlier' if inlier else 'outlier')
  noise = np.random.default_rng(0).integers(0, 256, (64, 16, 16, 1), np.uint8)
  odd = [one['detectors']['odin']['verdict'] for one in made.predict(noise)]
  assert odd.count('outlier') > 20  # of ID images some three
  # Without a judgement there is the class alone.
  files = {k: v for k, v in made.files.items() if k != 'detectors.json'}
  (plain,) = task.predict(replace(made, files=files), noise[:1])
  assert {*plain} == {'label', 'probability', 'probabilities'}


def test_a_set_whose_kind_was_trained_on_is_in_no_mean(finished):
  for name in ('ood', 'paper'):
    rows = json.loads((finished / 'oe-s0-ood' / f'{name}.json').read_text())
    sets = {r['ood'] for r in rows}
    seen = 'uniform_noise test (seen in training)'
    assert sets == {'gaussian_noise test', seen, 'mean'}
    groups = {}
    for row in rows:
      keys = (row['attack'], row['detector'], row.get('epsilon'))
      groups.setdefault((*keys, row.get('setting')), {})[row['ood']] = row
    for of in groups.values():
      mean, only = of['mean'], of['gaussian_noise test']
      assert mean['auroc'] == only['auroc'] and of[seen]


def test_the_papers_own_evaluation_stands_beside(finished):
  rows = json.loads((finished / 'oe-s0-ood' / 'paper.json').read_text())
  of = {(r['attack'], r['detector'], r['ood']): r for r in rows}
  assert {k[0] for k in of} == {'none', 'aloe-10'}
  assert {k[1] for k in of} == {'odin', 'mahalanobis'}
  assert {r['examples'] for r in rows if r['ood'] != 'mean'} == {10}
  report = json.loads((finished / 'oe-s0-ood' / 'report.json').read_text())
  name = 'test/paper/aloe-10/odin/auroc'
  mean = of['aloe-10', 'odin', 'mean']
  assert report['metrics'][name] == mean['auroc']
  assert {'fpr', 'auroc', 'detection_error', 'auin', 'auout'} <= mean.keys()
  assert mean['auroc'] < of['none', 'odin', 'mean']['auroc']


def test_changed_budgets_judge_a_finished_run_again_and_train_nothing(
  finished, tmp_path, monkeypatch
):
  folder = tmp_path / 'copy'
  shutil.copytree(finished, folder)
  monkeypatch.setenv('JAXLAB_DATA_DIR', str(finished / 'data'))
  config = tiny_config()
  config.title = 'Another'
  config.detection.detectors = ('msp',)
  config.ood.paper = False
  config.ood.epsilons = (1 / 255,)
  config.ood.sets = (('gaussian_noise', 'test'),)
  before = (folder / 'oe-s0' / 'report.json').read_bytes()
  with workdir.claimed(folder, config.to_dict()):
    devices = mesh.make(devices=jax.devices()[:1])
    space = stage.Workspace(folder, config.to_dict(), devices, 0)
    stage.run_all(task.program(space.config), space, trains=False)
  assert (folder / 'oe-s0' / 'report.json').read_bytes() == before
  rows = json.loads((folder / 'oe-s0-ood' / 'ood.json').read_text())
  assert {round(255 * r['epsilon']) for r in rows} == {0, 1}
  table = (folder / 'study' / 'tables.md').read_text()
  assert 'both 1/255/auroc' in table and 'both 8/255/auroc' not in table
  config.attack.epsilon = 0.2
  with (
    pytest.raises(InputError, match=r'another config \(attack\.epsilon: '),
    workdir.claimed(folder, config.to_dict()),
  ):
    pass


def test_a_test_set_that_was_trained_on_is_not_judged(finished, tmp_path):
  """Its images were not left out of the training."""
  trained = tmp_path / 'oe-s0'
  trained.mkdir()
  report = json.loads((finished / 'oe-s0' / 'report.json').read_text())
  sets = Sets(tiny_config().to_dict(), offline=True)
  assert report['outliers_sha256'] == sets.outliers_sha256
  report['outliers_sha256'] = '00'
  workdir.write_json(trained / 'report.json', report)
  space = stage.Workspace(tmp_path, {}, None, 0)
  cell = Cell('oe-s0', 'oe', None, 0.1, 0)
  with pytest.raises(InputError, match='oe-s0 was trained on other outliers'):
    judgement._check_apart(cell, sets, space)
  judgement._check_apart(cell._replace(arm='adv'), sets, space)


def test_an_attack_hurts_the_detector_that_it_is_on(finished):
  rows = json.loads((finished / 'oe-s0-ood' / 'ood.json').read_text())
  at = {
    (r['attack'], r['detector'], r['setting']): r['auroc']
    for r in rows
    if r['ood'] == 'mean'
  }
  for detector in ('odin', 'mahalanobis'):
    clean, both = at['pgd-2', detector, 'clean'], at['pgd-2', detector, 'both']
    one = [at['pgd-2', detector, side] for side in ('in', 'out')]
    assert both < min(one) <= max(one) <= clean


def test_accuracy_is_judged_under_attack_too(finished):
  report = json.loads((finished / 'oe-s0-ood' / 'report.json').read_text())
  found = {
    name: value
    for name, value in report['metrics'].items()
    if name.startswith('test/attacked/') and name.endswith('accuracy')
  }
  clean = found.pop('test/attacked/accuracy')
  assert len(found) == 2  # under the one attack, and under the worst
  assert all(value <= clean for value in found.values())


def test_etas_are_chosen_from_those_of_the_config(finished):
  figures = json.loads((finished / 'oe-s0-ood' / 'report.json').read_text())
  assert figures['metrics']['odin_eta'] in (0.0, 0.01)


def test_the_better_eta_is_taken_and_the_smaller_of_equals():
  def option(shift):
    score = lambda images: images.mean((1, 2, 3)) * shift
    return detectors.Detector(score, score)

  def batches(value):
    draw = np.random.default_rng(0)
    image = np.float32(value + 0.1 * draw.random((8, 2, 2, 1)))
    return [{'image': image, 'mask': np.ones(8, bool)}]

  feeds = [batches(0.8), batches(0.1)]
  better = {0.0: option(-1.0), 0.1: option(1.0), 0.2: option(2.0)}
  assert detectors._best_eta(better, feeds) == 0.1


@pytest.mark.parametrize(
  'key, value, says',
  [
    ('study.methods', ('oe', 'aleo'), 'methods'),
    ('study.seeds', (), 'seeds'),
    ('attack.epsilon', 8.0, 'units of images in'),
    ('attack.batch_norm', 'both', 'must be one of running, batch'),
    ('outliers.ratio', 0, 'ratio = 0'),
    ('outliers.candidates', 1, 'candidates = 1'),
    ('outliers.overlap', 'keep', 'must be one of refuse, drop'),
    ('data.augment', 'mixup', 'config.data.augment'),
    ('ood.epsilons', (8.0,), 'config.ood.epsilons'),
    ('ood.epsilons', (0.0,), 'config.ood.epsilons'),
    ('ood.sets', (), 'config.ood.sets'),
    ('detection.detectors', ('msp', 'mps'), 'mps'),
    ('ood.adaptive.detectors', ('odin',), 'one of config.detection.detectors'),
  ],
)
def test_a_value_that_cannot_be_is_refused_before_any_work(key, value, says):
  config = config_of('smoke')
  config.outliers.ratio = 2
  config.ood.adaptive.methods = ('aloe',)
  config.ood.adaptive.detectors = ('msp',)
  with config.ignore_type():
    config.update_from_flattened_dict({key: value})
  with pytest.raises(InputError, match=says):
    task.program(config.to_dict())
