"""The network that embeds images, and the stage that embeds a set.

`config.metric.loss` says what it learns: `instance`, `snca`, `rotation`; or
that nothing is trained here: `imagenet` (a packaged network), `pixels`.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlab.core.errors import InputError
from jaxlab.core.require import above, at_least, between, one_of, require
from jaxlab.engine import hosts
from jaxlab.engine.feed import Feed
from jaxlab.evals import ood
from jaxlab.models import classifiers
from jaxlab.models.normalised import Network, normalised
from jaxlab.ops import augment
from jaxlab.papers.metric_transfer import method
from jaxlab.recipes import images, optimizers
from jaxlab.recipes.pretrained import KINDS, imagenet
from jaxlab.runs.stage import Stage, Workspace

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
      'metric.momentum': between(0, 0.999, 'of the memory bank'),
      'metric.centre': one_of(True, False),
      'metric.noise': at_least(0, '0: the softmax over the whole bank'),
      'metric.crop': between(0.01, 1, 'the least share of the area'),
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


def flattened(features: np.ndarray) -> np.ndarray:
  """[n, 2], directions laid flat by t-SNE, for people to look at."""
  from sklearn.manifold import TSNE
  from threadpoolctl import threadpool_limits

  near = min(30, (len(features) - 1) / 3)
  found = TSNE(perplexity=near, metric='cosine', init='random', random_state=0)
  with threadpool_limits(1):  # several take longer
    return found.fit_transform(features)


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
