"""Held-out accuracy of a classifier, clean and attacked."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from jaxlab.core.errors import InputError
from jaxlab.core.state import Evaluator
from jaxlab.ops.attack_objectives import checked_logits, wrong
from jaxlab.ops.attack_steps import Attack
from jaxlab.ops.intervals import wilson


def robust(
  apply: Callable[..., jax.Array],
  attacks: Mapping[str, Attack],
  seed: int = 0,
) -> Evaluator:
  """Accuracy on clean images, under each attack, and under the worst of them.

  Batches have `image` [b, …] float32 in [0, 1], `label` [b] int, `id` [b] int
  and the feed's `mask` [b] bool. An image counts as withstood if it is
  classified rightly and its attacked version too; attacked versions whose
  logits are not finite fool nobody, and are counted.

  Args:
    apply: (params, vars, batch) -> logits [b, k], without dropout.
    attacks: name -> attack(key, images, ids, params, vars, batch), for instance
      `pgd(adversarial.of_batch(apply), epsilon=8 / 255)`.
    seed: of the attacks' randomness. It is the same in every batch, since the
      examples' ids tell them apart, and so the figures do not depend on how
      the set is cut into batches.

  Returns:
    An Evaluator with `accuracy`, `<name>_accuracy` for each attack and
    `worst_accuracy`, all with `…_low` and `…_high` (95 %, Wilson),
    `<name>_nonfinite` and `examples`.

  Raises:
    ValueError: no attacks, or a name that is taken; while tracing, logits of a
      wrong shape.
    InputError: at the end, if the set was empty, pixels were outside of
      [0, 1], labels outside of [0, k), or clean logits were not finite or were
      probabilities.
  """
  taken = {'worst', 'clean', ''} & set(attacks)
  if not attacks or taken:
    raise ValueError(
      f'robust: attacks {sorted(attacks)} must be one or more, and not be '
      'called "worst" or "clean"'
    )
  counts = ('right', 'rows', 'pixels', 'labels', 'nonfinite', 'logits', 'worst')
  names = [*counts, *(f'{n}/right' for n in attacks)]
  names += [f'{n}/nonfinite' for n in attacks]

  def update(total, state, batch, key):
    del key
    mask, label, image = batch['mask'], batch['label'], batch['image']
    of = lambda images: checked_logits(
      apply(state.params, state.vars, {**batch, 'image': images}), label
    )
    logits = of(image)
    right = mask & (logits.argmax(-1) == label)
    found = {
      'right': right,
      'rows': mask,
      'pixels': mask & _outside(image),
      'labels': mask & ((label < 0) | (label >= logits.shape[1])),
      'nonfinite': mask & ~jnp.isfinite(logits).all(-1),
      'logits': mask & ~_probable(logits),
    }
    worst = right
    for stage, (name, attack) in enumerate(attacks.items()):
      craft = jax.random.fold_in(jax.random.key(seed), stage)
      args = (state.params, state.vars, batch)
      logits = of(attack(craft, image, batch['id'], *args))
      stands = right & ~wrong(logits, label)
      worst &= stands
      found[f'{name}/right'] = stands
      found[f'{name}/nonfinite'] = mask & ~jnp.isfinite(logits).all(-1)
    found['worst'] = worst
    return {n: total[n] + found[n].sum().astype(jnp.float32) for n in names}

  def finish(total):
    total = {name: float(value) for name, value in total.items()}
    _check(total)
    figures = {'examples': total['rows']}
    for name, count in [
      ('', 'right'),
      *((f'{n}_', f'{n}/right') for n in attacks),
      ('worst_', 'worst'),
    ]:
      low, high = wilson(total[count], total['rows'])
      figures[f'{name}accuracy'] = total[count] / total['rows']
      figures[f'{name}accuracy_low'] = low
      figures[f'{name}accuracy_high'] = high
    for name in attacks:
      figures[f'{name}_nonfinite'] = total[f'{name}/nonfinite']
    return figures

  return Evaluator(lambda: {n: jnp.zeros(()) for n in names}, update, finish)


def _check(total: dict[str, float]) -> None:
  rows = total['rows']
  if not rows:
    raise InputError('the held-out set has no examples; hold out more')
  for name, what in (
    ('pixels', 'pixels outside [0, 1]: divide by 255, and normalise in apply'),
    ('labels', 'labels outside [0, k) of the logits'),
    ('nonfinite', 'NaN or infinite logits when clean: mend the model first'),
  ):
    if total[name]:
      raise InputError(f'{total[name]:g} of {rows:g} examples have {what}')
  if not total['logits']:
    raise InputError(
      'apply returns probabilities (all rows are >= 0 and sum to 1); return '
      'the logits before the softmax, since a second softmax hides gradients'
    )


def _outside(image):
  axes = tuple(range(1, image.ndim))
  return ~((image >= 0) & (image <= 1)).all(axes)  # NaN is outside too


def _probable(logits):
  return (logits >= 0).all(-1) & (abs(logits.sum(-1) - 1) < 1e-3)
