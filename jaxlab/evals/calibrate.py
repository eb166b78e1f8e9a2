"""Held-out calibration of a classifier, and its temperature."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlab.core.errors import InputError
from jaxlab.core.state import Evaluator
from jaxlab.evals.ood import collect
from jaxlab.ops import calibration
from jaxlab.ops.calibration import Reliability
from jaxlab.ops.losses import masked_cross_entropy


def calibrate(apply: Callable[..., jax.Array], bins: int = 15) -> Evaluator:
  """Calibration over a finite feed, in constant memory.

  Batches have `label` [b] int in [0, k) and the feed's `mask` [b] bool.

  Args:
    apply: (params, vars, batch) -> logits [b, k], without dropout.
    bins: of equal width, of the calibration error.

  Returns:
    An Evaluator with the figures `ece`, `nll`, `brier`, `accuracy`,
    `confidence` (mean) and `examples`: see jaxlab/ops/calibration.py.

  Raises:
    ValueError: bins < 1.
  """
  if bins < 1:
    raise ValueError(f'bins={bins} must be at least 1')
  edges = np.linspace(0, 1, bins + 1)
  binned, scalars = ('examples', 'confidence', 'right'), ('nll', 'brier')

  def init():
    return {
      **{name: jnp.zeros(bins) for name in binned},
      **{name: jnp.zeros(()) for name in scalars},
    }

  def update(total, state, batch, key):
    del key
    logits = apply(state.params, state.vars, batch)
    mask, labels = batch['mask'], batch['label']
    nll, _ = masked_cross_entropy(logits, labels, mask)
    safe = jnp.where(mask[:, None], logits.astype(jnp.float32), 0.0)
    p = jax.nn.softmax(safe)
    confidence, right = p.max(-1), safe.argmax(-1) == labels
    gaps = p - jax.nn.one_hot(labels, p.shape[-1])
    place = jnp.searchsorted(jnp.asarray(edges, jnp.float32), confidence) - 1
    held = jax.nn.one_hot(jnp.minimum(place, bins - 1), bins) * mask[:, None]
    found = {
      'examples': held.sum(0),
      'confidence': (held * confidence[:, None]).sum(0),
      'right': (held * right[:, None]).sum(0),
      'nll': nll,
      'brier': jnp.where(mask, (gaps * gaps).sum(-1), 0.0).sum(),
    }
    return {name: total[name] + value for name, value in found.items()}

  def finish(total):
    sums = {name: np.asarray(x, np.float64) for name, x in total.items()}
    rows = float(sums['examples'].sum())
    if not rows:
      raise InputError('the held-out set has no examples; hold out more')
    if not all(np.isfinite(x).all() for x in sums.values()):
      raise InputError('logits of held-out examples are not finite')
    table = calibration.tabulate(edges, *(sums[name] for name in binned))
    return {
      'ece': calibration.expected_error(table),
      'nll': float(sums['nll']) / rows,
      'brier': float(sums['brier']) / rows,
      'accuracy': float(sums['right'].sum()) / rows,
      'confidence': float(sums['confidence'].sum()) / rows,
      'examples': rows,
    }

  return Evaluator(init, update, finish)


def temperature_scaled(
  apply: Callable[..., jax.Array], args: tuple, validation: Any, test: Any
) -> tuple[float, list[dict[str, Any]]]:
  """Fits a temperature on one feed and measures another, before and after.

  Args:
    apply: (batch, *args) -> logits [b, k].
    args: networks, which are arguments of the compiled program.
    validation: a finite feed or a list of batches with `label` and `mask`, not
      seen in training.
    test: another.

  Returns:
    (T, two rows of `calibration.summary` with `temperature`: 1 and T). T and
    its row are NaN where no temperature fits, as when every validation example
    is right.

  Raises:
    InputError: feeds without rows, or logits that are not finite.
  """
  run = jax.jit(apply)
  functions: dict[str, Callable] = {
    'logits': lambda batch: run(batch, *args),
    'label': lambda batch: batch['label'],
  }
  fitted, held = collect(functions, validation), collect(functions, test)
  try:
    logits = np.asarray(held['logits'], np.float64)
    plain = calibration.summary(logits, held['label'])
    try:
      temperature = calibration.fit_temperature(
        fitted['logits'], fitted['label']
      )
      scaled = calibration.summary(logits / temperature, held['label'])
    except calibration.NoTemperature:
      temperature, scaled = math.nan, dict.fromkeys(plain, math.nan)
  except ValueError as error:
    raise InputError(f'calibration: {error}') from error
  rows = [{'temperature': 1.0, **plain}, {'temperature': temperature, **scaled}]
  return temperature, rows


def reliability_diagrams(
  tables: Mapping[str, Reliability],
) -> Callable[[Any], None]:
  """Reliability diagrams, to be drawn on axes: label -> `Reliability`."""

  def draw(axes):
    for label, table in tables.items():
      error = calibration.expected_error(table)
      full = table.examples > 0
      axes.plot(
        table.confidence[full],
        table.accuracy[full],
        'o-',
        markersize=3,
        linewidth=1,
        label=f'{label}: ECE {error:.3f}',
      )
    axes.plot([0, 1], [0, 1], ':', color='grey', linewidth=1)
    axes.set_xlabel('confidence')
    axes.set_ylabel('accuracy')
    axes.legend(frameon=False)

  return draw
