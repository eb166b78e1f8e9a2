"""For mkdocs.yml: pages from outside of docs/, the reference, its tables."""

import re
from pathlib import Path

import griffe
from mkdocs.structure.files import File

_ROOT = Path(__file__).parents[1]
# A page -> a file of the repository that is shown there.
_SHOWN = {
  'index.md': 'README.md',
  'contributing.md': 'CONTRIBUTING.md',
  'changelog.md': 'CHANGELOG.md',
  'budgets.md': 'benchmarks/budgets.md',
}
_PAPERS = sorted(
  path.parent.name for path in _ROOT.glob('jaxlab/papers/*/method.py')
)
_GEOMETRY = (
  *('regions', 'segments', 'marching', 'slices', 'enumeration', 'bounds'),
  *('transport', 'problems', 'solvers', 'certificates'),
)
# A page -> its title and modules; docstrings are read, nothing is imported.
_REFERENCE = {
  'methods': (
    'Methods',
    [f'jaxlab.papers.{paper}.method' for paper in _PAPERS]
    + ['jaxlab.papers.metric_transfer.propagation']
    + [f'jaxlab.papers.geometry.{name}' for name in _GEOMETRY],
  ),
  'ops': (
    'Shared functions',
    sorted(
      f'jaxlab.ops.{path.stem}'
      for path in _ROOT.glob('jaxlab/ops/*.py')
      if path.stem != '__init__'
    ),
  ),
  'update': (
    'Training steps',
    [
      'jaxlab.core.state',
      'jaxlab.core.update',
      'jaxlab.core.source',
      'jaxlab.runs.stage',
      'jaxlab.core.require',
    ],
  ),
  'recipes': (
    'Recipes',
    sorted(
      f'jaxlab.recipes.{path.stem}'
      for path in _ROOT.glob('jaxlab/recipes/*.py')
      if path.stem != '__init__'
    ),
  ),
  'model': (
    'Models that a run leaves',
    ['jaxlab.predict', 'jaxlab.runs.model'],
  ),
}


def on_files(files, config):
  """Adds the pages."""
  for page, path in _SHOWN.items():
    text = (_ROOT / path).read_text()
    files.append(File.generated(config, page, content=_relinked(text)))
  for page, (title, modules) in _REFERENCE.items():
    parts = [f'# {title}']
    for module in modules:
      label = module.removeprefix('jaxlab.').removeprefix('papers.')
      parts.append(f'::: {module}\n    options:\n      toc_label: {label}')
    files.append(
      File.generated(
        config, f'reference/{page}.md', content='\n\n'.join(parts) + '\n'
      )
    )
  return files


def on_page_markdown(markdown, page, config, files):
  """Links of docs/ to files outside of it."""
  return _relinked(markdown)


def _relinked(text):
  """Links to files of the repository become links to their pages."""
  for page, path in _SHOWN.items():
    text = re.sub(rf'\]\((\.\./)?{re.escape(path)}', f']({page}', text)
  text = re.sub(r'\]\(docs/', '](', text)
  return re.sub(r'\[([^\]]*)\]\(CITATION\.cff\)', r'`\1`', text)


class Fenced(griffe.Extension):
  """Shows tables, formulas and examples of docstrings as they are written."""

  def on_object(self, *, obj, **kwargs):
    if obj.docstring:
      obj.docstring.value = fenced(obj.docstring.value)


def fenced(text):
  """Fences the paragraphs that are indented or begin with `>>>`.

  >>> fenced('A sum\\n\\n  a + b\\n\\nof two.')
  'A sum\\n\\n```\\na + b\\n```\\n\\nof two.'
  """
  # Markdown takes a line that begins with > for a quotation.
  text = re.sub(r'(?m)^(\s*(?:[\w, *]+: )?)>(?!>>)', r'\1\\>', text)
  parts, section = [], False
  for part in re.split(r'\n\s*\n', text):
    section = bool(re.match(r'[A-Z]\w+:\n', part)) or (
      section and part.startswith(' ')
    )
    lines = part.split('\n')
    own = all(line.startswith('  ') for line in lines)
    if part.startswith('>>> '):
      part = f'```pycon\n{part}\n```'
    elif own and not section and parts:
      part = '\n'.join(['```', *(line[2:] for line in lines), '```'])
    parts.append(part)
  return '\n\n'.join(parts)
