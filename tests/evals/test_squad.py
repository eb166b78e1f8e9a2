from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlab.core.errors import InputError
from jaxlab.evals.squad import best_spans, context_mask, rank, squad
from tests.evals.evaluated import evaluated

S = 9
# Programs that run once.
jit = partial(jax.jit, compiler_options={'xla_backend_optimization_level': 0})


@pytest.mark.parametrize('max_answer, n_best', [(1, 3), (4, 5), (20, 60)])
def test_the_best_spans_are_those_of_a_search_over_all(max_answer, n_best):
  draw = np.random.default_rng(0)
  start, end = draw.normal(size=(2, 6, S)).astype(np.float32)
  start[draw.random((6, S)) < 0.3] = -np.inf
  end[draw.random((6, S)) < 0.3] = -np.inf
  find = jit(best_spans, static_argnums=(2, 3))
  score, first, last = find(start, end, max_answer, n_best)
  assert score.shape == first.shape == last.shape == (6, n_best)
  for row in range(6):
    spans = {
      (i, j): start[row, i] + end[row, j]
      for i in range(S)
      for j in range(i, min(i + max_answer, S))
      if np.isfinite(start[row, i] + end[row, j])
    }
    expected = sorted(spans, key=lambda span: -spans[span])[:n_best]
    kept = np.isfinite(score[row])
    assert list(zip(first[row][kept], last[row][kept])) == expected
    values = [spans[span] for span in expected]
    np.testing.assert_allclose(score[row][kept], values, rtol=1e-6)


def test_the_context_lies_between_the_question_and_the_last_mark():
  mask = context_mask(jnp.array([3, 0]), jnp.array([7, 0]), S)
  assert np.flatnonzero(mask[0]).tolist() == [3, 4, 5]
  assert not mask[1].any()  # a row of padding


def read(window, first, last):
  """Windows 0 and 1 are of question a, 2 of b."""
  return 'aab'[window], ' '.join(f't{i}' for i in range(first, last + 1))


def total_of(*rows):
  """[windows, 2] arrays from ((score, first, last), …) a window."""
  arrays = np.array(rows, float)
  return {
    'score': arrays[..., 0],
    'first': arrays[..., 1].astype(int),
    'last': arrays[..., 2].astype(int),
  }


def test_a_questions_windows_are_merged_and_equal_texts_count_once():
  none = (-np.inf, 0, 0)
  total = total_of(
    [(1.0, 4, 4), (0.5, 5, 6)], [(2.0, 5, 6), none], [none, none]
  )
  found = rank(total, read, 10)
  assert [text for text, _ in found['a']] == ['t5 t6', 't4']
  # softmax of 2 and 1: the text t5 t6 is there with its best score alone.
  expected = np.exp([2, 1]) / np.exp([2, 1]).sum()
  np.testing.assert_allclose([p for _, p in found['a']], expected)
  assert 'b' not in found
  assert len(rank(total, read, 1)['a']) == 1


def evaluate(answers, keep=None):
  """Logits that point at 4 to 5, 6 to 6 and 4 to 5 of three windows."""
  start, end = np.zeros((2, 4, S), np.float32)
  for window, (first, last) in enumerate([(4, 5), (6, 6), (4, 5), (3, 3)]):
    start[window, first] = end[window, last] = 5 + window
  start[:, 1] = end[:, 1] = end[:, 8] = 99  # not of the context
  evaluator = squad(
    lambda params, vars, batch: (batch['start'], batch['end']),
    3,
    read,
    answers,
    n_best=4,
    max_answer=3,
    keep=keep,
  )

  # The last row is padding, whose id is 0: the feed makes it so.
  batches = [
    {
      'start': start[windows],
      'end': end[windows],
      'id': np.array(ids),
      'first': np.array([3, 3]),
      'length': np.array([9, 9]),
      'startable': np.ones((2, S), bool),
      'mask': np.array(mask),
    }
    for windows, ids, mask in (
      ([2, 0], [2, 0], [True, True]),
      ([1, 3], [1, 0], [True, False]),
    )
  ]
  return evaluated(evaluator, batches)


def test_figures_are_percent_of_all_questions():
  kept = {}
  found = evaluate({'a': ['t6'], 'b': ['t4', 'x'], 'c': ['y']}, kept.update)
  # a: exactly t6. b: "t4 t5" against t4, F1 2/3. c has no window.
  assert kept['a'][0][0] == 't6'
  assert kept['b'][0][0] == 't4 t5'
  assert found['f1'] == pytest.approx(100 * (1 + 2 / 3) / 3)
  assert found['exact_match'] == pytest.approx(100 / 3)
  assert found['exact_match_low'] < 100 / 3 < found['exact_match_high']
  assert found['questions'] == 3


def test_an_evaluation_without_questions_is_refused():
  with pytest.raises(InputError, match='no question'):
    evaluate({})
