"""Sets of graphs by name.

For graph classification: `mutag` (a builder), `tu:FOLDER` and `rings`, which
are drawn. For node classification: `digits_graph`, `wordnet_graph`,
`debian_graph` (builders), `npz:FILE` and `saint:FOLDER`. A builder's set is
prepared on first use.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from jaxlab.core.errors import InputError
from jaxlab.data import tfds
from jaxlab.data.graphs import npz, saint, tu
from jaxlab.data.graphs.types import (
  SPLITS,
  Graph,
  Graphs,
  NodeGraph,
  check_node_graph,
  concatenate,
)

# The sets' own names for what the arrays count.
_ATOMS = ('C', 'N', 'O', 'F', 'I', 'Cl', 'Br')


def open_graphs(name: str, *, offline: bool = False) -> Graphs:
  """Opens a set of labelled graphs.

  - `mutag`: 188 graphs, 7 kinds of nodes; classes non-mutagenic, mutagenic.
  - `tu:FOLDER`: see `tu`.
  - `rings`: 120 drawn rings and stars of 5 to 12 nodes of 2 kinds.

  Args:
    name: one of these.
    offline: never open a socket.

  Raises:
    InputError: there is no such set, or it cannot be had or read.
  """
  if name.startswith('tu:'):
    return tu.read_tu(name.removeprefix('tu:'))
  if name == 'mutag':
    return concatenate(
      (
        Graph(
          nodes=len(row['node_label']),
          edges=row['edges'],
          label=int(row['label']),
          node_label=row['node_label'],
        )
        for row in tfds.examples(name, 'train', offline=offline)
      ),
      classes=_classes(name, offline),
      node_classes=_ATOMS,
    )
  if name == 'rings':
    return concatenate(_rings(), classes=('ring', 'star'))
  raise InputError(
    f'there is no set of graphs {name!r}: there are mutag, rings and '
    f'tu:FOLDER, a folder in the format of the TU collection'
  )


def _rings() -> Iterator[Graph]:
  rng = np.random.default_rng(0)
  for i in range(120):
    nodes, label = int(rng.integers(5, 13)), i % 2
    at = np.arange(nodes, dtype=np.int32)
    ring = np.stack([at, np.roll(at, 1)], 1)
    star = np.stack([0 * at, at], 1)[1:]
    kinds = rng.integers(0, 2, nodes, np.int32)
    yield Graph(nodes, (ring, star)[label], label, kinds)


def open_node_graph(name: str, *, offline: bool = False) -> NodeGraph:
  """Opens a graph with labelled nodes.

  - `digits_graph`: 1,797 nodes, features [n, 64] in [0, 1], 10 classes.
  - `wordnet_graph`: 117,659 nodes, features are texts, 45 classes.
  - `debian_graph`: what apt knows, features are texts, classes are sections;
    `debian_graph:tags`: the same with [n, tags] labels, 0 or 1, and split -1
    where a node has no tag.
  - `npz:FILE`: see `npz`; `saint:FOLDER`: see `saint`.

  Args:
    name: one of these.
    offline: never open a socket.

  Raises:
    InputError: there is no such graph, or it cannot be had or read.
  """
  if name.startswith('npz:'):
    return npz.read_npz(name.removeprefix('npz:'))
  if name.startswith('saint:'):
    return saint.read_saint(name.removeprefix('saint:'))
  if name == 'digits_graph':
    row = _only(name, offline)
    pixels = row['features'].astype(np.float32) / 16
    return _node_graph(name, row, features=pixels)
  if name in ('wordnet_graph', 'debian_graph'):
    return _node_graph(name, _only(name, offline))
  if name == 'debian_graph:tags':
    row = _only('debian_graph', offline)
    tagged = row['tag'].any(1)
    return _node_graph(
      name,
      row,
      labels=row['tag'],
      classes=_texts(row['tag_name']),
      split=np.where(tagged, row['split'], np.int8(SPLITS['none'])),
    )
  raise InputError(
    f'there is no graph {name!r}: there are digits_graph, wordnet_graph, '
    f'debian_graph, debian_graph:tags, npz:FILE and saint:FOLDER'
  )


def _only(name: str, offline: bool) -> Mapping[str, Any]:
  (row,) = tfds.examples(name, 'graph', offline=offline)
  return row


def _node_graph(name: str, row: Mapping[str, Any], **fields) -> NodeGraph:
  found = {
    'edges': row['edges'],
    'labels': row['label'],
    'split': row['split'],
    'classes': _texts(row['class_name']),
  } | fields
  if 'features' not in found:
    found['features'] = _texts(row['text'])
  return check_node_graph(NodeGraph(**found), name)


def _texts(values) -> tuple[str, ...]:
  return tuple(value.decode() for value in values)


def _classes(name: str, offline: bool) -> tuple[str, ...]:
  return tfds.inspect_set(name, offline=offline).classes['label']
