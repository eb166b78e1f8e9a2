"""Exact match and F1 of answers, as SQuAD v1.1 scores them, on strings.

P. Rajpurkar, J. Zhang, K. Lopyrev, P. Liang. SQuAD: 100,000+ Questions for
Machine Comprehension of Text. EMNLP 2016. arXiv:1606.05250, section 6.1 and
its evaluation script.
"""

import collections
import re
import string
from collections.abc import Mapping, Sequence
from typing import NamedTuple

_ARTICLE = re.compile(r'\b(?:a|an|the)\b')
_PUNCTUATION = dict.fromkeys(map(ord, string.punctuation))


class Score(NamedTuple):
  """Of one answer or the mean of many, each in [0, 1]."""

  exact_match: float
  f1: float


def normalise(answer: str) -> str:
  """Lower case, without ASCII punctuation, articles and needless spaces.

  The order is the script's: punctuation vanishes before articles are sought,
  so that "a.m." is "am" and "the-end" is one word.

  >>> normalise(' The  "Cat", an animal')
  'cat animal'
  """
  bare = answer.lower().translate(_PUNCTUATION)
  return ' '.join(_ARTICLE.sub(' ', bare).split())


def score(prediction: str, answers: Sequence[str]) -> Score:
  """The best exact match and the best F1 over the given answers.

  F1 is of the bags of normalised words; 0 where they share none, also where
  both are empty.

  Args:
    prediction: an answer.
    answers: at least one that is right.

  Raises:
    ValueError: there is no answer to compare with.
  """
  if not answers:
    raise ValueError('score: needs at least one right answer')
  mine = normalise(prediction)
  right = [normalise(answer) for answer in answers]
  return Score(
    float(any(mine == other for other in right)),
    max(_f1(mine.split(), other.split()) for other in right),
  )


def mean_score(
  predictions: Mapping[str, str], answers: Mapping[str, Sequence[str]]
) -> Score:
  """Means over all questions of `answers`; one without a prediction has 0.

  Args:
    predictions: question id -> answer; other ids are left alone.
    answers: question id -> right answers.

  Raises:
    ValueError: there is no question.
  """
  if not answers:
    raise ValueError('mean_score: there is no question to score')
  scores = [
    score(predictions[key], right)
    for key, right in answers.items()
    if key in predictions
  ]
  exact = sum(one.exact_match for one in scores)
  return Score(exact / len(answers), sum(s.f1 for s in scores) / len(answers))


def _f1(mine: list[str], other: list[str]) -> float:
  shared = (collections.Counter(mine) & collections.Counter(other)).total()
  return 2 * shared / (len(mine) + len(other)) if shared else 0.0
