"""Bayesian CNNs by Bayes by Backprop, with the divergence scaled right.

K. Shridhar, F. Laumann, M. Liwicki. A Comprehensive Guide to Bayesian
Convolutional Neural Network with Variational Inference. arXiv:1901.02731; also
K. Shridhar, F. Laumann, A. Llopart Maurin, M. Olsen, M. Liwicki, Bayesian
Convolutional Neural Networks with Variational Inference, arXiv:1806.05978.

Every weight of every layer is N(μ, σ²). With N training examples, the loss of
a batch is its mean nats plus (β / N) KL(q ‖ prior): β = 1 is the evidence lower
bound, whatever the batch, the number of draws or of devices.

  the cost F (Blundell et al., eq. 2)           elbo
  σ = log(1 + e^ρ); σ² = α μ²                   sigma_of_rho; sigma_of_alpha
  b = A∗μ + ε⊙√(A²∗(α⊙μ²))                      lrt
  the divergence from N(0, σ_p²)                gaussian_kl, kl
  other priors                                  priors.py
  β_i = 2^(M-i) / (2^M - 1)                     blundell_weights, beta_schedule
  predictive draws, aleatoric and epistemic     predict_mc, uncertainty
  pruning by |μ| / σ (Blundell, section 5.1)    signal_to_noise, pruned
  MOPED (Krishnan et al., arXiv:1906.05323)     moped
  Flipout (Wen et al., arXiv:1803.04386)        flipout
  IVON (arXiv:2402.17641)                       ivon

Departs from the paper:
- KL(q ‖ p). The official code computes KL(p ‖ q): 107.7 instead of 2.20 nats a
  weight at μ = 0, σ = softplus(-5), σ_p = .1.
- The divergence is weighted by β / N against mean nats. The official code adds
  β KL to N times mean nats with β = 2^(M-i) / (2^M - 1), M times too weak.
- Several draws average the nats, E_q[-log p]; the official code takes
  -log mean p.
- Prediction draws weights; the local reparameterisation is for training.
- No weight decay beside the divergence (`refuse_decay`): the prior is that.
Not here: super-resolution, the GAN, L1 pruning.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxlab.core.errors import InputError
from jaxlab.ops import variational
from jaxlab.ops.variational import (
  ard_kl,
  draw,
  flipout,
  gaussian_kl,
  log_uniform_kl,
  lrt,
  sample,
  sigma_of_alpha,
  sigma_of_rho,
)
from jaxlab.papers.bayes_cnn import uncertainty
from jaxlab.papers.bayes_cnn.ivon import (
  IvonState,
  ivon,
  ivon_noise,
  ivon_sigma,
)
from jaxlab.papers.bayes_cnn.priors import (
  Ard,
  Gaussian,
  LogUniform,
  Prior,
  ScaleMixture,
  kl,
  monte_carlo_kl,
)
from jaxlab.papers.bayes_cnn.uncertainty import entropy_split, variance_split

__all__ = [
  'Ard',
  'Gaussian',
  'IvonState',
  'LogUniform',
  'Prior',
  'ScaleMixture',
  'ard_kl',
  'beta_schedule',
  'blundell_weights',
  'check_posterior',
  'draw',
  'elbo',
  'entropy_split',
  'flipout',
  'gaussian_kl',
  'init',
  'ivon',
  'ivon_noise',
  'ivon_sigma',
  'kl',
  'log_uniform_kl',
  'lrt',
  'monte_carlo_kl',
  'moped',
  'optimizer',
  'predict_mc',
  'pruned',
  'refuse_decay',
  'sample',
  'sigma_of_alpha',
  'sigma_of_rho',
  'signal_to_noise',
  'uncertainty',
  'variance_split',
]

Tree = Any
Posterior = Mapping[str, Tree]  # {'mu': tree, 'rho' or 'log_alpha': tree}

RHO_LIMIT = 20.0  # |ρ| beyond which a posterior cannot be meant


def init(
  weights: Tree,
  rho0: float = -5.0,
  chosen: Callable[[str], bool] = lambda path: True,
) -> Posterior:
  """A posterior around some weights, all of one σ = softplus(rho0).

  Args:
    weights: of any network, nested mappings.
    chosen: 'conv1/kernel' -> whether it is Gaussian; the others are not.

  Raises:
    InputError: rho0 is not finite or beyond ±RHO_LIMIT.
  """
  _check_rho(rho0, 'rho0')
  return {
    'mu': weights,
    'rho': variational.constant(weights, rho0, chosen),
  }


def moped(weights: Tree, delta: float = 0.5) -> tuple[Posterior, Gaussian]:
  """A posterior and a prior of a trained network's weights.

  q = N(w, (δ |w|)²), prior N(w, 1); a weight of 0 gets the σ of 1e-6.

  Raises:
    InputError: delta <= 0.

  Source: Krishnan, Subedar, Tickoo 2020, section 3.
  """
  if not delta > 0:
    raise InputError(f'moped: delta = {delta} must be above 0')
  wide = lambda w: variational.rho_of_sigma(jnp.maximum(delta * abs(w), 1e-6))
  q = {'mu': weights, 'rho': jax.tree.map(wide, weights)}
  return q, Gaussian(1.0, weights)


def elbo(
  nll_mean: jax.Array, kl: jax.Array, n_train: int | None, beta: float = 1.0
) -> jax.Array:
  """The negative evidence lower bound of an example, in nats: ().

  nll_mean + β KL / N.

  Args:
    nll_mean: mean of -log p(y | x, w) over the examples of a batch, w drawn.
    kl: of all weights together.
    n_train: N, examples of the whole training set; neither the batch's nor a
      padded number.
    beta: >= 0; 1 is the bound, less is a cold posterior.

  Raises:
    InputError: n_train is missing or below 1.
  """
  return nll_mean + kl_weight(n_train, beta) * kl


def kl_weight(n_train: int | None, beta=1.0):
  """β / N: what the divergence weighs against mean nats. See `elbo`."""
  if n_train is None or isinstance(n_train, bool) or not n_train >= 1:
    raise InputError(
      f'n_train = {n_train}: the divergence is divided by the number of '
      'training examples; give that of the training split'
    )
  return beta / n_train


def check_n_train(n_train: int | None, examples: int) -> None:
  """Raises InputError unless n_train is the number of examples trained on."""
  kl_weight(n_train)
  if n_train is not None and n_train != examples:
    raise InputError(
      f'n_train = {n_train}, and the training split has {examples} examples: '
      f'the divergence would weigh {examples / n_train:.3g} times what it '
      f'should; make it {examples}'
    )


def refuse_decay(weight_decay: float, beta: float = 1.0) -> None:
  """Raises InputError for a weight decay beside a divergence."""
  if weight_decay and beta:
    raise InputError(
      f'weight_decay = {weight_decay} on variational parameters beside a '
      "divergence counts the prior twice; make it 0 and set the prior's width "
      f'(N(0, s²) is a decay of 1 / (N s²))'
    )


def blundell_weights(M: int) -> np.ndarray:
  """π_i = 2^(M-i) / (2^M - 1), i = 1 … M: [M] float64, summing to 1.

  As 2^(-i) / (1 - 2^(-M)), which overflows for no M.

  >>> blundell_weights(2).round(4).tolist()
  [0.6667, 0.3333]

  Raises:
    InputError: M < 1.

  Source: Blundell et al., section 3.4.
  """
  if M < 1:
    raise InputError(f'blundell_weights: M = {M} batches must be at least 1')
  return np.exp2(-np.arange(1.0, M + 1)) / -np.expm1(-M * math.log(2))


def beta_schedule(
  name: str, batches: int, warmup_epochs: float = 0.0, beta: float = 1.0
) -> optax.Schedule:
  """Updates done -> β of `elbo`.

  constant  β
  blundell  β M π_i in batch i of an epoch of M, of mean β: nearly all of the
            divergence falls on the first batches
  warmup    β min(epoch / warmup_epochs, 1) (Sønderby et al. 2016)

  Args:
    batches: M of an epoch.

  Raises:
    InputError: an unknown name, M < 1, or no epochs to warm up in.
  """
  if name == 'constant':
    return lambda step: jnp.full((), beta, jnp.float32)
  if name == 'blundell':
    weights = np.float32(beta * batches * blundell_weights(batches))
    return lambda step: jnp.asarray(weights)[step % batches]
  if name == 'warmup':
    if not warmup_epochs > 0 or batches < 1:
      raise InputError(
        f'warmup_epochs = {warmup_epochs} of {batches} batches must be above 0'
      )
    updates = warmup_epochs * batches
    return lambda step: beta * jnp.minimum(step / updates, 1.0)
  raise InputError(
    f'beta schedule "{name}" is not one of constant, blundell, warmup'
  )


def optimizer(
  mean: optax.GradientTransformation, spread: optax.GradientTransformation
) -> optax.GradientTransformation:
  """One transform for 'mu', another for 'rho' or 'log_alpha'."""
  label = lambda q: {k: 'mean' if k == 'mu' else 'spread' for k in q}
  return optax.multi_transform({'mean': mean, 'spread': spread}, label)


def predict_mc(
  apply: Callable[[Tree, Any], jax.Array],
  q: Posterior,
  x: Any,
  key: jax.Array,
  T: int,
) -> jax.Array:
  """Log-probabilities under T draws of all weights: [T, n, k] float32.

  Draw t follows from (key, t) alone, so that batches of one set and any T
  share their draws.

  Args:
    apply: (weights, x) -> logits [n, k].
    T: at least 1; a Python loop.

  Raises:
    InputError: T < 1, or a posterior that is not finite.
  """
  if T < 1:
    raise InputError(f'T = {T} draws of the weights; give at least 1')
  check_posterior(q)
  found = [
    jax.nn.log_softmax(apply(draw(jax.random.fold_in(key, t), q), x))
    for t in range(T)
  ]
  return jnp.stack(found).astype(jnp.float32)


def check_posterior(q: Posterior) -> None:
  """Raises InputError where ρ is not finite or beyond ±RHO_LIMIT.

  Under `jit` nothing is looked at: the engine's law on steps that are not
  finite holds there.
  """
  for kind in ('rho', 'log_alpha'):
    for path, leaf in jax.tree_util.tree_leaves_with_path(q.get(kind, {})):
      if not isinstance(leaf, jax.core.Tracer):
        name = jax.tree_util.keystr(path, simple=True, separator='/')
        values = np.asarray(leaf)
        # What is not a number is the worst.
        worst = values.flat[np.argmax(np.nan_to_num(abs(values), nan=np.inf))]
        _check_rho(float(worst), f'{kind} of {name}')


def _check_rho(value: float, name: str) -> None:
  if not abs(value) <= RHO_LIMIT:
    raise InputError(
      f'{name} = {value} is not within ±{RHO_LIMIT:g}: deviations overflow or '
      'vanish; begin at about -5 and lower the rate'
    )


def signal_to_noise(q: Posterior) -> Tree:
  """|μ| / σ of every Gaussian weight, >= 0."""
  sigma = variational.sigmas(q)
  mu = variational.means(q, sigma)
  return jax.tree.map(lambda m, s: jnp.abs(m) / s, mu, sigma)


def pruned(q: Posterior, share: float) -> Posterior:
  """The posterior with the share of least |μ| / σ at 0, all layers together.

  Those weights get μ = 0 and the least σ that is still looked at, so that draws
  leave them at 0 too.

  Args:
    share: in [0, 1).

  Raises:
    InputError: another share.

  Source: Blundell et al., section 5.1.
  """
  if not 0 <= share < 1:
    raise InputError(f'pruned: share = {share} must be in [0, 1)')
  if 'rho' not in q:
    raise InputError('pruned: wants deviations as rho; σ² = α μ² vanish with μ')
  ratio = signal_to_noise(q)
  flat = jnp.concatenate([x.ravel() for x in jax.tree.leaves(ratio)])
  cut = jnp.sort(flat)[int(share * len(flat))]
  keep = jax.tree.map(lambda x: x >= cut, ratio)
  return {
    'mu': variational.over(
      lambda m, k: jnp.where(k, m, 0.0), q['mu'], keep, whole=True
    ),
    'rho': jax.tree.map(
      lambda r, k: jnp.where(k, r, -RHO_LIMIT), q['rho'], keep
    ),
  }
