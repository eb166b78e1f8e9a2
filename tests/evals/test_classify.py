import numpy as np
import pytest

from jaxlab.core.errors import InputError
from jaxlab.evals.classify import answers_of, classify
from tests.evals.evaluated import evaluated


def evaluate(batches):
  """The evaluator on logits that the batch itself brings."""
  return evaluated(classify(lambda p, v, batch: batch['logits']), batches)


def test_figures_equal_a_row_by_row_reference_without_padding():
  draw = np.random.default_rng(0)
  batches = [
    {
      'logits': draw.normal(size=(4, 3)).astype(np.float32),
      'label': draw.integers(0, 3, 4),
      'mask': np.arange(4) < rows,
    }
    for rows in (4, 1)
  ]
  # Padding may hold anything, as what would be taken for right: of NaN the
  # largest is the first.
  batches[1]['logits'][1:], batches[1]['label'][1:] = np.nan, 0
  nats = right = rows = 0
  for batch in batches:
    for i in np.flatnonzero(batch['mask']):
      logits, label = batch['logits'][i].astype(float), batch['label'][i]
      nats += np.log(np.exp(logits).sum()) - logits[label]
      right += logits.argmax() == label
      rows += 1
  found = evaluate(batches)
  assert found['examples'] == rows == 5
  assert found['accuracy'] == pytest.approx(right / rows)
  assert found['nats'] == pytest.approx(nats / rows, rel=1e-5)
  assert found['accuracy_low'] < found['accuracy'] < found['accuracy_high']


def test_a_set_without_examples_is_refused():
  batch = {
    'logits': np.zeros((2, 3), np.float32),
    'label': np.zeros(2, np.int32),
    'mask': np.zeros(2, bool),
  }
  with pytest.raises(InputError, match='no examples'):
    evaluate([batch])


def test_the_answers_are_counted_beside_the_same_figures():
  draw = np.random.default_rng(1)
  logits = draw.normal(size=(8, 3)).astype(np.float32)
  batch = {
    'logits': logits,
    'label': draw.integers(0, 3, 8),
    'id': np.arange(8),
    'mask': np.arange(8) < 7,
  }
  apply = lambda params, vars, batch: batch['logits']
  made = classify(apply, 3)
  totals = []
  kept = made._replace(finish=lambda total: totals.append(total))
  evaluated(kept, [batch])
  answers = answers_of(totals[0]['answers'])
  assert answers.confusion.sum() == 7
  right = (logits.argmax(-1) == batch['label'])[:7]
  assert np.trace(answers.confusion) == right.sum()
  assert sorted(answers.ids) == np.flatnonzero(~right).tolist()
  assert made.finish(totals[0]) == evaluate([batch])
