"""Image classification and the study of batch sizes."""

import json
import math

import chex
import jax
import pytest

from jaxlab.core.errors import InputError
from jaxlab.papers.lamb import images, sizes
from jaxlab.planning import plan
from jaxlab.runs import sections, stage, workdir
from tests.papers.lamb_jobs import config_of, space_of


class Trainings:
  """Trainings that are a formula of rate, batch and seed, and a diary."""

  def __init__(self, value):
    self.value = value
    self.done = []

  def stage(self, config, cell):
    def work(space):
      rate = cell.rate(space)
      self.done.append((config, cell, rate))
      figures = {'validation/accuracy': self.value(cell, rate)}
      if cell.final:
        figures['test/accuracy'] = self.value(cell, rate) - cell.seed / 100
      return figures

    return stage.Stage(cell.name, work)


def study_config():
  config = config_of('lamb_images', 'scaling')
  config['study'] |= {
    'batch_sizes': (16, 64),
    'reference_batch_size': 16,
    'examples': 6_400,
    'largest_micro_batch': 32,
    'warmup_steps': 30,
    'optimizers': {
      'lamb': {'rule': 'sqrt', 'rates': (0.01, 0.03, 0.1)},
      'adamw': {'rule': 'tuned', 'rates': (0.001, 0.003)},
    },
  }
  return config


def best_at(cell, rate):
  """Best at .03 for LAMB at 16; at .002 for AdamW at 16, at .006 at 64."""
  best = {'lamb': 0.03, 'adamw': 0.002 if cell.setting == 16 else 0.006}
  return 1 - abs(math.log(rate / best[cell.arm])) / 10


@pytest.fixture(scope='module')
def studied(tmp_path_factory):
  """The diary of a study, and the sections of its page."""
  folder = tmp_path_factory.mktemp('study')
  config = study_config()
  workdir.write_json(folder / 'config.json', config)
  trainings = Trainings(best_at)
  stages = sizes.stages(config, ('accuracy',), trainings.stage)
  stage.run_all(stages, space_of(config, folder))
  page = json.loads((folder / 'study' / sections.FILE).read_text())
  return trainings.done, page


# 'lamb' at 64 was not tried: its rate is the rule's.
RATES = {
  ('adamw', 16): 0.003,
  ('adamw', 64): 0.006,
  ('lamb', 16): 0.03,
  ('lamb', 64): 0.06,
}


def test_a_study_follows_each_rule_and_reads_the_test_set_after(studied):
  done, _ = studied
  trials = [(c.arm, c.setting, rate) for _, c, rate in done if not c.final]
  assert trials == [
    ('adamw', 16, 0.001),
    ('adamw', 16, 0.003),
    ('adamw', 64, 0.002),  # twice the rate at four times the batch
    ('adamw', 64, 0.006),
    ('lamb', 16, 0.01),
    ('lamb', 16, 0.03),
    ('lamb', 16, 0.1),
  ]
  finals = {(c.arm, c.setting, c.seed): rate for _, c, rate in done if c.final}
  assert finals == pytest.approx(
    {(*cell, s): rate for cell, rate in RATES.items() for s in (0, 1, 2)}
  )


def test_every_training_of_a_study_sees_the_same_number_of_examples(studied):
  for config, cell, _ in studied[0]:
    rows, c = config['data']['batch_size'], config['optimizer']
    assert rows == cell.setting
    assert config['train']['steps'] * rows == 6_400
    assert (c['name'], config['seed']) == (cell.arm, cell.seed)
    # 64 rows in micro-batches of 32; 100 steps keep half at most for warm-up.
    assert c['micro_batches'] == (2 if rows == 64 else 1)
    assert c['warmup_steps'] == 30


def test_a_study_shows_rules_steps_rates_and_paired_differences(studied):
  _, page = studied
  tables = [part for part in page if part['kind'] == 'table']
  rows = {(row[0], row[2]): row for row in tables[0]['rows']}
  for cell, rate in RATES.items():
    rule = 'tuned' if cell[0] == 'adamw' else 'sqrt'
    assert rows[cell][:5] == [cell[0], rule, cell[1], 6_400 // cell[1], 30]
    assert rows[cell][5] == pytest.approx(rate)
  results = {row[0]: row for row in tables[1]['rows']}
  assert tables[1]['columns'][1:] == ['adamw', 'lamb', 'lamb - adamw']
  # At 64 AdamW is at its best: 1, .99, .98 by seed; LAMB is ln 2 / 10 below.
  row = results['test/accuracy at 64']
  means = [float(cell.split(' ± ')[0]) for cell in row[1:]]
  assert means == pytest.approx([0.99, 0.9207, -0.0693])


@pytest.mark.parametrize(
  'key, value, message',
  [
    ('reference_batch_size', 32, 'must be one of 16, 64'),
    ('seeds', (), r'seeds = \[\] must be filled'),
    ('better', 'more', 'must be one of lower, higher'),
    ('metric', 'f1', 'must be one of accuracy, nats'),
    ('baseline', 'adam', 'must be one of lamb, adamw'),
    ('examples', 40, 'must be at least 64; one batch of each size'),
    (
      'optimizers',
      {'adamw': {'rule': 'linear', 'rates': (0.1,)}},
      r'optimizers\.adamw\.rule = "linear" must be one of sqrt, tuned',
    ),
  ],
)
def test_a_study_that_cannot_be_is_refused(key, value, message):
  config = study_config()
  config['study'][key] = value
  with pytest.raises(InputError, match=message) as caught:
    images.program(config)
  assert f'config.study.{key}' in str(caught.value)


@pytest.mark.parametrize(
  'section, key, value, message',
  [
    ('data', 'augment', 'mixup', 'data.augment = "mixup" must be one of'),
    ('optimizer', 'name', 'lomb', 'optimizer.name = "lomb" must be one of'),
    (
      'optimizer',
      'micro_batches',
      3,
      'batch_size = 64 must be a multiple of 3',
    ),
    ('optimizer', 'exclude', 'all', 'optimizer.exclude = "all" must be one of'),
    ('model', 'label_smoothing', 2.0, 'label_smoothing = 2.0 must be in'),
  ],
)
def test_a_value_that_cannot_be_is_refused(section, key, value, message):
  config = config_of('lamb_images', 'smoke')
  config[section][key] = value
  with pytest.raises(InputError, match=message):
    images.program(config)


@pytest.mark.parametrize(
  'file, name, stages, rows',
  [
    ('lamb_images', 'cifar10', 1, (128, 32, 32, 3)),
    ('lamb_images', 'scaling', 12 + 4 * 3 * 3 + 6, (64, 28, 28, 1)),
    ('resnet50', '', 1, (32768, 256, 256, 3)),
  ],
)
def test_every_training_is_planned_without_data(file, name, stages, rows):
  """Trials have not run: a final one takes the first rate."""
  config = config_of(file, name)
  space = space_of(config, devices=8)
  planned = [one.plan(space) for one in images.program(config) if one.plan]
  assert len(planned) == stages
  assert planned[0].spec['train']['image'].shape == rows
  if name == 'scaling':
    state, batch = plan.shapes(planned[-1], 'train', space.mesh)
    update = planned[-1].task.steps['train']
    after, _ = jax.eval_shape(update, state, batch, jax.random.key(0))
    chex.assert_trees_all_equal_shapes_and_dtypes(after, state)


def test_imagenet_that_is_not_prepared_is_named_with_the_cure(
  tmp_path, monkeypatch
):
  monkeypatch.setenv('JAXLAB_DATA_DIR', str(tmp_path))
  config = config_of('resnet50')
  (one,) = images.program(config)
  with pytest.raises(InputError, match=r'(?s)imagenet2012.*array_record'):
    one.run(space_of(config, tmp_path))
