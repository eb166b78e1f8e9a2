"""A picture of one sampled batch: seeds, and the neighbours drawn for them."""

from collections.abc import Callable
from typing import Any

import numpy as np

from jaxlab.papers.mvs_gnn.blocks import Sample
from jaxlab.papers.mvs_gnn.graph_data import GraphData
from jaxlab.runs.sections import Sections

Draw = Callable[[Any], None]

_SEEDS, _SENDERS = 6, 5  # nodes of the picture; neighbours shown of each


def tree_of(
  sample: Sample, seeds: int = _SEEDS, senders: int = _SENDERS
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
  """A part of a sample, small enough to draw, from its seeds down.

  Args:
    seeds: the first ones, at most so many.
    senders: of each destination that is shown those with the largest weight,
      at most so many.

  Returns:
    Of each layer, the output's first: nodes [s] of the graph, each once and
    those of the layer before first, and edges, as places in that layer's nodes
    (receivers [e]), in these (senders [e]), and their weights [e] float32.
  """
  shown = np.asarray(sample.seeds)[:seeds]
  found = []
  for layer in sample.layers[::-1]:
    # Destinations come first among a layer's nodes.
    place = {int(n): i for i, n in enumerate(layer.nodes[: layer.destinations])}
    weight = np.abs(layer.edges.weight)
    if layer.edges.history is not None:
      weight = np.maximum(weight, np.abs(layer.edges.history))
    to, by, by_weight = [], [], []
    for i, node in enumerate(shown):
      mine = np.flatnonzero(layer.edges.receivers == place.get(int(node), -1))
      mine = mine[weight[mine] > 0]
      mine = mine[np.argsort(-weight[mine], kind='stable')][:senders]
      to += [i] * len(mine)
      by += layer.nodes[layer.senders[mine]].tolist()
      by_weight += weight[mine].tolist()
    new = [n for n in dict.fromkeys(by) if n not in set(shown.tolist())]
    nodes = np.concatenate([shown, np.array(new, shown.dtype)])
    at = {int(n): i for i, n in enumerate(nodes)}
    places = np.array([at[int(n)] for n in by], int)
    found.append(
      (nodes, np.array(to, int), places, np.array(by_weight, np.float32))
    )
    shown = nodes
  return found


def show(page: Sections, sample: Sample, data: GraphData) -> None:
  """A figure of a batch: what of the graph a step sees."""
  labels = data.nodes.labels
  classes = labels if labels.ndim == 1 else labels.argmax(-1)
  page.figure(
    'sample',
    draw_sample(sample, classes),
    f'A part of one batch: {_SEEDS} of its nodes (large) in the middle, around '
    f'them what each layer drew for them, the {_SENDERS} largest weights of '
    'each (thick: large). Colours are classes: neighbours of one colour are '
    'what a graph network averages over.',
    (6, 6),
  )


def draw_sample(sample: Sample, classes: np.ndarray) -> Draw:
  """Rings: seeds inside, around them what each layer drew.

  Args:
    classes: [n] int, the class of each node of the graph; -1: none.
  """
  tree = tree_of(sample)

  def draw(axes):
    from matplotlib.collections import LineCollection

    seeds = tree[0][0][: min(_SEEDS, len(sample.seeds))]
    where = _ring(np.arange(len(seeds)) * 2 * np.pi / max(1, len(seeds)), 1.0)
    ring = np.zeros(len(seeds), int)
    for level, (nodes, to, by, weight) in enumerate(tree, 1):
      new = np.arange(len(where), len(nodes))
      # Beside the first node that each was drawn for; no two in one place.
      first = [to[np.flatnonzero(by == i)[0]] for i in new]
      angles = np.arctan2(*where[first].T[::-1]) if len(new) else np.zeros(0)
      order = np.argsort(angles, kind='stable')
      spread = np.empty(len(new))
      spread[order] = _apart(angles[order])
      where = np.concatenate([where, _ring(spread, 1.0 + level)])
      ring = np.concatenate([ring, np.full(len(new), level)])
      lines = [*np.stack([where[to], where[by]], 1)]
      axes.add_collection(
        LineCollection(
          lines,
          linewidths=0.4 + 2 * weight / max(weight.max(initial=0), 1e-9),
          colors='0.6',
          zorder=0,
        )
      )
    of = classes[tree[-1][0]]
    look = {'cmap': 'tab20', 'vmin': 0, 'vmax': 19, 'edgecolors': 'k'}
    for kind, size in ((ring == 0, 110), (ring > 0, 30)):
      axes.scatter(
        *where[kind].T, s=size, c=of[kind] % 20, linewidths=0.4, **look
      )
    axes.set_aspect('equal')
    axes.axis('off')

  return draw


def _ring(angles: np.ndarray, radius: float) -> np.ndarray:
  return radius * np.stack([np.cos(angles), np.sin(angles)], -1)


def _apart(angles: np.ndarray) -> np.ndarray:
  """Ascending angles, half moved to where they would be evenly spread."""
  n = len(angles)
  even = -np.pi + 2 * np.pi * (np.arange(n) + 0.5) / max(1, n)
  return (angles + 2 * even) / 3
