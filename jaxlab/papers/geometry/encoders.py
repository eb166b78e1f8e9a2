"""Many encoders R^2 -> R^1 of several widths at once, trained along a curve.

All have the layers of the widest; the units that a narrower one lacks are
masked, so that one program trains them all.
"""

import itertools
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from jaxlab.core.errors import InputError
from jaxlab.papers.geometry import complexity, regions


def train(
  key: jax.Array,
  points: np.ndarray,
  widths: Sequence[int],
  seeds: int,
  depth: int,
  steps: int,
  rate: float,
  batch: int,
  corners: int = 1024,
) -> list[list[list[tuple[np.ndarray, np.ndarray]]]]:
  """Trains encoders to rise along a polyline.

  The loss is the mean of max(0, 1 - slope) over neighbouring points of the
  curve, 1 being the slope of the arc length from -1 to 1. In every step the
  points are others, or the code would fall between them. Adam; the rate falls
  to 0 as a cosine.

  Args:
    points: [m, 2], corners in about [-1, 1]; m at most `corners`.
    depth: hidden layers.
    batch: points of the curve in a step.

  Returns:
    Layers of each [width][seed], float64.
  """
  length = np.linalg.norm(np.diff(points, axis=0), axis=1)
  arc = np.concatenate([[0.0], np.cumsum(length)])
  arc = 2 * arc / arc[-1] - 1
  missing = corners - len(points)  # one shape for all curves: one program
  if missing < 0:
    raise InputError(f'{len(points)} corners are more than {corners}')
  arc = np.concatenate([arc, np.linspace(1, 2, missing + 1)[1:]])
  points = np.concatenate([points, np.repeat(points[-1:], missing, 0)])
  sizes = jnp.asarray([w for w in widths for _ in range(seeds)])
  found = _train(
    jax.random.split(key, len(sizes)),
    sizes,
    jnp.asarray(points, jnp.float32),
    jnp.asarray(arc, jnp.float32),
    rate,
    wide=max(widths),
    depth=depth,
    steps=steps,
    batch=batch,
  )
  found = jax.device_get(found)
  return [
    [
      _layers(jax.tree.map(lambda x, i=i: x[i], found), width)
      for i in range(number * seeds, (number + 1) * seeds)
    ]
    for number, width in enumerate(widths)
  ]


def polish(
  net: list[tuple[np.ndarray, np.ndarray]],
  points: np.ndarray,
  rounds: int,
  steps: int = 200,
  rate: float = 3e-4,
) -> list[tuple[np.ndarray, np.ndarray]]:
  """Raises the pieces of a nearly monotone encoder that still fall.

  In each round the exact pieces along the polyline [m, 2] are found, and the
  slope of each, short as it may be, is pushed above 1/4 (in units where the
  whole curve is 2 long).
  """
  total = np.linalg.norm(np.diff(points, axis=0), axis=1).sum() / 2
  for _ in range(rounds):
    if complexity.injective_along(net, points).injective:
      break
    found = regions.count_segments(net, points[:-1], points[1:])
    first = points[found.segment]
    x = first + found.times[:, None] * (points[found.segment + 1] - first)
    size = np.linalg.norm(np.diff(x, axis=0), axis=1) / total
    (at,) = np.nonzero(size > 1e-9)
    missing = -len(at) % 512  # few shapes to compile
    a, b, size = (
      np.concatenate([v, np.repeat(v[:1], missing, 0)])
      for v in (x[at], x[at + 1], size[at])
    )
    given = jax.tree.map(jnp.float32, (net, a, b, size))
    net = jax.device_get(_polished(*given, rate, steps=steps))
    net = [(w.astype(float), c.astype(float)) for w, c in net]
  return net


@partial(jax.jit, static_argnames='steps')
def _polished(params, a, b, size, rate, *, steps):
  tx = optax.adam(rate)

  def loss(params):
    x = jnp.concatenate([a, b])
    for i, (w, c) in enumerate(params):
      x = (jax.nn.relu(x) if i else x) @ w + c
    rise = x[len(a) :, 0] - x[: len(a), 0]
    return jax.nn.relu(0.25 - rise / size).mean()

  def body(carry, _):
    params, opt = carry
    updates, opt = tx.update(jax.grad(loss)(params), opt)
    return (optax.apply_updates(params, updates), opt), None

  return lax.scan(body, (params, tx.init(params)), length=steps)[0][0]


def _layers(params, width: int):
  """The layers of one encoder without its masked units."""
  last = len(params) - 1
  cut = []
  for i, (w, b) in enumerate(params):
    ins, outs = (
      slice(None) if x else slice(width) for x in (i == 0, i == last)
    )
    cut.append((w[ins, outs].astype(float), b[outs].astype(float)))
  return cut


@partial(jax.jit, static_argnames=('wide', 'depth', 'steps', 'batch'))
def _train(keys, sizes, points, arc, rate, *, wide, depth, steps, batch):
  shape = [points.shape[1], *[wide] * depth, 1]
  tx = optax.adam(optax.cosine_decay_schedule(rate, steps))

  def begin(key, size):
    mask = jnp.arange(wide) < size
    made = []
    for i, (ins, outs) in enumerate(itertools.pairwise(shape)):
      first, second = jax.random.split(jax.random.fold_in(key, i))
      fan_in = size if i else ins
      w = jax.random.normal(first, (ins, outs)) * jnp.sqrt(2 / fan_in)
      w = w * mask[:, None] if i else w
      b = jax.random.normal(second, (outs,)) * 0.5
      if i < depth:
        w, b = w * mask, b * mask
      made.append((w, b))
    return made

  def loss(params, x, spacing):
    for i, (w, b) in enumerate(params):
      x = (jax.nn.relu(x) if i else x) @ w + b
    return jax.nn.relu(1.0 - jnp.diff(x[:, 0]) / spacing).mean()

  def body(carry, step):
    params, opt = carry
    # Evenly spaced, from a start of their own (a golden-ratio sequence).
    start = (step * 0.6180339887) % 1.0
    s = (2 * (jnp.arange(batch + 1) + start) / (batch + 1)) - 1
    x = jnp.stack([jnp.interp(s, arc, c) for c in points.T], 1)
    slope = jax.vmap(jax.grad(loss), (0, None, None))
    # A masked unit has weights 0 on both sides, so its gradients are 0.
    updates, opt = jax.vmap(tx.update)(slope(params, x, s[1] - s[0]), opt)
    return (optax.apply_updates(params, updates), opt), None

  params = jax.vmap(begin)(keys, sizes)
  carry = params, jax.vmap(tx.init)(params)
  return lax.scan(body, carry, jnp.arange(steps))[0][0]
