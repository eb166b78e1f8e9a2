"""metrics.jsonl, interval means, the line for people."""

import json

import numpy as np
import pytest

from jaxlab.core.errors import InputError
from jaxlab.engine import metrics


def _log(folder, *lines, step=0, **options):
  log = metrics.Log(folder, step, **options)
  for at, kind in lines:
    log.write(at, kind, {'loss': at / 4})
  log.close()
  return [(x['step'], x['kind']) for x in metrics.read(log.path)]


def test_lines_are_json_objects_with_step_and_kind(tmp_path):
  _log(tmp_path, (5, 'train'), (6, 'eval'))
  text = (tmp_path / 'metrics.jsonl').read_text()
  assert [json.loads(line) for line in text.splitlines()] == [
    {'step': 5, 'kind': 'train', 'loss': 1.25},
    {'step': 6, 'kind': 'eval', 'loss': 1.5},
  ]


def test_lines_after_the_restored_step_are_cut(tmp_path):
  _log(tmp_path, (5, 'train'), (6, 'eval'), (10, 'train'))
  assert _log(tmp_path, step=6) == [(5, 'train'), (6, 'eval')]
  assert _log(tmp_path, (10, 'train'), step=5) == [(5, 'train'), (10, 'train')]


def test_an_evaluation_that_comes_again_is_cut_too(tmp_path):
  _log(tmp_path, (3, 'eval'), (6, 'train'), (6, 'eval'))
  assert _log(tmp_path, step=6, evaluated=False) == [(3, 'eval'), (6, 'train')]


@pytest.mark.parametrize(
  'torn',
  ['{"step": 7, "ki', '\0\0\0\0', 'nonsense\n[8]\n{"step": 8}\n'],
)
def test_a_torn_last_line_is_dropped(tmp_path, torn):
  _log(tmp_path, (5, 'train'), (6, 'train'))
  path = tmp_path / 'metrics.jsonl'
  with open(path, 'a') as file:
    file.write(torn)
  assert len(metrics.read(path)) == 2
  assert _log(tmp_path, (7, 'train'), step=9) == [
    (step, 'train') for step in (5, 6, 7)
  ]
  assert len(path.read_text().splitlines()) == 3


def test_a_damaged_line_is_named_and_takes_no_other_with_it(tmp_path, capsys):
  _log(tmp_path, (5, 'train'), (6, 'train'), (7, 'train'))
  path = tmp_path / 'metrics.jsonl'
  lines = path.read_bytes().split(b'\n')
  lines[1] = b'\xff' + lines[1][1:]
  path.write_bytes(b'\n'.join(lines))
  assert [line['step'] for line in metrics.read(path)] == [5, 7]
  assert 'metrics.jsonl: line 2 cannot be read' in capsys.readouterr().err


def test_a_log_that_is_not_what_was_saved_is_named(tmp_path, capsys):
  log = metrics.Log(tmp_path, 0)
  log.write(1, 'train', {'loss': 0.5})
  saved = log.sync()
  log.write(2, 'train', {'loss': 0.25})
  log.close()
  metrics.Log(tmp_path, 1, saved=saved).close()
  assert 'not what was written' not in capsys.readouterr().err
  path = tmp_path / 'metrics.jsonl'
  path.write_text(path.read_text().replace('0.5', '0.7'))
  metrics.Log(tmp_path, 1, saved=saved).close()
  assert 'metrics.jsonl is not what was written' in capsys.readouterr().err


def test_no_file_has_no_lines(tmp_path):
  assert metrics.read(tmp_path / 'metrics.jsonl') == []


def test_a_full_disk_names_the_file(tmp_path, monkeypatch):
  log = metrics.Log(tmp_path, 0)

  class Full:
    def write(self, text):
      raise OSError(28, 'No space left on device')

  monkeypatch.setattr(log, '_file', Full())
  with pytest.raises(InputError, match=r'metrics\.jsonl: No space left.*free'):
    log.write(1, 'train', {'loss': 0.0})


def _packed(*pairs):
  return np.array(pairs, np.float32)


def test_means_are_sums_over_counts_by_kind():
  totals = metrics.Totals()
  totals.add('train', ['acc', 'loss'], _packed((3, 4), (2, 4)))
  totals.add('train', ['acc', 'loss'], _packed((1, 1), (9, 1)))
  totals.add('large', ['loss'], _packed((8, 2)))
  assert totals.means() == {
    'train': {'acc': 4 / 5, 'loss': 11 / 5},
    'large': {'loss': 4.0},
  }


def test_sums_are_float64():
  totals = metrics.Totals()
  for _ in range(1000):
    totals.add('train', ['loss'], _packed((0.1, 1)))
  # In float32 the error would be 1e-5.
  assert totals.means()['train']['loss'] == pytest.approx(
    float(np.float32(0.1)), rel=1e-12
  )


def test_what_counted_nothing_is_left_out_and_bad_steps_are_reported():
  totals = metrics.Totals()
  names = ['bad', 'loss', 'rare', 'run_length']
  totals.add('train', names, _packed((0, 1), (4, 2), (0, 0), (0, 1)))
  assert totals.means() == {'train': {'loss': 2.0}}
  totals.add('train', names, _packed((1, 1), (0, 0), (0, 0), (1, 1)))
  assert totals.means() == {'train': {'loss': 2.0, 'bad_steps': 1.0}}


def test_totals_survive_json_to_the_last_bit():
  totals = metrics.Totals()
  rng = np.random.default_rng(0)
  for _ in range(7):
    totals.add('train', ['a', 'b'], rng.normal(size=(2, 2)).astype(np.float32))
  again = metrics.Totals(json.loads(json.dumps(totals.saved())))
  more = _packed((0.3, 1), (0.7, 1))
  for each in (totals, again):
    each.add('train', ['a', 'b'], more)
  assert again.saved() == totals.saved()
  assert again.means() == totals.means()


def test_the_line_for_people_counts_examples_and_time_left(capsys):
  now = [100.0]
  progress = metrics.Progress('fit', 10, 90, lambda: now[0])
  now[0] += 4
  assert progress.since == 10
  rate = progress.rate(30, 1280)
  assert rate == {'seconds': 4.0, 'examples_per_second': 320.0}
  assert set(rate) == set(metrics.TIME_FIELDS)
  progress.show(30, {'loss': 0.123456, **rate})
  # 60 steps are left at 5 a second.
  assert capsys.readouterr().err == (
    'fit 30/90  loss 0.1235  320 examples/s  eta 12s\n'
  )
  now[0] += 50  # compiling
  progress.restart(30)
  now[0] += 1
  assert progress.rate(31, 64)['seconds'] == 1.0


@pytest.mark.parametrize(
  'seconds, text',
  [(0.4, '0s'), (59.4, '59s'), (59.6, '1m00s'), (62, '1m02s'), (7260, '2h01m')],
)
def test_durations_read_well(seconds, text):
  assert metrics.duration(seconds) == text
