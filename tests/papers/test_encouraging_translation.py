"""Translation: its schedule, its averages, and a cipher from end to end."""

import copy
import functools
import json
import random
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sacrebleu

import jaxlab
from jaxlab.core.errors import InputError, Preempted
from jaxlab.core.state import State
from jaxlab.data.text import translation as data
from jaxlab.engine import mesh, preemption
from jaxlab.engine.compiled import first_state
from jaxlab.papers.encouraging import translation
from jaxlab.papers.encouraging.method import encouraging_loss
from jaxlab.planning.plan import shapes
from jaxlab.recipes.study import Cell
from jaxlab.runs import stage, workdir

LOSS = {
  'bonus': 'conservative',
  'bonus_scale': 1.0,
  'log_end': 0.5,
  'threshold': 0.5,
  'gamma': 1.0,
  'softness': 0.5,
  'label_smoothing': 0.1,
  'clamp_eps': 0.0,
  'schedule': 'constant',
  'schedule_of': 'bonus_scale',
  'schedule_steps': 1,
  'bonus_weights': 'none',
  'weights': 'none',
  'weights_start': 0,
}
CONFIG = {
  'paper': 'encouraging',
  'job': 'translation',
  'title': 'A cipher',
  'seed': 0,
  'losses': {'ce': {**LOSS, 'bonus_scale': 0.0}, 'el': LOSS},
  'study': {
    'baseline': 'ce',
    'rates': [3e-3],
    'seeds': [0],
    'metric': 'bleu',
    'better': 'higher',
  },
  'data': {
    'name': '',
    'source': 'plain',
    'target': 'cipher',
    'vocab_size': 330,
    'lengths': [12],
    'batch_tokens': 384,
    'eval_batch_size': 32,
    'eval_examples': 0,
    'workers': 0,
    'ahead': 2,
  },
  'model': {
    'layers': 1,
    'width': 32,
    'ffn': 64,
    'heads': 2,
    'dropout': 0.0,
    'norm': 'pre',
    'dtype': 'float32',
  },
  'optimizer': {
    'name': 'adamw',
    'schedule': 'inverse_sqrt',
    'micro_batches': 1,
    'b1': 0.9,
    'b2': 0.98,
    'eps': 1e-8,
    'warmup_steps': 40,
    'weight_decay': 1e-4,
    'clip_norm': 0.0,
  },
  'train': {
    'steps': 12,
    'log_every_steps': 50,
    'eval_every_steps': 0,
    'checkpoint_every_steps': 0,
    'checkpoint_every_seconds': 0.0,
    'checkpoint_keep': 1,
    'max_bad_steps': 0,
  },
  'average': {'last': 3, 'every': 2},
  'decode': {'width': 3, 'alpha': 0.6, 'max_length': 14},
  'paper_reported': {},
}
WORDS = [a + b + c for a in 'bdk' for b in 'ae' for c in 'nst']
WORDS_OF = re.compile(rf'(({"|".join(WORDS)})( |$))+$')


@pytest.fixture(scope='module')
def name(tmp_path_factory):
  """Sentences of 18 words, and each word as another one."""
  root = tmp_path_factory.mktemp('cipher')
  draw = random.Random(0)
  of = dict(zip(WORDS, draw.sample([w.upper() for w in WORDS], len(WORDS))))
  for split, count in (('train', 600), ('validation', 40), ('test', 40)):
    (root / split).mkdir()
    lines = [draw.choices(WORDS, k=draw.randint(2, 9)) for _ in range(count)]
    for end, known in (('plain', dict(zip(WORDS, WORDS))), ('cipher', of)):
      text = ''.join(' '.join(known[w] for w in s) + '\n' for s in lines)
      (root / split / f'text.{end}').write_text(text)
  return f'aligned:{root}/text.plain,{root}/text.cipher'


@pytest.fixture(autouse=True)
def data_dir(tmp_path_factory, monkeypatch):
  folder = tmp_path_factory.getbasetemp() / 'encouraging_translation_data'
  monkeypatch.setenv('JAXLAB_DATA_DIR', str(folder))


def config_of(name='', **sections):
  config = copy.deepcopy(CONFIG)
  config['data']['name'] = name
  for section, changes in sections.items():
    config[section] = {**config[section], **changes}
  return config


def space_of(config, folder, devices=1):
  folder.mkdir(exist_ok=True)
  workdir.write_json(folder / 'config.json', config)
  devices = mesh.make(devices=jax.devices()[:devices])
  return stage.Workspace(folder, config, devices, config['seed'])


def test_a_cipher_is_learnt_from_end_to_end(tmp_path, name):
  config = config_of(
    name,
    study={'rates': [1e-2]},
    train={'steps': 140},
    average={'last': 3, 'every': 5},
  )
  config['losses'] = {'el': LOSS}
  config['study']['baseline'] = 'el'
  space = space_of(config, tmp_path, devices=2)
  stage.run_all(translation.program(space.config), space)
  about = json.loads((tmp_path / 'el-s0' / 'report.json').read_text())
  figures = about['metrics']
  # Chance is 1 of 18 words; the words' order is given.
  assert figures['test/bleu'] > 60 and figures['test/accuracy'] > 0.8
  assert figures['validation/accuracy'] > 0.8
  assert 'validation/bleu' not in figures
  assert 'tok:13a' in about['bleu_signature']
  assert about['training_pairs'] + about['training_pairs_left_out'] == 600
  path = tmp_path / 'el-s0' / 'translations_test.json'
  rows = json.loads(path.read_text())
  assert len(rows) == 40
  assert sum(row['translation'] == row['reference'] for row in rows) > 10
  texts, references = (
    [row[name] for row in rows] for name in ('translation', 'reference')
  )
  bleu = sacrebleu.corpus_bleu(texts, [references])
  assert bleu.score == figures['test/bleu']
  # The model that it leaves says the same.
  made = jaxlab.load(tmp_path)
  said = made.predict([row['source'] for row in rows])
  wanted = ('source', 'translation')
  assert said == [{key: row[key] for key in wanted} for row in rows]
  assert made.example() == [WORDS_OF.match(made.example()[0])[0]]
  words = data.read_tokenizer(made.files['tokenizer.json'].decode())
  texts = [' '.join(WORDS[:count]) for count in range(1, 18)]
  counts = [len(words.encode(text).ids) for text in texts]
  longest = max(count for count in counts if count <= 11)  # and EOS
  at = counts.index(longest)
  assert longest > 9 and made.predict([texts[at]])
  with pytest.raises(InputError, match='tokens, and config'):
    made.predict(['short', texts[at + 1]])


def test_a_trial_that_was_stopped_ends_like_one_that_was_not(
  tmp_path, name, monkeypatch
):
  """Stopped within the window of the average, whose sum is in the State."""
  config = config_of(name)

  def run(folder):
    space = space_of(config, folder, devices=2)
    cell = Cell('trial', 'ce', None, 3e-3, 0)
    stage.run_all([translation.training_stage(config, cell)], space)
    return json.loads((folder / 'trial' / 'report.json').read_text())

  decoded = []

  def decode(config, cell, pairs, split, space, state):
    decoded.append(
      (
        split,
        float(
          translation.averaged(state.params, state.vars)['embedding'].sum()
        ),
      )
    )
    return {}

  monkeypatch.setattr(translation, '_decode', decode)
  whole = run(tmp_path / 'whole')
  source = translation.TranslationSource
  made = source.batch
  seen = []

  def batch(self, step, rows):
    seen.append(step)
    return made(self, step, rows)

  monkeypatch.setattr(source, 'batch', batch)
  asked = preemption.asked
  monkeypatch.setattr(preemption, 'asked', lambda: 11 in seen or asked())
  with pytest.raises(Preempted, match=r'saved step (9|10|11);'):
    run(tmp_path / 'cut')
  monkeypatch.setattr(preemption, 'asked', asked)
  again = run(tmp_path / 'cut')
  assert again['state_sha256'] == whole['state_sha256']
  assert again['metrics'] == whole['metrics']
  assert 'validation/nats' in whole['metrics']
  # A trial leaves the test set alone, and its average outlives the stop.
  assert decoded[0] == decoded[1] and decoded[0][0] == 'validation'


def task_of(**sections):
  return translation.make_task(config_of(**sections), 'el', 3e-3, 330)


@functools.cache
def step_of(n=1):
  """A State, and its step that is compiled once for each shape."""
  task = task_of(optimizer={'micro_batches': n})
  return first_state(task, jax.random.key(0)), jax.jit(task.steps['train_12'])


def batch_of(rows=8, length=8, seed=0):
  draw = np.random.default_rng(seed)
  tokens = draw.integers(3, 330, size=(2, rows, length)).astype(np.int32)
  for side in range(2):
    for row, size in enumerate(draw.integers(2, length + 1, rows)):
      tokens[side, row, size - 1] = 2
      tokens[side, row, size:] = 0
  return {
    'source': tokens[0],
    'target': tokens[1],
    'id': np.arange(rows, dtype=np.int32),
    'mask': np.ones(rows, bool),
  }


def test_the_average_is_that_of_the_last_parameters_and_updates_are_counted():
  state, step = step_of()  # of 12: after 8, 10 and 12
  seen = {}
  for update in range(12):
    state, metrics = step(state, batch_of(seed=update), jax.random.key(update))
    assert metrics['nonfinite'][0] == 0
    state = state.replace(step=state.step + 1)  # as the engine does
    seen[update + 1] = state.params['net']
    if update + 1 < 8:
      chex.assert_trees_all_equal(
        translation.averaged(state.params, state.vars), state.params['net']
      )
  assert state.vars['updates'] == 12
  assert state.vars['average']['count'] == 3
  mean = jax.tree.map(lambda *x: sum(x) / 3, *(seen[u] for u in (8, 10, 12)))
  found = translation.averaged(state.params, state.vars)
  chex.assert_trees_all_close(found, mean, rtol=1e-6, atol=1e-7)


def test_a_prolonged_run_begins_its_average_anew():
  net = {'w': jnp.ones(2)}
  vars = {
    'updates': jnp.int32(12),
    'average': {'sum': {'w': jnp.full(2, 30.0)}, 'count': jnp.int32(3)},
  }
  state = State(jnp.int32(12), {'net': net}, {}, vars)
  update = jax.jit(translation.bookkeeping(20, 2, 3))  # after 17 and 20
  counts = []
  for _ in range(12, 20):
    state, _ = update(state, {}, jax.random.key(0))
    state = state.replace(step=state.step + 1)
    state.params['net']['w'] += 1
    counts.append(int(state.vars['average']['count']))
  assert counts == [0, 0, 0, 0, 1, 1, 1, 2]
  # The parameters were 5 and 8 when they were taken.
  np.testing.assert_allclose(
    translation.averaged(state.params, state.vars)['w'], 6.5
  )


def test_micro_batches_make_the_step_of_the_whole_batch():
  found = []
  for n in (1, 4):
    state, step = step_of(n)
    state, metrics = step(state, batch_of(), jax.random.key(1))
    assert state.vars['updates'] == 1
    means = {name: a / b for name, (a, b) in metrics.items()}
    found.append((state.opt['net'], means))
  # Adam's moments are the gradients, without its normalisation.
  chex.assert_trees_all_close(*found, rtol=1e-4, atol=1e-6)


def test_rows_and_places_that_are_padding_are_in_no_term_of_the_loss():
  state, step = step_of()
  batch = batch_of()
  batch['mask'] = np.arange(8) % 3 > 0
  other = {k: v.copy() for k, v in batch.items()}
  for side in ('source', 'target'):
    other[side][~batch['mask']] = 7
  one, two = (step(state, b, jax.random.key(1)) for b in (batch, other))
  chex.assert_trees_all_close(one[1], two[1], rtol=1e-6)
  chex.assert_trees_all_close(one[0].opt, two[0].opt, rtol=1e-5, atol=1e-8)
  tokens = (batch['target'][batch['mask']] != 0).sum()
  assert one[1]['nats'][1] == tokens == one[1]['loss'][1]


def test_the_loss_is_that_of_the_arm_a_token():
  state, step = step_of()
  batch = batch_of()
  target = batch['target']
  _, metrics = step(state, batch, jax.random.key(1))
  model = translation.make_model(config_of(), 330)
  begun = np.concatenate([np.ones((8, 1), np.int32), target[:, :-1]], 1)

  @jax.jit
  def losses(net):
    logits = model.apply(
      {'params': net}, batch['source'], begun, deterministic=True
    )
    return encouraging_loss(
      logits,
      target,
      log_end=0.5,
      bonus='conservative',
      label_smoothing=0.1,
      mask=target != 0,
    )

  every = losses(state.params['net'])
  total, count = metrics['loss']
  np.testing.assert_allclose(total, every.sum(), rtol=1e-5)
  assert count == (target != 0).sum()


def random_net(config, vocab_size):
  """(params, vars) whose attention is far from uniform; no bias is 0."""
  task = translation.make_task(config, 'el', 3e-3, vocab_size)
  first = functools.partial(first_state, task)
  state = jax.eval_shape(first, jax.random.key(0))
  draw = np.random.default_rng(0)

  def values(path, leaf):
    centre = 1.0 if path[-1].key == 'scale' else 0.0
    return np.float32(centre + 0.4 * draw.normal(size=leaf.shape))

  nothing = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), state.vars)
  return jax.tree_util.tree_map_with_path(values, state.params), nothing


@pytest.mark.parametrize('norm', ['pre', 'post'])
def test_a_translation_is_the_same_alone_and_padded_in_a_batch(norm):
  config = config_of(model={'norm': norm})
  params, vars = random_net(config, 20)
  search = jax.jit(
    translation.hypotheses(config, translation.make_model(config, 20))
  )
  short, other = [7, 11, 2], [5, 9, 4, 17, 3, 12, 8, 19, 2]
  alone = search(
    params,
    vars,
    {'source': np.array([short], np.int32), 'mask': np.ones(1, bool)},
  )
  rows = np.array([other, short + [0] * 6, [0] * 9], np.int32)
  mask = np.array([True, True, False])
  padded = search(params, vars, {'source': rows, 'mask': mask})
  chex.assert_shape(padded.tokens, (3, 3, 14))
  assert np.isfinite(alone.score).all()
  np.testing.assert_array_equal(padded.tokens[1], alone.tokens[0])
  np.testing.assert_allclose(padded.score[1], alone.score[0], rtol=0, atol=1e-5)
  # The source is at work, and the row that does not count has no text.
  assert (padded.tokens[0] != padded.tokens[1]).any()
  assert np.isneginf(padded.score[2]).all()
  assert not padded.tokens[2].any()


def test_a_translation_has_no_padding_or_beginning_before_its_end():
  """Width 1 is greedy search in the other tokens."""
  config = config_of(decode={'width': 1, 'max_length': 6})
  params, vars = random_net(config, 7)
  model = translation.make_model(config, 7)
  source = np.random.default_rng(1).integers(3, 7, (16, 5)).astype(np.int32)
  known = jax.jit(
    lambda target: model.apply(
      {'params': params['net']}, source, target, deterministic=True
    )
  )

  def greedy(never):
    texts = np.zeros((16, 6), np.int32)
    for i in range(6):
      logits = np.array(known(translation.shifted(jnp.asarray(texts)))[:, i])
      logits[:, never] = -np.inf
      ended = (texts[:, :i] == 2).any(1)
      last = 2 if i == 5 else logits.argmax(-1)
      texts[:, i] = np.where(ended, 0, last)
    return texts

  def early(texts):
    """Rows with PAD or BOS before EOS."""
    before = np.cumsum(texts == 2, -1) == 0
    return (before & (texts < 2)).any(-1)

  batch = {'source': source, 'mask': np.ones(16, bool)}
  found = jax.jit(translation.searcher(config, model))(params, vars, batch)
  np.testing.assert_array_equal(found, greedy([0, 1]))
  assert early(greedy([])).any()  # where nothing is forbidden
  wide = config_of(decode={'max_length': 6})
  search = jax.jit(translation.hypotheses(wide, model))
  every = search(params, vars, batch)
  assert np.isfinite(every.score).all()
  assert not early(np.asarray(every.tokens)).any()


def test_training_has_dropout_and_evaluation_has_not():
  for rate in (0.0, 0.3):
    config = config_of(model={'dropout': rate})
    task = task_of(model={'dropout': rate})
    first = functools.partial(first_state, task)
    state = jax.eval_shape(first, jax.random.key(0))
    evaluator = translation.make_evaluator(config, 330)
    args = (state, batch_of(), jax.random.key(0))
    train = jax.make_jaxpr(task.steps['train_12'])(*args)
    held_out = jax.make_jaxpr(evaluator.update)(evaluator.init(), *args)
    assert ('random_bits' in str(train)) == (rate > 0)
    assert 'random_bits' not in str(held_out)


def test_a_plan_knows_the_shapes_of_all_lengths(tmp_path):
  two = {'micro_batches': 2}
  config = config_of(optimizer=two, data={'lengths': [8, 12]})
  space = space_of(config, tmp_path)
  first, *_ = translation.program(config)
  planned = first.plan(space)
  assert sorted(planned.spec) == ['train_12', 'train_8']
  assert planned.spec['train_8']['source'].shape == (48, 8)
  assert planned.spec['train_12']['target'].shape == (32, 12)
  state, batch = shapes(planned, 'train_12', space.mesh)
  out, _ = jax.eval_shape(
    planned.task.steps['train_12'], state, batch, jax.random.key(0)
  )
  chex.assert_trees_all_equal_shapes_and_dtypes(out.params, state.params)
  assert set(planned.spec) == set(planned.task.steps)


@pytest.mark.parametrize(
  'section, changes, words',
  [
    (
      'model',
      {'norm': 'no'},
      'config.model: norm="no" is not one of pre, post',
    ),
    ('model', {'dtype': 'int8'}, 'config.model.dtype = "int8" must be one of'),
    (
      'data',
      {'batch_tokens': 10},
      'a batch of 10 tokens does not hold 1 rows',
    ),
    ('optimizer', {'micro_batches': 0}, 'micro_batches = 0 must be at'),
    ('data', {'lengths': [9, 8]}, r'lengths \[9, 8\] must be increasing'),
    ('data', {'eval_batch_size': 0}, 'config.data.eval_batch_size = 0 must be'),
    ('average', {'every': 5}, r'average.last = 3 must be in \[1, 2\]; of all'),
    ('average', {'last': 0}, r'config.average.last = 0 must be in \[1, 6\]'),
    ('decode', {'width': 0}, 'config.decode.width = 0 must be at least 1'),
    (
      'study',
      {'metric': 'ter'},
      'metric = "ter" must be one of bleu, nats, acc',
    ),
    (
      'optimizer',
      {'warmup_steps': 0},
      'config.optimizer.warmup_steps = 0 must',
    ),
    (
      'losses',
      {'el': {**LOSS, 'weights': 'effective_number'}},
      'this job does not count classes',
    ),
  ],
)
def test_a_config_that_cannot_be_is_named(section, changes, words):
  with pytest.raises(InputError, match=words):
    translation.program(config_of(**{section: changes}))
