"""What samples are worth, by the features of a network that has a name.

  seen = view(Classifier('lenet of mnist', accuracy, run, 1), images)
  figures = distances(real.features, seen.features, other.features)

A distance between features belongs to the network, to the preparation of the
images and to the numbers of samples: say them beside it.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from jaxlab.core.errors import InputError
from jaxlab.engine.metrics import Meter
from jaxlab.ops import generative


class View(NamedTuple):
  """Images as a classifier sees them, on the host."""

  features: np.ndarray  # [n, d] float32
  probabilities: np.ndarray  # [n, channels, classes] float32


class Classifier(NamedTuple):
  """A trained classifier that judges samples."""

  name: str  # of its architecture and training set
  accuracy: float  # on its test set
  # images [b, h, w, c] in [0, 1] -> features [b, d], logits [b, classes]
  run: Callable[[jax.Array], tuple[jax.Array, jax.Array]]
  channels: int  # that it reads


def view(
  classifier: Classifier, images: np.ndarray, rows: int = 250, name: str = ''
) -> View:
  """Features and probabilities of images.

  Of images with several times as many channels as the classifier reads, it
  reads each part alone; features stand side by side.

  Args:
    images: [n, h, w, c] float32 in [0, 1], c a multiple of the classifier's.
    rows: images at once.
    name: of a progress line.

  Raises:
    InputError: channels that do not divide.
  """
  count, channels = len(images), images.shape[-1]
  if channels % classifier.channels:
    raise InputError(
      f'{classifier.name} reads {classifier.channels} channels, the images '
      f'have {channels}: judge them by a classifier of such images'
    )

  @jax.jit
  def of(images):
    found = [
      classifier.run(images[..., i : i + classifier.channels])
      for i in range(0, channels, classifier.channels)
    ]
    features = jax.numpy.concatenate([x for x, _ in found], -1)
    logits = jax.numpy.stack([x for _, x in found], 1)
    return features, jax.nn.softmax(logits)

  found: list[tuple[np.ndarray, np.ndarray]] = []
  meter = Meter(name, -(-count // rows))
  for start in range(0, count, rows):
    part = images[start : start + rows]
    short = rows - len(part)
    padded = np.pad(part, ((0, short), (0, 0), (0, 0), (0, 0)))
    features, p = jax.device_get(of(padded))
    found.append((features[: len(part)], p[: len(part)]))
    meter.advance()
  return View(*(np.concatenate(parts) for parts in zip(*found)))


def distances(
  real: np.ndarray, fake: np.ndarray, other: np.ndarray
) -> dict[str, float]:
  """How far the features of samples are from those of real images.

  Args:
    real: [n, d] of held-out images.
    fake: [n, d] of samples.
    other: [n, d] of other real images, whose distance is the floor.

  Returns:
    `fcd` (the Frechet distance) and its `fcd_floor`, `kid` (the kernel
    distance), `precision`, `recall`.

  Raises:
    InputError: no more samples than features, or features that are not
      finite.
  """
  try:
    precision, recall = generative.precision_recall(real, fake)
    return {
      'fcd': generative.frechet_distance(real, fake),
      'fcd_floor': generative.frechet_distance(real, other),
      'kid': generative.kernel_distance(real, fake),
      'precision': precision,
      'recall': recall,
    }
  except ValueError as error:
    raise InputError(
      f'{error} (judge.samples says how many samples are taken)'
    ) from error


def modes(
  classifier: Classifier, probabilities: np.ndarray, least: float
) -> dict[str, float]:
  """Modes among samples by their classes, see `ops.generative.stacked_modes`.

  Args:
    classifier: what the probabilities are of.
    probabilities: [n, channels, classes].
    least: the accuracy that the classifier is to have.

  Returns:
    Its figures, and `modes_sure`, those of images of which the classifier is
    sure by .9 in every channel.

  Raises:
    InputError: the classifier is worse.
  """
  check_accuracy(classifier.name, classifier.accuracy, least)
  found = generative.stacked_modes(probabilities)
  sure = generative.stacked_modes(probabilities, confidence=0.9)
  return {**found, 'modes_sure': sure['modes']}


def check_accuracy(name: str, accuracy: float | None, least: float) -> None:
  """Refuses a classifier that is too bad to count by.

  Raises:
    InputError: naming its accuracy and the cure.
  """
  found = float('nan') if accuracy is None else accuracy
  if not found >= least:
    raise InputError(
      f'the classifier {name} has a test accuracy of {found:.4f}, below '
      f'judge.accuracy = {least:g}: no modes are counted by it. Train it '
      'longer (classifier.steps), or state what it reaches'
    )
