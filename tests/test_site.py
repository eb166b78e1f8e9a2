"""The documentation site builds without a warning: slow, a minute."""

import configparser
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
  config = configparser.ConfigParser()
  config.read(_ROOT / 'setup.cfg')
  lines = config['options.extras_require']['docs'].split('\n')
  wanted = [line.partition('#')[0].strip() for line in lines if line]
  subprocess.run([sys.executable, '-m', 'venv', tmp_path / 'venv'], check=True)
  python = tmp_path / 'venv' / 'bin' / 'python'
  subprocess.run([python, '-m', 'pip', 'install', '-q', *wanted], check=True)
  site = tmp_path / 'site'
  done = subprocess.run(
    [python, '-m', 'mkdocs', 'build', '--strict', '--site-dir', site],
    capture_output=True,
    text=True,
    cwd=_ROOT,
  )
  assert done.returncode == 0, done.stderr[-3000:]
  assert 'Methods in your own code' in (site / 'index.html').read_text()
  reference = (site / 'reference' / 'methods' / 'index.html').read_text()
  assert 'jaxlab.papers.lamb.method.lamb' in reference
