"""LAMB and LARS as optax transformations, with one trust ratio per layer.

Yang You, Jing Li, Sashank Reddi, Jonathan Hseu, Sanjiv Kumar, Srinadh
Bhojanapalli, Xiaodan Song, James Demmel, Kurt Keutzer, Cho-Jui Hsieh. "Large
Batch Optimization for Deep Learning: Training BERT in 76 minutes". ICLR 2020,
arXiv 1904.00962.

Both descend, for every layer i (a parameter tensor),

  x_i <- x_i - η φ(‖x_i‖) / ‖u_i‖ u_i

where u_i is Adam's direction plus decay (LAMB) or momentum (LARS).

  paper                                  here
  Algorithm 1 (LARS)                     lars(order='paper')
  You, Gitman, Ginsburg 2017 (LARS)      lars(order='you2017'), as optax.lars
  Algorithm 2 (LAMB)                     lamb(variant='lamb')
  without bias correction (appendix)     lamb(bias_correction=False)
  N-LAMB, NN-LAMB (appendix)             lamb(variant='n_lamb' | 'nn_lamb')
  φ                                      phi
  L1, L2, L∞ layer norms (appendix)      norm_ord
  the direction alone, without η         scale_by_lamb
  leaves kept from decay, adaptation     layers.default_decay_mask
  one layer of a scanned model           layers.layer_axes_from
  warm-up and polynomial decay           schedules.warmup_polynomial

Not here: the convergence theorems, the square-root rule for learning rates (a
config's business), the global-norm clip that the BERT recipe puts first (write
`optax.chain(optax.clip_by_global_norm(1.0), lamb(…))`), second-stage restarts
(a second stage with its own schedule).

Departs from the paper: a layer with zero weights or a zero update takes ratio
1, the rule of the authors' code, or it would never move.
Departs from the paper: with `layer_axes` a layer is a slice of a stacked leaf,
so that a scanned model takes the updates of the unscanned one.
Departs from the paper: `lars` multiplies the ratio by `trust_coefficient` and
adds `eps` to its denominator, as the 2017 LARS; 1 and 0 leave Algorithm 1.

Under `jax.jit` with sharded arrays every norm is over the whole layer; inside
`jax.shard_map` it would be over the local shard only: do not use it there.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxlab.papers.lamb.layers import (
  Layers,
  PerLeaf,
  Tree,
  check_number,
  check_one_of,
  default_decay_mask,
  layer_axes_from,
  path_name,
  spread,
)
from jaxlab.papers.lamb.schedules import warmup_polynomial

__all__ = [
  'LambState',
  'LarsState',
  'default_decay_mask',
  'lamb',
  'lars',
  'layer_axes_from',
  'scale_by_lamb',
  'trust_ratios',
  'warmup_polynomial',
]


class LambState(NamedTuple):
  """State of `lamb`."""

  step: jax.Array  # () int32, completed updates
  mu: Tree  # as the parameters, float32 or float64 or mu_dtype: EMA of g
  nu: Tree  # as the parameters, float32 or float64: EMA of g²
  ratios: jax.Array  # [layers of all leaves] float32: see `trust_ratios`


class LarsState(NamedTuple):
  """State of `lars`."""

  step: jax.Array  # () int32, completed updates
  momentum: Tree  # as the parameters, float32 or float64
  ratios: jax.Array  # [layers of all leaves] float32: see `trust_ratios`


def lamb(
  learning_rate: optax.ScalarOrSchedule,
  b1: float = 0.9,
  b2: float = 0.999,
  eps: float = 1e-6,
  weight_decay: optax.ScalarOrSchedule = 0.01,
  *,
  decay_mask: PerLeaf = None,
  adapt_mask: PerLeaf = None,
  bias_correction: bool = True,
  phi: tuple[float, float] | Callable | None = None,
  layer_axes: PerLeaf = None,
  norm_ord: float | None = None,
  variant: str = 'lamb',
  trust_clip: tuple[float, float] | None = None,
  grad_averaging: bool = True,
  decoupled_decay: bool = False,
  mu_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
  """LAMB: Adam's direction plus decay, rescaled per layer to its weights' norm.

    m_t = b1 m_{t-1} + (1 - b1) g,    v_t = b2 v_{t-1} + (1 - b2) g²
    u = m̂ / (√v̂ + eps) + weight_decay x
    x <- x - η φ(‖x‖) / ‖u‖ u,    ratio 1 where ‖x‖ = 0 or ‖u‖ = 0

  with m̂ = m_t / (1 - b1^t) and v̂ = v_t / (1 - b2^t), t = 1, 2, …; the
  denominators are 1 without `bias_correction`. The Nesterov variants look one
  step ahead, as Nadam does: 'n_lamb' takes

    m̂ = b1 m_t / (1 - b1^(t+1)) + (1 - b1) g / (1 - b1^t)

  and 'nn_lamb' also v̂ = b2 v_t / (1 - b2^(t+1)) + (1 - b2) g² / (1 - b2^t).
  That the paper's appendix has them, and that the norm matters little there,
  is reported, unverified; so are their exact constants.

  Every number but norm_ord may be traced: `optax.inject_hyperparams(lamb)`, a
  `vmap` over the decay; a traced one is not checked.

  Moments and norms are float32, float64 for float64 parameters, whatever the
  dtype of the gradients; the update comes back in the dtype of the parameter.
  Non-finite gradients give non-finite updates. With both masks None this is
  `optax.lamb` (whose weight_decay defaults to 0). No clipping is inside: chain
  `optax.clip_by_global_norm` before it.

  Args:
    learning_rate: η >= 0, or a schedule of the number of completed updates
      (the first update sees 0).
    b1: decay of m, in [0, 1).
    b2: decay of v, in [0, 1).
    eps: added to √v̂, >= 0. At 0 a zero gradient gives NaN.
    weight_decay: λ >= 0, or a schedule as the rate's; inside the normalised
      update unless `decoupled_decay`.
    decay_mask: tree (or prefix tree) of bools as the parameters, or a callable
      of them: True where λ acts. None: everywhere. The published rule is
      `default_decay_mask`.
    adapt_mask: the same for the trust ratio; a leaf left out has ratio 1.
      None: every leaf adapts. The published rule is `default_decay_mask`.
    bias_correction: divide the moments by 1 - b^t.
    phi: None, the identity; (lower, upper), to which ‖x‖ is clipped; or a
      callable on the float array of norms, shape leaf.shape[:layer_axes].
    layer_axes: tree (or prefix tree) of ints as the parameters, or a callable
      of them: how many leading axes of a leaf enumerate layers, each with its
      own ratio. None: 0. For scanned models see `layer_axes_from`.
    norm_ord: 1, 2 or inf: the vector norm, over a layer's flattened axes.
      None: 2.
    variant: 'lamb', 'n_lamb' or 'nn_lamb'.
    trust_clip: None, or (lower, upper) to which φ(‖x‖) / ‖u‖ is clipped, as
      DeepSpeed's coefficients and, as (0, 1), timm's; the ratio of a zero norm
      stays 1.
    grad_averaging: False: m_t = b1 m_{t-1} + g, an option of apex.
    decoupled_decay: x <- x - η (ratio u + λ x), with no decay in u, an option
      of timm.
    mu_dtype: the dtype that m is kept in. None: as v's.

  Returns:
    A gradient transformation; `update` needs the parameters, and leaves
    further arguments alone.

  Raises:
    ValueError: an argument is out of range, or does not fit the parameters.

  Source: Algorithm 2; the variants, the appendix.
  """
  _check_rate('learning_rate', learning_rate)
  return _lamb(
    lambda step: -_at(learning_rate, step),
    b1,
    b2,
    eps,
    weight_decay,
    variant,
    bias_correction,
    grad_averaging,
    decoupled_decay,
    mu_dtype,
    Layers(decay_mask, adapt_mask, layer_axes, phi, norm_ord, trust_clip),
  )


def scale_by_lamb(
  b1: float = 0.9,
  b2: float = 0.999,
  eps: float = 1e-6,
  weight_decay: optax.ScalarOrSchedule = 0.01,
  *,
  decay_mask: PerLeaf = None,
  adapt_mask: PerLeaf = None,
  bias_correction: bool = True,
  phi: tuple[float, float] | Callable | None = None,
  layer_axes: PerLeaf = None,
  norm_ord: float | None = None,
  variant: str = 'lamb',
  trust_clip: tuple[float, float] | None = None,
  grad_averaging: bool = True,
  decoupled_decay: bool = False,
  mu_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
  """The direction of `lamb`, ratio u, which is still to be scaled by -η.

  Arguments, errors and what is returned: as `lamb`'s.
  """
  return _lamb(
    lambda step: 1.0,
    b1,
    b2,
    eps,
    weight_decay,
    variant,
    bias_correction,
    grad_averaging,
    decoupled_decay,
    mu_dtype,
    Layers(decay_mask, adapt_mask, layer_axes, phi, norm_ord, trust_clip),
  )


def _lamb(
  factor,
  b1,
  b2,
  eps,
  weight_decay,
  variant,
  bias_correction,
  grad_averaging,
  decoupled_decay,
  mu_dtype,
  layers,
):
  """`lamb` with what its direction is multiplied by, a function of the step."""
  b1 = check_number('b1', b1, below=1.0)
  b2 = check_number('b2', b2, below=1.0)
  eps = check_number('eps', eps)
  _check_rate('weight_decay', weight_decay)
  check_one_of('variant', variant, ('lamb', 'n_lamb', 'nn_lamb'))
  share = 1 - b1 if grad_averaging else 1.0

  def init(params):
    plan, step = layers.plan(params), jnp.zeros((), jnp.int32)
    return LambState(step, plan.zeros(mu_dtype), plan.zeros(), plan.ones())

  def correction(decay, step):
    return _one_minus_power(decay, step) if bias_correction else 1.0

  def update(grads, state, params=None, **extra):
    del extra
    plan = layers.plan(params)
    step = optax.safe_increment(state.step)
    times, decay = factor(state.step), _at(weight_decay, state.step)
    now1, now2 = correction(b1, step), correction(b2, step)
    next1, next2 = correction(b1, step + 1), correction(b2, step + 1)

    def leaf(rule, x, g, m, v):
      dtype, at = v.dtype, lambda c: jnp.asarray(c, v.dtype)
      kept = m.dtype
      weights, g, m = x.astype(dtype), g.astype(dtype), m.astype(dtype)
      m = at(b1) * m + at(share) * g
      v = at(b2) * v + at(1 - b2) * g * g
      if variant == 'lamb':
        m_hat = m / at(now1)
      else:
        m_hat = at(b1) * m / at(next1) + at(share) * g / at(now1)
      if variant == 'nn_lamb':
        v_hat = at(b2) * v / at(next2) + at(1 - b2) * g * g / at(now2)
      else:
        v_hat = v / at(now2)
      u = m_hat / (jnp.sqrt(v_hat) + at(eps))
      if rule.decay and not decoupled_decay:
        u = u + at(decay) * weights
      ratio = layers.ratio(weights, u, rule)
      u = spread(ratio, u) * u
      if rule.decay and decoupled_decay:
        u = u + at(decay) * weights
      change = at(times) * u
      return change.astype(x.dtype), m.astype(kept), v, ratio

    moments = state.mu, state.nu
    updates, mu, nu, ratios = plan.map(leaf, 3, grads, *moments)
    return updates, LambState(step, mu, nu, ratios)

  return optax.GradientTransformationExtraArgs(init, update)


def lars(
  learning_rate: optax.ScalarOrSchedule,
  momentum: float = 0.9,
  weight_decay: optax.ScalarOrSchedule = 0.0,
  trust_coefficient: float | None = None,
  order: str = 'paper',
  *,
  eps: float = 0.0,
  nesterov: bool = False,
  decay_mask: PerLeaf = None,
  adapt_mask: PerLeaf = None,
  phi: tuple[float, float] | Callable | None = None,
  layer_axes: PerLeaf = None,
  norm_ord: float | None = None,
  trust_clip: tuple[float, float] | None = None,
  separate_norms: bool = False,
  outer_rate: bool = False,
) -> optax.GradientTransformationExtraArgs:
  """LARS: momentum, rescaled per layer to its weights' norm.

  With d = g + weight_decay x, β the momentum and c the trust coefficient,
  order='paper' normalises after an averaging momentum,

    m_t = β m_{t-1} + (1 - β) d,    x <- x - η c φ(‖x‖) / (‖m_t‖ + eps) m_t

  and order='you2017' before a summing one, which so remembers past rates,

    m_t = β m_{t-1} - η c φ(‖x‖) / (‖d‖ + eps) d,    x <- x + m_t

  The ratio (everything between η and the direction) is 1 where ‖x‖ = 0 or the
  direction is 0, and on leaves that do not adapt. With masks off 'you2017' is
  `optax.lars`. Precision, clipping and the other arguments: as in `lamb`.

  Args:
    learning_rate: η >= 0, or a schedule of the number of completed updates.
    momentum: β in [0, 1).
    weight_decay: λ >= 0.
    trust_coefficient: c >= 0. None: 1 for 'paper', 0.001 for 'you2017'.
    order: 'paper' or 'you2017'.
    eps: added to the norm of the direction, >= 0.
    nesterov: 'you2017' only: step by β m_t - η c φ(‖x‖) / (‖d‖ + eps) d.
    decay_mask: True where λ acts. None: everywhere.
    adapt_mask: True where the trust ratio acts. None: everywhere.
    phi: None, (lower, upper) or a callable.
    layer_axes: leading axes of each leaf that enumerate layers. None: 0.
    norm_ord: 1, 2 or inf. None: 2.
    trust_clip: None, or (lower, upper) of the ratio, as in `lamb`.
    separate_norms: 'you2017' only: the denominator is ‖g‖ + λ‖x‖ + eps, as the
      2017 report prints it, not ‖d‖ + eps.
    outer_rate: 'you2017' only: the rate stays out of the momentum,
      m_t = β m_{t-1} + ratio d, x <- x - η m_t, as in torch's SGD; the two
      differ where η changes.

  Returns:
    A gradient transformation; `update` needs the parameters, and leaves
    further arguments alone.

  Raises:
    ValueError: an argument is out of range, or does not fit the parameters.

  Source: Algorithm 1; order='you2017', arXiv 1708.03888.
  """
  _check_rate('learning_rate', learning_rate)
  beta = check_number('momentum', momentum, below=1.0)
  _check_rate('weight_decay', weight_decay)
  check_one_of('order', order, ('paper', 'you2017'))
  if trust_coefficient is None:
    trust_coefficient = 1.0 if order == 'paper' else 0.001
  scale = check_number('trust_coefficient', trust_coefficient)
  eps = check_number('eps', eps)
  if order == 'paper':
    for name, value in (
      ('nesterov', nesterov),
      ('separate_norms', separate_norms),
      ('outer_rate', outer_rate),
    ):
      if value:
        raise ValueError(
          f"{name} is True with order='paper': Algorithm 1 has no such form; "
          f"use order='you2017' or {name}=False"
        )
  layers = Layers(decay_mask, adapt_mask, layer_axes, phi, norm_ord, trust_clip)

  def init(params):
    plan, step = layers.plan(params), jnp.zeros((), jnp.int32)
    return LarsState(step, plan.zeros(), plan.ones())

  def update(grads, state, params=None, **extra):
    del extra
    plan = layers.plan(params)
    rate = _at(learning_rate, state.step)
    decay = _at(weight_decay, state.step)

    def leaf(rule, x, g, m):
      at = lambda c: jnp.asarray(c, m.dtype)
      eta, b, c = at(rate), at(beta), (at(scale), at(eps))
      weights, g = x.astype(m.dtype), g.astype(m.dtype)
      d = g + at(decay) * weights if rule.decay else g
      if order == 'paper':
        m = b * m + (1 - b) * d
        ratio = layers.ratio(weights, m, rule, *c)
        change = -eta * spread(ratio, m) * m
      else:
        if separate_norms:
          share = at(decay) if rule.decay else 0.0
          ratio = layers.ratio(weights, g, rule, *c, share)
        else:
          ratio = layers.ratio(weights, d, rule, *c)
        inner, outer = (at(1.0), -eta) if outer_rate else (-eta, at(1.0))
        step = inner * spread(ratio, d) * d
        m = b * m + step
        change = outer * (b * m + step if nesterov else m)
      return change.astype(x.dtype), m, ratio

    updates, trace, ratios = plan.map(leaf, 2, grads, state.momentum)
    step = optax.safe_increment(state.step)
    return updates, LarsState(step, trace, ratios)

  return optax.GradientTransformationExtraArgs(init, update)


def trust_ratios(opt_state: Tree, layer_axes: PerLeaf = None) -> Tree:
  """What the last update of `lamb` or `lars` multiplied each layer by.

  Args:
    opt_state: an optimizer state with one LAMB or LARS state somewhere in it.
    layer_axes: what the optimizer was given.

  Returns:
    A tree as the parameters; leaf.shape[:layer_axes] float32 each. 1 before
    the first update, for leaves that do not adapt and for zero norms; the
    trust coefficient of `lars` is included.

  Raises:
    ValueError: there is no such state, or more than one; `layer_axes` are not
      those of the optimizer.
  """
  ours = lambda node: isinstance(node, LambState | LarsState)
  nodes = jax.tree_util.tree_flatten_with_path(opt_state, is_leaf=ours)[0]
  found = {path_name(path): node for path, node in nodes if ours(node)}
  if len(found) != 1:
    where = ', '.join(repr(path) for path in found) or 'none'
    raise ValueError(
      f'opt_state holds {len(found)} LAMB or LARS states (at: {where}); give a '
      'part of the state that holds exactly one'
    )
  state = next(iter(found.values()))
  moments = state.mu if isinstance(state, LambState) else state.momentum
  return Layers(layer_axes=layer_axes).plan(moments).apart(state.ratios)


def _check_rate(name, value):
  """Raises ValueError where a number or a schedule can be neither."""
  if not callable(value):
    check_number(name, value)


def _at(value, step):
  return value(step) if callable(value) else value


def _one_minus_power(decay, step):
  """1 - decay^step, to full precision: in float32 the plain expression loses
  four digits at decay = 0.999, step = 1."""
  traced = isinstance(decay, jax.core.Tracer)
  if not traced and decay == 0:
    return 1.0
  log: Any = jnp.log(decay) if traced else math.log(decay)
  return -jnp.expm1(jnp.asarray(step, float) * log)
