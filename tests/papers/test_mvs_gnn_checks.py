"""What a config or a set cannot be is found before anything is computed."""

import importlib

import numpy as np
import pytest

from jaxlab.core.errors import InputError
from jaxlab.data.graphs.types import SPLITS, NodeGraph
from jaxlab.papers.mvs_gnn import graph_data, task
from jaxlab.recipes.study import Cell
from tests import runs
from tests.data.graphs.npz_files import write_npz

configs = importlib.import_module('configs.mvs_gnn')

VARIANTS = (
  *('', 'digits', 'cora', 'wordnet', 'wordnet_256', 'wordnet_2048'),
  *('wordnet_walks', 'wordnet_long', 'wordnet_gcn', 'debian', 'reddit', 'ppi'),
  'smoke',
)


def config_of(**changes):
  config = runs.config_of('mvs_gnn', 'smoke')
  config.methods.sage = configs.methods(64).sage
  with config.unlocked():
    config.update_from_flattened_dict(changes)
  return config.to_dict()


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
    ('early_stopping.patience', -1, 'is negative'),
    ('refresh.share', 0.0, r'must be in \(0, 1\]'),
    ('data.protocol', 'both', 'must be one of transductive, inductive'),
    ('methods.sage.sampler', 'pinsage', 'must be one of uniform, neighbour'),
    ('study.baseline', 'gcn', 'must be one of mvs, sage'),
    ('optimizer.name', 'lamb', 'must be one of sgd, adam'),
  ],
)
def test_values_that_cannot_be_are_named(name, value, message):
  shown = f'"{value}"' if isinstance(value, str) else value
  key = name.split('.', 1)[1]
  with pytest.raises(InputError, match=f'{key} = {shown} {message}'):
    task.program(config_of(**{name: value}))


def test_networks_that_cannot_be_are_named():
  with pytest.raises(InputError, match='kind "gin" is not one of'):
    task.program(config_of(**{'model.kind': 'gin'}))
  config = config_of(**{'model.kind': 'gat', 'methods.sage.sampler': 'vr_gcn'})
  with pytest.raises(InputError, match='cannot take vr_gcn'):
    task.program(config)


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
    match=f'eval_every_steps = {evaluate} must be a multiple of {log}; the sec',
  ):
    task.program(config)
  config['train']['eval_every_steps'] = instead
  task.check(config)


def test_an_f1_that_cannot_be_reached_is_named():
  for f1 in (0.0, 1.1, 95, float('nan')):
    config = config_of(**{'study.reach': (0.5, f1, 1.0)})
    with pytest.raises(InputError, match=r'study.reach = .* each in \(0, 1\]'):
      task.program(config)
  task.check(config_of(**{'study.reach': (0.5, 1.0)}))


def test_a_batch_of_more_than_the_training_nodes_is_named():
  config = config_of(**{'methods.mvs.batch_size': 5000})
  with pytest.raises(InputError, match='batch_size = 5000 is not in'):
    task.Job(config, Cell('cell', 'mvs', None, 0.01, 0), True)


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
