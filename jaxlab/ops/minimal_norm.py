"""Attacks that look for the nearest misclassified image, in L2.

Both are called as `attack(key, images, ids, labels, *rest)` and draw nothing.
An image that is misclassified already, or for which nothing is found, comes
back as it was; all others come back misclassified.

Source: N. Carlini, D. Wagner. Towards Evaluating the Robustness of Neural
Networks. IEEE S&P 2017, section VI (C&W). S. Moosavi-Dezfooli, A. Fawzi,
P. Frossard. DeepFool: a simple and accurate method to fool deep neural
networks. CVPR 2016, algorithm 2.

Departs from the paper: DeepFool looks at the image with its overshoot in every
step and keeps it in [0, 1], as its users do; the original clips nothing.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jaxlab.ops.attack_loop import Bound, Steps, repeat
from jaxlab.ops.attack_objectives import (
  LogitsFn,
  checked_logits,
  margins,
  wrong,
)
from jaxlab.ops.attack_steps import (
  Attack,
  along,
  check_count,
  check_positive,
)

_LARGEST_C = 1e10
_SHRINK = 1 - 1e-6  # black and white are infinitely far in tanh space


def cw_l2(
  logits_fn: LogitsFn,
  *,
  steps: int = 1000,
  searches: int = 9,
  learning_rate: float = 0.01,
  initial_c: float = 1e-3,
  confidence: float = 0.0,
  unroll: bool | None = None,
) -> Attack:
  """Carlini and Wagner's L2 attack.

  Adam on |x' - x|² + c max(confidence - margin(x'), 0) with x' = (tanh w + 1)/2
  from w(x), for each c of a search: c grows tenfold until an image is found
  and is bisected from then on.

  Args:
    logits_fn: (images, *rest) -> logits [b, k].
    steps: of Adam, for each c.
    searches: values of c, each image's own.
    learning_rate: of Adam, in tanh space.
    initial_c: the first c.
    confidence: least margin, in logits, of the image that is found.
    unroll: see `attacks.pgd`.

  Returns:
    attack(key, images, ids, labels, *rest) -> the nearest image found.

  Raises:
    ValueError: steps or searches below 1, other numbers not positive.
  """
  check_count('cw_l2', steps=steps, searches=searches)
  check_positive('cw_l2', learning_rate=learning_rate, initial_c=initial_c)
  if not 0 <= confidence < float('inf'):
    raise ValueError(f'cw_l2: confidence must be >= 0, got {confidence}')
  adam = optax.adam(learning_rate)

  def judge(images, labels, rest):
    logits = checked_logits(logits_fn(images, *rest), labels)
    gap = margins(logits, labels)
    return gap, wrong(logits, labels) & (gap >= confidence)

  @jax.jit
  def begin(images, args):
    labels, *rest = args
    _, already = judge(images, labels, rest)
    rows = jnp.zeros(len(images), jnp.float32)
    distance = jnp.where(already, 0.0, jnp.inf)
    return _Search(rows, rows + _LARGEST_C, rows + initial_c, images, distance)

  @jax.jit
  def restart(search, images):
    w = jnp.arctanh((2 * images - 1) * _SHRINK)
    return _Descent(w, adam.init(w), search, jnp.zeros(len(images), bool))

  def step(carry, i, images, args):
    labels, *rest = args

    def total(w):
      x = (jnp.tanh(w) + 1) / 2
      gap, success = judge(x, labels, rest)
      distance = jnp.sum((x - images) ** 2, range(1, x.ndim))
      cost = carry.search.c * jnp.maximum(confidence - gap, 0.0)
      return jnp.sum(distance + cost), (x, distance, success)

    gradient, (x, distance, success) = jax.grad(total, has_aux=True)(carry.w)
    gradient = jnp.where(jnp.isfinite(gradient), gradient, 0.0)
    updates, opt = adam.update(gradient, carry.opt)
    search = carry.search.adopt(x, distance, success)
    return _Descent(carry.w + updates, opt, search, carry.hit | success)

  @jax.jit
  def bisect(carry):
    search, hit = carry.search, carry.hit
    low = jnp.where(hit, search.low, jnp.maximum(search.low, search.c))
    high = jnp.where(hit, jnp.minimum(search.high, search.c), search.high)
    tenfold = jnp.minimum(search.c * 10, _LARGEST_C)
    middle = (low + high) / 2
    c = jnp.where(high < _LARGEST_C, middle, tenfold)
    return search._replace(low=low, high=high, c=c)

  loop = Steps(step)

  def run(unrolled, key, images, ids, args):
    def body(search, _):
      carry = restart(search, images)
      return bisect(loop.run(carry, steps, images, args, unrolled=unrolled))

    return repeat(body, searches, begin(images, args), unrolled).image

  look = lambda images, args: judge(images, args[0], args[1:])
  return Bound('cw_l2', run, None, steps * searches, unroll, look)


def deepfool(
  logits_fn: LogitsFn,
  *,
  steps: int = 50,
  overshoot: float = 0.02,
  classes: int = 10,
  unroll: bool | None = None,
) -> Attack:
  """DeepFool in L2: steps to the nearest face of the linearised region.

  Args:
    logits_fn: (images, *rest) -> logits [b, k].
    steps: at most; a row stops once it is misclassified.
    overshoot: share of the perturbation that goes beyond the face.
    classes: how many classes are looked at, the label included: those with the
      largest logits at the clean image.
    unroll: see `attacks.pgd`.

  Returns:
    attack(key, images, ids, labels, *rest) -> the image found.

  Raises:
    ValueError: steps below 1, classes below 2, a negative overshoot.
  """
  check_count('deepfool', steps=steps, classes=classes)
  if classes < 2 or not 0 <= overshoot < float('inf'):
    raise ValueError(
      f'deepfool: classes must be >= 2 and overshoot >= 0, got {classes} and '
      f'{overshoot}'
    )

  def overshot(carry, images):
    return jnp.clip(images + (1 + overshoot) * carry.moved, 0.0, 1.0)

  @jax.jit
  def rivals_of(images, args):
    labels, *rest = args
    logits = checked_logits(logits_fn(images, *rest), labels)
    own = jax.nn.one_hot(labels, logits.shape[1], dtype=bool)
    count = min(classes, logits.shape[1]) - 1
    return lax.top_k(jnp.where(own, -jnp.inf, logits), count)[1]

  def step(carry, i, images, others, args):
    labels, *rest = args
    y = overshot(carry, images)
    logits, pullback = jax.vjp(
      lambda x: checked_logits(logits_fn(x, *rest), labels), y
    )
    carry = carry.adopt(y, wrong(logits, labels))
    move = _nearest_face(logits, pullback, labels, others)
    moved = jnp.clip(images + carry.moved + move, 0.0, 1.0) - images
    moved = jnp.where(along(carry.found, moved), carry.moved, moved)
    return carry._replace(moved=moved)

  @jax.jit
  def finish(carry, images, args):
    labels, *rest = args
    y = overshot(carry, images)
    logits = checked_logits(logits_fn(y, *rest), labels)
    return carry.adopt(y, wrong(logits, labels)).image

  loop = Steps(step)

  def run(unrolled, key, images, ids, args):
    others = rivals_of(images, args)
    none = jnp.zeros(len(images), bool)
    carry = _Walk(jnp.zeros_like(images), images, none)
    done = lambda carry: carry.found.all()
    fixed = (images, others, args)
    carry = loop.run(carry, steps, *fixed, unrolled=unrolled, done=done)
    return finish(carry, images, args)

  def look(images, args):
    return checked_logits(logits_fn(images, *args[1:]), args[0])

  return Bound('deepfool', run, None, steps, unroll, look)


class _Search(NamedTuple):
  """C&W's search over c, one for each row."""

  low: jax.Array  # [b], no image was found with it
  high: jax.Array  # [b], one was
  c: jax.Array  # [b], tried next
  image: jax.Array  # the nearest so far
  distance: jax.Array  # [b], its squared distance; inf: none was found

  def adopt(self, image, distance, success):
    better = success & (distance < self.distance)
    return self._replace(
      image=jnp.where(along(better, image), image, self.image),
      distance=jnp.where(better, distance, self.distance),
    )


class _Descent(NamedTuple):
  w: jax.Array  # in tanh space
  opt: Any
  search: _Search
  hit: jax.Array  # [b] bool, an image was found with this c


class _Walk(NamedTuple):
  """DeepFool's way from the clean image, without its overshoot."""

  moved: jax.Array
  image: jax.Array  # the first misclassified one, else the clean one
  found: jax.Array  # [b] bool

  def adopt(self, image, success):
    new = along(success & ~self.found, image)
    return self._replace(
      image=jnp.where(new, image, self.image), found=self.found | success
    )


def _nearest_face(logits, pullback, labels, others):
  """The shortest way, [b, …], to where some rival's logit equals the label's,
  were the network linear."""
  k = logits.shape[1]
  rows = lambda classes: jax.nn.one_hot(classes, k, dtype=logits.dtype)
  own = rows(labels)

  def normal(rival):  # [b] -> [b, …]
    return pullback(rows(rival) - own)[0]

  normals = jax.vmap(normal)(others.T)  # [rivals, b, …]
  normals = jnp.where(jnp.isfinite(normals), normals, 0.0)
  squares = jnp.sum(normals**2, range(2, normals.ndim))
  of_label = jnp.take_along_axis(logits, labels[:, None], 1)
  gaps = (jnp.take_along_axis(logits, others, 1) - of_label).T
  known = (squares > 0) & jnp.isfinite(gaps)
  safe = jnp.where(known, squares, 1.0)
  distance = jnp.where(known, abs(gaps) / jnp.sqrt(safe), jnp.inf)
  nearest = (distance.argmin(0), jnp.arange(len(labels)))
  length = jnp.where(known, abs(gaps) / safe, 0.0)[nearest]
  normal_of = normals[nearest]
  return along(length, normal_of) * normal_of
