"""Sections: what a stage hands over for people to read and look at.

A stage fills `space.page`; they are kept in WORKDIR/<stage>/sections.json and
figures/, so that report.html can be written again, and their tables also in
tables.md. Of several processes the leader alone writes.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxlab.engine import hosts, workdir

FILE = 'sections.json'
Cell = str | float | int | None


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

  def images(
    self,
    name: str,
    pictures: np.ndarray,
    labels: Sequence[str] = (),
    caption: str = '',
    columns: int = 8,
  ) -> None:
    """A grid of pictures with a label below each; figures/NAME.png.

    Args:
      pictures: [n, h, w, c] uint8, or float in [0, 1]; c is 1 or 3.
    """
    pictures = np.asarray(pictures)
    lines = -(-len(pictures) // columns)

    def draw(figure):
      for i, picture in enumerate(pictures):
        axes = figure.add_subplot(lines, columns, i + 1)
        axes.imshow(picture.squeeze(), cmap='gray', interpolation='nearest')
        axes.axis('off')
        if labels:
          axes.set_title(labels[i], fontsize=7)

    write_drawing(self._path(name), draw, (9, 1.3 * lines))
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
    """Writes sections.json, and tables.md where there are tables."""
    assert self.folder is not None
    workdir.write_json(self.folder / FILE, self.found)
    tables = [markdown(x) for x in self.found if x['kind'] == 'table']
    if tables:
      (self.folder / 'tables.md').write_text('\n'.join(tables))

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
  canvas.savefig(path, dpi=110)
