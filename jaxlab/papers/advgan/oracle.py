"""A network that answers questions and shows nothing else.

  oracle = Oracle(ask, 'queries.jsonl', classes=10)
  probabilities = oracle(images)
  oracle.queries

`ask` is any Python callable on images, a served model's client, say.
"""

import json
import os
import queue
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np

from jaxlab.core.errors import InputError

Ask = Callable[[np.ndarray], np.ndarray]  # images [n, h, w, c] -> answers

ANSWERS = ('logits', 'probabilities', 'labels')
_TOLERANCE = 1e-3  # by which a probability may differ when asked again


class Oracle:
  """Asks, checks the answers, and counts every image that was asked about.

  A question is on disk before it is asked, so that a run that is killed, or an
  answer that never comes, counts too. A ledger that is there is gone on with.

  Args:
    ask: images [n, h, w, c] float32 in [0, 1] -> logits or probabilities
      [n, classes], or labels [n].
    ledger: path of the count, one JSON line a question.
    classes: number of classes.
    answers: what `ask` returns: 'logits', 'probabilities' or 'labels'.
    timeout: seconds that an answer may take; None: any.

  Raises:
    InputError: an unknown kind of answers, or a ledger that cannot be read.
  """

  def __init__(
    self,
    ask: Ask,
    ledger: str | Path,
    *,
    classes: int,
    answers: str = 'logits',
    timeout: float | None = None,
  ):
    if answers not in ANSWERS:
      raise InputError(
        f'answers = "{answers}" is not one of {", ".join(ANSWERS)}'
      )
    self._ask, self._classes, self._kind = ask, classes, answers
    self._timeout, self._ledger = timeout, Path(ledger)
    self._lock, self._known = threading.Lock(), False
    self.queries = _total(self._ledger)  # images asked about, ever

  def __call__(self, images: np.ndarray) -> np.ndarray:
    """[n, classes] float32 probabilities; one-hot rows of labels.

    The first image of the first question is asked about once more.

    Args:
      images: [n, h, w, c] float32 in [0, 1], n >= 1.

    Raises:
      InputError: the callable raises or takes too long; its answer has another
        shape, is not finite, is not a label or probability, or changes.
    """
    with self._lock:
      found = self._answer(images)
      if not self._known:
        again = self._answer(images[:1])
        apart = float(np.abs(again[0] - found[0]).max())
        if apart > _TOLERANCE:
          raise InputError(
            f'the oracle gave the same image two answers, {apart:.2g} apart in '
            'probability: switch off its dropout, or have it average its draws'
          )
        self._known = True
      return found

  def _answer(self, images: np.ndarray) -> np.ndarray:
    images = np.asarray(images, np.float32)
    self._count(len(images))
    given = np.asarray(self._asked(images))
    where = f'the oracle, asked about {len(images)} images,'
    if self._kind == 'labels':
      return self._one_hot(given, len(images), where)
    wanted = (len(images), self._classes)
    if given.shape != wanted:
      raise InputError(
        f'{where} returned shape {given.shape}, not {wanted}: set '
        'data.num_classes to its classes, or oracle.answers to what it returns'
      )
    given = given.astype(np.float32)
    bad = ~np.isfinite(given).all(-1)
    if bad.any():
      raise InputError(
        f'{where} returned NaN or infinite values on {bad.sum()} of them, the '
        f'first at row {bad.argmax()}'
      )
    if self._kind == 'logits':
      raised = np.exp(given - given.max(-1, keepdims=True))
      return raised / raised.sum(-1, keepdims=True)
    off = (given < 0).any(-1) | (np.abs(given.sum(-1) - 1) > _TOLERANCE)
    if off.any():
      raise InputError(
        f'{where} returned no probabilities at row {off.argmax()}, '
        f'{given[off.argmax()]}: set oracle.answers to "logits" if it returns '
        'these'
      )
    return given

  def _one_hot(self, labels: np.ndarray, rows: int, where: str) -> np.ndarray:
    if labels.shape != (rows,) or not np.issubdtype(labels.dtype, np.integer):
      raise InputError(
        f'{where} returned {labels.dtype}{list(labels.shape)}, not {rows} '
        'labels: set oracle.answers to what it returns'
      )
    outside = (labels < 0) | (labels >= self._classes)
    if outside.any():
      raise InputError(
        f'{where} returned label {labels[outside][0]}, outside '
        f'[0, {self._classes}): set data.num_classes to its classes'
      )
    return np.eye(self._classes, dtype=np.float32)[labels]

  def _asked(self, images: np.ndarray) -> np.ndarray:
    done: queue.Queue = queue.Queue()

    def work():
      try:
        done.put((self._ask(images), None))
      except Exception as error:  # whatever a user's code raises
        done.put((None, error))

    # A daemon: a client that hangs must not keep the process from its end.
    threading.Thread(target=work, daemon=True).start()
    try:
      answer, error = done.get(timeout=self._timeout)
    except queue.Empty:
      raise InputError(
        f'the oracle did not answer {len(images)} images within '
        f'{self._timeout:g} s (oracle.timeout_seconds); they are counted, and '
        'the same command goes on from the last checkpoint'
      ) from None
    if error is not None:
      raise InputError(
        f'the oracle raised {type(error).__name__}: {error}, after '
        f'{self.queries} queries, which are kept in {self._ledger}; the same '
        'command goes on from the last checkpoint'
      ) from error
    return answer

  def _count(self, images: int) -> None:
    total = self.queries + images
    self._ledger.parent.mkdir(parents=True, exist_ok=True)
    try:
      with self._ledger.open('a') as file:
        file.write(json.dumps({'images': images, 'total': total}) + '\n')
        file.flush()
        os.fsync(file.fileno())
    except OSError as error:
      raise InputError(
        f'cannot write {self._ledger} ({error.strerror}): nothing was asked'
      ) from error
    self.queries = total


def _total(ledger: Path) -> int:
  """The images that a ledger counts; 0 if there is none."""
  if not ledger.exists():
    return 0
  try:
    lines = ledger.read_text().split('\n')
  except OSError as error:
    raise InputError(f'cannot read {ledger} ({error.strerror})') from error
  if lines[-1]:
    # Torn by a kill before its question was asked.
    ledger.write_text('\n'.join([*lines[:-1], '']))
  total = 0
  for number, line in enumerate(lines[:-1], 1):
    try:
      entry = json.loads(line)
      total += entry['images']
      if total != entry['total']:
        raise ValueError(f'it counts {entry["total"]}, the lines {total}')
    except (ValueError, KeyError, TypeError) as error:
      raise InputError(
        f'{ledger} is damaged at line {number} ({error}): mend it, or take '
        'another --workdir'
      ) from error
  return total
