"""BERT's pretraining examples, made on the fly from a Corpus.

Source: Devlin et al., NAACL 2019, section 3.1 and appendix A.1-A.2. Nothing is
stored: which tokens make an example, its place in the epoch and its masks are
functions of (seed, example), so every epoch differs and a run resumes at any
step. Pairs are in `sentence_pairs`.
"""

import dataclasses
import functools
import math
import threading
from typing import NamedTuple

import numpy as np

from jaxlab.core.errors import InputError
from jaxlab.core.source import ArraySpec
from jaxlab.data import counter_random
from jaxlab.data.in_memory import Caching, permutation
from jaxlab.data.text import masking, sentence_pairs
from jaxlab.data.text.corpus import Corpus

MIN_LENGTH = 8  # tokens of an example that leave a pair something to predict
_PLANS = 2  # epochs kept: a batch may span the end of one


def batch_spec(
  batch_size: int, sequence_length: int, max_predictions: int
) -> dict[str, ArraySpec]:
  """The arrays of one batch; see `PretrainingSource`."""
  rows = (batch_size,)
  row = (batch_size, sequence_length)
  masked = (batch_size, max_predictions)
  return {
    'tokens': ArraySpec(row, np.int32),
    'segments': ArraySpec(row, np.int32),
    'attention': ArraySpec(row, np.bool_),
    'positions': ArraySpec(masked, np.int32),
    'targets': ArraySpec(masked, np.int32),
    'target_mask': ArraySpec(masked, np.bool_),
    'next_sentence': ArraySpec(rows, np.int32),
    'id': ArraySpec(rows, np.int32),
  }


@dataclasses.dataclass(eq=False)
class PretrainingSource(Caching):
  """Masked tokens and next sentences, as a `jaxlab.core.source.Source`.

  The arrays of a batch of b rows, s = sequence_length, p = max_predictions:
    tokens: [b, s] int32, [CLS] A [SEP] B [SEP], then [PAD].
    segments: [b, s] int32, 1 at B and its [SEP].
    attention: [b, s] bool, True at all but [PAD].
    positions: [b, p] int32 in [0, s), of the masked tokens, increasing.
    targets: [b, p] int32, the tokens that stood there.
    target_mask: [b, p] bool; positions and targets are 0 where False.
    next_sentence: [b] int32, 1 where B is from another document.
    id: [b] int32, the example's index in the stream, modulo 2^31.

  A row has min(p, max(1, round(masked_fraction * length))) masked tokens,
  length counting the special ones, which are never masked. 80 % become [MASK],
  10 % stay, 10 % become any piece of the vocabulary. With `whole_word` whole
  words are masked, in random order; one that exceeds what is left is skipped,
  so a row may have fewer, or none.

  With `repeat` epoch follows epoch and a batch may span two. Without, the
  source is epoch 0 alone, or its first `examples`, and the last batch is short.
  """

  corpus: Corpus
  split: str
  _: dataclasses.KW_ONLY
  batch_size: int
  sequence_length: int
  max_predictions: int
  masked_fraction: float = 0.15
  short_fraction: float = 0.1
  whole_word: bool = False
  next_sentence: bool = True
  seed: int = 0
  repeat: bool = True
  examples: int | None = None

  def __post_init__(self):
    self._check()
    self.spec = {
      'train': batch_spec(
        self.batch_size, self.sequence_length, self.max_predictions
      )
    }
    self._start()

  def _check(self) -> None:
    """Raises InputError where an argument is out of range."""
    ranges = [
      ('batch_size', self.batch_size, 1, math.inf),
      ('sequence_length', self.sequence_length, MIN_LENGTH, math.inf),
      ('max_predictions', self.max_predictions, 1, self.sequence_length),
      ('masked_fraction', self.masked_fraction, 0, 1),
      ('short_fraction', self.short_fraction, 0, 1),
      ('seed', self.seed, 0, 2**63 - 1),
      ('examples', 1 if self.examples is None else self.examples, 1, math.inf),
    ]
    for name, value, low, high in ranges:
      if not low <= value <= high:
        raise InputError(f'{name}={value} must be in [{low}, {high}]')
    if self.repeat and self.examples is not None:
      raise InputError('examples limits a source with repeat=False only')
    documents = len(self.corpus.split(self.split).documents) - 1
    needed = 2 if self.next_sentence else 1
    if documents < needed:
      raise InputError(
        f'the split {self.split!r} of the text {self.corpus.name!r} has '
        f'{documents} documents and needs {needed}: give more text'
      )

  def _start(self) -> None:
    self._lock = threading.Lock()
    self._arrays = self.corpus.split(self.split)
    self._plan = functools.lru_cache(_PLANS)(self._plan_of)
    self._starts = [0]  # the first example of each epoch, as far as is known

  @property
  def num_examples(self) -> int:
    """Examples of a finite source; of the first epoch, if it repeats."""
    count = self._reach(0)[1]
    return min(count, self.examples or count)

  @property
  def num_batches(self) -> int:
    """Batches that hold `num_examples`; the last may be short."""
    return -(-self.num_examples // self.batch_size)

  def kind(self, step: int) -> str:
    del step
    return 'train'

  def batch(self, step: int, rows: slice) -> dict[str, np.ndarray]:
    """Rows `rows` of batch `step`, fewer at the end of a finite source."""
    ids = step * self.batch_size + np.arange(self.batch_size)[rows]
    if not self.repeat:
      ids = ids[ids < self.num_examples]
    first, second, random = self._ranges(ids)
    tokens, segments, length = self._assemble(first, second)
    count = np.rint(self.masked_fraction * length).astype(np.int64)
    batch = masking.mask_tokens(
      tokens,
      length,
      first[:, 1] - first[:, 0],
      np.minimum(np.maximum(count, 1), self.max_predictions),
      # Draws of a row belong to its example, whatever batch it is in.
      counter_random.mix(self.seed, -2, ids),
      self.max_predictions,
      self.corpus.vocab_size,
      self.corpus.special.mask,
      self.corpus.continuation if self.whole_word else None,
    )
    batch['segments'] = segments
    batch['attention'] = np.arange(self.sequence_length) < length[:, None]
    batch['next_sentence'] = random.astype(np.int32)
    batch['id'] = (ids % 2**31).astype(np.int32)
    return batch

  def _plan_of(self, epoch: int) -> tuple[sentence_pairs.Plan, np.ndarray]:
    """An epoch's examples and their order."""
    plan = sentence_pairs.plan_epoch(
      self._arrays,
      max_tokens=self.sequence_length - (3 if self.next_sentence else 2),
      short_fraction=self.short_fraction,
      next_sentence=self.next_sentence,
      seed=self.seed,
      epoch=epoch,
    )
    count = len(plan.random_next)
    return plan, permutation(count, seed=self.seed, epoch=epoch)

  def _reach(self, example: int) -> list[int]:
    """The first examples of the epochs up to behind that of `example`."""
    with self._lock:
      while self._starts[-1] <= example:
        plan, _ = self._plan(len(self._starts) - 1)
        self._starts.append(self._starts[-1] + len(plan.random_next))
      return self._starts

  def _ranges(self, ids: np.ndarray):
    """A's and B's ranges and labels of the examples `ids` of the stream."""
    first = np.zeros((len(ids), 2), np.int64)
    second = np.zeros((len(ids), 2), np.int64)
    random = np.zeros(len(ids), bool)
    starts = self._reach(ids.max(initial=-1))
    epochs = np.searchsorted(starts, ids, side='right') - 1
    for epoch in np.unique(epochs).tolist():
      plan, order = self._plan(epoch)
      here = epochs == epoch
      places = order[ids[here] - starts[epoch]]
      first[here], second[here] = plan.first[places], plan.second[places]
      random[here] = plan.random_next[places]
    return first, second, random

  def _assemble(self, first: np.ndarray, second: np.ndarray):
    """Tokens and segments [b, s] int32, and lengths [b] int64."""
    column = np.arange(self.sequence_length)
    a = (first[:, 1] - first[:, 0])[:, None]
    b = (second[:, 1] - second[:, 0])[:, None]
    length = a + b + (3 if self.next_sentence else 2)
    in_b = column > a + 1
    place = np.where(
      in_b, second[:, :1] + column - a - 2, first[:, :1] + column - 1
    )
    text = self._arrays.tokens
    tokens = text[np.clip(place, 0, len(text) - 1)].astype(np.int32)
    special = self.corpus.special
    tokens[:, 0] = special.cls
    tokens[(column == a + 1) | (column == length - 1)] = special.sep
    tokens[column >= length] = special.pad
    segments = (in_b & (column < length)).astype(np.int32)
    return tokens, segments, length[:, 0]


class Unigram(NamedTuple):
  """How well word frequencies alone predict a source's masked tokens."""

  nats: float  # mean negative log-likelihood of a masked token
  tokens: int  # masked tokens
  characters: int  # that they stand for; see Corpus.characters

  @property
  def bits_per_character(self) -> float:
    return self.nats * self.tokens / self.characters / math.log(2)


def unigram_nats(corpus: Corpus, source: PretrainingSource) -> Unigram:
  """The add-one unigram of the training tokens, on a finite source's masks.

  p(piece) = (count + 1) / (sum of counts + vocab_size), counts over the split
  `train`; evaluated at every masked position of `source`.

  Raises:
    InputError: the source repeats, or masks nothing.
  """
  if source.repeat:
    raise InputError('a repeating source has no end: give repeat=False')
  size = corpus.vocab_size
  counts = np.ones(size, np.int64)
  tokens = corpus.split('train').tokens
  for start in range(0, len(tokens), 1 << 24):
    counts += np.bincount(tokens[start : start + (1 << 24)], minlength=size)
  nats = math.log(counts.sum()) - np.log(counts)
  total = np.zeros(size, np.int64)
  for step in range(source.num_batches):
    batch = source.batch(step, slice(None))
    masked = batch['targets'][batch['target_mask']]
    total += np.bincount(masked, minlength=size)
  if not total.any():
    raise InputError(
      'the source masks no token: raise examples or max_predictions'
    )
  return Unigram(
    nats=float(total @ nats / total.sum()),
    tokens=int(total.sum()),
    characters=int(total @ corpus.characters.astype(np.int64)),
  )
