"""GAAN's players on tiny networks: who moves, what counts, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlab.core.errors import InputError
from jaxlab.core.state import State
from jaxlab.core.update import create_state
from jaxlab.main import program_of
from jaxlab.papers.gaan import game, grid, images, method, side_by_side, task
from jaxlab.runs.model import Model
from jaxlab.runs.stage import Stage
from tests import runs

CONFIG = runs.config_of('gaan', 'smoke').to_dict()
SECTION = {**CONFIG['grid'], 'width': 4, 'layers': 1, 'rows': 4}
POINTS = grid.points(12, seed=3)
BATCH = {
  'point': POINTS,
  'id': np.arange(5, 17, dtype=np.int32),
  'mask': np.ones(12, bool),
}
KEY = jax.random.key(1)


def _game(arm, **changes):
  return grid.make({**SECTION, **changes}, arm)


def _states(of, update, seed=0):
  params, vars = of.init(jax.random.key(seed))
  return create_state(params, update, vars=vars)


def _same(a, b):
  leaves = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  return all(np.array_equal(x, y) for x, y in leaves)


@pytest.fixture(scope='module')
def step():
  """A step of GAAN with three of D, an average of G, and what it left."""
  of = _game('gaan', critic_steps=3, ema=0.75, recon='decay')
  update = game.make_update(of, 10)
  state = _states(of, update)
  new, metrics = jax.jit(update)(state, BATCH, KEY)
  return of, state, new, metrics


def test_a_step_is_autoencoder_then_three_of_d_then_generator(step):
  _, state, new, metrics = step
  assert set(state.opt) == {'autoencoder', 'disc', 'gen'}
  counts = {k: int(v[0].count) for k, v in new.opt.items()}
  assert counts == {'autoencoder': 1, 'disc': 3, 'gen': 1}
  shapes = lambda tree: jax.tree.map(jnp.shape, tree)
  both = {name: state.params[name] for name in ('enc', 'gen')}
  assert shapes(new.opt['autoencoder'][0].mu) == shapes(both)
  assert shapes(new.opt['gen'][0].mu) == shapes(state.params['gen'])
  assert not any(_same(new.params[n], state.params[n]) for n in new.params)
  assert int(new.vars['updates']) == 1
  # The first loss of D's three steps is one of all three's own rows.
  assert float(metrics['disc/loss'][1]) == 12
  assert float(metrics['autoencoder/loss'][1]) == 4
  mixed = jax.tree.map(
    lambda a, b: 0.75 * a + 0.25 * b, state.params['gen'], new.params['gen']
  )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7),
    new.vars['ema'],
    mixed,
  )
  averaged = game.average(new.params, new.vars)
  assert _same(averaged['gen'], new.vars['ema'])


def test_the_losses_of_a_step_are_the_methods_own_numbers(step):
  of, state, _, _ = step
  params, vars = state.params, {**state.vars, 'updates': jnp.int32(6)}
  losses = game.gaan(of, 10)
  part = {name: x[:4] for name, x in BATCH.items()}
  found = jax.jit(
    lambda: {k: loss(params, vars, part, KEY) for k, loss in losses.items()}
  )()
  value = {k: float(o.sum / o.weight + o.penalty) for k, o in found.items()}
  x, mask = POINTS[:4], np.ones(4, bool)
  apply = lambda module, net, x: module.apply({'params': params[net]}, x)
  score = lambda x: apply(of.disc, 'disc', x)
  code = apply(of.enc, 'enc', x)
  recon = apply(of.gen, 'gen', code)
  z = of.latent(KEY, BATCH['id'][:4])
  fake = apply(of.gen, 'gen', z)
  phi = [np.asarray(score(each)[1]) for each in (x, recon, fake)]
  far = method.latent_data_distance(*phi, code, z, mask)
  wanted = np.square(phi[0] - phi[1]).mean() + 0.1 * far
  np.testing.assert_allclose(value['autoencoder'], wanted, rtol=1e-4)
  s = lambda x: 1 / (1 + np.exp(-np.asarray(score(x)[0], np.float64)))
  apart = abs(s(x).mean() - s(fake).mean())
  np.testing.assert_allclose(value['gen'], apart, rtol=1e-4)
  # D: at six tenths of the training x weighs .97 and G(E(x)) .03.
  keys = jax.random.split(KEY)
  fake = apply(of.gen, 'gen', of.latent(keys[0], BATCH['id'][:4]))
  steep = of.penalty(params['disc'], of.read(part), fake, keys[1], 'wgangp')
  each = -0.97 * np.log(s(x)) - 0.03 * np.log(s(recon))
  each += -np.log(1 - s(fake)) + 0.1 * np.asarray(steep)
  np.testing.assert_allclose(value['disc'], each.mean(), rtol=1e-4)


def test_the_encoder_alone_is_trained_where_the_config_says_so():
  of = _game('gaan', autoencoder='encoder')
  update = game.make_update(of, 10)
  assert update.optimizers['autoencoder'][0] == 'enc'
  assert update.optimizers['gen'][0] == 'gen'


def test_padding_has_no_part_in_any_loss_of_any_arm():
  half = {**BATCH, 'mask': np.arange(12) < 5}
  half['point'] = np.where(half['mask'][:, None], POINTS, 0.9)
  short = {name: x[:5] for name, x in BATCH.items()}

  def all_of(arm, params, vars, batch):
    of = _game(arm, scope='per_sample')
    found = game.LOSSES[arm](of, 10)
    each = {k: loss(params, vars, batch, KEY) for k, loss in found.items()}
    return {k: o.sum / o.weight + o.penalty for k, o in each.items()}

  for arm in game.ARMS:
    params, vars = _game(arm).init(jax.random.key(0))
    run = jax.jit(lambda p, v, b, arm=arm: all_of(arm, p, v, b))
    a, b = run(params, vars, half), run(params, vars, short)
    assert set(a) == {'disc', 'gen'} | (
      {'autoencoder'} if arm in game.ENCODING else set()
    )
    for name in a:
      np.testing.assert_allclose(a[name], b[name], rtol=1e-4, err_msg=arm)


def test_the_penalty_is_added_to_what_d_minimises():
  # Not taken off: a steep D has the larger loss.
  of = _game('gaan', penalty_weight=10.0)
  params, vars = of.init(jax.random.key(0))
  loss = game.gaan(of, 10)['disc']

  @jax.jit
  def value(scale):
    disc = jax.tree.map(lambda x: scale * x, params['disc'])
    found = loss({**params, 'disc': disc}, vars, BATCH, KEY)
    return found.sum / found.weight

  # Logits of nearly nothing, then so steep that the penalty rules.
  assert value(0.01) == pytest.approx(3 * np.log(2) + 10, rel=0.01)
  assert value(6.0) > 1000


def test_seeds_side_by_side_are_those_seeds_alone():
  of = _game('gan')
  update = game.make_update(of, 10)
  both = side_by_side.SideBySide(2, update)
  keys = jnp.stack([jax.random.key(seed) for seed in (4, 9)])
  params, vars = jax.jit(jax.vmap(of.init))(keys)
  state = create_state(params, both, vars=vars)
  new, metrics = jax.jit(both)(state, BATCH, KEY)
  alone = jax.jit(update)
  total = 0.0
  for s, seed in enumerate((4, 9)):
    one = _states(of, update, seed)
    own = {name: x[s::2] for name, x in BATCH.items()}
    left, figures = alone(one, own, jax.random.fold_in(KEY, s))
    total += figures['gen/loss'][0]
    for part in ('params', 'opt'):
      jax.tree.map(
        lambda a, b, s=s: np.testing.assert_allclose(
          a[s], b, rtol=2e-4, atol=1e-6
        ),
        getattr(new, part),
        getattr(left, part),
      )
  np.testing.assert_allclose(metrics['gen/loss'][0], total, rtol=1e-4)
  assert set(new.vars['health']) == set(state.vars['health'])


def test_modes_are_counted_seed_by_seed_and_padding_is_left_out():
  of = _game('gan')
  made = {
    'points': np.stack([np.full((25, 2), 9.0), grid.generative.GRID]) * 1.0,
    'gradient': np.array([2.0, 4.0]),
    'score_real': np.array([1.0, 1.0]),
    'score_fake': np.array([0.4, 0.8]),
    'batches': np.array([2.0, 2.0]),
  }
  made['points'] = (made['points'] / grid.SCALE + 1) / 2
  evaluator = grid.evaluator(of, 2, 25)
  found = evaluator.finish(made)
  assert (found['s0/covered'], found['s1/covered']) == (0, 25)
  assert (found['covered'], found['pacgan/share']) == (12.5, 0.5)
  assert (found['s1/gradient'], found['s0/score_fake']) == (2.0, 0.2)
  params, vars = jax.vmap(of.init)(jnp.stack([KEY, KEY]))
  state = State(step=0, params=params, opt={}, vars={**vars, 'health': {}})
  batch = {**BATCH, 'id': np.arange(12), 'mask': np.arange(12) < 7}
  total = jax.jit(evaluator.update)(evaluator.init(), state, batch, KEY)
  drawn = np.asarray(total['points'])
  assert (drawn[:, :7] > 0).all() and (drawn[:, 7:] == 0).all()
  assert (np.asarray(total['gradient']) > 0).all()


def test_points_are_on_the_grid_and_within_the_unit_square():
  x = grid.points(50_000, seed=0)
  assert x.dtype == np.float32 and x.min() > 0 and x.max() < 1
  modes = grid.generative.grid_modes(grid.plane(x))['gaan']
  assert modes.covered == 25 and abs(modes.share - 0.9817) < 0.002


def test_neighbours_are_stacked_as_channels():
  x = np.arange(6 * 4, dtype=np.uint8).reshape(6, 2, 2, 1)
  batch = {
    'image': x,
    'id': np.arange(10, 16),
    'mask': np.array([True] * 5 + [False]),
  }
  rows = images.read(3, batch)
  assert rows.x.shape == (2, 2, 2, 3)
  np.testing.assert_allclose(rows.x[1, :, :, 2], x[5, :, :, 0] / 255)
  assert rows.id.tolist() == [10, 13] and rows.mask.tolist() == [True, False]


def test_predict_answers_codes_and_refuses_others():
  config = {**CONFIG, 'parts': ('grid',), 'grid': SECTION}
  of = _game('gaan')
  keys = jnp.stack([jax.random.key(0), jax.random.key(1)])
  params, vars = jax.vmap(of.init)(keys)
  made = Model(config, params, vars)
  (answer,) = task.predict(made, np.zeros((1, 2)))
  assert len(answer['sample']) == 2
  assert abs(np.array(answer['sample'])).max() <= grid.SCALE
  with pytest.raises(InputError, match=r'shape \(1, 3\), not \[n, 2\]'):
    task.predict(made, np.zeros((1, 3)))
  with pytest.raises(InputError, match='NaN'):
    task.predict(made, np.full((1, 2), np.nan))


@pytest.mark.parametrize(
  ('section', 'key', 'value', 'words'),
  [
    ('grid', 'arms', ('gan', 'dcgan'), 'grid.arms'),
    ('grid', 'scope', 'global', 'grid.scope = "global" must be one of batch'),
    ('grid', 'penalty', 'hinge', 'grid.penalty = "hinge"'),
    ('images', 'recon', 'none', 'images.recon'),
    ('images', 'ema', 1.0, 'images.ema'),
    ('images', 'norm', 'batch', 'images.norm = "batch"'),
    ('images', 'disc_widths', (), 'images.disc_widths'),
    ('judge', 'accuracy', 98, 'judge.accuracy = 98 must be in'),
  ],
)
def test_a_value_that_cannot_be_is_named(section, key, value, words):
  config = {**CONFIG, section: {**CONFIG[section], key: value}}
  with pytest.raises(InputError) as error:
    program_of(config)
  assert words in str(error.value)


def test_celeba_that_is_not_prepared_is_told_how(tmp_path, monkeypatch):
  monkeypatch.setenv('JAXLAB_DATA_DIR', str(tmp_path))
  config = runs.config_of('gaan', 'celeba').to_dict()
  sets = images.images.image_task(config, offline=True).sets
  with pytest.raises(InputError) as error:
    sets.source('train', 8, 0)
  assert 'tfds build celeb_a --file_format=array_record' in str(error.value)


def test_a_classifier_below_its_stated_accuracy_ends_the_run_at_once(
  monkeypatch,
):
  config = {**CONFIG, 'judge': {**CONFIG['judge'], 'accuracy': 0.9}}
  given = {}

  def stage(name, config, update, **more):
    given.update(more)
    return Stage(name, None)

  monkeypatch.setattr(images.images, 'classifier_stage', stage)
  monkeypatch.setattr(
    images.images, 'test_figures', lambda *_: {'test/accuracy': 0.875}
  )
  images.classifier_stage(config)
  with pytest.raises(InputError) as error:
    given['finish'](None, None, None)
  assert 'lenet of digits has a test accuracy of 0.8750' in str(error.value)
