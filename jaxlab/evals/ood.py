"""Out-of-distribution detection, clean and under attack.

  inside = scored(found, test_feed, True, attack=attack, epsilons=EPS, key=key)
  outside = {'noise': scored(found, noise_feed, False, attack=…, …), …}
  rows = ood_table(inside, outside)

gives one row for each detector, OOD set, budget and setting: clean, `in` (ID
images are attacked), `out` (OOD images are), `both`.
"""

import hashlib
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxlab.core.errors import InputError
from jaxlab.core.state import Batch, Evaluator
from jaxlab.engine import mesh
from jaxlab.engine.metrics import Meter
from jaxlab.evals.ood_table import (
  Scores,
  averaged,
  figures,
  histograms,
  ood_table,
  roc_curves,
)
from jaxlab.ops.augment import to_float
from jaxlab.ops.detection import Detector
from jaxlab.ops.score_attacks import maximise_score, minimise_score

__all__ = [
  'averaged',
  'collect',
  'detection',
  'figures',
  'histograms',
  'ood_table',
  'overlapping',
  'refuse_overlap',
  'roc_curves',
  'scored',
]

MakeAttack = Callable[..., Callable]  # (objective, epsilon) -> Attack


def detection(score: Callable[..., jax.Array], capacity: int) -> Evaluator:
  """Figures of one detector over a finite feed, as training goes on.

  Batches have `ood` [b] bool, True = an outlier, and the feed's `mask`.

  Args:
    score: (params, vars, batch) -> [b], higher = more ID.
    capacity: rows of the whole feed at most, padding included.

  Returns:
    An Evaluator with the figures of `detection_metrics.summary`, and
    `id_examples` and `ood_examples`.
  """

  def init():
    return {
      'score': jnp.zeros(capacity),
      'ood': jnp.zeros(capacity, bool),
      'mask': jnp.zeros(capacity, bool),
      'rows': jnp.zeros((), jnp.int32),
    }

  def update(total, state, batch, key):
    del key
    found = {
      'score': score(state.params, state.vars, batch).astype(jnp.float32),
      'ood': batch['ood'].astype(bool),
      'mask': batch['mask'],
    }
    start = total['rows']
    added = {
      name: lax.dynamic_update_slice(total[name], value, (start,))
      for name, value in found.items()
    }
    return {**added, 'rows': start + len(batch['mask'])}

  def finish(total):
    if total['rows'] > capacity:
      raise InputError(
        f'the feed has {total["rows"]} rows with its padding, capacity is '
        f'{capacity}; raise it'
      )
    values, ood, mask = (np.asarray(total[n]) for n in ('score', 'ood', 'mask'))
    inside, outside = values[mask & ~ood], values[mask & ood]
    found = figures('this evaluation', inside, outside)
    sizes = {'id_examples': len(inside), 'ood_examples': len(outside)}
    return {**found, **{k: float(v) for k, v in sizes.items()}}

  return Evaluator(init, update, finish)


def collect(
  functions: Mapping[Any, Callable[[Batch], jax.Array]],
  feed: Any,
  name: str = '',
) -> dict[Any, np.ndarray]:
  """The values of every real row of a finite feed, in its order.

  Args:
    functions: name -> (batch) -> [b, ...].
    feed: a finite Feed, or a sequence of batches with `mask` [b] bool.
    name: of the work, for its progress line; '' shows none.

  Returns:
    name -> [rows, ...], on every host.

  Raises:
    InputError: a feed without an end or without rows, an iterator, or a
      function that does not give a value for each row.
  """
  parts: dict[Hashable, list[np.ndarray]] = {key: [] for key in functions}
  rows, batches = 0, _batches(feed)
  meter = Meter(name, getattr(feed, 'steps', 0) * len(functions))
  for batch in batches:
    mask = mesh.whole(batch['mask'])
    rows += int(mask.sum())
    for key, function in functions.items():
      values = mesh.whole(function(batch))
      if values.shape[:1] != mask.shape:
        raise InputError(
          f'{key} gives {values.shape} for a batch of {len(mask)} rows; it '
          'must give a value for each'
        )
      parts[key].append(values[mask])
      meter.advance()
  if not rows:
    raise InputError('the feed has no examples; give it some')
  return {key: np.concatenate(values) for key, values in parts.items()}


def scored(
  detectors: Mapping[str, Detector],
  feed: Any,
  inlier: bool,
  *,
  attack: MakeAttack | None = None,
  epsilons: Sequence[float] = (),
  key: jax.Array | None = None,
  name: str = '',
) -> Scores:
  """Scores of images, as they are and attacked at each budget.

  Each detector is attacked by itself: ID images towards low scores, OOD images
  towards high ones. As no perturbation is within every budget too, an attack
  that ends on the wrong side of the clean score leaves the clean one.

  Args:
    detectors: name -> Detector.
    feed: as in `collect`; batches have `image` [b, ...] uint8, or float32 in
      [0, 1], and for attacks `id` [b].
    inlier: whether these are ID images.
    attack: (objective, epsilon) -> attack(key, images, ids, *args), as
      `lambda f, e: apgd(f, epsilon=e, steps=100, restarts=5)`.
    epsilons: budgets above 0, in units of images in [0, 1].
    key: of the attacks.
    name: of the work, for its progress line; '' shows none.

  Returns:
    (detector, epsilon) -> [n] float32 in the feed's order; the clean scores
    have epsilon 0.

  Raises:
    InputError: budgets without an attack or a key, bad ones, batches without
      what is needed.
  """
  if not all(0 < e <= 1 for e in epsilons):
    raise InputError(
      f'epsilons={tuple(epsilons)} must be in (0, 1], as 8 / 255; clean scores '
      'are always there'
    )
  functions = {}
  for of, detector in detectors.items():
    score = jax.jit(detector.score)
    functions[of, 0.0] = _clean(score, detector.args)
    objective = (minimise_score if inlier else maximise_score)(detector)
    for epsilon in epsilons:
      if attack is None or key is None:
        raise InputError(f'epsilons={tuple(epsilons)} need attack= and key=')
      run = attack(objective, epsilon)
      functions[of, float(epsilon)] = _attacked(score, detector, run, key)
  found = collect(functions, feed, name)
  worse = np.minimum if inlier else np.maximum
  return {
    (of, e): worse(values, found[of, 0.0]) for (of, e), values in found.items()
  }


def overlapping(images, others) -> np.ndarray:
  """[n] bool: which of `images` are also among `others`, byte by byte.

  Args:
    images, others: [n, ...] and [m, ...] uint8, rows of one shape.

  Raises:
    InputError: another dtype, or rows of two shapes.
  """
  pair = [np.asarray(x) for x in (images, others)]
  for array in pair:
    if array.dtype != np.uint8 or array.shape[1:] != pair[0].shape[1:]:
      raise InputError(
        f'images {pair[0].dtype} {pair[0].shape} and others {pair[1].dtype} '
        f'{pair[1].shape} cannot be compared; give uint8 rows of one shape'
      )

  def hashes(array):
    rows = np.ascontiguousarray(array)
    return [hashlib.blake2b(row, digest_size=16).digest() for row in rows]

  known = set(hashes(pair[1]))
  return np.array([digest in known for digest in hashes(pair[0])], bool)


def refuse_overlap(outliers, tests: Mapping[str, Any]) -> None:
  """Raises InputError if training outliers are in an OOD test set.

  Args:
    outliers: [n, ...] uint8, seen in training or validation.
    tests: name of a test set -> [m, ...] uint8.

  Raises:
    InputError: with the counts of each set that overlaps.
  """
  found = []
  for name, images in tests.items():
    both = overlapping(outliers, images)
    if both.any():
      found.append(
        f'{both.sum()} of {len(both)} outliers are among the {len(images)} '
        f'images of "{name}", first outlier {both.argmax()}'
      )
  if found:
    raise InputError(
      f'{"; ".join(found)}: the test would be of what was trained on; leave '
      'those outliers out'
    )


def _clean(score, args):
  def function(batch):
    images = _images(batch)
    # Not by the minimum: XLA's on a CPU may pass over NaN.
    if not bool(((images >= 0) & (images <= 1)).all()):
      low, high = float(images.min()), float(images.max())
      raise InputError(
        f'images lie in [{low:g}, {high:g}] or are NaN, not in [0, 1]; give '
        'uint8, or divide by 255 and let the model normalise'
      )
    return score(images, *args)

  return function


def _attacked(score, detector: Detector, attack, key):
  def function(batch):
    if 'id' not in batch:
      raise InputError(
        f'batches have {sorted(batch)}; attacks need "id" [b], the number of '
        'each image in its set'
      )
    images = _images(batch)
    found = attack(key, images, batch['id'], *detector.args)
    return score(found, *detector.args)

  return function


def _images(batch: Batch) -> jax.Array:
  if 'image' not in batch:
    raise InputError(f'batches have {sorted(batch)}; "image" is missing')
  return to_float(batch['image'])


def _batches(feed: Any) -> Iterable[Batch]:
  if hasattr(feed, 'steps'):
    if not feed.steps:
      raise InputError('the feed has no end; give it steps=')
    return (batch for _, _, batch in feed.batches(0, feed.steps))
  if hasattr(feed, '__next__'):
    raise InputError(
      f'{type(feed).__name__} can be read only once; give a Feed or a list of '
      'batches'
    )
  return feed
