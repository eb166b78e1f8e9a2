"""Samples judged by a classifier: a linear one, whose answers are known."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxlab.core.errors import InputError
from jaxlab.evals import generative
from jaxlab.evals.generative import Classifier
from jaxlab.ops.generative import frechet_distance

RNG = np.random.default_rng(0)
HEAD = RNG.normal(size=(4, 3)).astype(np.float32)


def _run(images):
  flat = images.reshape(len(images), -1)
  return 2 * flat, flat @ HEAD


LINEAR = Classifier('linear of squares', 0.95, _run, 1)


def test_each_channel_is_read_alone_and_padding_is_dropped():
  images = RNG.random((7, 2, 2, 3)).astype(np.float32)
  found = generative.view(LINEAR, images, rows=4)
  assert found.features.shape == (7, 12)
  assert found.probabilities.shape == (7, 3, 3)
  for channel in range(3):
    flat = images[..., channel].reshape(7, 4)
    np.testing.assert_allclose(
      found.features[:, 4 * channel : 4 * channel + 4], 2 * flat, rtol=1e-6
    )
    raised = np.exp(flat @ HEAD)
    np.testing.assert_allclose(
      found.probabilities[:, channel],
      raised / raised.sum(-1, keepdims=True),
      rtol=1e-5,
    )


def test_images_of_other_channels_are_refused():
  colour = Classifier('colour', 1.0, lambda x: (x, jnp.zeros(1)), 3)
  with pytest.raises(InputError, match='reads 3 channels, the images have 1'):
    generative.view(colour, np.zeros((2, 4, 4, 1), np.float32))


def test_distances_have_their_floor_and_say_what_is_too_few():
  real, other, fake = (RNG.normal(size=(40, 3)) for _ in range(3))
  fake = fake + 2
  found = generative.distances(real, fake, other)
  assert found['fcd'] == frechet_distance(real, fake)
  assert found['fcd_floor'] == frechet_distance(real, other) < found['fcd']
  assert found['kid'] > 1 and found['precision'] < 0.5
  with pytest.raises(InputError) as error:
    generative.distances(RNG.normal(size=(10, 12)), fake[:10, [0] * 12], real)
  assert '10 samples of 12 features' in str(error.value)
  assert 'judge.samples' in str(error.value)
  fake[1, 0] = np.nan
  with pytest.raises(InputError, match='not finite, the first at row 1'):
    generative.distances(real, fake, other)


def test_no_mode_is_counted_by_a_classifier_that_is_too_bad():
  p = np.full((5, 3, 10), 0.005)
  p[..., 2] = 0.955
  found = generative.modes(LINEAR, p, 0.95)
  assert (found['modes'], found['modes_sure'], found['images']) == (1, 1, 5)
  for accuracy in (0.9499, float('nan')):
    with pytest.raises(InputError) as error:
      generative.modes(LINEAR._replace(accuracy=accuracy), p, 0.95)
    assert 'below judge.accuracy = 0.95' in str(error.value)
