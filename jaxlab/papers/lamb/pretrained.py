"""What a pre-training run left: its shape, its vocabulary, its encoder."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from jaxlab.data.corpus import Corpus, prepare_corpus
from jaxlab.engine import checkpoint
from jaxlab.engine.errors import InputError

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


class Pretrained(NamedTuple):
  """The encoder of a finished stage."""

  params: dict[str, Any]  # of the network `net`
  sha256: str  # of the whole State
  corpus_sha256: str  # of the text and vocabulary that it was trained on


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
  folder = Path(model['checkpoint']).expanduser()
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
  return prepare_corpus(
    'text_files' if c['text_files'] else c['name'],
    files=c['text_files'],
    vocab_size=c['size'],
    offline=offline,
  )


def read(config: Config, corpus: Corpus, devices: Mesh) -> Pretrained:
  """The newest checkpoint of the stage that the config names.

  Raises:
    InputError: it is damaged, or was trained with another vocabulary.
  """
  folder = Path(config['model']['checkpoint']).expanduser()
  leaves, about = checkpoint.read(folder / 'checkpoints', devices)
  trained_on = about.get('corpus_sha256')
  if trained_on != corpus.sha256:
    raise InputError(
      f'{folder} was pre-trained with the vocabulary and text of SHA-256 '
      f'{trained_on}, and the corpus {corpus.path} has {corpus.sha256}: the '
      'text changed since. Bring it back, or pre-train again'
    )
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
  return Pretrained(params, about['state_sha256'], trained_on)


def check_shapes(params, expected, folder: str) -> None:
  """Raises InputError where a checkpoint's encoder is not the model's."""
  have = _shapes(params)
  want = _shapes(expected)
  for path in sorted({*have, *want}):
    if have.get(path) != want.get(path):
      raise InputError(
        f'the checkpoint {folder} has "{path}" of shape {have.get(path)}, and '
        f'the model of its config.json has {want.get(path)}: they do not '
        'belong together'
      )


def _shapes(tree) -> dict[str, tuple[int, ...]]:
  leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): tuple(leaf.shape)
    for path, leaf in leaves
  }


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
