"""report.html: what was claimed, whether it held, and what there is to see.

One self-contained page, readable on a phone. It is written again at every
stage, and at evaluations of a training, so that a stopped run has one.
"""

import base64
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from jaxlab.engine import durable, metrics
from jaxlab.runs import record, sections, workdir

CURVES = 'curves.png'
_FIRST = 8  # numbers of the first screen
_FIGURES = 24  # pictures that are not folded into their stage
_PANELS = 3  # in a row of curves
_TEST = ('test/', 'validation/', '')  # what stands first among figures
_ENDS = ('_low', '_high')  # of an interval


def curves(folder: Path) -> None:
  """figures/curves.png: a panel for each kind of metric in metrics.jsonl.

  Metrics of the same last name share a panel: `loss`, `validation/loss`; the
  ends of an interval, `x_low` and `x_high`, are a band. What never changes is
  left out; examples a second come last.
  """
  series: dict[str, dict[str, list[tuple[int, float]]]] = {}
  for line in metrics.read(folder / 'metrics.jsonl'):
    for name, value in line.items():
      if name in ('step', 'kind', 'seconds') or value is None:
        continue
      label = name if '/' in name else f'{line["kind"]}/{name}'
      kind = _stem(name.rsplit('/', 1)[-1])
      series.setdefault(kind, {}).setdefault(label, []).append(
        (line['step'], value)
      )
  moving = {
    kind: lines
    for kind, lines in series.items()
    if any(len({y for _, y in points}) > 1 for points in lines.values())
  }
  if not moving:
    return
  order = sorted(moving, key=lambda kind: kind in metrics.TIME_FIELDS)
  rows, columns = -(-len(order) // _PANELS), min(len(order), _PANELS)

  def draw(figure):
    # Fixed margins: looking for the best ones draws everything twice.
    width, height = figure.get_size_inches()
    figure.subplots_adjust(
      left=0.7 / width,
      right=1 - 0.15 / width,
      bottom=0.45 / height,
      top=1 - 0.3 / height,
      wspace=0.32,
      hspace=0.5,
    )
    for place, kind in enumerate(order, 1):
      _panel(figure.add_subplot(rows, columns, place), kind, moving[kind])

  sections.write_drawing(
    folder / 'figures' / CURVES, draw, (3.6 * columns, 2.6 * rows), ''
  )


def _panel(axes, kind: str, lines: Mapping[str, list]) -> None:
  for label, points in sorted(lines.items()):
    if label.endswith(_ENDS):
      continue
    mark = 'o-' if len(points) < 20 else '-'
    [line] = axes.plot(
      *zip(*points), mark, markersize=3, linewidth=1, label=label
    )
    low, high = (lines.get(label + end) for end in _ENDS)
    if low and high:
      steps, bottom = zip(*low)
      top = [y for _, y in high]
      if len(top) == len(bottom):
        axes.fill_between(
          steps, bottom, top, color=line.get_color(), alpha=0.2, linewidth=0
        )
  axes.set_title(kind.replace('_', ' '), fontsize=9)
  axes.tick_params(labelsize=7)
  axes.grid(alpha=0.3)
  axes.legend(frameon=False, fontsize=6)


def _stem(name: str) -> str:
  return name.removesuffix('_low').removesuffix('_high')


def write_html(folder: Path, stages: Sequence[str]) -> Path:
  """Writes WORKDIR/report.html from the stages' files; returns its path."""
  path = folder / 'report.html'
  durable.write(path, _template().render(_page(folder, stages)) + '\n')
  return path


@cache
def _template() -> jinja2.Template:
  text = Path(__file__).with_suffix('.html.j2').read_text()
  made = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
  made.globals['shown'] = sections.shown
  return made.from_string(text)


def summary(folder: Path, stages: Sequence[str]) -> list[str]:
  """Headlines, and tables to be printed, of all stages as text."""
  found = []
  for stage in stages:
    for section in _sections(folder / stage):
      if section['kind'] == 'headline':
        verdict = f' [{section["verdict"]}]' if section['verdict'] else ''
        found.append(f'{stage}: {section["text"]}{verdict}')
      elif section['kind'] == 'table' and section['show']:
        found.append(sections.text(section))
  return found


def _page(folder: Path, stages: Sequence[str]) -> dict[str, Any]:
  """All that the template shows."""
  config = json.loads((folder / 'config.json').read_text())
  reported = workdir.flatten(config.get('paper_reported') or {})
  found = [_stage(folder / name) for name in stages]
  finished = [stage for stage in found if stage['measured'] is not None]
  # The latest stages, which put the others together, first.
  given = [(x['name'], s) for x in found[::-1] for s in x['sections']]
  of = lambda kind: [(name, s) for name, s in given if s['kind'] == kind]
  shown = [(name, s) for name, s in of('table') if s['show']]
  tables = [s for name, s in shown if name == shown[0][0]]
  placed = of('figure')[:_FIGURES]
  for stage in found:
    mine = [s for s in stage['sections'] if s['kind'] in ('table', 'figure')]
    folded = [s for s in mine if s not in tables]
    folded = [s for s in folded if (stage['name'], s) not in placed]
    stage['tables'] = [s for s in folded if s['kind'] == 'table']
    stage['curves'] += [
      _image(folder / stage['name'] / 'figures' / s['file'], s['caption'])
      for s in folded
      if s['kind'] == 'figure'
    ]
  figures = [
    _image(folder / name / 'figures' / s['file'], s['caption'], name)
    for name, s in placed
  ]
  last = finished[-1] if finished else None
  page = {
    'paper': config['paper'],
    'title': config.get('title') or folder.name,
    'claim': config.get('claimed', ''),
    'unfinished': len(finished) < len(found),
    'done': len(finished),
    'headlines': [s for _, s in of('headline')],
    'main': _first(last['measured'], reported) if last and not tables else {},
    'tables': tables,
    'figures': figures,
    'texts': [s for _, s in of('samples')],
    'stages': found,
    'reported': reported,
    'config': workdir.flatten(config),
    'origin': _origin(folder, finished),
  }
  parts = {'Figures': figures, 'Samples': page['texts'], 'Stages': found}
  page['contents'] = [name for name, one in parts.items() if one]
  page['contents'] += ['Config', 'Origin']
  return page


def _sections(folder: Path) -> list[dict[str, Any]]:
  path = folder / sections.FILE
  return json.loads(path.read_text()) if path.exists() else []


def _stage(folder: Path) -> dict[str, Any]:
  """What is known of a stage, finished or not."""
  given = _sections(folder)
  placed = {section.get('file') for section in given}
  drawn = sorted((folder / 'figures').glob('*.png'))
  names = ('seed', 'fingerprint', 'versions', 'device', 'date', 'commit')
  said: dict[str, Any] = dict.fromkeys(names, '')
  measured = None
  path = folder / 'report.json'
  if path.exists():
    about = json.loads(path.read_text())
    measured = about['metrics']
    versions = about['versions']
    said = {
      'seed': about['seed'],
      'fingerprint': about.get('state_sha256')
      or about.get('artefact_sha256')
      or '',
      'versions': ', '.join(f'{k} {v}' for k, v in versions.items()),
      'device': versions.get('device', ''),
      'date': about.get('date', '')[:10],
      'commit': about.get('commit', ''),
    }
    words = metrics.duration(about['wall_seconds'])
    words = f'{about["steps"]} steps, {words}' if about['steps'] else words
  else:
    lines = metrics.read(folder / 'metrics.jsonl')
    words = f'at step {lines[-1]["step"]}' if lines else 'not begun'
  return {
    **said,
    'name': folder.name,
    'said': words,
    'measured': measured,
    'sections': given,
    'curves': [
      _image(one, _caption(one)) for one in drawn if one.name not in placed
    ],
  }


def _caption(path: Path) -> str:
  if path.name == CURVES:
    return 'metrics by step; a band is a 95 % interval'
  return path.stem.replace('_', ' ')


def _image(path: Path, caption: str, stage: str = '') -> dict[str, Any]:
  data = path.read_bytes()
  width, height = (int.from_bytes(data[at : at + 4], 'big') for at in (16, 20))
  return {
    'data': f'data:image/png;base64,{base64.b64encode(data).decode()}',
    'caption': caption or path.stem.replace('_', ' '),
    'stage': stage,
    'wide': width > 2.2 * height,
  }


def _first(
  measured: Mapping[str, Any], reported: Mapping[str, Any]
) -> dict[str, Any]:
  """The few main figures, each with its interval, and the paper's."""
  names = [name for name in measured if not name.endswith(_ENDS)]
  names.sort(
    key=lambda n: next(i for i, p in enumerate(_TEST) if n.startswith(p))
  )
  rows: list[list[Any]] = []
  for name in names[:_FIRST]:
    ends = [measured.get(name + end) for end in _ENDS]
    known = all(isinstance(end, float) for end in ends)
    interval = ' to '.join(map(sections.shown, ends)) if known else '–'
    rows.append([name, measured[name], interval])
  rows += [[f'the paper: {k}', v, '–'] for k, v in reported.items()]
  return {'columns': ['figure', 'value', '95 % interval'], 'rows': rows}


def _origin(folder: Path, finished: Sequence[Mapping]) -> dict[str, str]:
  """Where the page is from: what of it differs between stages is with them."""
  found = {'folder': folder.name}
  if (folder / record.FILE).is_file():
    found['command'] = record.opened(folder).at('')
  for name in ('date', 'commit', 'device', 'versions'):
    values = dict.fromkeys(x[name] for x in finished if x[name])
    found[name] = '; '.join(values) or '–'
  return found
