"""GAAN, also Dist-GAN: a GAN whose distances keep its modes.

Ngoc-Trung Tran, Tuan-Anh Bui, Ngai-Man Cheung. "Generative Adversarial
Autoencoder Networks". arXiv 1803.08887 (v1), 2018; as "Dist-GAN: An Improved
GAN using Distance Constraints", ECCV 2018.

  L_R, the autoencoder in feature space       reconstruction
  L_W, latent-data distance                   latent_data_distance, lambda_w
  L_GAN, L_C, the discriminator               disc_terms, recon_schedule
  L_P, gradient penalty                       gradient_penalty, interpolated
  L_G, discriminator-score distance           score_distance
  one step                                    game.gaan

and, on the same parts, what it is compared with:

  GAN, non-saturating: Goodfellow et al. 2014         disc_terms, gen_term
  WGAN-GP: Gulrajani et al. 2017, arXiv 1704.00028    critic_terms
  MDGAN: Che et al. 2017, arXiv 1612.02136            disc_terms, gen_term
  VAE-GAN: Larsen et al. 2016, arXiv 1512.09300       gaussian_code,
                                                      gaussian_divergence

An encoder E, a generator G and a discriminator D, whose last hidden layer is
Phi; D ends in logits and s is the sigmoid. E and G are trained on
L_R + lambda_r L_W, D on L_GAN + L_C + lambda_p L_P, G once more on L_G.

A mean over a batch is a sum over the rows whose mask is True, divided by their
number; `jit` takes both over all devices, before any absolute value or square.

Departs from the paper: lambda_w is computed from shapes, and not typed in;
1e-12 is below the square root of the penalty; reconstructions are real by a
schedule of weights (`recon_schedule`), of which 'paper' is the printed one.
The official code's hinge form, which maximises its penalty, is not here.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

_TINY = 1e-12
PENALTIES = ('wgangp', 'squared', 'rms')
SCOPES = ('batch_mean', 'per_sample', 'pairwise')
ANCHORS = ('recon', 'real')
SCHEDULES = ('paper', 'half', 'decay')


def mean(x: jax.Array, mask: jax.Array) -> jax.Array:
  """The mean over rows that count: [b, …] -> […] float32; 0 without any."""
  keep = jnp.reshape(mask, (-1, *[1] * (x.ndim - 1)))
  rows = jnp.maximum(mask.sum(), 1)
  return jnp.where(keep, x.astype(jnp.float32), 0.0).sum(0) / rows


def reconstruction(real: jax.Array, recon: jax.Array) -> jax.Array:
  """|Phi(x) - Phi(G(E(x)))|^2 / d of each row: [b, d], [b, d] -> [b].

  Source: L_R, divided by the number of features as the authors' code does.
  """
  return jnp.square(real - recon).reshape(len(real), -1).mean(-1)


def lambda_w(latent: int, features: int) -> float:
  """sqrt(d_z / d_Phi): brings two means over dimensions to one scale.

  The mean of d independent numbers has a deviation of 1 / sqrt(d).

  Args:
    latent: d_z >= 1.
    features: d_Phi >= 1.
  """
  return math.sqrt(latent / features)


def latent_data_distance(
  real: jax.Array,
  recon: jax.Array,
  fake: jax.Array,
  encoded: jax.Array,
  latent: jax.Array,
  mask: jax.Array,
  *,
  anchor: str = 'recon',
  scope: str = 'batch_mean',
) -> jax.Array:
  """L_W: how far the distance of data is from that of their codes.

    batch_mean  (f - lambda_w g)^2, f = M(E Phi(a) - E Phi(G(z))),
                g = M(E E(x) - E z): M is the mean over dimensions
    per_sample  E_i (M(Phi(a_i) - Phi(G(z_i))) - lambda_w M(E(x_i) - z_i))^2
    pairwise    E_ij (|Phi(a_i) - Phi(G(z_j))| / sqrt(d_Phi)
                      - |E(x_i) - z_j| / sqrt(d_z))^2

  batch_mean compares two numbers a batch: it is 0 for a G that has collapsed
  as soon as the means agree. The other two are not.

  Args:
    real: [b, d_Phi], Phi(x).
    recon: [b, d_Phi], Phi(G(E(x))).
    fake: [b, d_Phi], Phi(G(z)).
    encoded: [b, d_z], E(x).
    latent: [b, d_z], z.
    mask: [b] bool, of all of them.
    anchor: what a is: 'recon', G(E(x)), as the authors' code has it, or
      'real', x, as the first version of the paper has it.
    scope: what is compared.

  Returns:
    () float32 >= 0.

  Raises:
    ValueError: an unknown anchor or scope.

  Source: L_W. per_sample and pairwise are not the paper's.
  """
  if anchor not in ANCHORS:
    raise ValueError(f'anchor "{anchor}" is not one of {", ".join(ANCHORS)}')
  if scope not in SCOPES:
    raise ValueError(f'scope "{scope}" is not one of {", ".join(SCOPES)}')
  held = recon if anchor == 'recon' else real
  if scope == 'pairwise':
    far = _distances(held, fake) - _distances(encoded, latent)
    both = mask[:, None] & mask
    pairs = jnp.maximum(both.sum(), 1)
    return jnp.where(both, far**2, 0.0).sum() / pairs
  weight = lambda_w(encoded.shape[-1], held.shape[-1])
  if scope == 'per_sample':
    f, g = (held - fake).mean(-1), (encoded - latent).mean(-1)
    return mean((f - weight * g) ** 2, mask)
  f = (mean(held, mask) - mean(fake, mask)).mean()
  g = (mean(encoded, mask) - mean(latent, mask)).mean()
  return (f - weight * g) ** 2


def _distances(a: jax.Array, b: jax.Array) -> jax.Array:
  """[n, d], [m, d] -> [n, m], root of the mean square over dimensions."""
  square = jnp.square(a).mean(-1)[:, None] + jnp.square(b).mean(-1)
  square -= 2 * (a @ b.T) / a.shape[-1]
  return jnp.sqrt(jnp.maximum(square, 0.0) + _TINY)


def score_distance(
  real: jax.Array,
  fake: jax.Array,
  mask: jax.Array,
  *,
  kind: str = 'sigmoid',
  smooth: float = 0.0,
) -> jax.Array:
  """L_G = |E s(D(x)) - E s(D(G(z)))|.

  Its gradient is that of one mean, of either sign: it does not fade as D wins,
  except through s, and is 0 where the means are equal.

  Args:
    real, fake: [b] logits of D.
    mask: [b] bool, of both.
    kind: 'sigmoid', or 'logit' without s.
    smooth: delta >= 0; above 0 the loss is sqrt(. ^2 + delta^2).

  Returns:
    () float32.

  Raises:
    ValueError: an unknown kind.

  Source: L_G.
  """
  if kind not in ('sigmoid', 'logit'):
    raise ValueError(f'score_distance: "{kind}" is none of sigmoid, logit')
  of = jax.nn.sigmoid if kind == 'sigmoid' else lambda x: x
  apart = mean(of(real), mask) - mean(of(fake), mask)
  if smooth:
    return jnp.sqrt(apart**2 + smooth**2)
  # Not `jnp.abs`, whose derivative at 0 is 1.
  return jax.lax.stop_gradient(jnp.sign(apart)) * apart


def disc_terms(
  real: jax.Array, fake: jax.Array, real_weight: float | jax.Array = 1.0
) -> jax.Array:
  """-w log s(D(x)) - log(1 - s(D(G(z)))) of each row, [b] nats.

  Args:
    real, fake: [b] logits.
    real_weight: w, ().

  Source: L_GAN.
  """
  return real_weight * jax.nn.softplus(-real) + jax.nn.softplus(fake)


def recon_term(
  recon: jax.Array, weight: float | jax.Array, label: str = 'real'
) -> jax.Array:
  """-w log s(D(G(E(x)))) of each row, [b] nats: reconstructions are real.

  Args:
    recon: [b] logits.
    weight: w >= 0, ().
    label: 'real' (the paper's), or 'fake', -w log(1 - s(.)), as VAE-GAN has it.

  Source: L_C.
  """
  return weight * jax.nn.softplus(-recon if label == 'real' else recon)


def recon_schedule(
  name: str, progress: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """The weights of x and of G(E(x)) among what D is to find real.

    paper  1 and 1
    half   1/2 and 1/2 (the authors' first code)
    decay  .95 and .05 up to half the training, then linearly to 1 and 0 at
           three quarters (their last)

  Args:
    progress: () float32 in [0, 1], share of the training that is done.

  Returns:
    two () float32.

  Raises:
    ValueError: an unknown name.
  """
  if name == 'decay':
    grown = jnp.clip(2 * (0.1 * progress - 0.05), 0.0, 0.05)
    return 0.95 + grown, 0.05 - grown
  if name not in SCHEDULES:
    raise ValueError(f'recon "{name}" is not one of {", ".join(SCHEDULES)}')
  both = jnp.full((), 1.0 if name == 'paper' else 0.5)
  return both, both


def interpolated(
  share: jax.Array, real: jax.Array, fake: jax.Array
) -> jax.Array:
  """Points between pairs: share x + (1 - share) G(z).

  Args:
    share: [b] float32 in [0, 1].
    real, fake: [b, …].

  Source: L_P.
  """
  share = jnp.reshape(share, (-1, *[1] * (real.ndim - 1)))
  return share * real + (1 - share) * fake


def gradient_penalty(
  score: Callable[[jax.Array], jax.Array], points: jax.Array, kind: str
) -> jax.Array:
  """How far the slope of D is from 1, at each point; to be minimised.

    wgangp   (|g| - 1)^2
    squared  (|g|^2 - 1)^2
    rms      (|g| / sqrt(d) - 1)^2: what the authors' code computes, whose aim
             is a slope of sqrt(d)

  Args:
    score: [b, …] -> [b] logits; the score of a row depends on that row alone,
      so there may be no batch statistics in it.
    points: [b, …] float32; d numbers a row.
    kind: of PENALTIES.

  Returns:
    [b] float32 >= 0.

  Raises:
    ValueError: an unknown kind.

  Source: L_P.
  """
  if kind not in PENALTIES:
    raise ValueError(f'penalty "{kind}" is not one of {", ".join(PENALTIES)}')
  slope = jax.grad(lambda x: score(x).sum())(points).reshape(len(points), -1)
  square = jnp.square(slope).sum(-1)
  if kind == 'squared':
    return (square - 1) ** 2
  scale = 1 / slope.shape[-1] if kind == 'rms' else 1.0
  return (jnp.sqrt(square * scale + _TINY) - 1) ** 2


def gen_term(fake: jax.Array) -> jax.Array:
  """-log s(D(G(z))) of each row, [b] nats. Source: Goodfellow et al. 2014."""
  return jax.nn.softplus(-fake)


def critic_terms(real: jax.Array, fake: jax.Array) -> jax.Array:
  """D(G(z)) - D(x) of each row, [b]. Source: Gulrajani et al., eq. 3."""
  return fake - real


def gaussian_code(code: jax.Array, noise: jax.Array) -> jax.Array:
  """mu + exp(log_variance / 2) noise.

  Args:
    code: [b, 2 d_z], mu and log_variance.
    noise: [b, d_z], standard normal.
  """
  mu, log_variance = jnp.split(code, 2, -1)
  return mu + jnp.exp(log_variance / 2) * noise


def gaussian_divergence(code: jax.Array) -> jax.Array:
  """KL(N(mu, sigma^2) | N(0, 1)) of each row, [b] nats.

  Args:
    code: [b, 2 d_z], mu and log sigma^2.
  """
  mu, log_variance = jnp.split(code, 2, -1)
  each = mu**2 + jnp.exp(log_variance) - 1 - log_variance
  return 0.5 * each.sum(-1)
