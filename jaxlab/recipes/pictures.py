"""What people would rather look at than numbers, once for all papers.

Every function hands one section over to a stage's page, made of what the
judgement has computed already.

  classified(page, answers, classes)     what is taken for what; calibration
  mistakes(page, answers, images, …)     images that are surely wrong
  misread(page, answers, texts, …)       the same of texts
  answered(page, rows)                   questions, answers, right answers
  translated(page, …)                    sentences, translations, references
  filled(page, …)                        masked words beside the true ones
  attacked(page, shown, …)               clean, difference, attacked
  by_distance(page, rows, …)             outliers, the nearest set first
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxlab.evals.calibrate import reliability_diagrams
from jaxlab.evals.classify import Answers
from jaxlab.ops.calibration import Reliability
from jaxlab.runs.sections import Sections

Draw = Callable[[Any], None]

_NAMED = 30  # classes whose names fit beside a matrix
_COUNTED = 6  # classes whose counts fit into it
_QUESTIONS = 10  # or sentences, that are shown
_TEXT = 400  # characters of a text that is shown


class Shown(NamedTuple):
  """A few images before and after an attack, and what they are taken for."""

  clean: np.ndarray  # [n, h, w, c] float32 in [0, 1]
  changed: np.ndarray  # [n, h, w, c]
  labels: np.ndarray  # [n] int
  before: np.ndarray  # [n] int, the answer to the clean image
  after: np.ndarray  # [n] int


def classified(
  page: Sections, answers: Answers, classes: Sequence[str], of: str = 'test'
) -> None:
  """One figure: the confusion matrix, and where there is room a diagram.

  Args:
    of: the set, in the caption.
  """
  page.panels(
    f'answers_{of}',
    [confusion(answers.confusion, classes), reliability(answers.reliability)],
    f'{of}, left: what is taken for what, each row its share of a label; all '
    'is right on the diagonal. Right: confidence against accuracy; below the '
    'dotted line the classifier is too sure.',
    (9, 4),
  )


def confusion(counts: np.ndarray, classes: Sequence[str] = ()) -> Draw:
  """A confusion matrix, to be drawn on axes; each row sums to 1.

  Args:
    counts: [k, k], label x answer.
    classes: names of the k classes; default: numbers.
  """
  counts = np.asarray(counts)
  k = len(counts)
  shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)

  def draw(axes):
    axes.imshow(shares, cmap='Blues', vmin=0, vmax=1)
    axes.set_xlabel('answer')
    axes.set_ylabel('label')
    if k <= _NAMED:
      names = [str(x)[:20] for x in classes or range(k)]
      turned = 90 if max(map(len, names)) > 2 else 0
      axes.set_xticks(range(k), names, rotation=turned, fontsize=6)
      axes.set_yticks(range(k), names, fontsize=6)
    if k <= _COUNTED:
      for row, column in np.ndindex(k, k):
        axes.text(
          *(column, row, str(counts[row, column])),
          ha='center',
          va='center',
          color='white' if shares[row, column] > 0.5 else 'black',
        )

  return draw


def reliability(table: Reliability) -> Draw:
  """A reliability diagram over the shares of examples, to be drawn on axes."""

  def draw(axes):
    share = table.examples / max(1, table.examples.sum())
    width = table.high - table.low
    axes.bar(
      table.low, share, width, align='edge', color='0.88', label='examples'
    )
    reliability_diagrams({'accuracy': table})(axes)
    axes.set(xlim=(0, 1), ylim=(0, 1.02))

  return draw


def mistakes(
  page: Sections,
  answers: Answers,
  images: np.ndarray,
  classes: Sequence[str],
  of: str = 'test',
) -> None:
  """A grid of the worst mistakes; nothing where there is none.

  Args:
    images: [m, h, w, c] those of `answers.ids`, as `Sections.images` has them.
  """
  if len(answers.ids):
    page.images(
      f'mistakes_{of}',
      images,
      [
        f'is {a}\nsaid {b}, {_percent(p)}'
        for a, b, p in _named(answers, classes)
      ],
      f'Worst mistakes of {of}: what is sure and wrong stands first. Label, '
      'answer and its probability.',
    )


def misread(
  page: Sections,
  answers: Answers,
  texts: Sequence[str],
  classes: Sequence[str],
  of: str = 'test',
) -> None:
  """Texts of the worst mistakes, each after its label and the answer.

  Args:
    texts: [m] those of `answers.ids`.
  """
  if len(answers.ids):
    rows = [
      [(f'is {a}, said {b} ({_percent(p)})', 0.5), (f'  {_cut(text)}', 0.0)]
      for text, (a, b, p) in zip(texts, _named(answers, classes))
    ]
    title = f'Worst mistakes of {of}: what is sure and wrong stands first'
    page.samples(title, rows)


def answered(
  page: Sections,
  rows: Sequence[tuple[str, str, float, Sequence[str]]],
  of: str = 'test',
) -> None:
  """Questions with the network's answers beside the right ones.

  Args:
    rows: (question, answer, its probability, right answers), of which the first
      are shown, wrong ones as those that are right.
  """
  found = [
    [
      (f'{_cut(question)}  ', 0.0),
      (answer, 0.3 if answer in right else 0.9),
      (f' {_percent(p)} [{" | ".join(dict.fromkeys(right))}]', 0.0),
    ]
    for question, answer, p, right in rows[:_QUESTIONS]
  ]
  if found:
    title = (
      f'Questions of {of} and their answers: pale where one is right to the '
      'letter, else strong; then its probability and [what is right]'
    )
    page.samples(title, found)


def translated(
  page: Sections,
  sources: Sequence[str],
  references: Sequence[str],
  translations: Sequence[str],
  of: str = 'test',
) -> None:
  """The first sentences, their translations and below the references."""
  triples = zip(sources, translations, references)
  page.samples(
    f'Translations of {of}, the reference below each in brackets',
    [
      [(f'{a}\n', 0.0), (b, 0.3), (f'\n[{c}]', 0.0)]
      for a, b, c in list(triples)[:_QUESTIONS]
    ],
  )


def filled(
  page: Sections,
  rows: Sequence[Sequence[str]],
  masked: Sequence[Mapping[int, tuple[str, float, str]]],
  of: str = 'test',
) -> None:
  """Texts whose masked words are filled in, the true ones beside wrong ones.

  Args:
    rows: pieces of words of each text; '##x' goes on with a word.
    masked: for each, place -> (answer, its probability, the true piece).
  """
  page.samples(
    f'Masked words of {of} as the network fills them in: pale where it is '
    'right; strong where it is wrong, then its probability and [the true one]',
    [_filled(pieces, places) for pieces, places in zip(rows, masked)],
  )


def _filled(pieces, places) -> list[tuple[str, float]]:
  found: list[tuple[str, float]] = []
  for place, piece in enumerate(pieces):
    answer, p, true = places.get(place, (piece, 0.0, piece))
    if found and not answer.startswith('##'):
      found.append((' ', 0.0))
    text = answer.removeprefix('##')
    if place not in places:
      found.append((text, 0.0))
    elif answer == true:
      found.append((text, 0.3))
    else:
      found += [(text, 0.9), (f' {_percent(p)} [{true}]', 0.0)]
  return found


def attacked(
  page: Sections,
  shown: Shown,
  classes: Sequence[str],
  name: str,
  epsilon: float,
) -> None:
  """A grid of three rows: clean images, what is added, their sum.

  Args:
    name: of the attack.
    epsilon: its budget; the difference is shown as a share of it.
  """
  word = lambda number: _name(classes, number)
  page.images(
    f'attacked_{name}',
    np.concatenate(
      [
        shown.clean,
        0.5 + (shown.changed - shown.clean) / (2 * epsilon),
        shown.changed,
      ]
    ),
    [
      *(f'is {word(a)}, said {word(b)}' for a, b in zip(*shown[2:4])),
      *[''] * len(shown.clean),
      *(f'said {word(a)}' for a in shown.after),
    ],
    f'{name}: above, images and what they are taken for; middle, what the '
    f'attack adds (grey is none, black and white {255 * epsilon:.3g}/255); '
    'below, their sum and what that is taken for.',
    columns=len(shown.clean),
  )


def keep_attacked(
  page: Sections,
  classes: Sequence[str],
  budgets: Mapping[str, float],
  name: str,
  shown: Shown,
) -> None:
  """`attacked`, of the attacks that have a budget here: for `withstood`."""
  if name in budgets:
    attacked(page, shown, classes, name, budgets[name])


def by_distance(
  page: Sections, rows: Sequence[Mapping[str, Any]], first: str
) -> None:
  """A table of clean outliers: AUROC by set and detector, the nearest first.

  Near is what the first detector tells worst from the set itself.

  Args:
    rows: of `evals.ood.ood_table`.
    first: the detector that sorts.
  """
  clean = [row for row in rows if row['setting'] == 'clean']
  found: dict[str, dict[str, float]] = {}
  for row in clean:
    found.setdefault(row['ood'], {})[row['detector']] = row['auroc']
  order = sorted(found, key=lambda name: found[name][first])
  detectors = [first, *(d for d in found[order[0]] if d != first)]
  page.table(
    f'AUROC by set of outliers, clean: near ones, hard to tell for {first}, '
    'above, far ones below',
    ['outliers', *detectors],
    [{'outliers': name, **found[name]} for name in order],
  )


def _named(answers: Answers, classes: Sequence[str]):
  """(label, answer, confidence) of each mistake, in words."""
  for label, answer, p in zip(*answers[3:]):
    yield _name(classes, label), _name(classes, answer), p


def _name(classes: Sequence[str], number: int) -> str:
  return str(classes[number])[:18] if len(classes) else str(number)


def _percent(p: float) -> str:
  """0.984 -> '98 %'; never 100 % unless it is."""
  return f'{100 * p:.0f} %' if p < 0.995 or p >= 1 else f'{100 * p:.4g} %'


def _cut(text: str) -> str:
  return text if len(text) <= _TEXT else f'{text[:_TEXT]}…'
