"""The image sets of a run: ID, outliers for training, outliers for testing."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from jaxlab.core.errors import InputError
from jaxlab.data.images import outliers, sets
from jaxlab.engine.fingerprint import leaves_sha256
from jaxlab.engine.metrics import say
from jaxlab.evals.ood import overlapping, refuse_overlap
from jaxlab.papers.aloe import method

Config = Mapping[str, Any]


class Sets(sets.ImageSets):
  """The arrays that a config names, opened when they are asked for.

  Args:
    config: the run's.
    offline: open no socket.
  """

  def __init__(self, config: Config, offline: bool):
    super().__init__(config['data'], offline)
    self.config = config

  @cached_property
  def train(self) -> dict[str, np.ndarray]:
    """ID images to train on, balanced if the config says so."""
    c = self.config['data']
    found = self.inliers(c['train_split'])
    if c['balance_to']:
      found = dict(
        outliers.balance(found['image'], found['label'], c['balance_to'])
      )
    return found

  @cached_property
  def outliers(self) -> dict[str, np.ndarray]:
    """Auxiliary outliers to train on; none of them is in a test set.

    Raises:
      InputError: some are and are not to be dropped, or there are none.
    """
    c = self.config['outliers']
    parts = [self.unlabelled(*pair) for pair in c['train']]
    if c['file']:
      d = self.config['data']
      parts.append(outliers.open_array(c['file'], d['size'], d['channels']))
    if not parts:
      raise InputError(
        'config.outliers names no set and no file, and this method trains on '
        'outliers'
      )
    found = parts[0] if len(parts) == 1 else np.concatenate(parts)
    return {'image': self._apart(found)}

  @cached_property
  def outliers_sha256(self) -> str:
    """Of the outliers to train on, without those of a test set."""
    return leaves_sha256([('outliers', self.outliers['image'])])

  @cached_property
  def validation_outliers(self) -> np.ndarray:
    """Outliers that detectors are tuned on; none of them is in a test set.

    Raises:
      InputError: as of `outliers`.
    """
    parts = [self.unlabelled(*p) for p in self.config['outliers']['validation']]
    if not parts:
      raise InputError(
        'config.outliers.validation is empty: detectors are tuned on outliers '
        'that are neither trained on nor tested'
      )
    return self._apart(np.concatenate(parts))

  def _apart(self, found: np.ndarray) -> np.ndarray:
    """The outliers without those of a test set; or an error, by the config."""
    tests = {' '.join(p): self.unlabelled(*p) for p in self._real_tests()}
    if self.config['outliers']['overlap'] == 'drop':
      found = _without(found, tests)
    refuse_overlap(found, tests)
    return found

  def _real_tests(self) -> Sequence[tuple[str, str]]:
    made = ('corrupted:', *outliers.NOISES)
    return [p for p in self.config['ood']['sets'] if not p[0].startswith(made)]


def seen(config: Config) -> set[str]:
  """Names of sets of which a method of the study has outliers to train on.

  Another split of such a set is not an OOD test set: its kind was seen in
  training.
  """
  methods = config['study']['methods']
  if not any(method.FAMILY[name].outliers for name in methods):
    return set()
  return {name for name, _ in config['outliers']['train']}


def _without(found: np.ndarray, tests: Mapping[str, np.ndarray]) -> np.ndarray:
  """The outliers that are in no test set, counted on stderr."""
  for name, images in tests.items():
    both = overlapping(found, images)
    if both.any():
      say(f'{both.sum()} of {len(both)} outliers are in "{name}": left out')
      found = found[~both]
  return found
