"""ImageNet networks with their weights: a packaged file, or the user's.

found = imagenet('squeezenet')
logits = found.network.logits(images, found.params, found.vars)

name                packaged  a file of one's own
squeezenet          yes       Keras HDF5
efficientnet_lite0  yes       torch, the PyTorch port
resnet50            yes       Keras HDF5, v1
resnet50_torch      no        torch or safetensors, torchvision's
inception_v3        no        Keras HDF5; images of at least 75 x 75
inception_v3_torch  no        torch or safetensors, torchvision's
resnet50_v2, resnet101_v2, resnet152_v2
                    no        Keras HDF5
vgg16               no        Keras HDF5; images of 224 x 224 with its own head
vgg16_torch         no        torch or safetensors, torchvision's; the same
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxlab.core.errors import InputError
from jaxlab.core.require import at_least, one_of, require
from jaxlab.data.packages import packaged_weights, weights
from jaxlab.models import keras_names, pretrained, torch_names
from jaxlab.models.convert import template
from jaxlab.models.efficientnet_lite import EfficientNetLite, lite_image
from jaxlab.models.inception_v3 import InceptionV3
from jaxlab.models.normalised import Network, network
from jaxlab.models.resnet50 import ResNet50, keras_image
from jaxlab.models.resnet_v2 import ResNetV2
from jaxlab.models.squeezenet import SqueezeNet
from jaxlab.models.vgg16 import VGG16


class Pretrained(NamedTuple):
  """A network on images [b, size, size, 3] in [0, 1], and its weights."""

  network: Network
  params: dict[str, Any]  # {'net': …}
  vars: dict[str, Any]  # {'net': {'batch_stats': …}}, or {'net': {}}


class _Kind(NamedTuple):
  model: Any
  convert: Callable[..., Any]  # (template, flat) -> variables
  prepare: Callable[[jax.Array], jax.Array]  # of pixels in [0, 255]
  packaged: str  # name in packaged_weights; '' where there is none


def _torchvision(pixels: jax.Array) -> jax.Array:
  mean = jnp.array((0.485, 0.456, 0.406), jnp.float32)
  return (pixels / 255 - mean) / jnp.array((0.229, 0.224, 0.225), jnp.float32)


def _centred(pixels: jax.Array) -> jax.Array:
  return pixels / 127.5 - 1


KINDS: Mapping[str, _Kind] = {
  'squeezenet': _Kind(
    SqueezeNet(), pretrained.squeezenet, keras_image, 'squeezenet_imagenet'
  ),
  'efficientnet_lite0': _Kind(
    EfficientNetLite(),
    pretrained.efficientnet_lite,
    lite_image,
    'efficientnet_lite0_imagenet',
  ),
  'resnet50': _Kind(
    ResNet50(layout='keras_v1'),
    pretrained.resnet50_keras,
    keras_image,
    'resnet50_imagenet',
  ),
  'resnet50_torch': _Kind(
    ResNet50(), pretrained.resnet50_torch, _torchvision, ''
  ),
  'inception_v3': _Kind(
    InceptionV3(aux=False, norm_scale=False, pool_counts_padding=False),
    keras_names.inception_v3,
    _centred,
    '',
  ),
  # torchvision's own layer brings its usual normalisation to [-1, 1].
  'inception_v3_torch': _Kind(
    InceptionV3(aux=False), torch_names.inception_v3, _centred, ''
  ),
  **{
    f'resnet{depth}_v2': _Kind(
      ResNetV2(depth=depth), keras_names.resnet_v2, _centred, ''
    )
    for depth in (50, 101, 152)
  },
  'vgg16': _Kind(VGG16(), keras_names.vgg16, keras_image, ''),
  'vgg16_torch': _Kind(VGG16(), torch_names.vgg16, _torchvision, ''),
}


def architecture(name: str, *, size: int = 224, **fields: Any) -> Network:
  """A network of `KINDS` without its weights, for images [b, size, size, 3].

  Args:
    fields: of its module, to be changed: dtype, momentum, ….

  Raises:
    InputError: an unknown name, or images that are too small.
  """
  rules = {'name': one_of(*KINDS), 'size': at_least(32)}
  require({'name': name, 'size': size}, rules, name='')
  kind = KINDS[name]
  return network(
    kind.model.clone(**fields),
    (size, size, 3),
    lambda images: kind.prepare(255 * images),
  )


def imagenet(
  name: str, *, size: int = 224, path: str = '', offline: bool = False
) -> Pretrained:
  """A network of 1,000 classes; their names: `imagenet_classes`.

  Args:
    name: of `KINDS`.
    size: side of the images, at least 32.
    path: of a file of weights (.safetensors, .h5, .pt, .pth, .bin); '': the
      packaged one, fetched where it must be.
    offline: open no socket.

  Raises:
    InputError: an unknown name, or weights that cannot be had or do not fit.
  """
  made = architecture(name, size=size)
  kind = KINDS[name]
  if path:
    flat = read_weights(path)
  elif kind.packaged:
    flat = packaged_weights.open_packaged(kind.packaged, offline=offline)
  else:
    raise InputError(
      f'no package ships the weights of "{name}": name a file of them'
    )
  dummy = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
  try:
    variables = dict(kind.convert(template(kind.model, dummy), flat))
  except ValueError as error:
    raise InputError(f'{path or kind.packaged}: {error}') from error
  return Pretrained(made, {'net': variables.pop('params')}, {'net': variables})


def read_weights(path: str) -> weights.Flat:
  """The arrays of a file by their foreign names.

  Raises:
    InputError: it is absent or damaged, or of a format that is not read.
  """
  suffix = Path(path).suffix
  readers: Mapping[str, Callable[[str], weights.Flat]] = {
    '.safetensors': weights.read_safetensors,
    '.h5': weights.read_keras_h5,
    '.pt': weights.read_torch,
    '.pth': weights.read_torch,
    '.bin': weights.read_torch,
  }
  if suffix not in readers:
    raise InputError(
      f'{path} is not a file of weights that is read here: give one of '
      f'{", ".join(readers)}'
    )
  return readers[suffix](path)
