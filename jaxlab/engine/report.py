"""report.html: one self-contained page of curves, tables and figures."""

import base64
import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxlab.engine import hosts, metrics, workdir

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
"""


def figure(path: Path, draw) -> None:
  """Writes one PNG: `draw(axes)` on matplotlib axes; the leader does."""
  if not hosts.leads():
    return
  # The object interface: no global state, no display.
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  canvas = Figure(figsize=(7, 3.6), layout='constrained')
  FigureCanvasAgg(canvas)
  axes = canvas.add_subplot()
  draw(axes)
  path.parent.mkdir(parents=True, exist_ok=True)
  canvas.savefig(path, dpi=110)


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

    figure(folder / 'figures' / f'curve_{name}.png', draw)


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


def _stage(folder: Path) -> str:
  about = json.loads((folder / 'report.json').read_text())
  print_of = about.get('state_sha256') or about.get('artefact_sha256') or ''
  versions = ', '.join(f'{k} {v}' for k, v in about['versions'].items())
  paper = workdir.flatten(about['paper_reported'])
  images = ''.join(
    f'<h3>{html.escape(_caption(path))}</h3><img alt="" '
    f'src="data:image/png;base64,'
    f'{base64.b64encode(path.read_bytes()).decode()}">'
    for path in sorted((folder / 'figures').glob('*.png'))
  )
  return (
    f'<h2>{html.escape(about["stage"])}</h2><p>{about["steps"]} steps, seed '
    f'{about["seed"]}, {metrics.duration(about["wall_seconds"])}.</p>'
    f'<div class="pair"><div><h3>Measured here</h3>{_table(about["metrics"])}'
    f'</div><div><h3>The paper reports</h3>{_table(paper)}</div></div>'
    f'{images}<p class="quiet">fingerprint {print_of}; '
    f'{html.escape(versions)}</p>'
  )


def _caption(path: Path) -> str:
  return path.stem.replace('_', ' ')


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
