"""What there is: configs, their variants, their keys with what they mean.

Imports no JAX and runs no config but the one that is asked for.
"""

import ast
import importlib.metadata
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxlab.runs import configs as files
from jaxlab.runs import workdir


def version() -> str:
  """'jaxlab 1.2.3'."""
  try:
    return f'jaxlab {importlib.metadata.version("jaxlab")}'
  except importlib.metadata.PackageNotFoundError:
    return 'jaxlab, not installed'


def example() -> str:
  """A config that there is."""
  return f'configs/{min((p.name for p in _paths()), default="X.py")}'


def configs() -> str:
  """A line for each config: its name, its variants, what it is."""
  lines = ['configs, each with its variants (NAME or NAME:VARIANT):']
  for path in _paths():
    tree = ast.parse(path.read_text())
    about = (ast.get_docstring(tree) or '').split('\n')[0].rstrip('.')
    names = [name for name in _variants(tree) if name]
    lines += [f'  {path.stem:25}{about}']
    if names:
      lines += [f'  {"":25}:{" :".join(names)}']
  return '\n'.join(lines)


def keys(path: Path, config: Mapping[str, Any]) -> str:
  """A line for each key of a config: its value, and its comment if any."""
  sources = (Path(files.__file__), path)
  notes = {
    k: v for one in sources for k, v in _comments(one.read_text()).items()
  }
  lines = []
  for key, value in workdir.flatten(config.to_dict()).items():  # type: ignore[attr-defined]
    name = '.'.join(key.split('.')[-2:])
    note = notes.get(name, notes.get(key.split('.')[-1], ''))
    lines.append(f'  --config.{key}={value!r}{"  # " + note if note else ""}')
  return '\n'.join([f'keys of {path}:', *lines])


def _paths() -> list[Path]:
  folder = Path('configs') if Path('configs').is_dir() else files.OWN
  return sorted(folder.glob('*.py'))


def _variants(tree: ast.Module) -> list[str]:
  for node in tree.body:
    if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
      target = node.targets[0]
      if isinstance(target, ast.Name) and target.id == 'VARIANTS':
        return [str(ast.literal_eval(key)) for key in node.value.keys if key]
  return []


def _comments(text: str) -> dict[str, str]:
  """'section.key', and 'key' -> the comment behind or above its assignment."""
  notes: dict[str, str] = {}
  above: list[str] = []
  for line in text.split('\n'):
    if match := re.fullmatch(r'\s*# (.*)', line):
      above.append(match[1])
      continue
    match = re.match(r"\s*'?(?:[\w.]*?(\w+)\.)?(\w+)'?(?: = |: )", line)
    behind = re.search(r'  # (.*)$', line)
    if match:
      note = behind[1] if behind else ' '.join(above)
      section, key = match[1], match[2]
      if note:
        notes.setdefault(key, note)
        if section:
          notes.setdefault(f'{section}.{key}', note)
    above = []
  return notes
