"""How often attacks succeed, how far they go, how long they take.

The images are those of the test set that the attacked network classifies
rightly; an attack with targets is judged on every class but the image's own.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlab.core import keys
from jaxlab.core.require import at_least, each, inside, require
from jaxlab.core.state import State
from jaxlab.data.images.sets import drawn
from jaxlab.engine.metrics import Meter
from jaxlab.ops.attack_objectives import Objective, margins, of_logits
from jaxlab.ops.attack_steps import Attack
from jaxlab.ops.attacks import cw_l2, fgsm, pgd, square
from jaxlab.ops.intervals import wilson
from jaxlab.ops.similarity import ssim
from jaxlab.papers.advgan import game, method
from jaxlab.papers.advgan.game import Game
from jaxlab.recipes import images as recipe
from jaxlab.runs.model import Model
from jaxlab.runs.sections import Sections
from jaxlab.runs.stage import Figures, Workspace

Config = Mapping[str, Any]
Logits = Callable[[np.ndarray], np.ndarray]  # images -> [n, k], on the host

_ROWS = 100  # images looked at together
_CHUNK = 25  # attacked together by iterative attacks

CW = 'C&W, untargeted'


class Aimed(NamedTuple):
  """Images and what they are to be taken for."""

  images: np.ndarray  # [n, h, w, c] float32 in [0, 1]
  labels: np.ndarray  # [n] int
  aims: np.ndarray  # [n] int; without targets, the labels
  clean: np.ndarray  # [n, k], what the attacked network says of them

  def rows(self, some) -> 'Aimed':
    return Aimed(*(x[some] for x in self))


class Hits(NamedTuple):
  """Which attacks succeeded, and which images count."""

  success: np.ndarray  # [n] bool
  counted: np.ndarray  # [n] bool


class Attacked(NamedTuple):
  """Images beside their perturbed copies."""

  of: Aimed
  changed: np.ndarray  # [n, h, w, c]
  seconds: float  # that making `changed` took, without compilation


def check(config: Config) -> None:
  """Raises InputError where a value of `judge` cannot be."""
  budgets = each(inside(0, 1, 'in units of images in [0, 1]'))
  require(
    config,
    {
      'judge.images': at_least(1),
      'judge.attacked': at_least(0, '0: no other attacks'),
      'judge.epsilons': budgets,
      'judge.pgd_steps': at_least(1),
      'judge.cw_steps': at_least(0, '0: without C&W'),
      'judge.square_queries': at_least(0, '0: without Square'),
    },
  )


def test_images(config: Config, sets, count: int) -> dict[str, np.ndarray]:
  """`image` float32 in [0, 1] and `label` of images of the test set."""
  found = drawn(sets.inliers(config['data']['test_split']), count)
  image = found['image'].astype(np.float32) / 255
  return {'image': image, 'label': found['label']}


def all_aims(of: Game, aimed: Aimed) -> Aimed:
  """Each image with every class but its own; as it is, without targets."""
  if not of.targeted:
    return aimed
  shifts = np.arange(1, of.classes)
  aims = (aimed.labels[:, None] + shifts) % of.classes
  each = aimed.rows(np.arange(len(aimed.labels)).repeat(len(shifts)))
  return each._replace(aims=aims.reshape(-1))


class Generated:
  """What a generator makes of images, in one compiled program."""

  def __init__(self, of: Game, gen: Any):
    self._run = jax.jit(lambda *args: of.attack(*args)[0])
    self._gen = gen

  def __call__(self, aimed: Aimed) -> Attacked:
    def make(rows):
      few = aimed.rows(rows)
      short = _ROWS - len(few.labels)
      if short:  # the program is of full batches
        few = few.rows(np.arange(_ROWS) % len(few.labels))
      changed = self._run(self._gen, few.images, few.aims)
      return changed[: _ROWS - short]

    name = 'adversarial images'
    return Attacked(aimed, *_timed(make, len(aimed.images), _ROWS, name))


def aim_objective(of: Game) -> Objective:
  """How far an image has come to its aim, in logits; above 0 it is there."""
  sign = -1 if of.targeted else 1
  return of_logits(lambda z, aims: sign * margins(z, aims), of.network.logits)


def usual_attacks(of: Game) -> dict[str, Attack]:
  """FGSM, PGD, Square and C&W with the aims and the budget of a game.

  C&W has no budget and no targets here: it is cut to the budget, and any wrong
  class counts.
  """
  j, epsilon = of.config['judge'], of.config['attack']['epsilon']
  objective = aim_objective(of)
  steps, queries = j['pgd_steps'], j['square_queries']
  attacks: dict[str, Attack] = {
    'FGSM': fgsm(objective, epsilon=epsilon),
    f'PGD-{steps}': pgd(objective, epsilon=epsilon, steps=steps),
  }
  if queries:
    name = f'Square, {queries} queries'
    attacks[name] = square(objective, epsilon=epsilon, steps=queries)
  if j['cw_steps']:
    attacks[CW] = cw_l2(
      of.network.logits, steps=j['cw_steps'], searches=3, initial_c=1.0
    )
  return attacks


def iterative(
  of: Game,
  attacks: Mapping[str, Attack],
  args: tuple[Mapping, Mapping],
  aimed: Aimed,
  key: jax.Array,
) -> dict[str, Attacked]:
  """What attacks on a network, args = (params, vars), make of images."""
  epsilon = of.config['attack']['epsilon']
  ids = np.arange(len(aimed.images), dtype=np.int32)
  found = {}
  for name, attack in attacks.items():
    aims = aimed.labels if name == CW else aimed.aims

    def make(rows, attack=attack, aims=aims):
      images = jnp.asarray(aimed.images[rows])
      far = attack(key, images, ids[rows], jnp.asarray(aims[rows]), *args)
      return method.project(images, far - images, epsilon)

    found[name] = Attacked(
      aimed._replace(aims=aims), *_timed(make, len(ids), _CHUNK, name)
    )
  return found


def hits(attacked: Attacked, logits: Logits, targeted: bool) -> Hits:
  """Asks the attacked network about the changed images, once each."""
  of = attacked.of
  found = method.succeeded(
    jnp.asarray(of.clean),
    jnp.asarray(logits(attacked.changed)),
    jnp.asarray(of.labels),
    jnp.asarray(of.aims) if targeted else None,
  )
  return Hits(*(np.asarray(x) for x in found))


def row(name: str, attacked: Attacked, hits: Hits) -> dict[str, Any]:
  """Success, L2 and SSIM of an attack."""
  success, counted = hits
  share = success.sum() / max(1, counted.sum())
  low, high = wilson(float(success.sum()), max(1, int(counted.sum())))
  before, after = attacked.of.images[counted], attacked.changed[counted]
  moved = (after - before).astype(np.float64)
  alike = ssim(before[:1000], after[:1000])
  return {
    'attack': name,
    'success': float(share),
    'low': low,
    'high': high,
    'L2': float(np.sqrt((moved**2).sum((1, 2, 3))).mean()),
    'SSIM': float(alike.mean()),
    's per 1,000': 1000 * attacked.seconds / len(attacked.changed),
    'images': int(counted.sum()),
  }


COLUMNS = (
  'attack',
  'success',
  'low',
  'high',
  'L2',
  'SSIM',
  's per 1,000',
  'images',
)


def by_target(attacked: Attacked, hits: Hits, classes: int) -> list[list]:
  """Success at each target class: [class, success, images]."""
  found = []
  for aim in range(classes):
    here = hits.counted & (attacked.of.aims == aim)
    share = float(hits.success[here].mean()) if here.any() else None
    found.append([aim, share, int(here.sum())])
  return found


def logits_of(network, args) -> Logits:
  """A network on the host, some rows at a time."""
  run = jax.jit(network.logits)
  return lambda images: np.concatenate(
    [
      np.asarray(run(images[i : i + 500], *args))
      for i in range(0, len(images), 500)
    ]
  )


def show(
  page: Sections, of: Game, make: Generated, aimed: Aimed, logits: Logits
) -> None:
  """A grid: an image, then its perturbation and what it becomes, for every
  target class (or, without targets, for some images)."""
  if of.targeted:
    aimed = aimed.rows([0] * of.classes)._replace(aims=np.arange(of.classes))
  else:
    aimed = aimed.rows(slice(8))
  own, made = aimed.images, make(aimed)
  epsilon = of.config['attack']['epsilon']
  moved = (made.changed - own) / (2 * epsilon) + 0.5
  found = logits(made.changed).argmax(-1)
  pictures = np.concatenate([own, moved, made.changed])
  words = [f'{x}' for x in aimed.clean.argmax(-1)]
  ways = [f'to {x}' if of.targeted else 'away' for x in aimed.aims]
  page.images(
    'grid',
    np.clip(pictures, 0, 1),
    [*words, *ways, *(f'taken for {x}' for x in found)],
    'Above: the image and its class; middle: the perturbation (grey is none); '
    'below: their sum, and what the network takes it for',
    columns=len(own),
  )


def against_epsilon(
  page: Sections, of: Game, made: Attacked, logits: Logits
) -> None:
  """A curve: success of perturbations cut to smaller budgets."""
  epsilons = of.config['judge']['epsilons']
  images = jnp.asarray(made.of.images)
  shares: list[float] = []
  for epsilon in epsilons:
    changed = method.project(
      images, jnp.asarray(made.changed) - images, epsilon
    )
    cut = made._replace(changed=np.asarray(changed))
    success, counted = hits(cut, logits, of.targeted)
    shares.append(success.sum() / max(1, counted.sum()))

  def draw(axes):
    axes.plot(epsilons, shares, marker='o')
    axes.set_xlabel('budget, L-infinity, images in [0, 1]')
    axes.set_ylabel('success')
    axes.set_ylim(0, 1)
    axes.grid(alpha=0.3)

  if epsilons:
    page.figure('epsilon', draw, 'Perturbations of one generator, cut')


def judge(
  config: Config,
  space: Workspace,
  of: Game,
  sets,
  state: State,
  attacked: Logits,
  others: tuple | None = None,
) -> Figures:
  """The table and figures of a trained generator.

  Args:
    attacked: the network that is to be deceived.
    others: (params, vars) of `of.network`, for FGSM, PGD, Square and C&W; None
      leaves them out.

  Returns:
    `test/success`, `test/l2`, `test/ssim`, `test/clean_accuracy`.
  """
  j, gen = config['judge'], state.params['gen']
  test = test_images(config, sets, j['images'])
  image, label = test['image'], test['label']
  plain = Aimed(image, label, label, attacked(image))
  make = Generated(of, gen)
  made = make(all_aims(of, plain))
  found = hits(made, attacked, of.targeted)
  rows = [row('AdvGAN', made, found)]
  few = plain.rows(slice(_ROWS))
  if others is not None and j['attacked']:
    few = plain.rows(slice(j['attacked']))
    key = keys.stream(space.seed, 'judge')
    ids = jnp.arange(len(few.labels))
    aims = of.aims(key, ids, jnp.asarray(few.labels))
    aimed = few._replace(aims=np.asarray(aims))
    ones = {'AdvGAN, the same images': make(aimed)}
    ones |= iterative(of, usual_attacks(of), others, aimed, key)
    for name, one in ones.items():
      targeted = of.targeted and name != CW
      rows.append(row(name, one, hits(one, attacked, targeted)))
  page = space.page
  kind = 'one of the other classes' if of.targeted else 'any other class'
  page.table(
    f'Success (95 %, Wilson) against {kind}, '
    f'epsilon {config["attack"]["epsilon"]:.3g}',
    COLUMNS,
    rows,
    show=True,
  )
  if of.targeted:
    page.table(
      'Success by target class',
      ('target', 'success', 'images'),
      by_target(made, found, of.classes),
    )
  show(page, of, make, plain, attacked)
  against_epsilon(page, of, make(all_aims(of, few)), attacked)
  first = rows[0]
  accuracy = float((plain.clean.argmax(-1) == label).mean())
  return {
    'test/success': first['success'],
    'test/l2': first['L2'],
    'test/ssim': first['SSIM'],
    'test/clean_accuracy': accuracy,
  }


def answer(model: Model, inputs: np.ndarray) -> list[dict[str, Any]]:
  """`predict` of a game against the network of `model.config.model`."""
  of = game.make(model.config, recipe.image_task(model.config).network)
  told = recipe.predict(model, inputs)
  pixels = np.asarray(inputs)
  if pixels.dtype == np.uint8:
    pixels = pixels.astype(np.float32) / 255
  logits = logits_of(of.network, (model.params, model.vars))
  labels = np.array([one['label'] for one in told])
  make = Generated(of, model.params['gen'])
  ways = range(of.classes if of.targeted else 1)
  found, pictures = [], []
  for aim in ways:
    aims = np.full(len(labels), aim) if of.targeted else labels
    made = make(Aimed(pixels, labels, aims, pixels))
    found.append(logits(made.changed).argmax(-1))
    pictures.append(np.asarray(made.changed))
  return [
    {
      'label': int(label),
      'aims': list(ways) if of.targeted else [],
      'labels': [int(taken[i]) for taken in found],
      'pictures': np.stack([made[i] for made in pictures]),
    }
    for i, label in enumerate(labels)
  ]


def _timed(make, count: int, rows: int, name: str) -> tuple[np.ndarray, float]:
  """All rows of `make(slice)`, and the seconds without the first call's
  compilation."""
  parts = [slice(i, i + rows) for i in range(0, count, rows)]
  jax.block_until_ready(make(parts[0]))
  if count % rows and len(parts) > 1:
    jax.block_until_ready(make(parts[-1]))
  meter, began = Meter(name, len(parts)), time.perf_counter()
  found = []
  for part in parts:
    found.append(np.asarray(make(part)))
    meter.advance()
  return np.concatenate(found), time.perf_counter() - began
