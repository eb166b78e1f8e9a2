"""AdvGAN's players, phases and judgement, on small networks."""

from pathlib import Path
from types import SimpleNamespace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlab.core.errors import InputError
from jaxlab.core.update import create_state
from jaxlab.engine import mesh
from jaxlab.main import program_of
from jaxlab.papers.advgan import (
  blackbox,
  distilled,
  game,
  judgement,
  stages,
)
from jaxlab.recipes import images
from jaxlab.runs.stage import Workspace
from tests import runs

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 16, 16, 1), np.uint8)
LABELS = np.array([0, 1, 2, 3, 4, 5], np.int32)
BATCH = {
  'image': IMAGES,
  'label': LABELS,
  'id': np.arange(6, dtype=np.int32),
  'mask': np.ones(6, bool),
}


@pytest.fixture(scope='module')
def of():
  config = runs.config_of('advgan', 'smoke').to_dict()
  own = stages.with_model(config, 'a', 'train')
  return game.make(own, images.image_task(own).network)


@pytest.fixture(scope='module')
def start(of):
  return stages.initial(of, jax.random.key(0))


def test_a_step_moves_the_discriminator_first_and_never_the_target(of, start):
  params, vars = start
  update = game.update(of, 10)
  state = create_state(params, update, vars=vars)
  new, metrics = jax.jit(update)(state, BATCH, jax.random.key(1))
  same = lambda name: all(
    np.array_equal(a, b)
    for a, b in zip(
      jax.tree.leaves(new.params[name]), jax.tree.leaves(params[name])
    )
  )
  assert [same(name) for name in ('net', 'gen', 'disc')] == [True, False, False]
  assert set(new.opt) == {'gen', 'disc'}
  # The generator's part of the game is of the discriminator just moved.
  images = jnp.asarray(IMAGES, jnp.float32) / 255
  key = jax.random.fold_in(jax.random.key(1), 1)
  aims = of.aims(key, BATCH['id'], LABELS)
  changed, _ = of.attack(params['gen'], images, aims)
  wanted = ((of.score(new.params['disc'], changed) - 1) ** 2 / 2).mean()
  total, rows = metrics['gen/game']
  np.testing.assert_allclose(total / rows, wanted, rtol=1e-4)


def test_padding_has_no_part_in_the_losses(of, start):
  params, vars = start
  half = {**BATCH, 'mask': np.arange(6) < 4}
  short = {name: value[:4] for name, value in BATCH.items()}
  for loss in (game.gen_loss(of), game.disc_loss(of)):
    run = jax.jit(lambda b, loss=loss: loss(params, vars, b, jax.random.key(2)))
    a, b = run(half), run(short)
    np.testing.assert_allclose(a.sum, b.sum, rtol=1e-5)
    assert a.weight == b.weight == 4


def test_the_generator_is_told_its_target(of, start):
  images = jnp.asarray(IMAGES, jnp.float32) / 255
  one, _ = of.attack(start[0]['gen'], images, jnp.full(6, 1))
  two, p = of.attack(start[0]['gen'], images, jnp.full(6, 2))
  assert float(abs(one - two).max()) > 1e-3
  assert float(abs(p).max()) <= 0.3


def test_phases_alternate_in_the_paper_s_order():
  assert distilled.phases(5, 3, 4, 2) == [
    ('distil', 5),
    ('game', 2),
    ('publish', 1),
    ('refine', 4),
    ('game', 2),
    ('publish', 1),
    ('refine', 4),
    ('game', 2),
    ('publish', 1),
  ]
  assert distilled.phases(5, 1, 0, 0) == [('distil', 5), ('publish', 1)]


def test_both_arms_take_the_same_steps_of_each_network():
  config = runs.config_of('advgan', 'mnist_blackbox').to_dict()
  student, player = {'distil', 'refine'}, {'game', 'publish'}
  count = lambda arm, kinds: sum(
    steps for kind, steps in blackbox.plan(config, arm) if kind in kinds
  )
  for kinds in (student, player):
    assert count('static', kinds) == count('dynamic', kinds) > 0
  assert 'refine' not in dict(blackbox.plan(config, 'static'))


def test_batches_ask_about_what_the_published_generator_makes():
  asked = []

  def ask(images):
    asked.append(images)
    return np.full((len(images), 3), 1 / 3, np.float32)

  def change(gen, images, ids, labels):
    moved = images / 255 + gen['shift'] + ids[:, None, None, None]
    return moved.astype(np.float32)

  answers = np.eye(3, dtype=np.float32)[np.arange(6) % 3]
  plan = distilled.phases(2, 2, 1, 1)
  source = distilled.Distilled(
    {'image': IMAGES, 'label': LABELS, 'answers': answers},
    plan,
    ask,
    change,
    batch_size=4,
    seed=0,
  )
  kinds = [source.kind(step) for step in range(7)]
  assert kinds == ['distil'] * 2 + [
    'game',
    'publish',
    'refine',
    'game',
    'publish',
  ]
  assert [source.publishes(step) for step in range(7)] == [
    kind == 'publish' for kind in kinds
  ]
  for step, kind in enumerate(kinds):
    source.publish({'shift': np.float32(step)})
    batch = source.batch(step, slice(0, 4))
    spec = source.spec[kind]
    assert batch.keys() == spec.keys()
    for name, array in batch.items():
      assert array.shape == spec[name].shape and array.dtype == spec[name].dtype
    np.testing.assert_array_equal(batch['image'], IMAGES[batch['id']])
    if kind in ('distil', 'refine'):
      np.testing.assert_array_equal(batch['answers'], answers[batch['id']])
    if kind == 'refine':
      wanted = change({'shift': step}, batch['image'], batch['id'], None)
      np.testing.assert_allclose(batch['changed'], wanted, rtol=1e-6)
      np.testing.assert_array_equal(asked[-1], batch['changed'])
  assert len(asked) == 1  # of the refine batch alone


def test_training_on_what_a_generator_made_against_another_network(of):
  config = runs.config_of('advgan', 'smoke_defended').to_dict()
  made = stages.target_stage(config, 'x', 0, 'a', 'advgan', other='g')
  one = mesh.make(devices=jax.devices()[:1])
  planned = made.plan(Workspace(Path(), config, one, 0, offline=True)).task
  params, vars = planned.init(jax.random.key(0))
  other = of.init(jax.random.key(5))['gen']
  update = planned.steps['train']
  state = create_state(params, update, vars={**vars, 'other': other})
  batch = {**BATCH, 'mask': np.arange(6) == 0}  # of class 0
  new, metrics = jax.jit(update)(state, batch, jax.random.key(1))
  chex.assert_trees_all_equal(new.vars['other'], other)
  clean = jnp.asarray(IMAGES[:1], jnp.float32) / 255

  def nats(x):
    logits = of.network.logits(x, params, vars)
    return -float(jax.nn.log_softmax(logits)[0, 0])

  aims = [of.attack(other, clean, jnp.array([k]))[0] for k in range(10)]
  total, rows = metrics['loss']
  apart = np.abs([nats(x) - total / rows for x in [clean, *aims]])
  assert apart.argmin() > 1 and apart.min() < 1e-5  # no class but its own
  assert apart[:2].min() > 1e-3


@pytest.mark.parametrize('begin', ['undefended', 'new'])
@pytest.mark.parametrize('defence', ['pgd', 'ensemble', 'advgan'])
def test_a_defended_network_may_begin_with_the_undefended_one(
  of, start, defence, begin, monkeypatch
):
  config = runs.config_of('advgan', 'smoke_defended').to_dict()
  config['target']['defence_start'] = begin
  given = {}
  monkeypatch.setattr(
    images, 'classifier_stage', lambda *args, **more: given.update(more)
  )
  stages.target_stage(config, 'x', 0, 'a', defence, other='o')
  params, vars = start
  left = SimpleNamespace(params=params, vars={'net': {}, **vars})
  first = given['start'](SimpleNamespace(artefact={'o': left}.get))
  assert {*first.params} == ({'net'} if begin == 'undefended' else set())
  if first.params:
    assert first.params['net'] is params['net']
  other = first.vars.get('other')
  if defence == 'ensemble':
    assert other['params']['net'] is params['net']
  else:
    assert other is (params['gen'] if defence == 'advgan' else None)


def test_every_image_is_aimed_at_all_other_classes(of):
  clean = np.arange(60.0).reshape(6, 10)
  plain = judgement.Aimed(IMAGES, LABELS, LABELS, clean)
  aimed = judgement.all_aims(of, plain)
  assert len(aimed.labels) == 6 * 9 and not (aimed.aims == aimed.labels).any()
  pairs = {*zip(aimed.labels.tolist(), aimed.aims.tolist())}
  assert len(pairs) == 54
  np.testing.assert_array_equal(aimed.images[9], IMAGES[1])
  np.testing.assert_array_equal(aimed.clean[9], clean[1])


def test_a_row_by_hand():
  images = np.zeros((4, 16, 16, 1), np.float32)
  changed = images.copy()
  changed[:, 0, 0] = 0.3
  # Before: all are taken for 1. After: all for 2; each is asked about once.
  asked = []

  def logits(x):
    asked.append(len(x))
    return np.eye(3)[np.full(len(x), 2)]

  aimed = judgement.Aimed(
    images, np.array([1, 1, 1, 0]), np.array([2, 2, 0, 1]), np.eye(3)[[1] * 4]
  )
  made = judgement.Attacked(aimed, changed, seconds=2.0)
  hits = judgement.hits(made, logits, True)
  assert asked == [4]
  row = judgement.row('x', made, hits)
  assert row['images'] == 3 and row['success'] == pytest.approx(2 / 3)
  assert row['L2'] == pytest.approx(0.3) and row['s per 1,000'] == 500
  assert 0 < row['SSIM'] < 1 and row['low'] < 2 / 3 < row['high']
  assert judgement.hits(made, logits, False).success[:3].all()
  by = judgement.by_target(made, hits, 3)
  assert by == [[0, 0.0, 1], [1, None, 0], [2, 1.0, 2]]


@pytest.mark.parametrize(
  ('variant', 'key', 'value', 'words'),
  [
    ('smoke', 'attack.epsilon', 8, '8 / 255'),
    ('smoke', 'attack.loss', 'l2', 'one of cw, ce'),
    ('smoke', 'study.arms', ('z',), 'one of a, c'),
    ('smoke', 'data.size', 8, 'at least 12'),
    ('smoke_blackbox', 'blackbox.student', 'z', 'one of a, c'),
    (
      'smoke_blackbox',
      'oracle.callable',
      'jaxlab.nowhere:ask',
      'cannot be had',
    ),
    ('smoke_blackbox', 'oracle.callable', 'jaxlab:__path__', 'is a list'),
    ('smoke_defended', 'study.arms', ('trades',), 'one of none, fgsm'),
  ],
)
def test_what_a_config_cannot_be_is_named(variant, key, value, words):
  config = runs.config_of('advgan', variant)
  with config.unlocked():
    config.update_from_flattened_dict({key: value})
  with pytest.raises(InputError, match=words):
    program_of(config.to_dict())
