"""Pairs of texts: the vocabulary, the files, the batches by length."""

import gzip
import json
import os
import pathlib
import pickle
import random
import subprocess
import sys

import numpy as np
import pytest
from tensorflow_datasets import features

from jaxlab.core.errors import InputError
from jaxlab.core.source import Source
from jaxlab.data.text import translation, translation_batches
from jaxlab.data.text.translation import BOS, EOS, FIRST, PAD
from jaxlab.data.text.translation_batches import TranslationSource
from tests.data import tfds_sets

REPO = pathlib.Path(__file__).parents[3]
SMALLEST = 256 + FIRST


@pytest.fixture(autouse=True)
def data_dir(tmp_path, monkeypatch):
  monkeypatch.setenv('JAXLAB_DATA_DIR', str(tmp_path / 'data'))
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path / 'tfds'))
  return tmp_path / 'data'


def write(folder, lines, suffix=''):
  """Files of both languages: {split: [(source, target), …]}; their name."""
  for split, pairs in lines.items():
    (folder / split).mkdir(parents=True, exist_ok=True)
    for language, texts in zip(('x', 'y'), zip(*pairs)):
      data = ''.join(f'{text}\n' for text in texts).encode()
      path = folder / split / f'text.{language}{suffix}'
      path.write_bytes(gzip.compress(data) if suffix else data)
  return f'aligned:{folder}/text.x{suffix},{folder}/text.y{suffix}'


def some_pairs(count, seed=0, words=12):
  """Texts of made-up words; their translation is each word backwards."""
  draw = random.Random(99)
  known = [
    ''.join(draw.choices('abcdefgh', k=draw.randint(2, 7))) for _ in range(40)
  ]
  draw.seed(seed)
  found = []
  for _ in range(count):
    text = draw.choices(known, k=draw.randint(1, words))
    found.append((' '.join(text), ' '.join(word[::-1] for word in text)))
  return found


def three(count=200, **options):
  sizes = {'train': count, 'validation': 20, 'test': 15}
  return {
    split: some_pairs(n, seed, **options)
    for seed, (split, n) in enumerate(sizes.items())
  }


def prepare(name, vocab_size=400, source='xx', target='yy'):
  return translation.prepare_pairs(
    name, source, target, vocab_size=vocab_size, offline=True
  )


def test_tokens_give_back_every_text_and_are_never_special(tmp_path):
  odd = [
    ('Ein „Satz“, mit 12,5 % Öl.', 'a sentence'),
    ('<pad> [PAD] </s> <unk>', '日本語 ✓ \u200b emoji 👩‍🔬'),
    ('x\u0301 combining', 'tab\tand\u00a0space   collapse '),
  ]
  name = write(tmp_path, {**three(), 'test': odd})
  pairs = prepare(name)
  for number, side in enumerate(translation.SIDES):
    tokens, offsets = pairs.side('test', side)
    assert tokens.min() >= FIRST > max(PAD, BOS, EOS)
    assert tokens.max() < pairs.vocab_size
    assert offsets[0] == 0 and offsets[-1] == len(tokens)
    texts = [' '.join(pair[number].split()) for pair in odd]
    assert pairs.texts('test', side, np.arange(3)) == texts
  # Behind the first EOS nothing is read, and special tokens have no text.
  tokens = np.asarray(pairs.side('test', 'target').tokens[:5])
  text = pairs.text(tokens)
  marked = [BOS, *tokens, EOS, *tokens, PAD]
  assert pairs.text(np.array(marked, np.int32)) == text
  assert pairs.text(np.array([EOS, 7, 8])) == pairs.text(np.zeros(3, int)) == ''


def test_the_vocabulary_knows_the_training_pairs_alone(tmp_path):
  lines = three()
  first = prepare(write(tmp_path / 'a', lines))
  others = {**lines, 'test': [('zzzz zzzz', 'zzzz zzzz')] * 30}
  second = prepare(write(tmp_path / 'b', others))
  read = [(p.path / 'tokenizer.json').read_text() for p in (first, second)]
  assert read[0] == read[1]
  assert first.vocab_size == 400
  pieces = json.loads(read[0])['model']['vocab']
  assert max(map(len, pieces)) > 2 and not any('zz' in p for p in pieces)
  # Both languages: words of either side are single tokens.
  tokens = [
    len(first.side('train', side).tokens) for side in ('source', 'target')
  ]
  characters = [sum(len(pair[i]) for pair in lines['train']) for i in (0, 1)]
  assert all(t < c / 2 for t, c in zip(tokens, characters))


def test_two_processes_make_the_same_files(tmp_path):
  name = write(tmp_path, three())
  program = (
    'from jaxlab.data.text import translation\n'
    f'print(translation.prepare_pairs({name!r}, "x", "y", vocab_size=400)'
    '.sha256)'
  )
  found = [
    subprocess.run(
      [sys.executable, '-c', program],
      env={
        **os.environ,
        'PYTHONPATH': str(REPO),
        'JAXLAB_DATA_DIR': str(tmp_path / f'data{run}'),
        'PYTHONHASHSEED': str(run),
      },
      capture_output=True,
      text=True,
      check=True,
    ).stdout
    for run in range(2)
  ]
  assert found[0] == found[1] != ''


def test_pairs_are_prepared_once_and_again_when_a_file_changes(
  tmp_path, data_dir
):
  lines = three()
  name = write(tmp_path, lines)
  pairs = prepare(name)
  stamp = (pairs.path / 'pairs.json').stat().st_mtime_ns
  again = prepare(name)
  assert again.path == pairs.path == pickle.loads(pickle.dumps(pairs)).path
  assert (again.path / 'pairs.json').stat().st_mtime_ns == stamp
  lines['test'][0] = ('a b', 'a c')
  assert prepare(write(tmp_path, lines)).sha256 != pairs.sha256
  left = [p.name for p in (data_dir / 'translation').iterdir()]
  assert not [name for name in left if '.new-' in name]


def test_packed_files_are_read_alike(tmp_path):
  lines = three()
  plain, packed = (write(tmp_path, lines, end) for end in ('', '.gz'))
  assert prepare(plain).sha256 == prepare(packed).sha256


def test_pairs_with_an_empty_side_are_left_out(tmp_path):
  lines = three()
  kept = list(lines['train'])
  lines['train'][5:5] = [('', 'a'), ('b', '  '), ('', '')]
  pairs = prepare(write(tmp_path, lines))
  everything = np.arange(len(kept))
  found = [pairs.texts('train', side, everything) for side in translation.SIDES]
  assert list(zip(*found)) == kept
  assert len(pairs.side('train', 'source').offsets) == len(kept) + 1


def test_a_file_that_is_not_there_is_named_with_its_folder(tmp_path):
  name = write(tmp_path, three())
  (tmp_path / 'test' / 'text.y').unlink()
  with pytest.raises(InputError, match=r'no file .*test/text\.y: .* folders'):
    prepare(name)


@pytest.mark.parametrize('name', ['aligned:one', 'aligned:a,b,c', 'aligned:a,'])
def test_a_name_without_two_files_is_named(name):
  with pytest.raises(InputError, match='does not name two files'):
    prepare(name)


def test_what_cannot_be_asked_for_is_named(tmp_path):
  name = write(tmp_path, three())
  with pytest.raises(InputError, match='vocab_size=258 is too small: 256 byte'):
    prepare(name, vocab_size=258)
  assert prepare(name, vocab_size=SMALLEST).vocab_size == SMALLEST
  with pytest.raises(InputError, match='both "de": name two languages'):
    prepare(name, source='de', target='de')


def test_sentences_of_the_language_reference_come_in_reverse():
  pairs = prepare('pydoc', vocab_size=300)
  for split in ('train', 'validation', 'test'):
    some = np.arange(20)
    forth, back = (pairs.texts(split, x, some) for x in ('source', 'target'))
    assert back == [' '.join(text.split()[::-1]) for text in forth]


def test_sets_of_tfds_are_read_by_language(tmp_path):
  names = {
    **dict.fromkeys(('xx', 'yy', 'zz'), features.Text()),
    'n': features.Scalar(dtype=np.int32),
  }
  rows = [
    {'xx': f'où {i}', 'yy': '' if i == 1 else f'wo {i}', 'zz': '', 'n': i}
    for i in range(10)
  ]
  splits = {'train': rows[:5], 'validation': rows, 'test': rows[:4]}
  tfds_sets.write(tmp_path / 'tfds', 'small', names, splits)
  tfds_sets.write(tmp_path / 'tfds', 'untested', names, {'train': rows})
  pairs = prepare('small')
  assert pairs.texts('test', 'target', np.arange(3)) == ['wo 0', 'wo 2', 'wo 3']
  assert pairs.texts('test', 'source', np.arange(2)) == ['où 0', 'où 2']
  with pytest.raises(
    InputError, match='no language "de"; its features are n, x'
  ):
    prepare('small', source='de')
  with pytest.raises(
    InputError, match='small has no pair in train with a text'
  ):
    prepare('small', target='zz')
  with pytest.raises(InputError, match='has no text in "xx" and "n"'):
    prepare('small', target='n')
  with pytest.raises(InputError, match='lacks validation, test'):
    prepare('untested')


LENGTHS, ROWS = (12, 24, 80), (9, 5, 2)


def source_of(pairs, split='train', **options):
  return TranslationSource(
    pairs, split, **{'lengths': LENGTHS, 'rows': ROWS, **options}
  )


@pytest.fixture(scope='module')
def pairs(tmp_path_factory):
  root = tmp_path_factory.mktemp('pairs')
  patch = pytest.MonkeyPatch()
  patch.setenv('JAXLAB_DATA_DIR', str(root))
  lines = three(words=30)
  lines['train'][7] = (' '.join('abcdefgh' * 12), 'a')  # too long for 80
  lines['test'][3] = ('a', ' '.join('abcdefgh' * 12))
  yield prepare(write(root, lines))
  patch.undo()


def whole(source, steps):
  return [(source.kind(t), source.batch(t, slice(None))) for t in steps]


def test_an_epoch_has_every_pair_once_in_its_shape(pairs):
  source = source_of(pairs)
  assert isinstance(source, Source)
  counts = [0, 0, 0]
  ids = []
  for kind, batch in whole(source, range(source.num_batches)):
    spec = source.spec[kind]
    length = spec['source'].shape[1]
    which = LENGTHS.index(length)
    assert kind == f'train_{length}'
    counts[which] += 1
    assert 0 < len(batch['id']) <= ROWS[which] == spec['id'].shape[0]
    longest = np.zeros(len(batch['id']), int)
    for side in translation.SIDES:
      tokens = batch[side]
      assert tokens.dtype == spec[side].dtype == np.int32
      assert tokens.shape == (len(batch['id']), length)
      sizes = (tokens != PAD).sum(1)
      assert (tokens[np.arange(len(sizes)), sizes - 1] == EOS).all()
      assert ((tokens == EOS).sum(1) == 1).all()
      assert [pairs.text(row) for row in tokens] == pairs.texts(
        'train', side, batch['id']
      )
      longest = np.maximum(longest, sizes)
    # Its shortest shape.
    assert longest.max() <= length
    assert which == 0 or longest.min() > LENGTHS[which - 1]
    ids += batch['id'].tolist()
  assert min(counts) > 1
  assert sorted(ids) == sorted({*range(200)} - {7})
  assert source.too_long == 1


def test_batches_follow_from_seed_and_step_alone(pairs):
  steps = range(0, 100, 9)
  first, again = (whole(source_of(pairs, seed=3), steps) for _ in range(2))
  moved = pickle.loads(pickle.dumps(source_of(pairs, seed=3)))
  backwards = whole(moved, reversed(steps))[::-1]
  for one, two, three in zip(first, again, backwards):
    assert one[0] == two[0] == three[0]
    for name in ('source', 'target', 'id'):
      np.testing.assert_array_equal(one[1][name], two[1][name])
      np.testing.assert_array_equal(one[1][name], three[1][name])
  other = whole(source_of(pairs, seed=4), steps)
  assert [k for k, _ in other] != [k for k, _ in first]


def test_epochs_have_orders_of_their_own(pairs):
  source = source_of(pairs)
  n = source.num_batches
  epochs = [whole(source, range(e * n, (e + 1) * n)) for e in range(2)]
  assert sorted(k for k, _ in epochs[0]) == sorted(k for k, _ in epochs[1])
  flat = [[i for _, b in e for i in b['id'].tolist()] for e in epochs]
  assert sorted(flat[0]) == sorted(flat[1]) and flat[0] != flat[1]


def test_the_rows_of_hosts_put_together_are_the_batch(pairs):
  source = source_of(pairs)
  for step in range(source.num_batches):
    batch = source.batch(step, slice(None))
    rows = source.spec[source.kind(step)]['id'].shape[0]
    parts = [source.batch(step, slice(a, a + 2)) for a in range(0, rows, 2)]
    for name, array in batch.items():
      joined = np.concatenate([part[name] for part in parts])
      np.testing.assert_array_equal(joined, array)


def test_held_out_pairs_come_once_in_order_and_long_ones_are_cut(pairs):
  source = source_of(pairs, 'test', held_out=True)
  found = whole(source, range(source.num_batches))
  lengths = [batch['source'].shape[1] for _, batch in found]
  assert lengths == sorted(lengths)
  ids = [i for _, batch in found for i in batch['id'].tolist()]
  assert sorted(ids) == list(range(15))
  assert source.too_long == 1
  cut = next(b for _, b in found if 3 in b['id'])
  row = cut['target'][cut['id'].tolist().index(3)]
  assert len(row) == 80 and row[-1] == EOS and row[-2] >= FIRST


def test_a_sample_of_the_held_out_pairs_has_numbers_of_its_own(pairs):
  source = source_of(pairs, 'test', held_out=True, examples=6)
  found = whole(source, range(source.num_batches))
  assert len(set(source.chosen.tolist())) == 6
  assert (
    source.chosen.tolist()
    == source_of(
      pairs, 'test', held_out=True, examples=6, seed=5
    ).chosen.tolist()
  )
  ids = [i for _, batch in found for i in batch['id'].tolist()]
  assert sorted(ids) == list(range(6))
  texts = pairs.texts('test', 'source', source.chosen)
  for _, batch in found:
    for i, row in zip(batch['id'], batch['source']):
      assert texts[i].startswith(pairs.text(row))
  all_of_them = source_of(pairs, 'test', held_out=True, examples=99)
  assert len(all_of_them.chosen) == 15


def test_rows_of_a_number_of_tokens():
  assert translation_batches.rows_of_tokens((8, 16, 50), 256, 4) == (32, 16, 4)
  with pytest.raises(InputError, match='256 tokens does not hold 8 rows'):
    translation_batches.rows_of_tokens((8, 16, 50), 256, 8)


@pytest.mark.parametrize('lengths', [(), (1, 4), (8, 4), (8, 8)])
def test_lengths_that_cannot_be_are_named(pairs, lengths):
  with pytest.raises(InputError, match='must be increasing numbers'):
    source_of(pairs, lengths=lengths, rows=(1,) * len(lengths))


def test_other_arguments_of_batches_that_cannot_be_are_named(pairs):
  with pytest.raises(InputError, match=r'rows \[1\] are not one number >= 1'):
    source_of(pairs, rows=(1,))


def test_a_split_of_long_pairs_alone_is_named(tmp_path):
  pairs = prepare(write(tmp_path, {**three(), 'train': [('a b', 'c d')] * 4}))
  with pytest.raises(InputError, match=r'all 4 pairs .* longer than 2 tokens'):
    source_of(pairs, lengths=(2,), rows=(1,))
