"""Windows over contexts: nothing is lost, and answers lead back to the text."""

import json
import random
import string

import numpy as np
import pytest

from jaxlab.core.errors import InputError
from jaxlab.data.in_memory import ArraySource
from jaxlab.data.text import wordpiece
from jaxlab.data.text.squad import read_squad
from jaxlab.data.text.squad_windows import Shape, batch_spec, make_windows

SHAPE = Shape(sequence_length=32, stride=7, max_query=6)


# The special pieces are in an order and a place of their own.
PIECES = [
  *string.ascii_lowercase + string.digits + '.,',
  *('[SEP]', '[UNK]', '[CLS]', '[MASK]', '[PAD]'),
  *(f'##{c}' for c in string.ascii_lowercase),
  *('##er', 'th', '##ing'),
]


@pytest.fixture(scope='module')
def tokenizer():
  return wordpiece.make_tokenizer(PIECES)


@pytest.fixture(scope='module')
def squad(tmp_path_factory):
  """Texts of random words, some with accents, of 1 to 60 words."""
  draw = random.Random(0)
  letters = string.ascii_letters + 'éÖ'

  def words(count):
    return [''.join(draw.choices(letters, k=draw.randint(1, 4))) for _ in count]

  paragraphs = []
  for number, length in enumerate((1, 3, 8, 20, 40, 60)):
    parts = words(range(length))
    context = '  '.join(parts)
    qas = []
    for index in range(4):
      begin = draw.randrange(length)
      text = '  '.join(parts[begin : begin + draw.randint(1, 3)])
      start = len('  '.join(parts[:begin])) + (2 if begin else 0)
      qas.append(
        {
          'id': f'{number}-{index}',
          'question': ' '.join(words(range(1 + 2 * index))),
          'answers': [{'text': text, 'answer_start': start}],
        }
      )
    paragraphs.append({'context': context, 'qas': qas})
  data = {'data': [{'title': 'made up', 'paragraphs': paragraphs}]}
  path = tmp_path_factory.mktemp('squad') / 'made.json'
  path.write_text(json.dumps(data))
  return read_squad(str(path), strict=True)


def test_labels_lead_back_to_the_answer_and_to_no_other_text(squad, tokenizer):
  found = make_windows(squad, tokenizer, SHAPE, training=True)
  seen = set()
  for window in range(len(found.question)):
    question = squad.questions[found.question[window]]
    start, end = found.arrays['start'][window], found.arrays['end'][window]
    if start:
      key, text = found.read(window, start, end)
      assert (key, text) == (question.id, question.answers[0])
      seen.add(key)
    else:
      assert end == 0
  assert seen == {question.id for question in squad.questions}


def test_a_window_without_the_whole_answer_is_labelled_with_the_first_token(
  squad, tokenizer
):
  found = make_windows(squad, tokenizer, SHAPE, training=True)
  empty = 0
  for window in np.flatnonzero(found.arrays['start'] == 0):
    question = squad.questions[found.question[window]]
    spans = found.offsets[question.context]
    begin = found.base[window]
    first, length = (found.arrays[k][window] for k in ('first', 'length'))
    inside = spans[begin : begin + length - 1 - first]
    whole = inside[0, 0] <= question.start and inside[-1, 1] >= question.stop
    assert not whole
    empty += 1
  assert empty  # such windows exist


def test_rows_are_question_and_context_in_order(squad, tokenizer):
  found = make_windows(squad, tokenizer, SHAPE, training=False)
  for window in range(len(found.question)):
    question = squad.questions[found.question[window]]
    first, length = (found.arrays[k][window] for k in ('first', 'length'))
    row = found.arrays['tokens'][window]
    encode = lambda text: tokenizer.encode(text, add_special_tokens=False).ids
    query = encode(question.text)[: SHAPE.max_query]
    context = encode(squad.contexts[question.context])
    begin = found.base[window]
    part = context[begin : begin + length - 1 - first]
    cls, sep, pad = map(PIECES.index, ('[CLS]', '[SEP]', '[PAD]'))
    assert row[:length].tolist() == [cls, *query, sep, *part, sep]
    assert (row[length:] == pad).all()
    assert row[first : length - 1].tolist() == part


def test_each_token_may_start_an_answer_in_the_window_with_most_context(
  squad, tokenizer
):
  found = make_windows(squad, tokenizer, SHAPE, training=False)
  for number, question in enumerate(squad.questions):
    windows = np.flatnonzero(found.question == number)
    spans = [
      (
        found.base[w],
        found.base[w]
        + found.arrays['length'][w]
        - found.arrays['first'][w]
        - 1,
      )
      for w in windows
    ]
    for token in range(len(found.offsets[question.context])):
      # BERT's rule, one token at a time; the first window wins a tie.
      scores = [
        min(token - a, b - 1 - token) + 0.01 * (b - a)
        if a <= token < b
        else -np.inf
        for a, b in spans
      ]
      chosen = [
        bool(
          a <= token < b
          and found.arrays['startable'][w, found.arrays['first'][w] + token - a]
        )
        for w, (a, b) in zip(windows, spans)
      ]
      expected = np.arange(len(windows)) == np.argmax(scores)
      assert chosen == expected.tolist()


def test_questions_without_an_answer_in_place_are_not_trained_on(
  squad, tokenizer
):
  lost = squad.questions[0]._replace(start=0, stop=0)
  changed = squad._replace(questions=[lost, *squad.questions[1:3]])
  train = make_windows(changed, tokenizer, SHAPE, training=True)
  assert 0 not in train.question
  assert 0 in make_windows(changed, tokenizer, SHAPE, training=False).question
  nothing = squad._replace(questions=[lost])
  with pytest.raises(InputError, match='no question to train'):
    make_windows(nothing, tokenizer, SHAPE, training=True)


def test_batches_are_of_the_declared_arrays(squad, tokenizer):
  found = make_windows(squad, tokenizer, SHAPE, training=True)
  source = ArraySource(found.arrays, batch_size=4)
  spec = batch_spec(4, SHAPE)
  assert {k: (v.shape, v.dtype) for k, v in source.spec['train'].items()} == {
    k: (v.shape, v.dtype) for k, v in spec.items()
  }


@pytest.mark.parametrize('stride, max_query', [(0, 6), (24, 6), (1, 29)])
def test_a_shape_that_skips_tokens_is_refused(stride, max_query):
  with pytest.raises(InputError, match='stride'):
    Shape(32, stride, max_query).check()
  Shape(32, 23, 6).check()  # the largest stride
