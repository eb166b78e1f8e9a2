"""What a config or a set cannot be is found before anything is computed."""

import importlib

import numpy as np
import pytest

from jaxlab.data.graph import SPLITS, NodeGraph, write_npz
from jaxlab.engine.errors import InputError
from jaxlab.papers.mvs_gnn import graph_data, task

configs = importlib.import_module('configs.mvs_gnn')

VARIANTS = (
  *('', 'digits', 'cora', 'wordnet', 'wordnet_256', 'wordnet_2048'),
  *('wordnet_walks', 'wordnet_long', 'wordnet_gcn', 'debian', 'reddit', 'ppi'),
  'smoke',
)


def config_of(**changes):
  config = configs.get_config('smoke')
  config.methods.sage = configs.methods(64).sage
  with config.unlocked():
    config.update_from_flattened_dict(changes)
  return config.to_dict()


def test_every_variant_of_the_config_can_be():
  with pytest.raises(ValueError) as error:
    configs.get_config('none')
  for name in VARIANTS:
    assert repr(name) in str(error.value)
    task.check(configs.get_config(name).to_dict())
  assert str(error.value).count("'") == 2 * len(VARIANTS)


@pytest.mark.parametrize(
  ('name', 'value', 'message'),
  [
    ('methods.sage.batch_size', 0, 'must be at least 1'),
    ('refresh.every', 0, 'must be at least 1'),
    ('sampler.draws', 0, 'must be at least 1'),
    ('sampler.headroom', 0.9, 'must be at least 1'),
    ('sampler.headroom', float('nan'), 'must be at least 1'),
    ('variance.draws', -1, 'must be at least 0'),
    ('data.lanes', 0, 'must be at least 1'),
    ('data.eval_edges', 0, 'must be at least 1'),
    ('data.text_dimensions', 0, 'must be at least 1'),
    ('train.log_every_steps', 0, 'must be at least 1'),
  ],
)
def test_numbers_that_cannot_be_are_named(name, value, message):
  with pytest.raises(InputError, match=f'config.{name} = {value} {message}'):
    task.program(config_of(**{name: value}))


def test_no_draws_for_the_variance_and_no_evaluations_can_be():
  task.check(config_of(**{'variance.draws': 0, 'train.eval_every_steps': 0}))


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'fan_out': 5}, 'neighbour has no option "fan_out"; it has fan_outs, rep'),
    ({'train': 5}, 'neighbour has no option "train"'),
  ],
)
def test_options_that_a_sampler_does_not_have_are_named(options, message):
  config = config_of()
  config['methods']['sage']['options'] = options
  with pytest.raises(
    InputError, match=f'config.methods.sage.options: the sampler {message}'
  ):
    task.program(config)


def test_an_option_that_a_sampler_needs_is_named():
  config = config_of()
  config['methods']['sage'] |= {'sampler': 'ladies', 'options': {}}
  message = 'sage.options: the sampler ladies needs the option "layer_size"'
  with pytest.raises(InputError, match=message):
    task.program(config)


@pytest.mark.parametrize(
  ('log', 'evaluate', 'instead'), [(20, 50, 40), (50, 20, 50)]
)
def test_evaluations_come_with_a_log_line(log, evaluate, instead):
  """Which holds the seconds until then."""
  config = config_of()
  config['train'] |= {'log_every_steps': log, 'eval_every_steps': evaluate}
  with pytest.raises(
    InputError,
    match=f'eval_every_steps = {evaluate} must be a multiple of '
    f'config.train.log_every_steps = {log}, say {instead}: the seconds',
  ):
    task.program(config)
  config['train']['eval_every_steps'] = instead
  task.check(config)


@pytest.mark.parametrize('f1', [0.0, 1.1, 95, float('nan')])
def test_an_f1_that_cannot_be_reached_is_named(f1):
  config = config_of()
  config['study']['reach'] = (0.5, f1, 1.0)
  with pytest.raises(InputError, match=f'config.study.reach has {f1}; .* F1'):
    task.program(config)
  config['study']['reach'] = (0.5, 1.0)
  task.check(config)


@pytest.mark.parametrize('empty', ['train', 'validation', 'test', None])
def test_a_split_without_nodes_is_named(tmp_path, empty):
  splits = ['train', 'validation', 'test', 'train', 'validation', 'test']
  graph = NodeGraph(
    np.eye(6, dtype=np.float32),
    np.array([[0, 1], [1, 2], [3, 4]], np.int32),
    np.array([0, 1, 0, 1, 0, 1], np.int32),
    np.array([SPLITS['none' if s == empty else s] for s in splits], np.int8),
    ('a', 'b'),
  )
  write_npz(tmp_path / 'set.npz', graph)
  config = config_of(**{'data.name': f'npz:{tmp_path}/set.npz'})
  if empty is None:
    assert graph_data.load(config, True).classes == 2
    return
  with pytest.raises(
    InputError, match=f'set.npz" has no nodes in the split "{empty}"'
  ):
    graph_data.load(config, True)
