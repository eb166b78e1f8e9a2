"""Graph classification with self-attention graph pooling (SAGPool).

J. Lee, I. Lee, J. Kang. Self-Attention Graph Pooling. ICML 2019, arXiv
1904.08082. The hierarchical network, on the convolution of T. Kipf, M. Welling,
ICLR 2017, arXiv 1609.02907:

  3 x [GraphConv width -> ReLU -> SAGPool -> maximum ‖ mean], their sum
  dense width -> ReLU -> dropout -> dense width / 2 -> ReLU -> head classes

Graphs are `jraph.GraphsTuple`s with
  nodes: `feature` [n, f] floating; `mask` [n] bool, True = a node
  edges: `mask` [e] bool, True = an edge; both of its ends are nodes
so that what is padded by `jraph.pad_with_graphs`, by rows of one length or by
pooling is the same: False. `n_node` counts padding too and sums to n. Padding
may hold any numbers. A graph without nodes reads out zeros.

`logits_of_rows` takes a batch in rows, each with graphs of its own: it maps the
convolutions over the rows, so that every gather and sum stays within one and
devices that share the rows exchange nothing but gradients.
"""

from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import jraph

from jaxlab.models.dropout import dropout


def graph_of(
  node: jax.Array, edge: jax.Array, num_nodes: jax.Array, num_edges: jax.Array
) -> jraph.GraphsTuple:
  """One padded row as a tuple of g graphs.

  Args:
    node: [n, f] floating, features of the nodes, then padding.
    edge: [e, 2] int32 in [0, n), from and to, then padding.
    num_nodes, num_edges: [g] int32, of each graph; padding is put to the last.
  """
  nodes, real_nodes = len(node), num_nodes.sum()
  edges, real_edges = len(edge), num_edges.sum()
  return jraph.GraphsTuple(
    nodes={'feature': node, 'mask': jnp.arange(nodes) < real_nodes},
    edges={'mask': jnp.arange(edges) < real_edges},
    senders=edge[:, 0],
    receivers=edge[:, 1],
    globals=None,
    n_node=num_nodes.at[-1].add(nodes - real_nodes),
    n_edge=num_edges.at[-1].add(edges - real_edges),
  )


class GraphConv(nn.Module):
  """D^-1/2 (A + I) D^-1/2 X W + b, D the row sums of A + I.

  A has an edge as often as it is there, without self loops: I is the only one
  of a node. Where edges are directed, D counts those that arrive.
  """

  features: int

  @nn.compact
  def __call__(self, graph: jraph.GraphsTuple) -> jraph.GraphsTuple:
    """New features [n, features], zero where there is no node."""
    x, mask = graph.nodes['feature'], graph.nodes['mask'][:, None]
    x = jnp.where(mask, x, 0.0)
    x = nn.Dense(
      self.features,
      use_bias=False,
      kernel_init=nn.initializers.glorot_uniform(),
      name='dense',
    )(x)
    bias = self.param('bias', nn.initializers.zeros, (self.features,))
    start, end = graph.senders, graph.receivers
    one = (graph.edges['mask'] & (start != end)).astype(x.dtype)
    scale = jax.lax.rsqrt(1 + jax.ops.segment_sum(one, end, len(x)))
    messages = x[start] * (one * scale[start] * scale[end])[:, None]
    x = x * scale[:, None] ** 2 + jax.ops.segment_sum(messages, end, len(x))
    x = jnp.where(mask, x + bias, 0.0)
    return graph._replace(nodes={**graph.nodes, 'feature': x})


class SAGPool(nn.Module):
  """Keeps the ceil(ratio n) nodes of the highest scores in each graph.

  Scores are a convolution to one number; the features that stay are multiplied
  by their tanh. Shapes stay: masks say what is left. Of equal scores the
  earlier node's is taken for the higher, so that graphs with like nodes
  depend on the order of their nodes.
  """

  ratio: float = 0.5  # in (0, 1]

  @nn.compact
  def __call__(self, graph: jraph.GraphsTuple) -> jraph.GraphsTuple:
    """The graph with fewer nodes, and the edges between them.

    Raises:
      ValueError: ratio is not in (0, 1].
    """
    check_ratio(self.ratio)
    score = GraphConv(1, name='score')(graph).nodes['feature'][:, 0]
    kept = top_nodes(graph, score, self.ratio)
    x = graph.nodes['feature'] * jnp.tanh(score)[:, None]
    left = kept[graph.senders] & kept[graph.receivers]
    return graph._replace(
      nodes={'feature': jnp.where(kept[:, None], x, 0.0), 'mask': kept},
      edges={**graph.edges, 'mask': graph.edges['mask'] & left},
    )


def check_ratio(ratio: float) -> None:
  """Raises ValueError where a ratio of nodes to keep is not in (0, 1]."""
  if not 0 < ratio <= 1:
    raise ValueError(f'ratio={ratio} of nodes to keep must be in (0, 1]')


def top_nodes(
  graph: jraph.GraphsTuple, score: jax.Array, ratio: float
) -> jax.Array:
  """[n] bool, the ceil(ratio n) nodes of the highest score in each graph.

  Args:
    score: [n] floating.
    ratio: in (0, 1]; taken as the nearest fraction with a denominator up to
      1,000, so that .7 of 10 nodes are 7; at least one node stays.
  """
  mask, of = graph.nodes['mask'], _graph_of_nodes(graph)
  # Nodes by graph and falling score, padding behind.
  order = jnp.lexsort((jnp.where(mask, -score, jnp.inf), of))
  place = jnp.zeros_like(order).at[order].set(jnp.arange(len(order)))
  first = jnp.cumsum(graph.n_node) - graph.n_node
  alive = _sum_nodes(graph, mask.astype(jnp.int32))
  share = Fraction(ratio).limit_denominator(1000)
  wanted = -(-alive * share.numerator // share.denominator)
  wanted = jnp.maximum(wanted, 1)
  return mask & (place - first[of] < wanted[of])


def readout(graph: jraph.GraphsTuple) -> jax.Array:
  """[g, 2 f], the maximum and the mean over the nodes of each graph."""
  x, mask = graph.nodes['feature'], graph.nodes['mask']
  of, count = _graph_of_nodes(graph), len(graph.n_node)
  alive = _sum_nodes(graph, mask.astype(x.dtype))[:, None]
  total = _sum_nodes(graph, jnp.where(mask[:, None], x, 0.0))
  highest = jax.ops.segment_max(
    jnp.where(mask[:, None], x, -jnp.inf), of, count, indices_are_sorted=True
  )
  highest = jnp.where(alive > 0, highest, 0.0)
  return jnp.concatenate([highest, total / jnp.maximum(alive, 1)], -1)


def _graph_of_nodes(graph: jraph.GraphsTuple) -> jax.Array:
  """[n] int32, the graph of each node."""
  count, nodes = len(graph.n_node), len(graph.nodes['mask'])
  return jnp.repeat(jnp.arange(count), graph.n_node, total_repeat_length=nodes)


def _sum_nodes(graph: jraph.GraphsTuple, values: jax.Array) -> jax.Array:
  """[g, …], the sum over the nodes of each graph."""
  return jax.ops.segment_sum(
    values, _graph_of_nodes(graph), len(graph.n_node), indices_are_sorted=True
  )


class SAGPoolNet(nn.Module):
  """The hierarchical network; parameters are float32.

  Graph convolutions start with Glorot's uniform, dense layers with LeCun's
  normal, biases at 0.

  Raises:
    ValueError: ratio is not in (0, 1], or a size is below 1.
  """

  num_classes: int
  width: int = 128
  ratio: float = 0.5  # of the nodes that each pooling keeps, in (0, 1]
  layers: int = 3
  dropout_rate: float = 0.5

  def __post_init__(self):
    check_ratio(self.ratio)
    if min(self.num_classes, self.layers, self.width // 2) < 1:
      raise ValueError(
        f'num_classes={self.num_classes}, layers={self.layers} and '
        f'width={self.width} must be at least 1, 1 and 2'
      )
    if not 0 <= self.dropout_rate < 1:
      raise ValueError(f'dropout_rate={self.dropout_rate} must be in [0, 1)')
    super().__post_init__()

  def setup(self):
    blocks = range(1, self.layers + 1)
    self.convs = [GraphConv(self.width, name=f'conv{i}') for i in blocks]
    self.pools = [SAGPool(self.ratio, name=f'pool{i}') for i in blocks]
    self.dense1 = nn.Dense(self.width)
    self.dense2 = nn.Dense(self.width // 2)
    self.head = nn.Dense(self.num_classes)

  def embed(self, graph: jraph.GraphsTuple) -> jax.Array:
    """[g, 2 width], the sum of the readouts, of padding graphs too."""
    found = []
    for conv, pool in zip(self.convs, self.pools):
      graph = conv(graph)
      x = nn.relu(graph.nodes['feature'])
      graph = pool(graph._replace(nodes={**graph.nodes, 'feature': x}))
      found.append(readout(graph))
    return sum(found[1:], found[0])

  def classify(self, x: jax.Array, *, train: bool) -> jax.Array:
    """[g, num_classes] float32 from what `embed` returns."""
    x = nn.relu(self.dense1(x))
    if train and self.dropout_rate:
      x = dropout(self.make_rng('dropout'), x, self.dropout_rate)
    return self.head(nn.relu(self.dense2(x)))

  def __call__(self, graph: jraph.GraphsTuple, *, train: bool) -> jax.Array:
    """Class logits of each graph, of padding graphs too.

    Args:
      graph: see the module's docstring.
      train: with dropout; pass `rngs={'dropout': key}`.

    Returns:
      [g, num_classes] float32.
    """
    return self.classify(self.embed(graph), train=train)


def logits_of_rows(
  model: SAGPoolNet,
  params,
  batch: Mapping[str, jax.Array],
  key: jax.Array | None = None,
) -> jax.Array:
  """Class logits of a batch of r rows with g graphs each.

  Dropout is drawn for a graph's place in the batch, however many rows it has.

  Args:
    params: of the model.
    batch: arrays named as the arguments of `graph_of`, with an axis [r] before
      theirs.
    key: of dropout; None: without.

  Returns:
    [r, g, num_classes] float32.
  """

  apply: Callable = partial(model.apply, {'params': params})

  def embed(*row):
    return apply(graph_of(*row), method='embed')

  names = ('node', 'edge', 'num_nodes', 'num_edges')
  x = jax.vmap(embed)(*(batch[name] for name in names))
  logits = apply(
    x.reshape(-1, x.shape[-1]),
    train=key is not None,
    rngs={} if key is None else {'dropout': key},
    method='classify',
  )
  return logits.reshape(*x.shape[:2], -1)
