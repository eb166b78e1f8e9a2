"""What a stage hands over: grids of pictures, panels, TensorBoard's events."""

import sys
import types

import numpy as np
import pytest
from PIL import Image

from jaxlab.runs.sections import Sections


def pixels_of(page, name):
  return np.asarray(Image.open(page.folder / 'figures' / f'{name}.png'))[
    ..., :3
  ]


def test_a_grid_shows_every_picture_in_its_place_and_grey_by_its_value(
  tmp_path,
):
  page = Sections(tmp_path)
  flat = np.array([0.0, 0.25, 1.0, 0.5])[:, None, None, None]
  page.images('grid', np.broadcast_to(flat, (4, 6, 6, 1)), columns=2)
  found = pixels_of(page, 'grid')
  high, wide, _ = found.shape
  middles = [
    found[high * row // 4, wide * column // 4]
    for row in (1, 3)
    for column in (1, 3)
  ]
  for middle, value in zip(middles, flat.ravel()):
    # Not stretched to the picture's own contrast.
    np.testing.assert_allclose(middle, 255 * value, atol=1)
  assert page.found == [{'kind': 'figure', 'file': 'grid.png', 'caption': ''}]


def test_a_grid_takes_bytes_and_cuts_what_is_out_of_range(tmp_path):
  page = Sections(tmp_path)
  bytes_ = np.full((1, 5, 5, 3), 200, np.uint8)
  page.images('bytes', bytes_, ['a\nb'], columns=1)
  page.images('out', np.full((1, 5, 5, 3), 1.5), columns=1)
  for name, value in (('bytes', 200), ('out', 255)):
    found = pixels_of(page, name)
    middle = found[found.shape[0] * 5 // 8, found.shape[1] // 2]
    assert middle.tolist() == [value] * 3


def test_a_large_picture_is_averaged_where_it_shrinks(tmp_path):
  page = Sections(tmp_path)
  board = np.indices((800, 800)).sum(0) % 2
  page.images('board', board[None, ..., None].astype(float), columns=1)
  found = pixels_of(page, 'board')
  middle = found[found.shape[0] // 2, found.shape[1] // 2]
  np.testing.assert_allclose(middle, 127.5, atol=20)  # no moiré


def test_panels_are_drawn_from_left_to_right_in_one_figure(tmp_path):
  page, seen = Sections(tmp_path), []
  draws = [lambda axes, i=i: seen.append((i, axes)) for i in range(3)]
  page.panels('three', draws, 'Three', (6, 2))
  assert [i for i, _ in seen] == [0, 1, 2]
  left = [axes.get_position().x0 for _, axes in seen]
  assert left == sorted(left) and len({a.figure for _, a in seen}) == 1
  assert [x['file'] for x in page.found] == ['three.png']


@pytest.fixture
def written(monkeypatch):
  """What a fake of TensorBoard's writer is given."""
  found = []

  class Writer:
    def __init__(self, folder, purge_step=None):
      found.append(('open', folder, purge_step))

    def add_image(self, name, pixels, dataformats):
      found.append(('image', name, pixels, dataformats))

    def add_text(self, name, text):
      found.append(('text', name, text))

    def close(self):
      found.append(('close',))

  fake = types.ModuleType('tensorboardX')
  fake.SummaryWriter = Writer
  monkeypatch.setitem(sys.modules, 'tensorboardX', fake)
  return found


def test_tensorboard_gets_images_and_text(written, tmp_path):
  page = Sections(tmp_path)
  page.headline('A beats B', 'shown')
  page.table('Rows', ['a'], [[1]])
  page.samples('Words', [[('said', 0.0), (' that', 0.5), (' ', 0.5)]])
  page.images('grid', np.ones((2, 4, 4, 3)), columns=2)
  page.write()
  assert written[0] == ('open', str(tmp_path / 'events'), None)
  assert written[-1] == ('close',)
  assert ('text', 'headline 0', 'A beats B') in written
  assert ('text', 'Rows', 'Rows\n\n| a |\n|---|\n| 1 |\n') in written
  assert ('text', 'Words', 'said** that** ') in written
  [image] = [x for x in written if x[0] == 'image']
  assert (image[1], image[3]) == ('grid', 'HWC')
  shown = pixels_of(page, 'grid')
  np.testing.assert_allclose(image[2], shown / 255, atol=1e-3)


def test_no_events_are_written_of_an_empty_page(written, tmp_path):
  Sections(tmp_path).write()
  assert written == []


def test_without_tensorboards_extra_there_are_none(monkeypatch, tmp_path):
  monkeypatch.setitem(sys.modules, 'tensorboardX', None)
  page = Sections(tmp_path)
  page.headline('A beats B')
  page.write()
  assert not (tmp_path / 'events').exists()
