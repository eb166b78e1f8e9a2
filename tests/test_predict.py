"""The door of prediction: which model, which inputs, what is printed."""

import json
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import jaxlab
from jaxlab import main, predict
from jaxlab.core.errors import InputError
from jaxlab.core.state import State
from jaxlab.engine import tensors
from jaxlab.models import classifiers
from jaxlab.models.classifiers import CLASSIFIERS
from jaxlab.models.normalised import normalised
from jaxlab.runs import model, record, workdir

IMAGE = {'kind': 'image', 'height': 4, 'width': 4, 'channels': 1, 'fit': 'crop'}
VECTOR = {'kind': 'vector', 'length': 2, 'low': -1, 'high': 1}
ABOUT = {'paper': 'toy', 'job': 'task', 'stage': 'a', 'versions': {}}


@pytest.fixture
def make_run(tmp_path):
  """A run whose stages all have a model of some inputs, but for `oracle`."""

  def make(inputs, example, files=None, stages=('a',)):
    state = State(jnp.int32(0), {'net': {'w': jnp.ones(2)}}, {}, {})
    kept = model.Kept(inputs, example, files or {})
    folder = tmp_path / 'run'
    folder.mkdir()
    for stage in stages:
      (folder / stage).mkdir()
      model.write(folder / stage / 'model', state, kept, {'c': 1}, ABOUT)
      report = {'steps': 3, 'metrics': {}}
      workdir.write_json(folder / stage / 'report.json', report)
    names = [*stages, 'oracle']
    record.note(folder, ['--config=toy.py:x', '--offline'], names, [*stages])
    return folder

  return make


@pytest.fixture
def answers(monkeypatch):
  """Sets the job's answers; each call's inputs are kept."""

  def set(answer):
    seen = []

    def answered(of, inputs):
      seen.append(inputs)
      return [answer for _ in inputs]

    monkeypatch.setattr(main, 'predict_of', lambda paper, job: answered)
    return seen

  return set


@pytest.fixture
def refused(capfd):
  """Asserts exit code 2 and one line that holds all the words."""

  def check(*arguments, says):
    capfd.readouterr()
    code = predict.main(['predict', *map(str, arguments)])
    said = capfd.readouterr()
    assert code == 2, said
    assert said.err.startswith('jaxlab: ') and said.err.count('\n') == 1
    for word in says:
      assert word in said.err, said.err
    assert not said.out

  return check


# --- which model ---


def test_a_run_a_stage_and_a_copied_folder_are_the_same_model(
  make_run, answers, tmp_path
):
  run = make_run({'kind': 'text'}, ['one'])
  answers({})
  found = jaxlab.load(run)
  assert found.params['net']['w'].tolist() == [1, 1]
  assert found.config == {'c': 1}
  assert jaxlab.load(str(run / 'a')).about == found.about
  (run / 'a' / 'model').rename(tmp_path / 'elsewhere')
  assert jaxlab.load(tmp_path / 'elsewhere').about == found.about


def test_of_several_models_one_is_to_be_named(make_run, answers, refused):
  run = make_run({'kind': 'text'}, ['one'], stages=('a', 'b'))
  answers({})
  refused(run, says=['has 2 models, a, b: name one, as', f'{run}/a'])
  assert jaxlab.load(run / 'b')
  refused(run / 'c', says=['has no stage "c"', 'with a model are a, b'])
  refused(run / 'oracle', says=['leaves no model: take one of a, b'])


def test_an_unfinished_run_says_what_goes_on(make_run, refused):
  run = make_run({'kind': 'text'}, ['one'])
  (run / 'a' / 'report.json').unlink()
  goes_on = f'python -m jaxlab.main --config=toy.py:x --offline --workdir={run}'
  refused(run, says=['the stage a of', 'is not finished; go on with', goes_on])


def test_a_missing_and_a_torn_model_name_the_cure(make_run, refused):
  run = make_run({'kind': 'text'}, ['one'])
  cure = f'remove {run}/a/report.json and run python -m jaxlab.main'
  weights = run / 'a' / 'model' / 'model.safetensors'
  weights.write_bytes(weights.read_bytes()[:-3])
  refused(run, says=['model.safetensors is not what was written', cure])
  (run / 'a' / 'model' / 'model.json').unlink()
  refused(run, says=['model.json is not a whole file (No such file', cure])


def test_what_is_no_run_or_of_another_version_is_said(
  make_run, refused, tmp_path
):
  run = make_run({'kind': 'text'}, ['one'])
  refused(tmp_path / 'rum', says=['there is no folder', 'runs run'])
  refused(tmp_path, says=['is not a run; in', 'there are the runs run'])
  note = json.loads((run / 'run.json').read_text())
  newer = {**note, 'format': 9, 'jaxlab': 'jaxlab 9.1'}
  (run / 'run.json').write_text(json.dumps(newer))
  refused(run, says=['of format 9, written by jaxlab 9.1', 'reads format 1'])
  (run / 'run.json').write_text('{')
  refused(run, says=['run.json cannot be read'])
  (run / 'run.json').unlink()
  workdir.write_json(run / 'config.json', {})
  refused(run, says=['is a run of an earlier version', f'--workdir={run}'])
  about = json.loads((run / 'a' / 'model' / 'model.json').read_text())
  (run / 'a' / 'model' / 'model.json').write_text(
    json.dumps({**about, 'format': 2, 'versions': {'jaxlab': '7.0'}})
  )
  refused(run / 'a' / 'model', says=['format 2, written by jaxlab 7.0'])


def test_a_paper_that_is_not_here_is_said(make_run, refused):
  run = make_run({'kind': 'text'}, ['one'])
  refused(run, says=['config.paper = "toy" is not one of advgan, aloe'])


def test_a_run_without_a_network_says_so(make_run, refused):
  run = make_run({'kind': 'text'}, ['one'], stages=())
  refused(run, says=['has no model: none of its stages (oracle)'])


def test_wrong_flags_are_one_line(refused):
  refused('run', '--jason', says=['--jason', '--help'])
  refused(says=['RUN'])


# --- inputs ---


def test_images_of_every_mode_and_size_are_brought_to_the_models(
  make_run, answers, tmp_path, capfd
):
  run = make_run(IMAGE, [np.zeros((4, 4, 1), np.uint8)])
  seen = answers({'label': 0})
  grey = Image.new('L', (4, 4), 100)
  clear = Image.new('RGBA', (4, 4), (0, 0, 0, 0))
  palette = Image.new('RGB', (4, 4), (255, 0, 0)).quantize(4)
  wide = Image.new('L', (8, 4), 100)
  files = []
  for name, picture in (
    ('grey', grey),
    ('clear', clear),
    ('palette', palette),
    ('wide', wide),
  ):
    files.append(str(tmp_path / f'{name}.png'))
    picture.save(files[-1])
  assert predict.main(['predict', str(run), *files]) == 0
  (images,) = seen
  assert images.shape == (4, 4, 4, 1) and images.dtype == np.uint8
  # Transparent is white; red is grey by 0.299.
  assert [image.mean() for image in images] == [100, 255, 76, 100]
  said = capfd.readouterr()
  lines = said.err.splitlines()
  assert f'{files[3]}: 4 x 8 grey is brought to 4 x 4 grey, crop' in lines
  assert f'{files[2]}: 4 x 4 colour is brought to 4 x 4 grey, crop' in lines
  assert files[0] not in said.err
  assert said.out.splitlines()[:2] == [files[0], '  0']


def test_what_is_no_image_is_refused(make_run, answers, refused, tmp_path):
  run = make_run(IMAGE, [np.zeros((4, 4, 1), np.uint8)])
  answers({})
  refused(
    run, tmp_path / 'no.png', says=['no.png: No such file', 'give a file']
  )
  refused(run, tmp_path, says=['Is a directory'])
  (tmp_path / 'text.png').write_text('text')
  refused(run, tmp_path / 'text.png', says=['does not decode as PNG'])


def test_texts_need_a_gap_where_the_model_fills_one(make_run, answers, refused):
  run = make_run({'kind': 'text', 'must': '[MASK]'}, ['a [MASK]'])
  answers([{}])
  refused(run, 'no gap', says=['"no gap" has no [MASK]; put it where'])
  refused(run, 'a [MASK]', '--context=x', says=['--context: this model takes'])
  refused(run, '--samples=2', says=['--samples: this model takes'])


def test_an_empty_text_is_refused(make_run, answers, refused):
  run = make_run({'kind': 'text'}, ['a'])
  answers({})
  refused(run, 'a', ' ', says=['an INPUT is empty'])


def test_questions_have_a_context(make_run, answers, refused, tmp_path):
  run = make_run({'kind': 'question'}, [['Who?', 'Ann.']])
  seen = answers({'text': 'Ann', 'probability': 0.5})
  refused(run, 'Who?', says=['--context=TEXT or --context=@FILE'])
  refused(run, 'Who?', '--context=@none', says=['none: No such file'])
  (tmp_path / 'text').write_text('Ann came.')
  file = f'--context=@{tmp_path}/text'
  assert predict.main(['predict', str(run), 'Who?', file]) == 0
  assert (
    predict.main(['predict', str(run), '--context', 'Bob.', 'A?', 'B?']) == 0
  )
  assert seen == [[('Who?', 'Ann came.')], [('A?', 'Bob.'), ('B?', 'Bob.')]]


def test_numbers_and_vectors_are_read(make_run, answers, refused):
  run = make_run(VECTOR, [[0.0, 1.0]])
  seen = answers({})
  listed = ['"1,x" is not a list of numbers', 'write 2 of them']
  refused(run, '1,x', says=listed)
  refused(run, '1,2,3', says=['has 3 numbers; this model takes 2'])
  assert predict.main(['predict', str(run), '--', '-0.5,2', '1,0']) == 0
  assert seen.pop().tolist() == [[-0.5, 2], [1, 0]]
  refused(run, '1,2', '--samples=2', says=['--samples draws codes'])
  refused(run, '--samples=0', says=['a number >= 1'])
  for seed in (0, 0, 1):
    argv = ['predict', str(run), '--samples=3', f'--seed={seed}']
    assert predict.main(argv) == 0
  one, same, other = seen
  assert one.shape == (3, 2) and np.abs(one).max() <= 1
  np.testing.assert_array_equal(one, same)
  assert np.abs(one - other).max() > 0.1


def test_graphs_are_files_of_json(make_run, answers, refused, tmp_path):
  graph = {'nodes': [[1.0]], 'edges': []}
  run = make_run({'kind': 'graph', 'features': 1}, [graph])
  seen = answers({'label': 0})
  (tmp_path / 'graph.json').write_text(json.dumps(graph))
  assert predict.main(['predict', str(run), f'{tmp_path}/graph.json']) == 0
  assert predict.main(['predict', str(run)]) == 0
  assert seen == [[graph], [graph]]
  (tmp_path / 'graph.json').write_text('[')
  refused(run, tmp_path / 'graph.json', says=['is not JSON', '"nodes": [n][1]'])


def test_numbers_are_whole(make_run, answers, refused):
  run = make_run({'kind': 'number', 'count': 9}, [3])
  seen = answers({'label': 'red', 'probability': 0.25})
  refused(run, '1', '2.5', says=['2.5', 'whole numbers in [0, 9)'])
  assert predict.main(['predict', str(run), '1', '8']) == 0
  assert seen == [[1, 8]]


# --- what is printed ---


def test_without_an_input_the_example_is_answered(make_run, answers, capfd):
  run = make_run({'kind': 'text'}, ['one', 'two'])
  seen = answers({'translation': 'eins'})
  assert predict.main(['predict', str(run)]) == 0
  said = capfd.readouterr()
  assert seen == [['one', 'two']] and 'its own example' in said.err
  assert said.out == 'one\n  translation: eins\ntwo\n  translation: eins\n'


def test_json_has_inputs_answers_and_class_names(make_run, answers, capfd):
  run = make_run({'kind': 'text'}, ['é'], {'classes.json': ['dog', 'cat']})
  answers({'label': 1, 'probability': 0.75, 'probabilities': [0.25, 0.75]})
  assert predict.main(['predict', str(run), 'é', '--json']) == 0
  (row,) = json.loads(capfd.readouterr().out)
  assert row['input'] == 'é' and row['answer']['class_name'] == 'cat'
  assert row['answer']['probabilities'] == [0.25, 0.75]


@pytest.mark.parametrize(
  'answer, lines',
  [
    ([{'king': 0.5, 'man': 0.25}, {'a': 1.0}], ['1: king 0.500  man 0.250']),
    (
      {'label': 6, 'probabilities': [0.0, 0.1, 0.05, 0.15, 0.2, 0.1, 0.4]},
      ['6 0.400  4 0.200  3 0.150  dog 0.100  5 0.100', 'other: [1, 2]'],
    ),
    ({'label': 1}, ['dog']),
    (
      {'label': 'red', 'probability': 0.1234567},
      ['red', 'probability: 0.1235'],
    ),
    (
      {'detectors': {'msp': {'score': -2, 'threshold': -1, 'verdict': 'out'}}},
      ['msp: out (score -2, an inlier from -1 on)'],
    ),
    (
      {'label': 0, 'aims': [1, 2], 'labels': [1, 0]},
      ['cat', 'changed towards dog: taken for dog', 'changed towards 2: taken'],
    ),
    (
      {'label': 0, 'aims': [], 'labels': [1]},
      ['any other class: taken for dog'],
    ),
    ({'regions': {'left': 1}}, ['left: dog']),
    ({'code': [*range(9)]}, ['code: [0, 1, 2, 3, 4, 5, 6, 7, …]']),
  ],
)
def test_answers_are_lines(answer, lines):
  made = model.Model({}, {}, {}, {'classes.json': b'["cat", "dog"]'})
  if 'probabilities' in answer:
    answer = {**answer, 'other': [1, 2]}
  said = '\n'.join(predict.shown(made, answer))
  for line in lines:
    assert line in said, said


def test_pictures_are_written(make_run, answers, capfd, tmp_path, refused):
  run = make_run(VECTOR, [[0.0, 1.0], [0.0, 0.5]])
  picture = np.array([[[0.0], [0.5]], [[1.0], [2.0]]])
  answers({'picture': picture, 'pictures': picture[None]})
  assert predict.main(['predict', str(run)]) == 0
  assert 'picture: 1 of 2 x 2 x 1; written as PNG' in capfd.readouterr().out
  out = tmp_path / 'out'
  assert predict.main(['predict', str(run), '--json', f'--out={out}']) == 0
  rows = json.loads(capfd.readouterr().out)
  assert rows[1]['answer']['picture'] == [str(out / '1.png')]
  assert rows[1]['answer']['pictures'] == [str(out / '1-0.png')]
  found = np.asarray(Image.open(out / '1.png'))
  assert found.tolist() == [[0, 128], [255, 255]]
  (tmp_path / 'file').write_text('')
  refused(run, '0,0', f'--out={tmp_path}/file', says=['choose another --out'])


def test_the_door_is_a_program_with_exit_codes(tmp_path):
  ended = subprocess.run(
    [sys.executable, '-m', 'jaxlab.predict', str(tmp_path / 'none')],
    capture_output=True,
    text=True,
    cwd=Path(__file__).parents[1],
  )
  assert ended.returncode == 2 and ended.stderr.count('\n') == 1
  assert 'there is no folder' in ended.stderr


def test_a_job_that_answers_nothing_is_said():
  with pytest.raises(
    InputError, match='theory of the paper lamb predicts noth'
  ):
    main.predict_of('lamb', 'theory')


def test_load_is_of_the_package_and_late():
  assert jaxlab.load is predict.load
  with pytest.raises(AttributeError, match='no attribute "lode"'):
    jaxlab.lode  # noqa: B018
  ask = 'import sys, jaxlab; print("jaxlab.predict" in sys.modules)'
  said = subprocess.check_output([sys.executable, '-c', ask], text=True)
  assert said == 'False\n'


# --- the page ---


@pytest.mark.parametrize('name', CLASSIFIERS)
def test_the_page_names_every_leaf_of_a_classifier(name):
  page = (Path(__file__).parents[1] / 'docs' / 'models.md').read_text()
  (layers,) = re.findall(rf'^\| `{name}` \| (.*) \|$', page, re.MULTILINE)
  options = {
    'depth': 16,
    'width': 16,
    'padding': 0,
    'widen': 2,
    'growth': 12,
    'layout': 'a',
    'net': '3conv3fc',
  }
  if name == 'resnet':
    options['depth'] = 20
  net = normalised(
    classifiers.make(name, 10, 'float32', options), (32, 32, 3), [0.5], [0.2]
  )
  params, vars = jax.eval_shape(net.init, jax.random.key(0))
  flat, _ = tensors.flattened({'params': params, 'vars': vars})
  found = {}
  for path, leaf in flat.items():
    layer, last = re.fullmatch(
      r'(?:params/net|vars/net/batch_stats)/(.*)/(\w+)', path
    ).groups()
    found.setdefault(re.sub(r'\d+', 'N', layer), set()).add(
      (path.partition('/')[0], last, len(leaf.shape))
    )
  assert {*found} == {*re.findall('`(.*?)`', layers)}
  for layer, leaves in found.items():
    kind = layer.split('/')[-1]
    if 'norm' in kind:
      own = {('params', x, 1) for x in ('scale', 'bias')}
      wanted = own | {('vars', x, 1) for x in ('mean', 'var')}
    elif 'prelu' in kind:
      wanted = {('params', 'negative_slope', 0)}
    else:
      axes = 2 if re.match('dense|head', kind) else 4
      leaves = leaves | {('params', 'bias', 1)}
      wanted = {('params', 'kernel', axes), ('params', 'bias', 1)}
    assert leaves == wanted, layer
