"""Reading SQuAD v1.1's format, and all that may be wrong with a file."""

import json

import pytest

from jaxlab.core.errors import InputError
from jaxlab.data.text.squad import hold_out, read_squad

CONTEXT = 'Élan: the town lies on the Elbe. It has 7 bridges.'


def question(key, text='Elbe', start=None, context=CONTEXT):
  begin = context.index(text) if start is None else start
  return {
    'id': key,
    'question': 'On what?',
    'answers': [{'text': text, 'answer_start': begin}],
  }


def article(title, *questions, context=CONTEXT):
  return {
    'title': title,
    'paragraphs': [{'context': context, 'qas': list(questions)}],
  }


def write(path, *articles):
  path.write_text(json.dumps({'version': '1.1', 'data': list(articles)}))
  return str(path)


def test_questions_come_with_their_characters(tmp_path):
  item = question('1')
  item['answers'].append({'text': 'the Elbe', 'answer_start': 23})
  found = read_squad(write(tmp_path / 'a', article('Town', item)), strict=True)
  (one,) = found.questions
  assert one.answers == ('Elbe', 'the Elbe')
  assert found.contexts[one.context][one.start : one.stop] == 'Elbe'
  assert found.titles == ['Town']
  assert found.mismatched == ()
  assert len(found.sha256) == 64


def test_answers_out_of_place_are_counted_and_not_trained_on(tmp_path, capsys):
  good = [question(str(i)) for i in range(199)]
  bad = question('odd', 'Elbe', start=0)
  path = write(tmp_path / 'a', article('Town', *good, bad))
  found = read_squad(path)
  assert found.mismatched == ('odd',)
  assert found.questions[-1].start == found.questions[-1].stop
  assert found.questions[-1].answers == ('Elbe',)  # it still counts as right
  said = capsys.readouterr().err
  assert '1 of 200' in said
  assert '"odd"' in said
  with pytest.raises(InputError, match=r'question "odd".*strict=False'):
    read_squad(path, strict=True)


def test_a_second_answer_may_stand_in_for_one_out_of_place(tmp_path):
  item = question('1', start=2)
  item['answers'].append({'text': 'Elbe', 'answer_start': 27})
  good = [question(str(i)) for i in range(2, 102)]
  found = read_squad(write(tmp_path / 'a', article('Town', item, *good)))
  assert found.questions[0].start == 27
  assert found.mismatched == ('1',)


def test_too_many_answers_out_of_place_are_refused_by_id(tmp_path):
  """Byte offsets, say: after É each is one too far."""
  items = [question(str(i), start=CONTEXT.index('Elbe') + 1) for i in range(10)]
  with pytest.raises(InputError, match=r'10 of 10.*"0".*character 28.*bytes'):
    read_squad(write(tmp_path / 'a', article('Town', *items)))


@pytest.mark.parametrize('text', ['', ' '])
def test_a_blank_answer_is_out_of_place(tmp_path, text):
  item = question('1', text, start=5)
  with pytest.raises(InputError, match='question "1"'):
    read_squad(write(tmp_path / 'a', article('Town', item)), strict=True)


def test_a_question_of_version_2_without_answer_is_refused(tmp_path):
  item = {**question('imp'), 'answers': [], 'is_impossible': True}
  with pytest.raises(InputError, match=r'question "imp" has no answer.*v1\.1'):
    read_squad(write(tmp_path / 'a', article('Town', item)))


def test_an_id_that_occurs_twice_is_refused(tmp_path):
  path = write(tmp_path / 'a', article('Town', question('1'), question('1')))
  with pytest.raises(InputError, match='"1" occurs twice'):
    read_squad(path)


@pytest.mark.parametrize(
  'text, message',
  [
    ('{"data": [', 'not JSON'),
    ('\xff', 'not JSON'),
    ('[]', 'the whole is not an object with a "data"'),
    ('{"version": "1.1"}', 'the whole has no "data"; its keys'),
    ('{"data": {}}', '"data" of the whole is dict, and must be list'),
    ('{"data": []}', 'has no question'),
    ('{"data": [{"title": "x"}]}', r'data\[0\] has no "paragraphs"'),
    (
      '{"data": [{"title": "x", "paragraphs": [{"context": 3, "qas": []}]}]}',
      r'"context" of data\[0\]\.paragraphs\[0\] is int',
    ),
    ('{"data": [{"title": "\\ud800", "paragraphs": []}]}', 'surrogate'),
  ],
)
def test_another_format_is_refused_by_file_and_place(tmp_path, text, message):
  path = tmp_path / 'odd.json'
  path.write_bytes(text.encode('latin-1'))
  with pytest.raises(InputError, match=f'odd.json.*{message}'):
    read_squad(str(path))


def test_a_start_that_is_no_number_is_refused(tmp_path):
  item = question('1')
  item['answers'][0]['answer_start'] = '27'
  place = r'data\[0\]\.paragraphs\[0\]\.qas\[0\]\.answers\[0\]'
  with pytest.raises(InputError, match=f'answer_start.*{place} is str'):
    read_squad(write(tmp_path / 'a', article('Town', item)))


def test_a_missing_file_and_an_empty_name_are_refused(tmp_path):
  name = 'config.data.squad_train'
  with pytest.raises(InputError, match=r'squad_train is empty.*v1\.1'):
    read_squad('', name=name)
  with pytest.raises(InputError, match=r'squad_train: cannot read .*none\.js'):
    read_squad(str(tmp_path / 'none.js'), name=name)


def test_a_tenth_of_the_articles_is_held_out_whole(tmp_path):
  articles = [
    article(f'title {i}', question(f'{i}a'), question(f'{i}b'))
    for i in range(20)
  ]
  whole = read_squad(write(tmp_path / 'a', *articles))
  train, held = hold_out(whole)
  parts = [
    {part.titles[q.context] for q in part.questions} for part in (train, held)
  ]
  assert len(parts[0]) == 18
  assert len(parts[1]) == 2
  assert not parts[0] & parts[1]
  assert len(train.questions) + len(held.questions) == 40
  again = hold_out(read_squad(write(tmp_path / 'b', *articles[::-1])))[1]
  assert {q.id for q in again.questions} == {q.id for q in held.questions}
  single = read_squad(write(tmp_path / 'c', articles[0]))
  with pytest.raises(InputError, match='hold_out=False'):
    hold_out(single)
