import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlab.core.errors import InputError
from jaxlab.core.source import ArraySpec
from jaxlab.core.state import State
from jaxlab.engine import evaluate, mesh
from jaxlab.engine.feed import Feed
from jaxlab.evals import ood
from jaxlab.ops import detection_metrics as metrics
from jaxlab.ops.attacks import pgd
from jaxlab.ops.detection import Detector
from jaxlab.runs.sections import write_figure

SLOPE = jnp.asarray(
  np.random.default_rng(9).normal(size=(2, 2, 1)), jnp.float32
)
KEY = jax.random.key(0)


def linear(images, slope):
  return (images * slope).sum((1, 2, 3))


LINEAR = {'linear': Detector(linear, linear, (SLOPE,))}


def attack(objective, epsilon):
  return pgd(objective, epsilon=epsilon, steps=3, unroll=False)


class Rows:
  """A finite source of given rows, in batches of 8."""

  def __init__(self, **arrays):
    self.arrays = arrays
    shapes = {
      k: ArraySpec((8, *v.shape[1:]), v.dtype) for k, v in arrays.items()
    }
    self.spec = {'train': shapes}

  def kind(self, step):
    return 'train'

  def batch(self, step, rows):
    start = 8 * step
    return {
      k: v[start + rows.start : start + rows.stop]
      for k, v in self.arrays.items()
    }


def images_of(rows, shift, seed=0):
  """Grey images with a linear score near `shift`."""
  draw = np.random.default_rng(seed)
  noise = draw.uniform(-0.2, 0.2, (rows, 2, 2, 1))
  return np.asarray(0.5 + shift * np.sign(SLOPE) + noise, np.float32)


def batches(images, size):
  """As a feed would: the last one padded and masked."""
  rows = np.arange(len(images) + -len(images) % size)
  real = rows < len(images)
  padded = np.where(real[:, None, None, None], images[rows % len(images)], 0)
  return [
    {
      'image': jnp.asarray(padded[part]),
      'mask': jnp.asarray(real[part]),
      'id': jnp.asarray(rows[part]),
    }
    for part in np.split(rows, len(rows) // size)
  ]


def feed_of(source, rows, devices=1):
  here = mesh.make({'data': devices}, jax.devices()[:devices])
  return Feed(source, here, steps=-(-rows // 8))


@pytest.fixture(scope='module')
def pair():
  """Scores of 21 ID and 13 OOD images at three budgets."""
  keywords = {'attack': attack, 'epsilons': (0.02, 0.1), 'key': KEY}
  return tuple(
    ood.scored(LINEAR, batches(images, 4), inlier, **keywords)
    for images, inlier in (
      (images_of(21, 0.1), True),
      (images_of(13, -0.1, seed=1), False),
    )
  )


def test_values_are_those_of_real_rows_in_order_whatever_the_batches():
  images = images_of(21, 0.0)
  expected = np.asarray(linear(images, SLOPE))
  for size in (1, 4, 21, 32):
    found = ood.collect(
      {'score': lambda batch: linear(batch['image'], SLOPE)},
      batches(images, size),
    )
    np.testing.assert_allclose(found['score'], expected, rtol=1e-6)
  source = Rows(image=images, id=np.arange(21))
  found = ood.scored(LINEAR, feed_of(source, 21, devices=8), True)
  np.testing.assert_allclose(found['linear', 0.0], expected, rtol=1e-6)


def test_bytes_are_scored_as_their_255th():
  images = np.arange(40, dtype=np.uint8).reshape(10, 2, 2, 1)
  found = ood.scored(LINEAR, batches(images, 5), True)
  np.testing.assert_allclose(
    found['linear', 0.0], linear(images / np.float32(255), SLOPE), rtol=1e-5
  )


def test_attacks_reach_the_closed_form_on_every_row(pair):
  width = float(abs(SLOPE).sum())
  for found, sign in zip(pair, (-1, 1)):
    assert set(found) == {('linear', e) for e in (0.0, 0.02, 0.1)}
    for epsilon in (0.02, 0.1):
      change = found['linear', epsilon] - found['linear', 0.0]
      # No pixel comes near 0 or 1.
      np.testing.assert_allclose(change, sign * epsilon * width, rtol=1e-4)


def test_attacked_scores_depend_on_neither_batches_nor_devices(pair):
  images = images_of(21, 0.1)
  keywords = {'attack': attack, 'epsilons': (0.02, 0.1), 'key': KEY}
  alone = ood.scored(LINEAR, batches(images, 1), True, **keywords)
  source = Rows(image=images, id=np.arange(21))
  spread = ood.scored(LINEAR, feed_of(source, 21, 8), True, **keywords)
  for name, values in pair[0].items():
    np.testing.assert_allclose(alone[name], values, atol=1e-6)
    np.testing.assert_allclose(spread[name], values, atol=1e-6)


def test_an_attack_that_makes_it_worse_leaves_the_clean_score():
  def backwards(objective, epsilon):
    return lambda key, images, ids, *args: images + 0.3 * jnp.sign(SLOPE)

  images = batches(images_of(6, 0.0), 3)
  keywords = {'attack': backwards, 'epsilons': (0.1,), 'key': KEY}
  inside = ood.scored(LINEAR, images, True, **keywords)
  outside = ood.scored(LINEAR, images, False, **keywords)
  np.testing.assert_array_equal(inside['linear', 0.1], inside['linear', 0.0])
  assert (outside['linear', 0.1] > outside['linear', 0.0]).all()


def test_the_table_has_every_setting_with_its_scores(pair):
  inside, outside = pair
  rows = ood.ood_table(inside, {'dark': outside})
  found = {(row['epsilon'], row['setting']): row for row in rows}
  assert list(found) == [
    (0.0, 'clean'),
    *((e, s) for e in (0.02, 0.1) for s in ('in', 'out', 'both')),
  ]
  clean = inside['linear', 0.0], outside['linear', 0.0]
  bad = inside['linear', 0.1], outside['linear', 0.1]
  threshold = metrics.threshold_at_tpr(clean[0])
  for key, expected in (
    ((0.0, 'clean'), clean),
    ((0.1, 'in'), (bad[0], clean[1])),
    ((0.1, 'out'), (clean[0], bad[1])),
    ((0.1, 'both'), bad),
  ):
    row = found[key]
    for name, value in metrics.summary(*expected).items():
      assert row[name] == value
    assert row['detector'] == 'linear' and row['ood'] == 'dark'
    assert (row['id_examples'], row['ood_examples']) == (21, 13)
    fpr, tpr = ((x >= threshold).mean() for x in expected[::-1])
    assert row['fpr_at_clean_threshold'] == fpr
    assert row['tpr_at_clean_threshold'] == tpr
  area = {key: row['auroc'] for key, row in found.items()}
  assert area[0.1, 'both'] < area[0.1, 'in'] < area[0.0, 'clean']
  assert area[0.1, 'both'] < area[0.02, 'both'] < area[0.0, 'clean']
  # At the attacked images' own threshold 95 % of ID are accepted by design.
  both = found[0.1, 'both']
  assert both['tpr_at_clean_threshold'] < 0.95
  assert both['fpr_at_95tpr_id_positive'] > both['fpr_at_clean_threshold']


def test_equal_sizes_cut_the_larger_set(pair):
  inside, outside = pair
  (row, *_) = ood.ood_table(inside, {'dark': outside}, equal_sizes=True)
  assert row['id_examples'] == row['ood_examples'] == 13
  expected = metrics.aupr_in(inside['linear', 0.0][:13], outside['linear', 0.0])
  assert row['aupr_in'] == expected


def test_the_average_weighs_ood_sets_alike(pair):
  inside, outside = pair
  easy = {name: values - 5 for name, values in outside.items()}
  rows = ood.ood_table(inside, {'dark': outside, 'easy': easy})
  means = ood.averaged(rows)
  assert len(rows) == 14 and len(means) == 7
  for mean in means:
    of = [r for r in rows if (r['epsilon'], r['setting']) == _place(mean)]
    assert [r['ood'] for r in of] == ['dark', 'easy'] and mean['ood'] == 'mean'
    assert mean['auroc'] == pytest.approx((of[0]['auroc'] + 1) / 2)
    assert 'auroc_low' not in mean


def _place(row):
  return row['epsilon'], row['setting']


def test_figures_are_written(pair, tmp_path):
  clean = tuple(scores['linear', 0.0] for scores in pair)
  pair = {'ID': clean[0], 'OOD': clean[1]}
  write_figure(tmp_path / 'a' / 'roc.png', ood.roc_curves({'linear': clean}))
  write_figure(tmp_path / 'a' / 'hist.png', ood.histograms(pair))
  for path in (tmp_path / 'a').iterdir():
    assert path.read_bytes()[:4] == b'\x89PNG'
  assert len([*(tmp_path / 'a').iterdir()]) == 2


def state():
  return State(jnp.zeros((), jnp.int32), {'net': SLOPE}, {}, {})


def in_training(capacity):
  return ood.detection(
    lambda params, vars, batch: linear(batch['image'], params['net']), capacity
  )


@pytest.mark.parametrize('devices', [1, 8])
def test_the_evaluator_equals_the_metrics_of_all_rows(devices):
  images = np.concatenate([images_of(15, 0.1), images_of(6, -0.1, seed=1)])
  is_ood = np.arange(21) >= 15
  order = np.random.default_rng(0).permutation(21)
  source = Rows(image=images[order], ood=is_ood[order])
  feed = feed_of(source, 21, devices)
  evaluation = evaluate.Evaluation('ood', in_training(24), feed, seed=0)
  found = evaluation.run(state())
  scores = np.asarray(linear(images, SLOPE))
  expected = metrics.summary(scores[:15], scores[15:])
  assert found['id_examples'] == 15 and found['ood_examples'] == 6
  for name, value in expected.items():
    assert found[name] == pytest.approx(value, abs=1e-6)


def test_the_evaluator_refuses_one_class_and_too_many_rows():
  images = images_of(8, 0.0)
  for is_ood, capacity, words in (
    (np.ones(8, bool), 8, 'no ID scores'),
    (np.arange(8) < 4, 7, '8 rows with its padding, capacity is 7'),
  ):
    evaluator = in_training(capacity)
    total = evaluator.init()
    batch = {
      'image': jnp.asarray(images),
      'ood': jnp.asarray(is_ood),
      'mask': jnp.ones(8, bool),
    }
    with pytest.raises(InputError, match=words):
      for part in (slice(0, 4), slice(4, 8)):
        some = {k: v[part] for k, v in batch.items()}
        total = evaluator.update(total, state(), some, None)
      evaluator.finish(total)


def test_outliers_that_are_in_a_test_set_are_found_and_refused():
  draw = np.random.default_rng(0)
  outliers = draw.integers(0, 256, (20, 4, 4, 3), np.uint8)
  test = draw.integers(0, 256, (9, 4, 4, 3), np.uint8)
  assert not ood.overlapping(outliers, test).any()
  ood.refuse_overlap(outliers, {'letters': test})
  outliers[3] = outliers[11] = test[5]
  found = ood.overlapping(outliers[:, ::-1], test[:, ::-1])  # not contiguous
  assert np.flatnonzero(found).tolist() == [3, 11]
  words = (
    r'2 of 20 outliers are among the 9 images of "letters", first outlier 3'
  )
  with pytest.raises(InputError, match=words):
    ood.refuse_overlap(outliers, {'noise': test[:4], 'letters': test})
  assert not ood.overlapping(outliers ^ 1, test).any()  # one bit a pixel
  for a, b in ((outliers / 255, test), (outliers, test[:, :2])):
    with pytest.raises(InputError, match='uint8 rows of one shape'):
      ood.overlapping(a, b)


def test_bad_feeds_and_batches_are_refused():
  good = batches(images_of(4, 0.0), 2)
  endless = types.SimpleNamespace(steps=None)
  empty = [{**good[0], 'mask': jnp.zeros(2, bool)}]
  short = {'short': lambda batch: jnp.zeros(1)}
  for functions, feed, words in (
    ({}, endless, 'no end'),
    ({}, iter(good), 'read only once'),
    ({}, [], 'no examples'),
    ({}, empty, 'no examples'),
    (short, good, r'short gives \(1,\) for a batch of 2 rows'),
  ):
    with pytest.raises(InputError, match=words):
      ood.collect(functions, feed)

  def without(name):
    return [{k: v for k, v in good[0].items() if k != name}]

  bright = [{**good[0], 'image': good[0]['image'] * 255}]
  nan = [{**good[0], 'image': good[0]['image'].at[0, 0, 0, 0].set(jnp.nan)}]
  keywords = {'attack': attack, 'epsilons': (0.1,), 'key': KEY}
  for feed, changes, words in (
    (without('image'), {}, '"image" is missing'),
    (without('id'), keywords, 'attacks need "id"'),
    (bright, {}, r'not in \[0, 1\]; give uint8'),
    (nan, {}, 'are NaN'),
    (good, {**keywords, 'attack': None}, 'need attack= and key='),
    (good, {**keywords, 'key': None}, 'need attack= and key='),
    (good, {**keywords, 'epsilons': (8,)}, r'epsilons=\(8,\) must be in'),
    (good, {**keywords, 'epsilons': (0.0,)}, 'clean scores are always there'),
  ):
    with pytest.raises(InputError, match=words):
      ood.scored(LINEAR, feed, True, **changes)


def test_scores_that_are_not_numbers_are_refused_by_name(pair):
  inside, outside = pair
  broken = {**outside}
  broken['linear', 0.1] = np.full(13, np.nan)
  words = 'linear on dark, out, epsilon 0.1: 13 of 13 OOD scores are not finite'
  with pytest.raises(InputError, match=words):
    ood.ood_table(inside, {'dark': broken})
  del broken['linear', 0.1]
  with pytest.raises(InputError, match=r'not scored alike.*0\.1'):
    ood.ood_table(inside, {'dark': broken})
