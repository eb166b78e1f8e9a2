"""Image classification and the study of batch sizes."""

import importlib.util
import json
import math
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxlab.engine import mesh, stage, workdir
from jaxlab.engine.errors import InputError
from jaxlab.ops.intervals import student_t
from jaxlab.papers.lamb import images, study

ROOT = Path(__file__).parents[2]


def config_of(file, name=''):
  path = ROOT / 'configs' / f'{file}.py'
  spec = importlib.util.spec_from_file_location('config', path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.get_config(name)


def space_of(config, folder, devices=1):
  workdir.write_json(folder / 'config.json', config.to_dict())
  devices = mesh.make(devices=jax.devices()[:devices])
  return stage.Workspace(folder, config.to_dict(), devices, config.seed)


@pytest.fixture(autouse=True)
def own_data(tmp_path_factory, monkeypatch):
  folder = tmp_path_factory.getbasetemp() / 'lamb_images_data'
  monkeypatch.setenv('JAXLAB_DATA_DIR', str(folder))


class Trainings:
  """Trainings that are a formula of rate, batch and seed, and a diary."""

  def __init__(self, value):
    self.value = value
    self.done = []

  def stage(self, run):
    def work(space):
      rate = run.rate(space)
      self.done.append((run, rate))
      figures = {'validation/accuracy': self.value(run, rate)}
      if run.test:
        figures['test/accuracy'] = self.value(run, rate) - run.seed / 100
      return figures

    return stage.Stage(run.name, work)


def study_config():
  config = config_of('lamb_images', 'scaling')
  config.study.batch_sizes = (16, 64)
  config.study.reference_batch_size = 16
  config.study.examples = 6_400
  config.study.largest_micro_batch = 32
  config.study.warmup_steps = 30
  config.study.optimizers = {
    'lamb': {'rule': 'sqrt', 'rates': (0.01, 0.03, 0.1)},
    'adamw': {'rule': 'tuned', 'rates': (0.001, 0.003)},
  }
  return config


def run_study(config, folder, value):
  space = space_of(config, folder)
  trainings = Trainings(value)
  stage.run_all(study.stages(space.config, trainings.stage), space)
  rows = json.loads((folder / 'study' / 'study.json').read_text())
  return trainings.done, rows


def best_at(run, rate):
  """Best at .03 for LAMB at 16; at .002 for AdamW at 16, at .006 at 64."""
  best = {'lamb': 0.03, 'adamw': 0.002 if run.batch_size == 16 else 0.006}
  return 1 - abs(math.log(rate / best[run.optimizer])) / 10


def test_a_study_chooses_on_validation_and_reads_the_test_set_after(tmp_path):
  done, rows = run_study(study_config(), tmp_path, best_at)
  trials = [(r.optimizer, r.batch_size, rate) for r, rate in done if not r.test]
  assert trials == [
    ('adamw', 16, 0.001),
    ('adamw', 16, 0.003),
    ('adamw', 64, 0.002),  # twice the rate at four times the batch
    ('adamw', 64, 0.006),
    ('lamb', 16, 0.01),
    ('lamb', 16, 0.03),
    ('lamb', 16, 0.1),
  ]
  finals = {
    (r.optimizer, r.batch_size, r.seed): rate for r, rate in done if r.test
  }
  rates = {
    ('lamb', 16): 0.03,
    ('lamb', 64): 0.06,  # not tried: the rule's
    ('adamw', 16): 0.003,
    ('adamw', 64): 0.006,
  }
  assert finals == pytest.approx(
    {(*cell, s): rate for cell, rate in rates.items() for s in (0, 1, 2)}
  )
  for row in rows:
    cell = (row['optimizer'], row['batch_size'])
    assert row['learning_rate'] == pytest.approx(rates[cell])
    mean, half = student_t(row['values'])
    assert (row['mean'], row['half_width']) == pytest.approx((mean, half))
    # The seeds' figures are .00, .01 and .02 below one number.
    np.testing.assert_allclose(np.diff(row['values']), -0.01, rtol=1e-6)
  assert (tmp_path / 'study' / 'figures' / 'accuracy.png').stat().st_size > 1000


def test_every_run_of_a_study_sees_the_same_number_of_examples(tmp_path):
  done, _ = run_study(study_config(), tmp_path, best_at)
  for run, _ in done:
    assert run.steps * run.batch_size == 6_400
    # 64 rows in micro-batches of 32; 100 steps keep half at most for warm-up.
    assert run.accumulate == (2 if run.batch_size == 64 else 1)
    assert run.warmup_steps == 30


def test_a_training_that_diverged_is_never_chosen_and_is_named(tmp_path):
  def value(run, rate):
    if run.optimizer == 'lamb' and rate > 0.05:
      return math.nan  # as at batch 64, where the rule gives .06
    return best_at(run, rate)

  _, rows = run_study(study_config(), tmp_path, value)
  found = {(r['optimizer'], r['batch_size']): r for r in rows}
  assert found['lamb', 16]['learning_rate'] == pytest.approx(0.03)
  assert found['lamb', 64]['mean'] is None
  text = (tmp_path / 'study' / 'study.md').read_text()
  assert (
    '| lamb | sqrt | 64 | 0.06 | 100 | diverged diverged diverged |' in text
  )


@pytest.mark.parametrize(
  'key, value, message',
  [
    ('reference_batch_size', 32, 'is not one of config.study.batch_sizes'),
    ('seeds', (), 'config.study.seeds is empty'),
    ('better', 'more', 'is not "lower" or "higher"'),
    ('examples', 40, 'less than one batch of 64'),
    (
      'optimizers',
      {'lamb': {'rule': 'linear', 'rates': (0.1,)}},
      'rule is sqrt or tuned',
    ),
  ],
)
def test_a_study_that_cannot_be_is_refused(key, value, message):
  config = study_config()
  with config.ignore_type():
    config.study[key] = value
  with pytest.raises(InputError, match=message):
    images.program(config.to_dict())


@pytest.mark.parametrize(
  'key, value, message',
  [
    ('model.name', 'vgg', 'config.model.name = "vgg" is not one of'),
    ('data.augment', 'mixup', 'config.data.augment = "mixup" is not one of'),
    ('optimizer.name', 'lomb', 'lomb'),
    ('train.accumulate', 3, 'does not divide into 3 micro-batches'),
  ],
)
def test_a_value_that_cannot_be_is_refused_before_any_work(key, value, message):
  config = config_of('lamb_images', 'smoke')
  config.update_from_flattened_dict({key: value})
  with pytest.raises(InputError, match=message):
    images.program(config.to_dict())


def test_imagenet_that_is_not_prepared_is_named_with_the_cure(tmp_path):
  config = config_of('resnet50')
  config.data.batch_size = 8
  config.model.width = 8
  space = space_of(config, tmp_path)
  with pytest.raises(InputError) as caught:
    stage.run_all(images.program(space.config), space)
  said = str(caught.value)
  assert 'imagenet2012' in said
  assert 'array_record' in said
