"""What a pre-training run left: its shape, its vocabulary, its encoder."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from jaxlab.data.corpus import Corpus
from jaxlab.engine import checkpoint
from jaxlab.engine.errors import InputError
from jaxlab.models.bert_heads import encoder_params

Config = Mapping[str, Any]

MODEL = (
  'num_layers',
  'hidden_size',
  'num_heads',
  'intermediate_size',
  'max_positions',
)
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
  if not (words['name'] or words['text_files']):
    missing.append('vocabulary.name')
  if not words['size']:
    missing.append('vocabulary.size')
  folder = _folder(config)
  if missing and not model['checkpoint']:
    raise InputError(
      f'config.{missing[0]} is to be that of a checkpoint, and '
      'config.model.checkpoint is empty: give either'
    )
  known = []
  if model['checkpoint'] and (missing or folder.is_dir() or not planning):
    known = _known(folder)
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


def _known(folder: Path) -> list[tuple[str, str, Any]]:
  """(section, name, value) of the run that a stage's folder belongs to."""
  cure = (
    'config.model.checkpoint is the folder of a finished stage of '
    "configs/bert_lamb.py such as runs/bert_lamb/pretrain, or '' to begin "
    'from scratch'
  )
  if not (folder / 'report.json').is_file():
    stages = sorted(path.parent.name for path in folder.glob('*/report.json'))
    hint = f'; its stages are {stages}' if stages else ''
    raise InputError(
      f'{folder} has no report.json, so it is no finished stage{hint}; {cure}'
    )
  path = folder.parent / 'config.json'
  try:
    there = json.loads(path.read_text())
    known = [('model', name, there['model'][name]) for name in MODEL]
    for name, theirs in VOCABULARY.items():
      known.append(('vocabulary', name, there['data'][theirs]))
  except (OSError, ValueError, TypeError, KeyError) as error:
    raise InputError(
      f'{path} is not the config of a pre-training run '
      f'({type(error).__name__}: {error}); {cure}'
    ) from error
  return known


def sha256(config: Config, corpus: Corpus) -> str:
  """Of the State of the stage that the config names.

  Raises:
    InputError: it was trained with another vocabulary.
  """
  folder = _folder(config)
  about = json.loads((folder / 'report.json').read_text())
  trained_on = about.get('corpus_sha256')
  if trained_on != corpus.sha256:
    raise InputError(
      f'{folder} was pre-trained with the vocabulary and text of SHA-256 '
      f'{trained_on}, and the corpus {corpus.path} has {corpus.sha256}: the '
      'text changed since. Bring it back, or pre-train again'
    )
  return about['state_sha256']


def encoder(config: Config, devices: Mesh) -> dict[str, Any]:
  """The encoder's parameters in the newest checkpoint of that stage.

  Raises:
    InputError: there is none, it is damaged, or holds no BERT.
  """
  folder = _folder(config)
  found: dict[str, Any] = {}
  leaves, _ = checkpoint.read(folder / 'checkpoints', devices)
  for path, leaf in leaves.items():
    if path.startswith('params/net/'):
      *parents, last = path.split('/')[2:]
      at = found
      for part in parents:
        at = at.setdefault(part, {})
      at[last] = leaf
  if not found:
    raise InputError(
      f'{folder} holds no network "net", only {sorted(leaves)[:5]}; name a '
      'stage of configs/bert_lamb.py'
    )
  return encoder_params(found, config['model']['scan_layers'])


def _folder(config: Config) -> Path:
  return Path(config['model']['checkpoint']).expanduser()
