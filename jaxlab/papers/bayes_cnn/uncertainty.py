"""What is uncertain about a prediction: noise of the data, or the weights.

Kwon et al. 2020, as in Shridhar et al. 2019, section 4   variance_split
Depeweg et al. 2018, arXiv:1710.07283, eq. 3              entropy_split
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxlab.core.errors import InputError


def variance_split(probabilities: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Covariance of a one-hot label in two parts, (aleatoric, epistemic).

  aleatoric = mean_t [diag(p_t) - p_t p_tᵀ]
  epistemic = mean_t [(p_t - p̄)(p_t - p̄)ᵀ],  p̄ = mean_t p_t

  Their sum is diag(p̄) - p̄ p̄ᵀ, whose trace is 1 - ‖p̄‖².

  Args:
    probabilities: [T, n, k] of T draws of the weights, in [0, 1], summing to 1.

  Returns:
    [n, k, k] each.

  Raises:
    InputError: no draws, or another rank.
  """
  p = checked(probabilities)
  centred = p - p.mean(0)
  outer = lambda x: jnp.einsum('tni,tnj->nij', x, x) / len(x)
  diagonal = p.mean(0)[..., None] * jnp.eye(p.shape[-1], dtype=p.dtype)
  return diagonal - outer(p), outer(centred)


def entropy_split(probabilities: jax.Array) -> tuple[jax.Array, jax.Array]:
  """H(p̄) in two parts: (mean_t H(p_t), mutual information), in nats.

  The second is that of label and weights, >= 0.

  Args, Raises: as of `variance_split`.

  Returns:
    [n] each.
  """
  p = checked(probabilities)
  expected = entropy(p).mean(0)
  return expected, jnp.maximum(entropy(p.mean(0)) - expected, 0.0)


def entropy(probabilities: jax.Array) -> jax.Array:
  """-Σ p log p in nats, with 0 log 0 = 0: [..., k] -> [...]."""
  return jax.scipy.special.entr(probabilities).sum(-1)


def softplus_probabilities(logits: jax.Array) -> jax.Array:
  """softplus(f) / Σ softplus(f), the official code's `normalized=True`."""
  positive = jax.nn.softplus(logits)
  return positive / positive.sum(-1, keepdims=True)


def checked(probabilities: jax.Array) -> jax.Array:
  """Raises InputError unless these are [T, n, k] of a draw or more."""
  p = jnp.asarray(probabilities)
  if p.ndim != 3 or not len(p):
    raise InputError(
      f'probabilities are {p.shape}; give [T, n, k] of T >= 1 draws of the '
      'weights'
    )
  return p


def accuracy_rejection(uncertainty, right) -> np.ndarray:
  """Accuracy of the examples kept as the most uncertain are rejected.

  Args:
    uncertainty: [n], higher = rejected earlier; equal ones in their order.
    right: [n] bool.

  Returns:
    [n] float64: with 0, 1, … n - 1 rejected.
  """
  order = np.argsort(np.asarray(uncertainty), kind='stable')
  kept = np.cumsum(np.asarray(right, np.float64)[order])
  return (kept / np.arange(1, len(kept) + 1))[::-1]
