"""Documents by regions: intra-domain transfer and stacking.

A. Das, S. Roy, U. Bhattacharya, S. K. Parui. Document Image Classification
with Intra-Domain Transfer Learning and Stacked Generalization of Deep
Convolutional Neural Networks. ICPR 2018, pp. 3180-3185, arXiv:1801.09321.

  five datasets of a page      RegionSpec, REGIONS, crop_regions
  L1 inter-domain transfer     transfer(…, head='reinit')
  L2 intra-domain transfer     transfer(…, head='copy')
  stacked generalization       Stacker, features of stackers.py
  its protocol, and one whose
    stacker sees no page twice folds_of, out_of_fold
  what regions add             disagreement, q_statistic, double_fault,
                               leave_one_out, paired_difference

The regions are those of Harley, Ufkes, Derpanis (ICDAR 2015, arXiv:1502.07058)
on a page of 780 x 600 pixels, as two public reimplementations have them; the
paper's own code crops by files that are not public.

Departs from the paper: its meta-classifier is trained on the validation set;
`out_of_fold` trains it on predictions of the training set instead, of networks
that have seen neither a page nor its duplicates. Optimizers, epochs and the
sizes of its meta-classifier are not known.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlab.core.errors import InputError
from jaxlab.core.state import Tree, paths
from jaxlab.papers.doc_regions.stackers import KINDS, Stacker

__all__ = [
  'KINDS',
  'REGIONS',
  'RegionSpec',
  'Stacker',
  'Transferred',
  'crop_regions',
  'disagreement',
  'double_fault',
  'folds_of',
  'leave_one_out',
  'out_of_fold',
  'paired_difference',
  'q_statistic',
  'transfer',
]


class RegionSpec(NamedTuple):
  """A rectangle of a page, in fractions of its height and width."""

  name: str
  top: float
  bottom: float
  left: float
  right: float


REGIONS = (
  RegionSpec('holistic', 0.0, 1.0, 0.0, 1.0),
  RegionSpec('header', 0.0, 256 / 780, 0.0, 1.0),
  RegionSpec('footer', 524 / 780, 1.0, 0.0, 1.0),
  RegionSpec('left', 190 / 780, 590 / 780, 0.0, 0.5),
  RegionSpec('right', 190 / 780, 590 / 780, 0.5, 1.0),
)


def crop_regions(
  pages: jax.Array, specs: Sequence[RegionSpec], size: tuple[int, int]
) -> jax.Array:
  """Regions of pages, each brought to one size without keeping its aspect.

  Bilinear with a support that grows as a region shrinks. At a border the
  neighbouring pixels of the page are looked at, as everywhere.

  Args:
    pages: [b, h, w, c] float32.
    specs: regions within the page.
    size: height and width of what is returned.

  Returns:
    [b, regions, *size, c] float32.

  Raises:
    InputError: a region outside of the page or without area, no regions, or a
      size below 1.
  """
  check_regions(specs)
  if min(size) < 1:
    raise InputError(f'size = {size} of regions must be at least 1 x 1')
  height, width = pages.shape[1:3]

  def crop(spec):
    spans = (spec.bottom - spec.top) * height, (spec.right - spec.left) * width
    scale = jnp.array([to / span for to, span in zip(size, spans)])
    start = jnp.array([spec.top * height, spec.left * width])
    return jax.image.scale_and_translate(
      pages,
      (len(pages), *size, pages.shape[-1]),
      (1, 2),
      scale,
      -start * scale,
      method='linear',
      antialias=True,
    )

  return jnp.stack([crop(spec) for spec in specs], 1)


def check_regions(specs: Sequence[RegionSpec]) -> None:
  """Raises InputError where a region cannot be, naming it."""
  if not specs:
    raise InputError('there are no regions; give at least one')
  names = [spec.name for spec in specs]
  if len({*names}) < len(names):
    raise InputError(f'two regions have one name: {names}')
  for spec in specs:
    rows, columns = (spec.top, spec.bottom), (spec.left, spec.right)
    if not all(0 <= a < b <= 1 for a, b in (rows, columns)):
      raise InputError(
        f'region "{spec.name}" has rows {rows} and columns {columns}: give '
        'fractions of the page, 0 <= first < last <= 1'
      )


class Transferred(NamedTuple):
  """A network begun from another, and what became of each leaf, by path."""

  tree: Tree
  copied: tuple[str, ...]
  fresh: tuple[str, ...]  # left as initialised: the head under 'reinit'
  absent: tuple[str, ...]  # fresh, since the source has no such leaf
  misshapen: tuple[str, ...]  # fresh, since the source's has another shape
  unused: tuple[str, ...]  # leaves of the source that went nowhere


def transfer(
  source: Tree, init: Tree, head: str = 'copy', head_name: str = 'head'
) -> Transferred:
  """Begins a network from another one's leaves; level 1 and level 2 alike.

  Args:
    source: variables of a trained network.
    init: new variables of the network to be trained.
    head: 'copy' also takes the last layer over (level 2), 'reinit' leaves it
      as it is in `init` (level 1, other classes).
    head_name: of the last layer, one part of its leaves' paths.

  Raises:
    InputError: another word for `head`, or nothing fits.
  """
  if head not in ('copy', 'reinit'):
    raise InputError(f'head = "{head}" must be copy or reinit')
  given = dict(paths(source))
  fates: dict[str, list[str]] = {
    name: [] for name in ('copied', 'fresh', 'absent', 'misshapen')
  }

  def take(path, leaf):
    name = jax.tree_util.keystr(path, simple=True, separator='/')
    if head == 'reinit' and head_name in name.split('/'):
      fates['fresh'].append(name)
      return leaf
    if name not in given:
      fates['absent'].append(name)
      return leaf
    if jnp.shape(given[name]) != jnp.shape(leaf):
      fates['misshapen'].append(name)
      return leaf
    fates['copied'].append(name)
    return jnp.asarray(given[name], jax.dtypes.canonicalize_dtype(leaf.dtype))

  tree = jax.tree_util.tree_map_with_path(take, init)
  if not fates['copied']:
    raise InputError(
      'transfer: no leaf of the source fits; it has '
      f'{", ".join([*given][:5])}, and wanted are '
      f'{", ".join(name for name, _ in paths(init)[:5])}'
    )
  unused = tuple(sorted({*given} - {*fates['copied']}))
  return Transferred(
    tree, unused=unused, **{k: tuple(sorted(x)) for k, x in fates.items()}
  )


def folds_of(
  labels: np.ndarray, groups: np.ndarray, folds: int, seed: int = 0
) -> np.ndarray:
  """The fold of each page, [n] int64: groups stay whole, classes are spread.

  Greedy: the largest groups first, each to the fold that has least of its
  classes; equal ones in a seeded order.

  Args:
    labels: [n] int in [0, classes).
    groups: [n] int, of pages that must not be parted.
    folds: at least 2.

  Raises:
    InputError: folds below 2, fewer groups than folds, or a class whose pages
      are all in one fold: training without it would have none.
  """
  labels, groups = np.asarray(labels), np.asarray(groups)
  _, of = np.unique(groups, return_inverse=True)
  classes, count = int(labels.max(initial=0)) + 1, int(of.max(initial=-1)) + 1
  if not 2 <= folds <= count:
    raise InputError(
      f'folds = {folds} must be at least 2 and at most the number of groups of '
      f'pages, {count}'
    )
  held = np.zeros((count, classes))
  np.add.at(held, (of, labels), 1)
  total = np.maximum(held.sum(0), 1)
  order = np.random.default_rng(seed).permutation(count)
  order = order[np.argsort(-held.sum(1)[order], kind='stable')]
  filled, fold = np.zeros((folds, classes)), np.zeros(count, np.int64)
  for group in order:
    own = held[group]
    # Cost: how full the fold is of the group's classes, then of all.
    cost = ((filled + own) / total) ** 2 - (filled / total) ** 2
    crowd = filled.sum(1) / max(len(labels), 1)
    fold[group] = np.argmin(cost.sum(1) + 1e-3 * crowd)
    filled[fold[group]] += own
  for label in np.flatnonzero(held.sum(0)):
    if (filled[:, label] > 0).sum() < 2:
      where = int(filled[:, label].argmax())
      raise InputError(
        f'class {label} is absent from training when fold {where} is held '
        f'out: its {int(held[:, label].sum())} pages are one group. Give it '
        'pages of another document, or leave it out'
      )
  return fold[of]


def out_of_fold(
  fit: Callable[[Any, np.ndarray], Any],
  predict: Callable[[Any, Any], np.ndarray],
  x: np.ndarray,
  y: np.ndarray,
  groups: np.ndarray,
  folds: int,
  seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
  """Predictions for each page by a model that saw none of its group.

  Args:
    fit: (x [m, …], y [m]) -> model.
    predict: (model, x [m, …]) -> [m, …].
    x: [n, …]; y: [n] int; groups: [n] int, see `folds_of`.

  Returns:
    Predictions [n, …] and folds [n].

  Raises:
    InputError: as `folds_of`.
  """
  fold = folds_of(y, groups, folds, seed)
  found: Any = None
  for number in range(folds):
    held = fold == number
    part = np.asarray(predict(fit(x[~held], y[~held]), x[held]))
    if found is None:
      found = np.zeros((len(y), *part.shape[1:]), part.dtype)
    found[held] = part
  return found, fold


def disagreement(log_p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """How far the regions of a page are from one answer.

  Args:
    log_p: [n, regions, classes] log-probabilities.

  Returns:
    Different answers of each page, [n] int in [1, regions]; and their
    Jensen-Shannon divergence, [n] float64 nats in [0, log regions].
  """
  log_p = np.asarray(log_p, np.float64)
  top = np.sort(log_p.argmax(-1), 1)
  answers = 1 + (np.diff(top, axis=1) > 0).sum(1)
  p = np.exp(log_p)
  entropy = lambda q: -(q * np.log(np.maximum(q, 1e-300))).sum(-1)
  return answers, np.maximum(entropy(p.mean(1)) - entropy(p).mean(1), 0)


def q_statistic(right: np.ndarray) -> np.ndarray:
  """Yule's Q of each two regions, [r, r]: 1 where they err together.

  Args:
    right: [n, r] bool.

  Source: Kuncheva and Whitaker, Machine Learning 51, 2003, eq. 3; NaN where
  neither product has a page.
  """
  a, b = np.asarray(right, np.float64), 1 - np.asarray(right, np.float64)
  both, none, first, second = a.T @ a, b.T @ b, a.T @ b, b.T @ a
  total = both * none + first * second
  safe = np.where(total > 0, total, np.nan)
  return (both * none - first * second) / safe


def double_fault(right: np.ndarray) -> np.ndarray:
  """Share of pages that each two regions both miss, [r, r]. Args: as above."""
  wrong = 1 - np.asarray(right, np.float64)
  return wrong.T @ wrong / len(wrong)


def leave_one_out(
  kind: str,
  fitted_on: tuple[np.ndarray, np.ndarray],
  judged_on: tuple[np.ndarray, np.ndarray],
  **options: Any,
) -> np.ndarray:
  """Accuracy lost by leaving out each region, [r].

  Args:
    kind, options: of `Stacker`.
    fitted_on, judged_on: log-probabilities [n, r, c] and labels [n].
  """

  def accuracy(keep):
    stacker = Stacker(kind, **options)
    stacker.fit(fitted_on[0][:, keep], fitted_on[1])
    found = stacker.predict_log_proba(judged_on[0][:, keep])
    return float((found.argmax(-1) == judged_on[1]).mean())

  regions = np.arange(fitted_on[0].shape[1])
  whole = accuracy(regions)
  return np.array([whole - accuracy(regions != one) for one in regions])


def paired_difference(
  right: np.ndarray,
  other: np.ndarray,
  groups: np.ndarray,
  draws: int = 2000,
  seed: int = 0,
) -> tuple[float, float, float]:
  """A difference of two accuracies on the same pages, with a 95 % interval.

  Groups, not pages, are drawn with replacement, since pages of one document
  are alike.

  Args:
    right, other: [n] bool; groups: [n] int.

  Returns:
    The mean of right - other, and its 2.5 % and 97.5 % percentiles.
  """
  gain = np.asarray(right, np.float64) - np.asarray(other, np.float64)
  _, of = np.unique(groups, return_inverse=True)
  count = int(of.max()) + 1
  sums = np.bincount(of, gain, count)
  sizes = np.bincount(of, minlength=count)
  taken = np.random.default_rng(seed).integers(0, count, (draws, count))
  means = sums[taken].sum(1) / sizes[taken].sum(1)
  low, high = np.percentile(means, [2.5, 97.5])
  return float(gain.mean()), float(low), float(high)
