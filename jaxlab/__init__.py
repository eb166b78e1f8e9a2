"""Papers' methods as pure functions and optax-style transforms.

>>> from jaxlab import lamb
>>> tx = lamb(0.01)

A name is loaded when it is asked for, so that `import jaxlab` costs nothing
and a method comes without the libraries of a run. `load` opens a run's model.
"""

import importlib
from typing import TYPE_CHECKING, Any

from jaxlab import extras

if TYPE_CHECKING:
  from jaxlab.ops.attacks import apgd as apgd
  from jaxlab.ops.attacks import autoattack_standard as autoattack_standard
  from jaxlab.ops.attacks import fgsm as fgsm
  from jaxlab.ops.attacks import mim as mim
  from jaxlab.ops.attacks import pgd as pgd
  from jaxlab.papers.aloe.method import robust_loss as robust_loss
  from jaxlab.papers.bayes_cnn.method import elbo as elbo
  from jaxlab.papers.bayes_cnn.method import ivon as ivon
  from jaxlab.papers.bayes_cnn.method import predict_mc as predict_mc
  from jaxlab.papers.doc_regions.method import crop_regions as crop_regions
  from jaxlab.papers.encouraging.method import (
    encouraging_loss as encouraging_loss,
  )
  from jaxlab.papers.gaan.method import (
    latent_data_distance as latent_data_distance,
  )
  from jaxlab.papers.lamb.method import lamb as lamb
  from jaxlab.papers.lamb.method import lars as lars
  from jaxlab.papers.lamb.method import layer_axes_from as layer_axes_from
  from jaxlab.papers.lamb.method import warmup_polynomial as warmup_polynomial
  from jaxlab.papers.metric_transfer.propagation import (
    LabelPropagation as LabelPropagation,
  )
  from jaxlab.papers.mvs_gnn.method import (
    minimal_variance_probabilities as minimal_variance_probabilities,
  )
  from jaxlab.papers.reprogramming.method import (
    reprogramming_loss as reprogramming_loss,
  )
  from jaxlab.predict import load as load

__version__ = '0.1.0'

# Module -> the names that it gives; type checkers read them above.
_FROM = {
  'jaxlab.ops.attacks': (
    *('apgd', 'autoattack_standard', 'fgsm', 'mim', 'pgd'),
  ),
  'jaxlab.papers.aloe.method': ('robust_loss',),
  'jaxlab.papers.bayes_cnn.method': ('elbo', 'ivon', 'predict_mc'),
  'jaxlab.papers.doc_regions.method': ('crop_regions',),
  'jaxlab.papers.encouraging.method': ('encouraging_loss',),
  'jaxlab.papers.gaan.method': ('latent_data_distance',),
  'jaxlab.papers.lamb.method': (
    *('lamb', 'lars', 'layer_axes_from', 'warmup_polynomial'),
  ),
  'jaxlab.papers.metric_transfer.propagation': ('LabelPropagation',),
  'jaxlab.papers.mvs_gnn.method': ('minimal_variance_probabilities',),
  'jaxlab.papers.reprogramming.method': ('reprogramming_loss',),
  'jaxlab.predict': ('load',),
}
_MODULES = {name: module for module, names in _FROM.items() for name in names}
__all__ = ['__version__', *sorted(_MODULES)]

extras.installed()


def __getattr__(name: str) -> Any:
  if name in _MODULES:
    found = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = found  # the next time it is there
    return found
  raise AttributeError(f'module jaxlab has no attribute "{name}"')


def __dir__() -> list[str]:
  return sorted({*globals(), *__all__})
