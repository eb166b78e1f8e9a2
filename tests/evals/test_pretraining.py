import math

import numpy as np
import pytest

from jaxlab.core.errors import InputError
from jaxlab.evals.pretraining import masked_lm
from tests.evals.evaluated import evaluated

LENGTHS = np.array([0, 2, 3, 5])


def evaluate(batches):
  """The evaluator on logits that the batch itself brings."""
  apply = lambda params, vars, batch: (batch['mlm'], batch['nsp'])
  return evaluated(masked_lm(apply, LENGTHS), batches)


def batches(draw):
  for rows in (3, 2):
    yield {
      'mlm': draw.normal(size=(4, 2, 4)).astype(np.float32),
      'nsp': draw.normal(size=(4, 2)).astype(np.float32),
      'targets': draw.integers(0, 4, (4, 2)),
      'target_mask': draw.random((4, 2)) < 0.8,
      'next_sentence': draw.integers(0, 2, 4),
      'mask': np.arange(4) < rows,
    }


def test_figures_equal_a_row_by_row_reference_without_padding():
  data = list(batches(np.random.default_rng(0)))
  nats = right = tokens = chars = nsp_right = rows = 0
  for batch in data:
    for i in np.flatnonzero(batch['mask']):
      rows += 1
      nsp_right += batch['nsp'][i].argmax() == batch['next_sentence'][i]
      for j in np.flatnonzero(batch['target_mask'][i]):
        logits, target = (
          batch['mlm'][i, j].astype(float),
          batch['targets'][i, j],
        )
        nats += np.log(np.exp(logits).sum()) - logits[target]
        right += logits.argmax() == target
        tokens += 1
        chars += LENGTHS[target]
  found = evaluate(data)
  assert found['mlm_nats'] == pytest.approx(nats / tokens, rel=1e-5)
  bits = nats / math.log(2) / chars
  assert found['mlm_bits_per_character'] == pytest.approx(bits, rel=1e-5)
  assert found['mlm_accuracy'] == pytest.approx(right / tokens)
  assert found['nsp_accuracy'] == pytest.approx(nsp_right / rows)
  assert found['masked_tokens'] == tokens
  assert found['examples'] == rows == 5
  assert (
    found['nsp_accuracy_low']
    < found['nsp_accuracy']
    < found['nsp_accuracy_high']
  )


def test_examples_that_mask_nothing_are_refused():
  data = list(batches(np.random.default_rng(0)))
  for batch in data:
    batch['target_mask'][:] = False
  with pytest.raises(InputError, match='mask no token'):
    evaluate(data)


def test_what_is_shown_are_the_first_rows_of_the_first_batch():
  data = list(batches(np.random.default_rng(0)))
  apply = lambda params, vars, batch: (batch['mlm'], batch['nsp'])
  made, totals = masked_lm(apply, LENGTHS, shown=(2, 2)), []
  evaluated(made._replace(finish=lambda total: totals.append(total)), data)
  logits = data[0]['mlm'][:2]
  np.testing.assert_array_equal(totals[0]['answer'], logits.argmax(-1))
  p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  np.testing.assert_allclose(totals[0]['confidence'], p.max(-1), rtol=1e-5)
  assert made.finish(totals[0]) == evaluate(data)
