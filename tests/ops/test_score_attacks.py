"""Attacks on detectors of a small network, ID and OOD told apart by it."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxlab.engine import mesh
from jaxlab.ops import detection, mahalanobis, score_attacks
from jaxlab.ops.apgd import apgd
from jaxlab.ops.attacks import pgd
from jaxlab.ops.detection_metrics import auroc

ROWS = 32
NAMES = (
  *('msp', 'odin', 'entropy', 'layers'),
  *(
    pytest.param(name, marks=pytest.mark.slow)
    for name in ('energy', 'max_logit', 'oe_score')
  ),
)
KEY = jax.random.key(0)
IDS = jnp.arange(ROWS)


def features(images, weights):
  """Two layers [b, 12] and [b, 8] of images [b, 4, 4, 1]."""
  first, second, _ = weights
  hidden = jnp.tanh((images.reshape(len(images), -1) - 0.5) @ first)
  return hidden, jnp.tanh(hidden @ second)


def net(images, weights):
  """Logits [b, 3], one a pattern; near 0 for grey noise."""
  return features(images, weights)[1] @ weights[2]


class Toy(NamedTuple):
  inside: jax.Array  # [ROWS, 4, 4, 1], near one of three patterns
  outside: jax.Array  # grey noise
  weights: tuple
  detectors: dict[str, detection.Detector]


@pytest.fixture(scope='module')
def toy():
  draw = np.random.default_rng(0)
  patterns = draw.integers(0, 2, (3, 4, 4, 1)) * 0.8 + 0.1

  def images_of(labels):
    noise = draw.uniform(-0.1, 0.1, (len(labels), 4, 4, 1))
    return jnp.asarray(patterns[labels] + noise, jnp.float32)

  def noise(rows):
    grey = draw.uniform(0.3, 0.7, (rows, 4, 4, 1))
    return jnp.asarray(grey, jnp.float32)

  first = draw.normal(0, 0.5, (16, 12)).astype(np.float32)
  second = draw.normal(0, 0.5, (12, 8)).astype(np.float32)
  clean = jnp.asarray(patterns, jnp.float32)
  middle = np.asarray(features(clean, (first, second, None))[1])
  last = 6 * np.linalg.pinv(middle)  # a logit of 6 for the own pattern
  weights = tuple(jnp.asarray(x, jnp.float32) for x in (first, second, last))

  labels = np.arange(150) % 3
  layers = mahalanobis.fit(
    features(images_of(labels), weights), labels, 3, ridge=1e-3
  )
  confidences = jax.jit(mahalanobis.layer_confidences(features, 0.002))
  fitted = mahalanobis.combine(
    layers,
    confidences(images_of(np.arange(60) % 3), layers, weights),
    confidences(noise(60), layers, weights),
  )
  found = detection.detectors(net, weights, temperature=10.0, eta=0.002)
  found['layers'] = mahalanobis.detector(features, fitted, weights, eta=0.002)
  return Toy(images_of(IDS % 3), noise(ROWS), weights, found)


def straight(objective, epsilon):
  """PGD from the image itself; looped: one program, compiled sooner."""
  return pgd(
    objective, epsilon=epsilon, steps=8, random_start=False, unroll=False
  )


@pytest.fixture(scope='module')
def attacked(toy):
  """Scores (ID, OOD) of a detector at a budget; each is made once."""
  known = {}

  def find(name, epsilon):
    if (name, epsilon) not in known:
      one = toy.detectors[name]
      score = jax.jit(one.score)
      pair = []
      for images, objective in (
        (toy.inside, score_attacks.minimise_score(one)),
        (toy.outside, score_attacks.maximise_score(one)),
      ):
        moved = images
        if epsilon:
          moved = straight(objective, epsilon)(KEY, images, IDS, *one.args)
        pair.append(np.asarray(score(moved, *one.args)))
      known[name, epsilon] = pair
    return known[name, epsilon]

  return find


@pytest.mark.parametrize('name', NAMES)
def test_id_attacks_lower_and_ood_attacks_raise_the_score(attacked, name):
  clean, moved = attacked(name, 0.0), attacked(name, 0.1)
  assert auroc(*clean) > 0.9
  assert (moved[0] < clean[0]).all()
  assert (moved[1] > clean[1]).all()


def test_auroc_falls_with_the_budget_and_is_0_without_one(attacked):
  found = [auroc(*attacked('layers', e)) for e in (0.0, 0.1, 1.0)]
  assert found[0] > found[1] > found[2]
  assert found[2] < 0.01  # any image may become any other


def test_the_attack_on_a_linear_score_is_the_closed_form():
  draw = np.random.default_rng(1)
  slope = jnp.asarray(draw.normal(size=(4, 4, 1)), jnp.float32)
  images = jnp.asarray(draw.uniform(0.3, 0.7, (ROWS, 4, 4, 1)), jnp.float32)

  def score(images, slope):
    return (images * slope).sum((1, 2, 3))

  for sign, objective in (
    (-1, score_attacks.minimise_score(score)),
    (1, score_attacks.maximise_score(score)),
  ):
    attack = pgd(objective, epsilon=0.25, steps=3, unroll=False)
    moved = attack(KEY, images, IDS, slope)
    change = score(moved, slope) - score(images, slope)
    best = sign * 0.25 * float(abs(slope).sum())
    np.testing.assert_allclose(change, best, rtol=1e-5)


def test_an_attack_is_the_same_in_batches_of_1_and_32(toy):
  one = toy.detectors['msp']
  objective = score_attacks.minimise_score(one)
  attack = pgd(objective, epsilon=0.1, steps=4, restarts=2, unroll=False)
  whole = attack(KEY, toy.inside, IDS, *one.args)
  rows = (0, 9, 31)
  alone = [
    attack(KEY, toy.inside[i : i + 1], IDS[i : i + 1], *one.args) for i in rows
  ]
  # Sums of another order may turn a sign only where a slope is nearly zero.
  np.testing.assert_allclose(
    whole[np.array(rows)], jnp.concatenate(alone), atol=1e-6
  )


def steep(toy, factor):
  """Mahalanobis with logits of any size: all weights times a factor."""
  fitted, *rest = toy.detectors['layers'].args
  scaled = fitted._replace(
    weights=fitted.weights * factor, bias=fitted.bias * factor
  )
  return toy.detectors['layers'].score, (scaled, *rest)


def test_mahalanobis_moves_images_whose_sigmoid_is_flat_and_aloes_does_not(
  toy,
):
  score, args = steep(toy, 100.0)
  clean = np.asarray(jax.jit(score)(toy.outside, *args))
  assert (clean < -20).all()  # sigmoid(20) is 1 in float32
  ours = straight(score_attacks.maximise_score(score), 0.1)
  moved = ours(KEY, toy.outside, IDS, *args)
  assert (jax.jit(score)(moved, *args) > clean).all()

  objective = score_attacks.aloe_mahalanobis_objective(score, inlier=False)
  slope = jax.jit(jax.grad(lambda x: objective(x, *args).sum()))
  assert not np.asarray(slope(toy.outside)).any()
  theirs = score_attacks.aloe_attack(objective, epsilon=0.1)
  np.testing.assert_array_equal(
    theirs(KEY, toy.outside, IDS, *args), toy.outside
  )


def test_surrogates_move_images_whose_scores_are_flat(toy):
  *rest, last = toy.weights
  weights = (*rest, last * 1000)
  found = detection.detectors(net, weights, temperature=1.0, eta=0.0)
  one = found['msp']
  clean = jax.jit(one.surrogate)(toy.inside, weights)
  flat = np.asarray(clean > 110)
  assert flat.sum() > 8

  def run(objective):
    attack = straight(objective, 0.05)
    return attack(KEY, toy.inside, IDS, weights)

  blind = run(score_attacks.minimise_score(one.score))
  assert (blind == toy.inside)[flat].all()
  seeing = run(score_attacks.minimise_score(one))
  assert (jax.jit(one.surrogate)(seeing, weights) < clean).all()


def test_aloes_objectives_are_those_of_its_paper(toy):
  logits = net(toy.inside, toy.weights)
  inside = score_attacks.aloe_attack_objective(net, inlier=True)
  outside = score_attacks.aloe_attack_objective(net, inlier=False)
  p = jax.nn.softmax(logits)
  np.testing.assert_allclose(
    inside(toy.inside, toy.weights), jnp.log(p).mean(-1), rtol=1e-4
  )
  np.testing.assert_allclose(
    outside(toy.inside, toy.weights), (p * jnp.log(p)).sum(-1), rtol=1e-4
  )
  attack = score_attacks.aloe_attack(inside)
  moved = attack(KEY, toy.inside, IDS, toy.weights)
  chex.assert_shape(moved, toy.inside.shape)
  steps = np.asarray(255 * (moved - toy.inside))
  # From the image itself, in whole steps of 1/255, cut at 0 and 1.
  steps = steps[(moved > 0) & (moved < 1)]
  np.testing.assert_allclose(steps, np.round(steps), atol=1e-4)
  assert abs(steps).max() == pytest.approx(1, abs=1e-4)
  found = inside(moved, toy.weights)
  assert (found >= inside(toy.inside, toy.weights)).all()


def test_budgets_in_grey_levels_are_refused(toy):
  with pytest.raises(ValueError, match='8/255'):
    pgd(score_attacks.minimise_score(toy.detectors['msp']), epsilon=8)


@pytest.mark.slow
def test_apgd_takes_the_same_objectives(toy, attacked):
  one = toy.detectors['odin']
  attack = apgd(
    score_attacks.minimise_score(one), epsilon=0.1, steps=8, unroll=False
  )
  moved = attack(KEY, toy.inside, IDS, *one.args)
  assert float(abs(moved - toy.inside).max()) <= np.float32(0.1)
  found = jax.jit(one.score)(moved, *one.args)
  assert (found < attacked('odin', 0.0)[0]).all()


@pytest.mark.slow
def test_very_confident_id_images_are_moved_too(toy):
  score, args = steep(toy, 1000.0)
  clean = np.asarray(jax.jit(score)(toy.inside, *args))
  confident = clean > 110
  assert confident.sum() > 8
  ours = straight(score_attacks.minimise_score(score), 0.1)
  moved = ours(KEY, toy.inside, IDS, *args)
  assert (jax.jit(score)(moved, *args) < clean).all()
  # Of such a logit, the sigmoid and its slope are 0 in float32.
  objective = score_attacks.aloe_mahalanobis_objective(score, inlier=True)
  theirs = score_attacks.aloe_attack(objective, epsilon=0.1)
  still = theirs(KEY, toy.inside, IDS, *args) == toy.inside
  assert still.all((1, 2, 3))[confident].all()


@pytest.mark.slow
def test_an_attack_is_the_same_on_8_devices(toy):
  one = toy.detectors['layers']
  objective = score_attacks.minimise_score(one)
  attack = pgd(objective, epsilon=0.1, steps=4, restarts=2, unroll=False)
  whole = attack(KEY, toy.inside, IDS, *one.args)
  devices = mesh.make({'data': 8})
  spread = NamedSharding(devices, PartitionSpec('data'))
  images, ids = jax.device_put((toy.inside, IDS), spread)
  key, args = jax.device_put((KEY, one.args), mesh.replicated(devices))
  moved = attack(key, images, ids, *args)
  assert len(moved.sharding.device_set) == 8
  np.testing.assert_allclose(whole, moved, atol=1e-6)
