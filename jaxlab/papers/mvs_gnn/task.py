"""Node classification with sampled layers: samplers tuned alike, side by side.

Every sampler of `config.methods` tries the same rates and runs with the same
seeds, stops by the same rule (no better validation F1 in
`early_stopping.patience` evaluations), and is judged on the test nodes once, by
exact inference with the parameters of its best evaluation.
"""

import copy
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import optax

from jaxlab.engine import mesh, partition
from jaxlab.engine.best import Best
from jaxlab.engine.errors import InputError
from jaxlab.engine.evaluate import Evaluation
from jaxlab.engine.feed import Feed
from jaxlab.engine.stage import Planned, Stage, training
from jaxlab.evals import study
from jaxlab.evals.study import Cell
from jaxlab.models.sampled_gnn import SampledGNN
from jaxlab.papers.mvs_gnn import (
  curves,
  feeds,
  graph_data,
  inference,
  judgement,
  sampler,
  variance,
)
from jaxlab.papers.mvs_gnn.feeds import Shape
from jaxlab.papers.mvs_gnn.minimal_variance import Refresh
from jaxlab.papers.mvs_gnn.training import make_task

Config = Mapping[str, Any]


def program(config: Config) -> list[Stage]:
  """Trials, final runs, their table and the curves.

  Raises:
    InputError: a value that cannot be; nothing has been computed yet.
  """
  check(config)
  arms = list(config['methods'])
  return [
    *study.stages(
      config, arms, partial(training_stage, config), ('f1', 'nats')
    ),
    curves.stage(config),
  ]


def check(config: Config) -> None:
  """Raises InputError where a value cannot be."""
  graph_data.check(config)
  make_net(config, 2)
  for name, method in config['methods'].items():
    if method['sampler'] not in sampler.NAMES:
      raise InputError(
        f'config.methods.{name}.sampler = "{method["sampler"]}" is not one of '
        f'{", ".join(sampler.NAMES)}'
      )
    kind = config['model']['kind']
    if kind == 'gat' and method['sampler'] == 'vr_gcn':
      raise InputError(
        'config.model.kind = "gat" cannot take vr_gcn: its edges are computed '
        'and historical at once, and attention has no difference of the two'
      )
    try:
      sampler.check(method['sampler'], method['options'])
    except InputError as error:
      raise InputError(f'config.methods.{name}.options: {error}') from error
    if method['batch_size'] < 1:
      raise InputError(
        f'config.methods.{name}.batch_size = {method["batch_size"]} must be at '
        'least 1'
      )
  if not 0 < config['refresh']['share'] <= 1:
    raise InputError(
      f'config.refresh.share = {config["refresh"]["share"]} must be in (0, 1]'
    )
  least = {
    'refresh': {'every': 1, 'publish_every': 0},
    'sampler': {'draws': 1, 'headroom': 1},
    'variance': {'draws': 0},
    'data': {'lanes': 1, 'eval_edges': 1, 'text_dimensions': 1},
    'train': {'log_every_steps': 1},
  }
  for part, limits in least.items():
    for name, low in limits.items():
      if not config[part][name] >= low:
        raise InputError(
          f'config.{part}.{name} = {config[part][name]} must be at least {low}'
        )
  every, log = (
    config['train'][f'{name}_every_steps'] for name in ('eval', 'log')
  )
  if every > 0 and every % log:
    whole = max(log, every - every % log)
    raise InputError(
      f'config.train.eval_every_steps = {every} must be a multiple of '
      f'config.train.log_every_steps = {log}, say {whole}: the seconds between '
      'the last log line and the evaluation would not be counted'
    )
  if wrong := [f1 for f1 in config['study']['reach'] if not 0 < f1 <= 1]:
    raise InputError(
      f'config.study.reach has {wrong[0]}; a validation F1 to reach must be in '
      '(0, 1]'
    )


def make_net(config: Config, classes: int) -> SampledGNN:
  """The network.

  Raises:
    InputError: an option that cannot be.
  """
  c = config['model']
  try:
    return SampledGNN(
      c['kind'],
      classes,
      c['width'],
      c['layers'],
      c['dropout'],
      c['heads'],
      c['dtype'],
    )
  except ValueError as error:
    raise InputError(f'config.model: {error}') from error


class Job:
  """What a cell trains with: its samplers, sources and shapes."""

  def __init__(self, config: Config, cell: Cell, offline: bool):
    self.config, self.cell = config, cell
    self.data = graph_data.load(config, offline)
    self.net = make_net(config, self.data.classes)
    self.train = self.data.graph.nodes_of('train')
    self.lanes = config['data']['lanes']
    self.sampler = self._sampler()
    self.shape = self._shape(self.sampler)
    self.shapes = {'train': self.shape}
    if config['methods'][cell.arm]['sampler'] == 'mvs':
      size = max(1, round(config['refresh']['share'] * len(self.train)))
      self.refresh = Refresh(
        self.data.training, self.train, size, config['model']['layers']
      )
      self.shapes['refresh'] = self._shape(self.refresh)
      self.shapes['publish'] = self.shape

  def _sampler(self):
    method = self.config['methods'][self.cell.arm]
    return sampler.make(
      method['sampler'],
      self.data.training,
      self.train,
      method['batch_size'],
      self.config['model']['layers'],
      dict(method['options']),
    )

  def _shape(self, drawn) -> Shape:
    c = self.config['sampler']
    budget = feeds.fitted(
      drawn,
      seed=self.cell.seed,
      draws=c['draws'],
      headroom=c['headroom'],
      lanes=self.lanes,
    )
    return Shape(budget, drawn.history)

  def batches(self) -> feeds.SampledBatches:
    """The source of training batches."""
    common = {'lanes': self.lanes, 'seed': self.cell.seed}
    if 'refresh' not in self.shapes:
      return feeds.SampledBatches(
        self.data.nodes, self.sampler, self.shape, **common
      )
    return feeds.RefreshedBatches(
      self.data.nodes,
      self.sampler,
      self.shape,
      refresh=self.refresh,
      large=self.shapes['refresh'],
      every=self.config['refresh']['every'],
      publish_every=self.config['refresh']['publish_every'],
      **common,
    )

  def exact(self, split: str) -> inference.LayerChunks:
    """The source of exact inference on a split."""
    return inference.LayerChunks(
      self.data.nodes,
      self.data.everything,
      self.data.graph.nodes_of(split),
      num_layers=self.config['model']['layers'],
      chunk_edges=self.config['data']['eval_edges'],
      lanes=self.lanes,
    )

  def judged(self, devices, split: str):
    """The evaluator of a split, and its feed."""
    source = self.exact(split)
    measure = inference.evaluator(
      self.net, source, judgement.judge, judgement.figures
    )
    return measure, self.feed(source, devices, source.num_batches)

  def feed(self, source, devices, steps=None) -> Feed:
    d = self.config['data']
    return Feed(
      source,
      devices,
      workers=0 if steps else d['workers'],
      ahead=d['ahead'],
      axes=mesh.row_axes(devices),
      steps=steps,
    )

  def task(self, rate: float, evals=None):
    return make_task(
      self.net,
      self.shapes,
      len(self.data.nodes.labels),
      self.data.nodes.features.shape[1],
      make_optimizer(self.config, rate),
      history_dtype=self.config['model']['history_dtype'],
      evals=evals,
    )


def make_optimizer(config: Config, rate: float) -> optax.GradientTransformation:
  """Adam with decay added to the gradients."""
  decay = config['optimizer']['weight_decay']
  return optax.chain(optax.add_decayed_weights(decay), optax.adam(rate))


def training_stage(config: Config, cell: Cell) -> Stage:
  """The stage that trains a cell."""
  options = replace(
    study.options_of(config, cell, []),
    best=Best(
      f'validation/{config["study"]["metric"]}',
      config['study']['better'] == 'higher',
      config['early_stopping']['patience'],
    ),
  )

  def build(space):
    job = Job(config, cell, space.offline)
    space.facts.update(job.data.about)
    source = job.batches()
    evals = {'validation': job.judged(space.mesh, 'validation')}
    c = config['variance']
    if c['draws'] and cell.test and cell.seed in c['seeds']:
      own = copy.copy(job.sampler)
      drawn = variance.VarianceBatches(
        job.data.nodes,
        own,
        job.shape,
        draws=c['draws'],
        headroom=2 * config['sampler']['headroom'],
        lanes=job.lanes,
        seed=cell.seed,
      )
      if isinstance(source, feeds.RefreshedBatches):
        source.followers.append(own)
      evals['gradient'] = (
        variance.evaluator(job.net, drawn),
        job.feed(drawn, space.mesh, drawn.num_batches),
      )
    task = job.task(cell.rate(space), evals)
    return task, job.feed(source, space.mesh)

  def finish(space, task, fitted):
    figures = {'best_step': fitted.step, 'steps': fitted.steps}
    if not cell.test:
      return figures
    job = Job(config, cell, space.offline)
    measure, feed = job.judged(space.mesh, 'test')
    found = Evaluation('test', measure, feed, cell.seed).run(fitted.state)
    return {**figures, **{f'test/{k}': v for k, v in found.items()}}

  def plan(space):
    job = Job(config, cell, space.offline)
    spec = {
      kind: {
        name: jax.ShapeDtypeStruct(array.shape, array.dtype)
        for name, array in arrays.items()
      }
      for kind, arrays in job.batches().spec.items()
    }
    return Planned(
      job.task(cell.learning_rate),
      spec,
      options.steps,
      rules=_rules(config, cell)(space.mesh),
      max_bad_steps=options.max_bad_steps,
    )

  return training(
    cell.name,
    build,
    options,
    finish,
    plan,
    rules=_rules(config, cell),
    seed=cell.seed,
  )


def _rules(config: Config, cell: Cell):
  """Histories and live norms are cut by nodes; an unused rule is an error."""
  name = config['methods'][cell.arm]['sampler']

  def rules(devices):
    cut = jax.sharding.PartitionSpec(mesh.row_axes(devices))
    found: list[partition.Rule] = []
    if name in ('mvs', 'vr_gcn') and config['model']['layers'] > 1:
      found.append(('^vars/history/', cut))
    if name == 'mvs':
      found.append(('^vars/sampler/live/', cut))
    return [*found, *partition.REPLICATED]

  return rules
