"""BERT's weights under the names that transformers gives them, both ways.

`from_hugging_face` and `to_hugging_face` are inverse to each other; `head_from`
and `head_to` do the same for what stands on the encoder. A matrix is [out, in]
there and [in, out] here, attention's [in, heads, width] or [heads, width, out].
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxlab.models.bert import stack_layers, unstack_layers
from jaxlab.models.convert import Rule, assign

Flat = Mapping[str, np.ndarray]

# Kind of leaf, transformers' name, ours; {} is the number of a layer.
_PARTS = (
  ('table', 'embeddings.word_embeddings', 'word_embedding'),
  ('table', 'embeddings.position_embeddings', 'position_embedding'),
  ('table', 'embeddings.token_type_embeddings', 'type_embedding'),
  ('norm', 'embeddings.LayerNorm', 'embedding_layer_norm'),
  ('into_heads', 'attention.self.query', 'attention/query'),
  ('into_heads', 'attention.self.key', 'attention/key'),
  ('into_heads', 'attention.self.value', 'attention/value'),
  ('out_of_heads', 'attention.output.dense', 'attention/out'),
  ('norm', 'attention.output.LayerNorm', 'attention_layer_norm'),
  ('dense', 'intermediate.dense', 'intermediate'),
  ('dense', 'output.dense', 'output'),
  ('norm', 'output.LayerNorm', 'output_layer_norm'),
  ('dense', 'pooler.dense', 'pooler'),
  ('dense', 'cls.predictions.transform.dense', 'mlm_dense'),
  ('norm', 'cls.predictions.transform.LayerNorm', 'mlm_layer_norm'),
  ('bias', 'cls.predictions', 'mlm_bias'),
  ('dense', 'cls.seq_relationship', 'nsp'),
)
_OF_A_LAYER = range(4, 12)
HEADS = {'classification': 'classifier', 'span': 'qa_outputs'}
_TIED = {
  'cls.predictions.decoder.weight': 'embeddings.word_embeddings.weight',
  'cls.predictions.decoder.bias': 'cls.predictions.bias',
}
_POSITIONS = 'embeddings.position_ids'  # 0, 1, 2, …, in old files


class _Leaf(NamedTuple):
  theirs: str  # a regex; what is written is its first alternative
  ours: str
  read: Callable[[np.ndarray, int], np.ndarray]  # (theirs, heads) -> ours
  write: Callable[[np.ndarray], np.ndarray]


def _same(x, heads=1):
  return x


def _turned(x, heads=1):
  return x.T


_KINDS: Mapping[str, tuple[_Leaf, ...]] = {
  'table': (_Leaf('.weight', '', _same, _same),),
  'bias': (_Leaf('.bias', '', _same, _same),),
  'norm': (
    # As the first files had it: gamma and beta.
    _Leaf('.weight|.gamma', '/scale', _same, _same),
    _Leaf('.bias|.beta', '/bias', _same, _same),
  ),
  'dense': (
    _Leaf('.weight', '/kernel', _turned, _turned),
    _Leaf('.bias', '/bias', _same, _same),
  ),
  'into_heads': (
    _Leaf(
      '.weight',
      '/kernel',
      lambda x, heads: x.T.reshape(x.shape[1], heads, -1),
      lambda x: x.reshape(x.shape[0], -1).T,
    ),
    _Leaf(
      '.bias',
      '/bias',
      lambda x, heads: x.reshape(heads, -1),
      lambda x: x.reshape(-1),
    ),
  ),
  'out_of_heads': (
    _Leaf(
      '.weight',
      '/kernel',
      lambda x, heads: x.T.reshape(heads, -1, x.shape[0]),
      lambda x: x.reshape(-1, x.shape[-1]).T,
    ),
    _Leaf('.bias', '/bias', _same, _same),
  ),
}


def _leaves() -> Iterable[tuple[str, str, _Leaf]]:
  """(transformers' name, our path, what to do) of all; {} is a layer."""
  for number, (kind, theirs, ours) in enumerate(_PARTS):
    if number in _OF_A_LAYER:
      theirs, ours = f'encoder.layer.{{}}.{theirs}', f'layers_{{}}/{ours}'
    for leaf in _KINDS[kind]:
      yield theirs, ours + leaf.ours, leaf


def plain_names(flat: Flat) -> dict[str, np.ndarray]:
  """The arrays without `bert.` in front of their names.

  Raises:
    ValueError: two have one name then, or an output matrix or bias is not the
      one that it is tied to.
  """
  found = {name.removeprefix('bert.'): array for name, array in flat.items()}
  if len(found) < len(flat):
    both = sorted(name for name in flat if f'bert.{name}' in flat)
    raise ValueError(f'{both} are there twice, with and without "bert."')
  for copy, original in _TIED.items():
    if copy not in found or original not in found:
      continue
    if not np.array_equal(found.pop(copy), found[original]):
      raise ValueError(
        f'{copy!r} differs from {original!r}: this model ties the two'
      )
  return found


def from_hugging_face(template: Any, flat: Flat) -> tuple[Any, tuple[str, ...]]:
  """The variables of a `Bert`, with or without `bert.` in front of the names.

  Args:
    template: of a `Bert`, scanned or not (`convert.template`). Heads and pooler
      that it lacks are left out.
    flat: `bert.embeddings.word_embeddings.weight`, ….

  Returns:
    (variables, names of the arrays that were left out).

  Raises:
    ValueError: as `convert.assign`, or as `plain_names`.
  """
  params = template['params']
  if 'layers' in params:
    loose = jax.eval_shape(unstack_layers, params)
    variables, unused = from_hugging_face({'params': loose}, flat)
    stacked = stack_layers(variables['params'])
    return {'params': jax.tree.map(np.asarray, stacked)}, unused
  flat = plain_names(flat)
  without = [re.escape(_POSITIONS), *map(r'{}\..*'.format, HEADS.values())]
  if 'mlm_bias' not in params:
    without.append(r'cls\..*')
  if 'pooler' not in params:
    without.append(r'pooler\..*')
  left = [name for name in flat if re.fullmatch('|'.join(without), name)]
  rest = {name: array for name, array in flat.items() if name not in left}
  heads = params['layers_0']['attention']['query']['kernel'].shape[1]
  return assign(template, rest, _rules(heads)), tuple(left)


def _rules(heads: int) -> list[Rule]:
  found = [Rule(r'cls\.predictions\.decoder\.bias', 'params/mlm_bias')]
  for theirs, ours, leaf in _leaves():
    name = re.escape(theirs).replace(r'\{\}', r'(\d+)')
    endings = re.escape(leaf.theirs).replace(r'\|', '|')
    path = 'params/' + ours.replace('{}', r'\1')
    found.append(Rule(f'{name}(?:{endings})', path, _reader(leaf, heads)))
  return found


def _reader(leaf: _Leaf, heads: int) -> Callable[[np.ndarray], np.ndarray]:
  return lambda x: leaf.read(x, heads)


def to_hugging_face(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """The parameters of a `Bert`, scanned or not, by transformers' names.

  What is tied is written once. `bert.` is in front of what is not a head.

  Raises:
    ValueError: a parameter has no name there.
  """
  if 'layers' in params:
    params = unstack_layers(params)
  own = {
    jax.tree_util.keystr(path, simple=True, separator='/'): np.asarray(leaf)
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]
  }
  layers = sum(name.startswith('layers_') for name in params)
  flat = {}
  for theirs, ours, leaf in _leaves():
    prefix = '' if theirs.startswith('cls.') else 'bert.'
    for number in range(layers if '{}' in ours else 1):
      if (path := ours.format(number)) in own:
        name = theirs.format(number) + leaf.theirs.split('|')[0]
        flat[prefix + name] = np.ascontiguousarray(leaf.write(own.pop(path)))
  if own:
    raise ValueError(f'transformers has no names for {sorted(own)}')
  return flat


def head_from(template: Any, flat: Flat, kind: str) -> Any:
  """The parameters of a head of `bert_heads.py`.

  Args:
    template: of the head.
    flat: as for `from_hugging_face`; other arrays are not looked at.
    kind: of HEADS.

  Raises:
    ValueError: as `convert.assign`.
  """
  name = HEADS[kind]
  found = {k: x for k, x in flat.items() if k.startswith(f'{name}.')}
  path = 'params/Dense_0'
  rules = [
    Rule(rf'{name}\.weight', f'{path}/kernel', _turned),
    Rule(rf'{name}\.bias', f'{path}/bias'),
  ]
  return assign(template, found, rules)['params']


def head_to(params: Mapping[str, Any], kind: str) -> dict[str, np.ndarray]:
  """The inverse of `head_from`."""
  dense, name = params['Dense_0'], HEADS[kind]
  return {
    f'{name}.weight': np.ascontiguousarray(np.asarray(dense['kernel']).T),
    f'{name}.bias': np.asarray(dense['bias']),
  }
