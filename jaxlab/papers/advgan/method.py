"""AdvGAN: a network that makes adversarial examples in one pass.

Chaowei Xiao, Bo Li, Jun-Yan Zhu, Warren He, Mingyan Liu, Dawn Song.
"Generating Adversarial Examples with Adversarial Networks". IJCAI 2018,
arXiv 1801.02610.

  eq. 1, L_GAN          gan_terms('vanilla'); in use: gan_terms('lsgan')
  eq. 2, L_adv          adversarial_loss
  eq. 3, L_hinge        hinge
  eq. 4, L              generator_loss
  section 3.3, H(f, b)  distillation
  x + G(x) in a budget  bounded, project

A generator G sees an image x and gives a perturbation G(x); a discriminator D
tells x from x + G(x); the network f under attack is to be deceived. All
functions return one number an image; images are float32 in [0, 1].

Departs from the paper: the perturbation is epsilon tanh(.), in the budget as
it is, so that its gradient is nowhere cut (`bounded(…, 'clip')` is the paper's
form); one generator serves all target classes, which it is told; success is
counted on images that the network classifies rightly, and `succeeded` says on
which.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxlab.ops.attack_objectives import checked_logits, margins, nats
from jaxlab.ops.attack_steps import example_keys, make_ball

Term = Callable[[jax.Array], jax.Array]  # scores [b] -> [b]


def adversarial_loss(
  logits: jax.Array,
  labels: jax.Array,
  *,
  kind: str = 'cw',
  targeted: bool = True,
  kappa: float = 0.0,
) -> jax.Array:
  """How far an image is from deceiving the network.

    cw, targeted     max(max_{i≠t} z_i - z_t, -kappa)
    cw, untargeted   max(z_y - max_{i≠y} z_i, -kappa)
    ce, targeted     -log p_t
    ce, untargeted   log p_y

  Args:
    logits: [b, k] floating, of the images with their perturbation.
    labels: [b] int in [0, k): classes to be reached if `targeted`, else the
      true ones, to be left.
    kind: 'cw' (Carlini and Wagner's margin) or 'ce' (cross-entropy).
    kappa: >= 0, the margin by which the aim is to be reached; of 'cw' alone.

  Returns:
    [b] float32. The margin is not above 0 where the aim is reached.

  Raises:
    ValueError: an unknown kind, a negative kappa, logits of another shape.
    TypeError: labels that are not integers.

  Source: eq. 2. The paper prints max(., kappa) and sets 0; a margin of kappa
  needs the floor at -kappa.
  """
  if kind not in ('cw', 'ce'):
    raise ValueError(f'adversarial_loss: kind "{kind}" is none of cw, ce')
  if not kappa >= 0:
    raise ValueError(f'adversarial_loss: kappa must be >= 0, got {kappa}')
  logits = checked_logits(logits, labels)
  if kind == 'ce':
    found = nats(logits, labels)
    return found if targeted else -found
  lead = margins(logits, labels)  # of the others over the label
  return jnp.maximum(lead if targeted else -lead, -kappa)


class GanTerms(NamedTuple):
  """A game between D and G as terms of D's scores, each to be minimised."""

  real: Term  # of D, on images
  fake: Term  # of D, on images with a perturbation
  generator: Term  # of G, on the same


def gan_terms(kind: str) -> GanTerms:
  """The terms of a game; D ends in a linear layer, no sigmoid follows.

    vanilla  D: -log s(D(x)), -log(1 - s(D(x'))); G: log(1 - s(D(x')))
    lsgan    D: (D(x) - 1)^2 / 2, D(x')^2 / 2;    G: (D(x') - 1)^2 / 2

  Raises:
    ValueError: an unknown kind.

  Source: eq. 1; section 3.2, least squares in the experiments.
  """
  if kind == 'vanilla':
    return GanTerms(
      lambda d: jax.nn.softplus(-d),
      jax.nn.softplus,
      lambda d: -jax.nn.softplus(d),
    )
  if kind == 'lsgan':
    return GanTerms(
      lambda d: (d - 1) ** 2 / 2, lambda d: d**2 / 2, lambda d: (d - 1) ** 2 / 2
    )
  raise ValueError(f'gan_terms: "{kind}" is none of vanilla, lsgan')


def hinge(perturbation: jax.Array, c: float) -> jax.Array:
  """max(0, |G(x)|_2 - c): what a perturbation is longer than c.

  Args:
    perturbation: [b, h, w, c] float32; the norm is over a whole image.
    c: >= 0, in units of images in [0, 1].

  Returns:
    [b] float32; the gradient of a zero perturbation is 0.

  Raises:
    ValueError: c < 0.

  Source: eq. 3.
  """
  if not c >= 0:
    raise ValueError(f'hinge: c must be >= 0, got {c}')
  axes = tuple(range(1, perturbation.ndim))
  square = jnp.sum(perturbation**2, axes)
  over = square > c**2
  norm = jnp.sqrt(jnp.where(over, square, 1.0))
  return jnp.where(over, norm - c, 0.0)


def bounded(raw: jax.Array, epsilon: float, kind: str = 'tanh') -> jax.Array:
  """The generator's output as a perturbation in [-epsilon, epsilon].

  Args:
    raw: [b, h, w, c] float32, any number.
    epsilon: in (0, 1], in units of images in [0, 1].
    kind: 'tanh', epsilon tanh(raw), or 'clip', whose gradient is 0 outside.

  Raises:
    ValueError: an unknown kind, or a budget in units of 0 to 255.
  """
  ball = make_ball('bounded', 'linf', epsilon)
  if kind == 'tanh':
    return ball.epsilon * jnp.tanh(raw)
  if kind == 'clip':
    return jnp.clip(raw, -ball.epsilon, ball.epsilon)
  raise ValueError(f'bounded: kind "{kind}" is none of tanh, clip')


def project(
  images: jax.Array, perturbation: jax.Array, epsilon: float
) -> jax.Array:
  """The image nearest to x + G(x) in the ball and in [0, 1].

  Args:
    images: [b, h, w, c] float32 in [0, 1].
    perturbation: like images.
    epsilon: L-infinity radius, in units of [0, 1].

  Returns:
    Like images; within epsilon of them exactly, after rounding too.

  Raises:
    ValueError: a budget in units of 0 to 255, or negative.
  """
  ball = make_ball('project', 'linf', epsilon)
  return ball.project(images, ball.box(images), images + perturbation)


def generator_loss(
  adversarial: jax.Array,
  game: jax.Array,
  length: jax.Array,
  *,
  alpha: float,
  beta: float,
) -> jax.Array:
  """L = L_adv + alpha L_GAN + beta L_hinge, of each image [b].

  Source: eq. 4.
  """
  return adversarial + alpha * game + beta * length


def distillation(logits: jax.Array, answers: jax.Array) -> jax.Array:
  """H(b(x), f(x)) = -sum_i b_i log f_i: what a student has yet to learn.

  Args:
    logits: [b, k] of the student f.
    answers: [b, k] probabilities of the black box b; one-hot rows where it
      tells labels alone.

  Returns:
    [b] float32, in nats.

  Source: section 3.3.
  """
  log_p = jax.nn.log_softmax(logits.astype(jnp.float32), -1)
  return -jnp.sum(answers * log_p, -1)


def targets(
  key: jax.Array, ids: jax.Array, labels: jax.Array, classes: int
) -> jax.Array:
  """A target class for each image, evenly among those that it is not.

  Args:
    ids: [b] int; a target is a function of the key and the id alone.
    labels: [b] int in [0, classes).

  Returns:
    [b] int32, never the label.
  """
  draw = lambda key: jax.random.randint(key, (), 1, classes)
  shift = jax.vmap(draw)(example_keys(key, ids))
  return ((labels + shift) % classes).astype(jnp.int32)


def succeeded(
  clean: jax.Array,
  attacked: jax.Array,
  labels: jax.Array,
  aims: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Which attacks succeeded, and which images count at all.

  Args:
    clean: [b, k] logits of the images.
    attacked: [b, k] logits of the images with their perturbation.
    labels: [b] int, the true classes.
    aims: [b] int, target classes; None: any class but the true one.

  Returns:
    success [b] bool, counted [b] bool: an image counts if the network
    classifies it rightly and its target is not its class.
  """
  counted = clean.argmax(-1) == labels
  found = attacked.argmax(-1)
  if aims is None:
    return (found != labels) & counted, counted
  counted = counted & (aims != labels)
  return (found == aims) & counted, counted
