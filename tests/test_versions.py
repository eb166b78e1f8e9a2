"""The lowest and the newest versions that setup.cfg allows: slow."""

import configparser
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import runs

ROOT = Path(__file__).parents[1]
CONFIGS = runs.smokes()


def required():
  """Lines of install_requires and of the extra `run`, without comments."""
  config = configparser.ConfigParser()
  config.read(ROOT / 'setup.cfg')
  lines = config['options']['install_requires'].split('\n')
  lines += config['options.extras_require']['run'].split('\n')
  return [line.partition('#')[0].strip() for line in lines if line.strip()]


def lowest():
  """The requirements, each at its lower bound."""
  return [line.replace('>=', '==') for line in required()]


def test_every_requirement_has_a_lower_bound():
  for line in required():
    assert re.fullmatch(r'[\w-]+>=[\w.]+', line), line


@pytest.mark.slow
@pytest.mark.parametrize('which', ['lowest', 'newest'])
def test_every_module_loads_and_every_smoke_runs(which, tmp_path):
  """Three minutes of installing, and a smoke takes half a minute."""
  subprocess.run([sys.executable, '-m', 'venv', tmp_path / 'venv'], check=True)
  python = tmp_path / 'venv' / 'bin' / 'python'
  pins = lowest() if which == 'lowest' else ['--upgrade', *required()]
  pip = [python, '-m', 'pip', 'install', '-q']
  subprocess.run([*pip, *pins, 'h5py', 'pypdfium2'], check=True)
  subprocess.run([*pip, '--no-deps', '-e', ROOT], check=True)
  loaded = subprocess.run(
    [
      *(python, '-c'),
      'import importlib, pkgutil, jaxlab\n'
      'for found in pkgutil.walk_packages(jaxlab.__path__, "jaxlab."):\n'
      '  importlib.import_module(found.name)\n',
    ],
    capture_output=True,
    text=True,
    cwd=ROOT,
  )
  assert loaded.returncode == 0, loaded.stderr[-2000:]
  failed = {}
  for name in CONFIGS:
    flags = [f'--config={name}:smoke', f'--workdir={tmp_path / name}']
    done = subprocess.run(
      [python, '-m', 'jaxlab.main', *flags],
      capture_output=True,
      text=True,
      cwd=ROOT,
      env={**os.environ, 'JAXLAB_DATA_DIR': str(tmp_path / 'data')},
    )
    if done.returncode:
      failed[name] = done.stderr[-1000:]
  assert not failed
