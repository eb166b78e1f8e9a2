"""Feed: the same batches whoever prepares them, on however many devices."""

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path

import chex
import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from jaxlab.core.errors import InputError, WorkerLostError
from jaxlab.core.source import ArraySpec, Source
from jaxlab.engine import mesh
from jaxlab.engine.feed import Feed, held_out
from tests import runs
from tests.engine import toys


def _devices(count=1, axes=None):
  return mesh.make(axes, jax.devices()[:count])


def _hashes(batches):
  """(step, kind, SHA-256 of the names and bytes) of each batch."""
  result = []
  for step, kind, batch in batches:
    digest = hashlib.sha256()
    for name in sorted(batch):
      array = np.asarray(batch[name])
      digest.update(f'{name}{array.dtype}{array.shape}'.encode())
      digest.update(array.tobytes())
    result.append((step, kind, digest.hexdigest()))
  return result


class Finite:
  """Twenty rows in batches of eight."""

  def __init__(self):
    self.spec = {'train': {'x': ArraySpec((8, 2), np.float32)}}

  def kind(self, step):
    return 'train'

  def batch(self, step, rows):
    ids = np.arange(8 * step + rows.start, min(8 * step + rows.stop, 20))
    return {'x': np.stack([ids, ids], 1).astype(np.float32) + 1}


class Broken(Finite):
  """Fails at batch 2, in a function with a name of its own."""

  def batch(self, step, rows):
    return look_up_a_lost_row(step) if step == 2 else super().batch(step, rows)


def look_up_a_lost_row(step):
  return {}[f'row of step {step}']


class Murdered(Finite):
  """Its worker is killed at batch 2."""

  def batch(self, step, rows):
    if step == 2:
      os.kill(os.getpid(), signal.SIGKILL)
    return super().batch(step, rows)


class Slow(Finite):
  def batch(self, step, rows):
    time.sleep(0.1)
    return super().batch(0, rows)


class Publisher(Finite):
  """Adds the snapshot to its rows; asks for a new one after batches 2 and 5."""

  def __init__(self):
    super().__init__()
    self.asked = []
    self.offset = np.zeros(())

  def publishes(self, step):
    return step % 3 == 2

  def publish(self, snapshot):
    self.offset = snapshot['offset']

  def batch(self, step, rows):
    self.asked.append(step)
    ids = np.arange(rows.start, rows.stop)
    return {'x': (np.stack([ids, ids], 1) + self.offset).astype(np.float32)}


class Ragged(Finite):
  def batch(self, step, rows):
    return {**super().batch(step, rows), 'y': np.zeros(3)}


def test_toy_sources_are_sources():
  assert isinstance(Finite(), Source)
  assert isinstance(toys.Rows(), Source)


def test_neither_workers_nor_ahead_change_order_or_content():
  def hashes(start=0, **options):
    feed = Feed(toys.Rows(rows=16, every=3), _devices(), **options)
    return _hashes(feed.batches(start, 9))

  expected = hashes(ahead=1)
  assert [(step, kind) for step, kind, _ in expected] == [
    (step, 'large' if step % 3 == 0 else 'train') for step in range(9)
  ]
  assert len({print_of for _, _, print_of in expected}) == 9
  assert hashes(ahead=4) == expected
  assert hashes(ahead=100) == expected
  assert hashes(workers=2, ahead=4) == expected
  assert hashes(start=5) == expected[5:]


def test_one_and_eight_devices_get_the_same_batches_in_shares():
  one = Feed(toys.Rows(), _devices(1))
  eight = Feed(toys.Rows(), _devices(8))
  grid = Feed(toys.Rows(), _devices(8, {'slice': 2, 'data': 4}))
  half = Feed(toys.Rows(), _devices(8, {'data': 4, 'model': 2}))
  expected = _hashes(one.batches(0, 3))
  for feed, share in ((eight, 8), (grid, 8), (half, 16)):
    assert _hashes(feed.batches(0, 3)) == expected
    [(_, _, batch)] = feed.batches(0, 1)
    shards = batch['x'].addressable_shards
    assert {part.data.shape for part in shards} == {(share, toys.WIDTH)}
    assert len(shards) == 8
  # The axis 'model' holds the same rows.
  assert batch['x'].sharding.spec == PartitionSpec('data')


def test_the_host_batch_is_the_global_batch():
  feed = Feed(toys.Rows(hide=2), _devices(8))
  [(_, _, batch)] = feed.batches(4, 5)
  chex.assert_trees_all_equal(feed.host_batch(4), jax.device_get(batch))


def test_the_end_of_a_finite_source_is_padded_and_masked():
  feed = Feed(Finite(), _devices(8), steps=3)
  batches = [batch for _, _, batch in feed.batches(0, feed.steps)]
  masks = np.stack([batch['mask'] for batch in batches])
  assert masks.dtype == bool
  assert masks.sum(1).tolist() == [8, 8, 4]
  rows = np.concatenate([batch['x'] for batch in batches])
  np.testing.assert_array_equal(rows[:20, 0], np.arange(20) + 1)
  assert (rows[20:] == 0).all()
  assert not masks[2, 4:].any()


def test_a_mask_of_the_sources_own_is_kept():
  feed = Feed(toys.Rows(hide=1), _devices())
  [(_, _, batch)] = feed.batches(0, 1)
  np.testing.assert_array_equal(batch['mask'], np.arange(64) % 4 != 1)


def test_rows_that_do_not_divide_by_the_devices_are_an_input_error():
  with pytest.raises(InputError) as caught:
    Feed(toys.Rows(rows=12), _devices(8))
  assert str(caught.value) == (
    'batch of 12 rows ("x" of step kind "train") does not divide by the 8 '
    "devices of mesh axes ('data',); take a multiple of 8"
  )
  assert Feed(toys.Rows(rows=12), _devices(4)).steps is None


@pytest.mark.parametrize('workers', [0, 1])
def test_arrays_of_different_length_are_an_input_error(workers):
  with pytest.raises(InputError, match='"y" has 3 rows, others have 8'):
    list(Feed(Ragged(), _devices(), workers=workers).batches(0, 1))


@pytest.mark.parametrize('workers', [0, 2])
def test_an_exception_in_the_source_surfaces_where_it_was_raised(workers):
  feed = Feed(Broken(), _devices(), workers=workers)
  seen = []
  with pytest.raises(KeyError, match='row of step 2') as caught:
    for step, _, _ in feed.batches(0, 4):
      seen.append(step)
  assert seen == [0, 1]
  printed = ''.join(traceback.format_exception(caught.value))
  assert 'in look_up_a_lost_row' in printed
  assert 'row of step {step}' in printed  # its line of code


def test_workers_outlive_ctrl_c_but_not_their_parent():
  code = """if True:
    from jaxlab.engine.feed import Feed, held_out
    from jaxlab.engine import mesh, preemption
    from tests.engine.test_feed import Slow
    feed = Feed(Slow(), mesh.make(), workers=2, ahead=2)
    with preemption.handled(), preemption.deferred():
      for step, _, _ in feed.batches(0, 1000):
        if step == 0:
          print('begun', flush=True)
          while not preemption.asked():
            pass
        if step == 6:
          print('went on', flush=True)
          input()
  """
  process = subprocess.Popen(
    [sys.executable, '-c', code],
    cwd=Path(__file__).parents[2],
    env=runs.one_device(),
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
    start_new_session=True,
  )
  with process:
    try:
      assert process.stdout.readline() == 'begun\n'
      os.killpg(process.pid, signal.SIGINT)  # as a terminal does
      assert process.stdout.readline() == 'went on\n'
      process.kill()
      # The pipe ends when the last process that holds it is gone.
      assert process.communicate(timeout=30)[0] == ''
    finally:
      process.kill()


@pytest.mark.parametrize('slow', [False, True])
def test_a_killed_worker_is_an_error_that_names_itself(slow):
  feed = Feed(Murdered(), _devices(), workers=2, ahead=4)
  seen = []
  with pytest.raises(WorkerLostError, match='a data worker died while batches'):
    for step, _, _ in feed.batches(0, 20):
      seen.append(step)
      if slow and step == 0:
        time.sleep(0.5)  # the worker dies meanwhile
  assert seen in ([], [0], [0, 1])


def test_nothing_is_prepared_past_a_publishing_step():
  feed = Feed(Publisher(), _devices(), ahead=4)
  assert feed.learns
  assert not Feed(Finite(), _devices()).learns
  assert [feed.publishes(step) for step in range(4)] == [
    False,
    False,
    True,
    False,
  ]
  offsets, asked = [], []
  for step, _, batch in feed.batches(0, 8):
    offsets.append(float(batch['x'][0, 0]))
    if feed.publishes(step):
      asked.append(max(feed.source.asked))
      feed.publish({'offset': np.float32(10 * step)})
  assert asked == [2, 5]
  assert offsets == [0, 0, 0, 20, 20, 20, 50, 50]


def test_snapshots_reach_spawned_workers():
  feed = Feed(Publisher(), _devices(), workers=2, ahead=4)
  feed.publish({'offset': np.float32(7)})
  offsets = []
  for step, _, batch in feed.batches(0, 8):
    offsets.append(float(batch['x'][0, 0]))
    if feed.publishes(step):
      feed.publish({'offset': np.float32(10 * step)})
  assert offsets == [7, 7, 7, 20, 20, 20, 50, 50]
  # What the loop asks for to name the rows of a bad step.
  assert feed.host_batch(7)['x'][0, 0] == 50
  # New workers, as after an evaluation or a restart, know the last one.
  [(_, _, batch)] = feed.batches(8, 9)
  assert batch['x'][0, 0] == 50


def test_leaving_early_stops_the_preparation():
  before = threading.active_count()
  batches = Feed(toys.Rows(), _devices(), ahead=4).batches(0, 1000)
  next(batches)
  batches.close()
  assert threading.active_count() == before


class TwoBatches(toys.Rows):
  """Two batches."""

  num_batches = 2


def test_a_held_out_feed_has_rows_that_its_devices_can_share():
  seen = []

  def source(rows):
    seen.append(rows)
    return TwoBatches(rows)

  feed = held_out(source, _devices(8, {'data': 4, 'model': 2}), 10)
  assert seen == [12] and feed.steps == 2
  assert len([*feed.batches(0, feed.steps)]) == 2
