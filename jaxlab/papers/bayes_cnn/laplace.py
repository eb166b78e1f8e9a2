"""Laplace's approximation of a trained network's last layer.

A. Kristiadi, M. Hein, P. Hennig, ICML 2020; E. Daxberger et al., "Laplace
Redux", NeurIPS 2021, arXiv:2106.14806. With features φ (and a 1 for the bias),
logits θφ and a prior N(0, 1/δ), the posterior is N(θ*, (H + δ I)^-1):

  H = Σ_n (diag(p_n) - p_n p_nᵀ) ⊗ φ_n φ_nᵀ   curvature (Gauss-Newton, exact
                                               for a linear layer)
  log p(D | δ) up to a constant, eq. 4         log_evidence, best_precision
  draws of θ                                   Laplace.draw
"""

from typing import NamedTuple

import numpy as np
import scipy.linalg
import scipy.optimize

from jaxlab.core.errors import InputError

MOST = 6000  # weights of a last layer: H is a whole matrix
_RANGE = (1e-4, 1e6)  # of prior precisions


class Laplace(NamedTuple):
  """N(θ*, (H + δ I)^-1) over the weights of a last layer, class by class."""

  mean: np.ndarray  # [k, d + 1] float64, the bias last
  factor: np.ndarray  # lower Cholesky factor of H + δ I
  precision: float  # δ

  def draw(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A draw of (kernel [d, k], bias [k]), float32."""
    flat = scipy.linalg.solve_triangular(
      self.factor, rng.standard_normal(self.mean.size), lower=True, trans=1
    )
    theta = (self.mean + flat.reshape(self.mean.shape)).astype(np.float32)
    return theta[:, :-1].T, theta[:, -1]


def curvature(features: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
  """H, summed over the examples: [k (d + 1), k (d + 1)] float64.

  Args:
    features: [n, d], the inputs of the last layer.
    probabilities: [n, k].

  Raises:
    InputError: a last layer of more than MOST weights.
  """
  n, k = probabilities.shape
  phi = np.concatenate([features, np.ones((n, 1))], 1).astype(np.float32)
  p = probabilities.astype(np.float32)
  d = phi.shape[1]
  if k * d > MOST:
    raise InputError(
      f'laplace: a last layer of {k * d} weights, and its whole curvature is '
      f'kept: at most {MOST}; leave the arm out'
    )
  found = np.zeros((k, d, k, d))
  for i in range(k):
    for j in range(i, k):
      weight = p[:, i] * ((i == j) - p[:, j])
      found[i, :, j] = found[j, :, i] = (phi * weight[:, None]).T @ phi
  return found.reshape(k * d, k * d)


def log_evidence(
  eigenvalues: np.ndarray, squares: float, precision: float
) -> float:
  """log p(D | δ) less what does not depend on δ, in nats.

  -½ δ ‖θ*‖² + ½ P log δ - ½ Σ log(λ + δ)

  Args:
    eigenvalues: [P] of H, >= 0.
    squares: ‖θ*‖².
    precision: δ > 0.
  """
  gained = len(eigenvalues) * np.log(precision)
  lost = np.log(eigenvalues + precision).sum()
  return float((gained - lost - precision * squares) / 2)


def best_precision(hessian: np.ndarray, mean: np.ndarray) -> float:
  """The δ of the largest evidence within [1e-4, 1e6]."""
  values = np.maximum(np.linalg.eigvalsh(hessian), 0.0)
  found = scipy.optimize.minimize_scalar(
    lambda x: -log_evidence(values, float((mean**2).sum()), np.exp(x)),
    bounds=np.log(_RANGE),
    method='bounded',
  )
  return float(np.exp(found.x))


def fit(
  features: np.ndarray,
  probabilities: np.ndarray,
  kernel: np.ndarray,
  bias: np.ndarray,
  precision: float = 0.0,
) -> Laplace:
  """The posterior of a trained last layer.

  Args:
    features: [n, d] of all training examples.
    probabilities: [n, k], the network's.
    kernel, bias: [d, k] and [k], θ*.
    precision: δ; 0: by the evidence.

  Raises:
    InputError: as of `curvature`.
  """
  hessian = curvature(features, probabilities)
  mean = np.concatenate([kernel, bias[None]]).T.astype(np.float64)
  precision = precision or best_precision(hessian, mean)
  hessian[np.diag_indices(len(hessian))] += precision
  return Laplace(mean, np.linalg.cholesky(hessian), precision)
