"""The geometric view of autoencoders: encode, decode, transport, generate.

N. Lei, Z. Luo, S.-T. Yau, D. X. Gu. "Geometric Understanding of Deep
Learning". arXiv 1805.10451v2, 2018.

  section 3, φ_θ: X -> F and ψ_θ: F -> X      network, initial
  section 3, (1/k) Σ |x_i - ψ(φ(x_i))|²       squared_error
  ψ∘φ, whose cells refine those of φ          composed
  section 4, D(φ), N(φ), theorems 4.5, 4.12   regions, complexity
  section 5, T_*ζ = (φ_θ)_*μ, ψ_θ(T(z))       transport, extension

Not here: experiments on scanned and facial surfaces, CelebA. D. Kingma, M.
Welling, ICLR 2014, for the variational autoencoder beside it: divergence,
drawn_code.
"""

import itertools
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxlab.papers.geometry import complexity, extension, regions, transport

__all__ = ['complexity', 'extension', 'regions', 'transport']

Params = Mapping[str, Mapping[str, jax.Array]]  # dense0, …: w [in, out], b


def initial(key: jax.Array, widths: Sequence[int]) -> dict:
  """Dense layers: He normals, and biases from N(0, .1²)."""
  shapes = [*itertools.pairwise(widths)]
  sizes = [(fan_in + 1) * out for fan_in, out in shapes]
  draws = jax.random.normal(key, (sum(sizes),))  # one is soon compiled
  made, start = {}, 0
  for i, ((fan_in, out), size) in enumerate(zip(shapes, sizes)):
    rows = draws[start : start + size].reshape(fan_in + 1, out)
    start += size
    w, b = (2 / fan_in) ** 0.5 * rows[:-1], 0.1 * rows[-1]
    made[f'dense{i}'] = {'w': w, 'b': b}
  return made


def network(params: Params, x: jax.Array) -> jax.Array:
  """[b, in] -> [b, out]: ReLU between the layers, none after the last."""
  for i in range(len(params)):
    layer = params[f'dense{i}']
    x = (jax.nn.relu(x) if i else x) @ layer['w'] + layer['b']
  return x


def layers(params: Params) -> list[tuple[np.ndarray, np.ndarray]]:
  """The layers as `regions` takes them, in float64."""
  return [
    (
      np.asarray(params[f'dense{i}']['w'], np.float64),
      np.asarray(params[f'dense{i}']['b'], np.float64),
    )
    for i in range(len(params))
  ]


def composed(encoder, decoder) -> list[tuple[np.ndarray, np.ndarray]]:
  """The layers of ψ∘φ: φ's last and ψ's first are one affine map."""
  *before, (w, b) = encoder
  (v, c), *after = decoder
  return [*before, (w @ v, b @ v + c), *after]


def squared_error(params: Mapping[str, Params], x: jax.Array) -> jax.Array:
  """[b], |x - ψ(φ(x))|², of params `enc` and `dec`. Source: section 3."""
  found = network(params['dec'], network(params['enc'], x))
  return ((x - found) ** 2).sum(-1)


def divergence(mean: jax.Array, log_variance: jax.Array) -> jax.Array:
  """[b], KL(N(mean, variance) ‖ N(0, 1)) in nats."""
  variance = jnp.exp(log_variance)
  return ((mean**2 + variance - 1 - log_variance) / 2).sum(-1)


def drawn_code(mean, log_variance, noise) -> jax.Array:
  """mean + σ noise."""
  return mean + jnp.exp(log_variance / 2) * noise
