"""What is labelled, and what of the rest is trained on."""

import numpy as np

from jaxlab.core.errors import InputError
from jaxlab.papers.metric_transfer.labels import UNDECIDED, Propagated


def selected(found: Propagated, mask: np.ndarray, ratio: float) -> np.ndarray:
  """Rows to train on, ascending: the labelled and the surest of the others.

  Args:
    ratio: ρ in [0, 1], of the unlabelled; undecided ones are never taken.
  """
  if not 0 <= ratio <= 1:
    raise InputError(f'ratio = {ratio} must be in [0, 1]')
  others = np.flatnonzero(~mask)
  order = others[np.argsort(-found.confidence[others], kind='stable')]
  best = order[: round(ratio * len(others))]
  best = best[found.labels[best] != UNDECIDED]
  return np.sort(np.concatenate([np.flatnonzero(mask), best]))


def class_weights(labels: np.ndarray, classes: int) -> np.ndarray:
  """[c] ζ = (n / C) / n_c, 0 for a class without rows; Iscen et al. 2019."""
  counts = np.bincount(labels, minlength=classes)
  return np.where(counts, len(labels) / classes / np.maximum(counts, 1), 0)


def balanced_split(
  labels: np.ndarray, per_class: int, classes: int, seed: int
) -> np.ndarray:
  """[n] bool: as many labelled images of each class, in a seeded order.

  Splits of one seed are nested: more a class keep the fewer.

  Raises:
    InputError: a class has too few images.
  """
  counts = np.bincount(labels, minlength=classes)
  if per_class < 1 or counts.min() < per_class:
    raise InputError(
      f'{per_class} labels a class: class {int(counts.argmin())} has '
      f'{counts.min()} images; ask for 1 to so many'
    )
  order = np.random.default_rng(seed).permutation(len(labels))
  mask = np.zeros(len(labels), bool)
  for one in range(classes):
    mask[order[labels[order] == one][:per_class]] = True
  return mask
