"""Checkpoints: State and JSON about it, saved asynchronously by Orbax.

Two policies together: every N steps, kept for good, and every M seconds, of
which the newest few stay. A checkpoint appears whole or not at all, is on disk
before it appears, and is checked against its SHA-256 when it is read: Orbax
itself does not notice a flipped bit. Several processes write one checkpoint
together and call the same methods at the same steps; none of them gathers a
State.

The only module that imports orbax.
"""

import contextlib
import hashlib
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import Mesh
from orbax.checkpoint import checkpoint_managers as managers

from jaxlab.core.errors import DamagedError, InputError, NonFiniteError
from jaxlab.core.state import State, Tree, paths
from jaxlab.engine import durable, mesh, shards
from jaxlab.engine.fingerprint import leaves_sha256

_MARGIN = 1.2  # free space asked for, over the bytes of State
_SLACK = 16 * 2**20  # bytes, for Orbax's own files and the logs


@dataclass
class Policy:
  """When to save.

  `every_steps` and `every_seconds` of 0 switch that policy off. The end of a
  fit and a signal always save.
  """

  every_steps: int = 0
  every_seconds: float = 300.0
  keep: int = 2  # newest checkpoints that stay, beside those of every_steps
  clock: Callable[[], float] = time.monotonic
  _last: float = field(init=False, default=0.0)

  def __post_init__(self):
    self._last = self.clock()

  def due(self, step: int) -> bool:
    """Whether the State after `step` updates is to be saved."""
    return self.due_by_step(step) or self.due_by_clock()

  def due_by_step(self, step: int) -> bool:
    """Whether `every_steps` asks for it: known to all processes."""
    return bool(self.every_steps and step % self.every_steps == 0)

  def due_by_clock(self) -> bool:
    """Whether `every_seconds` asks for it, by the clock of this process."""
    return bool(
      self.every_seconds and self.clock() - self._last >= self.every_seconds
    )

  def saved(self) -> None:
    """Starts the seconds anew."""
    self._last = self.clock()


class Checkpoints:
  """The checkpoints of one fit, in one folder.

  Args:
    writes: False: the folder is as it was, also while its run is saving.
  """

  def __init__(self, folder: Path, policy: Policy, writes: bool = True):
    self.folder = folder
    self.policy = policy
    preserved: list[Any] = [managers.LatestN(policy.keep)]
    if policy.every_steps:
      preserved.append(managers.EveryNSteps(policy.every_steps))
    self._manager = ocp.CheckpointManager(
      folder.absolute(),
      # Named here: a manager that has saved nothing yet would not know them.
      item_handlers={
        'state': _synced(ocp.StandardCheckpointHandler()),
        'about': _synced(ocp.JsonCheckpointHandler()),
      },
      options=ocp.CheckpointManagerOptions(
        cleanup_tmp_directories=writes,
        enable_async_checkpointing=True,
        preservation_policy=managers.AnyPreservationPolicy(preserved),
      ),
    )

  def latest(self) -> int | None:
    """The step of the newest whole checkpoint."""
    return self._manager.latest_step()

  def save(self, state: State, step: int, about: Mapping[str, Any]) -> None:
    """Begins to write State as `step`; returns when it may be donated.

    Raises:
      InputError: too little free space; nothing is written.
      NonFiniteError: State holds a number that is not finite.
    """
    if step in self._manager.all_steps():
      return
    leaves = {path: leaf for path, leaf in paths(state) if leaf.size}
    _check_space(self.folder, leaves)
    leaves = {path: _kept(leaf) for path, leaf in leaves.items()}
    _check_finite(leaves, step)
    about = {**about, 'step': step, **_fingerprint(leaves)}
    about['about_sha256'] = _about_sha256(about)
    self._manager.save(
      step,
      args=ocp.args.Composite(
        state=ocp.args.StandardSave(leaves), about=ocp.args.JsonSave(about)
      ),
      force=True,
    )
    self.policy.saved()

  def restore(self, like: Tree, step: int) -> tuple[Any, dict[str, Any]]:
    """State, or another tree with its paths, and JSON of a saved step.

    Args:
      like: tree of `jax.ShapeDtypeStruct` with shardings; they may differ
        from those it was saved with.

    Raises:
      DamagedError: it is not what was saved.
      InputError: the checkpoint belongs to another model.
    """
    where = f'checkpoint {self.folder / str(step)}'
    try:
      about = self._manager.restore(
        step, args=ocp.args.Composite(about=ocp.args.JsonRestore())
      )['about']
      if about.pop('about_sha256') != _about_sha256(about):
        raise ValueError('what it says of itself is not what was written')
    except Exception as error:  # Orbax raises many kinds for a damaged file
      raise self._damaged(where, step, error) from error
    saved = self.shapes(step)
    wanted = dict(paths(like))
    _check_same_leaves(where, saved, wanted)
    state = ocp.args.StandardRestore({p: wanted[p] for p in saved})
    try:
      with _hushed():
        found = self._manager.restore(
          step, args=ocp.args.Composite(state=state)
        )['state']
    except Exception as error:
      raise self._damaged(where, step, error) from error
    if not _is_intact(found, about):
      raise self._damaged(where, step, 'its SHA-256 is not the recorded one')
    return _unflatten(like, found), about

  def shapes(self, step: int) -> dict[str, Any]:
    """What a saved step holds: path -> something with shape and dtype.

    Raises:
      DamagedError: the checkpoint cannot be read.
    """
    try:
      return self._manager.item_metadata(step)['state'].tree
    except Exception as error:  # Orbax raises many kinds for a damaged file
      where = f'checkpoint {self.folder / str(step)}'
      raise self._damaged(where, step, error) from error

  def _damaged(self, where, step, error) -> DamagedError:
    older = [s for s in self._manager.all_steps() if s != step]
    cure = f'remove that folder to go on from step {max(older, default=0)}'
    reason = str(error).strip().split('\n')[0][:300]
    return DamagedError(f'{where} is damaged or foreign ({reason}); {cure}')

  def set_aside(self, step: int) -> Path:
    """Takes a damaged checkpoint out of the row; returns where it lies now."""
    beside = self.folder.with_name('damaged')
    beside.mkdir(exist_ok=True)
    to = beside / f'{step}'
    while to.exists():
      to = to.with_name(f'{to.name}_')
    (self.folder / str(step)).rename(to)
    self._manager.reload()
    return to

  def wait(self) -> None:
    """Returns when everything begun is on disk.

    Raises:
      InputError: the disk is full or cannot be written.
    """
    try:
      self._manager.wait_until_finished()
    except OSError as error:
      raise InputError(
        f'writing a checkpoint in {self.folder} failed: {error}; free space '
        'and run the same command: earlier checkpoints are untouched'
      ) from error

  def close(self) -> None:
    """Waits, then frees Orbax's threads."""
    self.wait()
    self._manager.close()


def read(folder: Path, devices: Mesh) -> tuple[dict[str, Any], dict[str, Any]]:
  """The newest checkpoint of a fit without its model.

  Args:
    folder: of the checkpoints, as `Checkpoints` takes it.
    devices: each of them gets every leaf.

  Returns:
    (path -> leaf, JSON).

  Raises:
    InputError: there is none, or it is damaged.
  """
  none = InputError(f'{folder} holds no checkpoint')
  if not folder.is_dir():
    raise none
  kept = Checkpoints(folder, Policy(), writes=False)
  try:
    latest = kept.latest()
    if latest is None:
      raise none
    layout = mesh.replicated(devices)
    like = {
      path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=layout)
      for path, leaf in kept.shapes(latest).items()
    }
    return kept.restore(like, latest)
  finally:
    kept.close()


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
  """Keeps Orbax's other reads of a damaged checkpoint quiet.

  They end after the first has failed and closed their event loop, also after
  this block, and each would print a traceback over the one line that says what
  is wrong. So the hook stays where the block fails.
  """
  before = sys.excepthook

  def hook(kind, error, traceback):
    if str(error) != 'Event loop is closed':
      before(kind, error, traceback)

  sys.excepthook = hook
  yield
  sys.excepthook = before


def _synced(handler):
  """Has what a handler wrote on disk before the checkpoint gets its name."""
  finalize = handler.finalize  # no subclass: Orbax knows handlers by class

  def synced(directory):
    finalize(directory)
    durable.sync_tree(directory)

  handler.finalize = synced
  return handler


def _about_sha256(about: Mapping[str, Any]) -> str:
  """SHA-256 of JSON, whatever the order of its keys."""
  text = json.dumps(about, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()


def _kept(leaf):
  """A copy, so that the buffer may be donated while Orbax writes."""
  if not getattr(leaf, 'is_fully_addressable', True):
    # Orbax itself takes arrays of several processes off the device before it
    # returns; from a CPU device it takes no copy, though.
    on_cpu = next(iter(leaf.devices())).platform == 'cpu'
    return jax.numpy.copy(leaf) if on_cpu else leaf
  return np.array(leaf)


def _fingerprint(leaves: Mapping[str, Any]) -> dict[str, Any]:
  """SHA-256 of the leaves in path order, or of the parts that they lie in."""
  values = list(leaves.values())
  if all(getattr(leaf, 'is_fully_addressable', True) for leaf in values):
    pairs = ((p, np.asarray(leaves[p])) for p in sorted(leaves))
    return {'state_sha256': leaves_sha256(pairs)}
  parts = shards.cuts(leaves)
  print_of_parts = shards.fingerprint(leaves, parts)
  return {'state_sha256': None, 'parts': parts, 'parts_sha256': print_of_parts}


def _is_intact(leaves: Mapping[str, Any], about: Mapping[str, Any]) -> bool:
  """Whether the leaves are those that `about` has a fingerprint of."""
  if about['state_sha256'] is None:
    found = shards.fingerprint(leaves, about['parts'])
    return found == about['parts_sha256']
  pairs = ((p, mesh.whole(leaves[p])) for p in sorted(leaves))
  return leaves_sha256(pairs) == about['state_sha256']


def _check_space(folder: Path, leaves: Mapping[str, Any]) -> None:
  needed = int(sum(leaf.nbytes for leaf in leaves.values()) * _MARGIN) + _SLACK
  free = shutil.disk_usage(folder).free
  if free < needed:
    raise InputError(
      f'no space for a checkpoint in {folder}: {needed / 2**20:.0f} MiB '
      f'needed, {free / 2**20:.0f} MiB free; free space and run the same '
      'command: it goes on from the last checkpoint'
    )


def _check_finite(leaves: Mapping[str, Any], step: int) -> None:
  for path, leaf in leaves.items():
    if not path.startswith('params/'):
      continue
    # NumPy, where it can look: JAX would compile a program for every shape.
    of = np if isinstance(leaf, np.ndarray) else jax.numpy
    if not bool(of.isfinite(leaf).all()):
      raise NonFiniteError(
        f'"{path}" is not finite after step {step}, though every loss and '
        'gradient was: the optimizer made it so; it is not saved. Lower the '
        "learning rate, or raise the optimizer's epsilon"
      )


def _check_same_leaves(where, saved, wanted) -> None:
  problems = []
  for path in sorted({*saved, *wanted}):
    have, want = saved.get(path), wanted.get(path)
    if want is None:
      problems.append(f'"{path}" is not in this model')
    elif have is None:
      if want.size:
        problems.append(f'"{path}" {tuple(want.shape)} is missing')
    elif tuple(have.shape) != tuple(want.shape) or have.dtype != want.dtype:
      problems.append(
        f'"{path}" is {have.dtype}{tuple(have.shape)}, the model has '
        f'{want.dtype}{tuple(want.shape)}'
      )
  if problems:
    more = f' and {len(problems) - 3} more' if len(problems) > 3 else ''
    raise InputError(
      f'{where} belongs to another model: {"; ".join(problems[:3])}{more}; '
      'choose another --workdir'
    )


def _unflatten(like: Tree, found: Mapping[str, Any]) -> Tree:
  def leaf(path, want):
    name = jax.tree_util.keystr(path, simple=True, separator='/')
    if name in found:
      return found[name]
    return mesh.place(np.zeros(want.shape, want.dtype), want.sharding)

  return jax.tree_util.tree_map_with_path(leaf, like)
