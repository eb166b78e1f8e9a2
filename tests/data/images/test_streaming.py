"""Records by index, from ArrayRecord files and image files, as batches."""

import io
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import tensorflow_datasets as full_tfds
from PIL import Image
from tensorflow_datasets.proto import tf_example_pb2, tf_feature_pb2

from jaxlab.core.errors import InputError
from jaxlab.core.source import Source
from jaxlab.data import array_records, handover
from jaxlab.data.array_records import parse_example
from jaxlab.data.images import files, pixels
from jaxlab.data.images.arrays import open_images
from jaxlab.data.images.pixels import Canvas
from jaxlab.data.images.streaming import RecordSource, open_records
from jaxlab.data.in_memory import ArraySource
from jaxlab.engine import mesh
from jaxlab.engine.feed import Feed
from tests.data import tfds_sets

N = 50
CLASSES = ('cat', 'dog', 'fox')


def picture(number, side=6):
  """A PNG whose first pixel is (number, label, 5)."""
  pixels = np.random.default_rng(number).integers(0, 256, (side, side, 3))
  pixels[0, 0] = number, number % 3, 5
  data = io.BytesIO()
  Image.fromarray(pixels.astype(np.uint8)).save(data, 'PNG')
  return data.getvalue()


def pet(i, label, image=None):
  """An image, its label, and features that nobody asks for."""
  return {
    'a_text': 'x' * (300 if i % 2 else 0),
    'image': image or picture(i),
    'label': label,
    'other': 299 - i,
    'weights': np.arange(3, dtype=np.float32),
  }


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
  """The folder of `pets`, in three shards."""
  features = {
    'a_text': full_tfds.features.Text(),
    'image': full_tfds.features.Image(shape=(None, None, 3)),
    'label': full_tfds.features.ClassLabel(names=CLASSES),
    'other': full_tfds.features.ClassLabel(num_classes=300),
    'weights': full_tfds.features.Tensor(shape=(3,), dtype=np.float32),
  }
  splits = {
    'train': [pet(i, i % 3) for i in range(N)],
    'broken': [*(pet(i, i % 3) for i in range(3)), pet(3, 0, b'no image')],
    'unlabelled': [pet(i, -1) for i in range(3)],
  }
  root = tmp_path_factory.mktemp('tfds')
  tfds_sets.write(root, 'pets', features, splits, shards=3)
  return root


@pytest.fixture(autouse=True)
def folders(prepared, tmp_path, monkeypatch):
  monkeypatch.setenv('TFDS_DATA_DIR', str(prepared))
  monkeypatch.setenv('JAXLAB_DATA_DIR', str(tmp_path))


def copied(prepared, tmp_path, monkeypatch):
  """Another copy of `pets`, to be damaged."""
  shutil.copytree(prepared / 'pets', tmp_path / 'copy' / 'pets')
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path / 'copy'))
  return tmp_path / 'copy' / 'pets' / '1.0.0'


def test_records_are_those_that_tfds_reads(prepared):
  records = open_records('pets', 'train')
  assert len(records) == N and records.classes == CLASSES
  assert len({shard.path for shard in records.shards}) == 3
  known = full_tfds.data_source('pets', split='train', data_dir=prepared)
  order = np.random.default_rng(0).permutation(N).tolist() + [7, 7]
  data, label = records.read(order)
  assert label.dtype == np.int32
  for encoded, number, index in zip(data, label, order):
    assert encoded == picture(index)
    assert number == known[index]['label']
  assert records.read([])[0] == []


@pytest.mark.parametrize(
  'split, numbers',
  [
    ('train[:10%]', range(5)),
    ('train[13:33]', range(13, 33)),
    ('train[45:]+train[:2]', [45, 46, 47, 48, 49, 0, 1]),
  ],
)
def test_slices_of_a_split_hold_the_examples_that_tfds_says(split, numbers):
  records = open_records('pets', split)
  data, _ = records.read(range(len(records)))
  assert data == [picture(number) for number in numbers]


def test_a_batch_holds_decoded_records_and_fits_its_spec():
  records = open_records('pets', 'train')
  source = RecordSource(records, Canvas(6), batch_size=8, seed=1)
  assert isinstance(source, Source)
  for step in (0, 6, 50):
    batch = source.batch(step, slice(0, 8))
    for name, spec in source.spec['train'].items():
      assert (batch[name].shape, batch[name].dtype) == (spec.shape, spec.dtype)
    np.testing.assert_array_equal(batch['image'][:, 0, 0, 0], batch['id'])
    np.testing.assert_array_equal(batch['label'], batch['id'] % 3)
    part = source.batch(step, slice(2, 5))
    for name, array in part.items():
      np.testing.assert_array_equal(array, batch[name][2:5])


def test_streaming_and_memory_give_the_same_batches():
  images = open_images('pets', 'train')
  arrays = {'image': images.image, 'label': images.label}
  held = ArraySource(arrays, batch_size=8, seed=4)
  records = open_records('pets', 'train')
  streamed = RecordSource(records, Canvas(6), batch_size=8, seed=4)
  for step in (0, 5, 6, 7, 100):
    want = held.batch(step, slice(0, 8))
    for name, array in streamed.batch(step, slice(0, 8)).items():
      np.testing.assert_array_equal(array, want[name])


def test_one_and_eight_devices_and_workers_get_the_same_batches():
  # Enough bytes for shared memory, and enough batches to use it again.
  assert handover.SMALLEST < 16 * 64 * 64 * 3
  records = open_records('pets', 'train')
  source = RecordSource(records, Canvas(64), batch_size=16, seed=2)
  found = []
  for count, workers in ((1, 0), (8, 0), (8, 2)):
    feed = Feed(
      source, mesh.make(devices=jax.devices()[:count]), workers=workers
    )
    batches = list(feed.batches(3, 27))
    found.append([(step, jax.device_get(b)) for step, _, b in batches])
  for other in found[1:]:
    jax.tree.map(np.testing.assert_array_equal, other, found[0])


def test_a_finite_source_reads_each_record_once():
  records = open_records('pets', 'train')
  source = RecordSource(
    records, Canvas(6), batch_size=16, repeat=False, shuffle=False, kind='test'
  )
  assert (source.num_batches, source.num_examples) == (4, N)
  assert source.kind(0) == 'test'
  ids = [source.batch(step, slice(0, 16))['id'] for step in range(5)]
  np.testing.assert_array_equal(np.concatenate(ids), np.arange(N))


def test_an_undecodable_record_is_named_by_set_split_and_index():
  records = open_records('pets', 'broken')
  source = RecordSource(records, Canvas(6), batch_size=4, shuffle=False)
  message = "example 3 of the split 'broken' of pets does not decode"
  with pytest.raises(InputError, match=message):
    source.batch(0, slice(0, 4))
  with pytest.raises(InputError, match=message):
    open_images('pets', 'broken')
  feed = Feed(source, mesh.make(devices=jax.devices()[:1]), workers=1)
  with pytest.raises(InputError, match=message):
    list(feed.batches(0, 1))


def test_labels_outside_of_the_classes_are_an_input_error():
  records = open_records('pets', 'unlabelled')
  with pytest.raises(InputError) as caught:
    records.read([1])
  text = "example 1 of the split 'unlabelled' of pets has the label -1"
  assert text in str(caught.value)
  assert 'take a split that has labels' in str(caught.value)


def test_images_alone_need_no_labels():
  records = open_records('pets', 'unlabelled', label='')
  images, labels = records.read([1, 0])
  with_labels = open_records('pets', 'train')
  assert len(images) == 2 and images[0][:4] == with_labels.read([0])[0][0][:4]
  np.testing.assert_array_equal(labels, [0, 0])
  assert records.classes == ('',)


def test_other_features_are_asked_for_by_name():
  records = open_records('pets', 'train', label='other')
  assert len(records.classes) == 300
  np.testing.assert_array_equal(records.read([0, 49])[1], [299, 250])
  with pytest.raises(InputError, match=r"no feature 'pixels'; it has.*'image'"):
    open_records('pets', 'train', image='pixels')
  with pytest.raises(InputError) as caught:
    open_records('pets', 'train', label='weights')
  text = str(caught.value)
  assert "no ClassLabel feature 'weights'; it has ['label', 'other']" in text
  for feature in ('weights', 'label'):
    records = open_records('pets', 'train', image=feature)
    with pytest.raises(
      InputError, match=f"no single encoded image '{feature}'"
    ):
      records.read([5])
  with pytest.raises(InputError, match="no split 'validation'"):
    open_records('pets', 'validation')
  with pytest.raises(InputError, match=r"cannot read the split 'train\[:0\]'"):
    open_records('pets', 'train[:0]')


def test_damaged_files_name_themselves_and_the_cure(
  prepared, tmp_path, monkeypatch
):
  folder = copied(prepared, tmp_path, monkeypatch)
  records = open_records('pets', 'train')
  path = Path(records.shards[1].path)
  whole = path.read_bytes()
  assert path.is_relative_to(folder)
  path.write_bytes(whole[: len(whole) // 2])
  with pytest.raises(
    InputError, match=r'has \d+ records of \d+: it is missing'
  ):
    records.read([20])
  damaged = bytearray(whole)
  for place in range(2000, len(whole) - 2000, 500):
    damaged[place] ^= 255
  path.write_bytes(bytes(damaged))
  again = open_records('pets', 'train')
  with pytest.raises(InputError, match=f'{path.name} cannot be read.*prepare'):
    again.read(list(range(17, 33)))
  path.unlink()
  with pytest.raises(InputError, match=f'{path.name} is missing'):
    open_records('pets', 'train')


def test_records_are_small_when_pickled_and_read_without_tfds():
  records = open_records('pets', 'train')
  records.read([0])
  source = RecordSource(records, Canvas(6), batch_size=8)
  text = pickle.dumps(source)
  assert len(text) < 5_000
  program = (
    'import pickle, sys\n'
    'source = pickle.loads(sys.stdin.buffer.read())\n'
    'print(source.batch(3, slice(0, 8))["id"].tolist())\n'
    'assert "tensorflow_datasets" not in sys.modules\n'
    'assert "jax" not in sys.modules\n'
  )
  done = subprocess.run(
    [sys.executable, '-c', program],
    input=text,
    cwd=Path(__file__).parents[3],
    capture_output=True,
  )
  assert done.stderr == b''
  assert done.stdout.decode().strip() == str(
    source.batch(3, slice(0, 8))['id'].tolist()
  )


def test_no_more_files_are_open_than_allowed(monkeypatch):
  monkeypatch.setattr(array_records, '_most_open', lambda: 2)
  records = open_records('pets', 'train')
  for _ in range(2):
    data, _ = records.read(list(range(N)))
    assert data == [picture(number) for number in range(N)]
    assert records._reader.cache_info().currsize == 2


# tf.train.Example


def example(**features):
  """A serialised Example by protobuf itself."""
  return tf_example_pb2.Example(
    features=tf_feature_pb2.Features(
      feature={
        name: tf_feature_pb2.Feature(**value)
        for name, value in features.items()
      }
    )
  ).SerializeToString()


def byte(*values):
  return {'bytes_list': tf_feature_pb2.BytesList(value=values)}


def integer(*values):
  return {'int64_list': tf_feature_pb2.Int64List(value=values)}


def test_examples_are_parsed_as_protobuf_does():
  draw = np.random.default_rng(0)
  for size in (0, 1, 100, 127, 128, 20_000, 3_000_000):
    for number in (0, 1, 127, 128, 2**31, 2**63 - 1, -1, -(2**63)):
      data = draw.bytes(size)
      record = example(
        image=byte(data),
        label=integer(number),
        other=integer(1, 2, 3),
        many=byte(b'a', b'b'),
        floats={'float_list': tf_feature_pb2.FloatList(value=[1, 2])},
        image2=byte(b'image'),
      )
      assert parse_example(record, b'image', b'label') == (data, number)
  # Integers that are not packed, as other writers may leave them.
  assert parse_example(
    b'\x0a\x1a\x0a\x0c\x0a\x01l\x12\x07\x1a\x05\x08\x85\x80\x80\x00'
    b'\x0a\x0a\x0a\x01i\x12\x05\x0a\x03\x0a\x01x',
    b'i',
    b'l',
  ) == (b'x', 5)


def test_what_is_no_such_example_is_a_lookup_error():
  good = {'image': byte(b'x' * 300), 'label': integer(3)}
  for change in (
    {'image': byte()},
    {'image': byte(b'a', b'b')},
    {'image': integer(1)},
    {'label': integer()},
    {'label': integer(1, 2)},
    {'label': byte(b'1')},
    {'label': {}},
  ):
    with pytest.raises(LookupError):
      parse_example(example(**good | change), b'image', b'label')
  with pytest.raises(LookupError):
    parse_example(example(image=good['image']), b'image', b'label')
  record = example(**good)
  for cut in range(len(record)):
    with pytest.raises(LookupError):
      parse_example(record[:cut], b'image', b'label')
  with pytest.raises(LookupError):
    parse_example(record + b'\0', b'image', b'label')


# Image files


def make_tree(root, files):
  for number, file in enumerate(files):
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    (root / file).write_bytes(picture(number % 250))


def test_a_folder_of_classes_is_split_by_a_hash(tmp_path):
  names = [f'{c}/{i}.png' for c in ('owl', 'elk', 'Ant') for i in range(30)]
  make_tree(tmp_path / 'set', names)
  make_tree(tmp_path / 'set', ['owl/deep/er/30.PNG'])
  for hidden in ('.git/x.png', 'owl/.cache/x.png', 'owl/.DS_Store', 'README'):
    make_tree(tmp_path / 'set', [hidden])
  splits = {
    split: open_records(f'image_folder:{tmp_path}/set', split)
    for split in ('train', 'validation', 'test')
  }
  where = {}
  for split, records in splits.items():
    assert records.classes == ('Ant', 'elk', 'owl')
    _, label = records.read(range(len(records)))
    for index in range(len(records)):
      path = Path(records.describe(index)).relative_to(tmp_path / 'set')
      where[str(path)] = split
      assert path.parts[0] == records.classes[label[index]]
    assert (np.bincount(label) == {'train': 24}.get(split, 3)).all() or (
      split == 'train' and np.bincount(label).tolist() == [24, 24, 25]
    )
  assert sorted(where) == sorted([*names, 'owl/deep/er/30.PNG'])
  # Another file moves few others.
  make_tree(tmp_path / 'set', ['elk/new.png'])
  after = {}
  for split in splits:
    records = open_records(f'image_folder:{tmp_path}/set', split)
    for index in range(len(records)):
      path = Path(records.describe(index)).relative_to(tmp_path / 'set')
      after[str(path)] = split
  assert sum(after[path] != split for path, split in where.items()) <= 2


def test_folders_of_splits_are_the_splits(tmp_path):
  make_tree(
    tmp_path / 'set',
    ['train/b/0.png', 'train/a/1.png', 'val/b/2.png', 'test/c/3.png'],
  )
  name = f'image_folder:{tmp_path}/set'
  found = {
    split: open_records(name, split)
    for split in ('train', 'validation', 'test')
  }
  assert {r.classes for r in found.values()} == {('a', 'b', 'c')}
  assert [len(r) for r in found.values()] == [2, 1, 1]
  assert found['test'].read([0])[1].tolist() == [2]
  shutil.rmtree(tmp_path / 'set' / 'val')
  with pytest.raises(InputError, match=r"'validation'; it has \['train', 'te"):
    open_records(name, 'validation')
  # A class may be called train.
  make_tree(
    tmp_path / 'ways', [f'{c}/{i}.png' for c in ('bus', 'train') for i in 'abc']
  )
  ways = open_records(f'image_folder:{tmp_path}/ways', 'train')
  assert ways.classes == ('bus', 'train')


@pytest.mark.parametrize(
  'files, split, message',
  [
    ([], 'train', 'set names no folder: give its path'),
    (['x.txt'], 'train', 'has no folders of classes'),
    (['a/1.png', 'b/readme.txt'], 'train', r'readme\.txt is not an image by'),
    (['a/1.png', '2.png'], 'train', r'2\.png is in no folder of a class'),
    (['a/1.png', 'b/.hidden'], 'train', 'class folder .*b has no images'),
    (['a/1.png', 'b/2.png'], 'test', "the split 'test' .* has no images"),
    (['a/1.png'], 'dev', r"no split 'dev'; it has \['train', 'validation', "),
  ],
)
def test_malformed_folders_are_an_input_error(tmp_path, files, split, message):
  make_tree(tmp_path / 'set', files)
  with pytest.raises(InputError, match=message):
    open_records(f'image_folder:{tmp_path}/set', split)


def test_a_file_that_vanishes_is_named(tmp_path):
  make_tree(tmp_path / 'set', ['a/1.png', 'a/2.png'])
  records = open_records(f'image_folder:{tmp_path}/set', 'train')
  (tmp_path / 'set/a/2.png').unlink()
  with pytest.raises(
    InputError, match=r'cannot read .*a/2\.png \(No such file'
  ):
    records.read([0, 1])


def test_a_pickled_image_folder_gives_the_same_batches(tmp_path):
  make_tree(tmp_path / 'set', [f'{c}/{i}.png' for c in 'ab' for i in range(9)])
  records = open_records(f'image_folder:{tmp_path}/set', 'train')
  source = RecordSource(records, Canvas(8, 1), batch_size=4)
  want = source.batch(2, slice(0, 4))
  assert want['image'].shape == (4, 8, 8, 1)
  found = pickle.loads(pickle.dumps(source)).batch(2, slice(0, 4))
  for name, array in want.items():
    np.testing.assert_array_equal(found[name], array)


@pytest.fixture
def scans(tmp_path):
  """RVL-CDIP in small: three TIFFs of training and one of each other."""
  root = tmp_path / 'rvl'
  (root / 'labels').mkdir(parents=True)
  for i, (text, line) in enumerate(
    [
      ('train', 'imagesq/q/a.tif 15'),
      ('train', 'imagesq/b.tif 0'),
      ('train', 'c d.tif 3'),
      ('val', 'd.tif 4'),
      ('test', 'e.tif 5'),
    ]
  ):
    file = root / 'images' / line.rpartition(' ')[0]
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new('L', (10 + i, 12), 20 * i).save(file)
    with open(root / 'labels' / f'{text}.txt', 'a') as lines:
      lines.write(f'{line}\n')
  return root


def test_rvl_cdip_is_read_from_its_lists(scans):
  records = open_records(f'rvl_cdip:{scans}', 'train')
  assert len(records.classes) == 16
  assert records.classes[0] == 'letter' and records.classes[15] == 'memo'
  data, label = records.read([0, 1, 2])
  assert label.tolist() == [15, 0, 3]
  assert [pixels.decode(d).shape[1] for d in data] == [10, 11, 12]
  found = open_images(f'rvl_cdip:{scans}', 'validation', size=8, fit='pad')
  assert found.image.shape == (1, 8, 8, 1) and found.label.tolist() == [4]
  assert len(open_records(f'rvl_cdip:{scans}', 'test')) == 1


@pytest.mark.parametrize(
  'line, message',
  [
    ('c d.tif 16', r"'c d.tif 16' has a label that is none of 0, …, 15"),
    ('c d.tif -1', 'has a label that is none of'),
    ('c d.tif x', 'has a label that is none of'),
    ('lost.tif 3', "'lost.tif 3' names a file that is not in .*images"),
    ('c.tif', 'is not "relative/path.tif LABEL"'),
    ('../labels/train.txt 1', 'is not "relative/path.tif LABEL"'),
    ('/etc/hostname 1', 'is not "relative/path.tif LABEL"'),
  ],
)
def test_bad_lines_of_rvl_cdip_are_named(scans, line, message):
  with open(scans / 'labels' / 'train.txt', 'a') as lines:
    lines.write(f'{line}\n')
  with pytest.raises(InputError, match=rf'train\.txt, line 4: .*{message}'):
    open_records(f'rvl_cdip:{scans}', 'train')


def test_missing_parts_of_rvl_cdip_are_named(scans):
  with pytest.raises(InputError, match=r"no split 'val'; it has \['train', 'v"):
    open_records(f'rvl_cdip:{scans}', 'val')
  (scans / 'labels' / 'test.txt').write_text('')
  with pytest.raises(InputError, match=r'test\.txt has no lines'):
    open_records(f'rvl_cdip:{scans}', 'test')
  (scans / 'labels' / 'val.txt').unlink()
  with pytest.raises(InputError, match='unpack both archives'):
    open_records(f'rvl_cdip:{scans}', 'validation')


# Handing over


def lend(rounds):
  """In a worker: how many slots so many arrays in turn have needed."""
  if rounds:
    return handover.empty((1 << 10, 1 << 10)), len(handover._slots)
  kept = handover.empty((1 << 10, 1 << 10))
  part = kept[3:5]
  part[:] = 7
  return part, len(handover._slots)


def test_shared_memory_is_used_again():
  from concurrent.futures import ProcessPoolExecutor
  from multiprocessing import get_context

  with ProcessPoolExecutor(1, get_context('spawn')) as pool:
    for _ in range(5):
      array, slots = pool.submit(lend, 1).result()
      assert type(array) is np.ndarray and array.shape == (1024, 1024)
      assert slots == 1
    part, slots = pool.submit(lend, 0).result()
    assert type(part) is np.ndarray and part.tolist() == [[7] * 1024] * 2
    # What was never handed over was dropped with its array.
    assert pool.submit(lend, 1).result()[1] == 1
  assert type(handover.empty((1 << 20,))) is np.ndarray


def test_suffixes_and_formats_go_together():
  names = {Image.registered_extensions()[suffix] for suffix in files.SUFFIXES}
  assert names == set(pixels.FORMATS)


def test_folders_linked_inside_of_class_folders_count(tmp_path):
  for name in 'ab':
    for place in 'xy':
      folder = tmp_path / place / name / place
      folder.mkdir(parents=True)
      for i in range(10):
        Image.new('L', (2, 2)).save(folder / f'{i}.png')
    (tmp_path / 'x' / name / 'y').symlink_to(folder)
    (tmp_path / 'x' / name / 'again').symlink_to(tmp_path / 'x' / name)
  sets = ('train', 'validation', 'test')
  name = f'image_folder:{tmp_path}/x'
  assert sum(len(open_records(name, split)) for split in sets) == 40
