"""The oracle: what it counts, and what it refuses."""

import json
import threading

import numpy as np
import pytest

from jaxlab.core.errors import InputError
from jaxlab.papers.advgan.oracle import Oracle

IMAGES = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 2, 2, 1)
LOGITS = np.array([[0.0, 1.0], [2.0, 0.0], [0.5, 0.5]])


def _logits(images):
  return np.stack([images.sum((1, 2, 3)), images[:, 0, 0, 0]], -1)


def test_logits_probabilities_and_labels_become_probabilities(tmp_path):
  p = np.exp(_logits(IMAGES))
  p /= p.sum(-1, keepdims=True)
  kinds = {
    'logits': (_logits, p),
    'probabilities': (lambda x: p[: len(x)], p),
    'labels': (lambda x: _logits(x).argmax(-1), np.eye(2)[p.argmax(-1)]),
  }
  for kind, (ask, wanted) in kinds.items():
    oracle = Oracle(ask, tmp_path / kind, classes=2, answers=kind)
    found = oracle(IMAGES)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    assert found.dtype == np.float32


def test_every_image_is_counted_and_the_count_is_gone_on_with(tmp_path):
  path, asked = tmp_path / 'q.jsonl', []

  def ask(images):
    asked.append(len(images))
    return _logits(images)

  oracle = Oracle(ask, path, classes=2)
  oracle(IMAGES)
  assert oracle.queries == sum(asked) == 4  # one is asked about again
  oracle(IMAGES[:2])
  assert oracle.queries == sum(asked) == 6
  again = Oracle(ask, path, classes=2)
  assert again.queries == 6
  again(IMAGES)
  assert again.queries == sum(asked) == 10
  lines = [json.loads(line) for line in path.read_text().splitlines()]
  assert [line['images'] for line in lines] == asked


def test_the_count_is_on_disk_before_the_question_is_asked(tmp_path):
  path, seen = tmp_path / 'q.jsonl', []

  def ask(images):
    seen.append(json.loads(path.read_text().splitlines()[-1])['total'])
    return _logits(images)

  Oracle(ask, path, classes=2)(IMAGES)
  assert seen == [3, 4]


def test_a_torn_last_line_was_never_asked(tmp_path):
  path = tmp_path / 'q.jsonl'
  path.write_text('{"images": 3, "total": 3}\n{"images": 5, "to')
  oracle = Oracle(_logits, path, classes=2)
  assert oracle.queries == 3
  oracle(IMAGES)
  assert Oracle(_logits, path, classes=2).queries == 7


@pytest.mark.parametrize(
  'text',
  ['{"images": 3, "total": 4}\n', 'x\n{"images": 1, "total": 1}\n', '3\n'],
)
def test_a_damaged_ledger_is_refused(tmp_path, text):
  path = tmp_path / 'q.jsonl'
  path.write_text(text)
  with pytest.raises(InputError, match='damaged at line 1'):
    Oracle(_logits, path, classes=2)
  assert path.read_text() == text


def test_a_ledger_that_cannot_be_written_asks_nothing(tmp_path):
  asked = []
  oracle = Oracle(asked.append, tmp_path / 'q', classes=2)
  (tmp_path / 'q').mkdir()
  with pytest.raises(InputError, match='nothing was asked'):
    oracle(IMAGES)
  assert not asked
  with pytest.raises(InputError, match='cannot read'):
    Oracle(_logits, tmp_path / 'q', classes=2)


def _raises(images):
  raise ConnectionError('refused')


def _changes():
  count = iter(range(9))
  return lambda x: _logits(x) + next(count) * np.array([1.0, 0.0])


@pytest.mark.parametrize(
  ('ask', 'answers', 'words'),
  [
    (_raises, 'logits', 'ConnectionError: refused, after 3 queries'),
    (lambda x: _logits(x)[:, :1], 'logits', r'shape \(3, 1\), not \(3, 2\)'),
    (lambda x: _logits(x) * np.nan, 'logits', 'NaN or infinite values on 3'),
    (_changes(), 'logits', 'two answers'),
    (lambda x: LOGITS, 'probabilities', 'no probabilities at row 1'),
    (lambda x: LOGITS - 1, 'probabilities', 'no probabilities at row 0'),
    (lambda x: LOGITS, 'labels', 'not 3 labels'),
    (lambda x: np.array([0, 1, 2]), 'labels', r'label 2, outside \[0, 2\)'),
    (_logits, 'scores', 'not one of logits'),
  ],
)
def test_a_bad_answer_is_named(tmp_path, ask, answers, words):
  with pytest.raises(InputError, match=words):
    Oracle(ask, tmp_path / 'q', classes=2, answers=answers)(IMAGES)


def test_an_answer_that_does_not_come_ends_the_run_and_counts(tmp_path):
  path, never = tmp_path / 'q', threading.Event()
  oracle = Oracle(lambda x: never.wait(30), path, classes=2, timeout=0.05)
  with pytest.raises(InputError, match=r'within 0\.05 s'):
    oracle(IMAGES)
  never.set()
  assert Oracle(_logits, path, classes=2).queries == 3
