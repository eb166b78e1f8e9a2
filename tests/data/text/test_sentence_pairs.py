"""BERT's sentence pairs, against a scalar oracle and against their rules."""

import math

import numpy as np
import pytest

from jaxlab.data import counter_random
from jaxlab.data.text import sentence_pairs
from tests.data.numbered_corpus import (
  FIRST,
  SPECIAL,
  NumberedCorpus,
  check_uniform,
  make_lengths,
  make_source,
  restored,
  runs,
  whole_epoch,
)


def scalar_plan(split, max_tokens, short_fraction, seed, epoch):
  """The rules of BERT's script, one document, sentence and token at a time.

  Only the draws are shared with the code under test.
  """
  offsets, starts = split.sentences.tolist(), split.documents.tolist()
  draw = lambda *words: counter_random.mix(*words)
  unit = lambda *words: float(counter_random.uniform(draw(*words))[0])
  pick = lambda n, *words: int(counter_random.below(draw(*words), n)[0])
  documents = [
    [
      list(range(offsets[s], offsets[s + 1]))
      for s in range(starts[d], starts[d + 1])
    ]
    for d in range(len(starts) - 1)
  ]
  found = []
  for d, document in enumerate(documents):
    base = int(draw(seed, epoch, d)[0])
    target = max_tokens
    if unit(base, sentence_pairs._SHORT) < short_fraction:
      target = 2 + pick(max_tokens - 1, base, sentence_pairs._LENGTH)
    chunk, number, i = [], 0, 0
    while i < len(document):
      chunk.append(document[i])
      if i == len(document) - 1 or sum(map(len, chunk)) >= target:
        state = int(draw(base, sentence_pairs._CHUNK, number)[0])
        a_end = 1
        if len(chunk) >= 2:
          a_end = 1 + pick(len(chunk) - 1, state, sentence_pairs._CUT)
        a, b = [t for sentence in chunk[:a_end] for t in sentence], []
        random = len(chunk) == 1 or unit(state, sentence_pairs._RANDOM) < 0.5
        if random:
          other = pick(len(documents) - 1, state, sentence_pairs._DOCUMENT)
          other += other >= d
          at = pick(len(documents[other]), state, sentence_pairs._START)
          for sentence in documents[other][at:]:
            b += sentence
            if len(b) >= target - len(a):
              break
          i -= len(chunk) - a_end
        else:
          b = [t for sentence in chunk[a_end:] for t in sentence]
        cuts = {'a': 0, 'b': 0}
        lengths = {'a': len(a), 'b': len(b)}
        while sum(lengths.values()) > max_tokens:
          longer = 'a' if lengths['a'] > lengths['b'] else 'b'
          lengths[longer] -= 1
          cuts[longer] += 1
        for side, purpose in (
          ('a', sentence_pairs._FRONT_A),
          ('b', sentence_pairs._FRONT_B),
        ):
          tokens = a if side == 'a' else b
          coins = int(draw(state, purpose)[0])
          for toss in range(cuts[side]):
            # A word of 64 tosses, from its leading bit.
            if toss % 64 == 0:
              word = int(draw(coins, toss // 64)[0])
            tokens.pop(0 if word >> (63 - toss % 64) & 1 else -1)
        found.append((a[0], a[-1] + 1, b[0], b[-1] + 1, random))
        chunk, number = [], number + 1
      i += 1
  return found


@pytest.mark.parametrize(
  ('longest', 'max_tokens', 'short'),
  [(30, 37, 0.1), (4, 50, 0.5), (300, 9, 0.1), (12, 5, 1.0), (2, 61, 0.0)],
)
def test_plan_follows_the_rules_token_by_token(longest, max_tokens, short):
  split = NumberedCorpus(make_lengths(longest=longest)).split('train')
  for epoch in (0, 1):
    plan = sentence_pairs.plan_epoch(
      split,
      max_tokens=max_tokens,
      short_fraction=short,
      next_sentence=True,
      seed=11,
      epoch=epoch,
    )
    found = np.column_stack([plan.first, plan.second, plan.random_next])
    expected = scalar_plan(split, max_tokens, short, 11, epoch)
    np.testing.assert_array_equal(found, expected)


def test_pairs_are_legal():
  made = NumberedCorpus(make_lengths())
  source = make_source(made, repeat=False)
  batch = whole_epoch(source)
  tokens = restored(batch)
  arrays = made.split('train')
  ends = arrays.sentences[arrays.documents[1:]]
  document_of = lambda t: int(np.searchsorted(ends, t - FIRST, side='right'))
  for row in range(source.num_examples):
    segments, attention = batch['segments'][row], batch['attention'][row]
    a, b = runs(tokens[row], segments, attention)
    length = attention.sum()
    assert attention[:length].all()
    assert 2 + 3 <= length == len(a) + len(b) + 3 <= 40
    assert tokens[row, 0] == SPECIAL.cls
    assert tokens[row, len(a) + 1] == tokens[row, length - 1] == SPECIAL.sep
    assert (tokens[row, length:] == SPECIAL.pad).all()
    assert segments.tolist() == (
      [0] * (len(a) + 2) + [1] * (len(b) + 1) + [0] * (40 - length)
    )
    for run in (a, b):
      assert len(run) >= 1
      assert (np.diff(run) == 1).all()
      assert document_of(run[0]) == document_of(run[-1])
    same = document_of(a[0]) == document_of(b[0])
    assert batch['next_sentence'][row] == (not same)
    if same:
      assert a[-1] < b[0]
      if length < 40:  # nothing was cut off
        assert a[-1] + 1 == b[0]
        assert b[0] - FIRST in arrays.sentences


def test_an_epoch_uses_every_sentence_once_as_a_or_true_b():
  """All sentences have 5 tokens and pairs 60, so nothing is truncated."""
  made = NumberedCorpus([[5] * n for n in (3, 40, 1, 25, 12, 80, 7)])
  source = make_source(
    made, sequence_length=63, short_fraction=0.0, repeat=False
  )
  batch = whole_epoch(source)
  tokens = restored(batch)
  used = []
  for row in range(source.num_examples):
    a, b = runs(tokens[row], batch['segments'][row], batch['attention'][row])
    used.extend(a)
    if not batch['next_sentence'][row]:
      used.extend(b)
  assert sorted(used) == made.split('train').tokens.tolist()


def test_more_than_half_of_the_next_sentences_are_random():
  plan = sentence_pairs.plan_epoch(
    NumberedCorpus(make_lengths(documents=2000)).split('train'),
    max_tokens=37,
    short_fraction=0.1,
    next_sentence=True,
    seed=0,
    epoch=0,
  )
  # Chunks of one sentence have no true one, so the rate exceeds 1/2, by more
  # than 4 standard errors.
  rate, n = plan.random_next.mean(), len(plan.random_next)
  assert n > 10_000
  assert rate > 0.5 + 4 * 0.5 / math.sqrt(n)


def test_cuts_targets_and_random_documents_are_uniform():
  made = NumberedCorpus([[1] * 300] * 200)
  options = {'next_sentence': True, 'seed': 0, 'epoch': 0}
  split = made.split('train')
  fixed = sentence_pairs.plan_epoch(
    split, max_tokens=10, short_fraction=0.0, **options
  )
  a = fixed.first[:, 1] - fixed.first[:, 0]
  b = fixed.second[:, 1] - fixed.second[:, 0]
  true = ~fixed.random_next & (a + b == 10)
  check_uniform(a[true] - 1, 9)
  # Random documents come from all others: the distance is never zero.
  places = np.stack([fixed.first[:, 0], fixed.second[:, 0]]) // 300
  random = fixed.random_next
  away = (places[1] - places[0])[random] % 200
  check_uniform(away - 1, 199)
  check_uniform(fixed.second[random, 0] % 300, 300)
  short = sentence_pairs.plan_epoch(
    split, max_tokens=10, short_fraction=1.0, **options
  )
  # The first example of a document has its target length, if B is true.
  first = np.unique(short.first[:, 0] // 300, return_index=True)[1]
  first = first[~short.random_next[first]]
  lengths = short.second[first, 1] - short.first[first, 0]
  assert set(lengths) == set(range(2, 11))
  mixed = sentence_pairs.plan_epoch(
    split, max_tokens=10, short_fraction=0.1, **options
  )
  assert len(fixed.first) < len(mixed.first) < len(short.first)


def test_hash_bits_are_balanced_and_independent_of_the_order_of_calls():
  bits = counter_random.mix(5, np.arange(4096))
  np.testing.assert_array_equal(
    bits[17], counter_random.mix(5, np.array([17]))[0]
  )
  assert counter_random.mix(1, 2) != counter_random.mix(2, 1)
  ones = (bits[:, None] >> np.arange(64, dtype=np.uint64)) & np.uint64(1)
  # 64 means of 4,096 fair bits: 5 standard errors.
  assert (abs(ones.mean(0) - 0.5) < 5 * 0.5 / 64).all()
  tosses = np.array([0, 1, 63, 64, 65, 200, 5000])
  state = counter_random.mix(np.arange(400))[:, None]
  heads = np.stack(
    [
      counter_random.heads(np.full(len(tosses), s[0], np.uint64), tosses)
      for s in state
    ]
  )
  assert (heads <= tosses).all() and (heads[:, 0] == 0).all()
  error = abs(heads.mean(0) - tosses / 2)
  assert (error <= 5 * np.sqrt(tosses / 4 / 400)).all()
