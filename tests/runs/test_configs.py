"""The defaults that config files need not state."""

import dataclasses

import pytest
from ml_collections import ConfigDict

from jaxlab import main
from jaxlab.engine.loop import Options
from jaxlab.recipes import optimizers
from jaxlab.runs import configs, workdir


def flat(**values):
  return workdir.flatten(configs.completed(ConfigDict(values)).to_dict())


def test_the_engine_has_the_same_defaults():
  options = {x.name: x.default for x in dataclasses.fields(Options)}
  for key, value in configs.DEFAULTS['train'].items():
    assert options[key.split('.')[1]] == value


def test_each_section_gets_its_own_defaults_where_a_config_has_it():
  assert flat() == {'mesh.data': -1, 'seed': 0}
  images = {'name': 'x', 'validation_split': 'a', 'mean': (0.0,), 'pad': 1}
  found = flat(seed=3, data=images, mesh={'replica': 4}, train={'steps': 7})
  assert found == {
    'seed': 3,
    'mesh.data': -1,
    'mesh.replica': 4,
    **configs.DEFAULTS['train'],
    'train.steps': 7,
    **configs.DEFAULTS['data.name'],
    **configs.DEFAULTS['data.validation_split'],
    **configs.DEFAULTS['data.mean'],
    'data.name': 'x',
    'data.validation_split': 'a',
    'data.mean': [0.0],
    'data.pad': 1,
  }
  assert 'study.metric' not in flat(study={'seeds': (0,)})
  assert flat(study={'baseline': 'a'})['study.better'] == 'higher'
  arms = {'ce': {}, 'el': {'gamma': 2.0}}
  losses = flat(paper='encouraging', losses=arms)
  assert (losses['losses.ce.gamma'], losses['losses.el.gamma']) == (1.0, 2.0)
  assert 'losses.ce.gamma' not in flat(paper='mine', losses=arms)


@pytest.mark.parametrize('name', ['sgd', 'adam', 'adamw'])
@pytest.mark.parametrize(
  'schedule, more',
  [
    ('constant', {}),
    ('cosine', {}),
    ('drops', {'drops': (0.5,)}),
    ('inverse_sqrt', {'warmup_steps': 3}),
    ('exponential', {'decay': 0.9, 'decay_steps': 2}),
  ],
)
def test_an_optimizer_anywhere_has_what_its_recipe_reads(name, schedule, more):
  section = {'name': name, 'schedule': schedule, **more}
  config = configs.completed(ConfigDict({'a': {'b': {'optimizer': section}}}))
  optimizers.make(config.a.b.optimizer.to_dict(), 10, 0.1)


def test_a_key_that_no_file_holds_can_be_given_and_no_other():
  words = ['main', 'aloe:smoke', '--config.train.max_bad_steps=3']
  config = main.parse(words)[0].config
  assert config.train.max_bad_steps == 3
  assert 'max_bad_steps' not in configs.found('aloe').read_text()
  words[-1] = '--config.train.max_bad_step=3'
  with pytest.raises(
    main.InputError, match=r'mean config.train.max_bad_steps\?'
  ):
    main.parse(words)
