"""BERT from and to folders of Hugging Face's layout.

Outputs and ids are compared with transformers', stored by
tests/goldens/hugging_face.py; with the extra `bench` also with those of the
transformers at hand, both ways.
"""

import json
from functools import partial
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import tokenizers

from jaxlab.core.errors import InputError
from jaxlab.recipes import hugging_face
from tests.recipes import hub_folders
from tests.recipes.hub_folders import ARCHITECTURES, PIECES, SPECIAL

GOLDEN = json.loads(
  (Path(__file__).parents[1] / 'goldens' / 'hugging_face.json').read_text()
)
# Two post-LN layers of float32 sums of <= 40 terms, outputs of at most 3.5.
CLOSE = partial(np.testing.assert_allclose, rtol=0, atol=1e-5)
jit = partial(jax.jit, compiler_options={'xla_backend_optimization_level': 0})


@partial(jit, static_argnums=(0, 1))
def _run(model, head, params):
  tokens, segments, attention = map(jnp.asarray, hub_folders.inputs())
  everywhere = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
  inputs = (tokens, segments, attention)
  apply = partial(model.apply, {'params': params['net']}, deterministic=True)
  if model.heads:
    return apply(*inputs, everywhere)
  found = apply(*inputs, method='encode')
  if head is None:
    return found
  return head.apply({'params': params['head']}, *found, deterministic=True)


def outputs_of(loaded):
  """The outputs under transformers' names, where there are tokens."""
  found = _run(loaded.model, loaded.head, loaded.params)
  names = {
    'BertModel': ('last_hidden_state', 'pooler_output'),
    'BertForMaskedLM': ('logits',),
    'BertForPreTraining': ('prediction_logits', 'seq_relationship_logits'),
    'BertForQuestionAnswering': ('start_logits', 'end_logits'),
    'BertForSequenceClassification': ('logits',),
  }[loaded.architecture]
  found = found if isinstance(found, tuple) else (found,)
  _, _, attention = hub_folders.inputs()
  return {
    name: np.asarray(x[attention] if x.shape[:2] == attention.shape else x)
    for name, x in zip(names, found)
  }


def check_golden(loaded):
  found = outputs_of(loaded)
  want = GOLDEN['outputs'][loaded.architecture]
  assert found.keys() == want.keys()
  for name, x in found.items():
    CLOSE(x.reshape(len(x), -1), want[name])


@pytest.mark.parametrize('architecture', ARCHITECTURES)
def test_outputs_are_those_of_transformers(architecture, tmp_path):
  folder = hub_folders.write(tmp_path / 'it', architecture)
  loaded = hugging_face.load(folder)
  assert loaded.architecture == architecture
  assert loaded.unused == ()
  check_golden(loaded)
  # Nothing beside what the weights hold, and all of it.
  flat = hub_folders.arrays_of(architecture)
  leaves = jax.tree.leaves(loaded.params)
  assert sum(x.size for x in leaves) == sum(x.size for x in flat.values())


def test_shards_and_stacked_layers_are_the_same_network(tmp_path):
  name = 'BertForPreTraining'
  folder = hub_folders.write(tmp_path / 'it', name, shards=3)
  loaded = hugging_face.load(folder, scan_layers=True)
  assert loaded.params['net']['layers']['intermediate']['kernel'].shape == (
    *(2, 16, 24),
  )
  check_golden(loaded)


@pytest.mark.parametrize(
  'activation, epsilon, want',
  GOLDEN['variants'],
  ids=[f'{a}, {e}' for a, e, _ in GOLDEN['variants']],
)
def test_activations_and_epsilons_are_honoured(
  activation, epsilon, want, tmp_path
):
  folder = hub_folders.write(
    tmp_path / 'it',
    'BertForMaskedLM',
    hidden_act=activation,
    layer_norm_eps=epsilon,
  )
  found = outputs_of(hugging_face.load(folder))['logits'][::5]
  CLOSE(found, want)
  other = np.array(GOLDEN['outputs']['BertForMaskedLM']['logits'])[::5]
  assert np.abs(found - other).max() > 1e-4


def test_rates_ranges_and_classes_are_those_of_the_config(tmp_path):
  loaded = hugging_face.load(
    hub_folders.write(
      tmp_path / 'it',
      'BertForSequenceClassification',
      hidden_dropout_prob=0.25,
      attention_probs_dropout_prob=0.125,
      initializer_range=0.5,
      classifier_dropout=0.375,
    )
  )
  model = loaded.model
  assert (model.dropout_rate, model.attention_dropout_rate) == (0.25, 0.125)
  assert model.initializer_range == 0.5
  assert loaded.head.dropout_rate == 0.375
  assert loaded.classes == ('class 0', 'class 1', 'class 2')


def test_what_old_files_have_beside_is_used_or_listed(tmp_path):
  """As in bert-base-uncased: gamma and beta, tied copies, all heads."""
  flat = hub_folders.arrays_of('BertForPreTraining')
  norms = {
    name: name.replace('Norm.weight', 'Norm.gamma').replace(
      'Norm.bias', 'Norm.beta'
    )
    for name in flat
  }
  flat = {norms[name]: x for name, x in flat.items()}
  flat['bert.embeddings.position_ids'] = np.arange(12)[None]
  embedding = flat['bert.embeddings.word_embeddings.weight']
  flat['cls.predictions.decoder.weight'] = embedding.copy()
  flat['cls.predictions.decoder.bias'] = flat['cls.predictions.bias'].copy()
  folder = hub_folders.write(tmp_path / 'it', 'BertForMaskedLM', flat=flat)
  loaded = hugging_face.load(folder)
  assert loaded.unused == ('embeddings.position_ids',)
  found = _run(loaded.model, None, loaded.params)
  want = GOLDEN['outputs']['BertForPreTraining']
  _, _, attention = hub_folders.inputs()
  CLOSE(found[0][attention], want['prediction_logits'])
  CLOSE(found[1], want['seq_relationship_logits'])
  # A pooler that nothing reads is left out of it.
  del flat['cls.seq_relationship.weight'], flat['cls.seq_relationship.bias']
  folder = hub_folders.write(tmp_path / 'two', 'BertForMaskedLM', flat=flat)
  loaded = hugging_face.load(folder)
  assert 'pooler' not in loaded.params['net']
  assert set(loaded.unused) == {
    'embeddings.position_ids',
    'pooler.dense.weight',
    'pooler.dense.bias',
  }
  check_golden(loaded)


def test_an_encoder_is_taken_from_any_architecture(tmp_path):
  for architecture in ARCHITECTURES:
    folder = hub_folders.write(tmp_path / architecture, architecture)
    params, unused = hugging_face.load_encoder(folder)
    flat = hub_folders.arrays_of(architecture)
    plain = {name.removeprefix('bert.') for name in flat}
    heads = ('cls.', 'qa_outputs.', 'classifier.')
    assert set(unused) == {x for x in plain if x.startswith(heads)}
    assert ('pooler' in params) == any('pooler' in name for name in flat)
    kernel = params['layers_1']['attention']['query']['kernel']
    theirs = [
      x for n, x in flat.items() if '1.attention.self.query.weight' in n
    ]
    # Row h * 8 + d of theirs is what head h computes for its d.
    np.testing.assert_array_equal(kernel[:, 1, 3], theirs[0][11])


@pytest.mark.parametrize('architecture', ARCHITECTURES)
def test_what_is_exported_is_loaded_back_to_the_bit(architecture, tmp_path):
  folder = hub_folders.write(
    tmp_path / 'it',
    architecture,
    hidden_act='gelu_new',
    layer_norm_eps=1e-6,
    hidden_dropout_prob=0.25,
  )
  scan = architecture == 'BertModel'
  first = hugging_face.load(folder, scan_layers=scan)
  name = hugging_face.export(
    tmp_path / 'ours',
    first.model,
    first.params,
    first.vocabulary,
    head=first.head,
    classes=first.classes,
  )
  second = hugging_face.load(tmp_path / 'ours', scan_layers=scan)
  assert name == architecture
  chex.assert_trees_all_equal(first.params, second.params)
  assert second._replace(params=None) == first._replace(params=None)
  file = tmp_path / 'ours' / 'model.safetensors'
  found = safetensors.numpy.load_file(file)
  chex.assert_trees_all_equal(found, hub_folders.arrays_of(architecture))
  with safetensors.safe_open(file, 'np') as opened:
    assert opened.metadata() == {'format': 'pt'}  # transformers wants it
  with pytest.raises(InputError, match='ours is there already: remove it'):
    hugging_face.export(
      tmp_path / 'ours', first.model, first.params, first.vocabulary
    )


def test_exports_that_cannot_be_are_refused(tmp_path):
  folder = hub_folders.write(tmp_path / 'it', 'BertForSequenceClassification')
  it = hugging_face.load(folder)
  export = partial(hugging_face.export, tmp_path / 'new', it.model, it.params)
  short = it.vocabulary._replace(pieces=it.vocabulary.pieces[:-1])
  with pytest.raises(InputError, match=r'has 39 pieces .*vocab_size=40'):
    export(short)
  with pytest.raises(InputError, match=r'1 names of classes .* head of 3'):
    export(it.vocabulary, head=it.head, classes=['one'])
  broken = it.vocabulary._replace(pieces=(*it.vocabulary.pieces[:-1], 'a\nb'))
  with pytest.raises(InputError, match=r"piece 'a\\nb' cannot be a line"):
    export(broken, head=it.head, classes=it.classes)
  extra = it.vocabulary, {'net': {**it.params['net'], 'adapter': np.zeros(3)}}
  with pytest.raises(ValueError, match=r"has no names for \['adapter'\]"):
    hugging_face.export(tmp_path / 'new', it.model, extra[1], extra[0])
  assert not (tmp_path / 'new').exists()
  (tmp_path / 'file').write_text('')
  with pytest.raises(InputError, match='cannot write'):
    hugging_face.export(
      tmp_path / 'file' / 'new', it.model, it.params, it.vocabulary
    )


# Texts


def ids_of(vocabulary, text):
  """The ids of a text with [MASK] in it, as transformers lays it out."""
  tokenizer = vocabulary.tokenizer()
  parts = [
    tokenizer.encode(part, add_special_tokens=False).ids
    for part in text.split('[MASK]')
  ]
  found = [vocabulary.special.cls, *parts[0]]
  for part in parts[1:]:
    found += [vocabulary.special.mask, *part]
  return [*found, vocabulary.special.sep]


@pytest.mark.parametrize(
  'options, want',
  GOLDEN['tokenizers'],
  ids=[str(options) for options, _ in GOLDEN['tokenizers']],
)
def test_texts_are_read_as_by_transformers(options, want, tmp_path):
  folder = hub_folders.write(tmp_path / 'it', 'BertModel', options=options)
  it = hugging_face.load(folder)
  assert it.vocabulary.special._asdict() == {
    name.strip('[]').lower(): number for name, number in SPECIAL.items()
  }
  assert [ids_of(it.vocabulary, text) for text in hub_folders.TEXTS] == want
  hugging_face.export(tmp_path / 'ours', it.model, it.params, it.vocabulary)
  whole = tokenizers.Tokenizer.from_file(str(tmp_path / 'ours/tokenizer.json'))
  assert [whole.encode(text).ids for text in hub_folders.TEXTS] == want
  pair = whole.encode('the', 'the')
  assert pair.type_ids == [0, 0, 0, 1, 1]
  # The same from tokenizer.json alone, as new versions write it.
  (tmp_path / 'ours' / 'vocab.txt').unlink()
  (tmp_path / 'ours' / 'tokenizer_config.json').unlink()
  again = hugging_face.load(tmp_path / 'ours').vocabulary
  assert [ids_of(again, text) for text in hub_folders.TEXTS] == want
  assert again.pieces == it.vocabulary.pieces


def test_a_vocabulary_with_capitals_is_not_put_in_lower_case_in_silence(
  tmp_path,
):
  folder = hub_folders.write(tmp_path / 'it', 'BertModel')
  (folder / 'tokenizer_config.json').unlink()
  with pytest.raises(
    InputError, match=r"capitals such as 'The': write \{\"do_"
  ):
    hugging_face.load(folder)
  # Without capitals it is in lower case; [CLS] and [unused0] are none.
  lower = [x if x.startswith('[') else f'l{i}' for i, x in enumerate(PIECES)]
  (folder / 'vocab.txt').write_text('\n'.join(lower) + '\n')
  assert hugging_face.load(folder).vocabulary.lowercase
  # What the config says counts before tokenizer.json.
  (folder / 'tokenizer_config.json').write_text('{"do_lower_case": false}')
  assert not hugging_face.load(folder).vocabulary.lowercase


# With transformers


@pytest.fixture
def transformers(monkeypatch):
  monkeypatch.setenv('HF_HUB_OFFLINE', '1')
  pytest.importorskip('torch', reason='needs torch: .[bench]')
  return pytest.importorskip('transformers', reason='needs .[bench]')


def theirs(model):
  import torch

  tokens, segments, attention = map(torch.tensor, hub_folders.inputs())
  with torch.no_grad():
    found = model.eval()(
      input_ids=tokens.long(),
      token_type_ids=segments.long(),
      attention_mask=attention.long(),
    )
  return {
    name: (x[attention] if x.shape[:2] == attention.shape else x).numpy()
    for name, x in found.items()
  }


@pytest.mark.parametrize('shards', [False, True])
@pytest.mark.parametrize('architecture', ARCHITECTURES)
def test_transformers_opens_ours_and_we_open_its_own(
  architecture, shards, transformers, tmp_path
):
  cls = getattr(transformers, architecture)
  folder = hub_folders.write(tmp_path / 'it', architecture)
  model, found = cls.from_pretrained(folder, output_loading_info=True)
  model.save_pretrained(
    tmp_path / 'theirs', max_shard_size='9KB' if shards else '1GB'
  )
  transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(
    tmp_path / 'theirs'
  )
  it = hugging_face.load(tmp_path / 'theirs', scan_layers=shards)
  files = [*(tmp_path / 'theirs').glob('*.safetensors')]
  assert (len(files) > 1) == shards
  want = theirs(model)
  chex.assert_trees_all_close(outputs_of(it), want, rtol=0, atol=1e-5)
  ours = tmp_path / 'ours'
  hugging_face.export(
    ours, it.model, it.params, it.vocabulary, head=it.head, classes=it.classes
  )
  model, found = cls.from_pretrained(ours, output_loading_info=True)
  assert not any(found.values()), found
  chex.assert_trees_all_close(theirs(model), want, rtol=0, atol=1e-6)
  if it.classes:
    assert tuple(model.config.id2label.values()) == it.classes
  tokenizer = transformers.AutoTokenizer.from_pretrained(ours)
  for text in hub_folders.TEXTS:
    assert tokenizer(text)['input_ids'] == ids_of(it.vocabulary, text)
