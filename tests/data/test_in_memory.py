"""ArraySource and the order of examples that every indexed source has."""

import pickle

import jax
import numpy as np
import pytest

from jaxlab.core.errors import InputError
from jaxlab.core.source import Source
from jaxlab.data.in_memory import ArraySource, Order, permutation
from jaxlab.engine import mesh
from jaxlab.engine.feed import Feed

N = 23


def arrays(n=N):
  """Rows that carry their own number."""
  number = np.arange(n)
  image = np.broadcast_to(number[:, None, None, None], (n, 4, 5, 3))
  return {
    'image': image.astype(np.uint8),
    'label': (number % 7).astype(np.int32),
    'weight': (number / 8).astype(np.float32),
  }


def stream(source, steps, size):
  """Ids of `steps` whole batches, one after the other."""
  batches = [source.batch(step, slice(0, size))['id'] for step in range(steps)]
  return np.concatenate(batches)


def test_a_batch_holds_the_rows_that_its_ids_name():
  source = ArraySource(arrays(), batch_size=8, seed=1)
  assert isinstance(source, Source)
  known = arrays()
  for step in range(7):
    batch = source.batch(step, slice(0, 8))
    assert set(batch) == {'image', 'label', 'weight', 'id'}
    assert set(source.spec['train']) == set(batch)
    for name, spec in source.spec['train'].items():
      assert batch[name].dtype == spec.dtype
      assert batch[name].shape == spec.shape
      if name != 'id':
        np.testing.assert_array_equal(batch[name], known[name][batch['id']])


def test_epochs_follow_without_a_gap_and_each_in_its_own_order():
  ids = stream(ArraySource(arrays(), batch_size=8, seed=1), 23, 8)
  epochs = ids[: 8 * N].reshape(8, N)
  for epoch in epochs:
    np.testing.assert_array_equal(np.sort(epoch), np.arange(N))
  assert len({tuple(epoch) for epoch in epochs}) == 8
  other = stream(ArraySource(arrays(), batch_size=8, seed=2), 23, 8)
  assert not np.array_equal(ids, other)


def test_a_batch_depends_on_its_step_alone_and_is_cut_by_rows():
  fresh = lambda: ArraySource(arrays(), batch_size=8, seed=1)
  walked = fresh()
  expected = [walked.batch(step, slice(0, 8)) for step in range(12)]
  for step in (11, 0, 7, 5, 11):
    jumped = fresh()
    for rows in (slice(0, 8), slice(0, 3), slice(3, 8), slice(5, 5)):
      batch = jumped.batch(step, rows)
      for name, array in batch.items():
        np.testing.assert_array_equal(array, expected[step][name][rows])


def test_a_batch_larger_than_the_set_goes_round_it():
  ids = ArraySource(arrays(5), batch_size=12).batch(1, slice(0, 12))['id']
  # Rows 12 to 23 of the stream: epoch 2's last three, epoch 3, epoch 4's first.
  np.testing.assert_array_equal(np.sort(ids[3:8]), np.arange(5))
  assert len(set(ids[:3])) == 3 and len(set(ids[8:])) == 4
  short = ArraySource(arrays(5), batch_size=12, repeat=False)
  assert (short.num_batches, short.num_examples) == (1, 5)
  assert len(short.batch(0, slice(0, 12))['id']) == 5


@pytest.mark.parametrize('shuffle', [False, True])
def test_a_finite_source_gives_each_example_once_and_is_padded(shuffle):
  source = ArraySource(
    arrays(), batch_size=8, repeat=False, shuffle=shuffle, kind='test'
  )
  assert (source.num_batches, source.num_examples) == (3, N)
  assert source.kind(1) == 'test' and set(source.spec) == {'test'}
  feed = Feed(source, mesh.make(), steps=source.num_batches)
  ids, masks = [], []
  for _, kind, batch in feed.batches(0, feed.steps):
    assert kind == 'test'
    ids.append(batch['id'])
    masks.append(batch['mask'])
  ids, masks = np.concatenate(ids), np.concatenate(masks)
  np.testing.assert_array_equal(masks, np.arange(24) < N)
  np.testing.assert_array_equal(np.sort(ids[masks]), np.arange(N))
  assert (ids[masks] == np.arange(N)).all() == (not shuffle)
  assert source.batch(3, slice(0, 8))['image'].shape == (0, 4, 5, 3)


def test_permutations_are_permutations_and_uniform():
  for count in (1, 2, 3, 1000, 1025):
    order = permutation(count, seed=5, epoch=1)
    assert order.dtype == np.int64
    np.testing.assert_array_equal(np.sort(order), np.arange(count))
  seen = np.array([permutation(4, seed=5, epoch=e) for e in range(6000)])
  counts = np.unique(seen @ [64, 16, 4, 1], return_counts=True)[1]
  # Chi-squared with 23 degrees of freedom: 58 has a probability of 8e-5.
  assert len(counts) == 24
  assert ((counts - 250.0) ** 2 / 250).sum() < 58
  first = permutation(100_000, seed=0, epoch=0)
  # A random order's correlation with the set's: 0 ± 1 / sqrt(n) = 0.003.
  assert abs(np.corrcoef(first, np.arange(100_000))[0, 1]) < 0.0127


def test_one_and_eight_devices_and_workers_get_the_same_batches(tmp_path):
  np.save(tmp_path / 'image.npy', arrays()['image'])
  image = np.load(tmp_path / 'image.npy', mmap_mode='r')
  source = ArraySource(arrays() | {'image': image}, batch_size=8, seed=3)
  found = []
  for count, workers in ((1, 0), (8, 0), (8, 1)):
    feed = Feed(
      source, mesh.make(devices=jax.devices()[:count]), workers=workers
    )
    found.append([jax.device_get(b) for _, _, b in feed.batches(2, 6)])
  for other in found[1:]:
    jax.tree.map(np.testing.assert_array_equal, other, found[0])


def test_memmaps_are_pickled_by_path_and_others_by_content(tmp_path):
  path = tmp_path / 'image.npy'
  np.save(path, np.arange(3_000_000, dtype=np.uint32).reshape(1000, -1))
  whole = np.load(path, mmap_mode='r')
  held = np.arange(990, dtype=np.int32)
  source = ArraySource({'image': whole[10:], 'label': held}, batch_size=16)
  text = pickle.dumps(source)
  assert len(text) < 10_000
  again = pickle.loads(text)
  for name, array in again.batch(3, slice(0, 16)).items():
    np.testing.assert_array_equal(array, source.batch(3, slice(0, 16))[name])
  # What is not the file's content must not be read from it.
  changed = np.load(path, mmap_mode='c')
  changed[0, 0] = 77
  again = pickle.loads(pickle.dumps(ArraySource({'x': changed}, batch_size=1)))
  assert again.arrays['x'][0, 0] == 77
  columns = ArraySource({'x': whole[:, ::2]}, batch_size=4)
  again = pickle.loads(pickle.dumps(columns))
  np.testing.assert_array_equal(again.arrays['x'], whole[:, ::2])
  path.unlink()
  with pytest.raises(InputError, match=r'image\.npy cannot be mapped again'):
    pickle.loads(text)


def test_the_batch_is_the_callers_own():
  known = arrays()
  source = ArraySource(known, batch_size=8, shuffle=False)
  source.batch(0, slice(0, 8))['image'][:] = 99
  assert known['image'].max() == N - 1


@pytest.mark.parametrize(
  'change, message',
  [
    ({'id': np.arange(N, dtype=np.int32)}, '"id" is made by the source'),
    ({'label': np.arange(N)}, r'"label" is int64.*astype\(np.int32\)'),
    ({'label': np.arange(N).astype('>i4')}, '"label" is >i4'),
    ({'label': np.array(['a'] * N)}, '"label" is <U1'),
    ({'label': np.int32(3)}, '"label" has no axis'),
    ({'label': np.zeros(22, np.int32)}, r"different.*'label': 22.*each row"),
    ({'weight': np.full(N, np.nan, np.float32)}, '"weight".*NaN.*example 0'),
    ({'mask': np.ones(N, np.int8)}, r'"mask" is int8\[23\].*bool \[n\]'),
  ],
)
def test_arrays_that_cannot_be_fed_are_an_input_error(change, message):
  with pytest.raises(InputError, match=message):
    ArraySource(arrays() | change, batch_size=8)


def test_a_number_that_is_not_finite_is_named_by_its_example(monkeypatch):
  monkeypatch.setattr('jaxlab.data.in_memory._BLOCK', 64)
  rows = np.zeros((N, 3), np.float32)
  rows[17, 1] = -np.inf
  with pytest.raises(InputError, match=r'array "x" has a NaN.*example 17'):
    ArraySource({'x': rows}, batch_size=8)


@pytest.mark.parametrize(
  'options, message',
  [
    ({'batch_size': 0}, r'batch_size is 0, and must be in \[1, inf\]'),
    ({'seed': -1}, 'seed is -1'),
  ],
)
def test_arguments_out_of_range_are_an_input_error(options, message):
  with pytest.raises(InputError, match=message):
    ArraySource(arrays(), **{'batch_size': 8} | options)


def test_no_arrays_and_no_examples_are_an_input_error():
  with pytest.raises(InputError, match='arrays is empty'):
    ArraySource({}, batch_size=8)
  with pytest.raises(InputError, match='the number of examples is 0'):
    ArraySource(arrays(0), batch_size=8)


def test_no_more_than_two_epochs_orders_are_kept():
  order = Order(10, batch_size=10)
  for step in range(6):
    order.indices(step, slice(0, 10))
  assert order._epoch.cache_info().currsize == 2
  with pytest.raises(ValueError, match='read-only'):
    order.indices(5, slice(0, 10))[0] = 0
