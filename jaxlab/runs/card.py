"""README.md of a model: what it is, how good, how it was made."""

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxlab.engine import durable
from jaxlab.runs import model, sections
from jaxlab.runs.record import Run

_SHARED = ('study', 'arms')  # stages that put several trainings together
_MOST = 60  # figures of a stage


def write_all(run: Run, title: str) -> None:
  """Writes the card of every model of a run whose stage is finished."""
  for stage in run.models:
    folder = run.folder / stage / model.FOLDER
    if run.report(stage) and (folder / model.ABOUT).is_file():
      text = '\n'.join(_lines(run, stage, folder, title))
      durable.write(folder / 'README.md', f'{text}\n')


def commit() -> str:
  """The commit of the code, '…-dirty' where files differ; '' without git."""
  root = Path(__file__).parents[2]
  if not (root / '.git').exists():
    return ''
  say = ['git', '-C', str(root), 'describe', '--always', '--dirty']
  quiet = {**os.environ, 'GIT_OPTIONAL_LOCKS': '0'}
  try:
    found = subprocess.run(
      [*say, '--exclude=*', '--abbrev=40'],
      capture_output=True,
      text=True,
      timeout=10,
      env=quiet,
    )
  except (OSError, subprocess.TimeoutExpired):
    return ''
  return found.stdout.strip() if found.returncode == 0 else ''


def _lines(run: Run, stage: str, folder: Path, title: str) -> Iterator[str]:
  about = json.loads((folder / model.ABOUT).read_text())
  inputs = json.loads((folder / 'inputs.json').read_text())
  report = run.report(stage)
  yield f'# {title}: {stage}\n'
  yield (
    f'The stage `{stage}` of the paper `{about["paper"]}` (job '
    f'`{about["job"]}`): {about["parameters"]:,} parameters after '
    f'{report["steps"]:,} steps, seed {about["seed"]}.\n'
  )
  yield '## Use\n'
  yield '```\n' + _use(stage, inputs, folder) + '\n```\n'
  yield f'It takes {_words(inputs)}.\n'
  yield '## Data\n'
  yield '| data | licence |\n|---|---|'
  for name, licence in about['data'].items():
    yield f'| {name} | {licence} |'
  yield '\nThe data is not in this folder, but for the example.\n'
  yield '## Figures\n'
  yield f'{_figures(stage, report)}\n'
  for other in run.stages:
    found = run.report(other)
    if found and (other.startswith(f'{stage}-') or other in _SHARED):
      tables = run.folder / other / 'tables.md'
      text = tables.read_text() if tables.is_file() else ''
      yield f'{text or _figures(other, found)}\n'
  yield '## Origin\n'
  yield '| | |\n|---|---|'
  versions = ', '.join(f'{k} {v}' for k, v in about['versions'].items())
  rows = {
    'command': f'`{run.at("")}`',
    'commit': about['commit'] or 'not a checkout of git',
    'date': about['date'],
    'versions': versions,
    'fingerprint of the State': report.get('state_sha256', ''),
    'SHA-256 of the weights': about['files'][model.WEIGHTS],
  }
  for name, value in rows.items():
    yield f'| {name} | {value} |'


def _use(stage: str, inputs: Mapping[str, Any], folder: Path) -> str:
  return (
    f'python -m jaxlab.predict {stage} {shown_example(inputs, folder)}\n'
    f"python -c \"import jaxlab; m = jaxlab.load('{stage}'); "
    'print(m.predict(m.example()))"'
  )


def shown_example(inputs: Mapping[str, Any], folder: Path) -> str:
  """Arguments of `jaxlab.predict` that are the example."""
  if inputs['kind'] == 'image':
    return f'{folder.parent.name}/{folder.name}/example_0.png'
  if inputs['kind'] == 'graph':
    return 'graph.json'
  first = json.loads((folder / 'example.json').read_text())[0]
  quoted = lambda text: json.dumps(text, ensure_ascii=False)
  if inputs['kind'] == 'question':
    return f'{quoted(first[0])} --context {quoted(first[1])}'
  if inputs['kind'] == 'vector':
    return ','.join(f'{x:.4g}' for x in first)
  return quoted(first) if isinstance(first, str) else str(first)


def _words(inputs: Mapping[str, Any]) -> str:
  """What a model takes, in words."""
  kind = inputs['kind']
  if kind == 'image':
    mean, std = (inputs.get(name) for name in ('mean', 'std'))
    inside = f', normalised inside with mean {mean}, std {std}' if mean else ''
    return (
      f'images [n, {inputs["height"]}, {inputs["width"]}, '
      f'{inputs["channels"]}] uint8, or float32 in [0, 1]{inside}; files of '
      f'other sizes and modes are brought to it ({inputs["fit"]})'
    )
  if kind == 'text':
    must = f', each with {inputs["must"]}' if inputs.get('must') else ''
    most = f' of at most {inputs["most"]} tokens' if inputs.get('most') else ''
    return f'texts{most}{must}'
  if kind == 'question':
    return 'pairs (question, context)'
  if kind == 'graph':
    return (
      f'graphs, {{"nodes": [n][{inputs["features"]}], "edges": [[0, 1], …]}}, '
      'each in a file of JSON'
    )
  if kind == 'number':
    return f'numbers of nodes in [0, {inputs["count"]})'
  return f'vectors of {inputs["length"]} numbers'


def _figures(stage: str, report: Mapping[str, Any]) -> str:
  """A table of a stage's figures, each with its interval where it has one."""
  found = report['metrics']
  names = [x for x in found if not x.endswith(('_low', '_high'))][:_MOST]
  rows = []
  for name in names:
    ends = [found.get(f'{name}{end}') for end in ('_low', '_high')]
    has = all(isinstance(x, float) for x in ends)
    interval = ' to '.join(sections.shown(x) for x in ends) if has else '–'
    rows.append([name, found[name], interval])
  columns = ['figure', 'value', '95 % interval']
  return sections.markdown({'title': stage, 'columns': columns, 'rows': rows})
