"""The classifier of a config, on images in [0, 1]."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from jaxlab.models import classifiers
from jaxlab.models.normalised import Network, normalised

Config = Mapping[str, Any]


def build(config: Config) -> Network:
  """The network, whose features are those of `config.detection.layers`.

  Raises:
    ValueError: an unknown model, or an option that cannot be.
  """
  c, d = config['model'], config['data']
  model = classifiers.make(c['name'], d['num_classes'], c['dtype'], c)
  shape = (d['size'], d['size'], d['channels'])
  net = normalised(model, shape, d['mean'], d['std'])
  layers = config['detection']['layers']
  return net._replace(features=partial(net.features, names=layers))
