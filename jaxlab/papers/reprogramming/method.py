"""Adversarial reprogramming: one image that makes a network do another task.

G. F. Elsayed, I. Goodfellow, J. Sohl-Dickstein. Adversarial Reprogramming of
Neural Networks. ICLR 2019. arXiv:1806.11146.

A frozen classifier of images X in [-1, 1], n x n, does a task on small images
x, k x k, once a program P surrounds them. W are the weights, the only thing
that learns; M is 0 where x sits and 1 elsewhere; h_g gives each label of the
task a set of the classifier's classes.

  P = tanh(W ⊙ M)                      program, mask_around
  X_adv = X̃ + P, X̃ = x in zeros        embed, place
  P(h_g(y) | X_adv)                    mapped_log_probability
  -log P(h_g(y) | X_adv) + λ ‖W‖²      reprogramming_loss, penalty
  the task of counting squares         counting_squares
  shuffled pixels                      pixel_order, shuffle
  programs of few pixels               mask_around(width=…)
  of a small scale                     embed(alpha=…)
  hidden in an ordinary image          embed(carrier=…)

The paper's formulas have no numbers that could be checked here.
Of others: batch statistics for random networks, `calibrate_batch_stats`
(Englert and Lazić, arXiv:2206.03466), and label maps by frequency,
`frequency_map` (Chen et al., arXiv:2211.11635).

Departs from the paper:
- λ ‖W‖² may be a mean over W (the default) or half the sum. As a sum over all
  pixels, at the paper's λ, it is hundreds of times the cross-entropy.
- W starts where the caller says; the paper does not say.
- Carriers are in [-1, 1] like all images here, so that α is twice that of
  images in [0, 1].
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxlab.engine.errors import InputError
from jaxlab.engine.state import Loss, Objective

RANGE = (-1.0, 1.0)  # of images with a program: that of tanh
IMAGENET = 1000
GRID = 4  # cells on a side of an image of squares
COUNTS = 10  # 1 to 10 squares

Group = Sequence[int]
# (batch) -> x [b, k, k, c] float32 in [-1, 1], labels [b] int
Read = Callable[[Any], tuple[jax.Array, jax.Array]]
# (images [b, n, n, c] in [-1, 1], params, vars) -> logits [b, classes]
Logits = Callable[..., jax.Array]


# --- the program and its place ---


def window(n: int, k: int) -> slice:
  """The rows, and columns, of a k x k image in the middle of n x n pixels.

  Where n - k is odd, one more row is below it than above.

  Raises:
    InputError: the image is larger than what is around it.
  """
  if not 0 < k < n:
    raise InputError(
      f'images of {k} x {k} pixels do not fit into a hole in {n} x {n}: make '
      "the victim's images larger (victim.size), or the data smaller"
    )
  first = (n - k) // 2
  return slice(first, first + k)


def mask_around(
  n: int, k: int, channels: int = 3, width: int | None = None
) -> np.ndarray:
  """M: 0 in the k x k hole, 1 around it.

  Args:
    width: pixels of the frame that is 1; farther out it is 0 again. None: all
      around.

  Returns:
    [n, n, channels] float32, 0 or 1.

  Raises:
    InputError: the data does not fit; a frame of no width.
  """
  hole = window(n, k)
  mask = np.ones((n, n, channels), np.float32)
  if width is not None:
    if width < 1:
      raise InputError(f'a program of {width} pixels around: take 1 or more')
    mask[:] = 0
    outer = slice(max(0, hole.start - width), min(n, hole.stop + width))
    mask[outer, outer] = 1
  mask[hole, hole] = 0
  return mask


def program(weights: jax.Array, mask: jax.Array | np.ndarray) -> jax.Array:
  """P = tanh(W ⊙ M), 0 in the hole.

  Args:
    weights: W, [n, n, c] float32.
    mask: M, [n, n, c], 0 or 1.

  Returns:
    [n, n, c] float32 in (-1, 1).

  Source: the definition of P.
  """
  return jnp.tanh(weights * mask)


def place(x: jax.Array, n: int) -> jax.Array:
  """X̃: x [b, k, k, c] in the middle of zeros, [b, n, n, c].

  Raises:
    InputError: x is larger.
  """
  hole = window(n, x.shape[1])
  around = (hole.start, n - hole.stop)
  return jnp.pad(x, ((0, 0), around, around, (0, 0)))


def embed(
  x: jax.Array,
  weights: jax.Array,
  mask: jax.Array | np.ndarray,
  alpha: float = 1.0,
  permutation: jax.Array | None = None,
  carrier: jax.Array | None = None,
  clip: tuple[float, float] = RANGE,
) -> jax.Array:
  """X_adv: images of the task with the program.

  Without a carrier X̃ + α tanh(W ⊙ M); with one

    clip(carrier + α tanh(shuffle(X̃) + W ⊙ shuffle(M)))

  so that data and program are hidden alike. `permutation` shuffles X̃ and M in
  both, in the same way for all images. All of it is float32.

  Args:
    x: [b, k, k, c] in the range `clip`.
    weights: W, [n, n, c].
    mask: M, [n, n, c]; of ones where the program covers the data, too.
    alpha: largest change of a pixel by the program, in units of `clip`.
    permutation: of the n² pixels, see `pixel_order`.
    carrier: [n, n, c] in the range `clip`.
    clip: (low, high), the range of the victim's images.

  Returns:
    [b, n, n, c] float32 in [low, high].

  Raises:
    InputError: x does not fit.

  Source: the definition of X_adv; with a carrier that of the concealed program.
  """
  weights, mask = jnp.asarray(weights, jnp.float32), jnp.asarray(mask)
  data = place(jnp.asarray(x, jnp.float32), weights.shape[0])
  if permutation is not None:
    data = shuffle(data, permutation)
    mask = shuffle(mask[None], permutation)[0]
  if carrier is None:
    found = data + alpha * program(weights, mask)
  else:
    found = carrier + alpha * jnp.tanh(data + weights * mask)
  return jnp.clip(found, *clip)


def pixel_order(key: jax.Array, n: int) -> jax.Array:
  """A permutation of the pixels of n x n images, [n²] int32."""
  return jax.random.permutation(key, n * n)


def shuffle(images: jax.Array, order: jax.Array) -> jax.Array:
  """Pixel i of each image is the old pixel `order[i]`, with all its channels.

  `shuffle(…, jnp.argsort(order))` brings it back.

  Args:
    images: [b, h, w, c].
    order: [h w] int, a permutation.
  """
  flat = images.reshape(len(images), -1, images.shape[-1])
  return flat[:, order].reshape(images.shape)


# --- labels ---


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


def check_range(given: tuple[float, float]) -> None:
  """Raises InputError where a victim reads other images than programs are."""
  if tuple(given) != RANGE:
    raise InputError(
      f'the victim reads images in {list(given)}, and a program makes them in '
      f'{list(RANGE)}: rescale them in the function that gives its logits'
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


# --- the objective ---


def penalty(
  weights: jax.Array, strength: float, reduction: str = 'mean'
) -> jax.Array:
  """λ ‖W‖², as a 'sum', 'half_sum' or 'mean' over all of W, () float32.

  Source: the objective, which has the sum.

  Raises:
    InputError: another reduction.
  """
  scales = {'sum': 1.0, 'half_sum': 0.5, 'mean': 1 / math.prod(weights.shape)}
  if reduction not in scales:
    raise InputError(
      f'penalty: reduction "{reduction}" is not one of {", ".join(scales)}'
    )
  return strength * scales[reduction] * jnp.sum(jnp.square(weights))


class Attempt(NamedTuple):
  """What the victim makes of a batch with the program."""

  images: jax.Array  # [b, n, n, c]
  labels: jax.Array  # [b]
  logits: jax.Array  # [b, classes] float32


def attempted(
  logits: Logits,
  read: Read,
  join: Callable[..., jax.Array],
) -> Callable[..., Attempt]:
  """(params, vars, batch) -> Attempt, with W of `params['program']`.

  Args:
    logits: of the victim, whose parameters are elsewhere in `params`.
    read: images and labels of a batch.
    join: (x, W, vars) -> images, some `embed`.
  """

  def run(params, vars, batch):
    x, labels = read(batch)
    images = join(x, params['program']['weights'], vars)
    found = logits(images, params, vars)
    return Attempt(images, labels, found.astype(jnp.float32))

  return run


def reprogramming_loss(
  attempt: Callable[..., Attempt],
  groups: Callable[[Any], Sequence[Group] | jax.Array],
  strength: float = 0.0,
  reduction: str = 'mean',
) -> Loss:
  """-log P(h_g(y) | X_adv) + λ ‖W‖², to be minimised over `program` alone.

  Args:
    attempt: of `attempted`.
    groups: `State.vars` -> the label map.
    strength: λ.

  Returns:
    A loss with the metrics `accuracy` and `dead_targets`: the share of sets
    whose every logit is exactly 0, as behind a ReLU: they have no gradient.
    Where `vars` has a `mapping`, it counts the victim's classes there.
  """

  def loss(params, vars, batch, key):
    del key
    mask = batch['mask']
    rows = mask.sum().astype(jnp.float32)
    _, labels, logits = attempt(params, vars, batch)
    labels = jnp.where(mask, labels, 0)
    logits = jnp.where(mask[:, None], logits, 0.0)
    known = groups(vars)
    each = mapped_log_probability(logits, known)
    own = jnp.take_along_axis(each, labels[:, None], axis=-1)[:, 0]
    right = (predictions(logits, known) == labels) & mask
    dead = jnp.where(mask, dead_targets(logits, known), 0.0)
    new = {}
    if 'mapping' in vars:
      top = logits.argmax(-1)
      seen = vars['mapping']['counts'].at[labels, top].add(mask)
      new = {'mapping': {**vars['mapping'], 'counts': seen}}
    return Objective(
      -jnp.where(mask, own, 0.0).sum(),
      rows,
      penalty=penalty(params['program']['weights'], strength, reduction),
      vars=new,
      metrics={
        'accuracy': (right.sum().astype(jnp.float32), rows),
        'dead_targets': (dead.sum(), rows),
      },
    )

  return loss


def dead_targets(
  logits: jax.Array, groups: Sequence[Group] | jax.Array
) -> jax.Array:
  """[b] float32, the share of sets of which every logit is exactly 0."""
  classes, there = _table(groups)
  dead = ((logits[:, classes] == 0) | ~there).all(-1)
  return dead.mean(-1, dtype=jnp.float32)


# --- counting squares ---


def counting_squares(
  key: jax.Array, n: int, cell: int = 9
) -> tuple[jax.Array, jax.Array]:
  """Images of 1 to 10 squares, to be counted.

  A square fills a cell of a 4 x 4 grid: white within a black frame of one
  pixel, on black. All counts are as likely, and so are all sets of cells.

  Args:
    n: number of images.
    cell: pixels on the side of a cell, at least 3; 9 in the paper.

  Returns:
    images: [n, 4 cell, 4 cell, 3] float32 in [0, 1].
    labels: [n] int32 in [0, 10): one less than the number of squares.

  Departs from the paper: the width of the frame is ours.
  """
  return squares_of(jax.random.split(key, n), cell)


def squares_of(keys: jax.Array, cell: int = 9) -> tuple[jax.Array, jax.Array]:
  """`counting_squares` of one key an image, [n] keys."""
  if cell < 3:
    raise InputError(f'a cell of {cell} pixels has no room for a framed square')

  def one(key):
    of_count, of_cells = jax.random.split(key)
    label = jax.random.randint(of_count, (), 0, COUNTS)
    rank = jax.random.permutation(of_cells, GRID * GRID)
    return rank.reshape(GRID, GRID) <= label, label

  taken, labels = jax.vmap(one)(keys)
  square = np.zeros((cell, cell), np.float32)
  square[1:-1, 1:-1] = 1
  tiles = taken[:, :, None, :, None] * square[:, None, :]
  side = GRID * cell
  grey = tiles.reshape(-1, side, side, 1)
  return jnp.broadcast_to(grey, (*grey.shape[:3], 3)), labels


# --- random networks ---


def calibrate_batch_stats(
  variables: dict[str, Any],
  batch: jax.Array,
  train: Callable[[dict[str, Any], jax.Array], Any],
) -> dict[str, Any]:
  """A network whose running statistics are those of one batch.

  Every norm of a network of random weights then puts out mean 0 and variance
  1, as in a trained one; with its initial statistics it does not.

  Args:
    variables: `params` and `batch_stats`.
    batch: images as the network reads them; Englert and Lazić take 50 of
      uniform integers in [0, 255].
    train: (variables, batch) -> the new `batch_stats` of a pass with batch
      statistics at momentum 0.

  Returns:
    The variables with the batch's statistics.

  Raises:
    InputError: a network without batch normalisation.

  Source: Englert and Lazić, arXiv:2206.03466.
  """
  if not variables.get('batch_stats'):
    raise InputError(
      'the victim has no batch normalisation, so that there is nothing to '
      'calibrate: take efficientnet_lite0 or a ResNet, or weights = "random"'
    )
  return {**variables, 'batch_stats': train(variables, batch)}
