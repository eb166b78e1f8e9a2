"""Folders of Hugging Face's layout, written by NumPy and safetensors alone.

The weights are hashes of their names and places, the same ones on every
machine, so that what transformers makes of them can be stored:
tests/goldens/hugging_face.py.
"""

import json
import zlib

import numpy as np
import safetensors.numpy

ARCHITECTURES = (
  'BertModel',
  'BertForMaskedLM',
  'BertForPreTraining',
  'BertForQuestionAnswering',
  'BertForSequenceClassification',
)
SPECIAL = {'[PAD]': 2, '[UNK]': 30, '[CLS]': 31, '[SEP]': 29, '[MASK]': 33}
# 40 pieces; special ones in an order and in places of their own.
PIECES = """
  the The [PAD] caf ##é ##e é e naive n ##ai ##ve ##ï Na 中 北 ##京 . ! , ' don
  t a ##b b ##B A [unused0] [SEP] [UNK] [CLS] café [MASK] Ü ##ber u über ##n ue
""".split()  # noqa: SIM905
SIZES = {
  'vocab_size': 40,
  'hidden_size': 16,
  'num_hidden_layers': 2,
  'num_attention_heads': 2,
  'intermediate_size': 24,
  'max_position_embeddings': 12,
  'type_vocab_size': 2,
}
LABELS = 3
TEXTS = (
  'The café, naïve Über-ab! 中北京',
  "don't [MASK] caf\u0301 é\u00a0THE\tnb. \u200b\ufffd?",
)


def config_of(architecture, **changes):
  """What stands in config.json, as old versions of transformers wrote it."""
  config = {
    'architectures': [architecture],
    'model_type': 'bert',
    **SIZES,
    'hidden_act': 'gelu',
    'hidden_dropout_prob': 0.1,
    'attention_probs_dropout_prob': 0.0,
    'initializer_range': 0.02,
    'layer_norm_eps': 1e-12,
    'pad_token_id': SPECIAL['[PAD]'],
    'position_embedding_type': 'absolute',
    'transformers_version': '4.6.0.dev0',
    'use_cache': True,
    'gradient_checkpointing': False,
  }
  if architecture == 'BertForSequenceClassification':
    config['id2label'] = {str(i): f'class {i}' for i in range(LABELS)}
    config['label2id'] = {f'class {i}': i for i in range(LABELS)}
  return {**config, **changes}


def draw(name, *shape):
  """[…] float32 in [-.5, .5), around 1 where it scales."""
  count = np.arange(np.prod(shape), dtype=np.uint64)
  mixed = count + np.uint64(zlib.crc32(name.encode()))
  for factor in (2654435761, 2246822519):
    mixed = (mixed * np.uint64(factor)) % np.uint64(2**32)
    mixed ^= mixed >> np.uint64(15)
  centre = 1 if name.endswith('LayerNorm.weight') else 0
  return (mixed / 2**32 - 0.5 + centre).astype(np.float32).reshape(shape)


def arrays_of(architecture, labels=LABELS):
  """The weights that a model of this name has, by transformers' names."""
  vocab, width, layers, _, inner, positions, types = SIZES.values()
  shapes = {
    'embeddings.word_embeddings.weight': (vocab, width),
    'embeddings.position_embeddings.weight': (positions, width),
    'embeddings.token_type_embeddings.weight': (types, width),
  }

  def dense(name, rows, columns):
    shapes[f'{name}.weight'], shapes[f'{name}.bias'] = (rows, columns), (rows,)

  def norm(name):
    shapes[f'{name}.weight'] = shapes[f'{name}.bias'] = (width,)

  norm('embeddings.LayerNorm')
  for i in range(layers):
    layer = f'encoder.layer.{i}'
    for part in ('self.query', 'self.key', 'self.value', 'output.dense'):
      dense(f'{layer}.attention.{part}', width, width)
    norm(f'{layer}.attention.output.LayerNorm')
    dense(f'{layer}.intermediate.dense', inner, width)
    dense(f'{layer}.output.dense', width, inner)
    norm(f'{layer}.output.LayerNorm')
  if architecture not in ('BertForMaskedLM', 'BertForQuestionAnswering'):
    dense('pooler.dense', width, width)
  if architecture != 'BertModel':
    shapes = {f'bert.{name}': shape for name, shape in shapes.items()}
  if architecture in ('BertForMaskedLM', 'BertForPreTraining'):
    dense('cls.predictions.transform.dense', width, width)
    norm('cls.predictions.transform.LayerNorm')
    shapes['cls.predictions.bias'] = (vocab,)
  if architecture == 'BertForPreTraining':
    dense('cls.seq_relationship', 2, width)
  if architecture == 'BertForQuestionAnswering':
    dense('qa_outputs', 2, width)
  if architecture == 'BertForSequenceClassification':
    dense('classifier', labels, width)
  return {name: draw(name, *shape) for name, shape in shapes.items()}


def write(
  folder, architecture, *, flat=None, shards=1, options=None, **changes
):
  """A whole folder; returns it.

  Args:
    flat: weights; None: `arrays_of`.
    shards: files of weights.
    options: of tokenizer_config.json.
    changes: of config.json.
  """
  folder.mkdir(parents=True, exist_ok=True)
  flat = arrays_of(architecture) if flat is None else flat
  config = config_of(architecture, **changes)
  (folder / 'config.json').write_text(json.dumps(config))
  (folder / 'vocab.txt').write_text('\n'.join(PIECES) + '\n', encoding='utf-8')
  options = {'do_lower_case': False} if options is None else options
  (folder / 'tokenizer_config.json').write_text(json.dumps(options))
  if shards == 1:
    file = folder / 'model.safetensors'
    safetensors.numpy.save_file(flat, file, {'format': 'pt'})
    return folder
  places = {}
  for number in range(shards):
    shard = f'model-{number + 1:05}-of-{shards:05}.safetensors'
    part = {name: flat[name] for name in [*flat][number::shards]}
    places |= dict.fromkeys(part, shard)
    safetensors.numpy.save_file(part, folder / shard, {'format': 'pt'})
  index = {'metadata': {'total_size': 0}, 'weight_map': places}
  (folder / 'model.safetensors.index.json').write_text(json.dumps(index))
  return folder


def inputs():
  """Two rows of nine tokens, the second of six.

  Returns:
    tokens [2, 9] int32, segments [2, 9] int32, attention [2, 9] bool.
  """
  tokens = np.array(
    [[31, 0, 3, 4, 29, 33, 14, 17, 29], [31, 33, 24, 29, 39, 29, 2, 2, 2]],
    np.int32,
  )
  segments = np.array(
    [[0, 0, 0, 0, 0, 1, 1, 1, 1], [0, 0, 0, 0, 1, 1, 0, 0, 0]], np.int32
  )
  attention = np.arange(9) < np.array([[9], [6]])
  return tokens, segments, attention
