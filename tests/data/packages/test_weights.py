"""Weight files of four formats, and those that packages ship."""

import json
import sys
import zipfile

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from jaxlab.core.errors import InputError
from jaxlab.data import growth
from jaxlab.data.packages import (
  archives,
  packaged_weights,
  registry,
  weights,
)
from jaxlab.data.packages.weights import (
  read_keras_h5,
  read_safetensors,
  read_tfjs,
  read_torch,
  write_safetensors,
)
from tests.data import small_packages

h5py = pytest.importorskip('h5py', reason='needs h5py: .[data]')

RNG = np.random.default_rng(0)
KERNEL = RNG.standard_normal((3, 3, 2, 4)).astype('f4')
BIAS = RNG.standard_normal(4).astype('f4')


def assert_same(found, want):
  assert sorted(found) == sorted(want)
  for name, array in want.items():
    assert found[name].dtype == array.dtype, name
    assert found[name].shape == array.shape, name
    assert found[name].tobytes() == array.tobytes(), name


def assert_refuses_every_cut(path, read, steps=40):
  data = path.read_bytes()
  for end in sorted({*range(0, len(data), len(data) // steps), len(data) - 1}):
    path.write_bytes(data[:end])
    with pytest.raises(InputError, match=path.name):
      read(path)
  path.write_bytes(data)


# safetensors


def test_safetensors_keep_every_type_bitwise(tmp_path):
  names = ('f8', 'f4', 'f2', 'c8', *'bhilBHIL?')
  given = {f'a.{name}': np.array([[0, 1]]).astype(name) for name in names}
  given['bfloat16'] = KERNEL.astype(ml_dtypes.bfloat16)
  given['float8'] = KERNEL.astype(ml_dtypes.float8_e4m3fn)
  given['none'] = np.zeros((0, 3), 'f4')
  given['number'] = np.array(np.nan, 'f4')
  write_safetensors(tmp_path / 'new' / 'w.safetensors', given)
  assert_same(read_safetensors(tmp_path / 'new' / 'w.safetensors'), given)
  assert [p.name for p in (tmp_path / 'new').iterdir()] == ['w.safetensors']


def test_trees_are_written_by_path_and_to_the_same_bytes(tmp_path):
  tree = {
    'params': {'conv': {'kernel': jnp.asarray(KERNEL), 'bias': BIAS}},
    'batch_stats': {'list': [BIAS.astype('>f4'), KERNEL.T]},
  }
  one, two = tmp_path / 'one', tmp_path / 'two'
  write_safetensors(one, tree)
  write_safetensors(two, dict(reversed(tree.items())))
  assert one.read_bytes() == two.read_bytes()
  found = read_safetensors(one)
  assert sorted(found) == [
    'batch_stats/list/0',
    'batch_stats/list/1',
    'params/conv/bias',
    'params/conv/kernel',
  ]
  np.testing.assert_array_equal(found['params/conv/kernel'], KERNEL)
  np.testing.assert_array_equal(found['batch_stats/list/0'], BIAS)
  np.testing.assert_array_equal(found['batch_stats/list/1'], KERNEL.T)


def test_safetensors_are_those_of_its_library(tmp_path):
  from safetensors.numpy import load_file, save_file

  flat = {'kernel': KERNEL, 'bias': BIAS}
  write_safetensors(tmp_path / 'ours', flat)
  assert_same(load_file(tmp_path / 'ours'), flat)
  save_file(flat, tmp_path / 'theirs', metadata={'format': 'pt'})
  assert_same(read_safetensors(tmp_path / 'theirs'), flat)


@pytest.mark.parametrize(
  'tree, why',
  [
    ({'a': {'b': BIAS}, 'a/b': BIAS}, 'one name'),
    ({'a': 'text'}, 'str'),
    ({'a': object()}, 'a is not an array'),
    ({'a': np.zeros(2, 'c16')}, 'complex128'),
  ],
)
def test_trees_that_cannot_be_written_leave_no_file(tree, why, tmp_path):
  with pytest.raises(InputError, match=why):
    write_safetensors(tmp_path / 'w', tree)
  assert list(tmp_path.iterdir()) == []


def test_damaged_safetensors_are_refused(tmp_path):
  path = tmp_path / 'w.safetensors'
  write_safetensors(path, {'kernel': KERNEL, 'bias': BIAS})
  assert_refuses_every_cut(path, read_safetensors)
  path.write_bytes(path.read_bytes().replace(b'"F32"', b'"F99"'))
  with pytest.raises(InputError, match='damaged'):
    read_safetensors(path)
  with pytest.raises(InputError, match=r'none .*give the path'):
    read_safetensors(tmp_path / 'none')


# Keras


def write_h5(path, arrays, names=(), **attributes):
  with h5py.File(path, 'w') as file:
    for name, array in arrays.items():
      file[name] = array
    for group, name in dict(names).items():
      file[group].attrs['name'] = name
    file.attrs.update(attributes)


def test_keras_2_weights_are_named_by_layer_and_weight(tmp_path):
  arrays = {
    'conv1/conv1/kernel:0': KERNEL,
    'conv1/conv1/bias:0': BIAS,
    'bn/bn/moving_mean:0': BIAS + 1,
  }
  layers = {'layer_names': np.array([b'conv1', b'pool', b'bn'])}
  write_h5(tmp_path / 'w.h5', arrays, **layers)
  assert_same(read_keras_h5(tmp_path / 'w.h5'), arrays)
  whole = {f'model_weights/{name}': x for name, x in arrays.items()}
  optimizer = {'optimizer_weights/Adam/conv1/kernel/m:0': KERNEL}
  write_h5(tmp_path / 'model.h5', whole | optimizer)
  assert_same(read_keras_h5(tmp_path / 'model.h5'), whole)


def test_keras_3_weights_get_the_name_of_their_layer_where_it_is_known(
  tmp_path,
):
  arrays = {
    'layers/conv2d/vars/0': KERNEL,
    'layers/conv2d/vars/1': BIAS,
    'layers/functional/layers/dense/vars/0': KERNEL[0, 0],
    'layers/seed/vars/0': np.zeros(2, 'u4'),
    'optimizer/vars/0': np.array(1),
  }
  names = {
    'layers/conv2d/vars': 'stem',
    'layers/functional/layers/dense/vars': 'head',
  }
  write_h5(tmp_path / 'm.weights.h5', arrays, names)
  found = read_keras_h5(tmp_path / 'm.weights.h5')
  assert_same(
    found,
    {
      'layers/stem/vars/0': KERNEL,
      'layers/stem/vars/1': BIAS,
      'layers/functional/layers/head/vars/0': KERNEL[0, 0],
      'layers/seed/vars/0': np.zeros(2, 'u4'),
    },
  )


def test_h5_without_h5py_names_what_to_install(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'h5py', None)
  with pytest.raises(InputError, match=r'w\.h5 is HDF5.*pip install h5py'):
    read_keras_h5(tmp_path / 'w.h5')


def test_damaged_h5_is_refused(tmp_path):
  path = tmp_path / 'w.h5'
  write_h5(path, {'conv1/conv1/kernel:0': KERNEL})
  assert_refuses_every_cut(path, read_keras_h5)
  with pytest.raises(InputError, match='cannot read'):
    read_keras_h5(tmp_path / 'none.h5')
  write_h5(path, {'a': np.array([b'text'])})
  with pytest.raises(InputError, match='not numbers'):
    read_keras_h5(path)


def test_h5_cannot_reach_into_other_files(tmp_path):
  secret = tmp_path / 'secret.h5'
  write_h5(secret, {'x': BIAS})
  (tmp_path / 'raw').write_bytes(BIAS.tobytes())
  path = tmp_path / 'w.h5'
  with h5py.File(path, 'w') as file:
    file['own'] = BIAS
    file['link'] = h5py.ExternalLink(str(secret), 'x')
  assert list(read_keras_h5(path)) == ['own']
  with h5py.File(path, 'w') as file:
    raw = [(str(tmp_path / 'raw'), 0, BIAS.nbytes)]
    file.create_dataset('raw', BIAS.shape, BIAS.dtype, external=raw)
  with pytest.raises(InputError, match='another file'):
    read_keras_h5(path)
  with h5py.File(path, 'w') as file:
    layout = h5py.VirtualLayout(BIAS.shape, BIAS.dtype)
    layout[:] = h5py.VirtualSource(str(secret), 'x', BIAS.shape)
    file.create_virtual_dataset('virtual', layout)
  with pytest.raises(InputError, match='another file'):
    read_keras_h5(path)


def test_small_files_cannot_fill_the_memory(tmp_path, monkeypatch):
  monkeypatch.setattr(growth, '_ANY', 2**20)
  with h5py.File(tmp_path / 'w.h5', 'w') as file:
    file.create_dataset('x', (2**23,), 'f4', chunks=(2**20,))
  with pytest.raises(InputError, match=r'w\.h5 has .* would have 32 MiB'):
    read_keras_h5(tmp_path / 'w.h5')
  with zipfile.ZipFile(
    tmp_path / 'w.pt', 'w', compression=zipfile.ZIP_DEFLATED
  ) as file:
    file.writestr('w/data.pkl', b'\x80\x02}.')
    file.writestr('w/data/0', bytes(2**24))
  with pytest.raises(InputError, match=r'w\.pt has .* would have 16 MiB'):
    read_torch(tmp_path / 'w.pt')


# torch


@pytest.mark.parametrize('zipped', [True, False])
def test_torch_checkpoints_are_flattened_and_chosen_by_prefix(zipped, tmp_path):
  torch = pytest.importorskip('torch', reason='needs torch: .[bench]')
  net = torch.nn.Sequential(torch.nn.Conv2d(2, 4, 3), torch.nn.BatchNorm2d(4))
  state = net.state_dict()
  path = tmp_path / 'w.pt'
  torch.save(
    {'state_dict': state, 'epoch': 3, 'moments': [torch.ones(2)]},
    path,
    _use_new_zipfile_serialization=zipped,
  )
  found = read_torch(path)
  assert list(found) == [*(f'state_dict.{name}' for name in state), 'moments.0']
  found = read_torch(path, 'state_dict.')
  assert_same(found, {name: x.numpy() for name, x in state.items()})
  with pytest.raises(InputError, match=r"'net\.…'; it has state_dict\.0\.weig"):
    read_torch(path, 'net.')
  assert_refuses_every_cut(path, read_torch)


def test_two_tensors_of_one_name_are_refused():
  with pytest.raises(ValueError, match=r"two arrays are called \['a\.b'\]"):
    weights.join_names({'a': {'b': BIAS}, 'a.b': BIAS})


# TensorFlow.js


def write_tfjs(folder, groups):
  """`groups`: a list of ([(entry, bytes), …], bytes a shard)."""
  manifest = []
  for number, (entries, size) in enumerate(groups):
    data = b''.join(content for _, content in entries)
    shards = [data[i : i + size] for i in range(0, len(data), size)]
    paths = [f'group{number}-shard{i}.bin' for i in range(len(shards))]
    for path, shard in zip(paths, shards):
      (folder / path).write_bytes(shard)
    manifest.append({'paths': paths, 'weights': [e for e, _ in entries]})
  model = {'modelTopology': {}, 'weightsManifest': manifest}
  (folder / 'model.json').write_text(json.dumps(model))
  return model


def entry(name, array, dtype='float32', **fields):
  described = {'name': name, 'shape': list(array.shape), 'dtype': dtype}
  return described | fields, array.tobytes()


def test_tfjs_shards_are_joined_across_their_borders(tmp_path):
  count = np.array(7, '<i4')
  write_tfjs(
    tmp_path,
    [
      ([entry('conv/kernel', KERNEL), entry('conv/bias', BIAS)], 100),
      ([entry('count', count, 'int32'), entry('b', BIAS > 0, 'bool')], 999),
    ],
  )
  want = {
    'conv/kernel': KERNEL,
    'conv/bias': BIAS,
    'count': count,
    'b': BIAS > 0,
  }
  assert_same(read_tfjs(tmp_path), want)
  assert_same(read_tfjs(tmp_path / 'model.json'), want)


def test_quantized_tfjs_weights_are_scaled_back(tmp_path):
  codes = np.arange(6, dtype='u1').reshape(2, 3)
  scaled = {'dtype': 'uint8', 'scale': 0.5, 'min': -1.0}
  half = {'dtype': 'float16'}
  write_tfjs(
    tmp_path,
    [
      (
        [
          entry('a', codes, quantization=scaled),
          entry('b', BIAS.astype('<f2'), quantization=half),
        ],
        99,
      )
    ],
  )
  found = read_tfjs(tmp_path)
  np.testing.assert_array_equal(found['a'], codes * 0.5 - 1)
  np.testing.assert_array_equal(found['b'], BIAS.astype('f2').astype('f4'))
  assert {array.dtype for array in found.values()} == {np.dtype('f4')}


def test_damaged_tfjs_is_refused(tmp_path):
  model = write_tfjs(tmp_path, [([entry('conv/kernel', KERNEL)], 100)])
  shard = tmp_path / 'group0-shard1.bin'
  data = shard.read_bytes()
  for changed in (data[:-1], data + b'more', b''):
    shard.write_bytes(changed)
    with pytest.raises(InputError, match=r'model\.json is damaged'):
      read_tfjs(tmp_path)
  shard.unlink()
  with pytest.raises(InputError, match=r'cannot read .*group0-shard1\.bin'):
    read_tfjs(tmp_path)
  shard.write_bytes(data)
  weight = model['weightsManifest'][0]['weights'][0]
  for change in (
    {'shape': [-1, 2]},
    {'shape': [2**40, 2**40]},
    {'dtype': 'string'},
    {'quantization': {'dtype': 'int4'}},
  ):
    manifest = [{**model['weightsManifest'][0], 'weights': [weight | change]}]
    text = json.dumps({'weightsManifest': manifest})
    (tmp_path / 'model.json').write_text(text)
    with pytest.raises(InputError, match=r'model\.json is damaged'):
      read_tfjs(tmp_path)
  (tmp_path / 'model.json').write_text(json.dumps(model)[:-5])
  with pytest.raises(InputError, match='damaged'):
    read_tfjs(tmp_path)


@pytest.mark.parametrize('place', ['../secret', '/etc/hostname', 'a/b', '..'])
def test_tfjs_shards_elsewhere_are_refused(place, tmp_path):
  (tmp_path / 'secret').write_bytes(BIAS.tobytes())
  folder = tmp_path / 'model'
  folder.mkdir()
  model = write_tfjs(folder, [([entry('w', BIAS)], 99)])
  model['weightsManifest'][0]['paths'] = [place]
  (folder / 'model.json').write_text(json.dumps(model))
  with pytest.raises(InputError, match=r'not beside it|Is a directory'):
    read_tfjs(folder)


def test_a_tfjs_shard_is_read_once(tmp_path):
  model = write_tfjs(tmp_path, [([entry('w', BIAS)], 99)])
  model['weightsManifest'][0]['paths'] *= 600
  (tmp_path / 'model.json').write_text(json.dumps(model))
  with pytest.raises(InputError, match='a shard is named twice'):
    read_tfjs(tmp_path)


# Packages


def test_unknown_packaged_names_are_answered_with_the_known_ones():
  with pytest.raises(InputError, match=r"'resnet18'.*squeezenet_imagenet"):
    packaged_weights.open_packaged('resnet18')
  with pytest.raises(InputError, match=r"'svhn'.*cifar100"):
    packaged_weights.read_samples('svhn')


@pytest.mark.parametrize('name', packaged_weights.PACKAGED)
def test_offline_without_the_package_says_what_to_copy(
  name, tmp_path, monkeypatch
):
  monkeypatch.setenv('JAXLAB_DATA_DIR', str(tmp_path))
  package, _ = packaged_weights.PACKAGED[name]
  with pytest.raises(InputError, match=package.sha256):
    packaged_weights.open_packaged(name, offline=True)


def make_archive(path, members):
  if path.suffix == '.zip':
    with zipfile.ZipFile(path, 'w') as files:
      for name, data in members.items():
        files.writestr(name, data)
  else:
    path.write_bytes(small_packages.tgz(members | {'in/link': '/etc/hostname'}))


@pytest.mark.parametrize('name', ['a.zip', 'a.tgz'])
def test_members_are_read_without_touching_the_disk(name, tmp_path):
  path = tmp_path / name
  noise = RNG.bytes(5000)
  members = {'in/x': b'1', 'in/../y': noise, '../in/z': b'3', 'out/x': b'4'}
  make_archive(path, members)
  found = archives.read_members(path, 'in/')
  assert found == {'in/x': b'1', 'in/../y': noise}
  assert list(tmp_path.iterdir()) == [path]
  with pytest.raises(InputError, match=r'has no file other/…'):
    archives.read_members(path, 'other/')
  data = path.read_bytes()
  for end in (0, 10, 100, len(data) // 2, 5000):  # `noise` is cut
    path.write_bytes(data[:end])
    with pytest.raises(InputError, match=name):
      archives.read_members(path, 'in/')


def grey(value, size):
  return np.full((*size, 1), value, np.uint8)


def test_center_crop_keeps_the_middle_and_its_proportions():
  wide = np.concatenate(
    [grey(0, (100, 100)), grey(200, (100, 100)), grey(0, (100, 100))], axis=1
  )
  cut = packaged_weights.center_crop(wide, 64, short=100)
  assert cut.shape == (64, 64, 1) and (cut == 200).all()
  tall = wide.transpose(1, 0, 2).repeat(3, axis=2)
  cut = packaged_weights.center_crop(tall, 224)
  assert cut.shape == (224, 224, 3) and cut.dtype == np.uint8
  # 256 pixels of 200 and none of the border, which lies 16 pixels beyond.
  assert (cut == 200).all()


@pytest.fixture
def foolbox():
  try:
    return registry.fetch(packaged_weights.FOOLBOX)
  except InputError as error:
    pytest.skip(f'the package foolbox cannot be had: {error}')


def test_foolbox_has_twenty_samples_of_five_sets(foolbox):
  shapes = {
    'cifar10': (32, 32, 3),
    'cifar100': (32, 32, 3),
    'mnist': (28, 28, 1),
    'fashionMNIST': (28, 28, 1),
  }
  classes = {'imagenet': 1000, 'cifar100': 100}
  for name in packaged_weights.SAMPLES:
    images, labels = packaged_weights.read_samples(name, offline=True)
    assert len(images) == len(labels) == 20
    assert {image.dtype for image in images} == {np.dtype('u1')}
    assert labels.dtype == np.int32 and labels.min() >= 0
    assert labels.max() < classes.get(name, 10)
    if name in shapes:
      assert {image.shape for image in images} == {shapes[name]}
    else:
      assert {image.shape[2] for image in images} == {3}
