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

Label maps are in label_map.py, the squares in counting.py.
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

from jaxlab.core.errors import InputError
from jaxlab.core.state import Loss, Objective
from jaxlab.papers.reprogramming.counting import counting_squares
from jaxlab.papers.reprogramming.label_map import (
  Group,
  dead_targets,
  frequency_map,
  mapped_log_probability,
  predictions,
)

__all__ = [
  'calibrate_batch_stats',
  'counting_squares',
  'embed',
  'frequency_map',
  'mapped_log_probability',
  'mask_around',
  'program',
  'reprogramming_loss',
]

RANGE = (-1.0, 1.0)  # of images with a program: that of tanh

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


def check_range(given: tuple[float, float]) -> None:
  """Raises InputError where a victim reads other images than programs are."""
  if tuple(given) != RANGE:
    raise InputError(
      f'the victim reads images in {list(given)}, and a program makes them in '
      f'{list(RANGE)}: rescale them in the function that gives its logits'
    )


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
