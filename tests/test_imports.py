"""The import rules of docs/design.md, read off the source."""

import ast
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[1]

# What the packages of jaxlab may import of jaxlab, beside themselves.
_LAYERS = {
  'engine': (),
  'ops': (),
  'data': ('ops', 'engine'),
  'models': ('ops', 'engine'),
  'evals': ('ops', 'engine'),
  'papers': ('ops', 'engine', 'data', 'models', 'evals'),
  'main.py': ('engine',),
  '__init__.py': (),
}
_CONFINED = {  # library -> the only places that may import it
  'flax.linen': ('jaxlab/models/',),
  'orbax': ('jaxlab/engine/checkpoint.py',),
  'tensorflow_datasets': ('jaxlab/data/',),
  'jax.distributed': ('jaxlab/engine/mesh.py',),
  'jax.experimental.multihost_utils': ('jaxlab/engine/',),
  'tensorflow': (),
  'pickle': ('jaxlab/data/pickles.py',),
  'cPickle': (),
  'dill': (),
  'cloudpickle': (),
  'marshal': (),
  'shelve': (),
}
_MESHES = {'Mesh', 'make_mesh', 'AbstractMesh', 'create_device_mesh'}
# Loaded before JAX is.
_NO_JAX = ('errors', 'workdir', 'preemption', 'hosts', 'channel', 'peer')
_NAMELESS = {'utils.py', 'util.py', 'common.py', 'misc.py', 'helpers.py'}


def _imported(tree):
  """Dotted names of all imports, `from a import b` as 'a.b' after 'a'."""
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      yield '.' * node.level + (node.module or '')
      prefix = '.' * node.level + (f'{node.module}.' if node.module else '')
      yield from (prefix + alias.name for alias in node.names)


def _attributes(tree):
  """Dotted names that are used: 'jax.distributed.initialize'."""
  for node in ast.walk(tree):
    if isinstance(node, ast.Attribute):
      yield ast.unparse(node)


def _called(tree):
  """Last names of all functions called."""
  for node in ast.walk(tree):
    if isinstance(node, ast.Call):
      if isinstance(node.func, ast.Name):
        yield node.func.id
      elif isinstance(node.func, ast.Attribute):
        yield node.func.attr


def _within(name, package):
  return name == package or name.startswith(f'{package}.')


def broken_rules(path: str, source: str) -> list[str]:
  """The rules that a file breaks; `path` is relative to the repository."""
  tree = ast.parse(source)
  imports = set(_imported(tree))
  found = [f'relative import {name}' for name in imports if name[0] == '.']
  if path.startswith('configs/'):
    return found + [
      f'a config imports {name}'
      for name in imports
      if not _within(name, 'ml_collections')
    ]
  found += [*_layer(path, imports), *_confined(path, tree, imports)]
  if path.startswith('jaxlab/papers/'):
    found += _papers(path, imports)
  module = path.removeprefix('jaxlab/engine/').removesuffix('.py')
  if module in _NO_JAX and any(_within(name, 'jax') for name in imports):
    found.append(f'{module} imports jax')
  if Path(path).name in _NAMELESS:
    found.append('a name that says nothing')
  return found + _dangerous(path, tree)


def _layer(path, imports):
  own = path.split('/')[1]
  allowed = [own, *_LAYERS[own]] if own in _LAYERS else []
  return [
    f'{own} imports {name}'
    for name in imports
    if _within(name, 'jaxlab')
    and name != 'jaxlab'
    and name.split('.')[1] not in allowed
  ]


def _confined(path, tree, imports):
  used = imports | set(_attributes(tree))
  found = [
    f'{name} outside of {places}'
    for name in used
    for library, places in _CONFINED.items()
    if _within(name, library) and not path.startswith(places or ('\0',))
  ]
  if path != 'jaxlab/engine/mesh.py':
    found += [
      f'{name}() builds a mesh' for name in _MESHES & set(_called(tree))
    ]
  return found


def _papers(path, imports):
  _, _, own, *rest = path.split('/')
  found = []
  for name in imports:
    parts = name.split('.')
    if parts[:2] != ['jaxlab', 'papers'] or len(parts) < 3:
      continue
    if parts[3:4] == ['task']:
      found.append(f'a task is imported: {name}')
    elif parts[2] != own and rest != ['task.py']:
      found.append(f'a method imports another paper: {name}')
  return found


def _dangerous(path, tree):
  found = []
  for node in ast.walk(tree):
    if not isinstance(node, ast.Call):
      continue
    name = ast.unparse(node.func)
    if name in ('eval', 'exec', 'builtins.eval', 'builtins.exec', '__import__'):
      found.append(f'{name}() at line {node.lineno}')
    if name.endswith('.exec_module') and path != 'jaxlab/main.py':
      found.append(f'{name}() at line {node.lineno}')
    for keyword in node.keywords:
      value = getattr(keyword.value, 'value', None)
      if keyword.arg == 'allow_pickle' and value is not False:
        found.append(f'allow_pickle at line {node.lineno}')
  return found


def _files():
  return sorted(
    str(path.relative_to(_ROOT))
    for folder in ('jaxlab', 'configs')
    for path in (_ROOT / folder).rglob('*.py')
  )


@pytest.mark.parametrize('path', _files())
def test_the_import_rules_are_kept(path):
  assert broken_rules(path, (_ROOT / path).read_text()) == []


def test_every_module_belongs_to_a_layer():
  tops = {path.split('/')[1] for path in _files() if path[:7] == 'jaxlab/'}
  assert {'engine', 'data', 'main.py'} <= tops <= set(_LAYERS)


@pytest.mark.parametrize(
  'path, source',
  [
    ('jaxlab/engine/loop.py', 'from jaxlab.data import feed'),
    ('jaxlab/engine/loop.py', 'import jaxlab.ops.losses'),
    ('jaxlab/ops/losses.py', 'from jaxlab.engine.state import State'),
    ('jaxlab/ops/losses.py', 'def f():\n  from jaxlab.models import bert'),
    ('jaxlab/data/text.py', 'from jaxlab.models import bert'),
    ('jaxlab/data/text.py', 'from jaxlab import models'),
    ('jaxlab/models/bert.py', 'from jaxlab.data import text'),
    ('jaxlab/evals/classify.py', 'from jaxlab.engine.feed import Feed'),
    ('jaxlab/evals/classify.py', 'from jaxlab.papers.lamb import method'),
    ('jaxlab/main.py', 'from jaxlab.papers.lamb import task'),
    ('jaxlab/new.py', 'import jaxlab.engine'),
    ('jaxlab/data/text.py', 'from . import feed'),
    ('jaxlab/papers/a/method.py', 'from jaxlab.papers.b import method'),
    ('jaxlab/papers/a/maths.py', 'import jaxlab.papers.b.method'),
    ('jaxlab/papers/a/task.py', 'from jaxlab.papers.b import task'),
    ('jaxlab/papers/a/task.py', 'from jaxlab.papers.b.task import program'),
    ('jaxlab/papers/a/method.py', 'from jaxlab.papers.a.task import program'),
    ('configs/a.py', 'import numpy'),
    ('configs/a.py', 'from jaxlab.engine import loop'),
    ('jaxlab/papers/a/method.py', 'import flax.linen as nn'),
    ('jaxlab/papers/a/task.py', 'from flax import linen as nn'),
    ('jaxlab/evals/a.py', 'import flax\nflax.linen.Dense(3)'),
    ('jaxlab/engine/loop.py', 'from jax.sharding import Mesh\nMesh([], ())'),
    ('jaxlab/engine/loop.py', 'import jax\njax.make_mesh((8,), ("data",))'),
    ('jaxlab/engine/loop.py', 'import jax\njax.distributed.initialize()'),
    ('jaxlab/engine/loop.py', 'import orbax.checkpoint as ocp'),
    ('jaxlab/evals/a.py', 'from tensorflow_datasets.core import x'),
    ('jaxlab/data/a.py', 'import tensorflow as tf'),
    ('jaxlab/data/a.py', 'import pickle'),
    ('jaxlab/data/a.py', 'from pickle import loads'),
    ('jaxlab/data/a.py', 'import numpy\nnumpy.load("x", allow_pickle=True)'),
    ('jaxlab/ops/a.py', 'eval("1 + 1")'),
    ('jaxlab/ops/a.py', 'exec("x = 1")'),
    ('jaxlab/ops/a.py', 'spec.loader.exec_module(module)'),
    ('jaxlab/data/weights.py', 'import pickle'),
    ('jaxlab/ops/utils.py', ''),
    ('jaxlab/engine/workdir.py', 'import jax.numpy as jnp'),
  ],
)
def test_a_broken_rule_is_found(path, source):
  assert broken_rules(path, source)


@pytest.mark.parametrize(
  'path, source',
  [
    ('jaxlab/engine/loop.py', 'from jax.sharding import Mesh\nx: Mesh'),
    ('jaxlab/data/text.py', 'from jaxlab.engine.errors import InputError'),
    ('jaxlab/data/builders/a/a.py', 'import tensorflow_datasets as tfds'),
    ('jaxlab/models/bert.py', 'from flax import linen as nn'),
    ('jaxlab/papers/a/task.py', 'from jaxlab.papers.b import method'),
    ('jaxlab/papers/a/task.py', 'from jaxlab.papers.a import method'),
    ('jaxlab/papers/a/method.py', 'from jaxlab.papers.a.maths import norm'),
    ('jaxlab/papers/a/method.py', 'from jaxlab.ops import losses'),
    ('jaxlab/main.py', 'config.exec_module(module)'),
    ('jaxlab/data/pickles.py', 'import pickle'),
    ('configs/a.py', 'from ml_collections import ConfigDict'),
    ('jaxlab/models/a.py', 'net.eval()\nevaluate(x)'),
  ],
)
def test_what_the_rules_allow_is_not_found(path, source):
  assert broken_rules(path, source) == []
