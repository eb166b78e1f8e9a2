"""Micro-F1 and loss of all nodes of a split, by exact inference."""

import jax
import jax.numpy as jnp

from jaxlab.papers.mvs_gnn.training import node_losses


def judge(logits: jax.Array, labels: jax.Array, mask: jax.Array) -> dict:
  """Counts of a chunk.

  A class is predicted where it is the largest, or with several labels a node
  where its logit is above 0.

  Args:
    logits: [b, k] float32.
    labels: [b] int32, or [b, k] of 0 and 1.
    mask: [b] bool.

  Returns:
    Sums: `hit`, `predicted`, `true` labels, `nats`, `nodes`.
  """
  labels = jnp.maximum(labels, 0)
  if labels.ndim == 1:
    predicted = jax.nn.one_hot(logits.argmax(-1), logits.shape[-1])
    true = jax.nn.one_hot(labels, logits.shape[-1])
  else:
    predicted = (logits > 0).astype(jnp.float32)
    true = labels.astype(jnp.float32)
  rows = mask[:, None]
  count = lambda x: jnp.where(rows, x, 0).sum()
  return {
    'hit': count(predicted * true),
    'predicted': count(predicted),
    'true': count(true),
    'nats': jnp.where(mask, node_losses(logits, labels), 0).sum(),
    'nodes': mask.sum().astype(jnp.float32),
  }


def figures(sums: dict) -> dict[str, float]:
  """`f1`, micro-averaged (with one label a node the accuracy), and `nats`."""
  total = float(sums['predicted'] + sums['true'])
  return {
    'f1': 2 * float(sums['hit']) / total if total else 0.0,
    'nats': float(sums['nats'] / max(sums['nodes'], 1)),
  }
