"""Folders of Hugging Face's layout that cannot be: what is wrong is named."""

import json
import math
from functools import cache, partial

import numpy as np
import pytest
import safetensors.numpy
import tokenizers

from jaxlab.core.errors import InputError
from jaxlab.recipes import hugging_face
from tests.recipes import hub_folders
from tests.recipes.hub_folders import ARCHITECTURES, PIECES


def refused(folder, message):
  with pytest.raises(InputError, match=message) as caught:
    hugging_face.load(folder)
  assert str(folder) in str(caught.value)
  with pytest.raises(InputError):
    hugging_face.load_encoder(folder)


@pytest.mark.parametrize(
  'key, value, message',
  [
    ('model_type', 'roberta', "must be one of 'bert'"),
    ('position_embedding_type', 'relative_key', "must be one of 'absolute'"),
    ('hidden_act', 'silu', 'must be one of gelu, gelu_new'),
    ('is_decoder', True, 'must be one of False'),
    ('add_cross_attention', True, 'must be one of False'),
    ('tie_word_embeddings', False, 'must be one of True'),
    ('pruned_heads', {'0': [1]}, 'must be one of {}'),
    ('auto_map', {'AutoModel': 'x.Y'}, 'other networks are not read here'),
    ('problem_type', 'regression', "'single_label_classification'"),
    ('layer_norm_eps', 0.0, 'must be above 0'),
    ('layer_norm_eps', 'small', 'must be above 0'),
    ('hidden_dropout_prob', 1.5, r'must be in \[0, 1\)'),
    ('hidden_dropout_prob', math.nan, r'must be in \[0, 1\)'),
    ('classifier_dropout', -1, r'must be in \[0, 1\)'),
    ('num_hidden_layers', 0, 'must be a whole number from 1'),
    ('num_hidden_layers', 10**9, 'and the weights beside it have 2'),
    ('num_attention_heads', 3, 'hidden_size = 16 must be a multiple of 3'),
    ('hidden_size', 16.0, 'must be a whole number'),
    ('hidden_size', 32, 'hidden_size = 32, .* weights beside it have 16'),
    ('vocab_size', 41, 'vocab_size = 41, and the weights beside it have 40'),
    ('vocab_size', 10**30, 'must be a whole number from 1 to 2147483647'),
    ('intermediate_size', 48, '= 48, and the weights beside it have 24'),
    ('max_position_embeddings', 512, '= 512, .* beside it have 12'),
    ('type_vocab_size', 16, '= 16, and the weights beside it have 2'),
    ('pad_token_id', 0, r'= 0, and the vocabulary has \[PAD\] at 2'),
    ('architectures', ['BertForTokenClassification'], 'must be one of Bert'),
    ('architectures', ['BertModel', 'BertForMaskedLM'], 'list of one of'),
    ('architectures', None, 'architectures is missing, .* of tokens'),
    ('num_random_layers', 3, "key 'num_random_layers' is not known here"),
    ('id2label', {'0': 'one'}, 'must name at least two classes'),
    ('id2label', {'0': 'a', '2': 'b'}, 'must name at least two classes'),
    ('id2label', {'0': 'a', '1': 'b'}, '= 2, .* beside it have 3'),
  ],
)
def test_keys_of_the_config_are_honoured_or_refused_by_name(
  key, value, message, tmp_path
):
  folder = hub_folders.write(
    tmp_path / 'it', 'BertForSequenceClassification', **{key: value}
  )
  refused(folder, f'config.json: (?=.*{key}).*{message}')


def test_sizes_that_are_missing_are_named(tmp_path):
  folder = hub_folders.write(tmp_path / 'it', 'BertModel')
  config = json.loads((folder / 'config.json').read_text())
  for key in hub_folders.SIZES:
    left = {k: v for k, v in config.items() if k != key}
    (folder / 'config.json').write_text(json.dumps(left))
    if key == 'type_vocab_size':  # has a default of transformers'
      assert hugging_face.load(folder).model.type_vocab_size == 2
    else:
      refused(folder, f'config.json: {key} is missing')
  # Without a name the architecture is told by the weights.
  del config['architectures']
  for architecture in ARCHITECTURES[:4]:
    folder = hub_folders.write(tmp_path / architecture, architecture)
    (folder / 'config.json').write_text(json.dumps(config))
    assert hugging_face.load(folder).architecture == architecture


def change(folder, edit):
  """Writes the weights again after edit(flat)."""
  file = folder / 'model.safetensors'
  flat = safetensors.numpy.load_file(file)
  edit(flat)
  safetensors.numpy.save_file(flat, file)


@pytest.mark.parametrize(
  'edit, message',
  [
    (
      lambda x: x.pop('bert.pooler.dense.bias'),
      r"'params/pooler/bias' \(16,\)",
    ),
    (
      lambda x: x.update({'bert.encoder.layer.1.adapter.w': np.zeros(3)}),
      r"'encoder.layer.1.adapter.w' \(3,\): no rule matches",
    ),
    (
      lambda x: x.update(
        {'bert.encoder.layer.1.output.dense.weight': np.zeros((16, 25))}
      ),
      r"layers_1/output/kernel' from .* shape \(16, 25\) -> \(25, 16\)",
    ),
    (
      lambda x: x.update(
        {'bert.encoder.layer.0.attention.output.dense.weight': np.zeros(())}
      ),
      r"layers_0/attention/out/kernel' from .* shape \(\)",
    ),
    (
      lambda x: x.update({'qa_outputs.weight': np.zeros((2, 16), 'f4')}),
      r"BertForPreTraining, .* no place for .*'qa_outputs.weight'",
    ),
    (
      lambda x: x.update(
        {'cls.predictions.decoder.weight': np.zeros((40, 16))}
      ),
      "'cls.predictions.decoder.weight' differs from .* ties the two",
    ),
    (
      lambda x: x.update({'pooler.dense.bias': np.zeros(16, 'f4')}),
      r"\['pooler.dense.bias'\] are there twice",
    ),
    (
      lambda x: x.update({'bert.pooler.dense.bias': np.zeros(16, 'i4')}),
      "'params/pooler/bias' from .* dtype int32",
    ),
    (
      lambda x: x.pop('bert.embeddings.word_embeddings.weight'),
      'no matrix "embeddings.word_embeddings.weight", so they are not a BERT',
    ),
  ],
)
def test_weights_that_do_not_fit_are_named(edit, message, tmp_path):
  folder = hub_folders.write(tmp_path / 'it', 'BertForPreTraining')
  change(folder, edit)
  with pytest.raises(InputError, match=message) as caught:
    hugging_face.load(folder)
  assert str(folder) in str(caught.value)


def test_files_that_are_absent_or_damaged_are_named(tmp_path):
  whole = partial(hub_folders.write, architecture='BertModel')
  refused(tmp_path / 'nowhere', 'no file .*model.safetensors .* has no files')
  for name in ('config.json', 'vocab.txt', 'model.safetensors'):
    folder = whole(tmp_path / name)
    (folder / name).unlink()
    refused(folder, f'no file .*{name} .*: copy it, or name the folder')
  folder = whole(tmp_path / 'cut')
  file = folder / 'model.safetensors'
  data = file.read_bytes()
  for length in (0, 4, 700, len(data) - 1):
    file.write_bytes(data[:length])
    refused(folder, 'model.safetensors is damaged, cut off')
    with pytest.raises(InputError, match=r'\.safetensors is damaged'):
      hugging_face.describe(folder)
  file.rename(folder / 'pytorch_model.bin')
  refused(folder, 'pytorch_model.bin alone, a pickle: write model.safetensors')
  folder = whole(tmp_path / 'json')
  for text, message in (
    ('{"a": ', 'is not JSON'),
    ('[' * 10**5, 'is not JSON'),
    ('[1]', r'holds \[1\], not an object'),
  ):
    (folder / 'config.json').write_text(text)
    refused(folder, message)
  folder = whole(tmp_path / 'bytes')
  (folder / 'vocab.txt').write_bytes(b'\xff\xfe')
  refused(folder, 'vocab.txt is not text in UTF-8')


@pytest.mark.parametrize(
  'edit, message',
  [
    (lambda x: x[:-1], 'has 39 pieces, and vocab_size .* have 40'),
    (lambda x: [*x, 'more'], 'has 41 pieces, and vocab_size .* have 40'),
    (lambda x: ['naive', *x[1:]], "piece 'naive' has the ids 0 and 8"),
    (lambda x: [*x[:31], 'w', *x[32:]], r'the vocabulary has no \[CLS\]'),
  ],
)
def test_vocabularies_that_do_not_fit_are_refused(edit, message, tmp_path):
  folder = hub_folders.write(tmp_path / 'it', 'BertModel')
  (folder / 'vocab.txt').write_text('\n'.join(edit(PIECES)) + '\n')
  with pytest.raises(InputError, match=message):
    hugging_face.load(folder)


def test_shards_that_are_absent_elsewhere_or_of_another_version_are_refused(
  tmp_path,
):
  folder = hub_folders.write(tmp_path / 'it', 'BertModel', shards=3)
  index = folder / 'model.safetensors.index.json'
  right = json.loads(index.read_text())
  pooler = right['weight_map']['pooler.dense.bias']

  def told(**places):
    changed = {**right['weight_map'], **places}
    index.write_text(json.dumps({**right, 'weight_map': changed}))

  outside = tmp_path / 'outside.safetensors'
  outside.write_bytes((folder / pooler).read_bytes())
  for name in ('../outside.safetensors', str(outside), 'x/y', '..', '', '.', 3):
    told(**{'pooler.dense.bias': name})
    refused(folder, "'pooler.dense.bias' is in .* not the name of a .* file")
  told(**{'pooler.dense.bias': 'model-9.safetensors'})
  refused(folder, "shard 'model-9.safetensors' with 1 arrays, and .* no such")
  other = next(x for x in right['weight_map'].values() if x != pooler)
  told(**{'pooler.dense.bias': other})
  refused(folder, r"disagree on \['pooler.dense.bias'\]: copy both again")
  told(new=pooler)
  refused(folder, r"disagree on \['new'\]")
  left = {
    k: x for k, x in right['weight_map'].items() if k != 'pooler.dense.bias'
  }
  index.write_text(json.dumps({'weight_map': left}))
  refused(folder, r"disagree on \['pooler.dense.bias'\]")
  for content in ({}, {'weight_map': {}}, {'weight_map': [1]}):
    index.write_text(json.dumps(content))
    refused(folder, 'index.json has no weight_map')
  told()
  hugging_face.load(folder)
  (folder / pooler).unlink()
  refused(folder, f"names the shard '{pooler}'")


@pytest.mark.parametrize(
  'key, value, message',
  [
    ('tokenizer_class', 'BertJapaneseTokenizer', 'must be one of BertTok'),
    ('do_basic_tokenize', False, 'must be True, or left out'),
    ('never_split', ['x'], 'must be None, or left out'),
    ('do_lower_case', 'no', 'must be true or false'),
    ('cls_token', '<s>', r"must be '\[CLS\]'"),
    ('mask_token', {'content': '<mask>'}, r"must be '\[MASK\]'"),
  ],
)
def test_options_of_other_tokenizers_are_refused_by_name(
  key, value, message, tmp_path
):
  options = {'do_lower_case': False, key: value}
  folder = hub_folders.write(tmp_path / 'it', 'BertModel', options=options)
  refused(folder, f'{key} = .*{message}')


@cache
def whole_tokenizer():
  """A right tokenizer.json."""
  tokenizer = tokenizers.Tokenizer(
    tokenizers.models.WordPiece(
      {piece: i for i, piece in enumerate(PIECES)}, unk_token='[UNK]'
    )
  )
  tokenizer.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=False)
  tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
  return tokenizer.to_str()


@pytest.mark.parametrize(
  'edit, message',
  [
    (lambda x: x['model'].update(type='BPE'), "model is 'BPE', and BERT's is"),
    (lambda x: x.update(normalizer=None), 'the normalizer is None'),
    (
      lambda x: x.update(pre_tokenizer={'type': 'ByteLevel'}),
      "the pre_tokenizer is 'ByteLevel'",
    ),
    (
      lambda x: x['model'].update(continuing_subword_prefix='@@'),
      "continuing_subword_prefix = '@@' must be '##'",
    ),
    (lambda x: x['model']['vocab'].update(the=7), 'one id from 0 on'),
    (lambda x: x['model']['vocab'].update(the=[]), 'one id from 0 on'),
    (lambda x: x['model'].update(vocab=[1]), 'one id from 0 on'),
    (
      lambda x: x['model']['vocab'].update({'the': 1, 'The': 0}),
      "differ, first 'the' and 'The' with the id 0",
    ),
    (
      lambda x: x.update(added_tokens=[{'id': 40, 'content': '<e>'}]),
      "adds '<e>' as 40",
    ),
    (lambda x: x.update(added_tokens=[3]), 'tokenizer.json is damaged'),
  ],
)
def test_a_tokenizer_json_that_is_not_berts_is_refused(edit, message, tmp_path):
  folder = hub_folders.write(tmp_path / 'it', 'BertModel')
  whole = json.loads(whole_tokenizer())
  (folder / 'tokenizer.json').write_text(json.dumps(whole))
  assert hugging_face.load(folder).vocabulary.pieces == tuple(PIECES)
  edit(whole)
  (folder / 'tokenizer.json').write_text(json.dumps(whole))
  with pytest.raises(InputError, match=message):
    hugging_face.load(folder)
