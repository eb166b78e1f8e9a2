"""Graph networks on sampled layers, with historical embeddings.

A layer is a padded `jraph.GraphsTuple` whose first `outputs` nodes are the
destinations. Its edges have weights [e]: `weight` times what the layer below
gives for the sender, `history`, where there is one, times the sender's
historical value, which no gradient passes:

  z_i = sum_j weight_ij h_j + sum_j history_ij H_j

  gcn     relu(W z + b)                    T. Kipf, M. Welling, arXiv 1609.02907
  concat  relu([W h_i, V z_i] + b)         MVS-GNN, arXiv 2006.13866
  sage    relu(W h_i + V z_i + b)          W. Hamilton et al., arXiv 1706.02216
  gat     elu(sum_j a_ij W h_j + b), several heads side by side
          P. Veličković et al., arXiv 1710.10903

then dropout. gcn wants a symmetric operator with self loops, sage the mean of
the neighbours, gat ones: there the weight is how much an edge stands for, a_ij
the softmax over the edges of i of attention + log weight, and an edge is
either computed or historical. A linear head makes the logits.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import jraph

from jaxlab.models.dropout import dropout

KINDS = ('gcn', 'concat', 'sage', 'gat')
glorot = nn.initializers.glorot_uniform()


class SampledGNN(nn.Module):
  """The network; `layer` and `logits` are its parts.

  Parameters are float32, as are the sums over neighbours and the logits.

  Raises:
    ValueError: an unknown kind, or a width that the heads do not divide.
  """

  kind: str
  num_classes: int
  width: int = 256
  num_layers: int = 2
  dropout_rate: float = 0.1
  heads: int = 4  # of gat
  dtype: Any = jnp.float32  # of products with weights

  def __post_init__(self):
    if self.kind not in KINDS:
      raise ValueError(f'kind "{self.kind}" is not one of {", ".join(KINDS)}')
    if self.kind == 'gat' and self.width % self.heads:
      raise ValueError(
        f'width={self.width} does not divide by heads={self.heads}'
      )
    super().__post_init__()

  def setup(self):
    dense = lambda name: nn.Dense(
      self.width,
      use_bias=False,
      kernel_init=glorot,
      dtype=self.dtype,
      name=name,
    )
    levels = range(self.num_layers)
    self.gather = [dense(f'gather{i}') for i in levels]
    if self.kind in ('concat', 'sage'):
      self.self_dense = [dense(f'self{i}') for i in levels]
    if self.kind == 'gat':
      shape = (self.heads, self.width // self.heads)
      self.attend = [
        [self.param(f'{end}{i}', glorot, shape) for end in ('from', 'to')]
        for i in levels
      ]
    self.bias = [
      self.param(f'bias{i}', nn.initializers.zeros, (self.hidden,))
      for i in levels
    ]
    self.head = nn.Dense(self.num_classes, kernel_init=glorot, name='head')

  @property
  def hidden(self) -> int:
    """Width of what a layer gives."""
    return 2 * self.width if self.kind == 'concat' else self.width

  def __call__(
    self,
    layers: tuple[jraph.GraphsTuple, ...],
    features: jax.Array,
    outputs: tuple[int, ...],
    history: tuple[jax.Array, ...] = (),
    *,
    train: bool,
  ) -> tuple[jax.Array, list[jax.Array]]:
    """All layers and the head.

    Args:
      layers: input first.
      features: [s, f] float, of the sources of the first layer.
      outputs: destinations of each layer, padding included.
      history: [s_l, hidden] float of the sources of each layer but the first,
        where edges have such weights.
      train: dropout; pass `rngs={'dropout': key}`.

    Returns:
      [b, num_classes] float32 logits of the last destinations, and what each
      layer gives, [outputs, hidden] float32 before dropout.
    """
    x, values = features, []
    for level, graph in enumerate(layers):
      known = history[level - 1] if history and level else None
      x = self.layer(level, x, graph, outputs[level], known)
      values.append(x)
      x = self._drop(x, train)
    return self.logits(x), values

  def layer(
    self,
    level: int,
    x: jax.Array,
    graph: jraph.GraphsTuple,
    outputs: int,
    history: jax.Array | None = None,
  ) -> jax.Array:
    """One layer, without dropout.

    Args:
      x: [k, d] float, of the first k sources.
      outputs: destinations.
      history: [s, d] float, of all sources.

    Returns:
      [outputs, hidden] float32; any numbers where there is no node.
    """
    if self.kind == 'gat':
      z = self._attention(level, x, graph, outputs, history)
      return nn.elu(z + self.bias[level])
    z = self.gather[level](_sum(x, graph, outputs, history))
    if self.kind == 'sage':
      z = z + self.self_dense[level](x[:outputs])
    elif self.kind == 'concat':
      z = jnp.concatenate([self.self_dense[level](x[:outputs]), z], -1)
    return nn.relu(z.astype(jnp.float32) + self.bias[level])

  def logits(self, x: jax.Array) -> jax.Array:
    """[b, num_classes] float32 of [b, hidden]."""
    return self.head(x.astype(jnp.float32))

  def _attention(self, level, x, graph, outputs, history):
    weight = graph.edges['weight']
    h = self._heads(level, x)
    sent = _take(h, graph.senders)
    if history is not None:
      old = self._heads(level, jax.lax.stop_gradient(history))
      past = graph.edges['history']
      is_new = (weight > 0)[:, None, None]
      sent = jnp.where(is_new, sent, _take(old, graph.senders))
      weight = jnp.where(weight > 0, weight, past)
    start, end = self.attend[level]
    receivers = jnp.minimum(graph.receivers, outputs)  # the row of padding
    scores = (sent * start).sum(-1) + _take((h * end).sum(-1), receivers)
    prior = jnp.log(jnp.maximum(weight, jnp.finfo(jnp.float32).tiny))
    scores = nn.leaky_relu(scores, 0.2) + prior[:, None]
    share = jraph.segment_softmax(scores, receivers, outputs + 1)
    summed = jraph.segment_sum(share[..., None] * sent, receivers, outputs + 1)
    return summed[:outputs].reshape(outputs, -1)

  def _heads(self, level, x):
    h = self.gather[level](x).astype(jnp.float32)
    return h.reshape(len(x), self.heads, -1)

  def _drop(self, x, train):
    if not train or not self.dropout_rate:
      return x
    return dropout(self.make_rng('dropout'), x, self.dropout_rate)


def _sum(x, graph, outputs, history):
  """z, [outputs, d] float32."""
  weight = graph.edges['weight'][:, None]
  sent = weight * _take(x.astype(jnp.float32), graph.senders)
  if history is not None:
    known = jax.lax.stop_gradient(history).astype(jnp.float32)
    old = graph.edges['history'][:, None]
    sent = sent + old * known[graph.senders]
  return jraph.segment_sum(sent, graph.receivers, outputs)


def _take(x, rows):
  """Rows of x; zeros for a row that it has not."""
  return jnp.take(x, rows, axis=0, mode='fill', fill_value=0)
