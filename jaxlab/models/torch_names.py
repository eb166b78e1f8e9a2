"""Names of PyTorch state dicts -> variables of this package's classifiers.

Each function takes `template`, the shapes of our model (`convert.template`),
and `flat`, the state dict as name -> NumPy array, and returns variables for
`apply`. It raises a ValueError that lists all that does not fit, and only
reads what the layout's own code writes:

  vgg16         torchvision vgg16, vgg16_bn
  inception_v3  torchvision inception_v3; its auxiliary classifier is dropped
                if the template has none
  densenet_bc   torchvision's DenseNet on a 3 x 3 stem `features.conv0`, or
                ALOE's `conv1, block1.layer.0.bn1, …, trans1.conv1, …, fc`
  wide_resnet   Outlier Exposure's and many others' `conv1, block1.layer.0.bn1,
                block1.layer.0.convShortcut, …, fc`

torchvision's resnet50 is in `jaxlab/models/pretrained.py`.
"""

from collections.abc import Callable, Mapping
from math import isqrt
from re import Match
from typing import Any

import numpy as np

from jaxlab.models.convert import Rule, assign, conv_kernel, dense_kernel
from jaxlab.models.vgg16 import STAGES

# A place in our tree: a string that quotes groups of the pattern, or a
# function of its match.
Place = str | Callable[[Match], str]


def vgg16(template: Any, flat: Mapping[str, Any]) -> Any:
  """torchvision's VGG-16, whose first dense layer reads channels first."""
  step = 3 if 'norm1_1' in template['params'] else 2
  rules, index = [], 0
  for stage, (_, convs) in enumerate(STAGES, 1):
    for i in range(1, convs + 1):
      rules += _conv(rf'features\.{index}', f'conv{stage}_{i}')
      if step == 3:
        rules += _norm(rf'features\.{index + 1}', f'norm{stage}_{i}')
      index += step
    index += 1  # the pooling
  for i, name in ((0, 'dense1'), (3, 'dense2'), (6, 'head')):
    transform = _channels_last if i == 0 else dense_kernel
    rules += _linear(rf'classifier\.{i}', name, transform)
  return assign(template, flat, rules)


def inception_v3(template: Any, flat: Mapping[str, Any]) -> Any:
  """torchvision's Inception-V3.

  Its pretrained weights want images in [-1, 1], which torchvision makes of
  normalised ones by `transform_input`.
  """

  def place(match):
    return match[1].lower().replace('.', '/')

  block = r'(Conv2d_\w+|Mixed_\w+\.\w+)'
  rules = [
    *_conv(rf'{block}\.conv', lambda m: f'{place(m)}/conv'),
    *_norm(rf'{block}\.bn', lambda m: f'{place(m)}/norm'),
    *_linear('fc', 'head'),
  ]
  if 'aux' in template['params']:
    for theirs, ours in (('conv0', 'conv1'), ('conv1', 'conv2')):
      rules += _conv(rf'AuxLogits\.{theirs}\.conv', f'aux/{ours}/conv')
      rules += _norm(rf'AuxLogits\.{theirs}\.bn', f'aux/{ours}/norm')
    rules += _linear(r'AuxLogits\.fc', 'aux/head')
  else:
    rules.append(Rule(r'AuxLogits\..*', None))
  return assign(template, flat, rules)


def densenet_bc(template: Any, flat: Mapping[str, Any]) -> Any:
  """DenseNet-BC of torchvision's layout or of ALOE's."""
  layer = r'features\.denseblock(\d+)\.denselayer(\d+)\.'
  return assign(
    template,
    flat,
    [
      *_conv(r'features\.conv0', 'stem'),
      *_conv(layer + r'(conv\d)', r'stage\1_layer\2/\3'),
      *_norm(layer + r'(norm\d)', r'stage\1_layer\2/\3'),
      *_conv(r'features\.transition(\d)\.conv', r'transition\1/conv'),
      *_norm(r'features\.transition(\d)\.norm', r'transition\1/norm'),
      *_norm(r'features\.norm5', 'norm'),
      *_linear('classifier', 'head'),
      *_blocks('layer'),
      *_conv(r'trans(\d)\.conv1', r'transition\1/conv'),
      *_norm(r'trans(\d)\.bn1', r'transition\1/norm'),
    ],
  )


def wide_resnet(template: Any, flat: Mapping[str, Any]) -> Any:
  """WRN-d-k of the layout that Outlier Exposure uses."""
  return assign(
    template,
    flat,
    [
      *_blocks('unit'),
      *_conv(
        r'block(\d)\.layer\.(\d+)\.convShortcut',
        lambda m: f'stage{m[1]}_unit{int(m[2]) + 1}/shortcut',
      ),
    ],
  )


def _blocks(what):
  """Rules for `conv1, block<i>.layer.<j>.{bn,conv}<k>, bn1, fc`."""
  layer = r'block(\d)\.layer\.(\d+)\.'

  def place(kind):
    return lambda m: f'stage{m[1]}_{what}{int(m[2]) + 1}/{kind}{m[3]}'

  return [
    *_conv('conv1', 'stem'),
    *_conv(layer + r'conv(\d)', place('conv')),
    *_norm(layer + r'bn(\d)', place('norm')),
    *_norm('bn1', 'norm'),
    *_linear('fc', 'head'),
  ]


def _within(collection: str, place: Place, leaf: str) -> Place:
  if callable(place):
    return lambda match: f'{collection}/{place(match)}/{leaf}'
  return f'{collection}/{place}/{leaf}'


def _conv(pattern: str, place: Place) -> list[Rule]:
  return _linear(pattern, place, conv_kernel)


def _linear(pattern: str, place: Place, transform=dense_kernel) -> list[Rule]:
  return [
    Rule(rf'{pattern}\.weight', _within('params', place, 'kernel'), transform),
    Rule(rf'{pattern}\.bias', _within('params', place, 'bias')),
  ]


def _norm(pattern: str, place: Place) -> list[Rule]:
  return [
    Rule(rf'{pattern}\.weight', _within('params', place, 'scale')),
    Rule(rf'{pattern}\.bias', _within('params', place, 'bias')),
    Rule(rf'{pattern}\.running_mean', _within('batch_stats', place, 'mean')),
    Rule(rf'{pattern}\.running_var', _within('batch_stats', place, 'var')),
    Rule(rf'{pattern}\.num_batches_tracked', None),
  ]


def _channels_last(array: np.ndarray) -> np.ndarray:
  """[out, 512 side side] over (c, h, w) -> [side side 512, out] over
  (h, w, c): the flattened maps of a square image."""
  channels = STAGES[-1][0]
  side = isqrt(array.shape[1] // channels)
  array = array.reshape(-1, channels, side, side)
  return array.transpose(2, 3, 1, 0).reshape(side * side * channels, -1)
