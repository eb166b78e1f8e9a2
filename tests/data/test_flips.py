"""Single bits that flip in what is kept of data: noticed, or without effect.

FLIPS=200 in the environment: so many, over all files.
"""

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from jaxlab.core.errors import InputError
from jaxlab.data import tfds
from jaxlab.data.images.arrays import open_images
from jaxlab.data.text import corpus

FLIPS = int(os.environ.get('FLIPS', '12'))


def pixels(root):
  found = open_images(f'image_folder:{root}/set', 'train')
  return [np.array(found.image), found.label]


def sentences(root):
  found = corpus.prepare_corpus(
    'text_files', vocab_size=80, files=f'{root}/*.txt'
  )
  arrays = [np.asarray(x) for name in SPLITS for x in found.split(name)]
  return [np.array(found.pieces), *arrays]


def examples(root):
  rows = list(tfds.examples('digits', 'train', offline=True))
  return [np.stack([row[key] for row in rows]) for key in sorted(rows[0])]


SPLITS = ('train', 'validation')
KINDS = {'decoded': pixels, 'text': sentences, 'tfds': examples}


@pytest.fixture
def cache(tmp_path, monkeypatch):
  monkeypatch.setenv('JAXLAB_DATA_DIR', str(tmp_path / 'cache'))
  random = np.random.default_rng(0)
  for name in ('ant', 'bee'):
    (tmp_path / 'set' / name).mkdir(parents=True)
    for i in range(20):
      array = random.integers(0, 256, (8, 8, 3), np.uint8)
      Image.fromarray(array).save(tmp_path / 'set' / name / f'{i}.png')
  lines = [f'Sentence {i} of the text.' for i in range(400)]
  (tmp_path / 'a.txt').write_text('\n\n'.join(lines))
  return tmp_path / 'cache'


@pytest.mark.parametrize('kind', KINDS)
def test_a_flipped_bit_of_a_cache_is_noticed_or_changes_nothing(
  cache, capsys, kind
):
  read = lambda: KINDS[kind](cache.parent)
  wanted = read()
  whole = cache.with_name('whole')
  shutil.copytree(cache, whole)
  files = sorted(p for p in (whole / kind).rglob('*') if p.is_file())
  files = [path for path in files if path.stat().st_size]
  assert len(files) > 1
  draw = np.random.default_rng(1)
  found = {'refused': 0, 'made again': 0, 'harmless': 0}
  for i in range(FLIPS):
    shutil.rmtree(cache)
    shutil.copytree(whole, cache)
    path = cache / files[i % len(files)].relative_to(whole)
    data = bytearray(path.read_bytes())
    data[draw.integers(len(data))] ^= 1 << draw.integers(8)
    path.write_bytes(data)
    capsys.readouterr()
    try:
      again = read()
    except InputError:
      found['refused'] += 1
      continue
    for one, other in zip(again, wanted, strict=True):
      np.testing.assert_array_equal(one, other, err_msg=str(path))
    noticed = 'is made again' in capsys.readouterr().err
    found['made again' if noticed else 'harmless'] += 1
  print(kind, found)
  assert found['refused'] + found['made again'] > 0
