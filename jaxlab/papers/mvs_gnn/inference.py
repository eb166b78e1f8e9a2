"""Exact inference, layer by layer: every neighbour, a part of the nodes a time.

A feed walks the layers from the input, each in chunks of destinations with all
their edges; what a layer gives is kept in a table of all nodes, from which the
next one gathers. Memory is the table of each layer but the last, on every
device, and one chunk.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlab.core.state import Evaluator
from jaxlab.models.sampled_gnn import SampledGNN
from jaxlab.papers.mvs_gnn import feeds
from jaxlab.papers.mvs_gnn.blocks import Assembler, Operator, Sample, all_edges


class LayerChunks(feeds.PaddedSource):
  """The finite source of an exact pass over the nodes asked for.

  The step kind is the layer, 'layer0' …; arrays are those of a sample of one
  layer, named by the layer. Of the layers below the last only what those nodes
  need is computed.

  Args:
    operator: of the graph that is evaluated.
    wanted: [w] nodes whose logits are judged.
    chunk_edges: at most so many edges at a time, but all of one node.
  """

  def __init__(
    self,
    nodes: feeds.NodeData,
    operator: Operator,
    wanted: np.ndarray,
    *,
    num_layers: int,
    chunk_edges: int,
    lanes: int,
  ):
    self.operator = operator
    self._assembler = Assembler(operator.num_nodes)
    self._chunks: list[tuple[int, np.ndarray]] = []
    shapes, needed = {}, np.sort(wanted)
    for level in reversed(range(num_layers)):
      parts = _split(needed, operator.degrees[needed], chunk_edges)
      self._chunks = [(level, part) for part in parts] + self._chunks
      shapes[f'layer{level}'] = feeds.shape_for(
        [self._exact(part) for part in parts], operator.num_nodes, 1.0, lanes
      )
      senders = all_edges(operator, level, needed).senders
      needed = np.union1d(needed, senders)
    super().__init__(nodes, shapes, lanes)

  @property
  def num_batches(self) -> int:
    return len(self._chunks)

  def kind(self, step: int) -> str:
    return f'layer{self._chunks[step][0]}'

  def sample(self, step: int) -> Sample:
    return self._exact(self._chunks[step][1])

  def arrays(self, kind, padded):
    level = kind.removeprefix('layer')
    batch = super().arrays(kind, padded)
    if level != '0':
      del batch['features']
    return {
      f'{level}/{name[2:]}' if name.startswith('0/') else name: array
      for name, array in batch.items()
    }

  def outputs(self, level: int) -> int:
    """Destinations of a chunk of a layer, padding included."""
    return self.shapes[f'layer{level}'].budget.outputs[-1]

  def _exact(self, part: np.ndarray) -> Sample:
    return self._assembler.sample(
      np.random.default_rng(0),  # draws nothing
      part.astype(np.int32),
      np.ones(len(part), np.float32),
      1,
      partial(all_edges, self.operator),
    )


def _split(nodes, degrees, chunk_edges: int) -> list[np.ndarray]:
  """Runs of nodes with at most `chunk_edges` edges, or one node."""
  # A node without edges takes room too.
  ends = np.cumsum(np.maximum(degrees, 1))
  cuts, done = [], 0
  while done < len(nodes):
    base = ends[done - 1] if done else 0
    stop = int(np.searchsorted(ends, base + chunk_edges, side='right'))
    done = max(stop, done + 1)
    cuts.append(done)
  return np.split(nodes, cuts[:-1])


def evaluator(
  net: SampledGNN,
  source: LayerChunks,
  judge: Callable[[jax.Array, jax.Array, jax.Array], Any],
  finish: Callable[[Any], dict[str, Any]],
) -> Evaluator:
  """What is judged of the logits of every wanted node.

  Args:
    judge: (logits [b, k], labels, mask [b] bool) -> a tree of sums.
    finish: of the sums, on the host.
  """
  nodes, levels = source.operator.num_nodes, net.num_layers

  def init():
    labels = source.nodes.labels[:1]
    logits = jnp.zeros((1, net.num_classes))
    zero = judge(logits, jnp.asarray(labels), jnp.zeros(1, bool))
    return {
      # A row more: what is there for padding.
      'tables': [jnp.zeros((nodes + 1, net.hidden)) for _ in range(levels - 1)],
      'sums': jax.tree.map(jnp.zeros_like, zero),
    }

  def update(total, state, batch, key):
    (level,) = {int(n.split('/')[0]) for n in batch if n.endswith('/id')}
    graph = feeds.layer_of(batch, level)
    ids, outputs = graph.nodes['id'], source.outputs(level)
    tables = list(total['tables'])
    taken = tables[level - 1][ids] if level else feeds.whole(batch, 'features')
    variables = {'params': state.params['net']}
    x: Any = net.apply(variables, level, taken, graph, outputs, method='layer')
    if level < levels - 1:
      rows = feeds.real_ids(batch, level, outputs, nodes)
      tables[level] = tables[level].at[rows].set(x, mode='drop')
      return {**total, 'tables': tables}
    logits: Any = net.apply(variables, x, method='logits')
    mask = feeds.whole(batch, 'seed') < nodes
    found = judge(logits, feeds.whole(batch, 'label'), mask)
    sums = jax.tree.map(jnp.add, total['sums'], found)
    return {**total, 'sums': sums}

  return Evaluator(init, update, lambda total: finish(total['sums']))
