"""Feed: from a Source's rows to global arrays on the mesh, ahead of the device.

Each host asks the source for the rows of its own devices alone. Batches are
prepared by threads, or by spawned processes, in any order and handed out in
order.
"""

import contextlib
import os
import signal
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool, ProcessPoolExecutor
from multiprocessing import get_context, parent_process
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxlab.core.errors import InputError, Preempted, WorkerLostError
from jaxlab.core.source import Finite, Source
from jaxlab.engine import hosts, preemption
from jaxlab.engine import mesh as meshes

_LOOK = 0.5  # seconds between two looks at signals, while a batch is awaited
_PATIENCE = 5.0  # seconds that a batch may still take after a signal


class Feed:
  """Batches of a source as sharded global arrays, prefetched.

  Every batch has a `mask` [rows] bool: the source's own, or True; rows that
  the source did not give (the end of a finite set) are zero and False.

  Args:
    source: where batches come from.
    mesh: the mesh; rows are split over its `mesh.row_axes`.
    workers: spawned processes that call `source.batch`; 0 means one thread.
    ahead: how many batches are prepared ahead.
    steps: number of batches of a finite source, for evaluation.

  Raises:
    InputError: a batch that does not divide by the devices.
  """

  def __init__(
    self,
    source: Source,
    mesh: Mesh,
    *,
    workers: int = 0,
    ahead: int = 4,
    steps: int | None = None,
  ):
    self.source = source
    self.mesh = mesh
    self.steps = steps
    self._workers = workers
    self._ahead = max(1, ahead)
    axes, ways = meshes.row_axes(mesh), meshes.row_ways(mesh)
    self._sharding = NamedSharding(mesh, PartitionSpec(axes))
    self._snapshot = _Snapshot()
    for kind, spec in source.spec.items():
      for name, array in spec.items():
        if array.shape[0] % ways:
          raise InputError(
            f'batch of {array.shape[0]} rows ("{name}" of step kind "{kind}") '
            f'does not divide by the {ways} devices of mesh axes {axes}; '
            f'take a multiple of {ways}'
          )

  def publishes(self, step: int) -> bool:
    """Whether the loop must `publish` after the update from batch `step`."""
    asks = getattr(self.source, 'publishes', None)
    return bool(asks and asks(step))

  @property
  def learns(self) -> bool:
    """Whether the source takes snapshots at all."""
    return hasattr(self.source, 'publish')

  def publish(self, snapshot: Mapping[str, np.ndarray]) -> None:
    """Hands the source `vars['sampler']['published']`, host arrays."""
    self.source.publish(snapshot)  # type: ignore[attr-defined]
    if self._workers:
      self._snapshot.write(snapshot)

  def host_batch(self, step: int) -> dict[str, np.ndarray]:
    """The rows of batch `step` on this host, padded, with their mask.

    Rows without an `id` of their own get their number in the global batch.
    """
    runs = self._runs(self.source.kind(step))
    batch = _read(self.source, step, runs)
    numbers = [np.arange(run.start, run.stop) for run in runs]
    return {'id': np.concatenate(numbers), **batch}

  def batches(
    self, start: int, stop: int
  ) -> Iterator[tuple[int, str, dict[str, jax.Array]]]:
    """Yields (step, kind, global batch) for start <= step < stop, in order.

    After a step that publishes, nothing is prepared until the caller has
    published and asks for the next: the queue is drained there.
    """
    queue: deque[tuple[int, str, Future]] = deque()
    submitted, barrier = start, False
    with _executor(self._workers, self.source) as executor:
      try:
        while submitted < stop or queue:
          if not queue:
            barrier = False
          while submitted < stop and len(queue) < self._ahead and not barrier:
            kind = self.source.kind(submitted)
            queue.append((submitted, kind, self._submit(executor, submitted)))
            barrier = self.publishes(submitted)
            submitted += 1
          step, kind, future = queue.popleft()
          yield step, kind, self._result(kind, future)
      except BrokenProcessPool as error:
        raise WorkerLostError(
          f'a data worker died while batches up to step {submitted} were '
          'prepared (killed for memory?); run the same command again, with '
          'fewer data.workers if memory was short'
        ) from error
      finally:
        for _, _, future in queue:
          future.cancel()
        self._snapshot.close()

  def _rows(self, kind: str) -> int:
    return next(iter(self.source.spec[kind].values())).shape[0]

  def _submit(self, executor: Executor, step: int) -> Future:
    kind = self.source.kind(step)
    runs = self._runs(kind)
    if self._workers:
      with _uninterrupted():  # a submission may start a worker
        return executor.submit(_work, step, runs, *self._snapshot.current)
    return executor.submit(self._place, kind, step, runs)

  def _runs(self, kind: str) -> list[slice]:
    return _local_runs(self._sharding, self._rows(kind))

  def _place(self, kind, step, runs):
    return self._globalise(kind, runs, _read(self.source, step, runs))

  def _result(self, kind, future):
    result = _awaited(future)
    if self._workers:
      return self._globalise(kind, self._runs(kind), result)
    return result

  def _globalise(self, kind, runs, local):
    total = self._rows(kind)
    offsets = _offsets(runs)

    def place(array):
      def part(index):
        start = index[0].start or 0
        stop = total if index[0].stop is None else index[0].stop
        # The run that holds it: the last one that begins before it.
        run, offset = max(
          (pair for pair in offsets if pair[0].start <= start),
          key=lambda pair: pair[0].start,
        )
        begin = offset + start - run.start
        return array[begin : begin + stop - start]

      shape = (total, *array.shape[1:])
      return jax.make_array_from_callback(shape, self._sharding, part)

    return {name: place(array) for name, array in local.items()}


def held_out(
  source: Callable[[int], Finite],
  devices: Mesh,
  rows: int,
  *,
  workers: int = 0,
) -> Feed:
  """The finite feed of a held-out set.

  Args:
    source: number of rows of a batch -> the source.
    rows: of a batch; rounded up to what the devices can share.
  """
  found = source(meshes.round_rows(devices, rows))
  return Feed(found, devices, workers=workers, steps=found.num_batches)


def _awaited(future: Future):
  """The result of a future; or, a while after a signal, no longer.

  Several processes have to stop at one step, so that there it waits on.

  Raises:
    Preempted: a signal has arrived, and no batch will.
  """
  after = 0.0
  while True:
    try:
      return future.result(timeout=_LOOK)
    except TimeoutError:
      if future.done():
        raise
      if preemption.asked() and hosts.count() == 1:
        after += _LOOK
        if after > _PATIENCE:
          raise Preempted('no batch arrives') from None


class _Snapshot:
  """The published snapshot as a file that workers read when it is new."""

  def __init__(self):
    self.current: tuple[int, str] = (0, '')
    self._folder: tempfile.TemporaryDirectory | None = None

  def write(self, snapshot):
    if self._folder is None:
      self._folder = tempfile.TemporaryDirectory(prefix='jaxlab-snapshot-')
    version, old = self.current
    path = Path(self._folder.name) / f'{version + 1}.npz'
    arrays = {k: np.asarray(v) for k, v in snapshot.items()}
    np.savez(path, **arrays)  # type: ignore[arg-type]
    self.current = (version + 1, str(path))
    if old:
      os.unlink(old)

  def close(self):
    if self._folder is not None:
      self._folder.cleanup()
    self._folder, self.current = None, (0, '')


def _local_runs(sharding: NamedSharding, rows: int) -> list[slice]:
  """The rows of this host's devices, as few slices as they make.

  One slice where a host's devices are neighbours on the mesh. On a torus they
  often are not, and where a 'model' axis spans hosts several hold the same.
  """
  bounds = {
    (index[0].start or 0, rows if index[0].stop is None else index[0].stop)
    for index in sharding.addressable_devices_indices_map((rows,)).values()
    if index is not None
  }
  runs: list[slice] = []
  for start, stop in sorted(bounds):
    if runs and runs[-1].stop == start:
      runs[-1] = slice(runs[-1].start, stop)
    else:
      runs.append(slice(start, stop))
  return runs


def _offsets(runs: list[slice]) -> list[tuple[slice, int]]:
  """Each run with the place of its first row among the host's rows."""
  offsets, offset = [], 0
  for run in runs:
    offsets.append((run, offset))
    offset += run.stop - run.start
  return offsets


def _read(source: Source, step: int, runs: list[slice]):
  """The rows of all runs of batch `step`, padded, with their mask."""
  parts = [_padded(source.batch(step, run), run) for run in runs]
  if len(parts) == 1:
    return parts[0]
  return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}


def _padded(batch, rows: slice) -> dict[str, np.ndarray]:
  """Rows up to the slice's length, zero and masked where the source ended."""
  want = rows.stop - rows.start
  have = len(next(iter(batch.values())))
  mask = batch.get('mask', np.ones(have, bool))
  padded = {}
  for name, array in {**batch, 'mask': mask}.items():
    if len(array) != have:
      raise InputError(
        f'batch array "{name}" has {len(array)} rows, others have {have}'
      )
    if have < want:
      fill = np.zeros((want - have, *array.shape[1:]), array.dtype)
      array = np.concatenate([array, fill])
    padded[name] = array
  return padded


_source: Source  # of a worker process
_version = 0


def _start_worker(source: Source) -> None:
  global _source
  _source = source
  # Ctrl-C goes to the whole group; the loop, which saves first, needs its
  # workers until it closes them.
  os.setsid()
  threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
  parent = parent_process()
  if parent is not None:
    parent.join()
    os._exit(1)  # no one is left to tell


def _work(step: int, runs: list[slice], version: int, path: str):
  global _version
  if version != _version:
    with np.load(path, allow_pickle=False) as arrays:
      _source.publish(dict(arrays))  # type: ignore[attr-defined]
    _version = version
  return _read(_source, step, runs)


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
  """Ctrl-C waits until after; processes started within never get it.

  Until `_start_worker` has run they belong to the group that a terminal
  interrupts.
  """
  old = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
  try:
    yield
  finally:
    signal.pthread_sigmask(signal.SIG_SETMASK, old)


@contextlib.contextmanager
def _executor(workers: int, source: Source) -> Iterator[Executor]:
  executor: Executor
  if workers:
    # spawn: a forked child would share JAX's threads and locks.
    executor = ProcessPoolExecutor(
      workers, get_context('spawn'), _start_worker, (source,)
    )
  else:
    executor = ThreadPoolExecutor(1, 'jaxlab-feed')
  try:
    yield executor
  finally:
    # After a signal not: what is read may never come.
    executor.shutdown(wait=not preemption.asked(), cancel_futures=True)
