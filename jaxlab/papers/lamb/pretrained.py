"""What fine-tuning begins from: a run's encoder, or a Hugging Face folder's.

Both bring a shape and a vocabulary. A run is a finished stage of
configs/bert_lamb.py; a folder is as `data/packages/hub_folder.py` describes it.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from jaxlab.core import keys
from jaxlab.core.errors import InputError
from jaxlab.data import atomic
from jaxlab.data.packages import hub_folder
from jaxlab.data.text.wordpiece import Vocabulary
from jaxlab.engine import checkpoint
from jaxlab.models.bert_heads import encoder_params, new_pooler
from jaxlab.papers.lamb import bert
from jaxlab.recipes import hugging_face

Config = Mapping[str, Any]

MODEL = (
  'num_layers',
  'hidden_size',
  'num_heads',
  'intermediate_size',
  'max_positions',
  'type_vocab_size',
  'activation',
  'layer_norm_epsilon',
)
# Keys that are younger than some runs, and what those runs had.
YOUNG = {
  'type_vocab_size': 2,
  'activation': 'gelu',
  'layer_norm_epsilon': 1e-12,
}
# config.vocabulary's names -> those of the pre-training run's config.data
VOCABULARY = {'name': 'name', 'text_files': 'text_files', 'size': 'vocab_size'}


def resolve(config: Config, planning: bool = False) -> dict[str, Any]:
  """The config with the checkpoint's shape and vocabulary filled in.

  A size of 0, and an empty name, stand for the checkpoint's.

  Args:
    config: of fine-tuning.
    planning: let the checkpoint be absent where nothing is to be taken from it,
      so that a step can be compiled where no run is.

  Raises:
    InputError: there is no such checkpoint, or the config wants another shape
      or vocabulary than it has.
  """
  own = {name: dict(config[name]) for name in ('model', 'vocabulary')}
  model, words = own['model'], own['vocabulary']
  missing = [f'model.{name}' for name in MODEL if not model[name]]
  if not words['size']:
    missing.append('vocabulary.size')
  named = words['name'] or words['text_files']
  if not model['checkpoint'] and (missing or not named):
    raise InputError(
      f'config.{[*missing, "vocabulary.name"][0]} is to be that of a '
      'checkpoint, and config.model.checkpoint is empty: give either'
    )
  folder, known = _folder(config), []
  if model['checkpoint'] and (missing or folder.is_dir() or not planning):
    hub = hub_folder.is_folder(folder)
    if hub and named:
      raise InputError(
        f'config.vocabulary names {named!r}, and {folder} has a vocabulary of '
        "its own: give '' for name and text_files"
      )
    known = _of_folder(folder) if hub else _of_run(folder)
  for section, name, value in known:
    wanted = own[section][name]
    if wanted and wanted != value:
      raise InputError(
        f'config.{section}.{name} = {wanted!r}, and the checkpoint {folder} '
        f'was pre-trained with {value!r}: give it that, or {type(value)()!r} '
        'to take what the checkpoint has'
      )
    own[section][name] = value
  return {**config, **own}


def _of_folder(folder: Path) -> list[tuple[str, str, Any]]:
  """(section, name, value) of a Hugging Face folder."""
  about, vocabulary = hugging_face.describe(folder)
  sizes = [('model', name, about.fields[name]) for name in MODEL]
  return [*sizes, ('vocabulary', 'size', len(vocabulary.pieces))]


def _of_run(folder: Path) -> list[tuple[str, str, Any]]:
  """(section, name, value) of the run that a stage's folder belongs to."""
  cure = (
    'config.model.checkpoint is the folder of a finished stage of '
    'configs/bert_lamb.py such as runs/bert_lamb/pretrain, a folder of Hugging '
    "Face's layout (config.json and model.safetensors), or '' to begin from "
    'scratch'
  )
  if not (folder / 'report.json').is_file():
    stages = sorted(path.parent.name for path in folder.glob('*/report.json'))
    hint = f'; its stages are {stages}' if stages else ''
    raise InputError(
      f'{folder} has no report.json, so it is not a finished stage{hint}; '
      f'{cure}'
    )
  path = folder.parent / 'config.json'
  try:
    there = json.loads(path.read_text())
    model = {**YOUNG, **there['model']}
    known = [('model', name, model[name]) for name in MODEL]
    for name, theirs in VOCABULARY.items():
      known.append(('vocabulary', name, there['data'][theirs]))
  except (OSError, ValueError, TypeError, KeyError) as error:
    raise InputError(
      f'{path} is not the config of a pre-training run '
      f'({type(error).__name__}: {error}); {cure}'
    ) from error
  return known


def _hub(config: Config) -> Path | None:
  """The folder, if the config starts from one of Hugging Face's layout."""
  if config['model']['checkpoint'] and hub_folder.is_folder(_folder(config)):
    return _folder(config)
  return None


def words(config: Config, offline: bool) -> tuple[Vocabulary, dict[str, str]]:
  """What the tokens mean, and digests that a run belongs to.

  Args:
    config: a resolved one.
    offline: open no socket.

  Raises:
    InputError: the vocabulary cannot be had.
  """
  if folder := _hub(config):
    found = hub_folder.read_vocabulary(folder)
    return found, {'vocabulary_sha256': found.sha256}
  section = config['vocabulary']
  corpus = bert.open_corpus(section, section['size'], offline)
  about = {'corpus_sha256': corpus.sha256}
  return Vocabulary(tuple(corpus.pieces)), about


def sha256(config: Config, about: Mapping[str, str]) -> str:
  """Of the State of the stage, or of the files, that the config names.

  Args:
    about: the digests that `words` gave.

  Raises:
    InputError: the stage was trained with another vocabulary.
  """
  if folder := _hub(config):
    return hub_folder.weights_sha256(folder)
  folder, corpus = _folder(config), about['corpus_sha256']
  there = json.loads((folder / 'report.json').read_text())
  trained_on = there.get('corpus_sha256')
  if trained_on != corpus:
    raise InputError(
      f'{folder} was pre-trained with the vocabulary and text of SHA-256 '
      f'{trained_on}, and config.vocabulary is now that of {corpus}: the text '
      'changed since. Bring it back, or pre-train again'
    )
  return there['state_sha256']


def encoder(config: Config, devices: Mesh) -> dict[str, Any]:
  """The encoder's parameters in that folder.

  What a Hugging Face folder has beside the encoder is named on stderr, and one
  without a pooler gets a new one.

  Raises:
    InputError: there is none, it is damaged, or holds no BERT.
  """
  model = config['model']
  if not (folder := _hub(config)):
    found = network(_folder(config), devices)
    return encoder_params(found, model['scan_layers'])
  params, unused = hugging_face.load_encoder(
    folder, scan_layers=model['scan_layers']
  )
  if unused:
    atomic.note(f'{folder}: fine-tuning uses no {", ".join(sorted(unused))}')
  if 'pooler' not in params:
    atomic.note(f'{folder} has no pooler: a new one is drawn')
    width = params['word_embedding'].shape[1]
    key = keys.stream(config['seed'], 'pooler')
    new = new_pooler(key, width, model['initializer_range'])
    params = {**params, 'pooler': new}
  return params


def network(folder: Path, devices: Mesh, name: str = 'net') -> dict[str, Any]:
  """The parameters of a network in the newest checkpoint of a stage.

  Raises:
    InputError: there is no checkpoint, it is damaged, or has no such network.
  """
  found: dict[str, Any] = {}
  leaves, _ = checkpoint.read(folder / 'checkpoints', devices)
  for path, leaf in leaves.items():
    if path.startswith(f'params/{name}/'):
      *parents, last = path.split('/')[2:]
      at = found
      for part in parents:
        at = at.setdefault(part, {})
      at[last] = leaf
  if not found:
    raise InputError(
      f'{folder} holds no network "{name}", only {sorted(leaves)[:5]}; name a '
      'stage of configs/bert_lamb.py'
    )
  return found


def _folder(config: Config) -> Path:
  return Path(config['model']['checkpoint']).expanduser()
