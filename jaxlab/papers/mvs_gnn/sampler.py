"""Samplers by the names that configs use."""

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxlab.engine.errors import InputError
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


def options_of(name: str) -> dict[str, bool]:
  """The options of a sampler, and whether it needs them.

  Raises:
    InputError: there is no such sampler.
  """
  if name not in _SAMPLERS:
    raise InputError(
      f'there is no sampler "{name}"; there are {", ".join(NAMES)}'
    )
  common = inspect.signature(Sampler).parameters
  return {
    option: parameter.default is parameter.empty
    for option, parameter in inspect.signature(
      _SAMPLERS[name]
    ).parameters.items()
    if option not in common
  }


def check(name: str, options: Mapping[str, Any]) -> None:
  """Raises InputError: no such sampler, no such option or one is missing."""
  known = options_of(name)
  listed = ', '.join(known) or 'none'
  if unknown := [option for option in options if option not in known]:
    raise InputError(
      f'the sampler {name} has no option "{unknown[0]}"; it has {listed}'
    )
  needed = [option for option, must in known.items() if must]
  if missing := [option for option in needed if option not in options]:
    raise InputError(
      f'the sampler {name} needs the option "{missing[0]}"; it has {listed}'
    )


def make(
  name: str,
  operator: Operator,
  train: np.ndarray,
  batch_size: int,
  num_layers: int,
  options: Mapping[str, Any],
) -> Sampler:
  """A sampler.

  Args:
    name: one of NAMES.
    operator: L.
    train: [t] int nodes with a training label, each once.
    batch_size: seeds of a batch, or as many as a sampler aims at.
    num_layers: layers that gather.
    options: of the sampler's class, by name.

  Raises:
    InputError: as `check`, or a value that cannot be.
  """
  check(name, options)
  return _SAMPLERS[name](operator, train, batch_size, num_layers, **options)
