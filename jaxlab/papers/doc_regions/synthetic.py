"""Synthetic documents: the sixteen classes of RVL-CDIP, typeset and degraded.

A page is a function of (seed, split, number): a layout of its class with
drawn margins, sizes and gaps, words of the language reference that CPython
ships, fonts that matplotlib ships; then what a scanner does to it: skew, blur,
noise, stains, a stamp, one bit. Two classes more, `OUT_OF_CLASS`, are of none
of the sixteen. No real page is behind them: an accuracy on them says how two
ways compare, not how well either reads scans.
"""

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from jaxlab.data.images.files import RVL_CDIP_CLASSES
from jaxlab.engine.metrics import Meter
from jaxlab.papers.doc_regions.layouts import HEIGHT, WIDTH, font_of, typeset

OUT_OF_CLASS = ('music', 'calendar')


def degraded(
  page: Image.Image, draw: np.random.Generator, strength: float
) -> Image.Image:
  """What a scanner makes of a page.

  Args:
    strength: 0 leaves it as it is; at 1 skews of 3 degrees are common.
  """
  if not strength:
    return page
  if draw.random() < 0.3:  # a stamp
    pen = ImageDraw.Draw(page)
    x, y = draw.uniform(0.1, 0.7) * WIDTH, draw.uniform(0.1, 0.85) * HEIGHT
    pen.rectangle([x, y, x + 70, y + 22], outline=70, width=2)
    pen.text((x + 6, y + 6), 'RECEIVED', fill=70, font=font_of('sans_bold', 9))
  angle = draw.normal(0, 1.5 * strength)
  right, down = (int(x) for x in draw.normal(0, 5 * strength, 2))
  page = page.rotate(
    angle,
    Image.Resampling.BILINEAR,
    translate=(right, down),
    fillcolor=255,
  )
  page = page.filter(ImageFilter.GaussianBlur(draw.uniform(0, strength)))
  grey = np.asarray(page, np.float64) * draw.uniform(0.75, 1.0)  # dark paper
  grey = grey + draw.normal(0, 14 * strength, grey.shape)
  for _ in range(int(draw.poisson(3 * strength))):  # stains
    left, top = draw.integers(0, WIDTH - 12), draw.integers(0, HEIGHT - 12)
    wide, high = draw.integers(2, 12, 2)
    grey[top : top + high, left : left + wide] = 40
  if draw.random() < 0.4:
    grey = np.where(grey > draw.uniform(120, 190), 255, 0)
  return Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8))


def make(options: Mapping[str, Any], split: str, count: int) -> dict[str, Any]:
  """So many pages of a split, the classes in turn.

  Args:
    options: seed, size (height, width), strength, label_noise and duplicates
      (shares), of `config.synthetic`.
    split: train, validation, test, or outside: pages of OUT_OF_CLASS.

  Returns:
    image [n, h, w, 1] uint8; label [n] int32 as told, label noise in it; truth
    [n] int32; source [n] int64, equal for pages that are one page twice.
  """
  names = OUT_OF_CLASS if split == 'outside' else RVL_CDIP_CLASSES
  height, width = options['size']
  image = np.empty((count, height, width, 1), np.uint8)
  label = np.arange(count, dtype=np.int32) % len(names)
  truth, source = label.copy(), np.empty(count, np.int64)
  of_split = zlib.crc32(split.encode())
  meter = Meter(f'synthetic {split}', count)
  for number in range(count):
    draw = np.random.default_rng((options['seed'], of_split, number))
    origin = of_split, number
    if draw.random() < options['duplicates'] and split != 'outside':
      # One of the training pages of its class again, scanned anew.
      pages = options['train'] // len(names)
      other = number % len(names) + len(names) * int(
        draw.integers(max(pages, 1))
      )
      origin = zlib.crc32(b'train'), other
    if draw.random() < options['label_noise']:
      label[number] = (label[number] + draw.integers(1, len(names))) % len(
        names
      )
    content = np.random.default_rng((options['seed'], *origin, 1))
    page = typeset(names[truth[number]], content)
    page = degraded(page, draw, options['strength'])
    small = page.resize((width, height), Image.Resampling.BILINEAR)
    image[number, ..., 0] = np.asarray(small)
    source[number] = origin[0] << 31 | origin[1]
    meter.advance()
  return {'image': image, 'label': label, 'truth': truth, 'source': source}
