"""Runs side by side, from their files alone."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from jaxlab import compare
from jaxlab.runs import record, workdir


def make(folder, rate, accuracy, stages=('train', 'study'), done=None):
  """A run; its curve rises to `accuracy`."""
  folder.mkdir(parents=True)
  config = {'paper': 'toy', 'optimizer': {'rate': rate, 'name': 'sgd'}}
  workdir.write_json(folder / 'config.json', config)
  record.note(folder, [f'--rate={rate}'], stages, [])
  for stage in stages if done is None else done:
    (folder / stage).mkdir()
    figures = {
      'test/accuracy': accuracy,
      'test/accuracy_low': accuracy - 0.125,
      'test/accuracy_high': accuracy + 0.125,
      f'test/only_{rate}': None,
    }
    if stage == 'study':
      figures = {'b/test/nats': 0.25, 'b-b64/test/nats': 0.5}
      rows = [
        {'figure': 'test/nats', 'b': '0.2500 ± 0.1', 'b by seed': [0.25]},
        {'figure': 'test/nats at 64', 'b': '0.5000 ± 0.2'},
      ]
      workdir.write_json(folder / 'study' / 'study.json', rows)
    report = {'steps': 2, 'metrics': figures}
    workdir.write_json(folder / stage / 'report.json', report)
  lines = [
    {'step': 1, 'kind': 'train', 'loss': 2.0, 'same': 1.0, 'seconds': 3.0},
    {'step': 2, 'kind': 'eval', 'loss': 1.0 + rate, 'loss_low': 0.0},
    {'step': 2, 'kind': 'eval', 'validation/x': None, 'loss_low': rate},
  ]
  if (folder / 'train').is_dir():
    text = ''.join(json.dumps(line) + '\n' for line in lines)
    (folder / 'train' / 'metrics.jsonl').write_text(text)
  return folder


@pytest.fixture
def two(tmp_path):
  """Two runs that differ in the rate."""
  return make(tmp_path / 'a', 0.5, 0.75), make(tmp_path / 'b', 0.25, 0.5)


def run(*arguments):
  return compare.main(['compare', *map(str, arguments)])


@pytest.fixture
def refused(capfd):
  """Asserts exit code 2 and one line that holds all the words."""

  def check(*arguments, says):
    assert run(*arguments) == 2
    said = capfd.readouterr()
    assert said.err.startswith('jaxlab: ') and said.err.count('\n') == 1
    for word in says:
      assert word in said.err, said.err

  return check


def test_figures_differences_and_curves_are_put_side_by_side(
  two, tmp_path, capfd
):
  assert run(*two, f'--out={tmp_path}/out') == 0
  said = capfd.readouterr().out
  rows = [re.split(r'  +', line.strip()) for line in said.splitlines()]
  assert ['stage', 'figure', 'a', 'b'] in rows
  assert ['train', 'test/accuracy', '0.75 [0.625, 0.875]', '0.5 [0.375, 0.625]'
          ] in rows  # fmt: skip
  assert ['train', 'test/only_0.5', 'not finite', '–'] in rows
  assert ['study', 'b/test/nats', '0.2500 ± 0.1', '0.2500 ± 0.1'] in rows
  assert ['study', 'b-b64/test/nats', '0.5000 ± 0.2', '0.5000 ± 0.2'] in rows
  assert ['optimizer.rate', '0.5', '0.25'] in rows
  assert 'optimizer.name' not in said and '_low' not in said
  text = (tmp_path / 'out' / 'compare.md').read_text()
  assert '| optimizer.rate | 0.5 | 0.25 |' in text
  page = (tmp_path / 'out' / 'compare.html').read_text()
  assert 'name="viewport"' in page and '<td>optimizer.rate</td>' in page
  # One curve: the others never change, are times, or ends of an interval.
  assert re.findall(r'<figcaption>(.*?)<', page) == ['train: loss']
  loaded = re.findall(r'(?:src|href)="([^"]+)"', page)
  assert loaded and all(x.startswith('data:image/png;base64,') for x in loaded)
  # These lie over each other.
  named = compare.opened(two)
  assert compare.curves(named) == {
    'train: loss': {'a': [(1, 2.0), (2, 1.5)], 'b': [(1, 2.0), (2, 1.25)]}
  }


def test_equal_configs_and_absent_keys_are_said(two, tmp_path):
  other = make(tmp_path / 'x' / 'a', 0.5, 0.25)
  named = compare.opened([two[0], other])
  assert [*named] == [f'{tmp_path.name}/a', 'x/a']
  assert compare.differences(named)['title'] == 'Config differences: none'
  workdir.write_json(other / 'config.json', {'paper': 'toy', 'long': 'x' * 80})
  rows = compare.differences(compare.opened([two[0], other]))['rows']
  assert rows[0] == ['long', 'absent', f'"{"x" * 56}…']
  assert rows[1] == ['optimizer.name', '"sgd"', 'absent']


def test_an_unfinished_run_is_shown_and_said(two, tmp_path, capfd):
  late = make(tmp_path / 'late', 0.1, 0.5, done=('train',))
  assert run(two[0], late, f'--out={tmp_path}') == 0
  said = capfd.readouterr()
  goes_on = f'go on with python -m jaxlab.main --rate=0.1 --workdir={late}'
  assert said.err == f'late: not finished, without study; {goes_on}\n'
  assert goes_on in (tmp_path / 'compare.html').read_text()
  assert re.search(r'study +b/test/nats +0\.2500 ± 0\.1 +–', said.out)


def test_what_cannot_be_compared_is_refused(two, tmp_path, refused):
  refused(two[0], says=['1 run to compare', 'two --workdir folders or more'])
  refused(two[0], two[0], says=['1 run to compare'])
  refused(two[0], tmp_path / 'c', says=['no folder', 'the runs a, b'])
  none = make(tmp_path / 'none', 0.1, 0.5, done=())
  refused(two[0], none, says=['no stage is finished', 'train; go on with'])
  (tmp_path / 'file').write_text('')
  refused(*two, f'--out={tmp_path}/file', says=['choose another --out'])
  (two[1] / 'config.json').write_text('{')
  refused(*two, says=['config.json cannot be read', '--workdir='])
  (two[1] / 'train' / 'report.json').write_text('[]')
  refused(*two, says=['report.json cannot be read (it holds no object)'])
  refused(*two, '--ot', says=['--ot', '--help'])


def test_it_is_a_program_without_jax(two, tmp_path):
  ask = (
    'import sys; from jaxlab import compare; compare.main(sys.argv); '
    'print("jax" in sys.modules)'
  )
  said = subprocess.check_output(
    [sys.executable, '-c', ask, *map(str, two), f'--out={tmp_path}'],
    text=True,
    cwd=Path(__file__).parents[1],
  )
  assert said.endswith('\nFalse\n')
