"""The image job of the encouraging loss: study, analyses, judgement."""

import importlib
import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxlab.data.image_sets import ImageSets
from jaxlab.engine import mesh, stage, workdir
from jaxlab.engine.errors import InputError
from jaxlab.engine.state import State
from jaxlab.evals import study
from jaxlab.papers.encouraging import (
  analysis,
  arms,
  image_judgement,
  images,
  task,
)
from jaxlab.papers.encouraging.method import (
  effective_number_weights,
  encouraging_loss,
)

configs = importlib.import_module('configs.encouraging')


def tiny(**changes):
  config = configs.get_config('smoke')
  config.train.steps = 12
  config.train.log_every_steps = 6
  config.train.eval_every_steps = 6
  config.adversarial.steps = 1
  config.adversarial.examples = 20
  config.analysis.examples = 60
  config.ood.examples = 60
  config.ood.examples_each = 40
  config.losses = {'ce': configs.loss(), 'el': config.losses.el}
  config.study.baseline = 'ce'
  config.study.rates = (0.05,)
  config.update_from_flattened_dict(changes)
  return config.to_dict()


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  patch = pytest.MonkeyPatch()
  folder = tmp_path_factory.mktemp('el')
  patch.setenv('JAXLAB_DATA_DIR', str(folder / 'data'))
  config = tiny()
  workdir.write_json(folder / 'config.json', config)
  devices = mesh.make(devices=jax.devices()[:1])
  space = stage.Workspace(folder, config, devices, 0)
  stage.run_all(task.program(config), space)
  patch.undo()
  return folder


def left(folder, name, lines=(), **figures):
  """A stage's report and lines of metrics, as if it had run."""
  (folder / name).mkdir()
  text = ''.join(json.dumps(line) + '\n' for line in lines)
  (folder / name / 'metrics.jsonl').write_text(text)
  metrics = {k.replace('_', '/', 1): v for k, v in figures.items()}
  workdir.write_json(folder / name / 'report.json', {'metrics': metrics})


def test_each_loss_takes_the_rate_that_was_best_on_validation(tmp_path):
  config = tiny(**{'study.rates': (0.02, 0.05)})
  space = stage.Workspace(tmp_path, config, None, 0)
  for arm, values in {'ce': (0.4, 0.6), 'el': (0.7, 0.6)}.items():
    for rate, value in zip((0.02, 0.05), values):
      left(tmp_path, f'trial-{arm}-r{rate:g}', validation_accuracy=value)
  chosen = {
    arm: study.finals_of(config, arm)[0].rate(space) for arm in ('ce', 'el')
  }
  assert chosen == {'ce': 0.05, 'el': 0.02}


def test_a_diverged_trial_is_never_chosen(tmp_path):
  config = tiny(**{'study.rates': (0.02, 0.05)})
  space = stage.Workspace(tmp_path, config, None, 0)
  left(tmp_path, 'trial-ce-r0.02', validation_accuracy=0.4)
  left(tmp_path, 'trial-ce-r0.05', validation_accuracy=None)
  left(tmp_path, 'trial-el-r0.02', validation_accuracy=0.4)
  skipped = [{'kind': 'train', 'step': 6, 'bad_steps': 2}]
  left(tmp_path, 'trial-el-r0.05', skipped, validation_accuracy=0.6)
  for arm in ('ce', 'el'):
    assert study.finals_of(config, arm)[0].rate(space) == 0.02


def test_only_final_runs_read_the_test_set():
  config = tiny(**{'study.rates': (0.02, 0.05)})
  cells = []

  def make(cell):
    cells.append(cell)
    return stage.Stage(cell.name, lambda space: {})

  study.stages(config, list(config['losses']), make, ['accuracy'])
  assert [c.name for c in cells if c.test] == ['ce-s0', 'el-s0']
  assert len([c for c in cells if not c.test]) == 4


def test_a_diverging_trial_is_skipped_to_its_end_and_a_final_run_is_not():
  config = tiny(**{'study.rates': (0.02, 0.05)})
  limits = {}
  make = lambda cell: limits.setdefault(
    cell.test, study.options_of(config, cell, ['batch_size']).max_bad_steps
  )
  study.stages(config, ['ce', 'el'], make, ['accuracy'])
  assert limits == {False: config['train']['steps'], True: 0}


def test_a_baseline_that_is_no_arm_is_an_input_error():
  config = tiny(**{'study.baseline': 'mse'})
  with pytest.raises(InputError, match='baseline = "mse" is not one of ce, el'):
    study.stages(config, ['ce', 'el'], None, ['accuracy'])


def test_the_study_has_means_and_differences_paired_by_seed(tmp_path):
  config = tiny(**{'study.seeds': (0, 1), 'study.rates': (0.05,)})
  space = stage.Workspace(tmp_path, config, None, 0)
  values = {'ce': (0.5, 0.75), 'el': (0.75, 0.875)}
  for arm, found in values.items():
    for seed, value in enumerate(found):
      left(tmp_path, f'{arm}-s{seed}', test_accuracy=value)
  *_, table, _ = task.program(config)
  assert table.name == 'study'
  space.folder('study').mkdir()
  figures = table.run(space)
  assert figures['el/test/accuracy'] == 0.8125
  (row,) = json.loads((tmp_path / 'study' / 'study.json').read_text())['rows']
  assert row['ce by seed'] == [0.5, 0.75]
  mean, _, half = row['el - ce'].split(' ')  # of .25 and .125
  assert float(mean) == pytest.approx(0.1875, abs=1e-4)
  assert float(half) == pytest.approx(12.706 * 0.0625, abs=1e-3)
  assert '| el - ce |' in (tmp_path / 'study' / 'study.md').read_text()


def test_a_final_run_judges_calibration_outliers_and_attacks(finished):
  figures = json.loads((finished / 'el-s0' / 'report.json').read_text())
  figures = figures['metrics']
  for name in (
    'ece',
    'nll_scaled',
    'temperature',
    'auroc/gaussian_noise/msp',
    'fpr_at_95tpr_id_positive/gaussian_noise/energy',
    'attacked/fgsm_0.1_accuracy',
    'attacked/pgd_rescaled_0.1_accuracy',
    'attacked/pgd_dlr_0.1_accuracy',
  ):
    assert np.isfinite(figures[f'test/{name}'])
  clean = figures['test/attacked/accuracy']
  assert figures['test/attacked/worst_accuracy'] <= clean


def test_the_three_views_are_drawn(finished):
  drawn = {p.name for p in (finished / 'analysis' / 'figures').glob('*.png')}
  assert drawn == {
    'representation.png',
    'energy_of_label.png',
    'energy_of_others.png',
    'margin.png',
    'margins_over_training.png',
  }


def test_views_equal_those_written_out():
  logits = jnp.array([[1.0, 4.0, 2.0], [0.0, -1.0, 3.0]])
  labels = jnp.array([1, 0])
  own, others = analysis.energies(logits, labels)  # of all others, in order
  close = np.testing.assert_allclose
  close(analysis.margins(logits, labels), [2.0, -3.0])
  close(own, [-4.0, 0.0])
  close(others, [[-1.0, -2.0], [1.0, -3.0]])


def test_margin_quantiles_are_those_of_the_rows_that_count():
  draw = np.random.default_rng(0)
  logits = draw.normal(0, 3, (2, 8, 4)).astype(np.float32)
  labels = draw.integers(0, 4, (2, 8))
  mask = np.array([[True] * 7 + [False], [True] * 4 + [False] * 4])
  logits[~mask] = 1e6 * np.arange(4)
  state = State(jnp.int32(0), {}, {}, {})
  held = analysis.margin_quantiles(lambda params, vars, b: b['logits'], 20)
  total, update = held.init(), jax.jit(held.update)
  for rows in zip(logits, labels, mask):
    batch = dict(zip(('logits', 'label', 'mask'), rows))
    total = update(total, state, batch, jax.random.key(0))
  found = held.finish(total)
  own = np.take_along_axis(logits, labels[..., None], -1)[..., 0]
  others = np.where(np.arange(4) == labels[..., None], -np.inf, logits)
  margins = (own - others.max(-1))[mask]
  wanted = {
    f'margin_q{percent}': np.quantile(margins, int(percent) / 100)
    for percent in ('05', '25', '50', '75', '95')
  }
  wanted['label_energy'] = -own[mask].mean()
  assert found == pytest.approx(wanted, rel=1e-6)


def test_the_representation_gradient_is_that_of_the_last_layers_input():
  draw = np.random.default_rng(0)
  kernel = jnp.asarray(draw.normal(size=(5, 4)), jnp.float32)
  hidden = jnp.asarray(draw.normal(size=(6, 5)), jnp.float32)
  labels = jnp.arange(6) % 4
  loss = encouraging_loss
  want = jnp.linalg.norm(
    jax.grad(lambda h: loss(h @ kernel, labels).sum())(hidden), axis=-1
  )
  got = analysis.representation_gradients(loss, hidden @ kernel, labels, kernel)
  chex.assert_trees_all_close(got, want, rtol=1e-5)


def test_the_rescaled_attack_moves_where_cross_entropy_stands_still():
  logits = jnp.array([[900.0, 0.0, 1.0]])
  labels = jnp.array([0])
  slope = lambda f: jax.grad(lambda x: f(x, labels).sum())(logits)
  assert not slope(image_judgement.nats).any()
  assert abs(slope(image_judgement.rescaled)).max() > 1e-5


def test_a_long_tail_has_its_ratio_and_keeps_the_first_rows():
  labels = np.tile(np.arange(10), 100)
  kept = images.long_tailed(labels, 10, 100)
  counts = np.bincount(labels[kept], minlength=10)
  assert counts[0] == 100 and counts[9] == 1
  assert (np.diff(counts) <= 0).all()
  chex.assert_trees_all_equal(kept[labels[kept] == 9], np.array([9]))


def test_deferred_losses_change_at_their_update():
  config = configs.get_config('cifar10_lt').to_dict()
  counts = np.array([5000, 50] + [500] * 8)
  late = config['losses']['drw_el']['weights_start']
  of = lambda arm: arms.loss_of(config, arm, counts)
  logits = jnp.asarray(np.random.default_rng(0).normal(size=(4, 10)))
  labels, mask = jnp.array([0, 1, 2, 3]), jnp.ones(4, bool)
  at = lambda arm, step: of(arm)(logits, labels, mask, jnp.int32(step))
  chex.assert_trees_all_close(at('drw_el', late - 1), at('ce', 0))
  chex.assert_trees_all_close(at('drw', late), at('cb', 0))
  # The weights are of the bonus too, once, and have the mean 1 over all rows.
  weights = effective_number_weights(counts)
  weights = weights * counts.sum() / (weights * counts).sum()
  el = arms.loss_of(config, 'el', counts)(logits, labels, mask, jnp.int32(0))
  chex.assert_trees_all_close(
    at('drw_el', late), el * weights[:4].astype(np.float32), rtol=1e-5
  )
  assert abs(at('drw_el', late) - at('drw', late)).max() > 0.01


@pytest.mark.parametrize(
  'variant',
  ['', 'cifar10', 'cifar10_lt', 'smoke', 'graphs', 'translation', 'imagenet'],
)
def test_every_config_plans_its_step(variant):
  config = configs.get_config(variant).to_dict()
  first = task.program(config)[0]
  devices = mesh.make(devices=jax.devices()[:1])
  space = stage.Workspace(None, config, devices, 0)
  planned = first.plan(space)
  state = jax.eval_shape(planned.task.init, jax.random.key(0))
  kind, batch = next(iter(planned.spec.items()))
  (rows,) = batch['id'].shape
  batch = {**batch, 'mask': jax.ShapeDtypeStruct((rows,), bool)}
  step = planned.task.steps[kind]
  new, _ = jax.eval_shape(step, state, batch, jax.random.key(0))
  chex.assert_trees_all_equal_shapes_and_dtypes(new.params, state.params)


def test_a_folder_of_images_has_the_splits_of_inat2018(tmp_path, monkeypatch):
  monkeypatch.setenv('JAXLAB_DATA_DIR', str(tmp_path / 'data'))
  config = configs.get_config('inat2018').to_dict()
  d = {**config['data'], 'name': f'image_folder:{tmp_path}', 'num_classes': 2}
  splits = [d[f'{name}_split'] for name in ('train', 'validation', 'test')]
  for split in splits:
    for name in ('Aves', 'Fungi'):
      (tmp_path / split / name).mkdir(parents=True)
      pixels = np.full((9, 7, 3), len(split), np.uint8)
      Image.fromarray(pixels).save(tmp_path / split / name / 'a.png')
  sets = ImageSets(d, True)
  for split in splits:
    found = sets.inliers(split)
    assert found['image'].shape == (2, 64, 64, 3)
    assert (found['image'] == len(split)).all()
    assert found['label'].tolist() == [0, 1]


@pytest.mark.parametrize('variant', ['imagenet', 'inat2018', 'nci1', 'iwslt'])
def test_the_papers_own_sets_have_configs_that_hold_together(variant):
  config = configs.get_config(variant).to_dict()
  assert task.program(config)[-1].name in ('study', 'analysis')


@pytest.mark.parametrize(
  ('key', 'value', 'message'),
  [
    ('job', 'music', 'config.job'),
    ('study.rates', (), 'config.study has rates'),
    ('study.better', 'more', 'config.study.better'),
    ('study.metric', 'f1', 'config.study.metric = "f1" is not one of accuracy'),
    ('losses.el.bonus', 'huge', 'config.losses.el: bonus="huge"'),
    ('losses.el.bonus_scale', -1.0, 'bonus_scale=-1.0'),
    ('losses.el.log_end', 1.5, 'log_end=1.5'),
    ('losses.el.schedule', 'sudden', 'shape="sudden"'),
    ('losses.el.schedule_of', 'gamma', 'schedule_of'),
    ('losses.el.weights', 'big', 'config.losses.el.weights'),
    ('data.long_tail', 0.5, 'config.data.long_tail'),
    ('data.augment', 'paint', 'config.data.augment'),
    ('optimizer.drops', (2.0,), 'config.optimizer.drops'),
    ('adversarial.epsilons', (8.0,), 'config.adversarial.epsilons'),
    ('model.name', 'house', 'config.model.name'),
  ],
)
def test_a_value_that_cannot_be_is_named_before_anything_runs(
  key, value, message
):
  config = tiny(**{key: value})
  with pytest.raises(InputError, match=message):
    task.program(config)


def test_a_schedule_of_a_log_end_needs_a_bonus_that_has_one():
  changes = {
    'losses.el.bonus': 'power',
    'losses.el.schedule': 'linear',
    'losses.el.schedule_of': 'log_end',
  }
  with pytest.raises(InputError, match='"log_end" has no meaning for bonus'):
    task.program(tiny(**changes))
