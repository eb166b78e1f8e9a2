"""Fine-tuning: from a checkpoint or from scratch, two targets."""

import functools
import json
import shutil
import subprocess
import sys
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlab.core.errors import InputError
from jaxlab.core.state import paths
from jaxlab.engine import mesh
from jaxlab.engine.checkpoint import Checkpoints, Policy
from jaxlab.engine.checkpoint import read as read_checkpoint
from jaxlab.engine.fingerprint import state_sha256
from jaxlab.engine.metrics import read
from jaxlab.ops.squad_metrics import mean_score
from jaxlab.papers.lamb import bert, method, pretraining, span
from jaxlab.papers.lamb import finetuning as task
from jaxlab.planning import flops, plan
from jaxlab.runs import model, stage, workdir
from tests import runs
from tests.papers import lamb_jobs
from tests.papers.lamb_jobs import ROOT, config_of, space_of

SIZES = {
  'num_layers': 1,  # stacked all the same; most of this file's time is LLVM's
  'hidden_size': 32,
  'num_heads': 2,
  'intermediate_size': 64,
  'max_positions': 64,
}

# Programs that run a few times.
jit = functools.partial(
  jax.jit, compiler_options={'xla_backend_optimization_level': 0}
)


def finetune(config, folder):
  """The stage, as `jaxlab.main` runs it; its report."""
  folder.mkdir(parents=True, exist_ok=True)
  workdir.write_json(folder / 'config.json', config)
  stage.run_all(task.program(config), space_of(config, folder))
  return json.loads((folder / 'finetune' / 'report.json').read_text())


def begun(config, **changes):
  """State before the first update, and the open data."""
  config = {**config, **changes}
  (only,) = task.program(config)
  return lamb_jobs.begun(only, space_of(config))


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
  return tmp_path_factory.getbasetemp() / 'lamb_data'


@pytest.fixture(autouse=True)
def own_data(data_dir, monkeypatch):
  monkeypatch.setenv('JAXLAB_DATA_DIR', str(data_dir))


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory, data_dir):
  """What a stage of pre-training leaves behind, without the training.

  The slow test below has trained one.
  """
  config = config_of('bert_lamb', 'smoke')
  config['data'] |= {'vocab_size': 512, 'sequence_length': 32}
  config['model'] |= SIZES
  folder = tmp_path_factory.mktemp('runs') / 'pretraining'
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('JAXLAB_DATA_DIR', str(data_dir))
    (only,) = pretraining.program(config)
    state, inputs = lamb_jobs.begun(only, space_of(config, folder))
  kept = Checkpoints(folder / 'pretrain' / 'checkpoints', Policy())
  kept.save(state, 3, inputs.about)
  kept.close()
  workdir.write_json(folder / 'config.json', config)
  about = {'state_sha256': state_sha256(state), **inputs.about}
  workdir.write_json(folder / 'pretrain' / 'report.json', about)
  return folder / 'pretrain'


@pytest.fixture
def tiny():
  """The smoke config: a few steps of a small model, from scratch."""
  config = config_of('bert_finetune', 'smoke')
  config['data'] |= {
    'batch_size': 16,
    'sequence_length': 32,
    'eval_batch_size': 64,
  }
  config['vocabulary']['size'] = 512
  config['model'] |= SIZES
  config['optimizer']['warmup_steps'] = 2
  config['train'] |= {
    'steps': 6,
    'log_every_steps': 1,
    'eval_every_steps': 0,
    'checkpoint_every_seconds': 0.0,
  }
  return config


@pytest.fixture
def tuned(tiny, checkpoint):
  """The same from the checkpoint, whose shape is taken."""
  tiny['model'] |= {'checkpoint': str(checkpoint)} | dict.fromkeys(SIZES, 0)
  tiny['vocabulary'] = {'name': '', 'text_files': '', 'size': 0}
  return tiny


def test_a_pretrained_encoder_is_taken_over_and_the_head_is_new(
  tuned, checkpoint
):
  state, inputs = begun(tuned)
  about = json.loads((checkpoint / 'report.json').read_text())
  assert inputs.about['pretrained_sha256'] == about['state_sha256']
  assert inputs.about['corpus_sha256'] == about['corpus_sha256']
  saved, _ = read_checkpoint(checkpoint / 'checkpoints', mesh.make())
  taken = dict(paths(state.params['net']))
  heads = ('mlm_', 'nsp')
  wanted = {
    path.removeprefix('params/net/'): leaf
    for path, leaf in saved.items()
    if path.startswith('params/net/')
  }
  wanted = {k: v for k, v in wanted.items() if not k.startswith(heads)}
  assert len(wanted) > 20
  assert taken.keys() == wanted.keys()
  for path, leaf in wanted.items():
    np.testing.assert_array_equal(taken[path], leaf)
  scratch = {**tuned['model'], **SIZES, 'checkpoint': ''}
  words = {'name': 'pydoc', 'text_files': '', 'size': 512}
  new, _ = begun(tuned, model=scratch, vocabulary=words)
  chex.assert_trees_all_equal_shapes_and_dtypes(new, state)
  chex.assert_trees_all_equal(new.params['head'], state.params['head'])
  word = lambda s: np.asarray(s.params['net']['word_embedding'])
  assert not np.allclose(word(new), word(state))


def test_layers_saved_scanned_may_be_trained_unscanned(tuned):
  states = [
    begun(tuned, model={**tuned['model'], 'scan_layers': s})[0]
    for s in (True, False)
  ]
  together, apart = (dict(paths(state.params['net'])) for state in states)
  leaf = 'intermediate/kernel'
  np.testing.assert_array_equal(
    together[f'layers/{leaf}'][0], apart[f'layers_0/{leaf}']
  )


def test_a_set_of_texts_is_described_and_its_texts_are_classified(tiny):
  state, inputs = begun(tiny)
  job = inputs.data.job
  assert 0.2 < job.figures['test/majority_accuracy'] < 0.5
  assert job.facts['classes'] == [
    'compound',
    'debugger',
    'specialnames',
    'string-methods',
    'types',
  ]
  assert 0 < job.facts['train_truncated'] < 1
  # A network of zeros but for the head's bias is sure of one class.
  params = jax.tree.map(jnp.zeros_like, state.params)
  bias = jnp.array([0, 0, np.log(6.0), 0, 0])
  params['head']['Dense_0']['bias'] = bias
  made = model.of(tiny, params, {}, task.kept(tiny, inputs.data))
  found = task.predict(made, ['One text.', 'And another. ' * 40])
  assert [answer['label'] for answer in found] == [2, 2]
  for answer in found:
    assert answer['probability'] == pytest.approx(0.6)


def test_lamb_has_a_trust_ratio_for_each_layer_and_for_the_head(tiny):
  tiny['optimizer']['name'] = 'lamb'
  tiny['model']['num_layers'] = 3
  (only,) = task.program(tiny)
  space = space_of(tiny, devices=8)
  planned = only.plan(space)
  state, batch = plan.shapes(planned, 'train', space.mesh)
  tree = jax.eval_shape(
    lambda opt: method.trust_ratios(opt, method.layer_axes_from), state.opt
  )
  ratios = {path: leaf.shape for path, leaf in paths(tree)}
  assert ratios['net/layers/intermediate/kernel'] == (3,)
  assert ratios['net/word_embedding'] == ()
  assert ratios['head/Dense_0/kernel'] == ()
  assert len(ratios) == len(jax.tree.leaves(state.params))
  update = planned.task.steps['train']
  after, _ = jax.eval_shape(update, state, batch, jax.random.key(0))
  chex.assert_trees_all_equal_shapes_and_dtypes(after, state)


# Made up, so that the answers are known and of several lengths.
PLACES = ['Arn', 'Bel', 'Cor', 'Dun', 'Eld', 'Fen']
RIVERS = ['Red River', 'Ash', 'Old Mill Water', 'Oder', 'Lech', 'Blue Nile']


def write_squad(path):
  data = []
  for place, river in zip(PLACES, RIVERS):
    filler = 'It has many old stone houses and a market on each day. ' * 2
    context = f'{filler}The town of {place} is on the {river}. {filler}'
    qas = [
      {
        'id': f'{place}-{what}',
        'question': f'{what} {place}?',
        'answers': [{'text': text, 'answer_start': context.index(text)}],
      }
      for what, text in (('Which river is at', river), ('Which town', place))
    ]
    data.append(
      {'title': place, 'paragraphs': [{'context': context, 'qas': qas}]}
    )
  path.write_text(json.dumps({'version': '1.1', 'data': data}))
  return str(path)


@pytest.fixture
def squad(tmp_path):
  """SQuAD's config on a small file, with a model that can learn it."""
  config = config_of('bert_finetune', 'squad')
  file = write_squad(tmp_path / 'made.json')
  config['data'] |= {
    'squad_train': file,
    'squad_dev': file,
    'batch_size': 24,
    'sequence_length': 48,
    'doc_stride': 16,
    'max_query': 12,
    'max_answer': 8,
    'n_best': 5,
    'eval_batch_size': 32,
  }
  config['vocabulary'] = {'name': 'pydoc', 'text_files': '', 'size': 512}
  config['model'] |= {
    **SIZES,
    'checkpoint': '',
    'dtype': 'float32',
    'dropout_rate': 0.0,
    'remat': False,
  }
  config['optimizer'] |= {'learning_rate': 5e-3, 'warmup_steps': 10}
  config['train'] |= {
    'steps': 100,
    'log_every_steps': 50,
    'eval_every_steps': 0,
    'checkpoint_every_seconds': 0.0,
  }
  return config


def test_squad_is_learnt_and_answered_in_the_official_format(squad, tmp_path):
  """Asked what it was trained on: windows, labels and spans fit together."""
  squad['data']['hold_out'] = False
  folder = tmp_path / 'run'
  folder.mkdir()
  workdir.write_json(folder / 'config.json', squad)
  space = space_of(squad, folder)
  stage.run_all(task.program(squad), space)
  found = json.loads((folder / 'finetune' / 'report.json').read_text())
  figures = found['metrics']
  folder = tmp_path / 'run' / 'finetune'
  answers = json.loads((folder / 'predictions.json').read_text())
  data = json.loads(Path(squad['data']['squad_dev']).read_text())['data']
  asked = {
    question['id']: (question['question'], paragraph['context'])
    for article in data
    for paragraph in article['paragraphs']
    for question in paragraph['qas']
  }
  right = {
    question['id']: [answer['text'] for answer in question['answers']]
    for article in data
    for paragraph in article['paragraphs']
    for question in paragraph['qas']
  }
  assert answers.keys() == right.keys()
  assert figures['test/f1'] == 100 * mean_score(answers, right).f1
  assert figures['test/f1'] > 80  # spans at random have about 10
  assert figures['test/questions'] == 12
  ranked = json.loads((folder / 'nbest_predictions.json').read_text())
  for key, best in ranked.items():
    assert best[0]['text'] == answers[key]
    assert len(best) <= 5
    assert sum(one['probability'] for one in best) == pytest.approx(1)
  made = model.read(folder / 'model')
  assert made.example() == [[*next(iter(asked.values()))]]
  said = task.predict(made, [*asked.values()])
  assert [x['text'] for x in said] == [answers[key] for key in asked]
  assert said[0]['probability'] == pytest.approx(
    ranked[next(iter(asked))][0]['probability'], rel=1e-4
  )
  lines = read(folder / 'metrics.jsonl')
  assert not any(line['kind'] == 'eval' for line in lines)  # but after the fit
  assert found['train_windows'] > 12  # contexts slide
  assert found['train_answers_out_of_place'] == 0


def test_squad_holds_out_an_article_that_is_not_trained_on(squad):
  _, inputs = begun(squad)
  asked = {
    split: {part.titles[q.context] for q in part.questions}
    for split, part in inputs.data.job.parts.items()
  }
  assert len(asked['train']) == 5
  assert len(asked['validation']) == 1
  assert not asked['train'] & asked['validation']
  assert len(asked['test']) == 6
  assert [*inputs.evals] == ['validation']


def test_answers_that_do_not_match_their_context_are_refused(squad):
  path = Path(squad['data']['squad_train'])
  data = json.loads(path.read_text())
  question = data['data'][2]['paragraphs'][0]['qas'][0]
  question['answers'][0]['answer_start'] += 1
  path.write_text(json.dumps(data))
  for strict in (False, True):  # one of twelve is more than the tolerance
    squad['data']['strict'] = strict
    with pytest.raises(InputError, match='"Cor-Which river is at"'):
      begun(squad)


def test_span_loss_is_the_mean_of_two_cross_entropies_over_candidates():
  draw = np.random.default_rng(0)
  start, end = draw.normal(size=(2, 3, 7)).astype(np.float32)
  candidates = np.zeros((3, 7), bool)
  candidates[:, 3:6] = True
  labels = np.array([3, 0, 0]), np.array([5, 0, 0])
  mask = np.array([True, True, False])
  total, weight = jit(span.span_loss)(start, end, labels, candidates, mask)
  expected = 0.0
  for logits, label in zip((start, end), labels):
    for row in range(2):
      seen = [0, 3, 4, 5]  # [CLS] is always one
      logsum = np.log(np.exp(logits[row, seen].astype(float)).sum())
      expected += (logsum - logits[row, label[row]]) / 2
  assert weight == 2
  np.testing.assert_allclose(total, expected, rtol=1e-6)


def test_rows_are_laid_out_in_two_segments_and_padding():
  segments, attention = span.layout(jnp.array([3, 4]), jnp.array([5, 4]), 6)
  assert segments.tolist() == [[0, 0, 0, 1, 1, 0], [0] * 6]
  assert attention.astype(int).tolist() == [
    [1, 1, 1, 1, 1, 0],
    [1, 1, 1, 1, 0, 0],
  ]


@pytest.mark.parametrize('name', ['', 'scratch', 'base', 'smoke', 'squad'])
def test_every_config_plans_a_step_whose_flops_are_those_of_the_trace(name):
  config = config_of('bert_finetune', name)
  # The default and SQuAD begin from checkpoints, which need not be here.
  config['model']['remat'] = False
  config['optimizer']['micro_batches'] = 4 if name == 'smoke' else 1
  (only,) = task.program(config)
  space = space_of(config, devices=8)
  planned = only.plan(space)
  state, batch = plan.shapes(planned, 'train', space.mesh)
  update = planned.task.steps['train']
  after, _ = jax.eval_shape(update, state, batch, jax.random.key(0))
  chex.assert_trees_all_equal_shapes_and_dtypes(after, state)
  traced = flops.count(update, state, batch, jax.random.key(0))
  # The one-hot rows of segments need no gradient; the heads are not counted.
  assert traced == pytest.approx(planned.flops['train'], rel=5e-3)


def refused(config, message):
  with pytest.raises(InputError, match=message):
    task.program(config)


@pytest.mark.parametrize(
  'section, name, value, message',
  [
    ('data', 'sequence_length', 65, r'must be in \[3, 64\]; .*max_positions'),
    ('data', 'keep', 'middle', 'must be one of start, end, both'),
    ('data', 'train_examples', -1, 'must be at least 0; 0 takes all'),
    ('data', 'eval_batch_size', 0, 'must be at least 1'),
    ('data', 'batch_size', 0, 'must be at least 1'),
    ('model', 'num_heads', 3, 'hidden_size = 32 must be a multiple of 3'),
    ('model', 'num_layers', 0, 'checkpoint is empty'),
    ('model', 'dtype', 'float16', 'must be one of float32, bfloat16'),
    ('model', 'dropout_rate', 1.0, r'must be in \[0, 1\)'),
    ('vocabulary', 'name', '', 'checkpoint is empty'),
    ('optimizer', 'name', 'sgd', 'must be one of lamb'),
    ('optimizer', 'warmup_steps', 7, r'must be in \[0, 6\]'),
    (
      'optimizer',
      'micro_batches',
      3,
      'batch_size = 16 must be a multiple of 3',
    ),
    ('train', 'steps', 0, 'must be at least 1'),
  ],
)
def test_values_that_cannot_be_are_refused_before_data_is_read(
  tiny, section, name, value, message
):
  tiny[section][name] = value
  key = {'micro_batches': '', 'num_heads': ''}.get(name, name)
  refused(tiny, f'{key}.*{message}')


def test_an_unknown_target_is_refused(tiny):
  tiny['target'] = 'translation'
  refused(tiny, '"translation" must be one of classification, squad')


def test_more_examples_than_there_are_is_refused(tiny):
  tiny['data']['train_examples'] = 10**6
  with pytest.raises(InputError, match='train_examples = 1000000 is more'):
    begun(tiny)


def test_squad_files_and_shapes_that_cannot_be_are_refused(squad):
  squad['data']['doc_stride'] = 40
  refused(squad, 'stride=40')
  squad['data'] |= {'doc_stride': 16, 'n_best': 0}
  refused(squad, 'n_best = 0')
  squad['data'] |= {'n_best': 5, 'squad_dev': ''}
  with pytest.raises(InputError, match=r'config\.data\.squad_dev is empty'):
    begun(squad)


def test_a_checkpoint_of_another_shape_is_refused_naming_both(tuned):
  tuned['model']['hidden_size'] = 48
  refused(tuned, r'hidden_size = 48, .* pre-trained with 32.*or 0 to take')
  tuned['model']['hidden_size'] = 32  # what it has may be said too
  tuned['vocabulary']['name'] = 'bible'
  refused(tuned, r"vocabulary\.name = 'bible', .* with 'pydoc'")


def test_sequences_longer_than_the_checkpoints_positions_are_refused(tuned):
  tuned['data']['sequence_length'] = 128
  refused(tuned, r'sequence_length = 128 must be in \[3, 64\]')


def test_folders_that_are_no_finished_stage_are_refused(
  tuned, checkpoint, tmp_path
):
  def given(folder, message):
    tuned['model']['checkpoint'] = str(folder)
    refused(tuned, message)

  given(
    tmp_path / 'nowhere',
    r'nowhere has no report.*not a finished stage.*bert_lamb\.py',
  )
  # Where nothing is to be taken from it, a plan needs none, and a run does.
  whole = {
    **tuned,
    'model': {**tuned['model'], **SIZES},
    'vocabulary': {'name': 'pydoc', 'text_files': '', 'size': 512},
  }
  assert len(task.program(whole)) == 1
  with pytest.raises(InputError, match='nowhere has no report'):
    begun(whole)
  given(
    checkpoint.parent, r"not a finished stage; its stages are \['pretrain'\]"
  )
  lone = tmp_path / 'lone' / 'pretrain'
  lone.mkdir(parents=True)
  (lone / 'report.json').write_text('{}')
  given(lone, 'config.json is not the config')
  other = {'paper': 'mvs', 'model': {}, 'data': {}}
  (lone.parent / 'config.json').write_text(json.dumps(other))
  given(lone, "config of a pre-training run .*'num_layers'")


def test_a_text_that_changed_since_pretraining_is_refused(
  tuned, checkpoint, monkeypatch
):
  """The same name, another vocabulary: ids would mean other words."""
  whole = bert.open_corpus

  def changed(*args):
    corpus = whole(*args)
    corpus.sha256 = 'another'
    return corpus

  monkeypatch.setattr(bert, 'open_corpus', changed)
  about = json.loads((checkpoint / 'report.json').read_text())
  both = f'{about["corpus_sha256"]}.*another'
  with pytest.raises(InputError, match=both):
    begun(tuned)


def test_a_checkpoint_that_is_not_of_its_config_is_refused(
  tuned, checkpoint, tmp_path
):
  copy = tmp_path / 'pretraining'
  shutil.copytree(checkpoint.parent, copy)
  path = copy / 'config.json'
  config = json.loads(path.read_text())
  config['model']['intermediate_size'] = 96
  path.write_text(json.dumps(config))
  tuned['model']['checkpoint'] = str(copy / 'pretrain')
  with pytest.raises(InputError, match=r'shape \(1, 64\).*is \(1, 96\)'):
    begun(tuned)
  shutil.rmtree(copy / 'pretrain' / 'checkpoints')
  with pytest.raises(InputError, match='holds no checkpoint'):
    begun(tuned)


@pytest.mark.slow
def test_the_programs_pretrain_and_then_finetune(tmp_path):
  """Both smoke commands, one after the other; a minute or two."""
  environment = runs.one_device()

  def command(config, folder, *flags):
    subprocess.run(
      [
        sys.executable,
        '-m',
        'jaxlab.main',
        f'--config={ROOT}/configs/{config}.py:smoke',
        f'--workdir={tmp_path / folder}',
        *flags,
      ],
      env=environment,
      cwd=ROOT,
      check=True,
    )

  command('bert_lamb', 'first')
  stage_folder = tmp_path / 'first' / 'pretrain'
  command(
    'bert_finetune', 'second', f'--config.model.checkpoint={stage_folder}'
  )
  found = json.loads((tmp_path / 'second/finetune/report.json').read_text())
  about = json.loads((stage_folder / 'report.json').read_text())
  assert found['pretrained_sha256'] == about['state_sha256']
  low = found['metrics']['test/accuracy_low']
  assert low > found['metrics']['test/majority_accuracy']
