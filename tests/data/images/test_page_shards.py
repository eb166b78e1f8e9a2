"""Scanned pages as shards: modes, damage, sizes, what is skipped."""

import io

import numpy as np
import pytest
from PIL import Image

from jaxlab.core.errors import InputError
from jaxlab.data.array_records import encode_example, parse_example
from jaxlab.data.images import page_shards, streaming
from jaxlab.data.images.page_shards import converted
from jaxlab.data.images.pixels import Canvas
from tests.data.rvl_pages import write_rvl


@pytest.fixture
def rvl(tmp_path, monkeypatch):
  """Twelve files, see `write_rvl`, and a data folder of their own."""
  monkeypatch.setenv('JAXLAB_DATA_DIR', str(tmp_path / 'data'))
  write_rvl(tmp_path / 'rvl')
  return tmp_path / 'rvl'


def test_every_mode_becomes_one_grey_page_and_the_rest_is_listed(rvl, capfd):
  found = converted(f'rvl_cdip:{rvl}', 'train', size=(30, 20))
  assert found.label.tolist() == [0, 1, 2, 3, 4, 5]
  assert found.records.classes[15] == 'memo'
  names = [(file[-5:], why) for file, why in found.skipped]
  assert [name for name, _ in names] == ['6.tif', '7.tif']
  assert 'does not decode' in names[0][1]
  assert names[1][1].endswith('7.tif is 1 x 1 pixels, no page')
  assert '2 of the 8 files of the split' in capfd.readouterr().err
  source = streaming.RecordSource(
    *(found.records, Canvas((30, 20), 1, 'stretch')),
    batch_size=6,
    repeat=False,
    shuffle=False,
  )
  batch = source.batch(0, slice(None))
  assert batch['label'].tolist() == found.label.tolist()
  want = np.full((30, 20, 1), 255)
  want[:15] = 0
  for page in batch['image']:
    np.testing.assert_allclose(page[:14], want[:14], atol=1)
    np.testing.assert_allclose(page[16:], want[16:], atol=1)
  assert len({*found.hashes.tolist()}) == 1  # one look in all modes


def test_a_second_opening_reads_no_file_again(rvl, monkeypatch):
  first = converted(f'rvl_cdip:{rvl}', 'validation', size=(30, 20))
  monkeypatch.setattr(page_shards, '_convert', None)
  again = converted(f'rvl_cdip:{rvl}', 'validation', size=(30, 20))
  assert again.label.tolist() == first.label.tolist() == [8, 9]
  with pytest.raises(TypeError):  # another size is another set
    converted(f'rvl_cdip:{rvl}', 'validation', size=(30, 21))


def test_shards_are_cut_and_read_across(rvl, monkeypatch):
  monkeypatch.setattr(page_shards, '_SHARD', 4)
  found = converted(f'rvl_cdip:{rvl}', 'train', size=(30, 20))
  assert len(found.records) == 6
  files = (rvl.parent / 'data').rglob('*.array_record')
  assert sorted(x.name[:8] for x in files) == ['00000000', '00000004']
  images, labels = found.records.read([5, 0, 4, 3])
  assert labels.tolist() == [5, 0, 4, 3]
  assert all(Image.open(io.BytesIO(x)).size == (20, 30) for x in images)


def test_a_split_without_pages_is_an_error(rvl):
  with pytest.raises(InputError, match=r'none of the 2 images .* is a page'):
    converted(f'rvl_cdip:{rvl}', 'test', size=(30, 20), least=100)


def test_a_list_that_names_an_absent_file_is_an_error(rvl):
  (rvl / 'labels/test.txt').write_text('imagesq/none.tif 3\n')
  with pytest.raises(InputError, match=r'test\.txt, line 1: .*not in'):
    converted(f'rvl_cdip:{rvl}', 'test', size=(30, 20))


@pytest.mark.parametrize('label', [0, 15, 300])
def test_an_example_is_read_as_it_was_written(label):
  data = bytes(range(256)) * 3
  record = encode_example(data, label)
  assert parse_example(record, b'image', b'label') == (data, label)
