"""Fine-tuning from a folder of Hugging Face's layout, and exports to one."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlab.core.errors import InputError
from jaxlab.data.packages import hub_folder
from jaxlab.engine import mesh
from jaxlab.engine.checkpoint import Checkpoints, Policy
from jaxlab.models.bert_heads import encoder_params
from jaxlab.papers.lamb import export, pretrained, pretraining
from jaxlab.papers.lamb import finetuning as task
from jaxlab.recipes import hugging_face
from jaxlab.runs import model, workdir
from tests.papers import lamb_jobs
from tests.papers.lamb_jobs import config_of, space_of
from tests.papers.test_bert_finetune import write_squad
from tests.recipes import hub_folders

SIZES = {
  'num_layers': 1,
  'hidden_size': 16,
  'num_heads': 2,
  'intermediate_size': 24,
  'max_positions': 16,
}


@pytest.fixture(autouse=True)
def own_data(tmp_path_factory, monkeypatch):
  folder = tmp_path_factory.getbasetemp() / 'lamb_data'
  monkeypatch.setenv('JAXLAB_DATA_DIR', str(folder))


def tuned(folder):
  """The smoke config, all of whose sizes are those of a folder."""
  config = config_of('bert_finetune', 'smoke')
  config['data']['sequence_length'] = 12
  config['model'] |= dict.fromkeys([*SIZES, 'type_vocab_size'], 0)
  config['model'] |= {'activation': '', 'layer_norm_epsilon': 0.0}
  config['model']['checkpoint'] = str(folder)
  config['vocabulary'] = {'name': '', 'text_files': '', 'size': 0}
  return config


def begun(config):
  """State before the first update, and the open data."""
  (only,) = task.program(config)
  return lamb_jobs.begun(only, space_of(config))


def test_a_folders_encoder_and_words_are_taken(tmp_path, capsys):
  folder = hub_folders.write(
    tmp_path / 'it', 'BertForPreTraining', hidden_act='gelu_new'
  )
  config = tuned(folder)
  state, inputs = begun(config)
  loaded = hugging_face.load(folder)
  want = encoder_params(loaded.params['net'], True)
  chex.assert_trees_all_equal(state.params['net'], want)
  assert inputs.data.model.activation == 'gelu_new'
  assert inputs.data.model.layer_norm_epsilon == 1e-12
  said = capsys.readouterr().err
  assert 'fine-tuning uses no cls.predictions.bias, ' in said
  assert 'cls.seq_relationship.weight' in said and 'no pooler' not in said
  # Rows begin and end with the folder's own special ids; its case is kept.
  batch = inputs.feed.source.batch(0, slice(None))
  special = hub_folders.SPECIAL
  assert (batch['tokens'][:, 0] == special['[CLS]']).all()
  for row, length in zip(batch['tokens'], batch['length']):
    assert row[length - 1] == special['[SEP]']
    assert (row[length:] == special['[PAD]']).all()
  assert set(inputs.about) >= {'pretrained_sha256', 'vocabulary_sha256'}
  # Another case is another vocabulary, other weights are another start.
  flat = hub_folders.arrays_of('BertForPreTraining')
  name = 'bert.encoder.layer.1.output.dense.bias'
  hub_folders.write(
    folder,
    'BertForPreTraining',
    flat=flat | {name: flat[name] + 1},
    options={'do_lower_case': True},
    hidden_act='gelu_new',
  )
  resolved = pretrained.resolve(config)
  _, changed = pretrained.words(resolved, True)
  assert changed['vocabulary_sha256'] != inputs.about['vocabulary_sha256']
  sha256 = pretrained.sha256(resolved, changed)
  assert sha256 != inputs.about['pretrained_sha256']


def test_a_folder_without_a_pooler_gets_a_new_one(tmp_path, capsys):
  folder = hub_folders.write(tmp_path / 'it', 'BertForMaskedLM', shards=2)
  config = pretrained.resolve(tuned(folder))
  draw = lambda seed: pretrained.encoder({**config, 'seed': seed}, mesh.make())
  found = draw(0)
  assert 'it has no pooler: a new one is drawn' in capsys.readouterr().err
  want, _ = hugging_face.load_encoder(folder, scan_layers=True)
  pooler = found.pop('pooler')
  chex.assert_trees_all_equal(found, want)
  assert 0 < np.abs(pooler['kernel']).max() <= 0.04
  assert not np.allclose(draw(1)['pooler']['kernel'], pooler['kernel'])


def test_configs_that_contradict_a_folder_are_refused(tmp_path):
  folder = hub_folders.write(tmp_path / 'it', 'BertModel')

  def refused(section, key, value, message):
    config = tuned(folder)
    config[section][key] = value
    with pytest.raises(InputError, match=message):
      task.program(config)

  refused('vocabulary', 'name', 'bible', r"'bible', and .* of its own: give ''")
  refused('vocabulary', 'text_files', 'x*.txt', "vocabulary names 'x")
  refused('vocabulary', 'size', 41, r'size = 41, .* pre-trained with 40')
  refused('model', 'hidden_size', 32, r'hidden_size = 32, .* with 16')
  refused('model', 'activation', 'relu', r"'relu', .* with 'gelu'.*or '' to")
  refused('model', 'layer_norm_epsilon', 1e-5, r'1e-05, .* with 1e-12.*or 0\.0')
  refused('data', 'sequence_length', 13, r'must be in \[3, 12\]')
  (folder / 'model.safetensors').unlink()
  refused('data', 'sequence_length', 12, r'no file .*model\.safetensors')


def test_the_variant_for_bert_base_plans_without_its_folder():
  config = config_of('bert_finetune', 'base')
  (only,) = task.program(config)
  init = only.plan(space_of(config)).task.init
  params, _ = jax.eval_shape(init, jax.random.key(0))
  count = sum(x.size for x in jax.tree.leaves(params['net']))
  assert count == 109_482_240  # of BertModel, bert-base-uncased


# Exports


def leave(config, stage, folder, state, inputs, **facts):
  """What a finished stage leaves, without the training."""
  kept = Checkpoints(folder / stage / 'checkpoints', Policy())
  kept.save(state, 3, inputs.about)
  kept.close()
  workdir.write_json(folder / 'config.json', config)
  workdir.write_json(folder / stage / 'report.json', {**inputs.about, **facts})
  return folder / stage


def test_a_pretraining_is_exported(tmp_path, capsys):
  config = config_of('bert_lamb', 'smoke')
  config['data'] |= {'vocab_size': 512, 'sequence_length': 12}
  config['data']['max_predictions'] = 2
  config['model'] |= {**SIZES, 'activation': 'gelu_new'}
  (only,) = pretraining.program(config)
  state, inputs = lamb_jobs.begun(only, space_of(config))
  stage = leave(config, 'pretrain', tmp_path / 'run', state, inputs)
  assert export.main([str(stage), str(tmp_path / 'it')]) == 0
  assert capsys.readouterr().out == f'{tmp_path / "it"}: BertForPreTraining\n'
  loaded = hugging_face.load(tmp_path / 'it', scan_layers=True)
  chex.assert_trees_all_equal(loaded.params['net'], state.params['net'])
  assert loaded.vocabulary.pieces == tuple(inputs.data.pieces)
  assert loaded.vocabulary.lowercase
  assert loaded.model.activation == 'gelu_new'
  # What it exported it starts from.
  config = pretrained.resolve(tuned(tmp_path / 'it'))
  found = pretrained.encoder(config, mesh.make())
  chex.assert_trees_all_equal(found, encoder_params(state.params['net'], True))
  assert export.main([str(stage), str(tmp_path / 'it')]) == 2
  assert 'is there already' in capsys.readouterr().err
  report = {**inputs.about, 'corpus_sha256': 'another'}
  workdir.write_json(stage / 'report.json', report)
  with pytest.raises(InputError, match=r'corpus_sha256 = another, .* bring'):
    export.export(stage, tmp_path / 'new')
  workdir.write_json(tmp_path / 'run' / 'config.json', {'paper': 'aloe'})
  with pytest.raises(InputError, match=r"stage of \('aloe', None\)"):
    export.export(stage, tmp_path / 'new')
  with pytest.raises(InputError, match='is not a finished stage'):
    export.export(tmp_path, tmp_path / 'new')


def test_a_finetuned_classifier_answers_as_its_export_does(tmp_path):
  folder = hub_folders.write(tmp_path / 'it', 'BertModel', layer_norm_eps=1e-3)
  config = tuned(folder)
  state, inputs = begun(config)
  state.params['head']['Dense_0']['bias'] = jnp.arange(5.0) / 4
  stage = leave(
    config, 'finetune', tmp_path / 'run', state, inputs, **inputs.data.job.facts
  )
  name = export.export(stage, tmp_path / 'out')
  assert name == 'BertForSequenceClassification'
  loaded = hugging_face.load(tmp_path / 'out', scan_layers=True)
  chex.assert_trees_all_equal(loaded.params, state.params)
  assert loaded.classes[:2] == ('compound', 'debugger')
  assert loaded.model.layer_norm_epsilon == 1e-3
  assert loaded.vocabulary == hub_folder.read_vocabulary(folder)
  assert not loaded.vocabulary.lowercase
  text = 'The café'
  made = model.of(config, state.params, {}, task.kept(config, inputs.data))
  answer = task.predict(made, [text])[0]
  special, encoded = loaded.vocabulary.special, loaded.vocabulary.tokenizer()
  ids = [special.cls, *encoded.encode(text).ids, special.sep]
  row = jnp.array([ids], jnp.int32)
  outputs = loaded.model.apply(
    {'params': loaded.params['net']},
    row,
    row * 0,
    row >= 0,
    method='encode',
    deterministic=True,
  )
  logits = loaded.head.apply(
    {'params': loaded.params['head']}, *outputs, deterministic=True
  )
  found = jax.nn.softmax(logits)[0]
  assert answer['label'] == found.argmax()
  assert answer['probability'] == pytest.approx(float(found.max()), rel=1e-5)


def test_a_model_of_squad_is_exported_without_its_pooler(tmp_path):
  folder = hub_folders.write(tmp_path / 'it', 'BertForQuestionAnswering')
  config = config_of('bert_finetune', 'squad')
  file = write_squad(tmp_path / 'made.json')
  config['data'] |= {
    'squad_train': file,
    'squad_dev': file,
    'sequence_length': 12,
    'doc_stride': 2,
    'max_query': 4,
    'hold_out': False,
  }
  own = tuned(folder)
  config['model'] = {**own['model'], 'dtype': 'float32'}
  config['vocabulary'] = own['vocabulary']
  state, inputs = begun(config)
  stage = leave(config, 'finetune', tmp_path / 'run', state, inputs)
  assert export.export(stage, tmp_path / 'out') == 'BertForQuestionAnswering'
  loaded = hugging_face.load(tmp_path / 'out', scan_layers=True)
  chex.assert_trees_all_equal(loaded.params['head'], state.params['head'])
  left = {k: x for k, x in state.params['net'].items() if k != 'pooler'}
  chex.assert_trees_all_equal(loaded.params['net'], left)
