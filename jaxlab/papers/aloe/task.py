"""ALOE: from a config to stages.

Every method of `config.study.methods` is trained with every seed and then
judged; the study puts the seeds together.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlab.core.require import at_least, between, one_of, require, some
from jaxlab.core.source import ArraySpec
from jaxlab.core.state import Loss, Update
from jaxlab.core.update import minimise
from jaxlab.data.images import outliers
from jaxlab.data.in_memory import ArraySource
from jaxlab.engine import mesh
from jaxlab.ops.attack_objectives import cross_entropy
from jaxlab.ops.attacks import pgd
from jaxlab.ops.detection import from_logits, uniform_cross_entropy
from jaxlab.papers.aloe import detectors, judgement, method
from jaxlab.papers.aloe.sets import Sets
from jaxlab.recipes import images, optimizers
from jaxlab.recipes.images import ImageTask, classifier_stage
from jaxlab.recipes.study import Cell, study_of
from jaxlab.runs.model import Model
from jaxlab.runs.stage import Stage, Workspace, judged_by

Config = Mapping[str, Any]


def program(config: Config) -> list[Stage]:
  """Trainings, each with its judgement, and the table of all.

  Raises:
    InputError: a value that cannot be; nothing has been computed yet.
  """
  check(config)
  judgement.check(config)
  study = study_of(
    config,
    config['study']['methods'],
    ('accuracy', 'nats'),
    judgement.headlines(config),
  )
  stages = study.stages(lambda cell: cell_stages(config, cell))
  stages += [judgement.budgets_stage(config, study)]
  return judged_by(stages, 'detection.', 'ood.', 'outliers.validation')


def check(config: Config) -> None:
  """Raises InputError where a value cannot be."""
  c = config['outliers']
  mined = 'to be mined from, for each ID image; 0: no mining'
  require(
    config,
    {
      'study.methods': some(one_of(*method.FAMILY)),
      'attack.epsilon': between(0, 1, 'in units of images in [0, 1]: 8 / 255'),
      'attack.batch_norm': one_of('running', 'batch'),
      'outliers.ratio': at_least(1),
      'outliers.weight': at_least(0),
      'outliers.augment': one_of('none', 'crop_flip'),
      'outliers.overlap': one_of('refuse', 'drop'),
    },
  )
  if c['candidates']:
    require(config, {'outliers.candidates': at_least(c['ratio'], mined)})
  optimizers.make(config['optimizer'], config['train']['steps'], 1.0)


def make_loss(
  config: Config, task: ImageTask, terms: method.Terms, platform: str
) -> Loss:
  """The member's loss on batches of uint8 images.

  Args:
    platform: that the step is for: attacks are unrolled on 'cpu', where
      convolutions inside loops are slow.
  """
  c, a, net = config['outliers'], config['attack'], task.network
  vary = images.preparation({**config['data'], 'augment': c['augment']})
  looked_at = net.logits if a['batch_norm'] == 'running' else net.batch_logits
  make = partial(
    pgd,
    epsilon=a['epsilon'],
    steps=a['steps'] or method.attack_steps(a['epsilon']),
    step_size=a['step_size'] or None,
    keep='last',
    unroll=platform == 'cpu',
  )
  mine = None
  if c['candidates']:

    def sure(images, params, vars):
      return -uniform_cross_entropy(net.logits(images, params, vars))

    mine = method.informative(sure, c['ratio'], c['quantile'])
  inner = method.robust_loss(
    net.train,
    terms,
    attack_inliers=make(cross_entropy(looked_at)),
    attack_outliers=make(from_logits(looked_at, uniform_cross_entropy)),
    weight=c['weight'],
    mine=mine,
  )

  def loss(params, vars, batch, key):
    craft, first, second = jax.random.split(key, 3)
    batch = {**batch, 'image': task.prepare(first, batch)}
    if terms.outliers:
      pixels, ids = batch['outlier'], batch['outlier_id']
      flat = {
        'image': pixels.reshape(-1, *pixels.shape[2:]),
        'id': ids.reshape(-1),
        'mask': jnp.repeat(batch['mask'], pixels.shape[1]),
      }
      varied = vary(second, flat)
      batch['outlier'] = varied.reshape(pixels.shape)
    return inner(params, vars, batch, craft)

  return loss


def make_update(
  config: Config, arm: str, rate: float, task: ImageTask, platform: str
) -> Update:
  """The training step of a method on `params['net']`."""
  loss = make_loss(config, task, method.FAMILY[arm], platform)
  tx = optimizers.make(config['optimizer'], config['train']['steps'], rate)
  return minimise(loss, 'net', tx)


def cell_stages(config: Config, cell: Cell) -> list[Stage]:
  """The stage `METHOD-sSEED`, and the judgement of a final run."""
  terms, c, d = method.FAMILY[cell.arm], config['outliers'], config['data']
  ratio, rows = c['candidates'] or c['ratio'], d['batch_size']

  def update(task: ImageTask, space: Workspace) -> Update:
    platform = mesh.platform(space.mesh)
    return make_update(config, cell.arm, cell.rate(space), task, platform)

  def build(config: Config, offline: bool) -> ImageTask:
    sets = Sets(config, offline)
    return images.image_task(config, offline)._replace(sets=sets)

  def about(sets: Sets) -> dict[str, str]:
    if not terms.outliers:
      return {}
    return {'outliers_sha256': sets.outliers_sha256}

  def source(sets: Sets, rows: int) -> Any:
    found = ArraySource(sets.train, batch_size=rows, seed=cell.seed)
    if not terms.outliers:
      return found
    extra = ArraySource(
      sets.outliers, batch_size=rows * ratio, seed=cell.seed + 2**31
    )
    return outliers.Beside(found, extra, ratio)

  more = {
    'outlier': ArraySpec(
      (rows, ratio, d['size'], d['size'], d['channels']), np.uint8
    ),
    'outlier_id': ArraySpec((rows, ratio), np.int32),
  }
  trained = classifier_stage(
    cell.name,
    config,
    update,
    options=cell.options(config['train']),
    seed=cell.seed,
    finish=None,
    source=source,
    more_arrays=more if terms.outliers else {},
    keep=cell.final,
    also=_outlier_sets(c) if terms.outliers else (),
    about=about,
    build=build,
  )
  if not cell.final:
    return [trained]
  return [trained, judgement.stage(config, cell)]


def _outlier_sets(c: Config) -> list[str]:
  """Names of the sets of auxiliary outliers."""
  own = [f'image_folder:{c["file"]}'] if c['file'] else []
  return [*dict.fromkeys(name for name, _ in c['train']), *own]


def predict(model: Model, inputs: np.ndarray) -> list[dict[str, Any]]:
  """Classes of images, and whether they are outliers.

  Args:
    inputs: [n, h, w, c] uint8, or float32 in [0, 1], of the config's size.

  Returns:
    One answer an image, as of `recipes.images.predict`; once the judgement has
    tuned them, `detectors` too: name -> `score`, `threshold`, and `verdict`,
    'inlier' from the threshold on, else 'outlier'.

  Raises:
    InputError: images of another shape.
  """
  found = images.predict(model, inputs)
  told = detectors.verdicts(model, inputs)
  return [{**one, **more} for one, more in zip(found, told)]
