"""The paper's three views of a trained network, as numbers and as figures.

representation  size of the gradient at the last linear layer's input, against p
energy          E(y|x) = -f_y of the label and of the other classes
margin          f_y - max_{k != y} f_k
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlab.core.errors import InputError
from jaxlab.core.state import Evaluator
from jaxlab.ops.attack_objectives import margins as attack_margins

Draw = Callable[[Any], None]  # on matplotlib axes

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
WIDE = 200.0  # values further apart are drawn on an axis linear near 0 alone
LINEAR = 10.0  # up to here


def margins(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """[b] float32: f_y - max_{k != y} f_k, above 0 where the answer is right."""
  return -attack_margins(logits, labels)


def energies(
  logits: jax.Array, labels: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """E(y|x) of the label, and E(k|x) of the other classes in their order.

  Args:
    logits: [b, K] floating.
    labels: [b] integer in [0, K).

  Returns:
    [b] and [b, K - 1] float32.
  """
  f, labels = logits.astype(jnp.float32), labels[:, None]
  others = jnp.arange(f.shape[-1] - 1)
  others = others + (others >= labels)
  at = lambda classes: jnp.take_along_axis(f, classes, -1)
  return -at(labels)[:, 0], -at(others)


def representation_gradients(
  loss: Callable, logits: jax.Array, labels: jax.Array, kernel: jax.Array
) -> jax.Array:
  """‖dL/dh‖ of each example, h the input of the linear layer of the logits.

  Args:
    loss: (logits [b, K], labels [b]) -> [b].
    logits: [b, K] floating.
    labels: [b] integer.
    kernel: [d, K] of that layer.

  Returns:
    [b] float32.
  """
  slope = jax.grad(lambda f: loss(f, labels).sum())(logits.astype(jnp.float32))
  return jnp.linalg.norm(slope @ kernel.T.astype(jnp.float32), axis=-1)


def margin_quantiles(apply: Callable, capacity: int) -> Evaluator:
  """Quantiles of the margins over a finite feed, for curves over training.

  Args:
    apply: (params, vars, batch) -> logits [b, K].
    capacity: rows of the feed at most, padding included.

  Returns:
    An Evaluator with the figures `margin_q05` … `margin_q95` and
    `label_energy`, the mean of E(y|x).
  """

  def init():
    return {
      'margin': jnp.zeros(capacity),
      'energy': jnp.zeros(capacity),
      'mask': jnp.zeros(capacity, bool),
      'rows': jnp.zeros((), jnp.int32),
    }

  def update(total, state, batch, key):
    del key
    logits = apply(state.params, state.vars, batch)
    found = {
      'margin': margins(logits, batch['label']).astype(jnp.float32),
      'energy': energies(logits, batch['label'])[0],
      'mask': batch['mask'],
    }
    put = jax.lax.dynamic_update_slice
    added = {n: put(total[n], x, (total['rows'],)) for n, x in found.items()}
    return {**added, 'rows': total['rows'] + len(batch['mask'])}

  def finish(total):
    if total['rows'] > capacity:
      raise InputError(f'the feed has {total["rows"]} rows, not {capacity}')
    mask = np.asarray(total['mask'])
    if not mask.any():
      raise InputError('the held-out set has no examples; hold out more')
    values = np.quantile(np.asarray(total['margin'])[mask], QUANTILES)
    found = {
      f'margin_q{100 * q:02.0f}': float(v) for q, v in zip(QUANTILES, values)
    }
    energy = np.asarray(total['energy'], np.float64)[mask].mean()
    return {**found, 'label_energy': float(energy)}

  return Evaluator(init, update, finish)


def _axis(values: np.ndarray) -> tuple[dict[str, Any], np.ndarray]:
  """The scale of an axis for these values, and the edges of 60 bins on it."""
  low, high = float(values.min()), float(values.max()) + 1e-6
  if high - low <= WIDE:
    return {'value': 'linear'}, np.linspace(low, high, 61)
  places = np.linspace(np.arcsinh(low / LINEAR), np.arcsinh(high / LINEAR), 61)
  scale = {'value': 'asinh', 'linear_width': LINEAR}
  return scale, LINEAR * np.sinh(places)


def draw_representation(
  curves: Mapping[str, tuple[np.ndarray, np.ndarray]],
) -> Draw:
  """Mean gradient norms in twenty bins of p: loss -> (p, norms)."""

  def draw(axes):
    for label, (p, norms) in curves.items():
      place = np.minimum((20 * np.asarray(p)).astype(int), 19)
      full = np.unique(place)
      means = [np.asarray(norms)[place == i].mean() for i in full]
      axes.plot((full + 0.5) / 20, means, 'o-', label=label)
    axes.set_yscale('log')
    axes.set_xlabel('probability of the label')
    axes.set_ylabel('gradient norm at the representation')
    axes.legend(frameon=False)

  return draw


def draw_histograms(groups: Mapping[str, np.ndarray], what: str) -> Draw:
  """Histograms with common bins: label -> values of any shape.

  Values more than WIDE apart have bins and an axis that are linear up to about
  LINEAR and logarithmic from there.
  """
  values = np.concatenate([group.ravel() for group in groups.values()])
  scale, edges = _axis(values)

  def draw(axes):
    for label, group in groups.items():
      share = np.full(group.size, 1 / max(group.size, 1))
      axes.hist(
        group.ravel(), edges, weights=share, histtype='step', label=label
      )
    axes.set_xscale(**scale)
    axes.set_xlabel(what)
    axes.set_ylabel('share, 60 bins')
    axes.legend(frameon=False)

  return draw


def draw_margins(
  runs: Mapping[str, Sequence[Mapping[str, Any]]], prefix: str
) -> Draw:
  """Margin quantiles over training: loss -> lines of metrics.jsonl.

  Args:
    prefix: of the figures' names, 'margins/'.
  """

  def draw(axes):
    ends = [0.0]
    for i, (label, lines) in enumerate(runs.items()):
      lines = [x for x in lines if f'{prefix}margin_q50' in x]
      steps = [x['step'] for x in lines]
      at = lambda q, rows=lines: [x[f'{prefix}margin_q{q}'] for x in rows]
      axes.plot(steps, at('50'), 'o-', color=f'C{i}', label=f'{label}, median')
      axes.fill_between(steps, at('05'), at('95'), color=f'C{i}', alpha=0.2)
      ends += at('05') + at('95')
    axes.set_yscale(**_axis(np.asarray(ends))[0])
    axes.axhline(0, color='grey', linewidth=1, linestyle=':')
    axes.set_xlabel('step')
    axes.set_ylabel('margin; band: 5 % to 95 % of examples')
    axes.legend(frameon=False)

  return draw
