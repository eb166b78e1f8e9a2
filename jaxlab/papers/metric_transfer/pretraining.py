"""The stage that trains the embedding: instances, neighbours or rotations.

Departs from the paper, where `config.metric.centre` asks for it: the mean of
the embeddings, of a batch in training and a running one afterwards, is taken
off. A network without norms begins with all images in one direction, and
instance discrimination then chases its own bank.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from jaxlab.core.errors import InputError
from jaxlab.core.state import Evaluator, Objective, Task
from jaxlab.core.update import minimise
from jaxlab.engine import mesh
from jaxlab.engine.feed import Feed
from jaxlab.engine.loop import Inputs, Options
from jaxlab.engine.partition import Rule
from jaxlab.evals.classify import classify
from jaxlab.models.normalised import Network
from jaxlab.ops import augment
from jaxlab.papers.metric_transfer import method
from jaxlab.papers.metric_transfer.embedding import backbone, embedding_of
from jaxlab.recipes import images, optimizers
from jaxlab.runs.stage import Stage, training

Config = Mapping[str, Any]


def metric_stage(config: Config, keep: bool = False) -> Stage:
  """The stage `metric`: trains the embedding; the bank's rows are sharded.

  `validation` is how often an image's neighbours in its evaluation batch vote
  for its class; of `rotation`, how often its turn is recognised.

  Args:
    keep: leave a model, for a job that predicts embeddings.
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
    found = {'validation': (evaluator(config, network), held)}
    return Inputs(feed, found, data=sets)

  return training(
    'metric',
    Options(**{**config['train'], 'steps': m['steps']}),
    spec=lambda space: arrays,
    task=task,
    inputs=inputs,
    rules=lambda devices: rules(config, devices),
    keep=(
      lambda space, opened, result: images.kept(config, opened.data)._replace(
        leave_out=('bank',)
      )
    )
    if keep
    else None,
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
    logits, new = network.train(params, vars, turned, mask=batch['mask'])
    return images.cross_entropy()(logits, turns, batch['mask'], vars).replace(
      vars=new
    )

  def metric(params, vars, batch, key):
    draw, vary = jax.random.split(key)
    x, mask = seen(vary, batch), batch['mask']
    output, new = network.train(params, vars, x, mask=mask)
    if m['centre']:
      mean = jnp.average(output, 0, weights=batch['mask'])
      moved = 0.9 * vars['centre'] + 0.1 * lax.stop_gradient(mean)
      output, new = output - mean, {**new, 'centre': moved}
    # Each device compares all of the batch with its own rows of the bank.
    everywhere = NamedSharding(devices, PartitionSpec())
    v = lax.with_sharding_constraint(method.unit(output), everywhere)
    bank, index = dict(vars['bank']), batch['id']
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
