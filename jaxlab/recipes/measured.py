"""What the `data` section of a config leaves to the images themselves."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxlab.core.errors import InputError
from jaxlab.data.images import streaming
from jaxlab.data.images.pixels import Canvas, decode

Config = Mapping[str, Any]

_LOOKED_AT = 500  # images, evenly among those of training
_LARGEST = 224  # side, unless the config asks for more


def images(config: Config, offline: bool) -> dict[str, Any]:
  """The config with its `data` filled in from the training images.

  Empty are `num_classes` 0, `channels` 0, `size` 0 (the median of the shorter
  sides, at most 224) and `mean` and `std` () (of each channel, in [0, 1]). At
  most 500 images are looked at.

  Raises:
    InputError: the set cannot be had, or an image does not decode.
  """
  d = dict(config['data'])
  if d['name'].endswith(':'):
    raise InputError(
      f'config.data.name is {d["name"]!r}: add the path of the folder, '
      f'--config.data.name={d["name"]}PATH'
    )
  records = streaming.open_records(
    d['name'],
    d['train_split'],
    image=d['image_feature'],
    label=d['label_feature'],
    offline=offline,
  )
  count = min(len(records), _LOOKED_AT)
  chosen = [int(i) for i in np.linspace(0, len(records) - 1, count)]
  found = records.read(chosen)[0]
  named = list(zip(found, map(records.describe, chosen)))
  raw = [decode(data, what=what) for data, what in named]
  d['num_classes'] = d['num_classes'] or len(records.classes)
  d['channels'] = d['channels'] or max(image.shape[2] for image in raw)
  shorter = np.median([min(image.shape[:2]) for image in raw])
  d['size'] = d['size'] or min(int(shorter), _LARGEST)
  canvas = Canvas(d['size'], d['channels'], 'crop')
  pixels = np.stack([canvas(data, what) for data, what in named]) / 255
  deviation = pixels.std((0, 1, 2))
  measured = {
    'mean': pixels.mean((0, 1, 2)),
    'std': np.where(deviation > 0, deviation, 1),
  }
  for key, value in measured.items():
    d[key] = tuple(d[key]) or tuple(round(float(x), 4) for x in value)
  return {**config, 'data': d}
