"""Texts as dense numbers: TF-IDF, then its leading directions.

The vectoriser and the directions are those of the rows that training may see.
"""

import hashlib
from collections.abc import Sequence

import numpy as np

from jaxlab.core.errors import InputError
from jaxlab.data import atomic


def text_features(
  texts: Sequence[str], train_rows: np.ndarray, dimensions: int, seed: int = 0
) -> np.ndarray:
  """Latent semantic features of texts.

  Words of at least two letters that two training texts have, weighted
  (1 + log count) x inverse document frequency, rows of length 1; of those the
  `dimensions` leading right singular vectors, scaled so that a training row has
  the mean square 1 in each number on average. Kept under the data directory.

  Args:
    texts: n texts.
    train_rows: [t] int rows that the features are fitted on.
    dimensions: d >= 1.
    seed: of the randomised decomposition.

  Returns:
    [n, d] float32.

  Raises:
    InputError: no training rows, or fewer words than dimensions.
  """
  if dimensions < 1 or not len(train_rows):
    raise InputError(
      f'features of texts need training rows (there are {len(train_rows)}) and '
      f'dimensions >= 1 (there are {dimensions})'
    )
  digest = hashlib.sha256(f'v1 {dimensions} {seed} {len(texts)}\n'.encode())
  digest.update(np.ascontiguousarray(train_rows, np.int64).tobytes())
  for text in texts:
    digest.update(hashlib.sha256(text.encode()).digest())
  folder = atomic.data_dir() / 'text_features'
  path = folder / f'{digest.hexdigest()[:32]}.npy'
  with atomic.lock(folder / 'lock', 'features of texts'):
    if path.exists():
      return np.load(path, allow_pickle=False)
    found = _compute(texts, train_rows, dimensions, seed)
    temporary = path.with_suffix('.tmp')
    with open(temporary, 'wb') as file:
      np.save(file, found, allow_pickle=False)
    temporary.replace(path)
  return found


def _compute(texts, train_rows, dimensions, seed) -> np.ndarray:
  # Slow to import, and few need them.
  from sklearn.decomposition import TruncatedSVD
  from sklearn.feature_extraction.text import TfidfVectorizer

  atomic.note(f'making {dimensions} features of {len(texts)} texts, once')
  words = TfidfVectorizer(sublinear_tf=True, min_df=2, dtype=np.float32)
  try:
    words.fit([texts[i] for i in train_rows])
  except ValueError as error:
    raise InputError(f'the texts have no common words: {error}') from error
  counts = words.transform(texts)
  if counts.shape[1] <= dimensions:
    raise InputError(
      f'the training texts have {counts.shape[1]} words in common, too few for '
      f'{dimensions} dimensions; take fewer'
    )
  directions = TruncatedSVD(dimensions, random_state=seed)
  directions.fit(counts[train_rows])
  found = directions.transform(counts).astype(np.float32)
  size = np.sqrt(np.square(found[train_rows]).mean())
  return found / max(size, np.finfo(np.float32).tiny)
