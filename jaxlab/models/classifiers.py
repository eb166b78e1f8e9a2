"""The image classifiers by name, and the features that they sow."""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlab.models.bayesian import BayesNet
from jaxlab.models.blocks import spatial_mean
from jaxlab.models.densenet_bc import DenseNetBC
from jaxlab.models.lenet import LeNet5
from jaxlab.models.mnist_cnn import MnistCnn
from jaxlab.models.mnist_targets import MnistTarget
from jaxlab.models.page_cnn import PageCnn
from jaxlab.models.resnet import ResNet
from jaxlab.models.resnet50 import ResNet50
from jaxlab.models.wide_resnet import WideResNet

# name -> (class, options of the config that it takes under their own name)
CLASSIFIERS: Mapping[str, tuple[Any, tuple[str, ...]]] = {
  'lenet': (LeNet5, ('padding',)),
  'mnist_cnn': (MnistCnn, ('width',)),
  'mnist_target': (MnistTarget, ('layout',)),
  'resnet': (ResNet, ('depth', 'width')),
  'wide_resnet': (WideResNet, ('depth', 'widen')),
  'densenet_bc': (DenseNetBC, ('depth', 'growth')),
  'resnet50': (ResNet50, ()),
  'bayes_net': (BayesNet, ('net', 'padding')),
  'page_cnn': (PageCnn, ('width',)),
}


def make(name: str, classes: int, dtype: str, options: Mapping) -> nn.Module:
  """A classifier `(image, *, train) -> logits`.

  Args:
    name: one of CLASSIFIERS.
    classes: number of logits.
    dtype: of activations.
    options: what the classifiers take, depth and width say; only its own are
      looked at.

  Raises:
    ValueError: an unknown name, or an option that cannot be.
  """
  if name not in CLASSIFIERS:
    raise ValueError(
      f'config.model.name = "{name}" is not one of {", ".join(CLASSIFIERS)}'
    )
  kind, own = CLASSIFIERS[name]
  if missing := [field for field in own if field not in options]:
    raise ValueError(
      f'config.model has no {", ".join(missing)}, which "{name}" takes'
    )
  fields = {field: options[field] for field in own}
  return kind(num_classes=classes, dtype=jnp.dtype(dtype), **fields)


def features(
  model: nn.Module, variables: Mapping, image: jax.Array, names: Sequence[str]
) -> list[jax.Array]:
  """What a classifier sows, pooled over space, with running statistics.

  Args:
    variables: `params` and `batch_stats` of the model.
    image: [b, h, w, c] float32, as the model takes it.
    names: `block<i>` or `embedding`, see `blocks.py`.

  Returns:
    [b, d] float32 of each name.

  Raises:
    ValueError: the model sows no such feature.
  """
  _, sown = model.apply(
    variables, image, train=False, mutable=['intermediates']
  )
  known = sown['intermediates']
  found = []
  for name in names:
    if name not in known:
      raise ValueError(
        f'{type(model).__name__} has no features "{name}"; it has '
        f'{", ".join(sorted(known))}'
      )
    (value,) = known[name]
    found.append(spatial_mean(value) if value.ndim == 4 else value)
  return found
