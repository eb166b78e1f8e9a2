"""Graphs: containers, readers of the formats that users bring, sets by name.

read_tu(folder)         a TU graph-classification folder  -> Graphs
read_npz(file)          node classification in one file   -> NodeGraph
read_saint(folder)      the same in GraphSAINT's folders  -> NodeGraph
open_graphs(name)       mutag, tu:FOLDER                  -> Graphs
open_node_graph(name)   wordnet_graph, debian_graph, digits_graph, npz:FILE,
                        saint:FOLDER
adjacency(edges, n)     CSR in both directions
"""

from jaxlab.data.adjacency import Adjacency, adjacency, homophily
from jaxlab.data.graph_npz import read_npz, write_npz
from jaxlab.data.graph_saint import read_saint
from jaxlab.data.graph_sets import open_graphs, open_node_graph
from jaxlab.data.graph_tu import read_tu
from jaxlab.data.graph_types import (
  SPLITS,
  Graph,
  Graphs,
  NodeGraph,
  check_node_graph,
  concatenate,
  split_by_hash,
)

__all__ = [
  'SPLITS',
  'Adjacency',
  'Graph',
  'Graphs',
  'NodeGraph',
  'adjacency',
  'check_node_graph',
  'concatenate',
  'homophily',
  'open_graphs',
  'open_node_graph',
  'read_npz',
  'read_saint',
  'read_tu',
  'split_by_hash',
  'write_npz',
]
