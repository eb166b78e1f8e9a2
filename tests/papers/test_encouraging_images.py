"""The image job of the encouraging loss: study, analyses, judgement."""

import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxlab.core.errors import InputError
from jaxlab.core.state import State
from jaxlab.data.images.sets import ImageSets
from jaxlab.engine import mesh
from jaxlab.ops.attack_objectives import nats, rescaled_nats
from jaxlab.papers.encouraging import analysis, arms, images
from jaxlab.papers.encouraging.method import (
  effective_number_weights,
  encouraging_loss,
)
from jaxlab.runs import stage, workdir
from tests import runs


def tiny(**changes):
  config = runs.config_of('encouraging', 'smoke')
  config.train.steps = 12
  config.train.log_every_steps = 6
  config.train.eval_every_steps = 6
  config.adversarial.steps = 1
  config.adversarial.examples = 20
  config.analysis.examples = 60
  config.ood.examples = 60
  config.ood.examples_each = 40
  config.losses = runs.config_of('encouraging').losses
  del config.losses.el_exact, config.losses.el_75
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
  config['losses'] = {'el': config['losses']['el']}
  config['study'] |= {'baseline': 'el'}
  workdir.write_json(folder / 'config.json', config)
  devices = mesh.make(devices=jax.devices()[:1])
  space = stage.Workspace(folder, config, devices, 0)
  stage.run_all(images.program(config), space)
  patch.undo()
  return folder


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


def test_its_page_shows_answers_attacks_and_outliers(finished):
  found = json.loads((finished / 'el-s0' / 'sections.json').read_text())
  files = [x['file'] for x in found if x['kind'] == 'figure']
  assert files == [
    'answers_test.png',
    'mistakes_test.png',
    'attacked_pgd_0.1.png',
  ]
  [table] = [x for x in found if x['kind'] == 'table']
  figures = json.loads((finished / 'el-s0' / 'report.json').read_text())
  area = figures['metrics']['test/auroc/gaussian_noise/msp']
  assert table['rows'][0][:2] == ['gaussian_noise', area]


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
  assert not slope(nats).any()
  assert abs(slope(rescaled_nats)).max() > 1e-5


def test_a_long_tail_has_its_ratio_and_keeps_the_first_rows():
  labels = np.tile(np.arange(10), 100)
  kept = images.long_tailed(labels, 10, 100)
  counts = np.bincount(labels[kept], minlength=10)
  assert counts[0] == 100 and counts[9] == 1
  assert (np.diff(counts) <= 0).all()
  chex.assert_trees_all_equal(kept[labels[kept] == 9], np.array([9]))


def test_deferred_losses_change_at_their_update():
  config = runs.config_of('encouraging', 'cifar10_lt').to_dict()
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


def test_a_folder_of_images_has_the_splits_of_inat2018(tmp_path, monkeypatch):
  monkeypatch.setenv('JAXLAB_DATA_DIR', str(tmp_path / 'data'))
  config = runs.config_of('encouraging', 'inat2018').to_dict()
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


@pytest.mark.parametrize(
  ('key', 'value', 'message'),
  [
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
    images.program(config)


def test_a_schedule_of_a_log_end_needs_a_bonus_that_has_one():
  changes = {
    'losses.el.bonus': 'power',
    'losses.el.schedule': 'linear',
    'losses.el.schedule_of': 'log_end',
  }
  with pytest.raises(InputError, match='bonus "power" has no log_end'):
    images.program(tiny(**changes))
