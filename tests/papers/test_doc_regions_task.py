"""Pages, networks of regions, and the stages, by references of their own."""

import json
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.special import log_softmax

from jaxlab import main
from jaxlab.core.errors import InputError
from jaxlab.core.update import create_state
from jaxlab.data.images import arrays, streaming
from jaxlab.engine import mesh
from jaxlab.ops import calibration
from jaxlab.papers.doc_regions import (
  documents,
  judgement,
  method,
  nets,
  stacking,
  synthetic,
  task,
  trainings,
)
from jaxlab.papers.doc_regions.method import REGIONS
from jaxlab.papers.doc_regions.plans import plans_of, specs_of
from jaxlab.runs import model, stage
from tests import runs
from tests.data.rvl_pages import write_rvl

OPTIONS = {
  'seed': 3,
  'size': (52, 40),
  'strength': 0.5,
  'label_noise': 0.25,
  'duplicates': 0.5,
  'train': 64,
}


def smoke(**changes):
  """The smoke config with two regions and dotted keys changed."""
  config = runs.config_of('doc_regions', 'smoke').to_dict()
  config['regions']['specs'] = [REGIONS[0], REGIONS[1], REGIONS[4]]
  for key, value in changes.items():
    *path, last = key.split('__')
    section = config
    for name in path:
      section = section[name]
    section[last] = value
  return config


def space_of(config, folder):
  devices = mesh.make(devices=jax.devices()[:1])
  if Path(folder).is_dir():
    text = json.dumps(config, default=list)
    (Path(folder) / 'config.json').write_text(text)
  return stage.Workspace(Path(folder), config, devices, 0, offline=True)


# --- synthetic pages ---


@pytest.fixture(scope='module')
def made():
  return {
    split: synthetic.make(OPTIONS, split, count)
    for split, count in (('train', 64), ('test', 48), ('outside', 4))
  }


def test_synthetic_pages_follow_from_seed_split_and_number(made):
  again = synthetic.make(OPTIONS, 'train', 20)
  for name, array in again.items():
    np.testing.assert_array_equal(array, made['train'][name][:20])
  assert (
    (made['train']['image'][:48] != made['test']['image']).any((1, 2, 3)).all()
  )
  for pages in made.values():
    assert pages['image'].shape[1:] == (52, 40, 1)
    assert np.ptp(pages['image'], axis=(1, 2, 3)).min() > 30


def test_labels_are_noisy_and_duplicates_are_of_their_class(made):
  train = made['train']
  assert (train['truth'] == np.arange(64) % 16).all()
  assert 0.1 < (train['label'] != train['truth']).mean() < 0.4
  both = {
    name: np.concatenate([made[x][name] for x in ('train', 'test')])
    for name in ('source', 'truth')
  }
  first = made['train']['source'] >> 31
  of_train = np.isin(made['test']['source'] >> 31, first)
  assert 0.3 < of_train.mean() < 0.7
  for source in np.unique(both['source']):
    assert len({*both['truth'][both['source'] == source].tolist()}) == 1


def test_a_duplicate_is_the_same_page_scanned_anew():
  plain = {**OPTIONS, 'strength': 0, 'label_noise': 0}
  train = synthetic.make(plain, 'train', 64)
  for source in np.unique(train['source']):
    own = train['image'][train['source'] == source]
    np.testing.assert_array_equal(own, own[:1].repeat(len(own), 0))


# --- which pages belong together ---


def test_pages_of_one_source_are_of_one_group_and_of_one_fold():
  config = smoke(synthetic__duplicates=0.5, stack__folds=3)
  found = documents.opened(config, True)
  train, test = found.parts['train'], found.parts['test']
  options = {**config['synthetic'], 'size': (96, 72)}
  source = synthetic.make(options, 'train', 96)['source']
  for one in np.unique(source):
    assert len({*train.group[source == one].tolist()}) == 1
  sources = synthetic.make(options, 'test', 48)['source']
  assert found.seen()[np.isin(sources, source)].all()
  parts = [trainings.rows_of(config, found, fold) for fold in range(3)]
  held = np.concatenate([rows for _, rows in parts])
  assert sorted(held.tolist()) == [*range(96)]
  for kept, rows in parts:
    assert not np.isin(train.group[rows], train.group[kept]).any()
  assert len(trainings.rows_of(config, found, -1)[0]) == 96
  assert len(test.label) == 48


class Documents:
  """Four classes of pages, ten documents each but one, two pages each."""

  classes = ('a', 'b', 'c', 'd')

  def __init__(self, split):
    rng = np.random.default_rng({'train': 0, 'validation': 1, 'test': 2}[split])
    each = {'train': range(6), 'validation': range(6, 8), 'test': range(8, 10)}
    rows = [
      (label, f'{name}{number}')
      for label, name in enumerate(self.classes)
      for number in each[split]
      for _ in range(2)
      if name != 'd' or number < 3
    ]
    self.label = np.array([label for label, _ in rows], np.int32)
    self.names = [name.encode() for _, name in rows]
    self.image = rng.integers(0, 256, (len(rows), 40, 40, 1), np.uint8)

  def __len__(self):
    return len(self.names)

  def read(self, rows):
    return [self.names[row] for row in rows], self.label[list(rows)]


@pytest.fixture
def by_document(monkeypatch):
  """A config of these pages, which are looked for nowhere."""
  monkeypatch.setattr(
    arrays, 'open_images', lambda name, split, **more: Documents(split)
  )
  monkeypatch.setattr(
    streaming, 'open_records', lambda name, split, **more: Documents(split)
  )
  documents._opened.cache_clear()
  yield smoke(
    data__name='documents:some',
    data__num_classes=3,
    data__least_documents=5,
    ood__count=4,
  )
  documents._opened.cache_clear()


def test_documents_stay_whole_and_small_classes_are_outside(by_document):
  found = documents.opened(by_document, True)
  assert found.classes == ('a', 'b', 'c')
  groups = [{*part.group.tolist()} for part in found.parts.values()]
  assert not (groups[0] & groups[1] | groups[0] & groups[2])
  assert not groups[1] & groups[2]
  assert sum(map(len, groups)) == 30
  for part in found.parts.values():
    assert {*part.label.tolist()} == {0, 1, 2}
  assert found.outside['other classes'].shape == (4, 40, 40, 1)


def test_too_few_documents_are_named(by_document):
  by_document['data']['num_classes'] = 4
  with pytest.raises(InputError, match='some has 3 classes of at least 5 docu'):
    documents.opened(by_document, True)


# --- networks ---


def test_mapped_and_looped_regions_are_the_same():
  config = smoke()
  pages = np.random.default_rng(0).integers(0, 256, (3, 60, 50, 1), np.uint8)
  one = lambda x, p: (x.mean((1, 2)) * p, {'new': p + 1})
  crops = jnp.asarray(pages.reshape(3, 2, 30, 50, 1), jnp.float32)
  trees = jnp.array([2.0, 3.0])
  looped, mapped = (
    f(one, crops, trees)
    for f in (nets._looped, lambda *x: nets._mapped(None, *x))
  )
  want = np.asarray(crops).mean((2, 3)) * np.array([2, 3])[:, None]
  np.testing.assert_allclose(looped[0], want, rtol=1e-6)
  np.testing.assert_allclose(mapped[0], want, rtol=1e-6)
  np.testing.assert_array_equal(looped[1]['new'], mapped[1]['new'])
  assert not nets._mappable(mesh.make(devices=jax.devices()[:1]))
  assert config['model']['name'] == nets.SMALL


def test_each_region_is_optimised_as_if_alone():
  tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.1))
  draw = np.random.default_rng(0)
  params = {'w': draw.normal(0, 1, (3, 4)).astype(np.float32)}
  grads = [
    {'w': (scale * draw.normal(0, 9, (3, 4))).astype(np.float32)}
    for scale in (1, 0.01)
  ]
  both = nets.each_alone(tx)
  state, together = both.init(params), params
  for grad in grads:
    change, state = both.update(grad, state, together)
    together = optax.apply_updates(together, change)
  for region in range(3):
    alone = {'w': params['w'][region]}
    state = tx.init(alone)
    for grad in grads:
      change, state = tx.update({'w': grad['w'][region]}, state, alone)
      alone = optax.apply_updates(alone, change)
    np.testing.assert_allclose(together['w'][region], alone['w'], rtol=1e-5)


@pytest.fixture(scope='module')
def stepped():
  """One step of two regions with a frozen first layer, batches masked."""
  config = smoke(model__frozen='conv1', model__smoothing=0.1)
  specs = specs_of(config)[1:]
  made = nets.nets_of(config, specs, (32, 32))
  params, vars = jax.jit(made.init)(jax.random.key(0))
  config['regions']['optimizer'] |= {
    'name': 'sgd',
    'schedule': 'constant',
    'momentum': 0.0,
    'nesterov': False,
  }
  update = nets.make_update(config, 'regions', made)
  draw = np.random.default_rng(0)
  # Three pages, and as padding one with each label: some would be right.
  page = draw.integers(0, 256, (4, 48, 40, 1), np.uint8)
  batch = {
    'image': page[[0, 1, 2] + 16 * [3]],
    'label': np.array([3, 5, 3, *range(16)]),
    'id': np.arange(19),
    'mask': np.arange(19) < 3,
  }
  state = jax.jit(lambda p, v: create_state(p, update, vars=v))(params, vars)
  new, metrics = jax.jit(update)(state, batch, jax.random.key(0))
  return made, batch, state, new, metrics


def test_frozen_leaves_stay_and_each_region_learns_from_its_crop(stepped):
  made, batch, state, new, metrics = stepped
  old, fresh = state.params['nets'], new.params['nets']
  np.testing.assert_array_equal(
    fresh['conv1']['kernel'], old['conv1']['kernel']
  )
  moved = np.asarray(fresh['head']['kernel'] - old['head']['kernel'])
  assert np.abs(moved).max((1, 2)).min() > 0
  assert np.abs(moved[0] - moved[1]).max() > 0
  # The bias of the head: minus the rate times the mean error, which is p less
  # the smoothed label.
  logits, _ = jax.jit(made.train)(
    state.params, state.vars, batch['image'], jax.random.key(0), batch['mask']
  )
  p = np.asarray(jax.nn.softmax(logits))[:3]
  target = 0.9 * np.eye(16)[batch['label'][:3]] + 0.1 / 16
  want = -0.001 * (p - target[:, None]).mean(0)
  got = fresh['head']['bias'] - old['head']['bias']
  np.testing.assert_allclose(got, want, atol=1e-8)
  nats = -(target[:, None] * np.log(p)).sum(-1).sum()
  np.testing.assert_allclose(metrics['loss'][0], nats, rtol=1e-5)
  right = p.argmax(-1) == batch['label'][:3, None]
  np.testing.assert_allclose(metrics['accuracy'][0], right.mean(1).sum())


def test_leaves_to_freeze_that_are_not_there_are_named():
  with pytest.raises(InputError, match='beginning of no leaf; known: conv1/k'):
    nets.frozen({'conv1': {'kernel': jnp.ones(2)}}, 'conv2')


def test_evaluation_counts_each_region_and_leaves_padding_out(stepped):
  made, batch, state, _, _ = stepped
  evaluator = nets.judged(made)
  update = jax.jit(evaluator.update)
  total = update(evaluator.init(), state, batch, jax.random.key(0))
  found = evaluator.finish(jax.tree.map(np.asarray, total))
  logits = jax.jit(made.logits)(state.params, state.vars, batch['image'])
  log_p = np.asarray(jax.nn.log_softmax(logits))[:3]
  right = (log_p.argmax(-1) == batch['label'][:3, None]).mean(0)
  assert found['header_accuracy'] == pytest.approx(right[0])
  assert found['right_accuracy'] == pytest.approx(right[1])
  assert found['accuracy'] == pytest.approx(right.mean())
  own = log_p[np.arange(3), :, batch['label'][:3]]
  assert found['nats'] == pytest.approx(-own.mean(), rel=1e-5)


def test_new_networks_have_he_kernels_drawn_apart():
  network = nets.network_of(smoke(model__features=16), (32, 32))
  params, vars = nets.drawn(network)(jax.random.key(5))
  other, _ = nets.drawn(network)(jax.random.key(6))
  for name in ('conv2', 'conv3', 'head'):
    kernel = np.asarray(params[name]['kernel'])
    fan_in = kernel[..., 0].size
    assert kernel.std() == pytest.approx((2 / fan_in) ** 0.5, rel=0.1)
    assert np.abs(kernel).max() <= (6 / fan_in) ** 0.5
    assert (kernel != np.asarray(other[name]['kernel'])).any()
  flat = np.asarray(params['conv2']['kernel']).ravel()
  assert len(np.unique(flat)) > 0.99 * flat.size
  assert (params['norm1']['scale'] == 1).all()
  assert (vars['batch_stats']['norm1']['var'] == 1).all()
  assert not params['head']['bias'].any()


def test_regions_begin_as_the_holistic_network_ended_head_and_all():
  config = smoke()
  space = space_of(config, 'none')
  plans = plans_of(config, 0)
  params, vars = nets.drawn(nets.network_of(config, (32, 32)))(
    jax.random.key(1)
  )
  one = lambda tree: {'nets': nets.tiled(tree, 1)}
  trained = SimpleNamespace(params=one(params), vars=one(vars))
  space.artefacts['holistic-s0'] = trained
  start = trainings.started(config, plans.regions, space)
  for name in ('conv1', 'head'):
    for region in range(2):
      got = start.params['nets'][name]['kernel'][region]
      np.testing.assert_array_equal(got, params[name]['kernel'])
  assert space.facts['transfer'] == {'fresh': [], 'unused': []}
  assert trainings.started(config, plans.holistic, space) == trainings.FRESH
  del trained.params['nets']['conv3']
  with pytest.raises(
    InputError, match='regions-s0: nothing fits params/conv3/k'
  ):
    trainings.started(config, plans.regions, space)


def test_a_pretrained_network_begins_with_all_but_its_head(monkeypatch):
  config = smoke()
  space = space_of(config, 'none')
  plans = plans_of(config, 0)
  own = nets.drawn(nets.network_of(config, (32, 32)))
  config_of_source = smoke(data__num_classes=7)
  source = nets.drawn(nets.network_of(config_of_source, (32, 32)))
  params, vars = source(jax.random.key(1))
  given = SimpleNamespace(params={'net': params}, vars={'net': vars})
  monkeypatch.setattr(trainings, '_pretrained', lambda config: True)
  monkeypatch.setattr(trainings, 'imagenet', lambda name, **more: given)
  start = trainings.started(config, plans.holistic, space)
  kernel = start.params['nets']['conv1']['kernel']
  np.testing.assert_array_equal(kernel, params['conv1']['kernel'][None])
  head = start.params['nets']['head']['kernel']
  assert head.shape == (1, *own(jax.random.key(0))[0]['head']['kernel'].shape)
  assert space.facts['transfer']['fresh'] == [
    'params/head/bias',
    'params/head/kernel',
  ]


# --- stages ---


def known(rows, labels, sharp, seed):
  """[n, 3, 16] log-probabilities that know something of the labels."""
  draw = np.random.default_rng(seed)
  logits = draw.normal(0, 1, (rows, 3, 16))
  logits[np.arange(rows), :, labels] += sharp
  return log_softmax(logits, -1).astype(np.float32)


@pytest.fixture(scope='module')
def stacked(tmp_path_factory):
  """The stage `stack` on log-probabilities that no network made."""
  config = smoke(
    stack__protocols=('oof', 'paper'),
    stack__kinds=('mean', 'logistic'),
    stack__headline='logistic',
    stack__scaled=False,
    stack__folds=2,
    controls__direct=True,
    synthetic__duplicates=0.3,
  )
  space = space_of(config, tmp_path_factory.mktemp('stack'))
  plans = plans_of(config, 0)
  found = documents.opened(config, True)
  labels = {name: part.label for name, part in found.parts.items()}
  full = {x: known(48, labels[x], 1.5, 1) for x in ('validation', 'test')}
  full['out of class'] = known(8, np.zeros(8, int), 0.0, 2)
  held = known(96, labels['train'], 1.5, 3)
  direct = known(48, labels['test'], 0.0, 4)

  def put(plan, arrays):
    folder = space.folder(plan.name)
    folder.mkdir(parents=True)
    np.savez(folder / 'log_p.npz', **arrays)
    line = '{"step": %d, "kind": "eval", "validation/accuracy": %g}\n'
    (folder / 'metrics.jsonl').write_text(line % (4, 0.5) + line % (8, 0.75))

  put(plans.holistic, {k: x[:, :1] for k, x in full.items()})
  put(plans.regions, {k: x[:, 1:] for k, x in full.items()})
  put(plans.direct, {'test': direct[:, 1:], 'validation': direct[:, 1:]})
  for one, two in plans.folds:
    _, rows = trainings.rows_of(config, found, one.fold)
    put(one, {'held': held[rows][:, :1]})
    put(two, {'held': held[rows][:, 1:]})
  last = judgement.stack_stage(config, [plans])
  assert [x.name for x in plans.each][-1] == 'direct-s0'
  stage.run_all([last], space)
  return config, space, found, full, held


def test_the_table_has_what_stackers_of_both_protocols_say(stacked):
  _, space, found, full, held = stacked
  figures = space.figures('stack')
  test = found.parts['test'].label
  mean = np.exp(full['test']).mean(1).argmax(1)
  assert figures['test/mean, paper'] == pytest.approx((mean == test).mean())
  assert figures['test/mean, oof'] == figures['test/mean, paper']
  for protocol, (x, y) in {
    'paper': (full['validation'], found.parts['validation'].label),
    'oof': (held, found.parts['train'].label),
  }.items():
    stacker = method.Stacker('logistic', penalty=0.01).fit(x, y)
    answer = stacker.predict_log_proba(full['test']).argmax(1)
    wanted = (answer == test).mean()
    assert figures[f'test/logistic, {protocol}'] == pytest.approx(wanted)
  header = (full['test'][:, 1].argmax(1) == test).mean()
  assert figures['test/header'] == pytest.approx(header)
  whole = (full['test'][:, 0].argmax(1) == test).mean()
  gain = figures['test/logistic, oof'] - whole
  assert figures['test/gain over holistic'] == pytest.approx(gain)
  assert figures['test/gain of transfer'] > 0.2
  seen = figures['test pages seen in training']
  assert 0.1 < seen == pytest.approx(found.seen().mean())
  assert 0.5 < figures['out of class/auroc, mean, paper'] < 1


def test_the_page_shows_regions_confusion_and_disagreement(stacked):
  _, space, found, full, _ = stacked
  sections = space.page.found
  files = [x['file'] for x in sections if x['kind'] == 'figure']
  assert {'regions.png', 'confusion.png', 'disagreement.png'} <= {*files}
  assert 'convergence.png' in files
  heads = [x for x in sections if x['kind'] == 'headline']
  assert 'logistic by the protocol oof - holistic' in heads[0]['text']
  assert heads[0]['verdict'] in ('shown', 'not shown', 'refuted')
  assert any(
    '0.500 and 0.750 from the holistic network' in x['text'] for x in heads
  )
  table = next(x for x in sections if x['kind'] == 'table')
  column = table['columns'].index('ECE at a temperature')
  row = next(x for x in table['rows'] if x[0] == 'header')
  validation = found.parts['validation'].label
  by = stacking.temperatures(full['validation'], validation)
  cool = log_softmax(full['test'] / by[:, None], -1)[:, 1]
  want = calibration.ece(cool, found.parts['test'].label)
  assert row[column] == pytest.approx(want)


def test_a_folder_in_rvl_cdips_layout_goes_end_to_end(tmp_path, monkeypatch):
  monkeypatch.setenv('JAXLAB_DATA_DIR', str(tmp_path / 'data'))
  write_rvl(tmp_path / 'rvl')
  config = smoke(
    data__name=f'rvl_cdip:{tmp_path / "rvl"}',
    data__classes=documents.RVL_CDIP_CLASSES,
    data__stream=True,
    data__batch_size=4,
    data__eval_batch_size=4,
    data__distance=-1,  # white pages are all near
    stack__kinds=('mean',),
    stack__headline='mean',
    holistic__steps=2,
    regions__steps=2,
    ood__folders=(),
  )
  (tmp_path / 'run').mkdir()
  space = space_of(config, tmp_path / 'run')
  stage.run_all(main.program_of(config), space)
  figures = space.figures('stack')
  assert figures['skipped files'] == 2
  assert 0 <= figures['test/mean, paper'] <= 1
  kept = trainings.log_p(space, 'regions-s0')['test']
  assert kept.shape == (2, 2, 16)
  # Networks of a State answer as their stage did.
  pages = documents.opened(config, True).parts['test'].pages([0, 1])
  made = model.read(space.folder('regions-s0') / 'model')
  answers = task.predict(made, pages)
  p = np.exp(kept).mean(1)
  assert [x['label'] for x in answers] == p.argmax(1).tolist()
  assert answers[0]['probability'] == pytest.approx(p[0].max(), abs=1e-4)
  assert {*answers[0]['regions']} == {'header', 'right'}
  with pytest.raises(InputError, match='what the model was trained on'):
    task.predict(made, pages[:, :5])


def test_permuted_class_numbers_are_an_error(tmp_path, monkeypatch):
  monkeypatch.setenv('JAXLAB_DATA_DIR', str(tmp_path / 'data'))
  write_rvl(tmp_path / 'rvl')
  config = smoke(
    data__name=f'rvl_cdip:{tmp_path / "rvl"}',
    data__classes=tuple(sorted(documents.RVL_CDIP_CLASSES)),
  )
  with pytest.raises(InputError, match='permuted numbers are about'):
    documents.opened(config, True)


@pytest.mark.parametrize('momentum', [0.0, 0.9])
def test_running_statistics_have_the_momentum_of_the_config(
  momentum, monkeypatch
):
  given = {}
  monkeypatch.setattr(
    nets, 'architecture', lambda name, **fields: given.update(fields)
  )
  config = smoke(model__name='efficientnet_lite0', model__momentum=momentum)
  nets.network_of(config, (32, 32))
  assert given.get('momentum', 0.0) == momentum


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'data__height': 8}, r'data\.height = 8 must be at least 32'),
    ({'data__num_classes': 4}, r'data\.num_classes = 4 must be one of 16'),
    ({'synthetic__label_noise': 2}, r'label_noise = 2 must be in \[0, 1\]'),
    ({'model__name': 'vgg19'}, r'model\.name = "vgg19" must be one of page_'),
    (
      {'model__name': 'vgg16', 'model__width': 64},
      'networks of ImageNet take squares',
    ),
    (
      {'model__name': 'squeezenet', 'model__momentum': 0.9},
      r'model\.momentum = 0\.9 must be one of 0; squeezenet takes none',
    ),
    ({'regions__steps': 0}, r'regions\.steps = 0 must be at least 1'),
    (
      {'model__frozen': 'a', 'regions__optimizer__weight_decay': 0.1},
      r'weight_decay = 0\.1 must be one of 0; config\.model\.frozen',
    ),
    ({'stack__kinds': ('vote',)}, 'stack.kinds'),
    ({'stack__protocols': ()}, 'stack.protocols'),
    ({'stack__headline': 'mlp'}, 'stack.headline'),
    (
      {'regions__specs': (('header', 0, 1, 0, 1), ('a', 0, 1, 0, 1))},
      'first = "header" must be one of holistic',
    ),
    (
      {'regions__specs': (('holistic', 0, 1, 0, 1), ('a', 0, 2, 0, 1))},
      'region "a" has rows',
    ),
    ({'regions__specs': (('holistic', 0, 1),)}, 'name, top, bottom, left'),
  ],
)
def test_a_config_that_cannot_be_is_named(changes, message):
  with pytest.raises(InputError, match=message):
    main.program_of(smoke(**changes))


def test_plans_have_the_pixels_of_all_regions_and_their_order():
  config = runs.config_of('doc_regions', '').to_dict()
  plans = plans_of(config, 4)
  assert [spec.name for spec in plans.regions.specs] == [
    spec.name for spec in REGIONS[1:]
  ]
  height, width = plans.pixels.size
  assert height * width == pytest.approx(5 * 64 * 64, rel=0.01)
  assert [fold.fold for fold, _ in plans.folds] == [0, 1, 2]
  assert plans.folds[1][1].source == plans.folds[1][0].name
  names = [plan.name for plan in plans.each]
  assert names.index('holistic-s4') < names.index('regions-s4')
  assert plans.direct.source == ''
