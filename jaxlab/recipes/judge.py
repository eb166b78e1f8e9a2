"""The worth of a trained classifier: calibration, outliers, attacks.

Every function measures one network on finite feeds, tells how long it will
take where that is more than ten seconds, and returns figures by name or table
rows. A network is given as `args = (params, vars)`, see `args_of`.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxlab.core.state import State
from jaxlab.data.images.sets import ImageSets
from jaxlab.engine import mesh
from jaxlab.engine.feed import Feed
from jaxlab.evals import ood
from jaxlab.evals.calibrate import temperature_scaled
from jaxlab.ops.attack_objectives import wrong
from jaxlab.ops.attack_steps import Attack
from jaxlab.ops.attacks import in_chunks
from jaxlab.ops.detection import Detector
from jaxlab.ops.intervals import wilson
from jaxlab.recipes import pictures
from jaxlab.recipes.images import ImageTask

Row = dict[str, Any]
Args = tuple[Mapping, Mapping]

_CHUNK = 25  # images attacked together
_SHOWN = 8  # images of an attack that are shown


def args_of(state: State) -> Args:
  """The network of a State, as judged here: (params, vars)."""
  return {'net': state.params['net']}, {'net': state.vars['net']}


def calibration(
  task: ImageTask, args: Args, validation: Feed, test: Feed
) -> dict[str, float]:
  """`ece`, `nll`, `brier`, the same `…_scaled`, and `temperature`.

  The temperature is fitted on validation.
  """
  logits = lambda batch, params, vars: task.logits(params, vars, batch)
  temperature, rows = temperature_scaled(logits, args, validation, test)
  figures = {'temperature': temperature}
  for row, name in zip(rows, ('', '_scaled')):
    figures |= {f'{k}{name}': row[k] for k in ('ece', 'nll', 'brier')}
  return figures


def outlier_rows(
  sets: ImageSets,
  detectors: Mapping[str, Detector],
  inside: Mapping[str, np.ndarray],
  outside: Mapping[str, np.ndarray],
  devices: Mesh,
  *,
  attack: Callable[..., Attack] | None = None,
  epsilons: Sequence[float] = (),
  key: jax.Array | None = None,
  name: str = 'outliers',
) -> tuple[ood.Scores, dict[str, ood.Scores], list[Row]]:
  """How well detectors tell outliers, clean and each attacked by itself.

  Args:
    sets: makes the feeds.
    inside: arrays of ID images.
    outside: name of an OOD set -> its images.
    attack, epsilons, key: as of `ood.scored`.

  Returns:
    Scores of ID images, scores of each OOD set, rows of `ood.ood_table`.
  """

  def score(images, inlier):
    return ood.scored(
      detectors,
      sets.once(images, devices),
      inlier,
      attack=attack,
      epsilons=epsilons,
      key=key,
      name=name,
    )

  ids = score(inside, True)
  # All OOD sets at once: an attack is compiled for each call.
  together = score({'image': np.concatenate([*outside.values()])}, False)
  ends = np.cumsum([len(part) for part in outside.values()])
  pieces = {k: np.split(v, ends[:-1]) for k, v in together.items()}
  others = {
    of: {k: piece[i] for k, piece in pieces.items()}
    for i, of in enumerate(outside)
  }
  return ids, others, ood.ood_table(ids, others)


def cached(make: Callable[..., Attack], devices: Mesh):
  """(objective, epsilon) -> attack; on one CPU, of what its cache holds."""
  alone = mesh.platform(devices) == 'cpu' and devices.size == 1

  def attack(objective, epsilon):
    whole = make(objective, epsilon=epsilon)
    return in_chunks(whole, _CHUNK, row_args=0) if alone else whole

  return attack


def withstood(
  logits: Callable[..., jax.Array],
  attacks: Mapping[str, Attack],
  args: Args,
  feed: Feed,
  seed: int,
  keep: Callable[[str, pictures.Shown], None] | None = None,
) -> dict[str, float]:
  """Shares of images classified rightly, clean and under each attack.

  Attacks run one step at a time: all of them in one program, as an Evaluator
  would have them, took 22 GB on MNIST.

  Args:
    logits: (params, vars, batch) -> [b, k], of `image` float32 in [0, 1].
    attacks: name -> attack(key, images, ids, params, vars, batch).
    feed: batches of `image` float32 in [0, 1], `label`, `id`.
    keep: called with the name of each attack and the first images.

  Returns:
    `attacked/accuracy`, `attacked/NAME_accuracy` with `…_low` and `…_high`
    (95 %, Wilson), and of the worst attack on each image
    `attacked/worst_accuracy`.
  """

  @jax.jit
  def judged(image, batch, params, vars):
    of = logits(params, vars, {**batch, 'image': image})
    return ~wrong(of, batch['label']), of.argmax(-1)

  first: dict[str, tuple] = {}  # of an attack: its first images and answers

  def noted(name, image, batch):
    right, answer = judged(image, batch, *args)
    if keep:
      first.setdefault(name, (image, answer, batch))
    return right

  functions = {'': lambda batch: noted('', batch['image'], batch)}
  for number, (name, attack) in enumerate(attacks.items()):
    key = jax.random.fold_in(jax.random.key(seed), number)

    def stands(batch, name=name, attack=attack, key=key):
      image = attack(key, batch['image'], batch['id'], *args, batch)
      return noted(name, image, batch)

    functions[f'{name}_'] = stands
  found = ood.collect(functions, feed, 'attacks')
  # An image withstands an attack if it was classified rightly before, too.
  counted = {name: found[''] & each for name, each in found.items()}
  counted['worst_'] = np.logical_and.reduce(list(found.values()))
  figures = {}
  for name, each in counted.items():
    low, high = wilson(float(each.sum()), len(each))
    figures[f'attacked/{name}accuracy'] = float(each.mean())
    figures[f'attacked/{name}accuracy_low'] = low
    figures[f'attacked/{name}accuracy_high'] = high
  if keep:
    for name in attacks:
      keep(name, _shown(first[''], first[name]))
  return figures


def _shown(clean: tuple, changed: tuple) -> pictures.Shown:
  """The first images of two batches (images, answers, batch)."""
  batch = clean[2]
  whole = (*(clean[0], changed[0], batch['label']), clean[1], changed[1])
  mask = mesh.whole(batch['mask'])
  return pictures.Shown(*(mesh.whole(x)[mask][:_SHOWN] for x in whole))


def views(
  functions: Callable[..., Mapping[str, jax.Array]],
  names: Sequence[str],
  args: Args,
  feed: Feed,
) -> dict[str, np.ndarray]:
  """Values of every image of a feed, of one compiled function.

  Args:
    functions: (batch, params, vars) -> {name: [b, …]}.
    names: of its values.
  """
  run = jax.jit(functions)
  each = {name: partial(_one, run, name, args) for name in names}
  return ood.collect(each, feed)


def _one(run, name, args, batch):
  return run(batch, *args)[name]
