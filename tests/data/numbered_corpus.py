"""A made-up corpus whose tokens say which place of the text they came from."""

import math

import numpy as np

from jaxlab.data.text import corpus, pretraining, wordpiece

FIRST = 5  # the id of the first token of the text
# Not in the order of our own vocabularies.
SPECIAL = wordpiece.SpecialIds(pad=3, unk=1, cls=4, sep=2, mask=0)


class NumberedCorpus:
  """A corpus whose token i of the text has the id i + FIRST."""

  name = 'numbered'
  sha256 = ''
  special = SPECIAL

  def __init__(self, lengths, continuation=0):
    """`lengths[d][s]`: tokens of sentence s of document d."""
    sentences = [n for document in lengths for n in document]
    count = sum(sentences)
    self.arrays = corpus.Split(
      tokens=np.arange(FIRST, FIRST + count, dtype=np.int32),
      sentences=np.cumsum([0, *sentences]),
      documents=np.cumsum([0, *map(len, lengths)]),
    )
    self.vocab_size = count + FIRST
    rng = np.random.default_rng(7)
    self.continuation = rng.random(self.vocab_size) < continuation
    self.continuation[:FIRST] = False
    self.characters = np.where(np.arange(self.vocab_size) < FIRST, 0, 3)

  def split(self, name):
    return self.arrays


def make_lengths(seed=0, documents=60, sentences=25, longest=30):
  rng = np.random.default_rng(seed)
  return [
    rng.integers(1, longest, rng.integers(1, sentences)).tolist()
    for _ in range(documents)
  ]


def make_source(made, **changes):
  options = {
    'batch_size': 32,
    'sequence_length': 40,
    'max_predictions': 6,
    'seed': 3,
  }
  return pretraining.PretrainingSource(made, 'train', **(options | changes))


def whole_epoch(source):
  """All examples of epoch 0, in one batch of arrays."""
  batches = [
    source.batch(step, slice(None)) for step in range(source.num_batches)
  ]
  return {
    name: np.concatenate([batch[name] for batch in batches])
    for name in batches[0]
  }


def restored(batch):
  """Tokens with the targets put back."""
  tokens = batch['tokens'].copy()
  rows, slots = np.nonzero(batch['target_mask'])
  tokens[rows, batch['positions'][rows, slots]] = batch['targets'][rows, slots]
  return tokens


def runs(row_tokens, row_segments, row_attention):
  """A and B of one restored row."""
  length = row_attention.sum()
  a_stop = length - 1 - max(row_segments.sum() - 1, 0) - 1
  return row_tokens[1:a_stop], row_tokens[a_stop + 1 : length - 1]


def check_uniform(values, bound):
  """Chi-square within four standard deviations, sqrt(2 * freedom)."""
  counts = np.bincount(values, minlength=bound)
  assert len(counts) == bound
  expected = counts.sum() / bound
  assert expected > 5
  chi = ((counts - expected) ** 2 / expected).sum()
  assert abs(chi - (bound - 1)) < 4 * math.sqrt(2 * (bound - 1))
