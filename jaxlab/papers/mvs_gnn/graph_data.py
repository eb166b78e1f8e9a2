"""The graph of a config: features, labels, and the operators it trains with.

Protocols: 'transductive', the edges of all nodes are there in training, the
labels of validation and test nodes are not; 'inductive', edges with an end
outside of the training nodes are not there either. Exact inference sees all.
"""

import io
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse

from jaxlab.core.errors import InputError
from jaxlab.data.graphs.adjacency import adjacency
from jaxlab.data.graphs.sets import open_node_graph
from jaxlab.data.graphs.types import NodeGraph
from jaxlab.data.text.features import text_features
from jaxlab.papers.mvs_gnn.blocks import Normalisation, Operator, make_operator
from jaxlab.papers.mvs_gnn.feeds import NodeData

Config = Mapping[str, Any]
PROTOCOLS = ('transductive', 'inductive')
_NORMALISATIONS: Mapping[str, Normalisation] = {'gat': 'none', 'sage': 'row'}


class GraphData(NamedTuple):
  """What the stages of a config share."""

  graph: NodeGraph
  nodes: NodeData
  training: Operator
  everything: Operator
  about: Mapping[str, int]  # what was found in making the operator

  @property
  def classes(self) -> int:
    return len(self.graph.classes)


def load(config: Config, offline: bool) -> GraphData:
  """The graph of `config.data` for a network of `config.model.kind`.

  Raises:
    InputError: a split without nodes, or as `open_node_graph`.
  """
  d = config['data']
  name, kind = d['name'], config['model']['kind']
  return _load(name, d['protocol'], d['text_dimensions'], kind, offline)


@lru_cache(maxsize=1)  # a study opens one graph again and again
def _load(name, protocol, dimensions, kind, offline):
  graph = open_node_graph(name, offline=offline)
  for split in ('train', 'validation', 'test'):
    if not len(graph.nodes_of(split)):
      raise InputError(
        f'config.data.name = "{name}" has no nodes in the split "{split}"; '
        'give it some'
      )
  train = graph.nodes_of('train')
  features = graph.features
  if isinstance(features, tuple):
    features = text_features(features, train, dimensions)
  elif isinstance(features, scipy.sparse.csr_array):
    features = features.toarray()
  normalisation = _NORMALISATIONS.get(kind, 'symmetric')
  make = lambda edges: adjacency(
    edges,
    graph.num_nodes,
    symmetric=not graph.directed,
    self_loops='drop' if kind == 'sage' else 'add',
  )
  found = make(graph.edges)
  everything = training = make_operator(found, normalisation)
  if protocol == 'inductive':
    inside = np.zeros(graph.num_nodes, bool)
    inside[train] = True
    edges = graph.edges[inside[graph.edges].all(1)]
    training = make_operator(make(edges), normalisation)
  nodes = NodeData(np.ascontiguousarray(features, np.float32), graph.labels)
  about = {
    'self_loops': found.self_loops,
    'duplicates': found.duplicates,
    'isolated': found.isolated,
  }
  return GraphData(graph, nodes, training, everything, about)


class Stored(NamedTuple):
  """What exact inference reads of a graph."""

  nodes: NodeData  # labels are left out: all 0
  everything: Operator


def packed(data: GraphData) -> bytes:
  """What exact inference reads, as an .npz file."""
  file = io.BytesIO()
  every = data.everything
  np.savez_compressed(
    file,
    features=data.nodes.features,
    indptr=every.indptr,
    indices=every.indices,
    weight=every.weight,
  )
  return file.getvalue()


def unpacked(npz: bytes) -> Stored:
  """What `packed` was given."""
  with np.load(io.BytesIO(npz), allow_pickle=False) as found:
    every = Operator(found['indptr'], found['indices'], found['weight'])
    features = found['features']
  return Stored(NodeData(features, np.zeros(len(features), np.int32)), every)
