"""Reprogramming: the method against its formulas written out, and the job."""

import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import ndimage, special

from jaxlab.core.errors import InputError
from jaxlab.core.state import State
from jaxlab.core.update import create_state, guarded, minimise
from jaxlab.engine import mesh
from jaxlab.engine.compiled import Start, first_state
from jaxlab.papers.reprogramming import (
  counting,
  inputs,
  label_map,
  method,
  task,
  victims,
)
from jaxlab.runs import stage
from jaxlab.runs.model import Model
from tests import runs

close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
equal = np.testing.assert_array_equal
config_of = partial(runs.config_of, 'reprogramming')


def draws(*shape, seed=0):
  return np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)


def data(b, k, c=3, seed=1):
  draw = np.random.default_rng(seed)
  return draw.uniform(-1, 1, (b, k, k, c)).astype(np.float32)


# --- the program and its place ---


@pytest.mark.parametrize('n, k', [(9, 4), (9, 5), (8, 5), (8, 4), (299, 28)])
def test_mask_and_data_share_one_place_also_where_paddings_are_odd(n, k):
  mask = method.mask_around(n, k, 1)
  placed = np.asarray(method.place(jnp.ones((1, k, k, 1)), n))[0]
  equal(placed + mask, 1)
  above, below = (
    np.flatnonzero(mask[side, :, 0] == 0) for side in (n // 2,) * 2
  )
  first, last = above[0], n - 1 - below[-1]
  assert last - first == (n - k) % 2
  equal(placed, placed.transpose(1, 0, 2))


def test_a_program_is_0_in_the_hole_and_so_is_its_gradient():
  n, k = 9, 4
  weights, mask = draws(n, n, 3), method.mask_around(n, k)
  found = np.asarray(method.program(weights, mask))
  close(found, np.tanh(weights) * mask)
  hole = method.window(n, k)
  assert not found[hole, hole].any()
  pull = lambda w: (method.program(w, mask) * draws(n, n, 3, seed=2)).sum()
  slope = np.asarray(jax.grad(pull)(weights))
  assert not slope[hole, hole].any()
  assert np.all(slope[mask == 1] != 0)


def test_images_with_a_program_are_those_written_out_and_within_the_range():
  n, k = 9, 4
  x, weights = data(2, k), 3 * draws(n, n, 3)
  mask = method.mask_around(n, k)
  wanted = np.tile(0.3 * np.tanh(weights), (2, 1, 1, 1))
  wanted[:, 2:6, 2:6] = x
  found = method.embed(x, weights, mask, 0.3)
  close(found, wanted)
  everywhere = np.ones_like(mask)
  over = np.tile(np.tanh(weights), (2, 1, 1, 1))
  over[:, 2:6, 2:6] += x
  assert abs(over).max() > 1
  close(method.embed(x, weights, everywhere), np.clip(over, -1, 1))
  close(
    method.embed(x, weights, everywhere, clip=(0.0, 0.5)),
    np.clip(over, 0, 0.5),
  )


def test_half_precision_data_is_embedded_in_float32():
  x, weights = (y.astype(jnp.bfloat16) for y in (data(1, 2), draws(4, 4, 3)))
  found = method.embed(x, weights, method.mask_around(4, 2))
  assert found.dtype == jnp.float32


def test_a_concealed_program_and_its_data_are_shuffled_alike():
  n, k = 6, 3
  x, weights, carrier = data(2, k), draws(n, n, 3), data(1, n, seed=5)[0]
  mask = method.mask_around(n, k)
  order = np.asarray(method.pixel_order(jax.random.key(3), n))
  assert sorted(order.tolist()) == [*range(n * n)]
  assert (order != np.arange(n * n)).any()
  placed = np.zeros((2, n, n, 3), np.float32)
  placed[:, 1:4, 1:4] = x
  moved = placed.reshape(2, -1, 3)[:, order].reshape(placed.shape)
  of_mask = mask.reshape(-1, 3)[order].reshape(mask.shape)
  wanted = carrier + 0.2 * np.tanh(moved + weights * of_mask)
  found = method.embed(
    x, weights, mask, 0.2, jnp.asarray(order), jnp.asarray(carrier)
  )
  close(found, np.clip(wanted, -1, 1))
  assert abs(np.asarray(found) - carrier).max() <= 0.2 + 1e-6
  bare = method.embed(x, weights, mask, permutation=jnp.asarray(order))
  close(bare, moved + np.tanh(weights * of_mask))


def test_a_shuffle_is_undone_by_the_inverse_order():
  images = data(2, 5)
  order = method.pixel_order(jax.random.key(0), 5)
  back = method.shuffle(method.shuffle(images, order), jnp.argsort(order))
  equal(back, images)


def test_a_frame_has_its_width_on_every_side():
  mask = method.mask_around(12, 4, 1, width=2)[..., 0]
  wanted = np.zeros((12, 12))
  wanted[2:10, 2:10] = 1
  wanted[4:8, 4:8] = 0
  equal(mask, wanted)
  for wide in (5, 99):
    whole = method.mask_around(12, 4, 1)
    equal(method.mask_around(12, 4, 1, width=wide), whole)


# --- labels ---


GROUPS = [(3,), (0, 5, 6), (1, 2)]


def test_a_set_has_the_summed_probability_over_all_classes():
  logits = 5 * draws(4, 8)
  logits[1] = [0, 0, 0, 300, 0, 0, 0, 0]  # probabilities of e^-300
  wide = logits.astype(np.float64)
  every = wide - special.logsumexp(wide, -1, keepdims=True)
  wanted = [special.logsumexp(every[:, list(g)], -1) for g in GROUPS]
  found = method.mapped_log_probability(jnp.asarray(logits), GROUPS)
  close(found, np.stack(wanted, -1), atol=1e-5)
  single = method.mapped_log_probability(
    jnp.asarray(logits), jnp.array([[3], [0]])
  )
  close(single, every[:, [3, 0]], atol=1e-5)


def test_predictions_are_of_the_likeliest_set_and_strict_ones_of_all_classes():
  logits = np.full((4, 8), -9.0, np.float32)
  logits[0, [3, 0, 5, 6]] = [2.0, 1.5, 1.5, 1.4]  # three classes outweigh one
  logits[1, [4, 2]] = [3.0, 1.0]  # the likeliest class is in no set
  logits[2, 1] = 0.0
  logits[3, 0] = 0.0
  logits = jnp.asarray(logits)
  equal(label_map.predictions(logits, GROUPS), [1, 2, 2, 1])
  equal(label_map.predictions(logits, GROUPS, strict=True), [0, -1, 2, 1])


def test_the_papers_labels_are_the_first_ten_of_a_thousand():
  groups = label_map.first_groups(10)
  label_map.check_groups(groups, 10, 1000)
  # 3 squares: great white shark, class 2; 10 squares: ostrich, class 9.
  assert groups[3 - 1] == (2,) and groups[10 - 1] == (9,)
  label_map.check_groups(label_map.first_groups(10, first=1), 10, 1001, first=1)


@pytest.mark.parametrize(
  'groups, classes, first, says',
  [
    ([(0, 1), (1,)], 8, 0, 'class 1 is in the sets of labels 0 and 1'),
    ([(0,), ()], 8, 0, 'label 1 has no class'),
    ([(0,), (8,)], 8, 0, 'label 1 has class 8; the victim has 0 to 7'),
    ([(0,), (-1,)], 8, 0, 'label 1 has class -1'),
    ([(0,)], 8, 0, '1 sets of classes, the task 2'),
    ([(0,), (1,)], 1001, 0, '1001 logits, of which the first is a background'),
    ([(0,), (1,)], 1001, 1, 'label 0 has class 0; the victim has 1 to 1000'),
  ],
)
def test_a_label_map_that_cannot_be_is_refused(groups, classes, first, says):
  with pytest.raises(InputError, match=says):
    label_map.check_groups(groups, 2, classes, first)


def test_the_most_frequent_pairs_are_mapped_first_and_no_class_twice():
  counts = np.array([[5, 9, 0, 1], [0, 8, 0, 2], [0, 7, 0, 0]])
  equal(jax.jit(label_map.frequency_map)(counts), [1, 3, 0])
  equal(label_map.frequency_map(jnp.zeros((3, 4))), [0, 1, 2])


def test_dead_targets_are_sets_of_zeros_alone():
  logits = np.ones((2, 8), np.float32)
  logits[0, [0, 1, 2, 5, 6]] = 0
  logits[1, [3, 5, 6]] = 0
  found = label_map.dead_targets(jnp.asarray(logits), GROUPS)
  equal(found, np.float32([2 / 3, 1 / 3]))


# --- the objective ---


def toy(rows=5, n=6, k=2):
  """A linear victim, whose weights are in `params`."""
  params = {
    'net': {'w': jnp.asarray(0.3 * draws(n * n * 3, 8, seed=3))},
    'program': {'weights': jnp.asarray(draws(n, n, 3, seed=4))},
  }
  batch = {
    'x': jnp.asarray(data(rows, k)),
    'label': jnp.asarray([2, 0, 1, 1, 0][:rows]),
    'mask': jnp.asarray([True, True, False, True, True][:rows]),
  }
  mask = method.mask_around(n, k)
  attempt = method.attempted(
    lambda images, p, v: images.reshape(len(images), -1) @ p['net']['w'],
    lambda b: (b['x'], b['label']),
    lambda x, w, vars: method.embed(x, w, mask),
  )
  return params, batch, attempt, mask


@pytest.mark.parametrize('reduction', ['sum', 'half_sum', 'mean'])
def test_the_objective_is_that_of_the_paper_over_the_rows_that_count(reduction):
  params, batch, attempt, mask = toy()
  batch['x'] = batch['x'].at[2].set(jnp.nan)
  loss = method.reprogramming_loss(attempt, lambda v: GROUPS, 0.7, reduction)
  found = loss(params, {}, batch, jax.random.key(0))
  weights = np.asarray(params['program']['weights'], np.float64)
  images = np.tile(np.tanh(weights * mask), (5, 1, 1, 1))
  images[:, 2:4, 2:4] = batch['x']
  logits = images.reshape(5, -1) @ np.asarray(params['net']['w'], np.float64)
  every = logits - special.logsumexp(logits, -1, keepdims=True)
  rows = [0, 1, 3, 4]
  own = [
    special.logsumexp(every[i, list(GROUPS[batch['label'][i]])]) for i in rows
  ]
  close(found.sum, -np.sum(own))
  assert found.weight == 4
  of = lambda p: loss(p, {}, batch, jax.random.key(0)).sum
  assert np.isfinite(jax.grad(of)(params)['program']['weights']).all()
  scale = {'sum': 1, 'half_sum': 0.5, 'mean': 1 / weights.size}[reduction]
  close(found.penalty, 0.7 * scale * (weights**2).sum())
  each = np.stack(
    [special.logsumexp(every[:, list(g)], -1) for g in GROUPS], -1
  )
  right = (each.argmax(-1) == np.asarray(batch['label']))[rows].sum()
  assert found.metrics['accuracy'] == (right, 4)


def test_a_step_changes_the_program_alone_and_nothing_in_the_hole():
  params, batch, attempt, mask = toy()
  for strength in (0.0, 0.5):
    loss = method.reprogramming_loss(attempt, lambda v: GROUPS, strength)
    step = minimise(loss, 'program', optax.sgd(0.1))
    state = create_state(params, step)
    assert set(state.opt) == {'program'}
    new, _ = guarded(step, 0)(state, batch, jax.random.key(0))
    equal(new.params['net']['w'], params['net']['w'])
    old = params['program']['weights']
    moved = np.asarray(new.params['program']['weights'] != old)
    assert moved[mask == 1].any() and moved[mask == 0].any() == bool(strength)


def test_of_the_victim_no_gradient_is_computed():
  params, batch, attempt, _ = toy()
  loss = method.reprogramming_loss(attempt, lambda v: GROUPS)
  step = guarded(minimise(loss, 'program', optax.sgd(0.1)), 0)
  state = create_state(params, step)
  text = jax.jit(step).lower(state, batch, jax.random.key(0)).as_text()
  shape = 'x'.join(map(str, params['net']['w'].shape))
  products = [x for x in text.splitlines() if 'dot_general' in x]
  assert len(products) == 2  # forward, and back to the images
  assert not any(f'-> tensor<{shape}xf32>' in line for line in products)


def test_a_vars_mapping_counts_what_the_victim_says():
  params, batch, attempt, _ = toy()
  labels = jnp.arange(3)
  vars = {'mapping': {'labels': labels, 'counts': jnp.zeros((3, 8))}}
  groups = lambda v: v['mapping']['labels'][:, None]
  loss = method.reprogramming_loss(attempt, groups)
  found = loss(params, vars, batch, jax.random.key(0))
  top = np.asarray(attempt(params, vars, batch).logits.argmax(-1))
  wanted = np.zeros((3, 8))
  for row in (0, 1, 3, 4):
    wanted[batch['label'][row], top[row]] += 1
  equal(found.vars['mapping']['counts'], wanted)


def test_another_reduction_is_refused():
  with pytest.raises(InputError, match='"max" is not one of sum, half_sum'):
    method.penalty(jnp.ones((2, 2, 3)), 1.0, 'max')


# --- counting squares ---


@pytest.fixture(scope='module')
def squares():
  make = jax.jit(method.counting_squares, static_argnums=1)
  images, labels = make(jax.random.key(1), 2000)
  return np.asarray(images), np.asarray(labels)


def test_squares_are_counted_again_from_the_pixels(squares):
  images, labels = squares
  assert images.shape == (2000, 36, 36, 3) and images.dtype == np.float32
  assert set(np.unique(images)) == {0.0, 1.0}
  equal(images, np.repeat(images[..., :1], 3, -1))
  for image, label in zip(images[:200, ..., 0], labels):
    parts, count = ndimage.label(image)
    assert count == label + 1
    for part in ndimage.find_objects(parts):
      assert [s.stop - s.start for s in part] == [7, 7]
      assert [s.start % 9 for s in part] == [1, 1]
      assert image[part].all()


def test_all_counts_and_all_cells_are_as_likely(squares):
  images, labels = squares
  assert labels.dtype == np.int32
  seen = np.bincount(labels, minlength=10)
  assert len(seen) == 10
  assert ((seen - 200) ** 2 / 200).sum() < 27.9  # chi², 9 degrees, p = .001
  cells = images[:, 4::9, 4::9, 0].sum(0)
  mean = labels.sum() / 16 + 2000 / 16
  assert abs(cells / mean - 1).max() < 0.12


def test_an_image_is_of_its_key_alone():
  keys = jax.random.split(jax.random.key(0), 6)
  images, labels = counting.squares_of(keys, 5)
  assert images.shape == (6, 20, 20, 3)
  some, of_some = counting.squares_of(keys[4:], 5)
  equal(some, images[4:])
  equal(of_some, labels[4:])
  with pytest.raises(InputError, match='cell of 2 pixels'):
    counting.squares_of(keys, 2)


def test_numbers_of_splits_do_not_meet_and_end_where_they_should():
  endless = inputs.Numbers(4)
  equal(endless.batch(2, slice(1, 3))['id'], [9, 10])
  held = inputs.Numbers(4, 6, 100)
  assert held.num_batches == 2
  equal(held.batch(1, slice(0, 4))['id'], [104, 105])
  assert held.batch(1, slice(2, 4))['id'].shape == (0,)
  config = config_of('smoke').to_dict()
  config['mesh'] = {'data': 1}
  made = inputs.TaskImages(config, 1, True)
  one = mesh.make(devices=jax.devices()[:1])
  ids = [
    set(made.held_out(split, one).source.batch(0, slice(0, 9))['id'].tolist())
    for split in ('validation', 'test')
  ]
  assert not ids[0] & ids[1] and min(ids[0] | ids[1]) > 100_000_000


# --- random networks ---


def test_calibrated_statistics_are_those_of_the_batch():
  draw = np.random.default_rng(0)
  batch = draw.normal(3, 2, (50, 4)).astype(np.float32)
  seen = {}

  def train(variables, given):
    seen['given'] = given
    return {'mean': given.mean(0), 'var': given.var(0)}

  old = {'params': {'a': 1}, 'batch_stats': {'mean': 0.0, 'var': 1.0}}
  new = method.calibrate_batch_stats(old, batch, train)
  assert new['params'] is old['params'] and seen['given'] is batch
  close(new['batch_stats']['mean'], batch.mean(0))
  with pytest.raises(InputError, match='no batch normalisation'):
    method.calibrate_batch_stats({'params': {}}, batch, train)


# --- victims ---


def test_a_victim_reads_images_in_its_own_range():
  seen = []
  network = victims.Network(*[None] * 5)._replace(
    logits=lambda images, params, vars: seen.append(images) or images
  )
  victim = victims.Victim(network, 4, 3, 10)
  victim.logits(jnp.array([-1.0, 0.0, 1.0]), {}, {})
  victim._replace(range=(0.0, 255.0)).logits(jnp.array([0.0, 51.0]), {}, {})
  close(seen[0], [0, 0.5, 1])
  close(seen[1], [0, 0.2])


def test_recomputation_changes_no_gradient():
  config = config_of('smoke')
  config.training.model.name = 'resnet'
  config.training.model.depth, config.training.model.width = 8, 2
  slopes = []
  for remat in (False, True):
    config.victim.remat = remat
    victim = victims.victim_of(config.to_dict())
    params, vars = victim.network.init(jax.random.key(0))
    of = lambda x, v=victim, p=params, s=vars: v.logits(x, p, s)[:, 3].sum()
    slopes.append(jax.jit(jax.grad(of))(data(2, 16, 1)))
  close(*slopes)


def test_photographs_are_cropped_alike_at_any_size_and_ranked(monkeypatch):
  photos = [np.full((50 + i, 80, 3), 10 * i, np.uint8) for i in range(4)]
  labels = np.array([0, 1, 2, 900])
  monkeypatch.setattr(
    victims.packaged_weights,
    'read_samples',
    lambda name, offline: (photos, labels),
  )

  def logits(images, params, vars):
    assert images.shape == (4, 32, 32, 3)
    at = jnp.rint(images.mean((1, 2, 3)) * 25.5)[:, None]
    return -abs(jnp.arange(1000) - at)  # class i for photograph i, then i + 1

  network = victims.Network(*[None] * 5)._replace(logits=logits)
  victim = victims.Victim(network, 32, 3, 1000)
  found = victims.recognised(victim, {'params': {}, 'vars': {}}, True)
  assert (found['top1'], found['top5']) == (0.75, 0.75)
  assert victims.photograph(2, 32, True).mean() == pytest.approx(20 / 255)
  with pytest.raises(InputError, match='no packaged photograph 4'):
    victims.photograph(4, 32, True)


@pytest.mark.slow
def test_a_calibrated_network_evaluates_as_it_would_on_its_batch():
  config = config_of('untrained')
  config.victim.size = 32
  config.victim.weights = 'calibrated'
  found = victims.variables(config.to_dict(), 0, True)
  random = victims.variables(
    {**config.to_dict(), 'victim': {**config.victim, 'weights': 'random'}},
    0,
    True,
  )
  stats = found['vars']['net']['batch_stats']
  equal(
    found['params']['net']['stem']['kernel'],
    random['params']['net']['stem']['kernel'],
  )
  # The stem's norm, by hand, on the pixels of the same key.
  key = jax.random.split(victims.keys.stream(0, 'victim'))[1]
  shape = (50, 32, 32, 3)
  pixels = jax.random.randint(jax.random.split(key)[0], shape, 0, 256)
  x = (pixels.astype(jnp.float32) - 127) / 128
  stem = jax.lax.conv_general_dilated(
    x,
    found['params']['net']['stem']['kernel'],
    (2, 2),
    'SAME',
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )
  close(stats['stem_norm']['mean'], stem.mean((0, 1, 2)), atol=1e-4)
  close(stats['stem_norm']['var'], stem.var((0, 1, 2)), rtol=1e-3)
  fresh = random['vars']['net']['batch_stats']['stem_norm']
  equal(fresh['mean'], 0)


def test_victims_that_cannot_be_are_refused():
  config = config_of('').to_dict()
  config['victim'] |= {'weights': 'calibrated'}
  with pytest.raises(InputError, match='no batch normalisation'):
    method.calibrate_batch_stats({'params': {}}, None, None)
  config['victim'] |= {'weights': 'trained'}
  with pytest.raises(InputError, match='weights = "trained" must be one of'):
    task.program(config)


# --- the job ---


@pytest.mark.parametrize(
  'changes, says',
  [
    (
      {'victim.size': 36},
      r'images of 36 x 36 pixels do not fit into a hole in 36 x 36',
    ),
    (
      {'program.groups': ((0,),) * 10},
      'class 0 is in the sets of labels 0 and 1',
    ),
    (
      {'victim.range': (0.0, 1.0)},
      r'reads images in \[0.0, 1.0\], and a program makes them in \[-1.0, 1.0',
    ),
    ({'victim.name': 'alexnet'}, 'victim.name = "alexnet" must be one of sq'),
    ({'data.num_classes': 5}, 'num_classes = 5 must be one of 10; one to ten'),
    ({'data.cell': 2}, 'data.cell = 2 must be at least 3'),
    ({'program.reduction': 'max'}, 'reduction = "max" must be one of sum'),
    ({'program.alpha': 0.0}, 'alpha = 0.0 must be above 0'),
    ({'optimizer.schedule': 'linear'}, 'schedule = "linear" must be one of'),
  ],
)
def test_a_config_that_cannot_be_is_refused_with_its_cure(changes, says):
  config = config_of('')
  config.update_from_flattened_dict(changes)
  with pytest.raises(InputError, match=says):
    task.program(config.to_dict())


def test_an_arm_that_names_no_value_of_the_config_is_refused():
  config = config_of('').to_dict()
  config['arms'] = {'program': {'program.alpa': 0.5}}
  with pytest.raises(
    InputError, match=r'"program.alpa", which the config does'
  ):
    task.program(config)


def test_an_arm_changes_its_values_and_no_others():
  config = config_of('concealed').to_dict()
  found = task.arm_of(config, 'concealed')
  assert found['program']['carrier'] == 0 and found['program']['permuted']
  assert config['program']['carrier'] == -1
  whole = task.arm_of(config, 'whole')
  assert whole == config


def test_a_concealed_arm_joins_what_its_state_holds():
  config = task.arm_of(config_of('concealed').to_dict(), 'concealed')
  parts = task.parts_of(config)
  size = config['victim']['size']
  order = method.pixel_order(jax.random.key(0), size)
  vars = {'pixels': order, 'carrier': jnp.asarray(data(1, size)[0])}
  x, weights = data(2, 36), draws(size, size, 3)
  mask = method.mask_around(size, 36, 1)
  wanted = method.embed(x, weights, mask, 0.2, order, vars['carrier'])
  close(parts.join(x, weights, vars), wanted)


def test_grey_data_has_the_victims_channels_and_coloured_data_becomes_grey():
  config = config_of('shuffled_mnist').to_dict()
  made = inputs.TaskImages(config, 3, True)
  grey = np.arange(28 * 28, dtype=np.float32).reshape(1, 28, 28, 1) / 784
  found = np.asarray(made.as_read(jnp.asarray(grey)))
  assert found.shape == (1, 28, 28, 3)
  close(np.sort(found[..., 1].ravel()), np.sort(2 * grey.ravel() - 1))
  assert abs(found[..., :1] - (2 * grey - 1)).max() > 0.5  # in another order
  config['data']['shuffled'] = False
  made = inputs.TaskImages(config, 1, True)
  colours = np.zeros((1, 28, 28, 3), np.uint8)
  colours[..., 0] = 255
  close(made.as_read(jnp.asarray(colours)), 2 / 3 - 1)


def test_the_papers_rate_falls_in_steps():
  rate = task.optimizers.schedule(
    {'schedule': 'exponential', 'decay': 0.96, 'decay_steps': 10}, 100, 0.05
  )
  close([rate(0), rate(9), rate(10), rate(25)], [0.05, 0.05, 0.048, 0.04608])


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  """Networks, a random and an adversarial one, made to count squares."""
  patch = pytest.MonkeyPatch()
  folder = tmp_path_factory.mktemp('reprogramming')
  patch.setenv('JAXLAB_DATA_DIR', str(folder / 'data'))
  config = config_of('adversarial')
  config.program.width = 1
  config.program.mapping = 'frequency'
  config.program.remap_every = 4
  config.data.cell = 3
  config.data.batch_size = 8
  config.data.eval_batch_size = 20
  config.data.validation_examples = 20
  config.data.test_examples = 30
  config.training.data.name = 'digits'
  config.training.data.train_split = 'train'
  config.training.data.validation_split = 'validation'
  config.training.data.size = 16
  config.training.data.batch_size = 16
  config.training.attack.steps = 1
  for one in (config.train, config.training.train):
    one.steps, one.log_every_steps, one.eval_every_steps = 6, 3, 0
  config = config.to_dict()
  config['arms']['plain'] = {'victim.weights': 'random'}
  (folder / 'config.json').write_text(json.dumps(config))
  devices = mesh.make(devices=jax.devices()[:1])
  space = stage.Workspace(folder, config, devices, 0)
  stage.run_all(task.program(config), space)
  patch.undo()
  return config, space


def test_the_frozen_victim_is_that_of_its_stage_and_stays(finished):
  _, space = finished
  victims_of = {
    'plain': space.artefacts['plain-s0-victim']['params']['net'],
    'adversarial': space.artefacts['adversarial-s0-victim'].params['net'],
  }
  for arm, net in victims_of.items():
    state: State = space.artefacts[f'{arm}-s0']
    jax.tree.map(equal, state.params['net'], net)
    assert set(state.opt) == {'program'}
  first = [jax.tree.leaves(net)[0] for net in victims_of.values()]
  assert abs(first[0] - first[1]).max() > 0


def test_a_map_by_frequency_is_drawn_up_anew_every_few_steps(finished):
  _, space = finished
  mapping = space.artefacts['plain-s0'].vars['mapping']
  assert len(set(np.asarray(mapping['labels']).tolist())) == 10
  assert mapping['counts'].sum() == 2 * 8  # since step 4


def test_arms_are_compared_and_a_program_is_shown(finished):
  _, space = finished
  report = json.loads((space.folder('plain-s0') / 'report.json').read_text())
  figures = report['metrics']
  assert figures['test/examples'] == 30
  for name in ('strict_accuracy', 'dead_targets', 'nats', 'accuracy_low'):
    assert np.isfinite(figures[f'test/{name}'])
  drawn = {p.name for p in Path(space.dir).glob('*/figures/*.png')}
  assert {'program.png', 'embedded.png', 'arms.png'} <= drawn
  said = (space.folder('arms') / 'sections.json').read_text()
  assert 'plain above adversarial by' in said
  assert (
    'of 30 images' in (space.folder('plain-s0') / 'sections.json').read_text()
  )


def test_a_prediction_is_that_of_the_evaluation(finished):
  config, space = finished
  state = space.artefacts['plain-s0']
  images, _ = method.counting_squares(jax.random.key(5), 7, cell=3)
  arm = task.arm_of(config, 'plain')
  made = Model(arm, state.params, state.vars)
  found = task.predict(made, np.asarray(images))
  assert len(found) == 7
  parts = task.parts_of(arm)
  x = 2 * np.asarray(images[..., :1]) - 1
  mask = method.mask_around(16, 12, 1, 1)
  weights = np.asarray(state.params['program']['weights'])
  joined = method.embed(x, weights, mask)
  logits = parts.victim.logits(joined, state.params, state.vars)
  groups = np.asarray(state.vars['mapping']['labels'])
  p = np.asarray(jax.nn.softmax(logits))
  close([one['probabilities'] for one in found], p[:, groups])
  equal([one['label'] for one in found], p[:, groups].argmax(-1))
  equal([one['class'] for one in found], p.argmax(-1))
  with pytest.raises(InputError, match=r'are not \[n, 12, 12, 3\]'):
    task.predict(made, np.zeros((2, 9, 9, 3), np.uint8))


def test_a_file_or_package_gives_the_weights_that_training_starts_from():
  config = config_of('').to_dict()
  stages = task.program(config)
  assert [s.name for s in stages] == [
    'program-s0-victim',
    'program-s0',
    'study',
  ]
  planned = stages[1].plan(
    stage.Workspace(Path(), config, mesh.make(devices=jax.devices()[:1]), 0)
  )
  like = jax.eval_shape(
    lambda k: first_state(planned.task, k), jax.random.key(0)
  )
  some = {'params': {'net': like.params['net']}}
  start = Start(**some)
  again = jax.eval_shape(
    lambda k: first_state(planned.task, k, start), jax.random.key(0)
  )
  assert jax.tree.structure(again) == jax.tree.structure(like)
  assert like.params['program']['weights'].shape == (128, 128, 3)
