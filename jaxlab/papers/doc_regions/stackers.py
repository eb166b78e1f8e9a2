"""Meta-classifiers on the log-probabilities of several networks.

D. H. Wolpert. Stacked generalization. Neural Networks 5, 1992. The kinds:

  mean      mean of the probabilities                   nothing is fitted
  log_mean  mean of the log-probabilities, normalised   nothing is fitted
  convex    for each class, weights of the regions that are at least 0 and sum
            to 1; normalised over classes
  logistic  multinomial logistic regression
  mlp       one hidden layer with dropout, stopped early on pages held out

The paper's is a network of unknown size on probabilities; log-probabilities do
not saturate. All fits are penalised towards the mean of the log-probabilities,
or, of `convex`, towards equal weights.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.optimize
from scipy.special import log_softmax, logsumexp

from jaxlab.core.errors import InputError

KINDS = ('mean', 'log_mean', 'convex', 'logistic', 'mlp')
_FLOOR = -20.0  # log-probabilities below it are taken for it


class Stacker:
  """A meta-classifier with `fit` and `predict_log_proba`.

  Args:
    kind: of KINDS.
    penalty: of 'convex' and 'logistic', on the mean cross-entropy: half of it
      times the squared distance from the start.
    hidden, dropout, rate, steps: of 'mlp', with Adam on all pages at once.
    held: share of the groups that 'mlp' holds out to choose its step.
    seed: of 'mlp'.

  Raises:
    InputError: an unknown kind.
  """

  def __init__(
    self,
    kind: str,
    *,
    penalty: float = 1e-2,
    hidden: int = 256,
    dropout: float = 0.5,
    rate: float = 1e-3,
    steps: int = 400,
    held: float = 0.2,
    seed: int = 0,
  ):
    if kind not in KINDS:
      raise InputError(f'stacker "{kind}" is not one of {", ".join(KINDS)}')
    self.kind, self.penalty, self.seed = kind, penalty, seed
    self.hidden, self.dropout, self.rate = hidden, dropout, rate
    self.steps, self.held = steps, held
    self.weights: Any = None  # what was fitted
    self._shape: tuple[int, ...] = ()

  def fit(
    self, log_p: np.ndarray, y: np.ndarray, groups: np.ndarray | None = None
  ) -> 'Stacker':
    """Fits the meta-classifier.

    Args:
      log_p: [n, regions, classes] of pages that the networks were not trained
        on.
      y: [n] int labels.
      groups: [n] int, of pages that 'mlp' does not part; None: each its own.

    Raises:
      InputError: shapes that do not fit together, log-probabilities that are
        NaN or above 0, or a class without pages, which a fit cannot learn.
    """
    log_p, y = _checked(log_p), np.asarray(y)
    if y.shape != log_p.shape[:1]:
      raise InputError(
        f'{len(log_p)} pages have labels {y.shape}; give each one'
      )
    classes = log_p.shape[2]
    counts = np.bincount(y, minlength=classes)
    if len(counts) > classes:
      raise InputError(
        f'labels reach {y.max()} and there are {classes} classes'
      )
    if self.kind in ('convex', 'logistic', 'mlp') and not counts.all():
      raise InputError(
        f'stacker "{self.kind}" is to be fitted without a page of class '
        f'{int(counts.argmin())}; hold out more pages, or stack by "mean"'
      )
    self._shape = log_p.shape[1:]
    if self.kind == 'convex':
      self.weights = _fitted(partial(_convex, log_p, y), self.penalty, log_p)
    elif self.kind == 'logistic':
      self.weights = _fitted(partial(_linear, log_p, y), self.penalty, log_p)
    elif self.kind == 'mlp':
      groups = np.arange(len(y)) if groups is None else np.asarray(groups)
      self.weights = self._network(log_p, y, groups)
    return self

  def predict_log_proba(self, log_p: np.ndarray) -> np.ndarray:
    """[n, classes] float64 log-probabilities.

    Raises:
      InputError: it is not fitted, or for other regions or classes.
    """
    log_p = _checked(log_p)
    if self._shape != log_p.shape[1:]:
      raise InputError(
        f'stacker "{self.kind}" was fitted to [regions, classes] = '
        f'{list(self._shape)} and is given {list(log_p.shape[1:])}'
      )
    if self.kind == 'mean':
      return logsumexp(log_p, 1) - np.log(log_p.shape[1])
    if self.kind == 'log_mean':
      return log_softmax(log_p.mean(1), -1)
    if self.kind == 'convex':
      return _convex_log_p(log_p, self.weights)
    if self.kind == 'logistic':
      return log_softmax(_scores(log_p, self.weights), -1)
    logits = _mlp(self.weights, jnp.asarray(log_p, jnp.float32))
    return log_softmax(np.asarray(logits, np.float64), -1)

  def _network(self, log_p, y, groups):
    """The MLP's weights at the step that is best on the groups held out."""
    regions, classes = log_p.shape[1:]
    _, of = np.unique(groups, return_inverse=True)
    draw = np.random.default_rng(self.seed)
    apart = draw.permutation(of.max() + 1) < max(1, self.held * (of.max() + 1))
    inner = ~apart[of]
    if not inner.any():
      raise InputError('the mlp stacker holds out all pages; give it more')
    scale = np.sqrt(2 / (regions * classes))
    first = scale * draw.standard_normal((regions * classes, self.hidden))
    start = {
      'in': jnp.asarray(first, jnp.float32),
      'in_bias': jnp.zeros(self.hidden),
      'out': jnp.zeros((self.hidden, classes)),
      'out_bias': jnp.zeros(classes),
    }
    tx = optax.adam(self.rate)
    x, target = jnp.asarray(log_p, jnp.float32), jnp.asarray(y)

    def nats(weights, mask, keep):
      logits = _mlp(weights, x, keep)
      each = optax.losses.softmax_cross_entropy_with_integer_labels(
        logits, target
      )
      return (each * mask).sum() / mask.sum()

    @jax.jit
    def run(weights, inner, apart, key):
      def body(carry, key):
        weights, opt, best, chosen = carry
        kept = jax.random.bernoulli(
          key, 1 - self.dropout, (len(x), self.hidden)
        )
        grads = jax.grad(nats)(weights, inner, kept / (1 - self.dropout))
        updates, opt = tx.update(grads, opt)
        weights = optax.apply_updates(weights, updates)
        value = nats(weights, apart, 1.0)
        better = value < best
        chosen = jax.tree.map(
          lambda new, old: jnp.where(better, new, old), weights, chosen
        )
        return (weights, opt, jnp.minimum(value, best), chosen), None

      begin = (weights, tx.init(weights), nats(weights, apart, 1.0), weights)
      keys = jax.random.split(key, self.steps)
      return jax.lax.scan(body, begin, keys)[0][3]

    key = jax.random.key(self.seed)
    return run(
      start, inner.astype(np.float32), apart[of].astype(np.float32), key
    )


def _checked(log_p) -> np.ndarray:
  log_p = np.asarray(log_p, np.float64)
  if log_p.ndim != 3 or not log_p.size:
    raise InputError(
      f'log-probabilities are {log_p.shape}; give [pages, regions, classes]'
    )
  if np.isnan(log_p).any() or log_p.max() > 1e-4:
    raise InputError(
      'log-probabilities must be at most 0 and no NaN; give log_softmax of '
      'logits'
    )
  return np.maximum(log_p, _FLOOR)


def _mlp(weights, x, keep: Any = 1.0) -> jax.Array:
  """Logits: the mean of log-probabilities, and a network's correction."""
  hidden = jax.nn.relu(
    x.reshape(len(x), -1) / 5 @ weights['in'] + weights['in_bias']
  )
  return x.mean(1) + (hidden * keep) @ weights['out'] + weights['out_bias']


def _fitted(loss: Callable, penalty: float, log_p: np.ndarray) -> np.ndarray:
  """The minimum of loss(θ) -> (value, gradient) with a penalty on θ."""

  def objective(theta):
    value, grad = loss(theta)
    return value + penalty / 2 * theta @ theta, grad + penalty * theta

  regions, classes = log_p.shape[1:]
  size = regions * classes
  if loss.func is _linear:  # type: ignore[attr-defined]
    size = size * classes + classes
  return scipy.optimize.minimize(
    objective, np.zeros(size), jac=True, method='L-BFGS-B'
  ).x


def _scores(log_p: np.ndarray, theta: np.ndarray) -> np.ndarray:
  """Logits [n, c]: the mean of log-probabilities plus a linear map of them."""
  n, _, classes = log_p.shape
  matrix = theta[:-classes].reshape(-1, classes)
  return log_p.mean(1) + log_p.reshape(n, -1) @ matrix + theta[-classes:]


def _linear(log_p, y, theta):
  """Mean cross-entropy of `_scores`, and its gradient."""
  n, _, classes = log_p.shape
  found = log_softmax(_scores(log_p, theta), -1)
  error = (np.exp(found) - np.eye(classes)[y]) / n
  grad = log_p.reshape(n, -1).T @ error
  value = -found[np.arange(n), y].mean()
  return value, np.concatenate([grad.ravel(), error.sum(0)])


def _convex_log_p(log_p: np.ndarray, theta: np.ndarray) -> np.ndarray:
  """[n, c]: log Σ_r w_rc p_rc, normalised over c; w a softmax over r."""
  weights = log_softmax(theta.reshape(log_p.shape[1:]), 0)
  return log_softmax(logsumexp(log_p + weights, 1), -1)


def _convex(log_p, y, theta):
  """Mean cross-entropy of `_convex_log_p`, and its gradient."""
  n, regions, classes = log_p.shape
  weights = log_softmax(theta.reshape(regions, classes), 0)
  joint = log_p + weights
  scores = logsumexp(joint, 1)
  found = log_softmax(scores, -1)
  error = (np.exp(found) - np.eye(classes)[y]) / n
  # d score_c / d θ_rc = responsibility of region r less its weight.
  share = np.exp(joint - scores[:, None]) - np.exp(weights)
  grad = (error[:, None] * share).sum(0)
  return -found[np.arange(n), y].mean(), grad.ravel()
