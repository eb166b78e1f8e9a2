"""Deep metric transfer: labels spread once over a frozen embedding.

Bin Liu, Zhirong Wu, Han Hu, Stephen Lin. Deep Metric Transfer for Label
Propagation with Limited Annotated Data. ICCV 2019 Workshops, arXiv 1812.08781.

A network is trained to embed images (without labels, or on another task); a
few labels are propagated over the graph of its embedding, offline; a
classifier, begun from that network, is trained on labels and pseudo-labels.

  supervised metric, neighbourhood components   snca_loss
  unsupervised metric, instance discrimination  instance_discrimination_loss
  its memory bank                               new_bank, bank_update
  a pretext task                                rotate
  the graph                                     graph.knn_graph, affinity
  constrained normalized cut                    labels.normalized_cut
  kNN, label spreading beside it                nearest_labelled, spreading
  confidence and selection                      confidences, selected
  training on pseudo-labels                     weighted_cross_entropy
  all of the propagation                        propagate

With v an embedding of length 1 and M the bank: s_j = v · M_j.

Equation numbers are left out: the formulas are those of the authors' public
code; their paper was not at hand.

Departs from the paper:
- The bank begins with rows of length 1; the public code leaves them shorter.
- Copies of an index in a batch move its row by their mean; there, the last one
  wins.
- A class with one member has no neighbour to find: its row does not count,
  where the public code keeps it in the divisor.
- Noise of NCE is one set of rows for a batch, not one for each image.
- See also `graph.knn_graph` and `labels.normalized_cut`.

Not here: colourisation as a pretext task.
"""

import jax
import jax.numpy as jnp

from jaxlab.papers.metric_transfer.graph import Graph, affinity, knn_graph
from jaxlab.papers.metric_transfer.labels import Propagated, propagate
from jaxlab.papers.metric_transfer.selection import balanced_split, selected

__all__ = [
  'Graph',
  'Propagated',
  'affinity',
  'balanced_split',
  'bank_update',
  'instance_discrimination_loss',
  'knn_graph',
  'neighbour_votes',
  'new_bank',
  'noise_normaliser',
  'propagate',
  'rotate',
  'selected',
  'snca_loss',
  'unit',
  'weighted_cross_entropy',
]


def unit(x: jax.Array) -> jax.Array:
  """[…, d] -> rows of length 1, float32; a row of zeros stays."""
  x = x.astype(jnp.float32)
  square = jnp.sum(x * x, -1, keepdims=True)
  return x * jax.lax.rsqrt(jnp.maximum(square, 1e-24))


def new_bank(key: jax.Array, count: int, dimension: int) -> jax.Array:
  """[count, dimension] float32, directions drawn uniformly."""
  return unit(jax.random.normal(key, (count, dimension)))


def bank_update(
  bank: jax.Array,
  index: jax.Array,
  features: jax.Array,
  momentum: float = 0.5,
  mask: jax.Array | None = None,
) -> jax.Array:
  """The bank with rows of a batch moved: M_i <- unit(μ M_i + (1 - μ) v).

  An index that is there several times moves once, by the mean of its v.

  Args:
    bank: [n, d] float32, rows of length 1.
    index: [b] int in [0, n).
    features: [b, d], rows of length 1; no gradient flows into the bank.
    momentum: μ in [0, 1).
    mask: [b] bool, True = counts.
  """
  bank = jnp.asarray(bank)
  v = jax.lax.stop_gradient(features.astype(jnp.float32))
  keep = jnp.ones(index.shape, bool) if mask is None else mask
  same = (index[:, None] == index) & keep
  v = jnp.where(keep[:, None], v, 0)
  mean = jnp.matmul(same.astype(jnp.float32), v, precision='highest')
  mean = mean / jnp.maximum(same.sum(1), 1)[:, None]
  moved = unit(momentum * bank[index] + (1 - momentum) * mean)
  # Copies write the same row; padding writes beyond the end, so nowhere.
  return bank.at[jnp.where(keep, index, len(bank))].set(moved, mode='drop')


def snca_loss(
  features: jax.Array,
  index: jax.Array,
  labels: jax.Array,
  bank: jax.Array,
  bank_labels: jax.Array,
  sigma: float = 0.05,
  margin: float = 0.0,
  mask: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Neighbourhood components: -log of the share of own neighbours.

  p = Σ_{j ≠ i, y_j = y_i} e^{s_j / σ} / Σ_{j ≠ i} e^{s_j / σ}, each own term
  times e^{-m / σ} in both sums under a margin m.

  Args:
    features: [b, d], rows of length 1.
    index: [b] int, each image's own row of the bank, left out of both sums.
    labels: [b] int.
    bank: [n, d] before this batch's update; bank_labels: [n] int, -1 where
      not known. Rows may lie on several devices.
    sigma: > 0.
    mask: [b] bool, True = counts.

  Returns:
    (sum (), weight ()) float32 in nats over the images that have an own
    neighbour in the bank; the others count nothing.

  Source: Wu, Efros, Yu, Improving generalization via scalable neighborhood
  component analysis, eq. 2 to 4; its code for the margin.
  """
  logits = _similarities(features, bank) / sigma
  other = jnp.arange(len(bank)) != index[:, None]
  same = other & (bank_labels == labels[:, None])
  counts = same.any(1) if mask is None else same.any(1) & mask
  logits = jnp.where(counts[:, None], logits, 0) - margin / sigma * same
  all_others = jax.nn.logsumexp(logits, 1, where=other)
  # Where nothing is own, the other branch keeps the gradient finite.
  own = jax.nn.logsumexp(logits, 1, where=same | ~counts[:, None])
  nats = jnp.where(counts, all_others - own, 0)
  return nats.sum(), counts.sum().astype(jnp.float32)


def instance_discrimination_loss(
  features: jax.Array,
  index: jax.Array,
  bank: jax.Array,
  temperature: float = 0.1,
  noise: jax.Array | None = None,
  log_normaliser: jax.Array | None = None,
  mask: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Each image is a class of its own.

  Over the whole bank, -log(e^{s_i / τ} / Σ_j e^{s_j / τ}). With noise rows,
  noise-contrastive: with P = e^{s / τ} / Z and K rows drawn uniformly,
  -log(P_i / (P_i + K / n)) - Σ_k log((K / n) / (P_k + K / n)).

  Args:
    features, index, bank, mask: as of `snca_loss`.
    temperature: τ > 0.
    noise: [K] int rows of the bank, one set for the batch; None: the softmax.
    log_normaliser: () log Z, of `noise_normaliser`; needed with noise.

  Returns:
    (sum (), weight ()) float32, nats.

  Source: Wu, Xiong, Yu, Lin, Unsupervised feature learning via non-parametric
  instance discrimination, eq. 2, and 4 to 8 for the noise.
  """
  v = features.astype(jnp.float32)
  keep = jnp.ones(index.shape, bool) if mask is None else mask
  v = jnp.where(keep[:, None], v, 0)
  own = jnp.sum(v * bank[index], 1) / temperature
  if noise is None:
    nats = jax.nn.logsumexp(_similarities(v, bank) / temperature, 1) - own
  else:
    if log_normaliser is None:
      raise ValueError('noise needs log_normaliser: see noise_normaliser')
    even = jnp.log(len(noise) / len(bank))
    drawn = _similarities(v, bank[noise]) / temperature
    nats = -jax.nn.log_sigmoid(own - log_normaliser - even)
    nats -= jax.nn.log_sigmoid(even - (drawn - log_normaliser)).sum(1)
  return jnp.where(keep, nats, 0).sum(), keep.sum().astype(jnp.float32)


def noise_normaliser(
  features: jax.Array,
  bank: jax.Array,
  noise: jax.Array,
  temperature: float = 0.1,
  mask: jax.Array | None = None,
) -> jax.Array:
  """() log Z, Z = n mean(e^{s / τ}) over a batch and its noise rows.

  The public code fixes it at the first batch. No gradient flows through it.
  """
  logits = _similarities(features, bank[noise]) / temperature
  keep = jnp.ones(len(features), bool) if mask is None else mask
  where = jnp.broadcast_to(keep[:, None], logits.shape)
  total = jax.nn.logsumexp(jnp.where(where, logits, 0), where=where)
  found = total - jnp.log(jnp.maximum(where.sum(), 1)) + jnp.log(len(bank))
  return jax.lax.stop_gradient(found)


def _similarities(features: jax.Array, bank: jax.Array) -> jax.Array:
  return jnp.matmul(features, bank.T, preferred_element_type=jnp.float32)


def neighbour_votes(
  features: jax.Array,
  bank: jax.Array,
  bank_labels: jax.Array,
  num_classes: int,
  temperature: float = 0.1,
  index: jax.Array | None = None,
) -> jax.Array:
  """[b, c], log of Σ e^{s_j / τ} over each class: the metric's own classifier.

  Args:
    bank_labels: [n] int; rows of -1 have no vote.
    index: [b] int, an own row of the bank that has no vote; None: all have.

  Returns:
    [b, c] float32; -1e4 for a class without rows.
  """
  logits = _similarities(features, bank) / temperature
  if index is not None:
    own = jnp.arange(len(bank)) == index[:, None]
    logits = jnp.where(own, -jnp.inf, logits)
  top = logits.max(1, keepdims=True)
  classes = jax.nn.one_hot(bank_labels, num_classes)
  votes = jnp.matmul(jnp.exp(logits - top), classes, precision='highest')
  return jnp.maximum(jnp.log(votes) + top, -1e4)


def rotate(images: jax.Array, turns: jax.Array) -> jax.Array:
  """Square images [b, h, h, c] turned by [b] quarters, against the clock."""
  every = [jnp.rot90(images, quarter, (1, 2)) for quarter in range(4)]
  return jnp.stack(every)[turns % 4, jnp.arange(len(images))]


def weighted_cross_entropy(
  logits: jax.Array,
  targets: jax.Array,
  weights: jax.Array,
  mask: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """(Σ w CE, Σ w): labelled rows weigh 1, pseudo-labels their confidence.

  Args:
    logits: [b, c] floating; targets: [b, c] shares, one-hot or soft.
    weights: [b] >= 0; mask: [b] bool, True = counts.
  """
  safe = jnp.where(mask[:, None], logits.astype(jnp.float32), 0.0)
  nats = -(targets * jax.nn.log_softmax(safe)).sum(-1)
  weights = jnp.where(mask, weights, 0.0)
  return (weights * jnp.where(mask, nats, 0.0)).sum(), weights.sum()
