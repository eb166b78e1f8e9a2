"""What is shown is what was measured, against hand-made inputs."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxlab.evals.classify import answers_in, answers_of, tallied, tally
from jaxlab.ops import calibration
from jaxlab.recipes import pictures
from jaxlab.runs.sections import Sections

CLASSES = ('cat', 'dog', 'eel')


class Page(Sections):
  """Keeps what it is given and draws nothing."""

  def images(self, name, pictures, labels=(), caption='', columns=8):
    self.found.append((name, np.asarray(pictures), list(labels), columns))

  def panels(self, name, draws, caption='', size=()):
    self.found.append((name, draws))


class Axes:
  """Notes what is drawn on it."""

  def __init__(self):
    self.calls = []

  def __getattr__(self, name):
    return lambda *args, **more: self.calls.append((name, args, more))

  def of(self, name):
    return [(args, more) for called, args, more in self.calls if called == name]


def answered(seed=0, rows=200, k=3):
  draw = np.random.default_rng(seed)
  logits = draw.normal(0, 2, (rows, k)).astype(np.float32)
  return logits, draw.integers(0, k, rows)


def tally_of(logits, labels, batch=64):
  """In batches, the last padded with what would be surely wrong."""
  total = tally(logits.shape[1])
  for start in range(0, len(labels), batch):
    rows = slice(start, start + batch)
    count = len(labels[rows])
    pad = batch - count
    total = tallied(
      total,
      jnp.asarray(np.pad(logits[rows], ((0, pad), (0, 0)), constant_values=99)),
      jnp.asarray(np.pad(labels[rows], (0, pad), constant_values=2)),
      jnp.arange(start, start + batch) + 1000,
      jnp.arange(batch) < count,
    )
  return answers_of({name: np.asarray(x) for name, x in total.items()})


def test_the_confusion_is_the_bincount_of_pairs():
  logits, labels = answered()
  want = np.zeros((3, 3), int)
  for label, answer in zip(labels, logits.argmax(1)):
    want[label, answer] += 1
  p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
  for found in (tally_of(logits, labels), answers_in(p, labels)):
    np.testing.assert_array_equal(found.confusion, want)


def test_the_worst_mistakes_are_ordered_by_confidence_over_all_batches():
  logits, labels = answered()
  p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
  wrong = [i for i in range(len(labels)) if p[i].argmax() != labels[i]]
  order = sorted(wrong, key=lambda i: -p[i].max())[:16]
  for found, first in (
    (tally_of(logits, labels), 1000),
    (answers_in(p, labels), 0),
  ):
    assert found.ids.tolist() == [i + first for i in order]
    assert found.labels.tolist() == labels[order].tolist()
    assert found.answers.tolist() == p[order].argmax(1).tolist()
    np.testing.assert_allclose(found.confidence, p[order].max(1), rtol=1e-5)


def test_a_set_with_few_mistakes_shows_no_others():
  logits = np.eye(3, dtype=np.float32)[[0, 1, 2, 2]]
  found = tally_of(logits, np.array([0, 1, 2, 0]))
  assert (found.ids.tolist(), found.labels.tolist()) == ([1003], [0])
  none = tally_of(logits[:3], np.array([0, 1, 2]))
  page = Page()
  pictures.mistakes(page, none, np.zeros(0), CLASSES)
  pictures.misread(page, none, [], CLASSES)
  assert page.found == []


def test_the_diagram_is_that_of_all_logits():
  logits, labels = answered(1)
  want = calibration.reliability(logits.astype(float), labels)
  p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
  for found in (tally_of(logits, labels), answers_in(p, labels)):
    for name in want._fields:
      got = getattr(found.reliability, name)
      np.testing.assert_allclose(got, getattr(want, name), rtol=1e-5)


def test_a_matrix_has_rows_of_labels_that_sum_to_one():
  counts = np.array([[8, 2, 0], [0, 0, 0], [1, 0, 3]])
  axes = Axes()
  pictures.confusion(counts, CLASSES)(axes)
  [((shares,), _)] = axes.of('imshow')
  np.testing.assert_allclose(shares, [[0.8, 0.2, 0], [0] * 3, [0.25, 0, 0.75]])
  assert axes.of('set_ylabel')[0][0] == ('label',)
  assert axes.of('set_yticks')[0][0][1] == list(CLASSES)
  texts = {args[:2]: args[2] for args, _ in axes.of('text')}
  assert texts[1, 0] == '2' and texts[0, 2] == '1'  # x: answer, y: label


def test_many_classes_are_drawn_without_names_or_counts():
  axes = Axes()
  pictures.confusion(np.eye(40))(axes)
  assert not axes.of('set_xticks') and not axes.of('text')


def test_the_diagram_has_the_share_of_examples_in_each_bin():
  logits, labels = answered(1)
  found, axes = tally_of(logits, labels), Axes()
  pictures.reliability(found.reliability)(axes)
  [((low, share, width), _)] = axes.of('bar')
  assert share.sum() == pytest.approx(1) and len(share) == 15
  np.testing.assert_allclose(low + width, np.arange(1, 16) / 15)


def test_mistakes_are_told_with_label_answer_and_probability():
  p = np.array([[0.1, 0.9, 0], [0.996, 0, 0.004], [0, 0, 1.0], [0, 0.4, 0.6]])
  found = answers_in(p, [0, 1, 0, 2])
  page, images = Page(), np.arange(3.0).reshape(3, 1, 1, 1)
  pictures.mistakes(page, found, images, CLASSES)
  [(name, shown, labels, _)] = page.found
  assert name == 'mistakes_test' and shown is not None
  assert labels == [
    'is cat\nsaid eel, 100 %',
    'is dog\nsaid cat, 99.6 %',
    'is cat\nsaid dog, 90 %',
  ]
  page = Sections()
  pictures.misread(page, found, ['a', 'b', 500 * 'c'], CLASSES)
  rows = page.found[0]['rows']
  assert rows[0] == [['is cat, said eel (100 %)', 0.5], ['  a', 0.0]]
  assert rows[2][1][0] == '  ' + 400 * 'c' + '…'


def test_a_masked_word_is_shown_and_the_true_one_beside_a_wrong_one():
  page = Sections()
  rows = [['[CLS]', 'the', 'k', '##ing', 'is', '[MASK]', '.']]
  masked = [{3: ('##ing', 0.7, '##ing'), 5: ('dead', 0.25, 'great')}]
  pictures.filled(page, rows, masked)
  [row] = page.found[0]['rows']
  assert (
    ''.join(text for text, _ in row) == '[CLS] the king is dead 25 % [great] .'
  )
  marked = {text: weight for text, weight in row if weight}
  assert marked == {'ing': 0.3, 'dead': 0.9}


def test_answers_stand_beside_the_right_ones():
  page = Sections()
  rows = [
    ('Who?', 'Ann', 0.5, ('Ann', 'Ann', 'A.')),
    ('Where?', 'here', 0.25, ('there',)),
  ]
  pictures.answered(page, rows * 6)
  shown = page.found[0]['rows']
  assert len(shown) == 10
  assert shown[0] == [['Who?  ', 0], ['Ann', 0.3], [' 50 % [Ann | A.]', 0]]
  assert shown[1] == [['Where?  ', 0], ['here', 0.9], [' 25 % [there]', 0]]
  pictures.answered(page, [])
  assert len(page.found) == 1


def test_translations_stand_between_source_and_reference():
  page = Sections()
  pictures.translated(page, ['un'] * 12, ['one'] * 12, ['on'] * 12)
  shown = page.found[0]['rows']
  assert len(shown) == 10
  assert shown[0] == [['un\n', 0], ['on', 0.3], ['\n[one]', 0]]


def test_an_attack_is_shown_as_clean_difference_and_sum():
  clean = np.full((2, 1, 1, 1), 0.5)
  changed = clean + np.array([0.1, -0.05]).reshape(2, 1, 1, 1)
  shown = pictures.Shown(
    clean, changed, np.array([0, 1]), np.array([0, 2]), np.array([1, 2])
  )
  page = Page()
  budgets = {'pgd': 0.1}
  pictures.keep_attacked(page, CLASSES, budgets, 'fgsm', shown)
  assert page.found == []
  pictures.keep_attacked(page, CLASSES, budgets, 'pgd', shown)
  [(name, images, labels, columns)] = page.found
  assert (name, columns) == ('attacked_pgd', 2)
  np.testing.assert_allclose(images.ravel(), [0.5, 0.5, 1, 0.25, 0.6, 0.45])
  assert labels == [
    *('is cat, said cat', 'is dog, said eel'),
    *('', ''),
    *('said dog', 'said eel'),
  ]


def test_outliers_are_sorted_from_near_to_far_by_the_first_detector():
  row = lambda ood, detector, auroc, setting='clean': {
    'ood': ood,
    'detector': detector,
    'auroc': auroc,
    'setting': setting,
  }
  rows = [
    *(row('far', 'msp', 0.9), row('far', 'energy', 0.7)),
    *(row('near', 'msp', 0.6), row('near', 'energy', 0.8)),
    row('near', 'msp', 0.1, 'both'),
  ]
  page = Sections()
  pictures.by_distance(page, rows, 'msp')
  [table] = page.found
  assert table['columns'] == ['outliers', 'msp', 'energy']
  assert table['rows'] == [['near', 0.6, 0.8], ['far', 0.9, 0.7]]
