"""Meshes: the sizes multiply to the devices, and the axes are automatic."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType

from jaxlab.core.errors import InputError
from jaxlab.engine import mesh
from tests import runs

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
  'axes, shape',
  [
    (None, {'data': 8}),
    ({'data': -1}, {'data': 8}),
    ({'data': -1, 'model': 2}, {'data': 4, 'model': 2}),
    ({'model': 2, 'data': 4}, {'model': 2, 'data': 4}),
    ({'data': 8, 'model': -1}, {'data': 8, 'model': 1}),
  ],
)
def test_one_axis_takes_the_devices_that_are_left(axes, shape):
  made = mesh.make(axes)
  assert list(made.shape.items()) == list(shape.items())
  assert made.axis_types == (AxisType.Auto,) * len(shape)


@pytest.mark.parametrize(
  'axes',
  [
    {'data': 3},
    {'data': 16},
    {'data': -1, 'model': 3},
    {'data': -1, 'model': -1},
    {'data': 0},
    {'data': -1, 'model': 0},
    {'data': -2, 'model': -4},
  ],
)
def test_sizes_that_do_not_multiply_to_the_devices_are_an_input_error(axes):
  with pytest.raises(InputError) as caught:
    mesh.make(axes)
  assert f'mesh axes {axes} do not multiply to the 8 devices' in str(
    caught.value
  )
  assert 'set one axis to -1' in str(caught.value)


def test_a_mesh_may_be_over_some_devices():
  some = jax.devices()[2:4]
  assert mesh.make(devices=some).devices.tolist() == some


def test_replicated_arrays_lie_whole_on_every_device():
  array = jax.device_put(jnp.arange(3), mesh.replicated(mesh.make()))
  shapes = [part.data.shape for part in array.addressable_shards]
  assert shapes == [(3,)] * 8


def test_without_an_accelerator_the_cpu_is_named_unless_the_user_chose(
  monkeypatch,
):
  def updates(accelerators, platforms):
    asked = []
    with monkeypatch.context() as patch:
      patch.setattr(mesh, '_ACCELERATORS', accelerators)
      patch.setenv('JAX_PLATFORMS', platforms)
      patch.setattr(jax.config, 'update', lambda *pair: asked.append(pair))
      mesh.start()
    return asked

  absent, present = ('no-such-device',), ('null',)
  assert updates(absent, '') == [('jax_platforms', 'cpu')]
  assert updates(present, '') == []
  assert updates(absent, 'tpu') == []


def test_cpu_devices_can_be_pretended_quietly():
  code = (
    'from jaxlab.engine import mesh; mesh.start(3); import jax; '
    'print(jax.device_count())'
  )
  done = subprocess.run(
    [sys.executable, '-c', code],
    env=runs.one_device(),
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert (done.returncode, done.stdout, done.stderr) == (0, '3\n', '')


def test_start_keeps_freed_memory_instead_of_faulting_it_in_again():
  """Minor page faults of filling 64 MiB a second time, in a new process."""
  code = (
    'import resource, sys\n'
    'import numpy as np\n'
    'from jaxlab.engine import mesh\n'
    'if sys.argv[1] == "start":\n'
    '  mesh.start()\n'
    'faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n'
    'np.ones(2**23)\n'
    'before = faults()\n'
    'np.ones(2**23)\n'
    'print(faults() - before)\n'
  )

  def faults(how):
    done = subprocess.run(
      [sys.executable, '-c', code, how],
      capture_output=True,
      text=True,
      check=True,
      cwd=ROOT,
      # NumPy would ask for huge pages, of which there are few to fault in.
      env={**os.environ, 'NUMPY_MADVISE_HUGEPAGE': '0'},
    )
    return int(done.stdout)

  without = faults('plain')
  if without < 1000:
    pytest.skip(f'this system gives huge pages: {without} faults without it')
  assert faults('start') < without / 10
