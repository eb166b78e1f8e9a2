"""Judgements of a trained classifier, against NumPy on a linear network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlab.core.state import State
from jaxlab.data.images.sets import ImageSets
from jaxlab.engine import mesh
from jaxlab.engine.metrics import Meter
from jaxlab.ops import calibration, detection_metrics
from jaxlab.ops.adversarial import of_batch
from jaxlab.ops.attack_objectives import nats
from jaxlab.ops.attacks import fgsm
from jaxlab.ops.detection import Detector
from jaxlab.recipes import images, judge

ROWS = 19  # batches of 8, the last of 3


def logits_of(params, vars, batch):
  flat = jnp.asarray(batch['image'], jnp.float32).reshape(
    len(batch['image']), -1
  )
  return flat @ params['net']['w'] - vars['net']['shift']


@pytest.fixture(scope='module')
def judged():
  """A task whose network is a matrix, its arguments, sets and a feed."""
  draw = np.random.default_rng(0)
  w = draw.normal(0, 4, (12, 3)).astype(np.float32)
  shift = 0.5 * w.sum(0)  # the middle of the images has no class
  params, vars = {'net': {'w': w}}, {'net': {'shift': shift}}
  image = draw.random((ROWS, 2, 2, 3), np.float32)
  clean = image.reshape(ROWS, -1) @ w - shift
  label = clean.argmax(-1).astype(np.int32)
  label[:4] = (label[:4] + 1) % 3  # wrong from the start
  sets = ImageSets({'eval_batch_size': 8}, offline=True)
  feed = sets.once({'image': image, 'label': label}, mesh.make())
  task = images.ImageTask(None, sets, None, logits_of)
  return task, (params, vars), feed, image, label, clean


def test_args_are_those_of_the_network_alone():
  state = State(0, {'net': 1, 'gen': 2}, {}, {'net': 3, 'health': 4})
  assert judge.args_of(state) == ({'net': 1}, {'net': 3})


def test_an_image_withstands_what_leaves_it_right_and_was_right_before(judged):
  _, (params, vars), feed, image, label, clean = judged
  epsilons = (0.01, 0.1)
  attacks = {
    f'fgsm_{e}': fgsm(of_batch(logits_of, nats), epsilon=e) for e in epsilons
  }
  # One that turns wrong answers right.
  kind = lambda image, *args: -of_batch(logits_of, nats)(image, *args)
  attacks['kind'] = fgsm(kind, epsilon=0.3)
  found = judge.withstood(logits_of, attacks, (params, vars), feed, 0)
  assert found['attacked/kind_accuracy'] == pytest.approx(15 / 19)
  right = clean.argmax(-1) == label
  worst = right.copy()
  assert found['attacked/accuracy'] == pytest.approx(right.mean()) == 15 / 19
  for e in epsilons:
    p = np.exp(clean) / np.exp(clean).sum(-1, keepdims=True)
    slope = (p - np.eye(3)[label]) @ params['net']['w'].T
    moved = (image + e * np.sign(slope).reshape(image.shape)).clip(0, 1)
    after = moved.reshape(ROWS, -1) @ params['net']['w'] - vars['net']['shift']
    stands = right & (after.argmax(-1) == label)
    worst &= stands
    got = found[f'attacked/fgsm_{e}_accuracy']
    assert got == pytest.approx(stands.mean())
    low, high = (
      found[f'attacked/fgsm_{e}_accuracy_{x}'] for x in ('low', 'high')
    )
    assert low < got < high or got in (0, 1)
  assert found['attacked/worst_accuracy'] == pytest.approx(worst.mean())
  assert 0 < worst.sum() < 15


def test_calibration_is_that_of_the_scaled_logits(judged):
  task, args, feed, _, label, clean = judged
  found = judge.calibration(task, args, feed, feed)
  plain = calibration.summary(clean.astype(np.float64), label)
  for name in ('ece', 'nll', 'brier'):
    assert found[name] == pytest.approx(plain[name], rel=1e-4)
  t = found['temperature']
  scaled = calibration.summary(clean.astype(np.float64) / t, label)
  assert found['nll_scaled'] == pytest.approx(scaled['nll'], rel=1e-4)
  assert found['nll_scaled'] <= found['nll']


def test_outliers_are_scored_set_by_set_and_attacked(judged):
  task, _, _, image, _, _ = judged
  score = lambda x: x.mean((1, 2, 3))
  draw = np.random.default_rng(1)
  outside = {
    'dark': (0.3 * draw.random((5, 2, 2, 3))).astype(np.float32),
    'same': draw.random((7, 2, 2, 3), np.float32),
  }

  def attack(objective, epsilon):
    return fgsm(objective, epsilon=epsilon)

  ids, others, rows = judge.outlier_rows(
    task.sets,
    {'mean': Detector(score, score)},
    {'image': image},
    outside,
    mesh.make(),
    attack=judge.cached(attack, mesh.make()),
    epsilons=(0.1,),
    key=jax.random.key(0),
  )
  assert [row['ood'] for row in rows] == ['dark'] * 4 + ['same'] * 4
  np.testing.assert_allclose(ids['mean', 0.0], score(image), rtol=1e-5)
  for name, pixels in outside.items():
    clean, moved = (others[name]['mean', e] for e in (0.0, 0.1))
    np.testing.assert_allclose(clean, score(pixels), rtol=1e-5)
    np.testing.assert_allclose(
      moved, score((pixels + 0.1).clip(0, 1)), rtol=1e-5
    )
    (row,) = [r for r in rows if (r['ood'], r['setting']) == (name, 'clean')]
    area = detection_metrics.auroc(score(image), score(pixels))
    assert row['auroc'] == pytest.approx(area)


def test_views_have_a_value_for_each_image_in_order(judged):
  _, args, feed, _, label, clean = judged

  def values(batch, params, vars):
    found = logits_of(params, vars, batch)
    return {'logits': found, 'label': batch['label']}

  found = judge.views(values, ('logits', 'label'), args, feed)
  np.testing.assert_allclose(found['logits'], clean, rtol=1e-4, atol=1e-4)
  np.testing.assert_array_equal(found['label'], label)


def test_a_long_judgement_says_how_long_it_takes(capsys):
  times = iter([0.0, 4.0, 12.0, 15.0, 23.0, 40.0])
  meter = Meter('attacks', 5, clock=lambda: next(times))
  for _ in range(5):
    meter.advance()
  lines = capsys.readouterr().err.splitlines()
  assert lines == ['attacks 2/5  eta 18s', 'attacks 4/5  eta 6s']


def test_the_first_images_of_an_attack_are_kept_with_their_answers(judged):
  _, args, feed, image, label, clean = judged
  epsilon = 0.1
  attacks = {
    'one': fgsm(of_batch(logits_of, nats), epsilon=epsilon),
    'none': lambda key, images, ids, *args: images,
  }
  kept = {}
  plain = judge.withstood(logits_of, attacks, args, feed, 0)
  found = judge.withstood(logits_of, attacks, args, feed, 0, kept.__setitem__)
  assert found == plain and [*kept] == ['one', 'none']
  shown = kept['one']
  np.testing.assert_allclose(shown.clean, image[:8])
  np.testing.assert_array_equal(shown.labels, label[:8])
  np.testing.assert_array_equal(shown.before, clean[:8].argmax(-1))
  params, vars = args
  after = shown.changed.reshape(8, -1) @ params['net']['w']
  after = after - vars['net']['shift']
  np.testing.assert_array_equal(shown.after, after.argmax(-1))
  assert 0 < abs(shown.changed - image[:8]).max() <= epsilon + 1e-6
  np.testing.assert_array_equal(kept['none'].after, shown.before)
