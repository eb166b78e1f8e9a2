"""mixup: training on convex combinations of pairs of examples.

Hongyi Zhang, Moustapha Cisse, Yann N. Dauphin, David Lopez-Paz. "mixup: Beyond
Empirical Risk Minimization". ICLR 2018, arXiv 1710.09412.

  section 2, x~ and y~   mix
"""

import jax
import jax.numpy as jnp


def mix(
  key: jax.Array, images: jax.Array, labels: jax.Array, alpha: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Pairs each image with another one of the batch.

  Args:
    images: [b, h, w, c] float32; labels: [b] int.
    alpha: > 0, of the Beta distribution of the weight.

  Returns:
    Mixed images [b, h, w, c]; the others' labels [b]; the first's weight, ().

  Source: section 2; one weight a batch, as in its footnote.
  """
  first, second = jax.random.split(key)
  weight = jax.random.beta(first, alpha, alpha)
  other = jax.random.permutation(second, len(images))
  mixed = weight * images + (1 - weight) * images[other]
  return mixed, jnp.array(labels)[other], weight
