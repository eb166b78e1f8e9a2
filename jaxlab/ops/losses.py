"""Losses on plain arrays: sums over rows and their weights, never means."""

import jax
import jax.numpy as jnp
import optax


def masked_cross_entropy(
  logits: jax.Array,
  labels: jax.Array,
  mask: jax.Array,
  label_smoothing: float = 0.0,
) -> tuple[jax.Array, jax.Array]:
  """Softmax cross-entropy in nats, summed where the mask is True.

  Args:
    logits: [..., k] floating; computed in float32.
    labels: [...] integer in [0, k); anything where the mask is False.
    mask: [...] bool, True = counts.
    label_smoothing: share of the target that goes to all k classes alike.

  Returns:
    (sum () float32, weight () float32): their ratio is the masked mean.
  """
  # Masked rows may hold any logits, NaN too: the double `where` keeps those
  # out of the gradient.
  safe = jnp.where(mask[..., None], logits.astype(jnp.float32), 0.0)
  labels = jnp.where(mask, labels, 0)
  nats = optax.losses.softmax_cross_entropy_with_integer_labels(safe, labels)
  if label_smoothing:
    mean = jax.nn.logsumexp(safe, -1) - safe.mean(-1)
    nats = (1 - label_smoothing) * nats + label_smoothing * mean
  nats = jnp.where(mask, nats, 0.0)
  return nats.sum(), mask.sum().astype(jnp.float32)
