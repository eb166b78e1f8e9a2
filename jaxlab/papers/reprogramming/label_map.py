"""h_g: which of the victim's classes stand for a label of the task."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxlab.core.errors import InputError

IMAGENET = 1000

Group = Sequence[int]


def first_groups(tasks: int, first: int = 0) -> list[tuple[int, ...]]:
  """The paper's h_g: label j is class j of the victim alone.

  Args:
    first: the victim's first class; 1 where logit 0 is a background class.
  """
  return [(first + label,) for label in range(tasks)]


def check_groups(
  groups: Sequence[Group], tasks: int, classes: int, first: int = 0
) -> None:
  """Checks a label map h_g.

  Args:
    groups: the classes of each label of the task.
    tasks: labels of the task.
    classes: logits of the victim.
    first: index of the victim's first class.

  Raises:
    InputError: not one set for each label, an empty one, a class that is in
      two, one that the victim does not have, or 1,001 logits of which the
      first is taken for a class.
  """
  if classes == IMAGENET + 1 and first != 1:
    raise InputError(
      f'the victim has {classes} logits, of which the first is a background '
      'class: ImageNet class j is logit j + 1; set victim.first_class = 1'
    )
  if len(groups) != tasks:
    raise InputError(
      f'the label map has {len(groups)} sets of classes, the task {tasks} '
      'labels: give one set for each'
    )
  seen: dict[int, int] = {}
  for label, group in enumerate(groups):
    if not len(group):
      raise InputError(f'label {label} has no class: give it at least one')
    for one in group:
      if not first <= one < classes:
        raise InputError(
          f'label {label} has class {one}; the victim has {first} to '
          f'{classes - 1}'
        )
      if seen.setdefault(one, label) != label:
        raise InputError(
          f'class {one} is in the sets of labels {seen[one]} and {label}: a '
          'class can stand for one label only'
        )


def mapped_log_probability(
  logits: jax.Array, groups: Sequence[Group] | jax.Array
) -> jax.Array:
  """log P(h_g(y) | X_adv): the log of the summed probabilities of each set.

  Probabilities are over all classes, also those in no set.

  Args:
    logits: [b, classes] floating; computed in float32.
    groups: the classes of each label; an array [tasks, m] may be traced.

  Returns:
    [b, tasks] float32, at most 0.

  Source: the objective, and the text on h_g.
  """
  every = jax.nn.log_softmax(logits.astype(jnp.float32))
  classes, there = _table(groups)
  each = jnp.where(there, every[:, classes], -jnp.inf)
  return jax.nn.logsumexp(each, axis=-1)


def _table(groups):
  """Classes as [tasks, m], sets filled up to the largest; which are there."""
  if isinstance(groups, jax.Array):
    return groups, np.ones(groups.shape, bool)
  sizes = np.array([len(group) for group in groups])
  there = np.arange(sizes.max()) < sizes[:, None]
  classes = np.zeros(there.shape, np.int32)
  classes[there] = np.concatenate([np.asarray(group) for group in groups])
  return classes, there


def predictions(
  logits: jax.Array, groups: Sequence[Group] | jax.Array, strict: bool = False
) -> jax.Array:
  """The task's label of each image, [b] int32.

  Args:
    strict: of the likeliest of all classes, -1 where that is in no set; else
      of the likeliest set.
  """
  likeliest = mapped_log_probability(logits, groups).argmax(-1)
  if not strict:
    return likeliest.astype(jnp.int32)
  classes, there = _table(groups)
  top = logits.argmax(-1)[:, None, None]
  of_top = ((classes == top) & there).any(-1)
  return jnp.where(of_top.any(-1), of_top.argmax(-1), -1).astype(jnp.int32)


def frequency_map(counts: jax.Array) -> jax.Array:
  """A class for each label: the most frequent pairs first, no class twice.

  With no counts it is the paper's map, label j to class j.

  Args:
    counts: [tasks, classes], how often the victim gave images of a label a
      class.

  Returns:
    [tasks] int32.

  Source: Chen et al., arXiv:2211.11635; theirs is drawn up anew each epoch.
  """
  tasks, classes = counts.shape

  def pair(_, carry):
    left, found = carry
    label, of = jnp.divmod(left.argmax(), classes)
    left = left.at[label].set(-1).at[:, of].set(-1)
    return left, found.at[label].set(of.astype(jnp.int32))

  left = jnp.asarray(counts, jnp.float32)
  none = jnp.zeros(tasks, jnp.int32)
  return lax.fori_loop(0, tasks, pair, (left, none))[1]


def dead_targets(
  logits: jax.Array, groups: Sequence[Group] | jax.Array
) -> jax.Array:
  """[b] float32, the share of sets of which every logit is exactly 0."""
  classes, there = _table(groups)
  dead = ((logits[:, classes] == 0) | ~there).all(-1)
  return dead.mean(-1, dtype=jnp.float32)
