"""Symptoms of masked gradients, under which an attack says too little.

The checks are on the host, on a few hundred images. None proves anything; each
that warns names what to look at. Robust accuracy that comes with a warning is
not to be reported without its explanation.

Source: A. Athalye, N. Carlini, D. Wagner. Obfuscated Gradients Give a False
Sense of Security. ICML 2018, section 3.1. F. Croce et al., the flags of
AutoAttack. Its check for optimisation at inference has no counterpart here: a
traced function shows nothing of the kind.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlab.ops.apgd import apgd_ce, apgd_dlr
from jaxlab.ops.attack_objectives import (
  LogitsFn,
  check_values,
  cross_entropy,
  dlr,
  is_probability,
  margin,
)
from jaxlab.ops.attack_steps import (
  check_count,
  check_inputs,
  gradient_of,
  make_ball,
  no_success,
)
from jaxlab.ops.attacks import fgsm, pgd
from jaxlab.ops.autoattack import withstood
from jaxlab.ops.square import square

_RUNS = 5  # of the same images, to see whether the output is random
_TOLERANCE = 1e-4  # of logits, relative to the largest one
_SCALE = 0.1  # of the logits, for gradients that saturation hides
_SQUARE_GAIN = 0.002  # what Square may find beyond the gradient attacks
_GAIN = 0.01  # what one step or another network may find beyond them
_FLAT = 0.02  # what four times the steps may find


def masking_report(
  logits_fn: LogitsFn,
  *,
  epsilon: float,
  norm: str = 'linf',
  steps: int = 50,
  queries: int = 500,
  curve: Sequence[int] = (1, 5, 20, 80),
  transfer: tuple[LogitsFn, tuple] | None = None,
  unroll: bool | None = None,
) -> Callable[..., dict[str, Any]]:
  """The checks of a classifier under a budget.

  Args:
    logits_fn: (images, *rest) -> logits [b, k].
    epsilon: radius of the ball, in units of [0, 1].
    norm: 'linf' or 'l2'.
    steps: of the gradient attacks.
    queries: of Square.
    curve: numbers of PGD steps, rising, at a step size of epsilon / 4.
    transfer: another network and its `rest`, on which an attack is crafted.
    unroll: see `attacks.pgd`.

  Returns:
    report(key, images, ids, labels, *rest) -> dict of plain values:
      accuracy           attack -> share of images that withstand it
      steps_curve        steps of PGD -> the same
      random_difference  largest change of a logit between equal calls
      batch_difference   the same, when an image is called alone
      probabilities      whether the logits look like probabilities
      zero_gradients     share of images whose gradient vanishes at the start
      warnings           list of sentences, empty if nothing was found
      text               the warnings, one a line

  Raises:
    ValueError: a budget outside of its range, a curve that does not rise; when
      called, images outside of [0, 1], logits that are not finite.
  """
  ball = make_ball('masking_report', norm, epsilon)
  curve = tuple(curve)
  for count in curve:
    check_count('masking_report', curve=count)
  if len(curve) < 2 or list(curve) != sorted(set(curve)):
    raise ValueError(f'masking_report: curve {curve} must rise, two or more')
  same: dict[str, Any] = {'norm': norm, 'unroll': unroll}
  nats = cross_entropy(logits_fn)
  scaled = cross_entropy(logits_fn, _SCALE)
  standing = jax.jit(partial(withstood, logits_fn))

  def attacks(classes):
    yield 'fgsm', fgsm(nats, epsilon=epsilon, norm=norm)
    yield 'pgd', pgd(nats, epsilon=epsilon, steps=steps, **same)
    yield 'pgd_scaled', pgd(scaled, epsilon=epsilon, steps=steps, **same)
    yield 'apgd_ce', apgd_ce(logits_fn, epsilon=epsilon, steps=steps, **same)
    if classes > 2:
      yield (
        'apgd_dlr',
        apgd_dlr(logits_fn, epsilon=epsilon, steps=steps, **same),
      )
    yield (
      'square',
      square(
        margin(logits_fn),
        epsilon=epsilon,
        steps=queries,
        stop_above=0.0,
        **same,
      ),
    )
    yield 'unbounded', apgd_ce(logits_fn, epsilon=1.0, steps=steps)

  def report(key, images, ids, labels, *rest):
    images = check_inputs('masking_report', images, ids, ball)
    labels = jnp.asarray(labels)
    logits = jnp.asarray(logits_fn(images, *rest))
    probable = logits.ndim == 2 and is_probability(logits)
    if not probable:
      check_values(logits, labels)

    def share(x):
      return float(standing(images, x, labels, *rest).mean())

    accuracy = {'clean': share(images)}
    for name, attack in attacks(logits.shape[1]):
      accuracy[name] = share(attack(key, images, ids, labels, *rest))
    if transfer is not None:
      other, its_rest = transfer
      attack = pgd(cross_entropy(other), epsilon=epsilon, steps=steps, **same)
      attacked = attack(key, images, ids, labels, *its_rest)
      accuracy['transfer'] = share(attacked)
    by_steps = {}
    for count in curve:
      attack = pgd(
        nats, epsilon=epsilon, steps=count, step_size=epsilon / 4, **same
      )
      by_steps[count] = share(attack(key, images, ids, labels, *rest))
    found = {
      'accuracy': accuracy,
      'steps_curve': by_steps,
      'random_difference': _random_difference(logits_fn, images, rest),
      'batch_difference': _batch_difference(logits_fn, images, rest),
      'probabilities': probable,
      'zero_gradients': _zero_gradients(
        logits_fn, ball, key, images, ids, (labels, *rest), logits.shape[1]
      ),
    }
    warnings = _warnings(found)
    return {**found, 'warnings': warnings, 'text': '\n'.join(warnings)}

  return report


def _warnings(found: dict[str, Any]) -> list[str]:
  accuracy, curve = found['accuracy'], found['steps_curve']
  white = min(
    accuracy[n] for n in ('pgd', 'apgd_ce', 'apgd_dlr') if n in accuracy
  )
  *_, short, long = curve.values()
  checks = [
    (
      found['probabilities'],
      'the network returns probabilities: give the attacks the logits before '
      'the softmax',
    ),
    (
      found['random_difference'] > _TOLERANCE,
      f'the output is random (equal images differ by '
      f'{found["random_difference"]:.2g} of the largest logit): average the '
      'gradient over the randomness, or switch dropout off',
    ),
    (
      found['batch_difference'] > _TOLERANCE,
      f"an image's logits depend on the rest of the batch (by "
      f'{found["batch_difference"]:.2g} of the largest one): attack with '
      'running statistics',
    ),
    (
      found['zero_gradients'] > 0,
      f'{found["zero_gradients"]:.1%} of the images have a gradient of exactly '
      '0 at the start: look for rounding, saturation and integer casts',
    ),
    (
      accuracy['fgsm'] < accuracy['pgd'] - _GAIN,
      f'one step is stronger ({accuracy["fgsm"]:.1%}) than many '
      f'({accuracy["pgd"]:.1%})',
    ),
    (
      accuracy['square'] < white - _SQUARE_GAIN,
      f'Square, without gradients, is stronger ({accuracy["square"]:.1%}) than '
      f'all gradient attacks ({white:.1%})',
    ),
    (
      accuracy['pgd_scaled'] < accuracy['pgd'] - _GAIN,
      f'smaller logits make PGD stronger ({accuracy["pgd_scaled"]:.1%} instead '
      f'of {accuracy["pgd"]:.1%}): the cross-entropy is saturated',
    ),
    (
      accuracy['unbounded'] > 0,
      f'with a budget of 1 an attack must always succeed, but '
      f'{accuracy["unbounded"]:.1%} withstand it',
    ),
    (
      accuracy.get('transfer', 1.0) < white - _GAIN,
      f'images crafted on another network are stronger '
      f'({accuracy.get("transfer", 1.0):.1%}) than those of its own '
      f'({white:.1%})',
    ),
    (
      short - long > _FLAT,
      f'PGD has not converged: {list(curve)[-2]} steps leave {short:.1%}, '
      f'{list(curve)[-1]} steps {long:.1%}',
    ),
  ]
  return [text for warns, text in checks if warns]


def _random_difference(logits_fn, images, rest) -> float:
  """Outside of `jit`, which would draw a host's random numbers only once."""
  runs = [np.asarray(logits_fn(images, *rest)) for _ in range(_RUNS)]
  return max(_difference(runs[0], run) for run in runs[1:])


def _batch_difference(logits_fn, images, rest) -> float:
  whole = np.asarray(logits_fn(images, *rest))
  alone = np.asarray(logits_fn(images[:1], *rest))
  return _difference(whole[:1], alone)


def _difference(a, b) -> float:
  a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
  return float(abs(a - b).max() / max(abs(a).max(), 1e-12))


def _zero_gradients(logits_fn, ball, key, images, ids, args, classes) -> float:
  objective = (dlr if classes > 2 else margin)(logits_fn)
  start = images + ball.surface(key, ids, images.shape[1:])
  start = ball.project(images, ball.box(images), start)
  _, _, gradient = gradient_of(no_success(objective), start, args)
  return float((gradient == 0).all(range(1, images.ndim)).mean())
