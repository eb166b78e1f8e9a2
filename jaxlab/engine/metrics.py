"""What a run says of itself: metrics.jsonl, a human line, TensorBoard events.

Time fields (`seconds`, `examples_per_second`) are the only ones that differ
between an interrupted run and an uninterrupted one.
"""

import hashlib
import json
import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxlab.core.errors import InputError, printable
from jaxlab.engine import durable, hosts

TIME_FIELDS = ('seconds', 'examples_per_second')


class Log:
  """Appends lines to metrics.jsonl, after cutting it back to `step`.

  Of several processes the leader alone touches the file.

  Args:
    folder: the stage's folder.
    step: lines of later steps, and a torn last line, are removed.
    evaluated: whether the evaluation at `step` is done; else it comes again,
      and its line is removed too.
    saved: what `sync` returned when `step` was saved; where the file does not
      begin with that, this is said, and lines that can be read stay.
  """

  def __init__(
    self,
    folder: Path,
    step: int,
    evaluated: bool = True,
    saved: list | None = None,
  ):
    self.path = folder / 'metrics.jsonl'
    self._file = self._events = None
    if not hosts.leads():
      return
    if saved is not None and saved != _digest(self.path, saved[0]):
      say(
        f'{self.path} is not what was written: curves and figures of steps '
        f'until {step} may be wrong'
      )
    kept = [line for line in read(self.path) if line['step'] <= step]
    if not evaluated:
      kept = [x for x in kept if (x['step'], x['kind']) != (step, 'eval')]
    with _named(self.path):
      durable.write(self.path, ''.join(json.dumps(x) + '\n' for x in kept))
      self._file = open(self.path, 'a')  # noqa: SIM115
    self._events = event_writer(folder, step + 1)

  def sync(self) -> list | None:
    """Has all lines on disk; returns their length in bytes and SHA-256."""
    if self._file is None:
      return None
    with _named(self.path):
      os.fsync(self._file.fileno())
      return _digest(self.path)

  def write(self, step: int, kind: str, values: Mapping[str, float]) -> None:
    """One line: {'step', 'kind', **values}."""
    if self._file is None:
      return
    line = {'step': step, 'kind': kind, **plain(values)}
    with _named(self.path):
      self._file.write(json.dumps(line, allow_nan=False) + '\n')
      self._file.flush()
    if self._events is not None:
      for name, value in values.items():
        self._events.add_scalar(f'{kind}/{name}', value, step)

  def close(self) -> None:
    """Closes the files."""
    if self._file is not None:
      self._file.close()
    if self._events is not None:
      self._events.close()


def plain(values: Mapping[str, float]) -> dict[str, float | None]:
  """The values with None for what JSON has no number for."""
  return {k: v if math.isfinite(v) else None for k, v in values.items()}


def read(path: Path) -> list[dict[str, Any]]:
  """The whole lines of a metrics.jsonl; [] where there is none.

  A last line that a kill tore is left out; so is, and this is said, any other
  that cannot be read.
  """
  if not path.exists():
    return []
  lines, damaged = [], []
  texts = path.read_bytes().split(b'\n')
  for number, text in enumerate(texts, 1):
    try:
      line = json.loads(text)
      if not {'step', 'kind'} <= {*line}:
        raise ValueError
      lines.append(line)
    except (ValueError, TypeError):
      if number < len(texts):
        damaged.append(number)
  if damaged:
    say(
      f'{path}: line {", ".join(map(str, damaged[:5]))} cannot be read and is '
      'left out'
    )
  return lines


def _digest(path: Path, size: int | None = None) -> list:
  """Length and SHA-256 of a file, or of its first bytes."""
  text = path.read_bytes()[:size] if path.exists() else b''
  return [len(text), hashlib.sha256(text).hexdigest()]


class _named:
  """Names the file when the disk is full or read-only."""

  def __init__(self, path: Path):
    self.path = path

  def __enter__(self):
    return self

  def __exit__(self, kind, error, traceback):
    if isinstance(error, OSError):
      raise InputError(
        f'cannot write {self.path}: {error.strerror}; free space and run the '
        'same command: it goes on from the last checkpoint'
      ) from error


def event_writer(folder: Path, purge_step: int | None = None) -> Any:
  """TensorBoard's writer of FOLDER/events; None without its extra."""
  try:
    from tensorboardX import SummaryWriter
  except ImportError:
    return None  # the tensorboard extra is not installed
  return SummaryWriter(str(folder / 'events'), purge_step=purge_step)


class Totals:
  """Sums of step metrics since the last line, in float64 on the host.

  Each step returns its metrics packed as one [names, 2] array of (sum, count);
  they are fetched together when a line is due. The sums so far go into the
  checkpoint's JSON, so that a resumed run writes the line that an
  uninterrupted one writes.
  """

  def __init__(self, saved: Mapping[str, Any] | None = None):
    self._sums = {
      kind: {name: tuple(pair) for name, pair in entries.items()}
      for kind, entries in (saved or {}).items()
    }

  def add(self, kind: str, names: list[str], packed: np.ndarray) -> None:
    """Adds the metrics of one step of `kind`."""
    entries = self._sums.setdefault(kind, {})
    for name, (value, count) in zip(names, packed.astype(np.float64)):
      old = entries.get(name, (0.0, 0.0))
      entries[name] = (old[0] + float(value), old[1] + float(count))

  def saved(self) -> dict[str, Any]:
    """For the checkpoint's JSON."""
    return {
      kind: {name: list(pair) for name, pair in entries.items()}
      for kind, entries in self._sums.items()
    }

  def means(self) -> dict[str, dict[str, float]]:
    """Kind -> name -> sum / count (names that counted nothing left out)."""
    result = {}
    for kind, entries in self._sums.items():
      values = {n: s / c for n, (s, c) in entries.items() if c > 0}
      bad = entries.get('bad', (0.0, 0.0))[0]
      values.pop('run_length', None)
      values.pop('bad', None)
      if bad:
        values['bad_steps'] = bad
      result[kind] = values
    return result


class Progress:
  """One line for people, on standard error, at each log interval."""

  def __init__(
    self,
    name: str,
    step: int,
    steps: int,
    clock: Callable[[], float] = time.monotonic,
  ):
    self.name, self.steps, self.clock = name, steps, clock
    self.restart(step)

  @property
  def since(self) -> int:
    """The step of the last line, or where timing began."""
    return self._since[0]

  def restart(self, step: int) -> None:
    """Times from here on."""
    self._since = (step, self.clock())

  def rate(self, step: int, examples: int) -> dict[str, float]:
    """Seconds and examples a second since the last call."""
    before, then = self._since
    now = self.clock()
    self._since = (step, now)
    seconds = max(now - then, 1e-9)
    self._seconds_a_step = seconds / max(step - before, 1)
    return {
      'seconds': round(seconds, 4),
      'examples_per_second': round(examples / seconds, 2),
    }

  def show(self, step: int, values: Mapping[str, float]) -> None:
    """Prints step, metrics, examples/s and the time that is left."""
    left = duration((self.steps - step) * self._seconds_a_step)
    shown = {k: v for k, v in values.items() if k not in TIME_FIELDS}
    figures = '  '.join(f'{k} {v:.4g}' for k, v in shown.items())
    say(
      f'{self.name} {step}/{self.steps}  {figures}  '
      f'{values["examples_per_second"]:.4g} examples/s  eta {left}'
    )


class Meter:
  """A line for people every ten seconds, about work of known length.

  Args:
    name: of the work; '' shows nothing.
    total: number of its parts; 0 shows nothing.
  """

  def __init__(
    self, name: str, total: int, clock: Callable[[], float] = time.monotonic
  ):
    self.name, self.total, self.clock, self.done = name, total, clock, 0
    self._began = self._shown = clock()

  def advance(self, parts: int = 1) -> None:
    """Counts parts that are done."""
    self.done += parts
    now = self.clock()
    if self.name and now - self._shown >= 10 and self.done < self.total:
      self._shown = now
      left = (now - self._began) / self.done * (self.total - self.done)
      say(f'{self.name} {self.done}/{self.total}  eta {duration(left)}')


def say(text: str) -> None:
  """One line to standard error, from the leader."""
  if hosts.leads():
    print(printable(text), file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
  """62 -> '1m02s'."""
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  if hours:
    return f'{hours}h{minutes:02d}m'
  return f'{minutes}m{seconds:02d}s' if minutes else f'{seconds}s'
