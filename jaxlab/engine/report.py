"""report.html: one self-contained page of sections, curves and tables."""

import base64
import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxlab.engine import metrics, sections, workdir

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem;
       margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: 1rem 0; }
td, th { border-bottom: 1px solid #ddd; padding: .25rem .9rem .25rem 0;
         text-align: left; vertical-align: top; }
td.n { text-align: right; font-variant-numeric: tabular-nums; }
img { max-width: 100%; }
.pair { display: flex; gap: 3rem; flex-wrap: wrap; }
.quiet { color: #777; font-size: 13px; }
.headline { font-size: 18px; }
.verdict { border: 1px solid; border-radius: 3px; padding: 0 .4rem; }
.sample { margin: .3rem 0; white-space: pre-wrap; }
"""


def curves(folder: Path) -> None:
  """figures/curve_<metric>.png for every metric of metrics.jsonl.

  Metrics of the same last name share a figure: `loss`, `validation/loss`; so
  do the ends of an interval, `x_low` and `x_high`. What never changes is left
  out.
  """
  series: dict[str, dict[str, list[tuple[int, float]]]] = {}
  for line in metrics.read(folder / 'metrics.jsonl'):
    for name, value in line.items():
      if name in ('step', 'kind', *metrics.TIME_FIELDS) or value is None:
        continue
      label = name if '/' in name else f'{line["kind"]}/{name}'
      metric = name.rsplit('/', 1)[-1]
      metric = metric.removesuffix('_low').removesuffix('_high')
      lines = series.setdefault(metric, {})
      lines.setdefault(label, []).append((line['step'], value))
  for name, lines in series.items():
    if all(len({y for _, y in points}) < 2 for points in lines.values()):
      continue

    def draw(axes, name=name, lines=lines):
      for label, points in sorted(lines.items()):
        mark = 'o-' if len(points) < 20 else '-'
        axes.plot(*zip(*points), mark, markersize=3, linewidth=1, label=label)
      axes.set_xlabel('step')
      axes.set_ylabel(name)
      axes.grid(alpha=0.3)
      axes.legend(frameon=False)

    sections.write_figure(folder / 'figures' / f'curve_{name}.png', draw)


def write_html(folder: Path, stages: Sequence[str]) -> Path:
  """Writes WORKDIR/report.html from the stages' files; returns its path."""
  config = json.loads((folder / 'config.json').read_text())
  parts = [_stage(folder / stage) for stage in stages]
  title = html.escape(f'{config["paper"]}: {config.get("title", folder.name)}')
  page = (
    '<!doctype html><html lang="en"><meta charset="utf-8">'
    f'<title>{title}</title><style>{_STYLE}</style><h1>{title}</h1>'
    + ''.join(parts)
    + '<h2>Config</h2>'
    + _table(workdir.flatten(config))
    + '</html>\n'
  )
  path = folder / 'report.html'
  temporary = path.with_suffix('.tmp')
  temporary.write_text(page)
  temporary.replace(path)
  return path


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


def _sections(folder: Path) -> list[dict[str, Any]]:
  path = folder / sections.FILE
  return json.loads(path.read_text()) if path.exists() else []


def _stage(folder: Path) -> str:
  about = json.loads((folder / 'report.json').read_text())
  print_of = about.get('state_sha256') or about.get('artefact_sha256') or ''
  versions = ', '.join(f'{k} {v}' for k, v in about['versions'].items())
  paper = workdir.flatten(about['paper_reported'])
  given = _sections(folder)
  placed = {section.get('file') for section in given}
  others = [
    _image(path, path.stem.replace('_', ' '))
    for path in sorted((folder / 'figures').glob('*.png'))
    if path.name not in placed
  ]
  return (
    f'<h2>{html.escape(about["stage"])}</h2><p>{about["steps"]} steps, seed '
    f'{about["seed"]}, {metrics.duration(about["wall_seconds"])}.</p>'
    f'{"".join(_section(folder, section) for section in given)}'
    f'<div class="pair"><div><h3>Measured here</h3>{_table(about["metrics"])}'
    f'</div><div><h3>The paper reports</h3>{_table(paper)}</div></div>'
    f'{"".join(others)}<p class="quiet">fingerprint {print_of}; '
    f'{html.escape(versions)}</p>'
  )


def _section(folder: Path, section: Mapping[str, Any]) -> str:
  if section['kind'] == 'headline':
    verdict = html.escape(section['verdict'])
    mark = f' <span class="verdict">{verdict}</span>' if verdict else ''
    return f'<p class="headline">{html.escape(section["text"])}{mark}</p>'
  if section['kind'] == 'figure':
    path = folder / 'figures' / section['file']
    return _image(path, section['caption'] or path.stem.replace('_', ' '))
  title = f'<h3>{html.escape(section["title"])}</h3>'
  if section['kind'] == 'table':
    return title + _grid(section['columns'], section['rows'])
  return title + ''.join(map(_sample, section['rows']))


def _image(path: Path, caption: str) -> str:
  data = base64.b64encode(path.read_bytes()).decode()
  words = html.escape(caption)
  return f'<h3>{words}</h3><img alt="" src="data:image/png;base64,{data}">'


def _grid(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
  head = ''.join(f'<th>{html.escape(name)}</th>' for name in columns)
  body = ''.join(
    '<tr>'
    + ''.join(
      f'<td{"" if isinstance(x, str) else " class=n"}>'
      f'{html.escape(sections.shown(x))}</td>'
      for x in row
    )
    + '</tr>'
    for row in rows
  )
  return f'<table><tr>{head}</tr>{body}</table>'


def _sample(row: Sequence[tuple[str, float]]) -> str:
  pieces = ''.join(
    f'<span style="background: rgba(255, 170, 0, {weight:.2f})">'
    f'{html.escape(piece)}</span>'
    for piece, weight in row
  )
  return f'<p class="sample">{pieces}</p>'


def _table(values: Mapping[str, Any]) -> str:
  if not values:
    return '<p>–</p>'
  rows = []
  for name, value in values.items():
    if isinstance(value, float):
      cell = f'<td class="n">{value:.6g}</td>'
    elif value is None:
      cell = '<td class="n">not finite</td>'
    else:
      cell = f'<td>{html.escape(str(value))}</td>'
    rows.append(f'<tr><td>{html.escape(name)}</td>{cell}</tr>')
  return f'<table>{"".join(rows)}</table>'
