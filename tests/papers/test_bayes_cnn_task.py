"""Bayesian CNNs: the arms' steps and draws, their judgement, bad configs."""

import json
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxlab.core.errors import InputError
from jaxlab.core.update import create_state
from jaxlab.engine import mesh
from jaxlab.papers.bayes_cnn import arms, judgement, laplace, method, task
from jaxlab.runs import stage
from jaxlab.runs.model import Model
from tests import forked, runs

KEY = jax.random.key(0)
quick = partial(jax.jit, compiler_options={'xla_backend_optimization_level': 0})


def config_of(**changes):
  config = runs.config_of('bayes_cnn', 'smoke')
  config.data.num_classes = 4
  config.update_from_flattened_dict(changes)
  return config.to_dict()


def batch_of(rows=6, masked=2):
  draw = np.random.default_rng(0)
  return {
    'image': draw.integers(0, 256, (rows, 8, 8, 1), np.uint8),
    'label': draw.integers(0, 4, rows).astype(np.int32),
    'id': np.arange(10, 10 + rows, dtype=np.int32),
    'mask': np.arange(rows) < rows - masked,
  }


@pytest.fixture(scope='module')
def variational():
  """A config, params, vars, and the loss of 'lrt' as one program."""
  config = config_of()
  built = arms.image_task(config, 'lrt')._replace(sets=None)
  params, vars = built.network.init(KEY)
  vars = {**vars, 'updates': jnp.zeros((), jnp.int32)}
  loss = quick(arms._bound(config, 'lrt', built))
  return config, params, vars, lambda batch: loss(params, vars, batch, KEY)


def test_the_loss_is_nats_by_row_and_the_divergence_once(variational):
  """Whatever the batch: rows add up, the penalty stays."""
  _, params, _, loss = variational
  batch = batch_of(8)
  found = loss(batch)
  kl = method.kl(params['net'], method.Gaussian(0.1))
  np.testing.assert_allclose(found.penalty, kl / 1079, rtol=1e-5)
  np.testing.assert_allclose(found.metrics['kl'][0], kl, rtol=1e-5)
  assert found.weight == 6 and found.vars['updates'] == 1
  # Rows in another order, in two batches.
  order = np.random.default_rng(1).permutation(8)
  turned = {name: x[order] for name, x in batch.items()}
  halves = (np.arange(8) < 3, np.arange(8) >= 3)
  parts = [loss({**turned, 'mask': turned['mask'] & rows}) for rows in halves]
  total = sum(part.sum for part in parts)
  np.testing.assert_allclose(total, found.sum, rtol=1e-5)
  for part in parts:
    np.testing.assert_allclose(part.penalty, found.penalty, rtol=1e-6)


def test_the_loss_is_the_same_on_eight_devices(variational):
  *_, loss = variational
  batch = batch_of(8)
  one = loss(batch)
  devices = mesh.make(devices=jax.devices()[:8])
  layout = jax.sharding.NamedSharding(
    devices, jax.sharding.PartitionSpec('data')
  )
  eight = loss({k: jax.device_put(v, layout) for k, v in batch.items()})
  np.testing.assert_allclose(eight.sum, one.sum, rtol=1e-5)
  np.testing.assert_allclose(eight.penalty, one.penalty, rtol=1e-5)


def test_several_draws_average_the_nats(variational):
  config, params, vars, _ = variational
  built = arms.image_task(config, 'lrt')._replace(sets=None)
  twice = config_of(**{'bayes.samples': 2})
  image = jnp.float32(batch_of()['image']) / 255
  noisy = quick(arms._noisy(twice, 'lrt', built))
  draws, _ = noisy(params, vars, image, KEY, batch_of()['id'])
  assert len(draws) == 2 and abs(draws[0] - draws[1]).max() > 1e-4
  fake = lambda *args: (draws, {})
  nats = [
    arms._loss(lambda *args, x=x: ([x], {}), built)({}, {}, batch_of(), KEY).sum
    for x in draws
  ]
  both = arms._loss(fake, built)({}, {}, batch_of(), KEY)
  np.testing.assert_allclose(both.sum, np.mean(nats), rtol=1e-5)
  assert both.weight == 4


def stepper(config, arm):
  """The arm's update as one program: (params, vars) -> State after, before."""
  built = arms.image_task(config, arm)._replace(sets=None)
  update = arms.make_update(config, arm, 0.1, built, 10)
  run = quick(update)

  def step(params, vars):
    state = create_state(params, update, vars=vars)
    return run(state, batch_of(), KEY)[0], state

  return step


SGD = {
  'optimizer.name': 'sgd',
  'optimizer.schedule': 'constant',
  'model.name': 'lenet',
}


def test_an_ensembles_members_train_as_networks_alone():
  config = config_of(**SGD, **{'ensemble.members': 2})
  config['optimizer'] |= {'momentum': 0.0}
  built = arms.image_task(config, 'ensemble')
  params, vars = built.network.init(KEY)
  first, second = (
    jax.tree.map(lambda x, i=i: x[i], params['net']) for i in (0, 1)
  )
  assert abs(first['conv1']['kernel'] - second['conv1']['kernel']).max() > 0.01
  new, _ = stepper(config, 'ensemble')(params, vars)
  step = stepper(config, 'deterministic')
  for i, member in enumerate((first, second)):
    alone, _ = step({'net': member}, vars)
    chex.assert_trees_all_close(
      jax.tree.map(lambda x, i=i: x[i], new.params['net']),
      alone.params['net'],
      rtol=1e-4,
      atol=1e-6,
    )
  # Predictions are mean probabilities, not mean logits.
  found = arms.predictor(config, 'ensemble', params, vars, KEY)
  logits = jnp.stack(
    [found.logits(found.weights(t), vars, batch_of()) for t in (0, 1)]
  )
  wanted = jax.nn.softmax(logits).mean(0)
  mean = jax.nn.softmax(built.logits(params, vars, batch_of()))
  np.testing.assert_allclose(mean, wanted, rtol=1e-4)


def test_ivon_takes_its_gradient_at_a_draw_and_moves_the_mean():
  config = config_of(**SGD, **{'bayes.n_train': 1079})
  built = arms.image_task(config, 'ivon')._replace(sets=None)
  params, vars = built.network.init(KEY)
  new, state = stepper(config, 'ivon')(params, vars)
  draw, _ = jax.random.split(KEY)
  noise = method.ivon_noise(draw, state.opt['net'])
  np.testing.assert_allclose(state.opt['net'].ess, 1079)

  def nats(net):
    batch = batch_of()
    logits = built.logits({'net': net}, vars, batch)
    each = optax.losses.softmax_cross_entropy_with_integer_labels(
      logits, batch['label']
    )
    return each[:4].mean()

  at = jax.tree.map(jnp.add, params['net'], noise)
  grads = quick(jax.grad(nats))(at)
  c = config['ivon']
  tx = method.ivon(
    0.1,
    1079,
    hess_init=c['hess_init'],
    beta2=c['beta2'],
    weight_decay=c['weight_decay'],
  )
  updates, opt = tx.update(grads, state.opt['net'], params['net'], noise=noise)
  chex.assert_trees_all_close(
    new.params['net'],
    optax.apply_updates(params['net'], updates),
    rtol=1e-4,
    atol=1e-6,
  )
  chex.assert_trees_all_close(
    new.opt['net'].hessian, opt.hessian, rtol=1e-3, atol=1e-6
  )
  found = arms.predictor(config, 'ivon', params, vars, KEY, new.opt['net'])
  wanted = method.ivon_noise(jax.random.fold_in(KEY, 3), new.opt['net'])
  moved = jax.tree.map(jnp.subtract, found.weights(3), params['net'])
  chex.assert_trees_all_close(moved, wanted, rtol=1e-3, atol=1e-6)
  with pytest.raises(InputError, match=r'State.opt'):
    arms.predictor(config, 'ivon', params, vars, KEY)


def test_post_hoc_arms_change_the_head_or_the_temperature():
  config = config_of(**{'model.name': 'lenet'})
  built = arms.image_task(config, 'laplace')
  params, vars = built.network.init(KEY)
  head = jax.device_get(params['net']['head'])
  fitted = laplace.Laplace(
    np.concatenate([head['kernel'], head['bias'][None]]).T.astype(float),
    1e4 * np.eye(head['kernel'].size + 4),
    1.0,
  )
  plain = built.logits(params, vars, batch_of())
  found = arms.predictor(config, 'laplace', params, vars, KEY, fitted=fitted)
  near = found.logits(found.weights(0), vars, batch_of())
  assert 0 < abs(near - plain).max() < 0.1
  found = arms.predictor(config, 'temperature', params, vars, KEY, fitted=2.0)
  half = found.logits(found.weights(0), vars, batch_of())
  np.testing.assert_allclose(half, plain / 2, rtol=1e-5)
  assert found.draws == 1


# --- the judgement ---


def test_figures_are_of_the_mean_of_the_draws():
  draw = np.random.default_rng(0)
  logits = draw.normal(size=(5, 40, 3))
  log_p = np.asarray(jax.nn.log_softmax(jnp.float32(logits)))
  labels = draw.integers(0, 3, 40)
  found = judgement.summary(log_p, labels)
  p = np.exp(log_p).mean(0)
  nats = -np.log(p[np.arange(40), labels]).mean()
  np.testing.assert_allclose(found['nats'], nats, rtol=1e-5)
  np.testing.assert_allclose(found['accuracy'], (p.argmax(-1) == labels).mean())
  total = 1 - np.square(p).sum(-1).mean()
  np.testing.assert_allclose(
    found['aleatoric'] + found['epistemic'], total, rtol=1e-5
  )
  entropy = -(p * np.log(p)).sum(-1).mean()
  both = found['expected_entropy'] + found['mutual_information']
  np.testing.assert_allclose(both, entropy, rtol=1e-5)


def test_predictions_do_not_depend_on_how_a_set_is_cut(variational):
  config, params, vars, _ = variational
  images = batch_of(7)['image']
  whole = task.predict(Model(config, params, vars), images)
  config = {**config, 'data': {**config['data'], 'eval_batch_size': 4}}
  made = Model(config, params, vars)
  parts = task.predict(made, images)
  assert len(whole) == 7
  for one, other in zip(whole, parts):
    p, other_p = one.pop('probabilities'), other.pop('probabilities')
    np.testing.assert_allclose(p, other_p, rtol=1e-4)
    np.testing.assert_allclose(sum(p), 1, rtol=1e-5)
    assert one == pytest.approx(other, rel=1e-4, abs=1e-6)
    assert one['epistemic'] > 1e-9 and one['aleatoric'] > 0.1
  with pytest.raises(InputError, match='what the model was trained on'):
    task.predict(made, images[:, :4])


# --- bad configs ---


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'bayes.n_train': None}, 'n_train = None: the divergence is divided'),
    ({'bayes.n_train': 0}, 'n_train = 0'),
    ({'evaluation.draws': 0}, 'config.evaluation.draws = 0 must be at least 1'),
    ({'predict.draws': 0}, 'config.predict.draws = 0'),
    ({'bayes.spread': 90.0}, 'config.bayes.spread = 90.0 must be in'),
    ({'optimizer.weight_decay': 5e-4}, 'weight_decay = 0.0005 on variational'),
    (
      {'prior.sigma': 0.0},
      'sigma = 0.0 must be above 0: under a prior of zero',
    ),
    ({'prior.name': 'cauchy'}, 'prior "cauchy" is not one of gaussian'),
    ({'bayes.schedule': 'cold'}, 'beta schedule "cold"'),
    ({'study.arms': ('lrt', 'laplace')}, "add 'deterministic'"),
    ({'study.arms': ('lrt', 'swag')}, 'each one of lrt, flipout'),
    ({'evaluation.corruptions': ('fog',)}, 'NAME:SEVERITY'),
    ({'model.name': 'lenet'}, 'other networks take the arm "sample"'),
    ({'model.net': 'vgg'}, 'no net "vgg"; known: lenet5'),
  ],
)
def test_a_config_that_cannot_be_is_refused(changes, message):
  config = runs.config_of('bayes_cnn', 'smoke')
  with config.ignore_type():
    config.update_from_flattened_dict(changes)
  with pytest.raises((InputError, ValueError), match=message.split('(')[0]):
    stages = task.program(config.to_dict())
    devices = mesh.make(devices=jax.devices()[:1])
    space = stage.Workspace('none', config.to_dict(), devices, 0, offline=True)
    planned = stages[0].plan(space)
    jax.eval_shape(planned.task.init, KEY)


def test_a_number_of_examples_that_is_not_the_sources_is_refused():
  config = config_of(**{'bayes.n_train': 1000, 'data.num_classes': 10})
  built = arms.image_task(config, 'lrt')
  for arm in ('lrt', 'ivon'):
    with pytest.raises(InputError, match=r'1079 examples.*1.08 times'):
      arms.make_update(config, arm, 0.1, built, 10)
  assert arms.make_update(config, 'deterministic', 0.1, built, 10)


@pytest.mark.parametrize(
  'changes',
  [
    {'bayes.posterior': 'log_alpha', 'prior.name': 'ard'},
    {'prior.name': 'scale_mixture', 'bayes.schedule': 'blundell'},
    {'bayes.posterior': 'log_alpha', 'prior.name': 'log_uniform'},
    {'bayes.schedule': 'warmup', 'bayes.samples': 2},
  ],
)
@pytest.mark.parametrize('arm', arms.VARIATIONAL)
def test_posteriors_priors_and_schedules_go_together(changes, arm):
  config = config_of(**changes)
  built = arms.image_task(config, arm)._replace(sets=None)
  update = arms.make_update(config, arm, 0.1, built, 10)

  def step(key):
    params, vars = built.network.init(key)
    vars = {**vars, 'updates': jnp.zeros((), jnp.int32)}
    state = create_state(params, update, vars=vars)
    return state, update(state, batch_of(), key)

  before, (after, metrics) = jax.eval_shape(step, KEY)
  chex.assert_trees_all_equal_shapes_and_dtypes(before, after)
  assert {'kl', 'accuracy', 'loss'} <= {*metrics}


def test_arms_made_of_others_come_behind_them_with_one_rate():
  config = config_of(
    **{
      'study.arms': ('temperature', 'ivon', 'deterministic', 'laplace'),
      'study.baseline': 'deterministic',
      'study.rates': (0.1, 0.2),
    }
  )
  study = task.make_study(config)
  assert study.arms[0] == 'deterministic' and study.arms[1] == 'ivon'
  names = [one.name for one in task.program(config)]
  assert 'trial-deterministic-r0.2' in names
  assert not [name for name in names if name.startswith('trial-ivon')]
  assert names.index('laplace-s0-judge') > names.index('deterministic-s0')
  assert names[-2:] == ['study', 'figures']


@pytest.mark.slow
def test_every_arm_runs_to_its_figures(tmp_path):
  names = ('deterministic', *arms.POST_HOC, 'mc_dropout', 'ensemble', 'ivon')
  names = (*names, 'sample', 'flipout')
  flags = [
    '--config=configs/bayes_cnn.py:smoke',
    f'--config.study.arms={names}',
    '--config.study.baseline=deterministic',
    '--config.ensemble.steps=48',
    '--offline',
  ]
  ended = forked.run(flags, tmp_path / 'run', tmp_path / 'data')
  assert ended.code == 0, ended.said
  for name in names:
    report = tmp_path / 'run' / f'{name}-s0-judge' / 'report.json'
    found = json.loads(report.read_text())['metrics']
    assert 0 <= found['test/accuracy'] <= 1
    single = name in ('deterministic', 'temperature')
    assert (found['test/epistemic'] < 1e-6) == single, name
  (figures,) = (tmp_path / 'run').glob('figures/figures')
  drawn = {path.stem for path in figures.iterdir()}
  wanted = {'rejection', 'reliability', 'signal_to_noise', 'most_uncertain'}
  assert drawn == wanted
