"""BERT from and to a folder of Hugging Face's layout.

  found = load('bert-base-cased')      # a folder, not a name on the Hub
  logits, _ = found.model.apply(
    {'params': found.params['net']}, tokens, segments, attention, positions,
    deterministic=True)
  export('my-bert', found.model, found.params, found.vocabulary)

  in config.json                 here
  BertModel                      Bert(heads=False)
  BertForMaskedLM                Bert(), Bert(pool=False) if it has no pooler
  BertForPreTraining             Bert()
  BertForQuestionAnswering       Bert(heads=False) and SpanHead
  BertForSequenceClassification  Bert(heads=False) and ClassificationHead

`found.model` and `found.head` compute what the model of that name computes
there, to float32's rounding.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxlab.core.errors import InputError
from jaxlab.data.packages import hub_folder
from jaxlab.data.text.wordpiece import Vocabulary
from jaxlab.models import bert_config, bert_names
from jaxlab.models.bert import Bert
from jaxlab.models.bert_config import ANSWERS, CLASSES, MASKED_LM, PRETRAINING
from jaxlab.models.bert_heads import ClassificationHead, SpanHead
from jaxlab.models.convert import template

Head = ClassificationHead | SpanHead
Shapes = Mapping[str, tuple[int, ...]]

_HEADS = {CLASSES: 'classification', ANSWERS: 'span'}


class Described(NamedTuple):
  """What a folder says without its weights."""

  about: bert_config.Read
  vocabulary: Vocabulary


class Loaded(NamedTuple):
  """A network with its weights and its vocabulary."""

  architecture: str  # transformers' name
  model: Bert
  params: dict[str, Any]  # {'net': …}, and 'head' where there is a head
  head: Head | None
  vocabulary: Vocabulary
  classes: tuple[str, ...]  # of a classifier, by number
  # Arrays of the file that the network of this name does not use.
  unused: tuple[str, ...]


def load(
  folder: str | Path,
  *,
  scan_layers: bool = False,
  dtype: Any = jnp.float32,
) -> Loaded:
  """The network of a folder, as it stands in its config.json.

  Args:
    folder: with config.json, weights and vocabulary: `packages/hub_folder.py`.
    scan_layers: stack the layers.
    dtype: of the computation; parameters are float32.

  Raises:
    InputError: a file is absent or damaged, or does not fit the others; a key
      of config.json or an array of the weights is not known.
  """
  folder = Path(folder).expanduser()
  flat = _weights(folder)
  about, vocabulary = _describe(folder, _shapes(flat))
  architecture = about.architecture
  heads = architecture in (MASKED_LM, PRETRAINING)
  pooler = 'cls.seq_relationship' if architecture == MASKED_LM else 'pooler'
  always = architecture in (PRETRAINING, CLASSES)
  model = Bert(
    **about.fields,
    heads=heads,
    pool=always or any(name.startswith(f'{pooler}.') for name in flat),
    scan_layers=scan_layers,
    dtype=dtype,
  )
  head = _make_head(about, dtype)
  try:
    variables, left = bert_names.from_hugging_face(_template(model), flat)
    params = {'net': variables['params']}
    if head is not None:
      kind = _HEADS[architecture]
      own = bert_names.HEADS[kind]
      left = tuple(name for name in left if not name.startswith(f'{own}.'))
      params['head'] = bert_names.head_from(_template(model, head), flat, kind)
  except ValueError as error:
    raise InputError(f'{folder}: {error}') from error
  # What such a model never has is not a mistake of ours to pass over.
  may = ('embeddings.position_ids', 'pooler.')
  if strange := [name for name in left if not name.startswith(may)]:
    raise InputError(
      f'{folder}: {architecture}, the architecture of its config.json, has no '
      f'place for the arrays {strange[:8]}: name the architecture that has, or '
      'delete them'
    )
  return Loaded(
    architecture, model, params, head, vocabulary, about.classes, left
  )


def load_encoder(
  folder: str | Path, *, scan_layers: bool = False
) -> tuple[dict[str, Any], tuple[str, ...]]:
  """The encoder of a folder of any architecture, for fine-tuning.

  Returns:
    (parameters of Bert(heads=False), without `pooler` where the file has none;
    names of the arrays that were left out).

  Raises:
    InputError: as `load`.
  """
  folder = Path(folder).expanduser()
  flat = _weights(folder)
  about, _ = _describe(folder, _shapes(flat))
  pool = any(name.startswith('pooler.') for name in flat)
  model = Bert(**about.fields, heads=False, pool=pool, scan_layers=scan_layers)
  try:
    variables, left = bert_names.from_hugging_face(_template(model), flat)
  except ValueError as error:
    raise InputError(f'{folder}: {error}') from error
  return variables['params'], left


def describe(folder: str | Path) -> Described:
  """The network's shape and the vocabulary of a folder.

  Raises:
    InputError: as `load`.
  """
  folder = Path(folder).expanduser()
  shapes = hub_folder.read_shapes(folder)
  return _describe(folder, {_plain(name): x for name, x in shapes.items()})


def _weights(folder: Path) -> dict[str, Any]:
  flat = hub_folder.read_weights(folder)
  try:
    return bert_names.plain_names(flat)
  except ValueError as error:
    raise InputError(f'{folder}: {error}') from error


def _plain(name: str) -> str:
  return name.removeprefix('bert.')


def _shapes(flat: Mapping[str, Any]) -> Shapes:
  return {name: array.shape for name, array in flat.items()}


def _describe(folder: Path, shapes: Shapes) -> Described:
  path = folder / hub_folder.CONFIG
  about = bert_config.read(hub_folder.read_json(path), shapes, str(path))
  _check_sizes(about, shapes, path)
  vocabulary = hub_folder.read_vocabulary(folder)
  size, pad = about.fields['vocab_size'], vocabulary.special.pad
  if len(vocabulary.pieces) != size:
    raise InputError(
      f'{folder}: the vocabulary has {len(vocabulary.pieces)} pieces, and '
      f'vocab_size of {path.name} and the word embedding have {size}: copy the '
      'vocabulary that belongs to the weights, or add lines such as [unused0] '
      'until it is as long'
    )
  if about.pad not in (None, pad):
    raise InputError(
      f'{path}: pad_token_id = {about.pad}, and the vocabulary has [PAD] at '
      f'{pad}: copy the vocabulary that belongs to the weights'
    )
  return Described(about, vocabulary)


def _check_sizes(about: bert_config.Read, shapes: Shapes, path: Path) -> None:
  """Raises InputError where config.json and the weights differ in size.

  Before a model is made of sizes that may be anything.
  """
  fields = about.fields
  parts = [name.split('.') for name in shapes]
  layers = {x[2] for x in parts if x[:2] == ['encoder', 'layer'] and x[2:]}
  known = {'num_hidden_layers': (fields['num_layers'], len(layers))}
  for name, key, field in (
    ('word', 'vocab_size', 'vocab_size'),
    ('position', 'max_position_embeddings', 'max_positions'),
    ('token_type', 'type_vocab_size', 'type_vocab_size'),
  ):
    shape = shapes.get(f'embeddings.{name}_embeddings.weight', ())
    if len(shape) != 2:
      raise InputError(
        f'{path.parent}: the weights have no matrix '
        f'"embeddings.{name}_embeddings.weight", so they are not a BERT, '
        f'they have {sorted(shapes)[:4]}'
      )
    known[key] = fields[field], shape[0]
    known['hidden_size'] = fields['hidden_size'], shape[1]
  if shape := shapes.get('encoder.layer.0.intermediate.dense.bias', ()):
    known['intermediate_size'] = fields['intermediate_size'], shape[0]
  shape = shapes.get('classifier.bias', ())
  if shape and about.architecture == CLASSES:
    known['id2label, the number of classes,'] = len(about.classes), shape[0]
  for key, (said, there) in known.items():
    if said != there:
      raise InputError(
        f'{path}: {key} = {said}, and the weights beside it have {there}: copy '
        'both from one place'
      )


def _make_head(about: bert_config.Read, dtype: Any) -> Head | None:
  spread = about.fields['initializer_range']
  if about.architecture == CLASSES:
    rate = about.classifier_dropout
    return ClassificationHead(len(about.classes), rate, spread, dtype)
  if about.architecture == ANSWERS:
    return SpanHead(spread, dtype)
  return None


def _template(model: Bert, head: Head | None = None) -> Any:
  """Shapes of the variables of a model, or of its head."""
  row = jax.ShapeDtypeStruct((1, 1), jnp.int32)
  if head is not None:
    width = model.hidden_size
    outputs = [
      jax.ShapeDtypeStruct(shape, jnp.float32)
      for shape in ((1, 1, width), (1, width))
    ]
    return template(head, *outputs, deterministic=True)
  if model.heads:
    return template(model, row, row, row, row, deterministic=True)
  return template(model, row, row, row, method='encode', deterministic=True)


def export(
  folder: str | Path,
  model: Bert,
  params: Mapping[str, Any],
  vocabulary: Vocabulary,
  *,
  head: Head | None = None,
  classes: Sequence[str] = (),
) -> str:
  """Writes a folder that transformers opens; `load` gives the same back.

  Args:
    folder: must not be there yet.
    model: with heads it becomes a BertForPreTraining, or without `pool` a
      BertForMaskedLM. The dropout rates go to config.json.
    params: {'net': …}, scanned or not, and 'head' if there is a head.
    vocabulary: of the words that the model was trained on.
    head: of a fine-tuned model. A span head's model has no pooler there, so it
      is left out.
    classes: names of a classifier's classes, by number.

  Returns:
    transformers' name of the architecture.

  Raises:
    InputError: the vocabulary or the classes have another number than the
      model, or the folder cannot be written.
    ValueError: a parameter has no name there.
  """
  if len(vocabulary.pieces) != model.vocab_size:
    raise InputError(
      f'the vocabulary has {len(vocabulary.pieces)} pieces and the model '
      f'vocab_size={model.vocab_size}: give the one it was trained with'
    )
  architecture = bert_config.MODEL
  if model.heads:
    architecture = PRETRAINING if model.pool else MASKED_LM
  rate = None
  flat = bert_names.to_hugging_face(params['net'])
  if isinstance(head, ClassificationHead):
    architecture, rate = CLASSES, head.dropout_rate
    if len(classes) != head.num_classes:
      raise InputError(
        f'{len(classes)} names of classes {list(classes)[:5]} for a head of '
        f'{head.num_classes}: name each'
      )
  elif head is not None:
    architecture = ANSWERS
    flat = {k: x for k, x in flat.items() if not k.startswith('bert.pooler.')}
  if head is not None:
    flat |= bert_names.head_to(params['head'], _HEADS[architecture])
  elif architecture == bert_config.MODEL:
    flat = {name.removeprefix('bert.'): x for name, x in flat.items()}
  pad = vocabulary.special.pad
  config = bert_config.write(model, architecture, pad, classes, rate)
  target = Path(folder).expanduser()
  hub_folder.write_folder(target, config, flat, vocabulary, model.max_positions)
  return architecture
