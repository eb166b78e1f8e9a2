"""Configs: where one lies, what its file says, and what it need not say.

A file of `configs/` holds what is particular to its experiment. What the engine
and the recipes read besides has its default here, once; `load` adds it, so that
a run, its flags, its `config.json` and a test have the whole config.
"""

import difflib
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from jaxlab.core.errors import InputError

OWN = Path(__file__).parents[2] / 'configs'
# Key that a config has ('': any) -> what it then has, too.
DEFAULTS: dict[str, dict[str, Any]] = {
  '': {
    'seed': 0,
    'mesh.data': -1,  # devices of this axis; -1: all that are left
    'paper_reported': {},  # figures, shown beside those of a run
  },
  'train': {
    'train.log_every_steps': 100,
    'train.eval_every_steps': 0,  # 0: only at the end
    'train.checkpoint_every_steps': 0,  # kept for good; 0: none
    'train.checkpoint_every_seconds': 60.0,  # rolling; 0: none
    'train.checkpoint_keep': 1,  # of the rolling ones
    'train.max_bad_steps': 0,  # in a row, skipped; 0: the first stops the run
  },
  'study.baseline': {
    'study.metric': 'accuracy',  # of the trials, on validation
    'study.better': 'higher',  # 'lower'
  },
  'data.name': {
    'data.workers': 0,  # processes that make batches; 0: a thread
    'data.ahead': 4,  # batches made ahead
  },
  'model.name': {'model.dtype': 'float32'},  # of activations
  'data.validation_split': {
    'data.test_split': 'test',
    'data.image_feature': 'image',
    'data.label_feature': 'label',
    'data.stream': False,  # decode on the way instead of once
  },
  'data.mean': {
    'data.crop': 0,  # side that the network sees; 0: all
    'data.augment': 'none',  # 'crop_flip', 'imagenet'
    'data.pad': 4,  # pixels around an image, of crop_flip
  },
}
# The same of every section `optimizer`, wherever it is; a key with its value.
OPTIMIZER: dict[str, dict[str, Any]] = {
  'name': {
    'optimizer.weight_decay': 0.0,  # decoupled in adamw alone
    'optimizer.clip_norm': 0.0,  # of the gradient's global norm; 0: none
  },
  'power': {  # of a polynomial decay after a warm-up: papers/lamb/optimizers.py
    'optimizer.b1': 0.9,
    'optimizer.b2': 0.999,
    'optimizer.eps': 1e-6,
    'optimizer.bias_correction': True,
    'optimizer.exclude': 'bias_and_norm',  # 'norm', 'none': from decay, ratios
    'optimizer.jump': False,  # the paper's drop where warm-up ends
    'optimizer.micro_batches': 1,  # an update
  },
  'name=sgd': {
    'optimizer.momentum': 0.9,
    'optimizer.nesterov': False,
    'optimizer.schedule': 'constant',
  },
  'name=adam': {'optimizer.schedule': 'constant'},
  'name=adamw': {
    'optimizer.b1': 0.9,
    'optimizer.b2': 0.999,
    'optimizer.eps': 1e-8,
  },
  'schedule=cosine': {
    'optimizer.final_fraction': 0.0,  # of the rate, at the end
  },
  'schedule=drops': {'optimizer.drop_factor': 0.1},
}
# Of every section in `losses` of papers/encouraging: cross-entropy, unless
# changed there.
LOSS: dict[str, Any] = {
  'losses.bonus': 'normal',
  'losses.bonus_scale': 0.0,
  'losses.log_end': 1.0,
  'losses.threshold': 0.5,  # of 'aggressive' and 'abrupt'
  'losses.gamma': 1.0,  # of 'power'
  'losses.softness': 0.5,  # of 'soft'
  'losses.label_smoothing': 0.0,
  'losses.clamp_eps': 0.0,  # 0: exact; the official code has 1e-5
  'losses.schedule': 'constant',
  'losses.schedule_of': 'bonus_scale',
  'losses.schedule_steps': 1,
  'losses.bonus_weights': 'none',
  'losses.weights': 'none',
  'losses.weights_start': 0,
}


def found(path: str) -> Path:
  """The file of a config that is given by its path or by its bare name."""
  if re.fullmatch(r'\w+', path):
    for folder in (Path('configs'), OWN):
      if (folder / f'{path}.py').is_file():
        return folder / f'{path}.py'
  return Path(path)


def load(path: str | Path, variant: str = '') -> ConfigDict:
  """A variant of a config file's `VARIANTS`, with the defaults.

  Raises:
    InputError: there is no such file or variant, or it does not run.
  """
  path = found(str(path))
  variants = variants_of(path)
  if variant not in variants:
    known = ', '.join(map(repr, variants))
    raise InputError(f'{path} has no variant "{variant}"; known: {known}')
  try:
    return completed(variants[variant]())
  except Exception as error:
    raise _broken(path, error) from error


def variants_of(path: Path) -> dict[str, Any]:
  """`VARIANTS` of a config file: name -> a function that makes a config.

  Raises:
    InputError: there is no such file, or it does not run.
  """
  if not path.is_file():
    names = [p.name for p in path.parent.glob('*.py')]
    near = difflib.get_close_matches(path.name, names, 1)
    hint = f'; did you mean {path.parent / near[0]}?' if near else ''
    raise InputError(f'config file {path} does not exist{hint}')
  spec = importlib.util.spec_from_file_location('jaxlab_config', path)
  if spec is None or spec.loader is None:
    raise InputError(f'config file {path} is not a Python file (*.py)')
  module = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(module)
    return module.VARIANTS
  except Exception as error:
    raise _broken(path, error) from error


def _broken(path: Path, error: Exception) -> InputError:
  return InputError(f'config file {path}: {type(error).__name__}: {error}')


def completed(config: ConfigDict) -> ConfigDict:
  """The config with the defaults of what it leaves out, in place."""
  for has, values in DEFAULTS.items():
    if not has or _has(config, has):
      _add(config, values)
  for parent in _with_optimizer(config):
    for has, values in OPTIMIZER.items():
      key, _, value = has.partition('=')
      section = parent.optimizer
      if key in section and value in ('', section[key]):
        _add(parent, values)
  if config.get('paper') == 'encouraging':
    for arm in config.losses.values():
      _add(ConfigDict({'losses': arm}), LOSS)
  return config


def _has(config: ConfigDict, name: str) -> bool:
  section, _, key = name.partition('.')
  return section in config and (not key or key in config[section])


def _add(config: ConfigDict, values: dict[str, Any]) -> None:
  for name, value in values.items():
    section, _, key = name.rpartition('.')
    if section and section not in config:
      config[section] = ConfigDict()
    inside = config[section] if section else config
    if key not in inside:
      inside[key] = value


def _with_optimizer(config: ConfigDict) -> Iterator[ConfigDict]:
  """All sections, the whole one too, that have a section `optimizer`."""
  for key, value in config.items():
    if isinstance(value, ConfigDict):
      if key == 'optimizer':
        yield config
      yield from _with_optimizer(value)
