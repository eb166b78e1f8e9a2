"""The jobs of LAMB's configs, opened and begun without a training."""

from pathlib import Path
from unittest import mock

import jax
import pytest

from jaxlab.core import keys
from jaxlab.engine import mesh
from jaxlab.engine.compiled import FRESH, first_state
from jaxlab.runs import stage
from tests import runs

ROOT = Path(__file__).parents[2]


def config_of(file, name=''):
  """A variant of a config, as a dict."""
  return runs.config_of(file, name).to_dict()


def space_of(config, folder=Path('unused'), devices=1):
  devices = mesh.make(devices=jax.devices()[:devices])
  return stage.Workspace(folder, config, devices, config['seed'])


class _Begun(Exception):
  pass


def begun(one, space):
  """State before the first update of a stage, and its inputs."""

  def fit(name, task, inputs, options, folder, devices, seed, start=FRESH):
    key = keys.stream(seed, 'init')
    raise _Begun(first_state(task, key, start), inputs)

  with mock.patch.object(stage, 'fit', fit), pytest.raises(_Begun) as caught:
    one.run(space)
  return caught.value.args
