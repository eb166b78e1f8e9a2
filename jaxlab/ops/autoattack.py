"""AutoAttack: a cascade of attacks, each on the images that withstood the last.

  attack = autoattack_standard(logits_fn, epsilon=8 / 255)
  found = attack(key, images, ids, labels, params)
  found.accuracy  # {'clean': …, 'apgd_ce': …, 'apgd_targeted': …, 'square': …}

The cascade is a loop on the host and is not to be jitted: images that are
fooled leave it, those left are packed into batches of one size, so that
everything is compiled once.

Source: F. Croce, M. Hein. Reliable evaluation of adversarial robustness with
an ensemble of diverse parameter-free attacks. ICML 2020.

Departs from the paper: FAB-T, the third of its four attacks, is left out, so
that the accuracy is an upper bound of AutoAttack's own.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlab.ops.apgd import apgd_ce, apgd_targeted
from jaxlab.ops.attack_objectives import LogitsFn, check_values, margin, wrong
from jaxlab.ops.attack_steps import (
  Attack,
  check_count,
  check_inputs,
  make_ball,
)
from jaxlab.ops.intervals import wilson
from jaxlab.ops.square import square

STAGES = ('apgd_ce', 'apgd_targeted', 'square')


class Found(NamedTuple):
  """What a cascade leaves. Arrays on the host, in the order of the images."""

  images: np.ndarray  # [n, …] float32; the clean image where nothing was found
  robust: np.ndarray  # [n] bool: classified rightly, before and after
  accuracy: dict[str, float]  # of 'clean' images, and after each attack

  def interval(self) -> tuple[float, float]:
    """95 % interval (Wilson) of the accuracy after the last attack."""
    return wilson(int(self.robust.sum()), len(self.robust))


def autoattack_standard(
  logits_fn: LogitsFn,
  *,
  epsilon: float,
  norm: str = 'linf',
  stages: Sequence[str] = STAGES,
  steps: int = 100,
  targets: int = 9,
  queries: int = 5000,
  batch_size: int = 128,
  unroll: bool | None = None,
) -> Callable[..., Found]:
  """APGD-CE, then targeted APGD, then Square.

  Args:
    logits_fn: (images, *rest) -> logits [b, k].
    epsilon: radius of the ball, in units of [0, 1].
    norm: 'linf' or 'l2'.
    stages: which of 'apgd_ce', 'apgd_targeted', 'square', in which order; a
      network of two or three classes has no targeted DLR.
    steps: of each run of APGD.
    targets: classes that targeted APGD aims at.
    queries: of Square.
    batch_size: images that are attacked together.
    unroll: see `attacks.pgd`.

  Returns:
    See `cascade`.

  Raises:
    ValueError: a budget outside of its range, an unknown norm or stage; when
      called, targeted APGD with fewer than four classes.
  """
  make_ball('autoattack_standard', norm, epsilon)
  unknown = [stage for stage in stages if stage not in STAGES]
  if unknown:
    raise ValueError(
      f'autoattack_standard: stage {unknown[0]!r} is none of {STAGES}'
    )
  same: dict[str, Any] = {'epsilon': epsilon, 'norm': norm, 'unroll': unroll}
  make: dict[str, Callable[[], Attack]] = {
    'apgd_ce': lambda: apgd_ce(logits_fn, steps=steps, **same),
    'apgd_targeted': lambda: apgd_targeted(
      logits_fn, steps=steps, targets=targets, **same
    ),
    'square': lambda: square(
      margin(logits_fn), steps=queries, stop_above=0.0, **same
    ),
  }
  attacks = {stage: make[stage]() for stage in stages}
  run = cascade(attacks, logits_fn, batch_size=batch_size)
  if 'apgd_targeted' not in stages:
    return run

  def checked(key, images, ids, labels, *rest) -> Found:
    classes = jax.eval_shape(logits_fn, images, *rest).shape[-1]
    if classes < 4:
      others = tuple(stage for stage in stages if stage != 'apgd_targeted')
      raise ValueError(
        f'autoattack_standard: targeted DLR needs four classes, the logits '
        f'have {classes}; give stages={others}'
      )
    return run(key, images, ids, labels, *rest)

  return checked


def cascade(
  attacks: Mapping[str, Attack],
  logits_fn: LogitsFn,
  *,
  batch_size: int = 128,
  place: Callable[[Any], Any] = jax.device_put,
) -> Callable[..., Found]:
  """Attacks in turn, each on the images that are still classified rightly.

  An image counts as fooled only if its logits are finite and another class has
  the largest one, whatever an attack says.

  Args:
    attacks: name -> attack(key, images, ids, labels, *rest).
    logits_fn: (images, *rest) -> logits [b, k], which decides.
    batch_size: images that are attacked together.
    place: puts the arrays of a batch on devices, for instance
      `lambda x: jax.device_put(x, sharding)`.

  Returns:
    run(key, images, ids, labels, *rest) -> Found. `rest` goes to `logits_fn`
    as it is; it has no rows.

  Raises:
    ValueError: no attacks, a batch size below 1; when called, images outside
      of [0, 1], logits of clean images that are not finite, are probabilities
      or have the wrong shape, labels outside of [0, k).
  """
  check_count('cascade', batch_size=batch_size)
  if not attacks:
    raise ValueError('cascade: needs at least one attack')
  logits_of = jax.jit(logits_fn)
  fooled = jax.jit(lambda x, y, *rest: wrong(logits_fn(x, *rest), y))

  def run(key, images, ids, labels, *rest) -> Found:
    check_inputs('cascade', images, ids)
    images, ids = np.array(images), np.asarray(ids)
    labels = np.asarray(labels)
    if labels.shape != ids.shape:
      raise ValueError(
        f'cascade: {labels.shape} labels for {len(images)} images'
      )
    right = np.zeros(len(images), bool)
    for rows, real in batches(np.arange(len(images)), batch_size):
      x, y = place((images[rows], labels[rows]))
      logits = logits_of(x, *rest)
      check_values(logits[: len(real)], y[: len(real)])
      right[real] = np.asarray(logits.argmax(-1) == y)[: len(real)]
    accuracy = {'clean': float(right.mean())}
    for stage, (name, attack) in enumerate(attacks.items()):
      again = jax.random.fold_in(key, stage)
      for rows, real in batches(np.flatnonzero(right), batch_size):
        x, i, y = place((images[rows], ids[rows], labels[rows]))
        x = attack(again, x, i, y, *rest)
        gone = np.asarray(fooled(x, y, *rest))[: len(real)]
        images[real[gone]] = np.asarray(x)[: len(real)][gone]
        right[real[gone]] = False
      accuracy[name] = float(right.mean())
    return Found(images, right, accuracy)

  return run


def batches(
  rows: np.ndarray, size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Cuts row numbers into batches of one size.

  Yields:
    (rows, real): the last batch is filled up with its first row.
  """
  for start in range(0, len(rows), size):
    real = rows[start : start + size]
    filled = np.full(size, real[0])
    filled[: len(real)] = real
    yield filled, real


def withstood(
  logits_fn: LogitsFn,
  clean: jax.Array,
  attacked: jax.Array,
  labels: jax.Array,
  *rest: Any,
) -> jax.Array:
  """[b] bool: classified rightly when clean, and not fooled by the attack.

  An attacked image with logits that are not finite has fooled nobody.
  """
  right = jnp.argmax(logits_fn(clean, *rest), -1) == labels
  return right & ~wrong(logits_fn(attacked, *rest), labels)
