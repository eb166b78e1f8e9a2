"""The libraries that programs load: what `tests.forked` forks from."""

import gc
import importlib
import logging
from pathlib import Path

import jax  # noqa: F401
import matplotlib.backends.backend_agg  # noqa: F401

import jaxlab.runs.stage  # noqa: F401

logging.getLogger('absl').setLevel(logging.ERROR)
PAPERS = Path(__file__).parents[1] / 'jaxlab' / 'papers'

for path in sorted(PAPERS.glob('*/*.py')):
  importlib.import_module(f'jaxlab.papers.{path.parent.name}.{path.stem}')

gc.collect()
gc.freeze()
gc.set_threshold(100_000, 50, 100)  # as in conftest.py
