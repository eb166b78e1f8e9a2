"""The handwritten digits that scikit-learn ships."""

import functools
import hashlib

import numpy as np
import tensorflow_datasets as tfds

from jaxlab.data import counter_random
from jaxlab.data.builders import packaged
from jaxlab.data.graphs.types import SPLITS
from jaxlab.engine.errors import InputError

SHA256 = 'fe61bc84cd6a594d5ed1b937b7d8f8f791d4091d2a9df91fe5d6066156a4db6e'
PARTS = {'validation': 0.2, 'test': 0.2}  # of each class; the rest is train

_DESCRIPTION = f"""\
1,797 handwritten digits of 13 people, 8 by 8 pixels, from the test half of the
UCI set "Optical Recognition of Handwritten Digits" in the package scikit-learn
(sha256 of its pixels and labels {SHA256}). The pixels 0 to 16 are multiplied by
15, to 0 to 240: divide by 15 to have them back. No split is published; a fifth
of each class is validation and a fifth is test, chosen by a hash of an image's
place in the package, without regard to who wrote it.
"""

CITATION = """\
@misc{alpaydin1998digits,
  author = {Alpaydin, Ethem and Kaynak, Cenk},
  title = {Optical Recognition of Handwritten Digits},
  howpublished = {UCI Machine Learning Repository},
  year = {1998},
  doi = {10.24432/C50P49}
}
"""


@functools.cache
def load_digits() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """The digits in the order of the package.

  Returns:
    pixels [1797, 8, 8] uint8 in [0, 16], labels [1797] int32 in [0, 10) and
    split [1797] int8 of `graph.SPLITS`.

  Raises:
    InputError: scikit-learn ships other digits.
  """
  import sklearn
  import sklearn.datasets

  found = sklearn.datasets.load_digits()
  pixels = found.images.astype(np.uint8)
  labels = found.target.astype(np.int32)
  digest = hashlib.sha256(pixels.tobytes() + labels.astype('<i4').tobytes())
  if digest.hexdigest() != SHA256:
    raise InputError(
      f'scikit-learn {sklearn.__version__} ships other digits than this set is '
      f'made of: the sha256 of pixels and labels is {digest.hexdigest()}, '
      f'expected {SHA256}; install scikit-learn 1.9'
    )
  order = counter_random.mix(0, np.arange(len(labels)))
  split = np.full(len(labels), SPLITS['train'], np.int8)
  for digit in range(10):
    members = np.flatnonzero(labels == digit)
    members = members[np.argsort(order[members])]
    for name, part in PARTS.items():
      chosen, members = np.split(
        members, [round(part * (labels == digit).sum())]
      )
      split[chosen] = SPLITS[name]
  return pixels, labels, split


class Builder(packaged.PackagedBuilder):
  """Builds the set `digits` from scikit-learn, without a download."""

  NEEDS = ('sklearn',)
  SUMMARY = '1,797 handwritten digits, 8 by 8, 10 classes'
  LICENCE = 'CC BY 4.0 (the package: BSD-3-Clause)'
  PUBLISHED = {  # noqa: RUF012
    'images': packaged.Published(1_797),
    'classes': packaged.Published(10),
    'pixel mean, of 16': packaged.Published(4.8842, 5e-5),
  }

  def measure(self, read):
    rows = [row for name in ('train', *PARTS) for row in read(name)]
    return {
      'images': len(rows),
      'classes': len({int(row['label']) for row in rows}),
      'pixel mean, of 16': np.mean([row['image'] for row in rows]) / 15,
    }

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description=_DESCRIPTION,
      features=tfds.features.FeaturesDict(
        {
          'image': tfds.features.Image(shape=(8, 8, 1)),
          'label': tfds.features.ClassLabel(num_classes=10),
        }
      ),
      supervised_keys=('image', 'label'),
      license=self.LICENCE,
      citation=CITATION,
      disable_shuffling=True,  # the order of the package
    )

  def _split_generators(self, dl_manager):
    del dl_manager  # nothing is downloaded
    return {name: self._generate_examples(name) for name in ('train', *PARTS)}

  def _generate_examples(self, name):
    pixels, labels, split = load_digits()
    for key in np.flatnonzero(split == SPLITS[name]):
      image = packaged.encode_png(pixels[key] * np.uint8(15))
      yield int(key), {'image': image, 'label': int(labels[key])}
