"""Pages of the sixteen classes of RVL-CDIP, and of two more, typeset.

Words are of the language reference that CPython ships, fonts those that
matplotlib ships; margins, sizes and gaps are drawn.
"""

import functools
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

HEIGHT, WIDTH = 390, 300  # pixels that layouts are drawn on
_FONTS = {
  'serif': 'DejaVuSerif.ttf',
  'bold': 'DejaVuSerif-Bold.ttf',
  'italic': 'DejaVuSerif-Italic.ttf',
  'sans': 'DejaVuSans.ttf',
  'sans_bold': 'DejaVuSans-Bold.ttf',
  'mono': 'DejaVuSansMono.ttf',
  'hand': 'DejaVuSans-Oblique.ttf',
  'roman': 'STIXGeneral.ttf',
}


@functools.cache
def font_of(name: str, size: int) -> ImageFont.FreeTypeFont:
  """One of matplotlib's fonts, in pixels."""
  import matplotlib

  folder = Path(matplotlib.get_data_path()) / 'fonts' / 'ttf'
  return ImageFont.truetype(str(folder / _FONTS[name]), size)


@functools.cache
def words() -> tuple[str, ...]:
  """Running words of CPython's language reference."""
  from pydoc_data.topics import topics

  text = ' '.join(topics[name] for name in sorted(topics))
  return tuple(re.findall(r"[A-Za-z][a-z']*[,.;]?", text))


class _Sheet:
  """A page being typeset; coordinates in shares of the width and height."""

  def __init__(self, draw: np.random.Generator):
    self.draw = draw
    self.image = Image.new('L', (WIDTH, HEIGHT), 255)
    self.pen = ImageDraw.Draw(self.image)
    self.margin = draw.uniform(0.07, 0.13)
    self.body = str(draw.choice(['serif', 'roman', 'sans', 'mono']))
    self.size = int(draw.integers(6, 9))

  def at(self, x: float, y: float) -> tuple[float, float]:
    return x * WIDTH, y * HEIGHT

  def some(self, count: int) -> str:
    """So many running words from a drawn place."""
    known = words()
    start = int(self.draw.integers(len(known) - count))
    return ' '.join(known[start : start + count])

  def number(self) -> str:
    return f'{self.draw.integers(1, 99_999) / 100:,.2f}'

  def line(self, x, y, text, font='', size=0, align='left') -> None:
    """One line of text, no wider than the page."""
    font = font_of(font or self.body, size or self.size)
    left, top = self.at(x, y)
    if align != 'left':
      width = font.getlength(text)
      left -= width / (2 if align == 'centre' else 1)
    self.pen.text(
      (left, top), text, fill=int(self.draw.integers(0, 60)), font=font
    )

  def text(
    self, x, y, width, height, font='', size=0, indent=0.0, ragged=0.1
  ) -> float:
    """Lines of running text in a box; returns the y below."""
    size = size or self.size
    face, step = font_of(font or self.body, size), 1.35 * size / HEIGHT
    room = width * WIDTH
    per_line = max(1, int(room / (face.getlength('programme ') * 0.8)))
    end, first = y + height, True
    while y + step <= end:
      line = self.some(per_line)
      while line and face.getlength(line) > room:
        line = line.rpartition(' ')[0]
      last = self.draw.random() < ragged
      if last:
        line = line[: len(line) // 2]
      self.line(x + (indent if first else 0), y, line, font, size)
      first = last
      y += step
    return y

  def rule(self, x, y, width, weight=1) -> None:
    self.pen.line([self.at(x, y), self.at(x + width, y)], fill=0, width=weight)

  def box(self, x, y, width, height, fill=None) -> None:
    corners = [self.at(x, y), self.at(x + width, y + height)]
    self.pen.rectangle(corners, fill=fill, outline=0)

  def grid(self, x, y, width, height, rows, columns, numbers=True) -> None:
    """A table: words on the left, numbers to the right of them."""
    ruled = self.draw.random() < 0.6
    for row in range(rows):
      top = y + height * row / rows
      if ruled:
        self.rule(x, top, width)
      self.line(x, top, self.some(2)[:16], size=6)
      for column in range(1, columns):
        right = x + width * (column + 1) / columns - 0.01
        cell = self.number() if numbers else self.some(1)
        self.line(right, top, cell, size=6, align='right')

  def picture(self, x, y, width, height) -> None:
    """A halftone of smooth noise."""
    coarse = self.draw.integers(0, 200, (5, 5), np.uint8)
    size = (max(2, int(width * WIDTH)), max(2, int(height * HEIGHT)))
    image = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
    left, top = self.at(x, y)
    self.image.paste(image, (int(left), int(top)))

  def scrawl(self, x, y, width, lines, step) -> None:
    """Handwriting: slanted words off the line, joined by strokes."""
    for number in range(lines):
      at, top = x, y + number * step
      while at < x + width - 0.1:
        word = self.some(1).lower()
        size = int(self.draw.integers(9, 14))
        up = self.draw.normal(0, 0.005)
        self.line(at, top + up, word, 'hand', size)
        left, base = self.at(at, top + up)
        length = font_of('hand', size).getlength(word)
        wave = [
          (left + length * t / 6, base + size * self.draw.uniform(0.5, 1.0))
          for t in range(7)
        ]
        self.pen.line(wave, fill=40)
        at += length / WIDTH + self.draw.uniform(0.02, 0.05)


def _letterhead(s: _Sheet) -> float:
  if s.draw.random() < 0.6:
    s.line(0.5, 0.05, s.some(3).upper(), 'bold', 11, 'centre')
    s.line(0.5, 0.09, s.some(6), 'sans', 6, 'centre')
  return s.draw.uniform(0.13, 0.18)


def _letter(s: _Sheet) -> None:
  m, y = s.margin, _letterhead(s)
  s.line(0.62, y, s.some(3))
  for row in range(4):
    s.line(m, y + 0.04 + 0.022 * row, s.some(3))
  s.line(m, y + 0.15, 'Dear ' + s.some(2) + ':')
  y = s.text(m, y + 0.19, 1 - 2 * m, s.draw.uniform(0.25, 0.4), ragged=0.15)
  s.line(0.55, y + 0.02, 'Sincerely,')
  s.scrawl(0.55, y + 0.05, 0.25, 1, 0.03)
  s.line(0.55, y + 0.1, s.some(2))


def _memo(s: _Sheet) -> None:
  m, y = s.margin, _letterhead(s)
  if s.draw.random() < 0.7:
    s.line(m, y, 'MEMORANDUM', 'bold', 11)
  for row, name in enumerate(('TO:', 'FROM:', 'DATE:', 'SUBJECT:')):
    s.line(m, y + 0.05 + 0.03 * row, f'{name}   {s.some(3)}')
  s.rule(m, y + 0.18, 1 - 2 * m)
  s.text(m, y + 0.21, 1 - 2 * m, s.draw.uniform(0.25, 0.5), ragged=0.15)


def _email(s: _Sheet) -> None:
  m, y = s.margin, s.draw.uniform(0.04, 0.1)
  s.rule(m, y, 1 - 2 * m, 2)
  for row, name in enumerate(('From:', 'Sent:', 'To:', 'Cc:', 'Subject:')):
    s.line(m, y + 0.015 + 0.024 * row, name, 'sans_bold', 7)
    s.line(m + 0.16, y + 0.015 + 0.024 * row, s.some(4), 'sans', 7)
  y = s.text(
    m, y + 0.17, 1 - 2 * m, s.draw.uniform(0.08, 0.3), 'sans', ragged=0.2
  )
  s.line(m, y + 0.02, s.some(2), 'sans')
  if s.draw.random() < 0.5:
    s.line(m, y + 0.06, '----- Original Message -----', 'sans')
    s.text(m, y + 0.09, 1 - 2 * m, s.draw.uniform(0.05, 0.3), 'sans')


def _form(s: _Sheet) -> None:
  m = s.margin
  s.line(0.5, 0.05, s.some(4).upper(), 'sans_bold', 9, 'centre')
  y = 0.12
  while y < 0.88:
    height, cells = s.draw.uniform(0.03, 0.06), int(s.draw.integers(1, 4))
    for cell in range(cells):
      width = (1 - 2 * m) / cells
      s.box(m + cell * width, y, width, height)
      s.line(m + cell * width + 0.01, y + 0.002, s.some(2)[:18], 'sans', 5)
      if s.draw.random() < 0.5:
        s.line(m + cell * width + 0.02, y + 0.015, s.some(1), 'mono', 8)
    y += height + (0.02 if s.draw.random() < 0.15 else 0)


def _handwritten(s: _Sheet) -> None:
  lines = int(s.draw.integers(10, 22))
  s.scrawl(s.margin, 0.06, 1 - 1.5 * s.margin, lines, 0.85 / lines)


def _advertisement(s: _Sheet) -> None:
  top = s.draw.random() < 0.5
  height = s.draw.uniform(0.35, 0.6)
  s.picture(0.06, 0.22 if top else 0.08, 0.88, height)
  size = int(s.draw.integers(18, 28))
  s.line(
    0.5, 0.08 if top else 0.14 + height, s.some(2)[:14], 'bold', size, 'centre'
  )
  s.text(0.15, 0.26 + height, 0.7, 0.1, 'sans', 8)
  s.line(0.5, 0.92, s.some(3).upper(), 'sans_bold', 10, 'centre')


def _headed(s: _Sheet, x, y, width, end, size=0) -> None:
  """Sections with headings until `end`."""
  number = 1
  while y < end - 0.06:
    s.line(x, y, f'{number}. {s.some(2)}', 'bold', (size or s.size) + 1)
    room = min(s.draw.uniform(0.08, 0.25), end - y - 0.03)
    y = s.text(x, y + 0.028, width, room, size=size) + 0.015
    number += 1


def _report(s: _Sheet) -> None:
  m = s.margin
  s.line(0.5, 0.06, s.some(4), 'bold', 11, 'centre')
  s.line(0.5, 0.11, s.some(3), 'italic', 8, 'centre')
  cut = s.draw.uniform(0.55, 0.8)
  _headed(s, m, 0.16, 1 - 2 * m, cut)
  if s.draw.random() < 0.5:
    s.picture(0.2, cut + 0.02, 0.6, 0.12)
  else:
    s.grid(m, cut + 0.02, 1 - 2 * m, 0.14, 6, 5)
  s.line(0.5, 0.95, str(s.draw.integers(1, 99)), size=7, align='centre')


def _publication(s: _Sheet) -> None:
  m = s.margin
  s.line(m, 0.03, s.some(5), 'italic', 6)
  s.line(0.5, 0.07, s.some(4), 'bold', 12, 'centre')
  s.line(0.5, 0.12, s.some(5), 'roman', 8, 'centre')
  y = s.text(m + 0.06, 0.16, 0.88 - 2 * m, 0.1, 'roman', 6)
  width = (1 - 2 * m) / 2 - 0.015
  _headed(s, m, y + 0.02, width, 0.94, 6)
  right = 1 - m - width
  if s.draw.random() < 0.5:
    s.picture(right, y + 0.02, width, 0.16)
    y += 0.18
  _headed(s, right, y + 0.02, width, 0.94, 6)


def _specification(s: _Sheet) -> None:
  m = s.margin
  s.box(m, 0.04, 1 - 2 * m, 0.08)
  s.line(m + 0.02, 0.055, 'SPECIFICATION', 'sans_bold', 10)
  s.line(1 - m - 0.02, 0.06, s.number(), 'mono', 7, 'right')
  y, number = 0.15, 1
  while y < 0.9:
    s.line(m, y, f'{number}.0', 'mono', 7)
    s.line(m + 0.1, y, s.some(2), 'sans', 7)
    s.line(0.62, y, f'{s.number()} ± {s.draw.integers(1, 9)}', 'mono', 7)
    y += s.draw.choice([0.022, 0.022, 0.05])
    number += 1
  s.rule(m, 0.92, 1 - 2 * m)


def _folder(s: _Sheet) -> None:
  if s.draw.random() < 0.6:
    x, y = s.draw.uniform(0.1, 0.5), s.draw.uniform(0.02, 0.2)
    s.box(x, y, 0.4, 0.06, 235)
    s.line(x + 0.02, y + 0.015, s.some(2)[:18], 'sans', 9)
  if s.draw.random() < 0.6:
    y = s.draw.uniform(0.4, 0.9)
    s.line(s.draw.uniform(0.1, 0.6), y, s.some(2)[:16], 'hand', 12)
  if s.draw.random() < 0.4:
    s.rule(0, s.draw.uniform(0.1, 0.9), 1, 2)


def _news(s: _Sheet) -> None:
  columns = int(s.draw.integers(2, 5))
  y = 0.05
  for _ in range(int(s.draw.integers(1, 3))):
    s.line(0.06, y, s.some(4)[:22], 'bold', int(s.draw.integers(16, 22)))
    y += 0.07
  width = 0.88 / columns
  end = s.draw.uniform(0.6, 0.95)
  for column in range(columns):
    x, top = 0.06 + column * width, y
    if column and s.draw.random() < 0.3:
      s.picture(x, top, width - 0.02, 0.18)
      top += 0.2
    s.text(x, top, width - 0.02, end - top, 'roman', 6, 0.02)


def _budget(s: _Sheet) -> None:
  m = 0.06
  s.line(0.5, 0.05, s.some(3).upper(), 'sans_bold', 9, 'centre')
  y = 0.12
  for _ in range(int(s.draw.integers(1, 4))):
    rows = int(s.draw.integers(8, 18))
    height = min(rows * 0.02, 0.9 - y)
    if height > 0.1:
      s.grid(m, y, 1 - 2 * m, height, rows, int(s.draw.integers(4, 8)))
      s.rule(m, y + height, 1 - 2 * m, 2)
    y += height + 0.04


def _invoice(s: _Sheet) -> None:
  m = s.margin
  s.line(m, 0.05, s.some(2).upper(), 'sans_bold', 10)
  s.line(1 - m, 0.05, 'INVOICE', 'bold', 14, 'right')
  for row in range(3):
    s.line(m, 0.1 + 0.022 * row, s.some(3), size=6)
    s.line(0.6, 0.1 + 0.022 * row, f'No. {s.number()}', 'mono', 6)
  s.box(m, 0.2, 1 - 2 * m, s.draw.uniform(0.3, 0.6))
  rows = int(s.draw.integers(4, 12))
  s.grid(m + 0.01, 0.21, 0.98 - 2 * m, rows * 0.024, rows, 4)
  y = s.draw.uniform(0.82, 0.88)
  s.rule(0.6, y, 0.4 - m)
  s.line(0.62, y + 0.01, 'TOTAL', 'sans_bold', 8)
  s.line(1 - m, y + 0.01, s.number(), 'sans_bold', 8, 'right')


def _presentation(s: _Sheet) -> None:
  y = s.draw.uniform(0.1, 0.25)
  s.line(0.5, y, s.some(3)[:20], 'sans_bold', 17, 'centre')
  if s.draw.random() < 0.5:
    s.rule(0.1, y + 0.08, 0.8, 2)
  for _ in range(int(s.draw.integers(3, 7))):
    y += 0.1
    s.line(0.14, y, '• ' + s.some(4)[:24], 'sans', 11)
  if s.draw.random() < 0.3:
    s.picture(0.3, min(y + 0.08, 0.8), 0.4, 0.15)


def _questionnaire(s: _Sheet) -> None:
  m, y, number = s.margin, 0.06, 1
  if s.draw.random() < 0.7:
    s.line(0.5, y, 'QUESTIONNAIRE', 'sans_bold', 9, 'centre')
    y += 0.05
  while y < 0.88:
    s.line(m, y, f'{number}. {s.some(6)}?', size=7)
    y += 0.025
    for _ in range(int(s.draw.integers(2, 6))):
      s.box(m + 0.06, y + 0.003, 0.02, 0.014)
      s.line(m + 0.11, y, s.some(2), size=6)
      y += 0.022
    y += 0.015
    number += 1


def _resume(s: _Sheet) -> None:
  m = s.margin
  s.line(0.5, 0.05, s.some(2).upper(), 'bold', 12, 'centre')
  s.line(0.5, 0.095, s.some(5), size=6, align='centre')
  y = 0.14
  while y < 0.88:
    s.line(m, y, s.some(1).upper(), 'bold', 8)
    s.rule(m, y + 0.028, 1 - 2 * m)
    y += 0.035
    for _ in range(int(s.draw.integers(1, 4))):
      s.line(m, y, f'{s.draw.integers(1950, 2000)}', size=6)
      s.line(m + 0.16, y, s.some(3), 'italic', 7)
      y = s.text(m + 0.16, y + 0.022, 0.84 - 2 * m, 0.045, size=6) + 0.01


def _music(s: _Sheet) -> None:
  y = 0.1
  while y < 0.85:
    for line in range(5):
      s.rule(0.06, y + 0.012 * line, 0.88)
    for _ in range(int(s.draw.integers(8, 20))):
      x, up = s.draw.uniform(0.1, 0.9), s.draw.uniform(0, 0.05)
      left, top = s.at(x, y + up)
      s.pen.ellipse([left, top, left + 6, top + 5], fill=0)
      s.pen.line([left + 6, top, left + 6, top - 14], fill=0)
    y += 0.13


def _calendar(s: _Sheet) -> None:
  s.line(0.5, 0.05, s.some(1).upper(), 'sans_bold', 14, 'centre')
  for row in range(6):
    for column in range(7):
      x, y = 0.06 + column * 0.125, 0.15 + row * 0.13
      s.box(x, y, 0.125, 0.13)
      s.line(x + 0.01, y + 0.005, str(1 + 7 * row + column), 'sans', 8)


_LAYOUTS: Mapping[str, Callable[[_Sheet], None]] = {
  'letter': _letter,
  'form': _form,
  'email': _email,
  'handwritten': _handwritten,
  'advertisement': _advertisement,
  'scientific report': _report,
  'scientific publication': _publication,
  'specification': _specification,
  'file folder': _folder,
  'news article': _news,
  'budget': _budget,
  'invoice': _invoice,
  'presentation': _presentation,
  'questionnaire': _questionnaire,
  'resume': _resume,
  'memo': _memo,
  'music': _music,
  'calendar': _calendar,
}


def typeset(name: str, draw: np.random.Generator) -> Image.Image:
  """A clean page of a class, 390 x 300 pixels, grey."""
  sheet = _Sheet(draw)
  _LAYOUTS[name](sheet)
  return sheet.image
