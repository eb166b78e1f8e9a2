"""The folder of a run: its lock, its config, its layout.

  WORKDIR/config.json                    the resolved config
  WORKDIR/hosts.json                     the machines of several processes
  WORKDIR/report.html                    all stages on one page
  WORKDIR/<stage>/metrics.jsonl          one JSON object a line
  WORKDIR/<stage>/report.json            written when the stage is finished
  WORKDIR/<stage>/checkpoints/<step>/    Orbax: State, and JSON about it
  WORKDIR/<stage>/figures/*.png

Imports no JAX, so that a wrong folder is reported at once.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxlab.core.errors import InputError
from jaxlab.engine import durable, hosts

_PATIENCE = 10.0  # seconds, for what a network file system caches
# What may change between two runs of one workdir.
_FREE = (
  'claimed',
  'title',
  'train.steps',
  'train.log_every_steps',
  'train.eval_every_steps',
  'train.checkpoint_every_steps',
  'train.checkpoint_every_seconds',
  'train.checkpoint_keep',
  'train.max_bad_steps',
  'data.workers',
  'data.ahead',
  'mesh.',
  'paper_reported.',
)


def flatten(config: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
  """{'a': {'b': 1}} -> {'a.b': 1}, sorted by key."""
  flat: dict[str, Any] = {}
  for key, value in config.items():
    if isinstance(value, Mapping):
      flat |= flatten(value, f'{prefix}{key}.')
    else:
      flat[prefix + key] = list(value) if isinstance(value, tuple) else value
  return dict(sorted(flat.items()))


def digest(config: Mapping[str, Any], unread: Sequence[str] = ()) -> str:
  """SHA-256 of what makes a run that run: without steps, logging and paths.

  Args:
    unread: keys and sections ('ood.') that are left out, too.
  """
  free = (*_FREE, *unread)
  kept = {k: v for k, v in flatten(config).items() if not _among(k, free)}
  return hashlib.sha256(json.dumps(kept).encode()).hexdigest()


def _among(key: str, names: Sequence[str]) -> bool:
  return any(key == k or (k[-1] == '.' and key.startswith(k)) for k in names)


@contextlib.contextmanager
def claimed(folder: Path, config: Mapping[str, Any]) -> Iterator[Path]:
  """Takes the folder for this process, as one run's.

  Of several processes the leader takes it for all.

  Raises:
    InputError: the folder is in use, holds a run of another config (but for
      keys that no stage begun there counts as its own, see `Stage.unread`),
      cannot be written, or is not the one that the leader sees.
  """
  with _locked(folder, config) if hosts.leads() else contextlib.nullcontext():
    if hosts.count() > 1:
      _check_shared(folder)
    try:
      yield folder
    except OSError as error:
      _check_there(folder, error)
      raise


def _check_there(folder: Path, error: OSError) -> None:
  """Names what was removed from the folder while it was in use."""
  gone = Path(str(error.filename or folder))
  inside = folder.absolute() in (gone.absolute(), *gone.absolute().parents)
  if error.errno == errno.ENOENT and inside:
    raise InputError(
      f'{gone} is gone: something removed it while the run used {folder}; '
      'run the same command again, which goes on from the last checkpoint that '
      'is there, or begins anew'
    ) from error


@contextlib.contextmanager
def _locked(folder: Path, config: Mapping[str, Any]) -> Iterator[None]:
  try:
    folder.mkdir(parents=True, exist_ok=True)
    # Not through a link: what that points to would be overwritten.
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
    lock = os.fdopen(os.open(folder / '.lock', flags, 0o644), 'r+')
  except OSError as error:
    raise InputError(
      f'workdir {folder}: {error.strerror}; choose a folder that can be '
      'written with --workdir'
    ) from error
  with lock:
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
      lock.seek(0)
      raise InputError(
        f'workdir {folder} is in use by {lock.read().strip() or "another run"}'
        '; wait for it, or choose another --workdir'
      ) from None
    lock.seek(0)
    lock.truncate()
    lock.write(f'process {os.getpid()} on {socket.gethostname()}')
    lock.flush()
    _check_same_run(folder, config)
    yield


def _check_shared(folder: Path) -> None:
  """The leader writes hosts.json; the others must find it."""
  path = folder / 'hosts.json'

  def write():
    names = {'run': os.urandom(8).hex(), 'hosts': hosts.names()}
    write_json(path, names)
    return names

  wanted = hosts.share('workdir', write)
  until = time.monotonic() + _PATIENCE
  while True:
    try:
      if json.loads(path.read_text()) == wanted:
        return
    except (OSError, ValueError):
      pass  # not there yet
    if time.monotonic() > until:
      raise InputError(
        f'workdir {folder} of process {hosts.index()} on '
        f'{socket.gethostname()} is not that of process 0 on '
        f'{wanted["hosts"][0]}; several processes need --workdir on storage '
        'that all of them share'
      )
    time.sleep(0.2)


def _check_same_run(folder: Path, config: Mapping[str, Any]) -> None:
  path = folder / 'config.json'
  begun = [*folder.glob('*/checkpoints/*'), *folder.glob('*/report.json')]
  if not path.exists() or not begun:
    return  # nothing there that a mistyped first try could damage
  try:
    old = flatten(json.loads(path.read_text()))
  except (ValueError, AttributeError) as error:
    known = [(sha, names) for sha, names in _begun(folder) if sha]
    if known and all(sha == digest(config, names) for sha, names in known):
      print(
        f'{path} was damaged ({error}); it is written again, as checkpoints '
        'and reports say that it was',
        file=sys.stderr,
      )
      return
    raise InputError(
      f'{path} is not the JSON of a config ({error}), and no checkpoint or '
      'report says that it was this one; it belongs to something else or is '
      'damaged: choose another --workdir'
    ) from error
  new = json.loads(json.dumps(flatten(config)))
  absent = object()
  differ = [
    key
    for key in sorted({*old, *new})
    if old.get(key, absent) != new.get(key, absent) and not _among(key, _FREE)
  ]
  unread = [names for _, names in _begun(folder)] if differ else []
  changed = [
    f'{key}: {old.get(key, "(absent)")!r} there, '
    f'{new.get(key, "(absent)")!r} here'
    for key in differ
    if not all(_among(key, names) for names in unread)
  ]
  if changed:
    raise InputError(
      f'workdir {folder} holds a run of another config ({"; ".join(changed)});'
      ' choose another --workdir, or remove that one'
    )


def _begun(folder: Path) -> list[tuple[str, Sequence[str]]]:
  """What every checkpoint and report was made with: config_sha256, '' where it
  does not say so, and the keys that it does not count."""
  saved = folder.glob('*/checkpoints/*')
  abouts = [p / 'about' / 'metadata' for p in saved if p.name.isdigit()]
  found: list[tuple[str, Sequence[str]]] = []
  for path in (*abouts, *folder.glob('*/report.json')):
    try:
      said = json.loads(path.read_text())
      found.append((str(said['config_sha256']), tuple(said.get('unread', ()))))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
      found.append(('', ()))
  return found


def write_json(path: Path, value: Any) -> None:
  """Writes a JSON file whole or not at all; on disk when it returns."""
  try:
    durable.write(path, json.dumps(value, indent=2, allow_nan=False) + '\n')
  except OSError as error:
    raise InputError(
      f'cannot write {path}: {error.strerror}; free space or choose another '
      '--workdir; nothing that was there is lost'
    ) from error
