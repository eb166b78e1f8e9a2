"""The trainings of networks of regions: their stages, how they begin."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import PartitionSpec

from jaxlab.core import keys
from jaxlab.core.errors import InputError
from jaxlab.core.source import ArraySpec
from jaxlab.core.state import (
  State,
  Task,
  Tree,
)
from jaxlab.data.licences import licence_of
from jaxlab.engine import hosts, partition
from jaxlab.engine.compiled import FRESH, Start
from jaxlab.engine.feed import Feed, held_out
from jaxlab.engine.loop import Inputs, Options
from jaxlab.engine.metrics import say
from jaxlab.evals import ood
from jaxlab.papers.doc_regions import documents, method
from jaxlab.papers.doc_regions.method import RegionSpec
from jaxlab.papers.doc_regions.nets import (
  SMALL,
  drawn,
  judged,
  make_update,
  nets_of,
  network_of,
  tiled,
)
from jaxlab.recipes.pretrained import imagenet
from jaxlab.runs.model import Kept
from jaxlab.runs.stage import Stage, Workspace, training

Config = Mapping[str, Any]
_KEPT = 'log_p.npz'


class Plan(NamedTuple):
  """One training of networks."""

  name: str  # of its stage
  level: str  # 'holistic' or 'regions': the section of its optimizer
  specs: tuple[RegionSpec, ...]
  size: tuple[int, int]
  seed: int
  source: str = ''  # the stage whose network it begins from; '': level 1
  fold: int = -1  # held out of training; -1: none


def rows_of(config: Config, found: documents.Documents, fold: int):
  """Rows of the training pages with and without a fold."""
  train = found.parts['train']
  every = np.arange(len(train.label))
  if fold < 0:
    return every, every[:0]
  folds = method.folds_of(train.label, train.group, config['stack']['folds'])
  return every[folds != fold], every[folds == fold]


def training_stage(config: Config, plan: Plan) -> Stage:
  """Trains the networks of a plan and leaves their log-probabilities.

  The file `log_p.npz` in its folder has [n, r, k] of `validation`, `test` and
  each OOD set, or, with a fold, of the pages held out: `held`.
  """
  d, section = config['data'], config[plan.level]
  made = partial(nets_of, config, plan.specs, plan.size)
  rows = d['batch_size']
  spec = {
    'image': ArraySpec((rows, d['height'], d['width'], 1), np.uint8),
    'label': ArraySpec((rows,), np.int32),
    'id': ArraySpec((rows,), np.int32),
  }

  def task(space, inputs):
    nets = made(space.mesh)
    return Task(nets.init, {'train': make_update(config, plan.level, nets)})

  workers = d['workers'] if d['stream'] else 0

  def feed(space, part, rows=None):
    return held_out(
      lambda size: part.source(size, rows),
      space.mesh,
      d['eval_batch_size'],
      workers=workers if part.image is None else 0,
    )

  def inputs(space):
    found = documents.opened(config, space.offline)
    kept, _ = rows_of(config, found, plan.fold)
    source = found.parts['train'].source(rows, kept, plan.seed)
    batches = Feed(source, space.mesh, workers=workers, ahead=d['ahead'])
    held = feed(space, found.parts['validation'])
    return Inputs(
      batches, {'validation': (judged(made(space.mesh)), held)}, data=found
    )

  def finish(space, opened, result):
    found, parts = opened.data, {}
    if plan.fold >= 0:
      _, held = rows_of(config, found, plan.fold)
      parts['held'] = feed(space, found.parts['train'], held)
    else:
      parts |= {x: feed(space, found.parts[x]) for x in ('validation', 'test')}
      for name, pages in found.outside.items():
        zeros = np.zeros(len(pages), np.int32)
        part = documents.Part(zeros, zeros, zeros, pages)
        parts[name] = feed(space, part)
    args, nets = _network(result.state), made(space.mesh)

    @jax.jit
    def run(batch, params, vars):
      found = nets.logits({'nets': params}, {'nets': vars}, batch['image'])
      return jax.nn.log_softmax(found)

    each = lambda batch: run(batch, *args)
    kept: dict[str, Any] = {
      name: ood.collect({'': each}, part, f'{plan.name} {name}')['']
      for name, part in parts.items()
    }
    if hosts.leads():
      np.savez(space.folder(plan.name) / _KEPT, **kept)
    return {}

  options = Options(**{**config['train'], 'steps': section['steps']})
  return training(
    plan.name,
    options,
    spec=lambda space: {'train': spec},
    task=task,
    inputs=inputs,
    finish=finish,
    rules=lambda devices: rules(devices, len(plan.specs)),
    seed=plan.seed,
    start=lambda space: started(config, plan, space),
    keep=(lambda space, opened, result: kept(config, opened.data, plan))
    if plan.fold < 0
    else None,
  )


def kept(config: Config, found: documents.Documents, plan: Plan) -> Kept:
  """What goes beside networks of pages: which regions they see, classes."""
  d = config['data']
  takes = {
    'kind': 'image',
    'height': d['height'],
    'width': d['width'],
    'channels': 1,
    'fit': 'stretch',
  }
  licence = licence_of(d['name'])
  if d['name'] == 'synthetic':
    licence = 'none needed: it is drawn'
  return Kept(
    takes,
    list(found.parts['validation'].pages([0, 1])),
    {
      'classes.json': list(found.classes),
      'networks.json': {'specs': plan.specs, 'size': plan.size},
    },
    data={d['name']: licence},
  )


def rules(devices: Any, count: int) -> Sequence[partition.Rule]:
  """Each region's network on its own devices, where the mesh has the axis."""
  if count == 1 or 'region' not in devices.axis_names:
    return partition.REPLICATED
  spec = PartitionSpec('region')
  return ((r'^(params|vars)/nets/', spec), *partition.REPLICATED)


def started(config: Config, plan: Plan, space: Workspace) -> Start:
  """What the networks of a plan begin from: level 1, or another's (level 2).

  Raises:
    InputError: weights that cannot be had, or a leaf besides the head that
      nothing fills.
  """
  init = jax.jit(drawn(network_of(config, plan.size)))
  if plan.source:
    trained = _network(space.artefact(plan.source))
    source = _named(jax.tree.map(lambda x: x[0], trained))
    head = 'copy'
  elif _pretrained(config):
    m = config['model']
    found = imagenet(
      m['name'], size=plan.size[0], path=m['path'], offline=space.offline
    )
    source = _named((found.params['net'], found.vars['net']))
    head = 'reinit'
  else:
    return FRESH
  key = keys.stream(plan.seed, 'head')
  # Of level 2 nothing is drawn: every leaf is another's.
  begun = jax.eval_shape(init, key) if plan.source else init(key)
  moved = method.transfer(source, _named(begun), head)
  if moved.absent or moved.misshapen:
    raise InputError(
      f'{plan.name}: nothing fits {", ".join(moved.absent + moved.misshapen)}; '
      f'the source has {", ".join(moved.unused) or "no other leaves"}'
    )
  say(
    f'{plan.name}: {len(moved.copied)} leaves from '
    f'{plan.source or config["model"]["name"]}, {len(moved.fresh)} new, '
    f'{len(moved.unused)} of the source unused'
  )
  space.facts['transfer'] = {
    name: list(getattr(moved, name)) for name in ('fresh', 'unused')
  }
  whole = tiled(moved.tree, len(plan.specs))
  return Start({'nets': whole['params']}, {'nets': whole['vars']})


def _named(network: tuple[Tree, Tree]) -> dict[str, Tree]:
  return dict(zip(('params', 'vars'), network))


def _pretrained(config: Config) -> bool:
  return config['model']['name'] != SMALL and config['model']['pretrained']


def _network(state: State) -> tuple[Tree, Tree]:
  return state.params['nets'], state.vars['nets']


def log_p(space: Workspace, stage: str) -> dict[str, np.ndarray]:
  """What a training left: name of a part -> [n, r, k] log-probabilities."""
  path = space.folder(stage) / _KEPT
  try:
    with np.load(path) as held:
      return dict(held)
  except (OSError, ValueError) as error:
    raise InputError(
      f'{path} cannot be read ({error}); remove its folder to train it again'
    ) from error
