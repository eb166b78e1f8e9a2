"""Sections: what a stage hands over for people to read and look at.

A stage fills `space.page`; they are kept in WORKDIR/<stage>/sections.json and
figures/, so that report.html can be written again, and their tables also in
tables.md. Of several processes the leader alone writes.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxlab.engine import hosts, metrics
from jaxlab.runs import workdir

FILE = 'sections.json'
Cell = str | float | int | None

# Of a grid of pictures, in inches: its width, a row with its labels, a line.
_GRID_WIDTH, _GRID_ROW, _LINE = 9.0, 1.3, 0.14
_DPI = 110  # of all figures


class Sections:
  """The sections of one stage, in the order in which they are given."""

  def __init__(self, folder: Path | None = None):
    self.folder = folder
    self.found: list[dict[str, Any]] = []

  def headline(self, text: str, verdict: str = '') -> None:
    """One sentence that says what came out; also printed at the run's end.

    Args:
      verdict: 'shown', 'not shown', 'refuted', or nothing.
    """
    self.found.append({'kind': 'headline', 'text': text, 'verdict': verdict})

  def table(
    self,
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[Cell] | Mapping[str, Cell]],
    show: bool = False,
  ) -> None:
    """A table.

    Args:
      rows: cells in the order of the columns, or by name; an absent cell is
        shown as –, a NaN or None as 'not finite'.
      show: print it at the run's end, too.
    """
    cells = [
      [plain_cell(row.get(c, '–')) for c in columns]
      if isinstance(row, Mapping)
      else [plain_cell(cell) for cell in row]
      for row in rows
    ]
    self.found.append(
      {
        'kind': 'table',
        'title': title,
        'columns': list(columns),
        'rows': cells,
        'show': show,
      }
    )

  def figure(
    self,
    name: str,
    draw: Callable[[Any], None],
    caption: str = '',
    size: tuple[float, float] = (7, 3.6),
  ) -> None:
    """A figure: `draw(axes)` on matplotlib axes; figures/NAME.png.

    Args:
      size: inches, width and height.
    """
    write_figure(self._path(name), draw, size)
    self._add_file(name, caption)

  def panels(
    self,
    name: str,
    draws: Sequence[Callable[[Any], None]],
    caption: str = '',
    size: tuple[float, float] = (9, 3.6),
  ) -> None:
    """One figure of several axes side by side, each with its `draw(axes)`."""

    def draw(figure):
      for place, one in enumerate(draws, 1):
        one(figure.add_subplot(1, len(draws), place))

    write_drawing(self._path(name), draw, size)
    self._add_file(name, caption)

  def images(
    self,
    name: str,
    pictures: np.ndarray,
    labels: Sequence[str] = (),
    caption: str = '',
    columns: int = 8,
  ) -> None:
    """A grid of pictures with a label above each; figures/NAME.png.

    Args:
      pictures: [n, h, w, c] uint8, or float in [0, 1]; c is 1 or 3.
    """
    from PIL import Image  # loaded by what draws alone

    found = np.asarray(pictures)
    if found.dtype != np.uint8:
      found = np.rint(255 * np.clip(found, 0, 1)).astype(np.uint8)
    if found.shape[-1] == 1:
      found = np.repeat(found, 3, -1)
    lines, (high, wide) = -(-len(found) // columns), found.shape[1:3]
    above = _LINE * max((x.count('\n') + 1 for x in labels), default=0)
    width, room = _GRID_WIDTH / columns, _GRID_ROW - above
    scale = 0.94 * _DPI * min(width / wide, room / high)
    high, wide = (max(1, int(scale * n)) for n in (high, wide))
    size = (_GRID_WIDTH, _GRID_ROW * lines)
    # All in one image: an Axes each takes five times as long to draw.
    shape = int(_DPI * size[1]), int(_DPI * size[0]), 3
    canvas = np.full(shape, 255, np.uint8)
    how = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BOX
    corners = []
    for i, picture in enumerate(found):
      top = int(_DPI * (i // columns * _GRID_ROW + above))
      left = int(_DPI * (i % columns + 0.5) * width - wide / 2)
      big = Image.fromarray(picture).resize((wide, high), how)
      canvas[top : top + high, left : left + wide] = np.asarray(big)
      corners.append((left + wide / 2, top - 4))

    def draw(figure):
      axes = figure.add_axes((0, 0, 1, 1))
      axes.imshow(canvas, interpolation='nearest', aspect='auto')
      for (x, top), label in zip(corners, labels):
        axes.text(x, top, label, fontsize=7, ha='center')
      axes.axis('off')

    write_drawing(self._path(name), draw, size, layout='')
    self._add_file(name, caption)

  def samples(
    self, title: str, rows: Sequence[Sequence[tuple[str, float]]]
  ) -> None:
    """Texts with highlights.

    Args:
      rows: each a sequence of (piece of text, highlight in [0, 1]).
    """
    kept = [[[str(t), float(h)] for t, h in row] for row in rows]
    self.found.append({'kind': 'samples', 'title': title, 'rows': kept})

  def write(self) -> None:
    """Writes sections.json, and tables.md where there are tables.

    Where TensorBoard's extra is installed they are events, too.
    """
    assert self.folder is not None
    workdir.write_json(self.folder / FILE, self.found)
    tables = [markdown(x) for x in self.found if x['kind'] == 'table']
    if tables:
      (self.folder / 'tables.md').write_text('\n'.join(tables))
    self._write_events()

  def _write_events(self) -> None:
    """Figures as images, all else as text, under the names of the page."""
    assert self.folder is not None
    writer = metrics.event_writer(self.folder) if self.found else None
    if writer is None:
      return
    for number, section in enumerate(self.found):
      kind = section['kind']
      if kind == 'figure':
        from matplotlib import image

        path = self.folder / 'figures' / section['file']
        pixels = image.imread(path)[..., :3]
        writer.add_image(path.stem, pixels, dataformats='HWC')
      elif kind == 'table':
        writer.add_text(section['title'], markdown(section))
      elif kind == 'samples':
        rows = '  \n'.join(map(_marked, section['rows']))
        writer.add_text(section['title'], rows)
      else:
        writer.add_text(f'headline {number}', section['text'])
    writer.close()

  def _path(self, name: str) -> Path:
    assert self.folder is not None
    return self.folder / 'figures' / f'{name}.png'

  def _add_file(self, name: str, caption: str) -> None:
    self.found.append(
      {'kind': 'figure', 'file': f'{name}.png', 'caption': caption}
    )


def plain_cell(cell: Any) -> Cell:
  """A cell as JSON takes it: None for a number that is not finite."""
  if isinstance(cell, str | int | None):
    return cell
  number = float(cell)
  return number if np.isfinite(number) else None


def shown(cell: Cell) -> str:
  """A cell as text."""
  if cell is None:
    return 'not finite'
  if not isinstance(cell, float):
    return str(cell)
  return f'{cell:,.0f}' if 1e4 <= abs(cell) < 1e15 else f'{cell:.4g}'


def markdown(table: Mapping[str, Any]) -> str:
  """A section of kind 'table' as Markdown."""
  lines = [
    f'{table["title"]}\n',
    f'| {" | ".join(table["columns"])} |',
    '|' + '---|' * len(table['columns']),
    *(f'| {" | ".join(map(_escaped, row))} |' for row in table['rows']),
  ]
  return '\n'.join(lines) + '\n'


def _marked(row: Sequence[tuple[str, float]]) -> str:
  """A row of samples as Markdown: what is highlighted is bold."""
  return ''.join(
    f'**{piece}**' if highlight > 0 and piece.strip() else piece
    for piece, highlight in row
  )


def _escaped(cell: Cell) -> str:
  return shown(cell).replace('|', r'\|')


def text(table: Mapping[str, Any]) -> str:
  """A section of kind 'table' as lines of aligned columns."""
  rows = [table['columns'], *([shown(x) for x in r] for r in table['rows'])]
  widths = [max(map(len, column)) for column in zip(*rows)]
  lines = [
    '  '.join(x.ljust(width) for x, width in zip(row, widths)).rstrip()
    for row in rows
  ]
  return '\n'.join([table['title'], *(f'  {line}' for line in lines)])


def write_figure(
  path: Path,
  draw: Callable[[Any], None],
  size: tuple[float, float] = (7, 3.6),
) -> None:
  """Writes one PNG: `draw(axes)` on matplotlib axes; the leader does."""
  write_drawing(path, lambda figure: draw(figure.add_subplot()), size)


def write_drawing(
  path: Path,
  draw: Callable[[Any], None],
  size: tuple[float, float],
  layout: Any = 'constrained',
) -> None:
  """Writes one PNG: `draw(figure)` on a matplotlib figure; the leader does.

  Args:
    layout: of matplotlib; '' leaves the margins to `draw`.
  """
  if not hosts.leads():
    return
  # The object interface: no global state, no display.
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  canvas = Figure(figsize=size, layout=layout or None)
  FigureCanvasAgg(canvas)
  draw(canvas)
  path.parent.mkdir(parents=True, exist_ok=True)
  canvas.savefig(path, dpi=_DPI)
