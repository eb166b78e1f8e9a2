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
from jaxlab.papers.lamb import bert

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
  model, vocabulary = dict(config['model']), dict(config['vocabulary'])
  missing = [f'model.{name}' for name in MODEL if not model[name]]
  if not (vocabulary['name'] or vocabulary['text_files']):
    missing.append('vocabulary.name')
  if not vocabulary['size']:
    missing.append('vocabulary.size')
  folder = _folder(config)
  if not model['checkpoint']:
    if missing:
      raise InputError(
        f'config.{missing[0]} is to be that of a checkpoint, and '
        'config.model.checkpoint is empty: give either'
      )
  elif missing or folder.is_dir() or not planning:
    _fill(model, vocabulary, folder)
  return {**config, 'model': model, 'vocabulary': vocabulary}


def _fill(model, vocabulary, folder: Path) -> None:
  """Takes over or compares what the run of a stage's folder has."""
  there = _run_config(folder)
  known = [('model', model, name, there['model'][name]) for name in MODEL]
  known += [
    ('vocabulary', vocabulary, name, there['data'][theirs])
    for name, theirs in VOCABULARY.items()
  ]
  for label, section, name, value in known:
    if section[name] and section[name] != value:
      raise InputError(
        f'config.{label}.{name} = {section[name]!r}, and the checkpoint '
        f'{folder} was pre-trained with {value!r}: give it that, or '
        f'{type(value)()!r} to take what the checkpoint has'
      )
    section[name] = value


def open_corpus(config: Config, offline: bool) -> Corpus:
  """The corpus whose vocabulary the model reads with."""
  c = config['vocabulary']
  return bert.open_corpus(c, c['size'], offline)


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
  leaves, _ = checkpoint.read(folder / 'checkpoints', devices)
  params: dict[str, Any] = {}
  for path, leaf in leaves.items():
    if not path.startswith('params/net/'):
      continue
    *parents, last = path.split('/')[2:]
    at = params
    for part in parents:
      at = at.setdefault(part, {})
    at[last] = leaf
  if not params:
    raise InputError(
      f'{folder} holds no network "net", only {sorted(leaves)[:5]}; name a '
      'stage of configs/bert_lamb.py'
    )
  return encoder_params(params, config['model']['scan_layers'])


def _folder(config: Config) -> Path:
  return Path(config['model']['checkpoint']).expanduser()


def _run_config(folder: Path) -> dict[str, Any]:
  """The config of the run that a finished stage's folder belongs to."""
  cure = (
    'config.model.checkpoint is the folder of a finished stage of '
    "configs/bert_lamb.py such as runs/bert_lamb/pretrain, or '' to begin "
    'from scratch'
  )
  if not folder.is_dir():
    raise InputError(f'{folder} is no folder; {cure}')
  if not (folder / 'report.json').is_file():
    stages = sorted(path.parent.name for path in folder.glob('*/report.json'))
    hint = f'; its stages are {stages}' if stages else ''
    raise InputError(
      f'{folder} has no report.json, so it is no finished stage{hint}; {cure}'
    )
  path = folder.parent / 'config.json'
  try:
    found = json.loads(path.read_text())
    absent = [f'model.{n}' for n in MODEL if n not in found['model']]
    absent += [
      f'data.{n}' for n in VOCABULARY.values() if n not in found['data']
    ]
  except (OSError, ValueError, TypeError, KeyError) as error:
    raise InputError(
      f'{path} is not the config of a pre-training run '
      f'({type(error).__name__}: {error}); {cure}'
    ) from error
  if found.get('paper') != 'lamb' or absent:
    raise InputError(
      f'{path} is of the paper {found.get("paper")!r}'
      f'{f" and lacks {absent}" if absent else ""}; {cure}'
    )
  return found
