"""ALOE: out-of-distribution detection that holds under attack.

J. Chen, Y. Li, X. Wu, Y. Liang, S. Jha. Robust Out-of-distribution Detection
for Neural Networks. AAAI-22 workshop on Adversarial Machine Learning.
arXiv:2003.09711.

A classifier is trained on images x of its own distribution (ID) with labels y
and on outliers o without. With CE the cross-entropy, U the uniform target, λ a
weight and [·]* the worst perturbation in an L∞ ball of radius ε:

  original  CE(x, y)
  adv       CE(x*, y)                  Madry et al. 2018
  oe        CE(x, y)  + λ CE(o, U)     Hendrycks, Mazeika, Dietterich 2019
  aoe       CE(x*, y) + λ CE(o, U)
  aloe      CE(x*, y) + λ CE(o*, U)    the paper's objective
  acet      CE(x, y)  + λ CE(o½, U)    half of the outliers attacked; as in ATOM

  the paper's objective, family members   FAMILY, robust_loss
  its training attack, ⌊255 ε⌋ + 1 steps  attack_steps
  informative outliers (ATOM)             informative

Detectors are in jaxlab/ops/detection.py and mahalanobis.py, attacks on them in
jaxlab/ops/score_attacks.py.

Departs from the paper:
- The random start of an attack moves at ε = 1/255. In the official code it is
  truncated to integers of 1/255, so to 0.
- Attacks look at running statistics of batch normalisation and change none;
  the official code attacks in training mode, where six passes a step move
  them. `robust_loss` takes whichever the attack was made of.
- Outliers are mined among the candidates of each row, not in a pool that is
  scored once an epoch (see `informative`).
"""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxlab.core.state import Loss, Objective
from jaxlab.ops.attack_objectives import nats
from jaxlab.ops.attack_steps import Attack
from jaxlab.ops.detection import uniform_cross_entropy


class Terms(NamedTuple):
  """What a member of the family trains on."""

  attack_inliers: bool
  outliers: bool
  attack_outliers: float  # share of each row's outliers, the last ones


FAMILY: Mapping[str, Terms] = {
  'original': Terms(False, False, 0.0),
  'adv': Terms(True, False, 0.0),
  'oe': Terms(False, True, 0.0),
  'aoe': Terms(True, True, 0.0),
  'aloe': Terms(True, True, 1.0),
  'acet': Terms(False, True, 0.5),
}

Forward = Callable[..., tuple[jax.Array, dict]]
Mine = Callable[..., jax.Array]


def attack_steps(epsilon: float) -> int:
  """Steps of 1/255 of the training attack: ⌊255 ε⌋ + 1.

  >>> attack_steps(1 / 255), attack_steps(8 / 255)
  (2, 9)

  Source: the paper (reported, unverified); the official code takes 2 at 1/255.
  """
  return math.floor(255 * epsilon + 1e-6) + 1


def robust_loss(
  forward: Forward,
  terms: Terms,
  *,
  attack_inliers: Attack | None = None,
  attack_outliers: Attack | None = None,
  weight: float = 0.5,
  mine: Mine | None = None,
) -> Loss:
  """The loss of a member of the family.

  Batches have
    image: [b, h, w, c] float32 in [0, 1]
    label: [b] int32
    id: [b] int32
    mask: [b] bool
  and, if the member wants outliers, r to a row, so that every part of the
  batch has the same ratio of ID images to outliers on whatever device it lies:
    outlier: [b, r, h, w, c] float32 in [0, 1]
    outlier_id: [b, r] int32

  Args:
    forward: (params, vars, images [n, h, w, c], mask=[n] bool) -> (logits
      [n, k], new vars), in training mode; rows that are not in the mask change
      no statistics.
    terms: of FAMILY.
    attack_inliers: attack(key, images, ids, labels, params, vars).
    attack_outliers: attack(key, images, ids, params, vars).
    weight: λ.
    mine: (images [b, R, …], params, vars) -> [b, R] confidence that they are
      outliers, after `informative`; None takes the outliers as they come.

  Returns:
    A loss whose metrics are `accuracy`, `nats` and `outlier_nats`, of attacked
    images where the member attacks them.

  Raises:
    ValueError: an attack that the terms need is missing, or λ is negative.

  Source: the paper's eq. of robust training; its code for λ = 0.5.
  """
  if terms.attack_inliers and attack_inliers is None:
    raise ValueError('robust_loss: these terms need attack_inliers')
  if terms.attack_outliers and attack_outliers is None:
    raise ValueError('robust_loss: these terms need attack_outliers')
  if not 0 <= weight < math.inf:
    raise ValueError(f'robust_loss: weight must be a number >= 0, got {weight}')

  def loss(params, vars, batch, key):
    craft_in, craft_out = jax.random.split(key)
    fixed = jax.lax.stop_gradient((params, vars))
    labels, mask = batch['label'], batch['mask']
    # A masked row may hold anything, NaN too.
    real = lambda x: jnp.where(mask.reshape(-1, *[1] * (x.ndim - 1)), x, 0)
    images, labels = real(batch['image']), real(labels)
    rows = mask.sum().astype(jnp.float32)
    if terms.attack_inliers and attack_inliers is not None:
      images = attack_inliers(craft_in, images, batch['id'], labels, *fixed)
    images = images[:, None]
    if terms.outliers:
      outliers, ids = real(batch['outlier']), batch['outlier_id']
      if mine is not None:
        outliers, ids = mine(outliers, ids, *fixed)
      outliers = _attacked(
        terms, attack_outliers, craft_out, outliers, ids, fixed
      )
      images = jnp.concatenate([images, outliers], 1)
    images = jax.lax.stop_gradient(images)
    each = images.shape[1]
    flat = images.reshape(-1, *images.shape[2:])
    logits, new = forward(params, vars, flat, mask=jnp.repeat(mask, each))
    logits = logits.astype(jnp.float32).reshape(-1, each, logits.shape[-1])
    own = jnp.where(mask, nats(logits[:, 0], labels), 0.0)
    right = (logits[:, 0].argmax(-1) == labels) & mask
    metrics = {
      'accuracy': (right.sum().astype(jnp.float32), rows),
      'nats': (own.sum(), rows),
    }
    total = own.sum()
    if terms.outliers:
      wide = logits[:, 1:].reshape(-1, logits.shape[-1])
      far = uniform_cross_entropy(wide).reshape(-1, each - 1).mean(-1)
      far = jnp.where(mask, far, 0.0).sum()
      total = total + weight * far
      metrics['outlier_nats'] = (far, rows)
    return Objective(total, rows, vars=new, metrics=metrics)

  return loss


def _attacked(terms, attack, key, outliers, ids, fixed):
  """The last `terms.attack_outliers` of each row's outliers, attacked."""
  each = outliers.shape[1]
  count = round(terms.attack_outliers * each)
  if not count:
    return outliers
  kept, chosen = outliers[:, : each - count], outliers[:, each - count :]
  flat = chosen.reshape(-1, *chosen.shape[2:])
  found = attack(key, flat, ids[:, each - count :].reshape(-1), *fixed)
  return jnp.concatenate([kept, found.reshape(chosen.shape)], 1)


def informative(
  confidence: Callable[..., jax.Array], keep: int, quantile: float
) -> Mine:
  """Outliers that the network takes for ID images, rather than easy ones.

  Of the R candidates of each row, sorted by the confidence that they are
  outliers, those of the ranks ⌊q (R - r)⌋ … + r - 1 stay; q = 0 takes the
  hardest. Every row mines for itself, so that nothing is gathered from other
  devices and a resumed run needs no pool.

  Args:
    confidence: (images [n, …], params, vars) -> [n], higher = surer outlier.
    keep: r >= 1.
    quantile: q in [0, 1].

  Returns:
    (outliers [b, R, …], ids [b, R], params, vars) -> ([b, r, …], [b, r]).

  Raises:
    ValueError: q or r out of range; when traced, fewer than r candidates.

  Source: ATOM (Chen et al., arXiv:2006.15207), which sorts a pool of 400,000
  once an epoch and takes the ranks qN … qN + 2 |Din|.
  """
  if not 0 <= quantile <= 1 or keep < 1:
    raise ValueError(
      f'informative: quantile {quantile} must be in [0, 1], keep {keep} >= 1'
    )

  def mine(outliers, ids, params, vars):
    candidates = outliers.shape[1]
    if candidates < keep:
      raise ValueError(
        f'informative: {candidates} candidates a row, {keep} to keep'
      )
    flat = outliers.reshape(-1, *outliers.shape[2:])
    sure = confidence(flat, params, vars).reshape(-1, candidates)
    first = math.floor(quantile * (candidates - keep))
    chosen = jnp.argsort(sure, 1)[:, first : first + keep]
    take = chosen.reshape(*chosen.shape, *[1] * (outliers.ndim - 2))
    return (
      jnp.take_along_axis(outliers, take, 1),
      jnp.take_along_axis(ids, chosen, 1),
    )

  return mine
