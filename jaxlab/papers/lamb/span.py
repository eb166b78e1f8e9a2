"""Rows and spans: BERT's fine-tuning as pure functions.

Jacob Devlin, Ming-Wei Chang, Kenton Lee, Kristina Toutanova. "BERT:
Pre-training of Deep Bidirectional Transformers for Language Understanding".
NAACL 2019, arXiv 1810.04805.

  paper                                        here
  section 3, segments A and B                  layout
  section 4.1, log softmax(C W^T)              ops.losses.masked_cross_entropy
  section 4.2, log-likelihoods of the start    span_loss
    and the end of the answer
  section 4.2, the best span                   evals.squad.best_spans

The paper is LAMB's measure: SQuAD v1.1 after pre-training (You et al., ICLR
2020, section 4.1). The other tasks of Devlin et al. are not here: GLUE's
pairs, SQuAD v2.0, SWAG.
"""

import jax
import jax.numpy as jnp

from jaxlab.ops.losses import masked_cross_entropy

_NEVER = -1e9  # a logit whose probability is 0 in float32


def layout(
  first: jax.Array, length: jax.Array, positions: int
) -> tuple[jax.Array, jax.Array]:
  """Segments and attention of rows [CLS] A [SEP] B [SEP] [PAD] ….

  Args:
    first: [b] int32, where B begins; equal to `length` where there is no B.
    length: [b] int32, positions that are not [PAD].
    positions: s, of a row.

  Returns:
    segments: [b, s] int32, 1 at B and its [SEP].
    attention: [b, s] bool, True at all but [PAD].
  """
  place = jnp.arange(positions)
  attention = place < length[:, None]
  segments = (place >= first[:, None]) & attention
  return segments.astype(jnp.int32), attention


def span_loss(
  start: jax.Array,
  end: jax.Array,
  labels: tuple[jax.Array, jax.Array],
  candidates: jax.Array,
  mask: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """Nats of the answer's start and end, averaged over both, summed over rows.

  Departs from the paper: its script's softmax runs over all positions; here
  over the candidates, since no answer lies in the question or the padding. As
  there, a window without the answer is labelled [CLS], which is a candidate.

  Args:
    start, end: [b, s] float32 logits.
    labels: two [b] int32 positions, of candidates.
    candidates: [b, s] bool, the tokens of the text; [CLS] is added.
    mask: [b] bool, True = counts.

  Returns:
    (sum () float32, weight () float32): their ratio is the masked mean.

  Source: section 4.2.
  """
  candidates = candidates.at[:, 0].set(True)
  total, weight = jnp.zeros(()), jnp.zeros(())
  for logits, label in zip((start, end), labels):
    nats, weight = masked_cross_entropy(
      jnp.where(candidates, logits, _NEVER), label, mask
    )
    total = total + nats / 2
  return total, weight
