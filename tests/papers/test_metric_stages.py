"""Metric transfer's stages: what is trained on what, and few-shot episodes."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxlab.core.errors import InputError
from jaxlab.core.state import State
from jaxlab.data.images.streaming import open_records
from jaxlab.engine import mesh
from jaxlab.models.normalised import Network
from jaxlab.papers.metric_transfer import (
  embedding,
  episodes,
  fewshot,
  finetuning,
  heads,
  pretraining,
  task,
)
from jaxlab.runs import stage, workdir
from jaxlab.runs.model import Model
from tests import runs

SIDE = 4


def config_of(variant='smoke', **changes):
  """A resolved config with values changed, 'section__key' -> value."""
  config = runs.config_of('metric_transfer', variant).to_dict()
  for name, value in changes.items():
    section, key = name.split('__')
    config[section][key] = value
  return config


# --- the metric's loss ---


def linear(outputs):
  """A network without norms: pixels times a matrix."""

  def logits(images, params, vars):
    del vars
    return images.reshape(len(images), -1) @ params['net']['w']

  def train(params, vars, images, mask):
    del mask
    return logits(images, params, vars), {'net': {}}

  draw = np.random.default_rng(3)
  params = {'net': {'w': draw.normal(0, 1, (SIDE**2, outputs))}}
  return Network(None, logits, None, train, None), params


def pixels(rows=5):
  draw = np.random.default_rng(1)
  return {
    'image': draw.integers(0, 256, (rows, SIDE, SIDE, 1)).astype(np.uint8),
    'label': np.arange(rows) % 2,
    'id': np.array([3, 0, 3, 6, 5])[:rows],
    'mask': np.array([True, True, True, True, False])[:rows],
  }


def bank_of(**more):
  draw = np.random.default_rng(2)
  found = draw.normal(size=(8, 3))
  found /= np.linalg.norm(found, axis=1, keepdims=True)
  labels = jnp.full(8, -1)
  return {'bank': {'rows': jnp.float32(found), 'labels': labels, **more}}


def metric_loss(name, **changes):
  values = {'metric__loss': name, 'metric__crop': 1.0, 'metric__dimension': 3}
  config = config_of(**values, **{'metric__centre': False, **changes})
  net, params = linear(4 if name == 'rotation' else 3)
  one = mesh.make(devices=jax.devices()[:1])
  return pretraining.make_loss(config, net, one), params


def test_the_bank_is_read_before_it_moves_and_learns_labels():
  loss, params = metric_loss('instance')
  vars, batch = bank_of(), pixels()
  found = loss(params, vars, batch, jax.random.key(0))
  v = (batch['image'] / 255).reshape(5, -1) @ params['net']['w']
  v /= np.linalg.norm(v, axis=1, keepdims=True)
  rows = np.asarray(vars['bank']['rows'])
  logits = v @ rows.T / 0.1
  nats = np.log(np.exp(logits).sum(1)) - logits[np.arange(5), batch['id']]
  np.testing.assert_allclose(found.sum, nats[:4].sum(), rtol=1e-4)
  moved = np.asarray(found.vars['bank']['rows'])
  same = [1, 2, 4, 5, 7]  # 5 is padding's
  np.testing.assert_array_equal(moved[same], rows[same])
  assert (np.abs(moved[[0, 3, 6]] - rows[[0, 3, 6]]).max(1) > 0.01).all()
  known = found.vars['bank']['labels'].tolist()
  assert known == [1, -1, -1, 0, -1, -1, 1, -1]


def test_the_centre_of_what_is_no_padding_is_taken_off():
  loss, params = metric_loss('instance', metric__centre=True)
  vars, batch = {**bank_of(), 'centre': jnp.full(3, 2.0)}, pixels()
  found = loss(params, vars, batch, jax.random.key(0))
  v = (batch['image'] / 255).reshape(5, -1) @ params['net']['w']
  mean = v[:4].mean(0)
  np.testing.assert_allclose(found.vars['centre'], 1.8 + 0.1 * mean, rtol=1e-4)
  v -= mean
  v /= np.linalg.norm(v, axis=1, keepdims=True)
  logits = v @ np.asarray(vars['bank']['rows']).T / 0.1
  nats = np.log(np.exp(logits).sum(1)) - logits[np.arange(5), batch['id']]
  np.testing.assert_allclose(found.sum, nats[:4].sum(), rtol=1e-3)


def test_the_normaliser_of_noise_is_that_of_the_first_batch():
  loss, params = metric_loss('instance', metric__noise=6)
  more = {'log_normaliser': jnp.zeros(()), 'normalised': jnp.zeros((), bool)}
  vars, batch = bank_of(**more), pixels()
  one = loss(params, vars, batch, jax.random.key(0)).vars
  first = float(one['bank']['log_normaliser'])
  assert first != 0 and one['bank']['normalised']
  two = loss(params, one, batch, jax.random.key(1)).vars
  assert float(two['bank']['log_normaliser']) == first


def test_turns_hang_on_the_image_and_are_told_by_cross_entropy():
  loss, params = metric_loss('rotation')
  batch = pixels()
  value = loss(params, {}, batch, jax.random.key(0))
  order = np.array([4, 2, 0, 1, 3])
  mixed = {name: array[order] for name, array in batch.items()}
  again = loss(params, {}, mixed, jax.random.key(0))
  np.testing.assert_allclose(value.sum, again.sum, rtol=1e-5)
  other = loss(params, {}, batch, jax.random.key(4))
  assert abs(float(value.sum - other.sum)) > 1e-3
  assert value.weight == 4


# --- fine-tuning ---


def spread_of(n, shares):
  return {
    'normalized_cut-s0/labels': shares.argmax(1),
    'normalized_cut-s0/confidence': np.linspace(0.1, 0.9, n),
    'normalized_cut-s0/shares': shares,
  }


def small_set(n=20):
  draw = np.random.default_rng(5)
  train = {
    'image': np.arange(n)[:, None, None, None] * np.ones((1, 2, 2, 1)),
    'label': np.arange(n) % 2,
  }
  return train, spread_of(n, draw.dirichlet([1, 1], n))


def set_of(train, spread, arm, **changes):
  config = config_of(
    data__num_classes=2,
    labels__per_class=2,
    finetune__labelled_repeats=3,
    propagation__ratio=0.5,
    **changes,
  )
  return finetuning.training_set(config, train, arm, 0, spread)


def test_an_arm_is_trained_on_its_rows():
  train, spread = small_set()
  alone = set_of(train, spread, 'supervised')
  assert len(alone['image']) == 12 and not alone['own'].any()
  assert (alone['weight'] == 1).all()
  places = alone['image'][:, 0, 0, 0].astype(int)
  np.testing.assert_array_equal(alone['target'].argmax(1), places % 2)
  own = set_of(train, spread, 'pseudo_label')
  assert own['own'].tolist() == [False] * 12 + [True] * 16
  cut = set_of(train, spread, 'normalized_cut')
  others = cut['image'][12:, 0, 0, 0].astype(int)
  rest = sorted({*range(20)} - {*places})
  # Confidence rises with the place: the surest half of sixteen.
  assert others.tolist() == rest[8:]
  confidence = spread['normalized_cut-s0/confidence']
  np.testing.assert_allclose(cut['weight'][12:], confidence[others])
  shares = spread['normalized_cut-s0/shares'][others]
  np.testing.assert_array_equal(cut['target'][12:].argmax(1), shares.argmax(1))
  soft = set_of(train, spread, 'normalized_cut', finetune__targets='soft')
  np.testing.assert_allclose(soft['target'][12:], shares, rtol=1e-6)
  even = set_of(train, spread, 'normalized_cut', finetune__class_balance=True)
  named = np.concatenate([places[:4] % 2, shares.argmax(1)])
  factor = 6 / np.bincount(named, minlength=2)[shares.argmax(1)]
  np.testing.assert_allclose(
    even['weight'][12:], cut['weight'][12:] * factor, rtol=1e-5
  )


def test_leaves_are_taken_named_or_refused():
  fresh = {'net': {'conv': jnp.zeros((2, 3)), 'head': jnp.zeros(4)}}
  given = {'net': {'conv': jnp.ones((2, 3)), 'head': jnp.ones(5)}}
  state = State(jnp.zeros(()), given, {}, {'net': {}, 'bank': jnp.ones(3)})
  found = finetuning.begun_from(state, (fresh, {'net': {}}), ('head',))
  assert (found.params['net']['conv'] == 1).all()
  assert (found.params['net']['head'] == 0).all()
  assert found.vars == {'net': {}}
  with pytest.raises(InputError, match=r'params/head is \(4,\) .* \(5,\)'):
    finetuning.begun_from(state, (fresh, {'net': {}}), ())
  del given['net']['conv']
  with pytest.raises(InputError, match=r'params/conv .* absent in the metric'):
    finetuning.begun_from(state, (fresh, {'net': {}}), ('head',))


# --- whole programs without training ---


def run(config, folder, program):
  one = mesh.make(devices=jax.devices()[:1])
  space = stage.Workspace(folder, config, one, 0, offline=True)
  folder.mkdir()
  workdir.write_json(folder / 'config.json', config)
  stage.run_all(program(config), space)
  return space


def test_linear_heads_on_a_given_embedding(tmp_path, monkeypatch):
  monkeypatch.setenv('JAXLAB_DATA_DIR', str(tmp_path / 'data'))
  config = config_of(
    metric__loss='pixels',
    metric__components=20,
    study__methods=('supervised', 'normalized_cut', 'pseudo_label'),
    propagation__methods=('normalized_cut', 'sklearn_spreading'),
  )
  config['study']['baseline'] = 'supervised'
  config['heads'] = {'penalties': (0.1,)}
  config['paper_reported'] = {'normalized_cut/50': 0.5829}
  space = run(config, tmp_path / 'run', task.program)
  figures = space.figures('propagate')
  assert figures['normalized_cut/5_a_class'] > 0.8
  found = space.figures('heads')
  gain = found['test/normalized_cut-s0'] - found['test/supervised-s0']
  assert gain > 0 and found['test/normalized_cut-s0'] > 0.85
  said = json.loads((tmp_path / 'run/claims/sections.json').read_text())
  assert said[0]['rows'][1][2].startswith('normalized_cut over supervised ')
  assert 'not run here' in said[0]['rows'][0][2]
  tables = (tmp_path / 'run/propagate/tables.md').read_text()
  assert '0.5829' in tables


def test_validation_chooses_the_penalty_and_own_answers_are_the_heads():
  rng = np.random.default_rng(0)
  y = np.repeat([0, 1], [30, 10])
  x = rng.normal(0, 0.1, (40, 2)) + np.eye(2)[y]
  own = np.arange(40) % 2 == 1
  rows = {
    'image': x,
    'target': np.eye(2)[np.where(own, 0, y)],  # what is own says nothing
    'weight': np.ones(40),
    'own': own,
  }
  config = {'heads': {'penalties': (1e-9, 1.0)}}
  head = heads._best(config, rows, (x, y))
  assert head.C == 1.0 and head.score(x, y) == 1.0


@pytest.fixture
def miniature(tmp_path):
  """Class folders and lists of splits: noise around a picture of a class."""
  draw = np.random.default_rng(0)
  root = tmp_path / 'mini'
  splits = {'train': 'ab', 'val': 'cd', 'test': 'efg'}
  for split, classes in splits.items():
    lines = ['filename,label']
    for name in classes:
      (root / name).mkdir(parents=True)
      middle = draw.integers(0, 256, (6, 6, 3))
      for number in range(12):
        noisy = middle + draw.normal(0, 40, (6, 6, 3))
        file = f'{name}{number}.png'
        pixels = np.clip(noisy, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(root / name / file)
        lines.append(f'{file},{name}')
    (root / f'{split}.csv').write_text('\n'.join(lines) + '\n')
  return root


def test_lists_of_splits_are_read_and_bad_lines_named(miniature):
  name = f'split_csv:{miniature}'
  found = open_records(name, 'test')
  assert found.classes == tuple('abcdefg') and len(found) == 36
  _, label = found.read([0, 35])
  assert label.tolist() == [4, 6]
  with pytest.raises(InputError, match="no split 'novel'"):
    open_records(name, 'novel')
  lists = miniature / 'val.csv'
  lists.write_text('filename,label\nnone.png,c\n')
  with pytest.raises(InputError, match=r"'none.png' of 'c', which is at none"):
    open_records(name, 'validation')
  lists.write_text('file,class\nc0.png,c\n')
  with pytest.raises(InputError, match='columns filename and label'):
    open_records(name, 'train')
  lists.unlink()
  with pytest.raises(InputError, match=r'cannot read .*val.csv'):
    open_records(name, 'train')


def test_few_shot_episodes_of_lists_of_splits(miniature, tmp_path, monkeypatch):
  monkeypatch.setenv('JAXLAB_DATA_DIR', str(tmp_path / 'data'))
  config = config_of('mini_imagenet', metric__loss='pixels', data__size=6)
  config['fewshot'] |= {
    'sets': ((f'split_csv:{miniature}', 'test', 7),),
    'ways': 3,
    'shots': (1,),
    'queries': 4,
    'episodes': 8,
    'pools': (4, 8),
  }
  space = run(config, tmp_path / 'run', fewshot.program)
  figures = space.figures('split_csv-test')
  assert figures['1_shot/centroid, inductive'] > 0.6
  gain = '1_shot/normalized_cut, pool 8 a class_gain'
  assert figures[gain] == pytest.approx(
    figures['1_shot/normalized_cut, pool 8 a class']
    - figures['1_shot/centroid, inductive']
  )
  said = json.loads((tmp_path / 'run/claims/sections.json').read_text())
  assert '1-shot' in said[0]['rows'][2][2]


# --- episodes ---


def test_pools_hold_the_same_shots_and_queries_and_no_image_twice():
  truth = np.repeat(np.arange(6), 30)
  small, large = (episodes.draw(truth, 5, 2, 4, pool, 9) for pool in (0, 20))
  assert small.labelled == 10 and small.queries == 20
  assert len(small.rows) == 30 and len(large.rows) == 10 + 5 * 20
  np.testing.assert_array_equal(large.rows[:30], small.rows)
  assert len({*large.rows}) == len(large.rows)
  chosen = truth[large.rows]
  for one in range(5):
    assert len({*chosen[large.labels == one]}) == 1
  assert np.bincount(large.labels).tolist() == [22] * 5
  with pytest.raises(InputError, match='0 classes have 20'):
    episodes.draw(truth, 5, 20, 15, 0, 0)
  with pytest.raises(InputError, match='a pool of 3 cannot hold 4'):
    episodes.draw(truth, 5, 2, 4, 3, 0)


def test_episodes_are_answered_by_means_neighbours_and_pools():
  rng = np.random.default_rng(0)
  truth = np.repeat(np.arange(6), 40)
  x = np.eye(6, 12)[truth] + 0.3 * rng.standard_normal((240, 12))
  x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
  episode = episodes.draw(truth, 3, 2, 5, 30, 1)
  own = x[episode.rows]
  shown, seen = own[:6], own[6:21]
  nearest = episode.labels[:6][(seen @ shown.T).argmax(1)]
  means = np.stack([shown[episode.labels[:6] == k].mean(0) for k in range(3)])
  means /= np.linalg.norm(means, axis=1, keepdims=True)
  for method, expected in (
    ('nearest', nearest),
    ('centroid', (seen @ means.T).argmax(1)),
  ):
    found = episodes.answered(own, episode, method)
    np.testing.assert_array_equal(found, expected)
  arms = {
    'mean': ('centroid', 0),
    'cut': ('normalized_cut', 30),
    'spread': ('spreading', 30),
  }
  made = episodes.compared(
    *(x, truth, arms),
    ways=5, shots=1, queries=5, episodes=10, kind='selftune',
  )  # fmt: skip
  assert np.mean(made['cut']) > np.mean(made['mean']) + 0.05
  with pytest.raises(InputError, match='method "luck"'):
    episodes.answered(own, episode, 'luck')


def test_images_are_answered_by_their_embedding():
  config = config_of(metric__centre=True)
  params, vars = embedding.backbone(config).init(jax.random.key(0))
  shown = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1), np.uint8)
  plain = fewshot.predict(Model(config, params, {**vars, 'centre': 0.0}), shown)
  found = np.array([one['embedding'] for one in plain])
  assert found.shape == (3, 16)
  np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
  moved = {**vars, 'centre': np.full(16, 0.1)}
  other = fewshot.predict(Model(config, params, moved), shown)
  assert np.abs(found[0] - other[0]['embedding']).max() > 0.01


# --- bad values ---


@pytest.mark.parametrize(
  'change, message',
  [
    ({'metric__loss': 'magic'}, 'config.metric.loss = "magic"'),
    ({'metric__temperature': 0}, 'config.metric.temperature = 0'),
    ({'metric__momentum': 1}, 'config.metric.momentum = 1'),
    ({'metric__crop': 1.5}, 'config.metric.crop = 1.5'),
    ({'labels__table': ()}, 'config.labels.table'),
    ({'propagation__ratio': 2}, 'config.propagation.ratio = 2'),
    ({'propagation__alpha': 1}, 'config.propagation.alpha = 1'),
    ({'propagation__kind': 'flat'}, 'config.propagation.kind = "flat"'),
    ({'study__methods': ('luck',)}, 'config.study.methods'),
    ({'finetune__targets': 'firm'}, 'config.finetune.targets = "firm"'),
    ({'model__name': 'none'}, 'config.model.name = "none"'),
  ],
)
def test_a_value_that_cannot_be_is_named(change, message):
  with pytest.raises(InputError, match=message):
    task.program(config_of(**change))


def test_few_shot_values_that_cannot_be_are_named():
  for change, message in (
    ({'fewshot__ways': 1}, 'config.fewshot.ways = 1'),
    ({'fewshot__pools': (5,)}, 'config.fewshot.pools'),
    ({'fewshot__transductive': ('luck',)}, 'config.fewshot.transductive'),
  ):
    with pytest.raises(InputError, match=message):
      fewshot.program(config_of('fewshot', **change))
