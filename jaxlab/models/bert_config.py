"""transformers' config.json of a BERT <-> the fields of `Bert`.

A key that changes what the network computes is honoured or refused by its name;
an unknown key is refused too, since it may.

  hidden_act                    activation: gelu, gelu_new, gelu_pytorch_tanh
                                or relu
  layer_norm_eps                layer_norm_epsilon
  hidden_dropout_prob           dropout_rate
  attention_probs_dropout_prob  attention_dropout_rate
  classifier_dropout            dropout_rate of the head; null: the hidden one
  id2label, or num_labels       names, or number, of a classifier's classes
"""

from collections.abc import Collection, Mapping
from functools import partial
from typing import Any, NamedTuple

from jaxlab.core.errors import InputError
from jaxlab.core.require import (
  Rule,
  above,
  at_least,
  multiple_of,
  one_of,
  require,
)
from jaxlab.models.bert import ACTIVATIONS, Bert

Config = Mapping[str, Any]

MODEL, MASKED_LM, PRETRAINING, ANSWERS, CLASSES = ARCHITECTURES = (
  'BertModel',
  'BertForMaskedLM',
  'BertForPreTraining',
  'BertForQuestionAnswering',
  'BertForSequenceClassification',
)

# transformers' key -> the field of Bert.
_SIZES = {
  'vocab_size': 'vocab_size',
  'hidden_size': 'hidden_size',
  'num_hidden_layers': 'num_layers',
  'num_attention_heads': 'num_heads',
  'intermediate_size': 'intermediate_size',
  'max_position_embeddings': 'max_positions',
  'type_vocab_size': 'type_vocab_size',
}
_FIELDS = {
  **_SIZES,
  'hidden_act': 'activation',
  'hidden_dropout_prob': 'dropout_rate',
  'attention_probs_dropout_prob': 'attention_dropout_rate',
  'initializer_range': 'initializer_range',
  'layer_norm_eps': 'layer_norm_epsilon',
}
# What transformers takes where a key is absent.
_DEFAULTS = {
  'type_vocab_size': 2,
  'hidden_act': 'gelu',
  'hidden_dropout_prob': 0.1,
  'attention_probs_dropout_prob': 0.1,
  'initializer_range': 0.02,
  'layer_norm_eps': 1e-12,
  'classifier_dropout': None,
  'pad_token_id': 0,
}
# Keys of which this model has one value alone.
_FIXED: Mapping[str, tuple] = {
  'model_type': ('bert',),
  'position_embedding_type': ('absolute',),
  'tie_word_embeddings': (True,),
  'is_decoder': (False,),
  'is_encoder_decoder': (False,),
  'add_cross_attention': (False,),
  'cross_attention_hidden_size': (None,),
  'pruned_heads': ({}, None),
  'problem_type': (None, 'single_label_classification'),
  'auto_map': (None, {}),
  'quantization_config': (None,),
}
# Keys that change nothing that this model computes.
_IDLE = """
  architectures attn_implementation bad_words_ids begin_suppress_tokens
  bos_token_id chunk_size_feed_forward decoder_start_token_id directionality
  diversity_penalty do_sample dtype early_stopping encoder_no_repeat_ngram_size
  eos_token_id eos_token_ids exponential_decay_length_penalty finetuning_task
  forced_bos_token_id forced_eos_token_id gradient_checkpointing id2label
  label2id language length_penalty max_length min_length name
  no_repeat_ngram_size num_beam_groups num_beams num_labels
  num_return_sequences output_attentions output_hidden_states output_past
  output_scores pooler_fc_size pooler_num_attention_heads pooler_num_fc_layers
  pooler_size_per_head pooler_type prefix remove_invalid_values
  repetition_penalty return_dict return_dict_in_generate sep_token_id
  suppress_tokens task_specific_params temperature tf_legacy_loss
  tie_encoder_decoder tokenizer_class top_k top_p torch_dtype torchscript
  transformers_version typical_p use_bfloat16 use_cache xla_device
"""


class Read(NamedTuple):
  """What a config.json says."""

  architecture: str  # of ARCHITECTURES
  fields: dict[str, Any]  # of Bert
  classes: tuple[str, ...]  # of a classifier, by number
  classifier_dropout: float
  pad: int | None  # id of [PAD], if it is said


def _among(allowed: tuple, value: Any) -> bool:
  return any(type(value) is type(x) and value == x for x in allowed)


def _whole(low: int) -> Rule:
  # What is beyond is not a size of a network, and overflows somewhere.
  holds = lambda x: type(x) is int and low <= x < 2**31
  return Rule(holds, f'a whole number from {low} to 2147483647')


_RATE = Rule(lambda x: 0 <= x < 1, 'in [0, 1)')


def read(config: Config, names: Collection[str], what: str) -> Read:
  """The network that a config.json describes.

  Args:
    config: of the file.
    names: of the arrays of the weights, without `bert.` in front: they tell
      the architecture where the config does not.
    what: name of the file, for messages.

  Raises:
    InputError: names the first key that is missing, or whose value cannot be
      or is not supported.
  """
  config = {**_DEFAULTS, **config}
  fixed = {
    key: Rule(
      partial(_among, allowed),
      'one of ' + ', '.join(map(repr, allowed)),
      'other networks are not read here',
    )
    for key, allowed in _FIXED.items()
    if key in config
  }
  require(config, fixed, name=f'{what}: ')
  architecture = _architecture(config, names, what)
  known = {*_IDLE.split()} | _DEFAULTS.keys() | _FIELDS.keys() | _FIXED.keys()
  # Underscored are transformers' notes to itself.
  if strange := sorted(
    key for key in config if key not in known and not key.startswith('_')
  ):
    raise InputError(
      f'{what}: the key {strange[0]!r} is not known here '
      f'(its value is {config[strange[0]]!r:.80}); delete it from the file if '
      'it changes nothing that the network computes'
    )
  rules = {
    **dict.fromkeys(_SIZES, _whole(1)),
    'hidden_act': one_of(*ACTIVATIONS),
    'hidden_dropout_prob': _RATE,
    'attention_probs_dropout_prob': _RATE,
    'initializer_range': at_least(0),
    'layer_norm_eps': above(0),
  }
  if config['pad_token_id'] is not None:
    rules['pad_token_id'] = _whole(0)
  if config['classifier_dropout'] is not None:
    rules['classifier_dropout'] = _RATE
  require(config, rules, name=f'{what}: ')
  heads = config['num_attention_heads']
  parts = multiple_of(heads, 'it is shared by num_attention_heads')
  require(config, {'hidden_size': parts}, name=f'{what}: ')
  dropout = config['classifier_dropout']
  return Read(
    architecture,
    {ours: config[theirs] for theirs, ours in _FIELDS.items()},
    _classes(config, what) if architecture == CLASSES else (),
    config['hidden_dropout_prob'] if dropout is None else dropout,
    config['pad_token_id'],
  )


def _architecture(config: Config, names: Collection[str], what: str) -> str:
  stated = config.get('architectures')
  if stated:
    if isinstance(stated, list) and len(stated) == 1:
      rule = one_of(*ARCHITECTURES)
      require(
        {'architectures': stated[0]}, {'architectures': rule}, f'{what}: '
      )
      return stated[0]
    raise InputError(
      f'{what}: architectures = {stated!r:.200} must be a list of one of '
      f'{", ".join(ARCHITECTURES)}'
    )
  if any(name.startswith('classifier.') for name in names):
    raise InputError(
      f'{what}: architectures is missing, and the weights have a classifier, '
      f'of sequences or of tokens: give "architectures": ["{CLASSES}"] if it '
      'is of sequences'
    )
  for prefix, found in (
    ('qa_outputs.', ANSWERS),
    ('cls.seq_relationship.', PRETRAINING),
    ('cls.predictions.', MASKED_LM),
  ):
    if any(name.startswith(prefix) for name in names):
      return found
  return MODEL


def _classes(config: Config, what: str) -> tuple[str, ...]:
  """Names of a classifier's classes."""
  given = config.get('id2label')
  if given is None:
    number = config.get('num_labels', 2)
    require({'num_labels': number}, {'num_labels': _whole(2)}, name=f'{what}: ')
    return tuple(f'LABEL_{i}' for i in range(number))
  wanted = [str(i) for i in range(len(given))] if hasattr(given, 'keys') else []
  if len(wanted) < 2 or {*given} != {*wanted}:
    raise InputError(
      f'{what}: id2label = {given!r:.80} must name at least two classes, '
      '"0", "1", …; one output alone is a regression, which is not read here'
    )
  return tuple(str(given[key]) for key in wanted)


def write(
  model: Bert,
  architecture: str,
  pad: int,
  classes: Collection[str] = (),
  classifier_dropout: float | None = None,
) -> dict[str, Any]:
  """The config.json of a network; `read` gives the same network back.

  Args:
    architecture: of ARCHITECTURES.
    pad: id of [PAD].
    classes: of a classifier, by number.
    classifier_dropout: of a classifier; None: that of the model.
  """
  config: dict[str, Any] = {
    'architectures': [architecture],
    'model_type': 'bert',
    **{theirs: getattr(model, ours) for theirs, ours in _FIELDS.items()},
    'pad_token_id': pad,
    'position_embedding_type': 'absolute',
    'tie_word_embeddings': True,
  }
  if architecture == CLASSES:
    config['id2label'] = {str(i): name for i, name in enumerate(classes)}
    config['label2id'] = {name: i for i, name in enumerate(classes)}
    config['classifier_dropout'] = classifier_dropout
  return config
