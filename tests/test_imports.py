"""The import rules of docs/design.md, read off the source in one pass."""

import ast
import re
import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).parents[1]
# A rule, and a regex of 'path[#task | #method] fact[#task | #method]' where it
# is broken. A task defines `program(config)`; a method is method.py and all
# that it imports of its paper.
_RULES = r"""
configs import ml_collections ~ configs/.* import:(?!ml_collections\b)
imports are absolute ~ .* import:\.
names say something ~ .* file:.*/(utils?|common|misc|helpers)\.py
files have a room ~ jaxlab/(?!(main|predict|compare|command|extras|__init__)
  \.py|(
  core|engine|ops|runs|data|models|evals|planning|recipes|papers)/).* file:
imports run down ~ jaxlab/(core|ops)\b.* import:jaxlab\.(?!\1\b)
imports run down ~ jaxlab/engine\b.* import:jaxlab\.(?!(core|engine)\b)
extras knows no room ~ jaxlab/extras.* import:jaxlab\b
imports run down ~ jaxlab/runs/.* import:jaxlab\.(?!(core|engine|runs)\b)
imports run down ~ jaxlab/(data|models|evals)/.* import:jaxlab\.
  (?!(core|engine|ops|extras|\1)\b)
imports run down ~ jaxlab/planning/.* import:jaxlab\.
  (?!(core|engine|runs|ops|extras|planning)\b)
imports run down ~ jaxlab/recipes/.* import:jaxlab\.papers\b
imports run down ~ jaxlab/main.* import:jaxlab\.
  (?!(core|engine|runs|planning|extras)\b)
imports run down ~ jaxlab/predict.* import:jaxlab\.
  (?!(core|engine|runs|main|data\.images\.pixels|command|extras)\b)
imports run down ~ jaxlab/compare.* import:jaxlab\.
  (?!(core|engine|runs|command|extras)\b)
imports run down ~ jaxlab/command.* import:jaxlab\.(?!(core|engine|runs|
  extras)\b)
imports run down ~ jaxlab/(?!predict\.py).* import:jaxlab\.main\b
imports run down ~ jaxlab/(?!__init__).* import:jaxlab\.(predict|compare)\b
imports run down ~ jaxlab/.* import:(tests|benchmarks|configs|examples|launch)\b
only models/ ~ (?!jaxlab/models/).* (import|use):flax\.linen\b
only data/ ~ (?!jaxlab/data/).* import:tensorflow_datasets\b
only engine/ ~ (?!jaxlab/engine/).* (import|use):.*\bmultihost_utils\b
only engine/checkpoint.py ~ (?!jaxlab/engine/checkpoint\.py).* import:orbax\b
only engine/hosts.py ~ (?!jaxlab/engine/hosts\.py).* (import|use):jax\.
  distributed\b
only engine/mesh.py ~ (?!jaxlab/engine/mesh\.py).* call:(.*\.)?(Mesh|
  AbstractMesh|make_mesh|create_device_mesh)$
only pickles.py ~ (?!jaxlab/data/packages/pickles\.py).* import:pickle\b
only configs are run as files ~ (?!jaxlab/(runs/configs|extras)\.py).* call:.*
  \.exec_module$
no TensorFlow, nothing runs what it reads ~ .* (allow_pickle=(?!False$)|import:(
  tensorflow|cPickle|dill|cloudpickle|marshal|shelve)\b|
  call:(builtins\.)?(eval|exec|__import__)$)
loaded before JAX ~ jaxlab/(compare|core/errors|engine/preemption|runs/(configs|
  workdir|record))\.py import:jax\b
nothing imports a task ~ .* import:(.*#task|jaxlab\.papers\.\w+\.task\b)
only tasks use other papers ~ jaxlab/papers/(\w+)/\w+\.py(?!#task).* import:
  jaxlab\.papers\.(?!\1\b)
of other papers only methods ~ jaxlab/papers/(\w+)/.* import:jaxlab\.papers\.
  (?!\1\b).*(?<!#method)$
methods are pure ~ jaxlab/papers/(\w+)/.*#method ((task|argument:config|
  call:open)$|import:(?!(jaxlab\.papers\.\1|jaxlab\.ops|jaxlab\.core\.(errors|
  keys|state|update)|jax|chex|flax\.struct|numpy|optax|scipy|collections|
  dataclasses|functools|itertools|math|operator|re|typing)\b))
"""
# All of these imports, calls and arguments break a rule, …
_WRONG = """
configs/a.py ~ import numpy
jaxlab/engine/a.py ~ import jaxlab.ops, orbax; from . import b; jax.make_mesh()
jaxlab/core/errors.py ~ import jax.numpy, jaxlab.planning, jaxlab.engine.feed
jaxlab/ops/a.py ~ import jaxlab.engine, dill, tensorflow; m.exec_module();
  exec(allow_pickle=True); eval()
jaxlab/ops/utils.py ~ 0
jaxlab/new.py ~ 0
jaxlab/extras.py ~ import jaxlab.core.errors
jaxlab/data/a.py ~ import jaxlab.models, pickle, jaxlab.evals; jax.distributed
jaxlab/models/a.py ~ from jaxlab import data; import tests.runs, jaxlab.main
jaxlab/evals/a.py ~ import tensorflow_datasets.core, jaxlab.recipes; flax.linen
jaxlab/planning/a.py ~ from jaxlab.evals import ood; jax.sharding.Mesh()
jaxlab/recipes/a.py ~ from jaxlab.papers.b import method; import flax.linen
jaxlab/main.py ~ import jaxlab.papers.b.images, jaxlab.data; m.exec_module()
jaxlab/predict.py ~ import jaxlab.recipes, jaxlab.compare
jaxlab/compare.py ~ import jax, jaxlab.data, jaxlab.predict
jaxlab/command.py ~ import jaxlab.data, jaxlab.main
jaxlab/papers/a/a.py ~ import jaxlab.papers.b.method, jaxlab.papers.a.task
jaxlab/papers/a/task.py ~ def program(): import jaxlab.papers.b.plots;
  from jaxlab.papers.b.images import program;
  from jax.experimental import multihost_utils
jaxlab/papers/a/method.py ~ import json, ml_collections, jaxlab.papers.b.method,
  jaxlab.data, jaxlab.models, jaxlab.recipes.a, jaxlab.evals, jaxlab.engine.loop
jaxlab/papers/b/maths.py ~ import pathlib, flax.linen; open(); lambda config: 0
"""
_RIGHT = """
jaxlab/papers/b/method.py ~ import math, jax, jaxlab.papers.b.maths
jaxlab/papers/b/images.py ~ def program(config): import json, jaxlab.recipes.a
jaxlab/papers/c/task.py ~ def program(): from jaxlab.papers.b import maths
"""  # … none of these


def _table(text):
  rows = re.sub(r'\n +', '', text.strip()).split('\n')
  return [row.split(' ~ ') for row in rows]


def _facts(path, source):
  """(line, what is there) of one file."""
  yield 1, f'file:{path}'
  for node in ast.walk(ast.parse(source, path)):
    match node:
      case ast.Import(names):
        found = [f'import:{x.name}' for x in names]
      case ast.ImportFrom(module, names, level):
        package = '.' * level + (f'{module}.' if module else '')
        found = [f'import:{package}{x.name}' for x in names]
      case ast.FunctionDef('program', ast.arguments(args=[] | [_])):
        found = ['task']
      case ast.Attribute():
        found = [f'use:{ast.unparse(node)}']
      case ast.Call(func):
        found = [f'call:{ast.unparse(func)}']
      case ast.keyword('allow_pickle', value):
        found = [f'allow_pickle={ast.unparse(value)}']
      case ast.arg(name):
        found = [f'argument:{name}']
      case _:
        continue
    yield from ((node.lineno, what) for what in found)


def _broken(sources):
  """'path:line: rule (what is there)' for all files, path -> source."""
  facts = {path: {*_facts(path, text)} for path, text in sources.items()}
  named = {path[:-3].replace('/', '.'): path for path in facts}
  source_of = lambda fact: named.get('.'.join(fact[7:].split('.')[:4]), '')
  methods = [path for path in facts if path.endswith('/method.py')]
  for path in methods:  # grows
    imported = {source_of(fact) for _, fact in facts[path]} - {*methods}
    methods += [x for x in imported if Path(x).parent == Path(path).parent]
  tasks = [path for path in facts if 'task' in {x for _, x in facts[path]}]
  kinds = dict.fromkeys(tasks, '#task') | dict.fromkeys(methods, '#method')
  rules = _table(_RULES)
  for path in facts:
    for line, fact in sorted(facts[path]):
      text = path + kinds.get(path, '') + ' ' + fact
      text += kinds.get(source_of(fact), '')
      for rule, regex in rules:
        if re.match(regex, text):
          yield f'{path}:{line}: {rule} ({fact})'


def test_the_import_rules_are_kept():
  files = [*_ROOT.glob('jaxlab/**/*.py'), *_ROOT.glob('configs/*.py')]
  found = _broken({str(x.relative_to(_ROOT)): x.read_text() for x in files})
  assert len(files) > 100
  assert not (lines := '\n'.join(found)), lines


def test_each_rule_finds_what_breaks_it():
  wrong = dict(_table(_WRONG))
  found = [*_broken({**dict(_table(_RIGHT)), **wrong})]
  facts = {f'{path}{x}' for path in wrong for _, x in _facts(path, wrong[path])}
  named = [re.fullmatch(r'(.*):1: (.*) \((.*)\)', line) for line in found]
  missed = facts - {x[1] + x[3] for x in named}
  assert not [x for x in missed if re.search('import:|call:|argument:', x)]
  assert {x[1] for x in named} == {*wrong}
  assert {x[2] for x in named} == {rule for rule, _ in _table(_RULES)}


def test_methods_and_the_state_load_no_more_than_they_need():
  papers = [x.parent.name for x in _ROOT.glob('jaxlab/papers/*/method.py')]
  names = [f'jaxlab.papers.{paper}.method' for paper in papers]
  names += ['jaxlab.core.state', 'jaxlab.core.update']
  ask = f'import sys, {", ".join(names)}; print(*sys.modules)'
  loaded = subprocess.check_output([sys.executable, '-c', ask], cwd=_ROOT)
  loaded = loaded.decode().split()
  unwanted = {'orbax', 'tensorflow_datasets', 'matplotlib'}
  assert {*names} <= {*loaded}
  assert sorted(unwanted & {*loaded}) == []
