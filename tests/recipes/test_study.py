"""Studies: tuned alike, the test set read by final runs alone, paired."""

import json

import pytest

from jaxlab.core.errors import InputError
from jaxlab.recipes.study import Study, interval, study_of, verdict
from jaxlab.runs import stage, workdir

SECTION = {
  'baseline': 'b',
  'rates': (0.02, 0.05),
  'seeds': (0, 1),
  'metric': 'accuracy',
  'better': 'higher',
}
TRAIN = {'steps': 9, 'max_bad_steps': 0}


def made(**changes):
  config = {'study': {**SECTION, **changes}}
  return study_of(config, ('a', 'b'), ('accuracy', 'nats'))


def left(folder, name, lines=(), **figures):
  """A stage's report and lines of metrics, as if it had run."""
  (folder / name).mkdir()
  text = ''.join(json.dumps(line) + '\n' for line in lines)
  (folder / name / 'metrics.jsonl').write_text(text)
  metrics = {k.replace('_', '/', 1): v for k, v in figures.items()}
  workdir.write_json(folder / name / 'report.json', {'metrics': metrics})


def workspace(folder, **more):
  return stage.Workspace(folder, {}, None, 0, **more)


def empty(cell):
  return stage.Stage(cell.name, lambda space: {})


def test_trials_come_before_final_runs_and_the_baseline_first():
  names = [x.name for x in made().stages(empty)]
  assert names == [
    *('trial-b-r0.02', 'trial-b-r0.05', 'trial-a-r0.02', 'trial-a-r0.05'),
    *('b-s0', 'b-s1', 'a-s0', 'a-s1', 'study'),
  ]
  single = [x.name for x in made(rates=(0.02,)).stages(empty)]
  assert single == ['b-s0', 'b-s1', 'a-s0', 'a-s1', 'study']


def test_only_final_runs_read_the_test_set_and_stop_where_they_diverge():
  cells = []
  made().stages(lambda cell: cells.append(cell) or empty(cell))
  assert [c.final for c in cells] == [False] * 4 + [True] * 4
  assert [c.name for c in cells if c.pictured] == ['b-s0', 'a-s0']
  limits = {c.final: c.options(TRAIN).max_bad_steps for c in cells}
  assert limits == {False: 9, True: 0}


def test_each_arm_takes_the_rate_that_was_best_on_validation(tmp_path):
  for arm, values in {'a': (0.4, 0.6), 'b': (0.7, 0.6)}.items():
    for rate, value in zip((0.02, 0.05), values):
      left(tmp_path, f'trial-{arm}-r{rate:g}', validation_accuracy=value)
  space = workspace(tmp_path)
  chosen = {arm: made().finals(arm)[0].rate(space) for arm in 'ab'}
  assert chosen == {'a': 0.05, 'b': 0.02}
  lower = made(better='lower')
  assert [lower.finals(arm)[0].rate(space) for arm in 'ab'] == [0.02, 0.05]


def test_a_diverged_trial_is_never_chosen(tmp_path):
  left(tmp_path, 'trial-a-r0.02', validation_accuracy=0.4)
  left(tmp_path, 'trial-a-r0.05', validation_accuracy=None)
  skipped = [{'kind': 'train', 'step': 6, 'bad_steps': 2}]
  left(tmp_path, 'trial-b-r0.02', validation_accuracy=0.4)
  left(tmp_path, 'trial-b-r0.05', skipped, validation_accuracy=0.6)
  for arm in 'ab':
    assert made().finals(arm)[0].rate(workspace(tmp_path)) == 0.02


def test_a_plan_takes_the_first_rate_where_no_trial_has_run(tmp_path):
  space = workspace(tmp_path, planning=True)
  assert made().finals('a')[0].rate(space) == 0.02


def concluded(folder, study, values):
  """The study's stage, run on reports of these test accuracies."""
  stages = study.stages(empty)
  for name, value in values.items():
    left(folder, name, test_accuracy=value, test_accuracy_low=0.0)
  (folder / 'study').mkdir()
  space = workspace(folder)
  space.page.folder = folder / 'study'
  return stages[-1].run(space), space.page.found


def test_differences_are_paired_by_seed_and_judged(tmp_path):
  values = {'b-s0': 0.5, 'b-s1': 0.75, 'a-s0': 0.75, 'a-s1': 0.875}
  figures, page = concluded(tmp_path, made(rates=(0.05,)), values)
  assert figures['a/test/accuracy'] == 0.8125
  _, row = json.loads((tmp_path / 'study' / 'study.json').read_text())
  assert row['figure'] == 'test/accuracy'  # the interval's end is left out
  assert row['b by seed'] == [0.5, 0.75]
  mean, _, half = row['a - b'].split(' ')  # of .25 and .125
  assert float(mean) == pytest.approx(0.1875, abs=1e-4)
  assert float(half) == pytest.approx(12.706 * 0.0625, abs=1e-3)
  headline, table, figure = page
  assert headline['verdict'] == 'not shown'
  assert table['columns'] == ['figure', 'b', 'a', 'a - b'] and table['show']
  assert (tmp_path / 'study' / 'figures' / figure['file']).exists()


def test_a_run_without_the_figure_or_diverged_gives_no_number(tmp_path):
  values = {'b-s0': 0.5, 'b-s1': 0.75, 'a-s0': 0.75, 'a-s1': None}
  _, page = concluded(tmp_path, made(rates=(0.05,)), values)
  row = page[1]['rows'][1]
  assert row == ['test/accuracy', row[1], 'not finite', 'not finite']
  assert page[0]['verdict'] == 'not shown'


def test_a_setting_may_take_its_rate_from_another(tmp_path):
  """LAMB's rule: tuned at batch 4, from there by the square root."""
  study = Study(
    ('a', 'b'),
    lambda arm, at: (0.1, 0.2),
    (0,),
    'accuracy',
    True,
    settings=(4, 16),
    setting_name='batch size',
    tuned_at=lambda arm, at: (4, (at / 4) ** 0.5) if arm == 'a' else (at, 1.0),
  )
  names = [x.name for x in study.stages(empty)]
  trials = [name for name in names if name.startswith('trial')]
  assert trials == [
    *('trial-a-b4-r0.1', 'trial-a-b4-r0.2', 'trial-b-b4-r0.1'),
    *('trial-b-b4-r0.2', 'trial-b-b16-r0.1', 'trial-b-b16-r0.2'),
  ]
  for name in trials:
    left(tmp_path, name, validation_accuracy=float(name[-3:]))
  values = {f'{arm}-b{at}-s0': at / 20 for arm in 'ab' for at in (4, 16)}
  figures, page = concluded(tmp_path, study, values)
  rates = {k: v for k, v in figures.items() if k.endswith('rate')}
  assert rates == {
    'a-b4/learning_rate': 0.2,
    'b-b4/learning_rate': 0.2,
    'a-b16/learning_rate': 0.4,
    'b-b16/learning_rate': 0.2,
  }
  tables = [x for x in page if x['kind'] == 'table']
  assert [row[0] for row in tables[0]['rows']] == [
    *('learning rate at 4', 'test/accuracy at 4'),
    *('learning rate at 16', 'test/accuracy at 16'),
  ]


@pytest.mark.parametrize(
  'gains, higher, said',
  [
    ((0.3, 0.31, 0.29), True, 'shown'),
    ((0.3, 0.31, 0.29), False, 'refuted'),
    ((-0.3, -0.31, -0.29), True, 'refuted'),
    ((0.3, 0.0, -0.2), True, 'not shown'),
    ((0.3,), True, 'not shown'),
    ((0.3, float('nan')), True, 'not shown'),
  ],
)
def test_a_verdict_needs_an_interval_that_leaves_zero_out(gains, higher, said):
  assert verdict(gains, higher) == said


def test_an_interval_in_a_few_characters():
  assert interval([0.5]) == '0.5000'
  assert interval([1.0, 2.0, 3.0]) == '2.0000 ± 2.4841'
  assert interval([1.0, float('nan')]) == 'not finite'


@pytest.mark.parametrize(
  'key, value, message',
  [
    ('baseline', 'c', r'study\.baseline = "c" must be one of a, b'),
    ('rates', (), r'study\.rates = \[\] must be at least one value'),
    ('rates', (0.1, 0.0), r'study\.rates .* each above 0'),
    ('seeds', (), r'study\.seeds = \[\] must be filled; give at least one'),
    ('better', 'more', r'study\.better = "more" must be one of lower, higher'),
    ('metric', 'f1', r'study\.metric = "f1" must be one of accuracy, nats'),
  ],
)
def test_a_study_that_cannot_be_is_named(key, value, message):
  with pytest.raises(InputError, match=message):
    made(**{key: value})
