"""IVON: variational learning by an optimizer, as an optax transform.

Y. Shen, N. Daheim, B. Cong, P. Nickl, G. M. Marconi, C. Bazan, R. Yokota,
I. Gurevych, D. Cremers, M. E. Khan, T. Möllenhoff. Variational Learning is
Effective for Large Deep Networks. ICML 2024, arXiv:2402.17641.

  tx = ivon(0.1, ess=50_000)
  state = tx.init(mean)
  for key in keys:
    noise = ivon_noise(key, state)
    grads = jax.grad(loss)(jax.tree.map(jnp.add, mean, noise))  # mean loss
    updates, state = tx.update(grads, state, mean, noise=noise)
    mean = optax.apply_updates(mean, updates)

The posterior is N(mean, 1 / (N (h + δ))), N = `ess`, δ = `weight_decay`:

  algorithm 1, line 1   ivon_noise
  lines 2 to 8          ivon

Departs from the paper: nothing known; bias is taken out of the momentum alone,
as in the official code.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxlab.core.errors import InputError
from jaxlab.ops import variational

Tree = Any


class IvonState(NamedTuple):
  """The posterior's precision, and what the updates carry."""

  step: jax.Array  # () int32, updates done
  momentum: Tree  # as the weights, float32
  hessian: Tree  # h, as the weights, float32
  ess: jax.Array  # () float32, N
  weight_decay: jax.Array  # () float32, δ


def ivon(
  learning_rate: optax.ScalarOrSchedule,
  ess: float,
  *,
  hess_init: float = 1.0,
  beta1: float = 0.9,
  beta2: float = 0.99999,
  weight_decay: float = 1e-4,
  clip_radius: float = math.inf,
  rescale_lr: bool = True,
) -> optax.GradientTransformationExtraArgs:
  """Improved variational online Newton.

  With g the gradient of the mean loss at mean + n, n the noise:

    ĥ = N (h + δ) n g
    m ← β1 m + (1 - β1) g
    h ← β2 h + (1 - β2) ĥ + ½ (1 - β2)² (h - ĥ)² / (h + δ)
    mean ← mean - lr (h0 + δ) clip[(m / (1 - β1^t) + δ mean) / (h + δ), ±ξ]

  Args:
    learning_rate: of a mean loss; .1 is a good start.
    ess: N > 0, the effective sample size: training examples.
    hess_init: h0 > 0.
    weight_decay: δ >= 0, the prior's precision over N: part of the posterior,
      unlike a weight decay beside a divergence.
    clip_radius: ξ > 0.
    rescale_lr: False leaves out the factor h0 + δ of the rate.

  Returns:
    A transform whose `update(grads, state, mean, noise=…)` wants the noise at
    which the gradient was taken. Of several draws, or on several devices with
    noise of their own: the mean gradient, and `product`= the mean of noise x
    gradient, in place of `noise`.

  Raises:
    InputError: a number that cannot be; at trace time, neither noise nor
      product, or no weights.
  """
  for name, value, good in (
    ('ess', ess, 0 < ess < math.inf),
    ('hess_init', hess_init, 0 < hess_init < math.inf),
    ('weight_decay', weight_decay, 0 <= weight_decay < math.inf),
    ('beta1', beta1, 0 <= beta1 < 1),
    ('beta2', beta2, 0 <= beta2 < 1),
    ('clip_radius', clip_radius, clip_radius > 0),
  ):
    if not good:
      raise InputError(
        f'ivon: {name} = {value} cannot be; ess, hess_init and clip_radius are '
        'above 0, weight_decay is at least 0, betas are in [0, 1)'
      )

  def init(params):
    full = lambda value: jax.tree.map(
      lambda x: jnp.full(jnp.shape(x), value, jnp.float32), params
    )
    return IvonState(
      jnp.zeros((), jnp.int32),
      full(0.0),
      full(hess_init),
      jnp.float32(ess),
      jnp.float32(weight_decay),
    )

  def update(
    updates, state, params=None, *, noise=None, product=None, **unused
  ):
    del unused
    if params is None or (noise is None) == (product is None):
      raise InputError(
        'ivon: update(grads, state, mean, noise=…) wants the mean weights and '
        'either the noise of ivon_noise or product='
      )
    if product is None:
      product = jax.tree.map(jnp.multiply, noise, updates)
    step = state.step + 1
    decayed = lambda a, b, beta: beta * a + (1 - beta) * b
    momentum = jax.tree.map(
      lambda m, g: decayed(m, g, beta1), state.momentum, updates
    )

    def curved(h, product):
      found = ess * (h + weight_decay) * product
      more = (1 - beta2) ** 2 * (h - found) ** 2 / (h + weight_decay)
      return decayed(h, found, beta2) + more / 2

    hessian = jax.tree.map(curved, state.hessian, product)
    rate = learning_rate
    if callable(learning_rate):
      rate = learning_rate(state.step)
    rate = rate * (hess_init + weight_decay if rescale_lr else 1.0)
    debias = 1 - beta1 ** step.astype(jnp.float32)

    def moved(mean, m, h):
      newton = (m / debias + weight_decay * mean) / (h + weight_decay)
      change = -rate * jnp.clip(newton, -clip_radius, clip_radius)
      return change.astype(mean.dtype)

    found = jax.tree.map(moved, params, momentum, hessian)
    return found, state._replace(step=step, momentum=momentum, hessian=hessian)

  return optax.GradientTransformationExtraArgs(init, update)


def ivon_sigma(state: IvonState) -> Tree:
  """The posterior's deviations, 1 / √(N (h + δ))."""
  return jax.tree.map(
    lambda h: jax.lax.rsqrt(state.ess * (h + state.weight_decay)),
    state.hessian,
  )


def ivon_noise(key: jax.Array, state: IvonState) -> Tree:
  """A draw of the posterior less its mean."""
  sigma = ivon_sigma(state)
  return jax.tree.map(jnp.multiply, sigma, variational.normals(key, sigma))
