"""The network that embeds images, and the stage that trains it.

`config.metric.loss` says what it learns: `instance`, `snca`, `rotation`; or
that nothing is trained here: `imagenet` (a packaged network), `pixels`.

Departs from the paper, where `config.metric.centre` asks for it: the mean of
the embeddings, of a batch in training and a running one afterwards, is taken
off. A network without norms begins with all images in one direction, and
instance discrimination then chases its own bank.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from jaxlab.engine import hosts, mesh
from jaxlab.engine.errors import InputError
from jaxlab.engine.feed import Feed
from jaxlab.engine.loop import Inputs, Options
from jaxlab.engine.partition import Rule
from jaxlab.engine.require import above, at_least, inside, one_of, require
from jaxlab.engine.stage import Stage, Workspace, training
from jaxlab.engine.state import Evaluator, Objective, Task
from jaxlab.engine.update import minimise
from jaxlab.evals import ood
from jaxlab.evals.classify import classify
from jaxlab.models import classifiers
from jaxlab.models.normalised import Network, normalised
from jaxlab.ops import augment
from jaxlab.papers.metric_transfer import method
from jaxlab.recipes import images, optimizers
from jaxlab.recipes.pretrained import KINDS, imagenet

Config = Mapping[str, Any]

TRAINED = ('instance', 'snca', 'rotation')
LOSSES = (*TRAINED, 'imagenet', 'pixels')
_KEPT = 'arrays.npz'


class Embedder(NamedTuple):
  """A network as it embeds."""

  args: tuple[Mapping, Mapping]  # params, vars
  embed: Callable[..., jax.Array]  # (params, vars, batch) -> [b, d], unit rows


def check(config: Config) -> None:
  """Raises InputError where a value of `data`, `model`, `metric` cannot be."""
  images.check(config)
  m = config['metric']
  require(
    config,
    {
      'metric.loss': one_of(*LOSSES),
      'metric.components': at_least(0, '0: the embedding as it is'),
    },
  )
  if m['loss'] == 'imagenet':
    rules = {'metric.network': one_of(*KINDS), 'metric.size': at_least(32)}
    require(config, rules)
  if m['loss'] not in TRAINED:
    return
  require(
    config,
    {
      'metric.dimension': at_least(2),
      'metric.temperature': above(0),
      'metric.momentum': inside(-1e-9, 1, 'of the memory bank'),
      'metric.centre': one_of(True, False),
      'metric.noise': at_least(0, '0: the softmax over the whole bank'),
      'metric.crop': inside(0, 1 + 1e-9, 'the least share of the area'),
      'metric.steps': at_least(1),
      'data.train_examples': at_least(2, 'of config.data.train_split'),
    },
  )
  optimizers.make(m['optimizer'], m['steps'])


def backbone(config: Config) -> Network:
  """The classifier of `config.model` with the embedding as its head.

  Raises:
    InputError: an unknown model, or an option that cannot be.
  """
  m, d, c = config['metric'], config['data'], config['model']
  outputs = 4 if m['loss'] == 'rotation' else m['dimension']
  side = d['crop'] or d['size']
  try:
    return normalised(
      classifiers.make(c['name'], outputs, c['dtype'], c),
      (side, side, d['channels']),
      d['mean'],
      d['std'],
    )
  except ValueError as error:
    raise InputError(str(error)) from error


def embedder(config: Config, space: Workspace) -> Embedder:
  """The embedding of a config: that of the stage `metric`, or a given one."""
  m = config['metric']
  if m['loss'] == 'imagenet':
    size, offline = m['size'], space.offline
    found = imagenet(m['network'], size=size, path=m['path'], offline=offline)
    return Embedder((found.params, found.vars), _scaled(found.network, size))
  if m['loss'] == 'pixels':
    return Embedder(({}, {}), _pixels)
  state = space.artefact('metric')
  vars = {k: v for k, v in state.vars.items() if k in ('net', 'centre')}
  args = {'net': state.params['net']}, vars
  return Embedder(args, embedding_of(config, backbone(config)))


def embedding_of(config: Config, network: Network):
  """(params, vars, batch) -> [b, d] with rows of length 1, eval statistics.

  Of `rotation` it is the layer below the head.
  """

  def embed(params, vars, batch):
    seen = augment.to_float(batch['image'])
    if config['metric']['loss'] == 'rotation':
      (found,) = network.features(seen, params, vars, ['embedding'])
    else:
      found = network.logits(seen, params, vars) - vars.get('centre', 0)
    return method.unit(found)

  return embed


def _scaled(network: Network, size: int):
  def embed(params, vars, batch):
    seen = augment.to_float(batch['image'])
    shape = (len(seen), size, size, seen.shape[-1])
    seen = jax.image.resize(seen, shape, 'bilinear')
    seen = jnp.broadcast_to(seen, (*shape[:3], 3))
    (found,) = network.features(seen, params, vars, ['embedding'])
    return method.unit(found)

  return embed


def _pixels(params, vars, batch):
  del params, vars
  seen = augment.to_float(batch['image'])
  return method.unit(seen.reshape(len(seen), -1))


def embedded(found: Embedder, feed: Feed, name: str) -> np.ndarray:
  """[n, d] float32 of every row of a finite feed, in its order."""
  run = jax.jit(found.embed)
  functions = {'features': lambda batch: run(*found.args, batch)}
  return ood.collect(functions, feed, name)['features']


# --- training ---


def metric_stage(config: Config) -> Stage:
  """The stage `metric`: trains the embedding; the bank's rows are sharded.

  `validation` is how often an image's neighbours in its evaluation batch vote
  for its class; of `rotation`, how often its turn is recognised.
  """
  m, d = config['metric'], config['data']
  network = backbone(config)  # complains now
  arrays = images.spec(config)
  count = d['train_examples']

  def task(space, inputs):
    del inputs
    tx = optimizers.make(m['optimizer'], m['steps'])

    def init(key):
      first, second = jax.random.split(key)
      params, own = network.init(first)
      if m['loss'] == 'rotation':
        return params, own
      bank = {
        'rows': method.new_bank(second, count, m['dimension']),
        'labels': jnp.full(count, -1, jnp.int32),
      }
      if m['noise']:
        bank['log_normaliser'] = jnp.zeros(())
        bank['normalised'] = jnp.zeros((), bool)
      if m['centre']:
        own = {**own, 'centre': jnp.zeros(m['dimension'])}
      return params, {**own, 'bank': bank}

    loss = make_loss(config, network, space.mesh)
    return Task(init, {'train': minimise(loss, 'net', tx)})

  def inputs(space):
    sets = images.image_task(config, space.offline).sets
    given = len(sets.inliers(d['train_split'])['label'])
    if given != count:
      raise InputError(
        f'config.data.train_examples = {count}, and {d["name"]} has {given} in '
        f'"{d["train_split"]}": say so, the bank has a row for each'
      )
    batches = sets.source(d['train_split'], d['batch_size'], space.seed)
    feed = Feed(batches, space.mesh, workers=d['workers'], ahead=d['ahead'])
    held = sets.held_out(d['validation_split'], space.mesh)
    return Inputs(feed, {'validation': (evaluator(config, network), held)})

  return training(
    'metric',
    Options(**{**config['train'], 'steps': m['steps']}),
    spec=lambda space: arrays,
    task=task,
    inputs=inputs,
    rules=lambda devices: rules(config, devices),
  )


def rules(config: Config, devices: mesh.Mesh) -> list[Rule]:
  """The bank's rows over the devices, where they divide; all else on each."""
  ways = mesh.row_ways(devices)
  rest: list[Rule] = [('.*', PartitionSpec())]
  if config['metric']['loss'] == 'rotation' or ways == 1:
    return rest
  if config['data']['train_examples'] % ways:
    return rest
  spread = PartitionSpec(mesh.row_axes(devices))
  return [('^vars/bank/(rows|labels)', spread), *rest]


def make_loss(config: Config, network: Network, devices: mesh.Mesh):
  """The loss of `config.metric.loss` on batches of uint8 images."""
  m, changes = config['metric'], augmentation(config)

  def seen(key, batch):
    if not changes:
      return augment.to_float(batch['image'])
    return augment.augment(key, batch['image'], batch['id'], *changes)

  def rotation(params, vars, batch, key):
    draw, vary = jax.random.split(key)
    turns = jax.vmap(
      lambda i: jax.random.randint(jax.random.fold_in(draw, i), (), 0, 4)
    )(batch['id'])
    turned = method.rotate(seen(vary, batch), turns)
    logits, new = network.train(params, vars, turned)
    return images.cross_entropy()(logits, turns, batch['mask'], vars).replace(
      vars=new
    )

  def metric(params, vars, batch, key):
    draw, vary = jax.random.split(key)
    output, new = network.train(params, vars, seen(vary, batch))
    if m['centre']:
      mean = jnp.average(output, 0, weights=batch['mask'])
      moved = 0.9 * vars['centre'] + 0.1 * lax.stop_gradient(mean)
      output, new = output - mean, {**new, 'centre': moved}
    # Each device compares all of the batch with its own rows of the bank.
    everywhere = NamedSharding(devices, PartitionSpec())
    v = lax.with_sharding_constraint(method.unit(output), everywhere)
    bank, index, mask = dict(vars['bank']), batch['id'], batch['mask']
    labels = batch['label']
    own = jnp.where(mask, index, len(bank['labels']))
    known = bank['labels'].at[own].set(labels, mode='drop')
    if m['loss'] == 'snca':
      total, weight = method.snca_loss(
        *(v, index, labels, bank['rows'], known),
        sigma=m['temperature'],
        margin=m['margin'],
        mask=mask,
      )
    else:
      noise, normaliser = None, None
      if m['noise']:
        noise = jax.random.randint(draw, (m['noise'],), 0, len(known))
        first = method.noise_normaliser(
          v, bank['rows'], noise, m['temperature'], mask
        )
        normaliser = jnp.where(
          bank['normalised'], bank['log_normaliser'], first
        )
        bank['log_normaliser'] = normaliser
        bank['normalised'] = jnp.ones((), bool)
      total, weight = method.instance_discrimination_loss(
        *(v, index, bank['rows'], m['temperature'], noise, normaliser),
        mask=mask,
      )
    bank['labels'] = known
    bank['rows'] = method.bank_update(
      bank['rows'], index, v, m['momentum'], mask
    )
    return Objective(total, weight, vars={**new, 'bank': bank})

  return rotation if m['loss'] == 'rotation' else metric


def augmentation(config: Config) -> list[augment.Augment]:
  """What makes another view of an image."""
  m, side = config['metric'], config['data']['size']
  found = []
  if m['crop'] < 1:
    found.append(augment.random_resized_crop(side, (m['crop'], 1.0)))
  if m['colour']:
    found += [augment.grey(0.2), augment.colour_jitter(0.4, 0.4, 0.4, 0.4)]
  if m['flip']:
    found.append(augment.flip())
  return found


def evaluator(config: Config, network: Network) -> Evaluator:
  """See `metric_stage`."""
  m, classes = config['metric'], config['data']['num_classes']
  embed = embedding_of(config, network)

  def votes(params, vars, batch):
    v = embed(params, vars, batch)
    known = jnp.where(batch['mask'], batch['label'], -1)
    places = jnp.arange(len(v))
    return method.neighbour_votes(
      v, v, known, classes, m['temperature'], places
    )

  if m['loss'] != 'rotation':
    return classify(votes)

  def turned(params, vars, batch):
    seen = method.rotate(augment.to_float(batch['image']), batch['label'])
    return network.logits(seen, params, vars)

  inner = classify(turned)

  def update(total, state, batch, key):
    return inner.update(total, state, {**batch, 'label': batch['id'] % 4}, key)

  return inner._replace(update=update)


def embed_stage(config: Config) -> Stage:
  """The stage `embed`: features of the training images, with eval statistics.

  Its artefact is features [n, d] float32, and `mean`, `axes` of `projected`.
  """
  split, count = config['data']['train_split'], config['metric']['components']

  def run(space):
    sets = images.image_task(config, space.offline).sets
    feed = sets.held_out(split, space.mesh)
    features = embedded(embedder(config, space), feed, 'embed')
    kept = {} if not count else principal_axes(features, count)
    features = projected(features, kept)
    keep(space, 'embed', {'features': features, **kept})
    return {'images': len(features), 'dimension': features.shape[1]}

  return Stage('embed', run, load=partial(brought, 'embed'))


def principal_axes(features: np.ndarray, count: int) -> dict[str, np.ndarray]:
  """`mean` [d] and `axes` [d, count] of the leading directions of features."""
  mean = features.mean(0)
  spread = features - mean
  _, vectors = np.linalg.eigh(spread.T @ spread)
  return {'mean': mean, 'axes': vectors[:, ::-1][:, :count]}


def projected(
  features: np.ndarray, kept: Mapping[str, np.ndarray]
) -> np.ndarray:
  """Features along `axes`, of length 1 again; as they are without axes."""
  if 'axes' not in kept:
    return features
  found = (features - kept['mean']) @ kept['axes']
  return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)


def keep(space: Workspace, stage: str, arrays: Mapping[str, np.ndarray]):
  """Leaves arrays as a stage's artefact, in its folder too."""
  if hosts.leads():
    named: dict[str, Any] = dict(arrays)
    np.savez(space.folder(stage) / _KEPT, **named)
  space.artefacts[stage] = dict(arrays)


def brought(stage: str, space: Workspace) -> dict[str, np.ndarray]:
  """What `keep` left, for `Stage.load`."""
  with np.load(space.folder(stage) / _KEPT) as held:
    return dict(held)
