"""The folder of a model: what is written is read, and nothing else is."""

import json
import shutil
import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlab.core.errors import InputError
from jaxlab.core.state import State
from jaxlab.engine import hosts, tensors
from jaxlab.runs import card, model, record, workdir

PIXELS = np.arange(2 * 3 * 2 * 3, dtype=np.uint8).reshape(2, 3, 2, 3)
KEPT = model.Kept(
  {'kind': 'image', 'height': 3, 'width': 2, 'channels': 3, 'fit': 'crop'},
  list(PIXELS),
  {'classes.json': ['é', 'b'], 'words.txt': 'one\n', 'raw.bin': b'\0\1'},
  leave_out=('memory',),
  data={'digits': 'CC BY 4.0'},
)
ABOUT = {
  'paper': 'toy',
  'job': 'task',
  'stage': 'train',
  'seed': 3,
  'date': 'today',
  'commit': '',
  'versions': {'jaxlab': '0.1.0'},
}
CONFIG = {'paper': 'toy', 'sizes': (3, 4), 'inner': {'rate': 0.5}}


def state_of(scale=1.0):
  """A State with every kind of leaf and place."""
  params = {
    'net': {
      'dense': {'kernel': scale * jnp.arange(6.0).reshape(2, 3)},
      'half': jnp.array([1.5, -2], jnp.bfloat16),
    }
  }
  vars = {
    'net': {},
    'count': jnp.int32(7),
    'mask': np.array([True, False]),
    'none': jnp.zeros((0, 4)),
    'health': {'bad_steps': jnp.int32(0)},
    'sampler': {'published': {'a/b': jnp.zeros(2)}},
    'memory': jnp.zeros(5),
  }
  return State(jnp.int32(9), params, {'net': jnp.zeros(3)}, vars)


def written(tmp_path, scale=1.0, kept=KEPT):
  folder = tmp_path / 'train' / 'model'
  folder.parent.mkdir(exist_ok=True)
  model.write(folder, state_of(scale), kept, CONFIG, ABOUT)
  return folder


def test_a_model_is_read_as_it_was_written(tmp_path):
  found = model.read(written(tmp_path))
  wanted = state_of()
  vars = {k: wanted.vars[k] for k in ('net', 'count', 'mask', 'none')}
  for one, other in ((found.params, wanted.params), (found.vars, vars)):
    assert jax.tree.structure(one) == jax.tree.structure(dict(other))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
      assert a.dtype == b.dtype and a.shape == b.shape
      np.testing.assert_array_equal(a, b)
  assert found.config == {
    'paper': 'toy',
    'sizes': [3, 4],
    'inner': {'rate': 0.5},
  }
  assert found.inputs == KEPT.inputs and found.classes == ['é', 'b']
  assert found.files['words.txt'] == b'one\n'
  assert found.files['raw.bin'] == b'\0\1'
  assert found.about['parameters'] == 8
  assert found.about['data'] == KEPT.data and found.about['seed'] == 3
  np.testing.assert_array_equal(found.example(), PIXELS)


def test_leaves_are_named_by_their_paths_in_the_file(tmp_path):
  data = (written(tmp_path) / 'model.safetensors').read_bytes()
  size = struct.unpack('<Q', data[:8])[0]
  header = json.loads(data[8 : 8 + size])
  header.pop('__metadata__', None)
  assert {*header} == {
    'params/net/dense/kernel',
    'params/net/half',
    'vars/count',
    'vars/mask',
    'vars/none',
  }
  assert header['params/net/half']['dtype'] == 'BF16'
  start, stop = header['params/net/dense/kernel']['data_offsets']
  kernel = np.frombuffer(data[8 + size :][start:stop], '<f4')
  np.testing.assert_array_equal(kernel, np.arange(6))


def test_grey_examples_and_others_come_back(tmp_path):
  grey = KEPT._replace(example=[PIXELS[0, ..., :1]])
  found = model.read(written(tmp_path, kept=grey)).example()
  np.testing.assert_array_equal(found, PIXELS[:1, ..., :1])
  rows = [[0.5, 1.0], [2.0, 3.0]]
  vector = KEPT._replace(inputs={'kind': 'vector', 'length': 2}, example=rows)
  found = model.read(written(tmp_path, kept=vector)).example()
  assert found.dtype == np.float32 and found.tolist() == rows
  text = KEPT._replace(inputs={'kind': 'text'}, example=['a', 'b'])
  assert model.read(written(tmp_path, kept=text)).example() == ['a', 'b']
  # The same without a folder.
  made = model.of(CONFIG, {}, {}, text)
  assert made.example() == ['a', 'b'] and made.config is CONFIG
  other = model.of(CONFIG, {}, {}, text._replace(config={'own': 1}))
  assert other.config == {'own': 1}


def test_every_file_is_compared_with_its_digest(tmp_path):
  folder = written(tmp_path)
  names = sorted(path.name for path in folder.iterdir())
  assert len(names) == 9
  for name in names:
    path = folder / name
    whole = path.read_bytes()
    for torn in (whole[:-1] + bytes([whole[-1] ^ 1]), whole[: len(whole) // 2]):
      path.write_bytes(torn)
      with pytest.raises(InputError, match=rf'{name} is .*; the cure$'):
        model.read(folder, 'the cure')
    path.unlink()
    with pytest.raises(InputError, match=rf'{name} .*No such file.*the cure'):
      model.read(folder, 'the cure')
    path.write_bytes(whole)
  # A changed value in model.json, too.
  about = json.loads((folder / 'model.json').read_text())
  about['seed'] = 4
  (folder / 'model.json').write_text(json.dumps(about))
  with pytest.raises(InputError, match='SHA-256 is not the one that it says'):
    model.read(folder)


def test_another_version_is_named(tmp_path):
  folder = written(tmp_path)
  about = json.loads((folder / 'model.json').read_text())
  about |= {'format': 2, 'versions': {'jaxlab': '7.0'}}
  (folder / 'model.json').write_text(json.dumps(about))
  with pytest.raises(InputError, match=r'format 2, written by jaxlab 7\.0; .*'):
    model.read(folder)


@pytest.mark.parametrize(
  'params, words',
  [
    ({'net': [jnp.zeros(2)]}, 'params/net is a list; a model is nested'),
    ({'net': {'a/b': jnp.zeros(2)}}, "key 'a/b' must be a name without /"),
    ({'net': {1: jnp.zeros(2)}}, 'key 1 must be a name'),
  ],
)
def test_what_cannot_be_named_is_refused(tmp_path, params, words):
  state = state_of().replace(params=params)
  with pytest.raises(InputError, match=words):
    model.write(tmp_path / 'model', state, KEPT, CONFIG, ABOUT)
  assert not [*tmp_path.iterdir()]


def test_a_failed_write_leaves_the_model_before(tmp_path, monkeypatch):
  folder = written(tmp_path)

  def full(path, data, folder):
    if path.name == 'words.txt':
      raise OSError(28, 'No space left on device')
    path.write_bytes(data)

  monkeypatch.setattr(model, '_write', full)
  with pytest.raises(InputError, match='No space left on device; free space'):
    written(tmp_path, scale=2.0)
  assert model.read(folder).params['net']['dense']['kernel'][1, 2] == 5
  assert [path.name for path in folder.parent.iterdir()] == ['model']
  monkeypatch.undo()
  written(tmp_path, scale=2.0)
  assert model.read(folder).params['net']['dense']['kernel'][1, 2] == 10


def test_only_the_leader_writes(tmp_path, monkeypatch):
  folder = written(tmp_path)
  monkeypatch.setattr(hosts, 'leads', lambda: False)
  model.add(folder, 'more.json', 1)
  written(tmp_path, scale=2.0)
  found = model.read(folder)
  assert 'more.json' not in found.files
  assert found.params['net']['dense']['kernel'][1, 2] == 5


def test_a_judgement_adds_a_file(tmp_path):
  folder = written(tmp_path)
  for value in (1, 2):
    model.add(folder, 'threshold.json', {'at': value})
    assert model.read(folder).json('threshold.json') == {'at': value}
  with pytest.raises(InputError, match=r'has no file other\.json, only'):
    model.read(folder).json('other.json')
  model.add(tmp_path / 'none', 'threshold.json', 1)  # there is no model
  assert not (tmp_path / 'none').exists()


def test_a_large_file_of_two_models_is_there_once(tmp_path):
  places, size = [], 2**20 + 1
  for stage, big in (
    ('one', bytes(size)),
    ('two', bytes(size)),
    ('three', b'1' * size),
  ):
    folder = tmp_path / stage / 'model'
    folder.parent.mkdir()
    kept = KEPT._replace(files={'graph.npz': big})
    model.write(folder, state_of(), kept, CONFIG, ABOUT)
    places.append((folder / 'graph.npz').stat().st_ino)
    assert model.read(folder).files['graph.npz'] == kept.files['graph.npz']
  assert places[0] == places[1] != places[2]


def test_nested_dictionaries_come_back_from_their_paths():
  tree = {'a': {'b': np.ones(2), 'c': {}}, 'd': {}, 'e': np.zeros(())}
  flat, empty = tensors.flattened(tree)
  assert {*flat} == {'a/b', 'e'} and {*empty} == {'a/c', 'd'}
  found = tensors.nested(flat, empty)
  assert jax.tree.structure(found) == jax.tree.structure(tree)


def test_a_card_says_what_how_good_and_where_from(tmp_path):
  written(tmp_path)
  shutil.copytree(tmp_path / 'train', tmp_path / 'unfinished')
  figures = {
    'test/accuracy': 0.9,
    'test/accuracy_low': 0.8,
    'test/accuracy_high': 0.95,
    'test/nats': None,
  }
  report = {'steps': 1200, 'metrics': figures, 'state_sha256': 'f00'}
  for stage, value in (
    ('train', report),
    ('train-judge', {**report, 'metrics': {'auroc': 0.77}}),
    ('other', {**report, 'metrics': {'unrelated': 1.0}}),
  ):
    (tmp_path / stage).mkdir(exist_ok=True)
    workdir.write_json(tmp_path / stage / 'report.json', value)
  stages = ['train', 'train-judge', 'other', 'unfinished']
  arguments = ['--config=toy.py', '--workdir', 'x', '--offline']
  record.note(tmp_path, arguments, stages, ['train', 'unfinished'])
  card.write_all(record.opened(tmp_path), 'A toy')
  text = (tmp_path / 'train' / 'model' / 'README.md').read_text()
  for words in (
    '# A toy: train',
    '8 parameters after 1,200 steps, seed 3',
    '| digits | CC BY 4.0 |',
    '| test/accuracy | 0.9 | 0.8 to 0.95 |',
    '| test/nats | not finite | – |',
    '| auroc | 0.77 | – |',
    'python -m jaxlab.predict train train/model/example_0.png',
    'images [n, 3, 2, 3] uint8',
    '`python -m jaxlab.main --config=toy.py --offline`',
    '| fingerprint of the State | f00 |',
  ):
    assert words in text, words
  assert 'unrelated' not in text and '| test/accuracy_low' not in text
  assert not (tmp_path / 'unfinished' / 'model' / 'README.md').exists()
  model.read(tmp_path / 'train' / 'model')  # the card is not part of it
