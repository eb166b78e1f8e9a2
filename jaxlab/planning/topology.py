"""TPU slices that nobody has at hand: their devices, to compile for.

libtpu compiles real TPU programs on any host. Figures of the chips are those
of Cloud TPU's documentation ("TPU architecture", read in November 2026), ICI
in one direction over all links of a chip; v2's and v3's are 4 links of 496 and
656 Gbit/s (Jouppi et al., CACM 63(7), 2020).
"""

import importlib.util
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

from jaxlab.core.errors import InputError


class Chip(NamedTuple):
  """One TPU chip."""

  teraflops: float  # peak, bfloat16
  hbm_gib: float
  hbm_gbps: float  # 1e9 bytes a second
  ici_gbps: float  # 1e9 bytes a second, outgoing
  example: str  # a topology that exists


CHIPS = {
  'v2': Chip(45, 16, 700, 248, 'v2:4x4'),
  'v3': Chip(123, 32, 900, 328, 'v3:32x32'),
  'v4': Chip(275, 32, 1228, 300, 'v4:8x8x16'),
  'v5e': Chip(197, 16, 819, 200, 'v5e:16x16'),
  'v5p': Chip(459, 95, 2765, 600, 'v5p:8x8x16'),
  'v6e': Chip(918, 32, 1640, 448, 'v6e:16x16'),
}


class Topology(NamedTuple):
  """A slice, or several, as devices that can be compiled for."""

  name: str
  chip: Chip
  chips: int
  devices: Sequence[Any]

  @property
  def devices_per_chip(self) -> int:
    """2 where each core is a device of its own."""
    return len(self.devices) // self.chips


def describe(name: str, slices: int = 1) -> Topology:
  """The devices of a topology such as 'v3:32x32', `slices` times.

  One process at a time can hold libtpu.

  Raises:
    InputError: libtpu is absent or held, or there is no such topology.
  """
  kind, _, shape = name.partition(':')
  if kind not in CHIPS:
    raise InputError(
      f'--plan={name}: no TPU is called "{kind}"; valid names look like '
      f'{", ".join(chip.example for chip in CHIPS.values())}'
    )
  if not shape:
    raise InputError(f'--plan={name} has no shape; write {CHIPS[kind].example}')
  if slices < 1:
    raise InputError(f'--plan_slices={slices}: take at least 1')
  os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')
  os.environ.setdefault('TPU_WORKER_HOSTNAMES', 'localhost')
  # Compiling needs no device, and so no lock on one: a lock file that a killed
  # process left behind would stop every later plan.
  os.environ.setdefault('ALLOW_MULTIPLE_LIBTPU_LOAD', 'true')
  if importlib.util.find_spec('libtpu') is None:
    raise InputError(
      "--plan needs libtpu, which is not installed: pip install 'jaxlab[plan]'"
    )
  from jax.experimental import topologies

  options: dict[str, Any] = {'num_slices': slices} if slices > 1 else {}
  if kind == 'v4':
    # Both cores of a chip as one device, as v4 runs JAX; v5p does by itself.
    options['chip_config_name'] = 'megacore'
  try:
    found = topologies.get_topology_desc(
      platform='tpu', topology_name=name, **options
    )
  except Exception as error:  # of several classes, one of them RuntimeError
    raise _explained(name, slices, error) from error
  devices: Sequence[Any] = found.devices
  places = {(getattr(d, 'slice_index', 0), *d.coords) for d in devices}
  return Topology(name, CHIPS[kind], len(places), devices)


def _explained(name, slices, error) -> InputError:
  said = ' '.join(str(error).split())
  low = said.lower()
  if 'lockfile' in low or 'already in use' in low:
    return InputError(
      f'--plan={name}: another process holds libtpu, or was killed and left '
      f'its lock file ({said[:200]}); wait for it to end, or remove the file '
      'if there is none'
    )
  kind = name.partition(':')[0]
  times = f' x {slices} slices' if slices > 1 else ''
  return InputError(
    f'--plan={name}{times}: libtpu knows no such topology ({said[:300]}); '
    f'{kind} slices look like {CHIPS[kind].example}'
  )
