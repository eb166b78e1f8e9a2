"""Node classification with sampled layers: samplers tuned alike, side by side.

Every sampler of `config.methods` tries the same rates and runs with the same
seeds, stops by the same rule (no better validation F1 in
`early_stopping.patience` evaluations), and is judged on the test nodes once, by
exact inference with the parameters of its best evaluation.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlab.core.errors import InputError
from jaxlab.core.require import (
  Rule,
  at_least,
  each,
  multiple_of,
  one_of,
  require,
)
from jaxlab.core.state import Evaluator, State, Task
from jaxlab.data.licences import licence_of
from jaxlab.engine import mesh, partition
from jaxlab.engine.best import Best
from jaxlab.engine.evaluate import measure
from jaxlab.engine.feed import Feed
from jaxlab.engine.loop import Inputs
from jaxlab.models.sampled_gnn import SampledGNN
from jaxlab.papers.mvs_gnn import (
  curves,
  feeds,
  graph_data,
  inference,
  judgement,
  pictures,
  sampler,
  variance,
)
from jaxlab.papers.mvs_gnn.minimal_variance import Refresh
from jaxlab.papers.mvs_gnn.sampling import Sampler
from jaxlab.papers.mvs_gnn.training import make_task
from jaxlab.recipes import optimizers
from jaxlab.recipes.study import Cell, study_of
from jaxlab.runs.model import Kept, Model
from jaxlab.runs.stage import Stage, judged_by, training

Config = Mapping[str, Any]


def program(config: Config) -> list[Stage]:
  """Trials, final runs, their table and the curves.

  Raises:
    InputError: a value that cannot be; nothing has been computed yet.
  """
  check(config)
  study = study_of(config, list(config['methods']), ('f1', 'nats'))
  stages = study.stages(partial(training_stage, config))
  return judged_by([*stages, curves.stage(config, study)], 'study.reach')


def check(config: Config) -> None:
  """Raises InputError where a value cannot be."""
  make_net(config, 2)
  optimizers.make(config['optimizer'], config['train']['steps'], 1.0)
  share = Rule(lambda x: 0 < x <= 1, 'in (0, 1]')
  require(
    config,
    {
      'data.protocol': one_of(*graph_data.PROTOCOLS),
      'data.lanes': at_least(1),
      'data.eval_edges': at_least(1),
      'data.text_dimensions': at_least(1),
      'refresh.share': share,
      'refresh.every': at_least(1),
      'refresh.publish_every': at_least(0, '0: by refreshes alone'),
      'sampler.draws': at_least(1),
      'sampler.headroom': at_least(1),
      'variance.draws': at_least(0, '0: not measured'),
      'study.reach': each(share),
      'train.log_every_steps': at_least(1),
    },
  )
  log = config['train']['log_every_steps']
  cure = 'the seconds before an evaluation are those of the log lines until it'
  require(config, {'train.eval_every_steps': multiple_of(log, cure)})
  for name, method in config['methods'].items():
    key = f'methods.{name}'
    names = one_of(*sampler.NAMES)
    require(config, {f'{key}.sampler': names, f'{key}.batch_size': at_least(1)})
    if config['model']['kind'] == 'gat' and method['sampler'] == 'vr_gcn':
      raise InputError(
        'config.model.kind = "gat" cannot take vr_gcn: its edges are computed '
        'and historical at once, and attention has no difference of the two'
      )
    try:
      sampler.check(method['sampler'], method['options'])
    except InputError as error:
      raise InputError(f'config.{key}.options: {error}') from error


def make_net(config: Config, classes: int) -> SampledGNN:
  """The network.

  Raises:
    InputError: an option that cannot be.
  """
  c = config['model']
  names = ('width', 'layers', 'dropout', 'heads', 'dtype')
  try:
    return SampledGNN(c['kind'], classes, *(c[name] for name in names))
  except ValueError as error:
    raise InputError(f'config.model: {error}') from error


class Job:
  """The data of a cell: its graph, samplers, sources and shapes."""

  def __init__(self, config: Config, cell: Cell, offline: bool):
    self.config, self.cell = config, cell
    self.data = graph_data.load(config, offline)
    self.net = make_net(config, self.data.classes)
    c, layers = config['methods'][cell.arm], config['model']['layers']
    graph, train = self.data.training, self.data.graph.nodes_of('train')
    self.sampler = sampler.make(
      c['sampler'], graph, train, c['batch_size'], layers, dict(c['options'])
    )
    self.shapes = {'train': self._fitted(self.sampler)}
    self.refresh: Refresh | None = None
    if c['sampler'] == 'mvs':
      size = max(1, round(config['refresh']['share'] * len(train)))
      self.refresh = Refresh(graph, train, size, layers)
      self.shapes['refresh'] = self._fitted(self.refresh)
      self.shapes['publish'] = self.shapes['train']
    self.spec = self.batches().spec

  def _fitted(self, drawn: Sampler) -> feeds.Shape:
    c, lanes = self.config['sampler'], self.config['data']['lanes']
    return feeds.fitted(drawn, self.cell.seed, c['draws'], c['headroom'], lanes)

  def batches(self) -> feeds.SampledBatches:
    """The source of training batches."""
    common = (
      self.data.nodes,
      self.sampler,
      self.shapes,
      self.config['data']['lanes'],
      self.cell.seed,
    )
    if self.refresh is None:
      return feeds.SampledBatches(*common)
    c = self.config['refresh']
    return feeds.RefreshedBatches(
      *common,
      refresh=self.refresh,
      every=c['every'],
      publish_every=c['publish_every'],
    )

  def task(self, rate: float) -> Task:
    """Init, and a step for each kind of batch that occurs."""
    c = self.config
    nodes, features = self.data.nodes.features.shape
    tx = optimizers.make(c['optimizer'], c['train']['steps'], rate)
    made = make_task(
      self.net, self.shapes, nodes, features, tx, c['model']['history_dtype']
    )
    return made._replace(steps={kind: made.steps[kind] for kind in self.spec})

  def judged(self, devices, split: str) -> tuple[Evaluator, Feed]:
    """The evaluator of a split, and its feed."""
    wanted = self.data.graph.nodes_of(split)
    source = exact(self.config, self.data, self.data.nodes, wanted)
    made = inference.evaluator(
      self.net, source, judgement.judge, judgement.figures
    )
    return made, Feed(source, devices, steps=source.num_batches)

  def gradients(self, devices, source) -> tuple[Evaluator, Feed]:
    """The evaluator of the sampler's gradients, and its feed."""
    drawn = variance.VarianceBatches(
      self.data.nodes,
      self.sampler,
      self.shapes['train'],
      draws=self.config['variance']['draws'],
      headroom=2 * self.config['sampler']['headroom'],
      lanes=source.lanes,
      seed=self.cell.seed,
    )
    if self.refresh:
      source.followers.append(drawn.sampler)
    made = variance.evaluator(self.net, drawn)
    return made, Feed(drawn, devices, steps=drawn.num_batches)


@lru_cache(maxsize=1)  # of a large graph a sampler's tables are gigabytes
def _opened(make, offline: bool) -> Job:
  return make(offline=offline)


def exact(config: Config, data, nodes, wanted) -> inference.LayerChunks:
  """The source of exact inference for some nodes."""
  return inference.LayerChunks(
    nodes,
    data.everything,
    wanted,
    num_layers=config['model']['layers'],
    chunk_edges=config['data']['eval_edges'],
    lanes=config['data']['lanes'],
  )


def training_stage(config: Config, cell: Cell) -> Stage:
  """The stage that trains a cell.

  The shapes of its batches are fitted to draws from the graph: `--plan` opens
  the graph too, offline.
  """
  c, d = config['study'], config['data']
  make = partial(Job, config, cell)
  job = lambda space: _opened(make, space.offline)
  best = Best(
    f'validation/{c["metric"]}',
    c['better'] == 'higher',
    config['early_stopping']['patience'],
  )

  def inputs(space):
    opened = job(space)
    source = opened.batches()
    evals = {'validation': opened.judged(space.mesh, 'validation')}
    v = config['variance']
    if v['draws'] and cell.final and cell.seed in v['seeds']:
      evals['gradient'] = opened.gradients(space.mesh, source)
    feed = Feed(source, space.mesh, workers=d['workers'], ahead=d['ahead'])
    return Inputs(feed, evals, opened.data.about, opened)

  def finish(space, inputs, result):
    figures = {'best_step': result.step, 'steps': result.steps}
    if cell.final:
      judge, feed = inputs.data.judged(space.mesh, 'test')
      figures |= measure('test', judge, feed, result.state, cell.seed)
    if cell.pictured:
      pictures.show(space.page, inputs.feed.source.sample(1), inputs.data.data)
    return figures

  return training(
    cell.name,
    replace(cell.options(config['train']), best=best),
    spec=lambda space: job(space).spec,
    task=lambda space, inputs: job(space).task(cell.rate(space)),
    inputs=inputs,
    finish=finish,
    rules=partial(_rules, config, cell),
    seed=cell.seed,
    keep=(lambda space, opened, result: kept(config, opened.data.data))
    if cell.final
    else None,
  )


def kept(config: Config, data: graph_data.GraphData) -> Kept:
  """What goes beside a network: the graph whose nodes it classifies."""
  name, count = config['data']['name'], data.graph.num_nodes
  shown = data.graph.nodes_of('test')[:2]
  several = data.graph.labels.ndim == 2
  return Kept(
    {'kind': 'number', 'count': count, 'several': several},
    [int(node) for node in shown],
    {
      'classes.json': list(data.graph.classes),
      'graph.npz': graph_data.packed(data),
    },
    leave_out=('history',),
    data={name: licence_of(name)},
  )


def _rules(config: Config, cell: Cell, devices) -> list[partition.Rule]:
  """Histories and live norms are cut by nodes; an unused rule is an error."""
  method = config['methods'][cell.arm]
  name, kept = method['sampler'], method['options'].get('history', True)
  cut = jax.sharding.PartitionSpec(mesh.row_axes(devices))
  found: list[partition.Rule] = []
  if name in ('mvs', 'vr_gcn') and kept and config['model']['layers'] > 1:
    found.append(('^vars/history/', cut))
  if name == 'mvs':
    found.append(('^vars/sampler/live/', cut))
  return [*found, *partition.REPLICATED]


def predict(model: Model, inputs: np.ndarray) -> list[dict[str, Any]]:
  """Classes of nodes of the graph that it was trained on, by exact inference.

  Args:
    inputs: [n] int, numbers of nodes.

  Returns:
    One answer a node: of its likeliest class the `label` and the `probability`,
    and `probabilities` [k].

  Raises:
    InputError: a number that is not a node's.
  """
  config, classes = model.config, model.classes
  stored = graph_data.unpacked(model.files['graph.npz'])
  count, nodes = stored.everything.num_nodes, np.asarray(inputs)
  if not ((nodes >= 0) & (nodes < count)).all():
    raise InputError(f'nodes {nodes} must be in [0, {count}), as in the graph')
  net = make_net(config, len(classes))
  named = stored.nodes._replace(labels=np.arange(count, dtype=np.int32))
  source = exact(config, stored, named, np.unique(nodes))
  chances = jax.nn.sigmoid if model.inputs['several'] else jax.nn.softmax

  def write(logits, ids, mask):
    table = jnp.zeros((count, len(classes)))
    ids = jnp.where(mask, ids, count)
    return table.at[ids].set(chances(logits), mode='drop')

  made = inference.evaluator(net, source, write, lambda table: table)
  total, update = made.init(), jax.jit(made.update)
  params, vars = dict(model.params), dict(model.vars)
  state = State(jnp.zeros((), jnp.int32), params, {}, vars)
  for step in range(source.num_batches):
    batch = source.batch(step, slice(None))
    total = update(total, state, batch, jax.random.key(0))
  return [
    {
      'label': classes[int(row.argmax())],
      'probability': float(row.max()),
      'probabilities': row.tolist(),
    }
    for row in np.asarray(made.finish(total))[nodes]
  ]
