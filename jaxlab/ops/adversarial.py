"""Adversarial training as a combinator of losses.

  objective = of_batch(apply)             # running statistics, say
  attack = pgd(objective, epsilon=8 / 255, steps=7, keep='last')
  update = minimise(adversarial_loss(loss, attack), 'net', tx)

FGSM-, PGD- and ensemble training differ in the attack alone:

  fgsm(objective, epsilon=e)                              Goodfellow et al. 2015
  pgd(objective, epsilon=e, steps=1, step_size=1.25 * e,
      keep='last')                                        Wong et al. 2020
  pgd(objective, epsilon=e, steps=7, keep='last')         Madry et al. 2018
  [fgsm(of_batch(net), …), fgsm(of_batch(other), …), …]   Tramèr et al. 2018

The other networks of an ensemble are further entries of `params`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxlab.ops.attack_objectives import (
  Criterion,
  Objective,
  checked_logits,
  nats,
)
from jaxlab.ops.attack_steps import Attack, along, example_keys

Loss = Callable[..., Any]  # (params, vars, batch, key) -> what training sums


def of_batch(
  apply: Callable[..., jax.Array],
  criterion: Criterion = nats,
  image: str = 'image',
  label: str = 'label',
) -> Objective:
  """The objective of an attack on a task's own batch.

  Args:
    apply: (params, vars, batch) -> logits [b, k]; it decides which statistics
      a normalisation takes.
    criterion: (logits [b, k] float32, labels [b]) -> [b], to be maximised.
    image: name of the images in the batch.
    label: name of the labels.

  Returns:
    objective(images, params, vars, batch) -> [b] float32.
  """

  def objective(images, params, vars, batch):
    logits = apply(params, vars, {**batch, image: images})
    return criterion(checked_logits(logits, batch[label]), batch[label])

  return objective


def adversarial_loss(
  loss: Loss,
  attack: Attack | Sequence[Attack],
  *,
  mix: float = 0.0,
  image: str = 'image',
  index: str = 'id',
) -> Loss:
  """The loss on attacked images.

  The attack is called as `attack(key, images, ids, params, vars, batch)`. No
  gradient flows through it, and it changes nothing but the images: what the
  loss returns in `vars` comes from its own pass alone.

  Args:
    loss: (params, vars, batch, key) -> Objective of the engine.
    attack: one attack, or several of which each step takes one, evenly.
    mix: share of the rows that stay clean, drawn anew for each row and step.
    image: name of the images in the batch, [b, …] float32 in [0, 1].
    index: name of the global example numbers, [b] int.

  Returns:
    A loss of the same type.

  Raises:
    ValueError: no attacks, or a share outside of [0, 1); when traced, a batch
      without such entries.
  """
  attacks = [attack] if callable(attack) else list(attack)
  if not attacks:
    raise ValueError('adversarial_loss: needs at least one attack')
  if not 0 <= mix < 1:
    raise ValueError(
      f'adversarial_loss: mix is the share of clean rows, in [0, 1); got {mix}'
    )

  def attacked(params, vars, batch: Mapping[str, Any], key):
    for name in (image, index):
      if name not in batch:
        raise ValueError(
          f'adversarial_loss: the batch has no {name!r}; it has {sorted(batch)}'
        )
    craft, choose, keep, train = jax.random.split(key, 4)
    clean, ids = batch[image], batch[index]
    fixed = jax.tree.map(lax.stop_gradient, (params, vars, dict(batch)))
    which = jax.random.randint(choose, (), 0, len(attacks))
    branches = [lambda a=a: a(craft, clean, ids, *fixed) for a in attacks]
    images = (
      branches[0]() if len(branches) == 1 else lax.switch(which, branches)
    )
    images = lax.stop_gradient(images)
    if mix:
      draws = jax.vmap(jax.random.uniform)(example_keys(keep, ids))
      images = jnp.where(along(draws < mix, images), clean, images)
    return loss(params, vars, {**batch, image: images}, train)

  return attacked
