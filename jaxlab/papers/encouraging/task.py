"""The encouraging loss's jobs: from a config to stages."""

import importlib
from collections.abc import Mapping
from typing import Any

from jaxlab.engine.errors import InputError
from jaxlab.engine.stage import Stage

JOBS = ('images', 'graphs', 'translation')


def program(config: Mapping[str, Any]) -> list[Stage]:
  """The stages of the job that the config names.

  Raises:
    InputError: a value that cannot be; nothing has been computed yet.
  """
  job = config['job']
  if job not in JOBS:
    raise InputError(f'config.job = "{job}" is not one of {", ".join(JOBS)}')
  # Only the job's own modules are loaded: some need libraries that others do
  # not.
  module = importlib.import_module(f'jaxlab.papers.encouraging.{job}')
  return module.program(config)
