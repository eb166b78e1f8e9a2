"""Few-shot episodes over a frozen embedding.

An episode has `ways` classes, `shots` labelled images of each and `queries` to
be answered. Inductive methods see the labelled alone; transductive ones also a
pool of unlabelled images of the same classes, which holds the queries. The two
are not comparable, and neither are pools of different size.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from jaxlab.core.errors import InputError
from jaxlab.papers.metric_transfer.graph import knn_graph
from jaxlab.papers.metric_transfer.labels import METHODS, propagate

INDUCTIVE = ('centroid', 'nearest')


class Episode(NamedTuple):
  """Rows of an embedding; the labelled first, then queries, then the rest."""

  rows: np.ndarray  # [m] int
  labels: np.ndarray  # [m] int in [0, ways)
  labelled: int  # how many of the first rows
  queries: int  # how many rows behind them are answered


def draw(
  labels: np.ndarray, ways: int, shots: int, queries: int, pool: int, seed: int
) -> Episode:
  """One episode, a function of its arguments.

  With the same seed the classes, shots and queries are the same whatever the
  pool is.

  Args:
    labels: [n] int of the embedding's rows.
    pool: unlabelled images of each class, at least `queries`; fewer where a
      class has not so many.

  Raises:
    InputError: fewer than `ways` classes have shots + queries images.
  """
  rng = np.random.default_rng(seed)
  counts = np.bincount(labels)
  enough = np.flatnonzero(counts >= shots + queries)
  if len(enough) < ways:
    raise InputError(
      f'{len(enough)} classes have {shots} + {queries} images, and an episode '
      f'takes {ways}: ask for fewer ways, shots or queries'
    )
  if pool and pool < queries:
    raise InputError(f'a pool of {pool} cannot hold {queries} queries')
  chosen = rng.choice(enough, ways, replace=False)
  order = [rng.permutation(np.flatnonzero(labels == one)) for one in chosen]
  parts = [
    [rows[:shots] for rows in order],
    [rows[shots : shots + queries] for rows in order],
    [rows[shots + queries : shots + max(pool, queries)] for rows in order],
  ]
  names = [np.repeat(np.arange(ways), [len(x) for x in part]) for part in parts]
  return Episode(
    np.concatenate([x for part in parts for x in part]),
    np.concatenate(names),
    ways * shots,
    ways * queries,
  )


def answered(
  features: np.ndarray, episode: Episode, method: str, k: int = 10, **options
) -> np.ndarray:
  """[queries] int labels.

  Args:
    features: [m, d] float32 unit rows of the episode.
    method: 'centroid' (the nearest class mean), 'nearest' (labelled image), or
      one of `labels.METHODS`, over the whole pool.
    k: of the graph, lowered where there are not so many others.
    options: of `propagate`.
  """
  known, asked = episode.labelled, episode.labelled + episode.queries
  shown, labels = features[:known], episode.labels[:known]
  seen = features[known:asked]
  if method == 'nearest':
    return labels[(seen @ shown.T).argmax(1)]
  if method == 'centroid':
    means = np.stack(
      [shown[labels == one].mean(0) for one in np.unique(labels)]
    )
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    return (seen @ means.T).argmax(1)
  if method not in METHODS:
    raise InputError(
      f'method "{method}" is not one of {", ".join((*INDUCTIVE, *METHODS))}'
    )
  graph = knn_graph(features, min(k, len(features) - 1))
  mask = np.arange(len(features)) < known
  found = propagate(graph, episode.labels, mask, method, **options)
  # What no label reaches is answered by the nearest labelled image.
  other = labels[(seen @ shown.T).argmax(1)]
  own = found.labels[known:asked]
  return np.where(own < 0, other, own)


def accuracy(
  features: np.ndarray, episode: Episode, method: str, k: int = 10, **options
) -> float:
  """Share of an episode's queries that are answered rightly."""
  known, asked = episode.labelled, episode.labelled + episode.queries
  found = answered(features[episode.rows], episode, method, k, **options)
  return float((found == episode.labels[known:asked]).mean())


def compared(
  features: np.ndarray,
  labels: np.ndarray,
  arms: Mapping[str, tuple[str, int]],
  *,
  ways: int,
  shots: int,
  queries: int,
  episodes: int,
  seed: int = 0,
  k: int = 10,
  advance=lambda parts=1: None,
  **options,
) -> dict[str, list[float]]:
  """Accuracies of arms on the same episodes.

  Args:
    arms: name -> (method, pool of a class; 0: inductive).
    advance: called after each episode.
  """
  found: dict[str, list[float]] = {name: [] for name in arms}
  for number in range(episodes):
    for name, (method, pool) in arms.items():
      own = (seed << 20) + number
      episode = draw(labels, ways, shots, queries, pool, own)
      found[name].append(accuracy(features, episode, method, k, **options))
    advance()
  return found
