"""Devices: which platform, how many, in which named axes.

The only module that builds a Mesh or calls `jax.distributed`.
"""

import ctypes
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxlab.engine.errors import InputError

_ACCELERATORS = ('accel0', 'vfio/0', 'nvidia0', 'nvidiactl', 'kfd')


def start(cpu_devices: int = 0) -> None:
  """Chooses the platform before JAX looks for one; quiet on a plain laptop.

  With libtpu installed and no TPU, JAX would probe for one and print alarming
  noise: where no accelerator device exists, the CPU is named instead.

  Args:
    cpu_devices: number of CPU devices to pretend to have; 0 leaves it.
  """
  present = any((Path('/dev') / name).exists() for name in _ACCELERATORS)
  platform = os.environ.get('JAX_PLATFORMS')
  if not platform and not present:
    platform = 'cpu'
    jax.config.update('jax_platforms', platform)
  if platform == 'cpu':
    keep_pages()
  if cpu_devices:
    jax.config.update('jax_num_cpu_devices', cpu_devices)


def keep_pages() -> None:
  """Tells glibc to keep freed memory instead of giving it back each step.

  XLA:CPU allocates its temporaries anew each step; handed back to the kernel
  in between, they cost tens of thousands of page faults a step, a third of the
  main job's time (benchmarks/bert_step.py --keep-pages). Must come before JAX
  starts its threads.
  """
  try:
    mallopt = ctypes.CDLL(None).mallopt
  except AttributeError:
    return  # another C library: slower, nothing else
  trim, top_pad, mmap_max, arena_max = -1, -2, -4, -8  # glibc's malloc.h
  for option, value in (
    (trim, 2**31 - 1),
    (top_pad, 2**26),
    (mmap_max, 0),
    (arena_max, 1),
  ):
    mallopt(option, value)


def make(
  axes: Mapping[str, int] | None = None,
  devices: Sequence[jax.Device] | None = None,
) -> Mesh:
  """A mesh over all devices, or over those given.

  Args:
    axes: axis name -> size, in order; one size may be -1 (the devices that are
      left). Default: all devices on one axis 'data'.

  Raises:
    InputError: the sizes do not multiply to the number of devices.
  """
  devices = list(devices or jax.devices())
  sizes = dict(axes or {'data': -1})
  fixed = math.prod(size for size in sizes.values() if size != -1)
  free = [name for name, size in sizes.items() if size == -1]
  if len(free) == 1 and fixed > 0 and len(devices) % fixed == 0:
    sizes[free[0]] = len(devices) // fixed
  if math.prod(sizes.values()) != len(devices) or min(sizes.values()) < 1:
    raise InputError(
      f'mesh axes {dict(axes or {})} do not multiply to the '
      f'{len(devices)} devices of platform "{devices[0].platform}"; '
      'set one axis to -1 to let it take what is left'
    )
  # Auto: under Explicit axes, the default of `jax.make_mesh`, Linen's Dropout
  # and Embed and `segment_sum` raise.
  return jax.make_mesh(
    tuple(sizes.values()),
    tuple(sizes),
    axis_types=(AxisType.Auto,) * len(sizes),
    devices=devices,
  )


def row_axes(mesh: Mesh) -> tuple[str, ...]:
  """The axes that share the rows of a batch: all but 'model'."""
  return tuple(name for name in mesh.axis_names if name != 'model')


def platform(mesh: Mesh) -> str:
  """'cpu', 'gpu' or 'tpu': of the mesh's devices, present or planned."""
  return mesh.devices.flat[0].platform


def replicated(mesh: Mesh) -> NamedSharding:
  """Every device holds the whole array."""
  return NamedSharding(mesh, PartitionSpec())
