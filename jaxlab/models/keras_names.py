"""Names of Keras' HDF5 weights -> variables of this package's classifiers.

Each function takes `template`, the shapes of our model (`convert.template`),
and `flat`, the data sets of a file by their '/'-joined paths as NumPy arrays,
and returns variables for `apply`; it raises a ValueError that lists all that
does not fit. All spellings of a path that Keras has used are understood:

  block1_conv1/block1_conv1_W_1:0                   the released VGG-16
  conv2d_1/conv2d_1/kernel:0                        Keras 2
  model_weights/conv2d_1/conv2d_1/kernel            Keras 3, `.h5`
  layers/conv2d_1/vars/0                            Keras 3, `.weights.h5`

  vgg16         VGG16
  inception_v3  InceptionV3, for InceptionV3(aux=False, norm_scale=False,
                pool_counts_padding=False)
  resnet_v2     ResNet50V2, ResNet101V2, ResNet152V2
"""

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from jaxlab.models.convert import Rule, assign
from jaxlab.models.inception_v3 import conv_paths

_LEAVES = {
  'kernel': 'params/{}/kernel',
  'W': 'params/{}/kernel',
  'bias': 'params/{}/bias',
  'b': 'params/{}/bias',
  'gamma': 'params/{}/scale',
  'beta': 'params/{}/bias',
  'moving_mean': 'batch_stats/{}/mean',
  'moving_variance': 'batch_stats/{}/var',
}
# The arrays of a layer in the order of their numbers, by how many there are.
_NUMBERED = {
  1: ('kernel',),
  2: ('kernel', 'bias'),
  3: ('beta', 'moving_mean', 'moving_variance'),
  4: ('gamma', 'beta', 'moving_mean', 'moving_variance'),
}


def vgg16(template: Any, flat: Mapping[str, Any]) -> Any:
  """Keras' VGG16."""
  return _assign(
    template,
    flat,
    [
      (r'block(\d)_conv(\d)', r'conv\1_\2'),
      (r'fc(\d)', r'dense\1'),
      ('predictions', 'head'),
    ],
  )


def resnet_v2(template: Any, flat: Mapping[str, Any]) -> Any:
  """Keras' ResNet50V2 and its deeper sisters."""

  def unit(match):
    stage, number, layer = int(match[1]) - 1, match[2], match[3]
    return f'stage{stage}_unit{number}/{_UNIT[layer]}'

  layers = '|'.join(_UNIT)
  return _assign(
    template,
    flat,
    [
      ('conv1_conv', 'stem'),
      (rf'conv(\d)_block(\d+)_({layers})', unit),
      ('post_bn', 'norm'),
      ('predictions', 'head'),
    ],
  )


_UNIT = {
  'preact_bn': 'norm1',
  '0_conv': 'shortcut',
  '1_conv': 'conv1',
  '1_bn': 'norm2',
  '2_conv': 'conv2',
  '2_bn': 'norm3',
  '3_conv': 'conv3',
}


def inception_v3(template: Any, flat: Mapping[str, Any]) -> Any:
  """Keras' InceptionV3, whose layers are numbered as they were made.

  Only the order of the numbers counts: the released file begins with
  `conv2d_1`, a first model with `conv2d`, a second one with `conv2d_94`.
  """
  paths, flat = conv_paths(), _spell_out(flat)
  ours: dict[str, str] = {}
  for kind, inner in (('conv2d', 'conv'), ('batch_normalization', 'norm')):
    found = {name.removeprefix('model_weights/').split('/')[0] for name in flat}
    layers = [name for name in found if re.fullmatch(rf'{kind}(_\d+)?', name)]
    layers.sort(key=lambda name: int(name[len(kind) + 1 :] or 0))
    if len(layers) != len(paths):
      raise ValueError(
        f'{len(layers)} layers are named {kind} or {kind}_<number>, not '
        f'{len(paths)}: these are not the weights of Keras InceptionV3'
      )
    ours |= {name: f'{path}/{inner}' for name, path in zip(layers, paths)}
  return _assign(
    template,
    flat,
    [
      (r'((?:conv2d|batch_normalization)(?:_\d+)?)', lambda m: ours[m[1]]),
      ('predictions', 'head'),
    ],
  )


def _assign(template, flat, places):
  """`assign` by rules (pattern of a Keras layer, our path or a function)."""
  rules = []
  for pattern, place in places:
    # What Keras repeats of the layer's name in front of the leaf is ignored.
    rules += [
      Rule(
        rf'(?:model_weights/)?{pattern}/(?:.*[/_])?{leaf}(?:_1)?(?::0)?',
        _within(place, path),
      )
      for leaf, path in _LEAVES.items()
    ]
  return assign(template, _spell_out(flat), rules)


def _spell_out(flat):
  """`layers/<layer>/vars/<number>` -> `<layer>/<leaf>`; others as they are."""
  found = {name: re.fullmatch(r'layers/(.+)/vars/(\d)', name) for name in flat}
  counts = Counter(match[1] for match in found.values() if match)

  def spell(name):
    match = found[name]
    leaves = _NUMBERED.get(counts[match[1]], ()) if match else ()
    if match and int(match[2]) < len(leaves):
      return f'{match[1]}/{leaves[int(match[2])]}'
    return name

  return {spell(name): array for name, array in flat.items()}


def _within(place, path):
  if callable(place):
    return lambda match: path.format(place(match))
  return path.format(place)
