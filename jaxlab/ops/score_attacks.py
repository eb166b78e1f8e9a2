"""Objectives of attacks on detectors, for `jaxlab.ops.attacks` to maximise.

An ID image is attacked by making its score small, an OOD image by making it
large:

  down = pgd(minimise_score(detector), epsilon=8 / 255, steps=20)
  adversarial = down(key, images, ids, *detector.args)

These are adaptive: ODIN's and Mahalanobis' input steps are part of what is
differentiated, their sign taken as a constant (BPDA: A. Athalye, N. Carlini,
D. Wagner, arXiv:1802.00420), and what is pushed never saturates.

The last functions are the weaker attacks of ALOE's own evaluation (J. Chen,
Y. Li, X. Wu, Y. Liang, S. Jha, arXiv:2003.09711), for fidelity.
"""

import jax
import jax.numpy as jnp

from jaxlab.ops.attack_objectives import Objective
from jaxlab.ops.attack_steps import Attack
from jaxlab.ops.attacks import pgd
from jaxlab.ops.detection import (
  Detector,
  LogitsFn,
  Score,
  entropy,
  from_logits,
  uniform_cross_entropy,
)


def minimise_score(score: Score | Detector) -> Objective:
  """What an attack on ID images maximises: the score's negative.

  Args:
    score: (images, *args) -> [b]; of a `Detector` its surrogate.
  """
  of_images = _pushed(score)
  return lambda images, *args: -of_images(images, *args)


def maximise_score(score: Score | Detector) -> Objective:
  """What an attack on OOD images maximises: the score.

  Args:
    score: (images, *args) -> [b]; of a `Detector` its surrogate.
  """
  return _pushed(score)


def aloe_attack_objective(logits_fn: LogitsFn, inlier: bool) -> Objective:
  """ALOE's attack on MSP and on ODIN alike.

  ID images are driven towards the uniform distribution (the cross-entropy to
  it is made small), OOD images to low entropy. Not adaptive: it knows neither
  ODIN's temperature nor its step. To be run by `aloe_attack`.

  Args:
    logits_fn: (images, *args) -> logits [b, k].
    inlier: whether ID images are attacked.

  Source: aloe, `utils/confidence_pgd_attack`.
  """
  if inlier:
    return minimise_score(from_logits(logits_fn, uniform_cross_entropy))
  return from_logits(logits_fn, entropy)  # which is the negative one


def aloe_attack(objective: Objective, epsilon: float = 1 / 255) -> Attack:
  """The steps of ALOE's attacks: ten of 1/255, from the image itself.

  One run, of which the last image is returned, better or not. (The official
  code draws a random start and rounds it to 0.)

  Args:
    objective: of `aloe_attack_objective` or `aloe_mahalanobis_objective`.
  """
  return pgd(
    objective,
    epsilon=epsilon,
    steps=10,
    step_size=1 / 255,
    random_start=False,
    keep='last',
  )


def aloe_mahalanobis_objective(score: Score, inlier: bool) -> Objective:
  """ALOE's attack on Mahalanobis: the loss of PROBABILITIES taken as logits.

  With p = sigmoid(-score), the probability of OOD, in float32, it maximises
  the cross-entropy of the "logits" [1 - p, p] and the true class. Where p
  rounds to 1 or 0 its gradient is exactly zero, so that it leaves the most
  confident images as they are: figures under it are not robustness.

  Args:
    score: of `mahalanobis.ensemble`, the log-odds of ID.
    inlier: whether ID images are attacked.

  Source: aloe, `utils/mahalanobis_pgd_attack`.
  """

  def objective(images, *args):
    outlier = jax.nn.sigmoid(-score(images, *args))
    logits = jnp.stack([1 - outlier, outlier], -1)
    return -jax.nn.log_softmax(logits)[:, 0 if inlier else 1]

  return objective


def _pushed(score: Score | Detector) -> Score:
  return score.surrogate if isinstance(score, Detector) else score
