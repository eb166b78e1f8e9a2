"""Scores that tell in-distribution (ID) from out-of-distribution (OOD) inputs.

Higher = more in-distribution, one float32 number an example. The first half
works on logits [b, k]; `detectors` makes of them functions of images, which
attacks can push (jaxlab/ops/score_attacks.py). Figures of scores are in
jaxlab/ops/detection_metrics.py, the Mahalanobis detector in
jaxlab/ops/mahalanobis.py.

  msp         Hendrycks and Gimpel, arXiv:1610.02136, in log space
  max_logit   Hendrycks et al., arXiv:1911.11132
  energy      Liu et al., arXiv:2010.03759, eq. 4, negated
  entropy     negated
  oe_score    Hendrycks, Mazeika and Dietterich, arXiv:1812.04606
  odin        Liang, Li and Srikant, arXiv:1706.02690, eq. 1 and 2
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxlab.ops.detection_metrics import (
  aloe_figures,
  aupr_in,
  aupr_out,
  auroc,
  auroc_interval,
  detection_error,
  fpr_at_95tpr_id_positive,
  fpr_at_95tpr_ood_positive,
)

__all__ = [
  'Detector',
  'LogitsFn',
  'Score',
  'aloe_figures',
  'aupr_in',
  'aupr_out',
  'auroc',
  'auroc_interval',
  'certainty',
  'detection_error',
  'detectors',
  'energy',
  'entropy',
  'fpr_at_95tpr_id_positive',
  'fpr_at_95tpr_ood_positive',
  'from_logits',
  'log_odds',
  'max_logit',
  'msp',
  'odin',
  'oe_score',
  'perturbed',
  'uniform_cross_entropy',
]

LogitsFn = Callable[..., jax.Array]  # (images, *args) -> logits [b, k]
Score = Callable[..., jax.Array]  # (images, *args) -> [b] float32


class Detector(NamedTuple):
  """A score of images, and what an attack on it pushes.

  `surrogate` rises and falls with `score`, but has a gradient where `score` is
  flat in float32; it may be `score` itself. `args` go to both after the images:
  networks and fitted statistics, so that they are arguments of a compiled
  program and not constants in it.
  """

  score: Score
  surrogate: Score
  args: tuple = ()


def log_odds(logits: jax.Array) -> jax.Array:
  """log(p / (1 - p)) of the largest softmax probability p.

  As the largest logit less the logsumexp of the others: never flat, however
  confident.

  Args:
    logits: [b, k >= 2] floating; computed in float32.

  Returns:
    [b] float32, at least -log(k - 1).
  """
  behind, rest = _split(logits)
  return -jax.nn.logsumexp(-behind, -1, where=rest)


def msp(logits: jax.Array) -> jax.Array:
  """The LOG of the largest softmax probability, [b] float32 in [-log k, 0].

  The order is that of the probability itself, which in float32 is exactly 1
  for every example whose largest logit leads by 17.
  """
  return jax.nn.log_sigmoid(log_odds(logits))


def max_logit(logits: jax.Array) -> jax.Array:
  """The largest logit, [b] float32."""
  logits = _checked(logits)
  # XLA's maximum of many numbers on a CPU passes over NaN.
  return jnp.where(jnp.isnan(logits).any(-1), jnp.nan, logits.max(-1))


def energy(logits: jax.Array, temperature: float = 1.0) -> jax.Array:
  """T logsumexp(z / T), the negative free energy, [b] float32."""
  _check_temperature(temperature)
  return temperature * jax.nn.logsumexp(_checked(logits) / temperature, -1)


def entropy(logits: jax.Array) -> jax.Array:
  """The NEGATIVE entropy of the softmax in nats, [b] float32, [-log k, 0].

  Summed from positive terms, so that confident examples keep their order.
  """
  behind, rest = _split(logits)
  weight = jnp.where(rest, jnp.exp(-behind), 0.0)
  total = weight.sum(-1)
  return -(jnp.log1p(total) + (weight * behind).sum(-1) / (1 + total))


def certainty(logits: jax.Array) -> jax.Array:
  """-log(entropy in nats): rises with `entropy` and is never flat, [b]."""
  behind, rest = _split(logits)
  # To first order in the others' share, which is all where that is < 1e-6.
  tail = -jax.nn.logsumexp(jnp.log1p(behind) - behind, -1, where=rest)
  confident = tail > 15
  # Both branches of a `where` are differentiated: the other one gets logits
  # that suit it.
  calm = jnp.where(confident[:, None], 0.0, _checked(logits))
  return jnp.where(confident, tail, -jnp.log(-entropy(calm)))


def uniform_cross_entropy(logits: jax.Array) -> jax.Array:
  """Cross-entropy of the uniform target, logsumexp(z) - mean(z), [b] float32.

  The loss of Outlier Exposure on an outlier; log k at least, where all logits
  are equal. Its gradient is softmax(z) - 1/k.

  Source: ALOE, arXiv:2003.09711, L_CE(F, U_K).
  """
  logits = _checked(logits)
  return jax.nn.logsumexp(logits, -1) - logits.mean(-1)


def oe_score(logits: jax.Array) -> jax.Array:
  """`uniform_cross_entropy` as a score: ID examples are far from uniform."""
  return uniform_cross_entropy(logits)


def from_logits(logits_fn: LogitsFn, score: Callable, **keywords) -> Score:
  """The function of images `score(logits_fn(images, *args), **keywords)`."""

  def of_images(images, *args):
    return score(logits_fn(images, *args), **keywords)

  return of_images


def perturbed(score: Score, eta: float, images: jax.Array, *args) -> jax.Array:
  """images - eta sgn(-d score / d images), not clipped to [0, 1].

  sgn is 1 where the derivative is zero. For a gradient taken from outside, the
  sign is a constant (BPDA): d result / d images = 1.

  Args:
    images: [b, ...] float32.
    eta: in units of the images, as 0.0014; 0 returns the images.

  Raises:
    ValueError: eta not in [0, 1].
  """
  if not 0 <= eta <= 1:
    raise ValueError(
      f'eta={eta} must be in [0, 1], in units of images in [0, 1]: .0014, say'
    )
  if not eta:
    return images
  fixed = jax.lax.stop_gradient(images)
  slope = jax.grad(lambda x: -score(x, *args).sum())(fixed)
  return images - eta * jnp.where(slope >= 0, 1.0, -1.0)


def odin(
  logits_fn: LogitsFn,
  temperature: float = 1000.0,
  eta: float = 0.0014,
  score: Callable = msp,
) -> Score:
  """ODIN: `msp` of logits / T of images moved by eta towards confidence.

  With eta = 0 and T = 1 it is `msp`.

  Args:
    temperature: T > 0.
    eta: the step, in units of images in [0, 1]; the images may leave [0, 1].
    score: what is taken of logits / T; `log_odds` for attacks.

  Returns:
    score(images, *args) -> [b] float32, in log space as `msp`.

  Source: eq. 2 for the step, eq. 1 for the score. The step divides by no
  channel's deviation: images come in [0, 1] and the model normalises.
  """
  _check_temperature(temperature)

  def scaled(of: Callable) -> Score:
    def of_images(images, *args):
      return of(_checked(logits_fn(images, *args)) / temperature)

    return of_images

  def of_images(images, *args):
    # The derivative of the log-odds has the sign of that of the probability.
    moved = perturbed(scaled(log_odds), eta, images, *args)
    return scaled(score)(moved, *args)

  return of_images


def detectors(
  logits_fn: LogitsFn,
  *args,
  temperature: float = 1000.0,
  eta: float = 0.0014,
  energy_temperature: float = 1.0,
) -> dict[str, Detector]:
  """All detectors that need logits alone, by name.

  Args:
    logits_fn: (images, *args) -> logits [b, k].
    args: what `logits_fn` takes after the images.
    temperature, eta: of ODIN.
  """

  def plain(score, surrogate=None, **keywords):
    return Detector(
      from_logits(logits_fn, score, **keywords),
      from_logits(logits_fn, surrogate or score, **keywords),
      args,
    )

  return {
    'msp': plain(msp, log_odds),
    'odin': Detector(
      odin(logits_fn, temperature, eta),
      odin(logits_fn, temperature, eta, log_odds),
      args,
    ),
    'energy': plain(energy, temperature=energy_temperature),
    'max_logit': plain(max_logit),
    'entropy': plain(entropy, certainty),
    'oe_score': plain(oe_score),
  }


def _split(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
  """How far each logit is behind the largest, and which are not that one.

  Returns:
    ([b, k] float32, at least 0; [b, k] bool).
  """
  logits = _checked(logits)
  best = logits.argmax(-1)[:, None]
  behind = jnp.take_along_axis(logits, best, -1) - logits
  return behind, jnp.arange(logits.shape[-1]) != best


def _checked(logits: jax.Array) -> jax.Array:
  if logits.ndim != 2 or logits.shape[1] < 2:
    raise ValueError(
      f'logits are {logits.shape}; a detector needs [batch, classes] with two '
      'classes or more'
    )
  if not jnp.issubdtype(logits.dtype, jnp.floating):
    raise ValueError(f'logits are {logits.dtype}; give floating numbers')
  return logits.astype(jnp.float32)


def _check_temperature(temperature: float) -> None:
  if not 0 < temperature < float('inf'):
    raise ValueError(f'temperature={temperature} must be positive')
