"""What stands on BERT's encoder in fine-tuning.

Source: Devlin et al., NAACL 2019 (the citation is in bert.py), section 4. The
encoder is `Bert(heads=False)`, applied with method='encode': its parameters
are those of a pre-training checkpoint without the pre-training heads, see
`encoder_params`.

  class logits = W dropout(pooled) + b
  start, end logits of position i = W x_i + b
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlab.models import bert
from jaxlab.models.dropout import dropout

PRETRAINING = ('mlm_dense', 'mlm_layer_norm', 'mlm_bias', 'nsp')


class ClassificationHead(nn.Module):
  """Class logits from the pooled first token."""

  num_classes: int
  dropout_rate: float = 0.1
  initializer_range: float = 0.02
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, sequence: jax.Array, pooled: jax.Array, *, deterministic: bool
  ) -> jax.Array:
    """Logits of one sequence each.

    Args:
      sequence: not used.
      pooled: [b, h], as `Bert.encode` returns it.
      deterministic: no dropout. Otherwise pass `rngs={'dropout': key}`.

    Returns:
      [b, num_classes] float32.
    """
    del sequence
    if not deterministic and self.dropout_rate:
      pooled = dropout(self.make_rng('dropout'), pooled, self.dropout_rate)
    init = nn.initializers.truncated_normal(self.initializer_range)
    dense = nn.Dense(self.num_classes, dtype=self.dtype, kernel_init=init)
    return dense(pooled).astype(jnp.float32)


class SpanHead(nn.Module):
  """Logits of the first and the last token of an answer."""

  initializer_range: float = 0.02
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, sequence: jax.Array, pooled: jax.Array, *, deterministic: bool = True
  ) -> tuple[jax.Array, jax.Array]:
    """Logits of each position.

    Args:
      sequence: [b, s, h], as `Bert.encode` returns it.
      pooled, deterministic: not used; all heads are called alike.

    Returns:
      (start [b, s] float32, end [b, s] float32), of all positions, also those
      that hold no context.
    """
    del pooled, deterministic
    init = nn.initializers.truncated_normal(self.initializer_range)
    logits = nn.Dense(2, dtype=self.dtype, kernel_init=init)(sequence)
    logits = logits.astype(jnp.float32)
    return logits[..., 0], logits[..., 1]


def new_pooler(
  key: jax.Array, width: int, initializer_range: float
) -> dict[str, jax.Array]:
  """Parameters for an encoder that was saved without its pooler.

  Args:
    key: () typed key.
    width: hidden_size.
  """
  init = nn.initializers.truncated_normal(initializer_range)
  kernel = init(key, (width, width), jnp.float32)
  return {'kernel': kernel, 'bias': jnp.zeros(width)}


def encoder_params(
  params: Mapping[str, Any], scan_layers: bool
) -> dict[str, Any]:
  """Parameters of `Bert` -> those of the encoder, its layers as asked for.

  Args:
    params: of a Bert with or without heads, scanned or not.
    scan_layers: of the model that takes them.
  """
  found = {k: v for k, v in params.items() if k not in PRETRAINING}
  if scan_layers and 'layers' not in found:
    return bert.stack_layers(found)
  if not scan_layers and 'layers' in found:
    return bert.unstack_layers(found)
  return found
