"""Devices: which platform, how many, in which named axes.

The only module that builds a Mesh.
"""

import ctypes
import itertools
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils, multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxlab.core.errors import InputError
from jaxlab.engine import hosts

_ACCELERATORS = ('accel0', 'vfio/0', 'nvidia0', 'nvidiactl', 'kfd')


def start(cpu_devices: int = 0) -> None:
  """Chooses the platform before JAX looks for one; quiet on a plain laptop.

  With libtpu installed and no TPU, JAX would probe for one and print alarming
  noise: where no accelerator device exists, the CPU is named instead.

  Within `hosts.joined` the devices of all processes become one system.

  Args:
    cpu_devices: number of CPU devices of this process to pretend to have; 0
      leaves it.

  Raises:
    InputError: a negative number, or a platform without a device.
  """
  present = any((Path('/dev') / name).exists() for name in _ACCELERATORS)
  platform = os.environ.get('JAX_PLATFORMS')
  if not platform and not present:
    platform = 'cpu'
    jax.config.update('jax_platforms', platform)
  if platform == 'cpu':
    keep_pages()
  if cpu_devices < 0:
    raise InputError(
      f'--cpu_devices={cpu_devices} is negative; 0 leaves their number as it is'
    )
  if cpu_devices:
    jax.config.update('jax_num_cpu_devices', cpu_devices)
  try:
    jax.devices()
  except (RuntimeError, AssertionError) as error:
    why = ' '.join(str(error).split())[:300] or 'none is there'
    raise InputError(
      f'JAX has no device of the platforms "{platform}" ({why}); unset '
      'JAX_PLATFORMS to take what is there, or install JAX for that platform'
    ) from error


def detected(timeout: float) -> hosts.Place:
  """The place that Cloud TPU, GKE, Slurm or Open MPI gave this process.

  Raises:
    InputError: none of them did.
  """
  # Not public in JAX, which keeps it within `initialize`; there a process that
  # does not arrive ends in an abort without its name.
  from jax._src import clusters

  found = clusters.ClusterEnv.auto_detect_unset_distributed_params(
    None, None, None, None, None, math.ceil(timeout)
  )
  coordinator, count, index, local = found
  if None in (coordinator, count, index):
    raise InputError(
      '--distributed finds no Cloud TPU, GKE, Slurm or Open MPI around this '
      'process; give --coordinator, --num_processes and --process_id instead'
    )
  if local is not None:  # Slurm: a process for each GPU
    os.environ.setdefault('JAX_LOCAL_DEVICE_IDS', ','.join(map(str, local)))
  return hosts.Place(str(coordinator), int(count or 1), int(index or 0))


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
  auto = (AxisType.Auto,) * len(sizes)
  shape, names = tuple(sizes.values()), tuple(sizes)
  if len({getattr(device, 'slice_index', 0) for device in devices}) > 1:
    # Slice by slice, so that the first axis is the one that crosses them.
    return Mesh(np.array(devices).reshape(shape), names, axis_types=auto)
  # An axis of 32 on a torus of 8 x 8 x 16 cuts one of its sides.
  placed = mesh_utils.create_device_mesh(
    shape, devices, allow_split_physical_axes=True
  )
  return Mesh(placed, names, axis_types=auto)


def row_axes(mesh: Mesh) -> tuple[str, ...]:
  """The axes that share the rows of a batch: all but 'model'."""
  return tuple(name for name in mesh.axis_names if name != 'model')


def row_ways(mesh: Mesh) -> int:
  """Among how many devices the rows of a batch are shared."""
  return math.prod(mesh.shape[name] for name in row_axes(mesh))


def round_rows(mesh: Mesh, rows: int) -> int:
  """The least number of rows, at least `rows`, that the devices can share."""
  ways = row_ways(mesh)
  return -(-rows // ways) * ways


def platform(mesh: Mesh) -> str:
  """'cpu', 'gpu' or 'tpu': of the mesh's devices, present or planned."""
  return mesh.devices.flat[0].platform


def replicated(mesh: Mesh) -> NamedSharding:
  """Every device holds the whole array."""
  return NamedSharding(mesh, PartitionSpec())


def connect(mesh: Mesh) -> None:
  """Lets the processes' CPU devices find each other, while all are there.

  Gloo connects a group of devices at its first collective, and gives up when
  one of them is 30 seconds late, as it may be after a long compilation.
  """
  if jax.process_count() == 1 or platform(mesh) != 'cpu':
    return
  hosts.meet('first collectives')
  names = mesh.axis_names
  for length in range(1, len(names) + 1):
    for axes in itertools.combinations(names, length):
      ways = math.prod(mesh.shape[name] for name in axes)
      ones = place(np.ones(ways), NamedSharding(mesh, PartitionSpec((*axes,))))
      total = jax.jit(lambda x: x.sum(), out_shardings=replicated(mesh))
      total(ones).block_until_ready()


def place(tree: Any, shardings: Any) -> Any:
  """`jax.device_put`, also onto devices of other processes.

  Every process gives the same values.
  """
  if jax.process_count() == 1:
    return jax.device_put(tree, shardings)

  def put(leaf, sharding):
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
      return jax.device_put(leaf, sharding)
    value = np.asarray(leaf)
    return jax.make_array_from_callback(
      value.shape, sharding, lambda index: value[index]
    )

  if isinstance(shardings, NamedSharding):
    return jax.tree.map(lambda leaf: put(leaf, shardings), tree)
  return jax.tree.map(put, tree, shardings)


def whole(leaf: Any) -> np.ndarray:
  """All of an array on this host, wherever its parts lie.

  Where other processes hold parts of it, every process must call this in the
  same order, and the array lies on each device for a moment.
  """
  if _is_spread(leaf):
    leaf = multihost_utils.process_allgather(leaf, tiled=True)
  return np.asarray(leaf)


def _is_spread(leaf) -> bool:
  return isinstance(leaf, jax.Array) and not (
    leaf.is_fully_addressable or leaf.is_fully_replicated
  )
