"""Minimal-variance sampling: which nodes a batch takes, and at what weights.

Weilin Cong, Rana Forsati, Mahmut Kandemir, Mehrdad Mahdavi. "Minimal Variance
Sampling with Provable Guarantees for Fast Training of Graph Neural Networks".
KDD 2020, arXiv 2006.13866.

  paper                                here
  (9), Theorem 4.1, Lemma 4.2          minimal_variance_probabilities
  4.3, norms of per-node gradients     last_layer_gradient_norms
  Algorithm 1, ξ ~ Bernoulli(p)        bernoulli_draw
  Algorithm 1, ∇φ / p                  horvitz_thompson_weights
  3, embedding bias V and variance G   decompose
  Lemma 4.3, G of given norms          sampling_variance

Not here: the histories and the two loops (task.py). Not of the paper: the draw
of a fixed size (systematic_draw), and what keeps stale norms from blowing the
weights up (mix, floor, clip_weights, effective_sample_size).

Lemma 4.2 prints μ upside down, and the fraction in the test for κ too: μ is
Σ_{i≤κ} g_i / (B + κ - N). Algorithm 1 prints the scale 1 / B, which is N / B
times too much; unbiased is 1 / (p_i N), as in the authors' code. It also
divides by p in the large batch, where there is no p. The gain over uniform
sampling of Lemma 4.3, Var(g) / B, is exact only while no p_i is capped at 1.

Departs from the paper: a node of norm 0 has p = 0, where (9) wants p > 0.
Departs from the paper: the norm is ‖B_i‖ √(‖A_i‖² + 1), the norm of the outer
product, without building it.

Norms and logits are computed on the device. What follows them, the weights
above all, is float64 in NumPy on the host.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

# Σ p counts as a whole number where it is one up to this share: float32 norms
# are no better.
_WHOLE = 1e-6


def minimal_variance_probabilities(norms: Any, batch_size: int) -> Any:
  """The inclusion probabilities of least variance: p_i = min(1, g_i / μ).

  They minimise Σ g_i² / p_i under Σ p_i = B and p_i <= 1.

  Args:
    norms: [n] g, finite, >= 0. A `jax.Array` (`jit` is fine) is computed in
      float32 at least; anything else on the host, in float64.
    batch_size: B >= 1.

  Returns:
    [n] in [0, 1]: 0 where the norm is 0 (such a node is never drawn; see `mix`
    and `floor`). Σ p = min(B, nodes of positive norm): where there are no more
    than B of these each has p = 1. As norms are, an array of JAX or of NumPy;
    that of JAX is NaN throughout if a norm is NaN, infinite or negative.

  Raises:
    ValueError: norms that are not a vector, or empty; batch_size < 1; on the
      host also a norm that is NaN, infinite or negative.

  Source: (9). In O(n log n).
  """
  if not batch_size >= 1:
    raise ValueError(f'batch_size={batch_size} must be >= 1')
  xp: Any = jnp if isinstance(norms, jax.Array) else np
  norms = _wide(norms) if xp is jnp else _vector('norm', norms)
  if norms.ndim != 1 or not norms.size:
    raise ValueError(f'norms {norms.shape} must be [n], n >= 1')
  rising = xp.sort(norms)
  valid = (rising[0] >= 0) & (rising[-1] < np.inf)  # NaN is sorted last
  # Only ratios count. By a power of two nothing is rounded and no sum infinite.
  shift = -xp.frexp(rising[-1])[1]
  norms, rising = xp.ldexp(norms, shift), xp.ldexp(rising, shift)
  totals = xp.cumsum(rising)
  # What is left of B for the k smallest, if all others are certain. The test
  # holds up to κ: totals - left * rising falls wherever left > 0, and is >= 0
  # elsewhere.
  left = xp.arange(1, norms.size + 1) + batch_size - norms.size
  kappa = xp.count_nonzero(left * rising <= totals)
  mu = totals[kappa - 1] / left[kappa - 1]
  # Where B has room for all positive ones: μ may be rounded above their norms.
  mu = xp.where(xp.count_nonzero(norms) <= batch_size, 0, mu)
  shares = norms / xp.where(norms < mu, mu, 1)
  found = xp.where(norms < mu, shares, xp.where(norms > 0, 1.0, 0.0))
  return xp.where(valid, found, np.nan).astype(norms.dtype)


def last_layer_gradient_norms(
  inputs: jax.Array, grads_wrt_logits: jax.Array, *, bias: bool = True
) -> jax.Array:
  """‖∇φ_i‖ with respect to the weights and bias of a linear output layer.

  Args:
    inputs: [n, f] floating, A: what the layer takes.
    grads_wrt_logits: [n, c] floating, B: of each node's own loss.
    bias: whether the layer has one.

  Returns:
    [n] float32 (float64 from float64): ‖B_i‖ √(‖A_i‖² + 1).

  Raises:
    ValueError: the two are not matrices of as many rows.

  Source: 4.3. A proxy: no bound on the gradient of the layers below.
  """
  shapes = jnp.shape(inputs), jnp.shape(grads_wrt_logits)
  if [len(shape) for shape in shapes] != [2, 2] or shapes[0][0] != shapes[1][0]:
    raise ValueError(
      f'inputs {shapes[0]} and grads_wrt_logits {shapes[1]} must be [n, f] and '
      '[n, c]'
    )
  squared = lambda x: jnp.sum(jnp.square(_wide(x)), -1)
  return jnp.sqrt(squared(grads_wrt_logits) * (squared(inputs) + bias))


def softmax_logit_gradients(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """The gradient of each node's cross-entropy: p - onehot_y, no backward pass.

  The entry of the label is minus the sum of the others, which loses no digits
  where p_y is 1.

  Args:
    logits: [..., c] floating.
    labels: [...] integer in [0, c).

  Returns:
    [..., c] float32; NaN for another label.

  Raises:
    TypeError: labels that are not integers.
    ValueError: shapes that do not fit.
  """
  labels = jnp.asarray(labels)
  if not jnp.issubdtype(labels.dtype, jnp.integer):
    raise TypeError(f'labels are {labels.dtype}; they must be integers')
  if labels.shape != jnp.shape(logits)[:-1]:
    raise ValueError(
      f'labels {labels.shape} must be one for each row of logits '
      f'{jnp.shape(logits)}'
    )
  classes = jnp.arange(jnp.shape(logits)[-1])
  label = labels[..., None] == classes
  others = jnp.where(label, 0, jax.nn.softmax(_wide(logits)))
  found = jnp.where(label, -others.sum(-1, keepdims=True), others)
  return jnp.where(label.any(-1, keepdims=True), found, jnp.nan)


def sigmoid_logit_gradients(logits: jax.Array, targets: jax.Array) -> jax.Array:
  """The gradient of binary cross-entropies, summed over the labels: p - y.

  For their mean divide by c; the probabilities stay the same.

  Args:
    logits: [..., c] floating.
    targets: [..., c] in [0, 1], or bool.

  Returns:
    [..., c] float32.

  Raises:
    ValueError: shapes that differ.
  """
  if jnp.shape(logits) != jnp.shape(targets):
    raise ValueError(
      f'targets {jnp.shape(targets)} must have the shape of logits '
      f'{jnp.shape(logits)}'
    )
  f, y = _wide(logits), _wide(targets)
  return jax.nn.sigmoid(f) * (1 - y) - jax.nn.sigmoid(-f) * y


def bernoulli_draw(uniforms: ArrayLike, probabilities: ArrayLike) -> np.ndarray:
  """Each node on its own, with its probability; the number is random.

  Args:
    uniforms: [n] float64 in [0, 1), independent.
    probabilities: [n] in [0, 1].

  Returns:
    [b] int64, rising. Node i is in it with probability p_i, nodes i and j with
    p_i p_j; b has the mean Σ p and the variance Σ p (1 - p).

  Raises:
    ValueError: a number outside of its range, or shapes that differ.
  """
  p = _vector('probability', probabilities, highest=1)
  u = _vector('uniform', uniforms, highest=np.nextafter(1, 0))
  if u.shape != p.shape:
    raise ValueError(f'{len(u)} uniforms for {len(p)} probabilities')
  return np.flatnonzero(u < p)


def systematic_draw(
  uniform: float, order: ArrayLike, probabilities: ArrayLike
) -> np.ndarray:
  """A draw of fixed size: the nodes in a row, each as long as its probability.

  Those that the points u, u + 1, u + 2, … hit are drawn.

  Args:
    uniform: u, uniform in [0, 1).
    order: [n] int, a permutation. Random, it leaves few pairs that never occur
      together; the inclusion probabilities need no random one.
    probabilities: [n] in [0, 1].

  Returns:
    [b] int64, rising: b = Σ p where that is whole (to 1e-6 of it), else one of
    the two next to it. Node i is in it with probability p_i in any order, up
    to that share and to the rounding of Σ p; with p_i = 1 always, with p_i = 0
    never. That of a pair depends on the order, so that `sampling_variance` is
    not of this draw.

  Raises:
    ValueError: a number outside of its range; no permutation.
  """
  p = _vector('probability', probabilities, highest=1)
  if not 0 <= uniform < 1:
    raise ValueError(f'uniform={uniform} is not in [0, 1)')
  order = np.asarray(order)
  if not np.array_equal(np.bincount(order, minlength=len(p)), np.ones(len(p))):
    raise ValueError(f'order is not a permutation of {len(p)} nodes')
  # Running sums round: those that are certain are kept out of them.
  rest = order[(p[order] > 0) & (p[order] < 1)]
  ends = np.cumsum(p[rest])
  total = ends[-1] if len(ends) else 0.0
  size = round(total)
  if abs(total - size) > _WHOLE * total:
    size = math.ceil(total - uniform)
  elif size:
    ends *= size / total
  k = np.arange(size)
  hit = np.searchsorted(ends, uniform + k, side='right')
  # Rounding may let two points hit a node just below 1, or the last one none.
  hit = np.maximum.accumulate(hit - k) + k
  hit = np.minimum(hit, len(ends) - size + k)
  return np.sort(np.concatenate([np.flatnonzero(p == 1), rest[hit]]))


def horvitz_thompson_weights(
  probabilities: ArrayLike, population: int
) -> np.ndarray:
  """1 / (p N): weighted so, the sum over a draw has the mean over all nodes.

  Args:
    probabilities: [b] in (0, 1], of the nodes drawn.
    population: N >= 1, the number of nodes that could be drawn.

  Returns:
    [b] float64. Their sum is 1 on average, not in every draw.

  Raises:
    ValueError: a number outside of its range.
  """
  p = _vector('probability', probabilities, highest=1)
  if not p.all():
    raise ValueError(
      f'probability {np.argmin(p)} is 0; such a node cannot have been drawn'
    )
  if not population >= 1:
    raise ValueError(f'population={population} must be >= 1')
  return 1 / (p * population)


def mix(probabilities: ArrayLike, alpha: float, batch_size: int) -> np.ndarray:
  """(1 - α) p + α B / N: no weight is then above 1 / (α B).

  Args:
    probabilities: [n] in [0, 1].
    alpha: in [0, 1]: 0 leaves p, 1 is uniform.
    batch_size: B >= 1; above n it counts as n.

  Returns:
    [n] float64 in [0, 1]. Σ p = B stays so; nodes of norm 0 are drawn too.

  Raises:
    ValueError: a number outside of its range.
  """
  p = _population(probabilities, batch_size)
  if not 0 <= alpha <= 1:
    raise ValueError(f'alpha={alpha} is not in [0, 1]')
  return (1 - alpha) * p + alpha * (min(batch_size, len(p)) / len(p))


def floor(
  probabilities: ArrayLike, minimum: float, batch_size: int
) -> np.ndarray:
  """max(m, s p), with the largest s <= 1 that leaves Σ <= B.

  All that are above the floor keep their ratios: those at 1 come down too.

  Args:
    probabilities: [n] in [0, 1].
    minimum: m in [0, min(1, B / n)].
    batch_size: B >= 1.

  Returns:
    [n] float64 in [m, 1]: `probabilities` where none is below m. Else Σ = B,
    or Σ max(m, p) where that is less: few norms were positive.

  Raises:
    ValueError: a number outside of its range.
  """
  p = _population(probabilities, batch_size)
  highest = min(1, batch_size / len(p))
  if not 0 <= minimum <= highest:
    raise ValueError(
      f'minimum={minimum} is not in [0, {highest}]; {len(p)} nodes share '
      f'batch_size={batch_size}'
    )
  if p.min() >= minimum:
    return p
  rising = np.sort(p)
  rest = np.cumsum(rising[::-1])[::-1]  # of the k-th smallest and all above
  left = batch_size - minimum * np.arange(len(p))  # for these
  above = left * rising >= minimum * rest
  above[-1] = True  # m = B / n, rounded
  k = np.argmax(above)
  scale = left[k] / rest[k] if left[k] < rest[k] else 1.0
  return np.maximum(minimum, scale * p)


def clip_weights(weights: ArrayLike, maximum: float) -> np.ndarray:
  """Weights of at most `maximum`. Biased: clipped nodes count for too little.

  Args:
    weights: [b], >= 0.
    maximum: > 0.

  Returns:
    [b] float64.

  Raises:
    ValueError: a number outside of its range.
  """
  if not maximum > 0:
    raise ValueError(f'maximum={maximum} must be > 0')
  return np.minimum(_vector('weight', weights), maximum)


def effective_sample_size(weights: ArrayLike) -> float:
  """(Σ w)² / Σ w²: as many equal weights average as well.

  It holds for values that do not go with the weights. Under fresh norms large
  weights have small gradients, so that the batch is worth more than this.

  Args:
    weights: [b], >= 0.

  Returns:
    In [1, b]; 0 for an empty draw or weights that are all 0.

  Raises:
    ValueError: a weight that is NaN, infinite or negative.
  """
  w = _vector('weight', weights)
  if not w.any():
    return 0.0
  w = w / w.max()
  return float(w.sum() ** 2 / np.sum(w**2))


def sampling_variance(norms: ArrayLike, probabilities: ArrayLike) -> float:
  """G of independent draws: (1 / N²) Σ g² (1 / p - 1).

  E ‖Σ_{i drawn} ∇φ_i / (p_i N) - mean ∇φ‖² for gradients of norms g, with
  exact embeddings.

  Args:
    norms: [n], >= 0.
    probabilities: [n] in [0, 1], of `bernoulli_draw`.

  Returns:
    The variance, summed over parameters.

  Raises:
    ValueError: a number outside of its range, shapes that differ, or p = 0
      where the norm is not: that estimate is biased.
  """
  g = _vector('norm', norms)
  p = _vector('probability', probabilities, highest=1)
  if g.shape != p.shape:
    raise ValueError(f'{len(g)} norms for {len(p)} probabilities')
  if (never := (p == 0) & (g > 0)).any():
    node = np.argmax(never)
    raise ValueError(
      f'node {node} of norm {g[node]} has probability 0: estimates are biased; '
      'raise it with `mix` or `floor`'
    )
  g, p = g[p > 0] / len(g), p[p > 0]
  return float(np.sum(g**2 * ((1 - p) / p)))


class Decomposition(NamedTuple):
  """Squared errors of stochastic gradients; their means are the paper's."""

  error: jax.Array  # () float32, ‖g̃ - ∇f‖²; its mean is the MSE
  bias: jax.Array  # () float32, ‖g̃ - g‖²; V, of the embeddings
  variance: jax.Array  # () float32, ‖g - ∇f‖²; G, of the sampling


def decompose(estimate: Any, given_exact: Any, full: Any) -> Decomposition:
  """The error of one stochastic gradient, and its two parts.

  The paper has MSE = V + G. Measured, error - bias - variance is twice the
  product of (g̃ - g) and (g - ∇f), whose mean need not be 0.

  Args:
    estimate: tree, g̃: of the drawn nodes, with approximate embeddings.
    given_exact: g: of the same nodes and weights, with exact embeddings.
    full: ∇f: of all nodes, with exact embeddings.

  Returns:
    Three scalars, to be averaged over draws.

  Raises:
    ValueError: trees or shapes that differ.

  Source: 3.
  """
  return Decomposition(
    error=squared_distance(estimate, full),
    bias=squared_distance(estimate, given_exact),
    variance=squared_distance(given_exact, full),
  )


def squared_distance(one: Any, other: Any) -> jax.Array:
  """() float32: the sum of squared differences of two trees."""

  def of_leaf(x, y):
    if jnp.shape(x) != jnp.shape(y):
      raise ValueError(f'gradients of {jnp.shape(x)} and {jnp.shape(y)}')
    return jnp.sum(jnp.square(_wide(x) - _wide(y)))

  leaves = jax.tree.leaves(jax.tree.map(of_leaf, one, other))
  return sum(leaves, start=jnp.zeros(()))


def _wide(x) -> jax.Array:
  x = jnp.asarray(x)
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _population(probabilities, batch_size) -> np.ndarray:
  if not batch_size >= 1:
    raise ValueError(f'batch_size={batch_size} must be >= 1')
  p = _vector('probability', probabilities, highest=1)
  if not len(p):
    raise ValueError('probabilities (0,) must be [n], n >= 1')
  return p


def _vector(name: str, values: ArrayLike, highest=np.inf) -> np.ndarray:
  """[n] float64, finite and in [0, highest]."""
  found = np.asarray(values, np.float64)
  if found.ndim != 1:
    raise ValueError(f'{name}: shape {found.shape} must be that of a vector')
  wrong = ~((found >= 0) & (found <= highest) & (found < np.inf))
  if wrong.any():
    index = np.argmax(wrong)
    wanted = 'finite and >= 0' if highest == np.inf else f'in [0, {highest}]'
    raise ValueError(f'{name} {index} is {found[index]}; it must be {wanted}')
  return found
