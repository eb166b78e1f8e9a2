"""What a program makes of its victim: figures, and pictures of the report."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlab.core.state import Evaluator, State
from jaxlab.engine import mesh
from jaxlab.engine.feed import Feed
from jaxlab.ops.intervals import wilson
from jaxlab.papers.reprogramming import label_map, method, victims
from jaxlab.recipes.study import Study
from jaxlab.runs.stage import Figures, Stage, Workspace

Config = Mapping[str, Any]
_SHOWN = 8  # embedded images


def judged(
  attempt: Callable[..., method.Attempt],
  groups: Callable[[Any], Any],
) -> Evaluator:
  """How often the mapped victim is right, over a finite feed.

  Returns:
    An Evaluator with the figures `accuracy` (of the likeliest set of classes)
    with its ends `_low` and `_high` (95 %, Wilson), `nats`, `strict_accuracy`
    (the likeliest of all classes is in the label's set), `dead_targets` and
    `examples`.
  """
  names = ('right', 'strict', 'nats', 'dead', 'rows')

  def update(total, state, batch, key):
    del key
    mask = batch['mask']
    _, labels, logits = attempt(state.params, state.vars, batch)
    logits = jnp.where(mask[:, None], logits, 0.0)
    known = groups(state.vars)
    each = method.mapped_log_probability(logits, known)
    labels = jnp.where(mask, labels, 0)
    own = jnp.take_along_axis(each, labels[:, None], axis=-1)[:, 0]
    found = {
      'right': label_map.predictions(logits, known) == labels,
      'strict': label_map.predictions(logits, known, strict=True) == labels,
      'nats': -own,
      'dead': label_map.dead_targets(logits, known),
      'rows': mask,
    }
    counted = {k: jnp.where(mask, x, 0).sum() for k, x in found.items()}
    return {k: total[k] + x.astype(jnp.float32) for k, x in counted.items()}

  def finish(total):
    right, strict, nats, dead, rows = (float(total[name]) for name in names)
    low, high = wilson(right, rows)
    return {
      'accuracy': right / rows,
      'nats': nats / rows,
      'strict_accuracy': strict / rows,
      'accuracy_low': low,
      'accuracy_high': high,
      'dead_targets': dead / rows,
      'examples': rows,
    }

  return Evaluator(lambda: {n: jnp.zeros(()) for n in names}, update, finish)


def show(
  config: Config,
  space: Workspace,
  attempt: Callable[..., method.Attempt],
  groups: Callable[[Any], Any],
  state: State,
  feed: Feed,
  figures: Figures,
  of_victim: Mapping[str, float | None],
) -> None:
  """The report of one program: headline, table, the program and its inputs.

  Args:
    figures: of the test set.
    of_victim: of its own stage: `top1` and `top5` where they were measured.
  """
  _headline(config, space, figures)
  rows: list[list[str | float]] = [
    [name.removeprefix('test/'), value]
    for name, value in figures.items()
    if name.startswith('test/')
  ]
  rows += [
    [f"the victim's own {name}, photographs of this size", of_victim[name] or 0]
    for name in ('top1', 'top5')
    if name in of_victim
  ]
  space.page.table('On the test set', ['figure', 'value'], rows, show=True)
  changed = np.asarray(mesh.whole(state.params['program']['weights']))
  space.page.images(
    'program',
    _pictures(np.tanh(changed)[None]),
    caption='tanh(W), also where M is 0',
    columns=1,
  )
  batch = next(iter(feed.batches(0, 1)))[2]
  shown = jax.jit(
    lambda params, vars, b: _first(attempt, groups, params, vars, b)
  )
  images, labels, guesses, classes = (
    np.asarray(mesh.whole(x)) for x in shown(state.params, state.vars, batch)
  )
  names = []
  if config['victim']['name'] != victims.CLASSIFIER:
    names = victims.class_names(space.offline)
  space.page.images(
    'embedded',
    _pictures(images),
    [
      f'{label} -> {guess} ({_name(names, of)})'
      for label, guess, of in zip(labels, guesses, classes)
    ],
    "Test images with the program: label -> prediction (the victim's class)",
    columns=4,
  )


def _first(attempt, groups, params, vars, batch):
  images, labels, logits = attempt(params, vars, batch)
  guesses = label_map.predictions(logits, groups(vars))
  some = slice(0, _SHOWN)
  top = logits.argmax(-1)
  return images[some], labels[some], guesses[some], top[some]


def _name(names, number) -> str:
  return names[number].split(',')[0] if names else f'class {number}'


def _pictures(images: np.ndarray) -> np.ndarray:
  return np.clip((images + 1) / 2, 0, 1)


def _headline(config: Config, space: Workspace, figures: Figures) -> None:
  times, tasks = config['claim']['times_chance'], config['data']['num_classes']
  bar = times / tasks
  low, high = (figures[f'test/accuracy_{end}'] for end in ('low', 'high'))
  verdict = 'shown' if low >= bar else 'refuted' if high < bar else 'not shown'
  v = config['victim']
  space.page.headline(
    f'{config["data"]["name"]} on {v["name"]} ({v["weights"]}): accuracy '
    f'{figures["test/accuracy"]:.4f} [{low:.4f}, {high:.4f}] of '
    f'{figures["test/examples"]:.0f} images; at least {times:g} times chance, '
    f'{bar:.2f}',
    verdict,
  )


def comparison(config: Config, study: Study) -> Stage:
  """The stage `arms`: accuracies side by side, of the first seed."""

  def run(space):
    rows: list[list[str | float]] = []
    points, base = [], None
    for arm in study.arms:
      found = space.figures(study.finals(arm)[0].name)
      accuracy, examples = found['test/accuracy'], found['test/examples']
      ends = found['test/accuracy_low'], found['test/accuracy_high']
      points.append((arm, accuracy, *ends))
      spread = accuracy * (1 - accuracy) / examples
      if base is None:
        base = accuracy, spread
      difference = accuracy - base[0]
      half = 1.96 * math.sqrt(spread + base[1])
      rows.append(
        [
          arm,
          accuracy,
          *ends,
          found['test/strict_accuracy'],
          f'{difference:+.4f} ± {half:.4f}',
        ]
      )
      asked = config['claim']['baseline_is_best'] and len(study.seeds) == 1
      if asked and arm != study.arms[0]:
        verdict = 'not shown'
        if abs(difference) > half:
          verdict = 'shown' if difference < 0 else 'refuted'
        space.page.headline(
          f'{study.arms[0]} above {arm} by {-difference:.4f} ± {half:.4f} '
          '(one seed; the interval is that of the test examples)',
          verdict,
        )
    first = study.arms[0]
    columns = ['arm', 'accuracy', 'low', 'high', 'strict', f'- {first}']
    space.page.table(
      'Arms, 95 % intervals over test examples', columns, rows, show=True
    )

    def draw(axes):
      for arm, accuracy, low, high in points:
        error = [[accuracy - low], [high - accuracy]]
        axes.errorbar([arm], [accuracy], error, marker='o', capsize=3)
      axes.axhline(1 / config['data']['num_classes'], color='grey', ls=':')
      axes.set_ylabel('accuracy on the test set')
      axes.grid(alpha=0.3)

    space.page.figure('arms', draw, 'Dotted: chance')
    return {}

  return Stage('arms', run)
