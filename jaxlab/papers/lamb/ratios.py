"""Trust ratios over training: of each layer of a BERT, at every evaluation.

The optimizer's state holds those of the last update; an evaluation reads them
there, so that the training step is as it was.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxlab.core.state import Evaluator, State, Tree, paths
from jaxlab.engine import metrics
from jaxlab.papers.lamb import method
from jaxlab.runs.sections import Sections

_NAME = 'trust_ratio'  # one name: one panel of curves
_OTHERS = ('embeddings', 'heads')
_WEIGHTS = ('kernel', 'embedding')  # what the paper's recipe adapts
_LAYER = re.compile(r'layers[_/](\d+)/')


def is_one(figure: str) -> bool:
  """Whether a figure is a ratio: the State's, and no test set's."""
  return figure.endswith(f'/{_NAME}')


def of_state(state: State) -> Tree | None:
  """The ratios of the last update; None where the optimizer has none."""
  try:
    return method.trust_ratios(state.opt.get('net'), method.layer_axes_from)
  except ValueError:
    return None


def by_layer(ratios: Tree, layers: int) -> dict[str, jax.Array]:
  """Mean ratio of the weight matrices of each layer, and of what is around.

  Args:
    ratios: of a BERT, scanned or not, as `of_state` gives them.
    layers: of its encoder.

  Returns:
    'embeddings', 'layer_0' …, 'heads' -> () float32.
  """
  found: dict[str, list[jax.Array]] = {name: [] for name in _names(layers)}
  for path, leaf in paths(ratios):
    alone = _LAYER.match(path)
    if not path.endswith(_WEIGHTS):
      continue
    if alone:
      found[f'layer_{alone[1]}'].append(leaf)
    elif path.startswith('layers/'):
      for i in range(layers):
        found[f'layer_{i}'].append(leaf[i])
    else:
      found[_OTHERS['embedding' not in path]].append(leaf)
  return {name: jnp.stack(each).mean() for name, each in found.items() if each}


def _names(layers: int) -> list[str]:
  first, last = _OTHERS
  return [first, *(f'layer_{i}' for i in range(layers)), last]


def watched(evaluator: Evaluator, layers: int) -> Evaluator:
  """The evaluator, with `LAYER/trust_ratio` among its figures.

  They are those of the State, whatever the feed; there are none where the
  optimizer has no ratios. The rest of the total is as it was, so that the
  evaluator's own `finish` reads it, too.
  """
  names = _names(layers)

  def init():
    return {**evaluator.init(), _NAME: np.full(len(names), np.nan, np.float32)}

  def update(total, state, batch, key):
    own = {name: x for name, x in total.items() if name != _NAME}
    new, ratios = evaluator.update(own, state, batch, key), of_state(state)
    if ratios is None:
      return {**new, _NAME: total[_NAME]}
    of = by_layer(ratios, layers)
    return {**new, _NAME: jnp.stack([of.get(x, jnp.nan) for x in names])}

  def finish(total):
    found = dict(zip(names, np.asarray(total[_NAME], np.float64)))
    known = {name: float(x) for name, x in found.items() if np.isfinite(x)}
    figures = evaluator.finish(total)
    return figures | {f'{name}/{_NAME}': x for name, x in known.items()}

  return Evaluator(init, update, finish)


def show(page: Sections, folder: Path, state: State) -> None:
  """One figure: ratios by layer over time, and all of the last update.

  Args:
    folder: of the training, with its metrics.jsonl.
  """
  ratios = of_state(state)
  if ratios is None:
    return
  flat = sorted(float(x) for _, leaf in paths(ratios) for x in np.ravel(leaf))
  lines = over_time(metrics.read(folder / 'metrics.jsonl'))

  def by_time(axes):
    from matplotlib import colormaps

    layers = [name for name in lines if name not in _OTHERS]
    shades = colormaps['viridis'](np.linspace(0, 0.9, max(1, len(layers))))
    colours = dict(zip(layers, shades))
    for name, points in lines.items():
      look = (
        {'color': colours[name]} if name in colours else {'linestyle': '--'}
      )
      axes.semilogy(*zip(*points), marker='.', label=name, **look)
    axes.set_xlabel('updates')
    axes.set_ylabel('mean trust ratio of its matrices')
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=6, ncols=1 + len(lines) // 10)

  def last(axes):
    axes.semilogy(flat, 'o', markersize=3)
    axes.set_xlabel('parameter tensors of all layers, sorted')
    axes.set_ylabel('trust ratio of the last update')
    axes.grid(alpha=0.3)

  caption = 'all of the last update; 1: not adapted, or as the rate is'
  if not lines:
    page.figure('trust_ratios', last, f'Trust ratios: {caption}')
    return
  page.panels(
    'trust_ratios',
    [by_time, last],
    'Trust ratios: by layer over time, first layers dark; lines far apart are '
    f'layers that one rate would not suit. Right, {caption}',
  )


def over_time(
  lines: Sequence[dict],
) -> dict[str, list[tuple[int, float]]]:
  """Layer -> (step, ratio) of each evaluation, before the first update none."""
  found: dict[str, list[tuple[int, float]]] = {}
  for line in lines:
    for name, value in line.items():
      if is_one(name) and line['step'] and value:
        layer = name.split('/')[-2]
        found.setdefault(layer, []).append((line['step'], value))
  return found
