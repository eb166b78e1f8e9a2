"""Configs that leave sizes, classes, mean and deviation to the images."""

import json

import numpy as np
import pytest
from PIL import Image

from jaxlab import main
from jaxlab.core.errors import InputError
from jaxlab.recipes import measured
from tests import runs


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Three classes of colour images, 12 x 20 to 14 x 22 pixels."""
  root = tmp_path_factory.mktemp('images') / 'set'
  random = np.random.default_rng(0)
  for split, count in (('train', 12), ('val', 4), ('test', 4)):
    for number, name in enumerate(('ant', 'bee', 'cat')):
      below = root / split / name
      below.mkdir(parents=True)
      for i in range(count):
        height = 12 + i % 3
        image = random.integers(0, 100, (height, height + 8, 3), np.uint8)
        image[..., number] += 150
        Image.fromarray(image).save(below / f'{i}.png')
  return root


def config_of(folder, **data):
  config = runs.config_of('lamb_images', 'folder').to_dict()
  config['data'] |= {'name': f'image_folder:{folder}', **data}
  return config


def test_what_is_empty_is_that_of_the_training_images(folder):
  d = measured.images(config_of(folder), True)['data']
  assert (d['num_classes'], d['channels'], d['size']) == (3, 3, 13)
  # A third of the images has 150 more, on [0, 100).
  assert d['mean'] == pytest.approx([(49.5 + 50) / 255] * 3, abs=0.01)
  spread = np.hypot(150 * np.sqrt(2) / 3, 100 / np.sqrt(12)) / 255
  assert d['std'] == pytest.approx([spread] * 3, rel=0.05)  # resized: less
  assert spread > d['std'][0]


def test_what_is_given_stays(folder):
  given = {
    'num_classes': 7,
    'channels': 1,
    'size': 9,
    'mean': (0.2,),
    'std': (0.4,),
  }
  d = measured.images(config_of(folder, **given), True)['data']
  assert {key: d[key] for key in given} == given


def test_a_folder_without_a_path_is_named():
  with pytest.raises(InputError, match='image_folder:PATH'):
    measured.images(runs.config_of('lamb_images', 'folder').to_dict(), True)


def test_a_folder_of_colour_images_is_trained_on(
  folder, tmp_path, monkeypatch, capsys
):
  monkeypatch.setenv('JAXLAB_DATA_DIR', str(tmp_path / 'data'))
  flags = [
    *('jaxlab', '--config=lamb_images:folder', '--offline'),
    f'--config.data.name=image_folder:{folder}',
    *('--config.train.steps=3', '--config.model.depth=8'),
    *('--config.model.width=2', '--config.data.batch_size=8'),
    '--config.optimizer.warmup_steps=1',
    f'--workdir={tmp_path}/run',
  ]
  assert main.main(flags) == 0
  d = json.loads((tmp_path / 'run' / 'config.json').read_text())['data']
  assert (d['num_classes'], d['channels'], d['size']) == (3, 3, 13)
  assert main.main(flags) == 0  # the same run
  assert 'finished before' in capsys.readouterr().err
  assert main.main([*flags, '--config.data.size=8']) == 2
  assert 'data.size: 13 there, 8 here' in capsys.readouterr().err
