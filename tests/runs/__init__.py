"""Configs, and the program in a process of its own, stopped and restarted."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

from jaxlab.engine.metrics import TIME_FIELDS
from jaxlab.runs import configs

ROOT = Path(__file__).parents[2]


def config_of(name: str, variant: str = ''):
  """configs/NAME.py:VARIANT; NAME may be a path, too."""
  return configs.load(path_of(name), variant)


def variants_of(name: str):
  """VARIANTS of configs/NAME.py."""
  return configs.variants_of(path_of(name))


def smokes() -> list[str]:
  """The configs that have a smoke."""
  names = sorted(path.stem for path in (ROOT / 'configs').glob('*.py'))
  return [name for name in names if 'smoke' in variants_of(name)]


def path_of(name: str) -> Path:
  """configs/NAME.py, or NAME where it is a path in this repository."""
  return ROOT / (name if '/' in name else f'configs/{name}.py')


def free_address() -> str:
  """HOST:PORT of this machine at which nobody listens."""
  with socket.socket() as probe:
    probe.bind(('127.0.0.1', 0))
    return f'127.0.0.1:{probe.getsockname()[1]}'


def one_device() -> dict[str, str]:
  """The tests' environment, but for their eight devices."""
  flags = os.environ['XLA_FLAGS'].split()
  kept = [flag for flag in flags if 'device_count' not in flag]
  return {**os.environ, 'XLA_FLAGS': ' '.join(kept)}


def environment_of(folder: Path) -> dict[str, str]:
  """A data folder of its own; one device."""
  return {**one_device(), 'JAXLAB_DATA_DIR': str(folder / 'data')}


def start(folder: Path, environment, *flags: str) -> subprocess.Popen:
  """The program with some flags and `folder` as its workdir."""
  return subprocess.Popen(
    [sys.executable, '-m', 'jaxlab.main', *flags, f'--workdir={folder}'],
    env=environment,
    cwd=ROOT,
    stderr=subprocess.PIPE,
    text=True,
  )


def until(process, says: str) -> bool:
  """Returns when a line has `says`; False if the process ended without."""
  return any(says in line for line in process.stderr)


def outcome(stage: Path):
  """state_sha256, the figures and the metrics lines without their times."""
  report = json.loads((stage / 'report.json').read_text())
  lines = (stage / 'metrics.jsonl').read_text().splitlines()
  kept = [
    {k: v for k, v in json.loads(line).items() if k not in TIME_FIELDS}
    for line in lines
  ]
  return report['state_sha256'], report['metrics'], kept


def saved_steps(stage: Path) -> list[int]:
  """The steps of whole checkpoints, ascending."""
  folder = stage / 'checkpoints'
  if not folder.exists():
    return []
  return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit())
