"""Texts as dense features."""

import numpy as np
import pytest

from jaxlab.core.errors import InputError
from jaxlab.data.text import features as module
from jaxlab.data.text.features import text_features

ANIMALS = ('a cat and a dog', 'the dog chased the cat', 'cat food, dog food')
MUSIC = ('a song on the piano', 'the piano and the violin', 'violin song')
TEXTS = ANIMALS + MUSIC + ('my cat met a dog', 'her violin and her song')
TRAIN = np.arange(6)


@pytest.fixture(autouse=True)
def data_dir(tmp_path, monkeypatch):
  monkeypatch.setenv('JAXLAB_DATA_DIR', str(tmp_path))


def test_texts_of_a_kind_are_near_each_other():
  found = text_features(TEXTS, TRAIN, 3)
  assert found.dtype == np.float32
  assert found.shape == (8, 3)
  unit = found / np.linalg.norm(found, axis=1, keepdims=True)
  near = unit @ unit.T
  assert near[6, :3].min() > near[6, 3:6].max()
  assert near[7, 3:6].min() > near[7, :3].max()
  np.testing.assert_allclose(np.square(found[TRAIN]).mean(), 1, rtol=1e-5)


def test_they_are_kept_and_follow_from_the_training_texts(monkeypatch):
  first = text_features(TEXTS, TRAIN, 3)
  other = text_features((*TEXTS[:7], 'xylophone'), TRAIN, 3)
  np.testing.assert_allclose(other[:7], first[:7], atol=1e-5)
  assert not other[7].any()  # no word that training texts have
  monkeypatch.setattr(module, '_compute', None)  # would fail
  np.testing.assert_array_equal(text_features(TEXTS, TRAIN, 3), first)


def test_what_cannot_be_is_an_input_error():
  with pytest.raises(InputError, match=r'training rows \(there are 0\)'):
    text_features(TEXTS, TRAIN[:0], 3)
  with pytest.raises(InputError, match='dimensions >= 1'):
    text_features(TEXTS, TRAIN, 0)
  with pytest.raises(InputError, match='too few for 90 dimensions'):
    text_features(TEXTS, TRAIN, 90)
  with pytest.raises(InputError, match='no common words'):
    text_features(('one', 'two', 'three'), np.arange(3), 1)
