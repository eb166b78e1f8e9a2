"""Runs side by side: figures, what their configs differ in, curves.

  python -m jaxlab.compare runs/a runs/b …            # prints the tables
  python -m jaxlab.compare runs/a runs/b --out=DIR    # compare.md, .html there

Writes DIR/compare.md and DIR/compare.html, one page that stands alone; DIR is
the current folder by default. Loads no JAX. Stages are matched by their names.

Exit codes: 0 done; 2 bad input.
"""

import argparse
import base64
import html
import io
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxlab.command import Parser, exit_code
from jaxlab.core.errors import InputError
from jaxlab.engine import durable, metrics
from jaxlab.runs import record, sections, workdir
from jaxlab.runs.record import Run

_NONE = '–'
_ENDS = ('_low', '_high')

Table = Mapping[str, Any]  # as of runs.sections
Points = list[tuple[int, float]]


def main(argv: Sequence[str]) -> int:
  """Compares the runs of a command line; returns the exit code."""
  return exit_code(
    lambda: _run(_parser().parse_intermixed_args(list(argv[1:])))
  )


def _parser() -> Parser:
  found = Parser('jaxlab.compare', __doc__)
  found.add_argument('runs', nargs='+', metavar='RUN')
  found.add_argument('--out', default='.', help='folder of compare.md, .html')
  return found


def _run(args: argparse.Namespace) -> None:
  out = Path(args.out)
  named = opened([Path(x).expanduser() for x in args.runs])
  tables = [figures(named), differences(named)]
  for table in tables:
    print(f'{sections.text(table)}\n')
  for line in unfinished(named):
    print(line, file=sys.stderr)
  page = page_of(named, tables)
  try:
    out.mkdir(parents=True, exist_ok=True)
    durable.write(out / 'compare.md', '\n'.join(map(sections.markdown, tables)))
    durable.write(out / 'compare.html', page)
  except OSError as error:
    raise InputError(
      f'cannot write into {out}: {error.strerror}; choose another --out'
    ) from error
  print(f'written: {out / "compare.md"}, {out / "compare.html"}')


def opened(folders: Sequence[Path]) -> dict[str, Run]:
  """The runs by short names.

  Raises:
    InputError: fewer than two runs, one twice, one of another version, or one
      of which nothing is finished.
  """
  whole = [folder.resolve() for folder in folders]
  if len({*whole}) < len(whole) or len(whole) < 2:
    raise InputError(
      f'{len({*whole})} run to compare; give two --workdir folders or more, '
      'each once'
    )
  found = [record.opened(folder) for folder in folders]
  for run in found:
    if run.unfinished() == run.stages:
      raise InputError(
        f'of {run.folder} no stage is finished, the first is '
        f'{run.stages[0]}; go on with {run.command}'
      )
  return dict(zip(_names(whole), found))


def _names(folders: Sequence[Path]) -> list[str]:
  """The last parts of paths, as many as tell them apart."""
  for count in range(1, max(len(folder.parts) for folder in folders)):
    names = ['/'.join(folder.parts[-count:]) for folder in folders]
    if len({*names}) == len(names):
      return names
  return [str(folder) for folder in folders]


def unfinished(named: Mapping[str, Run]) -> Iterator[str]:
  """A line for each run with stages to come."""
  for name, run in named.items():
    if missing := run.unfinished():
      yield (
        f'{name}: not finished, without {", ".join(missing)}; go on with '
        f'{run.command}'
      )


def figures(named: Mapping[str, Run]) -> Table:
  """Each figure of each stage, with its interval where it has one."""
  reports = {
    name: {stage: run.report(stage) for stage in run.stages}
    for name, run in named.items()
  }
  means = {name: _means(run) for name, run in named.items()}
  found: dict[tuple[str, str], None] = {}
  for stages in reports.values():
    for stage, report in stages.items():
      for figure in report.get('metrics', {}):
        if not figure.endswith(_ENDS):
          found[stage, figure] = None
  order = list(dict.fromkeys(stage for stage, _ in found))
  rows = [
    [stage, figure]
    + [
      means[name].get((stage, figure))
      or _value(stages.get(stage, {}).get('metrics', {}), figure)
      for name, stages in reports.items()
    ]
    for stage, figure in sorted(found, key=lambda x: order.index(x[0]))
  ]
  columns = ['stage', 'figure', *named]
  return {'title': 'Figures', 'columns': columns, 'rows': rows}


def _means(run: Run) -> dict[tuple[str, str], str]:
  """(stage, figure) -> 'mean ± half of the 95 % interval' of a study."""
  path = run.folder / 'study' / 'study.json'
  if not path.is_file():
    return {}
  found = {}
  for row in json.loads(path.read_text()):
    figure, _, setting = row['figure'].partition(' at ')
    for arm, text in row.items():
      if isinstance(text, str) and '±' in text:
        where = f'{arm}-b{setting}' if setting else arm
        found['study', f'{where}/{figure}'] = text
  return found


def _value(of: Mapping[str, Any], figure: str) -> str:
  """'0.97 [0.96, 0.98]'."""
  if figure not in of:
    return _NONE
  ends = [of.get(f'{figure}{end}') for end in _ENDS]
  text = sections.shown(of[figure])
  if all(isinstance(x, int | float) for x in ends):
    text += f' [{", ".join(map(sections.shown, ends))}]'
  return text


def differences(named: Mapping[str, Run]) -> Table:
  """The keys of the configs that differ."""
  flat = {name: _config(run) for name, run in named.items()}
  keys = sorted({key for config in flat.values() for key in config})
  rows = []
  for key in keys:
    values = [_shown(config, key) for config in flat.values()]
    if len({*values}) > 1:
      rows.append([key, *values])
  title = 'Config differences' if rows else 'Config differences: none'
  return {'title': title, 'columns': ['key', *named], 'rows': rows}


def _config(run: Run) -> dict[str, Any]:
  path = run.folder / 'config.json'
  try:
    return workdir.flatten(json.loads(path.read_text()))
  except (OSError, ValueError, AttributeError) as error:
    raise InputError(
      f'{path} cannot be read ({error}); run {run.command}, which writes it'
    ) from error


def _shown(config: Mapping[str, Any], key: str) -> str:
  if key not in config:
    return 'absent'
  text = json.dumps(config[key], ensure_ascii=False)
  return text if len(text) <= 60 else f'{text[:57]}…'


# --- the page ---

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem;
       margin: 2rem auto; padding: 0 1rem; color: #222; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; }
td, th { border-bottom: 1px solid #ddd; padding: .25rem .9rem .25rem 0;
         text-align: left; vertical-align: top; overflow-wrap: anywhere; }
.grid { display: grid; gap: 1rem;
        grid-template-columns: repeat(auto-fill, minmax(18rem, 1fr)); }
img { max-width: 100%; }
"""


def page_of(named: Mapping[str, Run], tables: Sequence[Table]) -> str:
  """One page that stands alone: the tables, then curves over each other."""
  title = html.escape(' and '.join(named))
  parts = [
    '<!doctype html><html lang="en"><meta charset="utf-8"><meta '
    'name="viewport" content="width=device-width, initial-scale=1">'
    f'<title>{title}</title><style>{_STYLE}</style><h1>{title}</h1>'
  ]
  parts += [f'<p>{html.escape(line)}</p>' for line in unfinished(named)]
  parts += map(_table, tables)
  parts.append('<h2>Curves</h2><div class="grid">')
  for name, lines in curves(named).items():
    picture = base64.b64encode(_plot(name, lines)).decode()
    words = html.escape(name)
    parts.append(
      f'<figure><img alt="{words}" src="data:image/png;base64,{picture}">'
      f'<figcaption>{words}</figcaption></figure>'
    )
  return ''.join([*parts, '</div></html>\n'])


def curves(named: Mapping[str, Run]) -> dict[str, dict[str, Points]]:
  """'stage: metric' -> run -> its points, of what at least one run changes."""
  found: dict[str, dict[str, Points]] = {}
  for name, run in named.items():
    for stage in run.stages:
      for line in metrics.read(run.folder / stage / 'metrics.jsonl'):
        for metric, value in line.items():
          known = ('step', 'kind', *metrics.TIME_FIELDS)
          if metric in known or metric.endswith(_ENDS) or value is None:
            continue
          of = found.setdefault(f'{stage}: {metric}', {})
          of.setdefault(name, []).append((line['step'], value))
  return {
    name: lines
    for name, lines in found.items()
    if any(len({y for _, y in points}) > 1 for points in lines.values())
  }


def _plot(name: str, lines: Mapping[str, Points]) -> bytes:
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  figure = Figure(figsize=(5, 3), layout='constrained')
  FigureCanvasAgg(figure)
  axes = figure.add_subplot()
  for run, points in lines.items():
    mark = 'o-' if len(points) < 20 else '-'
    axes.plot(*zip(*points), mark, markersize=3, linewidth=1, label=run)
  axes.set_xlabel('step')
  axes.set_ylabel(name.partition(': ')[2])
  axes.grid(alpha=0.3)
  axes.legend(frameon=False)
  file = io.BytesIO()
  figure.savefig(file, dpi=110, format='png')
  return file.getvalue()


def _table(table: Table) -> str:
  rows = [
    ''.join(f'<td>{html.escape(sections.shown(x))}</td>' for x in row)
    for row in table['rows']
  ]
  head = ''.join(f'<th>{html.escape(x)}</th>' for x in table['columns'])
  body = ''.join(f'<tr>{row}</tr>' for row in rows)
  return (
    f'<h2>{html.escape(table["title"])}</h2><div class="wide"><table>'
    f'<tr>{head}</tr>{body}</table></div>'
  )


if __name__ == '__main__':
  sys.exit(main(sys.argv))
