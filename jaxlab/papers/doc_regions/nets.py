"""Networks of regions: what they are, how one step trains them, how they are
judged.

A training has networks of one shape, one for each region, in
params['nets'] and vars['nets'] with a leading axis of regions: all see their
own region of the same pages. On accelerators that axis is mapped and may be
sharded (mesh axis 'region'); on a CPU it is a loop.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec
from jax.tree_util import tree_map_with_path

from jaxlab.core.errors import InputError
from jaxlab.core.require import above, at_least, between, one_of, require
from jaxlab.core.state import (
  Evaluator,
  Objective,
  Tree,
  Update,
  paths,
)
from jaxlab.core.update import accumulate, minimise
from jaxlab.engine import mesh
from jaxlab.models import classifiers
from jaxlab.models.normalised import Network, normalised
from jaxlab.ops.augment import to_float
from jaxlab.ops.losses import masked_cross_entropy
from jaxlab.ops.row_random import expand
from jaxlab.papers.doc_regions import method
from jaxlab.papers.doc_regions.method import RegionSpec
from jaxlab.recipes import optimizers
from jaxlab.recipes.pretrained import KINDS, architecture

Config = Mapping[str, Any]
SMALL = 'page_cnn'


class Nets(NamedTuple):
  """The networks of some regions."""

  specs: tuple[RegionSpec, ...]
  init: Callable[[jax.Array], tuple[dict, dict]]  # key -> params, vars
  # (params, vars, pages [b, h, w, 1] uint8) -> logits [b, r, k]
  logits: Callable[..., jax.Array]
  # (params, vars, pages, key, mask [b] bool or None) -> logits, new vars
  train: Callable[..., tuple[jax.Array, dict]]


def check(config: Config) -> None:
  """Raises InputError where a value of `model` or an optimizer cannot be."""
  m = config['model']
  sides = {f'model.{side}': at_least(32) for side in ('height', 'width')}
  require(
    config,
    {
      'model.name': one_of(SMALL, *KINDS),
      **sides,
      'model.batch_norm': one_of('batch', 'running'),
      'model.smoothing': between(0, 0.9),
      'model.micro_batches': at_least(1),
      'model.std': above(0),
    },
  )
  own = m['name'] == SMALL or not hasattr(KINDS[m['name']].model, 'momentum')
  cure = f'{m["name"]} takes none'
  momentum = one_of(0, cure=cure) if own else between(0, 0.999)
  require(config, {'model.momentum': momentum})
  if m['name'] != SMALL:
    square = one_of(m['width'], cure='networks of ImageNet take squares')
    require(config, {'model.height': square})
  for level in ('holistic', 'regions'):
    section = config[level]
    require({level: section}, {f'{level}.steps': at_least(1)})
    optimizers.make(section['optimizer'], section['steps'])
    if m['frozen']:  # decay would move what no gradient does
      key = f'{level}.optimizer.weight_decay'
      cure = 'config.model.frozen leaves are not to move'
      require(config, {key: one_of(0, cure=cure)})


def network_of(config: Config, size: tuple[int, int]) -> Network:
  """One network for regions of a size, with the config's classes."""
  m, classes = config['model'], config['data']['num_classes']
  if m['name'] == SMALL:
    model = classifiers.make(
      SMALL, classes, m['dtype'], {'width': m['features']}
    )
    return normalised(model, (*size, 1), (m['mean'],), (m['std'],))
  fields: dict[str, Any] = {
    'num_classes': classes,
    'dtype': jnp.dtype(m['dtype']),
  }
  if m['momentum']:
    fields['momentum'] = m['momentum']
  return architecture(m['name'], size=size[0], **fields)


def nets_of(
  config: Config,
  specs: Sequence[RegionSpec],
  size: tuple[int, int],
  devices: Any = None,
) -> Nets:
  """The networks of some regions, each brought to `size`.

  Args:
    devices: the mesh, present or planned; None: whatever is here.
  """
  m, count = config['model'], len(specs)
  _each = partial(_mapped, devices) if _mappable(devices) else _looped
  network = network_of(config, size)
  grey = m['name'] == SMALL

  def read(pages):
    crops = method.crop_regions(to_float(pages), specs, size)
    shape = (*crops.shape[:-1], 1 if grey else 3)
    return jnp.broadcast_to(crops, shape)

  def init(key):
    # All begin alike; what they see differs.
    params, vars = tiled(drawn(network)(key), count)
    return {'nets': params}, {'nets': vars}

  def logits(params, vars, pages):
    one = lambda x, p, v: network.logits(x, {'net': p}, {'net': v})
    return _each(one, read(pages), params['nets'], vars['nets'])

  def train(params, vars, pages, key, mask=None):
    if m['batch_norm'] == 'running':
      return logits(params, vars, pages), {}

    def one(x, p, v, k):
      found, new = network.train({'net': p}, {'net': v}, x, k, mask)
      return found, new['net']

    split = jax.random.split(key, count)
    found, new = _each(one, read(pages), params['nets'], vars['nets'], split)
    return found, {'nets': new}

  return Nets(tuple(specs), init, logits, train)


def _mappable(devices: Any) -> bool:
  """Not on a CPU, which computes a convolution of mapped kernels slowly."""
  here = mesh.platform(devices) if devices else jax.default_backend()
  return here != 'cpu'


def _mapped(devices: Any, one: Callable, crops: jax.Array, *trees: Tree) -> Any:
  """one(crops of a region, its part of each tree) of all regions."""
  crops = jnp.moveaxis(crops, 1, 0)
  if len(crops) > 1 and devices and 'region' in devices.axis_names:
    place = NamedSharding(devices, PartitionSpec('region', 'data'))
    crops = jax.lax.with_sharding_constraint(crops, place)
  return _regions_second(jax.vmap(one)(crops, *trees))


def _looped(one: Callable, crops: jax.Array, *trees: Tree) -> Any:
  """The same, one region after the other."""
  parts = [
    jax.tree.map(lambda x, i=i: x[i], trees) for i in range(crops.shape[1])
  ]
  each = [one(crops[:, i], *part) for i, part in enumerate(parts)]
  return _regions_second(stacked(each))


def _regions_second(found: Any) -> Any:
  """Logits [r, b, k] as [b, r, k], alone or with the new vars."""
  if isinstance(found, tuple):
    return jnp.moveaxis(found[0], 0, 1), found[1]
  return jnp.moveaxis(found, 0, 1)


def stacked(trees: Sequence[Tree]) -> Tree:
  """Trees of one shape as one tree with a leading axis."""
  return jax.tree.map(lambda *x: jnp.stack(x), *trees)


def each_alone(
  tx: optax.GradientTransformation,
) -> optax.GradientTransformation:
  """An optimizer for each entry of the leading axis, as if trained in turn."""

  def update(grads, state, params):
    return jax.vmap(tx.update)(grads, state, params)

  return optax.GradientTransformation(jax.vmap(tx.init), update)


def frozen(params: Tree, pattern: str) -> Tree:
  """The same, no gradient flowing to leaves whose path begins so.

  Raises:
    InputError: there is no such leaf.
  """
  names = [name for name, _ in paths(params)]
  if not any(re.match(pattern, name) for name in names):
    raise InputError(
      f'config.model.frozen = "{pattern}" is the beginning of no leaf; known: '
      f'{", ".join(names[:20])}'
    )

  def held(path, leaf):
    name = jax.tree_util.keystr(path, simple=True, separator='/')
    return jax.lax.stop_gradient(leaf) if re.match(pattern, name) else leaf

  return tree_map_with_path(held, params)


def make_update(config: Config, level: str, nets: Nets) -> Update:
  """One gradient step of all networks, each on its own region."""
  m, section = config['model'], config[level]

  def loss(params, vars, batch, key):
    if m['frozen']:
      params = {'nets': frozen(params['nets'], m['frozen'])}
    labels, mask = batch['label'], batch['mask']
    logits, new = nets.train(params, vars, batch['image'], key, mask)
    # Summed over regions, so that each has the gradient of one alone.
    pairs = [
      masked_cross_entropy(x, labels, mask, m['smoothing'])
      for x in jnp.moveaxis(logits, 1, 0)
    ]
    rows = pairs[0][1]
    right = (logits.argmax(-1) == labels[:, None]) & mask[:, None]
    accuracy = right.mean(1).sum(), rows
    return Objective(
      jnp.stack([nats for nats, _ in pairs]).sum(),
      rows,
      vars=new,
      metrics={'accuracy': accuracy},
    )

  tx = each_alone(optimizers.make(section['optimizer'], section['steps']))
  if m['micro_batches'] > 1:
    unroll = jax.default_backend() == 'cpu'
    return accumulate(m['micro_batches'], loss, 'nets', tx, unroll=unroll)
  return minimise(loss, 'nets', tx)


def judged(nets: Nets) -> Evaluator:
  """Accuracy and nats of each region, and their means, over a finite feed."""
  names, count = [spec.name for spec in nets.specs], len(nets.specs)

  def init():
    return {
      'right': jnp.zeros(count),
      'nats': jnp.zeros(count),
      'rows': jnp.zeros(()),
    }

  def update(total, state, batch, key):
    del key
    logits = nets.logits(state.params, state.vars, batch['image'])
    labels, mask = batch['label'], batch['mask']
    log_p = jax.nn.log_softmax(logits)
    own = jnp.take_along_axis(log_p, labels[:, None, None], -1)[..., 0]
    right = (logits.argmax(-1) == labels[:, None]) & mask[:, None]
    found = {
      'right': right.sum(0),
      'nats': -jnp.where(mask[:, None], own, 0.0).sum(0),
      'rows': mask.sum(),
    }
    return {k: total[k] + found[k].astype(jnp.float32) for k in total}

  def finish(total):
    accuracy, nats = (
      np.asarray(total[k], np.float64) / total['rows']
      for k in ('right', 'nats')
    )
    figures = {'accuracy': accuracy.mean(), 'nats': nats.mean()}
    if count > 1:
      figures |= {f'{n}_accuracy': a for n, a in zip(names, accuracy)}
    return {name: float(value) for name, value in figures.items()}

  return Evaluator(init, update, finish)


def drawn(network: Network) -> Callable[[jax.Array], tuple[Tree, Tree]]:
  """key -> (params, vars) of one new network.

  Kernels are uniform of variance 2 / fan-in, scales and variances 1, all else
  0. They are drawn together, by the hash of ops/row_random.py: a draw for each
  takes longer to compile than the training step.
  """

  def init(key):
    params, vars = jax.eval_shape(network.init, key)
    tree = params['net'], vars['net']
    name = lambda path: path[-1].key
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    total = sum(x.size for path, x in leaves if name(path) == 'kernel')
    first, second = jax.random.key_data(key)[-2:]
    whole = expand(first, second, (total,)) >> 8
    uniform = whole.astype(jnp.float32) * 2.0**-23 - 1
    at = 0

    def leaf(path, shape):
      nonlocal at
      if name(path) != 'kernel':
        make = jnp.ones if name(path) in ('scale', 'var') else jnp.zeros
        return make(shape.shape, shape.dtype)
      part, at = uniform[at : at + shape.size], at + shape.size
      fan_in = shape.size / shape.shape[-1]
      return (6 / fan_in) ** 0.5 * part.reshape(shape.shape)

    return tree_map_with_path(leaf, tree)

  return init


def tiled(tree: Tree, count: int) -> Tree:
  """So many times the same, along a new leading axis."""
  return jax.tree.map(
    lambda x: jnp.broadcast_to(x, (count, *jnp.shape(x))), tree
  )
