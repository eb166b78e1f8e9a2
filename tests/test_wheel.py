"""What a wheel of this tree has, and what its install brings: slow."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from jaxlab import extras

_ROOT = Path(__file__).parents[1]
_MEGABYTES = 200  # of wheels, for whoever wants one method
_METHOD = """
import jax, jax.numpy as jnp, optax
from jaxlab import encouraging_loss, lamb
import jaxlab, pathlib
assert pathlib.Path(jaxlab.__file__).with_name('py.typed').exists()
params = {'w': jnp.ones((3, 2))}
tx = lamb(0.1)
loss = lambda params: encouraging_loss(jnp.ones((4, 3)) @ params['w'],
                                       jnp.array([0, 1, 1, 0])).mean()
updates, state = tx.update(jax.grad(loss)(params), tx.init(params), params)
print(jaxlab.__version__, float(optax.global_norm(updates)) >= 0)
"""


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
  """The wheel, built in a copy of what git tracks."""
  folder = tmp_path_factory.mktemp('wheel')
  tree = folder / 'tree'
  names = subprocess.check_output(['git', 'ls-files'], cwd=_ROOT, text=True)
  for name in names.splitlines():
    if (_ROOT / name).is_file():
      (tree / name).parent.mkdir(parents=True, exist_ok=True)
      (tree / name).write_bytes((_ROOT / name).read_bytes())
  pip = [sys.executable, '-m', 'pip', 'wheel', '-q', '--no-deps']
  subprocess.run([*pip, '-w', folder, tree], check=True)
  (found,) = folder.glob('*.whl')
  return found


@pytest.mark.slow
def test_the_wheel_has_every_file_of_the_package(wheel):
  """20 seconds: pip fetches setuptools."""
  tracked = subprocess.check_output(
    ['git', 'ls-files', 'jaxlab'], cwd=_ROOT, text=True
  )
  held = zipfile.ZipFile(wheel).namelist()
  assert {*tracked.splitlines()} <= {*held}
  assert {'jaxlab/py.typed', 'jaxlab/runs/report.html.j2'} <= {*held}
  assert {name.split('/')[0] for name in held if '.dist-info/' not in name} == {
    'jaxlab'
  }
  about = next(name for name in held if name.endswith('/METADATA'))
  text = zipfile.ZipFile(wheel).read(about).decode()
  assert '\nName: jaxlab\nVersion: 0.1.0\n' in text


@pytest.mark.slow
def test_a_method_alone_is_less_than_200_megabytes(wheel, tmp_path):
  """Two minutes of installing; what pip would fetch, of all that it needs."""
  subprocess.run([sys.executable, '-m', 'venv', tmp_path / 'venv'], check=True)
  python = tmp_path / 'venv' / 'bin' / 'python'
  wheels = tmp_path / 'wheels'
  pip = [python, '-m', 'pip', '-q', '--disable-pip-version-check']
  subprocess.run([*pip, 'download', '-d', wheels, wheel], check=True)
  size = sum(path.stat().st_size for path in wheels.iterdir())
  print(f'{size / 1e6:.0f} MB in {len([*wheels.iterdir()])} wheels')
  assert size < _MEGABYTES * 1e6
  offline = ['--no-index', '--find-links', wheels]
  subprocess.run([*pip, 'install', *offline, wheel], check=True)
  environment = {**os.environ, 'JAX_PLATFORMS': 'cpu'}

  def run(*argv):
    return subprocess.run(
      [python, *argv],
      capture_output=True,
      text=True,
      cwd=tmp_path,
      env=environment,
    )

  done = run('-c', _METHOD)
  assert done.stdout == '0.1.0 True\n', done.stderr[-2000:]
  smoke = _ROOT / 'configs' / 'bert_lamb.py'
  done = run('-m', 'jaxlab.main', f'--config={smoke}:smoke')
  assert done.returncode == 2
  assert re.fullmatch(r"jaxlab: .*install 'jaxlab\[run\]'.*\n", done.stderr)
  held = run('-m', 'pip', 'list', '--format=freeze').stdout
  assert not re.search('^(tensorflow|matplotlib|jraph)', held, re.MULTILINE)


@pytest.mark.slow
def test_the_extra_run_brings_what_a_run_needs(wheel, tmp_path):
  """Three minutes of installing, half of one for the smoke."""
  subprocess.run([sys.executable, '-m', 'venv', tmp_path / 'venv'], check=True)
  python = tmp_path / 'venv' / 'bin' / 'python'
  pip = [python, '-m', 'pip', 'install', '-q']
  subprocess.run([*pip, f'{wheel}[run]'], check=True)
  smoke = _ROOT / 'configs' / 'bert_lamb.py'
  tried = '; '.join(f'import {name}' for name in extras.BRINGS['run'])
  subprocess.run([python, '-c', tried], check=True, cwd=tmp_path)
  for command in (
    ['-m', 'jaxlab.main', f'--config={smoke}:smoke', '--cpu_devices=1'],
    ['-m', 'jaxlab.predict', 'runs/bert_lamb-smoke', 'the [MASK] of it'],
  ):
    subprocess.run([python, *command], check=True, cwd=tmp_path)
