"""Samplers by the names that configs use."""

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxlab.core.errors import InputError
from jaxlab.papers.mvs_gnn.blocks import Operator
from jaxlab.papers.mvs_gnn.layerwise import LADIES, FastGCN
from jaxlab.papers.mvs_gnn.minimal_variance import MVS
from jaxlab.papers.mvs_gnn.nodewise import VRGCN, Labor, Neighbour, Uniform
from jaxlab.papers.mvs_gnn.sampling import Sampler
from jaxlab.papers.mvs_gnn.subgraph import ClusterGCN, GraphSAINT

_SAMPLERS: Mapping[str, type[Sampler]] = {
  'uniform': Uniform,
  'neighbour': Neighbour,
  'vr_gcn': VRGCN,
  'fastgcn': FastGCN,
  'ladies': LADIES,
  'cluster_gcn': ClusterGCN,
  'graphsaint': GraphSAINT,
  'labor': Labor,
  'mvs': MVS,
}
NAMES = tuple(_SAMPLERS)


def check(name: str, options: Mapping[str, Any]) -> None:
  """Raises InputError: no such sampler, no such option or one is missing."""
  if name not in _SAMPLERS:
    raise InputError(
      f'there is no sampler "{name}"; there are {", ".join(NAMES)}'
    )
  parameters = inspect.signature(_SAMPLERS[name]).parameters
  common = inspect.signature(Sampler).parameters
  known = {k: p for k, p in parameters.items() if k not in common}
  listed = ', '.join(known) or 'none'
  for option in options:
    if option not in known:
      raise InputError(
        f'the sampler {name} has no option "{option}"; it has {listed}'
      )
  for option, parameter in known.items():
    if parameter.default is parameter.empty and option not in options:
      raise InputError(
        f'the sampler {name} needs the option "{option}"; it has {listed}'
      )


def make(
  name: str,
  operator: Operator,
  train: np.ndarray,
  batch_size: int,
  num_layers: int,
  options: Mapping[str, Any],
) -> Sampler:
  """A sampler of `NAMES` with options of its class, the rest as `Sampler`.

  Raises:
    InputError: as `check`, or a value that cannot be.
  """
  check(name, options)
  return _SAMPLERS[name](operator, train, batch_size, num_layers, **options)
