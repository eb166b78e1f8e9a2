"""SQuAD v1.1: questions whose answers are spans of a text, in its JSON format.

P. Rajpurkar, J. Zhang, K. Lopyrev, P. Liang. SQuAD: 100,000+ Questions for
Machine Comprehension of Text. EMNLP 2016. arXiv:1606.05250.

  {"data": [{"title": …, "paragraphs": [{"context": …, "qas": [{"id": …,
   "question": …, "answers": [{"answer_start": 7, "text": …}]}]}]}]}

`answer_start` counts characters (code points) of the context.
"""

import hashlib
import json
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from jaxlab.core.errors import InputError
from jaxlab.data import atomic
from jaxlab.data.splits import tenths

TOLERANCE = 0.01  # of the questions may have an answer that is not in its place


class Question(NamedTuple):
  """A question about one context."""

  id: str
  context: int  # place in Squad.contexts
  text: str
  answers: tuple[str, ...]  # at least one, all right
  start: int  # first character of the first answer that is in its place
  stop: int  # the character behind it; equal to start: none is


class Squad(NamedTuple):
  """The questions of one file, or of some of its articles."""

  path: pathlib.Path
  contexts: list[str]
  titles: list[str]  # of each context's article
  questions: list[Question]
  mismatched: tuple[str, ...]  # ids of questions with an answer out of place
  sha256: str  # of the file


def read_squad(path: str, *, name: str = 'path', strict: bool = False) -> Squad:
  """Reads a file of SQuAD v1.1.

  An answer that does not stand at its `answer_start`, or is blank, is out of
  place: it still counts as right, and is not trained on. Their questions are
  counted and named on stderr, and refused if there are more than TOLERANCE of
  all.

  Args:
    path: train-v1.1.json, dev-v1.1.json, or another file of that format.
    name: what `path` is called in the config, for errors.
    strict: refuse any answer out of place.

  Raises:
    InputError: there is no such file, it is not of that format, or too many
      answers are out of place.
  """
  if not path:
    raise InputError(
      f'{name} is empty: give a file of SQuAD v1.1 such as train-v1.1.json, '
      f'from https://rajpurkar.github.io/SQuAD-explorer'
    )
  file = pathlib.Path(path).expanduser()
  try:
    data = file.read_bytes()
  except OSError as error:
    raise InputError(f'{name}: cannot read {file}: {error.strerror}') from error
  try:
    content = json.loads(data)
  except (ValueError, RecursionError) as error:
    raise InputError(f'{name}: {file} is not JSON ({error})') from error
  found = _Reader(file, strict)
  for place, article in found.items(content, '', 'data'):
    title = found.take(article, place, 'title', str)
    for where, paragraph in found.items(article, place, 'paragraphs'):
      found.add(title, paragraph, where)
  return found.finish(hashlib.sha256(data).hexdigest())


def hold_out(squad: Squad) -> tuple[Squad, Squad]:
  """Cuts a file in two: nine tenths of its articles, and a tenth.

  Articles are ranked by a hash of their title, so that no context is in both
  parts and the place of an article hardly depends on the others.

  Raises:
    InputError: there are fewer than two articles.
  """
  titles = {squad.titles[question.context] for question in squad.questions}
  if len(titles) < 2:
    raise InputError(
      f'{squad.path} has questions on {len(titles)} article, and holding out '
      f'a tenth needs two: give more, or set data.hold_out=False'
    )
  held = set(tenths(titles, 1)['test'])
  parts: tuple[list[Question], list[Question]] = ([], [])
  for question in squad.questions:
    parts[squad.titles[question.context] in held].append(question)
  train, held_out = (squad._replace(questions=part) for part in parts)
  return train, held_out


class _Reader:
  """Gathers the contexts and questions of one file."""

  def __init__(self, file: pathlib.Path, strict: bool):
    self.file, self.strict = file, strict
    self.contexts: list[str] = []
    self.titles: list[str] = []
    self.questions: dict[str, Question] = {}
    self.mismatched: dict[str, str] = {}  # id -> what is wrong

  def add(self, title: str, paragraph: Any, where: str) -> None:
    """All questions of one paragraph."""
    context = self.take(paragraph, where, 'context', str)
    self.contexts.append(context)
    self.titles.append(title)
    for place, item in self.items(paragraph, where, 'qas'):
      key = self.take(item, place, 'id', str)
      if key in self.questions:
        raise InputError(
          f'{self.file}: {place}: the question id "{key}" occurs twice; '
          f'predictions are known by it, so each question needs its own'
        )
      self.questions[key] = self._question(key, item, place, context)

  def _question(self, key, item, place, context) -> Question:
    text = self.take(item, place, 'question', str)
    answers, start, stop = [], 0, 0
    for at, answer in self.items(item, place, 'answers'):
      words = self.take(answer, at, 'text', str)
      begin = self.take(answer, at, 'answer_start', int)
      answers.append(words)
      if begin < 0 or not context.startswith(words, begin) or not words.strip():
        self._out_of_place(key, words, begin, context)
      elif start == stop:
        start, stop = begin, begin + len(words)
    if not answers:
      raise InputError(
        f'{self.file}: question "{key}" has no answer; this reads SQuAD v1.1, '
        f'in which every question has one (v2.0 is another task)'
      )
    return Question(
      key, len(self.contexts) - 1, text, tuple(answers), start, stop
    )

  def _out_of_place(self, key, words, begin, context) -> None:
    there = context[max(begin, 0) : max(begin, 0) + len(words)]
    self.mismatched[key] = (
      f'question "{key}": the answer {words!r} should stand at character '
      f'{begin} of its context, where {there!r} stands'
    )
    if self.strict:
      raise InputError(
        f'{self.file}: {self.mismatched[key]}; mend the file, or set '
        f'data.strict=False to leave such answers out'
      )

  def finish(self, sha256: str) -> Squad:
    count, wrong = len(self.questions), self.mismatched
    if not count:
      raise InputError(f'{self.file} has no question')
    if wrong:
      first = next(iter(wrong.values()))
      said = f'{len(wrong)} of {count} questions have an answer out of place'
      if len(wrong) > TOLERANCE * count:
        raise InputError(
          f'{self.file}: {said}, more than {TOLERANCE:.0%}; {first}. Are '
          f'answer_start bytes, or was the text changed? Mend the file'
        )
      atomic.note(f'{self.file}: {said} and are not trained on it: {first}')
    return Squad(
      self.file,
      self.contexts,
      self.titles,
      list(self.questions.values()),
      tuple(wrong),
      sha256,
    )

  def items(
    self, holder: Any, place: str, key: str
  ) -> Iterator[tuple[str, Any]]:
    """The entries of a list in the JSON, with their places in it."""
    found = self.take(holder, place, key, list)
    dotted = f'{place}.{key}' if place else key
    return ((f'{dotted}[{i}]', item) for i, item in enumerate(found))

  def take(self, holder: Any, place: str, key: str, kind: type):
    """`holder[key]`, of the right type."""
    file, shown = self.file, place or 'the whole'
    if not isinstance(holder, dict):
      raise InputError(
        f'{file}: {shown} is not an object with a "{key}"; SQuAD v1.1 has one '
        'there'
      )
    if key not in holder:
      raise InputError(
        f'{file}: {shown} has no "{key}"; its keys are {sorted(holder)[:8]}'
      )
    value = holder[key]
    if not isinstance(value, kind) or isinstance(value, bool):
      raise InputError(
        f'{file}: "{key}" of {shown} is {type(value).__name__}, and must be '
        f'{kind.__name__}'
      )
    if isinstance(value, str):
      try:
        value.encode()
      except UnicodeEncodeError as error:
        raise InputError(
          f'{file}: "{key}" of {shown} holds half of a surrogate pair, which '
          f'is not a character ({error.reason}); mend the file'
        ) from error
    return value
