"""Figures of a generator's samples, on the host in float64.

  frechet_distance     M. Heusel et al., arXiv:1706.08500, section 3
  kernel_distance      M. Binkowski et al., arXiv:1801.01401, section 4
  precision_recall     T. Kynkaanniemi et al., arXiv:1904.06991, eq. 1
  grid_modes           Z. Lin et al. (PacGAN), arXiv:1712.04086; N.-T. Tran et
                       al., arXiv:1803.08887
  stacked_modes        L. Metz et al., arXiv:1611.02163, section 3.3
  nearest_distances, latent_map

Distances are between features [n, d] of a network, which is to be named
beside each of them: numbers of two networks, or of other numbers of samples,
are not comparable. Every figure that a perfect sampler would not bring to its
end has that floor or ceiling beside it.
"""

import math
from typing import NamedTuple

import numpy as np
import scipy.ndimage
from sklearn.neighbors import NearestNeighbors

GRID = np.array([(x, y) for x in (-4, -2, 0, 2, 4) for y in (-4, -2, 0, 2, 4)])
GRID_SIGMA = 0.05  # of each of the 25 Gaussians
_BLOCK = 1000  # rows of a kernel matrix at once


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
  """Frechet distance of two Gaussians with the moments of two sets.

    |m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a^1/2 S_b S_a^1/2)^1/2)

  with covariances divided by n - 1. With S = R'R of the centred features' QR
  decomposition the last trace is the nuclear norm of R_a R_b', so that no
  covariance is squared and the distance of a set to itself is 0 to rounding.

  Args:
    a: [n, d] floating, n > d; 10 d and more for a small bias.
    b: [m, d] floating, m > d.

  Returns:
    float64 >= 0, in squared units of the features.

  Raises:
    ValueError: other shapes, not finite, or no more samples than features.

  >>> x = np.random.default_rng(0).normal(size=(50, 3))
  >>> round(frechet_distance(x, x + np.array([1, 2, 0])), 9)
  5.0
  """
  a, b = _features('frechet_distance', a, b)
  size = a.shape[1]
  for rows in (len(a), len(b)):
    if rows <= size:
      raise ValueError(
        f'frechet_distance: {rows} samples of {size} features have no full '
        f'covariance; give more than {size}, better {10 * size}, or features '
        'of a narrower layer'
      )
  means = a.mean(0), b.mean(0)
  roots = [
    np.asarray(np.linalg.qr(x - mean, mode='r')) / math.sqrt(len(x) - 1)
    for x, mean in zip((a, b), means)
  ]
  cross = np.linalg.norm(roots[0] @ roots[1].T, ord='nuc')
  traces = sum(float((root**2).sum()) for root in roots)
  apart = float(((means[0] - means[1]) ** 2).sum())
  return max(0.0, apart + traces - 2 * float(cross))


def kernel_distance(a: np.ndarray, b: np.ndarray) -> float:
  """Squared maximum mean discrepancy under (x.y / d + 1)^3, unbiased.

  Unlike the Frechet distance its mean does not depend on the numbers of
  samples; it may be below 0.

  Args:
    a: [n, d] floating, n >= 2.
    b: [m, d] floating, m >= 2.

  Raises:
    ValueError: other shapes, not finite, or one sample alone.
  """
  a, b = _features('kernel_distance', a, b)
  if min(len(a), len(b)) < 2:
    raise ValueError('kernel_distance: needs at least 2 samples of each set')

  def total(x, y):
    return sum(
      float(((x[i : i + _BLOCK] @ y.T / x.shape[1] + 1) ** 3).sum())
      for i in range(0, len(x), _BLOCK)
    )

  def within(x):
    itself = float((((x**2).sum(1) / x.shape[1] + 1) ** 3).sum())
    return (total(x, x) - itself) / (len(x) * (len(x) - 1))

  return within(a) + within(b) - 2 * total(a, b) / (len(a) * len(b))


def precision_recall(
  real: np.ndarray, fake: np.ndarray, neighbours: int = 3
) -> tuple[float, float]:
  """Shares of fakes among the reals, and of reals among the fakes.

  A point is among a set if it lies within the distance from one of its points
  to that point's k-th neighbour in the set.

  Args:
    real: [n, d] floating, n > k; the work grows with n m d.
    fake: [m, d] floating, m > k.
    neighbours: k.

  Returns:
    precision, recall in [0, 1].

  Raises:
    ValueError: other shapes, not finite, or too few samples.
  """
  real, fake = _features('precision_recall', real, fake)
  if min(len(real), len(fake)) <= neighbours:
    raise ValueError(
      f'precision_recall: needs more than {neighbours} samples of each set'
    )

  def within(points, of):
    index = NearestNeighbors(n_neighbors=neighbours + 1, algorithm='brute')
    radius = index.fit(of).kneighbors(of)[0][:, -1]  # the first is itself
    inside = np.zeros(len(points), bool)
    for start in range(0, len(points), _BLOCK):
      part = points[start : start + _BLOCK]
      square = (part**2).sum(1)[:, None] + (of**2).sum(1) - 2 * part @ of.T
      inside[start : start + _BLOCK] = (square <= radius**2).any(1)
    return float(inside.mean())

  return within(fake, real), within(real, fake)


def nearest_distances(samples: np.ndarray, train: np.ndarray) -> np.ndarray:
  """Euclidean distance of each sample to the nearest training example.

  Beside those of held-out examples they tell a generator that memorises: its
  samples lie nearer than new examples do.

  Args:
    samples: [n, …] floating, pixels or features.
    train: [m, …] floating.

  Returns:
    [n] float64.

  Raises:
    ValueError: other shapes, or not finite.
  """
  flat = [np.reshape(x, (len(x), -1)) for x in (samples, train)]
  x, of = _features('nearest_distances', *flat)
  index = NearestNeighbors(n_neighbors=1, algorithm='brute').fit(of)
  return index.kneighbors(x)[0][:, 0].astype(np.float64)


class Modes(NamedTuple):
  """How samples spread over modes."""

  registered: int  # samples that count
  share: float  # of all samples
  covered: int  # modes that have enough of them
  kl: float  # of their histogram to the uniform one, nats; NaN without any
  ceiling: float  # the share of a perfect sampler
  kl_floor: float  # the divergence of a perfect sampler, on average


def grid_modes(points: np.ndarray) -> dict[str, Modes]:
  """The 25 Gaussians that points of the plane fall on, by two conventions.

    'gaan'    within 2 sqrt(2) sigma of a centre; a mode is covered if 1 % of
              all points are on it (theirs: 20 of 2,000)
    'pacgan'  within 3 sigma; a mode is covered if one point is on it

  A perfect sampler has 1 - e^-4 = .9817 and 1 - e^-4.5 = .9889 of its points
  there.

  Args:
    points: [n, 2] floating, in units of the data: centres {-4, -2, 0, 2, 4}^2,
      sigma .05.

  Raises:
    ValueError: another shape. A point that is not finite is on no mode.
  """
  points = np.asarray(points, np.float64)
  if points.ndim != 2 or points.shape[1] != 2 or not len(points):
    raise ValueError(f'grid_modes: points {points.shape} must be [n, 2]')
  square = ((points[:, None] - GRID) ** 2).sum(-1)
  nearest, square = square.argmin(1), square.min(1)
  found = {}
  rules = {'gaan': (8.0, max(1.0, len(points) / 100)), 'pacgan': (9.0, 1.0)}
  for name, (limit, least) in rules.items():
    on = square < limit * GRID_SIGMA**2
    counts = np.bincount(nearest[on], minlength=len(GRID))
    ceiling = 1 - math.exp(-limit / 2)
    found[name] = Modes(
      int(on.sum()),
      float(on.mean()),
      int((counts >= least).sum()),
      histogram_kl(counts),
      ceiling,
      kl_floor(len(GRID), ceiling * len(points)),
    )
  return found


def histogram_kl(counts: np.ndarray, prior: np.ndarray | None = None) -> float:
  """KL divergence of a histogram to a distribution, in nats.

  Args:
    counts: [k] >= 0.
    prior: [k] probabilities; default: uniform.

  Returns:
    0 to log k if the prior is uniform; NaN without any counts.
  """
  counts = np.asarray(counts, np.float64)
  if not counts.sum():
    return math.nan
  p = counts / counts.sum()
  q = np.full(len(p), 1 / len(p)) if prior is None else np.asarray(prior)
  some = p > 0
  return float((p[some] * np.log(p[some] / q[some])).sum())


def kl_floor(modes: int, samples: float) -> float:
  """Mean of `histogram_kl` of a perfect sampler: (modes - 1) / (2 samples).

  To first order, where there are several samples a mode.
  """
  return (modes - 1) / (2 * samples)


def stacked_modes(
  probabilities: np.ndarray, confidence: float = 0.0
) -> dict[str, float]:
  """Modes of images of several digits, one a channel.

  Args:
    probabilities: [n, channels, classes] of a classifier on each channel.
    confidence: images are left out whose least sure channel is below.

  Returns:
    `modes` that occur, of classes^channels; `kl` to the uniform distribution;
    `kl_floor`, that of a perfect sampler of as many images; `images` that
    count; `confidence`, the mean largest probability of all channels.

  Raises:
    ValueError: another shape, or not finite.
  """
  p = np.asarray(probabilities, np.float64)
  if p.ndim != 3 or not np.isfinite(p).all():
    raise ValueError(
      f'stacked_modes: probabilities {p.shape} must be finite [n, c, k]'
    )
  channels, classes = p.shape[1:]
  sure = p.max(-1)
  kept = p[sure.min(1) >= confidence].argmax(-1)
  places = classes ** np.arange(channels)[::-1]
  counts = np.bincount(kept @ places, minlength=classes**channels)
  floor = kl_floor(len(counts), len(kept)) if len(kept) else math.nan
  return {
    'modes': float((counts > 0).sum()),
    'kl': histogram_kl(counts),
    'kl_floor': floor,
    'images': float(len(kept)),
    'confidence': float(sure.mean()),
  }


class LatentMap(NamedTuple):
  """What a plane of latent codes is mapped to, by class."""

  areas: np.ndarray  # [k] shares of the plane
  kl: float  # of the areas to the classes' frequencies, nats
  components: np.ndarray  # [k] connected regions of each class
  boundary: float  # length of all borders, in sides of the plane


def latent_map(labels: np.ndarray, frequencies: np.ndarray) -> LatentMap:
  """Figures of a map of classes over a square of latent codes.

  A generator that keeps its modes has areas like the classes' frequencies and
  few regions; one that has collapsed has few classes, or many borders.

  Args:
    labels: [r, r] int in [0, k), the class of G(z) at each place of a grid.
    frequencies: [k] of the classes among real images, > 0.

  Raises:
    ValueError: another shape.
  """
  labels = np.asarray(labels)
  if labels.ndim != 2 or labels.shape[0] != labels.shape[1]:
    raise ValueError(f'latent_map: labels {labels.shape} must be [r, r]')
  side, classes = len(labels), len(frequencies)
  counts = np.bincount(labels.ravel(), minlength=classes)
  prior = np.asarray(frequencies, np.float64)
  regions = [scipy.ndimage.label(labels == k)[1] for k in range(classes)]
  steps = sum(int((np.diff(labels, axis=axis) != 0).sum()) for axis in range(2))
  return LatentMap(
    counts / labels.size,
    histogram_kl(counts, prior / prior.sum()),
    np.array(regions),
    steps / side,
  )


def _features(name: str, *sets: np.ndarray) -> list[np.ndarray]:
  """The sets as float64 [n, d].

  Raises:
    ValueError: other shapes, or not finite.
  """
  found = [np.asarray(x, np.float64) for x in sets]
  shapes = [x.shape for x in found]
  if (
    any(len(s) != 2 or not s[0] for s in shapes) or shapes[0][1] != shapes[1][1]
  ):
    raise ValueError(
      f'{name}: features {shapes[0]} and {shapes[1]} must be [n, d] and [m, d]'
    )
  for x, word in zip(found, ('first', 'second')):
    bad = ~np.isfinite(x).all(1)
    if bad.any():
      raise ValueError(
        f'{name}: {bad.sum()} of {len(x)} samples of the {word} set have '
        f'features that are not finite, the first at row {bad.argmax()}; look '
        'for a diverged generator'
      )
  return found
