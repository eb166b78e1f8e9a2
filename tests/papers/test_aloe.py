"""ALOE: the family's identities, its batches, and a run from end to end."""

import json
from dataclasses import replace
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import jaxlab
from jaxlab.data.image_sets import ImageSets, drawn
from jaxlab.engine import mesh, stage, workdir
from jaxlab.engine.errors import InputError
from jaxlab.ops.attack_objectives import cross_entropy
from jaxlab.ops.attacks import pgd
from jaxlab.ops.detection import from_logits, uniform_cross_entropy
from jaxlab.papers.aloe import detectors, method, task
from jaxlab.papers.aloe.sets import Sets
from jaxlab.recipes.images import image_task
from tests import runs

# Programs that run once or twice.
quick = partial(jax.jit, compiler_options={'xla_backend_optimization_level': 0})
CLASSES, SIDE = 5, 6


config_of = partial(runs.config_of, 'aloe')


@pytest.fixture(autouse=True)
def own_data(tmp_path_factory, monkeypatch):
  folder = tmp_path_factory.getbasetemp() / 'aloe_data'
  monkeypatch.setenv('JAXLAB_DATA_DIR', str(folder))


# --- the method, on a linear classifier with a running mean ---


def logits_of(images, params, vars):
  flat = images.reshape(len(images), -1) - vars['net']['mean']
  return flat @ params['net']['w']


def forward(params, vars, images):
  logits = logits_of(images, params, vars)
  seen = images.reshape(len(images), -1).mean(0)
  mean = 0.9 * vars['net']['mean'] + 0.1 * seen
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


def value_and_grad(loss, params, vars, batch):
  def scalar(params):
    found = loss(params, vars, batch, jax.random.key(3))
    return found.sum / found.weight

  return jax.jit(jax.value_and_grad(scalar))(params)


def same(one, other, **tolerance):
  given = toy()
  chex.assert_trees_all_close(
    value_and_grad(one, *given), value_and_grad(other, *given), **tolerance
  )


def test_aloe_without_a_budget_is_outlier_exposure():
  same(loss_of('aloe', epsilon=0.0), loss_of('oe'), rtol=1e-6)
  same(loss_of('aoe', epsilon=0.0), loss_of('oe'), rtol=1e-6)


def test_aloe_without_a_weight_is_adversarial_training():
  same(loss_of('aloe', weight=0.0), loss_of('adv'), rtol=1e-6)
  same(loss_of('oe', weight=0.0), loss_of('original'), rtol=1e-6)


def test_the_losses_are_those_of_the_table_written_out():
  params, vars, batch = toy()
  value, _ = value_and_grad(loss_of('oe'), params, vars, batch)
  logits = np.asarray(logits_of(batch['image'], params, vars), np.float64)
  flat = batch['outlier'].reshape(-1, SIDE, SIDE, 1)
  far = np.asarray(logits_of(flat, params, vars), np.float64)
  lse = lambda z: (
    np.log(np.exp(z - z.max(-1, keepdims=True)).sum(-1)) + z.max(-1)
  )
  own = lse(logits) - logits[np.arange(8), batch['label']]
  expected = own.mean() + 0.5 * (lse(far) - far.mean(-1)).mean()
  np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_attacks_raise_the_losses_that_they_are_against():
  given = toy()
  values = {m: value_and_grad(loss_of(m), *given)[0] for m in method.FAMILY}
  assert values['adv'] > values['original'] + 0.1
  assert values['aoe'] > values['oe'] + 0.1
  assert values['aloe'] > values['aoe'] + 0.1
  assert values['oe'] < values['acet'] < values['aloe']


def test_acet_attacks_the_second_half_of_the_outliers_alone():
  params, vars, batch = toy(ratio=4)
  seen = {}

  def attack(key, images, ids, params, vars):
    seen['ids'] = ids
    return images

  loss = method.robust_loss(
    forward, method.FAMILY['acet'], attack_outliers=attack
  )
  loss(params, vars, batch, jax.random.key(0))
  assert seen['ids'].tolist() == batch['outlier_id'][:, 2:].reshape(-1).tolist()


def test_a_masked_row_counts_nothing_whatever_it_holds():
  params, vars, batch = toy()
  mask = batch['mask'].at[3].set(False)
  clean = {**batch, 'mask': mask}
  broken = {
    **clean,
    'image': batch['image'].at[3].set(jnp.nan),
    'label': batch['label'].at[3].set(-7),
  }
  loss = loss_of('oe')
  a, b = (value_and_grad(loss, params, vars, x) for x in (clean, broken))
  np.testing.assert_allclose(a[0], b[0], rtol=1e-6)
  assert np.isfinite(b[0])


def test_attacks_leave_vars_to_the_pass_of_the_loss():
  """The new running mean is of the images trained on, once."""
  params, vars, batch = toy()
  loss = loss_of('aloe', epsilon=0.0)
  found = loss(params, vars, batch, jax.random.key(0))
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
  config.detection.layers = ('embedding',)
  config.detection.fit_examples = 100
  config.ood.sets = (('gaussian_noise', 'test'),)
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
  assert (finished / 'oe-s0-ood' / 'figures' / 'roc.png').exists()
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


def test_an_attack_never_helps_the_detector_that_it_is_on(finished):
  rows = json.loads((finished / 'oe-s0-ood' / 'ood.json').read_text())
  at = {
    (r['detector'], r['setting']): r['auroc']
    for r in rows
    if r['attack'] == 'pgd-2' and r['ood'] == 'mean'
  }
  for detector in ('odin', 'mahalanobis'):
    clean, both = at[detector, 'clean'], at[detector, 'both']
    for one in ('in', 'out'):
      assert both <= at[detector, one] <= clean


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
