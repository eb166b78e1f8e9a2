"""What `import jaxlab` gives, what it costs, and what it says without extras.

An extra is absent here where a finder hides its modules.
"""

import ast
import configparser
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import jaxlab
from jaxlab import compare, extras, predict

_ROOT = Path(__file__).parents[1]
_HIDDEN = [name for names in extras.BRINGS.values() for name in names]
_HIDE = f"""
import sys
class Hidden:
  def find_spec(name, path=None, target=None):
    if name.split('.')[0] in {_HIDDEN}:
      raise ModuleNotFoundError('hidden ' + name, name=name)
sys.meta_path.insert(0, Hidden)
"""
_ALL = """
import importlib, pkgutil, jaxlab
for found in pkgutil.walk_packages(jaxlab.__path__, 'jaxlab.'):
  try:
    importlib.import_module(found.name)
    print(found.name)
  except ModuleNotFoundError as error:
    print(found.name, error, sep=': ')
"""
_WITHOUT = r"""jaxlab\.(main|predict|compare|extras|papers\.\w+\.method
  |ops\.(?!mahalanobis|generative|corruptions)\w+|engine\.(state|update|mesh|errors)
  |models\.(?!sagpool|sampled_gnn)\w+)"""


def run(code, *argv, code_of_exit=0):
  """Runs Python code in a process of its own; both of its outputs."""
  done = subprocess.run(
    [sys.executable, '-c', code, *argv],
    capture_output=True,
    text=True,
    cwd=_ROOT,
  )
  assert done.returncode == code_of_exit, done.stderr[-3000:]
  return done.stdout, done.stderr


def test_type_checkers_see_the_names_that_are_loaded():
  tree = ast.parse(Path(jaxlab.__file__).read_text())
  (block,) = [node for node in tree.body if isinstance(node, ast.If)]
  seen = {x.name: node.module for node in block.body for x in node.names}
  assert seen == jaxlab._MODULES
  for node in block.body:
    assert all(x.asname == x.name for x in node.names)  # public: PEP 484
  for name in jaxlab.__all__[1:]:
    found = inspect.signature(getattr(jaxlab, name))
    assert all(x.annotation is not x.empty for x in found.parameters.values())
  with pytest.raises(AttributeError, match='no attribute "lamp"'):
    _ = jaxlab.lamp


def test_a_method_loads_soon_and_without_the_libraries_of_a_run():
  code = f"""
import sys, time
import jax, optax  # optax alone takes .1 s
before = time.process_time()
import jaxlab
assert set(jaxlab.__all__) <= set(dir(jaxlab))  # before they are loaded
print(*[name for name in sys.modules if name.startswith('jaxlab.')])
from jaxlab import encouraging_loss, lamb, lars, pgd
print(time.process_time() - before)
print(*({{*{_HIDDEN}, 'scipy', 'flax'}} & {{*sys.modules}}))
"""
  of_jaxlab, seconds, libraries = run(code)[0].split('\n')[:3]
  assert of_jaxlab == 'jaxlab.extras'
  assert float(seconds) < 0.2
  assert libraries == ''


def test_each_module_loads_or_names_the_extra_that_it_needs():
  alone, told = set(), {}
  for line in run(_HIDE + _ALL)[0].splitlines():
    name, _, message = line.partition(': ')
    alone |= set() if message else {name}
    told |= {name: message} if message else {}
  assert all(re.match(r"\w+ is .*'jaxlab\[\w+\]'", x) for x in told.values())
  without = re.compile(_WITHOUT, re.VERBOSE)
  assert [name for name in told if without.fullmatch(name)] == []
  assert 'jaxlab.models.lenet' in alone
  assert "'jaxlab[run]'" in told['jaxlab.recipes.images']


@pytest.mark.parametrize(
  'door, argv, library',
  [
    ('main', ['--config=bert_lamb:smoke', '--workdir='], 'orbax'),
    ('data.prepare', ['digits'], 'tensorflow_datasets'),
    ('papers.lamb.export', ['runs/x/pretrain', 'my-bert'], r'\w+'),
  ],
)
def test_a_door_says_in_one_line_what_to_install(door, argv, library, tmp_path):
  start = f'import runpy; runpy.run_module("jaxlab.{door}", None, "__main__")'
  argv = [x + str(tmp_path) if x == '--workdir=' else x for x in argv]
  said = run(_HIDE + start, *argv, code_of_exit=2)[1]
  assert re.fullmatch(rf".*{library} is .*install 'jaxlab\[run\]'.*\n", said)


@pytest.mark.parametrize('door', [predict, compare])
def test_a_library_missed_later_is_named_in_one_line(door, monkeypatch, capsys):
  def run(*args):
    raise ModuleNotFoundError(name='matplotlib.figure')

  monkeypatch.setattr(door, '_run', run)
  assert door.main(['', 'runs/a', 'runs/b']) == 2
  said = capsys.readouterr().err
  assert re.fullmatch(r"jaxlab: matplotlib is .*'jaxlab\[run\]'.*\n", said)


def test_setup_cfg_brings_what_the_extras_are_said_to_bring():
  config = configparser.ConfigParser()
  config.read(_ROOT / 'setup.cfg')
  packages = {
    'PIL': 'pillow',
    'google': 'protobuf',
    'orbax': 'orbax-checkpoint',
    'sklearn': 'scikit-learn',
    'tensorflow_datasets': 'tensorflow-datasets',
  }
  for extra, modules in extras.BRINGS.items():
    lines = config['options.extras_require'][extra].split('\n')
    brought = {re.split('[>=#]', line)[0].strip() for line in lines if line}
    assert {packages.get(x, x) for x in modules} <= brought
    assert f'\\[{extra}\\]' in re.escape(
      extras.cure(ModuleNotFoundError(name=f'{modules[0]}.sub'))
    )
  assert extras.cure(ModuleNotFoundError(name='nothing')) == ''
  assert extras.cure(ImportError(name='PIL')) == ''
