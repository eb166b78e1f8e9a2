"""Papers' methods under one small engine; `load` opens what a run left."""

import importlib
from typing import Any

__all__ = ['load']


def __getattr__(name: str) -> Any:
  # Late, so that a method is imported without the libraries of a run.
  if name == 'load':
    return importlib.import_module('jaxlab.predict').load
  raise AttributeError(f'module jaxlab has no attribute "{name}"')
