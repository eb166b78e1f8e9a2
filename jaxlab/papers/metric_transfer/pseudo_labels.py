"""The stage `propagate`: pseudo-labels of the training images, and their worth.

The graph is of all training images; a split says which are labelled. True
labels of the others are looked at for the table alone.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from jaxlab.core.require import (
  above,
  at_least,
  between,
  each,
  inside,
  one_of,
  require,
  some,
)
from jaxlab.engine import mesh
from jaxlab.engine.metrics import Meter, say
from jaxlab.papers.metric_transfer import graph as graphs
from jaxlab.papers.metric_transfer import labels as labelling
from jaxlab.papers.metric_transfer.embedding import brought, flattened, keep
from jaxlab.papers.metric_transfer.graph import Graph
from jaxlab.papers.metric_transfer.selection import balanced_split
from jaxlab.papers.metric_transfer.spectrum import components
from jaxlab.recipes import images, study
from jaxlab.runs.stage import Stage, Workspace

Config = Mapping[str, Any]
Runs = Mapping[str, Callable[[np.ndarray], labelling.Propagated]]

SKLEARN = 'sklearn_spreading'
_GRID = 16  # images of each grid


def check(config: Config) -> None:
  """Raises InputError where a value of `propagation` or `labels` cannot be."""
  known = (*labelling.METHODS, SKLEARN)
  require(
    config,
    {
      'labels.per_class': at_least(1),
      'labels.table': some(at_least(1)),
      'propagation.k': at_least(1, 'fewer than there are images'),
      'propagation.kind': one_of('const', 'selftune', 'power'),
      'propagation.temperature': above(0),
      'propagation.eigenvectors': at_least(2),
      'propagation.alpha': inside(0, 1),
      'propagation.confidence': one_of('own', *labelling.CONFIDENCES),
      'propagation.methods': some(one_of(*known)),
      'propagation.shown': at_least(4, 'points of the projection'),
      'propagation.prior': each(at_least(0, 'shares of the classes; (): none')),
      'propagation.ratio': between(0, 1, 'of the unlabelled images'),
    },
  )


def split_of(config: Config, labels: np.ndarray, count: int, seed: int):
  """[n] bool, the labelled images of a split."""
  classes = config['data']['num_classes']
  return balanced_split(labels, count, classes, seed)


def propagate_stage(
  config: Config, seeds: Sequence[int], used: Sequence[str] = ()
) -> Stage:
  """The stage `propagate`.

  Its artefact has, for each method of `used` and each seed, at
  `labels.per_class` labels a class, `METHOD-sSEED/labels`, `/confidence` and
  `/shares`, see `labels.propagate`.
  """
  methods = [*dict.fromkeys([*config['propagation']['methods'], *used])]

  def run(space):
    d, per_class = config['data'], config['labels']['per_class']
    sets = images.image_task(config, space.offline).sets
    train = sets.inliers(d['train_split'])
    truth = np.asarray(train['label'])
    features = space.artefact('embed')['features']
    graph, runs = _runs(config, space, features, truth, methods)
    counts = sorted({*config['labels']['table'], per_class})
    meter = Meter('propagate', len(counts) * len(seeds) * len(methods))
    right: dict[tuple[int, str], list[float]] = {}
    areas: dict[tuple[int, str], list[float]] = {}
    arrays, first = {}, {}
    for count in counts:
      for seed in seeds:
        mask = split_of(config, truth, count, seed)
        for name in methods:
          found = runs[name](mask)
          hit = (found.labels == truth)[~mask]
          order = np.argsort(-found.confidence[~mask], kind='stable')
          kept_so_far = np.cumsum(hit[order]) / np.arange(1, len(hit) + 1)
          right.setdefault((count, name), []).append(float(hit.mean()))
          areas.setdefault((count, name), []).append(float(kept_so_far.mean()))
          if count == per_class and name in used:
            shares = labelling.probabilities(found.scores, name)
            own = f'{name}-s{seed}'
            arrays[f'{own}/labels'] = found.labels
            arrays[f'{own}/confidence'] = found.confidence
            arrays[f'{own}/shares'] = shares.astype(np.float32)
          if (count, seed) == (per_class, seeds[0]):
            first[name] = found, kept_so_far
          meter.advance()
    keep(space, 'propagate', arrays or {'features': features[:0]})
    _tables(config, space, counts, methods, right, areas, seeds)
    mask = split_of(config, truth, per_class, seeds[0])
    shown = config['propagation']['shown']
    _show(space, graph, truth, mask, first, train['image'], shown)
    return {
      f'{name}/{count}_a_class': float(np.mean(values))
      for (count, name), values in right.items()
    }

  return Stage('propagate', run, load=partial(brought, 'propagate'))


def _runs(
  config, space: Workspace, features, truth, methods
) -> tuple[Graph, Runs]:
  """The graph, and each method as a function of the labelled mask."""
  p = config['propagation']
  here = mesh.platform(space.mesh) == 'cpu'
  meter = Meter('graph', len(features))
  graph = graphs.knn_graph(
    features, p['k'], mesh=None if here else space.mesh, progress=meter.advance
  )
  weights = graphs.affinity(graph, p['kind'], p['temperature'])
  parts = None
  if 'normalized_cut' in methods:
    n = len(features)
    say(f'propagate: {p["eigenvectors"]} eigenvectors of {n:,} nodes')
    parts = components(weights, p['eigenvectors'])
    space.facts |= {
      'components': len(parts),
      'largest_component': max(len(part.nodes) for part in parts),
    }

  def ours(method, mask):
    return labelling.propagate(
      graph,
      truth,
      mask,
      method,
      num_classes=config['data']['num_classes'],
      kind=p['kind'],
      temperature=p['temperature'],
      alpha=p['alpha'],
      confidence=p['confidence'],
      prior=p['prior'] or None,
      weights=weights,
      parts=parts,
    )

  runs: Runs = {name: partial(ours, name) for name in labelling.METHODS}
  if SKLEARN in methods:
    runs = {**runs, SKLEARN: _sklearn(graph.features, truth)}
  return graph, runs


def _sklearn(features, truth):
  """scikit-learn's LabelSpreading, its defaults on 7 neighbours."""
  from sklearn.neighbors import NearestNeighbors
  from sklearn.semi_supervised import LabelSpreading

  found = NearestNeighbors(n_neighbors=7).fit(features)
  # What kernel='knn' builds at each fit, built once.
  joined = found.kneighbors_graph(features, mode='connectivity')

  def run(mask):
    model = LabelSpreading(kernel=lambda x, y: joined, max_iter=30)
    model.fit(features, np.where(mask, truth, -1))
    shares = np.nan_to_num(model.label_distributions_)
    labels = np.where(shares.sum(1) > 0, model.transduction_, -1)
    return labelling.Propagated(shares, labels, shares.max(1))

  return run


def _tables(config, space, counts, methods, right, areas, seeds) -> None:
  classes = config['data']['num_classes']
  reported = config.get('paper_reported', {})
  rows: list[dict[str, Any]] = []
  first = methods[0]
  for count in counts:
    total = str(count * classes)
    row = {'labels': total, 'a class': str(count)}
    for name in methods:
      row[name] = study.interval(right[count, name])
      published = reported.get(f'{name}/{total}')
      if published is not None:
        row[f'paper: {name}'] = f'{published:.4f}'
      if name != first:
        gains = _gains(right, count, first, name)
        row[f'{first} - {name}'] = study.interval(gains)
    rows.append(row)
  columns = [*dict.fromkeys(column for row in rows for column in row)]
  space.page.table(
    'Accuracy of pseudo-labels of unlabelled images, mean and 95 % t-interval '
    f'over splits {list(seeds)}',
    columns,
    rows,
    show=True,
  )
  space.page.table(
    'Mean accuracy of the surest 1, 2, … images',
    ['labels', *methods],
    [
      {'labels': str(count * classes)}
      | {name: study.interval(areas[count, name]) for name in methods}
      for count in counts
    ],
  )
  count = config['labels']['per_class']
  for name in methods[1:]:
    gains = _gains(right, count, first, name)
    space.page.headline(
      f'pseudo-labels at {count} labels a class: {first} - {name} = '
      f'{study.interval(gains)}',
      study.verdict(gains, True),
    )


def _gains(right, count, first, name):
  return [a - b for a, b in zip(right[count, first], right[count, name])]


def _show(space, graph, truth, mask, first, pictures, shown) -> None:
  """Projection, confidence against accuracy, most and least sure images."""
  drawn = np.random.default_rng(0).permutation(len(truth))[:shown]
  rows = np.unique(np.concatenate([drawn, np.flatnonzero(mask)]))
  flat = flattened(graph.features[rows])
  colour, star = truth[rows] % 20, mask[rows]

  def projection(axes):
    look = {'cmap': 'tab20', 'vmin': 0, 'vmax': 19}
    axes.scatter(*flat[~star].T, s=4, c=colour[~star], **look)
    edge = {'marker': '*', 'edgecolors': 'k', 'linewidths': 0.5}
    axes.scatter(*flat[star].T, s=70, c=colour[star], **edge, **look)
    axes.set_xticks([])
    axes.set_yticks([])

  caption = (
    'The embedding by t-SNE, coloured by class; labelled images are stars'
  )
  space.page.figure('embedding', projection, caption, size=(6, 5))

  def sureness(axes):
    for name, (_, curve) in first.items():
      axes.plot(np.linspace(0, 1, len(curve)), curve, label=name)
    axes.set_xlabel('share of unlabelled images kept, the surest first')
    axes.set_ylabel('accuracy of their pseudo-labels')
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)

  space.page.figure('confidence', sureness, 'Confidence against accuracy')
  name, (found, _) = next(iter(first.items()))
  others = np.flatnonzero(~mask)
  order = others[np.argsort(-found.confidence[others], kind='stable')]
  for what, rows in (('most', order[:_GRID]), ('least', order[-_GRID:])):
    space.page.images(
      f'{what}_confident',
      np.asarray(pictures[np.sort(rows)]),
      [f'{found.labels[i]} (is {truth[i]})' for i in np.sort(rows)],
      f'{what} confident under {name}: its label, and the true one',
    )
