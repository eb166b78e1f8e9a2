"""SQuAD v1.1's figures, by hand."""

import pytest

from jaxlab.ops.squad_metrics import mean_score, normalise, score


@pytest.mark.parametrize(
  'text, expected',
  [
    ('The Cat', 'cat'),
    ('a.m.', 'am'),  # punctuation goes first: no article "a" is left
    ('the-end', 'theend'),
    ('an  apple\tand\nthe pear', 'apple and pear'),
    ('Theatre', 'theatre'),  # an article is a word
    ('«x» – y', '«x» – y'),  # punctuation is ASCII's alone
    ('ÉCOLE the 5%', 'école 5'),
    ('the', ''),
    ('', ''),
  ],
)
def test_normalisation_is_the_official_one(text, expected):
  assert normalise(text) == expected


@pytest.mark.parametrize(
  'prediction, answers, exact, f1',
  [
    ('The cat.', ['cat'], 1, 1),
    ('cat sat', ['a cat'], 0, 2 / 3),  # precision 1/2, recall 1
    ('cat cat', ['cat sat'], 0, 1 / 2),  # a bag: one cat is shared
    ('dog', ['cat', 'the dog'], 1, 1),  # the best of all answers
    ('big dog', ['dog', 'big cat'], 0, 2 / 3),
    ('dog', ['cat'], 0, 0),
    ('', ['cat'], 0, 0),
    ('the', ['an'], 1, 0),  # both empty: equal, and no word in common
  ],
)
def test_scores_equal_those_worked_by_hand(prediction, answers, exact, f1):
  found = score(prediction, answers)
  assert found.exact_match == exact
  assert found.f1 == pytest.approx(f1, rel=1e-12)


def test_a_question_without_a_prediction_counts_as_wrong():
  answers = {'1': ['cat'], '2': ['dog'], '3': ['cow'], '4': ['hen']}
  found = mean_score({'1': 'cat', '2': 'big dog', 'else': 'x'}, answers)
  assert found.exact_match == pytest.approx(1 / 4)
  assert found.f1 == pytest.approx((1 + 2 / 3) / 4)


def test_what_cannot_be_scored_is_refused():
  with pytest.raises(ValueError, match='right answer'):
    score('cat', [])
  with pytest.raises(ValueError, match='no question'):
    mean_score({}, {})
