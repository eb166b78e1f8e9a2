"""Texts with classes: parts that share nothing, rows of tokens."""

import string
import types

import numpy as np
import pytest

from jaxlab.core.errors import InputError
from jaxlab.data.in_memory import ArraySource
from jaxlab.data.text import labelled, wordpiece
from jaxlab.data.text.labelled import LabelledText

# The special pieces are in an order and a place of their own.
PIECES = [
  *('[SEP]', '[unused0]', '[UNK]', '[CLS]', '[MASK]'),
  *string.ascii_lowercase,
  '[PAD]',
]


@pytest.fixture(scope='module')
def tokenizer():
  return wordpiece.make_tokenizer(PIECES)


def made(texts, labels=None):
  labels = np.zeros(len(texts), np.int32) if labels is None else labels
  return LabelledText(list(texts), np.asarray(labels, np.int32), ('no', 'yes'))


def given(monkeypatch, **splits):
  """Makes every name a TFDS set of these splits."""
  known = types.SimpleNamespace(
    features=('text', 'label'), classes={'label': ('no', 'yes')}
  )
  monkeypatch.setattr(labelled.tfds, 'inspect_set', lambda name, offline: known)
  monkeypatch.setattr(
    labelled.tfds,
    'examples',
    lambda name, split, offline: [
      {'text': text.encode(), 'label': label}
      for text, label in zip(splits[split].texts, splits[split].labels)
    ],
  )


def test_the_parts_of_pydoc_share_no_text_and_hold_every_class():
  found = labelled.open_splits('pydoc')
  parts = [found.train, found.validation, found.test]
  for part in parts:
    assert len(part.texts) == len(part.labels) > 50
    assert set(part.labels) == set(range(len(labelled.PYDOC_TOPICS)))
  texts = [text for part in parts for text in part.texts]
  assert len(set(texts)) == len(texts)
  assert found.sha256 == labelled.open_splits('pydoc').sha256


def test_held_out_texts_do_not_depend_on_the_order_of_the_set(monkeypatch):
  texts = [f'text {i % 250}' for i in range(300)]  # 50 occur twice
  labels = np.arange(300) % 2
  test = made(['test'])
  given(monkeypatch, train=made(texts, labels), test=test)
  one = labelled.open_splits('made')
  turned = made(texts[::-1], labels[::-1])
  given(monkeypatch, train=turned, test=test)
  two = labelled.open_splits('made')
  assert one.train.texts == two.train.texts
  assert one.validation.texts == two.validation.texts
  assert not set(one.train.texts) & set(one.validation.texts)
  assert len(one.train.texts) + len(one.validation.texts) == 300
  assert 15 < len(one.validation.texts) < 50
  pairs = set(zip(texts, labels))
  assert set(zip(one.train.texts, one.train.labels)) <= pairs


def test_line_ends_of_reviews_are_spaces(monkeypatch):
  texts = [f'one<br />two<br/>{i}' for i in range(40)]
  given(monkeypatch, train=made(texts), test=made(['a<br>b']))
  found = labelled.open_splits('made')
  assert found.test.texts == ['a b']
  assert all(text.startswith('one two ') for text in found.train.texts)


def test_a_label_outside_of_the_classes_is_refused(monkeypatch):
  texts = [str(i) for i in range(40)]
  wrong = made(texts, [0, 1, 2, *[0] * 37])
  given(monkeypatch, train=wrong, test=made(['x']))
  with pytest.raises(InputError, match=r'example 2 has the label 2.*0 to 1'):
    labelled.open_splits('made')
  given(monkeypatch, train=made(texts), test=made(['x'], [-1]))
  with pytest.raises(InputError, match='example 0 has the label -1'):
    labelled.open_splits('made')


def test_a_part_without_texts_is_refused(monkeypatch):
  given(monkeypatch, train=made(['one']), test=made(['x']))
  with pytest.raises(InputError, match=r'no text for (train|validation)'):
    labelled.open_splits('made')


@pytest.mark.parametrize(
  'keep, letters', [('start', 'abcdef'), ('end', 'ghijkl'), ('both', 'ahijkl')]
)
def test_a_long_text_keeps_the_part_that_was_asked_for(
  tokenizer, keep, letters
):
  part = made(['a b c d e f g h i j k l', 'x y', 'a b c d e f'], [1, 0, 1])
  found = labelled.encode(part, tokenizer, 8, keep)
  ids = lambda text: (
    tokenizer.encode(' '.join(text), add_special_tokens=False).ids
  )
  cls, sep, pad = map(PIECES.index, ('[CLS]', '[SEP]', '[PAD]'))
  assert found.arrays['tokens'].tolist() == [
    [cls, *ids(letters), sep],
    [cls, *ids('xy'), sep, *[pad] * 4],
    [cls, *ids('abcdef'), sep],
  ]
  assert found.arrays['length'].tolist() == [8, 4, 8]
  assert found.arrays['label'].tolist() == [1, 0, 1]
  assert found.truncated == pytest.approx(1 / 3)
  assert found.unknown == 0


def test_unknown_words_are_counted_among_the_tokens_kept(tokenizer):
  found = labelled.encode(made(['a 7 b 7', '']), tokenizer, 6)
  assert found.unknown == pytest.approx(1 / 2)
  assert found.arrays['length'].tolist() == [6, 2]  # an empty text is a row too


def test_batches_are_of_the_declared_arrays(tokenizer):
  found = labelled.encode(made(['a', 'b']), tokenizer, 6)
  source = ArraySource(found.arrays, batch_size=4)
  spec = labelled.batch_spec(4, 6)
  assert {k: (v.shape, v.dtype) for k, v in source.spec['train'].items()} == {
    k: (v.shape, v.dtype) for k, v in spec.items()
  }


@pytest.mark.parametrize('length, keep', [(2, 'start'), (8, 'middle')])
def test_rows_that_cannot_be_are_refused(tokenizer, length, keep):
  with pytest.raises(InputError, match='sequence_length'):
    labelled.encode(made(['a']), tokenizer, length, keep)
