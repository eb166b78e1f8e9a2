"""BERT examples: masks against their rules, and the stream of batches."""

import math
import pickle

import numpy as np
import pytest

from jaxlab.core.errors import InputError
from jaxlab.core.source import Source
from jaxlab.data.text import corpus, pretraining, sentence_pairs
from tests.data.numbered_corpus import (
  FIRST,
  SPECIAL,
  NumberedCorpus,
  check_uniform,
  make_lengths,
  make_source,
  restored,
  whole_epoch,
)


def test_one_segment_without_next_sentence():
  source = make_source(
    NumberedCorpus(make_lengths()), next_sentence=False, repeat=False
  )
  batch = whole_epoch(source)
  tokens, lengths = restored(batch), batch['attention'].sum(1)
  assert not batch['segments'].any() and not batch['next_sentence'].any()
  assert lengths.max() == 40
  for row, length in zip(tokens, lengths):
    assert (row[0], row[length - 1]) == (SPECIAL.cls, SPECIAL.sep)
    assert (np.diff(row[1 : length - 1]) == 1).all()
    assert (row[length:] == SPECIAL.pad).all()


@pytest.mark.parametrize('fraction', [0.15, 0.5, 1.0])
def test_masks_have_their_number_and_spare_special_tokens(fraction):
  source = make_source(
    NumberedCorpus(make_lengths()),
    masked_fraction=fraction,
    max_predictions=12,
    repeat=False,
  )
  batch = whole_epoch(source)
  lengths = batch['attention'].sum(1)
  mask, positions = batch['target_mask'], batch['positions']
  for row, length in enumerate(lengths):
    n = min(12, max(1, round(fraction * int(length))), int(length) - 3)
    assert mask[row].tolist() == [True] * n + [False] * (12 - n)
    assert (np.diff(positions[row, :n]) > 0).all()
  assert (batch['targets'][mask] >= FIRST).all()  # no special token
  assert not batch['targets'][~mask].any() and not positions[~mask].any()


def test_masks_are_80_10_10_and_random_pieces_are_of_the_whole_vocabulary():
  made = NumberedCorpus([[5] * 20] * 12)
  source = make_source(made, batch_size=5000)
  batches = [source.batch(step, slice(None)) for step in range(4)]
  replaced, targets = [], []
  for batch in batches:
    seen = np.take_along_axis(batch['tokens'], batch['positions'], 1)
    replaced.append(seen[batch['target_mask']])
    targets.append(batch['targets'][batch['target_mask']])
  replaced, targets = np.concatenate(replaced), np.concatenate(targets)
  n, size = len(replaced), made.vocab_size
  random = (replaced != targets) & (replaced != SPECIAL.mask)
  for found, p in (
    (replaced == SPECIAL.mask, 0.8 + 0.1 / size),
    (replaced == targets, 0.1 + 0.1 / size),
    (random, 0.1 * (1 - 2 / size)),
  ):
    assert abs(found.mean() - p) < 4 * math.sqrt(p * (1 - p) / n)
  # Ids of all pieces but [MASK], the special ones too, are equally frequent;
  # an id is not counted where it replaces itself, one time in `size`.
  pieces = replaced[random]
  check_uniform(np.where(pieces > SPECIAL.mask, pieces - 1, pieces), size - 1)
  # Unmasked tokens are as in the text: those of a row are consecutive.
  batch = batches[0]
  tokens = restored(batch)
  steps = np.diff(tokens, axis=1)
  inside = (tokens[:, 1:] >= FIRST) & (tokens[:, :-1] >= FIRST)
  assert (steps[inside] == 1).all()


def test_every_place_is_masked_equally_often():
  made = NumberedCorpus([[50]] * 1000)
  source = make_source(made, sequence_length=23, batch_size=20_000)
  batch = source.batch(0, slice(None))
  # 20 tokens and 3 special ones: [CLS] 10 [SEP] 10 [SEP].
  assert (batch['attention'].sum(1) == 23).mean() > 0.85
  full = batch['attention'].all(1)
  places = batch['positions'][full][batch['target_mask'][full]]
  check_masked = np.bincount(places, minlength=23)
  assert check_masked[[0, 11, 22]].tolist() == [0, 0, 0]
  free = np.delete(check_masked, [0, 11, 22])
  n = free.sum()
  # Places of a row are drawn without replacement, so this is conservative.
  assert (abs(free / n - 0.05) < 4 * math.sqrt(0.05 * 0.95 / n)).all()


def test_whole_words_are_masked_whole_and_overflowing_ones_skipped():
  made = NumberedCorpus(make_lengths(), continuation=0.4)
  source = make_source(made, whole_word=True, repeat=False)
  batch = whole_epoch(source)
  tokens, lengths = restored(batch), batch['attention'].sum(1)
  fewer = 0
  for row in range(source.num_examples):
    n = min(6, max(1, round(0.15 * int(lengths[row]))))
    chosen = set(batch['positions'][row][batch['target_mask'][row]].tolist())
    words = []
    for place in range(lengths[row]):
      token = tokens[row, place]
      if token < FIRST:
        continue
      new = tokens[row, place - 1] < FIRST or not made.continuation[token]
      words.append([place]) if new else words[-1].append(place)
    left = n - len(chosen)
    assert left >= 0
    for word in words:
      inside = chosen.intersection(word)
      assert inside in (set(), set(word))
      if not inside:
        assert len(word) > left  # else it would have been taken
    fewer += left > 0
  assert fewer > 0
  assert batch['target_mask'].sum() > 0.8 * np.minimum(6, lengths * 0.15).sum()


@pytest.mark.parametrize('whole_word', [False, True])
def test_rows_are_those_of_the_whole_batch(whole_word):
  source = make_source(
    NumberedCorpus(make_lengths(), continuation=0.3), whole_word=whole_word
  )
  for step in (0, 5, source.num_batches - 1, 1000):
    whole = source.batch(step, slice(None))
    for rows in (slice(0, 8), slice(8, 32), slice(3, 32, 7)):
      part = source.batch(step, rows)
      for name, array in whole.items():
        np.testing.assert_array_equal(part[name], array[rows])


def test_arrays_are_as_the_spec_says():
  source = make_source(NumberedCorpus(make_lengths()))
  assert isinstance(source, Source)
  assert source.kind(0) == 'train'
  batch = source.batch(2, slice(None))
  assert set(batch) == set(source.spec['train'])
  for name, spec in source.spec['train'].items():
    assert (batch[name].shape, batch[name].dtype) == (spec.shape, spec.dtype)
  assert batch['id'].tolist() == list(range(64, 96))


def test_stream_is_a_function_of_seed_and_step_alone():
  made = NumberedCorpus(make_lengths())
  source = make_source(made)
  last = source.num_examples // 32 + 1
  walked = [source.batch(step, slice(None)) for step in range(3 * last)]
  fresh = make_source(made)
  for step in (3 * last - 1, 0, last, 2 * last, last - 1):
    for name, array in fresh.batch(step, slice(None)).items():
      np.testing.assert_array_equal(array, walked[step][name])
  other = make_source(made, seed=4).batch(0, slice(None))
  assert (other['tokens'] != walked[0]['tokens']).mean() > 0.5


def test_epochs_follow_one_another_and_differ():
  made = NumberedCorpus(make_lengths())
  source = make_source(made, batch_size=10)
  first, n = whole_epoch(make_source(made, repeat=False)), source.num_examples
  stream = np.concatenate(
    [source.batch(step, slice(None))['tokens'] for step in range(n // 5)]
  )
  np.testing.assert_array_equal(stream[:n], first['tokens'])
  second = stream[n : 2 * n]
  assert not np.array_equal(second[:50], stream[:50])
  plans = [
    sentence_pairs.plan_epoch(
      made.split('train'),
      max_tokens=37,
      short_fraction=0.1,
      next_sentence=True,
      seed=3,
      epoch=epoch,
    )
    for epoch in (0, 1)
  ]
  pairs = [
    set(map(tuple, np.column_stack([p.first, p.second]).tolist()))
    for p in plans
  ]
  assert len(pairs[0] & pairs[1]) < 0.2 * len(pairs[0])


def test_finite_source_ends_with_a_short_batch():
  made = NumberedCorpus(make_lengths())
  whole = make_source(made, repeat=False)
  assert whole.num_batches == -(-whole.num_examples // 32)
  source = make_source(made, repeat=False, examples=70)
  assert (source.num_examples, source.num_batches) == (70, 3)
  last = source.batch(2, slice(None))
  assert len(last['id']) == 6
  assert source.batch(2, slice(16, 32))['tokens'].shape == (0, 40)
  assert source.batch(2, slice(16, 32))['positions'].shape == (0, 6)
  expected = make_source(made).batch(2, slice(0, 6))
  for name, array in expected.items():
    np.testing.assert_array_equal(last[name], array)
  assert make_source(made, repeat=False, examples=10**9).num_examples == (
    whole.num_examples
  )


def test_source_is_pickled_without_its_data(tmp_path, monkeypatch):
  monkeypatch.setenv('JAXLAB_DATA_DIR', str(tmp_path))
  made = corpus.prepare_corpus('pydoc', vocab_size=800)
  source = make_source(made, whole_word=True)
  before = source.batch(9, slice(None))
  data = pickle.dumps(source)
  assert len(data) < 2000
  after = pickle.loads(data).batch(9, slice(None))
  for name, array in before.items():
    np.testing.assert_array_equal(array, after[name])


def test_unigram_is_the_mean_of_logs_over_masked_positions():
  made = NumberedCorpus([[2] * 30] * 5)
  # Repeat some words, so that frequencies differ.
  made.arrays = made.arrays._replace(tokens=made.arrays.tokens % 17 + FIRST)
  made.vocab_size, made.characters = 40, np.full(40, 3)
  source = make_source(made, repeat=False, examples=33)
  counts = dict.fromkeys(range(40), 1)
  for token in made.arrays.tokens.tolist():
    counts[token] += 1
  total = sum(counts.values())
  logs, characters = [], 0
  for step in range(2):
    batch = source.batch(step, slice(None))
    for row in range(len(batch['id'])):
      for slot in range(6):
        if batch['target_mask'][row, slot]:
          target = int(batch['targets'][row, slot])
          logs.append(-math.log(counts[target] / total))
          characters += 3
  found = pretraining.unigram_nats(made, source)
  # Sums of a few hundred float64 logs, in another order.
  assert found.nats == pytest.approx(sum(logs) / len(logs), rel=1e-12)
  assert (found.tokens, found.characters) == (len(logs), characters)
  assert found.bits_per_character == pytest.approx(
    sum(logs) / characters / math.log(2), rel=1e-12
  )
  with pytest.raises(InputError, match='repeat=False'):
    pretraining.unigram_nats(made, make_source(made))


@pytest.mark.parametrize(
  'changes',
  [
    {'sequence_length': 7},
    {'max_predictions': 0},
    {'max_predictions': 41},
    {'batch_size': 0},
    {'masked_fraction': 1.5},
    {'short_fraction': -0.1},
    {'seed': -1},
    {'examples': 0, 'repeat': False},
  ],
)
def test_arguments_out_of_range_are_named(changes):
  name = next(iter(changes))
  with pytest.raises(InputError, match=f'{name}={changes[name]}'):
    make_source(NumberedCorpus(make_lengths()), **changes)


def test_split_with_too_few_documents_is_refused():
  with pytest.raises(InputError, match='1 documents and needs 2'):
    make_source(NumberedCorpus([[5, 5]]))
  with pytest.raises(InputError, match='0 documents'):
    make_source(NumberedCorpus([]), next_sentence=False)
  assert make_source(NumberedCorpus([[5, 5]]), next_sentence=False).num_batches
  with pytest.raises(InputError, match='examples'):
    make_source(NumberedCorpus(make_lengths()), examples=5)
